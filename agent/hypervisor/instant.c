/* The instant of a SNAPSHOT: whatever stands around it, the guest frozen or its memory written, and how
 * long the guest stood still. */
#include "agent/hypervisor/memory.h"
#include "common/fault.h"

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(CkptFreeze, ckpt_freeze_clear)

static char *
snapshot_xml(const CkptRun *run, const CkptView *view, const char *memory)
{
    g_autofree char *name = g_strdup_printf(
        "vmcheckpoint-%s", run->plan->checkpoint_id ? run->plan->checkpoint_id : run->plan->vm_id);

    return ckpt_xml_snapshot(view->active ? view->live_xml : view->definition_xml, name, memory,
                             run->step->disks);
}

/* libvirt lays the overlay over whatever the disk runs on by now, whatever its header names (hazard A25): a
 * snapshot of virsh's that came since the VM was looked at, while it was being frozen say, would not be in the
 * chain that the next start opens. */
static gboolean
is_where_it_was(const CkptRun *run, const CkptView *view, GError **error)
{
    char *xml = virDomainGetXMLDesc(view->domain, view->active ? 0 : VIR_DOMAIN_XML_INACTIVE);
    g_autoptr(CkptXmlDomain) now = xml ? ckpt_xml_domain_parse(xml, error) : NULL;

    if (!xml)
        ckpt_libvirt_error(error, CKPT_REASON_HYPERVISOR_FAILED, "look where its disks are");
    free(xml);
    for (guint i = 0; now && i < run->step->disks->len; i++) {
        const CkptDiskFile *disk = g_ptr_array_index(run->step->disks, i);
        const char *before = view->active ? ckpt_view_live_source(view, disk->target)
                                          : ckpt_view_source(view, disk->target);
        const CkptXmlDisk *found = ckpt_xml_domain_find(now, disk->target);

        if (found && g_strcmp0(found->source, before) == 0)
            continue;
        ckpt_error_set(error, CKPT_REASON_VM_BUSY, "disk %s was put on %s meanwhile: repeat the request",
                       disk->target, found && found->source ? found->source : "nothing");
        ckpt_error_add(error, CKPT_META_DISK, disk->target);
        return FALSE;
    }
    return now != NULL;
}

static void
switch_disks(CkptRun *run, const CkptView *view, GError **error)
{
    const unsigned int flags =
        VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA | VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC |
        VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY | VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT;
    g_autofree char *xml = snapshot_xml(run, view, NULL);
    g_autoptr(virDomainSnapshot) snapshot = NULL;

    if (!is_where_it_was(run, view, error))
        return;
    run->step->untried = FALSE;
    snapshot = virDomainSnapshotCreateXML(view->domain, xml, flags);
    if (!snapshot)
        ckpt_libvirt_error(error, CKPT_REASON_HYPERVISOR_FAILED, "switch to the overlays");
}

/* Memory and disks at one instant. TRUE: that is what became of it, with *cause set where it failed. FALSE:
 * the memory cannot be captured, *why says why (transfer full), nothing has changed, and the caller accepts
 * the disks alone. */
static gboolean
try_with_memory(CkptRun *run, const CkptView *view, char **why, GError **cause)
{
    g_autofree char *xml = snapshot_xml(run, view, run->step->file);
    g_autoptr(GError) failed = NULL;

    /* libvirt would truncate it, whosever it is. */
    if (g_file_test(run->step->file, G_FILE_TEST_EXISTS)) {
        ckpt_error_set(cause, CKPT_REASON_FILE_FAILED, "%s exists already", run->step->file);
        ckpt_error_add(cause, CKPT_META_FILE, run->step->file);
        return TRUE;
    }
    if (!is_where_it_was(run, view, cause))
        return TRUE;
    run->step->untried = FALSE;
    if (ckpt_memory_snapshot(run, view, xml, &failed))
        return TRUE;
    if (ckpt_error_reason(failed) == CKPT_REASON_CONSISTENCY_UNAVAILABLE &&
        run->step->minimum < CKPT_CONSISTENCY_MEMORY && ckpt_memory_remove(run, NULL)) {
        ckpt_memory_recover(run); /* nobody looks after it again once the disks alone are captured */
        if (!ckpt_memory_seal(run, cause))
            return TRUE;
        *why = g_strdup(failed->message);
        return FALSE;
    }
    g_propagate_error(cause, g_steal_pointer(&failed));
    return TRUE;
}

static void
set_results(CkptStep *step, const char *no_memory, const CkptFreeze *freeze, gint64 pause_us)
{
    g_autofree char *prefix =
        no_memory ? g_strdup_printf("memory was not captured: %s", no_memory) : NULL;

    step->reached = CKPT_CONSISTENCY_CRASH;
    step->freeze_us = freeze->us;
    step->pause_us = MAX(pause_us, 0);
    g_clear_pointer(&step->note, g_free);
    if (step->asked >= CKPT_CONSISTENCY_APPLICATION && !freeze->why)
        step->reached = CKPT_CONSISTENCY_APPLICATION;
    else if (step->asked >= CKPT_CONSISTENCY_APPLICATION)
        step->note = g_strdup_printf("%s%sthe guest's file systems were not frozen, reached is CRASH: %s",
                                     prefix ? prefix : "", prefix ? "; " : "", freeze->why);
    else if (pause_us < 0)
        step->note = g_strdup("how long the guest stood still could not be measured");
    if (!step->note)
        step->note = g_steal_pointer(&prefix);
}

/* Of one that failed it is told by whoever finds that it was made all the same. */
static void
set_memory_results(CkptStep *step, gboolean failed, gint64 pause_us)
{
    step->reached = failed ? (CkptConsistency)0 : CKPT_CONSISTENCY_MEMORY;
    step->freeze_us = -1;
    step->pause_us = pause_us;
}

/* FALSE: it is not worth going on, or not wanted any more. */
static gboolean
may_go_on(CkptRun *run, const CkptFreeze *freeze, GError **error)
{
    if (freeze->why && run->step->minimum >= CKPT_CONSISTENCY_APPLICATION) {
        ckpt_error_set(error, CKPT_REASON_QUIESCE_FAILED, "%s", freeze->why);
        return FALSE;
    }
    if (!g_cancellable_is_cancelled(run->cancellable))
        return TRUE;
    ckpt_error_set(error, CKPT_REASON_OPERATION_CANCELLED, "cancelled before it took effect");
    return FALSE;
}

/* Freeze, switch, thaw: nothing of ours is written or synced in between. */
static gboolean
without_memory(CkptRun *run, const CkptView *view, const char *no_memory, CkptPause *pause,
               GError **cause, GError **error)
{
    g_auto(CkptFreeze) freeze = {.us = -1};
    gboolean go_on;

    if (run->step->asked >= CKPT_CONSISTENCY_APPLICATION) {
        ckpt_freeze_begin(run, view, &freeze);
        ckpt_fault_point_named("frozen");
    }
    go_on = may_go_on(run, &freeze, error);
    if (go_on)
        switch_disks(run, view, cause);
    ckpt_fault_point_named("snapshotted");
    ckpt_freeze_end(run, &freeze);
    if (pause) /* of a VM that is off the plan knows all */
        set_results(run->step, no_memory, &freeze, ckpt_pause_end(pause));
    return go_on;
}

gboolean
ckpt_switch_to_overlays(CkptRun *run, const CkptView *view, GError **cause, GError **error)
{
    CkptStep *step = run->step;
    CkptPause *pause = view->active ? ckpt_pause_begin(view->domain) : NULL;
    g_autofree char *no_memory = NULL;

    if (step->asked >= CKPT_CONSISTENCY_APPLICATION)
        step->reached = (CkptConsistency)0; /* until it is known again */
    if (step->asked == CKPT_CONSISTENCY_MEMORY && pause &&
        try_with_memory(run, view, &no_memory, cause)) {
        ckpt_fault_point_named("snapshotted");
        set_memory_results(step, cause && *cause, ckpt_pause_end(pause));
        return TRUE;
    }
    return without_memory(run, view, no_memory, pause, cause, error);
}
