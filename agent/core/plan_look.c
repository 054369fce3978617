/* What is found wrong with a VM when nobody has asked for anything, and what of it can be put right. */
#include "agent/core/graph.h"
#include "agent/core/plan_parts.h"

/* What is under way makes everything look half done. */
static gboolean
is_passing(CkptReason reason)
{
    return reason == CKPT_REASON_VM_BUSY || reason == CKPT_REASON_BLOCK_JOB_ACTIVE ||
           reason == CKPT_REASON_BACKUP_JOB_ACTIVE;
}

static gboolean
is_mismatch(CkptReason reason)
{
    return reason == CKPT_REASON_CHAIN_MISMATCH;
}

static gboolean
is_any(CkptReason reason)
{
    return TRUE;
}

static gboolean
refuse_if(const CkptVm *vm, gboolean (*matches)(CkptReason reason), GError **error)
{
    for (guint i = 0; i < vm->obstacles->len; i++) {
        const CkptObstacle *obstacle = g_ptr_array_index(vm->obstacles, i);

        if (!matches(obstacle->reason))
            continue;
        ckpt_error_set(error, obstacle->reason, "%s", obstacle->message);
        ckpt_error_add(error, CKPT_META_DISK, obstacle->disk);
        ckpt_error_add(error, CKPT_META_FILE, obstacle->file);
        return TRUE;
    }
    return FALSE;
}

/* A delete that has begun moves the files that all is compared with. One that waits has touched none. */
static const CkptCheckpoint *
find_deleting(const CkptPlanInput *input)
{
    for (guint i = 0; i < input->checkpoints->len; i++) {
        const CkptCheckpoint *checkpoint = g_ptr_array_index(input->checkpoints, i);

        if (checkpoint->state == CKPT_STATE_DELETING && !checkpoint->deferred)
            return checkpoint;
    }
    return NULL;
}

/* The one overlay of ours above the file that libvirt names for the disk, to which QEMU writes; NULL if
 * there is none, or if nobody can tell which. */
static const CkptLayer *
find_written(const CkptPlanInput *input, const CkptDisk *disk)
{
    const CkptLayer *found = NULL;

    for (guint i = 0; i < input->made->len; i++) {
        const char *file = g_ptr_array_index(input->made, i);
        const CkptLayer *layer = ckpt_vm_find_file(input->vm, file);

        if (!layer || ckpt_graph_owner(input, file, NULL) || ckpt_graph_user(input, file) ||
            !ckpt_graph_runs_on(input, disk, layer))
            continue;
        if (found)
            return NULL;
        found = layer;
    }
    return found;
}

/* Hazard A5 in its pure form: libvirt's own idea of the running VM is wrong, and stays so until that is
 * stopped. */
static gboolean
refuse_stale_live(const CkptPlanInput *input, GError **error)
{
    for (guint i = 0; i < input->vm->disks->len; i++) {
        const CkptDisk *disk = g_ptr_array_index(input->vm->disks, i);
        const CkptLayer *written = disk->live_source ? find_written(input, disk) : NULL;

        if (!written || g_strcmp0(written->path, disk->live_source) == 0)
            continue;
        ckpt_error_set(error, CKPT_REASON_CHAIN_MISMATCH,
                       "disk %s: QEMU writes to %s, but libvirt believes that the VM runs on %s; the "
                       "definition names %s: shut the VM down and start it again (virsh shutdown, virsh "
                       "start)",
                       disk->target, written->path, disk->live_source, disk->source);
        ckpt_error_add(error, CKPT_META_DISK, disk->target);
        ckpt_error_add(error, CKPT_META_FILE, written->path);
        return TRUE;
    }
    return FALSE;
}

gboolean
ckpt_plan_look(const CkptPlanInput *input, GError **error)
{
    const CkptCheckpoint *deleting = find_deleting(input);

    if (deleting) {
        ckpt_error_set(error, CKPT_REASON_CHECKPOINT_DELETING,
                       "the delete of checkpoint %s (%s) is not finished", deleting->name,
                       deleting->id);
        return FALSE;
    }
    return !ckpt_plan_refuse_moved(input, error) && !refuse_if(input->vm, is_passing, error) &&
           !refuse_stale_live(input, error) && !refuse_if(input->vm, is_mismatch, error) &&
           ckpt_plan_check_tops(input, error) && !refuse_if(input->vm, is_any, error);
}

CkptPlan *
ckpt_plan_mend(const CkptPlanInput *input)
{
    const CkptVm *vm = input->vm;
    g_autoptr(GPtrArray) disks =
        g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_disk_file_free);
    CkptPlan *plan;
    CkptStep *step;
    GError *busy = NULL;

    if (!vm->persistent || !vm->live_definition || find_deleting(input))
        return NULL;
    if (refuse_if(vm, is_passing, &busy)) {
        g_error_free(busy);
        return NULL;
    }
    for (guint i = 0; i < vm->disks->len; i++) {
        const CkptDisk *disk = g_ptr_array_index(vm->disks, i);
        const CkptLayer *written = disk->live_source ? find_written(input, disk) : NULL;

        if (written && ckpt_graph_lies_on(input, written->path, disk->source))
            g_ptr_array_add(disks, ckpt_disk_file_new(disk->target, written->path,
                                                      CKPT_FORMAT_QCOW2, NULL));
    }
    if (disks->len == 0)
        return NULL;
    plan = ckpt_plan_new(CKPT_KIND_RESTORE);
    ckpt_set_str(&plan->vm_id, vm->id);
    ckpt_set_str(&plan->vm_name, vm->name);
    /* Of the definition in force by then: its owner may be at it, too. */
    step = ckpt_plan_add(plan, CKPT_STEP_DEFINE);
    step->disks = g_steal_pointer(&disks);
    return plan;
}
