/* Callers that wait for an operation's end: a ticket each, no thread. */
#include "agent/core/engine_internal.h"

#include "common/id.h"

/* Whoever takes it out of engine.tickets, under the lock, is the one to answer it. */
typedef struct {
    gatomicrefcount refs;
    CkptEngine *engine;
    LiveOp *live;
    guint64 ticket;
    gboolean any_end; /* of a cancel: told of any end, not only of success */
    CkptOutcomeFunc func;
    gpointer data;
    GSource *timeout;
} Waiter;

static void
waiter_unref(Waiter *waiter)
{
    if (!g_atomic_ref_count_dec(&waiter->refs))
        return;
    if (waiter->timeout) {
        g_source_destroy(waiter->timeout);
        g_source_unref(waiter->timeout);
    }
    ckpt_live_unref(waiter->live);
    g_free(waiter);
}

/* Called with the lock held: who takes the waiter away is the one to answer it. */
static Waiter *
take_waiter(CkptEngine *engine, guint64 ticket)
{
    Waiter *waiter = g_hash_table_lookup(engine->tickets, &ticket);

    if (waiter) {
        g_hash_table_steal(engine->tickets, &ticket);
        g_ptr_array_remove(waiter->live->waiters, waiter);
    }
    return waiter;
}

static void
set_running_error(const char *request_id, GError **error)
{
    ckpt_error_set(error, CKPT_REASON_OPERATION_RUNNING,
                   "the operation is still running; repeat the call with request_id %s to wait on",
                   request_id);
    ckpt_error_add(error, CKPT_META_REQUEST, request_id);
    ckpt_error_set_retry_ms(error, 1000);
}

static void
answer_running(CkptEngine *engine, Waiter *waiter)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *request_id = g_strndup(waiter->live->key, CKPT_ID_LEN);

    set_running_error(request_id, &error);
    waiter->func(NULL, error, waiter->data);
    waiter_unref(waiter);
}

static gboolean
on_wait_over(gpointer data)
{
    Waiter *waiter = data;
    CkptEngine *engine = waiter->engine;
    Waiter *taken;

    g_mutex_lock(&engine->lock);
    taken = take_waiter(engine, waiter->ticket);
    g_mutex_unlock(&engine->lock);
    if (taken)
        answer_running(engine, taken);
    return G_SOURCE_REMOVE;
}

guint64
ckpt_waiters_add(CkptEngine *engine, LiveOp *live, gint64 wait_us, gboolean any_end, CkptOutcomeFunc func,
           gpointer data)
{
    Waiter *waiter = g_new0(Waiter, 1);

    g_atomic_ref_count_init(&waiter->refs);
    waiter->engine = engine;
    waiter->live = ckpt_live_ref(live);
    waiter->ticket = ++engine->last_ticket;
    waiter->any_end = any_end;
    waiter->func = func;
    waiter->data = data;
    if (wait_us <= 0 || wait_us > engine->limits.max_wait_us)
        wait_us = engine->limits.max_wait_us;
    waiter->timeout = g_timeout_source_new((guint)(wait_us / 1000));
    g_atomic_ref_count_inc(&waiter->refs);
    g_source_set_callback(waiter->timeout, on_wait_over, waiter, (GDestroyNotify)waiter_unref);
    g_source_attach(waiter->timeout, NULL);
    g_ptr_array_add(live->waiters, waiter);
    g_hash_table_insert(engine->tickets, &waiter->ticket, waiter);
    return waiter->ticket;
}

gboolean
ckpt_engine_forget(CkptEngine *engine, guint64 ticket)
{
    Waiter *waiter;

    g_mutex_lock(&engine->lock);
    waiter = take_waiter(engine, ticket);
    g_mutex_unlock(&engine->lock);
    if (!waiter)
        return FALSE;
    g_source_destroy(waiter->timeout);
    waiter_unref(waiter);
    return TRUE;
}

void
ckpt_answer_from_store(CkptEngine *engine, const char *identity, const char *request_id,
                  gboolean any_end, CkptOutcomeFunc func, gpointer data)
{
    g_autoptr(GError) error = NULL;
    CkptOperation *op = ckpt_store_find_operation(engine->store, identity, request_id, &error);

    if (!op && !error)
        ckpt_error_set(&error, CKPT_REASON_INTERNAL, "operation %s is not in the store", request_id);
    if (op && !any_end && (op->state == CKPT_OP_QUEUED || op->state == CKPT_OP_RUNNING)) {
        set_running_error(request_id, &error);
        g_clear_pointer(&op, ckpt_operation_free);
    }
    if (op && !any_end && (op->state == CKPT_OP_FAILED || op->state == CKPT_OP_CANCELLED)) {
        ckpt_operation_error(op, &error);
        g_clear_pointer(&op, ckpt_operation_free);
    }
    func(op, error, data);
}

static void
answer(CkptEngine *engine, Waiter *waiter, const GError *error)
{
    const char *request_id = waiter->live->key;

    g_source_destroy(waiter->timeout);
    if (error && !waiter->any_end) {
        waiter->func(NULL, error, waiter->data);
    } else {
        g_autofree char *id = g_strndup(request_id, CKPT_ID_LEN);

        ckpt_answer_from_store(engine, request_id + CKPT_ID_LEN + 1, id, waiter->any_end, waiter->func,
                          waiter->data);
    }
    waiter_unref(waiter);
}

void
ckpt_waiters_release(CkptEngine *engine, LiveOp *live, const GError *error)
{
    g_autoptr(GPtrArray) waiters = g_ptr_array_new();

    g_mutex_lock(&engine->lock);
    g_hash_table_remove(engine->live, live->key);
    for (guint i = live->waiters->len; i > 0; i--) {
        Waiter *waiter = g_ptr_array_index(live->waiters, i - 1);

        g_ptr_array_add(waiters, take_waiter(engine, waiter->ticket));
    }
    g_mutex_unlock(&engine->lock);
    for (guint i = 0; i < waiters->len; i++)
        answer(engine, g_ptr_array_index(waiters, i), error);
}

void
ckpt_waiters_answer_all(CkptEngine *engine)
{
    GHashTableIter iter;
    gpointer value;
    g_autoptr(GPtrArray) waiters = g_ptr_array_new();

    g_mutex_lock(&engine->lock);
    g_hash_table_iter_init(&iter, engine->tickets);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        Waiter *waiter = value;

        g_ptr_array_add(waiters, waiter);
        g_ptr_array_remove(waiter->live->waiters, waiter);
        g_hash_table_iter_steal(&iter);
    }
    g_mutex_unlock(&engine->lock);
    for (guint i = 0; i < waiters->len; i++) {
        Waiter *waiter = g_ptr_array_index(waiters, i);

        g_source_destroy(waiter->timeout);
        answer_running(engine, waiter);
    }
}
