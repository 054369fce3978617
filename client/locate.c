#include "client/locate.h"

#include "common/id.h"
#include "common/library.h"
#include "common/text.h"

#include <string.h>

#define NAME_MAX_BYTES 255
#define FILTER_MAX 500 /* the API's limit */

static void
found_free(gpointer data)
{
    CkptFoundVm *vm = data;

    g_free(vm->vm_id);
    g_free(vm->vm_name);
    g_free(vm->library);
    g_free(vm->library_file);
    g_free(vm);
}

static void
argument_free(gpointer data)
{
    CkptVmArgument *argument = data;

    g_free(argument->text);
    g_free(argument->vm_id);
    g_ptr_array_unref(argument->found);
    g_free(argument);
}

void
ckpt_location_free(CkptLocation *location)
{
    if (!location)
        return;
    g_ptr_array_unref(location->arguments);
    g_ptr_array_unref(location->answers);
    g_ptr_array_unref(location->queries);
    g_free(location);
}

char *
ckpt_vm_text_parse(const char *text, gboolean *is_id, GError **error)
{
    char *id = ckpt_id_parse(text);

    *is_id = id != NULL;
    if (id)
        return id;
    if (!ckpt_text_check("the VM's name", text, -1, NAME_MAX_BYTES, CKPT_TEXT_LINE, error))
        return NULL;
    if (*text && !strchr(text, '/'))
        return g_strdup(text);
    ckpt_error_set(error, CKPT_REASON_INVALID_ARGUMENT, "'%s' is neither a VM's name nor its ID",
                   text);
    return NULL;
}

static gboolean
add_arguments(CkptLocation *location, char *const *texts, GError **error)
{
    g_autoptr(GHashTable) seen = g_hash_table_new(g_str_hash, g_str_equal);

    for (gsize i = 0; texts[i]; i++) {
        gboolean is_id;
        g_autofree char *text = ckpt_vm_text_parse(texts[i], &is_id, error);
        CkptVmArgument *argument;

        if (!text)
            return FALSE;
        if (g_hash_table_contains(seen, text))
            continue;
        argument = g_new0(CkptVmArgument, 1);
        argument->found = g_ptr_array_new_with_free_func(found_free);
        argument->vm_id = is_id ? g_strdup(text) : NULL;
        argument->text = g_steal_pointer(&text);
        g_ptr_array_add(location->arguments, argument);
        g_hash_table_add(seen, argument->text);
    }
    return TRUE;
}

static gboolean
is_deployed_somewhere(const CkptVmArgument *argument, const char *vm_id)
{
    for (guint i = 0; i < argument->found->len; i++) {
        const CkptFoundVm *vm = g_ptr_array_index(argument->found, i);

        if (vm->deployed && strcmp(vm->vm_id, vm_id) == 0)
            return TRUE;
    }
    return FALSE;
}

/* Queries by ID and by name may both have found it; and a library may be shared by several hosts.
 */
static gboolean
is_found_already(const CkptVmArgument *argument, const CkptFoundVm *vm)
{
    for (guint i = 0; i < argument->found->len; i++) {
        const CkptFoundVm *known = g_ptr_array_index(argument->found, i);

        if (strcmp(known->vm_id, vm->vm_id) == 0 && known->deployed == vm->deployed &&
            (known->host == vm->host || !vm->deployed))
            return TRUE;
    }
    return FALSE;
}

static void
add_found(CkptVmArgument *argument, const CkptFoundVm *vm)
{
    CkptFoundVm *copy;

    if (is_found_already(argument, vm))
        return;
    copy = g_new0(CkptFoundVm, 1);
    copy->host = vm->host;
    copy->vm_id = g_strdup(vm->vm_id);
    copy->vm_name = g_strdup(vm->vm_name);
    copy->deployed = vm->deployed;
    copy->library = g_strdup(vm->library);
    copy->library_file = g_strdup(vm->library_file);
    g_ptr_array_add(argument->found, copy);
}

/* deployed: look only at the deployed VMs of the answers, or only at the stored ones. Deployed
 * wins, so those go first. A library that several hosts share is one place. */
static void
add_answers(CkptVmArgument *argument, GPtrArray *answers, gboolean deployed)
{
    for (guint i = 0; i < answers->len; i++) {
        const CkptAnswer *answer = g_ptr_array_index(answers, i);

        for (guint j = 0; j < answer->items->len; j++) {
            const PbVm *vm = g_ptr_array_index(answer->items, j);
            gboolean is_deployed = vm->placement == VMCHECKPOINT__V1__PLACEMENT__PLACEMENT_DEPLOYED;
            CkptFoundVm found = {answer->host, vm->vm_id,   vm->vm_name,
                                 is_deployed,  vm->library, vm->library_file};

            if (is_deployed != deployed ||
                strcmp(argument->vm_id ? vm->vm_id : vm->vm_name, argument->text) != 0)
                continue;
            if (deployed || !is_deployed_somewhere(argument, vm->vm_id))
                add_found(argument, &found);
        }
    }
}

/* Asks for the arguments of one kind, in portions that the API takes. */
static void
ask_hosts(CkptClient *client, CkptLocation *location, gboolean ids)
{
    g_autoptr(GPtrArray) values = g_ptr_array_new();

    for (guint i = 0; i < location->arguments->len; i++) {
        const CkptVmArgument *argument = g_ptr_array_index(location->arguments, i);

        if ((argument->vm_id != NULL) == ids)
            g_ptr_array_add(values, argument->text);
    }
    for (guint at = 0; at < values->len; at += FILTER_MAX) {
        Vmcheckpoint__V1__VirtualMachineFilter filter =
            VMCHECKPOINT__V1__VIRTUAL_MACHINE_FILTER__INIT;
        char **first = (char **)&values->pdata[at];
        gsize n = MIN(values->len - at, FILTER_MAX);

        if (ids) {
            filter.vm_ids = first;
            filter.n_vm_ids = n;
        } else {
            filter.vm_names = first;
            filter.n_vm_names = n;
        }
        g_ptr_array_add(
            location->queries,
            ckpt_query_vms(client, client->inventory->hosts, &filter,
                           VMCHECKPOINT__V1__VIRTUAL_MACHINE_VIEW__VIRTUAL_MACHINE_VIEW_BASIC));
    }
}

static void
note_silent(CkptLocation *location)
{
    for (guint i = 0; i < location->queries->len; i++) {
        GPtrArray *answers = g_ptr_array_index(location->queries, i);

        for (guint j = 0; j < answers->len; j++) {
            CkptAnswer *answer = g_ptr_array_index(answers, j);
            gboolean known = FALSE;

            for (guint k = 0; k < location->answers->len; k++)
                known = known || ((CkptAnswer *)g_ptr_array_index(location->answers, k))->host ==
                                     answer->host;
            if (answer->error && !known)
                g_ptr_array_add(location->answers, answer);
        }
    }
}

static void
add_stored(CkptLocation *location, const CkptStoredVm *stored)
{
    CkptFoundVm found = {NULL,  stored->vm_id,   stored->vm_name,
                         FALSE, stored->library, stored->file};

    for (guint i = 0; i < location->arguments->len; i++) {
        CkptVmArgument *argument = g_ptr_array_index(location->arguments, i);

        if (strcmp(argument->vm_id ? stored->vm_id : stored->vm_name, argument->text) == 0 &&
            !is_deployed_somewhere(argument, stored->vm_id))
            add_found(argument, &found);
    }
}

/* The stored VMs of the libraries that this machine reads. A name may have to be looked for there
 * even when it was found deployed, since it may be another VM's too; an ID that is deployed need
 * not. */
static void
look_into_libraries(CkptClient *client, CkptLocation *location)
{
    gboolean needed = FALSE;

    for (guint i = 0; i < location->arguments->len; i++) {
        const CkptVmArgument *argument = g_ptr_array_index(location->arguments, i);

        needed = needed || (location->strict && !argument->vm_id) || argument->found->len == 0;
    }
    for (guint i = 0; needed && i < client->inventory->libraries->len; i++) {
        const CkptLibraryPlace *place = g_ptr_array_index(client->inventory->libraries, i);
        g_autoptr(CkptLibrary) library = ckpt_library_read(place->name, place->path);

        if (library->error)
            ckpt_report_error(NULL, NULL, library->error);
        for (guint j = 0; j < library->warnings->len; j++)
            ckpt_report(NULL, NULL, "library %s: %s", place->name,
                        (const char *)g_ptr_array_index(library->warnings, j));
        for (guint j = 0; j < library->vms->len; j++)
            add_stored(location, g_ptr_array_index(library->vms, j));
    }
}

CkptLocation *
ckpt_locate(CkptClient *client, char *const *texts, gboolean strict, GError **error)
{
    g_autoptr(CkptLocation) location = g_new0(CkptLocation, 1);

    location->strict = strict;
    location->arguments = g_ptr_array_new_with_free_func(argument_free);
    location->answers = g_ptr_array_new();
    location->queries = g_ptr_array_new_with_free_func((GDestroyNotify)g_ptr_array_unref);
    if (!add_arguments(location, texts, error))
        return NULL;
    ask_hosts(client, location, TRUE);
    ask_hosts(client, location, FALSE);
    note_silent(location);
    for (guint i = 0; i < location->arguments->len; i++)
        for (guint deployed = 2; deployed-- > 0;)
            for (guint j = 0; j < location->queries->len; j++)
                add_answers(g_ptr_array_index(location->arguments, i),
                            g_ptr_array_index(location->queries, j), deployed != 0);
    look_into_libraries(client, location);
    return g_steal_pointer(&location);
}

char *
ckpt_location_silent(const CkptLocation *location)
{
    GString *names;

    if (location->answers->len == 0)
        return NULL;
    names = g_string_new(NULL);
    for (guint i = 0; i < location->answers->len; i++)
        g_string_append_printf(names, "%s%s", i ? ", " : "",
                               ((CkptAnswer *)g_ptr_array_index(location->answers, i))->host->name);
    return g_string_free(names, FALSE);
}

/* "web-01 (6ba7…) on host a, web-01 (7cb8…) stored in library x (file)" */
static void
set_ambiguous(const CkptVmArgument *argument, GError **error)
{
    g_autoptr(GString) list = g_string_new(NULL);

    for (guint i = 0; i < argument->found->len; i++) {
        const CkptFoundVm *vm = g_ptr_array_index(argument->found, i);

        g_string_append_printf(list, "%s%s (%s) ", i ? ", " : "", vm->vm_name, vm->vm_id);
        if (vm->deployed)
            g_string_append_printf(list, "on host %s", vm->host->name);
        else
            g_string_append_printf(list, "stored in library %s (%s)", vm->library,
                                   vm->library_file);
    }
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "ambiguous: %s. %s", list->str,
                argument->vm_id ? "Name the host with --host" : "Use the ID, or --host");
}

static void
set_missing(const CkptLocation *location, const CkptVmArgument *argument, GError **error)
{
    g_autofree char *silent = ckpt_location_silent(location);

    if (argument->found->len > 0) {
        const CkptFoundVm *vm = g_ptr_array_index(argument->found, 0);

        ckpt_error_set(error, CKPT_REASON_VM_STORED_IN_LIBRARY,
                       "it is stored in library %s (%s), not deployed on a host%s%s", vm->library,
                       vm->library_file, silent ? " that answered; no answer from " : "",
                       silent ? silent : "");
        return;
    }
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_NOT_FOUND,
                silent ? "no host that answered has it; no answer from %s"
                       : "no host of the fleet has it, and no library%s",
                silent ? silent : "");
}

const CkptFoundVm *
ckpt_location_deployed(const CkptLocation *location, const CkptVmArgument *argument, GError **error)
{
    const CkptFoundVm *deployed = NULL;
    guint n_deployed = 0, n_others = 0;

    for (guint i = 0; i < argument->found->len; i++) {
        const CkptFoundVm *vm = g_ptr_array_index(argument->found, i);

        n_deployed += vm->deployed;
        n_others += !vm->deployed;
        deployed = vm->deployed ? vm : deployed;
    }
    if (n_deployed == 0) {
        set_missing(location, argument, error);
        return NULL;
    }
    if (n_deployed > 1 || (location->strict && n_others > 0)) {
        set_ambiguous(argument, error);
        return NULL;
    }
    return deployed;
}
