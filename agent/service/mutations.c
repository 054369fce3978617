/* The way of mutations and cancels: handed to the engine, waited for without a thread, answered
 * from a worker because the reply needs a look at the catalogue. */
#include "agent/service/internal.h"

#define CANCEL_WAIT_US (30 * G_USEC_PER_SEC)
#define RETRY_MS 1000
/* So much is kept of the caller's deadline for the answer's own way. */
#define DEADLINE_MARGIN_MS 250

/* One reference is the submitter's, the other belongs to whoever ends the call: the outcome's
 * worker, or the cancel that took the waiter back. The engine's forget decides between the two. */
typedef struct {
    gatomicrefcount refs;
    CkptService *service;
    CkptCall *call;
    const CkptMethod *method;
    gboolean validate_only;
    /* As the request named them, or NULL; vm_id is create's, for the look into the libraries. */
    char *vm_id, *checkpoint_id;
    char *request_id;
    guint64 ticket;           /* read by the cancel only, which is told of after it is known */
    CkptOperation *operation; /* of the outcome: this, or error; a cancel's may be neither */
    GError *error;
} Waiter;

static void
waiter_unref(Waiter *waiter)
{
    if (!g_atomic_ref_count_dec(&waiter->refs))
        return;
    ckpt_call_unref(waiter->call);
    g_free(waiter->vm_id);
    g_free(waiter->checkpoint_id);
    g_free(waiter->request_id);
    g_clear_pointer(&waiter->operation, ckpt_operation_free);
    g_clear_error(&waiter->error);
    g_free(waiter);
}

/* The engine knows deployed VMs only. One that a library has deserves the better answer; asked
 * here, after the refusal, so that a VM that is deployed as well never gets this far. */
static void
look_into_libraries(Waiter *waiter)
{
    GHashTable *metadata = ckpt_error_metadata(waiter->error);
    const char *vm_id = metadata ? g_hash_table_lookup(metadata, CKPT_META_VM) : NULL;
    g_autoptr(GError) stored = NULL;

    if (ckpt_error_reason(waiter->error) != CKPT_REASON_VM_NOT_FOUND)
        return;
    if (!vm_id)
        vm_id = waiter->vm_id;
    if (!vm_id)
        return;
    if (!ckpt_library_index_refuse(waiter->service->libraries, vm_id, &stored))
        ckpt_vm_not_found(vm_id, &stored);
    g_clear_error(&waiter->error);
    waiter->error = g_steal_pointer(&stored);
}

static const char *
either(const char *text, const char *otherwise)
{
    return text && *text ? text : otherwise;
}

/* The operation and the error know more than the request said. */
static void
audit(const Waiter *waiter, const GError *error)
{
    GHashTable *metadata = ckpt_error_metadata(error);
    const CkptOperation *operation = waiter->operation;
    const char *vm_id = metadata ? g_hash_table_lookup(metadata, CKPT_META_VM) : NULL;
    const char *checkpoint_id =
        metadata ? g_hash_table_lookup(metadata, CKPT_META_CHECKPOINT) : NULL;
    CkptAuditSubject subject = {
        .request_id = waiter->request_id,
        .vm_id = either(operation ? operation->vm_id : vm_id, waiter->vm_id),
        .checkpoint_id =
            either(operation ? operation->checkpoint_id : checkpoint_id, waiter->checkpoint_id),
        .validate_only = waiter->validate_only,
    };

    ckpt_audit(waiter->call, &subject, error);
}

void
ckpt_mutation_finish(gpointer data, gpointer user)
{
    Waiter *waiter = data;
    CkptService *service = user;

    if (!waiter->error) {
        g_autoptr(ProtobufCMessage) reply =
            waiter->method->reply(service, waiter->operation, waiter->validate_only);
        g_autoptr(GBytes) bytes = ckpt_message_pack(reply);

        audit(waiter, NULL);
        ckpt_call_finish(waiter->call, bytes, NULL);
    } else {
        look_into_libraries(waiter);
        ckpt_error_add(&waiter->error, CKPT_META_REQUEST, waiter->request_id);
        audit(waiter, waiter->error);
        ckpt_caller_fail(waiter->call, waiter->error);
    }
    waiter_unref(waiter);
}

static void
on_outcome(CkptOperation *operation, const GError *error, gpointer data)
{
    Waiter *waiter = data;

    waiter->operation = operation;
    waiter->error = error ? g_error_copy(error) : NULL;
    g_thread_pool_push(waiter->service->finishers, waiter, NULL);
}

/* The caller is gone, or the agent is stopping: then this is what it should hear. */
static void
on_cancel(CkptCall *call, gpointer data)
{
    Waiter *waiter = data;
    g_autoptr(GError) error = NULL;

    if (!ckpt_engine_forget(waiter->service->engine, waiter->ticket))
        return;
    ckpt_error_set(&error, CKPT_REASON_OPERATION_RUNNING,
                   "the call ended before the operation did; the operation goes on");
    ckpt_error_set_retry_ms(&error, RETRY_MS);
    ckpt_error_add(&error, CKPT_META_REQUEST, waiter->request_id);
    audit(waiter, error);
    ckpt_caller_fail(call, error);
    waiter_unref(waiter);
}

/* At most the cap, and below the caller's deadline, so that it hears OPERATION_RUNNING rather than
 * gRPC's DEADLINE_EXCEEDED, which says nothing. */
static gint64
bound_wait(const CkptCaller *caller, gint64 wait_us)
{
    gint64 left_ms = ckpt_call_remaining_ms(caller->call);

    wait_us = MIN(wait_us, ckpt_engine_limits(caller->service->engine)->max_wait_us);
    if (left_ms == G_MAXINT64)
        return wait_us;
    return MIN(wait_us, MAX((left_ms - DEADLINE_MARGIN_MS) * 1000, 1));
}

static Waiter *
waiter_new(const CkptCaller *caller, const char *request_id)
{
    Waiter *waiter = g_new0(Waiter, 1);

    g_atomic_ref_count_init(&waiter->refs);
    g_atomic_ref_count_inc(&waiter->refs);
    waiter->service = caller->service;
    waiter->call = ckpt_call_ref(caller->call);
    waiter->method = caller->method;
    waiter->request_id = g_strdup(request_id);
    return waiter;
}

/* The outcome may be here already; then the call is finished and this does nothing to it. */
static void
wait_for(Waiter *waiter, guint64 ticket)
{
    waiter->ticket = ticket;
    ckpt_call_on_cancel(waiter->call, on_cancel, waiter);
    waiter_unref(waiter);
}

/* One that is past would be acted on at once. Only what is new is looked at: a request that was
 * accepted gets its result also when it is sent again after that time. */
static gboolean
check_expiry(const CkptCaller *caller, const CkptRequest *request, GError **error)
{
    g_autoptr(CkptOperation) known = NULL;

    if (!request->expire_us || request->expire_us > g_get_real_time())
        return TRUE;
    known = ckpt_engine_get_operation(caller->service->engine, caller->identity,
                                      request->request_id, NULL);
    if (known && known->state != CKPT_OP_FAILED && known->state != CKPT_OP_CANCELLED)
        return TRUE;
    return ckpt_invalid(
        error, request->kind == CKPT_KIND_UPDATE ? "checkpoint.expire_time" : "expire_time",
        "is in the past");
}

gboolean
ckpt_mutation_start(const CkptCaller *caller, CkptRequest *request, GError **error)
{
    Waiter *waiter;

    if (!check_expiry(caller, request, error)) {
        ckpt_request_free(request);
        return FALSE;
    }
    waiter = waiter_new(caller, request->request_id);
    request->wait_us = bound_wait(caller, request->wait_us ? request->wait_us : G_MAXINT64);
    waiter->validate_only = request->validate_only;
    waiter->vm_id = g_strdup(request->vm_id);
    waiter->checkpoint_id = g_strdup(request->checkpoint_id);
    wait_for(waiter, ckpt_engine_submit(caller->service->engine, request, on_outcome, waiter));
    return TRUE;
}

/* OK means done, also here. */
static void
on_cancel_outcome(CkptOperation *operation, const GError *error, gpointer data)
{
    g_autoptr(GError) running = NULL;

    if (operation && (operation->state == CKPT_OP_QUEUED || operation->state == CKPT_OP_RUNNING)) {
        ckpt_error_set(&running, CKPT_REASON_OPERATION_RUNNING,
                       "the operation was asked to stop and has not ended yet");
        ckpt_error_set_retry_ms(&running, RETRY_MS);
        g_clear_pointer(&operation, ckpt_operation_free);
    }
    on_outcome(operation, running ? running : error, data);
}

/* The engine reserves an id that it does not know. Only for oneself: an admin who gets somebody
 * else's identity or id wrong must not hear that all is well. */
static gboolean
may_reserve(const CkptCaller *caller, const char *identity, gboolean is_named, const char *id,
            GError **error)
{
    CkptOperationQuery unfinished = {
        .states = 1u << CKPT_OP_QUEUED | 1u << CKPT_OP_RUNNING,
        .without_plans = TRUE,
    };
    CkptEngine *engine = caller->service->engine;
    g_autoptr(CkptOperation) known = NULL;
    g_autoptr(GPtrArray) others = NULL;
    const char *whose = NULL;

    if (!g_str_equal(identity, caller->identity)) {
        known = ckpt_engine_get_operation(engine, identity, id, error);
        return known != NULL;
    }
    if (caller->role < CKPT_ROLE_ADMIN || is_named)
        return TRUE;
    others = ckpt_engine_list_operations(engine, &unfinished, error);
    if (!others)
        return FALSE;
    for (guint i = 0; i < others->len; i++) {
        const CkptOperation *other = g_ptr_array_index(others, i);

        if (!g_str_equal(other->request_id, id))
            continue;
        if (g_str_equal(other->identity, identity))
            return TRUE;
        whose = other->identity;
    }
    return !whose ||
           ckpt_invalid(error, "identity", "is required: %s is an operation of %s", id, whose);
}

gboolean
ckpt_cancel_operation(const CkptCaller *caller, const ProtobufCMessage *base, GError **error)
{
    const PB(CancelOperationRequest) *request = (const void *)base;
    g_autofree char *id = ckpt_take_id("request_id", request->request_id, error);
    const char *identity;
    gint64 wait_us = CANCEL_WAIT_US;
    Waiter *waiter;

    if (!id || !ckpt_take_identity(caller, request->identity, &identity, error))
        return FALSE;
    if (request->wait && !ckpt_take_duration("wait", request->wait, &wait_us, error))
        return FALSE;
    if (!may_reserve(caller, identity, *request->identity != 0, id, error))
        return FALSE;
    waiter = waiter_new(caller, id);
    wait_for(waiter, ckpt_engine_cancel(caller->service->engine, identity, id,
                                        bound_wait(caller, wait_us), on_cancel_outcome, waiter));
    return TRUE;
}

/* operation NULL: the id was unknown and is reserved now. */
ProtobufCMessage *
ckpt_cancel_reply(CkptService *service, const CkptOperation *operation, gboolean validate_only)
{
    PB(CancelOperationResponse) *reply =
        ckpt_message_new(&vmcheckpoint__v1__cancel_operation_response__descriptor);

    if (operation)
        reply->operation = ckpt_give_operation(operation, 0, 0);
    return &reply->base;
}
