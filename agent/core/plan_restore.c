/* Restore: fresh overlays over the checkpoint's sealed files, its definition, and the present state
 * kept as a safety checkpoint. The order is design.md's: the restored definition is in force before
 * the old VM is stopped, so that whoever starts the VM from then on boots the right chain. */
#include "agent/core/graph.h"
#include "agent/core/plan_parts.h"

static CkptPower
power_after(const CkptRequest *request, const CkptCheckpoint *target)
{
    return request->restore_power ? request->restore_power : target->power;
}

/* The memory image that the restored VM goes on from; NULL = it boots, or stays off. */
static const CkptCheckpointFile *
memory_to_load(const CkptRequest *request, const CkptCheckpoint *target)
{
    if (request->without_memory || power_after(request, target) == CKPT_POWER_SHUT_OFF)
        return NULL;
    return ckpt_checkpoint_find_extra(target, CKPT_FILE_MEMORY);
}

/* What is known without asking anybody; CHECK_MEMORY asks (hazard A34). */
static gboolean
check_memory(const CkptPlanInput *input, const CkptRequest *request, const CkptCheckpoint *target,
             GError **error)
{
    const CkptCheckpointFile *memory = memory_to_load(request, target);
    g_autoptr(GError) why = NULL;

    if (!memory)
        return TRUE;
    if (!ckpt_plan_verify_extra(input, memory, &why))
        ckpt_error_set(error, CKPT_REASON_MEMORY_UNLOADABLE,
                       "%s; its disks can be restored without it (without_memory)", why->message);
    else if (!g_str_equal(target->vm_name, input->vm->name))
        ckpt_error_set(error, CKPT_REASON_MEMORY_UNLOADABLE,
                       "the memory cannot be loaded: the VM was called %s then and is called %s now (virsh "
                       "domrename); its disks can be restored without it (without_memory)",
                       target->vm_name, input->vm->name);
    else
        return TRUE;
    ckpt_error_add(error, CKPT_META_FILE, memory->path);
    return FALSE;
}

static gboolean
check_request(const CkptPlanInput *input, const CkptRequest *request,
              const CkptCheckpoint *target, GError **error)
{
    const char *expected = request->expected_current_checkpoint_id;
    g_autoptr(GArray) space = ckpt_plan_space_new();

    if (expected && g_strcmp0(expected, input->current_id) != 0) {
        ckpt_error_set(error, CKPT_REASON_CURRENT_CHECKPOINT_MISMATCH,
                       "the VM is at checkpoint %s, not at %s",
                       input->current_id ? input->current_id : "(none)", expected);
        return FALSE;
    }
    if (!ckpt_plan_verify_without_memory(input, target, error) ||
        !check_memory(input, request, target, error)) {
        g_prefix_error(error, "checkpoint %s (%s) cannot be restored: ", target->name, target->id);
        ckpt_error_add(error, CKPT_META_CHECKPOINT, target->id);
        return FALSE;
    }
    for (guint i = 0; i < target->disks->len; i++) {
        CkptCheckpointDisk *disk = g_ptr_array_index(target->disks, i);

        if (!ckpt_plan_take_space(input, space, ckpt_vm_find_file(input->vm, disk->sealed_file),
                                  CKPT_PLAN_OVERLAY_BYTES, error))
            return FALSE;
    }
    return TRUE;
}

CkptCheckpoint *
ckpt_plan_new_safety(const CkptPlanInput *input, const CkptRequest *request,
                     const CkptCheckpoint *target)
{
    CkptCheckpoint *safety = ckpt_plan_capture(input, request->identity);
    g_autofree char *name = g_strdup_printf("Before restore of %.200s", target->name);
    g_autofree char *description =
        g_strdup_printf("The state that the restore of checkpoint %s replaced", target->id);

    ckpt_set_str(&safety->name, name);
    ckpt_set_str(&safety->description, description);
    safety->accessibility = CKPT_ACCESSIBILITY_INTERNAL;
    ckpt_set_str(&safety->most_recent_task, ckpt_kind_task(CKPT_KIND_CREATE));
    return safety;
}

static void
add_define(const CkptPlanInput *input, CkptPlan *plan, const CkptCheckpoint *target, GPtrArray *tops)
{
    CkptStep *step = ckpt_plan_add_on_disks(plan, CKPT_STEP_DEFINE, tops);

    step->definition = g_strdup(target->definition);
    step->definition_before = g_strdup(input->vm->definition);
    step->autostart = target->autostart;
    step->autostart_before = input->vm->autostart;
    ckpt_set_str(&step->base, input->vm->nvram);
}

/* The VM no longer runs on its old tops: they become the safety checkpoint's sealed files. */
static void
seal_present_state(CkptPlan *plan)
{
    for (guint i = 0; i < plan->safety->disks->len; i++) {
        CkptCheckpointDisk *disk = g_ptr_array_index(plan->safety->disks, i);

        ckpt_plan_add_seal(plan, disk->sealed_file, disk->mode_before);
        ckpt_plan_add_identify(plan, disk->sealed_file);
    }
    for (guint i = 0; i < plan->safety->extras->len; i++)
        ckpt_plan_add_identify(plan, ((CkptCheckpointFile *)plan->safety->extras->pdata[i])->path);
    ckpt_plan_add_manifest(plan, plan->safety);
}

/* The checkpoint may lie on another branch of the disk than the present state. Disks of one template, and
 * a clone of one of the disks, are others. */
static gboolean
target_has_disk(const CkptPlanInput *input, const CkptCheckpoint *target, const char *top)
{
    for (guint i = 0; i < target->disks->len; i++) {
        const CkptCheckpointDisk *kept = g_ptr_array_index(target->disks, i);

        if (ckpt_graph_same_disk(input, kept->sealed_file, top))
            return TRUE;
    }
    return FALSE;
}

/* Without a safety checkpoint the old tops are needed by nobody. One that the agent did not make, and
 * that of a disk which the restored VM does not have (somebody's only copy), stays all the same. */
static GPtrArray *
discard_present_state(const CkptPlanInput *input, CkptPlan *plan, const CkptCheckpoint *target,
                      CkptChange *change)
{
    GPtrArray *doomed = g_ptr_array_new();

    for (guint i = 0; i < input->vm->disks->len; i++) {
        CkptDisk *disk = g_ptr_array_index(input->vm->disks, i);
        CkptLayer *top = g_ptr_array_index(disk->chain, 0);

        if (!top->exists) {
            ckpt_plan_warn(plan, "%s, the present state of disk %s, is missing", top->path, disk->target);
        } else if (ckpt_graph_agent_made(input, top->path) && target_has_disk(input, target, top->path) &&
            !ckpt_graph_user(input, top->path) && !ckpt_graph_pin(input, top->path, NULL) &&
            !top->snapshots) {
            g_ptr_array_add(change->gone, g_strdup(top->path));
            g_ptr_array_add(doomed, top->path);
        } else {
            ckpt_plan_warn(plan, "%s, the present state of disk %s, was left where it is", top->path,
                           disk->target);
        }
    }
    return doomed;
}

/* The present UEFI variables are kept also where no safety checkpoint is: should the restore fail, they come
 * back. Then they are needed by nobody. The copy's path; NULL if there are none. */
static const char *
add_stop_and_seal(const CkptPlanInput *input, CkptPlan *plan, const CkptCheckpoint *target, GPtrArray *tops,
                  CkptChange *change)
{
    const char *saved = NULL;

    if (input->vm->power != CKPT_POWER_SHUT_OFF)
        ckpt_plan_add(plan, CKPT_STEP_STOP)->power = input->vm->power;
    if (plan->safety || ckpt_checkpoint_find_extra(target, CKPT_FILE_NVRAM))
        saved = ckpt_plan_save_nvram(input, plan, plan->safety, tops, change);
    if (plan->safety)
        seal_present_state(plan);
    ckpt_plan_put_nvram(input, plan, target, saved);
    return plan->safety ? NULL : saved;
}

static void
add_check_memory(CkptPlan *plan, const CkptCheckpoint *target, const CkptCheckpointFile *memory,
                 GPtrArray *tops)
{
    CkptStep *step = ckpt_step_new(CKPT_STEP_CHECK_MEMORY);

    g_ptr_array_insert(plan->steps, 0, step); /* before anything is made for it */
    step->disks = g_ptr_array_ref(tops);
    step->file = g_strdup(memory->path);
    step->text = *target->qemu_version ? g_strdup(target->qemu_version) : NULL;
}

static void
add_start(const CkptPlanInput *input, CkptPlan *plan, const CkptRequest *request,
          const CkptCheckpoint *target, GPtrArray *tops)
{
    const CkptCheckpointFile *memory = memory_to_load(request, target);
    CkptPower power = power_after(request, target);
    CkptStep *step;

    if (power == CKPT_POWER_SHUT_OFF)
        return;
    step = ckpt_plan_add(plan, CKPT_STEP_START);
    step->power = power == CKPT_POWER_PAUSED ? CKPT_POWER_PAUSED : CKPT_POWER_RUNNING;
    if (!memory)
        return;
    step->file = g_strdup(memory->path);
    ckpt_set_str(&step->base, input->vm->nvram);
    step->disks = g_ptr_array_ref(tops);
}

static void
add_steps(const CkptPlanInput *input, CkptPlan *plan, const CkptRequest *request,
          const CkptCheckpoint *target)
{
    CkptChange *change = ckpt_change_new();
    g_autoptr(GPtrArray) tops = ckpt_plan_lay_overlays(input, plan, target, TRUE, change);
    const CkptCheckpointFile *memory = memory_to_load(request, target);
    g_autoptr(GPtrArray) doomed = NULL;
    const char *saved;

    if (memory)
        add_check_memory(plan, target, memory, tops);
    if (plan->safety)
        ckpt_plan_add_manifest(plan, plan->safety);
    plan->decisive = plan->steps->len;
    add_define(input, plan, target, tops);
    saved = add_stop_and_seal(input, plan, target, tops, change);
    add_start(input, plan, request, target, tops);
    ckpt_plan_add_on_disks(plan, CKPT_STEP_CHECK_CHAIN, tops);

    if (plan->safety)
        g_ptr_array_add(change->upserts, ckpt_checkpoint_copy(plan->safety));
    else
        doomed = discard_present_state(input, plan, target, change);
    if (saved)
        g_ptr_array_add(change->gone, g_strdup(saved));
    g_ptr_array_add(change->upserts, ckpt_checkpoint_copy(plan->checkpoint));
    change->set_current = TRUE;
    change->current_id = g_strdup(target->id);
    ckpt_plan_add_catalogue(plan, change);
    for (guint i = 0; doomed && i < doomed->len; i++)
        ckpt_plan_add_remove_file(plan, g_ptr_array_index(doomed, i));
    if (saved)
        ckpt_plan_add_remove_file(plan, saved);
}

static gboolean
keep_present_state(const CkptPlanInput *input, CkptPlan *plan, const CkptRequest *request,
                   const CkptCheckpoint *target, GError **error)
{
    CkptCheckpoint *present = ckpt_graph_find(input->checkpoints, input->current_id);

    if (!ckpt_plan_check_depth(input, present, error)) {
        g_prefix_error(error, "the present state cannot be kept as a safety checkpoint: ");
        return FALSE;
    }
    plan->safety = ckpt_plan_new_safety(input, request, target);
    ckpt_set_str(&plan->safety_id, plan->safety->id);
    return TRUE;
}

CkptPlan *
ckpt_plan_restore(const CkptPlanInput *input, const CkptRequest *request, GError **error)
{
    g_autoptr(CkptPlan) plan = ckpt_plan_new(CKPT_KIND_RESTORE);
    CkptCheckpoint *target = ckpt_plan_find_target(input, request, error);
    CkptCheckpoint *restored;

    if (!target || !check_request(input, request, target, error) ||
        !ckpt_plan_check_nvram(input, target, plan, error))
        return NULL;
    if (!request->discard_present_state &&
        !keep_present_state(input, plan, request, target, error))
        return NULL;
    restored = ckpt_checkpoint_copy(target);
    restored->modified_us = input->now_us;
    ckpt_set_str(&restored->most_recent_task, ckpt_kind_task(CKPT_KIND_RESTORE));
    g_clear_pointer(&restored->disabled_reason, g_free);
    ckpt_plan_set_checkpoint(plan, restored);
    add_steps(input, plan, request, target);
    ckpt_plan_backups_at_restore(input, plan);
    return g_steal_pointer(&plan);
}
