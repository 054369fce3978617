#include "client/command.h"
#include "client/fanout.h"
#include "client/output.h"
#include "common/id.h"
#include "common/text.h"

#include <stdio.h>

typedef struct {
    const CkptHost *host;
    PbOperation *operation; /* within reply */
    ProtobufCMessage *reply;
    guint errors;
} Search;

static void
on_operation(CkptReply *reply, gpointer data)
{
    Search *search = data;
    const Vmcheckpoint__V1__GetOperationResponse *response = (const void *)reply->message;

    if (reply->outcome == CKPT_OUTCOME_DONE && response->operation && !search->operation) {
        search->host = reply->host;
        search->operation = response->operation;
        search->reply = g_steal_pointer(&reply->message);
    } else if (reply->outcome != CKPT_OUTCOME_DONE &&
               ckpt_error_reason(reply->error) != CKPT_REASON_OPERATION_NOT_FOUND) {
        search->errors++;
        ckpt_report_error(reply->host->name, NULL, reply->error);
    }
}

/* "6/9 merge …, 42% (5.0 MiB of 12.0 MiB)" */
static char *
step_cell(const PbOperation *operation)
{
    g_autofree char *done = ckpt_size_text(operation->bytes_done);
    g_autofree char *total = ckpt_size_text(operation->bytes_total);
    g_autofree char *percent = NULL;

    if (operation->bytes_total > 0)
        percent = g_strdup_printf(
            ", %.0f%% (%s of %s)",
            100.0 * (double)operation->bytes_done / (double)operation->bytes_total, done, total);
    return g_strdup_printf("%u/%u %s%s", operation->step, operation->steps_total,
                           operation->step_description, percent ? percent : "");
}

static void
print_table(const CkptHost *host, const PbOperation *operation)
{
    static const char *const headers[] = {"HOST",          "KIND",        "STATE", "VM ID",
                                          "CHECKPOINT ID", "BEGUN (UTC)", "STEP",  NULL};
    g_autoptr(CkptTable) table = ckpt_table_new(headers);
    g_autofree char *kind =
        ckpt_enum_word(&vmcheckpoint__v1__operation_kind__descriptor, (int)operation->kind);
    g_autofree char *state =
        ckpt_enum_word(&vmcheckpoint__v1__operation_state__descriptor, (int)operation->state);
    g_autofree char *begun = ckpt_time_cell(operation->create_time);
    g_autofree char *step = step_cell(operation);
    const char *cells[] = {host->name, kind, state, operation->vm_id, operation->checkpoint_id,
                           begun,      step};
    g_autofree char *text = NULL;

    ckpt_table_add(table, cells);
    text = ckpt_table_text(table);
    fputs(text, stdout);
}

static CkptExit
show(CkptClient *client, const Search *search)
{
    const PbOperation *operation = search->operation;

    if (client->settings->format == CKPT_FORMAT_TABLE) {
        print_table(search->host, operation);
    } else {
        g_autoptr(JsonArray) array = json_array_new();

        json_array_add_element(array, ckpt_json_with_host(&operation->base, search->host->name));
        ckpt_json_print(array);
    }
    if (operation->error) {
        g_autoptr(GError) error = NULL;

        ckpt_error_set(&error, (CkptReason)operation->error->reason, "%s",
                       operation->error->message);
        ckpt_report_error(search->host->name, NULL, error);
    }
    if (operation->state == VMCHECKPOINT__V1__OPERATION_STATE__OPERATION_STATE_SUCCEEDED)
        return CKPT_EXIT_DONE;
    return operation->state == VMCHECKPOINT__V1__OPERATION_STATE__OPERATION_STATE_FAILED ||
                   operation->state == VMCHECKPOINT__V1__OPERATION_STATE__OPERATION_STATE_CANCELLED
               ? CKPT_EXIT_FAILED
               : CKPT_EXIT_UNKNOWN;
}

static CkptExit
run(CkptClient *client, char **arguments)
{
    Vmcheckpoint__V1__GetOperationRequest request = VMCHECKPOINT__V1__GET_OPERATION_REQUEST__INIT;
    g_autoptr(CkptFanout) fanout = ckpt_fanout_new(client);
    g_autofree char *id = ckpt_id_parse(arguments[0]);
    Search search = {0};
    CkptExit exit = CKPT_EXIT_FAILED;

    if (!id) {
        ckpt_report(NULL, NULL, "'%s' is not a UUID", arguments[0]);
        return CKPT_EXIT_USAGE;
    }
    request.request_id = id;
    for (guint i = 0; i < client->inventory->hosts->len; i++)
        ckpt_fanout_read(fanout, g_ptr_array_index(client->inventory->hosts, i),
                         CKPT_METHOD("OperationService", "GetOperation"), &request.base,
                         &vmcheckpoint__v1__get_operation_response__descriptor, NULL, on_operation,
                         &search);
    ckpt_fanout_run(fanout);
    if (search.operation)
        exit = show(client, &search);
    else if (search.errors)
        ckpt_report(NULL, NULL, "no host that answered has an operation %s of yours", id);
    else
        ckpt_report(NULL, NULL,
                    "no host has an operation %s of yours: nothing was begun, or it was "
                    "refused, or it ended more than seven days ago",
                    id);
    pb_free(search.reply);
    return exit;
}

const CkptCommand ckpt_command_operation = {
    .name = "operation",
    .arguments = "REQUEST_ID",
    .summary = "shows how an operation stands or ended, by the id that the client told",
    .help = "Exit status: 0 done, 1 failed, 4 not ended yet.",
    .min_arguments = 1,
    .max_arguments = 1,
    .run = run,
};
