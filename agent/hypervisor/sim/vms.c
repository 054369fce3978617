/* Virtual machines: definitions as text, and what a QEMU has open while one runs. */
#include "agent/hypervisor/sim/sim.h"

#include <stdlib.h>
#include <string.h>

/* ---- Definitions: "memory=2;vda=/a/b.raw,raw;" ---- */

static void
disk_free(gpointer data)
{
    CkptSimDisk *disk = data;

    g_free(disk->target);
    g_free(disk->source);
    g_free(disk);
}

CkptSimDefinition *
ckpt_sim_definition_new(void)
{
    CkptSimDefinition *definition = g_new0(CkptSimDefinition, 1);

    definition->disks = g_ptr_array_new_with_free_func(disk_free);
    return definition;
}

void
ckpt_sim_definition_free(CkptSimDefinition *definition)
{
    if (!definition)
        return;
    g_ptr_array_unref(definition->disks);
    g_free(definition);
}

CkptSimDisk *
ckpt_sim_definition_find(const CkptSimDefinition *definition, const char *target)
{
    for (guint i = 0; definition && i < definition->disks->len; i++) {
        CkptSimDisk *disk = g_ptr_array_index(definition->disks, i);

        if (g_str_equal(disk->target, target))
            return disk;
    }
    return NULL;
}

void
ckpt_sim_definition_set(CkptSimDefinition *definition, const char *target, const char *source,
                        CkptFormat format)
{
    CkptSimDisk *disk = ckpt_sim_definition_find(definition, target);

    if (!disk) {
        disk = g_new0(CkptSimDisk, 1);
        disk->target = g_strdup(target);
        g_ptr_array_add(definition->disks, disk);
    }
    ckpt_set_str(&disk->source, source);
    disk->format = format;
}

void
ckpt_sim_definition_remove(CkptSimDefinition *definition, const char *target)
{
    CkptSimDisk *disk = ckpt_sim_definition_find(definition, target);

    if (disk)
        g_ptr_array_remove(definition->disks, disk);
}

char *
ckpt_sim_definition_text(const CkptSimDefinition *definition)
{
    GString *text = g_string_new(NULL);

    g_string_append_printf(text, "memory=%u;", definition->memory);
    for (guint i = 0; i < definition->disks->len; i++) {
        CkptSimDisk *disk = g_ptr_array_index(definition->disks, i);

        g_string_append_printf(text, "%s=%s,%s;", disk->target, disk->source,
                               ckpt_format_name(disk->format));
    }
    return g_string_free(text, FALSE);
}

CkptSimDefinition *
ckpt_sim_definition_parse(const char *text)
{
    CkptSimDefinition *definition = ckpt_sim_definition_new();
    g_auto(GStrv) parts = g_strsplit(text, ";", -1);

    for (char **part = parts; *part && **part; part++) {
        char *value = strchr(*part, '='), *comma;

        *value++ = '\0';
        if (g_str_equal(*part, "memory")) {
            definition->memory = (guint)atoi(value);
            continue;
        }
        comma = strrchr(value, ',');
        *comma++ = '\0';
        ckpt_sim_definition_set(definition, *part, value,
                                g_str_equal(comma, "raw") ? CKPT_FORMAT_RAW : CKPT_FORMAT_QCOW2);
    }
    return definition;
}

CkptSimDefinition *
ckpt_sim_definition_copy(const CkptSimDefinition *definition)
{
    g_autofree char *text = ckpt_sim_definition_text(definition);

    return ckpt_sim_definition_parse(text);
}

/* ---- Running ---- */

static void
live_free(gpointer data)
{
    CkptSimLive *live = data;

    g_ptr_array_unref(live->chain);
    g_free(live->target);
    g_free(live);
}

static gboolean
refuse(GError **error, const char *what, const char *path)
{
    ckpt_error_set(error, CKPT_REASON_HYPERVISOR_FAILED, "%s: %s", path, what);
    return FALSE;
}

static gboolean
open_layer(CkptSim *sim, CkptSimFile *file, gboolean top, GError **error)
{
    gboolean read, write;

    ckpt_sim_locks(sim, file, &read, &write);
    if (top && !(file->mode & 0200))
        return refuse(error, "Permission denied", file->path);
    if (write || (top && read))
        return refuse(error, "Failed to get lock", file->path);
    return TRUE;
}

static CkptSimLive *
open_disk(CkptSim *sim, const char *target, const char *source, GError **error)
{
    g_autoptr(GPtrArray) chain = ckpt_sim_chain(sim, source);
    CkptSimLive *live;

    if (!chain) {
        refuse(error, "a file of its chain is missing", source);
        return NULL;
    }
    for (guint i = 0; i < chain->len; i++)
        if (!open_layer(sim, g_ptr_array_index(chain, i), i == 0, error))
            return NULL;
    live = g_new0(CkptSimLive, 1);
    live->target = g_strdup(target);
    live->chain = g_steal_pointer(&chain);
    return live;
}

static gboolean
open_disks(CkptSim *sim, CkptSimVm *vm, GError **error)
{
    vm->live = ckpt_sim_definition_copy(vm->saved ? vm->saved : vm->definition);
    vm->live_disks = g_ptr_array_new_with_free_func(live_free);
    for (guint i = 0; i < vm->live->disks->len; i++) {
        CkptSimDisk *disk = g_ptr_array_index(vm->live->disks, i);
        CkptSimLive *live = open_disk(sim, disk->target, disk->source, error);

        if (!live)
            return FALSE;
        g_ptr_array_add(vm->live_disks, live);
    }
    return TRUE;
}

static void
close_disks(CkptSimVm *vm)
{
    g_clear_pointer(&vm->live, ckpt_sim_definition_free);
    g_clear_pointer(&vm->live_disks, g_ptr_array_unref);
}

gboolean
ckpt_sim_start(CkptSim *sim, CkptSimVm *vm, CkptPower power, GError **error)
{
    g_assert(!vm->live);
    if (!open_disks(sim, vm, error)) {
        close_disks(vm);
        return FALSE;
    }
    if (vm->saved && vm->saved_sum != ckpt_sim_sum_of_disks(vm))
        ckpt_sim_crime(sim, "%s went on from its managed save on disks that are not those it was saved on",
                       vm->name);
    vm->power = vm->saved ? vm->saved_power : power;
    vm->loaded = vm->saved != NULL;
    vm->shut_down = FALSE;
    ckpt_sim_forget_saved(vm);
    return TRUE;
}

/* ---- Saved ---- */

void
ckpt_sim_save(CkptSim *sim, CkptSimVm *vm)
{
    vm->saved = ckpt_sim_definition_copy(vm->live);
    vm->saved_power = vm->power;
    vm->saved_sum = ckpt_sim_sum_of_disks(vm);
    ckpt_sim_stop(sim, vm);
}

void
ckpt_sim_forget_saved(CkptSimVm *vm)
{
    g_clear_pointer(&vm->saved, ckpt_sim_definition_free);
}

gboolean
ckpt_sim_can_go_on(CkptSim *sim, CkptSimVm *vm)
{
    gboolean can;

    if (vm->live || !vm->saved)
        return TRUE;
    can = open_disks(sim, vm, NULL) && vm->saved_sum == ckpt_sim_sum_of_disks(vm);
    close_disks(vm);
    return can;
}

gboolean
ckpt_sim_is_saved_on(CkptSim *sim, const CkptSimVm *vm, GPtrArray *disks)
{
    for (guint i = 0; !vm->live && vm->saved && i < vm->saved->disks->len; i++) {
        const CkptSimDisk *disk = g_ptr_array_index(vm->saved->disks, i);
        g_autoptr(GPtrArray) chain = ckpt_sim_chain(sim, disk->source);

        for (guint k = 0; chain && k < chain->len; k++)
            for (guint d = 0; d < disks->len; d++)
                if (g_str_equal(((CkptSimFile *)chain->pdata[k])->path, ((CkptDiskFile *)disks->pdata[d])->file))
                    return TRUE;
    }
    return FALSE;
}

gboolean
ckpt_sim_refuse_saved(const CkptSimVm *vm, GError **error)
{
    if (vm->live || !vm->saved)
        return FALSE;
    ckpt_error_set(error, CKPT_REASON_MANAGED_SAVE_PRESENT, "%s was saved", vm->name);
    return TRUE;
}

gboolean
ckpt_sim_refuse_saved_merge(CkptSim *sim, const CkptSimVm *vm, const CkptSimFile *overlay,
                            GError **error)
{
    CkptDiskFile disk = {.file = overlay ? overlay->path : NULL};
    g_autoptr(GPtrArray) disks = g_ptr_array_new();
    gboolean empty = overlay != NULL;

    g_ptr_array_add(disks, &disk);
    for (guint i = 0; empty && i < overlay->cells; i++)
        empty = !overlay->set[i];
    return !(empty && !ckpt_sim_is_saved_on(sim, vm, disks)) && ckpt_sim_refuse_saved(vm, error);
}

/* ---- */

void
ckpt_sim_stop(CkptSim *sim, CkptSimVm *vm)
{
    close_disks(vm);
    vm->power = CKPT_POWER_SHUT_OFF;
    vm->suspended = FALSE;
    vm->loaded = FALSE;
    vm->shut_down = FALSE;
    vm->frozen = FALSE;
    vm->guards = 0;
}

gboolean
ckpt_sim_attach(CkptSim *sim, CkptSimVm *vm, const char *target, const char *source,
                CkptFormat format, GError **error)
{
    if (vm->live) {
        CkptSimLive *live = open_disk(sim, target, source, error);

        if (!live)
            return FALSE;
        g_ptr_array_add(vm->live_disks, live);
        ckpt_sim_definition_set(vm->live, target, source, format);
    }
    ckpt_sim_definition_set(vm->definition, target, source, format);
    return TRUE;
}

void
ckpt_sim_detach(CkptSim *sim, CkptSimVm *vm, const char *target)
{
    CkptSimLive *live = ckpt_sim_find_live(vm, target);

    if (live) {
        g_ptr_array_remove(vm->live_disks, live);
        ckpt_sim_definition_remove(vm->live, target);
    }
    ckpt_sim_definition_remove(vm->definition, target);
}

CkptSimLive *
ckpt_sim_find_live(const CkptSimVm *vm, const char *target)
{
    for (guint i = 0; vm->live_disks && i < vm->live_disks->len; i++) {
        CkptSimLive *live = g_ptr_array_index(vm->live_disks, i);

        if (g_str_equal(live->target, target))
            return live;
    }
    return NULL;
}

GPtrArray *
ckpt_sim_disk_chain(CkptSim *sim, const CkptSimVm *vm, const char *target)
{
    CkptSimLive *live = ckpt_sim_find_live(vm, target);
    CkptSimDisk *disk = ckpt_sim_definition_find(vm->definition, target);

    if (live)
        return g_ptr_array_ref(live->chain);
    return disk && !vm->live ? ckpt_sim_chain(sim, disk->source) : NULL;
}

/* ---- The VMs of the host ---- */

CkptSimVm *
ckpt_sim_find_vm(CkptSim *sim, const char *id)
{
    for (guint i = 0; i < sim->vms->len; i++) {
        CkptSimVm *vm = g_ptr_array_index(sim->vms, i);

        if (g_str_equal(vm->id, id))
            return vm;
    }
    return NULL;
}

CkptSimVm *
ckpt_sim_add_vm(CkptSim *sim, const char *id, const char *name)
{
    CkptSimVm *vm = g_new0(CkptSimVm, 1);

    vm->id = g_strdup(id);
    vm->name = g_strdup(name);
    vm->power = CKPT_POWER_SHUT_OFF;
    vm->definition = ckpt_sim_definition_new();
    g_ptr_array_add(sim->vms, vm);
    return vm;
}

void
ckpt_sim_watch(CkptDriver *driver, CkptVmChangedFunc func, gpointer data)
{
    CkptSim *sim = (CkptSim *)driver;

    g_rec_mutex_lock(&sim->lock);
    sim->watcher = func;
    sim->watcher_data = data;
    g_rec_mutex_unlock(&sim->lock);
}

void
ckpt_sim_tell(CkptSim *sim, const char *vm_id)
{
    g_rec_mutex_lock(&sim->lock);
    if (sim->watcher)
        sim->watcher(vm_id, sim->watcher_data);
    g_rec_mutex_unlock(&sim->lock);
}
