/* The plans of a VM whose hypervisor keeps the checkpoints: one snapshot of its own for each, named by
 * the checkpoint's ID. Merging, branches and files are the hypervisor's business; ours are the
 * catalogue, and that nothing is reverted to or deleted but what the catalogue knows. */
#include "agent/core/graph.h"
#include "agent/core/plan_parts.h"

static gboolean
is_active(const CkptVm *vm)
{
    return vm->power != CKPT_POWER_SHUT_OFF;
}

/* The checkpoint that the present state descends from: libvirt's current snapshot, or the nearest of its
 * ancestors that is ours. Somebody may have made or reverted to a snapshot beside the agent. */
static const char *
present_checkpoint(const CkptPlanInput *input)
{
    const CkptSnapshot *snapshot = NULL;
    const CkptVm *vm = input->vm;

    for (guint i = 0; i < vm->snapshots->len && !snapshot; i++) {
        const CkptSnapshot *candidate = g_ptr_array_index(vm->snapshots, i);

        if (candidate->current)
            snapshot = candidate;
    }
    for (guint i = 0; snapshot && i <= vm->snapshots->len; i++) {
        if (ckpt_graph_find(input->checkpoints, snapshot->name))
            return snapshot->name;
        snapshot = ckpt_vm_find_snapshot(vm, snapshot->parent);
    }
    return NULL;
}

gboolean
ckpt_plan_verify_native(const CkptPlanInput *input, const CkptCheckpoint *checkpoint,
                        GError **error)
{
    const CkptSnapshot *snapshot = ckpt_vm_find_snapshot(input->vm, checkpoint->id);

    if (checkpoint->mechanism != input->vm->mechanism)
        ckpt_error_set(error, CKPT_REASON_CHECKPOINT_NOT_ENABLED,
                       "it was made through another driver than that of the present hypervisor: set "
                       "the agent's hypervisor back to the one it was made on");
    else if (!snapshot)
        ckpt_error_set(error, CKPT_REASON_CHECKPOINT_NOT_ENABLED,
                       "the hypervisor no longer has its snapshot %s: somebody deleted it there, or "
                       "the hypervisor does not keep snapshots over a restart",
                       checkpoint->id);
    else if ((snapshot->power == CKPT_POWER_SHUT_OFF) !=
             (checkpoint->power == CKPT_POWER_SHUT_OFF))
        ckpt_error_set(error, CKPT_REASON_CHECKPOINT_NOT_ENABLED,
                       "the hypervisor's snapshot %s is of a VM that was %s, the checkpoint of one "
                       "that was %s: somebody replaced it there",
                       checkpoint->id, ckpt_power_name(snapshot->power),
                       ckpt_power_name(checkpoint->power));
    else
        return TRUE;
    return FALSE;
}

/* Where a running VM cannot be captured, both create and restore (which captures the present state
 * first) need it shut off. */
static gboolean
check_live(const CkptPlanInput *input, GError **error)
{
    const CkptVm *vm = input->vm;

    if (!is_active(vm) || vm->live.available)
        return TRUE;
    ckpt_error_set(error, CKPT_REASON_SHUT_DOWN_REQUIRED, "VM %s is %s, and %s", vm->name,
                   ckpt_power_name(vm->power), vm->live.reason);
    return FALSE;
}

static gboolean
check_consistency(const CkptPlanInput *input, const CkptRequest *request,
                  const CkptCheckpoint *checkpoint, GError **error)
{
    if (checkpoint->reached >= request->minimum)
        return TRUE;
    if (is_active(input->vm))
        ckpt_error_set(error, CKPT_REASON_CONSISTENCY_UNAVAILABLE,
                       "this hypervisor's snapshots of a running VM hold its disks as after a power "
                       "cut: minimum_consistency asks for more, shut the VM down for APPLICATION");
    else
        ckpt_error_set(error, CKPT_REASON_CONSISTENCY_UNAVAILABLE,
                       "the VM is shut off and has no memory to capture: minimum_consistency MEMORY "
                       "cannot be met");
    ckpt_error_add(error, CKPT_META_FIELD, "minimum_consistency");
    return FALSE;
}

/* What the hypervisor's snapshot of the present state is: with memory, where it can. */
static void
set_captured(const CkptPlanInput *input, CkptCheckpoint *checkpoint)
{
    const CkptVm *vm = input->vm;

    ckpt_set_str(&checkpoint->parent_id, present_checkpoint(input));
    if (is_active(vm) && vm->memory.available) {
        checkpoint->reached = CKPT_CONSISTENCY_MEMORY;
        checkpoint->pause_us = -1; /* only the hypervisor knows */
    }
}

static void
add_native_create(const CkptPlanInput *input, CkptPlan *plan, const char *name,
                  const char *description)
{
    CkptStep *step = ckpt_plan_add(plan, CKPT_STEP_NATIVE_CREATE);

    step->checkpoint_id = g_strdup(input->new_id);
    step->power = input->vm->power;
    step->text = *description ? g_strdup_printf("%s\n%s", name, description) : g_strdup(name);
}

static CkptPlan *
plan_create(const CkptPlanInput *input, const CkptRequest *request, GError **error)
{
    g_autoptr(CkptPlan) plan = ckpt_plan_new(CKPT_KIND_CREATE);
    CkptCheckpoint *parent = ckpt_graph_find(input->checkpoints, present_checkpoint(input));
    CkptChange *change;

    if (!check_live(input, error) || !ckpt_plan_check_depth(input, parent, error))
        return NULL;
    ckpt_plan_set_checkpoint(plan, ckpt_plan_new_checkpoint(input, request));
    set_captured(input, plan->checkpoint);
    if (!check_consistency(input, request, plan->checkpoint, error))
        return NULL;
    plan->decisive = 0;
    add_native_create(input, plan, plan->checkpoint->name, plan->checkpoint->description);
    change = ckpt_change_new();
    g_ptr_array_add(change->upserts, ckpt_checkpoint_copy(plan->checkpoint));
    change->set_current = TRUE;
    change->current_id = g_strdup(plan->checkpoint->id);
    ckpt_plan_add_catalogue(plan, change);
    return g_steal_pointer(&plan);
}

/* ---- Restore ---- */

static gboolean
check_restore(const CkptPlanInput *input, const CkptRequest *request, const CkptCheckpoint *target,
              GError **error)
{
    const char *expected = request->expected_current_checkpoint_id;
    const char *present = present_checkpoint(input);

    if (expected && g_strcmp0(expected, present) != 0) {
        ckpt_error_set(error, CKPT_REASON_CURRENT_CHECKPOINT_MISMATCH,
                       "the VM is at checkpoint %s, not at %s", present ? present : "(none)",
                       expected);
        return FALSE;
    }
    if (!ckpt_plan_verify_native(input, target, error)) {
        g_prefix_error(error, "checkpoint %s (%s) cannot be restored: ", target->name, target->id);
        ckpt_error_add(error, CKPT_META_CHECKPOINT, target->id);
        return FALSE;
    }
    return check_live(input, error);
}

/* The present state is always captured: it is also the way back when the restore fails. Where it is to be
 * discarded, its snapshot goes as the last step. */
static gboolean
keep_present_state(const CkptPlanInput *input, CkptPlan *plan, const CkptRequest *request,
                   const CkptCheckpoint *target, GError **error)
{
    CkptCheckpoint *parent = ckpt_graph_find(input->checkpoints, present_checkpoint(input));

    if (request->discard_present_state) {
        add_native_create(input, plan, "The state that a restore replaces; soon to be deleted", "");
        return TRUE;
    }
    if (!ckpt_plan_check_depth(input, parent, error)) {
        g_prefix_error(error, "the present state cannot be kept as a safety checkpoint: ");
        return FALSE;
    }
    plan->safety = ckpt_plan_new_safety(input, request, target);
    set_captured(input, plan->safety);
    ckpt_set_str(&plan->safety_id, plan->safety->id);
    add_native_create(input, plan, plan->safety->name, plan->safety->description);
    return TRUE;
}

/* The revert, and what brings the VM from the captured power state to the one asked for. A captured
 * running VM that is to end shut off is not let run meanwhile. */
static void
add_revert(const CkptPlanInput *input, CkptPlan *plan, const CkptCheckpoint *target,
           CkptPower asked)
{
    const gboolean has_memory = target->power != CKPT_POWER_SHUT_OFF;
    CkptStep *step = ckpt_plan_add(plan, CKPT_STEP_NATIVE_REVERT);

    step->checkpoint_id = g_strdup(target->id);
    step->base = g_strdup(input->new_id);
    step->autostart = target->autostart;
    step->autostart_before = input->vm->autostart;
    if (!has_memory) {
        step->power = CKPT_POWER_SHUT_OFF;
        if (asked != CKPT_POWER_SHUT_OFF)
            ckpt_plan_add(plan, CKPT_STEP_START)->power = asked;
        if (asked == CKPT_POWER_PAUSED)
            ckpt_plan_warn(plan, "this hypervisor starts no VM paused: it runs for a moment before it is");
        return;
    }
    step->power = asked == CKPT_POWER_RUNNING ? CKPT_POWER_RUNNING : CKPT_POWER_PAUSED;
    /* Nothing is to be started again by the STOP's undo: going back to `base` does that. */
    if (asked == CKPT_POWER_SHUT_OFF)
        ckpt_plan_add(plan, CKPT_STEP_STOP)->power = CKPT_POWER_SHUT_OFF;
}

static CkptPower
power_after(const CkptRequest *request, const CkptCheckpoint *target)
{
    CkptPower power = request->restore_power ? request->restore_power : target->power;

    return power == CKPT_POWER_SHUT_OFF || power == CKPT_POWER_PAUSED ? power : CKPT_POWER_RUNNING;
}

static void
add_restored(CkptPlan *plan, const CkptPlanInput *input, const CkptCheckpoint *target)
{
    CkptChange *change = ckpt_change_new();
    CkptCheckpoint *restored = ckpt_checkpoint_copy(target);

    restored->modified_us = input->now_us;
    ckpt_set_str(&restored->most_recent_task, ckpt_kind_task(CKPT_KIND_RESTORE));
    g_clear_pointer(&restored->disabled_reason, g_free);
    ckpt_plan_set_checkpoint(plan, restored);
    if (plan->safety)
        g_ptr_array_add(change->upserts, ckpt_checkpoint_copy(plan->safety));
    g_ptr_array_add(change->upserts, ckpt_checkpoint_copy(restored));
    change->set_current = TRUE;
    change->current_id = g_strdup(target->id);
    ckpt_plan_add_catalogue(plan, change);
}

static CkptPlan *
plan_restore(const CkptPlanInput *input, const CkptRequest *request, GError **error)
{
    g_autoptr(CkptPlan) plan = ckpt_plan_new(CKPT_KIND_RESTORE);
    CkptCheckpoint *target = ckpt_plan_find_target(input, request, error);

    if (!target || !check_restore(input, request, target, error) ||
        !keep_present_state(input, plan, request, target, error))
        return NULL;
    if (!g_str_equal(target->vm_name, input->vm->name))
        ckpt_plan_warn(plan, "the hypervisor's snapshot holds the VM's name, too: it is called %s again",
                       target->vm_name);
    plan->decisive = plan->steps->len;
    add_revert(input, plan, target, power_after(request, target));
    add_restored(plan, input, target);
    if (request->discard_present_state)
        ckpt_plan_add(plan, CKPT_STEP_NATIVE_DELETE)->checkpoint_id = g_strdup(input->new_id);
    return g_steal_pointer(&plan);
}

/* ---- Delete ---- */

/* Children move up to the deleted one's parent, as the hypervisor's own do, and so does the present
 * state. */
static CkptChange *
removal_of(const CkptPlanInput *input, const CkptCheckpoint *target)
{
    CkptChange *change = ckpt_change_new();

    for (guint i = 0; i < input->checkpoints->len; i++) {
        const CkptCheckpoint *child = g_ptr_array_index(input->checkpoints, i);
        CkptCheckpoint *moved;

        if (g_strcmp0(child->parent_id, target->id) != 0)
            continue;
        moved = ckpt_checkpoint_copy(child);
        ckpt_set_str(&moved->parent_id, target->parent_id);
        g_ptr_array_add(change->upserts, moved);
    }
    if (g_strcmp0(input->current_id, target->id) == 0) {
        change->set_current = TRUE;
        change->current_id = g_strdup(target->parent_id);
    }
    g_ptr_array_add(change->removes, g_strdup(target->id));
    return change;
}

/* One whose snapshot the hypervisor no longer has is only taken out of the catalogue. */
static CkptPlan *
plan_delete(const CkptPlanInput *input, const CkptRequest *request, GError **error)
{
    g_autoptr(CkptPlan) plan = ckpt_plan_new(CKPT_KIND_DELETE);
    CkptCheckpoint *target = ckpt_plan_find_target(input, request, error);

    if (!target)
        return NULL;
    if (target->hold && *target->hold) {
        ckpt_error_set(error, CKPT_REASON_CHECKPOINT_HELD, "checkpoint %s (%s) is held: %s",
                       target->name, target->id, target->hold);
        return NULL;
    }
    plan->decisive = 0;
    plan->no_return = TRUE;
    ckpt_plan_set_checkpoint(plan, ckpt_checkpoint_copy(target));
    if (ckpt_vm_find_snapshot(input->vm, target->id))
        ckpt_plan_add(plan, CKPT_STEP_NATIVE_DELETE)->checkpoint_id = g_strdup(target->id);
    else
        ckpt_plan_warn(plan, "the hypervisor no longer had the snapshot of checkpoint %s: only its entry "
                             "in the catalogue was removed", target->id);
    ckpt_plan_add_catalogue(plan, removal_of(input, target));
    return g_steal_pointer(&plan);
}

CkptPlan *
ckpt_plan_native(const CkptPlanInput *input, const CkptRequest *request, GError **error)
{
    if (ckpt_plan_refuse_obstacle(input->vm, request, error))
        return NULL;
    switch (request->kind) {
    case CKPT_KIND_CREATE:
        return plan_create(input, request, error);
    case CKPT_KIND_RESTORE:
        return plan_restore(input, request, error);
    case CKPT_KIND_DELETE:
        return plan_delete(input, request, error);
    case CKPT_KIND_UPDATE:
    case CKPT_KIND_REPAIR:
        break;
    }
    ckpt_error_set(error, CKPT_REASON_INTERNAL, "an update needs no plan");
    return NULL;
}
