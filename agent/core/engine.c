/* Operations queued per VM and run by a bounded pool, and the engine's own life. Admission is in
 * admission.c, waiting in waiters.c, one operation's run in run.c, reads in reads.c. */
#include "agent/core/engine_internal.h"

#define RETRY_MIN_MS 1000
#define RETRY_MAX_MS 15000
#define DOCTORS 8 /* so many VMs may hang before a Diagnose tells nothing of the others */

/* ---- Live operations ---- */

char *
ckpt_live_key(const char *identity, const char *request_id)
{
    return g_strconcat(request_id, " ", identity, NULL);
}

LiveOp *
ckpt_live_new(const char *identity, const char *request_id)
{
    LiveOp *live = g_new0(LiveOp, 1);

    g_atomic_ref_count_init(&live->refs);
    live->key = ckpt_live_key(identity, request_id);
    live->waiters = g_ptr_array_new();
    live->cancellable = g_cancellable_new();
    return live;
}

LiveOp *
ckpt_live_ref(LiveOp *live)
{
    g_atomic_ref_count_inc(&live->refs);
    return live;
}

void
ckpt_live_unref(LiveOp *live)
{
    if (!g_atomic_ref_count_dec(&live->refs))
        return;
    ckpt_operation_free(live->op);
    g_ptr_array_unref(live->waiters);
    g_object_unref(live->cancellable);
    g_free(live->unfinished);
    g_free(live->digest);
    g_free(live->key);
    g_free(live);
}

/* Called with watch_lock held; asks the store once in CKPT_EVENT_BLOCK events. Without the store the
 * numbers go on: they need only grow, and the next start skips the rest of the block. */
static guint64
next_event(CkptEngine *engine)
{
    if (engine->next_event == engine->events_end) {
        guint64 first = ckpt_store_next_event_block(engine->store, NULL);

        if (first) {
            engine->next_event = first;
            engine->events_end = first + CKPT_EVENT_BLOCK;
        }
    }
    return engine->next_event++;
}

void
ckpt_engine_emit(CkptEngine *engine, LiveOp *live)
{
    guint64 number;

    g_mutex_lock(&engine->watch_lock);
    number = next_event(engine);
    for (guint i = 0; i < engine->watches->len; i++) {
        Watch *watch = g_ptr_array_index(engine->watches, i);

        watch->func(number, live->op, live->bytes_done, live->bytes_total, watch->data);
    }
    g_mutex_unlock(&engine->watch_lock);
}

/* ---- Queues ---- */

static VmQueue *
get_queue(CkptEngine *engine, const char *vm_id)
{
    VmQueue *queue = g_hash_table_lookup(engine->queues, vm_id);

    if (!queue) {
        queue = g_new0(VmQueue, 1);
        queue->engine = engine;
        queue->vm_id = g_strdup(vm_id);
        g_queue_init(&queue->waiting);
        g_hash_table_insert(engine->queues, queue->vm_id, queue);
    }
    return queue;
}

static void
queue_free(gpointer data)
{
    VmQueue *queue = data;

    g_queue_clear_full(&queue->waiting, (GDestroyNotify)ckpt_live_unref);
    g_free(queue->vm_id);
    g_free(queue);
}

/* Called with the lock held. */
static void
run_next(VmQueue *queue)
{
    CkptEngine *engine = queue->engine;

    if (queue->busy || g_atomic_int_get(&engine->stopping))
        return;
    if (g_queue_is_empty(&queue->waiting)) {
        if (queue->look)
            g_thread_pool_push(engine->lookers, g_strdup(queue->vm_id), NULL);
        return;
    }
    queue->busy = TRUE;
    queue->turns++;
    engine->running++;
    g_thread_pool_push(engine->pool, queue, NULL);
    ckpt_relief_may_be_due(engine);
}

static gboolean
on_retry(gpointer data)
{
    VmQueue *queue = data;
    CkptEngine *engine = queue->engine;

    g_mutex_lock(&engine->lock);
    queue->retry = 0;
    queue->busy = FALSE;
    run_next(queue);
    g_mutex_unlock(&engine->lock);
    return G_SOURCE_REMOVE;
}

/* The operation's journal is unfinished: it stays at the head of its VM's queue. */
static void
put_back(VmQueue *queue, LiveOp *live)
{
    CkptEngine *engine = queue->engine;

    g_mutex_lock(&engine->lock);
    g_queue_push_head(&queue->waiting, live);
    engine->running--;
    if (!g_atomic_int_get(&engine->stopping)) {
        queue->retry_ms = CLAMP(queue->retry_ms * 2, RETRY_MIN_MS, RETRY_MAX_MS);
        queue->retry = g_timeout_add(queue->retry_ms, on_retry, queue);
    }
    g_cond_broadcast(&engine->idle);
    g_mutex_unlock(&engine->lock);
}

/* What it was quarantined for may be over: a delete that was given up is finished now. */
static gboolean
may_be_trusted_again(CkptEngine *engine, const CkptOperation *op)
{
    g_autoptr(CkptVmRecord) record = NULL;

    if (op->state != CKPT_OP_SUCCEEDED || op->kind == CKPT_KIND_UPDATE)
        return FALSE;
    record = ckpt_store_get_vm(engine->store, op->vm_id, NULL);
    return record && record->quarantine_reason;
}

/* It is stored how the operation ended: tells all who wait for it. Whether its VM is to be looked at. */
static gboolean
tell_end(CkptEngine *engine, LiveOp *live)
{
    gboolean look;

    ckpt_engine_emit(engine, live);
    look = ckpt_deferred_is_due(engine, live);
    return ckpt_leftovers_are_due(engine, live->op->vm_id) || may_be_trusted_again(engine, live->op) || look;
}

static void
on_worker(gpointer data, gpointer user_data)
{
    CkptEngine *engine = user_data;
    VmQueue *queue = data;
    gboolean look = FALSE;
    LiveOp *live;
    g_autoptr(GError) error = NULL;

    g_mutex_lock(&engine->lock);
    live = g_queue_pop_head(&queue->waiting);
    g_mutex_unlock(&engine->lock);
    if (live && ckpt_engine_run(engine, live, &error) == CKPT_END_LATER) {
        put_back(queue, live);
        return;
    }
    if (live)
        look = tell_end(engine, live);
    g_mutex_lock(&engine->lock);
    queue->look = queue->look || look;
    g_mutex_unlock(&engine->lock);
    if (live)
        ckpt_waiters_release(engine, live, error);
    g_mutex_lock(&engine->lock);
    if (live && live->recovered)
        engine->recovering--;
    queue->busy = FALSE;
    queue->retry_ms = 0;
    engine->running--;
    run_next(queue);
    g_cond_broadcast(&engine->idle);
    g_mutex_unlock(&engine->lock);
    if (live)
        ckpt_live_unref(live);
}

/* What touches the catalogue alone waits for no turn of its VM: that may be waiting for a hypervisor. FALSE:
 * it could not be ended now. */
static gboolean
run_at_once(CkptEngine *engine, LiveOp *live)
{
    gboolean recovered = live->recovered, ended;
    g_autoptr(GError) error = NULL;

    g_mutex_lock(&engine->lock);
    if (g_atomic_int_get(&engine->stopping)) {
        g_mutex_unlock(&engine->lock);
        return FALSE;
    }
    engine->running++;
    g_mutex_unlock(&engine->lock);
    ended = ckpt_engine_run(engine, live, &error) != CKPT_END_LATER;
    if (ended) {
        if (tell_end(engine, live))
            ckpt_engine_mark(engine, live->op->vm_id);
        ckpt_waiters_release(engine, live, error);
    }
    g_mutex_lock(&engine->lock);
    if (ended && recovered)
        engine->recovering--;
    engine->running--;
    g_cond_broadcast(&engine->idle);
    g_mutex_unlock(&engine->lock);
    return ended;
}

void
ckpt_engine_enqueue(CkptEngine *engine, LiveOp *live)
{
    VmQueue *queue;

    if (live->op->kind == CKPT_KIND_UPDATE && run_at_once(engine, live))
        return;
    g_mutex_lock(&engine->lock);
    queue = get_queue(engine, live->op->kind == CKPT_KIND_REPAIR ? CKPT_HOST_QUEUE : live->op->vm_id);
    g_queue_push_tail(&queue->waiting, ckpt_live_ref(live));
    run_next(queue);
    g_mutex_unlock(&engine->lock);
}

guint64
ckpt_engine_turns(CkptEngine *engine, const char *vm_id, gboolean *busy)
{
    VmQueue *queue;
    guint64 turns;

    g_mutex_lock(&engine->lock);
    queue = g_hash_table_lookup(engine->queues, vm_id);
    turns = queue ? queue->turns : 0;
    *busy = queue && queue->busy && !queue->looking;
    g_mutex_unlock(&engine->lock);
    return turns;
}

guint
ckpt_engine_queued(CkptEngine *engine, const char *vm_id)
{
    VmQueue *queue;
    guint waiting;

    g_mutex_lock(&engine->lock);
    queue = g_hash_table_lookup(engine->queues, vm_id);
    waiting = queue ? g_queue_get_length(&queue->waiting) : 0;
    g_mutex_unlock(&engine->lock);
    return waiting;
}

void
ckpt_engine_mark(CkptEngine *engine, const char *vm_id)
{
    VmQueue *queue;

    g_mutex_lock(&engine->lock);
    queue = get_queue(engine, vm_id);
    queue->look = TRUE;
    run_next(queue);
    g_mutex_unlock(&engine->lock);
}

gboolean
ckpt_engine_take_turn(CkptEngine *engine, const char *vm_id)
{
    VmQueue *queue;
    gboolean taken;

    g_mutex_lock(&engine->lock);
    queue = get_queue(engine, vm_id);
    taken = queue->look && !queue->busy && !g_atomic_int_get(&engine->stopping);
    if (taken) {
        queue->look = FALSE;
        queue->busy = queue->looking = TRUE;
        engine->running++;
    }
    g_mutex_unlock(&engine->lock);
    return taken;
}

gboolean
ckpt_engine_claim_turn(CkptEngine *engine, const char *vm_id, gint64 until_us)
{
    VmQueue *queue;
    gboolean taken;

    g_mutex_lock(&engine->lock);
    queue = get_queue(engine, vm_id);
    while (queue->busy && !g_atomic_int_get(&engine->stopping))
        if (!g_cond_wait_until(&engine->idle, &engine->lock, until_us))
            break;
    taken = !queue->busy && !g_atomic_int_get(&engine->stopping);
    if (taken) {
        queue->busy = queue->looking = TRUE;
        engine->running++;
    }
    g_mutex_unlock(&engine->lock);
    return taken;
}

void
ckpt_engine_end_turn(CkptEngine *engine, const char *vm_id)
{
    VmQueue *queue;

    g_mutex_lock(&engine->lock);
    queue = get_queue(engine, vm_id);
    queue->busy = queue->looking = FALSE;
    engine->running--;
    run_next(queue);
    g_cond_broadcast(&engine->idle);
    g_mutex_unlock(&engine->lock);
}

/* ---- Watching ---- */

guint
ckpt_engine_watch(CkptEngine *engine, CkptWatchFunc func, gpointer data)
{
    Watch *watch = g_new0(Watch, 1);

    watch->func = func;
    watch->data = data;
    g_mutex_lock(&engine->watch_lock);
    watch->id = ++engine->last_watch;
    g_ptr_array_add(engine->watches, watch);
    g_mutex_unlock(&engine->watch_lock);
    return watch->id;
}

void
ckpt_engine_unwatch(CkptEngine *engine, guint id)
{
    g_mutex_lock(&engine->watch_lock);
    for (guint i = 0; i < engine->watches->len; i++) {
        if (((Watch *)g_ptr_array_index(engine->watches, i))->id == id) {
            g_ptr_array_remove_index(engine->watches, i);
            break;
        }
    }
    g_mutex_unlock(&engine->watch_lock);
}

guint64
ckpt_engine_last_event(CkptEngine *engine)
{
    guint64 number;

    g_mutex_lock(&engine->watch_lock);
    number = engine->next_event - 1;
    g_mutex_unlock(&engine->watch_lock);
    return number;
}

/* ---- Life ---- */

CkptEngine *
ckpt_engine_new(CkptDriver *driver, CkptStore *store, const CkptLimits *limits)
{
    CkptEngine *engine = g_new0(CkptEngine, 1);

    engine->driver = driver;
    engine->store = store;
    engine->limits = *limits;
    g_mutex_init(&engine->lock);
    g_mutex_init(&engine->rebuild_lock);
    g_mutex_init(&engine->watch_lock);
    g_cond_init(&engine->idle);
    engine->live =
        g_hash_table_new_full(g_str_hash, g_str_equal, NULL, (GDestroyNotify)ckpt_live_unref);
    engine->tickets = g_hash_table_new(g_int64_hash, g_int64_equal);
    engine->queues = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, queue_free);
    engine->watches = g_ptr_array_new_with_free_func(g_free);
    engine->deferred = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    engine->finishing = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    engine->again = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    engine->unread = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    engine->left_out = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    engine->looked_again = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    engine->pool = g_thread_pool_new(on_worker, engine, (gint)limits->max_running, FALSE, NULL);
    engine->doctors = g_thread_pool_new(ckpt_doctor_work, engine, DOCTORS, FALSE, NULL);
    engine->lookers = g_thread_pool_new(ckpt_reconcile_work, engine, 1, FALSE, NULL);
    engine->relief = g_thread_pool_new(ckpt_relief_work, engine, 1, FALSE, NULL);
    return engine;
}

/* Takes up one operation that a crash, or a stop, left unfinished. */
static void
take_up(CkptEngine *engine, CkptOperation *op)
{
    LiveOp *live = ckpt_live_new(op->identity, op->request_id);

    live->op = op;
    live->digest = g_strdup(op->digest);
    live->recovered = TRUE;
    if (op->state == CKPT_OP_RUNNING && op->plan && op->step_begun < 0) {
        /* Nothing of it was begun: planned anew, on what is so by now (a hold, for one). */
        g_clear_pointer(&op->plan, ckpt_plan_free);
        op->state = CKPT_OP_QUEUED;
        op->undoing = FALSE;
        ckpt_operation_set_error(op, NULL);
    }
    g_mutex_lock(&engine->lock);
    g_hash_table_insert(engine->live, live->key, ckpt_live_ref(live)); /* until it has ended */
    engine->recovering++;
    g_mutex_unlock(&engine->lock);
    ckpt_engine_enqueue(engine, live);
    ckpt_live_unref(live);
}

gboolean
ckpt_engine_start(CkptEngine *engine, GError **error)
{
    gint64 horizon = g_get_real_time() - engine->limits.result_days * G_TIME_SPAN_DAY;
    g_autoptr(GPtrArray) unfinished = NULL;
    guint64 first = ckpt_store_next_event_block(engine->store, error);

    if (first == 0 || !ckpt_store_forget_operations(engine->store, horizon, error) ||
        !ckpt_rebuild_start(engine, error))
        return FALSE;
    engine->next_event = first;
    engine->events_end = first + CKPT_EVENT_BLOCK;
    unfinished = ckpt_store_unfinished_operations(engine->store, error);
    if (!unfinished)
        return FALSE;
    for (guint i = 0; i < unfinished->len; i++)
        if (((CkptOperation *)unfinished->pdata[i])->damage &&
            !ckpt_unread_note(engine, unfinished->pdata[i], error))
            return FALSE;
    while (unfinished->len > 0) {
        CkptOperation *op = g_ptr_array_steal_index(unfinished, 0);

        if (op->damage)
            ckpt_operation_free(op);
        else
            take_up(engine, op);
    }
    if (engine->driver->watch)
        engine->driver->watch(engine->driver, ckpt_reconcile_changed, engine);
    return ckpt_leftovers_start(engine, error) && ckpt_deferred_start(engine, error);
}

void
ckpt_engine_stop(CkptEngine *engine, guint grace_ms)
{
    gint64 until = g_get_monotonic_time() + (gint64)grace_ms * 1000;
    GHashTableIter iter;
    gpointer value;

    if (engine->driver->watch)
        engine->driver->watch(engine->driver, NULL, NULL);
    g_mutex_lock(&engine->lock);
    g_atomic_int_set(&engine->stopping, 1);
    g_cond_broadcast(&engine->idle);
    if (engine->settle)
        g_source_remove(engine->settle);
    engine->settle = 0;
    if (engine->deferred_timer)
        g_source_remove(engine->deferred_timer);
    engine->deferred_timer = 0;
    if (engine->again_timer)
        g_source_remove(engine->again_timer);
    engine->again_timer = 0;
    if (engine->relief_timer)
        g_source_remove(engine->relief_timer);
    engine->relief_timer = 0;
    g_hash_table_iter_init(&iter, engine->queues);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        VmQueue *queue = value;

        if (queue->retry)
            g_source_remove(queue->retry);
        queue->retry = 0;
    }
    while (engine->running > 0)
        if (!g_cond_wait_until(&engine->idle, &engine->lock, until))
            break;
    g_mutex_unlock(&engine->lock);
    ckpt_waiters_answer_all(engine);
}

void
ckpt_engine_free(CkptEngine *engine)
{
    if (!engine)
        return;
    ckpt_engine_stop(engine, 0);
    g_thread_pool_free(engine->relief, FALSE, TRUE);
    g_thread_pool_free(engine->pool, FALSE, TRUE);
    g_thread_pool_free(engine->lookers, FALSE, TRUE);
    g_thread_pool_free(engine->doctors, FALSE, TRUE);
    g_clear_pointer(&engine->changed, g_hash_table_unref);
    g_hash_table_unref(engine->queues);
    g_hash_table_unref(engine->live);
    g_hash_table_unref(engine->tickets);
    g_hash_table_unref(engine->deferred);
    g_hash_table_unref(engine->finishing);
    g_hash_table_unref(engine->looked_again);
    g_hash_table_unref(engine->again);
    g_hash_table_unref(engine->left_out);
    g_hash_table_unref(engine->unread);
    g_free(engine->host_id);
    g_free(engine->host_name);
    g_ptr_array_unref(engine->watches);
    g_mutex_clear(&engine->lock);
    g_mutex_clear(&engine->rebuild_lock);
    g_free(engine->unagreed);
    g_mutex_clear(&engine->watch_lock);
    g_cond_clear(&engine->idle);
    g_free(engine);
}
