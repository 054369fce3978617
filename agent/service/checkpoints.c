#include "agent/service/internal.h"

#include <stdlib.h>
#include <string.h>

#define LIST_REACH_MS 2000

ProtobufCMessage *
ckpt_get_checkpoint(const CkptCaller *caller, const ProtobufCMessage *base, GError **error)
{
    const PB(GetCheckpointRequest) *request = (const void *)base;
    g_autofree char *id = ckpt_take_id("checkpoint_id", request->checkpoint_id, error);
    g_autoptr(CkptCheckpointInfo) info = NULL;
    PB(GetCheckpointResponse) * reply;

    if (!id)
        return NULL;
    info = ckpt_engine_get_checkpoint(caller->service->engine, id, TRUE, error);
    if (!info)
        return NULL;
    reply = ckpt_message_new(&vmcheckpoint__v1__get_checkpoint_response__descriptor);
    reply->checkpoint = ckpt_give_checkpoint(info, request->view);
    if (request->view != VMCHECKPOINT__V1__CHECKPOINT_VIEW__CHECKPOINT_VIEW_BASIC)
        reply->warnings = ckpt_give_strings(info->advice, &reply->n_warnings);
    return &reply->base;
}

/* Everything of the request that a page token is bound to. */
static GBytes *
bound_of(const PB(ListCheckpointsRequest) * request)
{
    PB(ListCheckpointsRequest) bound = *request;

    bound.page_size = 0;
    bound.page_token = NULL;
    return ckpt_message_pack(&bound.base);
}

/* What a query borrows while it lives. */
typedef struct {
    CkptCheckpointQuery query;
    char *vm_id, *run_id, *after_id;
} Query;

static void
query_clear(Query *query)
{
    g_clear_pointer(&query->query.labels, g_hash_table_unref);
    g_free(query->vm_id);
    g_free(query->run_id);
    g_free(query->after_id);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Query, query_clear)

static const char *
or_null(const char *text)
{
    return *text ? text : NULL;
}

static gboolean
take_filter(const PB(CheckpointFilter) * filter, Query *out, GError **error)
{
    CkptCheckpointQuery *query = &out->query;

    query->enabled = -1;
    if (!filter)
        return TRUE;
    out->vm_id = ckpt_take_optional_id("filter.vm_id", filter->vm_id, error);
    out->run_id = ckpt_take_optional_id("filter.run_id", filter->run_id, error);
    if (!out->vm_id || !out->run_id)
        return FALSE;
    query->vm_id = or_null(out->vm_id);
    query->run_id = or_null(out->run_id);
    query->vm_name = or_null(filter->vm_name);
    query->name = or_null(filter->checkpoint_name);
    query->accessibility = (CkptAccessibility)filter->accessibility;
    if (filter->enabled_presence_case ==
        VMCHECKPOINT__V1__CHECKPOINT_FILTER__ENABLED_PRESENCE_ENABLED)
        query->enabled = filter->enabled;
    query->most_recent = filter->most_recent;
    query->include_deleting = filter->include_deleting;
    query->include_moved = filter->include_moved;
    if (filter->n_labels) {
        query->labels = ckpt_take_labels("filter.labels", filter->labels, filter->n_labels, error);
        if (!query->labels)
            return FALSE;
    }
    if (filter->added_after &&
        !ckpt_take_time("filter.added_after", filter->added_after, &query->added_after_us, error))
        return FALSE;
    return !filter->added_before || ckpt_take_time("filter.added_before", filter->added_before,
                                                   &query->added_before_us, error);
}

/* A position is "ADDED_US ID". */
static void
take_position(const char *position, Query *query)
{
    const char *space = strchr(position, ' ');

    if (!space)
        return;
    query->query.after_added_us = g_ascii_strtoll(position, NULL, 10);
    query->after_id = g_strdup(space + 1);
    query->query.after_id = query->after_id;
}

/* Adds entries while the reply stays below its limit. Returns how many it took. */
static guint
add_page(PB(ListCheckpointsResponse) * reply, GPtrArray *infos, guint max, PB(CheckpointView) view)
{
    gsize bytes = 0;
    guint n = 0;

    reply->checkpoints = g_new0(PB(Checkpoint) *, MAX(MIN(infos->len, max), 1));
    while (n < infos->len && n < max && bytes < CKPT_REPLY_MAX) {
        reply->checkpoints[n] = ckpt_give_checkpoint(g_ptr_array_index(infos, n), view);
        bytes += protobuf_c_message_get_packed_size(&reply->checkpoints[n]->base) + 8;
        n++;
    }
    reply->n_checkpoints = n;
    return n;
}

ProtobufCMessage *
ckpt_list_checkpoints(const CkptCaller *caller, const ProtobufCMessage *base, GError **error)
{
    const PB(ListCheckpointsRequest) *request = (const void *)base;
    const CkptPageKey *key = caller->service->page_key;
    const char *method = ckpt_call_method(caller->call);
    PB(CheckpointView)
    view = request->view ? request->view : VMCHECKPOINT__V1__CHECKPOINT_VIEW__CHECKPOINT_VIEW_BASIC;
    g_autoptr(GBytes) bound = bound_of(request);
    g_auto(Query) query = {0};
    g_autofree char *position = NULL;
    g_autoptr(GPtrArray) infos = NULL, warnings = g_ptr_array_new_with_free_func(g_free);
    PB(ListCheckpointsResponse) * reply;
    gboolean up;
    guint size, n;

    if (!ckpt_take_page_size(request->page_size, &size, error) ||
        !take_filter(request->filter, &query, error))
        return NULL;
    position =
        ckpt_page_token_open(key, method, caller->identity, bound, request->page_token, error);
    if (!position)
        return NULL;
    take_position(position, &query);
    query.query.limit = size + 1; /* one more tells whether there is a next page */
    /* Only the looks for other tools' snapshots and at a new catalogue need it, and no list waits for one that
     * hangs. */
    up = (!query.query.vm_id && !query.query.vm_name && ckpt_engine_is_compared(caller->service->engine)) ||
         ckpt_reach_is_up(caller->service->reach, LIST_REACH_MS);
    infos = ckpt_engine_list_checkpoints(
        caller->service->engine, &query.query,
        view == VMCHECKPOINT__V1__CHECKPOINT_VIEW__CHECKPOINT_VIEW_FULL, up ? warnings : NULL, error);
    if (!infos)
        return NULL;
    if (!up)
        g_ptr_array_add(warnings, g_strdup("snapshots that other tools made are not listed: the hypervisor does "
                                           "not answer"));
    if (!up && !ckpt_engine_is_compared(caller->service->engine))
        g_ptr_array_add(warnings, g_strdup(CKPT_NOT_COMPARED));
    reply = ckpt_message_new(&vmcheckpoint__v1__list_checkpoints_response__descriptor);
    n = add_page(reply, infos, size, view);
    reply->warnings = ckpt_give_strings(warnings, &reply->n_warnings);
    if (n > 0 && n < infos->len) {
        const CkptCheckpointInfo *last = g_ptr_array_index(infos, n - 1);
        g_autofree char *next = g_strdup_printf("%" G_GINT64_FORMAT " %s",
                                                last->checkpoint->added_us, last->checkpoint->id);

        reply->next_page_token = ckpt_page_token_new(key, method, caller->identity, bound, next);
    }
    return &reply->base;
}

/* The stored result as it was, with what only the catalogue of now can tell; look: and the files. */
static PB(Checkpoint) * give_result(CkptService *service, const CkptCheckpoint *checkpoint,
                                    gboolean look)
{
    g_autoptr(CkptCheckpointInfo) now = NULL;
    CkptCheckpointInfo info = {0};

    if (!checkpoint)
        return NULL;
    now = ckpt_engine_get_checkpoint(service->engine, checkpoint->id, look, NULL);
    if (now) {
        info = *now;
        /* Sizes are by disk: another number of disks cannot be, but would be read out of bounds. */
        if (now->checkpoint->disks->len != checkpoint->disks->len)
            info.allocated_bytes = NULL;
    }
    /* Borrowed, and not changed. */
    info.checkpoint = (CkptCheckpoint *)checkpoint;
    return ckpt_give_checkpoint(&info, VMCHECKPOINT__V1__CHECKPOINT_VIEW__CHECKPOINT_VIEW_FULL);
}

static gboolean
has_result(const CkptOperation *operation, gboolean validate_only)
{
    return !validate_only && operation->state == CKPT_OP_SUCCEEDED;
}

/* What was only planned is no operation: nobody could ask for it. */
static PB(Operation) * give_operation(const CkptOperation *operation, gboolean validate_only)
{
    return validate_only ? NULL : ckpt_give_operation(operation, 0, 0);
}

static char **
give_warnings(const CkptOperation *operation, gboolean validate_only, gsize *n)
{
    return ckpt_give_strings(
        validate_only && operation->plan ? operation->plan->warnings : operation->warnings, n);
}

ProtobufCMessage *
ckpt_create_reply(CkptService *service, const CkptOperation *operation, gboolean validate_only)
{
    PB(CreateCheckpointResponse) *reply =
        ckpt_message_new(&vmcheckpoint__v1__create_checkpoint_response__descriptor);

    if (has_result(operation, validate_only))
        reply->checkpoint = give_result(service, operation->checkpoint, TRUE);
    reply->operation = give_operation(operation, validate_only);
    if (validate_only)
        reply->plan = ckpt_give_plan(operation->plan, &reply->n_plan);
    reply->warnings = give_warnings(operation, validate_only, &reply->n_warnings);
    return &reply->base;
}

ProtobufCMessage *
ckpt_update_reply(CkptService *service, const CkptOperation *operation, gboolean validate_only)
{
    PB(UpdateCheckpointResponse) *reply =
        ckpt_message_new(&vmcheckpoint__v1__update_checkpoint_response__descriptor);

    if (has_result(operation, validate_only))
        reply->checkpoint = give_result(service, operation->checkpoint, FALSE);
    reply->operation = give_operation(operation, validate_only);
    return &reply->base;
}

ProtobufCMessage *
ckpt_restore_reply(CkptService *service, const CkptOperation *operation, gboolean validate_only)
{
    PB(RestoreCheckpointResponse) *reply =
        ckpt_message_new(&vmcheckpoint__v1__restore_checkpoint_response__descriptor);

    if (has_result(operation, validate_only)) {
        reply->checkpoint = give_result(service, operation->checkpoint, TRUE);
        reply->safety_checkpoint = give_result(service, operation->safety, TRUE);
    }
    reply->operation = give_operation(operation, validate_only);
    if (validate_only)
        reply->plan = ckpt_give_plan(operation->plan, &reply->n_plan);
    reply->warnings = give_warnings(operation, validate_only, &reply->n_warnings);
    return &reply->base;
}

ProtobufCMessage *
ckpt_delete_reply(CkptService *service, const CkptOperation *operation, gboolean validate_only)
{
    PB(DeleteCheckpointResponse) *reply =
        ckpt_message_new(&vmcheckpoint__v1__delete_checkpoint_response__descriptor);

    if (has_result(operation, validate_only))
        reply->checkpoint = give_result(service, operation->checkpoint, TRUE);
    reply->operation = give_operation(operation, validate_only);
    if (validate_only) {
        reply->plan = ckpt_give_plan(operation->plan, &reply->n_plan);
        reply->forecast = ckpt_give_forecast(operation->plan ? operation->plan->forecast : NULL);
    }
    reply->warnings = give_warnings(operation, validate_only, &reply->n_warnings);
    return &reply->base;
}
