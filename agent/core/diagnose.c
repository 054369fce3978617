#include "agent/core/diagnose.h"

#include "agent/core/graph.h"
#include "agent/core/plan_parts.h"

/* Longer than any operation that only works; a merge may take hours, so this is no error. */
#define LONG_US (G_GINT64_CONSTANT(3600) * G_USEC_PER_SEC)

CkptFinding *
ckpt_findings_add(GPtrArray *findings, CkptFinding *finding)
{
    if (ckpt_findings_lookup(findings, finding->id)) {
        ckpt_finding_free(finding);
        return NULL;
    }
    g_ptr_array_add(findings, finding);
    return finding;
}

static int
repair_rank(const CkptFinding *finding)
{
    switch (finding->kind) {
    case CKPT_FINDING_CATALOGUE_REBUILT:
        return 0;
    case CKPT_FINDING_GUEST_FROZEN:
    case CKPT_FINDING_GUEST_PAUSED: /* somebody waits for it */
        return 1;
    case CKPT_FINDING_CHAIN_MISMATCH:
        return 2;
    case CKPT_FINDING_SEALED_FILE_WRITABLE:
    case CKPT_FINDING_MANIFEST_MISSING:
        return 3;
    case CKPT_FINDING_CHECKPOINT_DISABLED:
        return 4;
    case CKPT_FINDING_VM_QUARANTINED:
        return 5;
    case CKPT_FINDING_FILE_UNNEEDED: /* not while the VM is quarantined */
        return 6;
    case CKPT_FINDING_CATALOGUE_DAMAGED:
    case CKPT_FINDING_FILE_MISSING:
    case CKPT_FINDING_SEALED_FILE_CHANGED:
    case CKPT_FINDING_SEALED_FILE_IN_USE:
    case CKPT_FINDING_OPERATION_UNFINISHED:
    case CKPT_FINDING_DELETE_UNFINISHED:
    case CKPT_FINDING_FILE_UNKNOWN:
    case CKPT_FINDING_MANIFEST_UNKNOWN:
    case CKPT_FINDING_LEFTOVER:
    case CKPT_FINDING_CHECKPOINT_ORPHANED:
    case CKPT_FINDING_SPACE_LOW:
    case CKPT_FINDING_NOT_EXAMINED:
    case CKPT_FINDING_END_:
        break;
    }
    return 9;
}

static int
compare_ranks(gconstpointer a, gconstpointer b)
{
    return repair_rank(*(CkptFinding *const *)a) - repair_rank(*(CkptFinding *const *)b);
}

void
ckpt_findings_sort_for_repair(GPtrArray *findings)
{
    g_ptr_array_sort(findings, compare_ranks);
}

/* What all of one VM's have in common. */
typedef struct {
    const CkptDiagnosis *diagnosis;
    GPtrArray *findings;
} Look;

static const char *
vm_name(const CkptDiagnosis *diagnosis)
{
    const CkptCheckpoint *any;

    if (diagnosis->input)
        return diagnosis->input->vm->name;
    if (diagnosis->checkpoints->len == 0)
        return "";
    any = g_ptr_array_index(diagnosis->checkpoints, diagnosis->checkpoints->len - 1);
    return any->vm_name;
}

/* NULL: it was told already. */
static CkptFinding *G_GNUC_PRINTF(6, 7)
tell(const Look *look, CkptFindingKind kind, CkptSeverity severity, const char *checkpoint_id,
     const char *file, const char *format, ...)
{
    CkptFinding *finding = ckpt_findings_add(
        look->findings,
        ckpt_finding_new(kind, severity, look->diagnosis->vm_id, checkpoint_id, file));
    va_list args;

    if (!finding)
        return NULL;
    ckpt_set_str(&finding->vm_name, vm_name(look->diagnosis));
    g_free(finding->message);
    va_start(args, format);
    finding->message = g_strdup_vprintf(format, args);
    va_end(args);
    return finding;
}

static void
can_repair(CkptFinding *finding, const char *repair)
{
    if (finding)
        ckpt_set_str(&finding->repair, repair);
}

/* ---- Checkpoints and their files ---- */

/* TRUE: it is there and is what was sealed. */
static gboolean
look_at_contents(const Look *look, const CkptCheckpoint *row, const CkptCheckpointDisk *disk,
                 const CkptLayer *layer)
{
    if (!layer || !layer->exists)
        tell(look, CKPT_FINDING_FILE_MISSING, CKPT_SEVERITY_ERROR, row->id, disk->sealed_file,
             "disk %s of checkpoint %s is missing: bring the file back to this path (from a backup, or "
             "mount its file system); if it is lost, so are this checkpoint and all that lies on it",
             disk->target, row->name);
    else if (!ckpt_file_id_holds(&layer->id, &disk->id))
        tell(look, CKPT_FINDING_SEALED_FILE_CHANGED, CKPT_SEVERITY_ERROR, row->id, disk->sealed_file,
             "disk %s of checkpoint %s is not what was captured: it was replaced, or written to, after it "
             "was sealed. Put a backup of it back with its times (cp -a); until then neither this checkpoint "
             "nor what lies on it is restored or merged (docs/by-hand.md copies the present state out of it)",
             disk->target, row->name);
    else
        return TRUE;
    return FALSE;
}

static void
look_at_users(const Look *look, const CkptCheckpoint *row, const CkptCheckpointDisk *disk,
              const CkptLayer *layer)
{
    const CkptPlanInput *input = look->diagnosis->input;
    const CkptFileUser *user = ckpt_graph_user(input, disk->sealed_file);
    const char *who = NULL;

    if (ckpt_graph_is_top(input, disk->sealed_file))
        who = "the definition of the VM has it as its writable disk: put the disk back on its newest overlay "
              "(virsh edit; docs/by-hand.md) before the VM is started";
    else if (user && user->is_top)
        who = user->user;
    else if (layer->write_locked)
        who = "a process has it open for writing: end that";
    if (who)
        tell(look, CKPT_FINDING_SEALED_FILE_IN_USE, CKPT_SEVERITY_ERROR, row->id, disk->sealed_file,
             "disk %s of checkpoint %s is sealed, and somebody may write to it: %s%s", disk->target,
             row->name, who == (user ? user->user : NULL) ? "it is a writable disk of " : "", who);
}

static gboolean
has_begun_delete(const CkptDiagnosis *diagnosis)
{
    for (guint i = 0; i < diagnosis->checkpoints->len; i++) {
        const CkptCheckpoint *row = g_ptr_array_index(diagnosis->checkpoints, i);

        if (row->state == CKPT_STATE_DELETING && !row->deferred)
            return TRUE;
    }
    return FALSE;
}

/* Where the contents are others, too, another host's agent may have had the VM, and have deleted the checkpoint:
 * one that is written again would say there that the file is this agent's. */
static void
look_at_missing_manifest(const Look *look, const CkptCheckpoint *row, const CkptCheckpointDisk *disk)
{
    if (ckpt_graph_is_as_sealed(look->diagnosis->input, row))
        can_repair(tell(look, CKPT_FINDING_MANIFEST_MISSING, CKPT_SEVERITY_WARNING, row->id, disk->sealed_file,
                        "no manifest of checkpoint %s lies beside disk %s: without it the checkpoint is lost "
                        "with the catalogue",
                        row->name, disk->target),
                   "the manifest is written again");
    else
        tell(look, CKPT_FINDING_MANIFEST_MISSING, CKPT_SEVERITY_WARNING, row->id, disk->sealed_file,
             "no manifest of checkpoint %s lies beside disk %s, and its files are not what was captured: if the "
             "VM was on another host, the agent there may have deleted the checkpoint. None is written until they "
             "are right again",
             row->name, disk->target);
}

static void
look_at_file(const Look *look, const CkptCheckpoint *row, const CkptCheckpointDisk *disk)
{
    const CkptLayer *layer = ckpt_vm_find_file(look->diagnosis->input->vm, disk->sealed_file);
    gboolean whole = look_at_contents(look, row, disk, layer);

    if (!layer || !layer->exists)
        return;
    look_at_users(look, row, disk, layer);
    /* A device's node is udev's; and a delete that has begun needs what it has opened. */
    if (layer->mode & 0222 && !layer->block && !has_begun_delete(look->diagnosis)) {
        CkptFinding *finding =
            tell(look, CKPT_FINDING_SEALED_FILE_WRITABLE, CKPT_SEVERITY_WARNING, row->id,
                 disk->sealed_file,
                 "disk %s of checkpoint %s is sealed, and its mode is %04o: chmod 0440 it%s", disk->target,
                 row->name, layer->mode, whole ? "" : ", once its contents are right again");

        if (whole)
            can_repair(finding, "chmod 0440");
    }
    if (layer->manifest_unread)
        tell(look, CKPT_FINDING_MANIFEST_MISSING, CKPT_SEVERITY_ERROR, row->id, disk->sealed_file,
             "the manifest of disk %s of checkpoint %s cannot be read, or another user than root and the agent's "
             "wrote it: until that is put right nothing is done with the file, which may be another agent's. If "
             "it is this one's alone, move the manifest away (its path: vmcheckpoint show --files), then repair",
             disk->target, row->name);
    if (!layer->manifest)
        look_at_missing_manifest(look, row, disk);
}

/* What its own files do not tell: a file below that is nobody's seal, and a verdict of earlier. */
static void
look_at_verdict(const Look *look, const CkptCheckpoint *row)
{
    const CkptPlanInput *input = look->diagnosis->input;
    g_autoptr(GError) why = NULL;
    GHashTable *metadata;
    const char *file;

    if (ckpt_plan_verify(input, row, &why)) {
        if (row->disabled_reason && *row->disabled_reason)
            can_repair(tell(look, CKPT_FINDING_CHECKPOINT_DISABLED, CKPT_SEVERITY_NOTE, row->id, NULL,
                            "checkpoint %s is not enabled (%s), and its files are whole by now", row->name,
                            row->disabled_reason),
                       "it is enabled again");
        return;
    }
    metadata = ckpt_error_metadata(why);
    file = metadata ? g_hash_table_lookup(metadata, CKPT_META_FILE) : NULL;
    for (guint i = 0; file && i < look->findings->len; i++)
        if (g_str_equal(((CkptFinding *)look->findings->pdata[i])->file, file))
            return; /* told with the file */
    if (ckpt_plan_verify_without_memory(input, row, NULL))
        tell(look, CKPT_FINDING_FILE_MISSING, CKPT_SEVERITY_ERROR, row->id, file,
             "checkpoint %s cannot go on where its memory was captured: %s; its disks can be restored without it "
             "(vmcheckpoint restore --without-memory)",
             row->name, why->message);
    else
        tell(look, CKPT_FINDING_FILE_MISSING, CKPT_SEVERITY_ERROR, row->id, file,
             "checkpoint %s cannot be restored: %s", row->name, why->message);
}

static gboolean
is_worked_on(const CkptDiagnosis *diagnosis, const char *checkpoint_id)
{
    for (guint i = 0; diagnosis->operations && i < diagnosis->operations->len; i++) {
        const CkptOperation *op = g_ptr_array_index(diagnosis->operations, i);

        if (g_strcmp0(op->checkpoint_id, checkpoint_id) == 0)
            return TRUE;
    }
    return FALSE;
}

static void
look_at_delete(const Look *look, const CkptCheckpoint *row)
{
    if (is_worked_on(look->diagnosis, row->id))
        return;
    if (row->deferred)
        tell(look, CKPT_FINDING_DELETE_UNFINISHED, CKPT_SEVERITY_NOTE, row->id, NULL,
             "checkpoint %s is to be deleted as soon as nothing but one branch lies on it: it waits for that",
             row->name);
    else
        tell(look, CKPT_FINDING_DELETE_UNFINISHED, CKPT_SEVERITY_WARNING, row->id, NULL,
             "the delete of checkpoint %s has begun and is not finished: vmcheckpoint delete %s", row->name,
             row->id);
}

/* Its VM is not defined here: who it was is all that is left. */
static void
look_at_orphan(const Look *look, const CkptCheckpoint *row)
{
    g_autoptr(GDateTime) made = g_date_time_new_from_unix_utc(row->added_us / G_USEC_PER_SEC);
    g_autofree char *when = made ? g_date_time_format(made, "%Y-%m-%d %H:%M:%S") : g_strdup("");
    CkptFinding *finding =
        tell(look, CKPT_FINDING_CHECKPOINT_ORPHANED, CKPT_SEVERITY_WARNING, row->id,
             row->disks->len ? ((CkptCheckpointDisk *)row->disks->pdata[0])->sealed_file : NULL,
             row->stayed ? "checkpoint %s stayed here with its disks when its VM migrated to another host: if "
                           "nobody needs it, vmcheckpoint delete %s"
                         : "checkpoint %s is of a VM that is not defined on this host: define the VM again, "
                           "or, if nobody needs it, vmcheckpoint delete %s",
             row->name, row->id);

    if (!finding)
        return;
    g_free(finding->origin);
    finding->origin = g_strdup_printf("VM %s (%s), made %s UTC by %s", row->vm_name, row->vm_id, when,
                                      row->creator);
}

static void
look_at_checkpoint(const Look *look, const CkptCheckpoint *row)
{
    gboolean moving = row->state == CKPT_STATE_DELETING && !row->deferred;

    if (row->state == CKPT_STATE_DELETING)
        look_at_delete(look, row);
    if (moving || row->mechanism != CKPT_MECHANISM_OVERLAY)
        return; /* its files are on their way, or the hypervisor's */
    for (guint i = 0; i < row->disks->len; i++)
        look_at_file(look, row, g_ptr_array_index(row->disks, i));
    if (row->stayed)
        look_at_orphan(look, row);
    else if (row->state == CKPT_STATE_READY)
        look_at_verdict(look, row);
}

/* ---- The VM ---- */

static void
look_at_agreement(const Look *look)
{
    const CkptDiagnosis *diagnosis = look->diagnosis;
    g_autoptr(GError) why = NULL;
    gboolean agrees = ckpt_plan_look(diagnosis->input, &why);
    CkptReason reason = agrees ? 0 : ckpt_error_reason(why);
    CkptFinding *finding;

    if (reason == CKPT_REASON_CHAIN_MISMATCH || reason == CKPT_REASON_VM_QUARANTINED) {
        g_autoptr(CkptPlan) mend = ckpt_plan_mend(diagnosis->input);

        finding = tell(look, CKPT_FINDING_CHAIN_MISMATCH, CKPT_SEVERITY_ERROR, NULL, NULL, "%s",
                       why->message);
        if (mend)
            can_repair(finding, "the definition is put onto the files that QEMU writes to");
    }
    if (!diagnosis->record->quarantine_reason || diagnosis->unread)
        return;
    finding = tell(look, CKPT_FINDING_VM_QUARANTINED, CKPT_SEVERITY_ERROR, NULL, NULL,
                   "the VM is quarantined%s: %s",
                   diagnosis->left_stuck ? ", since an operation could be neither finished nor undone" : "",
                   diagnosis->record->quarantine_reason);
    if (agrees)
        can_repair(finding, "definition, running VM, headers and catalogue agree: the quarantine is lifted");
}

/* An operation that nobody can read: that it did no harm is for somebody to say, once nothing speaks against. */
static void
look_at_unread(const Look *look)
{
    const CkptDiagnosis *diagnosis = look->diagnosis;
    g_autoptr(GError) why = NULL;
    CkptFinding *finding = tell(look, CKPT_FINDING_VM_QUARANTINED, CKPT_SEVERITY_ERROR, NULL, NULL,
                                "the VM is quarantined: %s", diagnosis->unread);

    if (!diagnosis->input || ckpt_plan_look(diagnosis->input, &why) ||
        ckpt_error_reason(why) == CKPT_REASON_CHECKPOINT_DELETING)
        can_repair(finding, "that operation is given up as failed, and the quarantine is lifted");
}

static void
look_at_freeze(const Look *look, const CkptGuest *guest)
{
    if (!guest->frozen)
        return;
    if (guest->frozen_by_us)
        can_repair(tell(look, CKPT_FINDING_GUEST_FROZEN, CKPT_SEVERITY_ERROR, NULL, NULL,
                        "the guest's file systems are frozen, by a checkpoint of the agent's that could not "
                        "thaw them yet: no program in it can write"),
                   "they are thawed");
    else
        tell(look, CKPT_FINDING_GUEST_FROZEN, CKPT_SEVERITY_ERROR, NULL, NULL,
             "the guest's file systems are frozen, not by the agent: no program in it can write. If no backup "
             "is at it: virsh domfsthaw %s",
             vm_name(look->diagnosis));
}

static void
look_at_halt(const Look *look, const CkptGuest *guest)
{
    const char *name = vm_name(look->diagnosis);
    const char *detail = guest->detail ? guest->detail : "QEMU does not say which disk";

    switch (guest->halt) {
    case CKPT_HALT_NONE:
        break;
    case CKPT_HALT_NO_SPACE:
        tell(look, CKPT_FINDING_GUEST_PAUSED, CKPT_SEVERITY_ERROR, NULL, NULL,
             "the guest stands still since a file system is full: %s. Make room where that disk's newest file "
             "lies, then virsh resume %s: nothing is lost",
             detail, name);
        break;
    case CKPT_HALT_IO_ERROR:
        tell(look, CKPT_FINDING_GUEST_PAUSED, CKPT_SEVERITY_ERROR, NULL, NULL,
             "the guest stands still since QEMU could not read or write: %s. Mend that storage, then virsh "
             "resume %s",
             detail, name);
        break;
    case CKPT_HALT_OURS:
        can_repair(tell(look, CKPT_FINDING_GUEST_PAUSED, CKPT_SEVERITY_ERROR, NULL, NULL,
                        "the guest stands still: the agent paused it for the end of a merge"),
                   "it goes on");
        break;
    case CKPT_HALT_INTERRUPTED:
        tell(look, CKPT_FINDING_GUEST_PAUSED, CKPT_SEVERITY_ERROR, NULL, NULL,
             "the guest was paused by a save, dump, snapshot or migration that is no longer under way (was "
             "libvirtd restarted?): virsh resume %s; then look for a snapshot of that time that virsh does not "
             "list (qemu-img snapshot -l)",
             name);
        break;
    case CKPT_HALT_CRASHED:
        tell(look, CKPT_FINDING_GUEST_PAUSED, CKPT_SEVERITY_ERROR, NULL, NULL,
             "the guest has crashed, or its watchdog stopped it: virsh reset %s, or restore a checkpoint", name);
        break;
    }
}

static void
look_at_guest(const Look *look)
{
    const CkptGuest *guest = look->diagnosis->guest;

    if (!guest)
        return;
    look_at_freeze(look, guest);
    look_at_halt(look, guest);
}

static void
look_at_unneeded(const Look *look)
{
    const CkptPlanInput *input = look->diagnosis->input;

    for (guint i = 0; input->doomed && i < input->doomed->len; i++) {
        const char *file = g_ptr_array_index(input->doomed, i);
        const CkptLayer *layer = ckpt_vm_find_file(input->vm, file);

        if (layer && layer->exists)
            can_repair(tell(look, CKPT_FINDING_FILE_UNNEEDED, CKPT_SEVERITY_WARNING, NULL, file,
                            "an operation could not remove this file, which nobody needs"),
                       "it is removed, unless somebody uses it by then");
    }
}

/* What holds up the VM's deletes, and files that it needs no more. */
static void
look_at_unreadable(const Look *look)
{
    const CkptPlanInput *input = look->diagnosis->input;
    const CkptFileUser *first = input->vm->unreadable->len ? input->vm->unreadable->pdata[0] : NULL;
    gboolean waits = look->diagnosis->checkpoints->len > 0 || (input->doomed && input->doomed->len > 0);
    g_autoptr(GError) why = NULL;

    if (!first || !waits)
        return;
    ckpt_unreadable_error(&why, first->file, first->user);
    tell(look, CKPT_FINDING_FILE_MISSING, CKPT_SEVERITY_WARNING, NULL, first->file,
         "no checkpoint of the VM can be deleted, nor a file that it needs no more: %s", why->message);
}

static void
look_at_space(const Look *look)
{
    const CkptPlanInput *input = look->diagnosis->input;

    for (guint i = 0; i < input->vm->disks->len; i++) {
        const CkptDisk *disk = g_ptr_array_index(input->vm->disks, i);
        const CkptLayer *top = disk->chain->len ? g_ptr_array_index(disk->chain, 0) : NULL;
        guint64 reserve = top ? ckpt_plan_reserve_of(input->limits, top) : 0;
        g_autofree char *folder = NULL;

        if (top && top->overlay_folder && !top->overlay_device) {
            tell(look, CKPT_FINDING_FILE_MISSING, CKPT_SEVERITY_ERROR, NULL, top->overlay_folder,
                 "the folder for overlays of block devices cannot be used: make it or mount its file system; "
                 "until then no checkpoint of disk %s can be made",
                 disk->target);
            continue;
        }
        if (!top || !top->exists || top->fs_available >= reserve)
            continue;
        folder = top->overlay_folder ? g_strdup(top->overlay_folder) : g_path_get_dirname(top->path);
        tell(look, CKPT_FINDING_SPACE_LOW, CKPT_SEVERITY_ERROR, NULL, folder,
             "%" G_GUINT64_FORMAT " MiB are free here, less than the reserve (%" G_GUINT64_FORMAT
             " MiB): no checkpoint can be made, nor deleted where that takes room first, and VMs will be "
             "paused when it is full. Make room",
             top->fs_available >> 20, reserve >> 20);
    }
}

static void
look_at_operations(const Look *look)
{
    const CkptDiagnosis *diagnosis = look->diagnosis;

    for (guint i = 0; diagnosis->operations && i < diagnosis->operations->len; i++) {
        const CkptOperation *op = g_ptr_array_index(diagnosis->operations, i);
        gint64 minutes = (diagnosis->now_us - op->created_us) / (60 * G_USEC_PER_SEC);

        if (diagnosis->now_us - op->created_us > LONG_US)
            tell(look, CKPT_FINDING_OPERATION_UNFINISHED, CKPT_SEVERITY_WARNING, op->checkpoint_id, NULL,
                 "a %s for %s has not ended for %" G_GINT64_FORMAT " minutes: vmcheckpoint operation %s",
                 ckpt_kind_name(op->kind), op->identity, minutes, op->request_id);
    }
}

void
ckpt_diagnose_vm(const CkptDiagnosis *diagnosis, GPtrArray *findings)
{
    const Look look = {diagnosis, findings};

    for (guint i = 0; i < diagnosis->checkpoints->len; i++) {
        const CkptCheckpoint *row = g_ptr_array_index(diagnosis->checkpoints, i);

        if (row->state == CKPT_STATE_MOVED)
            continue; /* another host's, with its files */
        if (diagnosis->input)
            look_at_checkpoint(&look, row);
        else
            look_at_orphan(&look, row);
    }
    look_at_operations(&look);
    if (diagnosis->unread)
        look_at_unread(&look);
    if (!diagnosis->input)
        return;
    look_at_guest(&look);
    look_at_agreement(&look);
    look_at_unneeded(&look);
    look_at_unreadable(&look);
    look_at_space(&look);
}
