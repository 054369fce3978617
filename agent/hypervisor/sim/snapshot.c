/* SNAPSHOT: all disks of a VM onto their overlays at one instant, with what a crash in its midst leaves. */
#include "agent/hypervisor/sim/sim.h"

/* ---- Snapshot ---- */

/* Also under what another tool has laid on it since. */
static gboolean
lies_in(GPtrArray *chain, const char *path)
{
    for (guint i = 0; chain && i < chain->len; i++)
        if (g_strcmp0(((CkptSimFile *)g_ptr_array_index(chain, i))->path, path) == 0)
            return TRUE;
    return FALSE;
}

static CkptOutcome
snapshot_check(CkptSimRun *run, GError **error)
{
    CkptSimVm *vm = ckpt_sim_vm_of(run);
    guint old = 0, new = 0;

    for (guint i = 0; i < run->step->disks->len; i++) {
        const CkptDiskFile *disk = g_ptr_array_index(run->step->disks, i);
        CkptSimDisk *defined = ckpt_sim_definition_find(vm->definition, disk->target);
        g_autoptr(GPtrArray) chain = defined ? ckpt_sim_chain(run->sim, defined->source) : NULL;
        const CkptSimLive *live = vm->live ? ckpt_sim_find_live(vm, disk->target) : NULL;

        if (lies_in(chain, disk->file))
            new++;
        else
            old++;
        if (live && lies_in(live->chain, disk->file))
            new++;
        else if (vm->live)
            old++;
    }
    if (!old || !new)
        return old ? CKPT_OUTCOME_NOT_DONE : CKPT_OUTCOME_DONE;
    ckpt_error_set(error, CKPT_REASON_CHAIN_MISMATCH, "definition and running VM disagree");
    return CKPT_OUTCOME_UNCLEAR;
}

static gboolean
overlay_fits(CkptSimRun *run, const CkptSimVm *vm, const CkptDiskFile *disk, GError **error)
{
    const CkptSimDisk *on =
        ckpt_sim_definition_find(vm->live ? vm->live : vm->definition, disk->target);
    CkptSimFile *overlay = ckpt_sim_find(run->sim, disk->file);

    if (on && overlay && g_strcmp0(overlay->backing, on->source) == 0)
        return TRUE;
    ckpt_error_set(error, CKPT_REASON_CHAIN_MISMATCH, "%s does not fit disk %s", disk->file,
                   disk->target);
    return FALSE;
}

static void
name_overlays(CkptSimRun *run, CkptSimDefinition *definition)
{
    for (guint i = 0; i < run->step->disks->len; i++) {
        const CkptDiskFile *disk = g_ptr_array_index(run->step->disks, i);

        ckpt_sim_definition_set(definition, disk->target, disk->file, CKPT_FORMAT_QCOW2);
    }
}

static void
switch_live(CkptSimRun *run, CkptSimVm *vm)
{
    for (guint i = 0; i < run->step->disks->len; i++) {
        const CkptDiskFile *disk = g_ptr_array_index(run->step->disks, i);
        CkptSimLive *live = ckpt_sim_find_live(vm, disk->target);

        g_ptr_array_insert(live->chain, 0,
                           ckpt_sim_file_ref(ckpt_sim_find(run->sim, disk->file)));
    }
    name_overlays(run, vm->live);
}

static gboolean
switch_over(CkptSimRun *run, GError **error)
{
    CkptSimVm *vm = ckpt_sim_vm_of(run);
    gboolean died;

    if (!vm->live) {
        name_overlays(run, vm->definition);
        return ckpt_sim_changed(run, error);
    }
    switch_live(run, vm);
    if (!ckpt_sim_changed(run, error)) {
        /* Whoever asked may be gone; libvirt saves the definition all the same, unless it went down
         * with QEMU in between. */
        died = vm->live == NULL;
        if (!died)
            name_overlays(run, vm->definition);
        return FALSE;
    }
    name_overlays(run, vm->definition);
    return ckpt_sim_changed(run, error);
}

/* In the very moment: the definition alone was switched then. */
static gboolean
is_saved_elsewhere(const CkptSimRun *run, const CkptSimVm *vm, GError **error)
{
    return !ckpt_sim_is_saved_on(run->sim, vm, run->step->disks) && ckpt_sim_refuse_saved(vm, error);
}

/* What the reply will say of the checkpoint was decided on how the VM was when it was planned. */
static gboolean
is_as_planned(const CkptSimRun *run, const CkptSimVm *vm, GError **error)
{
    gboolean was_off = run->step->power == CKPT_POWER_SHUT_OFF;

    if (run->step->power == CKPT_POWER_UNKNOWN || was_off == !vm->live)
        return !ckpt_sim_refuse_saved(vm, error);
    ckpt_error_set(error, CKPT_REASON_VM_BUSY, "the VM was %s meanwhile", vm->live ? "started" : "stopped");
    return FALSE;
}

gboolean
ckpt_sim_snapshot(CkptSimRun *run, GError **error)
{
    CkptSimVm *vm = ckpt_sim_vm_of(run);
    CkptOutcome outcome = snapshot_check(run, error);

    if (outcome != CKPT_OUTCOME_NOT_DONE)
        return outcome == CKPT_OUTCOME_DONE && !is_saved_elsewhere(run, vm, error);
    if (!is_as_planned(run, vm, error))
        return FALSE;
    for (guint i = 0; i < run->step->disks->len; i++)
        if (!overlay_fits(run, vm, g_ptr_array_index(run->step->disks, i), error))
            return FALSE;
    if (run->step->asked == CKPT_CONSISTENCY_MEMORY && vm->live ? !ckpt_sim_capture(run, vm, switch_over, error)
                                                                 : !ckpt_sim_frozen(run, vm, switch_over, error))
        return FALSE;
    return !is_saved_elsewhere(run, vm, error);
}

/* What a crash left frozen goes on before anything else. */
CkptOutcome
ckpt_sim_snapshot_recover(CkptSimRun *run, GError **error)
{
    CkptOutcome outcome;

    if (!ckpt_sim_recover(run, ckpt_sim_vm_of(run), error))
        return CKPT_OUTCOME_UNCLEAR;
    outcome = snapshot_check(run, error);
    if (outcome == CKPT_OUTCOME_DONE && is_saved_elsewhere(run, ckpt_sim_vm_of(run), NULL))
        return CKPT_OUTCOME_NOT_DONE;
    if (outcome == CKPT_OUTCOME_DONE)
        ckpt_sim_note_captured(run);
    return outcome;
}

gboolean
ckpt_sim_snapshot_undo(CkptSimRun *run, GError **error)
{
    return ckpt_sim_recover(run, ckpt_sim_vm_of(run), error) && ckpt_sim_merge_back(run, error) &&
           ckpt_sim_capture_undo(run, error);
}
