/* Overlays are found by what their headers say, whoever knows of them. On real files. */
#include "agent/hypervisor/qemu.h"
#include "tests/unit/image_fixture.h"

#include <string.h>
#include <unistd.h>

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

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(those_that_lie_on_the_file_are_found),
        cmocka_unit_test(another_users_overlay_is_no_obstacle),
    };

    return cmocka_run_group_tests(tests, images_open, images_close);
}
