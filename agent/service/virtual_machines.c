#include "agent/service/internal.h"

#include <string.h>

#define LIBRARY_MAX_AGE_US (5 * G_USEC_PER_SEC) /* a listing's pages come from one reading */
#define WARNINGS_MAX 16

#define BASIC VMCHECKPOINT__V1__VIRTUAL_MACHINE_VIEW__VIRTUAL_MACHINE_VIEW_BASIC
#define FULL VMCHECKPOINT__V1__VIRTUAL_MACHINE_VIEW__VIRTUAL_MACHINE_VIEW_FULL

static void
give_drives(const CkptVm *vm, PB(VirtualMachine) * message)
{
    if (vm->disks->len == 0)
        return;
    message->n_virtual_disk_drives = vm->disks->len;
    message->virtual_disk_drives = g_new0(char *, vm->disks->len);
    for (guint i = 0; i < vm->disks->len; i++)
        message->virtual_disk_drives[i] =
            g_strdup(((CkptDisk *)g_ptr_array_index(vm->disks, i))->target);
}

static PB(VirtualMachine) * give_deployed(const CkptVmInfo *info, gboolean full)
{
    PB(VirtualMachine) *message = ckpt_message_new(&vmcheckpoint__v1__virtual_machine__descriptor);

    message->vm_id = g_strdup(info->summary->id);
    message->vm_name = g_strdup(info->summary->name);
    message->placement = VMCHECKPOINT__V1__PLACEMENT__PLACEMENT_DEPLOYED;
    message->power_state = (PB(PowerState))info->summary->power;
    message->checkpoint_count = info->checkpoint_count;
    message->current_checkpoint_id = g_strdup(info->current_id ? info->current_id : "");
    message->quarantine_reason = g_strdup(info->quarantine_reason ? info->quarantine_reason : "");
    if (!full || !info->vm)
        return message;
    message->chain_depth = info->chain_depth;
    message->checkpoint_bytes = info->checkpoint_bytes;
    message->checkpoint = ckpt_give_ability(&info->vm->checkpoint);
    message->live = ckpt_give_ability(&info->vm->live);
    message->memory = ckpt_give_ability(&info->vm->memory);
    message->application_consistency = ckpt_give_ability(&info->vm->application);
    give_drives(info->vm, message);
    message->growth = ckpt_give_growth(info->growth);
    return message;
}

static PB(VirtualMachine) * give_stored(const CkptStoredVm *vm)
{
    PB(VirtualMachine) *message = ckpt_message_new(&vmcheckpoint__v1__virtual_machine__descriptor);

    message->vm_id = g_strdup(vm->vm_id);
    message->vm_name = g_strdup(vm->vm_name);
    message->placement = VMCHECKPOINT__V1__PLACEMENT__PLACEMENT_STORED;
    message->library = g_strdup(vm->library);
    message->library_file = g_strdup(vm->file);
    return message;
}

/* One line of a list before it is encoded: exactly one of the two. Borrowed. */
typedef struct {
    const CkptVmInfo *deployed;
    const CkptStoredVm *stored;
    const char *name, *id;
} Entry;

static int
compare_entries(gconstpointer a, gconstpointer b)
{
    const Entry *left = a;
    const Entry *right = b;
    int order = strcmp(left->name, right->name);

    if (order == 0)
        order = strcmp(left->id, right->id);
    /* The same VM in two libraries: by file, so that the order is stable. */
    if (order == 0 && left->stored && right->stored)
        order = strcmp(left->stored->file, right->stored->file);
    return order;
}

typedef struct {
    GHashTable *ids, *names; /* NULL = any */
    PB(Placement) placement;
} Filter;

static void
filter_clear(Filter *filter)
{
    g_clear_pointer(&filter->ids, g_hash_table_unref);
    g_clear_pointer(&filter->names, g_hash_table_unref);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Filter, filter_clear)

static gboolean
take_filter(const PB(VirtualMachineFilter) * message, Filter *filter, GError **error)
{
    if (!message)
        return TRUE;
    filter->placement = message->placement;
    if (message->n_vm_ids)
        filter->ids = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    if (message->n_vm_names)
        filter->names = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    for (gsize i = 0; i < message->n_vm_ids; i++) {
        char *id = ckpt_take_id("filter.vm_ids", message->vm_ids[i], error);

        if (!id)
            return FALSE;
        g_hash_table_add(filter->ids, id);
    }
    for (gsize i = 0; i < message->n_vm_names; i++)
        g_hash_table_add(filter->names, g_strdup(message->vm_names[i]));
    return TRUE;
}

static gboolean
matches(const Filter *filter, const Entry *entry)
{
    if (filter->placement == VMCHECKPOINT__V1__PLACEMENT__PLACEMENT_DEPLOYED && !entry->deployed)
        return FALSE;
    if (filter->placement == VMCHECKPOINT__V1__PLACEMENT__PLACEMENT_STORED && !entry->stored)
        return FALSE;
    if (filter->ids && !g_hash_table_contains(filter->ids, entry->id))
        return FALSE;
    return !filter->names || g_hash_table_contains(filter->names, entry->name);
}

static void
add_entry(GArray *entries, const Filter *filter, const Entry *entry)
{
    if (matches(filter, entry))
        g_array_append_vals(entries, entry, 1);
}

static GArray *
collect(GPtrArray *infos, GPtrArray *libraries, const Filter *filter)
{
    g_autoptr(GHashTable) deployed = g_hash_table_new(g_str_hash, g_str_equal);
    GArray *entries = g_array_new(FALSE, FALSE, sizeof(Entry));

    for (guint i = 0; i < infos->len; i++) {
        const CkptVmInfo *info = g_ptr_array_index(infos, i);
        Entry entry = {info, NULL, info->summary->name, info->summary->id};

        g_hash_table_add(deployed, info->summary->id);
        add_entry(entries, filter, &entry);
    }
    for (guint i = 0; i < libraries->len; i++) {
        const CkptLibrary *library = g_ptr_array_index(libraries, i);

        for (guint j = 0; j < library->vms->len; j++) {
            const CkptStoredVm *vm = g_ptr_array_index(library->vms, j);
            Entry entry = {NULL, vm, vm->vm_name, vm->vm_id};

            if (!g_hash_table_contains(deployed, vm->vm_id))
                add_entry(entries, filter, &entry);
        }
    }
    g_array_sort(entries, compare_entries);
    return entries;
}

/* A position is the last entry's "ID HASH-OF-FILE NAME": all that the order looks at. */
static char *
give_position(const Entry *entry)
{
    const char *file = entry->stored ? entry->stored->file : "";
    g_autofree char *hash = g_compute_checksum_for_string(G_CHECKSUM_SHA256, file, -1);

    return g_strdup_printf("%s %.16s %s", entry->id, hash, entry->name);
}

/* Index of the first entry after the position. A VM that went away meanwhile is no harm: the page
 * begins where it would have been. */
static guint
find_position(GArray *entries, const char *position)
{
    g_auto(GStrv) parts = NULL;
    guint i;

    if (*position == '\0')
        return 0;
    parts = g_strsplit(position, " ", 3);
    if (g_strv_length(parts) != 3)
        return 0;
    for (i = 0; i < entries->len; i++) {
        const Entry *entry = &g_array_index(entries, Entry, i);
        g_autofree char *here = give_position(entry);
        int order = strcmp(entry->name, parts[2]);

        if (order == 0)
            order = strcmp(entry->id, parts[0]);
        if (g_str_equal(here, position))
            return i + 1;
        if (order > 0)
            return i;
    }
    return i;
}

static void
add_warnings(PB(ListVirtualMachinesResponse) * reply, GPtrArray *libraries)
{
    g_autoptr(GPtrArray) warnings = g_ptr_array_new_with_free_func(g_free);

    for (guint i = 0; i < libraries->len; i++) {
        const CkptLibrary *library = g_ptr_array_index(libraries, i);

        if (library->error && warnings->len < WARNINGS_MAX)
            g_ptr_array_add(warnings, g_strdup_printf("library %s: %s", library->name,
                                                      library->error->message));
        for (guint j = 0; j < library->warnings->len && warnings->len < WARNINGS_MAX; j++)
            g_ptr_array_add(warnings, g_strdup(g_ptr_array_index(library->warnings, j)));
    }
    reply->warnings = ckpt_give_strings(warnings, &reply->n_warnings);
}

static PB(VirtualMachine) * give_entry(CkptEngine *engine, const Entry *entry, gboolean full)
{
    g_autoptr(CkptVmInfo) info = NULL;

    if (entry->stored)
        return give_stored(entry->stored);
    if (full)
        info = ckpt_engine_get_vm(engine, entry->id, NULL);
    /* One that cannot be looked at, or went away since, is still listed as it was. */
    return give_deployed(info ? info : entry->deployed, full);
}

static GBytes *
bound_of(const PB(ListVirtualMachinesRequest) * request)
{
    PB(ListVirtualMachinesRequest) bound = *request;

    bound.page_size = 0;
    bound.page_token = NULL;
    return ckpt_message_pack(&bound.base);
}

static guint
add_page(PB(ListVirtualMachinesResponse) * reply, CkptEngine *engine, GArray *entries, guint first,
         guint size, gboolean full)
{
    gsize bytes = 0;
    guint i = first;

    reply->virtual_machines = g_new0(PB(VirtualMachine) *, size);
    while (i < entries->len && reply->n_virtual_machines < size && bytes < CKPT_REPLY_MAX) {
        PB(VirtualMachine) *vm = give_entry(engine, &g_array_index(entries, Entry, i), full);

        reply->virtual_machines[reply->n_virtual_machines++] = vm;
        bytes += protobuf_c_message_get_packed_size(&vm->base) + 8;
        i++;
    }
    return i;
}

ProtobufCMessage *
ckpt_list_virtual_machines(const CkptCaller *caller, const ProtobufCMessage *base, GError **error)
{
    const PB(ListVirtualMachinesRequest) *request = (const void *)base;
    CkptService *service = caller->service;
    const char *method = ckpt_call_method(caller->call);
    g_autoptr(GBytes) bound = bound_of(request);
    g_autofree char *position = NULL;
    g_auto(Filter) filter = {0};
    g_autoptr(GPtrArray) infos = NULL;
    g_autoptr(GPtrArray) libraries = NULL;
    g_autoptr(GArray) entries = NULL;
    PB(ListVirtualMachinesResponse) * reply;
    guint size, next;

    if (!ckpt_take_page_size(request->page_size, &size, error) ||
        !take_filter(request->filter, &filter, error))
        return NULL;
    position = ckpt_page_token_open(service->page_key, method, caller->identity, bound,
                                    request->page_token, error);
    if (!position)
        return NULL;
    infos = ckpt_engine_list_vms(service->engine, error);
    if (!infos)
        return NULL;
    libraries = ckpt_library_index_read(service->libraries, LIBRARY_MAX_AGE_US);
    entries = collect(infos, libraries, &filter);
    reply = ckpt_message_new(&vmcheckpoint__v1__list_virtual_machines_response__descriptor);
    next = add_page(reply, service->engine, entries, find_position(entries, position), size,
                    request->view == FULL);
    if (next < entries->len && next > 0) {
        g_autofree char *after = give_position(&g_array_index(entries, Entry, next - 1));

        reply->next_page_token =
            ckpt_page_token_new(service->page_key, method, caller->identity, bound, after);
    }
    add_warnings(reply, libraries);
    return &reply->base;
}

static const CkptStoredVm *
find_stored(GPtrArray *libraries, const char *vm_id)
{
    for (guint i = 0; i < libraries->len; i++) {
        const CkptLibrary *library = g_ptr_array_index(libraries, i);

        for (guint j = 0; j < library->vms->len; j++) {
            const CkptStoredVm *vm = g_ptr_array_index(library->vms, j);

            if (g_str_equal(vm->vm_id, vm_id))
                return vm;
        }
    }
    return NULL;
}

void
ckpt_vm_not_found(const char *vm_id, GError **error)
{
    ckpt_error_set(error, CKPT_REASON_VM_NOT_FOUND,
                   "virtual machine %s is not deployed on this host, nor stored in a library of "
                   "its agent",
                   vm_id);
    ckpt_error_add(error, CKPT_META_VM, vm_id);
}

ProtobufCMessage *
ckpt_get_virtual_machine(const CkptCaller *caller, const ProtobufCMessage *base, GError **error)
{
    const PB(GetVirtualMachineRequest) *request = (const void *)base;
    g_autofree char *id = ckpt_take_id("vm_id", request->vm_id, error);
    g_autoptr(CkptVmInfo) info = NULL;
    g_autoptr(GPtrArray) libraries = NULL;
    g_autoptr(GError) local = NULL;
    const CkptStoredVm *stored;
    PB(GetVirtualMachineResponse) * reply;

    if (!id)
        return NULL;
    info = ckpt_engine_get_vm(caller->service->engine, id, &local);
    if (!info && ckpt_error_reason(local) != CKPT_REASON_VM_NOT_FOUND) {
        g_propagate_error(error, g_steal_pointer(&local));
        return NULL;
    }
    libraries = ckpt_library_index_read(caller->service->libraries, info ? G_MAXINT64 : 0);
    stored = info ? NULL : find_stored(libraries, id);
    if (!info && !stored) {
        ckpt_vm_not_found(id, error);
        return NULL;
    }
    reply = ckpt_message_new(&vmcheckpoint__v1__get_virtual_machine_response__descriptor);
    reply->virtual_machine =
        info ? give_deployed(info, request->view != BASIC) : give_stored(stored);
    if (info && request->view != BASIC)
        reply->warnings = ckpt_give_strings(info->advice, &reply->n_warnings);
    return &reply->base;
}
