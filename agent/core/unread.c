/* Operations that may not have ended, and whose rows are damaged: what they were at, nobody can say. Neither are
 * they taken up nor taken for none: their VMs are left alone until somebody agrees to what they are now (a repair
 * of CKPT_FINDING_VM_QUARANTINED). The damaged row itself is what says so over restarts. */
#include "agent/core/engine_internal.h"

static char *
describe(const CkptOperation *op)
{
    return g_strdup_printf("%s (a %s by %s, request_id %s). It may have been cut short, so nothing is changed "
                           "until somebody has looked at the VM (docs/by-hand.md) and agrees: vmcheckpoint doctor "
                           "--repair",
                           op->damage, ckpt_kind_name(op->kind), op->identity, op->request_id);
}

static gboolean
give_up(CkptEngine *engine, const CkptOperation *op, GError **error)
{
    g_autofree char *message = g_strdup_printf("%s; whether it did anything is not known", op->damage);

    return ckpt_store_give_up_operation(engine->store, op->number, message, error);
}

gboolean
ckpt_unread_note(CkptEngine *engine, const CkptOperation *op, GError **error)
{
    g_autofree char *reason = describe(op);

    /* A repair of no VM alone looks for everything anew, and was at nothing that could be cut short. */
    if (*op->vm_id == '\0' && op->kind == CKPT_KIND_REPAIR) {
        g_warning("%s; it was a repair", op->damage);
        return give_up(engine, op, error);
    }
    g_mutex_lock(&engine->lock);
    g_hash_table_insert(engine->unread, g_strdup(op->vm_id), g_strdup(reason));
    g_mutex_unlock(&engine->lock);
    ckpt_engine_quarantine(engine, op->vm_id, reason);
    ckpt_engine_mark(engine, op->vm_id);
    return TRUE;
}

char *
ckpt_unread_reason(CkptEngine *engine, const char *vm_id)
{
    char *reason;

    g_mutex_lock(&engine->lock);
    reason = g_strdup(g_hash_table_lookup(engine->unread, vm_id));
    g_mutex_unlock(&engine->lock);
    return reason;
}

gboolean
ckpt_unread_is(CkptEngine *engine, const char *vm_id)
{
    g_autofree char *reason = ckpt_unread_reason(engine, vm_id);

    return reason != NULL;
}

gboolean
ckpt_unread_check(CkptEngine *engine, const char *vm_id, GError **error)
{
    g_autofree char *reason = vm_id ? ckpt_unread_reason(engine, vm_id) : NULL;

    if (!reason)
        return TRUE;
    ckpt_error_set(error, CKPT_REASON_VM_QUARANTINED, "the VM is quarantined: %s", reason);
    ckpt_error_add(error, CKPT_META_VM, vm_id);
    return FALSE;
}

/* Whatever it was at, the guest must not stand still for it. */
void
ckpt_unread_release(CkptEngine *engine, const char *vm_id)
{
    g_autoptr(GError) error = NULL;

    if (engine->driver->guest_release && !engine->driver->guest_release(engine->driver, vm_id, &error))
        g_warning("VM %s: cannot let its guest go on: %s", vm_id, error->message);
}

gboolean
ckpt_unread_agree(CkptEngine *engine, const char *vm_id, GError **error)
{
    g_autoptr(GPtrArray) open = NULL;

    if (!ckpt_unread_is(engine, vm_id))
        return TRUE;
    open = ckpt_store_unfinished_operations(engine->store, error);
    if (!open)
        return FALSE;
    for (guint i = 0; i < open->len; i++) {
        const CkptOperation *op = g_ptr_array_index(open, i);

        if (op->damage && g_str_equal(op->vm_id, vm_id) && !give_up(engine, op, error))
            return FALSE;
    }
    g_mutex_lock(&engine->lock);
    g_hash_table_remove(engine->unread, vm_id);
    g_mutex_unlock(&engine->lock);
    g_message("VM %s: the operation whose row is damaged was given up", vm_id);
    return ckpt_store_quarantine_vm(engine->store, vm_id, NULL, error);
}
