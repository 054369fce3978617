/* The plans of a VM whose hypervisor keeps the checkpoints, on views put together by hand. */
#include "cmocka_all.h"

#include "agent/core/planner.h"

#define NEW_ID "abcdef01-2222-4222-8222-222222222222"

typedef struct {
    CkptVm *vm;
    GPtrArray *checkpoints, *made;
    CkptLimits limits;
    CkptPlanInput input;
} World;

static World *
world_new(void)
{
    World *world = g_new0(World, 1);

    world->vm = ckpt_vm_new();
    ckpt_set_str(&world->vm->id, "11111111-1111-4111-8111-111111111111");
    ckpt_set_str(&world->vm->name, "web-01");
    world->vm->mechanism = CKPT_MECHANISM_NATIVE;
    world->vm->power = CKPT_POWER_RUNNING;
    world->vm->definition = g_strdup("<domain/>");
    world->vm->live.available = world->vm->memory.available = TRUE;
    world->checkpoints = g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_checkpoint_free);
    world->made = g_ptr_array_new_with_free_func(g_free);
    ckpt_limits_init(&world->limits);
    world->input = (CkptPlanInput){.vm = world->vm,
                                   .checkpoints = world->checkpoints,
                                   .made = world->made,
                                   .limits = &world->limits,
                                   .now_us = 1000000,
                                   .new_id = NEW_ID};
    return world;
}

static void
world_free(World *world)
{
    ckpt_vm_free(world->vm);
    g_ptr_array_unref(world->checkpoints);
    g_ptr_array_unref(world->made);
    g_free(world);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(World, world_free)

static CkptSnapshot *
add_snapshot(World *world, const char *name, const char *parent, CkptPower power)
{
    CkptSnapshot *snapshot = g_new0(CkptSnapshot, 1);

    snapshot->name = g_strdup(name);
    snapshot->parent = g_strdup(parent);
    snapshot->power = power;
    g_ptr_array_add(world->vm->snapshots, snapshot);
    return snapshot;
}

/* A row of the catalogue, and the hypervisor's snapshot of it. */
static CkptCheckpoint *
add_checkpoint(World *world, const char *id, const char *parent, CkptPower power)
{
    CkptCheckpoint *checkpoint = ckpt_checkpoint_new();

    ckpt_set_str(&checkpoint->id, id);
    ckpt_set_str(&checkpoint->name, id);
    ckpt_set_str(&checkpoint->vm_id, world->vm->id);
    ckpt_set_str(&checkpoint->vm_name, world->vm->name);
    ckpt_set_str(&checkpoint->parent_id, parent);
    checkpoint->state = CKPT_STATE_READY;
    checkpoint->mechanism = CKPT_MECHANISM_NATIVE;
    checkpoint->power = power;
    checkpoint->autostart = TRUE;
    g_ptr_array_add(world->checkpoints, checkpoint);
    add_snapshot(world, id, parent, power);
    return checkpoint;
}

static void
set_current(World *world, const char *name)
{
    for (guint i = 0; i < world->vm->snapshots->len; i++) {
        CkptSnapshot *snapshot = g_ptr_array_index(world->vm->snapshots, i);

        snapshot->current = g_str_equal(snapshot->name, name);
    }
    world->input.current_id = name;
}

static CkptRequest *
request_new(CkptKind kind, const char *checkpoint_id)
{
    CkptRequest *request = ckpt_request_new(kind);

    ckpt_set_str(&request->identity, "spiffe://test/operator");
    ckpt_set_str(&request->checkpoint_id, checkpoint_id);
    request->asked = CKPT_CONSISTENCY_APPLICATION;
    request->minimum = CKPT_CONSISTENCY_CRASH;
    return request;
}

static CkptPlan *
plan(World *world, CkptKind kind, const char *checkpoint_id)
{
    g_autoptr(CkptRequest) request = request_new(kind, checkpoint_id);
    g_autoptr(GError) error = NULL;
    CkptPlan *made = ckpt_plan_make(&world->input, request, &error);

    if (!made)
        fail_msg("%s", error->message);
    return made;
}

static CkptStep *
step_at(const CkptPlan *made, guint index)
{
    assert_true(index < made->steps->len);
    return g_ptr_array_index(made->steps, index);
}

static void
assert_steps(const CkptPlan *made, const char *wanted)
{
    g_autoptr(GString) text = g_string_new(NULL);

    for (guint i = 0; i < made->steps->len; i++)
        g_string_append_printf(text, "%s%s", i ? " " : "", ckpt_step_name(step_at(made, i)->kind));
    assert_string_equal(text->str, wanted);
}

static void
assert_refused(World *world, CkptRequest *request, CkptReason reason, const char *word)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptPlan) made = ckpt_plan_make(&world->input, request, &error);

    ckpt_request_free(request);
    assert_null(made);
    assert_int_equal(ckpt_error_reason(error), reason);
    assert_non_null(strstr(error->message, word));
}

static void
create_captures_memory_of_a_running_vm(void **state)
{
    g_autoptr(World) world = world_new();
    g_autoptr(CkptPlan) made = plan(world, CKPT_KIND_CREATE, NULL);

    assert_steps(made, "native-create catalogue");
    assert_int_equal(made->decisive, 0);
    assert_false(made->no_return);
    assert_string_equal(step_at(made, 0)->checkpoint_id, NEW_ID);
    assert_int_equal(step_at(made, 0)->power, CKPT_POWER_RUNNING);
    assert_int_equal(made->checkpoint->reached, CKPT_CONSISTENCY_MEMORY);
    assert_int_equal(made->checkpoint->mechanism, CKPT_MECHANISM_NATIVE);
    assert_int_equal(made->checkpoint->pause_us, -1);
    assert_string_equal(made->checkpoint->definition, "<domain/>");
}

static void
create_of_a_shut_off_vm_holds_no_memory(void **state)
{
    g_autoptr(World) world = world_new();
    g_autoptr(CkptPlan) made = NULL;
    CkptRequest *request = request_new(CKPT_KIND_CREATE, NULL);

    world->vm->power = CKPT_POWER_SHUT_OFF;
    made = plan(world, CKPT_KIND_CREATE, NULL);
    assert_int_equal(made->checkpoint->reached, CKPT_CONSISTENCY_APPLICATION);
    request->minimum = CKPT_CONSISTENCY_MEMORY;
    assert_refused(world, request, CKPT_REASON_CONSISTENCY_UNAVAILABLE, "shut off");
}

static void
a_platform_without_memory_reaches_crash(void **state)
{
    g_autoptr(World) world = world_new();
    g_autoptr(CkptPlan) made = NULL;
    CkptRequest *request = request_new(CKPT_KIND_CREATE, NULL);

    world->vm->memory.available = FALSE;
    made = plan(world, CKPT_KIND_CREATE, NULL);
    assert_int_equal(made->checkpoint->reached, CKPT_CONSISTENCY_CRASH);
    request->minimum = CKPT_CONSISTENCY_APPLICATION;
    assert_refused(world, request, CKPT_REASON_CONSISTENCY_UNAVAILABLE, "shut the VM down");
}

static void
a_platform_that_is_not_live_refuses_a_running_vm(void **state)
{
    g_autoptr(World) world = world_new();
    g_autoptr(CkptPlan) made = NULL;

    add_checkpoint(world, "c1", NULL, CKPT_POWER_SHUT_OFF);
    set_current(world, "c1");
    world->vm->live.available = FALSE;
    world->vm->live.reason = g_strdup("virsh shutdown web-01");
    assert_refused(world, request_new(CKPT_KIND_CREATE, NULL), CKPT_REASON_SHUT_DOWN_REQUIRED,
                   "virsh shutdown web-01");
    assert_refused(world, request_new(CKPT_KIND_RESTORE, "c1"), CKPT_REASON_SHUT_DOWN_REQUIRED,
                   "virsh shutdown web-01");
    made = plan(world, CKPT_KIND_DELETE, "c1");
    world->vm->power = CKPT_POWER_SHUT_OFF;
    g_clear_pointer(&made, ckpt_plan_free);
    made = plan(world, CKPT_KIND_CREATE, NULL);
}

/* Somebody reverted to, or made, snapshots beside the agent. */
static void
the_parent_is_the_nearest_that_the_catalogue_knows(void **state)
{
    g_autoptr(World) world = world_new();
    g_autoptr(CkptPlan) made = NULL;

    add_checkpoint(world, "c1", NULL, CKPT_POWER_RUNNING);
    add_checkpoint(world, "c2", "c1", CKPT_POWER_RUNNING);
    add_snapshot(world, "by-virsh", "c1", CKPT_POWER_RUNNING);
    set_current(world, "by-virsh");
    world->input.current_id = "c2";
    made = plan(world, CKPT_KIND_CREATE, NULL);
    assert_string_equal(made->checkpoint->parent_id, "c1");
}

static void
restore_keeps_the_present_state(void **state)
{
    g_autoptr(World) world = world_new();
    g_autoptr(CkptPlan) made = NULL;
    CkptStep *revert;

    add_checkpoint(world, "c1", NULL, CKPT_POWER_RUNNING);
    add_checkpoint(world, "c2", "c1", CKPT_POWER_RUNNING);
    set_current(world, "c2");
    made = plan(world, CKPT_KIND_RESTORE, "c1");
    assert_steps(made, "native-create native-revert catalogue");
    assert_int_equal(made->decisive, 1);
    revert = step_at(made, 1);
    assert_string_equal(revert->checkpoint_id, "c1");
    assert_string_equal(revert->base, NEW_ID);
    assert_int_equal(revert->power, CKPT_POWER_RUNNING);
    assert_true(revert->autostart);
    assert_string_equal(made->safety_id, NEW_ID);
    assert_string_equal(made->safety->parent_id, "c2");
    assert_int_equal(made->safety->reached, CKPT_CONSISTENCY_MEMORY);
    assert_string_equal(step_at(made, 2)->change->current_id, "c1");
    assert_int_equal(step_at(made, 2)->change->upserts->len, 2);
}

/* Its snapshot is the way back of a restore that fails; it goes when the restore is done. */
static void
a_discarded_present_state_is_deleted_last(void **state)
{
    g_autoptr(World) world = world_new();
    g_autoptr(CkptRequest) request = request_new(CKPT_KIND_RESTORE, "c1");
    g_autoptr(CkptPlan) made = NULL;

    add_checkpoint(world, "c1", NULL, CKPT_POWER_RUNNING);
    set_current(world, "c1");
    request->discard_present_state = TRUE;
    made = ckpt_plan_make(&world->input, request, NULL);
    assert_steps(made, "native-create native-revert catalogue native-delete");
    assert_string_equal(step_at(made, 3)->checkpoint_id, NEW_ID);
    assert_null(made->safety);
    assert_int_equal(step_at(made, 2)->change->upserts->len, 1);
}

static void
restore_ends_in_the_power_state_asked_for(void **state)
{
    static const struct {
        CkptPower captured, asked;
        const char *steps;
        CkptPower reverted;
    } cases[] = {
        {CKPT_POWER_RUNNING, 0, "native-create native-revert catalogue", CKPT_POWER_RUNNING},
        {CKPT_POWER_PAUSED, 0, "native-create native-revert catalogue", CKPT_POWER_PAUSED},
        {CKPT_POWER_RUNNING, CKPT_POWER_PAUSED, "native-create native-revert catalogue",
         CKPT_POWER_PAUSED},
        {CKPT_POWER_PAUSED, CKPT_POWER_RUNNING, "native-create native-revert catalogue",
         CKPT_POWER_RUNNING},
        /* Not let run on the way. */
        {CKPT_POWER_RUNNING, CKPT_POWER_SHUT_OFF, "native-create native-revert stop catalogue",
         CKPT_POWER_PAUSED},
        {CKPT_POWER_SHUT_OFF, 0, "native-create native-revert catalogue", CKPT_POWER_SHUT_OFF},
        {CKPT_POWER_SHUT_OFF, CKPT_POWER_RUNNING, "native-create native-revert start catalogue",
         CKPT_POWER_SHUT_OFF},
        {CKPT_POWER_SHUT_OFF, CKPT_POWER_PAUSED, "native-create native-revert start catalogue",
         CKPT_POWER_SHUT_OFF},
    };

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(World) world = world_new();
        g_autoptr(CkptRequest) request = request_new(CKPT_KIND_RESTORE, "c1");
        g_autoptr(CkptPlan) made = NULL;

        add_checkpoint(world, "c1", NULL, cases[i].captured);
        request->restore_power = cases[i].asked;
        made = ckpt_plan_make(&world->input, request, NULL);
        assert_non_null(made);
        assert_steps(made, cases[i].steps);
        assert_int_equal(step_at(made, 1)->power, cases[i].reverted);
        if (step_at(made, 2)->kind == CKPT_STEP_START)
            assert_int_equal(step_at(made, 2)->power, cases[i].asked);
    }
}

static void
restore_refuses_what_the_hypervisor_no_longer_has(void **state)
{
    g_autoptr(World) world = world_new();
    CkptRequest *request = request_new(CKPT_KIND_RESTORE, "c1");

    add_checkpoint(world, "c1", NULL, CKPT_POWER_RUNNING);
    request->expected_current_checkpoint_id = g_strdup("c9");
    assert_refused(world, request, CKPT_REASON_CURRENT_CHECKPOINT_MISMATCH, "(none)");
    g_ptr_array_set_size(world->vm->snapshots, 0);
    assert_refused(world, request_new(CKPT_KIND_RESTORE, "c1"),
                   CKPT_REASON_CHECKPOINT_NOT_ENABLED, "no longer has its snapshot c1");
    /* A snapshot that the catalogue does not know is nobody's to revert to, or to delete. */
    add_snapshot(world, "by-virsh", NULL, CKPT_POWER_RUNNING);
    assert_refused(world, request_new(CKPT_KIND_RESTORE, "by-virsh"),
                   CKPT_REASON_CHECKPOINT_NOT_FOUND, "by-virsh");
    assert_refused(world, request_new(CKPT_KIND_DELETE, "by-virsh"),
                   CKPT_REASON_CHECKPOINT_NOT_FOUND, "by-virsh");
}

static void
a_snapshot_that_was_replaced_is_not_the_checkpoint(void **state)
{
    g_autoptr(World) world = world_new();
    CkptCheckpoint *checkpoint = add_checkpoint(world, "c1", NULL, CKPT_POWER_RUNNING);
    g_autoptr(GError) error = NULL;

    assert_true(ckpt_plan_verify(&world->input, checkpoint, NULL));
    checkpoint->power = CKPT_POWER_SHUT_OFF;
    assert_false(ckpt_plan_verify(&world->input, checkpoint, &error));
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_CHECKPOINT_NOT_ENABLED);
}

/* The agent was given another hypervisor with the same state folder. */
static void
checkpoints_of_another_driver_are_only_listed(void **state)
{
    g_autoptr(World) world = world_new();
    CkptCheckpoint *checkpoint = add_checkpoint(world, "c1", NULL, CKPT_POWER_RUNNING);

    checkpoint->mechanism = CKPT_MECHANISM_OVERLAY;
    assert_false(ckpt_plan_verify(&world->input, checkpoint, NULL));
    assert_refused(world, request_new(CKPT_KIND_DELETE, "c1"), CKPT_REASON_NOT_IMPLEMENTED, "c1");
    checkpoint->mechanism = CKPT_MECHANISM_NATIVE;
    world->vm->mechanism = CKPT_MECHANISM_OVERLAY;
    assert_false(ckpt_plan_verify(&world->input, checkpoint, NULL));
    assert_refused(world, request_new(CKPT_KIND_RESTORE, "c1"), CKPT_REASON_NOT_IMPLEMENTED, "c1");
}

static void
delete_moves_children_and_present_state_up(void **state)
{
    g_autoptr(World) world = world_new();
    g_autoptr(CkptPlan) made = NULL;
    CkptChange *change;

    add_checkpoint(world, "c1", NULL, CKPT_POWER_RUNNING);
    add_checkpoint(world, "c2", "c1", CKPT_POWER_RUNNING);
    add_checkpoint(world, "c3", "c2", CKPT_POWER_RUNNING);
    add_checkpoint(world, "c4", "c2", CKPT_POWER_RUNNING);
    set_current(world, "c2");
    made = plan(world, CKPT_KIND_DELETE, "c2"); /* a branch point, and where the VM is */
    assert_steps(made, "native-delete catalogue");
    assert_int_equal(made->decisive, 0);
    assert_true(made->no_return);
    assert_string_equal(step_at(made, 0)->checkpoint_id, "c2");
    change = step_at(made, 1)->change;
    assert_int_equal(change->upserts->len, 2);
    for (guint i = 0; i < 2; i++)
        assert_string_equal(((CkptCheckpoint *)change->upserts->pdata[i])->parent_id, "c1");
    assert_string_equal(change->removes->pdata[0], "c2");
    assert_true(change->set_current);
    assert_string_equal(change->current_id, "c1");
}

static void
delete_of_a_lost_one_takes_its_row_away(void **state)
{
    g_autoptr(World) world = world_new();
    g_autoptr(CkptPlan) made = NULL;

    add_checkpoint(world, "c1", NULL, CKPT_POWER_RUNNING);
    ckpt_set_str(&add_checkpoint(world, "c2", "c1", CKPT_POWER_RUNNING)->hold, "for the auditors");
    assert_refused(world, request_new(CKPT_KIND_DELETE, "c2"), CKPT_REASON_CHECKPOINT_HELD,
                   "auditors");
    g_ptr_array_set_size(world->vm->snapshots, 0);
    made = plan(world, CKPT_KIND_DELETE, "c1");
    assert_steps(made, "catalogue");
    assert_int_equal(made->warnings->len, 1);
    assert_null(((CkptCheckpoint *)step_at(made, 0)->change->upserts->pdata[0])->parent_id);
}

static void
limits_and_obstacles_hold_too(void **state)
{
    g_autoptr(World) world = world_new();

    add_checkpoint(world, "c1", NULL, CKPT_POWER_RUNNING);
    set_current(world, "c1");
    world->limits.max_depth = 1;
    assert_refused(world, request_new(CKPT_KIND_CREATE, NULL), CKPT_REASON_DEPTH_LIMIT, "delete");
    assert_refused(world, request_new(CKPT_KIND_RESTORE, "c1"), CKPT_REASON_DEPTH_LIMIT, "safety");
    ckpt_vm_add_obstacle(world->vm, CKPT_REASON_MANAGED_SAVE_PRESENT, NULL, NULL, "saved");
    assert_refused(world, request_new(CKPT_KIND_DELETE, "c1"), CKPT_REASON_MANAGED_SAVE_PRESENT,
                   "saved");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(create_captures_memory_of_a_running_vm),
        cmocka_unit_test(create_of_a_shut_off_vm_holds_no_memory),
        cmocka_unit_test(a_platform_without_memory_reaches_crash),
        cmocka_unit_test(a_platform_that_is_not_live_refuses_a_running_vm),
        cmocka_unit_test(the_parent_is_the_nearest_that_the_catalogue_knows),
        cmocka_unit_test(restore_keeps_the_present_state),
        cmocka_unit_test(a_discarded_present_state_is_deleted_last),
        cmocka_unit_test(restore_ends_in_the_power_state_asked_for),
        cmocka_unit_test(restore_refuses_what_the_hypervisor_no_longer_has),
        cmocka_unit_test(a_snapshot_that_was_replaced_is_not_the_checkpoint),
        cmocka_unit_test(checkpoints_of_another_driver_are_only_listed),
        cmocka_unit_test(delete_moves_children_and_present_state_up),
        cmocka_unit_test(delete_of_a_lost_one_takes_its_row_away),
        cmocka_unit_test(limits_and_obstacles_hold_too),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
