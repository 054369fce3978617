#include "client/command.h"
#include "client/interrupt.h"
#include "client/locate.h"
#include "client/mutation.h"
#include "client/output.h"
#include "common/id.h"

#include <stdio.h>

typedef Vmcheckpoint__V1__Finding PbFinding;

static gboolean repair;
static char **only;

static const GOptionEntry options[] = {
    {"repair", 0, 0, G_OPTION_ARG_NONE, &repair, "put right what can be put right safely", NULL},
    {"finding", 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &only,
     "with --repair: only this one, by its ID; may be repeated", "ID"},
    {NULL}};

typedef struct {
    CkptClient *client;
    CkptTable *table; /* NULL: JSON */
    JsonArray *array;
    CkptTally tally;  /* of hosts */
    guint errors;     /* findings of severity ERROR that are still so */
    GHashTable *vanished; /* finding id → how many hosts do not find it */
    guint absent;     /* hosts that do not know the VM that was asked for */
} Visit;

/* ---- What was found ---- */

static char *
what_cell(const PbFinding *finding)
{
    GString *text = g_string_new(NULL);

    if (*finding->file)
        g_string_append_printf(text, "%s: ", finding->file);
    g_string_append(text, finding->message);
    if (*finding->origin)
        g_string_append_printf(text, " (of %s)", finding->origin);
    if (finding->repairable && !repair)
        g_string_append_printf(text, ". Repair: %s", finding->repair);
    if (*finding->repair_error)
        g_string_append_printf(text, ". Not repaired: %s", finding->repair_error);
    return g_string_free(text, FALSE);
}

/* result: what became of it; NULL: nobody asked for a repair. */
static void
add_finding(Visit *visit, const CkptHost *host, const PbFinding *finding, const char *result)
{
    g_autofree char *severity =
        ckpt_enum_word(&vmcheckpoint__v1__finding_severity__descriptor, (int)finding->severity);
    g_autofree char *kind =
        ckpt_enum_word(&vmcheckpoint__v1__finding_kind__descriptor, (int)finding->kind);
    g_autofree char *what = what_cell(finding);
    const char *vm = *finding->vm_name ? finding->vm_name : finding->vm_id;
    const char *cells[] = {host->name, severity, kind, vm, finding->finding_id,
                           result ? result : finding->repairable ? "yes" : "by hand", what};
    JsonNode *node;

    if (finding->severity == VMCHECKPOINT__V1__FINDING_SEVERITY__FINDING_SEVERITY_ERROR &&
        g_strcmp0(result, "repaired") != 0)
        visit->errors++;
    if (visit->table) {
        ckpt_table_add(visit->table, cells);
        return;
    }
    node = ckpt_json_with_host(&finding->base, host->name);
    if (result)
        json_object_set_string_member(json_node_get_object(node), "result", result);
    json_array_add_element(visit->array, node);
}

static void
report_omitted(const CkptHost *host, guint omitted)
{
    if (omitted)
        ckpt_report(host->name, NULL, "and %u more that its reply had no room for", omitted);
}

static void
on_diagnosed(CkptReply *reply, gpointer data)
{
    Visit *visit = data;
    const Vmcheckpoint__V1__DiagnoseResponse *response = (const void *)reply->message;

    if (reply->outcome != CKPT_OUTCOME_DONE) {
        if (ckpt_error_reason(reply->error) == CKPT_REASON_VM_NOT_FOUND) {
            visit->absent++;
            return;
        }
        visit->tally.failed++;
        ckpt_report_error(reply->host->name, NULL, reply->error);
        return;
    }
    visit->tally.done++;
    for (gsize i = 0; i < response->n_findings; i++)
        add_finding(visit, reply->host, response->findings[i], NULL);
    report_omitted(reply->host, response->omitted);
}

static void
diagnose(Visit *visit, GPtrArray *hosts, const char *vm_id)
{
    g_autoptr(CkptFanout) fanout = ckpt_fanout_new(visit->client);
    Vmcheckpoint__V1__DiagnoseRequest request = VMCHECKPOINT__V1__DIAGNOSE_REQUEST__INIT;

    request.vm_id = (char *)vm_id;
    for (guint i = 0; i < hosts->len; i++)
        ckpt_fanout_read(fanout, g_ptr_array_index(hosts, i), CKPT_METHOD("AgentService", "Diagnose"),
                         &request.base, &vmcheckpoint__v1__diagnose_response__descriptor, NULL,
                         on_diagnosed, visit);
    ckpt_fanout_run(fanout);
}

/* ---- Repair ---- */

/* A finding is of one host: only where all say so was it nobody's. */
static void
note_vanished(Visit *visit, const char *id)
{
    guint hosts = GPOINTER_TO_UINT(g_hash_table_lookup(visit->vanished, id));

    g_hash_table_insert(visit->vanished, g_strdup(id), GUINT_TO_POINTER(hosts + 1));
}

static void
report_vanished(const Visit *visit)
{
    for (gsize i = 0; only && only[i]; i++)
        if (visit->tally.done > 0 &&
            GPOINTER_TO_UINT(g_hash_table_lookup(visit->vanished, only[i])) == visit->tally.done)
            ckpt_report(NULL, NULL, "finding %s: nothing of it is found any more", only[i]);
}

static void
on_repaired(CkptReply *reply, gpointer data)
{
    Visit *visit = data;
    const CkptMutation *mutation = reply->tag;
    const Vmcheckpoint__V1__RepairResponse *response = (const void *)reply->message;

    if (reply->outcome == CKPT_OUTCOME_FAILED &&
        ckpt_error_reason(reply->error) == CKPT_REASON_VM_NOT_FOUND) {
        visit->absent++;
        return;
    }
    if (!ckpt_mutation_ended(mutation, reply, &visit->tally))
        return;
    for (gsize i = 0; i < response->n_repaired; i++)
        add_finding(visit, reply->host, response->repaired[i], "repaired");
    for (gsize i = 0; i < response->n_left; i++)
        add_finding(visit, reply->host, response->left[i],
                    *response->left[i]->repair_error ? "failed" : "left");
    for (gsize i = 0; i < response->n_vanished_ids; i++)
        note_vanished(visit, response->vanished_ids[i]);
    report_omitted(reply->host, response->omitted);
}

typedef struct {
    Vmcheckpoint__V1__RepairRequest request;
    Vmcheckpoint__V1__RequestOptions options;
    CkptMutation mutation;
} Item;

static void
repair_all(Visit *visit, GPtrArray *hosts, const char *vm_id, const char *vm)
{
    g_autoptr(CkptFanout) fanout = ckpt_fanout_new(visit->client);
    g_autofree Item *items = g_new0(Item, hosts->len);

    ckpt_interrupt_watch(visit->client->cancellable);
    for (guint i = 0; i < hosts->len; i++) {
        Item *item = &items[i];
        const CkptHost *host = g_ptr_array_index(hosts, i);

        vmcheckpoint__v1__repair_request__init(&item->request);
        ckpt_mutation_init(&item->mutation, &item->options, "repair", host, vm);
        item->request.options = &item->options;
        item->request.vm_id = (char *)vm_id;
        item->request.finding_ids = only;
        item->request.n_finding_ids = only ? g_strv_length(only) : 0;
        ckpt_fanout_mutate(fanout, host, CKPT_METHOD("AgentService", "Repair"), &item->request.base,
                           &item->options, &vmcheckpoint__v1__repair_response__descriptor,
                           &item->mutation, on_repaired, visit);
    }
    ckpt_fanout_run(fanout);
    for (guint i = 0; i < hosts->len; i++)
        ckpt_mutation_clear(&items[i].mutation);
}

/* ---- Which hosts, which VM ---- */

/* A VM that is no longer defined has an ID only, and any host may have its checkpoints. NULL: reported. */
static char *
find_vm(CkptClient *client, const char *text, GPtrArray *hosts, CkptExit *exit)
{
    char *texts[] = {(char *)text, NULL};
    g_autoptr(GError) error = NULL;
    char *id = ckpt_id_parse(text);
    g_autoptr(CkptLocation) location = NULL;
    const CkptFoundVm *vm;

    if (id) {
        for (guint i = 0; i < client->inventory->hosts->len; i++)
            g_ptr_array_add(hosts, client->inventory->hosts->pdata[i]);
        return id;
    }
    *exit = CKPT_EXIT_USAGE;
    location = ckpt_locate(client, texts, FALSE, &error);
    if (!location) {
        ckpt_report(NULL, NULL, "%s", error->message);
        return NULL;
    }
    *exit = CKPT_EXIT_FAILED;
    ckpt_answers_report(location->answers);
    vm = ckpt_location_deployed(location, g_ptr_array_index(location->arguments, 0), &error);
    if (!vm) {
        ckpt_report_error(NULL, text, error);
        return NULL;
    }
    g_ptr_array_add(hosts, (gpointer)vm->host);
    return g_strdup(vm->vm_id);
}

static CkptExit
exit_of(const Visit *visit, const char *vm)
{
    if (visit->absent > 0 && visit->tally.done + visit->tally.failed + visit->tally.unknown == 0) {
        ckpt_report(NULL, vm, "no host has it, or checkpoints of it");
        return CKPT_EXIT_FAILED;
    }
    if (visit->tally.unknown > 0)
        return CKPT_EXIT_UNKNOWN;
    if (visit->errors > 0)
        return CKPT_EXIT_FAILED;
    return ckpt_exit_of(visit->tally.done, visit->tally.failed);
}

static void
print(const Visit *visit)
{
    if (visit->table) {
        g_autofree char *text = ckpt_table_text(visit->table);

        fputs(text, stdout);
    } else {
        ckpt_json_print(visit->array);
    }
}

static CkptExit
run(CkptClient *client, char **arguments)
{
    static const char *const found[] = {"HOST", "SEVERITY", "KIND", "VM",
                                        "FINDING", "REPAIR", "WHAT", NULL};
    gboolean as_table = client->settings->format == CKPT_FORMAT_TABLE;
    g_autoptr(CkptTable) table = as_table ? ckpt_table_new(found) : NULL;
    g_autoptr(JsonArray) array = as_table ? NULL : json_array_new();
    g_autoptr(GPtrArray) hosts = g_ptr_array_new();
    g_autoptr(GHashTable) vanished = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    Visit visit = {.client = client, .table = table, .array = array, .vanished = vanished};
    CkptExit exit = CKPT_EXIT_FAILED;
    g_autofree char *vm_id = NULL;

    if (only && !repair) {
        ckpt_report(NULL, NULL, "--finding says what to repair: give --repair too");
        return CKPT_EXIT_USAGE;
    }
    if (arguments[0]) {
        vm_id = find_vm(client, arguments[0], hosts, &exit);
        if (!vm_id)
            return exit;
    } else {
        vm_id = g_strdup("");
        for (guint i = 0; i < client->inventory->hosts->len; i++)
            g_ptr_array_add(hosts, client->inventory->hosts->pdata[i]);
    }
    if (repair)
        repair_all(&visit, hosts, vm_id, arguments[0]);
    else
        diagnose(&visit, hosts, vm_id);
    print(&visit);
    report_vanished(&visit);
    return exit_of(&visit, arguments[0]);
}

const CkptCommand ckpt_command_doctor = {
    .name = "doctor",
    .arguments = "[VM]",
    .summary = "compares catalogue, files, definitions and guests; --repair puts right what is safe",
    .help =
        "Of all hosts, or of one VM, given by its name or ID. Changes nothing without --repair.\n"
        "Exit status: 0 nothing is gravely wrong, 1 a finding of severity error is (still) there,\n"
        "3 some of the hosts did not answer.",
    .options = options,
    .min_arguments = 0,
    .max_arguments = 1,
    .run = run,
};
