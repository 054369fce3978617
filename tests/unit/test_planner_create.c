/* The planner's creates, on views of VMs put together by hand: which steps, in which order, and
 * their own refusals. */
#include "planner_world.h"

static void
create_seals_before_the_snapshot_and_checks_what_it_catalogued(void **state)
{
    g_autoptr(World) world = world_with_line(0);
    g_autoptr(CkptPlan) made = world_must_plan(world, CKPT_KIND_CREATE, NULL);

    assert_steps(made, "make-overlay write-manifest seal snapshot identify write-manifest catalogue "
                       "check-chain");
    assert_int_equal(made->decisive, 3);
    assert_false(made->no_return);
    assert_string_equal(plan_find_step(made, CKPT_STEP_MAKE_OVERLAY, 0)->file,
                        "/img/web.ckpt-abcdef01.qcow2");
    assert_int_equal(plan_find_step(made, CKPT_STEP_SEAL, 0)->mode, 0600);
    assert_true(plan_find_step(made, CKPT_STEP_SNAPSHOT, 0)->untried);
    assert_string_equal(plan_last_change(made)->current_id, world->input.new_id);
    assert_null(made->checkpoint->parent_id);
}

/* QEMU that writes to its disks as a member of their group must be able to write to the overlay. */
static void
an_overlay_lets_the_group_in_only_where_it_could_write(void **state)
{
    g_autoptr(World) world = world_with_line(0);
    CkptDisk *disk = g_ptr_array_index(world->vm->disks, 0);
    CkptLayer *top = g_ptr_array_index(disk->chain, 0);
    const guint modes[][2] = {{0600, 0600}, {0644, 0600}, {0640, 0600}, {0660, 0660}, {0666, 0660}};

    for (guint i = 0; i < G_N_ELEMENTS(modes); i++) {
        top->mode = modes[i][0];
        g_autoptr(CkptPlan) made = world_must_plan(world, CKPT_KIND_CREATE, NULL);

        assert_int_equal(plan_find_step(made, CKPT_STEP_MAKE_OVERLAY, 0)->mode, modes[i][1]);
    }
}

/* The copy is made before the disks' instant, so that a crash leaves none that is later than the disks. */
static void
create_saves_uefi_variables_just_before_the_snapshot(void **state)
{
    g_autoptr(World) world = world_with_line(0);
    g_autoptr(CkptPlan) made = NULL;
    const CkptCheckpointFile *file;

    world_add_file(world, "/nvram/web-01", NULL);
    world->vm->nvram = g_strdup("/nvram/web-01");
    g_ptr_array_add(world->vm->not_captured, g_strdup("the TPM's state"));
    made = world_must_plan(world, CKPT_KIND_CREATE, NULL);
    assert_steps(made, "make-overlay write-manifest seal save-nvram snapshot compare-nvram identify identify "
                       "write-manifest catalogue check-chain");
    file = ckpt_checkpoint_find_extra(made->checkpoint, CKPT_FILE_NVRAM);
    assert_string_equal(file->path, plan_find_step(made, CKPT_STEP_SAVE_NVRAM, 0)->file);
    assert_true(g_str_has_suffix(file->path, ".ckpt-abcdef01.nvram"));
    assert_string_equal(made->checkpoint->not_captured->pdata[0], "the TPM's state");
    assert_string_equal(made->warnings->pdata[made->warnings->len - 1], "not captured: the TPM's state");
}

static void
overlays_of_a_block_device_go_into_their_folder(void **state)
{
    g_autoptr(World) world = world_new();
    g_autoptr(CkptPlan) made = NULL;
    CkptLayer *device = world_add_file(world, "/dev/vg0/web", NULL);

    device->block = TRUE;
    device->overlay_folder = g_strdup("/overlays");
    device->overlay_device = 7;
    world_add_disk(world, "vda", "/dev/vg0/web");
    made = world_must_plan(world, CKPT_KIND_CREATE, NULL);
    assert_string_equal(plan_find_step(made, CKPT_STEP_MAKE_OVERLAY, 0)->file,
                        "/overlays/dev-vg0-web.ckpt-abcdef01.qcow2");
    assert_string_equal(plan_find_step(made, CKPT_STEP_MAKE_OVERLAY, 0)->base, "/dev/vg0/web");
    device->fs_available = MIB; /* of the folder's file system */
    assert_refused(world, CKPT_KIND_CREATE, NULL, CKPT_REASON_SPACE_LOW);
}

static void
create_on_a_line_has_the_current_one_as_parent(void **state)
{
    g_autoptr(World) world = world_with_line(2);
    g_autoptr(CkptPlan) made = world_must_plan(world, CKPT_KIND_CREATE, NULL);
    CkptDiskFile *disk =
        g_ptr_array_index(plan_find_step(made, CKPT_STEP_CHECK_CHAIN, 0)->disks, 0);

    assert_string_equal(made->checkpoint->parent_id, "c2");
    assert_int_equal(g_strv_length(disk->chain), 4);
    assert_string_equal(disk->chain[0], "/img/web.ckpt-abcdef01.qcow2");
    assert_string_equal(disk->chain[3], "/img/web.raw");
}

static void
create_names_disks_of_one_name_apart(void **state)
{
    g_autoptr(World) world = world_new();
    g_autoptr(CkptPlan) made = NULL;

    world_add_file(world, "/img/web.raw", NULL);
    world_add_file(world, "/img/web.qcow2", NULL);
    world_add_disk(world, "vda", "/img/web.raw");
    world_add_disk(world, "vdb", "/img/web.qcow2");
    made = world_must_plan(world, CKPT_KIND_CREATE, NULL);
    assert_string_equal(plan_find_step(made, CKPT_STEP_MAKE_OVERLAY, 0)->file,
                        "/img/web.ckpt-abcdef01.qcow2");
    assert_string_equal(plan_find_step(made, CKPT_STEP_MAKE_OVERLAY, 1)->file,
                        "/img/web-vdb.ckpt-abcdef01.qcow2");
}

static void
create_is_refused_beyond_the_depth_limit(void **state)
{
    g_autoptr(World) world = world_with_line(20);

    assert_refused(world, CKPT_KIND_CREATE, NULL, CKPT_REASON_DEPTH_LIMIT);
}

static void
create_is_refused_without_a_writable_disk(void **state)
{
    g_autoptr(World) world = world_new();

    assert_refused(world, CKPT_KIND_CREATE, NULL, CKPT_REASON_VM_STATE_UNSUPPORTED);
}

static void
create_is_refused_below_the_reserve(void **state)
{
    g_autoptr(World) world = world_with_line(1);

    ckpt_vm_find_file(world->vm, "/img/web.ckpt-1.qcow2")->fs_available = 63 * MIB;
    assert_refused(world, CKPT_KIND_CREATE, NULL, CKPT_REASON_SPACE_LOW);
}

static void
create_of_a_vm_that_is_off_is_refused_beside_libvirt_checkpoints(void **state) /* hazard A23 */
{
    g_autoptr(World) world = world_with_line(1);
    g_autoptr(CkptRequest) request = ckpt_request_new(CKPT_KIND_CREATE);
    g_autoptr(CkptPlan) plan = NULL;
    g_autoptr(GError) error = NULL;

    world->vm->backup_points = 2;
    request->asked = request->minimum = CKPT_CONSISTENCY_CRASH;
    plan = ckpt_plan_make(&world->input, request, &error);
    assert_non_null(plan);
    assert_non_null(strstr(plan->warnings->pdata[0], "2 libvirt checkpoints"));
    g_clear_pointer(&plan, ckpt_plan_free);
    world->vm->power = CKPT_POWER_SHUT_OFF;
    plan = ckpt_plan_make(&world->input, request, &error);
    assert_null(plan);
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_LIBVIRT_CHECKPOINT_PRESENT);
}

static void
create_warns_from_three_quarters_of_the_depth_limit_on(void **state) /* hazard A15 */
{
    g_autoptr(World) fourteenth = world_with_line(13);
    g_autoptr(World) fifteenth = world_with_line(14);
    g_autoptr(CkptPlan) before = world_must_plan(fourteenth, CKPT_KIND_CREATE, NULL);
    g_autoptr(CkptPlan) after = world_must_plan(fifteenth, CKPT_KIND_CREATE, NULL);

    assert_int_equal(after->warnings->len, before->warnings->len + 1);
    assert_non_null(
        strstr(after->warnings->pdata[after->warnings->len - 1], "15 of a line of 20"));
}

/* A disk may have lain on others before its first checkpoint: they count for libvirt. */
static void
create_warns_of_a_chain_that_libvirts_do_not_start(void **state) /* hazard A15 */
{
    g_autoptr(World) world = world_with_line(0);
    CkptDisk *disk = g_ptr_array_index(world->vm->disks, 0);
    g_autoptr(CkptPlan) before = NULL;
    g_autoptr(CkptPlan) after = NULL;
    g_autofree char *top = g_strdup("/img/web.raw");

    for (guint i = 1; i < 24; i++) {
        g_autofree char *file = g_strdup_printf("/img/template-%u.qcow2", i);

        world_add_file(world, file, top);
        ckpt_set_str(&top, file);
        world_put_on(world, disk, top);
        if (i == 22)
            before = world_must_plan(world, CKPT_KIND_CREATE, NULL);
    }
    after = world_must_plan(world, CKPT_KIND_CREATE, NULL);
    assert_int_equal(after->warnings->len, before->warnings->len + 1);
    assert_non_null(strstr(after->warnings->pdata[after->warnings->len - 1], "a chain of 25 files"));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(create_seals_before_the_snapshot_and_checks_what_it_catalogued),
        cmocka_unit_test(an_overlay_lets_the_group_in_only_where_it_could_write),
        cmocka_unit_test(create_saves_uefi_variables_just_before_the_snapshot),
        cmocka_unit_test(overlays_of_a_block_device_go_into_their_folder),
        cmocka_unit_test(create_on_a_line_has_the_current_one_as_parent),
        cmocka_unit_test(create_names_disks_of_one_name_apart),
        cmocka_unit_test(create_is_refused_beyond_the_depth_limit),
        cmocka_unit_test(create_is_refused_without_a_writable_disk),
        cmocka_unit_test(create_is_refused_below_the_reserve),
        cmocka_unit_test(create_of_a_vm_that_is_off_is_refused_beside_libvirt_checkpoints),
        cmocka_unit_test(create_warns_from_three_quarters_of_the_depth_limit_on),
        cmocka_unit_test(create_warns_of_a_chain_that_libvirts_do_not_start),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
