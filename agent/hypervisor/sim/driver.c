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

static CkptSimFile *
need_file(CkptSimRun *run, GError **error)
{
    CkptSimFile *file = ckpt_sim_find(run->sim, run->step->file);

    if (!file)
        ckpt_error_set(error, CKPT_REASON_DISK_FILE_MISSING, "%s is missing", run->step->file);
    return file;
}

static CkptSimVm *
vm_of(CkptSimRun *run)
{
    return ckpt_sim_find_vm(run->sim, run->plan->vm_id);
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

static gboolean
make_overlay(CkptSimRun *run, GError **error)
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

static CkptOutcome
make_overlay_check(CkptSimRun *run, GError **error)
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

/* Like a removal by rm(1) it is refused while somebody needs the file, so that the oracle need not take
 * the driver's word for it. */
static gboolean
remove_file(CkptSimRun *run, GError **error)
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
    for (guint i = 0; i < run->sim->vms->len; i++) {
        CkptSimVm *vm = g_ptr_array_index(run->sim->vms, i);

        for (guint k = 0; k < vm->definition->disks->len; k++) {
            CkptSimDisk *disk = g_ptr_array_index(vm->definition->disks, k);

            if (!g_str_equal(disk->source, file->path))
                continue;
            ckpt_error_set(error, CKPT_REASON_FILE_FAILED, "%s is a disk of %s", file->path, vm->name);
            return FALSE;
        }
    }
    ckpt_sim_unlink(run->sim, file);
    return ckpt_sim_changed(run, error);
}

static gboolean
make_overlay_undo(CkptSimRun *run, GError **error)
{
    CkptSimFile *file = ckpt_sim_find(run->sim, run->step->file);

    if (!file || !file->agent_made || g_strcmp0(file->backing, run->step->base) != 0)
        return TRUE;
    if (is_empty(file) || !is_snapshot_onto(run->plan, file->path))
        return remove_file(run, error);
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

static gboolean
seal(CkptSimRun *run, GError **error)
{
    return set_mode(run, 0440, error);
}

static gboolean
unseal(CkptSimRun *run, GError **error)
{
    return set_mode(run, run->step->mode, error);
}

static gboolean
identify(CkptSimRun *run, GError **error)
{
    CkptSimFile *file = need_file(run, error);

    if (file)
        run->step->id = ckpt_sim_file_id(file);
    return file != NULL;
}

/* ---- Manifests ---- */

static gboolean
write_manifest(CkptSimRun *run, GError **error)
{
    for (guint i = 0; i < run->step->disks->len; i++) {
        const CkptDiskFile *disk = g_ptr_array_index(run->step->disks, i);

        g_hash_table_replace(run->sim->manifests, g_strdup(disk->file),
                             g_strdup(run->step->checkpoint_id));
        g_hash_table_replace(run->sim->manifest_texts, g_strdup(disk->file),
                             g_strdup(run->step->text));
        if (!ckpt_sim_changed(run, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean
remove_manifest(CkptSimRun *run, GError **error)
{
    for (guint i = 0; i < run->step->disks->len; i++) {
        const char *path = ((CkptDiskFile *)g_ptr_array_index(run->step->disks, i))->file;

        if (g_strcmp0(g_hash_table_lookup(run->sim->manifests, path), run->step->checkpoint_id) != 0)
            continue;
        g_hash_table_remove(run->sim->manifests, path);
        g_hash_table_remove(run->sim->manifest_texts, path);
        if (!ckpt_sim_changed(run, error))
            return FALSE;
    }
    return TRUE;
}

/* ---- Snapshot ---- */

static CkptOutcome
snapshot_check(CkptSimRun *run, GError **error)
{
    CkptSimVm *vm = vm_of(run);
    guint old = 0, new = 0;

    for (guint i = 0; i < run->step->disks->len; i++) {
        const CkptDiskFile *disk = g_ptr_array_index(run->step->disks, i);
        CkptSimDisk *defined = ckpt_sim_definition_find(vm->definition, disk->target);
        CkptSimDisk *live = ckpt_sim_definition_find(vm->live, disk->target);

        if (defined && g_str_equal(defined->source, disk->file))
            new++;
        else
            old++;
        if (vm->live && live && g_str_equal(live->source, disk->file))
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
    CkptSimVm *vm = vm_of(run);
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

static gboolean
snapshot(CkptSimRun *run, GError **error)
{
    CkptSimVm *vm = vm_of(run);
    CkptOutcome outcome = snapshot_check(run, error);

    if (outcome != CKPT_OUTCOME_NOT_DONE)
        return outcome == CKPT_OUTCOME_DONE;
    for (guint i = 0; i < run->step->disks->len; i++)
        if (!overlay_fits(run, vm, g_ptr_array_index(run->step->disks, i), error))
            return FALSE;
    if (run->step->asked == CKPT_CONSISTENCY_MEMORY && vm->live)
        return ckpt_sim_capture(run, vm, switch_over, error);
    return ckpt_sim_frozen(run, vm, switch_over, error);
}

/* What a crash left frozen goes on before anything else. */
static CkptOutcome
snapshot_recover(CkptSimRun *run, GError **error)
{
    CkptOutcome outcome;

    if (!ckpt_sim_recover(run, vm_of(run), error))
        return CKPT_OUTCOME_UNCLEAR;
    outcome = snapshot_check(run, error);
    if (outcome == CKPT_OUTCOME_DONE)
        ckpt_sim_note_captured(run);
    return outcome;
}

static gboolean
snapshot_undo(CkptSimRun *run, GError **error)
{
    return ckpt_sim_recover(run, vm_of(run), error) && ckpt_sim_snapshot_undo(run, error) &&
           ckpt_sim_capture_undo(run, error);
}

/* ---- Definition and power ---- */

static gboolean
define(CkptSimRun *run, GError **error)
{
    CkptSimVm *vm = vm_of(run);
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
    CkptSimVm *vm = vm_of(run);

    ckpt_sim_definition_free(vm->definition);
    vm->definition = ckpt_sim_definition_parse(run->step->definition_before);
    vm->autostart = run->step->autostart_before;
    return ckpt_sim_changed(run, error);
}

static CkptOutcome
define_check(CkptSimRun *run, GError **error)
{
    CkptSimVm *vm = vm_of(run);

    for (guint i = 0; i < run->step->disks->len; i++) {
        const CkptDiskFile *disk = g_ptr_array_index(run->step->disks, i);
        CkptSimDisk *defined = ckpt_sim_definition_find(vm->definition, disk->target);

        if (!defined || !g_str_equal(defined->source, disk->file))
            return CKPT_OUTCOME_NOT_DONE;
    }
    return CKPT_OUTCOME_DONE;
}

/* Any VM, unless the step names the files of the one that is meant. */
static gboolean
is_meant(const CkptStep *step, const CkptSimVm *vm)
{
    for (guint i = 0; step->disks && i < step->disks->len; i++) {
        const CkptDiskFile *disk = g_ptr_array_index(step->disks, i);
        const CkptSimLive *live = ckpt_sim_find_live(vm, disk->target);

        if (live && g_str_equal(((CkptSimFile *)live->chain->pdata[0])->path, disk->file))
            return TRUE;
    }
    return !step->disks;
}

static gboolean
stop(CkptSimRun *run, GError **error)
{
    CkptSimVm *vm = vm_of(run);

    if (!vm->live || !is_meant(run->step, vm))
        return TRUE;
    ckpt_sim_stop(run->sim, vm);
    return ckpt_sim_changed(run, error);
}

static gboolean
start(CkptSimRun *run, GError **error)
{
    CkptSimVm *vm = vm_of(run);

    if (run->step->kind == CKPT_STEP_START && run->step->file)
        return ckpt_sim_load(run, vm, error);
    if (vm->live && (vm->power != CKPT_POWER_PAUSED || run->step->power != CKPT_POWER_RUNNING))
        return TRUE;
    if (vm->live)
        vm->power = CKPT_POWER_RUNNING;
    else if (!ckpt_sim_start(run->sim, vm, run->step->power, error))
        return FALSE;
    return ckpt_sim_changed(run, error);
}

static CkptOutcome
stop_check(CkptSimRun *run, GError **error)
{
    return vm_of(run)->live ? CKPT_OUTCOME_NOT_DONE : CKPT_OUTCOME_DONE;
}

static CkptOutcome
start_check(CkptSimRun *run, GError **error)
{
    return vm_of(run)->live ? CKPT_OUTCOME_DONE : CKPT_OUTCOME_NOT_DONE;
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

gboolean
ckpt_sim_check_chain(CkptSimRun *run, GError **error)
{
    CkptSimVm *vm = vm_of(run);

    for (guint i = 0; i < run->step->disks->len; i++) {
        const CkptDiskFile *disk = g_ptr_array_index(run->step->disks, i);

        if (check_disk(run, vm, disk))
            continue;
        ckpt_error_set(error, CKPT_REASON_CHAIN_MISMATCH, "disk %s is not on %s as planned",
                       disk->target, disk->file);
        return FALSE;
    }
    return TRUE;
}

static CkptOutcome
remove_file_check(CkptSimRun *run, GError **error)
{
    return ckpt_sim_find(run->sim, run->step->file) ? CKPT_OUTCOME_NOT_DONE : CKPT_OUTCOME_DONE;
}

/* ---- The interface ---- */

typedef struct {
    gboolean (*run)(CkptSimRun *run, GError **error);
    gboolean (*undo)(CkptSimRun *run, GError **error);
    CkptOutcome (*check)(CkptSimRun *run, GError **error);
} StepOps;

static const StepOps step_table[CKPT_STEP_END_] = {
    [CKPT_STEP_MAKE_OVERLAY] = {make_overlay, make_overlay_undo, make_overlay_check},
    [CKPT_STEP_SEAL] = {seal, unseal, NULL},
    [CKPT_STEP_UNSEAL] = {unseal, seal, NULL},
    [CKPT_STEP_SNAPSHOT] = {snapshot, snapshot_undo, snapshot_recover},
    [CKPT_STEP_IDENTIFY] = {identify, NULL, NULL},
    [CKPT_STEP_WRITE_MANIFEST] = {write_manifest, remove_manifest, NULL},
    [CKPT_STEP_REMOVE_MANIFEST] = {remove_manifest, NULL, NULL},
    [CKPT_STEP_DEFINE] = {define, define_undo, define_check},
    [CKPT_STEP_STOP] = {stop, start, stop_check},
    [CKPT_STEP_START] = {start, stop, start_check},
    [CKPT_STEP_MERGE] = {ckpt_sim_merge, NULL, NULL},
    [CKPT_STEP_CHECK_CHAIN] = {ckpt_sim_check_chain, NULL, NULL},
    [CKPT_STEP_REMOVE_FILE] = {remove_file, NULL, remove_file_check},
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
