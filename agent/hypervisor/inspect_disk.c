/* The disks of a VM: their chains, and where libvirt, headers and locks disagree about them. */
#include "agent/hypervisor/image.h"
#include "agent/hypervisor/locks.h"
#include "agent/hypervisor/qemu.h"

#include <string.h>

typedef struct {
    CkptVm *vm;
    const char *target; /* NULL for a file that was asked for */
} Subject;

static void
add_finding(CkptReason reason, const char *file, const char *message, gpointer data)
{
    const Subject *subject = data;

    if (subject->target)
        ckpt_vm_add_obstacle(subject->vm, reason, subject->target, file, "disk %s: %s",
                             subject->target, message);
}

/* What its definition alone says against it. FALSE: there is no chain to be looked at. */
static gboolean
inspect_kind(CkptVm *vm, const CkptXmlDisk *disk)
{
    const char *target = disk->target;

    if (!g_str_equal(disk->device, "disk") || !disk->source ||
        !(g_str_equal(disk->type, "file") || g_str_equal(disk->type, "block"))) {
        ckpt_vm_add_obstacle(vm, CKPT_REASON_DISK_TYPE_UNSUPPORTED, target, disk->source,
                             "disk %s is a %s of type '%s': only writable disks of type 'file' or 'block' can "
                             "be captured",
                             target, disk->device, disk->type);
        return FALSE;
    }
    if (g_str_equal(disk->type, "block") && !ckpt_is_block(disk->source)) {
        ckpt_vm_add_obstacle(vm, CKPT_REASON_DISK_TYPE_UNSUPPORTED, target, disk->source,
                             "disk %s is defined as a block device, and %s is none on this host", target,
                             disk->source);
        return FALSE;
    }
    if (disk->encrypted)
        ckpt_vm_add_obstacle(vm, CKPT_REASON_DISK_ENCRYPTED, target, disk->source,
                             "disk %s is encrypted", target);
    if (disk->sliced)
        ckpt_vm_add_obstacle(vm, CKPT_REASON_DISK_SLICED, target, disk->source,
                             "disk %s is a slice of its file", target);
    if (disk->shareable)
        ckpt_vm_add_obstacle(vm, CKPT_REASON_DISK_SHAREABLE, target, disk->source,
                             "disk %s is shareable: others may write to it", target);
    if (disk->transient)
        ckpt_vm_add_obstacle(vm, CKPT_REASON_DISK_TRANSIENT, target, disk->source,
                             "disk %s is transient: remove <transient/>", target);
    if (!ckpt_format_from_name(disk->format)) {
        ckpt_vm_add_obstacle(vm, CKPT_REASON_DISK_FORMAT_UNSUPPORTED, target, disk->source,
                             "disk %s has %s%s as its format: name raw or qcow2 in "
                             "<driver type='…'/>",
                             target, disk->format ? "" : "nothing",
                             disk->format ? disk->format : "");
        return FALSE;
    }
    return TRUE;
}

static void
chain_mismatch(CkptVm *vm, const CkptXmlDisk *disk, const char *who, char **said, char **headers)
{
    g_autofree char *first = g_strjoinv(" -> ", said);
    g_autofree char *second = g_strjoinv(" -> ", headers);

    ckpt_vm_add_obstacle(vm, CKPT_REASON_CHAIN_MISMATCH, disk->target, disk->source,
                         "disk %s: %s says %s, the image headers say %s", disk->target, who, first,
                         second);
}

static void
inspect_live(CkptVm *vm, const CkptDisk *disk, const CkptXmlDisk *defined, const CkptXmlDisk *live,
             char **headers, gboolean whole)
{
    if (!live) {
        ckpt_vm_add_obstacle(vm, CKPT_REASON_CHAIN_MISMATCH, disk->target, disk->source,
                             "disk %s is in the definition, but not attached to the running VM: "
                             "attach it, or remove it with virsh detach-disk --config",
                             disk->target);
        return;
    }
    if (!ckpt_image_same(live->source, defined->source))
        ckpt_vm_add_obstacle(vm, CKPT_REASON_CHAIN_MISMATCH, disk->target, live->source,
                             "disk %s: the VM runs on %s, but its definition names %s, on which it "
                             "would start next",
                             disk->target, live->source ? live->source : "no file",
                             defined->source);
    /* A chain that could not be followed to its end differs from libvirt's for that reason alone. */
    if (whole && !ckpt_chain_equal((const char *const *)live->chain, (const char *const *)headers))
        chain_mismatch(vm, live, "libvirt's live definition", live->chain, headers);
}

static void
inspect_top_lock(CkptVm *vm, const CkptDisk *disk, const CkptLayer *top, gboolean active)
{
    g_autofree char *holder = NULL;

    if (active && !top->write_locked) {
        ckpt_vm_add_obstacle(vm, CKPT_REASON_CHAIN_MISMATCH, disk->target, top->path,
                             "disk %s: no QEMU has %s open for writing although the VM runs on it: virsh "
                             "qemu-monitor-command %s --hmp info block tells what it writes to; define "
                             "the disk on that (virsh define), then stop and start the VM",
                             disk->target, top->path, vm->name);
    } else if (!active && (top->read_locked || top->write_locked)) {
        holder = ckpt_locks_holder(top->path);
        ckpt_vm_add_obstacle(vm, CKPT_REASON_VM_BUSY, disk->target, top->path,
                             "disk %s: the VM is shut off, but %s is in use by %s: wait for it",
                             disk->target, top->path, holder);
    }
}

/* After a block commit that was cancelled QEMU 7.2 keeps the base open for writing until it ends,
 * without writing to it. */
static gboolean
is_left_over(const CkptDisk *disk, const CkptLayer *layer, gboolean active)
{
    const CkptLayer *top = g_ptr_array_index(disk->chain, 0);

    return active && top->write_locked && ckpt_locks_same_holder(layer->path, top->path);
}

static void
inspect_locks(CkptVm *vm, const CkptDisk *disk, gboolean active)
{
    for (guint i = 0; i < disk->chain->len; i++) {
        const CkptLayer *layer = g_ptr_array_index(disk->chain, i);
        g_autofree char *holder = NULL;

        if (!layer->exists)
            continue;
        if (i == 0) {
            inspect_top_lock(vm, disk, layer, active);
        } else if (layer->write_locked && !is_left_over(disk, layer, active)) {
            holder = ckpt_locks_holder(layer->path);
            ckpt_vm_add_obstacle(vm, CKPT_REASON_CHAIN_MISMATCH, disk->target, layer->path,
                                 "disk %s: %s lies below other files, but is open for writing by %s",
                                 disk->target, layer->path, holder);
        }
    }
}

static void
inspect_disk(CkptVm *vm, const CkptXmlDisk *defined, const CkptXmlDisk *live, gboolean active)
{
    CkptDisk *disk = g_new0(CkptDisk, 1);
    Subject subject = {vm, defined->target};
    g_auto(GStrv) headers = NULL;
    guint obstacles = vm->obstacles->len;
    const char *top;
    gboolean whole;

    g_ptr_array_add(vm->disks, disk);
    disk->target = g_strdup(defined->target);
    disk->source = g_strdup(defined->source);
    disk->format = ckpt_format_from_name(defined->format);
    if (live) {
        disk->live_source = g_strdup(live->source);
        disk->live_chain = g_strdupv(live->chain);
    }
    if (!inspect_kind(vm, defined)) {
        disk->chain = g_ptr_array_new();
        return;
    }
    top = live && live->source ? live->source : defined->source;
    disk->chain = ckpt_chain_walk(top, ckpt_format_from_name(live ? live->format : defined->format),
                                  vm->files, add_finding, &subject);
    headers = ckpt_chain_paths(disk->chain);
    whole = vm->obstacles->len == obstacles;
    if (active)
        inspect_live(vm, disk, defined, live, headers, whole);
    if (whole && !ckpt_chain_fits(defined, (const char *const *)headers))
        chain_mismatch(vm, defined, "the definition", defined->chain, headers);
    inspect_locks(vm, disk, active);
}

/* A top that another disk of the VM has anywhere in its chain. */
static void
inspect_sharing(CkptVm *vm, const CkptDisk *one, const CkptDisk *other)
{
    const CkptLayer *top = one->chain->len ? g_ptr_array_index(one->chain, 0) : NULL;

    for (guint i = 0; top && i < other->chain->len; i++) {
        const CkptLayer *layer = g_ptr_array_index(other->chain, i);

        if (layer != top && !ckpt_image_same(layer->path, top->path))
            continue;
        ckpt_vm_add_obstacle(vm, CKPT_REASON_CHAIN_MISMATCH, one->target, top->path,
                             "disks %s and %s lie on one file, %s", one->target, other->target,
                             top->path);
        return;
    }
}

static void
inspect_hotplugged(CkptVm *vm, const CkptView *view)
{
    for (guint i = 0; view->live_xml && i < view->live_xml->disks->len; i++) {
        const CkptXmlDisk *disk = g_ptr_array_index(view->live_xml->disks, i);

        if (ckpt_xml_disk_is_captured(disk) &&
            !ckpt_xml_domain_find(view->definition_xml, disk->target))
            ckpt_vm_add_obstacle(vm, CKPT_REASON_CHAIN_MISMATCH, disk->target, disk->source,
                                 "disk %s is attached to the running VM, but not in its definition: "
                                 "attach it with virsh attach-disk --config too, or detach it",
                                 disk->target);
    }
}

void
ckpt_inspect_disks(CkptVm *vm, const CkptView *view)
{
    for (guint i = 0; i < view->definition_xml->disks->len; i++) {
        const CkptXmlDisk *disk = g_ptr_array_index(view->definition_xml->disks, i);

        if (ckpt_xml_disk_is_captured(disk))
            inspect_disk(vm, disk, ckpt_xml_domain_find(view->live_xml, disk->target),
                         view->active);
    }
    inspect_hotplugged(vm, view);
    for (guint i = 0; i < vm->disks->len; i++)
        for (guint j = 0; j < vm->disks->len; j++)
            if (i != j)
                inspect_sharing(vm, g_ptr_array_index(vm->disks, i),
                                g_ptr_array_index(vm->disks, j));
}

void
ckpt_inspect_files(CkptVm *vm, const CkptKnownFile *files)
{
    /* What is wrong with a file that the VM does not run on is no obstacle to all that is done with the
     * VM: the planner refuses what needs that file. */
    for (; files && files->path; files++)
        g_ptr_array_unref(ckpt_chain_walk(files->path, files->format, vm->files, NULL, NULL));
}
