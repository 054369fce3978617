/* Deletes that wait: a branch point that was deleted with when_possible, or one on which somebody may lie of
 * whom nobody can tell, is finished by the agent itself when one branch is left. It is looked at after each
 * operation on its VM, at start, and now and then for what no operation tells of (another VM's clone that went
 * away); never while nothing waits. */
#include "agent/core/engine_internal.h"

#include "common/id.h"

#define LOOK_SECONDS 900

static void
forget_submitted(CkptEngine *engine, const char *checkpoint_id)
{
    g_mutex_lock(&engine->lock);
    g_hash_table_remove(engine->finishing, checkpoint_id);
    g_mutex_unlock(&engine->lock);
}

/* FALSE: the agent's own delete of it is on its way already. */
static gboolean
note_submitted(CkptEngine *engine, const char *checkpoint_id)
{
    gboolean fresh;

    g_mutex_lock(&engine->lock);
    fresh = g_hash_table_add(engine->finishing, g_strdup(checkpoint_id));
    g_mutex_unlock(&engine->lock);
    return fresh;
}

typedef struct {
    CkptEngine *engine;
    char *checkpoint_id;
} Submitted;

static void
on_accepted(CkptOperation *operation, const GError *error, gpointer data)
{
    Submitted *submitted = data;

    if (error) {
        g_warning("cannot finish the delete of checkpoint %s: %s", submitted->checkpoint_id,
                  error->message);
        forget_submitted(submitted->engine, submitted->checkpoint_id);
    }
    ckpt_operation_free(operation);
    g_free(submitted->checkpoint_id);
    g_free(submitted);
}

static CkptRequest *
new_request(const CkptCheckpoint *row)
{
    CkptRequest *request = ckpt_request_new(CKPT_KIND_DELETE);

    ckpt_set_str(&request->identity, CKPT_OWN_IDENTITY);
    request->request_id = ckpt_id_new();
    ckpt_set_str(&request->vm_id, row->vm_id);
    ckpt_set_str(&request->checkpoint_id, row->id);
    request->return_accepted = TRUE;
    return request;
}

static void
submit(CkptEngine *engine, const CkptCheckpoint *row)
{
    Submitted *submitted;

    if (!note_submitted(engine, row->id))
        return;
    submitted = g_new0(Submitted, 1);
    submitted->engine = engine;
    submitted->checkpoint_id = g_strdup(row->id);
    ckpt_engine_submit(engine, new_request(row), on_accepted, submitted);
}

/* Planned, but not stored: a refusal leaves no operation behind. */
static gboolean
can_be_deleted(CkptEngine *engine, const CkptCheckpoint *row)
{
    g_autoptr(CkptOperation) op = ckpt_operation_new();
    g_autoptr(GError) why = NULL;

    op->kind = CKPT_KIND_DELETE;
    op->request = new_request(row);
    ckpt_set_str(&op->vm_id, row->vm_id);
    ckpt_set_str(&op->checkpoint_id, row->id);
    if (ckpt_engine_plan(engine, op, TRUE, &why))
        return TRUE;
    g_debug("the delete of checkpoint %s waits: %s", row->id, why->message);
    return FALSE;
}

/* A delete that the agent began by itself and that failed on the way has nobody else to call for it. One
 * that somebody took over, or cancelled, is theirs. */
static gboolean
is_own_failure(CkptEngine *engine, const CkptCheckpoint *row)
{
    const CkptOperationQuery query = {
        .checkpoint_id = row->id,
        .states = 1u << CKPT_OP_FAILED | 1u << CKPT_OP_CANCELLED,
        .without_plans = TRUE,
    };
    g_autoptr(GPtrArray) ended = ckpt_store_list_operations(engine->store, &query, NULL);
    const CkptOperation *last =
        ended && ended->len ? g_ptr_array_index(ended, ended->len - 1) : NULL;

    return last && last->state == CKPT_OP_FAILED && g_str_equal(last->identity, CKPT_OWN_IDENTITY);
}

/* TRUE while one of the VM's deletes waits. At most one is begun: its end is the next occasion. */
static gboolean
look_at_vm(CkptEngine *engine, const char *vm_id)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) rows = ckpt_store_vm_checkpoints(engine->store, vm_id, &error);
    gboolean waiting = FALSE;

    if (!rows)
        return TRUE;
    for (guint i = 0; i < rows->len; i++) {
        const CkptCheckpoint *row = g_ptr_array_index(rows, i);

        if (row->state != CKPT_STATE_DELETING || (!row->deferred && !is_own_failure(engine, row)))
            continue;
        waiting = TRUE;
        if (row->deferred && !can_be_deleted(engine, row))
            continue;
        submit(engine, row);
        break;
    }
    return waiting;
}

static gboolean
on_timer(gpointer data)
{
    CkptEngine *engine = data;
    g_autoptr(GPtrArray) vms = g_ptr_array_new_with_free_func(g_free);
    GHashTableIter iter;
    gpointer vm_id;

    g_mutex_lock(&engine->lock);
    engine->deferred_timer = 0;
    g_hash_table_iter_init(&iter, engine->deferred);
    while (g_hash_table_iter_next(&iter, &vm_id, NULL))
        g_ptr_array_add(vms, g_strdup(vm_id));
    g_mutex_unlock(&engine->lock);
    for (guint i = 0; i < vms->len; i++)
        ckpt_engine_mark(engine, g_ptr_array_index(vms, i));
    return G_SOURCE_REMOVE;
}

void
ckpt_deferred_look(CkptEngine *engine, const char *vm_id)
{
    gboolean waiting = look_at_vm(engine, vm_id);

    g_mutex_lock(&engine->lock);
    if (waiting)
        g_hash_table_add(engine->deferred, g_strdup(vm_id));
    else
        g_hash_table_remove(engine->deferred, vm_id);
    if (waiting && !engine->deferred_timer && !g_atomic_int_get(&engine->stopping))
        engine->deferred_timer = g_timeout_add_seconds(LOOK_SECONDS, on_timer, engine);
    g_mutex_unlock(&engine->lock);
}

gboolean
ckpt_deferred_is_due(CkptEngine *engine, const LiveOp *live)
{
    const CkptOperation *op = live->op;
    gboolean own = g_str_equal(op->identity, CKPT_OWN_IDENTITY);
    gboolean due;

    if (own)
        forget_submitted(engine, op->checkpoint_id);
    /* What failed once more is left until something changes. */
    if (own && op->state != CKPT_OP_SUCCEEDED)
        return FALSE;
    if (op->checkpoint && op->checkpoint->state == CKPT_STATE_DELETING)
        return TRUE;
    g_mutex_lock(&engine->lock);
    due = g_hash_table_contains(engine->deferred, op->vm_id);
    g_mutex_unlock(&engine->lock);
    return due;
}

gboolean
ckpt_deferred_start(CkptEngine *engine, GError **error)
{
    const CkptCheckpointQuery deleting = {.enabled = -1, .only_deleting = TRUE};
    g_autoptr(GPtrArray) rows = ckpt_store_list_checkpoints(engine->store, &deleting, error);

    for (guint i = 0; rows && i < rows->len; i++)
        ckpt_engine_mark(engine, ((CkptCheckpoint *)g_ptr_array_index(rows, i))->vm_id);
    return rows != NULL;
}
