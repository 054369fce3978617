/* One VM as the driver sees it, with what forbids operating on it. */
#include "agent/hypervisor/sim/sim.h"

static void
fill_owner(CkptSim *sim, CkptLayer *layer)
{
    const char *text = g_hash_table_lookup(sim->manifest_texts, layer->path);
    g_autoptr(CkptManifest) head = text ? ckpt_manifest_parse_head(text, layer->path) : NULL;

    if (!head)
        return;
    layer->owner_agent = g_steal_pointer(&head->agent);
    layer->owner_host = g_steal_pointer(&head->host_name);
    layer->owner_vm = g_steal_pointer(&head->domain);
}

static CkptLayer *
look(CkptSim *sim, const char *path, CkptFormat format)
{
    CkptSimFile *file = ckpt_sim_find(sim, path);
    CkptLayer *layer = g_new0(CkptLayer, 1);

    layer->path = g_strdup(path);
    layer->exists = file != NULL;
    if (!file)
        return layer;
    layer->format = format;
    layer->virtual_size = (guint64)file->cells * CKPT_SIM_CELL;
    layer->id = ckpt_sim_file_id(file);
    /* Not what is in it: which of two overlays takes more decides in which direction a delete works, and in
     * worlds as small as these it would hardly ever be the upper one. */
    layer->allocated = file->format == CKPT_FORMAT_RAW ? layer->id.size
                                                       : file->inode * 7 % 11 * CKPT_SIM_CELL;
    layer->fs_available = sim->free_bytes;
    layer->mode = file->mode;
    layer->manifest = g_hash_table_contains(sim->manifests, path);
    fill_owner(sim, layer);
    if (format == CKPT_FORMAT_QCOW2) {
        layer->backing = g_strdup(file->backing);
        layer->backing_format = file->backing_format;
    }
    layer->snapshots = ckpt_sim_has_inside(sim, file);
    ckpt_sim_locks(sim, file, &layer->read_locked, &layer->write_locked);
    return layer;
}

static void
add_chain(CkptSim *sim, CkptVm *vm, const char *path, CkptFormat format, GPtrArray *chain)
{
    while (path) {
        CkptLayer *layer = ckpt_vm_find_file(vm, path);

        if (!layer) {
            layer = look(sim, path, format);
            ckpt_vm_add_file(vm, layer);
        }
        if (chain)
            g_ptr_array_add(chain, layer);
        path = layer->backing;
        format = layer->backing_format;
    }
}

static gboolean
chains_differ(const CkptDisk *disk)
{
    guint i;

    for (i = 0; disk->live_chain[i] && i < disk->chain->len; i++)
        if (!g_str_equal(disk->live_chain[i], ((CkptLayer *)disk->chain->pdata[i])->path))
            return TRUE;
    return disk->live_chain[i] || i < disk->chain->len;
}

static void
find_obstacles(CkptVm *vm, const CkptDisk *disk, gboolean active)
{
    for (guint i = 0; i < disk->chain->len; i++) {
        const CkptLayer *layer = g_ptr_array_index(disk->chain, i);

        if (!layer->exists)
            ckpt_vm_add_obstacle(vm, CKPT_REASON_DISK_FILE_MISSING, disk->target, layer->path,
                                 "%s of disk %s is missing", layer->path, disk->target);
        else if (i > 0 && layer->write_locked)
            ckpt_vm_add_obstacle(vm, CKPT_REASON_CHAIN_MISMATCH, disk->target, layer->path,
                                 "%s is open for writing below disk %s", layer->path, disk->target);
        else if (i == 0 && !active && (layer->read_locked || layer->write_locked))
            ckpt_vm_add_obstacle(vm, CKPT_REASON_VM_BUSY, disk->target, layer->path,
                                 "%s is in use", layer->path);
    }
    if (!active)
        return;
    if (!disk->live_source)
        ckpt_vm_add_obstacle(vm, CKPT_REASON_CHAIN_MISMATCH, disk->target, disk->source,
                             "disk %s is not attached to the running VM", disk->target);
    else if (!g_str_equal(disk->live_source, disk->source))
        ckpt_vm_add_obstacle(vm, CKPT_REASON_CHAIN_MISMATCH, disk->target, disk->source,
                             "the VM runs on %s, but its definition names %s", disk->live_source,
                             disk->source);
    else if (chains_differ(disk))
        ckpt_vm_add_obstacle(vm, CKPT_REASON_CHAIN_MISMATCH, disk->target, disk->source,
                             "the headers below %s are not what QEMU has open", disk->source);
}

static char **
live_paths(const CkptSimLive *live)
{
    g_autoptr(GStrvBuilder) builder = g_strv_builder_new();

    for (guint i = 0; i < live->chain->len; i++) {
        CkptSimFile *file = g_ptr_array_index(live->chain, i);

        g_strv_builder_add(builder, file->path ? file->path : "(unlinked)");
    }
    return g_strv_builder_end(builder);
}

static void
add_disk(CkptSim *sim, const CkptSimVm *from, CkptVm *vm, const CkptSimDisk *defined)
{
    CkptSimLive *live = ckpt_sim_find_live(from, defined->target);
    CkptSimDisk *running = ckpt_sim_definition_find(from->live, defined->target);
    CkptDisk *disk = g_new0(CkptDisk, 1);

    disk->target = g_strdup(defined->target);
    disk->source = g_strdup(defined->source);
    disk->format = defined->format;
    disk->chain = g_ptr_array_new();
    if (live) {
        disk->live_chain = live_paths(live);
        disk->live_source = g_strdup(disk->live_chain[0]);
    }
    g_ptr_array_add(vm->disks, disk);
    add_chain(sim, vm, disk->live_source ? disk->live_source : disk->source,
              live && running ? running->format : defined->format, disk->chain);
    find_obstacles(vm, disk, from->live != NULL);
}

static void
add_user(CkptSim *sim, CkptVm *vm, const char *top, gboolean writes, const char *user)
{
    for (const char *path = top; path;) {
        const CkptSimFile *file = ckpt_sim_find(sim, path);

        if (ckpt_vm_find_file(vm, path))
            ckpt_vm_add_user(vm, path, writes && path == top, user);
        path = file ? file->backing : NULL;
    }
}

char *
ckpt_sim_unreadable(CkptSim *sim, const CkptSimDisk *disk)
{
    const char *path = disk->format == CKPT_FORMAT_QCOW2 ? disk->source : NULL;

    for (guint depth = 0; path && depth <= g_hash_table_size(sim->files); depth++) {
        const CkptSimFile *file = ckpt_sim_find(sim, path);

        if (!file)
            return g_strdup(path);
        path = file->backing;
    }
    return NULL;
}

static void
add_users(CkptSim *sim, CkptVm *vm, const CkptSimVm *other)
{
    for (guint i = 0; i < other->definition->disks->len; i++) {
        CkptSimDisk *disk = g_ptr_array_index(other->definition->disks, i);
        g_autofree char *user = g_strdup_printf("VM %s, disk %s", other->name, disk->target);
        g_autofree char *unreadable = ckpt_sim_unreadable(sim, disk);

        add_user(sim, vm, disk->source, TRUE, user);
        if (unreadable)
            ckpt_vm_add_unreadable(vm, unreadable, user);
    }
}

/* It may name files that no definition has any more. */
static void
add_others_snapshot(CkptSim *sim, CkptVm *vm, const CkptSimSnapshot *snapshot)
{
    g_autofree char *user = g_strdup_printf("snapshot '%s' of VM %s", snapshot->name, snapshot->vm_id);
    CkptSnapshot *told = ckpt_sim_snapshot_tell(snapshot);

    for (guint i = 0; i < told->named->len; i++)
        add_user(sim, vm, ((CkptSnapshotFile *)told->named->pdata[i])->path, FALSE, user);
    ckpt_snapshot_free(told);
}

static void
add_foreign(CkptSim *sim, CkptVm *vm)
{
    for (guint i = 0; i < sim->snapshots->len; i++) {
        const CkptSimSnapshot *snapshot = g_ptr_array_index(sim->snapshots, i);
        CkptSnapshot *told;

        if (!g_str_equal(snapshot->vm_id, vm->id)) {
            add_others_snapshot(sim, vm, snapshot);
            continue;
        }
        told = ckpt_sim_snapshot_tell(snapshot);
        g_ptr_array_add(vm->foreign, told);
        for (guint k = 0; k < told->named->len; k++) {
            const CkptSnapshotFile *file = g_ptr_array_index(told->named, k);

            add_chain(sim, vm, file->path, file->format, NULL);
        }
    }
}

CkptVm *
ckpt_sim_inspect(CkptSim *sim, CkptSimVm *from, const CkptKnownFile *files)
{
    CkptVm *vm = ckpt_vm_new();

    ckpt_set_str(&vm->id, from->id);
    ckpt_set_str(&vm->name, from->name);
    vm->power = from->power;
    vm->persistent = TRUE;
    vm->autostart = from->autostart;
    vm->definition = ckpt_sim_definition_text(from->definition);
    vm->live_definition = from->live ? ckpt_sim_definition_text(from->live) : NULL;
    for (guint i = 0; i < from->definition->disks->len; i++)
        add_disk(sim, from, vm, g_ptr_array_index(from->definition->disks, i));
    if (from->nvram) {
        vm->nvram = g_strdup(from->nvram);
        add_chain(sim, vm, from->nvram, CKPT_FORMAT_RAW, NULL);
    }
    if (from->saved && !from->live)
        ckpt_vm_add_obstacle(vm, CKPT_REASON_MANAGED_SAVE_PRESENT, NULL, NULL, "%s was saved", from->name);
    for (; files && files->path; files++)
        add_chain(sim, vm, files->path, files->format, NULL);
    add_foreign(sim, vm);
    for (guint i = 0; i < sim->vms->len; i++)
        if (g_ptr_array_index(sim->vms, i) != from)
            add_users(sim, vm, g_ptr_array_index(sim->vms, i));
    vm->checkpoint.available = vm->live.available = vm->obstacles->len == 0;
    vm->memory.available = from->live && from->captures_memory;
    vm->application.available =
        !from->live || (from->agent != CKPT_SIM_AGENT_NONE && from->power == CKPT_POWER_RUNNING);
    vm->application.reason = vm->application.available ? NULL : g_strdup("no guest agent");
    return vm;
}
