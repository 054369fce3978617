#include "client/names.h"

#include <string.h>

#define FILTER_MAX 500 /* the API's limit */

struct _CkptNames {
    GPtrArray *answers;   /* CkptAnswer, with PbVm */
    GHashTable *by_place; /* "host vm_id" → PbVm, within answers */
};

/* No host's name has a space. */
static char *
place_of(const CkptHost *host, const char *vm_id)
{
    return g_strconcat(host->name, " ", vm_id, NULL);
}

/* With more VMs than a filter takes all are asked for. */
static void
ask(CkptNames *names, CkptClient *client, GPtrArray *hosts, GHashTable *vm_ids)
{
    Vmcheckpoint__V1__VirtualMachineFilter filter = VMCHECKPOINT__V1__VIRTUAL_MACHINE_FILTER__INIT;
    g_autofree char **ids = (char **)g_hash_table_get_keys_as_array(vm_ids, NULL);
    guint n = g_hash_table_size(vm_ids);

    filter.placement = VMCHECKPOINT__V1__PLACEMENT__PLACEMENT_DEPLOYED;
    filter.vm_ids = n <= FILTER_MAX ? ids : NULL;
    filter.n_vm_ids = n <= FILTER_MAX ? n : 0;
    names->answers = ckpt_query_vms(
        client, hosts, &filter, VMCHECKPOINT__V1__VIRTUAL_MACHINE_VIEW__VIRTUAL_MACHINE_VIEW_BASIC);
}

CkptNames *
ckpt_names_ask(CkptClient *client, GPtrArray *answers)
{
    CkptNames *names = g_new0(CkptNames, 1);
    g_autoptr(GPtrArray) hosts = g_ptr_array_new();
    g_autoptr(GHashTable) vm_ids = g_hash_table_new(g_str_hash, g_str_equal);

    names->by_place = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    for (guint i = 0; i < answers->len; i++) {
        const CkptAnswer *answer = g_ptr_array_index(answers, i);

        if (answer->items->len > 0)
            g_ptr_array_add(hosts, (gpointer)answer->host);
        for (guint j = 0; j < answer->items->len; j++)
            g_hash_table_add(vm_ids,
                             ((const PbCheckpoint *)g_ptr_array_index(answer->items, j))->vm_id);
    }
    ask(names, client, hosts, vm_ids);
    for (guint i = 0; i < names->answers->len; i++) {
        const CkptAnswer *answer = g_ptr_array_index(names->answers, i);

        for (guint j = 0; j < answer->items->len; j++) {
            PbVm *vm = g_ptr_array_index(answer->items, j);

            if (vm->placement == VMCHECKPOINT__V1__PLACEMENT__PLACEMENT_DEPLOYED)
                g_hash_table_insert(names->by_place, place_of(answer->host, vm->vm_id), vm);
        }
    }
    return names;
}

void
ckpt_names_free(CkptNames *names)
{
    if (!names)
        return;
    g_hash_table_unref(names->by_place);
    g_ptr_array_unref(names->answers);
    g_free(names);
}

const char *
ckpt_names_lookup(const CkptNames *names, const CkptHost *host, const char *vm_id)
{
    g_autofree char *place = place_of(host, vm_id);
    const PbVm *vm = g_hash_table_lookup(names->by_place, place);

    return vm && *vm->vm_name ? vm->vm_name : NULL;
}
