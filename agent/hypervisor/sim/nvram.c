/* UEFI variables: a file with one cell, read and replaced as a whole. */
#include "agent/hypervisor/sim/sim.h"

static gboolean
read_cell(CkptSimRun *run, const char *path, guint32 *value, GError **error)
{
    CkptSimFile *file = ckpt_sim_find(run->sim, path);

    if (file)
        *value = file->data[0];
    else
        ckpt_error_set(error, CKPT_REASON_FILE_FAILED, "%s is missing", path);
    return file != NULL;
}

CkptOutcome
ckpt_sim_save_nvram_check(CkptSimRun *run, GError **error)
{
    guint32 present, copy;

    if (!ckpt_sim_find(run->sim, run->step->file))
        return CKPT_OUTCOME_NOT_DONE;
    return read_cell(run, run->step->base, &present, error) &&
                   read_cell(run, run->step->file, &copy, error) && present == copy
               ? CKPT_OUTCOME_DONE
               : CKPT_OUTCOME_UNCLEAR;
}

gboolean
ckpt_sim_save_nvram(CkptSimRun *run, GError **error)
{
    CkptSimFile *file = ckpt_sim_find(run->sim, run->step->file);
    guint32 present;

    if (!read_cell(run, run->step->base, &present, error))
        return FALSE;
    if (file && file->data[0] == present)
        return TRUE;
    if (file) {
        ckpt_error_set(error, CKPT_REASON_FILE_FAILED, "%s exists", file->path);
        return FALSE;
    }
    file = ckpt_sim_add_file(run->sim, run->step->file, CKPT_FORMAT_RAW, 1, NULL, 0600);
    file->agent_made = TRUE;
    ckpt_sim_write_cell(run->sim, file, 0, present);
    return ckpt_sim_changed(run, error);
}

gboolean
ckpt_sim_save_nvram_undo(CkptSimRun *run, GError **error)
{
    CkptSimFile *file = ckpt_sim_find(run->sim, run->step->file);

    if (!file || !file->agent_made)
        return TRUE;
    ckpt_sim_unlink(run->sim, file);
    return ckpt_sim_changed(run, error);
}

gboolean
ckpt_sim_compare_nvram(CkptSimRun *run, GError **error)
{
    guint32 present, copy;

    if (!read_cell(run, run->step->base, &present, error) ||
        !read_cell(run, run->step->file, &copy, error))
        return FALSE;
    ckpt_set_str(&run->step->note, present == copy ? NULL : "the UEFI variables were changed meanwhile");
    return TRUE;
}

static gboolean
put(CkptSimRun *run, const char *from, GError **error)
{
    CkptSimVm *vm = ckpt_sim_vm_of(run);
    CkptSimFile *file = ckpt_sim_find(run->sim, run->step->base);
    guint32 wanted;

    if (!read_cell(run, from, &wanted, error))
        return FALSE;
    if (file && file->data[0] == wanted)
        return TRUE;
    if (vm->live) {
        ckpt_error_set(error, CKPT_REASON_VM_BUSY, "%s is in use", run->step->base);
        return FALSE;
    }
    if (!file)
        file = ckpt_sim_add_file(run->sim, run->step->base, CKPT_FORMAT_RAW, 1, NULL, 0600);
    ckpt_sim_write_cell(run->sim, file, 0, wanted);
    return ckpt_sim_changed(run, error);
}

gboolean
ckpt_sim_put_nvram(CkptSimRun *run, GError **error)
{
    return put(run, run->step->file, error);
}

gboolean
ckpt_sim_put_nvram_undo(CkptSimRun *run, GError **error)
{
    CkptSimFile *file = ckpt_sim_find(run->sim, run->step->base);

    if (run->step->from)
        return !ckpt_sim_find(run->sim, run->step->from) || put(run, run->step->from, error);
    if (!file)
        return TRUE;
    ckpt_sim_unlink(run->sim, file);
    return ckpt_sim_changed(run, error);
}
