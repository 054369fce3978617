/* What another tool does to a VM: snapshots inside its qcow2 files, or overlays laid over them. */
#include "agent/hypervisor/sim/sim.h"

#include <string.h>

static void
saved_free(gpointer data)
{
    CkptSimSaved *saved = data;

    ckpt_sim_file_unref(saved->file);
    g_free(saved->target);
    g_free(saved->path);
    g_free(saved->overlay);
    g_free(saved);
}

void
ckpt_sim_snapshot_free(gpointer data)
{
    CkptSimSnapshot *snapshot = data;

    g_ptr_array_unref(snapshot->disks);
    g_free(snapshot->vm_id);
    g_free(snapshot->name);
    g_free(snapshot);
}

static CkptSimSaved *
save(CkptSimSnapshot *snapshot, const char *target, CkptSimFile *file)
{
    CkptSimSaved *saved = g_new0(CkptSimSaved, 1);

    saved->target = g_strdup(target);
    saved->file = ckpt_sim_file_ref(file);
    saved->path = g_strdup(file->path);
    saved->cells = file->cells;
    memcpy(saved->set, file->set, sizeof saved->set);
    memcpy(saved->data, file->data, sizeof saved->data);
    g_ptr_array_add(snapshot->disks, saved);
    return saved;
}

/* One instant, as libvirt's own transaction. */
static void
lay_overlay(CkptSim *sim, CkptSimVm *vm, CkptSimDisk *disk, CkptSimSaved *saved, const char *path)
{
    CkptSimLive *live = ckpt_sim_find_live(vm, disk->target);
    CkptSimFile *file = ckpt_sim_add_file(sim, path, CKPT_FORMAT_QCOW2, 0, saved->path, 0600);

    saved->overlay = g_strdup(path);
    if (live) {
        g_ptr_array_insert(live->chain, 0, ckpt_sim_file_ref(file));
        ckpt_sim_definition_set(vm->live, disk->target, path, CKPT_FORMAT_QCOW2);
    }
    ckpt_sim_definition_set(vm->definition, disk->target, path, CKPT_FORMAT_QCOW2);
}

CkptSimSnapshot *
ckpt_sim_snapshot_add(CkptSim *sim, CkptSimVm *vm, const char *name, const char *folder)
{
    CkptSimSnapshot *snapshot = g_new0(CkptSimSnapshot, 1);

    snapshot->vm_id = g_strdup(vm->id);
    snapshot->name = g_strdup(name);
    snapshot->internal = !folder;
    snapshot->disks = g_ptr_array_new_with_free_func(saved_free);
    for (guint i = 0; i < vm->definition->disks->len; i++) {
        CkptSimDisk *disk = g_ptr_array_index(vm->definition->disks, i);
        CkptSimFile *top = ckpt_sim_find(sim, disk->source);
        CkptSimSaved *saved;
        g_autofree char *path = NULL;

        saved = save(snapshot, disk->target, top);
        if (!folder)
            continue;
        path = g_strdup_printf("%s/%s-%s.%s", folder, vm->name, disk->target, name);
        lay_overlay(sim, vm, disk, saved, path);
    }
    g_ptr_array_add(sim->snapshots, snapshot);
    return snapshot;
}

guint32
ckpt_sim_saved_cell(CkptSim *sim, const CkptSimSaved *saved, guint cell)
{
    g_autoptr(GPtrArray) below = NULL;

    if (saved->set[cell])
        return saved->data[cell];
    below = saved->file->backing ? ckpt_sim_chain(sim, saved->file->backing) : NULL;
    return below ? ckpt_sim_read_cell(below, 0, cell) : 0;
}

gboolean
ckpt_sim_has_inside(CkptSim *sim, const CkptSimFile *file)
{
    for (guint i = 0; i < sim->snapshots->len; i++) {
        const CkptSimSnapshot *snapshot = g_ptr_array_index(sim->snapshots, i);

        for (guint k = 0; snapshot->internal && k < snapshot->disks->len; k++)
            if (((CkptSimSaved *)g_ptr_array_index(snapshot->disks, k))->file == file)
                return TRUE;
    }
    return FALSE;
}

CkptSnapshot *
ckpt_sim_snapshot_tell(const CkptSimSnapshot *snapshot)
{
    CkptSnapshot *told = ckpt_snapshot_new(snapshot->name);

    told->internal = snapshot->internal;
    told->created_us = G_USEC_PER_SEC;
    told->power = CKPT_POWER_SHUT_OFF;
    for (guint i = 0; i < snapshot->disks->len; i++) {
        const CkptSimSaved *saved = g_ptr_array_index(snapshot->disks, i);

        ckpt_snapshot_add_file(told->disks, saved->target, saved->path, saved->file->format);
        ckpt_snapshot_add_file(told->named, saved->target, saved->path, saved->file->format);
        if (saved->overlay)
            ckpt_snapshot_add_file(told->named, saved->target, saved->overlay, CKPT_FORMAT_QCOW2);
    }
    return told;
}
