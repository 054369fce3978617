/* Bitmaps of backup tools (libvirt checkpoints, or qemu-img's own): what becomes of them is said beforehand
 * (hazards A23, A35). Measured on libvirt 9.0 and QEMU 7.2: a snapshot of a running VM continues libvirt's
 * bitmaps in the new overlay, and a live merge merges them; qemu-img commit marks what it writes in the
 * bitmaps of the file below. After all of these the next incremental backup was right. After a restore
 * libvirt refuses it ("missing or broken bitmap"); of a VM that is off it refuses every snapshot. */
#include "agent/core/plan_parts.h"

static gboolean
has_bitmaps(const CkptVm *vm)
{
    for (guint i = 0; i < vm->disks->len; i++) {
        const CkptDisk *disk = g_ptr_array_index(vm->disks, i);

        for (guint k = 0; k < disk->chain->len; k++)
            if (((CkptLayer *)g_ptr_array_index(disk->chain, k))->bitmaps)
                return TRUE;
    }
    return FALSE;
}

gboolean
ckpt_plan_backups_at_create(const CkptPlanInput *input, CkptPlan *plan, GError **error)
{
    const CkptVm *vm = input->vm;

    if (vm->power == CKPT_POWER_SHUT_OFF && vm->backup_points > 0) {
        ckpt_error_set(error, CKPT_REASON_LIBVIRT_CHECKPOINT_PRESENT,
                       "VM %s is off and has %u libvirt checkpoints (dirty bitmaps of a backup tool), beside "
                       "which libvirt takes no snapshot of a VM that is off: start it, or delete them with "
                       "virsh checkpoint-delete",
                       vm->name, vm->backup_points);
        return FALSE;
    }
    if (vm->backup_points > 0)
        ckpt_plan_warn(plan, "VM %s has %u libvirt checkpoints: libvirt continues their bitmaps in the new "
                             "overlays, so that incremental backups go on; a restore would end them",
                       vm->name, vm->backup_points);
    else if (has_bitmaps(vm))
        ckpt_plan_warn(plan, "disks of VM %s have persistent dirty bitmaps, which no libvirt checkpoint "
                             "tells: they stay in the files below and are not continued in the new overlays; "
                             "the next backup should be a full one",
                       vm->name);
    return TRUE;
}

void
ckpt_plan_backups_at_restore(const CkptPlanInput *input, CkptPlan *plan)
{
    if (input->vm->backup_points > 0 || has_bitmaps(input->vm))
        ckpt_plan_warn(plan, "after the restore a full backup of VM %s is needed: its disks go back to before "
                             "the bitmaps of its %u libvirt checkpoints, and an incremental one is refused "
                             "(missing or broken bitmap)",
                       input->vm->name, input->vm->backup_points);
}

void
ckpt_plan_backups_at_merge(const CkptPlanInput *input, CkptPlan *plan, const CkptLayer *overlay)
{
    /* Of a running VM libvirt merges them, and QEMU has not even written those of the overlay yet. */
    if (overlay->bitmaps && input->vm->power == CKPT_POWER_SHUT_OFF)
        ckpt_plan_warn(plan, "%s has dirty bitmaps of a backup tool, which are not merged while the VM is off: "
                             "those that are not in the file below, too, are gone, and a backup that needs one "
                             "must be a full one",
                       overlay->path);
}
