/* How a request becomes an operation: named by its request_id, before anything else happens. */
#include "agent/core/engine_internal.h"
#include "agent/core/foreign.h"

#include "agent/model/json.h"

static void
refuse_reuse(const char *request_id, GError **error)
{
    ckpt_error_set(error, CKPT_REASON_REQUEST_ID_REUSED,
                   "request_id %s was used for a different request", request_id);
    ckpt_error_add(error, CKPT_META_REQUEST, request_id);
}

/* What is known of the id from earlier: TRUE if it is free (again); *failed is then the attempt that
 * failed, if there was one. FALSE without an error: its stored result is the answer. */
static gboolean
check_known(CkptEngine *engine, const CkptRequest *request, const char *digest,
            CkptOperation **failed, GError **error)
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
    if (op->state == CKPT_OP_FAILED &&
        (!ckpt_operation_has_begun_delete(op) || g_str_equal(op->digest, digest))) {
        *failed = g_steal_pointer(&op);
        return TRUE;
    }
    if (op->state == CKPT_OP_CANCELLED && *op->digest == '\0')
        ckpt_error_set(error, CKPT_REASON_OPERATION_CANCELLED,
                       "request_id %s was cancelled before the request arrived",
                       request->request_id);
    else if (!g_str_equal(op->digest, digest))
        refuse_reuse(request->request_id, error);
    else if (op->state == CKPT_OP_CANCELLED)
        ckpt_operation_error(op, error);
    return FALSE;
}

/* Only a create names its VM; the others name a checkpoint, whose row knows. */
static gboolean
resolve_vm(CkptEngine *engine, CkptRequest *request, GError **error)
{
    g_autoptr(CkptCheckpoint) checkpoint = NULL;
    g_autoptr(GError) why = NULL;

    if (request->kind == CKPT_KIND_CREATE || request->kind == CKPT_KIND_REPAIR)
        return TRUE;
    checkpoint = ckpt_store_get_checkpoint(engine->store, request->checkpoint_id, &why);
    if (!checkpoint && ckpt_error_reason(why) == CKPT_REASON_CHECKPOINT_NOT_FOUND &&
        ckpt_foreign_refuse(engine, request->checkpoint_id, error))
        return FALSE;
    if (!checkpoint) {
        g_propagate_error(error, g_steal_pointer(&why));
        ckpt_error_add(error, CKPT_META_CHECKPOINT, request->checkpoint_id);
        return FALSE;
    }
    ckpt_set_str(&request->vm_id, checkpoint->vm_id);
    return TRUE;
}

static gboolean
may_be_changed(CkptEngine *engine, const CkptRequest *request, GError **error)
{
    return request->kind == CKPT_KIND_REPAIR || ckpt_unread_check(engine, request->vm_id, error);
}

static CkptOperation *
new_operation(CkptRequest *request, const char *digest)
{
    CkptOperation *op = ckpt_operation_new();

    ckpt_set_str(&op->identity, request->identity);
    ckpt_set_str(&op->request_id, request->request_id);
    ckpt_set_str(&op->digest, digest);
    ckpt_set_str(&op->vm_id, request->vm_id ? request->vm_id : "");
    ckpt_set_str(&op->checkpoint_id, request->checkpoint_id ? request->checkpoint_id : "");
    op->kind = request->kind;
    op->state = CKPT_OP_QUEUED;
    op->created_us = g_get_real_time();
    op->step_begun = op->step_ended = -1;
    op->request = request;
    return op;
}

static gboolean
check_room(CkptEngine *engine, const CkptRequest *request, GError **error)
{
    guint waiting = ckpt_engine_queued(
        engine, request->kind == CKPT_KIND_REPAIR ? CKPT_HOST_QUEUE : request->vm_id);

    if (request->kind == CKPT_KIND_UPDATE || waiting < engine->limits.max_queued_per_vm)
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

/* The new attempt takes the failed one's place in the store, and with it the only plan by which a delete
 * that has begun can be finished. */
static void
inherit(CkptOperation *op, CkptOperation *failed)
{
    if (!failed || !ckpt_operation_has_begun_delete(failed))
        return;
    op->plan = g_steal_pointer(&failed->plan);
    op->step_begun = failed->step_begun;
    op->step_ended = failed->step_ended;
}

/* Stores the operation under its id; from then on it is the engine's to finish. Takes the request. */
static gboolean
admit(CkptEngine *engine, LiveOp *live, CkptRequest *request, CkptOperation *failed, GError **error)
{
    g_autoptr(CkptOperation) op = NULL;

    if (is_stopping(engine, error) ||
        (request->kind != CKPT_KIND_REPAIR && !ckpt_rebuild_check(engine, error)) ||
        !resolve_vm(engine, request, error) || !may_be_changed(engine, request, error) ||
        !check_room(engine, request, error)) {
        ckpt_request_free(request);
        return FALSE;
    }
    op = new_operation(request, live->digest);
    inherit(op, failed);
    if (!ckpt_store_add_operation(engine->store, op, error))
        return FALSE;
    live->op = g_steal_pointer(&op);
    return TRUE;
}

static void
enqueue(CkptEngine *engine, LiveOp *live)
{
    ckpt_engine_emit(engine, live);
    ckpt_engine_enqueue(engine, live);
}

/* A first attempt, or the first since an attempt failed: live is in the map, nobody else admits it. */
static void
admit_new(CkptEngine *engine, LiveOp *live, CkptRequest *request)
{
    g_autoptr(CkptOperation) failed = NULL;
    g_autoptr(GError) error = NULL;

    if (!check_known(engine, request, live->digest, &failed, &error)) {
        ckpt_request_free(request);
        ckpt_waiters_release(engine, live, error);
        return;
    }
    if (!admit(engine, live, request, failed, &error)) {
        ckpt_waiters_release(engine, live, error);
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
    g_autoptr(CkptOperation) failed = NULL;
    g_autoptr(GError) error = NULL;
    gboolean fresh = FALSE;

    if (!created || !(fresh = check_known(engine, request, created->digest, &failed, &error))) {
        ckpt_request_free(request);
        if (created)
            ckpt_waiters_release(engine, created, error);
    } else if (admit(engine, created, request, failed, &error)) {
        enqueue(engine, created);
    } else {
        ckpt_waiters_release(engine, created, error);
    }
    if (error)
        func(NULL, error, data);
    else
        ckpt_answer_from_store(engine, identity, request_id, !created || fresh, func, data);
}

/* What only the hypervisor can tell: a refusal after the plan was shown would be of no use. */
static gboolean
ask_driver(CkptEngine *engine, const CkptOperation *op, GError **error)
{
    for (guint i = 0; i < op->plan->steps->len; i++) {
        CkptStep *step = g_ptr_array_index(op->plan->steps, i);

        if (step->kind == CKPT_STEP_CHECK_MEMORY &&
            !engine->driver->step_do(engine->driver, op->plan, step, NULL, NULL, NULL, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean
foresee(CkptEngine *engine, CkptOperation *op, GError **error)
{
    if (op->kind == CKPT_KIND_REPAIR)
        return ckpt_repair_foresee(engine, op, error);
    if (op->kind == CKPT_KIND_UPDATE)
        return TRUE;
    return ckpt_engine_plan(engine, op, TRUE, error) && ask_driver(engine, op, error);
}

static void
validate_only(CkptEngine *engine, CkptRequest *request, CkptOutcomeFunc func, gpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptOperation) op = NULL;

    if ((request->kind != CKPT_KIND_REPAIR && !ckpt_rebuild_check(engine, &error)) ||
        !resolve_vm(engine, request, &error) || !may_be_changed(engine, request, &error)) {
        ckpt_request_free(request);
        func(NULL, error, data);
        return;
    }
    op = new_operation(request, "");
    if (!foresee(engine, op, &error))
        func(NULL, error, data);
    else
        func(g_steal_pointer(&op), NULL, data);
}

/* Puts the caller behind the live operation of its id, or makes one (*created). FALSE: refused. */
static gboolean
attach(CkptEngine *engine, const CkptRequest *request, CkptOutcomeFunc func, gpointer data,
       LiveOp **created, guint64 *ticket)
{
    g_autofree char *key = ckpt_live_key(request->identity, request->request_id);
    g_autofree char *digest = ckpt_request_digest(request);
    LiveOp *live;

    g_mutex_lock(&engine->lock);
    live = g_hash_table_lookup(engine->live, key);
    if (live && !g_str_equal(live->digest, digest)) {
        g_mutex_unlock(&engine->lock);
        return FALSE;
    }
    if (!live) {
        live = ckpt_live_new(request->identity, request->request_id);
        live->digest = g_steal_pointer(&digest);
        g_hash_table_insert(engine->live, live->key, live);
        *created = ckpt_live_ref(live);
    }
    if (func)
        *ticket = ckpt_waiters_add(engine, live, request->wait_us, FALSE, func, data);
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
    g_autofree char *key = ckpt_live_key(identity, request_id);
    guint64 ticket = 0;
    LiveOp *live;

    g_mutex_lock(&engine->lock);
    live = g_hash_table_lookup(engine->live, key);
    if (live) {
        g_cancellable_cancel(live->cancellable);
        if (wait_us > 0)
            ticket = ckpt_waiters_add(engine, live, wait_us, TRUE, func, data);
    }
    g_mutex_unlock(&engine->lock);
    if (!live)
        cancel_ended(engine, identity, request_id, func, data);
    else if (wait_us <= 0)
        ckpt_answer_from_store(engine, identity, request_id, TRUE, func, data);
    return ticket;
}
