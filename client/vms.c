#include "client/command.h"
#include "client/output.h"
#include "client/query.h"
#include "common/library.h"
#include "common/text.h"

#include <stdio.h>

static gboolean full;

static const GOptionEntry options[] = {
    {"full", 0, 0, G_OPTION_ARG_NONE, &full, "look at every disk: depth, abilities and space too", NULL},
    {NULL}};

typedef struct {
    CkptTable *table;
    JsonArray *array;
    GHashTable *deployed; /* set of the IDs of deployed VMs */
    GHashTable *stored;   /* set of "ID file": a library may be several hosts' and ours */
} Out;

static const char *
ability_cell(const Vmcheckpoint__V1__Ability *ability)
{
    if (!ability)
        return NULL;
    return ability->available ? "yes" : "no";
}

static void
add_vm(Out *out, const char *host, const PbVm *vm)
{
    g_autofree char *placement =
        ckpt_enum_word(&vmcheckpoint__v1__placement__descriptor, (int)vm->placement);
    g_autofree char *power =
        ckpt_enum_word(&vmcheckpoint__v1__power_state__descriptor, (int)vm->power_state);
    g_autofree char *where = *vm->library ? g_strdup_printf("%s %s", placement, vm->library) : NULL;
    g_autofree char *count = g_strdup_printf("%u", vm->checkpoint_count);
    g_autofree char *depth = vm->chain_depth ? g_strdup_printf("%u", vm->chain_depth) : NULL;
    g_autofree char *held = ckpt_size_text(vm->checkpoint_bytes);
    g_autofree char *grown = vm->growth ? ckpt_size_text(vm->growth->bytes) : NULL;
    g_autofree char *rate = ckpt_rate_cell(vm->growth);
    const char *cells[] = {host,
                           vm->vm_name,
                           vm->vm_id,
                           where ? where : placement,
                           power,
                           count,
                           depth,
                           vm->quarantine_reason,
                           ability_cell(vm->live),
                           ability_cell(vm->memory),
                           ability_cell(vm->application_consistency),
                           vm->checkpoint_bytes ? held : NULL,
                           grown,
                           rate};

    if (out->table)
        ckpt_table_add(out->table, cells);
    else
        json_array_add_element(out->array, ckpt_json_with_host(&vm->base, host));
}

static void
add_stored_vm(Out *out, const char *host, const PbVm *vm)
{
    if (!g_hash_table_contains(out->deployed, vm->vm_id) &&
        g_hash_table_add(out->stored, g_strdup_printf("%s %s", vm->vm_id, vm->library_file)))
        add_vm(out, host, vm);
}

/* Deployed wins, whichever host or library says so. */
static void
add_stored(CkptClient *client, Out *out)
{
    GPtrArray *places = client->inventory->libraries;

    for (guint i = 0; i < places->len; i++) {
        const CkptLibraryPlace *place = g_ptr_array_index(places, i);
        g_autoptr(CkptLibrary) library = ckpt_library_read(place->name, place->path);

        if (library->error)
            ckpt_report_error(NULL, NULL, library->error);
        for (guint j = 0; j < library->warnings->len; j++)
            ckpt_report(NULL, NULL, "library %s: %s", place->name,
                        (const char *)g_ptr_array_index(library->warnings, j));
        for (guint j = 0; j < library->vms->len; j++) {
            const CkptStoredVm *stored = g_ptr_array_index(library->vms, j);
            PbVm vm = VMCHECKPOINT__V1__VIRTUAL_MACHINE__INIT;

            vm.vm_id = stored->vm_id;
            vm.vm_name = stored->vm_name;
            vm.placement = VMCHECKPOINT__V1__PLACEMENT__PLACEMENT_STORED;
            vm.library = stored->library;
            vm.library_file = stored->file;
            add_stored_vm(out, "", &vm);
        }
    }
}

static void
add_answers(Out *out, GPtrArray *answers)
{
    for (guint pass = 0; pass < 2; pass++)
        for (guint i = 0; i < answers->len; i++) {
            const CkptAnswer *answer = g_ptr_array_index(answers, i);

            for (guint j = 0; j < answer->items->len; j++) {
                const PbVm *vm = g_ptr_array_index(answer->items, j);

                if (vm->placement != VMCHECKPOINT__V1__PLACEMENT__PLACEMENT_STORED) {
                    g_hash_table_add(out->deployed, vm->vm_id);
                    if (pass == 0)
                        add_vm(out, answer->host->name, vm);
                } else if (pass == 1) {
                    add_stored_vm(out, answer->host->name, vm);
                }
            }
        }
}

static CkptExit
run(CkptClient *client, char **arguments)
{
    static const char *const basic[] = {"HOST",        "VM",    "ID",         "PLACEMENT", "POWER",
                                        "CHECKPOINTS", "DEPTH", "QUARANTINE", NULL};
    static const char *const whole[] = {"HOST",  "VM",          "ID",          "PLACEMENT",
                                        "POWER", "CHECKPOINTS", "DEPTH",       "QUARANTINE",
                                        "LIVE",  "MEMORY",      "APPLICATION", "SIZE",
                                        "GROWN", "RATE", NULL};
    g_autoptr(GHashTable) deployed = g_hash_table_new(g_str_hash, g_str_equal);
    g_autoptr(GHashTable) stored = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    gboolean as_table = client->settings->format == CKPT_FORMAT_TABLE;
    g_autoptr(CkptTable) table = as_table ? ckpt_table_new(full ? whole : basic) : NULL;
    g_autoptr(JsonArray) array = as_table ? NULL : json_array_new();
    g_autoptr(GPtrArray) answers = NULL;
    g_autofree char *text = NULL;
    Out out = {table, array, deployed, stored};
    guint errors;

    answers =
        ckpt_query_vms(client, client->inventory->hosts, NULL,
                       full ? VMCHECKPOINT__V1__VIRTUAL_MACHINE_VIEW__VIRTUAL_MACHINE_VIEW_FULL
                            : VMCHECKPOINT__V1__VIRTUAL_MACHINE_VIEW__VIRTUAL_MACHINE_VIEW_BASIC);
    add_answers(&out, answers);
    add_stored(client, &out);
    errors = ckpt_answers_report(answers);
    if (as_table) {
        text = ckpt_table_text(table);
        fputs(text, stdout);
    } else {
        ckpt_json_print(array);
    }
    return ckpt_exit_of(answers->len - errors, errors);
}

const CkptCommand ckpt_command_vms = {
    .name = "vms",
    .arguments = "",
    .summary = "lists VMs, deployed or stored, and how many checkpoints they have",
    .options = options,
    .run = run,
};
