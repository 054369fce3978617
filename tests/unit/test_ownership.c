/* Whose the files are, as the manifests beside them say: nobody else touches them. */
#include "manifest_fixture.h"

#include "agent/hypervisor/image.h"

#include <sys/stat.h>
#include <unistd.h>

static const CkptQemuOptions options;

static CkptStep *
touching(const char *file)
{
    CkptStep *step = ckpt_step_new(CKPT_STEP_UNSEAL);

    ckpt_set_str(&step->file, file);
    return step;
}

static CkptReason
touch(const char *file, const char *host, const char *vm)
{
    g_autoptr(CkptPlan) plan = ckpt_plan_new(CKPT_KIND_DELETE);
    CkptStep *step = touching(file);
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptOwnership) held = NULL;

    ckpt_set_str(&plan->vm_id, vm);
    held = ckpt_ownership_hold(&options, host, plan, step, &error);
    ckpt_step_free(step);
    assert_true((held == NULL) == (error != NULL));
    return error ? ckpt_error_reason(error) : (CkptReason)0;
}

static void
another_agents_files_are_not_touched(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(CkptCheckpoint) one = manifest_row_new(ONE, NULL, 1000);
    g_autofree char *file = manifest_path_of(fixture, "web.img");
    g_autofree char *overlay = manifest_path_of(fixture, "web.ckpt-0b0b0b0b.qcow2");
    g_autofree char *clone = manifest_path_of(fixture, "clone.qcow2");
    g_autofree char *command =
        g_strdup_printf("for i in '%s' '%s'; do qemu-img create -q -f qcow2 -F raw -b '%s' \"$i\"; done",
                        overlay, clone, file);

    manifest_add_disk(fixture, one, "vda", "web.img");
    assert_int_equal(system(command), 0);
    assert_int_equal(touch(file, HOST_A, VM), 0);
    manifest_write_all(one, HOST_A, 1);
    assert_int_equal(touch(file, HOST_A, VM), 0);
    assert_int_equal(touch(overlay, HOST_A, VM), 0);
    assert_int_equal(touch(file, HOST_B, VM), CKPT_REASON_VM_MOVED);
    /* What lies on it neither, as far as agents made it; a clone of another VM's is none of theirs. */
    assert_int_equal(touch(overlay, HOST_B, VM), CKPT_REASON_VM_MOVED);
    assert_int_equal(touch(clone, HOST_B, VM), 0);
    assert_int_equal(touch(file, HOST_B, TWO), 0);
}

static void
nobody_takes_over_in_the_middle_of_a_step(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(CkptCheckpoint) one = manifest_row_new(ONE, NULL, 1000);
    g_autoptr(CkptPlan) plan = ckpt_plan_new(CKPT_KIND_DELETE);
    g_autofree char *file = manifest_path_of(fixture, "web.img");
    CkptHostInfo owner = {.host_id = (char *)HOST_B, .host_name = (char *)"b"};
    g_autofree char *text = NULL;
    g_autoptr(GError) error = NULL;
    CkptStep *step = touching(file);
    CkptOwnership *held;

    ckpt_set_str(&plan->vm_id, VM);
    manifest_add_disk(fixture, one, "vda", "web.img");
    manifest_write_all(one, HOST_A, 1);
    text = ckpt_manifest_text(one, &owner, 2);
    held = ckpt_ownership_hold(&options, HOST_A, plan, step, &error);
    assert_non_null(held);
    assert_false(ckpt_manifest_take_over(&options, file, text, HOST_A, 1, &error));
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_VM_BUSY);
    g_clear_error(&error);
    ckpt_ownership_free(held);
    assert_true(ckpt_manifest_take_over(&options, file, text, HOST_A, 1, &error));
    assert_int_equal(touch(file, HOST_A, VM), CKPT_REASON_VM_MOVED);
    assert_int_equal(touch(file, HOST_B, VM), 0);
    /* Whoever comes second has read what is no longer so. */
    assert_false(ckpt_manifest_take_over(&options, file, text, HOST_A, 1, &error));
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_VM_MOVED);
    ckpt_step_free(step);
}

/* Written by an agent of a later version, by one whose user is another here, or by nobody knows whom: it may say
 * that the files are another's. */
static void
what_cannot_be_read_is_not_touched(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(CkptCheckpoint) one = manifest_row_new(ONE, NULL, 1000);
    g_autofree char *file = manifest_path_of(fixture, "web.img");
    g_autofree char *path = g_strconcat(file, CKPT_MANIFEST_ENDING, NULL);
    g_autofree char *text = NULL, *later = NULL;
    char *format;

    manifest_add_disk(fixture, one, "vda", "web.img");
    manifest_write_all(one, HOST_A, 1);
    assert_int_equal(touch(file, HOST_A, VM), 0);
    assert_true(g_file_get_contents(path, &text, NULL, NULL));
    later = g_strdup(text);
    format = strstr(later, "\"format\":2");
    assert_non_null(format);
    format[strlen("\"format\":")] = '3';
    assert_true(g_file_set_contents(path, later, -1, NULL));
    assert_int_equal(chmod(path, 0600), 0);
    assert_int_equal(touch(file, HOST_A, VM), CKPT_REASON_FILE_FAILED);
    assert_true(g_file_set_contents(path, text, -1, NULL));
    assert_int_equal(chmod(path, 0666), 0);
    assert_int_equal(touch(file, HOST_A, VM), CKPT_REASON_FILE_FAILED);
    if (geteuid() == 0) {
        assert_int_equal(chmod(path, 0600), 0);
        assert_int_equal(chown(path, 4242, 4242), 0);
        assert_int_equal(touch(file, HOST_A, VM), CKPT_REASON_FILE_FAILED);
    }
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(touch(file, HOST_A, VM), CKPT_REASON_FILE_FAILED);
    assert_int_equal(unlink(path), 0);
    assert_true(g_file_set_contents(path, "{\"vmcheckpoint_manifest\":1,\"checkpoint\":{}}\n", -1, NULL));
    assert_int_equal(chmod(path, 0600), 0);
    assert_int_equal(touch(file, HOST_A, VM), 0); /* of our own first version */
}

/* Any that this machine has: none is opened. */
static const char *
find_block_device(void)
{
    static const char *const devices[] = {"/dev/loop0", "/dev/vda", "/dev/sda", "/dev/nvme0n1", "/dev/ram0"};

    for (guint i = 0; i < G_N_ELEMENTS(devices); i++)
        if (ckpt_is_block(devices[i]))
            return devices[i];
    return NULL;
}

/* Beside a device nothing can lie: its manifest is in the folder for its overlays, and says whose it is there. */
static void
a_block_devices_manifest_is_found_in_its_folder(void **state)
{
    Fixture *fixture = *state;
    const char *device = find_block_device();
    const CkptQemuOptions blocks = {.block_overlay_folder = fixture->folder};
    const char *const folders[] = {fixture->folder, NULL};
    g_autoptr(CkptCheckpoint) one = manifest_row_new(ONE, NULL, 1000);
    CkptHostInfo host_b = {.host_id = (char *)HOST_B, .host_name = (char *)"b"};
    CkptHostInfo host_a = {.host_id = (char *)HOST_A, .host_name = (char *)"a"};
    g_autofree char *path = NULL, *text = NULL, *taken = NULL;
    g_autoptr(CkptFoundFiles) found = NULL;
    g_autoptr(CkptManifest) head = NULL;
    g_autoptr(CkptPlan) plan = ckpt_plan_new(CKPT_KIND_DELETE);
    g_autoptr(GError) error = NULL;
    CkptStep *step;

    if (!device)
        skip();
    manifest_add_disk(fixture, one, "vda", "web.img");
    ckpt_set_str(&((CkptCheckpointDisk *)one->disks->pdata[0])->sealed_file, device);
    path = ckpt_block_beside(&blocks, device, CKPT_MANIFEST_ENDING);
    text = ckpt_manifest_text(one, &host_a, 1);
    taken = ckpt_manifest_text(one, &host_b, 2);
    assert_true(g_file_set_contents(path, text, -1, NULL));
    assert_int_equal(chmod(path, 0600), 0);

    found = ckpt_manifests_find(&blocks, folders, NULL);
    assert_int_equal(found->manifests->len, 1);
    assert_string_equal(((CkptManifest *)found->manifests->pdata[0])->path, device);
    head = ckpt_manifest_head_of(&blocks, device);
    assert_non_null(head);
    assert_string_equal(head->agent, HOST_A);

    ckpt_set_str(&plan->vm_id, VM);
    step = touching(device);
    assert_true(ckpt_manifest_take_over(&blocks, device, taken, HOST_A, 1, NULL));
    assert_null(ckpt_ownership_hold(&blocks, HOST_A, plan, step, &error));
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_VM_MOVED);
    ckpt_step_free(step);
}

/* The parser goes as deep as the text does. */
static void
one_that_is_nested_too_deep_is_nobodys(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *file = manifest_path_of(fixture, "web.img");
    g_autofree char *path = g_strconcat(file, CKPT_MANIFEST_ENDING, NULL);
    g_autofree char *deep = g_strnfill(4 * 1024 * 1024, '[');
    CkptStep *step = ckpt_step_new(CKPT_STEP_REMOVE_MANIFEST);
    CkptRun run = {.step = step, .options = &options};

    assert_true(g_file_set_contents(path, deep, -1, NULL));
    assert_int_equal(chmod(path, 0600), 0);
    ckpt_set_str(&step->checkpoint_id, ONE);
    step->disks = g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_disk_file_free);
    g_ptr_array_add(step->disks, ckpt_disk_file_new("vda", file, CKPT_FORMAT_RAW, NULL));
    assert_true(ckpt_step_remove_manifest(&run, NULL));
    assert_true(g_file_test(path, G_FILE_TEST_EXISTS));
    ckpt_step_free(step);
}

/* So long a name that no manifest can lie beside it: it has none. */
static void
a_file_with_a_name_too_long_for_a_manifest_is_nobodys(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *name = g_strnfill(250, 'n');
    g_autofree char *file = manifest_path_of(fixture, name);

    assert_int_equal(mknod(file, S_IFREG | 0600, 0), 0);
    assert_int_equal(touch(file, HOST_A, VM), 0);
}

int
main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, manifest_setup, manifest_teardown)
    const struct CMUnitTest tests[] = {
        T(a_file_with_a_name_too_long_for_a_manifest_is_nobodys),
        T(another_agents_files_are_not_touched),
        T(nobody_takes_over_in_the_middle_of_a_step),
        T(what_cannot_be_read_is_not_touched),
        T(a_block_devices_manifest_is_found_in_its_folder),
        T(one_that_is_nested_too_deep_is_nobodys),
    };
#undef T

    return cmocka_run_group_tests(tests, NULL, NULL);
}
