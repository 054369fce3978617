#include "client/find.h"

#include "client/locate.h"
#include "client/output.h"
#include "common/id.h"
#include "common/text.h"

#include <stdio.h>
#include <string.h>

#define NAME_MAX_BYTES 255

void
ckpt_found_checkpoint_free(CkptFoundCheckpoint *found)
{
    if (!found)
        return;
    pb_free(found->reply);
    g_free(found->vm_name);
    g_free(found->current_id);
    g_free(found);
}

typedef struct {
    const char *text;
    CkptFoundCheckpoint *found;
    GString *also; /* further hosts that have it */
    guint errors;  /* hosts that could not say */
} Search;

static void
on_checkpoint(CkptReply *reply, gpointer data)
{
    Search *search = data;
    const Vmcheckpoint__V1__GetCheckpointResponse *response = (const void *)reply->message;

    if (reply->outcome != CKPT_OUTCOME_DONE) {
        if (ckpt_error_reason(reply->error) == CKPT_REASON_CHECKPOINT_NOT_FOUND)
            return;
        search->errors++;
        ckpt_report_error(reply->host->name, NULL, reply->error);
    } else if (!response->checkpoint) {
        search->errors++;
        ckpt_report(reply->host->name, NULL, "answered without a checkpoint");
    } else if (search->found) {
        g_string_append_printf(search->also, ", %s", reply->host->name);
    } else {
        search->found = g_new0(CkptFoundCheckpoint, 1);
        search->found->host = reply->host;
        search->found->checkpoint = response->checkpoint;
        search->found->reply = g_steal_pointer(&reply->message);
    }
}

static CkptFoundCheckpoint *
find_by_id(CkptClient *client, GPtrArray *hosts, const char *id, CkptExit *exit)
{
    Vmcheckpoint__V1__GetCheckpointRequest request = VMCHECKPOINT__V1__GET_CHECKPOINT_REQUEST__INIT;
    g_autoptr(CkptFanout) fanout = ckpt_fanout_new(client);
    g_autoptr(GString) also = g_string_new(NULL);
    g_autoptr(CkptFoundCheckpoint) found = NULL;
    Search search = {.text = id, .also = also};

    request.checkpoint_id = (char *)id;
    request.view = VMCHECKPOINT__V1__CHECKPOINT_VIEW__CHECKPOINT_VIEW_FULL;
    for (guint i = 0; i < hosts->len; i++)
        ckpt_fanout_read(fanout, g_ptr_array_index(hosts, i),
                         CKPT_METHOD("CheckpointService", "GetCheckpoint"), &request.base,
                         &vmcheckpoint__v1__get_checkpoint_response__descriptor, NULL,
                         on_checkpoint, &search);
    ckpt_fanout_run(fanout);
    found = search.found;
    *exit = CKPT_EXIT_FAILED;
    if (found && also->len == 0)
        return g_steal_pointer(&found);
    if (found)
        ckpt_report(NULL, NULL, "checkpoint %s is on several hosts: %s%s. Name one with --host", id,
                    found->host->name, also->str);
    else
        ckpt_report(NULL, NULL, "checkpoint %s was not found on the host%s", id,
                    search.errors     ? "s that answered"
                    : hosts->len == 1 ? ""
                                      : "s");
    return NULL;
}

/* The list of those that a VM/NAME may mean. */
static void
report_candidates(const char *text, const CkptAnswer *answer)
{
    ckpt_report(NULL, NULL, "'%s' is the name of %u checkpoints: give the ID of one", text,
                answer->items->len);
    for (guint i = 0; i < answer->items->len; i++) {
        const PbCheckpoint *checkpoint = g_ptr_array_index(answer->items, i);
        g_autofree char *id = ckpt_text_printable(checkpoint->checkpoint_id, -1, 64);
        g_autofree char *made = ckpt_time_cell(checkpoint->added_time);
        g_autofree char *age = ckpt_age_cell(checkpoint->added_time);

        fprintf(stderr, "  %s  made %s UTC, %s ago%s\n", id, made, age,
                ckpt_is_deleting(checkpoint) ? ", being deleted" : "");
    }
}

static CkptFoundCheckpoint *
find_named(CkptClient *client, const CkptFoundVm *vm, const char *name, const char *text,
           CkptExit *exit)
{
    Vmcheckpoint__V1__CheckpointFilter filter = VMCHECKPOINT__V1__CHECKPOINT_FILTER__INIT;
    g_autoptr(GPtrArray) hosts = g_ptr_array_new(), answers = NULL;
    const CkptAnswer *answer;

    g_ptr_array_add(hosts, (gpointer)vm->host);
    filter.vm_id = vm->vm_id;
    filter.checkpoint_name = (char *)name;
    filter.include_deleting = TRUE;
    answers = ckpt_query_checkpoints(client, hosts, &filter);
    answer = g_ptr_array_index(answers, 0);
    *exit = CKPT_EXIT_FAILED;
    if (answer->error)
        ckpt_report_error(vm->host->name, vm->vm_name, answer->error);
    else if (answer->items->len == 0)
        ckpt_report(vm->host->name, vm->vm_name,
                    "it has no checkpoint named '%s': see vmcheckpoint list", name);
    else if (answer->items->len > 1)
        report_candidates(text, answer);
    else
        return find_by_id(
            client, hosts,
            ((const PbCheckpoint *)g_ptr_array_index(answer->items, 0))->checkpoint_id, exit);
    return NULL;
}

static CkptFoundCheckpoint *
find_by_name(CkptClient *client, const char *text, gboolean for_change, CkptExit *exit)
{
    const char *slash = strchr(text, '/');
    g_autofree char *vm_text = g_strndup(text, (gsize)(slash - text));
    char *vms[] = {vm_text, NULL};
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptLocation) location = NULL;
    g_autofree char *silent = NULL;
    const CkptVmArgument *argument;
    const CkptFoundVm *vm;

    *exit = CKPT_EXIT_USAGE;
    if (ckpt_text_check("the checkpoint's name", slash + 1, -1, NAME_MAX_BYTES, CKPT_TEXT_LINE,
                        &error))
        location = ckpt_locate(client, vms, FALSE, &error);
    if (!location) {
        ckpt_report(NULL, NULL, "%s", error->message);
        return NULL;
    }
    *exit = CKPT_EXIT_FAILED;
    argument = g_ptr_array_index(location->arguments, 0);
    silent = ckpt_location_silent(location);
    ckpt_answers_report(location->answers);
    vm = ckpt_location_deployed(location, argument, &error);
    if (!vm) {
        ckpt_report_error(NULL, argument->text, error);
        return NULL;
    }
    if (silent && for_change) {
        ckpt_report(
            NULL, NULL,
            "'%s' is not enough while a host does not answer (%s), which may have another of "
            "that name: give the checkpoint's ID",
            text, silent);
        return NULL;
    }
    return find_named(client, vm, slash + 1, text, exit);
}

/* The VM may have been renamed since, and be anywhere in its tree. */
static void
ask_vm(CkptClient *client, CkptFoundCheckpoint *found)
{
    Vmcheckpoint__V1__VirtualMachineFilter filter = VMCHECKPOINT__V1__VIRTUAL_MACHINE_FILTER__INIT;
    g_autoptr(GPtrArray) hosts = g_ptr_array_new(), answers = NULL;
    const CkptAnswer *answer;

    g_ptr_array_add(hosts, (gpointer)found->host);
    filter.vm_ids = &found->checkpoint->vm_id;
    filter.n_vm_ids = 1;
    filter.placement = VMCHECKPOINT__V1__PLACEMENT__PLACEMENT_DEPLOYED;
    answers = ckpt_query_vms(client, hosts, &filter,
                             VMCHECKPOINT__V1__VIRTUAL_MACHINE_VIEW__VIRTUAL_MACHINE_VIEW_BASIC);
    ckpt_answers_report(answers);
    answer = g_ptr_array_index(answers, 0);
    for (guint i = 0; i < answer->items->len; i++) {
        const PbVm *vm = g_ptr_array_index(answer->items, i);

        if (strcmp(vm->vm_id, found->checkpoint->vm_id) != 0 || !*vm->vm_name ||
            vm->placement != VMCHECKPOINT__V1__PLACEMENT__PLACEMENT_DEPLOYED)
            continue;
        g_free(found->vm_name);
        found->vm_name = g_strdup(vm->vm_name);
        g_free(found->current_id);
        found->current_id = *vm->current_checkpoint_id ? g_strdup(vm->current_checkpoint_id) : NULL;
    }
}

const char *
ckpt_found_vm_name(const CkptFoundCheckpoint *found)
{
    return found->vm_name ? found->vm_name : found->checkpoint->vm_name;
}

CkptFoundCheckpoint *
ckpt_find_checkpoint(CkptClient *client, const char *text, gboolean for_change, CkptExit *exit)
{
    g_autofree char *id = ckpt_id_parse(text);
    CkptFoundCheckpoint *found = NULL;

    if (id || (strchr(text, '/') && strchr(text, '/')[1])) {
        found = id ? find_by_id(client, client->inventory->hosts, id, exit)
                   : find_by_name(client, text, for_change, exit);
        if (found)
            ask_vm(client, found);
        return found;
    }
    ckpt_report(NULL, NULL, "'%s' is neither a checkpoint's ID nor VM/NAME", text);
    *exit = CKPT_EXIT_USAGE;
    return NULL;
}
