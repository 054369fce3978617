#include "agent/core/foreign.h"

#include "common/id.h"

#include <string.h>

#define WARNINGS_MAX 8

/* ---- One ---- */

static const CkptSnapshot *
find_snapshot(GPtrArray *all, const char *name)
{
    for (guint i = 0; name && i < all->len; i++) {
        const CkptSnapshot *snapshot = g_ptr_array_index(all, i);

        if (g_str_equal(snapshot->name, name))
            return snapshot;
    }
    return NULL;
}

static guint
depth_of(GPtrArray *all, const CkptSnapshot *snapshot)
{
    guint depth = 0;

    while (snapshot && depth <= all->len) {
        depth++;
        snapshot = find_snapshot(all, snapshot->parent);
    }
    return depth;
}

static char *
why_not_ours(const CkptSnapshot *snapshot)
{
    const CkptSnapshotFile *file =
        snapshot->disks->len ? g_ptr_array_index(snapshot->disks, 0) : NULL;

    if (snapshot->unlisted)
        return g_strdup_printf("an internal snapshot in %s, which libvirt does not list: another tool "
                               "made it, and only that can go back to it",
                               file ? file->path : "one of its files");
    return g_strdup("libvirt's own snapshot, made by another tool: only that can go back to it (see "
                    "docs/operations.md before virsh snapshot-revert or snapshot-delete)");
}

static CkptConsistency
consistency_of(const CkptSnapshot *snapshot)
{
    if (snapshot->memory)
        return CKPT_CONSISTENCY_MEMORY;
    return snapshot->power == CKPT_POWER_SHUT_OFF ? CKPT_CONSISTENCY_APPLICATION
                                                  : CKPT_CONSISTENCY_CRASH;
}

CkptCheckpoint *
ckpt_foreign_row(const char *vm_id, const char *vm_name, const CkptSnapshot *snapshot, GPtrArray *all)
{
    CkptCheckpoint *row = ckpt_checkpoint_new();

    row->id = ckpt_id_of_snapshot(vm_id, snapshot->name);
    row->vm_id = g_strdup(vm_id);
    row->vm_name = g_strdup(vm_name);
    if (find_snapshot(all, snapshot->parent))
        row->parent_id = ckpt_id_of_snapshot(vm_id, snapshot->parent);
    ckpt_set_str(&row->name, snapshot->name);
    ckpt_set_str(&row->description, snapshot->description ? snapshot->description : "");
    row->accessibility = CKPT_ACCESSIBILITY_PUBLIC;
    row->added_us = row->modified_us = snapshot->created_us;
    row->asked = row->reached = consistency_of(snapshot);
    row->freeze_us = row->pause_us = -1;
    row->power = snapshot->power;
    row->mechanism = CKPT_MECHANISM_FOREIGN;
    row->state = CKPT_STATE_READY;
    row->disabled_reason = why_not_ours(snapshot);
    for (guint i = 0; i < snapshot->disks->len; i++) {
        const CkptSnapshotFile *file = g_ptr_array_index(snapshot->disks, i);
        CkptCheckpointDisk *disk = g_new0(CkptCheckpointDisk, 1);

        disk->target = g_strdup(file->target);
        disk->sealed_file = g_strdup(file->path);
        disk->format = file->format;
        g_ptr_array_add(row->disks, disk);
    }
    return row;
}

static CkptCheckpointInfo *
make_info(const CkptVmSummary *vm, const CkptSnapshot *snapshot, GPtrArray *all, gboolean current)
{
    CkptCheckpointInfo *info = g_new0(CkptCheckpointInfo, 1);

    info->checkpoint = ckpt_foreign_row(vm->id, vm->name, snapshot, all);
    info->depth = depth_of(all, snapshot);
    info->current = current;
    return info;
}

/* ---- All ---- */

/* The VM's, looked for in every file that the catalogue has of it, too. */
static GPtrArray *
look(CkptEngine *engine, const char *vm_id, CkptVmRecord **record, GError **error)
{
    g_autoptr(GPtrArray) checkpoints = ckpt_store_vm_checkpoints(engine->store, vm_id, error);
    g_autoptr(GPtrArray) made = checkpoints ? ckpt_store_vm_files(engine->store, vm_id, error) : NULL;
    g_autoptr(GArray) files = NULL;

    *record = made ? ckpt_store_get_vm(engine->store, vm_id, error) : NULL;
    if (!*record)
        return NULL;
    files = ckpt_situation_files(checkpoints, made, NULL);
    return engine->driver->foreign(engine->driver, vm_id, (const CkptKnownFile *)files->data, error);
}

static gboolean
look_at_vm(CkptEngine *engine, const CkptVmSummary *vm, GPtrArray *infos, GError **error)
{
    g_autoptr(CkptVmRecord) record = NULL;
    g_autoptr(GPtrArray) snapshots = look(engine, vm->id, &record, error);

    for (guint i = 0; snapshots && i < snapshots->len; i++) {
        const CkptSnapshot *snapshot = g_ptr_array_index(snapshots, i);

        /* Our own overlays say it better, where there are any. */
        g_ptr_array_add(infos, make_info(vm, snapshot, snapshots,
                                         snapshot->current && !record->current_id));
    }
    return snapshots != NULL;
}

static GPtrArray *
infos_new(void)
{
    return g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_checkpoint_info_free);
}

int
ckpt_foreign_compare(gconstpointer a, gconstpointer b)
{
    const CkptCheckpoint *left = (*(CkptCheckpointInfo *const *)a)->checkpoint;
    const CkptCheckpoint *right = (*(CkptCheckpointInfo *const *)b)->checkpoint;

    if (left->added_us != right->added_us)
        return left->added_us < right->added_us ? -1 : 1;
    return strcmp(left->id, right->id);
}

/* A filter that only what the agent made can match. */
static gboolean
is_for_ours(const CkptCheckpointQuery *query)
{
    return (!query->vm_id && !query->vm_name) || query->run_id ||
           (query->labels && g_hash_table_size(query->labels) > 0) || query->most_recent ||
           query->only_deleting || query->enabled == 1 ||
           (query->accessibility && query->accessibility != CKPT_ACCESSIBILITY_PUBLIC);
}

static gboolean
matches(const CkptCheckpointQuery *query, const CkptCheckpoint *row)
{
    if ((query->name && !g_str_equal(query->name, row->name)) ||
        (query->added_after_us && row->added_us < query->added_after_us) ||
        (query->added_before_us && row->added_us >= query->added_before_us))
        return FALSE;
    return !query->after_id || row->added_us > query->after_added_us ||
           (row->added_us == query->after_added_us && strcmp(row->id, query->after_id) > 0);
}

static void
warn(GPtrArray *warnings, const CkptVmSummary *vm, const GError *error)
{
    if (warnings->len < WARNINGS_MAX)
        g_ptr_array_add(warnings,
                        g_strdup_printf("snapshots that other tools made of %s%s are not listed: %s",
                                        vm ? "VM " : "the host's VMs", vm ? vm->name : "", error->message));
}

GPtrArray *
ckpt_foreign_query(CkptEngine *engine, const CkptCheckpointQuery *query, GPtrArray *warnings)
{
    g_autoptr(GPtrArray) infos = infos_new(), vms = NULL;
    g_autoptr(GError) away = NULL;

    if (!engine->driver->foreign || is_for_ours(query))
        return g_steal_pointer(&infos);
    vms = engine->driver->list_vms(engine->driver, &away);
    if (!vms)
        warn(warnings, NULL, away);
    for (guint i = 0; vms && i < vms->len; i++) {
        const CkptVmSummary *vm = g_ptr_array_index(vms, i);
        g_autoptr(GError) error = NULL;

        if ((query->vm_id && !g_str_equal(query->vm_id, vm->id)) ||
            (query->vm_name && !g_str_equal(query->vm_name, vm->name)))
            continue;
        if (!look_at_vm(engine, vm, infos, &error) &&
            ckpt_error_reason(error) != CKPT_REASON_VM_NOT_FOUND)
            warn(warnings, vm, error);
    }
    for (guint i = infos->len; i > 0; i--)
        if (!matches(query, ((CkptCheckpointInfo *)g_ptr_array_index(infos, i - 1))->checkpoint))
            g_ptr_array_remove_index(infos, i - 1);
    g_ptr_array_sort(infos, ckpt_foreign_compare);
    return g_steal_pointer(&infos);
}

/* ---- By ID ---- */

CkptCheckpointInfo *
ckpt_foreign_find(CkptEngine *engine, const char *id, GError **error)
{
    g_autoptr(GPtrArray) vms = NULL;

    if (!engine->driver->foreign)
        return NULL;
    vms = engine->driver->list_vms(engine->driver, error);
    for (guint i = 0; vms && i < vms->len; i++) {
        g_autoptr(GPtrArray) infos = infos_new();
        g_autoptr(GError) why = NULL;

        /* One VM that cannot be looked at does not hide those of the others. */
        if (!look_at_vm(engine, g_ptr_array_index(vms, i), infos, &why))
            g_debug("cannot look for foreign snapshots: %s", why->message);
        for (guint k = 0; k < infos->len; k++) {
            CkptCheckpointInfo *info = g_ptr_array_index(infos, k);

            if (g_str_equal(info->checkpoint->id, id))
                return g_ptr_array_steal_index(infos, k);
        }
    }
    return NULL;
}

gboolean
ckpt_foreign_refuse(CkptEngine *engine, const char *id, GError **error)
{
    CkptCheckpointInfo *info = ckpt_foreign_find(engine, id, NULL);

    if (!info)
        return FALSE;
    ckpt_error_set(error, CKPT_REASON_FOREIGN_SNAPSHOT_PRESENT,
                   "checkpoint %s is snapshot '%s' of VM %s, which another tool made: this agent lists it, and "
                   "neither restores, changes nor deletes it; see docs/operations.md before you do so with "
                   "virsh",
                   id, info->checkpoint->name, info->checkpoint->vm_name);
    ckpt_error_add(error, CKPT_META_CHECKPOINT, id);
    ckpt_error_add(error, CKPT_META_VM, info->checkpoint->vm_id);
    ckpt_checkpoint_info_free(info);
    return TRUE;
}
