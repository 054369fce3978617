/* The overlays of a checkpoint and the files it seals: made, sealed, told, removed. */
#include "agent/hypervisor/sim/sim.h"

static CkptSimFile *
need_file(CkptSimRun *run, GError **error)
{
    CkptSimFile *file = ckpt_sim_find(run->sim, run->step->file);

    if (!file)
        ckpt_error_set(error, CKPT_REASON_DISK_FILE_MISSING, "%s is missing", run->step->file);
    return file;
}

static gboolean
is_empty(const CkptSimFile *file)
{
    for (guint i = 0; i < CKPT_SIM_CELLS; i++)
        if (file->set[i])
            return FALSE;
    return TRUE;
}

/* ---- Overlays ---- */

gboolean
ckpt_sim_make_overlay(CkptSimRun *run, GError **error)
{
    const CkptStep *step = run->step;
    CkptSimFile *file = ckpt_sim_find(run->sim, step->file);

    if (file && g_strcmp0(file->backing, step->base) == 0 && is_empty(file))
        return TRUE;
    if (file || !ckpt_sim_find(run->sim, step->base)) {
        ckpt_error_set(error, CKPT_REASON_FILE_FAILED, "%s cannot be made", step->file);
        return FALSE;
    }
    file = ckpt_sim_add_file(run->sim, step->file, CKPT_FORMAT_QCOW2,
                             (guint)(step->size / CKPT_SIM_CELL), step->base, 0600);
    file->agent_made = TRUE;
    return ckpt_sim_changed(run, error);
}

CkptOutcome
ckpt_sim_make_overlay_check(CkptSimRun *run, GError **error)
{
    CkptSimFile *file = ckpt_sim_find(run->sim, run->step->file);

    if (!file)
        return CKPT_OUTCOME_NOT_DONE;
    if (g_strcmp0(file->backing, run->step->base) == 0 && is_empty(file))
        return CKPT_OUTCOME_DONE;
    ckpt_error_set(error, CKPT_REASON_FILE_FAILED, "%s is another file, or holds data", file->path);
    return CKPT_OUTCOME_UNCLEAR;
}

static gboolean
is_snapshot_onto(const CkptPlan *plan, const char *file)
{
    for (guint i = 0; i < plan->steps->len; i++) {
        const CkptStep *step = g_ptr_array_index(plan->steps, i);

        for (guint k = 0; step->kind == CKPT_STEP_SNAPSHOT && k < step->disks->len; k++)
            if (g_str_equal(((CkptDiskFile *)step->disks->pdata[k])->file, file))
                return TRUE;
    }
    return FALSE;
}

static gboolean
may_need(CkptSimRun *run, const CkptSimVm *vm, const CkptSimFile *file, GError **error)
{
    gboolean is_disk = run->step->kind == CKPT_STEP_REMOVE_FILE && ckpt_manifest_is_overlay_name(file->path);

    for (guint i = 0; i < vm->definition->disks->len; i++) {
        CkptSimDisk *disk = g_ptr_array_index(vm->definition->disks, i);
        g_autofree char *unreadable =
            is_disk ? ckpt_sim_unreadable(run->sim, disk) : NULL;

        if (!g_str_equal(disk->source, file->path) && !unreadable)
            continue;
        ckpt_error_set(error, CKPT_REASON_FILE_FAILED, "%s is, or may be, of a disk of %s", file->path, vm->name);
        return TRUE;
    }
    return FALSE;
}

/* Like a removal by rm(1) it is refused while somebody needs the file, so that the oracle need not take
 * the driver's word for it. */
gboolean
ckpt_sim_remove_file(CkptSimRun *run, GError **error)
{
    CkptSimFile *file = ckpt_sim_find(run->sim, run->step->file);
    gboolean read, write;

    if (!file)
        return TRUE;
    ckpt_sim_locks(run->sim, file, &read, &write);
    if (read) {
        ckpt_error_set(error, CKPT_REASON_FILE_FAILED, "%s is open", file->path);
        return FALSE;
    }
    for (guint i = 0; run->step->disks && i < run->step->disks->len; i++) {
        const CkptDiskFile *known = g_ptr_array_index(run->step->disks, i);
        CkptSimFile *reader = ckpt_sim_find(run->sim, known->file);

        if (!reader || g_strcmp0(reader->backing, file->path) != 0)
            continue;
        ckpt_error_set(error, CKPT_REASON_FILE_FAILED, "%s lies on %s", reader->path, file->path);
        return FALSE;
    }
    for (guint i = 0; i < run->sim->vms->len; i++)
        if (may_need(run, g_ptr_array_index(run->sim->vms, i), file, error))
            return FALSE;
    ckpt_sim_unlink(run->sim, file);
    return ckpt_sim_changed(run, error);
}

CkptOutcome
ckpt_sim_remove_file_check(CkptSimRun *run, GError **error)
{
    return ckpt_sim_find(run->sim, run->step->file) ? CKPT_OUTCOME_NOT_DONE : CKPT_OUTCOME_DONE;
}

gboolean
ckpt_sim_make_overlay_undo(CkptSimRun *run, GError **error)
{
    CkptSimFile *file = ckpt_sim_find(run->sim, run->step->file);

    if (!file || !file->agent_made || g_strcmp0(file->backing, run->step->base) != 0)
        return TRUE;
    if (is_empty(file) || !is_snapshot_onto(run->plan, file->path))
        return ckpt_sim_remove_file(run, error);
    ckpt_error_set(error, CKPT_REASON_FILE_FAILED, "%s holds data", file->path);
    return FALSE;
}

static gboolean
set_mode(CkptSimRun *run, guint mode, GError **error)
{
    CkptSimFile *file = need_file(run, error);

    if (!file)
        return FALSE;
    file->mode = mode;
    return ckpt_sim_changed(run, error);
}

gboolean
ckpt_sim_seal(CkptSimRun *run, GError **error)
{
    return set_mode(run, 0440, error);
}

gboolean
ckpt_sim_unseal(CkptSimRun *run, GError **error)
{
    return set_mode(run, run->step->mode, error);
}

gboolean
ckpt_sim_identify(CkptSimRun *run, GError **error)
{
    CkptSimFile *file = need_file(run, error);

    if (file)
        run->step->id = ckpt_sim_file_id(file);
    return file != NULL;
}
