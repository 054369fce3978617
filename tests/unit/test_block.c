/* What is kept of block devices in the folder for that: each device has names of its own there, and those of older
 * agents are still found; a folder that is not there is said. */
#include "agent/hypervisor/image.h"
#include "agent/hypervisor/qemu.h"
#include "agent/model/json.h"
#include "tests/unit/cmocka_all.h"
#include "tests/unit/model_samples.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

typedef struct {
    char *dir, *folder;
    char *one, *two; /* DIR/vg0/web-a, DIR/vg0-web/a: nodes that nobody opens; NULL = they cannot be made */
    CkptQemuOptions options;
} Fixture;

static char *
make_node(const char *dir, const char *group, const char *name, guint minor)
{
    g_autofree char *folder = g_build_filename(dir, group, NULL);
    char *path = g_build_filename(folder, name, NULL);

    assert_int_equal(g_mkdir(folder, 0700), 0);
    if (mknod(path, S_IFBLK | 0600, makedev(7, minor)) == 0 && ckpt_is_block(path))
        return path;
    g_free(path);
    return NULL;
}

static int
setup(void **state)
{
    Fixture *fixture = g_new0(Fixture, 1);

    fixture->dir = g_dir_make_tmp("ckpt_block_XXXXXX", NULL);
    fixture->folder = g_build_filename(fixture->dir, "overlays", NULL);
    assert_int_equal(g_mkdir(fixture->folder, 0700), 0);
    fixture->one = make_node(fixture->dir, "vg0", "web-a", 200);
    fixture->two = make_node(fixture->dir, "vg0-web", "a", 201);
    fixture->options.block_overlay_folder = fixture->folder;
    *state = fixture;
    return 0;
}

static int
teardown(void **state)
{
    Fixture *fixture = *state;
    const char *const argv[] = {"rm", "-rf", fixture->dir, NULL};

    g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL, NULL, NULL);
    g_free(fixture->dir);
    g_free(fixture->folder);
    g_free(fixture->one);
    g_free(fixture->two);
    g_free(fixture);
    return 0;
}

static char *
manifest_of(Fixture *fixture, const char *device)
{
    return ckpt_block_beside(&fixture->options, device, CKPT_MANIFEST_ENDING);
}

/* As an older agent named it: of both devices alike. */
static char *
older_path(Fixture *fixture)
{
    g_autofree char *stem = g_strdelimit(g_strdup(fixture->one + 1), "/", '-');

    return g_strconcat(fixture->folder, "/", stem, CKPT_MANIFEST_ENDING, NULL);
}

static void
write_manifest(const char *path, const char *device)
{
    g_autoptr(CkptCheckpoint) row = sample_checkpoint("c1", "v1", 1);
    const CkptHostInfo host = {.host_id = (char *)"h1", .host_name = (char *)"a"};
    g_autofree char *text = NULL;

    ckpt_set_str(&((CkptCheckpointDisk *)row->disks->pdata[0])->sealed_file, device);
    text = ckpt_manifest_text(row, &host, 1);
    assert_true(g_file_set_contents(path, text, -1, NULL));
    assert_int_equal(g_chmod(path, 0600), 0);
}

static void
two_devices_never_have_one_name(void **state)
{
    static const char *const paths[] = {"/dev/vg0/web-a", "/dev/vg0-web/a", "/dev/a-/b", "/dev/a/-b",
                                        "/dev/a_/b",      "/dev/a/_b",      "/dev/a-_b", "/dev/a_-b"};
    g_autoptr(GHashTable) seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    g_autofree char *plain = ckpt_device_stem("/dev/loop0");

    (void)state;
    for (gsize i = 0; i < G_N_ELEMENTS(paths); i++)
        assert_true(g_hash_table_add(seen, ckpt_device_stem(paths[i])));
    assert_string_equal(plain, "dev-loop0"); /* as ever */
}

static void
each_device_has_a_manifest_of_its_own(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *one = NULL, *two = NULL;

    if (!fixture->one || !fixture->two)
        skip();
    one = manifest_of(fixture, fixture->one);
    two = manifest_of(fixture, fixture->two);
    assert_string_not_equal(one, two);
}

static void
an_older_agents_manifest_is_found_by_what_it_says(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *older = NULL, *one = NULL, *two = NULL, *again = NULL;

    if (!fixture->one || !fixture->two)
        skip();
    older = older_path(fixture);
    write_manifest(older, fixture->one);
    one = manifest_of(fixture, fixture->one);
    two = manifest_of(fixture, fixture->two);
    assert_string_equal(one, older);
    assert_string_not_equal(two, older);
    write_manifest(two, fixture->two);
    again = manifest_of(fixture, fixture->two);
    assert_string_equal(again, two);
}

/* Whose it is nobody can tell: neither is then touched. */
static void
an_older_manifest_that_cannot_be_read_is_everybodys(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *older = NULL, *one = NULL, *two = NULL;

    if (!fixture->one || !fixture->two)
        skip();
    older = older_path(fixture);
    assert_true(g_file_set_contents(older, "{", -1, NULL));
    one = manifest_of(fixture, fixture->one);
    two = manifest_of(fixture, fixture->two);
    assert_string_equal(one, older);
    assert_string_equal(two, older);
}

/* With one disk, on a block device. */
static CkptVm *
inspect(Fixture *fixture)
{
    CkptVm *vm = ckpt_vm_new();
    CkptDisk *disk = g_new0(CkptDisk, 1);
    CkptLayer *layer = g_new0(CkptLayer, 1);

    layer->path = g_strdup("/dev/vg0/web");
    layer->exists = layer->block = TRUE;
    layer->format = CKPT_FORMAT_RAW;
    ckpt_vm_add_file(vm, layer);
    disk->target = g_strdup("vda");
    disk->chain = g_ptr_array_new();
    g_ptr_array_add(disk->chain, layer);
    g_ptr_array_add(vm->disks, disk);
    ckpt_inspect_block(vm, &fixture->options, NULL);
    return vm;
}

static void
a_folder_that_is_not_there_is_said_by_name(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(CkptVm) before = inspect(fixture), after = NULL;
    const CkptObstacle *obstacle;

    assert_int_equal(before->obstacles->len, 0);
    assert_int_equal(g_rmdir(fixture->folder), 0);
    after = inspect(fixture);
    assert_int_equal(after->obstacles->len, 1);
    obstacle = g_ptr_array_index(after->obstacles, 0);
    assert_int_equal(obstacle->reason, CKPT_REASON_DISK_FILE_MISSING);
    assert_non_null(strstr(obstacle->message, fixture->folder));
    assert_non_null(strstr(obstacle->message, "block_overlay_folder"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(two_devices_never_have_one_name),
        TEST(each_device_has_a_manifest_of_its_own),
        TEST(an_older_agents_manifest_is_found_by_what_it_says),
        TEST(an_older_manifest_that_cannot_be_read_is_everybodys),
        TEST(a_folder_that_is_not_there_is_said_by_name),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
