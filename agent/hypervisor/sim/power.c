/* STOP and START, by the rules of the qemu driver: what others start, stop and save meanwhile is not taken for
 * the agent's own, and is not ruined. */
#include "agent/hypervisor/sim/sim.h"

static gboolean
runs_on(const CkptSimVm *vm, const CkptDiskFile *disk)
{
    const CkptSimLive *live = ckpt_sim_find_live(vm, disk->target);

    for (guint k = 0; live && k < live->chain->len; k++)
        if (g_strcmp0(((CkptSimFile *)live->chain->pdata[k])->path, disk->file) == 0)
            return TRUE;
    return FALSE;
}

/* Those of the VM that is to be stopped: of a START that is undone, what the plan's DEFINE has put it on.
 * NULL: any VM is meant. */
static GPtrArray *
files_meant(const CkptSimRun *run)
{
    for (guint i = 0; run->step->kind == CKPT_STEP_START && i < run->plan->steps->len; i++) {
        const CkptStep *step = g_ptr_array_index(run->plan->steps, i);

        if (step->kind == CKPT_STEP_DEFINE)
            return step->disks;
    }
    return run->step->disks;
}

static gboolean
is_meant(const CkptSimRun *run, const CkptSimVm *vm)
{
    GPtrArray *disks = files_meant(run);

    for (guint i = 0; disks && i < disks->len; i++)
        if (runs_on(vm, g_ptr_array_index(disks, i)))
            return TRUE;
    return !disks;
}

static gboolean
stop(CkptSimRun *run, GError **error)
{
    CkptSimVm *vm = ckpt_sim_vm_of(run);
    GPtrArray *disks = files_meant(run);

    if (!vm->live && disks && ckpt_sim_is_saved_on(run->sim, vm, disks))
        return !ckpt_sim_refuse_saved(vm, error);
    if (!is_meant(run, vm))
        return TRUE;
    if (run->step->kind == CKPT_STEP_STOP && ckpt_sim_refuse_saved(vm, error))
        return FALSE;
    if (!vm->live)
        return TRUE;
    ckpt_sim_stop(run->sim, vm);
    return ckpt_sim_changed(run, error);
}

static gboolean
refuse_started(GError **error, const char *how)
{
    ckpt_error_set(error, CKPT_REASON_VM_BUSY, "somebody started the VM %s", how);
    return FALSE;
}

static gboolean
is_written(const CkptSimRun *run)
{
    for (guint i = 0; run->step->disks && i < run->step->disks->len; i++) {
        const CkptDiskFile *disk = g_ptr_array_index(run->step->disks, i);
        const CkptSimFile *file = ckpt_sim_find(run->sim, disk->file);

        for (guint k = 0; file && k < file->cells; k++)
            if (file->set[k])
                return TRUE;
    }
    return FALSE;
}

static gboolean
has_memory(const CkptSimRun *run)
{
    return run->step->kind == CKPT_STEP_START && run->step->file;
}

/* What a guest wrote while no agent was there: the memory does not fit it any more. */
static gboolean
is_kept(const CkptSimRun *run)
{
    return run->step->taken_up && is_written(run);
}

static gboolean
go_on(CkptSimRun *run, CkptSimVm *vm, GError **error)
{
    if (run->step->kind == CKPT_STEP_START && !is_meant(run, vm))
        return refuse_started(error, "on other files");
    if (has_memory(run) && !vm->loaded && !is_kept(run))
        return refuse_started(error, "before its memory could be loaded");
    if (vm->power != CKPT_POWER_PAUSED || run->step->power != CKPT_POWER_RUNNING)
        return TRUE;
    vm->power = CKPT_POWER_RUNNING;
    return ckpt_sim_changed(run, error);
}

/* Where it was saved on the files that it is restored to, it may go on from there, unless it is to go on from
 * another memory. */
static gboolean
would_go_on(const CkptSimRun *run, const CkptSimVm *vm, gboolean from_image, GError **error)
{
    GPtrArray *disks = files_meant(run);

    if (run->step->kind != CKPT_STEP_START)
        return FALSE;
    if (!from_image && disks && ckpt_sim_is_saved_on(run->sim, vm, disks))
        return FALSE;
    return ckpt_sim_refuse_saved(vm, error);
}

static gboolean
load(CkptSimRun *run, CkptSimVm *vm, GError **error)
{
    if (!is_written(run))
        return ckpt_sim_load(run, vm, error);
    return refuse_started(error, "meanwhile, and its guest wrote");
}

static gboolean
start(CkptSimRun *run, GError **error)
{
    CkptSimVm *vm = ckpt_sim_vm_of(run);
    gboolean from_image = has_memory(run) && !is_kept(run);

    if (vm->live)
        return go_on(run, vm, error);
    if (would_go_on(run, vm, from_image, error))
        return FALSE;
    if (from_image)
        return load(run, vm, error);
    return ckpt_sim_start(run->sim, vm, run->step->power, error) && ckpt_sim_changed(run, error);
}

gboolean
ckpt_sim_step_stop(CkptSimRun *run, GError **error)
{
    return stop(run, error);
}

/* Its owner has it off: it was shut down, or saved, and to start it would use that up. */
gboolean
ckpt_sim_step_stop_undo(CkptSimRun *run, GError **error)
{
    const CkptSimVm *vm = ckpt_sim_vm_of(run);

    if (run->step->power != CKPT_POWER_RUNNING && run->step->power != CKPT_POWER_PAUSED)
        return TRUE;
    return (!vm->live && (vm->saved || vm->shut_down)) || start(run, error);
}

gboolean
ckpt_sim_step_start(CkptSimRun *run, GError **error)
{
    return start(run, error);
}

gboolean
ckpt_sim_step_start_undo(CkptSimRun *run, GError **error)
{
    return stop(run, error);
}

CkptOutcome
ckpt_sim_is_stopped(CkptSimRun *run, GError **error)
{
    return ckpt_sim_vm_of(run)->live ? CKPT_OUTCOME_NOT_DONE : CKPT_OUTCOME_DONE;
}

CkptOutcome
ckpt_sim_is_started(CkptSimRun *run, GError **error)
{
    return ckpt_sim_vm_of(run)->live ? CKPT_OUTCOME_DONE : CKPT_OUTCOME_NOT_DONE;
}
