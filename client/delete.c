#include "client/command.h"
#include "client/confirm.h"
#include "client/interrupt.h"
#include "client/mutation.h"
#include "client/output.h"
#include "common/text.h"

#include <stdio.h>

static gboolean yes, when_possible, dry_run;

static const GOptionEntry options[] = {
    {"when-possible", 0, 0, G_OPTION_ARG_NONE, &when_possible,
     "several branches on it: hide it now, have it deleted when one is left", NULL},
    {"dry-run", 0, 0, G_OPTION_ARG_NONE, &dry_run,
     "only tell what it would free and cost, or why it would be refused", NULL},
    {"yes", 'y', 0, G_OPTION_ARG_NONE, &yes, "do not ask", NULL},
    {NULL}};

static char *
question(const CkptFoundCheckpoint *found, const char *forecast)
{
    g_autofree char *what = ckpt_checkpoint_sentence(found);

    return g_strdup_printf(
        "%s %s"
        "The VM can then not be restored to that point any more. Its present state\n"
        "and all other checkpoints are kept.\n%s",
        ckpt_is_deleting(found->checkpoint) ? "Finish the delete of" : "Delete", what, forecast);
}

typedef struct {
    CkptClient *client;
    CkptTally tally;
} Result;

static void
on_deleted(CkptReply *reply, gpointer data)
{
    Result *result = data;
    const CkptMutation *mutation = reply->tag;
    const Vmcheckpoint__V1__DeleteCheckpointResponse *response = (const void *)reply->message;
    g_autoptr(CkptList) list = NULL;

    if (!ckpt_mutation_ended(mutation, reply, &result->tally))
        return;
    ckpt_warnings_report(mutation, response->warnings, response->n_warnings);
    list = ckpt_list_new(result->client->settings->format);
    if (response->checkpoint)
        ckpt_list_add(list, reply->host->name, mutation->vm_name, response->checkpoint);
    ckpt_list_print(list);
    ckpt_report(reply->host->name, mutation->vm_name,
                response->checkpoint && ckpt_is_deleting(response->checkpoint)
                    ? "hidden; deleted when nothing but one branch lies on it"
                    : "deleted");
}

static void
fill_request(Vmcheckpoint__V1__DeleteCheckpointRequest *request,
             Vmcheckpoint__V1__RequestOptions *request_options, const CkptFoundCheckpoint *found)
{
    vmcheckpoint__v1__delete_checkpoint_request__init(request);
    request->options = request_options;
    request->checkpoint_id = found->checkpoint->checkpoint_id;
    request->etag = found->checkpoint->etag;
    request->when_possible = when_possible;
}

typedef struct {
    ProtobufCMessage *response; /* DeleteCheckpointResponse; NULL = refused */
    GError **error;
} Forecast;

static void
on_forecast(CkptReply *reply, gpointer data)
{
    Forecast *forecast = data;

    if (reply->outcome == CKPT_OUTCOME_DONE)
        forecast->response = g_steal_pointer(&reply->message);
    else
        g_propagate_error(forecast->error, g_steal_pointer(&reply->error));
}

/* What the delete would do, asked of the agent without doing it. NULL: it would be refused. */
static ProtobufCMessage *
ask_forecast(CkptClient *client, const CkptFoundCheckpoint *found, GError **error)
{
    Vmcheckpoint__V1__DeleteCheckpointRequest request;
    Vmcheckpoint__V1__RequestOptions request_options;
    g_autoptr(CkptFanout) fanout = ckpt_fanout_new(client);
    Forecast forecast = {.error = error};
    CkptMutation mutation;

    ckpt_mutation_init(&mutation, &request_options, "delete", found->host,
                       ckpt_found_vm_name(found));
    fill_request(&request, &request_options, found);
    request_options.validate_only = TRUE;
    ckpt_fanout_read(fanout, found->host, CKPT_METHOD("CheckpointService", "DeleteCheckpoint"),
                     &request.base, &vmcheckpoint__v1__delete_checkpoint_response__descriptor, NULL,
                     on_forecast, &forecast);
    ckpt_fanout_run(fanout);
    ckpt_mutation_clear(&mutation);
    return forecast.response;
}

/* One that is only to be finished, or hidden, has none. */
static char *
forecast_text(const ProtobufCMessage *response, const char *prefix)
{
    const Vmcheckpoint__V1__DeleteCheckpointResponse *reply = (const void *)response;

    return reply->forecast ? ckpt_forecast_text(reply->forecast, prefix) : g_strdup("");
}

static void
print_forecast(const CkptClient *client, const CkptFoundCheckpoint *found,
               const ProtobufCMessage *response)
{
    const Vmcheckpoint__V1__DeleteCheckpointResponse *reply = (const void *)response;
    g_autofree char *text = forecast_text(response, "");

    if (client->settings->format != CKPT_FORMAT_TABLE) {
        g_autoptr(JsonArray) array = json_array_new();

        json_array_add_element(array, ckpt_json_with_host(response, found->host->name));
        ckpt_json_print(array);
        return;
    }
    for (gsize i = 0; i < reply->n_warnings; i++)
        ckpt_report(found->host->name, ckpt_found_vm_name(found), "warning: %s",
                    reply->warnings[i]);
    fputs(*text ? text : "frees nothing now\n", stdout);
}

static CkptExit delete (CkptClient *client, const CkptFoundCheckpoint *found)
{
    Vmcheckpoint__V1__DeleteCheckpointRequest request;
    Vmcheckpoint__V1__RequestOptions request_options;
    g_autoptr(CkptFanout) fanout = ckpt_fanout_new(client);
    CkptMutation mutation;
    Result result = {.client = client};

    ckpt_interrupt_watch(client->cancellable);
    ckpt_mutation_init(&mutation, &request_options, "delete", found->host,
                       ckpt_found_vm_name(found));
    fill_request(&request, &request_options, found);
    ckpt_fanout_mutate(fanout, found->host, CKPT_METHOD("CheckpointService", "DeleteCheckpoint"),
                       &request.base, &request_options,
                       &vmcheckpoint__v1__delete_checkpoint_response__descriptor, &mutation,
                       on_deleted, &result);
    ckpt_fanout_run(fanout);
    ckpt_mutation_clear(&mutation);
    return ckpt_tally_exit(client, &result.tally, "deleted");
}

/* With what it frees and costs. A refusal is no last word here: what is in the way may be an operation
 * behind which the delete waits its turn. */
static gboolean
confirm(CkptClient *client, const CkptFoundCheckpoint *found)
{
    g_autoptr(GError) error = NULL;
    ProtobufCMessage *response = ask_forecast(client, found, &error);
    g_autofree char *forecast = NULL, *text = NULL;

    if (response) {
        forecast = forecast_text(response, "  ");
        protobuf_c_message_free_unpacked(response, NULL);
    } else {
        g_autofree char *message = ckpt_text_printable(error->message, -1, 1024);

        forecast = g_strdup_printf("At this moment it is refused: %s\n", message);
    }
    text = question(found, forecast);
    return ckpt_confirm(text, FALSE);
}

/* With the exit status of a refusal, where it is one. */
static CkptExit
tell(CkptClient *client, const CkptFoundCheckpoint *found)
{
    g_autoptr(GError) error = NULL;
    ProtobufCMessage *response = ask_forecast(client, found, &error);

    if (!response) {
        ckpt_report_error(found->host->name, ckpt_found_vm_name(found), error);
        return CKPT_EXIT_FAILED;
    }
    print_forecast(client, found, response);
    protobuf_c_message_free_unpacked(response, NULL);
    return CKPT_EXIT_DONE;
}

static CkptExit
run(CkptClient *client, char **arguments)
{
    CkptExit exit = CKPT_EXIT_USAGE;
    g_autoptr(CkptFoundCheckpoint) found = NULL;

    if (!dry_run && !ckpt_confirm_possible(yes))
        return CKPT_EXIT_USAGE;
    found = ckpt_find_checkpoint(client, arguments[0], TRUE, &exit);
    if (!found)
        return exit;
    if (dry_run)
        return tell(client, found);
    return yes || confirm(client, found) ? delete (client, found) : CKPT_EXIT_FAILED;
}

const CkptCommand ckpt_command_delete = {
    .name = "delete",
    .arguments = "CHECKPOINT",
    .summary = "deletes one checkpoint, given by its ID or as VM/NAME",
    .help =
        "The VM's present state and all other checkpoints are kept. On a terminal it asks first;\n"
        "elsewhere it needs --yes. A checkpoint on which several branches lie, or may lie, is\n"
        "refused; with --when-possible it is hidden and deleted when one branch is left.\n"
        "With --dry-run nothing is done: printed is what the delete would free and cost.",
    .options = options,
    .min_arguments = 1,
    .max_arguments = 1,
    .publishes = TRUE,
    .run = run,
};
