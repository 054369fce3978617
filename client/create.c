#include "client/command.h"
#include "client/interrupt.h"
#include "client/locate.h"
#include "client/mutation.h"
#include "client/output.h"
#include "common/id.h"
#include "common/text.h"

#include <stdio.h>
#include <string.h>

#define LABELS_MAX 32
#define KEY_MAX 63

static char *name, *description, *consistency, *minimum, *run_id, *reason, *ticket;
static char **labels;

#define TEXT(option, variable, help, argument)                                                     \
    {                                                                                              \
        option, 0, 0, G_OPTION_ARG_FILENAME, variable, help, argument                              \
    }

static const GOptionEntry options[] = {
    TEXT("name", &name, "the checkpoint's name; default: the VM's name and the time", "NAME"),
    TEXT("description", &description, "what it is for", "TEXT"),
    {"label", 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &labels, "a label; may be repeated", "KEY=VALUE"},
    TEXT("consistency", &consistency, "crash, application (preferred by default) or memory",
         "WORD"),
    TEXT("minimum", &minimum, "the least that is accepted; default crash", "WORD"),
    TEXT("run", &run_id, "the run (a patch window) it belongs to: a UUID", "ID"),
    TEXT("reason", &reason, "why it is made", "TEXT"),
    TEXT("ticket", &ticket, "the ticket it is made for", "TEXT"),
    {NULL}};

static gboolean
parse_consistency(const char *option, const char *text, Vmcheckpoint__V1__Consistency *value)
{
    static const char *const words[] = {"crash", "application", "memory"};

    for (guint i = 0; text && i < G_N_ELEMENTS(words); i++)
        if (strcmp(words[i], text) == 0) {
            *value = (Vmcheckpoint__V1__Consistency)(i + 1);
            return TRUE;
        }
    if (text)
        ckpt_report(NULL, NULL, "%s '%s': expected crash, application or memory", option, text);
    return text == NULL;
}

/* [a-z0-9]([a-z0-9._/-]{0,61}[a-z0-9])? */
static gboolean
is_label_key(const char *key)
{
    gsize length = strlen(key);

    if (length == 0 || length > KEY_MAX)
        return FALSE;
    for (gsize i = 0; i < length; i++) {
        gboolean plain = g_ascii_islower(key[i]) || g_ascii_isdigit(key[i]);

        if (!plain && (i == 0 || i + 1 == length || !strchr("._/-", key[i])))
            return FALSE;
    }
    return TRUE;
}

static gboolean
parse_label(const char *text, Vmcheckpoint__V1__Label *label)
{
    const char *equals = strchr(text, '=');
    g_autoptr(GError) error = NULL;

    vmcheckpoint__v1__label__init(label);
    label->key = g_strndup(text, equals ? (gsize)(equals - text) : 0);
    label->value = g_strdup(equals ? equals + 1 : "");
    if (!equals || !is_label_key(label->key))
        ckpt_report(
            NULL, NULL,
            "--label '%s': expected KEY=VALUE, a key of lower-case letters, digits and . _ / -",
            text);
    else if (ckpt_text_check("the label's value", label->value, -1, 255, CKPT_TEXT_LINE, &error))
        return TRUE;
    else
        ckpt_report(NULL, NULL, "--label: %s", error->message);
    return FALSE;
}

static gboolean
check_texts(void)
{
    const struct {
        const char *option, *text;
        gsize max;
        CkptTextKind kind;
    } texts[] = {{"--name", name, 255, CKPT_TEXT_LINE},
                 {"--description", description, 4096, CKPT_TEXT_PARAGRAPHS},
                 {"--reason", reason, 1024, CKPT_TEXT_LINE},
                 {"--ticket", ticket, 255, CKPT_TEXT_LINE}};

    for (gsize i = 0; i < G_N_ELEMENTS(texts); i++) {
        g_autoptr(GError) error = NULL;

        if (!texts[i].text || ckpt_text_check(texts[i].option, texts[i].text, -1, texts[i].max,
                                              texts[i].kind, &error))
            continue;
        ckpt_report(NULL, NULL, "%s", error->message);
        return FALSE;
    }
    return TRUE;
}

typedef struct {
    Vmcheckpoint__V1__CreateCheckpointRequest request; /* what all VMs' requests have in common */
    char *run_id;
    Vmcheckpoint__V1__Label labels[LABELS_MAX];
    Vmcheckpoint__V1__Label *label_list[LABELS_MAX];
} Wish;

static void
wish_clear(Wish *wish)
{
    for (gsize i = 0; i < wish->request.n_labels; i++) {
        g_free(wish->labels[i].key);
        g_free(wish->labels[i].value);
    }
    g_free(wish->run_id);
}

static gboolean
wish_take_labels(Wish *wish)
{
    for (guint i = 0; labels && labels[i]; i++) {
        if (i >= LABELS_MAX) {
            ckpt_report(NULL, NULL, "at most %d labels are allowed", LABELS_MAX);
            return FALSE;
        }
        wish->label_list[i] = &wish->labels[i];
        wish->request.labels = wish->label_list;
        wish->request.n_labels = i + 1;
        if (!parse_label(labels[i], &wish->labels[i]))
            return FALSE;
    }
    return TRUE;
}

static gboolean
wish_init(Wish *wish)
{
    Vmcheckpoint__V1__CreateCheckpointRequest *request = &wish->request;

    vmcheckpoint__v1__create_checkpoint_request__init(request);
    wish->run_id = run_id ? ckpt_id_parse(run_id) : NULL;
    if (run_id && !wish->run_id) {
        ckpt_report(NULL, NULL, "--run '%s' is not a UUID", run_id);
        return FALSE;
    }
    request->checkpoint_name = name ? name : request->checkpoint_name;
    request->description = description ? description : request->description;
    request->reason = reason ? reason : request->reason;
    request->ticket = ticket ? ticket : request->ticket;
    request->run_id = wish->run_id ? wish->run_id : request->run_id;
    return check_texts() &&
           parse_consistency("--consistency", consistency, &request->consistency) &&
           parse_consistency("--minimum", minimum, &request->minimum_consistency) &&
           wish_take_labels(wish);
}

/* Each VM that is to be checkpointed, or NULL when one of the arguments does not mean exactly one
 * deployed VM: then nothing at all is created. A name cannot while a host does not answer. */
static GPtrArray *
choose(const CkptLocation *location)
{
    g_autoptr(GPtrArray) vms = g_ptr_array_new();
    g_autoptr(GHashTable) seen = g_hash_table_new(g_str_hash, g_str_equal);
    g_autofree char *silent = ckpt_location_silent(location);
    guint refused = 0;

    for (guint i = 0; i < location->arguments->len; i++) {
        const CkptVmArgument *argument = g_ptr_array_index(location->arguments, i);
        g_autoptr(GError) error = NULL;
        const CkptFoundVm *vm = ckpt_location_deployed(location, argument, &error);

        if (!vm) {
            ckpt_report_error(NULL, argument->text, error);
            refused++;
        } else if (silent && !argument->vm_id) {
            ckpt_report(NULL, argument->text,
                        "its name is not enough while a host does not answer (%s), which may have "
                        "another VM of that name: give its ID (%s), or the host with --host %s",
                        silent, vm->vm_id, vm->host->name);
            refused++;
        } else if (g_hash_table_add(seen, vm->vm_id)) {
            g_ptr_array_add(vms, (gpointer)vm); /* named by its ID and its name, it is still one */
        }
    }
    if (refused == 0)
        return g_steal_pointer(&vms);
    if (location->arguments->len > 1)
        ckpt_report(NULL, NULL, "nothing was created: %u of %u VMs cannot be checkpointed", refused,
                    location->arguments->len);
    return NULL;
}

typedef struct {
    CkptFormat format;
    CkptList *list;
    CkptTally tally;
    guint host_width, vm_width;
} Results;

/* Lines are printed as the results come, so the widths are those of what was asked for. */
static void
print_line(const Results *results, const char *host, const char *vm, const char *id,
           const char *reached, const char *checkpoint)
{
    g_autofree char *host_cell = ckpt_cell(host, results->host_width);
    g_autofree char *vm_cell = ckpt_cell(vm, results->vm_width);
    g_autofree char *id_cell = ckpt_cell(id, CKPT_ID_LEN);
    g_autofree char *reached_cell = ckpt_cell(reached, strlen("CONSISTENCY"));
    g_autofree char *checkpoint_cell = ckpt_cell(checkpoint, 0);

    printf("%s  %s  %s  %s  %s\n", host_cell, vm_cell, id_cell, reached_cell, checkpoint_cell);
    fflush(stdout);
}

static void
print_checkpoint(const Results *results, const char *host, const PbCheckpoint *checkpoint)
{
    g_autofree char *reached = ckpt_enum_word(&vmcheckpoint__v1__consistency__descriptor,
                                              (int)checkpoint->consistency_reached);

    print_line(results, host, checkpoint->vm_name, checkpoint->checkpoint_id, reached,
               checkpoint->checkpoint_name);
}

static void
begin_lines(Results *results, GPtrArray *vms)
{
    results->host_width = strlen("HOST");
    results->vm_width = strlen("VM");
    for (guint i = 0; i < vms->len; i++) {
        const CkptFoundVm *vm = g_ptr_array_index(vms, i);

        results->host_width = MAX(results->host_width, ckpt_cell_width(vm->host->name));
        results->vm_width = MAX(results->vm_width, ckpt_cell_width(vm->vm_name));
    }
    print_line(results, "HOST", "VM", "ID", "CONSISTENCY", "CHECKPOINT");
}

static void
on_created(CkptReply *reply, gpointer data)
{
    Results *results = data;
    const CkptMutation *mutation = reply->tag;
    const Vmcheckpoint__V1__CreateCheckpointResponse *response = (const void *)reply->message;

    if (!ckpt_mutation_ended(mutation, reply, &results->tally))
        return;
    ckpt_warnings_report(mutation, response->warnings, response->n_warnings);
    if (!response->checkpoint)
        return;
    if (results->format == CKPT_FORMAT_TABLE)
        print_checkpoint(results, reply->host->name, response->checkpoint);
    else
        ckpt_list_add(results->list, reply->host->name, NULL, response->checkpoint);
    if (results->format == CKPT_FORMAT_PUBLISHED)
        fflush(stdout);
}

typedef struct {
    Vmcheckpoint__V1__CreateCheckpointRequest request;
    Vmcheckpoint__V1__RequestOptions options;
    CkptMutation mutation;
} Item;

static CkptExit
create_all(CkptClient *client, const Wish *wish, GPtrArray *vms)
{
    g_autofree Item *items = g_new0(Item, vms->len);
    g_autoptr(CkptFanout) fanout = ckpt_fanout_new(client);
    g_autoptr(CkptList) list = ckpt_list_new(client->settings->format);
    Results results = {.format = client->settings->format, .list = list};

    ckpt_interrupt_watch(client->cancellable);
    if (results.format == CKPT_FORMAT_TABLE)
        begin_lines(&results, vms);
    for (guint i = 0; i < vms->len; i++) {
        const CkptFoundVm *vm = g_ptr_array_index(vms, i);
        Item *item = &items[i];

        item->request = wish->request;
        ckpt_mutation_init(&item->mutation, &item->options, "create", vm->host, vm->vm_name);
        item->request.options = &item->options;
        item->request.vm_id = vm->vm_id;
        ckpt_fanout_mutate(fanout, vm->host, CKPT_METHOD("CheckpointService", "CreateCheckpoint"),
                           &item->request.base, &item->options,
                           &vmcheckpoint__v1__create_checkpoint_response__descriptor,
                           &item->mutation, on_created, &results);
    }
    ckpt_fanout_run(fanout);
    if (results.format == CKPT_FORMAT_JSON)
        ckpt_list_print(list);
    for (guint i = 0; i < vms->len; i++)
        ckpt_mutation_clear(&items[i].mutation);
    return ckpt_tally_exit(client, &results.tally, "created");
}

static CkptExit
run(CkptClient *client, char **arguments)
{
    g_autoptr(CkptLocation) location = NULL;
    g_autoptr(GPtrArray) vms = NULL;
    g_autoptr(GError) error = NULL;
    CkptExit exit = CKPT_EXIT_USAGE;
    Wish wish = {0};

    if (wish_init(&wish)) {
        location = ckpt_locate(client, arguments, TRUE, &error);
        if (!location)
            ckpt_report(NULL, NULL, "%s", error->message);
    }
    if (location) {
        ckpt_answers_report(location->answers);
        vms = choose(location);
        exit = vms ? create_all(client, &wish, vms) : CKPT_EXIT_FAILED;
    }
    wish_clear(&wish);
    return exit;
}

const CkptCommand ckpt_command_create = {
    .name = "create",
    .arguments = "VM...",
    .summary = "checkpoints one or more VMs, each by its name or ID",
    .help =
        "VMs that are stored in a library rather than deployed on a host are refused. If any of\n"
        "several VMs is stored, unknown or ambiguous, nothing at all is created. While a host does "
        "not\n"
        "answer a name is not enough: give the VM's ID, or its host with --host.",
    .options = options,
    .min_arguments = 1,
    .max_arguments = -1,
    .publishes = TRUE,
    .run = run,
};
