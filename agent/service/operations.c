#include "agent/service/internal.h"

#include <string.h>

#define SNAPSHOT_MAX 4096 /* operations that a filter may match when a watch begins */

static gboolean
has_ended(const CkptOperation *operation)
{
    return operation->state == CKPT_OP_SUCCEEDED || operation->state == CKPT_OP_FAILED ||
           operation->state == CKPT_OP_CANCELLED;
}

gboolean
ckpt_take_identity(const CkptCaller *caller, const char *asked, const char **identity,
                   GError **error)
{
    *identity = *asked ? asked : caller->identity;
    if (caller->role >= CKPT_ROLE_ADMIN || g_str_equal(*identity, caller->identity))
        return TRUE;
    ckpt_error_set(error, CKPT_REASON_ACCESS_DENIED, "%s is %s; operations of others need admin",
                   caller->identity, ckpt_role_name(caller->role));
    return FALSE;
}

ProtobufCMessage *
ckpt_get_operation(const CkptCaller *caller, const ProtobufCMessage *base, GError **error)
{
    const PB(GetOperationRequest) *request = (const void *)base;
    const char *identity;
    g_autofree char *id = ckpt_take_id("request_id", request->request_id, error);
    g_autoptr(CkptOperation) operation = NULL;
    PB(GetOperationResponse) * reply;

    if (!id || !ckpt_take_identity(caller, request->identity, &identity, error))
        return NULL;
    operation = ckpt_engine_get_operation(caller->service->engine, identity, id, error);
    if (!operation)
        return NULL;
    reply = ckpt_message_new(&vmcheckpoint__v1__get_operation_response__descriptor);
    reply->operation = ckpt_give_operation(operation, operation->bytes_done, operation->bytes_total);
    return &reply->base;
}

/* ---- Filters ---- */

typedef struct {
    const char *identity;        /* NULL = everybody's */
    char *vm_id, *checkpoint_id; /* "" = any */
    guint states;
} Filter;

static void
filter_clear(Filter *filter)
{
    g_clear_pointer(&filter->vm_id, g_free);
    g_clear_pointer(&filter->checkpoint_id, g_free);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Filter, filter_clear)

static gboolean
take_filter(const CkptCaller *caller, const PB(OperationFilter) * message, Filter *filter,
            GError **error)
{
    filter->identity = caller->role >= CKPT_ROLE_ADMIN ? NULL : caller->identity;
    filter->vm_id = ckpt_take_optional_id("filter.vm_id", message ? message->vm_id : "", error);
    if (!filter->vm_id)
        return FALSE;
    filter->checkpoint_id =
        ckpt_take_optional_id("filter.checkpoint_id", message ? message->checkpoint_id : "", error);
    if (!filter->checkpoint_id)
        return FALSE;
    for (gsize i = 0; message && i < message->n_states; i++)
        filter->states |= 1u << message->states[i];
    /* UNSPECIFIED is no state: it alone would match nothing. */
    if (filter->states & 1u)
        return ckpt_invalid(error, "filter.states", "has an unspecified state");
    return TRUE;
}

static CkptOperationQuery
query_of(const Filter *filter)
{
    CkptOperationQuery query = {
        .identity = filter->identity,
        .vm_id = *filter->vm_id ? filter->vm_id : NULL,
        .checkpoint_id = *filter->checkpoint_id ? filter->checkpoint_id : NULL,
        .states = filter->states,
        .without_plans = TRUE,
    };

    return query;
}

static gboolean
filter_matches(const Filter *filter, const CkptOperation *operation)
{
    if (filter->identity && !g_str_equal(filter->identity, operation->identity))
        return FALSE;
    if (*filter->vm_id && g_strcmp0(filter->vm_id, operation->vm_id) != 0)
        return FALSE;
    if (*filter->checkpoint_id && g_strcmp0(filter->checkpoint_id, operation->checkpoint_id) != 0)
        return FALSE;
    return !filter->states || (filter->states & (1u << operation->state));
}

/* ---- ListOperations ---- */

static GBytes *
bound_of(const PB(ListOperationsRequest) * request)
{
    PB(ListOperationsRequest) bound = *request;

    bound.page_size = 0;
    bound.page_token = NULL;
    return ckpt_message_pack(&bound.base);
}

/* Listed ones come without their plans; the few that run are read again, for the step they are at.
 */
static PB(Operation) * give_listed(CkptEngine *engine, const CkptOperation *operation)
{
    g_autoptr(CkptOperation) running = NULL;

    if (operation->state == CKPT_OP_RUNNING)
        running =
            ckpt_engine_get_operation(engine, operation->identity, operation->request_id, NULL);
    if (running)
        operation = running;
    return ckpt_give_operation(operation, operation->bytes_done, operation->bytes_total);
}

static guint
add_page(PB(ListOperationsResponse) * reply, CkptEngine *engine, GPtrArray *operations, guint size)
{
    gsize bytes = 0;
    guint n = 0;

    reply->operations = g_new0(PB(Operation) *, size);
    while (n < operations->len && n < size && bytes < CKPT_REPLY_MAX) {
        reply->operations[n] = give_listed(engine, g_ptr_array_index(operations, n));
        bytes += protobuf_c_message_get_packed_size(&reply->operations[n]->base) + 8;
        n++;
    }
    reply->n_operations = n;
    return n;
}

ProtobufCMessage *
ckpt_list_operations(const CkptCaller *caller, const ProtobufCMessage *base, GError **error)
{
    const PB(ListOperationsRequest) *request = (const void *)base;
    const CkptPageKey *key = caller->service->page_key;
    const char *method = ckpt_call_method(caller->call);
    g_autoptr(GBytes) bound = bound_of(request);
    g_auto(Filter) filter = {0};
    g_autofree char *position = NULL;
    g_autoptr(GPtrArray) operations = NULL;
    CkptOperationQuery query;
    PB(ListOperationsResponse) * reply;
    guint size, n;

    if (!ckpt_take_page_size(request->page_size, &size, error) ||
        !take_filter(caller, request->filter, &filter, error))
        return NULL;
    position =
        ckpt_page_token_open(key, method, caller->identity, bound, request->page_token, error);
    if (!position)
        return NULL;
    query = query_of(&filter);
    query.after_number = g_ascii_strtoll(position, NULL, 10);
    query.limit = size + 1;
    operations = ckpt_engine_list_operations(caller->service->engine, &query, error);
    if (!operations)
        return NULL;
    reply = ckpt_message_new(&vmcheckpoint__v1__list_operations_response__descriptor);
    n = add_page(reply, caller->service->engine, operations, size);
    if (n > 0 && n < operations->len) {
        const CkptOperation *last = g_ptr_array_index(operations, n - 1);
        g_autofree char *next = g_strdup_printf("%" G_GINT64_FORMAT, last->number);

        reply->next_page_token = ckpt_page_token_new(key, method, caller->identity, bound, next);
    }
    return &reply->base;
}

/* ---- WatchOperations ---- */

typedef struct {
    char *identity;
    GHashTable *left; /* request_ids whose end was not seen yet; NULL = by filter */
    gboolean until_done;
    Filter filter;
} Watch;

static void
watch_free(gpointer data)
{
    Watch *watch = data;

    g_clear_pointer(&watch->left, g_hash_table_unref);
    filter_clear(&watch->filter);
    g_free(watch->identity);
    g_free(watch);
}

static GBytes *
pack_event(guint64 number, const CkptOperation *operation, guint64 bytes_done, guint64 bytes_total,
           gboolean resume)
{
    g_autoptr(ProtobufCMessage) owner =
        ckpt_message_new(&vmcheckpoint__v1__watch_operations_response__descriptor);
    PB(WatchOperationsResponse) *message = (void *)owner;

    message->event = number;
    message->resume = resume;
    if (operation)
        message->operation = ckpt_give_operation(operation, bytes_done, bytes_total);
    return ckpt_message_pack(owner);
}

static gboolean
is_watched(const Watch *watch, const CkptOperation *operation)
{
    if (!watch->left)
        return filter_matches(&watch->filter, operation);
    return g_str_equal(operation->identity, watch->identity) &&
           g_hash_table_contains(watch->left, operation->request_id);
}

static void
note_end(CkptStream *stream, Watch *watch, const CkptOperation *operation)
{
    if (!watch->left || !has_ended(operation))
        return;
    /* Only a watch that ends with them may forget them: a failed id can be used again. */
    if (watch->until_done)
        g_hash_table_remove(watch->left, operation->request_id);
    if (watch->until_done && g_hash_table_size(watch->left) == 0)
        ckpt_stream_close(stream);
}

static void
on_event(CkptStream *stream, guint64 number, const CkptOperation *operation, guint64 bytes_done,
         guint64 bytes_total, gpointer data)
{
    Watch *watch = data;
    g_autoptr(GBytes) message = NULL;

    if (!is_watched(watch, operation))
        return;
    message = pack_event(number, operation, bytes_done, bytes_total, FALSE);
    ckpt_stream_push(stream, number, message);
    note_end(stream, watch, operation);
}

static GBytes *
farewell(guint64 last, gpointer data)
{
    return pack_event(last, NULL, 0, 0, TRUE);
}

static const CkptStreamType watch_type = {
    .event = on_event, .farewell = farewell, .free = watch_free};

/* The present state of what is watched. NULL and an error, or the operations. */
static GPtrArray *
present_by_ids(CkptEngine *engine, const char *identity, const PB(WatchOperationsRequest) * request,
               GError **error)
{
    g_autoptr(GPtrArray) operations =
        g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_operation_free);

    for (gsize i = 0; i < request->n_request_ids; i++) {
        g_autofree char *id = ckpt_take_id("request_ids", request->request_ids[i], error);
        g_autoptr(GError) local = NULL;
        CkptOperation *operation;

        if (!id)
            return NULL;
        operation = ckpt_engine_get_operation(engine, identity, id, &local);
        if (operation) {
            g_ptr_array_add(operations, operation);
        } else if (ckpt_error_reason(local) != CKPT_REASON_OPERATION_NOT_FOUND) {
            g_propagate_error(error, g_steal_pointer(&local));
            return NULL;
        }
    }
    return g_steal_pointer(&operations);
}

static GPtrArray *
present_by_filter(CkptEngine *engine, const Filter *filter, GError **error)
{
    CkptOperationQuery query = query_of(filter);
    g_autoptr(GPtrArray) operations = NULL;

    query.limit = SNAPSHOT_MAX + 1;
    operations = ckpt_engine_list_operations(engine, &query, error);
    if (!operations)
        return NULL;
    if (operations->len > SNAPSHOT_MAX) {
        ckpt_invalid(error, "filter",
                     "matches more than %d operations: narrow it by states, or page through "
                     "ListOperations first",
                     SNAPSHOT_MAX);
        return NULL;
    }
    return g_steal_pointer(&operations);
}

static gboolean
take_watch(const CkptCaller *caller, const PB(WatchOperationsRequest) * request, Watch *watch,
           GError **error)
{
    const char *identity;

    watch->until_done = request->until_done;
    if (!ckpt_take_identity(caller, request->identity, &identity, error))
        return FALSE;
    watch->identity = g_strdup(identity);
    if ((request->n_request_ids > 0) == (request->filter != NULL))
        return ckpt_invalid(error, "request_ids", "or filter is required, and only one of them");
    if (!take_filter(caller, request->filter, &watch->filter, error))
        return FALSE;
    /* The caller's own string ends with its call; this one with the stream. */
    if (watch->filter.identity)
        watch->filter.identity = watch->identity;
    if (request->filter && *request->identity)
        return ckpt_invalid(error, "identity", "goes with request_ids, not with a filter");
    if (request->filter)
        return !request->until_done ||
               ckpt_invalid(error, "until_done", "needs request_ids: a filter is never done");
    watch->left = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    for (gsize i = 0; i < request->n_request_ids; i++) {
        char *id = ckpt_take_id("request_ids", request->request_ids[i], error);

        if (!id)
            return FALSE;
        g_hash_table_add(watch->left, id);
    }
    return TRUE;
}

static void
push_state(CkptStream *stream, const CkptOperation *operation, guint64 number)
{
    g_autoptr(GBytes) message = pack_event(number, operation, 0, 0, FALSE);

    ckpt_stream_push(stream, number, message);
}

/* quiet: the caller has seen all of it, only the ends count. The number is in the last message
 * only: who has it has everything up to it. */
static void
push_present(CkptStream *stream, Watch *watch, GPtrArray *operations, guint64 number,
             gboolean quiet)
{
    const CkptOperation *last = NULL;

    ckpt_stream_lock(stream);
    for (guint i = 0; i < operations->len; i++) {
        const CkptOperation *operation = g_ptr_array_index(operations, i);

        /* Its end was an event meanwhile, and stands in the queue. */
        if (!is_watched(watch, operation))
            continue;
        if (last)
            push_state(stream, last, 0);
        last = quiet ? NULL : operation;
        note_end(stream, watch, operation);
    }
    if (last)
        push_state(stream, last, number);
    ckpt_stream_unlock(stream);
}

gboolean
ckpt_watch_operations(const CkptCaller *caller, const ProtobufCMessage *base, GError **error)
{
    const PB(WatchOperationsRequest) *request = (const void *)base;
    CkptEngine *engine = caller->service->engine;
    Watch *watch = g_new0(Watch, 1);
    g_autoptr(CkptStream) stream = NULL;
    g_autoptr(GPtrArray) present = NULL;
    g_autoptr(GError) failed = NULL;
    guint64 number;

    if (!take_watch(caller, request, watch, error)) {
        watch_free(watch);
        return FALSE;
    }
    /* In this order nothing is lost: what happens after the number is an event, what happened
     * before it is in the present state. */
    number = ckpt_engine_last_event(engine);
    stream = ckpt_stream_new(caller->service->watches, caller->call, &watch_type, watch,
                             CKPT_STREAM_AGE_S * 1000, error);
    if (!stream)
        return FALSE;
    present = request->filter ? present_by_filter(engine, &watch->filter, &failed)
                              : present_by_ids(engine, watch->identity, request, &failed);
    if (!present) {
        ckpt_stream_end(stream, failed);
        return TRUE;
    }
    push_present(stream, watch, present, number, request->after_event >= MAX(number, 1));
    ckpt_stream_begin(stream, number);
    return TRUE;
}
