/* One VM of a hypervisor that keeps the checkpoints itself: no file is looked at. */
#include "agent/hypervisor/native/native.h"

typedef virDomainSnapshotPtr SnapshotList; /* NULL-terminated */

static void
snapshot_list_free(SnapshotList *list)
{
    for (SnapshotList *snapshot = list; snapshot && *snapshot; snapshot++)
        virDomainSnapshotFree(*snapshot);
    free(list);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SnapshotList, snapshot_list_free)

/* FALSE with an error; one that is gone since it was listed is left out. */
static gboolean
add_snapshot(CkptVm *vm, virDomainSnapshotPtr listed, GError **error)
{
    g_auto(CkptSnapshotXml) found = {0};
    g_autoptr(GError) why = NULL;
    CkptSnapshot *snapshot;
    int current;

    if (!ckpt_native_read(listed, &found, &why)) {
        if (ckpt_error_reason(why) == CKPT_REASON_CHECKPOINT_NOT_ENABLED)
            return TRUE;
        g_propagate_error(error, g_steal_pointer(&why));
        return FALSE;
    }
    current = virDomainSnapshotIsCurrent(listed, 0);
    if (current < 0) {
        if (ckpt_libvirt_code() == VIR_ERR_NO_DOMAIN_SNAPSHOT)
            return TRUE;
        ckpt_libvirt_error(error, CKPT_REASON_HYPERVISOR_FAILED, "ask whether snapshot %s is current",
                           virDomainSnapshotGetName(listed));
        return FALSE;
    }
    snapshot = g_new0(CkptSnapshot, 1);
    snapshot->name = g_strdup(virDomainSnapshotGetName(listed));
    snapshot->parent = g_steal_pointer(&found.parent);
    snapshot->power = found.power;
    snapshot->current = current == 1;
    g_ptr_array_add(vm->snapshots, snapshot);
    return TRUE;
}

static gboolean
inspect_snapshots(CkptVm *vm, virDomainPtr domain, GError **error)
{
    g_autoptr(SnapshotList) list = NULL;

    if (virDomainListAllSnapshots(domain, &list, 0) < 0) {
        ckpt_libvirt_error(error, CKPT_REASON_HYPERVISOR_FAILED, "list its snapshots");
        return FALSE;
    }
    for (SnapshotList *snapshot = list; snapshot && *snapshot; snapshot++)
        if (!add_snapshot(vm, *snapshot, error))
            return FALSE;
    return TRUE;
}

static void
inspect_disks(CkptVm *vm, const CkptView *view)
{
    for (guint i = 0; i < view->definition_xml->disks->len; i++) {
        const CkptXmlDisk *found = g_ptr_array_index(view->definition_xml->disks, i);
        CkptDisk *disk;

        if (!ckpt_xml_disk_is_captured(found))
            continue;
        disk = g_new0(CkptDisk, 1);
        disk->target = g_strdup(found->target);
        disk->chain = g_ptr_array_new();
        g_ptr_array_add(vm->disks, disk);
    }
}

static void
set_ability(CkptAbility *ability, const CkptVm *vm, gboolean available, const char *reason)
{
    const CkptObstacle *first =
        vm->obstacles->len > 0 ? g_ptr_array_index(vm->obstacles, 0) : NULL;

    ability->available = available && !first;
    if (!ability->available)
        ability->reason = g_strdup(first ? first->message : reason);
}

static void
set_abilities(CkptNative *native, CkptVm *vm)
{
    const CkptPlatform *platform = &native->platform;
    g_autofree char *not_live =
        g_strdup_printf("this platform cannot checkpoint a running VM: shut it down first, with virsh "
                        "-c '%s' shutdown %s", ckpt_connection_uri(native->connection), vm->name);

    set_ability(&vm->checkpoint, vm, TRUE, NULL);
    set_ability(&vm->live, vm, platform->live, not_live);
    set_ability(&vm->memory, vm, platform->live && platform->memory,
                platform->live ? "this platform's snapshots hold no memory" : not_live);
    set_ability(&vm->application, vm, FALSE,
                platform->live && platform->memory
                    ? "not offered: a running VM is captured with its memory, which is more"
                    : "this platform's snapshots do not freeze file systems");
}

CkptVm *
ckpt_native_inspect(CkptNative *native, const char *vm_id, GError **error)
{
    g_autoptr(CkptView) view = ckpt_view_load(native->connection, vm_id, error);
    g_autoptr(CkptVm) vm = ckpt_vm_new();

    vm->mechanism = CKPT_MECHANISM_NATIVE;
    if (!view || !ckpt_view_describe(view, vm_id, vm, error) ||
        !inspect_snapshots(vm, view->domain, error)) {
        g_prefix_error(error, "inspect VM %s: ", vm_id);
        return NULL;
    }
    inspect_disks(vm, view);
    set_abilities(native, vm);
    return g_steal_pointer(&vm);
}
