/* The planner's restores: their steps, what becomes of the present state, and their own refusals.
 * */
#include "planner_world.h"

static void
restore_defines_before_it_stops_and_keeps_the_present_state(void **state)
{
    g_autoptr(World) world = world_with_line(2);
    g_autoptr(CkptPlan) made = world_must_plan(world, CKPT_KIND_RESTORE, "c1");
    CkptChange *change = plan_last_change(made);

    assert_steps(made, "make-overlay write-manifest define stop seal identify write-manifest start "
                       "check-chain catalogue");
    assert_int_equal(made->decisive, 2);
    assert_false(made->no_return);
    assert_string_equal(plan_find_step(made, CKPT_STEP_MAKE_OVERLAY, 0)->base, "/img/web.raw");
    assert_string_equal(plan_find_step(made, CKPT_STEP_SEAL, 0)->file, "/img/web.ckpt-2.qcow2");
    assert_string_equal(change->current_id, "c1");
    assert_int_equal(change->upserts->len, 2);
    assert_string_equal(made->safety->parent_id, "c2");
    assert_int_equal(made->safety->accessibility, CKPT_ACCESSIBILITY_INTERNAL);
    assert_int_equal(change->gone->len, 0);
}

static void
restore_of_a_vm_that_is_off_stops_nothing(void **state)
{
    g_autoptr(World) world = world_with_line(1);
    g_autoptr(CkptPlan) made = NULL;
    CkptCheckpoint *c1 = g_ptr_array_index(world->checkpoints, 0);

    world->vm->power = CKPT_POWER_SHUT_OFF;
    c1->power = CKPT_POWER_SHUT_OFF;
    made = world_must_plan(world, CKPT_KIND_RESTORE, "c1");
    assert_steps(made, "make-overlay write-manifest define seal identify write-manifest check-chain "
                       "catalogue");
}

static void
restore_that_discards_removes_only_what_the_agent_made(void **state)
{
    g_autoptr(World) world = world_with_line(1);
    g_autoptr(CkptRequest) request = ckpt_request_new(CKPT_KIND_RESTORE);
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptPlan) made = NULL;

    world_add_file(world, "/img/other.raw", NULL);
    world_add_disk(world, "vdb", "/img/other.raw"); /* attached since */
    ckpt_set_str(&request->checkpoint_id, "c1");
    request->discard_present_state = TRUE;
    made = ckpt_plan_make(&world->input, request, &error);
    assert_non_null(made);
    assert_null(made->safety);
    assert_int_equal(plan_last_change(made)->gone->len, 1);
    assert_string_equal(plan_find_step(made, CKPT_STEP_REMOVE_FILE, 0)->file,
                        "/img/web.ckpt-1.qcow2");
    assert_int_equal(made->warnings->len, 1);
}

static void
restore_refuses_a_changed_sealed_file(void **state)
{
    g_autoptr(World) world = world_with_line(2);

    ckpt_vm_find_file(world->vm, "/img/web.raw")->id.mtime_ns++;
    assert_refused(world, CKPT_KIND_RESTORE, "c1", CKPT_REASON_SEALED_FILE_CHANGED);
    /* c2's contents lie in it too */
    assert_refused(world, CKPT_KIND_RESTORE, "c2", CKPT_REASON_SEALED_FILE_CHANGED);
}

static void
restore_refuses_a_file_that_is_written_or_missing(void **state)
{
    g_autoptr(World) world = world_with_line(2);
    CkptLayer *layer = ckpt_vm_find_file(world->vm, "/img/web.raw");

    layer->write_locked = TRUE;
    assert_refused(world, CKPT_KIND_RESTORE, "c1", CKPT_REASON_SEALED_FILE_CHANGED);
    layer->write_locked = FALSE;
    layer->exists = FALSE;
    assert_refused(world, CKPT_KIND_RESTORE, "c1", CKPT_REASON_DISK_FILE_MISSING);
}

static void
restore_checks_etag_and_expected_current(void **state)
{
    g_autoptr(World) world = world_with_line(2);
    g_autoptr(CkptRequest) request = ckpt_request_new(CKPT_KIND_RESTORE);
    g_autoptr(GError) error = NULL;

    ckpt_set_str(&request->checkpoint_id, "c1");
    request->etag = 6;
    assert_null(ckpt_plan_make(&world->input, request, &error));
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_ETAG_MISMATCH);
    g_clear_error(&error);
    request->etag = 7;
    ckpt_set_str(&request->expected_current_checkpoint_id, "c1");
    assert_null(ckpt_plan_make(&world->input, request, &error));
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_CURRENT_CHECKPOINT_MISMATCH);
}

static void
the_present_state_of_a_clone_is_kept_by_a_restore_without_it(void **state)
{
    g_autoptr(World) world = world_with_line(2);
    g_autoptr(CkptRequest) request = ckpt_request_new(CKPT_KIND_RESTORE);
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptPlan) made = NULL;
    CkptDisk *vda = g_ptr_array_index(world->vm->disks, 0);

    /* c3 sealed the clone vdb, while vda was away, and the agent's overlay is on it. */
    world_add_file(world, "/img/clone.qcow2", "/img/web.raw");
    world_add_checkpoint(world, "c3", "c2", "/img/clone.qcow2");
    world_add_file(world, "/img/clone.ckpt-3.qcow2", "/img/clone.qcow2");
    g_ptr_array_add(world->made, g_strdup("/img/clone.ckpt-3.qcow2"));
    world_put_on(world, vda, "/img/clone.ckpt-3.qcow2");
    world_set_current(world, "c3");
    ckpt_set_str(&request->checkpoint_id, "c1");
    request->discard_present_state = TRUE;
    made = world_plan_request(world, request, &error);
    assert_non_null(made);
    for (guint i = 0; i < made->steps->len; i++)
        assert_int_not_equal(((CkptStep *)made->steps->pdata[i])->kind, CKPT_STEP_REMOVE_FILE);
}

static void
a_missing_present_state_can_be_discarded_but_not_kept(void **state)
{
    g_autoptr(World) world = world_with_line(1);
    g_autoptr(CkptRequest) request = ckpt_request_new(CKPT_KIND_RESTORE);
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptPlan) made = NULL;
    CkptLayer *top = ckpt_vm_find_file(world->vm, "/img/web.ckpt-1.qcow2");

    top->exists = FALSE;
    g_clear_pointer(&top->backing, g_free);
    world_put_on(world, g_ptr_array_index(world->vm->disks, 0), top->path);
    ckpt_vm_add_obstacle(world->vm, CKPT_REASON_DISK_FILE_MISSING, "vda", top->path, "missing");
    assert_refused(world, CKPT_KIND_RESTORE, "c1", CKPT_REASON_DISK_FILE_MISSING);
    ckpt_set_str(&request->checkpoint_id, "c1");
    request->discard_present_state = TRUE;
    made = world_plan_request(world, request, &error);
    assert_non_null(made);
    assert_int_equal(plan_last_change(made)->gone->len, 0);
    assert_non_null(strstr(made->warnings->pdata[0], "is missing"));
}

static void
restore_goes_from_every_power_state_to_every_other(void **state)
{
    static const CkptPower from[] = {CKPT_POWER_RUNNING, CKPT_POWER_PAUSED, CKPT_POWER_SHUT_OFF,
                                     CKPT_POWER_CRASHED};
    static const CkptPower to[] = {CKPT_POWER_UNKNOWN, CKPT_POWER_RUNNING, CKPT_POWER_PAUSED,
                                   CKPT_POWER_SHUT_OFF};

    for (guint i = 0; i < G_N_ELEMENTS(from); i++)
        for (guint k = 0; k < G_N_ELEMENTS(to); k++) {
            g_autoptr(World) world = world_with_line(2);
            g_autoptr(CkptRequest) request = ckpt_request_new(CKPT_KIND_RESTORE);
            g_autoptr(GError) error = NULL;
            g_autoptr(CkptPlan) made = NULL;
            g_autofree char *steps = NULL;

            world->vm->power = from[i];
            if (from[i] == CKPT_POWER_CRASHED) /* what stands in the way of all else */
                ckpt_vm_add_obstacle(world->vm, CKPT_REASON_VM_STATE_UNSUPPORTED, NULL, NULL, "crashed");
            ckpt_set_str(&request->checkpoint_id, "c1");
            request->restore_power = to[k];
            made = world_plan_request(world, request, &error);
            assert_non_null(made);
            steps = plan_names(made);
            assert_int_equal(strstr(steps, " stop") != NULL, from[i] != CKPT_POWER_SHUT_OFF);
            assert_int_equal(strstr(steps, " start") != NULL, to[k] != CKPT_POWER_SHUT_OFF);
            /* as captured is running, here */
            if (to[k] != CKPT_POWER_SHUT_OFF)
                assert_int_equal(plan_find_step(made, CKPT_STEP_START, 0)->power,
                                 to[k] == CKPT_POWER_PAUSED ? CKPT_POWER_PAUSED
                                                            : CKPT_POWER_RUNNING);
        }
}

static void
only_a_crashed_vm_is_restored_from_a_state_that_is_not_supported(void **state)
{
    g_autoptr(World) crashed = world_with_line(2);
    g_autoptr(World) unknown = world_with_line(2);

    crashed->vm->power = CKPT_POWER_CRASHED;
    unknown->vm->power = CKPT_POWER_UNKNOWN;
    ckpt_vm_add_obstacle(crashed->vm, CKPT_REASON_VM_STATE_UNSUPPORTED, NULL, NULL, "crashed");
    ckpt_vm_add_obstacle(unknown->vm, CKPT_REASON_VM_STATE_UNSUPPORTED, NULL, NULL, "unknown");
    assert_refused(crashed, CKPT_KIND_CREATE, NULL, CKPT_REASON_VM_STATE_UNSUPPORTED);
    assert_refused(crashed, CKPT_KIND_DELETE, "c1", CKPT_REASON_VM_STATE_UNSUPPORTED);
    assert_refused(unknown, CKPT_KIND_RESTORE, "c1", CKPT_REASON_VM_STATE_UNSUPPORTED);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(restore_defines_before_it_stops_and_keeps_the_present_state),
        cmocka_unit_test(restore_of_a_vm_that_is_off_stops_nothing),
        cmocka_unit_test(restore_that_discards_removes_only_what_the_agent_made),
        cmocka_unit_test(restore_refuses_a_changed_sealed_file),
        cmocka_unit_test(restore_refuses_a_file_that_is_written_or_missing),
        cmocka_unit_test(restore_checks_etag_and_expected_current),
        cmocka_unit_test(the_present_state_of_a_clone_is_kept_by_a_restore_without_it),
        cmocka_unit_test(a_missing_present_state_can_be_discarded_but_not_kept),
        cmocka_unit_test(restore_goes_from_every_power_state_to_every_other),
        cmocka_unit_test(only_a_crashed_vm_is_restored_from_a_state_that_is_not_supported),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
