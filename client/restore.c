#include "client/command.h"
#include "client/confirm.h"
#include "client/interrupt.h"
#include "client/mutation.h"
#include "client/output.h"
#include "common/text.h"

#include <stdio.h>
#include <string.h>

static char *power;
static gboolean discard, without_memory, yes;

static const GOptionEntry options[] = {
    {"power", 0, 0, G_OPTION_ARG_FILENAME, &power,
     "the VM's power state afterwards: as-captured (default), running, paused or shut-off",
     "STATE"},
    {"discard-present-state", 0, 0, G_OPTION_ARG_NONE, &discard,
     "keep no safety checkpoint: what was written since is lost for good", NULL},
    {"without-memory", 0, 0, G_OPTION_ARG_NONE, &without_memory,
     "of a checkpoint that holds memory, restore the disks alone: the VM boots", NULL},
    {"yes", 'y', 0, G_OPTION_ARG_NONE, &yes, "do not ask", NULL},
    {NULL}};

static gboolean
parse_power(Vmcheckpoint__V1__RestorePowerState *state)
{
    static const char *const words[] = {"as-captured", "running", "paused", "shut-off"};

    for (guint i = 0; power && i < G_N_ELEMENTS(words); i++)
        if (strcmp(words[i], power) == 0) {
            *state = (Vmcheckpoint__V1__RestorePowerState)(i + 1);
            return TRUE;
        }
    if (power)
        ckpt_report(NULL, NULL, "--power '%s': expected as-captured, running, paused or shut-off",
                    power);
    return power == NULL;
}

static char *
question(const CkptFoundCheckpoint *found)
{
    g_autofree char *what = ckpt_checkpoint_sentence(found);
    g_autofree char *captured = ckpt_enum_word(&vmcheckpoint__v1__power_state__descriptor,
                                               (int)found->checkpoint->power_state);
    g_autofree char *current =
        found->current_id ? ckpt_text_printable(found->current_id, -1, 64) : NULL;

    return g_strdup_printf(
        "Restore %s%s%s%s"
        "The VM is stopped, and its disks and hardware configuration go back to that point;\n"
        "afterwards it is %s. Other checkpoints are kept.\n%s\n",
        what, current ? "It is now at checkpoint " : "", current ? current : "",
        current ? ".\n" : "", power && strcmp(power, "as-captured") != 0 ? power : captured,
        discard ? "ITS PRESENT STATE IS LOST FOR GOOD: no safety checkpoint is made of it."
                : "Its present state is kept as a safety checkpoint, to which it can be restored.");
}

typedef struct {
    CkptClient *client;
    CkptTally tally;
} Result;

static void
on_restored(CkptReply *reply, gpointer data)
{
    Result *result = data;
    const CkptMutation *mutation = reply->tag;
    const Vmcheckpoint__V1__RestoreCheckpointResponse *response = (const void *)reply->message;
    g_autoptr(CkptList) list = NULL;

    if (!ckpt_mutation_ended(mutation, reply, &result->tally))
        return;
    ckpt_warnings_report(mutation, response->warnings, response->n_warnings);
    list = ckpt_list_new(result->client->settings->format);
    if (response->checkpoint)
        ckpt_list_add(list, reply->host->name, mutation->vm_name, response->checkpoint);
    if (response->safety_checkpoint)
        ckpt_list_add(list, reply->host->name, mutation->vm_name, response->safety_checkpoint);
    ckpt_list_print(list);
    if (response->safety_checkpoint)
        ckpt_report(reply->host->name, mutation->vm_name,
                    "restored; the state it had is checkpoint %s",
                    response->safety_checkpoint->checkpoint_id);
}

static CkptExit
restore(CkptClient *client, const CkptFoundCheckpoint *found,
        Vmcheckpoint__V1__RestorePowerState state)
{
    Vmcheckpoint__V1__RestoreCheckpointRequest request =
        VMCHECKPOINT__V1__RESTORE_CHECKPOINT_REQUEST__INIT;
    Vmcheckpoint__V1__RequestOptions request_options;
    g_autoptr(CkptFanout) fanout = ckpt_fanout_new(client);
    CkptMutation mutation;
    Result result = {.client = client};

    ckpt_interrupt_watch(client->cancellable);
    ckpt_mutation_init(&mutation, &request_options, "restore", found->host,
                       ckpt_found_vm_name(found));
    request.options = &request_options;
    request.checkpoint_id = found->checkpoint->checkpoint_id;
    request.etag = found->checkpoint->etag;
    /* What was asked about, and answered, holds for this situation only. */
    if (found->current_id)
        request.expected_current_checkpoint_id = found->current_id;
    request.discard_present_state = discard;
    request.without_memory = without_memory;
    request.power_state = state;
    ckpt_fanout_mutate(fanout, found->host, CKPT_METHOD("CheckpointService", "RestoreCheckpoint"),
                       &request.base, &request_options,
                       &vmcheckpoint__v1__restore_checkpoint_response__descriptor, &mutation,
                       on_restored, &result);
    ckpt_fanout_run(fanout);
    ckpt_mutation_clear(&mutation);
    return ckpt_tally_exit(client, &result.tally, "restored");
}

static CkptExit
run(CkptClient *client, char **arguments)
{
    CkptExit exit = CKPT_EXIT_USAGE;
    Vmcheckpoint__V1__RestorePowerState state =
        VMCHECKPOINT__V1__RESTORE_POWER_STATE__RESTORE_POWER_STATE_UNSPECIFIED;
    g_autoptr(CkptFoundCheckpoint) found = NULL;
    g_autofree char *text = NULL;

    if (!parse_power(&state) || !ckpt_confirm_possible(yes))
        return CKPT_EXIT_USAGE;
    found = ckpt_find_checkpoint(client, arguments[0], TRUE, &exit);
    if (!found)
        return exit;
    if (ckpt_is_deleting(found->checkpoint)) {
        ckpt_report(found->host->name, ckpt_found_vm_name(found),
                    "checkpoint %s is being deleted and cannot be restored any more: finish that "
                    "with vmcheckpoint delete",
                    found->checkpoint->checkpoint_id);
        return CKPT_EXIT_FAILED;
    }
    text = question(found);
    if (!ckpt_confirm(text, yes))
        return CKPT_EXIT_FAILED;
    return restore(client, found, state);
}

const CkptCommand ckpt_command_restore = {
    .name = "restore",
    .arguments = "CHECKPOINT",
    .summary = "brings a VM back to a checkpoint, given by its ID or as VM/NAME",
    .help =
        "The VM's present state is kept as a safety checkpoint unless --discard-present-state is\n"
        "given. On a terminal it asks first; elsewhere it needs --yes.",
    .options = options,
    .min_arguments = 1,
    .max_arguments = 1,
    .publishes = TRUE,
    .run = run,
};
