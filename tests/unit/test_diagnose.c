/* The doctor's eye: each finding, on views of a VM put together by hand. */
#include "cmocka_all.h"

#include "agent/core/diagnose.h"

#include <string.h>

#define VM "11111111-1111-4111-8111-111111111111"
#define MIB (1024 * 1024)

/* web-01 with one disk: base.raw is sealed as "first", over it o1.qcow2 as "second", over that o2.qcow2,
 * to which the VM writes. */
typedef struct {
    CkptVm *vm;
    CkptLimits limits;
    GPtrArray *checkpoints, *made, *doomed, *operations;
    CkptVmRecord record;
    CkptPlanInput input;
    CkptDiagnosis diagnosis;
    GPtrArray *findings;
} World;

static CkptLayer *
add_file(World *world, const char *path, const char *backing, guint mode)
{
    CkptLayer *layer = g_new0(CkptLayer, 1);

    layer->path = g_strdup(path);
    layer->exists = TRUE;
    layer->format = backing ? CKPT_FORMAT_QCOW2 : CKPT_FORMAT_RAW;
    layer->virtual_size = 64 * MIB;
    layer->fs_available = 1024ull * MIB;
    layer->id = (CkptFileId){.device = 1,
                             .inode = g_hash_table_size(world->vm->files) + 1,
                             .size = 10,
                             .mtime_ns = 5};
    layer->mode = mode;
    layer->backing = g_strdup(backing);
    layer->backing_format = g_strcmp0(backing, "/i/base.raw") == 0 ? CKPT_FORMAT_RAW
                            : backing                              ? CKPT_FORMAT_QCOW2
                                                                   : 0;
    layer->manifest = mode == 0440;
    ckpt_vm_add_file(world->vm, layer);
    return layer;
}

static CkptCheckpoint *
add_checkpoint(World *world, const char *id, const char *parent, const char *file)
{
    CkptCheckpoint *row = ckpt_checkpoint_new();
    CkptCheckpointDisk *disk = g_new0(CkptCheckpointDisk, 1);
    const CkptLayer *layer = ckpt_vm_find_file(world->vm, file);

    ckpt_set_str(&row->id, id);
    ckpt_set_str(&row->name, id);
    ckpt_set_str(&row->vm_id, VM);
    ckpt_set_str(&row->vm_name, "web-01");
    ckpt_set_str(&row->parent_id, parent);
    ckpt_set_str(&row->creator, "spiffe://test/operator");
    row->state = CKPT_STATE_READY;
    row->mechanism = CKPT_MECHANISM_OVERLAY;
    disk->target = g_strdup("vda");
    disk->sealed_file = g_strdup(file);
    disk->format = layer->format;
    disk->id = layer->id;
    disk->agent_made = layer->backing != NULL;
    g_ptr_array_add(row->disks, disk);
    g_ptr_array_add(world->checkpoints, row);
    return row;
}

static int
setup(void **state)
{
    World *world = g_new0(World, 1);
    CkptDisk *disk = g_new0(CkptDisk, 1);

    world->vm = ckpt_vm_new();
    ckpt_set_str(&world->vm->id, VM);
    ckpt_set_str(&world->vm->name, "web-01");
    world->vm->power = CKPT_POWER_SHUT_OFF;
    world->vm->persistent = TRUE;
    world->checkpoints = g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_checkpoint_free);
    world->made = g_ptr_array_new_with_free_func(g_free);
    world->doomed = g_ptr_array_new_with_free_func(g_free);
    world->operations = g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_operation_free);
    add_file(world, "/i/base.raw", NULL, 0440);
    add_file(world, "/i/o1.qcow2", "/i/base.raw", 0440);
    add_file(world, "/i/o2.qcow2", "/i/o1.qcow2", 0600);
    g_ptr_array_add(world->made, g_strdup("/i/o1.qcow2"));
    g_ptr_array_add(world->made, g_strdup("/i/o2.qcow2"));
    add_checkpoint(world, "first", NULL, "/i/base.raw");
    add_checkpoint(world, "second", "first", "/i/o1.qcow2");
    disk->target = g_strdup("vda");
    disk->source = g_strdup("/i/o2.qcow2");
    disk->format = CKPT_FORMAT_QCOW2;
    disk->chain = g_ptr_array_new();
    for (const char *path = disk->source; path; path = ckpt_vm_find_file(world->vm, path)->backing)
        g_ptr_array_add(disk->chain, ckpt_vm_find_file(world->vm, path));
    g_ptr_array_add(world->vm->disks, disk);
    ckpt_limits_init(&world->limits);
    world->record = (CkptVmRecord){.current_id = (char *)"second", .checkpoints = 2};
    world->input = (CkptPlanInput){.vm = world->vm,
                                   .checkpoints = world->checkpoints,
                                   .made = world->made,
                                   .doomed = world->doomed,
                                   .current_id = "second",
                                   .limits = &world->limits};
    world->diagnosis = (CkptDiagnosis){.vm_id = VM,
                                       .input = &world->input,
                                       .checkpoints = world->checkpoints,
                                       .record = &world->record,
                                       .operations = world->operations,
                                       .now_us = G_GINT64_CONSTANT(1000000) * G_USEC_PER_SEC};
    world->findings = ckpt_findings_new();
    *state = world;
    return 0;
}

static int
teardown(void **state)
{
    World *world = *state;

    g_ptr_array_unref(world->findings);
    g_ptr_array_unref(world->checkpoints);
    g_ptr_array_unref(world->made);
    g_ptr_array_unref(world->doomed);
    g_ptr_array_unref(world->operations);
    ckpt_vm_free(world->vm);
    g_free(world);
    return 0;
}

/* Looks, and expects exactly one finding of that kind, and `others` of other kinds. */
static const CkptFinding *
must_find(World *world, CkptFindingKind kind, guint others)
{
    const CkptFinding *found = NULL;

    g_ptr_array_set_size(world->findings, 0);
    ckpt_diagnose_vm(&world->diagnosis, world->findings);
    for (guint i = 0; i < world->findings->len; i++) {
        const CkptFinding *finding = g_ptr_array_index(world->findings, i);

        assert_true(*finding->message != '\0');
        if (finding->kind == kind && !found)
            found = finding;
        else
            print_message("%s: %s\n", ckpt_finding_kind_name(finding->kind), finding->message);
    }
    if (!found)
        fail_msg("no %s", ckpt_finding_kind_name(kind));
    assert_int_equal(world->findings->len, 1 + others);
    return found;
}

static void
must_find_nothing(World *world)
{
    ckpt_diagnose_vm(&world->diagnosis, world->findings);
    for (guint i = 0; i < world->findings->len; i++)
        fail_msg("%s", ((CkptFinding *)world->findings->pdata[i])->message);
}

static CkptLayer *
layer(World *world, const char *path)
{
    return ckpt_vm_find_file(world->vm, path);
}

static void
nothing_is_found_where_nothing_is_wrong(void **state)
{
    must_find_nothing(*state);
}

static void
a_missing_file_is_found_once_with_what_lies_on_it(void **state)
{
    World *world = *state;
    const CkptFinding *finding;

    layer(world, "/i/base.raw")->exists = FALSE;
    finding = must_find(world, CKPT_FINDING_FILE_MISSING, 0);
    assert_string_equal(finding->file, "/i/base.raw");
    assert_string_equal(finding->checkpoint_id, "first");
    assert_int_equal(finding->severity, CKPT_SEVERITY_ERROR);
    assert_string_equal(finding->repair, "");
}

/* The checkpoint is not restored as it is; what is in its disks is not lost. */
static void
a_missing_memory_image_does_not_keep_the_disks_from_being_restored(void **state)
{
    World *world = *state;
    CkptCheckpointFile *memory = g_new0(CkptCheckpointFile, 1);
    const CkptFinding *finding;

    memory->kind = CKPT_FILE_MEMORY;
    memory->path = g_strdup("/i/o1.memory");
    memory->id = (CkptFileId){.device = 1, .inode = 99, .size = 10, .mtime_ns = 5};
    g_ptr_array_add(((CkptCheckpoint *)world->checkpoints->pdata[0])->extras, memory);
    finding = must_find(world, CKPT_FINDING_FILE_MISSING, 0);
    assert_string_equal(finding->file, "/i/o1.memory");
    assert_string_equal(finding->checkpoint_id, "first");
    assert_null(strstr(finding->message, "cannot be restored"));
    assert_non_null(strstr(finding->message, "its disks can be restored without it"));
    layer(world, "/i/base.raw")->id.mtime_ns++; /* they cannot */
    must_find(world, CKPT_FINDING_SEALED_FILE_CHANGED, 0);
}

static void
a_changed_sealed_file_is_found_and_not_repairable(void **state)
{
    World *world = *state;
    const CkptFinding *finding;

    layer(world, "/i/o1.qcow2")->id.mtime_ns++;
    finding = must_find(world, CKPT_FINDING_SEALED_FILE_CHANGED, 0);
    assert_string_equal(finding->file, "/i/o1.qcow2");
    assert_string_equal(finding->repair, "");
}

static void
a_writable_sealed_file_is_repairable_only_while_it_is_whole(void **state)
{
    World *world = *state;

    layer(world, "/i/o1.qcow2")->mode = 0640;
    assert_string_not_equal(must_find(world, CKPT_FINDING_SEALED_FILE_WRITABLE, 0)->repair, "");
    layer(world, "/i/o1.qcow2")->id.size++;
    assert_string_equal(must_find(world, CKPT_FINDING_SEALED_FILE_WRITABLE, 1)->repair, "");
}

static void
a_sealed_file_that_somebody_may_write_to_is_found(void **state)
{
    World *world = *state;

    ckpt_vm_add_user(world->vm, "/i/o1.qcow2", TRUE, "VM db-01 (x), disk vda");
    assert_non_null(
        strstr(must_find(world, CKPT_FINDING_SEALED_FILE_IN_USE, 0)->message, "VM db-01"));
    g_ptr_array_set_size(world->vm->users, 0);
    layer(world, "/i/o1.qcow2")->write_locked = TRUE;
    assert_non_null(
        strstr(must_find(world, CKPT_FINDING_SEALED_FILE_IN_USE, 0)->message, "open for writing"));
}

static void
a_vm_of_which_nobody_can_tell_on_what_it_lies_is_found(void **state)
{
    World *world = *state;

    ckpt_vm_add_unreadable(world->vm, "/mnt/clone.qcow2", "VM db-01 (x), disk vda");
    assert_non_null(strstr(must_find(world, CKPT_FINDING_FILE_MISSING, 0)->message, "VM db-01"));
    assert_string_equal(must_find(world, CKPT_FINDING_FILE_MISSING, 0)->file, "/mnt/clone.qcow2");
}

static void
a_definition_on_a_sealed_file_is_a_mismatch_too(void **state)
{
    World *world = *state;
    CkptDisk *disk = g_ptr_array_index(world->vm->disks, 0);

    ckpt_set_str(&disk->source, "/i/o1.qcow2");
    g_ptr_array_remove_index(disk->chain, 0);
    assert_string_equal(must_find(world, CKPT_FINDING_SEALED_FILE_IN_USE, 1)->file, "/i/o1.qcow2");
    assert_string_equal(must_find(world, CKPT_FINDING_CHAIN_MISMATCH, 1)->repair, "");
}

static void
a_missing_manifest_is_repairable(void **state)
{
    World *world = *state;

    layer(world, "/i/o1.qcow2")->manifest = FALSE;
    assert_string_not_equal(must_find(world, CKPT_FINDING_MANIFEST_MISSING, 0)->repair, "");
}

/* Another host's agent may have merged into it, and have removed the manifest with the checkpoint. */
static void
the_manifest_of_what_was_changed_is_not_written_again(void **state)
{
    World *world = *state;

    layer(world, "/i/o1.qcow2")->manifest = FALSE;
    layer(world, "/i/o1.qcow2")->id.mtime_ns++;
    assert_string_equal(must_find(world, CKPT_FINDING_MANIFEST_MISSING, 1)->repair, "");
}

/* Its mode is udev's: a seal is none of it. */
static void
a_block_devices_mode_is_no_finding(void **state)
{
    World *world = *state;

    layer(world, "/i/base.raw")->block = TRUE;
    layer(world, "/i/base.raw")->mode = 0660;
    ckpt_diagnose_vm(&world->diagnosis, world->findings);
    assert_int_equal(world->findings->len, 0);
}

/* Its plan has opened the files of its merge: sealed again, it could not be finished. */
static void
what_a_begun_delete_has_unsealed_is_no_finding(void **state)
{
    World *world = *state;
    CkptCheckpoint *row = g_ptr_array_index(world->checkpoints, 0);

    row->state = CKPT_STATE_DELETING;
    layer(world, "/i/o1.qcow2")->mode = 0600;
    must_find(world, CKPT_FINDING_DELETE_UNFINISHED, 0);
    assert_int_equal(world->findings->len, 1);
}

static void
a_manifest_that_cannot_be_read_is_left_alone(void **state)
{
    World *world = *state;
    const CkptFinding *finding;

    layer(world, "/i/o1.qcow2")->manifest_unread = TRUE;
    finding = must_find(world, CKPT_FINDING_MANIFEST_MISSING, 0);
    assert_int_equal(finding->severity, CKPT_SEVERITY_ERROR);
    assert_string_equal(finding->repair, "");
}

static void
a_disabled_checkpoint_that_is_whole_is_repairable(void **state)
{
    World *world = *state;
    CkptCheckpoint *row = g_ptr_array_index(world->checkpoints, 0);

    ckpt_set_str(&row->disabled_reason, "it was missing");
    assert_string_not_equal(must_find(world, CKPT_FINDING_CHECKPOINT_DISABLED, 0)->repair, "");
}

static void
a_quarantine_is_repairable_only_when_all_agrees(void **state)
{
    World *world = *state;

    world->record.quarantine_reason = (char *)"chains differed";
    assert_string_not_equal(must_find(world, CKPT_FINDING_VM_QUARANTINED, 0)->repair, "");
    ckpt_vm_add_obstacle(world->vm, CKPT_REASON_CHAIN_MISMATCH, "vda", "/i/o2.qcow2", "they differ");
    assert_string_equal(must_find(world, CKPT_FINDING_VM_QUARANTINED, 1)->repair, "");
}

static void
a_doomed_file_that_is_still_there_is_repairable(void **state)
{
    World *world = *state;

    add_file(world, "/i/gone.qcow2", "/i/o1.qcow2", 0600);
    g_ptr_array_add(world->made, g_strdup("/i/gone.qcow2"));
    g_ptr_array_add(world->doomed, g_strdup("/i/gone.qcow2"));
    assert_string_equal(must_find(world, CKPT_FINDING_FILE_UNNEEDED, 0)->file, "/i/gone.qcow2");
    layer(world, "/i/gone.qcow2")->exists = FALSE;
    g_ptr_array_set_size(world->findings, 0);
    must_find_nothing(world);
}

static void
a_full_file_system_is_found_once(void **state)
{
    World *world = *state;

    layer(world, "/i/o2.qcow2")->fs_available = MIB;
    assert_string_equal(must_find(world, CKPT_FINDING_SPACE_LOW, 0)->file, "/i");
}

static void
a_folder_for_overlays_that_is_not_there_is_not_taken_for_a_full_one(void **state)
{
    World *world = *state;
    CkptLayer *top = layer(world, "/i/o2.qcow2");
    const CkptFinding *finding;

    top->block = TRUE;
    top->overlay_folder = g_strdup("/overlays");
    top->fs_available = 0;
    finding = must_find(world, CKPT_FINDING_FILE_MISSING, 0);
    assert_string_equal(finding->file, "/overlays");
}

static void
a_reserve_in_percent_counts(void **state)
{
    World *world = *state;

    world->limits.reserve_percent = 10;
    layer(world, "/i/o2.qcow2")->fs_size = 20 * layer(world, "/i/o2.qcow2")->fs_available;
    assert_string_equal(must_find(world, CKPT_FINDING_SPACE_LOW, 0)->file, "/i");
}

/* Nothing that a repair could not put right: its node is nobody's to close. */
static void
a_block_device_is_not_expected_to_be_sealed(void **state)
{
    World *world = *state;
    CkptLayer *device = layer(world, "/i/base.raw");
    CkptCheckpoint *row = g_ptr_array_index(world->checkpoints, 0);

    device->block = TRUE;
    device->mode = 0660;
    device->id = (CkptFileId){.device = CKPT_FILE_ID_BLOCK, .inode = 77, .size = 64 * MIB};
    ((CkptCheckpointDisk *)row->disks->pdata[0])->id = device->id;
    must_find_nothing(world);
    device->id.size = 128 * MIB; /* it has grown: what it held is where it was */
    must_find_nothing(world);
    device->id.size = 32 * MIB;
    must_find(world, CKPT_FINDING_SEALED_FILE_CHANGED, 0);
}

static void
an_unfinished_delete_is_found_unless_it_is_under_way(void **state)
{
    World *world = *state;
    CkptCheckpoint *row = g_ptr_array_index(world->checkpoints, 1);
    CkptOperation *op = ckpt_operation_new();

    row->state = CKPT_STATE_DELETING;
    assert_int_equal(must_find(world, CKPT_FINDING_DELETE_UNFINISHED, 0)->severity,
                     CKPT_SEVERITY_WARNING);
    row->deferred = TRUE;
    assert_int_equal(must_find(world, CKPT_FINDING_DELETE_UNFINISHED, 0)->severity,
                     CKPT_SEVERITY_NOTE);
    row->deferred = FALSE;
    op->kind = CKPT_KIND_DELETE;
    ckpt_set_str(&op->checkpoint_id, "second");
    op->created_us = world->diagnosis.now_us - 60 * G_USEC_PER_SEC;
    g_ptr_array_add(world->operations, op);
    g_ptr_array_set_size(world->findings, 0);
    must_find_nothing(world);
    op->created_us -= G_GINT64_CONSTANT(2) * G_TIME_SPAN_HOUR;
    must_find(world, CKPT_FINDING_OPERATION_UNFINISHED, 0);
}

static void
checkpoints_of_an_undefined_vm_are_orphans_with_their_origin(void **state)
{
    World *world = *state;
    const CkptFinding *finding;

    world->diagnosis.input = NULL;
    finding = must_find(world, CKPT_FINDING_CHECKPOINT_ORPHANED, 1);
    assert_non_null(strstr(finding->origin, "web-01"));
    assert_non_null(strstr(finding->origin, VM));
    assert_string_equal(finding->repair, "");
}

static void
a_finding_keeps_its_id_and_two_have_two(void **state)
{
    g_autoptr(CkptFinding) one =
        ckpt_finding_new(CKPT_FINDING_FILE_MISSING, CKPT_SEVERITY_ERROR, VM, "first", "/i/a");
    g_autoptr(CkptFinding) again =
        ckpt_finding_new(CKPT_FINDING_FILE_MISSING, CKPT_SEVERITY_NOTE, VM, "first", "/i/a");
    g_autoptr(CkptFinding) other =
        ckpt_finding_new(CKPT_FINDING_FILE_MISSING, CKPT_SEVERITY_ERROR, VM, "first", "/i/b");

    ckpt_set_str(&again->message, "other words");
    assert_string_equal(one->id, again->id);
    assert_string_not_equal(one->id, other->id);
    assert_int_equal(strlen(one->id), 16);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(nothing_is_found_where_nothing_is_wrong),
        TEST(a_missing_file_is_found_once_with_what_lies_on_it),
        TEST(a_missing_memory_image_does_not_keep_the_disks_from_being_restored),
        TEST(a_changed_sealed_file_is_found_and_not_repairable),
        TEST(a_writable_sealed_file_is_repairable_only_while_it_is_whole),
        TEST(a_sealed_file_that_somebody_may_write_to_is_found),
        TEST(a_vm_of_which_nobody_can_tell_on_what_it_lies_is_found),
        TEST(a_definition_on_a_sealed_file_is_a_mismatch_too),
        TEST(a_missing_manifest_is_repairable),
        TEST(the_manifest_of_what_was_changed_is_not_written_again),
        TEST(a_block_devices_mode_is_no_finding),
        TEST(what_a_begun_delete_has_unsealed_is_no_finding),
        TEST(a_manifest_that_cannot_be_read_is_left_alone),
        TEST(a_disabled_checkpoint_that_is_whole_is_repairable),
        TEST(a_quarantine_is_repairable_only_when_all_agrees),
        TEST(a_doomed_file_that_is_still_there_is_repairable),
        TEST(a_full_file_system_is_found_once),
        TEST(a_folder_for_overlays_that_is_not_there_is_not_taken_for_a_full_one),
        TEST(a_reserve_in_percent_counts),
        TEST(a_block_device_is_not_expected_to_be_sealed),
        TEST(an_unfinished_delete_is_found_unless_it_is_under_way),
        TEST(checkpoints_of_an_undefined_vm_are_orphans_with_their_origin),
        cmocka_unit_test(a_finding_keeps_its_id_and_two_have_two),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
