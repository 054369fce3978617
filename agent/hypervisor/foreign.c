#include "agent/hypervisor/foreign.h"

#include "agent/hypervisor/foreign_xml.h"
#include "agent/hypervisor/image.h"

#include <fcntl.h>
#include <unistd.h>

typedef virDomainSnapshotPtr SnapshotList; /* NULL-terminated */

static void
snapshot_list_free(SnapshotList *list)
{
    for (SnapshotList *snapshot = list; snapshot && *snapshot; snapshot++)
        virDomainSnapshotFree(*snapshot);
    free(list);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SnapshotList, snapshot_list_free)

static CkptSnapshot *
find(const CkptVm *vm, const char *name)
{
    for (guint i = 0; i < vm->foreign->len; i++) {
        CkptSnapshot *snapshot = g_ptr_array_index(vm->foreign, i);

        if (g_str_equal(snapshot->name, name))
            return snapshot;
    }
    return NULL;
}

/* ---- What libvirt knows ---- */

/* FALSE with an error; one that is gone since it was listed is left out. */
static gboolean
add_listed(GPtrArray *snapshots, virDomainSnapshotPtr listed, GError **error)
{
    char *xml = virDomainSnapshotGetXMLDesc(listed, 0);
    CkptSnapshot *snapshot;

    if (!xml && ckpt_libvirt_code() == VIR_ERR_NO_DOMAIN_SNAPSHOT)
        return TRUE;
    if (!xml) {
        ckpt_libvirt_error(error, CKPT_REASON_HYPERVISOR_FAILED, "read snapshot %s",
                           virDomainSnapshotGetName(listed));
        return FALSE;
    }
    snapshot = ckpt_foreign_xml_read(xml, error);
    free(xml);
    if (!snapshot)
        return FALSE;
    snapshot->current = virDomainSnapshotIsCurrent(listed, 0) == 1;
    g_ptr_array_add(snapshots, snapshot);
    return TRUE;
}

GPtrArray *
ckpt_foreign_read(virDomainPtr domain, GError **error)
{
    g_autoptr(GPtrArray) snapshots =
        g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_snapshot_free);
    g_autoptr(SnapshotList) list = NULL;
    int count = virDomainListAllSnapshots(domain, &list, 0);

    /* Gone meanwhile: it has none. */
    if (count < 0 && ckpt_libvirt_code() == VIR_ERR_NO_DOMAIN)
        return g_steal_pointer(&snapshots);
    if (count < 0) {
        ckpt_libvirt_error(error, CKPT_REASON_HYPERVISOR_FAILED, "list the snapshots of VM %s",
                           virDomainGetName(domain));
        return NULL;
    }
    for (SnapshotList *snapshot = list; snapshot && *snapshot; snapshot++)
        if (!add_listed(snapshots, *snapshot, error))
            return NULL;
    return g_steal_pointer(&snapshots);
}

/* An overlay made for it may be in no chain of the present: what it lies on is not to be taken away. */
static void
look_at_files(CkptVm *vm, GPtrArray *files)
{
    for (guint i = 0; i < files->len; i++) {
        const CkptSnapshotFile *file = g_ptr_array_index(files, i);

        if (file->format && !ckpt_vm_find_file(vm, file->path))
            g_ptr_array_unref(ckpt_chain_walk(file->path, file->format, vm->files, NULL, NULL));
    }
}

/* ---- What only the files know ---- */

static const char *
target_of(const CkptVm *vm, const CkptLayer *layer)
{
    for (guint i = 0; i < vm->disks->len; i++) {
        const CkptDisk *disk = g_ptr_array_index(vm->disks, i);

        if (g_ptr_array_find(disk->chain, layer, NULL))
            return disk->target;
    }
    return "";
}

static void
add_inside(CkptVm *vm, const CkptLayer *layer, const CkptQcow2Snapshot *inside)
{
    CkptSnapshot *snapshot = find(vm, inside->name);

    if (!snapshot) {
        snapshot = ckpt_snapshot_new(inside->name);
        snapshot->internal = snapshot->unlisted = TRUE;
        snapshot->created_us = inside->created_us;
        snapshot->memory = inside->memory;
        snapshot->power = inside->memory ? CKPT_POWER_RUNNING : CKPT_POWER_SHUT_OFF;
        g_ptr_array_add(vm->foreign, snapshot);
    }
    ckpt_snapshot_add_file(snapshot->disks, target_of(vm, layer), layer->path, layer->format);
}

static void
look_inside(CkptVm *vm, const CkptLayer *layer)
{
    int fd = open(layer->path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    g_autoptr(GPtrArray) table = NULL;
    g_autoptr(GError) error = NULL;

    if (fd < 0)
        return;
    table = ckpt_qcow2_snapshots(fd, &error);
    close(fd);
    if (!table)
        g_warning("file %s: %s", layer->path, error->message);
    for (guint i = 0; table && i < table->len; i++)
        add_inside(vm, layer, g_ptr_array_index(table, i));
}

static int
compare_paths(gconstpointer a, gconstpointer b)
{
    return g_strcmp0((*(CkptLayer *const *)a)->path, (*(CkptLayer *const *)b)->path);
}

static void
look_inside_all(CkptVm *vm)
{
    g_autoptr(GPtrArray) layers = g_ptr_array_new();
    GHashTableIter iter;
    gpointer value;

    g_hash_table_iter_init(&iter, vm->files);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        CkptLayer *layer = value;

        if (layer->exists && layer->snapshots)
            g_ptr_array_add(layers, layer);
    }
    g_ptr_array_sort(layers, compare_paths);
    for (guint i = 0; i < layers->len; i++)
        look_inside(vm, g_ptr_array_index(layers, i));
}

gboolean
ckpt_inspect_foreign(CkptVm *vm, const CkptView *view, GError **error)
{
    GPtrArray *listed = ckpt_foreign_read(view->domain, error);

    if (!listed)
        return FALSE;
    g_clear_pointer(&vm->foreign, g_ptr_array_unref);
    vm->foreign = listed;
    for (guint i = 0; i < vm->foreign->len; i++) {
        const CkptSnapshot *snapshot = g_ptr_array_index(vm->foreign, i);

        look_at_files(vm, snapshot->disks);
        look_at_files(vm, snapshot->named);
    }
    look_inside_all(vm);
    return TRUE;
}

/* ---- For lists ---- */

static void
add_chain(CkptVm *vm, const CkptXmlDisk *defined)
{
    CkptDisk *disk = g_new0(CkptDisk, 1);

    disk->target = g_strdup(defined->target);
    disk->chain = ckpt_chain_walk(defined->source, ckpt_format_from_name(defined->format), vm->files,
                                  NULL, NULL);
    g_ptr_array_add(vm->disks, disk);
}

GPtrArray *
ckpt_foreign_list(CkptConnection *connection, const char *vm_id, const CkptKnownFile *files,
                  GError **error)
{
    g_autoptr(CkptView) view = ckpt_view_load(connection, vm_id, error);
    g_autoptr(CkptVm) vm = ckpt_vm_new();
    const CkptXmlDomain *domain;

    if (!view)
        return NULL;
    domain = view->live_xml ? view->live_xml : view->definition_xml;
    for (guint i = 0; i < domain->disks->len; i++) {
        const CkptXmlDisk *disk = g_ptr_array_index(domain->disks, i);

        if (ckpt_xml_disk_is_captured(disk) && disk->source && ckpt_format_from_name(disk->format))
            add_chain(vm, disk);
    }
    ckpt_inspect_files(vm, files);
    if (!ckpt_inspect_foreign(vm, view, error)) {
        g_prefix_error(error, "VM %s: ", vm_id);
        return NULL;
    }
    return g_ptr_array_ref(vm->foreign);
}
