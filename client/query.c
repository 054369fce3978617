#include "client/query.h"

#define PAGE_SIZE 500
#define PAGES_MAX 2000 /* a million entries: more is an agent that never ends */

typedef struct {
    CkptFanout *fanout;
    const char *method;
    const ProtobufCMessageDescriptor *reply_type;
    ProtobufCMessage *request;
    char **token; /* request's page_token */
    /* Adds a page's items; returns its next_page_token. */
    const char *(*take)(const ProtobufCMessage *page, GPtrArray *items);
} Query;

static void
answer_free(gpointer data)
{
    CkptAnswer *answer = data;

    g_ptr_array_unref(answer->items);
    g_ptr_array_unref(answer->pages);
    g_clear_error(&answer->error);
    g_free(answer);
}

static void on_page(CkptReply *reply, gpointer data);

static void
ask(Query *query, CkptAnswer *answer, const char *token)
{
    *query->token = (char *)token;
    ckpt_fanout_read(query->fanout, answer->host, query->method, query->request, query->reply_type,
                     answer, on_page, query);
}

static void
on_page(CkptReply *reply, gpointer data)
{
    Query *query = data;
    CkptAnswer *answer = reply->tag;
    const char *token;

    if (reply->outcome != CKPT_OUTCOME_DONE) {
        answer->error = g_steal_pointer(&reply->error);
        answer->unreachable = reply->unreachable;
        return;
    }
    token = query->take(reply->message, answer->items);
    g_ptr_array_add(answer->pages, g_steal_pointer(&reply->message));
    if (!*token)
        return;
    if (answer->pages->len < PAGES_MAX)
        ask(query, answer, token);
    else
        ckpt_error_set(&answer->error, CKPT_REASON_INTERNAL, "the list does not end");
}

static GPtrArray *
run(CkptClient *client, GPtrArray *hosts, Query *query)
{
    g_autoptr(CkptFanout) fanout = ckpt_fanout_new(client);
    GPtrArray *answers = g_ptr_array_new_with_free_func(answer_free);

    query->fanout = fanout;
    for (guint i = 0; i < hosts->len; i++) {
        CkptAnswer *answer = g_new0(CkptAnswer, 1);

        answer->host = g_ptr_array_index(hosts, i);
        answer->items = g_ptr_array_new();
        answer->pages = g_ptr_array_new_with_free_func(pb_free);
        g_ptr_array_add(answers, answer);
        ask(query, answer, "");
    }
    ckpt_fanout_run(fanout);
    return answers;
}

static const char *
take_vms(const ProtobufCMessage *page, GPtrArray *items)
{
    const Vmcheckpoint__V1__ListVirtualMachinesResponse *reply = (const void *)page;

    for (gsize i = 0; i < reply->n_virtual_machines; i++)
        g_ptr_array_add(items, reply->virtual_machines[i]);
    return reply->next_page_token;
}

GPtrArray *
ckpt_query_vms(CkptClient *client, GPtrArray *hosts, Vmcheckpoint__V1__VirtualMachineFilter *filter,
               Vmcheckpoint__V1__VirtualMachineView view)
{
    Vmcheckpoint__V1__ListVirtualMachinesRequest request =
        VMCHECKPOINT__V1__LIST_VIRTUAL_MACHINES_REQUEST__INIT;
    Query query = {
        .method = CKPT_METHOD("VirtualMachineService", "ListVirtualMachines"),
        .reply_type = &vmcheckpoint__v1__list_virtual_machines_response__descriptor,
        .request = &request.base,
        .token = &request.page_token,
        .take = take_vms,
    };

    request.filter = filter;
    request.page_size = PAGE_SIZE;
    request.view = view;
    return run(client, hosts, &query);
}

static const char *
take_checkpoints(const ProtobufCMessage *page, GPtrArray *items)
{
    const Vmcheckpoint__V1__ListCheckpointsResponse *reply = (const void *)page;

    for (gsize i = 0; i < reply->n_checkpoints; i++)
        g_ptr_array_add(items, reply->checkpoints[i]);
    return reply->next_page_token;
}

GPtrArray *
ckpt_query_checkpoints(CkptClient *client, GPtrArray *hosts,
                       Vmcheckpoint__V1__CheckpointFilter *filter)
{
    Vmcheckpoint__V1__ListCheckpointsRequest request =
        VMCHECKPOINT__V1__LIST_CHECKPOINTS_REQUEST__INIT;
    Query query = {
        .method = CKPT_METHOD("CheckpointService", "ListCheckpoints"),
        .reply_type = &vmcheckpoint__v1__list_checkpoints_response__descriptor,
        .request = &request.base,
        .token = &request.page_token,
        .take = take_checkpoints,
    };

    request.filter = filter;
    request.page_size = PAGE_SIZE;
    return run(client, hosts, &query);
}

guint
ckpt_answers_report(GPtrArray *answers)
{
    guint errors = 0;

    for (guint i = 0; i < answers->len; i++) {
        const CkptAnswer *answer = g_ptr_array_index(answers, i);

        if (!answer->error)
            continue;
        ckpt_report_error(answer->host->name, NULL, answer->error);
        errors++;
    }
    return errors;
}
