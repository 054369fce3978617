#include "client/command.h"
#include "client/confirm.h"
#include "client/interrupt.h"
#include "client/mutation.h"
#include "client/output.h"

static gboolean yes, when_possible;

static const GOptionEntry options[] = {
    {"when-possible", 0, 0, G_OPTION_ARG_NONE, &when_possible,
     "several branches on it: hide it now, have it deleted when one is left", NULL},
    {"yes", 'y', 0, G_OPTION_ARG_NONE, &yes, "do not ask", NULL},
    {NULL}};

static char *
question(const CkptFoundCheckpoint *found)
{
    g_autofree char *what = ckpt_checkpoint_sentence(found);

    return g_strdup_printf(
        "%s %s"
        "The VM can then not be restored to that point any more. Its present state\n"
        "and all other checkpoints are kept.\n",
        ckpt_is_deleting(found->checkpoint) ? "Finish the delete of" : "Delete", what);
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
                    ? "hidden; deleted when one branch is left"
                    : "deleted");
}

static CkptExit delete (CkptClient *client, const CkptFoundCheckpoint *found)
{
    Vmcheckpoint__V1__DeleteCheckpointRequest request =
        VMCHECKPOINT__V1__DELETE_CHECKPOINT_REQUEST__INIT;
    Vmcheckpoint__V1__RequestOptions request_options;
    g_autoptr(CkptFanout) fanout = ckpt_fanout_new(client);
    CkptMutation mutation;
    Result result = {.client = client};

    ckpt_interrupt_watch(client->cancellable);
    ckpt_mutation_init(&mutation, &request_options, "delete", found->host,
                       ckpt_found_vm_name(found));
    request.options = &request_options;
    request.checkpoint_id = found->checkpoint->checkpoint_id;
    request.etag = found->checkpoint->etag;
    request.when_possible = when_possible;
    ckpt_fanout_mutate(fanout, found->host, CKPT_METHOD("CheckpointService", "DeleteCheckpoint"),
                       &request.base, &request_options,
                       &vmcheckpoint__v1__delete_checkpoint_response__descriptor, &mutation,
                       on_deleted, &result);
    ckpt_fanout_run(fanout);
    ckpt_mutation_clear(&mutation);
    return ckpt_tally_exit(client, &result.tally, "deleted");
}

static CkptExit
run(CkptClient *client, char **arguments)
{
    CkptExit exit = CKPT_EXIT_USAGE;
    g_autoptr(CkptFoundCheckpoint) found = NULL;
    g_autofree char *text = NULL;

    if (!ckpt_confirm_possible(yes))
        return CKPT_EXIT_USAGE;
    found = ckpt_find_checkpoint(client, arguments[0], TRUE, &exit);
    if (!found)
        return exit;
    text = question(found);
    if (!ckpt_confirm(text, yes))
        return CKPT_EXIT_FAILED;
    return delete (client, found);
}

const CkptCommand ckpt_command_delete = {
    .name = "delete",
    .arguments = "CHECKPOINT",
    .summary = "deletes one checkpoint, given by its ID or as VM/NAME",
    .help =
        "The VM's present state and all other checkpoints are kept. On a terminal it asks first;\n"
        "elsewhere it needs --yes. A checkpoint on which several branches lie is refused;\n"
        "with --when-possible it is hidden and deleted when one branch is left.",
    .options = options,
    .min_arguments = 1,
    .max_arguments = 1,
    .publishes = TRUE,
    .run = run,
};
