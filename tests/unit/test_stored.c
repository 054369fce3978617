/* What stored VMs lie on is known as soon as their definitions are there. */
#include "agent/hypervisor/stored.h"
#include "tests/unit/cmocka_all.h"

#include <glib/gstdio.h>
#include <utime.h>

typedef struct {
    char *path;
    CkptStoredVms *stored;
} Fixture;

static int
set_up(void **state)
{
    Fixture *fixture = g_new0(Fixture, 1);
    const char *folders[2] = {NULL, NULL};

    fixture->path = g_dir_make_tmp("ckpt-stored-XXXXXX", NULL);
    folders[0] = fixture->path;
    fixture->stored = ckpt_stored_vms_new(folders);
    *state = fixture;
    return 0;
}

static int
tear_down(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *command = g_strdup_printf("rm -r %s", fixture->path);

    assert_true(g_spawn_command_line_sync(command, NULL, NULL, NULL, NULL));
    ckpt_stored_vms_free(fixture->stored);
    g_free(fixture->path);
    g_free(fixture);
    return 0;
}

static void
store(Fixture *fixture, const char *name)
{
    g_autofree char *file = g_build_filename(fixture->path, name, NULL);
    g_autofree char *folder = g_path_get_dirname(file);
    g_autofree char *uuid = g_uuid_string_random();
    g_autofree char *xml =
        g_strdup_printf("<domain type='qemu'><name>x</name><uuid>%s</uuid></domain>", uuid);

    assert_int_equal(g_mkdir_with_parents(folder, 0755), 0);
    assert_true(g_file_set_contents(file, xml, -1, NULL));
}

/* As if nothing had happened there for a long time. */
static void
make_old(Fixture *fixture, const char *name)
{
    g_autofree char *path = g_build_filename(fixture->path, name, NULL);
    struct utimbuf old = {.actime = 1000000000, .modtime = 1000000000};

    assert_int_equal(utime(path, &old), 0);
}

static guint
count(Fixture *fixture)
{
    g_autoptr(GPtrArray) domains = ckpt_stored_vms_read(fixture->stored);

    return domains->len;
}

static void
one_that_came_just_now_is_seen(void **state)
{
    Fixture *fixture = *state;

    make_old(fixture, "");
    assert_int_equal(count(fixture), 0);
    store(fixture, "a.xml");
    assert_int_equal(count(fixture), 1);
    store(fixture, "folder/b.xml");
    assert_int_equal(count(fixture), 2);
    make_old(fixture, "");
    make_old(fixture, "folder");
    assert_int_equal(count(fixture), 2);
    store(fixture, "folder/c.xml");
    make_old(fixture, "");
    assert_int_equal(count(fixture), 3);
}

/* The clock of a folder's time is coarse: what comes right after a look may leave it as it was. */
static void
one_that_came_in_the_same_moment_is_seen(void **state)
{
    Fixture *fixture = *state;

    for (guint i = 0; i < 20; i++) {
        g_autofree char *name = g_strdup_printf("%u.xml", i);

        assert_int_equal(count(fixture), i);
        store(fixture, name);
    }
    assert_int_equal(count(fixture), 20);
}

static void
what_does_not_change_is_read_once(void **state)
{
    Fixture *fixture = *state;
    GPtrArray *first, *second;

    store(fixture, "folder/a.xml");
    make_old(fixture, "folder");
    make_old(fixture, "");
    first = ckpt_stored_vms_read(fixture->stored);
    second = ckpt_stored_vms_read(fixture->stored);
    assert_ptr_equal(first, second);
    g_ptr_array_unref(first);
    g_ptr_array_unref(second);
}

int
main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(one_that_came_just_now_is_seen),
        T(one_that_came_in_the_same_moment_is_seen),
        T(what_does_not_change_is_read_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
