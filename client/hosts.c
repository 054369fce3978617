#include "client/command.h"
#include "client/output.h"
#include "client/query.h"

#include <stdio.h>

typedef Vmcheckpoint__V1__GetAgentInfoResponse Info;

typedef struct {
    const CkptHost *host;
    ProtobufCMessage *info; /* Info; NULL if it could not be had */
    GError *error;
    gboolean unreachable;
    guint vms;
} Row;

static void
on_info(CkptReply *reply, gpointer data)
{
    Row *row = reply->tag;

    row->info = g_steal_pointer(&reply->message);
    row->error = g_steal_pointer(&reply->error);
    row->unreachable = reply->unreachable;
}

static void
ask_info(CkptClient *client, Row *rows)
{
    Vmcheckpoint__V1__GetAgentInfoRequest request = VMCHECKPOINT__V1__GET_AGENT_INFO_REQUEST__INIT;
    g_autoptr(CkptFanout) fanout = ckpt_fanout_new(client);

    for (guint i = 0; i < client->inventory->hosts->len; i++) {
        rows[i].host = g_ptr_array_index(client->inventory->hosts, i);
        ckpt_fanout_read(fanout, rows[i].host, CKPT_METHOD("AgentService", "GetAgentInfo"),
                         &request.base, &vmcheckpoint__v1__get_agent_info_response__descriptor,
                         &rows[i], on_info, NULL);
    }
    ckpt_fanout_run(fanout);
}

/* Only of those that answered: the others would be waited for once more. */
static void
count_vms(CkptClient *client, Row *rows)
{
    Vmcheckpoint__V1__VirtualMachineFilter filter = VMCHECKPOINT__V1__VIRTUAL_MACHINE_FILTER__INIT;
    g_autoptr(GPtrArray) hosts = g_ptr_array_new(), indices = g_ptr_array_new(), answers = NULL;

    for (guint i = 0; i < client->inventory->hosts->len; i++) {
        if (!rows[i].info)
            continue;
        g_ptr_array_add(hosts, (gpointer)rows[i].host);
        g_ptr_array_add(indices, &rows[i]);
    }
    filter.placement = VMCHECKPOINT__V1__PLACEMENT__PLACEMENT_DEPLOYED;
    answers = ckpt_query_vms(client, hosts, &filter,
                             VMCHECKPOINT__V1__VIRTUAL_MACHINE_VIEW__VIRTUAL_MACHINE_VIEW_BASIC);
    for (guint i = 0; i < answers->len; i++) {
        CkptAnswer *answer = g_ptr_array_index(answers, i);
        Row *row = g_ptr_array_index(indices, i);

        row->vms = answer->items->len;
        row->error = g_steal_pointer(&answer->error);
    }
}

static void
add_row(CkptTable *table, const Row *row)
{
    const Info *info = (const void *)row->info;
    g_autofree char *mode =
        info ? ckpt_enum_word(&vmcheckpoint__v1__agent_mode__descriptor, (int)info->mode) : NULL;
    g_autofree char *vms = info && !row->error ? g_strdup_printf("%u", row->vms) : NULL;
    const char *cells[] = {row->host->name,
                           row->host->address,
                           row->unreachable ? "no" : "yes",
                           info ? info->agent_version : NULL,
                           info ? info->libvirt_version : NULL,
                           info ? info->qemu_version : NULL,
                           mode,
                           info ? info->caller_role : NULL,
                           vms};

    ckpt_table_add(table, cells);
}

static void
add_object(JsonArray *array, const Row *row)
{
    Info none = VMCHECKPOINT__V1__GET_AGENT_INFO_RESPONSE__INIT;
    JsonNode *node = ckpt_json_with_host(row->info ? row->info : &none.base, row->host->name);
    JsonObject *object = json_node_get_object(node);

    json_object_set_string_member(object, "address", row->host->address);
    json_object_set_boolean_member(object, "reachable", !row->unreachable);
    if (row->info && !row->error) /* else it is not known, which 0 would not say */
        json_object_set_int_member(object, "vmCount", row->vms);
    json_object_set_string_member(object, "error", row->error ? row->error->message : "");
    json_array_add_element(array, node);
}

static guint
print_rows(CkptClient *client, const Row *rows)
{
    static const char *const headers[] = {"HOST", "ADDRESS", "REACHABLE", "AGENT", "LIBVIRT",
                                          "QEMU", "MODE",    "ROLE",      "VMS",   NULL};
    gboolean as_table = client->settings->format == CKPT_FORMAT_TABLE;
    g_autoptr(CkptTable) table = as_table ? ckpt_table_new(headers) : NULL;
    g_autoptr(JsonArray) array = json_array_new();
    g_autofree char *text = NULL;
    guint errors = 0;

    for (guint i = 0; i < client->inventory->hosts->len; i++) {
        const Info *info = (const void *)rows[i].info;

        if (as_table)
            add_row(table, &rows[i]);
        else
            add_object(array, &rows[i]);
        if (rows[i].error)
            ckpt_report_error(rows[i].host->name, NULL, rows[i].error);
        if (info && *info->mode_reason)
            ckpt_report(rows[i].host->name, NULL, "%s", info->mode_reason);
        errors += rows[i].error != NULL;
    }
    text = as_table ? ckpt_table_text(table) : NULL;
    if (as_table)
        fputs(text, stdout);
    else
        ckpt_json_print(array);
    return errors;
}

static CkptExit
run(CkptClient *client, char **arguments)
{
    guint n = client->inventory->hosts->len, errors;
    g_autofree Row *rows = g_new0(Row, n);

    ask_info(client, rows);
    count_vms(client, rows);
    errors = print_rows(client, rows);
    for (guint i = 0; i < n; i++) {
        pb_free(rows[i].info);
        g_clear_error(&rows[i].error);
    }
    return ckpt_exit_of(n - errors, errors);
}

const CkptCommand ckpt_command_hosts = {
    .name = "hosts",
    .arguments = "",
    .summary = "shows every host of the fleet: reachable, versions, mode, your role there",
    .run = run,
};
