/* The sim behind hypervisor.h: each step as a function of the world, its undo and its check. */
#include "agent/hypervisor/sim/sim.h"

static CkptSim *
sim_of(CkptDriver *driver)
{
    return (CkptSim *)driver;
}

static gboolean
call_hook(CkptSim *sim, CkptSimMoment moment, const CkptPlan *plan, const CkptStep *step,
          GError **error)
{
    return !sim->hook || sim->hook(sim, moment, plan, step, sim->hook_data, error);
}

gboolean
ckpt_sim_changed(CkptSimRun *run, GError **error)
{
    return call_hook(run->sim, CKPT_SIM_CHANGED, run->plan, run->step, error);
}

gboolean
ckpt_sim_begin(CkptSimRun *run, GError **error)
{
    return call_hook(run->sim, CKPT_SIM_BEGUN, run->plan, run->step, error);
}

CkptSimVm *
ckpt_sim_vm_of(CkptSimRun *run)
{
    return ckpt_sim_find_vm(run->sim, run->plan->vm_id);
}

/* ---- The definition ---- */

static gboolean
define(CkptSimRun *run, GError **error)
{
    CkptSimVm *vm = ckpt_sim_vm_of(run);
    CkptSimDefinition *definition =
        run->step->definition ? ckpt_sim_definition_parse(run->step->definition) : vm->definition;

    for (guint i = 0; i < run->step->disks->len; i++) {
        const CkptDiskFile *disk = g_ptr_array_index(run->step->disks, i);

        ckpt_sim_definition_set(definition, disk->target, disk->file, disk->format);
    }
    if (definition != vm->definition) {
        ckpt_sim_definition_free(vm->definition);
        vm->definition = definition;
        vm->autostart = run->step->autostart;
    }
    return ckpt_sim_changed(run, error);
}

static gboolean
define_undo(CkptSimRun *run, GError **error)
{
    CkptSimVm *vm = ckpt_sim_vm_of(run);

    ckpt_sim_definition_free(vm->definition);
    vm->definition = ckpt_sim_definition_parse(run->step->definition_before);
    vm->autostart = run->step->autostart_before;
    return ckpt_sim_changed(run, error);
}

static CkptOutcome
define_check(CkptSimRun *run, GError **error)
{
    CkptSimVm *vm = ckpt_sim_vm_of(run);

    for (guint i = 0; i < run->step->disks->len; i++) {
        const CkptDiskFile *disk = g_ptr_array_index(run->step->disks, i);
        CkptSimDisk *defined = ckpt_sim_definition_find(vm->definition, disk->target);

        if (!defined || !g_str_equal(defined->source, disk->file))
            return CKPT_OUTCOME_NOT_DONE;
    }
    return CKPT_OUTCOME_DONE;
}

/* ---- The chain check ---- */

static gboolean
check_disk(CkptSimRun *run, const CkptSimVm *vm, const CkptDiskFile *disk)
{
    g_autoptr(GPtrArray) chain = ckpt_sim_chain(run->sim, disk->file);
    CkptSimDisk *defined = ckpt_sim_definition_find(vm->definition, disk->target);
    CkptSimLive *live = ckpt_sim_find_live(vm, disk->target);

    if (!chain || !defined || !g_str_equal(defined->source, disk->file) ||
        defined->format != disk->format || (vm->live && !live))
        return FALSE;
    if (disk->chain && g_strv_length(disk->chain) != chain->len)
        return FALSE;
    for (guint i = 0; i < chain->len; i++) {
        CkptSimFile *file = g_ptr_array_index(chain, i);

        if (disk->chain && !g_str_equal(disk->chain[i], file->path))
            return FALSE;
        if (live && (live->chain->len != chain->len || g_ptr_array_index(live->chain, i) != file))
            return FALSE;
    }
    return TRUE;
}

/* Another tool's overlay that was laid on the planned top meanwhile. */
static gboolean
is_laid_upon(CkptSimRun *run, const CkptSimVm *vm, const CkptDiskFile *disk)
{
    g_autoptr(GPtrArray) chain = ckpt_sim_disk_chain(run->sim, vm, disk->target);

    for (guint i = 1; chain && i < chain->len; i++)
        if (g_strcmp0(((CkptSimFile *)g_ptr_array_index(chain, i))->path, disk->file) == 0)
            return TRUE;
    return FALSE;
}

gboolean
ckpt_sim_check_chain(CkptSimRun *run, GError **error)
{
    CkptSimVm *vm = ckpt_sim_vm_of(run);

    for (guint i = 0; i < run->step->disks->len; i++) {
        const CkptDiskFile *disk = g_ptr_array_index(run->step->disks, i);

        if (check_disk(run, vm, disk))
            continue;
        if (is_laid_upon(run, vm, disk))
            ckpt_error_set(error, CKPT_REASON_VM_BUSY, "disk %s: another overlay was laid on %s", disk->target,
                           disk->file);
        else
            ckpt_error_set(error, CKPT_REASON_CHAIN_MISMATCH, "disk %s is not on %s as planned",
                           disk->target, disk->file);
        return FALSE;
    }
    return run->plan->kind != CKPT_KIND_RESTORE || ckpt_sim_is_saved_on(run->sim, vm, run->step->disks) ||
           !ckpt_sim_refuse_saved(vm, error);
}

/* ---- The interface ---- */

typedef struct {
    gboolean (*run)(CkptSimRun *run, GError **error);
    gboolean (*undo)(CkptSimRun *run, GError **error);
    CkptOutcome (*check)(CkptSimRun *run, GError **error);
} StepOps;

static const StepOps step_table[CKPT_STEP_END_] = {
    [CKPT_STEP_MAKE_OVERLAY] = {ckpt_sim_make_overlay, ckpt_sim_make_overlay_undo, ckpt_sim_make_overlay_check},
    [CKPT_STEP_SEAL] = {ckpt_sim_seal, ckpt_sim_unseal, NULL},
    [CKPT_STEP_UNSEAL] = {ckpt_sim_unseal, ckpt_sim_seal, NULL},
    [CKPT_STEP_SNAPSHOT] = {ckpt_sim_snapshot, ckpt_sim_snapshot_undo, ckpt_sim_snapshot_recover},
    [CKPT_STEP_IDENTIFY] = {ckpt_sim_identify, NULL, NULL},
    [CKPT_STEP_WRITE_MANIFEST] = {ckpt_sim_write_manifest, ckpt_sim_remove_manifest, NULL},
    [CKPT_STEP_REMOVE_MANIFEST] = {ckpt_sim_remove_manifest, NULL, NULL},
    [CKPT_STEP_DEFINE] = {define, define_undo, define_check},
    [CKPT_STEP_STOP] = {ckpt_sim_step_stop, ckpt_sim_step_stop_undo, ckpt_sim_is_stopped},
    [CKPT_STEP_START] = {ckpt_sim_step_start, ckpt_sim_step_start_undo, ckpt_sim_is_started},
    [CKPT_STEP_MERGE] = {ckpt_sim_merge, NULL, NULL},
    [CKPT_STEP_CHECK_CHAIN] = {ckpt_sim_check_chain, NULL, NULL},
    [CKPT_STEP_REMOVE_FILE] = {ckpt_sim_remove_file, NULL, ckpt_sim_remove_file_check},
    [CKPT_STEP_RESERVE] = {ckpt_sim_reserve, ckpt_sim_reserve_undo, NULL},
    [CKPT_STEP_PULL] = {ckpt_sim_pull, NULL, NULL},
    [CKPT_STEP_SAVE_NVRAM] = {ckpt_sim_save_nvram, ckpt_sim_save_nvram_undo, ckpt_sim_save_nvram_check},
    [CKPT_STEP_COMPARE_NVRAM] = {ckpt_sim_compare_nvram, NULL, NULL},
    [CKPT_STEP_PUT_NVRAM] = {ckpt_sim_put_nvram, ckpt_sim_put_nvram_undo, NULL},
    [CKPT_STEP_CHECK_MEMORY] = {ckpt_sim_check_memory, NULL, NULL},
    [CKPT_STEP_REBASE] = {ckpt_sim_rebase, NULL, NULL},
};

static gboolean
run_step(CkptDriver *driver, const CkptPlan *plan, CkptStep *step,
         gboolean (*func)(CkptSimRun *run, GError **error), GError **error)
{
    CkptSim *sim = sim_of(driver);
    CkptSimRun run = {sim, plan, step};
    gboolean done;

    if (!func)
        return TRUE;
    g_rec_mutex_lock(&sim->lock);
    done = call_hook(sim, CKPT_SIM_BEGUN, plan, step, error) && ckpt_sim_may_touch(&run, error) &&
           func(&run, error);
    g_rec_mutex_unlock(&sim->lock);
    return done;
}

static gboolean
step_do(CkptDriver *driver, const CkptPlan *plan, CkptStep *step, CkptProgressFunc progress,
        gpointer data, GCancellable *cancellable, GError **error)
{
    return run_step(driver, plan, step, step_table[step->kind].run, error);
}

static gboolean
step_undo(CkptDriver *driver, const CkptPlan *plan, CkptStep *step, GError **error)
{
    return run_step(driver, plan, step, step_table[step->kind].undo, error);
}

static CkptOutcome
step_check(CkptDriver *driver, const CkptPlan *plan, const CkptStep *step, GError **error)
{
    CkptSim *sim = sim_of(driver);
    CkptSimRun run = {sim, plan, (CkptStep *)step};
    CkptOutcome outcome = CKPT_OUTCOME_UNCLEAR;

    g_rec_mutex_lock(&sim->lock);
    /* Whether a file is there is not asked of the hypervisor. */
    if (step->kind == CKPT_STEP_REMOVE_FILE || call_hook(sim, CKPT_SIM_ASKED, plan, step, error))
        outcome = step_table[step->kind].check ? step_table[step->kind].check(&run, error)
                                               : CKPT_OUTCOME_NOT_DONE;
    g_rec_mutex_unlock(&sim->lock);
    return outcome;
}

gboolean
ckpt_sim_ask(CkptSim *sim, GError **error)
{
    gboolean there;

    g_rec_mutex_lock(&sim->lock);
    there = call_hook(sim, CKPT_SIM_ASKED, NULL, NULL, error);
    g_rec_mutex_unlock(&sim->lock);
    return there;
}

static gboolean
host_info(CkptDriver *driver, CkptHostInfo **info, GError **error)
{
    if (!ckpt_sim_ask(sim_of(driver), error))
        return FALSE;
    *info = g_new0(CkptHostInfo, 1);
    (*info)->host_id = g_strdup(sim_of(driver)->host_id);
    (*info)->host_name = g_strdup("sim");
    return TRUE;
}

static GPtrArray *
list_vms(CkptDriver *driver, GError **error)
{
    CkptSim *sim = sim_of(driver);
    GPtrArray *list;

    if (!ckpt_sim_ask(sim, error))
        return NULL;
    list = g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_vm_summary_free);
    g_rec_mutex_lock(&sim->lock);
    for (guint i = 0; !sim->elsewhere && i < sim->vms->len; i++) {
        CkptSimVm *vm = g_ptr_array_index(sim->vms, i);
        CkptVmSummary *summary = g_new0(CkptVmSummary, 1);

        summary->id = g_strdup(vm->id);
        summary->name = g_strdup(vm->name);
        summary->power = vm->power;
        g_ptr_array_add(list, summary);
    }
    g_rec_mutex_unlock(&sim->lock);
    return list;
}

static CkptVm *
inspect(CkptDriver *driver, const char *vm_id, const CkptKnownFile *files, GError **error)
{
    CkptSim *sim = sim_of(driver);
    CkptSimVm *from;
    CkptVm *vm = NULL;

    g_rec_mutex_lock(&sim->lock);
    from = sim->elsewhere ? NULL : ckpt_sim_find_vm(sim, vm_id);
    if (!call_hook(sim, CKPT_SIM_ASKED, NULL, NULL, error))
        ;
    else if (!from)
        ckpt_error_set(error, CKPT_REASON_VM_NOT_FOUND, "there is no VM %s", vm_id);
    else
        vm = ckpt_sim_inspect(sim, from, files);
    g_rec_mutex_unlock(&sim->lock);
    return vm;
}

static gboolean
settle(CkptDriver *driver, const char *vm_id, GError **error)
{
    return ckpt_sim_ask(sim_of(driver), error);
}

static void
let_go(CkptDriver *driver, const CkptPlan *plan, const CkptStep *step)
{
    CkptSim *sim = sim_of(driver);
    CkptSimVm *vm;

    (void)step;
    g_rec_mutex_lock(&sim->lock);
    vm = ckpt_sim_find_vm(sim, plan->vm_id);
    if (vm && vm->suspended) {
        vm->suspended = FALSE;
        vm->power = CKPT_POWER_RUNNING;
    }
    g_rec_mutex_unlock(&sim->lock);
}

static void
vm_free(gpointer data)
{
    CkptSimVm *vm = data;

    ckpt_sim_definition_free(vm->definition);
    ckpt_sim_definition_free(vm->live);
    ckpt_sim_definition_free(vm->saved);
    g_clear_pointer(&vm->live_disks, g_ptr_array_unref);
    g_free(vm->id);
    g_free(vm->nvram);
    g_free(vm->name);
    g_free(vm);
}

static void
sim_free(CkptDriver *driver)
{
    CkptSim *sim = sim_of(driver);

    g_ptr_array_unref(sim->snapshots);
    g_ptr_array_unref(sim->vms);
    g_hash_table_unref(sim->files);
    g_hash_table_unref(sim->manifests);
    g_hash_table_unref(sim->manifest_texts);
    g_ptr_array_unref(sim->crimes);
    g_rec_mutex_clear(&sim->lock);
    g_free(sim);
}

CkptSim *
ckpt_sim_new(void)
{
    CkptSim *sim = g_new0(CkptSim, 1);

    sim->base = (CkptDriver){"sim",   host_info, list_vms,   inspect, settle,
                             step_do, step_undo, step_check, sim_free};
    sim->base.watch = ckpt_sim_watch;
    sim->base.guest_look = ckpt_sim_guest_look;
    sim->base.guest_release = ckpt_sim_guest_release;
    sim->base.let_go = let_go;
    g_rec_mutex_init(&sim->lock);
    sim->files = g_hash_table_new_full(g_str_hash, g_str_equal, NULL,
                                       (GDestroyNotify)ckpt_sim_file_unref);
    sim->manifests = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    sim->manifest_texts = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    sim->vms = g_ptr_array_new_with_free_func(vm_free);
    sim->crimes = g_ptr_array_new_with_free_func(g_free);
    sim->snapshots = g_ptr_array_new_with_free_func(ckpt_sim_snapshot_free);
    sim->free_bytes = 1ull << 40;
    sim->host_id = "22222222-2222-4222-8222-222222222222";
    return sim;
}

CkptDriver *
ckpt_sim_driver(CkptSim *sim)
{
    return &sim->base;
}
