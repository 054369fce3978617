/* STOP and START, and that nothing of the old QEMU is left when STOP is done. */
#include "agent/hypervisor/image.h"
#include "agent/hypervisor/locks.h"
#include "agent/hypervisor/memory.h"

#define RELEASE_S 30

static void
add_path(GHashTable *paths, const char *path)
{
    if (path && *path == '/')
        g_hash_table_add(paths, g_strdup(path));
}

/* What the VM may have open: its live chains, and the files that the plan is about, which are all
 * that is known of it when it is already off. */
static char **
files_of(CkptRun *run, const CkptView *view)
{
    g_autoptr(GHashTable) paths = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    g_autoptr(GStrvBuilder) builder = g_strv_builder_new();
    GHashTableIter iter;
    gpointer path;

    for (guint i = 0; view->live_xml && i < view->live_xml->disks->len; i++) {
        const CkptXmlDisk *disk = g_ptr_array_index(view->live_xml->disks, i);

        for (char **file = disk->chain; ckpt_xml_disk_is_captured(disk) && *file; file++)
            add_path(paths, *file);
    }
    for (guint i = 0; i < run->plan->steps->len; i++) {
        const CkptStep *step = g_ptr_array_index(run->plan->steps, i);

        add_path(paths, step->file);
        add_path(paths, step->base);
    }
    g_hash_table_iter_init(&iter, paths);
    while (g_hash_table_iter_next(&iter, &path, NULL))
        g_strv_builder_add(builder, path);
    return g_strv_builder_end(builder);
}

static gboolean
runs_on(const CkptView *view, const char *file)
{
    for (guint i = 0; view->live_xml && i < view->live_xml->disks->len; i++) {
        const CkptXmlDisk *disk = g_ptr_array_index(view->live_xml->disks, i);

        /* Also through an overlay that another tool has laid on it since. */
        if (ckpt_xml_disk_is_captured(disk) && disk->chain &&
            g_strv_contains((const char *const *)disk->chain, file))
            return TRUE;
    }
    return FALSE;
}

/* The files of the VM that is to be stopped: of a START that is undone, those that the plan's DEFINE has put it
 * on. NULL: any VM is meant. */
static GPtrArray *
files_meant(const CkptRun *run)
{
    for (guint i = 0; run->step->kind == CKPT_STEP_START && i < run->plan->steps->len; i++) {
        const CkptStep *step = g_ptr_array_index(run->plan->steps, i);

        if (step->kind == CKPT_STEP_DEFINE)
            return step->disks;
    }
    return run->step->disks;
}

static gboolean
is_meant(const CkptRun *run, const CkptView *view)
{
    GPtrArray *disks = files_meant(run);

    for (guint i = 0; disks && i < disks->len; i++)
        if (runs_on(view, ((CkptDiskFile *)g_ptr_array_index(disks, i))->file))
            return TRUE;
    return !disks;
}

/* What is saved goes on on the old files, whatever the definition names by now. */
static gboolean
was_saved(const CkptRun *run, const CkptView *view, GError **error)
{
    return run->step->kind == CKPT_STEP_STOP && ckpt_view_refuse_saved(view, error);
}

/* The files that it is meant to be on are about to go, and what it was saved on goes on there: that waits for its
 * owner. */
static gboolean
is_saved_on_meant(const CkptRun *run, const CkptView *view, GError **error)
{
    GPtrArray *disks = files_meant(run);
    gboolean on = FALSE;

    if (view->active || !disks)
        return FALSE;
    if (!ckpt_saved_look_on(view->domain, disks, TRUE, &on, error))
        return TRUE;
    if (on)
        ckpt_error_set(error, CKPT_REASON_MANAGED_SAVE_PRESENT,
                       "the VM was saved (virsh managedsave) on the files that are to be taken back: start it, or "
                       "virsh managedsave-remove, and that is gone on with");
    return on;
}

/* Ends QEMU. libvirt sends SIGTERM first, on which QEMU flushes its images; SIGKILL only after 10 s. */
static gboolean
stop(CkptRun *run, GError **error)
{
    g_autoptr(CkptView) view = ckpt_view_load(run->connection, run->plan->vm_id, error);
    g_auto(GStrv) files = NULL;

    if (!view)
        return FALSE;
    if (is_saved_on_meant(run, view, error))
        return FALSE;
    /* Of one that is off already, QEMU may still be letting go. */
    if (!is_meant(run, view) && (view->active || run->step->kind != CKPT_STEP_START))
        return TRUE;
    if (was_saved(run, view, error))
        return FALSE;
    files = files_of(run, view);
    /* It may have stopped by itself since it was looked at. */
    if (view->active && virDomainDestroy(view->domain) < 0 &&
        virDomainIsActive(view->domain) != 0) {
        ckpt_libvirt_error(error, CKPT_REASON_HYPERVISOR_FAILED, "stop the VM");
        return FALSE;
    }
    view->active = FALSE; /* and it may have been saved by then */
    if (was_saved(run, view, error))
        return FALSE;
    return ckpt_locks_wait_released((const char *const *)files, RELEASE_S, error);
}

static gboolean
bring_to(virDomainPtr domain, CkptPower power, GError **error)
{
    int state = VIR_DOMAIN_NOSTATE;

    if (power != CKPT_POWER_RUNNING || virDomainGetState(domain, &state, NULL, 0) < 0 ||
        state != VIR_DOMAIN_PAUSED || virDomainResume(domain) == 0)
        return TRUE;
    ckpt_libvirt_error(error, CKPT_REASON_HYPERVISOR_FAILED, "resume the VM");
    /* Somebody else may just have done it. */
    if (virDomainGetState(domain, &state, NULL, 0) < 0 || state != VIR_DOMAIN_RUNNING)
        return FALSE;
    g_clear_error(error);
    return TRUE;
}

/* Who else started it booted it. */
static gboolean
went_on(virDomainPtr domain, GError **error)
{
    int state = VIR_DOMAIN_NOSTATE, reason = 0;

    if (virDomainGetState(domain, &state, &reason, 0) < 0) {
        ckpt_libvirt_error(error, CKPT_REASON_HYPERVISOR_FAILED, "read the VM's state");
        return FALSE;
    }
    if (state != VIR_DOMAIN_RUNNING || reason != VIR_DOMAIN_RUNNING_BOOTED)
        return TRUE;
    ckpt_error_set(error, CKPT_REASON_VM_BUSY,
                   "the VM was started by somebody else before its memory could be loaded");
    return FALSE;
}

/* Who else started it did that from its managed save say, on the files that it had then. */
static gboolean
is_restored(CkptRun *run, GError **error)
{
    g_autoptr(CkptView) view = NULL;

    if (run->step->kind != CKPT_STEP_START)
        return TRUE;
    view = ckpt_view_load(run->connection, run->plan->vm_id, error);
    if (!view || (view->active && is_meant(run, view)))
        return view != NULL;
    ckpt_error_set(error, CKPT_REASON_VM_BUSY, "the VM was %s by somebody else meanwhile: repeat the request",
                   view->active ? "started on other files" : "started and stopped");
    return FALSE;
}

/* What is saved would go on on the files that it had then, whatever it is restored to. Where those are the same it
 * may, unless it is to go on from another memory. */
static gboolean
would_go_on(CkptRun *run, virDomainPtr domain, gboolean from_image, GError **error)
{
    const CkptView view = {.domain = domain};
    GPtrArray *disks = files_meant(run);
    gboolean on = FALSE;

    if (run->step->kind != CKPT_STEP_START)
        return FALSE;
    if (!from_image && disks && !ckpt_saved_look_on(domain, disks, FALSE, &on, error))
        return TRUE;
    return !on && ckpt_view_refuse_saved(&view, error);
}

/* The first of its disks that a guest has written to since they were made: this VM's before a crash of ours, say,
 * or one's that somebody booted. They are not as the memory knows them, then. *written NULL: none. */
static gboolean
find_written(const CkptRun *run, const char **written, GError **error)
{
    *written = NULL;
    for (guint i = 0; run->step->disks && !*written && i < run->step->disks->len; i++) {
        const CkptDiskFile *disk = g_ptr_array_index(run->step->disks, i);
        g_autoptr(CkptQcow2) header = NULL;
        g_autoptr(GError) fault = NULL;

        ckpt_layer_free(ckpt_layer_look(disk->file, CKPT_FORMAT_QCOW2, &header, &fault));
        if (!header) {
            g_propagate_error(error, g_steal_pointer(&fault));
            return FALSE;
        }
        if (!header->empty)
            *written = disk->file;
    }
    return TRUE;
}

static gboolean
are_unwritten(const CkptRun *run, GError **error)
{
    const char *written;

    if (!find_written(run, &written, error))
        return FALSE;
    if (written)
        ckpt_error_set(error, CKPT_REASON_VM_BUSY,
                       "the VM was started meanwhile and has written to %s, so that its memory does not fit "
                       "any more: repeat the request",
                       written);
    return !written;
}

/* Since the agent that began this is gone, the VM may have worked there for however long: from the memory that
 * was loaded, or booted by its owner. To undo that would take away what it has written. */
static gboolean
is_kept(const CkptRun *run, const char **written)
{
    *written = NULL;
    return run->step->taken_up && find_written(run, written, NULL) && *written;
}

static gboolean
tell_kept(const CkptRun *run, const char *written)
{
    g_free(run->step->warning);
    run->step->warning = g_strdup_printf(
        "the agent was away, and the VM has worked on what was restored and written to %s: it goes on with that, "
        "and the checkpoint's memory, which does not fit it any more, is not loaded (to have that, restore again)",
        written);
    return TRUE;
}

/* By somebody else, or by us before. */
static gboolean
take_started(CkptRun *run, virDomainPtr domain, CkptPower power, GError **error)
{
    gboolean from_image = run->step->kind == CKPT_STEP_START && run->step->file;
    g_autoptr(GError) booted = NULL;
    const char *kept = NULL;

    if (!is_restored(run, error))
        return FALSE;
    if (from_image && !went_on(domain, &booted) && !is_kept(run, &kept)) {
        g_propagate_error(error, g_steal_pointer(&booted));
        return FALSE;
    }
    return bring_to(domain, power, error) && (!kept || tell_kept(run, kept));
}

/* From its disks, or from what its owner has saved on these. */
static gboolean
boot(CkptRun *run, virDomainPtr domain, CkptPower power, GError **error)
{
    if (would_go_on(run, domain, FALSE, error))
        return FALSE;
    if (virDomainCreateWithFlags(domain, power == CKPT_POWER_PAUSED ? VIR_DOMAIN_START_PAUSED : 0) == 0)
        return TRUE;
    ckpt_libvirt_error(error, CKPT_REASON_HYPERVISOR_FAILED, "start the VM");
    /* An error is not "not done" (hazard A6). */
    if (virDomainIsActive(domain) == 1) {
        g_clear_error(error);
        return take_started(run, domain, power, error);
    }
    return FALSE;
}

/* From the memory image, which libvirt reads to its end before it answers. */
static gboolean
load(CkptRun *run, virDomainPtr domain, GError **error)
{
    g_autoptr(GError) cause = NULL;
    const char *kept;

    if (is_kept(run, &kept))
        return boot(run, domain, run->step->power, error) && tell_kept(run, kept);
    if (would_go_on(run, domain, TRUE, error) || !are_unwritten(run, error))
        return FALSE;
    if (ckpt_memory_load(run, domain, &cause))
        return TRUE;
    /* An error is not "not done" (hazard A6). */
    if (virDomainIsActive(domain) == 1 && went_on(domain, NULL))
        return is_restored(run, error) && bring_to(domain, run->step->power, error);
    g_propagate_error(error, g_steal_pointer(&cause));
    return FALSE;
}

static gboolean
start(CkptRun *run, CkptPower power, GError **error)
{
    g_autoptr(virDomain) domain =
        ckpt_connection_lookup(run->connection, run->plan->vm_id, error);

    if (!domain)
        return FALSE;
    if (virDomainIsActive(domain) == 1)
        return take_started(run, domain, power, error);
    if (run->step->kind == CKPT_STEP_START && run->step->file)
        return load(run, domain, error);
    return boot(run, domain, power, error);
}

static CkptOutcome
check_active(CkptRun *run, gboolean wanted, GError **error)
{
    g_autoptr(virDomain) domain =
        ckpt_connection_lookup(run->connection, run->plan->vm_id, error);
    int active = domain ? virDomainIsActive(domain) : -1;

    if (active >= 0)
        return (active == 1) == wanted ? CKPT_OUTCOME_DONE : CKPT_OUTCOME_NOT_DONE;
    if (domain)
        ckpt_libvirt_error(error, CKPT_REASON_HYPERVISOR_FAILED, "read the VM's state");
    return CKPT_OUTCOME_UNCLEAR;
}

gboolean
ckpt_step_stop(CkptRun *run, GError **error)
{
    return stop(run, error);
}

/* By its guest, or for virsh shutdown: what the agent stops is destroyed to libvirt, and one whose QEMU died has
 * crashed. */
static gboolean
was_shut_down(virDomainPtr domain)
{
    int state = VIR_DOMAIN_NOSTATE, reason = 0;

    return virDomainGetState(domain, &state, &reason, 0) == 0 && state == VIR_DOMAIN_SHUTOFF &&
           reason == VIR_DOMAIN_SHUTOFF_SHUTDOWN;
}

/* Its owner has it off: it was shut down, or saved, and to start it would use that up. */
static gboolean
is_left_off(CkptRun *run, gboolean *off, GError **error)
{
    g_autoptr(virDomain) domain = ckpt_connection_lookup(run->connection, run->plan->vm_id, error);

    *off = FALSE;
    if (!domain || virDomainIsActive(domain) == 1)
        return domain != NULL;
    if (!ckpt_saved_look(domain, off, error))
        return FALSE;
    *off = *off || was_shut_down(domain);
    return TRUE;
}

gboolean
ckpt_step_stop_undo(CkptRun *run, GError **error)
{
    gboolean off;

    if (run->step->power != CKPT_POWER_RUNNING && run->step->power != CKPT_POWER_PAUSED)
        return TRUE;
    return is_left_off(run, &off, error) && (off || start(run, run->step->power, error));
}

CkptOutcome
ckpt_step_stop_check(CkptRun *run, GError **error)
{
    return check_active(run, FALSE, error);
}

gboolean
ckpt_step_start(CkptRun *run, GError **error)
{
    return start(run, run->step->power, error);
}

gboolean
ckpt_step_start_undo(CkptRun *run, GError **error)
{
    return stop(run, error);
}

CkptOutcome
ckpt_step_start_check(CkptRun *run, GError **error)
{
    return check_active(run, TRUE, error);
}
