/* The agent's life: it starts, dies at a moment of the script's choice, and starts again. From the moment
 * of its death no call of the driver and no commit of the store has any effect, so that closing what is
 * left of it in an orderly way changes nothing, and what the next one finds is what a killed one leaves.
 *
 * Calls to the store, the clock and the makers of IDs pass through here (ld --wrap): each commit is a
 * moment at which the agent can die or the store can fail, and a seed always gives the same run. */
#include "model.h"

#include "common/id.h"
#include "tests/support/power_vfs.h"

Model *model_present;

/* ---- Faults ---- */

static void
die(Model *model)
{
    g_atomic_int_set(&model->dead, 1);
    model_wake(model);
}

static gboolean
fail_dead(GError **error)
{
    ckpt_error_set(error, CKPT_REASON_HYPERVISOR_UNAVAILABLE, "the agent is dead");
    return FALSE;
}

/* What the store had not synced may be gone when the host is back. */
void
model_cut_power(Model *model)
{
    power_vfs_cut();
    model->power_cut = TRUE;
}

static void
host_dies(Model *model)
{
    for (guint i = 0; i < MODEL_VMS; i++) {
        CkptSimVm *vm = model_sim_vm(model, i);

        if (vm->live)
            ckpt_sim_stop(model->sim, vm);
        model->vms[i].power = CKPT_POWER_SHUT_OFF;
    }
    if (model->attempt)
        model->attempt->power_open = TRUE;
    model_cut_power(model);
    die(model);
}

/* A guest that starts writes, unless it was paused when it was saved. */
static void
owner_starts(Model *model, CkptSimVm *vm, guint32 chance)
{
    if (!ckpt_sim_start(model->sim, vm, CKPT_POWER_RUNNING, NULL))
        return;
    model_guest_write(model, model->attempt->vm, chance);
    if (vm->power == CKPT_POWER_PAUSED)
        model->attempt->power_before = vm->power;
}

static void
owner_saves(Model *model, CkptSimVm *vm, guint32 chance)
{
    model_log(model, "    vm-%u is saved", model->attempt->vm);
    ckpt_sim_save(model->sim, vm);
    model->attempt->back = 1 + chance / 8 % 40;
    model->attempt->removes = chance % 4 == 0;
}

static gboolean
can_owner_act(Model *model, const CkptSimVm *vm, FaultKind kind)
{
    if (vm->suspended || (vm->live != NULL) == (kind == FAULT_OWNER_START))
        return FALSE;
    return kind != FAULT_OWNER_SAVE || !(model->in_job || model->vms[model->attempt->vm].redefined);
}

static void
owner_acts(Model *model, const Fault *fault)
{
    CkptSimVm *vm = model_sim_vm(model, model->attempt->vm);

    if (!can_owner_act(model, vm, fault->kind))
        return;
    if (fault->kind == FAULT_OWNER_START)
        owner_starts(model, vm, fault->chance);
    else if (fault->kind == FAULT_OWNER_SAVE)
        owner_saves(model, vm, fault->chance);
    else
        ckpt_sim_stop(model->sim, vm);
    if (fault->kind == FAULT_OWNER_STOP)
        vm->shut_down = TRUE;
    model->attempt->power_open = TRUE;
}

/* What waits for him goes on then. */
static void
owner_comes_back(Model *model)
{
    Attempt *attempt = model->attempt;
    CkptSimVm *vm = attempt ? model_sim_vm(model, attempt->vm) : NULL;

    if (!attempt || attempt->back == 0 || --attempt->back > 0 || vm->live || !vm->saved)
        return;
    model_log(model, "    vm-%u, which was saved, is %s", attempt->vm,
              attempt->removes ? "not any more" : "started");
    if (attempt->removes)
        ckpt_sim_forget_saved(vm);
    else
        owner_starts(model, vm, attempt->back);
    attempt->power_open = TRUE;
}

/* What could not be removed or written, after the operation had taken effect, is borne with a warning. */
static void
excuse(Model *model, const CkptStep *step)
{
    CkptSimFile *file = ckpt_sim_find(model->sim, step->file);

    if (step->kind == CKPT_STEP_REMOVE_FILE && file) {
        file->given_up = TRUE;
        g_hash_table_add(model->excused, g_strdup(step->file));
    }
    if (step->kind != CKPT_STEP_REMOVE_MANIFEST && step->kind != CKPT_STEP_WRITE_MANIFEST)
        return;
    for (guint i = 0; i < step->disks->len; i++)
        g_hash_table_add(model->excused,
                         g_strdup(((CkptDiskFile *)g_ptr_array_index(step->disks, i))->file));
}

/* The fault of this moment, if it is one. FALSE: the call ends here. */
static gboolean
strike(Model *model, const Fault *fault, gboolean of_store, const CkptStep *step, gboolean is_check,
       GError **error)
{
    model->fired = TRUE;
    model->fired_count++;
    model_log(model, "    fault %u at moment %u", fault->kind, model->moments);
    model->moments = 0; /* the next one's are counted from here */
    switch (fault->kind) {
    case FAULT_ERROR:
        if (of_store && fault->chance % 4 == 0 && model->journalling)
            return FALSE; /* this once: a backup has the database */
        if (of_store) {
            model->store_failed = TRUE;
            model_wake(model);
            return FALSE;
        }
        if (is_check)
            return TRUE;
        if (step)
            excuse(model, step);
        else
            model->manifests_open = TRUE; /* who writes one asks first for whom it is */
        ckpt_error_set(error,
                       fault->chance % 2 ? CKPT_REASON_FILE_FAILED : CKPT_REASON_HYPERVISOR_FAILED,
                       "told to fail");
        return FALSE;
    case FAULT_HOST:
        host_dies(model);
        return fail_dead(error);
    case FAULT_CRASH:
        die(model);
        return fail_dead(error);
    case FAULT_AWAY:
        model->away = 1 + fault->chance % 6;
        return TRUE;
    case FAULT_WRITE:
        if (model->attempt)
            model_guest_write(model, model->attempt->vm, fault->chance);
        return TRUE;
    case FAULT_QEMU:
    case FAULT_OWNER_STOP:
    case FAULT_OWNER_START:
    case FAULT_OWNER_SAVE:
        if (model->attempt)
            owner_acts(model, fault);
        return TRUE;
    case FAULT_SYNC:
        power_vfs_arm(POWER_SYNC_FAILS, 1, FALSE, fault->chance);
        model->sync_chance = fault->chance;
        return TRUE;
    case FAULT_FULL:
        model->filled += model->sim->free_bytes;
        model->sim->free_bytes = 0;
        return TRUE;
    case FAULT_NONE:
    case FAULT_KINDS:
        break;
    }
    return TRUE;
}

static gboolean
pass(Model *model, gboolean of_store, const CkptStep *step, gboolean is_check, GError **error)
{
    if (g_atomic_int_get(&model->dead))
        return fail_dead(error);
    model->moments++;
    owner_comes_back(model);
    if (model->fault < MODEL_FAULTS && model->faults[model->fault].kind != FAULT_NONE &&
        model->faults[model->fault].at == model->moments) {
        if (!strike(model, &model->faults[model->fault++], of_store, step, is_check, error))
            return FALSE;
    }
    if (of_store || model->away == 0)
        return TRUE;
    model->away--;
    ckpt_error_set(error, CKPT_REASON_HYPERVISOR_UNAVAILABLE, "libvirt is away");
    return FALSE;
}

static gboolean
is_on_overlays(const CkptSimVm *vm, const CkptStep *step)
{
    const CkptSimDefinition *now = vm->live ? vm->live : vm->definition;

    for (guint i = 0; i < step->disks->len; i++) {
        const CkptDiskFile *disk = g_ptr_array_index(step->disks, i);
        const CkptSimDisk *on = ckpt_sim_definition_find(now, disk->target);

        if (!on || !g_str_equal(on->source, disk->file))
            return FALSE;
    }
    return TRUE;
}

/* The contents of a checkpoint are those of the instant at which the VM went onto its overlays. */
static void
observe(Model *model, const CkptPlan *plan, const CkptStep *step)
{
    Attempt *attempt = model->attempt;

    model->changes++;
    if (attempt && (step->kind == CKPT_STEP_START || step->kind == CKPT_STEP_STOP) &&
        model_sim_vm(model, attempt->vm)->live)
        model_guest_write(model, attempt->vm, model->moments * 2654435761u); /* it goes on at once */
    if (!attempt || step->kind != CKPT_STEP_SNAPSHOT ||
        g_hash_table_contains(model->captures, plan->checkpoint_id) ||
        !is_on_overlays(model_sim_vm(model, attempt->vm), step))
        return;
    g_hash_table_insert(model->captures, g_strdup(plan->checkpoint_id),
                        g_memdup2(&model->vms[attempt->vm].present, sizeof(State)));
}

static gboolean
on_moment(CkptSim *sim, CkptSimMoment moment, const CkptPlan *plan, const CkptStep *step,
          gpointer data, GError **error)
{
    Model *model = data;

    if (moment == CKPT_SIM_CHANGED)
        observe(model, plan, step);
    model->in_job = moment == CKPT_SIM_CHANGED &&
                    (step->kind == CKPT_STEP_SNAPSHOT || step->kind == CKPT_STEP_MERGE);
    return pass(model, FALSE, step, moment == CKPT_SIM_ASKED && step, error);
}

/* ---- What the linker puts in the place of the real functions ---- */

static gboolean
store_fails(gboolean journalling, GError **error)
{
    g_autoptr(GError) ignored = NULL;

    model_present->journalling = journalling;
    model_present->in_job = FALSE;
    if (!model_present->store_failed && pass(model_present, TRUE, NULL, FALSE, &ignored))
        return FALSE;
    ckpt_error_set(error, CKPT_REASON_STORE_FAILED, "the store is read-only");
    return TRUE;
}

char *__real_ckpt_store_read_only_reason(CkptStore *store);

/* A commit whose sync failed: nobody can say whether it was made before the store is opened again. */
static gboolean
committed(gboolean done)
{
    g_autofree char *why = done ? NULL : __real_ckpt_store_read_only_reason(model_present->store);

    if (why) {
        model_present->store_failed = TRUE;
        model_wake(model_present);
    }
    return done;
}

/* The commit is made, and what comes after may not be. */
#define WRAP(name, parameters, arguments)                                                          \
    gboolean __real_##name parameters;                                                             \
    gboolean __wrap_##name parameters;                                                             \
    gboolean __wrap_##name parameters                                                              \
    {                                                                                              \
        return !store_fails(g_str_equal(#name, "ckpt_store_journal"), error) &&                     \
               committed(__real_##name arguments);                                                            \
    }

WRAP(ckpt_store_add_operation, (CkptStore * store, CkptOperation *op, GError **error),
     (store, op, error))
WRAP(ckpt_store_set_plan, (CkptStore * store, CkptOperation *op, GError **error), (store, op, error))
WRAP(ckpt_store_journal,
     (CkptStore * store, const CkptOperation *op, CkptChange *change, GError **error),
     (store, op, change, error))
WRAP(ckpt_store_end_operation,
     (CkptStore * store, const CkptOperation *op, CkptChange *change, GError **error),
     (store, op, change, error))
WRAP(ckpt_store_apply, (CkptStore * store, CkptChange *change, const char *vm_id, GError **error),
     (store, change, vm_id, error))
WRAP(ckpt_store_quarantine_vm,
     (CkptStore * store, const char *vm_id, const char *reason, GError **error),
     (store, vm_id, reason, error))

char *__wrap_ckpt_store_read_only_reason(CkptStore *store);
char *
__wrap_ckpt_store_read_only_reason(CkptStore *store)
{
    return model_present->store_failed || g_atomic_int_get(&model_present->dead)
               ? g_strdup("the store is read-only")
               : __real_ckpt_store_read_only_reason(store);
}

char *__wrap_ckpt_id_new(void);
char *
__wrap_ckpt_id_new(void)
{
    guint64 high = script_next(&model_present->ids), low = script_next(&model_present->ids);

    return g_strdup_printf("%08x-%04x-4%03x-8%03x-%012" G_GINT64_MODIFIER "x", (guint)(high >> 32),
                           (guint)(high >> 16) & 0xffff, (guint)high & 0xfff,
                           (guint)(low >> 52) & 0xfff, low & G_GUINT64_CONSTANT(0xffffffffffff));
}

/* The engine's retry, a second and more apart. */
guint __wrap_g_timeout_add(guint ms, GSourceFunc func, gpointer data);
guint
__wrap_g_timeout_add(guint ms, GSourceFunc func, gpointer data)
{
    return g_timeout_add_full(G_PRIORITY_DEFAULT, ms / 1000, func, data, NULL);
}

/* ---- Life ---- */

gboolean
model_agent_start(Model *model)
{
    g_autoptr(GError) error = NULL;

    g_atomic_int_set(&model->dead, 0);
    model->away = 0;
    model->store_failed = FALSE;
    model->sim->hook = on_moment;
    model->sim->hook_data = model;
    model->store = ckpt_store_open(model->dir, &error);
    if (model->store) {
        model->engine = ckpt_engine_new(ckpt_sim_driver(model->sim), model->store, &model->limits);
        if (ckpt_engine_start(model->engine, &error))
            return TRUE;
    }
    model_fail(model, "the agent does not start: %s", error->message);
    return FALSE;
}

void
model_agent_stop(Model *model)
{
    if (model->engine)
        ckpt_engine_stop(model->engine, 10000);
    g_clear_pointer(&model->engine, ckpt_engine_free);
    /* After a sync that failed the agent is restarted, or killed, or its host is. */
    if (power_vfs_fired() && model->sync_chance % 3)
        model_cut_power(model);
    g_clear_pointer(&model->store, ckpt_store_close);
    if (model->power_cut)
        power_vfs_lose(model->sync_chance % 3 == 1 ? POWER_KEEP : script_next(&model->losses));
    model->power_cut = FALSE;
    power_vfs_arm(POWER_GOOD, 0, FALSE, 0);
}

void
model_wake(Model *model)
{
    g_mutex_lock(&model->lock);
    g_cond_signal(&model->changed);
    g_mutex_unlock(&model->lock);
}

void
model_wait(Model *model, gboolean (*ready)(Model *model, gpointer data), gpointer data)
{
    gint64 until = g_get_monotonic_time() + 20 * G_TIME_SPAN_SECOND;

    while (TRUE) {
        gboolean over;

        g_mutex_lock(&model->lock);
        over = ready(model, data) || g_atomic_int_get(&model->dead) || model->violation;
        /* The main context has the engine's retries: looked after now and then. */
        if (!over)
            g_cond_wait_until(&model->changed, &model->lock, g_get_monotonic_time() + 1000);
        g_mutex_unlock(&model->lock);
        if (over)
            return;
        while (g_main_context_iteration(NULL, FALSE))
            ;
        if (g_get_monotonic_time() > until)
            model_fail(model, "nothing happens any more");
    }
}

static gboolean
is_idle(Model *model, gpointer data)
{
    return model->store_failed || ckpt_engine_is_idle(model->engine);
}

void
model_wait_idle(Model *model)
{
    model_wait(model, is_idle, NULL);
}

void
model_agent_restart(Model *model)
{
    do {
        model_agent_stop(model);
        model->recovered++;
        model->moments = 0;
        if (!model_agent_start(model))
            return;
        model_wait_idle(model);
    } while ((g_atomic_int_get(&model->dead) || model->store_failed) && !model->violation);
    model_reconcile(model);
}
