#include "client/command.h"
#include "client/locate.h"
#include "client/names.h"
#include "client/output.h"
#include "common/id.h"
#include "common/text.h"

#include <string.h>

static char *run_id, *checkpoint_name;
static gboolean most_recent, moved;

static const GOptionEntry options[] = {
    {"run", 0, 0, G_OPTION_ARG_FILENAME, &run_id, "only those of this run", "ID"},
    {"name", 0, 0, G_OPTION_ARG_FILENAME, &checkpoint_name, "only those of this name", "NAME"},
    {"most-recent", 0, 0, G_OPTION_ARG_NONE, &most_recent, "only the newest of each VM", NULL},
    {"moved", 0, 0, G_OPTION_ARG_NONE, &moved, "also those that another host's agent has by now", NULL},
    {NULL}};

typedef struct {
    CkptClient *client;
    CkptList *list;
    guint found, answered, errors;
    char *run_id;
    gboolean reported; /* the hosts that do not answer are told of once */
} Listing;

/* Returns how many there are. */
static guint
add_matching(Listing *listing, const char *vm_id, const char *vm_name)
{
    Vmcheckpoint__V1__CheckpointFilter filter = VMCHECKPOINT__V1__CHECKPOINT_FILTER__INIT;
    g_autoptr(GPtrArray) answers = NULL;
    g_autoptr(CkptNames) names = NULL;
    guint found = 0, errors = 0;

    filter.vm_id = vm_id ? (char *)vm_id : filter.vm_id;
    filter.vm_name = vm_name ? (char *)vm_name : filter.vm_name;
    filter.run_id = listing->run_id ? listing->run_id : filter.run_id;
    filter.checkpoint_name = checkpoint_name ? checkpoint_name : filter.checkpoint_name;
    filter.most_recent = most_recent;
    /* The newest is asked for to do something with it. */
    filter.include_deleting = !most_recent;
    filter.include_moved = moved;
    answers = ckpt_query_checkpoints(listing->client, listing->client->inventory->hosts, &filter);
    if (listing->client->settings->format == CKPT_FORMAT_TABLE)
        names = ckpt_names_ask(listing->client, answers);
    for (guint i = 0; i < answers->len; i++) {
        const CkptAnswer *answer = g_ptr_array_index(answers, i);

        errors += answer->error != NULL;
        for (guint j = 0; j < answer->items->len; j++, found++) {
            const PbCheckpoint *checkpoint = g_ptr_array_index(answer->items, j);

            ckpt_list_add(listing->list, answer->host->name,
                          names ? ckpt_names_lookup(names, answer->host, checkpoint->vm_id) : NULL,
                          checkpoint);
        }
    }
    if (!listing->reported)
        ckpt_answers_report(answers);
    listing->reported = listing->reported || errors > 0;
    listing->errors = MAX(listing->errors, errors);
    listing->answered = answers->len - errors;
    listing->found += found;
    return found;
}

/* By the IDs of the VMs that have that name now; or, if there is none, by the name that one had
 * when it was captured: a stored or undefined VM's checkpoints can be listed too. */
static gboolean
list_argument(Listing *listing, const CkptVmArgument *argument)
{
    g_autoptr(GHashTable) ids = g_hash_table_new(g_str_hash, g_str_equal);

    if (argument->vm_id) {
        if (add_matching(listing, argument->vm_id, NULL) > 0 || argument->found->len > 0)
            return TRUE;
    }
    for (guint i = 0; !argument->vm_id && i < argument->found->len; i++) {
        const CkptFoundVm *vm = g_ptr_array_index(argument->found, i);

        if (g_hash_table_add(ids, vm->vm_id))
            add_matching(listing, vm->vm_id, NULL);
    }
    if (g_hash_table_size(ids) > 0 ||
        (!argument->vm_id && add_matching(listing, NULL, argument->text) > 0))
        return TRUE;
    ckpt_report(NULL, argument->text, "no host%s knows this VM or a checkpoint of it",
                listing->errors ? " that answered" : "");
    return FALSE;
}

static CkptExit
list_arguments(Listing *listing, char **arguments)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptLocation) location = ckpt_locate(listing->client, arguments, FALSE, &error);
    guint done = 0;

    if (!location) {
        ckpt_report(NULL, NULL, "%s", error->message);
        return CKPT_EXIT_USAGE;
    }
    listing->errors = ckpt_answers_report(location->answers);
    listing->reported = listing->errors > 0;
    for (guint i = 0; i < location->arguments->len; i++)
        done += list_argument(listing, g_ptr_array_index(location->arguments, i));
    ckpt_list_print(listing->list);
    return ckpt_exit_of(done, location->arguments->len - done + listing->errors);
}

static CkptExit
run(CkptClient *client, char **arguments)
{
    g_autoptr(CkptList) list = ckpt_list_new(client->settings->format);
    g_autofree char *id = run_id ? ckpt_id_parse(run_id) : NULL;
    g_autoptr(GError) error = NULL;
    Listing listing = {.client = client, .list = list, .run_id = id};

    if (run_id && !id) {
        ckpt_report(NULL, NULL, "--run '%s' is not a UUID", run_id);
        return CKPT_EXIT_USAGE;
    }
    if (checkpoint_name &&
        !ckpt_text_check("--name", checkpoint_name, -1, 255, CKPT_TEXT_LINE, &error)) {
        ckpt_report(NULL, NULL, "%s", error->message);
        return CKPT_EXIT_USAGE;
    }
    if (arguments[0])
        return list_arguments(&listing, arguments);
    add_matching(&listing, NULL, NULL);
    ckpt_list_print(list);
    return ckpt_exit_of(listing.answered, listing.errors);
}

const CkptCommand ckpt_command_list = {
    .name = "list",
    .arguments = "[VM...]",
    .summary = "lists checkpoints, of all VMs or of those named; * marks where a VM is",
    .options = options,
    .max_arguments = -1,
    .publishes = TRUE,
    .run = run,
};
