/* Looks at VMs with checkpoints when nobody asked: at the start, when the hypervisor was away, and when a VM
 * was defined, started or stopped. What could not be verified is not trusted: it is quarantined and
 * alarmed, or, once everything agrees again, no longer. */
#include "agent/core/engine_internal.h"

/* Definitions and starts come in bursts; each VM is looked at once for all of them. */
#define SETTLE_MS 300

/* Nothing of ours depends on a VM without checkpoints. */
static gboolean
is_concerned(CkptEngine *engine, const char *vm_id)
{
    g_autoptr(CkptVmRecord) record = ckpt_store_get_vm(engine->store, vm_id, NULL);
    g_autoptr(GPtrArray) checkpoints = NULL;

    if (!record || record->quarantine_reason || record->checkpoints > 0)
        return record != NULL;
    checkpoints = ckpt_store_vm_checkpoints(engine->store, vm_id, NULL);
    return checkpoints && checkpoints->len > 0;
}

/* TRUE: something was put right, and the VM is to be looked at anew. */
static gboolean
mend(CkptEngine *engine, const Situation *situation)
{
    g_autoptr(CkptPlan) plan = ckpt_plan_mend(&situation->input);
    g_autofree char *read_only = ckpt_engine_read_only_reason(engine);
    g_autofree char *what = NULL;
    g_autoptr(GError) error = NULL;
    CkptStep *step;

    if (!plan || read_only || ckpt_unread_is(engine, situation->vm->id))
        return FALSE;
    step = g_ptr_array_index(plan->steps, 0);
    what = ckpt_step_describe(step);
    if (!engine->driver->step_do(engine->driver, plan, step, NULL, NULL, NULL, &error)) {
        g_warning("VM %s: the definition names files below those that QEMU writes to, and cannot be "
                  "put right (%s): %s",
                  plan->vm_id, what, error->message);
        return FALSE;
    }
    g_warning("VM %s: the definition named files below those that QEMU writes to, and was put right: %s",
              plan->vm_id, what);
    return TRUE;
}

static void
judge(CkptEngine *engine, Situation *situation)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GError) fault = NULL;
    gboolean agrees = ckpt_plan_look(&situation->input, &error);

    if (!agrees && ckpt_engine_is_alarming(error) && !ckpt_unread_is(engine, situation->vm->id) &&
        g_strcmp0(error->message, situation->record->quarantine_reason) != 0)
        ckpt_engine_quarantine(engine, situation->vm->id, error->message);
    if (agrees && !(situation->record->quarantine_reason &&
                    ckpt_doctor_left_stuck(engine, situation->vm->id)) &&
        !ckpt_engine_lift_quarantine(engine, situation, &fault))
        g_warning("cannot lift the quarantine of VM %s: %s", situation->vm->id, fault->message);
    ckpt_situation_record(engine, situation);
}

void
ckpt_engine_look(CkptEngine *engine, const char *vm_id)
{
    for (guint i = 0; i < 2; i++) {
        g_auto(Situation) situation = {0};
        g_autoptr(GError) error = NULL;

        if (!is_concerned(engine, vm_id))
            return;
        if (!ckpt_situation_read(engine, vm_id, FALSE, &situation, &error)) {
            /* Away, or gone: it is looked at when it is back. */
            g_debug("cannot look at VM %s: %s", vm_id, error->message);
            return;
        }
        if (i == 0 && mend(engine, &situation))
            continue;
        judge(engine, &situation);
        return;
    }
}

/* ---- When ---- */

/* One of them may have come while the agent was away. */
static void
mark_deployed(CkptEngine *engine)
{
    g_autoptr(GPtrArray) vms =
        engine->driver->manifest_head ? engine->driver->list_vms(engine->driver, NULL) : NULL;

    if (!vms)
        return;
    for (guint i = 0; i < vms->len; i++) {
        CkptVmSummary *vm = g_ptr_array_index(vms, i);

        ckpt_engine_mark(engine, vm->id);
    }
}

/* The main loop must not wait for the store. */
static void
mark_all(CkptEngine *engine)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GError) away = NULL;
    g_autoptr(GPtrArray) ids = NULL;

    if (!ckpt_rebuild_look(engine, &away))
        g_warning("cannot read checkpoints back from their manifests: %s", away->message);
    ids = ckpt_store_vms(engine->store, &error); /* with those that were read back */
    if (!ids)
        g_warning("cannot tell which VMs have checkpoints: %s", error->message);
    for (guint i = 0; ids && i < ids->len; i++)
        ckpt_engine_mark(engine, g_ptr_array_index(ids, i));
    mark_deployed(engine);
}

void
ckpt_reconcile_all(CkptEngine *engine)
{
    g_atomic_int_inc(&engine->looks);
    g_thread_pool_push(engine->lookers, g_strdup(""), NULL);
}

void
ckpt_reconcile_work(gpointer vm_id, gpointer user_data)
{
    CkptEngine *engine = user_data;

    if (*(char *)vm_id == '\0') {
        mark_all(engine);
        g_atomic_int_add(&engine->looks, -1);
    } else if (ckpt_engine_take_turn(engine, vm_id)) {
        gboolean unread = ckpt_unread_is(engine, vm_id);
        gboolean agreed = ckpt_rebuild_check(engine, NULL) && !unread;

        if (unread)
            ckpt_unread_release(engine, vm_id);
        /* Of a new catalogue that was not compared yet, manifests that are taken over would be lost ones. */
        if (agreed)
            ckpt_adopt_look(engine, vm_id);
        ckpt_engine_look(engine, vm_id);
        if (agreed) {
            ckpt_manifests_refresh(engine, vm_id);
            ckpt_leftovers_look(engine, vm_id);
            ckpt_deferred_look(engine, vm_id);
        }
        ckpt_engine_end_turn(engine, vm_id);
    }
    g_free(vm_id);
}

static gboolean
on_settled(gpointer data)
{
    CkptEngine *engine = data;
    g_autoptr(GHashTable) changed = NULL;
    GHashTableIter iter;
    gpointer key;

    g_mutex_lock(&engine->lock);
    engine->settle = 0;
    g_atomic_int_inc(&engine->looks); /* until they are marked */
    changed = g_steal_pointer(&engine->changed);
    g_mutex_unlock(&engine->lock);
    g_hash_table_iter_init(&iter, changed);
    while (g_hash_table_iter_next(&iter, &key, NULL)) {
        if (*(char *)key == '\0')
            ckpt_reconcile_all(engine);
        else
            ckpt_engine_mark(engine, key);
    }
    g_atomic_int_add(&engine->looks, -1);
    return G_SOURCE_REMOVE;
}

void
ckpt_reconcile_changed(const char *vm_id, gpointer data)
{
    CkptEngine *engine = data;

    g_mutex_lock(&engine->lock);
    if (!g_atomic_int_get(&engine->stopping)) {
        if (!engine->changed)
            engine->changed = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
        g_hash_table_add(engine->changed, g_strdup(vm_id ? vm_id : ""));
        if (!engine->settle)
            engine->settle = g_timeout_add(SETTLE_MS, on_settled, engine);
    }
    g_mutex_unlock(&engine->lock);
}
