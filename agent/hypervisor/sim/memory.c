/* Memory in the sim: an image holds a sum over what all disks held at its instant. A VM that goes on from one on
 * disks that hold anything else would ruin its file systems: that is a crime. */
#include "agent/hypervisor/sim/sim.h"

guint32
ckpt_sim_sum_of_disks(const CkptSimVm *vm)
{
    guint32 sum = 2166136261u;

    for (guint i = 0; i < vm->live->disks->len; i++) {
        const CkptSimDisk *disk = g_ptr_array_index(vm->live->disks, i);
        GPtrArray *chain = ckpt_sim_find_live(vm, disk->target)->chain;
        guint cells = ((CkptSimFile *)g_ptr_array_index(chain, 0))->cells;

        for (guint k = 0; k < cells; k++)
            sum = (sum ^ ckpt_sim_read_cell(chain, 0, k)) * 16777619u;
    }
    return sum;
}

static gboolean
is_whole(const CkptSimFile *file)
{
    return file && file->set[0];
}

gboolean
ckpt_sim_capture(CkptSimRun *run, CkptSimVm *vm, gboolean (*act)(CkptSimRun *run, GError **error),
                 GError **error)
{
    CkptStep *step = run->step;
    CkptSimFile *file;

    step->reached = (CkptConsistency)0;
    if (ckpt_sim_find(run->sim, step->file)) {
        ckpt_error_set(error, CKPT_REASON_FILE_FAILED, "%s is there", step->file);
        return FALSE;
    }
    file = ckpt_sim_add_file(run->sim, step->file, CKPT_FORMAT_RAW, 1, NULL, 0600);
    file->agent_made = TRUE;
    if (!ckpt_sim_changed(run, error))
        return FALSE;
    if (!vm->live) {
        ckpt_error_set(error, CKPT_REASON_HYPERVISOR_FAILED, "the VM stopped");
        return FALSE;
    }
    ckpt_sim_write_cell(run->sim, file, 0, ckpt_sim_sum_of_disks(vm));
    if (!act(run, error))
        return FALSE;
    step->reached = CKPT_CONSISTENCY_MEMORY;
    step->freeze_us = -1;
    step->pause_us = 1000;
    return TRUE;
}

void
ckpt_sim_note_captured(CkptSimRun *run)
{
    CkptStep *step = run->step;

    if (step->asked != CKPT_CONSISTENCY_MEMORY || step->reached ||
        !is_whole(ckpt_sim_find(run->sim, step->file)))
        return;
    step->reached = CKPT_CONSISTENCY_MEMORY;
    step->freeze_us = step->pause_us = -1;
}

gboolean
ckpt_sim_capture_undo(CkptSimRun *run, GError **error)
{
    CkptSimFile *file = run->step->asked == CKPT_CONSISTENCY_MEMORY
                            ? ckpt_sim_find(run->sim, run->step->file)
                            : NULL;

    if (!file || !file->agent_made)
        return TRUE;
    ckpt_sim_unlink(run->sim, file);
    return ckpt_sim_changed(run, error);
}

gboolean
ckpt_sim_load(CkptSimRun *run, CkptSimVm *vm, GError **error)
{
    CkptSimFile *file = ckpt_sim_find(run->sim, run->step->file);

    if (!is_whole(file)) {
        ckpt_error_set(error, CKPT_REASON_HYPERVISOR_FAILED, "%s cannot be loaded", run->step->file);
        return FALSE;
    }
    if (!ckpt_sim_start(run->sim, vm, run->step->power, error))
        return FALSE;
    vm->loaded = TRUE;
    if (file->data[0] != ckpt_sim_sum_of_disks(vm))
        ckpt_sim_crime(run->sim, "%s was loaded on disks that are not those of its instant", file->path);
    return ckpt_sim_changed(run, error);
}

gboolean
ckpt_sim_check_memory(CkptSimRun *run, GError **error)
{
    if (is_whole(ckpt_sim_find(run->sim, run->step->file)))
        return TRUE;
    ckpt_error_set(error, CKPT_REASON_MEMORY_UNLOADABLE, "%s cannot be loaded", run->step->file);
    return FALSE;
}
