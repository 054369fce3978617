/* Operations: admitted by request_id, queued per VM, run by a bounded pool, waited for without a
 * thread. Reads are in reads.c. */
#include "agent/core/engine_internal.h"

#include "agent/model/json.h"
#include "common/id.h"

#include <string.h>

#define RETRY_MIN_MS 1000
#define RETRY_MAX_MS 15000

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

/* ---- Live operations ---- */

static char *
make_key(const char *identity, const char *request_id)
{
    return g_strconcat(request_id, " ", identity, NULL);
}

static LiveOp *
live_new(const char *identity, const char *request_id)
{
    LiveOp *live = g_new0(LiveOp, 1);

    g_atomic_ref_count_init(&live->refs);
    live->key = make_key(identity, request_id);
    live->waiters = g_ptr_array_new();
    live->cancellable = g_cancellable_new();
    return live;
}

static LiveOp *
live_ref(LiveOp *live)
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
    g_free(live->digest);
    g_free(live->key);
    g_free(live);
}

static void
emit(CkptEngine *engine, LiveOp *live)
{
    guint64 number;

    g_mutex_lock(&engine->watch_lock);
    number = ++engine->last_event;
    for (guint i = 0; i < engine->watches->len; i++) {
        Watch *watch = g_ptr_array_index(engine->watches, i);

        watch->func(number, live->op, live->bytes_done, live->bytes_total, watch->data);
    }
    g_mutex_unlock(&engine->watch_lock);
}

/* ---- Waiters ---- */

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

/* Called with the lock held. */
static guint64
add_waiter(CkptEngine *engine, LiveOp *live, gint64 wait_us, gboolean any_end, CkptOutcomeFunc func,
           gpointer data)
{
    Waiter *waiter = g_new0(Waiter, 1);

    g_atomic_ref_count_init(&waiter->refs);
    waiter->engine = engine;
    waiter->live = live_ref(live);
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

/* What an ended operation tells those who wait for it: its stored result, or its error. */
static void
answer_from_store(CkptEngine *engine, const char *identity, const char *request_id,
                  gboolean any_end, CkptOutcomeFunc func, gpointer data)
{
    g_autoptr(GError) error = NULL;
    CkptOperation *op = ckpt_store_find_operation(engine->store, identity, request_id, &error);

    if (!op && !error)
        ckpt_error_set(&error, CKPT_REASON_INTERNAL, "operation %s is not in the store", request_id);
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

        answer_from_store(engine, request_id + CKPT_ID_LEN + 1, id, waiter->any_end, waiter->func,
                          waiter->data);
    }
    waiter_unref(waiter);
}

/* The operation has ended: its id is free for a new attempt or for replays from the store. error: what
 * the waiters are told; NULL = the stored result. */
static void
release(CkptEngine *engine, LiveOp *live, const GError *error)
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

    if (queue->busy || g_queue_is_empty(&queue->waiting) || g_atomic_int_get(&engine->stopping))
        return;
    queue->busy = TRUE;
    engine->running++;
    g_thread_pool_push(engine->pool, queue, NULL);
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

static void
on_worker(gpointer data, gpointer user_data)
{
    CkptEngine *engine = user_data;
    VmQueue *queue = data;
    LiveOp *live;
    g_autoptr(GError) error = NULL;

    g_mutex_lock(&engine->lock);
    live = g_queue_pop_head(&queue->waiting);
    g_mutex_unlock(&engine->lock);
    if (live && ckpt_engine_run(engine, live, &error) == CKPT_END_LATER) {
        put_back(queue, live);
        return;
    }
    if (live) {
        emit(engine, live);
        release(engine, live, error);
    }
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

void
ckpt_engine_emit(CkptEngine *engine, LiveOp *live)
{
    emit(engine, live);
}

/* ---- Admission ---- */

static void
refuse_reuse(const char *request_id, GError **error)
{
    ckpt_error_set(error, CKPT_REASON_REQUEST_ID_REUSED,
                   "request_id %s was used for a different request", request_id);
    ckpt_error_add(error, CKPT_META_REQUEST, request_id);
}

/* What is known of the id from earlier: TRUE if it is free (again). FALSE without an error: its stored
 * result is the answer. */
static gboolean
check_known(CkptEngine *engine, const CkptRequest *request, const char *digest, GError **error)
{
    g_autoptr(GError) why = NULL;
    g_autoptr(CkptOperation) op =
        ckpt_store_find_operation(engine->store, request->identity, request->request_id, &why);

    if (why) {
        g_propagate_error(error, g_steal_pointer(&why));
        return FALSE;
    }
    if (!op)
        return TRUE;
    if (op->state == CKPT_OP_CANCELLED && *op->digest == '\0') {
        ckpt_error_set(error, CKPT_REASON_OPERATION_CANCELLED,
                       "request_id %s was cancelled before the request arrived",
                       request->request_id);
        return FALSE;
    }
    if (op->state == CKPT_OP_FAILED)
        return TRUE;
    if (!g_str_equal(op->digest, digest)) {
        refuse_reuse(request->request_id, error);
        return FALSE;
    }
    if (op->state == CKPT_OP_CANCELLED) {
        ckpt_operation_error(op, error);
        return FALSE;
    }
    return FALSE;
}

/* Only a create names its VM; the others name a checkpoint, whose row knows. */
static gboolean
resolve_vm(CkptEngine *engine, CkptRequest *request, GError **error)
{
    g_autoptr(CkptCheckpoint) checkpoint = NULL;

    if (request->kind == CKPT_KIND_CREATE)
        return TRUE;
    checkpoint = ckpt_store_get_checkpoint(engine->store, request->checkpoint_id, error);
    if (!checkpoint) {
        ckpt_error_add(error, CKPT_META_CHECKPOINT, request->checkpoint_id);
        return FALSE;
    }
    ckpt_set_str(&request->vm_id, checkpoint->vm_id);
    return TRUE;
}

static CkptOperation *
new_operation(CkptRequest *request, const char *digest)
{
    CkptOperation *op = ckpt_operation_new();

    ckpt_set_str(&op->identity, request->identity);
    ckpt_set_str(&op->request_id, request->request_id);
    ckpt_set_str(&op->digest, digest);
    ckpt_set_str(&op->vm_id, request->vm_id);
    ckpt_set_str(&op->checkpoint_id, request->checkpoint_id ? request->checkpoint_id : "");
    op->kind = request->kind;
    op->state = CKPT_OP_QUEUED;
    op->created_us = g_get_real_time();
    op->step_begun = op->step_ended = -1;
    op->request = request;
    return op;
}

static gboolean
check_room(CkptEngine *engine, const char *vm_id, GError **error)
{
    VmQueue *queue;
    guint waiting;

    g_mutex_lock(&engine->lock);
    queue = g_hash_table_lookup(engine->queues, vm_id);
    waiting = queue ? g_queue_get_length(&queue->waiting) : 0;
    g_mutex_unlock(&engine->lock);
    if (waiting < engine->limits.max_queued_per_vm)
        return TRUE;
    ckpt_error_set(error, CKPT_REASON_QUEUE_FULL, "%u operations wait for this VM already", waiting);
    ckpt_error_set_retry_ms(error, 2000);
    return FALSE;
}

static gboolean
is_stopping(CkptEngine *engine, GError **error)
{
    if (!g_atomic_int_get(&engine->stopping))
        return FALSE;
    ckpt_error_set(error, CKPT_REASON_AGENT_STARTING, "the agent is stopping; try again");
    ckpt_error_set_retry_ms(error, 2000);
    return TRUE;
}

/* Stores the operation under its id; from then on it is the engine's to finish. Takes the request. */
static gboolean
admit(CkptEngine *engine, LiveOp *live, CkptRequest *request, GError **error)
{
    g_autoptr(CkptOperation) op = NULL;

    if (is_stopping(engine, error) || !resolve_vm(engine, request, error) ||
        !check_room(engine, request->vm_id, error)) {
        ckpt_request_free(request);
        return FALSE;
    }
    op = new_operation(request, live->digest);
    if (!ckpt_store_add_operation(engine->store, op, error))
        return FALSE;
    live->op = g_steal_pointer(&op);
    return TRUE;
}

static void
enqueue(CkptEngine *engine, LiveOp *live)
{
    VmQueue *queue;

    emit(engine, live);
    g_mutex_lock(&engine->lock);
    queue = get_queue(engine, live->op->vm_id);
    g_queue_push_tail(&queue->waiting, live_ref(live));
    run_next(queue);
    g_mutex_unlock(&engine->lock);
}

/* A first attempt, or the first since an attempt failed: live is in the map, nobody else admits it. */
static void
admit_new(CkptEngine *engine, LiveOp *live, CkptRequest *request)
{
    g_autoptr(GError) error = NULL;

    if (!check_known(engine, request, live->digest, &error)) {
        ckpt_request_free(request);
        release(engine, live, error);
        return;
    }
    if (!admit(engine, live, request, &error)) {
        release(engine, live, error);
        return;
    }
    enqueue(engine, live);
}

/* The caller wants to know only that it was accepted. created: NULL = it was already. */
static void
submit_accepted(CkptEngine *engine, LiveOp *created, CkptRequest *request, CkptOutcomeFunc func,
                gpointer data)
{
    g_autofree char *identity = g_strdup(request->identity);
    g_autofree char *request_id = g_strdup(request->request_id);
    g_autoptr(GError) error = NULL;
    gboolean fresh = FALSE;

    if (!created || !(fresh = check_known(engine, request, created->digest, &error))) {
        ckpt_request_free(request);
        if (created)
            release(engine, created, error);
    } else if (admit(engine, created, request, &error)) {
        enqueue(engine, created);
    } else {
        release(engine, created, error);
    }
    if (error)
        func(NULL, error, data);
    else
        answer_from_store(engine, identity, request_id, !created || fresh, func, data);
}

static void
validate_only(CkptEngine *engine, CkptRequest *request, CkptOutcomeFunc func, gpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptOperation) op = NULL;

    if (!resolve_vm(engine, request, &error)) {
        ckpt_request_free(request);
        func(NULL, error, data);
        return;
    }
    op = new_operation(request, "");
    if (request->kind != CKPT_KIND_UPDATE && !ckpt_engine_plan(engine, op, &error))
        func(NULL, error, data);
    else
        func(g_steal_pointer(&op), NULL, data);
}

/* Puts the caller behind the live operation of its id, or makes one (*created). FALSE: refused. */
static gboolean
attach(CkptEngine *engine, const CkptRequest *request, CkptOutcomeFunc func, gpointer data,
       LiveOp **created, guint64 *ticket)
{
    g_autofree char *key = make_key(request->identity, request->request_id);
    g_autofree char *digest = ckpt_request_digest(request);
    LiveOp *live;

    g_mutex_lock(&engine->lock);
    live = g_hash_table_lookup(engine->live, key);
    if (live && !g_str_equal(live->digest, digest)) {
        g_mutex_unlock(&engine->lock);
        return FALSE;
    }
    if (!live) {
        live = live_new(request->identity, request->request_id);
        live->digest = g_steal_pointer(&digest);
        g_hash_table_insert(engine->live, live->key, live);
        *created = live_ref(live);
    }
    if (func)
        *ticket = add_waiter(engine, live, request->wait_us, FALSE, func, data);
    g_mutex_unlock(&engine->lock);
    return TRUE;
}

guint64
ckpt_engine_submit(CkptEngine *engine, CkptRequest *request, CkptOutcomeFunc func, gpointer data)
{
    gboolean accepted = request->return_accepted;
    LiveOp *created = NULL;
    guint64 ticket = 0;

    if (request->validate_only) {
        validate_only(engine, request, func, data);
        return 0;
    }
    if (!attach(engine, request, accepted ? NULL : func, data, &created, &ticket)) {
        g_autoptr(GError) error = NULL;

        refuse_reuse(request->request_id, &error);
        ckpt_request_free(request);
        func(NULL, error, data);
        return 0;
    }
    if (accepted)
        submit_accepted(engine, created, request, func, data);
    else if (created)
        admit_new(engine, created, request);
    else
        ckpt_request_free(request);
    if (created)
        ckpt_live_unref(created);
    return ticket;
}

/* ---- Cancel ---- */

/* An id that nobody has used: the late request will be refused. */
static void
reserve_id(CkptEngine *engine, const char *identity, const char *request_id, CkptOutcomeFunc func,
           gpointer data)
{
    g_autoptr(CkptOperation) op = ckpt_operation_new();
    g_autoptr(GError) error = NULL;

    ckpt_set_str(&op->identity, identity);
    ckpt_set_str(&op->request_id, request_id);
    ckpt_set_str(&op->digest, "");
    op->state = CKPT_OP_CANCELLED;
    op->created_us = op->ended_us = g_get_real_time();
    op->step_begun = op->step_ended = -1;
    op->reason = CKPT_REASON_OPERATION_CANCELLED;
    ckpt_set_str(&op->message, "cancelled before the request arrived");
    if (!ckpt_store_add_operation(engine->store, op, &error))
        func(NULL, error, data);
    else
        func(NULL, NULL, data);
}

static void
cancel_ended(CkptEngine *engine, const char *identity, const char *request_id, CkptOutcomeFunc func,
             gpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptOperation) op =
        ckpt_store_find_operation(engine->store, identity, request_id, &error);

    if (error)
        func(NULL, error, data);
    else if (op && *op->digest)
        func(g_steal_pointer(&op), NULL, data);
    else if (op)
        func(NULL, NULL, data); /* reserved by an earlier cancel */
    else
        reserve_id(engine, identity, request_id, func, data);
}

guint64
ckpt_engine_cancel(CkptEngine *engine, const char *identity, const char *request_id, gint64 wait_us,
                   CkptOutcomeFunc func, gpointer data)
{
    g_autofree char *key = make_key(identity, request_id);
    guint64 ticket = 0;
    LiveOp *live;

    g_mutex_lock(&engine->lock);
    live = g_hash_table_lookup(engine->live, key);
    if (live) {
        g_cancellable_cancel(live->cancellable);
        if (wait_us > 0)
            ticket = add_waiter(engine, live, wait_us, TRUE, func, data);
    }
    g_mutex_unlock(&engine->lock);
    if (!live)
        cancel_ended(engine, identity, request_id, func, data);
    else if (wait_us <= 0)
        answer_from_store(engine, identity, request_id, TRUE, func, data);
    return ticket;
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
    number = engine->last_event;
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
    g_mutex_init(&engine->watch_lock);
    g_cond_init(&engine->idle);
    engine->live =
        g_hash_table_new_full(g_str_hash, g_str_equal, NULL, (GDestroyNotify)ckpt_live_unref);
    engine->tickets = g_hash_table_new(g_int64_hash, g_int64_equal);
    engine->queues = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, queue_free);
    engine->watches = g_ptr_array_new_with_free_func(g_free);
    engine->pool = g_thread_pool_new(on_worker, engine, (gint)limits->max_running, FALSE, NULL);
    return engine;
}

/* Takes up one operation that a crash, or a stop, left unfinished. */
static void
take_up(CkptEngine *engine, CkptOperation *op)
{
    LiveOp *live = live_new(op->identity, op->request_id);
    VmQueue *queue;

    live->op = op;
    live->digest = g_strdup(op->digest);
    live->recovered = TRUE;
    g_mutex_lock(&engine->lock);
    g_hash_table_insert(engine->live, live->key, live);
    queue = get_queue(engine, op->vm_id);
    g_queue_push_tail(&queue->waiting, live_ref(live));
    engine->recovering++;
    run_next(queue);
    g_mutex_unlock(&engine->lock);
}

gboolean
ckpt_engine_start(CkptEngine *engine, GError **error)
{
    gint64 horizon = g_get_real_time() - engine->limits.result_days * G_TIME_SPAN_DAY;
    g_autoptr(GPtrArray) unfinished = NULL;
    guint64 first;

    if (!ckpt_store_reserve_events(engine->store, &first, error) ||
        !ckpt_store_forget_operations(engine->store, horizon, error))
        return FALSE;
    engine->last_event = first;
    unfinished = ckpt_store_unfinished_operations(engine->store, error);
    if (!unfinished)
        return FALSE;
    g_ptr_array_set_free_func(unfinished, NULL);
    for (guint i = 0; i < unfinished->len; i++)
        take_up(engine, g_ptr_array_index(unfinished, i));
    return TRUE;
}

static void
answer_all(CkptEngine *engine)
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

void
ckpt_engine_stop(CkptEngine *engine, guint grace_ms)
{
    gint64 until = g_get_monotonic_time() + (gint64)grace_ms * 1000;
    GHashTableIter iter;
    gpointer value;

    g_mutex_lock(&engine->lock);
    g_atomic_int_set(&engine->stopping, 1);
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
    answer_all(engine);
}

void
ckpt_engine_free(CkptEngine *engine)
{
    if (!engine)
        return;
    ckpt_engine_stop(engine, 0);
    g_thread_pool_free(engine->pool, FALSE, TRUE);
    g_hash_table_unref(engine->queues);
    g_hash_table_unref(engine->live);
    g_hash_table_unref(engine->tickets);
    g_ptr_array_unref(engine->watches);
    g_mutex_clear(&engine->lock);
    g_mutex_clear(&engine->watch_lock);
    g_cond_clear(&engine->idle);
    g_free(engine);
}
