/* How a delete moves data: downwards or up into the top, with what room, and where not at all. */
#include "planner_world.h"

static void
disk_that_outgrew_its_block_device_is_not_merged(void **state)
{
    g_autoptr(World) world = world_with_line(1);
    const CkptCheckpoint *only = g_ptr_array_index(world->checkpoints, 0);
    const char *sealed = ((CkptCheckpointDisk *)only->disks->pdata[0])->sealed_file;
    CkptDisk *disk = g_ptr_array_index(world->vm->disks, 0);

    ((CkptLayer *)disk->chain->pdata[0])->virtual_size += MIB;
    ckpt_plan_free(world_must_plan(world, CKPT_KIND_DELETE, only->id));
    ckpt_vm_find_file(world->vm, sealed)->block = TRUE;
    assert_refused(world, CKPT_KIND_DELETE, only->id, CKPT_REASON_DISK_RESIZED);
}

/* As the refusal above asks for. */
static void
block_device_that_grew_still_holds_its_checkpoint(void **state)
{
    g_autoptr(World) world = world_with_line(1);
    CkptCheckpoint *only = g_ptr_array_index(world->checkpoints, 0);
    CkptCheckpointDisk *kept = g_ptr_array_index(only->disks, 0);
    CkptLayer *device = ckpt_vm_find_file(world->vm, kept->sealed_file);
    CkptDisk *disk = g_ptr_array_index(world->vm->disks, 0);

    device->block = TRUE;
    kept->id = device->id =
        (CkptFileId){.device = CKPT_FILE_ID_BLOCK, .inode = 77, .size = device->virtual_size};
    ((CkptLayer *)disk->chain->pdata[0])->virtual_size += MIB;
    device->virtual_size += MIB;
    device->id.size += MIB;
    assert_true(ckpt_plan_verify(&world->input, only, NULL));
    ckpt_plan_free(world_must_plan(world, CKPT_KIND_DELETE, only->id));
    ckpt_plan_free(world_must_plan(world, CKPT_KIND_RESTORE, only->id));
    device->id.inode++; /* another one of that name */
    assert_refused(world, CKPT_KIND_DELETE, only->id, CKPT_REASON_SEALED_FILE_CHANGED);
}

static void
delete_reserves_in_the_file_as_it_was_sealed(void **state) /* hazard A8 */
{
    g_autoptr(World) world = world_with_line(1);
    g_autoptr(CkptPlan) made = world_must_plan(world, CKPT_KIND_DELETE, "c1");
    const CkptLayer *sealed = ckpt_vm_find_file(world->vm, "/img/web.raw");
    CkptStep *reserve = plan_find_step(made, CKPT_STEP_RESERVE, 0);

    assert_string_equal(reserve->file, "/img/web.ckpt-1.qcow2");
    assert_string_equal(reserve->base, "/img/web.raw");
    assert_int_equal(reserve->base_format, CKPT_FORMAT_RAW);
    assert_int_equal(reserve->size, sealed->allocated);
    assert_true(ckpt_file_id_equal(&reserve->id, &sealed->id));
}

/* A snapshot that another tool made; external: of what is in `file`, with an overlay laid on it. */
static CkptSnapshot *
add_foreign(World *world, const char *name, const char *file, const char *overlay)
{
    CkptSnapshot *snapshot = ckpt_snapshot_new(name);

    snapshot->internal = !overlay;
    ckpt_snapshot_add_file(snapshot->disks, "vda", file, CKPT_FORMAT_QCOW2);
    ckpt_snapshot_add_file(snapshot->named, "", file, CKPT_FORMAT_QCOW2);
    if (overlay)
        ckpt_snapshot_add_file(snapshot->named, "", overlay, CKPT_FORMAT_QCOW2);
    g_ptr_array_add(world->vm->foreign, snapshot);
    return snapshot;
}

static void
assert_delete_refused(World *world, const char *id, CkptReason reason, const char *word)
{
    g_autoptr(CkptRequest) request = ckpt_request_new(CKPT_KIND_DELETE);
    g_autoptr(CkptPlan) plan = NULL;
    g_autoptr(GError) error = NULL;

    ckpt_set_str(&request->checkpoint_id, id);
    plan = ckpt_plan_make(&world->input, request, &error);
    assert_null(plan);
    assert_int_equal(ckpt_error_reason(error), reason);
    assert_non_null(strstr(error->message, word));
}

static gboolean
delete_is_planned(World *world, const char *id)
{
    g_autoptr(CkptRequest) request = ckpt_request_new(CKPT_KIND_DELETE);
    g_autoptr(CkptPlan) plan = NULL;

    ckpt_set_str(&request->checkpoint_id, id);
    plan = ckpt_plan_make(&world->input, request, NULL);
    return plan != NULL;
}

static void
delete_is_refused_where_a_foreign_snapshot_consists_of_a_file(void **state)
{
    g_autoptr(World) world = world_with_line(2);

    add_foreign(world, "nightly", "/img/web.ckpt-1.qcow2", "/img/web.nightly");
    assert_delete_refused(world, "c1", CKPT_REASON_FOREIGN_SNAPSHOT_PRESENT, "'nightly'");
    assert_delete_refused(world, "c2", CKPT_REASON_FOREIGN_SNAPSHOT_PRESENT, "'nightly'");
}

static void
delete_merges_into_what_a_foreign_snapshot_only_names(void **state)
{
    g_autoptr(World) world = world_with_line(2);

    /* Laid by it over what it is: the VM went on there, and what it writes belongs to no snapshot. */
    add_foreign(world, "nightly", "/img/web.raw", "/img/web.ckpt-1.qcow2");
    assert_true(delete_is_planned(world, "c2"));
    assert_delete_refused(world, "c1", CKPT_REASON_FOREIGN_SNAPSHOT_PRESENT, "'nightly'");
}

static void
delete_merges_into_a_file_with_internal_snapshots_and_not_below_it(void **state)
{
    g_autoptr(World) world = world_with_line(2);

    add_foreign(world, "inner", "/img/web.ckpt-1.qcow2", NULL);
    ckpt_vm_find_file(world->vm, "/img/web.ckpt-1.qcow2")->snapshots = TRUE;
    assert_true(delete_is_planned(world, "c2"));
    assert_delete_refused(world, "c1", CKPT_REASON_FOREIGN_SNAPSHOT_PRESENT, "'inner'");
}

static void
delete_beside_another_vms_clone_is_refused(void **state) /* hazard A18 */
{
    g_autoptr(World) world = world_with_line(1);

    ckpt_vm_add_user(world->vm, "/img/web.raw", FALSE, "VM clone, disk vda");
    assert_refused(world, CKPT_KIND_DELETE, "c1", CKPT_REASON_BRANCH_POINT);
}

static void
delete_never_merges_what_the_agent_did_not_make(void **state)
{
    g_autoptr(World) world = world_with_line(1);

    g_ptr_array_set_size(world->made, 0);
    assert_refused(world, CKPT_KIND_DELETE, "c1", CKPT_REASON_BRANCH_POINT);
}

static void
delete_of_a_shrunk_disk_is_refused(void **state) /* hazard A29 */
{
    g_autoptr(World) world = world_with_line(1);

    ckpt_vm_find_file(world->vm, "/img/web.ckpt-1.qcow2")->virtual_size = 32 * MIB;
    assert_refused(world, CKPT_KIND_DELETE, "c1", CKPT_REASON_DISK_RESIZED);
}

/* Refused while nothing has happened, and only where it would be merged by the running VM. */
static void
delete_that_apparmor_would_deny_is_refused(void **state) /* hazard A14 */
{
    g_autoptr(World) world = world_with_line(1);

    ckpt_vm_find_file(world->vm, "/img/web.raw")->commit_denied = TRUE;
    assert_refused(world, CKPT_KIND_DELETE, "c1", CKPT_REASON_SHUT_DOWN_REQUIRED);
    world->vm->power = CKPT_POWER_SHUT_OFF;
    ckpt_plan_free(world_must_plan(world, CKPT_KIND_DELETE, "c1"));
}

/* ---- The pull: a sealed file into the top ---- */

/* base ← o1 (c2's, small) ← o2 (the present state, big), and off. */
static World *
world_with_a_big_top(void)
{
    World *world = world_with_line(2);

    world->vm->power = CKPT_POWER_SHUT_OFF;
    ckpt_vm_find_file(world->vm, "/img/web.ckpt-2.qcow2")->allocated = 40 * MIB;
    return world;
}

static void
delete_below_a_big_top_pulls_the_small_file_up(void **state)
{
    g_autoptr(World) world = world_with_a_big_top();
    g_autoptr(CkptPlan) made = world_must_plan(world, CKPT_KIND_DELETE, "c2");
    CkptStep *pull = plan_find_step(made, CKPT_STEP_PULL, 0);
    CkptStep *reserve = plan_find_step(made, CKPT_STEP_RESERVE, 0);
    CkptDiskFile *disk =
        g_ptr_array_index(plan_find_step(made, CKPT_STEP_CHECK_CHAIN, 0)->disks, 0);
    CkptChange *change = plan_last_change(made);

    assert_steps(made, "reserve catalogue pull check-chain catalogue remove-manifest remove-file");
    assert_int_equal(made->decisive, 1);
    assert_string_equal(pull->file, "/img/web.ckpt-1.qcow2");
    assert_string_equal(pull->above, "/img/web.ckpt-2.qcow2");
    assert_string_equal(pull->base, "/img/web.raw");
    assert_int_equal(pull->base_format, CKPT_FORMAT_QCOW2);
    /* the space is taken where the top grows, and that is no sealed file */
    assert_string_equal(reserve->file, "/img/web.ckpt-1.qcow2");
    assert_string_equal(reserve->base, "/img/web.ckpt-2.qcow2");
    assert_false(ckpt_file_id_is_set(&reserve->id));
    assert_string_equal(disk->chain[0], "/img/web.ckpt-2.qcow2");
    assert_string_equal(disk->chain[1], "/img/web.raw");
    assert_null(disk->chain[2]);
    /* the lower checkpoint's row and file are as they were */
    assert_int_equal(change->upserts->len, 0);
    assert_string_equal(change->current_id, "c1");
    assert_string_equal(change->gone->pdata[0], "/img/web.ckpt-1.qcow2");
    assert_string_equal(plan_find_step(made, CKPT_STEP_REMOVE_FILE, 0)->file,
                        "/img/web.ckpt-1.qcow2");
    assert_string_equal(plan_find_step(made, CKPT_STEP_REMOVE_MANIFEST, 0)->checkpoint_id, "c2");
}

/* QEMU dies of a block pull, or loses what it pulled: see find_pull(). */
static void
delete_in_a_vm_that_is_not_off_is_never_a_pull(void **state)
{
    static const CkptPower powers[] = {CKPT_POWER_RUNNING, CKPT_POWER_PAUSED, CKPT_POWER_CRASHED,
                                       CKPT_POWER_SUSPENDED, CKPT_POWER_UNKNOWN};

    for (guint i = 0; i < G_N_ELEMENTS(powers); i++) {
        g_autoptr(World) world = world_with_a_big_top();
        g_autoptr(CkptPlan) made = NULL;

        world->vm->power = powers[i];
        made = world_plan(world, CKPT_KIND_DELETE, "c2", NULL);
        if (made && plan_count_steps(made, CKPT_STEP_PULL) > 0)
            fail_msg("pulled in power state %d", powers[i]);
    }
}

static void
delete_merges_where_a_pull_is_not_clearly_less(void **state)
{
    g_autoptr(World) world = world_with_a_big_top();
    g_autoptr(CkptPlan) made = NULL;

    ckpt_vm_find_file(world->vm, "/img/web.ckpt-1.qcow2")->allocated = 20 * MIB;
    made = world_must_plan(world, CKPT_KIND_DELETE, "c2");
    assert_int_equal(plan_count_steps(made, CKPT_STEP_PULL), 0);
    assert_int_equal(plan_count_steps(made, CKPT_STEP_MERGE), 1);
}

/* Whatever the sizes: not the first file, whose name survives; not below a sealed file; not where the
 * file below is longer, or an image is more than plain data. */
static void
delete_never_pulls_where_that_is_not_safe(void **state)
{
    g_autoptr(World) root = world_with_line(1);
    g_autoptr(World) middle = world_with_line(3);
    g_autoptr(CkptPlan) of_root = NULL;
    g_autoptr(CkptPlan) of_middle = NULL;

    root->vm->power = middle->vm->power = CKPT_POWER_SHUT_OFF;
    ckpt_vm_find_file(root->vm, "/img/web.ckpt-1.qcow2")->allocated = 40 * MIB;
    ckpt_vm_find_file(middle->vm, "/img/web.ckpt-2.qcow2")->allocated = 40 * MIB;
    for (guint i = 0; i < 11; i++) {
        g_autoptr(World) world = world_with_a_big_top();
        g_autoptr(CkptPlan) made = NULL;
        CkptLayer *sealed = ckpt_vm_find_file(world->vm, "/img/web.ckpt-1.qcow2");
        CkptLayer *top = ckpt_vm_find_file(world->vm, "/img/web.ckpt-2.qcow2");
        CkptDisk *disk = g_ptr_array_index(world->vm->disks, 0);

        if (i == 0)
            sealed->encrypted = TRUE;
        else if (i == 1)
            ckpt_vm_find_file(world->vm, "/img/web.raw")->virtual_size = 65 * MIB;
        else if (i == 2)
            sealed->bitmaps = TRUE;
        else if (i == 3)
            top->encrypted = TRUE;
        else if (i == 4)
            sealed->backing_format = 0;
        else if (i == 5)
            ckpt_set_str(&disk->source, "/img/web.raw");
        else if (i == 6)
            g_ptr_array_remove_index(world->made, 0); /* the sealed one is not ours */
        else if (i == 7)
            sealed->snapshots = TRUE;
        else if (i == 8)
            top->snapshots = TRUE;
        else if (i == 9)
            top->virtual_size = 65 * MIB;
        else
            ckpt_vm_find_file(world->vm, "/img/web.raw")->exists = FALSE;
        made = world_plan(world, CKPT_KIND_DELETE, "c2", NULL);
        if (made && plan_count_steps(made, CKPT_STEP_PULL) > 0)
            fail_msg("case %u is pulled", i);
    }
    of_root = world_must_plan(root, CKPT_KIND_DELETE, "c1");
    of_middle = world_must_plan(middle, CKPT_KIND_DELETE, "c2");
    assert_int_equal(plan_count_steps(of_root, CKPT_STEP_PULL), 0);
    assert_int_equal(plan_count_steps(of_middle, CKPT_STEP_PULL), 0);
}

static void
delete_needs_room_for_what_it_pulls(void **state)
{
    g_autoptr(World) world = world_with_a_big_top();

    ckpt_vm_find_file(world->vm, "/img/web.ckpt-1.qcow2")->allocated = 19 * MIB;
    ckpt_vm_find_file(world->vm, "/img/web.ckpt-2.qcow2")->fs_available = 82 * MIB;
    assert_refused(world, CKPT_KIND_DELETE, "c2", CKPT_REASON_SPACE_LOW);
    ckpt_vm_find_file(world->vm, "/img/web.ckpt-2.qcow2")->fs_available = 84 * MIB;
    ckpt_plan_free(world_must_plan(world, CKPT_KIND_DELETE, "c2"));
}

static void
delete_needs_room_for_what_it_merges(void **state)
{
    g_autoptr(World) world = world_with_line(1);

    ckpt_vm_find_file(world->vm, "/img/web.raw")->virtual_size = 2000ull * MIB;
    ckpt_vm_find_file(world->vm, "/img/web.ckpt-1.qcow2")->virtual_size = 2000ull * MIB;
    ckpt_vm_find_file(world->vm, "/img/web.ckpt-1.qcow2")->allocated = 1000ull * MIB;
    assert_refused(world, CKPT_KIND_DELETE, "c1", CKPT_REASON_SPACE_LOW);
}

static CkptCheckpointDisk *
add_checkpoint_disk(CkptCheckpoint *checkpoint, const char *target, const CkptLayer *sealed)
{
    CkptCheckpointDisk *disk = g_new0(CkptCheckpointDisk, 1);

    disk->target = g_strdup(target);
    disk->sealed_file = g_strdup(sealed->path);
    disk->format = sealed->format;
    disk->virtual_size = sealed->virtual_size;
    disk->id = sealed->id;
    disk->mode_before = 0644;
    g_ptr_array_add(checkpoint->disks, disk);
    return disk;
}

/* Each has room for itself: 600 of 1024 MiB, on one file system or on two. */
static void
space_is_summed_for_each_file_system(void **state)
{
    for (guint devices = 1; devices <= 2; devices++) {
        g_autoptr(World) world = world_with_line(1);
        CkptLayer *base = world_add_file(world, "/img/web-b.raw", NULL);
        CkptLayer *overlay = world_add_file(world, "/img/web-b.ckpt-1.qcow2", "/img/web-b.raw");

        base->id.device = devices;
        world_add_disk(world, "vdb", overlay->path);
        add_checkpoint_disk(g_ptr_array_index(world->checkpoints, 0), "vdb", base);
        g_ptr_array_add(world->made, g_strdup(overlay->path));
        for (guint i = 0; i < 2; i++) {
            const char *bases[] = {"/img/web.raw", "/img/web-b.raw"};
            const char *overlays[] = {"/img/web.ckpt-1.qcow2", "/img/web-b.ckpt-1.qcow2"};

            ckpt_vm_find_file(world->vm, bases[i])->virtual_size = 2048ull * MIB;
            ckpt_vm_find_file(world->vm, overlays[i])->virtual_size = 2048ull * MIB;
            ckpt_vm_find_file(world->vm, overlays[i])->allocated = 600ull * MIB;
        }
        if (devices == 1)
            assert_refused(world, CKPT_KIND_DELETE, "c1", CKPT_REASON_SPACE_LOW);
        else
            ckpt_plan_free(world_must_plan(world, CKPT_KIND_DELETE, "c1"));
    }
}

/* A raw file that has all its blocks needs none. */
static void
delete_into_an_allocated_file_needs_no_room(void **state)
{
    g_autoptr(World) world = world_with_line(1);
    CkptLayer *base = ckpt_vm_find_file(world->vm, "/img/web.raw");
    CkptLayer *overlay = ckpt_vm_find_file(world->vm, "/img/web.ckpt-1.qcow2");

    base->virtual_size = base->allocated = overlay->virtual_size = 1000ull * MIB;
    overlay->allocated = 1000ull * MIB;
    ckpt_plan_free(world_must_plan(world, CKPT_KIND_DELETE, "c1"));
    base->fs_available = MIB; /* the reserve is touched: this is how it comes back */
    ckpt_plan_free(world_must_plan(world, CKPT_KIND_DELETE, "c1"));
    overlay->virtual_size = 2000ull * MIB; /* grown since */
    assert_refused(world, CKPT_KIND_DELETE, "c1", CKPT_REASON_SPACE_LOW);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(disk_that_outgrew_its_block_device_is_not_merged),
        cmocka_unit_test(block_device_that_grew_still_holds_its_checkpoint),
        cmocka_unit_test(delete_is_refused_where_a_foreign_snapshot_consists_of_a_file),
        cmocka_unit_test(delete_merges_into_what_a_foreign_snapshot_only_names),
        cmocka_unit_test(delete_merges_into_a_file_with_internal_snapshots_and_not_below_it),
        cmocka_unit_test(delete_beside_another_vms_clone_is_refused),
        cmocka_unit_test(delete_never_merges_what_the_agent_did_not_make),
        cmocka_unit_test(delete_of_a_shrunk_disk_is_refused),
        cmocka_unit_test(delete_that_apparmor_would_deny_is_refused),
        cmocka_unit_test(delete_below_a_big_top_pulls_the_small_file_up),
        cmocka_unit_test(delete_in_a_vm_that_is_not_off_is_never_a_pull),
        cmocka_unit_test(delete_merges_where_a_pull_is_not_clearly_less),
        cmocka_unit_test(delete_never_pulls_where_that_is_not_safe),
        cmocka_unit_test(delete_needs_room_for_what_it_pulls),
        cmocka_unit_test(delete_needs_room_for_what_it_merges),
        cmocka_unit_test(delete_reserves_in_the_file_as_it_was_sealed),
        cmocka_unit_test(space_is_summed_for_each_file_system),
        cmocka_unit_test(delete_into_an_allocated_file_needs_no_room),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
