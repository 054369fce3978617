/* Create: lay an overlay over each writable disk, at one instant, and keep what lies below. */
#include "agent/core/graph.h"
#include "agent/core/plan_parts.h"

#include "common/text.h"

/* Devices, and libvirt's header. */
#define MEMORY_SLACK_BYTES (16u << 20)

static gboolean
is_enough(const CkptRequest *request, CkptConsistency best, const char *why, GError **error)
{
    if (best >= request->minimum)
        return TRUE;
    ckpt_error_set(error, CKPT_REASON_CONSISTENCY_UNAVAILABLE,
                   "minimum_consistency %s cannot be met: %s",
                   request->minimum == CKPT_CONSISTENCY_MEMORY ? "MEMORY" : "APPLICATION", why);
    ckpt_error_add(error, CKPT_META_FIELD, "minimum_consistency");
    return FALSE;
}

/* The image of a guest that lies still: all of its memory, with what QEMU writes around it. What one that
 * does not lie still needs in addition is watched for when it is written. */
static gboolean
has_memory_space(const CkptPlanInput *input, GError **error)
{
    const CkptVm *vm = input->vm;
    const CkptDisk *first = g_ptr_array_index(vm->disks, 0);
    g_autoptr(GArray) space = ckpt_plan_space_new();

    if (ckpt_plan_take_space(input, space, g_ptr_array_index(first->chain, 0),
                             vm->memory_bytes + vm->memory_bytes / 64 + MEMORY_SLACK_BYTES +
                                 (guint64)vm->disks->len * CKPT_PLAN_OVERLAY_BYTES,
                             error))
        return TRUE;
    g_prefix_error(error, "memory image: ");
    return FALSE;
}

/* As much as a VM that runs or is paused can do of what is preferred, if that is enough; what is less
 * is said. 0 = refused. */
static CkptConsistency
choose_for_active(const CkptPlanInput *input, const CkptRequest *request, CkptPlan *plan, GError **error)
{
    const CkptVm *vm = input->vm;
    const char *why = vm->application.reason ? vm->application.reason : "this hypervisor cannot";
    const char *no_memory = vm->memory.reason ? vm->memory.reason : "this hypervisor cannot";
    g_autoptr(GError) no_room = NULL;

    if (request->asked == CKPT_CONSISTENCY_MEMORY && vm->memory.available) {
        if (has_memory_space(input, &no_room))
            return CKPT_CONSISTENCY_MEMORY;
        if (request->minimum == CKPT_CONSISTENCY_MEMORY) {
            g_propagate_error(error, g_steal_pointer(&no_room));
            return (CkptConsistency)0;
        }
        no_memory = no_room->message;
    }
    if (!is_enough(request, CKPT_CONSISTENCY_APPLICATION, no_memory, error))
        return (CkptConsistency)0;
    if (request->asked == CKPT_CONSISTENCY_MEMORY)
        ckpt_plan_warn(plan, "memory is not captured: %s", no_memory);
    if (request->asked == CKPT_CONSISTENCY_CRASH)
        return CKPT_CONSISTENCY_CRASH;
    if (vm->application.available)
        return CKPT_CONSISTENCY_APPLICATION;
    if (!is_enough(request, CKPT_CONSISTENCY_CRASH, why, error))
        return (CkptConsistency)0;
    ckpt_plan_warn(plan, "the guest's file systems were not frozen, reached is CRASH: %s", why);
    return CKPT_CONSISTENCY_CRASH;
}

static gboolean
choose_consistency(const CkptPlanInput *input, const CkptRequest *request, CkptPlan *plan,
                   GError **error)
{
    CkptConsistency best = CKPT_CONSISTENCY_APPLICATION;

    if (input->vm->power != CKPT_POWER_SHUT_OFF)
        best = choose_for_active(input, request, plan, error);
    else if (!is_enough(request, best, "the VM is shut off and has no memory to capture", error))
        return FALSE;
    else if (request->asked == CKPT_CONSISTENCY_MEMORY)
        ckpt_plan_warn(plan, "memory is not captured: the VM is shut off");
    plan->checkpoint->reached = best;
    return best != 0;
}

static gboolean
check_disks(const CkptPlanInput *input, GError **error)
{
    const CkptVm *vm = input->vm;
    g_autoptr(GArray) space = ckpt_plan_space_new();

    if (vm->disks->len == 0) {
        ckpt_error_set(error, CKPT_REASON_VM_STATE_UNSUPPORTED,
                       "the VM has no writable disk, so there is nothing to capture");
        return FALSE;
    }
    for (guint i = 0; i < vm->disks->len; i++) {
        const CkptDisk *disk = g_ptr_array_index(vm->disks, i);
        const CkptLayer *top = g_ptr_array_index(disk->chain, 0);
        const CkptFileUser *user = ckpt_graph_user(input, top->path);

        if (user) {
            ckpt_error_set(error, CKPT_REASON_DISK_SHAREABLE, "%s of disk %s is used by %s too",
                           top->path, disk->target, user->user);
            ckpt_error_add(error, CKPT_META_DISK, disk->target);
            ckpt_error_add(error, CKPT_META_FILE, top->path);
            return FALSE;
        }
        if (!ckpt_plan_take_space(input, space, top, CKPT_PLAN_OVERLAY_BYTES, error))
            return FALSE;
    }
    return TRUE;
}

/* UTC to the second, after the VM's name. */
static void
set_default_name(const CkptPlanInput *input, CkptCheckpoint *checkpoint)
{
    g_autofree char *time = ckpt_time_rfc3339(input->now_us);
    g_autofree char *name = g_strdup_printf("%.200s %.19sZ", input->vm->name, time);

    ckpt_set_str(&checkpoint->name, name);
}

CkptCheckpoint *
ckpt_plan_new_checkpoint(const CkptPlanInput *input, const CkptRequest *request)
{
    CkptCheckpoint *checkpoint = ckpt_plan_capture(input, request->identity);
    GHashTableIter iter;
    gpointer key, value;

    if (request->name && *request->name)
        ckpt_set_str(&checkpoint->name, request->name);
    else
        set_default_name(input, checkpoint);
    ckpt_set_str(&checkpoint->description, request->description ? request->description : "");
    checkpoint->accessibility = CKPT_ACCESSIBILITY_PUBLIC;
    checkpoint->asked = request->asked;
    checkpoint->expire_us = request->expire_us;
    ckpt_set_str(&checkpoint->run_id, request->run_id ? request->run_id : "");
    ckpt_set_str(&checkpoint->reason, request->reason ? request->reason : "");
    ckpt_set_str(&checkpoint->ticket, request->ticket ? request->ticket : "");
    ckpt_set_str(&checkpoint->hold, request->hold ? request->hold : "");
    if (request->labels) {
        g_hash_table_iter_init(&iter, request->labels);
        while (g_hash_table_iter_next(&iter, &key, &value))
            g_hash_table_insert(checkpoint->labels, g_strdup(key), g_strdup(value));
    }
    ckpt_set_str(&checkpoint->most_recent_task, ckpt_kind_task(CKPT_KIND_CREATE));
    return checkpoint;
}

static const CkptCheckpointFile *
memory_of(const CkptCheckpoint *checkpoint)
{
    return ckpt_checkpoint_find_extra(checkpoint, CKPT_FILE_MEMORY);
}

static void
add_memory(CkptPlan *plan, const char *qemu_version, GPtrArray *tops, CkptChange *change)
{
    g_autofree char *path = ckpt_plan_extra_path(tops, CKPT_FILE_MEMORY);

    if (plan->checkpoint->reached != CKPT_CONSISTENCY_MEMORY)
        return;
    ckpt_plan_add_extra(plan->checkpoint, CKPT_FILE_MEMORY, path, (CkptFormat)0);
    g_ptr_array_add(change->made, g_steal_pointer(&path));
    ckpt_set_str(&plan->checkpoint->qemu_version, qemu_version ? qemu_version : "");
}

/* Which checkpoint it is of, since what it reaches is written to that one's row. */
static void
add_snapshot(const CkptPlanInput *input, const CkptRequest *request, CkptPlan *plan, GPtrArray *tops)
{
    CkptStep *step = ckpt_plan_add_on_disks(plan, CKPT_STEP_SNAPSHOT, tops);
    gboolean active = input->vm->power != CKPT_POWER_SHUT_OFF;
    gboolean memory = plan->checkpoint->reached == CKPT_CONSISTENCY_MEMORY;
    gboolean freeze = active && plan->checkpoint->reached == CKPT_CONSISTENCY_APPLICATION;
    const CkptDisk *first = g_ptr_array_index(input->vm->disks, 0);

    step->power = input->vm->power;
    step->untried = TRUE;
    ckpt_set_str(&step->checkpoint_id, plan->checkpoint->id);
    step->asked = freeze ? CKPT_CONSISTENCY_APPLICATION : CKPT_CONSISTENCY_CRASH;
    step->minimum = freeze || memory ? request->minimum : CKPT_CONSISTENCY_CRASH;
    if (!memory)
        return;
    step->asked = CKPT_CONSISTENCY_MEMORY;
    step->file = g_strdup(memory_of(plan->checkpoint)->path);
    step->size = ckpt_plan_reserve_of(input->limits, g_ptr_array_index(first->chain, 0));
    step->downtime_ms = input->vm->downtime_ms;
}

static void
add_steps(const CkptPlanInput *input, const CkptRequest *request, CkptPlan *plan)
{
    CkptChange *change = ckpt_change_new();
    GPtrArray *disks = plan->checkpoint->disks;
    g_autoptr(GPtrArray) tops =
        ckpt_plan_lay_overlays(input, plan, plan->checkpoint, FALSE, change);
    const char *nvram;

    add_memory(plan, input->vm->qemu_version, tops, change);
    /* Once beforehand, so that what would make it fail is found while nothing has happened. */
    ckpt_plan_add_manifest(plan, plan->checkpoint);
    for (guint i = 0; i < disks->len; i++) {
        CkptCheckpointDisk *disk = g_ptr_array_index(disks, i);

        ckpt_plan_add_seal(plan, disk->sealed_file, disk->mode_before);
    }
    /* Just before the disks' instant, and compared after it: a copy made after a crash would be a later one. */
    nvram = ckpt_plan_save_nvram(input, plan, plan->checkpoint, tops, change);
    plan->decisive = plan->steps->len;
    add_snapshot(input, request, plan, tops);
    ckpt_plan_compare_nvram(input, plan, nvram);
    if (nvram)
        ckpt_plan_add_identify(plan, nvram);
    for (guint i = 0; i < disks->len; i++) {
        CkptCheckpointDisk *disk = g_ptr_array_index(disks, i);

        ckpt_plan_add_identify(plan, disk->sealed_file);
    }
    /* What cannot be captured is found only when that is tried. */
    if (memory_of(plan->checkpoint))
        ckpt_plan_add_identify(plan, memory_of(plan->checkpoint)->path)->leaf = TRUE;
    ckpt_plan_add_manifest(plan, plan->checkpoint);
    g_ptr_array_add(change->upserts, ckpt_checkpoint_copy(plan->checkpoint));
    change->set_current = TRUE;
    change->current_id = g_strdup(plan->checkpoint->id);
    ckpt_plan_add_catalogue(plan, change);
    /* Last: whatever it finds wrong, the sealed files hold the checkpoint and the catalogue knows it. */
    ckpt_plan_add_on_disks(plan, CKPT_STEP_CHECK_CHAIN, tops);
}

/* The layers of a chain with which a VM starts on every libvirt (10.8 to 11.10 end above; hazard A15). */
#define LAYERS_MAX 24

/* What a disk had below it before its first checkpoint is in no line of checkpoints. */
static void
warn_of_layers(const CkptPlanInput *input, CkptPlan *plan)
{
    for (guint i = 0; i < input->vm->disks->len; i++) {
        const CkptDisk *disk = g_ptr_array_index(input->vm->disks, i);

        if (disk->chain->len + 1 > LAYERS_MAX)
            ckpt_plan_warn(plan, "disk %s will have a chain of %u files: libvirt 10.8 to 11.10 may not start "
                                 "the VM with more than %u; delete checkpoints, or make its template a "
                                 "whole image", disk->target, disk->chain->len + 1, LAYERS_MAX);
    }
}

static void
warn_of_what_is_lacking(const CkptPlanInput *input, CkptPlan *plan)
{
    for (guint i = 0; i < input->vm->not_captured->len; i++)
        ckpt_plan_warn(plan, "not captured: %s", (const char *)input->vm->not_captured->pdata[i]);
}

static void
warn_of_depth(const CkptPlanInput *input, CkptPlan *plan, const CkptCheckpoint *parent)
{
    guint depth = ckpt_plan_depth(input->checkpoints, parent) + 1, limit = input->limits->max_depth;

    if (ckpt_plan_is_deep(depth, limit))
        ckpt_plan_warn(plan, "checkpoint %u of a line of %u at most: each one slows the VM's disks; "
                             "delete those that are no longer needed", depth, limit);
}

CkptPlan *
ckpt_plan_create(const CkptPlanInput *input, const CkptRequest *request, GError **error)
{
    g_autoptr(CkptPlan) plan = ckpt_plan_new(CKPT_KIND_CREATE);
    CkptCheckpoint *parent = ckpt_graph_find(input->checkpoints, input->current_id);

    if (!check_disks(input, error) || !ckpt_plan_check_depth(input, parent, error))
        return NULL;
    ckpt_plan_set_checkpoint(plan, ckpt_plan_new_checkpoint(input, request));
    if (!choose_consistency(input, request, plan, error) || !ckpt_plan_backups_at_create(input, plan, error))
        return NULL;
    add_steps(input, request, plan);
    warn_of_what_is_lacking(input, plan);
    warn_of_depth(input, plan, parent);
    warn_of_layers(input, plan);
    return g_steal_pointer(&plan);
}
