/* Overlays are found by what their headers say, whoever knows of them. On real files. */
#include "agent/hypervisor/qemu.h"
#include "tests/unit/image_fixture.h"
#include "tests/unit/manifest_fixture.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

int __real_stat(const char *path, struct stat *found);
int __wrap_stat(const char *path, struct stat *found);

static const char *lost; /* a disk error at paths that end so; NULL = none */

int
__wrap_stat(const char *path, struct stat *found)
{
    if (!lost || !g_str_has_suffix(path, lost))
        return __real_stat(path, found);
    errno = EIO;
    return -1;
}

static int
compare(gconstpointer a, gconstpointer b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Their names, in their order, a blank behind each. */
static char *
found_on(const char *file, const char *other)
{
    g_autofree char *path = image(file), *second = other ? image(other) : NULL;
    const CkptKnownFile files[] = {{path, CKPT_FORMAT_QCOW2}, {second, CKPT_FORMAT_QCOW2}, {NULL, 0}};
    const CkptQemuOptions options = {0};
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) found = ckpt_overlays_on(&options, files, &error);
    g_autoptr(GString) text = g_string_new(NULL);

    if (!found)
        fail_msg("%s", error->message);
    g_ptr_array_sort(found, compare);
    for (guint i = 0; i < found->len; i++)
        g_string_append_printf(text, "%s ", strrchr(found->pdata[i], '/') + 1);
    return g_strdup(text->str);
}

static void
assert_found(const char *file, const char *other, const char *expected)
{
    g_autofree char *names = found_on(file, other);

    assert_string_equal(names, expected);
}

/* A socket, which cannot be opened. */
static void
listen_at(const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    g_autofree char *path = image(name);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(g_strlcpy(address.sun_path, path, sizeof address.sun_path) < sizeof address.sun_path);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    close(fd);
}

static void
those_that_lie_on_the_file_are_found(void **state)
{
    (void)state;
    shell("cd $d; qemu-img create -q -f qcow2 web.qcow2 1M; qemu-img create -q -f qcow2 other.qcow2 1M; "
          "qemu-img create -q -f qcow2 -F qcow2 -b $d/web.qcow2 web.ckpt-11111111.qcow2; "
          "qemu-img create -q -f qcow2 -F qcow2 -b web.qcow2 web-copy.ckpt-22222222.qcow2; "
          "qemu-img create -q -f qcow2 -F qcow2 -b $d/web.ckpt-11111111.qcow2 web.ckpt-33333333.qcow2; "
          "qemu-img create -q -f qcow2 -F qcow2 -b $d/other.qcow2 other.ckpt-44444444.qcow2; "
          "qemu-img create -q -f qcow2 -F qcow2 -b $d/web.qcow2 clone.qcow2; "
          "echo no image >web.ckpt-55555555.qcow2; mkfifo web.ckpt-66666666.qcow2; mkdir web.ckpt-77777777.qcow2; "
          "ln -s web.qcow2 alias.qcow2; ln -s nowhere web.ckpt-88888888.qcow2");
    listen_at("web.ckpt-aaaaaaaa.qcow2");
    assert_found("web.qcow2", NULL, "web-copy.ckpt-22222222.qcow2 web.ckpt-11111111.qcow2 ");
    assert_found("alias.qcow2", NULL, "web-copy.ckpt-22222222.qcow2 web.ckpt-11111111.qcow2 ");
    assert_found("web.qcow2", "web.ckpt-11111111.qcow2",
                 "web-copy.ckpt-22222222.qcow2 web.ckpt-33333333.qcow2 ");
    assert_found("web.ckpt-33333333.qcow2", NULL, "");
    assert_found("no-such-folder/web.qcow2", NULL, "");
    assert_found("web.qcow2/web.qcow2", NULL, "");
}

/* In a folder that several users have, each with an agent of his own. */
static void
another_users_overlay_is_no_obstacle(void **state)
{
    gboolean root = geteuid() == 0;

    (void)state;
    shell("cd $d; qemu-img create -q -f qcow2 -F qcow2 -b $d/web.qcow2 web.ckpt-99999999.qcow2; "
          "chmod 0 web.ckpt-99999999.qcow2; chmod 755 .; chmod 644 web.qcow2 web*.ckpt-[12345]*.qcow2");
    assert_true(!root || seteuid(65534) == 0);
    assert_found("web.qcow2", NULL, "web-copy.ckpt-22222222.qcow2 web.ckpt-11111111.qcow2 ");
    assert_true(!root || seteuid(0) == 0);
}

/* The path that the refusal tells, and the file of it. */
static void
assert_refused(const char *file, const char *unread)
{
    g_autofree char *path = image(file), *expected = image(unread);
    const CkptKnownFile files[] = {{path, CKPT_FORMAT_QCOW2}, {NULL, 0}};
    const CkptQemuOptions options = {0};
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) found = ckpt_overlays_on(&options, files, &error);

    assert_null(found);
    if (ckpt_error_reason(error) != CKPT_REASON_FILE_FAILED || !strstr(error->message, expected) ||
        !strstr(error->message, g_strerror(EIO)))
        fail_msg("%s", error->message);
    assert_string_equal(g_hash_table_lookup(ckpt_error_metadata(error), CKPT_META_FILE), expected);
}

/* That a disk error is in the way does not say that it lies on nothing. */
static void
what_cannot_be_read_may_lie_on_the_file(void **state)
{
    (void)state;
    shell("mkdir $d/bad; cd $d/bad; qemu-img create -q -f qcow2 web.qcow2 1M; "
          "qemu-img create -q -f qcow2 other.qcow2 1M; "
          "qemu-img create -q -f qcow2 -F qcow2 -b $d/bad/other.qcow2 web.ckpt-11111111.qcow2");
    assert_found("bad/web.qcow2", NULL, "");
    lost = "/web.ckpt-11111111.qcow2";
    assert_refused("bad/web.qcow2", "bad/web.ckpt-11111111.qcow2");
    lost = "/other.qcow2"; /* what it says it lies on may be that file, under another name */
    assert_refused("bad/web.qcow2", "bad/other.qcow2");
    lost = "/web.qcow2";
    assert_refused("bad/web.qcow2", "bad/web.qcow2");
    lost = NULL;
    /* A file whose first byte the kernel cannot read for us. */
    shell("ln -s /proc/self/mem $d/bad/web.ckpt-22222222.qcow2");
    assert_refused("bad/web.qcow2", "bad/web.ckpt-22222222.qcow2");
}

/* Its table of clusters is damaged: what it lies on is said before that. */
static void
a_damaged_overlay_is_found(void **state)
{
    (void)state;
    shell("mkdir $d/torn; cd $d/torn; qemu-img create -q -f qcow2 web.qcow2 1M; "
          "qemu-img create -q -f qcow2 -F qcow2 -b $d/torn/web.qcow2 web.ckpt-11111111.qcow2; "
          "printf '\\377' | dd of=web.ckpt-11111111.qcow2 bs=1 seek=40 conv=notrunc status=none");
    assert_found("torn/web.qcow2", NULL, "web.ckpt-11111111.qcow2 ");
}

/* A clone's own disk, which a checkpoint of the clone has: perhaps another host's, so that no definition and no
 * catalogue here knows of it. */
static void
a_clone_that_some_checkpoint_has_is_found(void **state)
{
    g_autoptr(CkptCheckpoint) row = manifest_row_new(ONE, NULL, 1);
    CkptCheckpointDisk *disk = g_new0(CkptCheckpointDisk, 1);

    (void)state;
    shell("mkdir $d/clone; cd $d/clone; qemu-img create -q -f qcow2 web.qcow2 1M; "
          "for name in db.qcow2 raw.img free.qcow2; do "
          "qemu-img create -q -f qcow2 -F qcow2 -b $d/clone/web.qcow2 $name; done");
    assert_found("clone/web.qcow2", NULL, "");
    disk->target = g_strdup("vda");
    disk->mode_before = 0600;
    disk->virtual_size = 65536;
    disk->id.size = 65536;
    g_ptr_array_add(row->disks, disk);
    disk->sealed_file = image("clone/db.qcow2");
    disk->format = CKPT_FORMAT_QCOW2;
    manifest_write_beside(disk->sealed_file, row, HOST_B, 1);
    assert_found("clone/web.qcow2", NULL, "db.qcow2 ");
    /* What a guest wrote into a raw disk is no header (hazard A28). */
    g_free(disk->sealed_file);
    disk->sealed_file = image("clone/raw.img");
    disk->format = CKPT_FORMAT_RAW;
    manifest_write_beside(disk->sealed_file, row, HOST_B, 1);
    assert_found("clone/web.qcow2", NULL, "db.qcow2 ");
    /* Of a manifest that cannot be used nobody knows. */
    shell("echo '{}' >$d/clone/raw.img.vmckpt.json");
    assert_found("clone/web.qcow2", NULL, "db.qcow2 raw.img ");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(those_that_lie_on_the_file_are_found),
        cmocka_unit_test(another_users_overlay_is_no_obstacle),
        cmocka_unit_test(what_cannot_be_read_may_lie_on_the_file),
        cmocka_unit_test(a_damaged_overlay_is_found),
        cmocka_unit_test(a_clone_that_some_checkpoint_has_is_found),
    };

    return cmocka_run_group_tests(tests, images_open, images_close);
}
