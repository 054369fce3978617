/* A merge in a running VM: QEMU's block commit through libvirt, and the short suspension around the
 * pivot. */
#include "agent/hypervisor/image.h"
#include "agent/hypervisor/qemu.h"
#include "common/fault.h"

#include <sys/stat.h>

#define POLL_MIN_US (20 * 1000)
#define POLL_MAX_US (200 * 1000)
#define RESUME_ATTEMPTS 3
#define SAVE_ATTEMPTS 3

/* ---- The suspension ----
 * Between QEMU's pivot and libvirt's saving of the definition, a crash of both would boot the guest
 * from the stale overlay (hazard A26). So it stands still from "ready" until the saved definition was
 * read back: either file is then right. A mark beside the base outlives the agent: who finds it knows
 * that the guest was not paused by its owner. */

static char *
mark_path(const CkptRun *run)
{
    return ckpt_block_beside(run->options, run->step->base, CKPT_PAUSED_ENDING);
}

static gboolean
is_paused(virDomainPtr domain)
{
    int state = VIR_DOMAIN_NOSTATE;

    return virDomainGetState(domain, &state, NULL, 0) == 0 && state == VIR_DOMAIN_PAUSED;
}

static gboolean
resume(CkptRun *run, GError **error)
{
    g_autoptr(virDomain) domain =
        ckpt_connection_lookup(run->connection, run->plan->vm_id, error);

    if (!domain)
        return FALSE;
    for (guint i = 0; i < RESUME_ATTEMPTS; i++) {
        int state = VIR_DOMAIN_NOSTATE;

        /* What could not be asked is not known to go on. */
        if (virDomainGetState(domain, &state, NULL, 0) == 0 &&
            (state != VIR_DOMAIN_PAUSED || virDomainResume(domain) == 0))
            return TRUE;
    }
    ckpt_libvirt_error(error, CKPT_REASON_HYPERVISOR_FAILED,
                       "the guest is still suspended; resume it with virsh resume");
    ckpt_error_add(error, CKPT_META_VM, run->plan->vm_id);
    return FALSE;
}

gboolean
ckpt_merge_resume(CkptRun *run, GError **error)
{
    g_autofree char *path = mark_path(run);

    if (!g_file_test(path, G_FILE_TEST_EXISTS))
        return TRUE;
    return resume(run, error) && ckpt_file_remove(path, error);
}

void
ckpt_merge_let_go(CkptRun *run, const char *base)
{
    g_autoptr(GError) error = NULL;
    CkptStep merge = {.kind = CKPT_STEP_MERGE, .base = (char *)base};
    CkptRun merging = *run;

    merging.step = &merge;
    if (!ckpt_merge_resume(&merging, &error))
        g_warning("VM %s: %s", run->plan->vm_id, error->message);
}

static gboolean
suspend(CkptRun *run, virDomainPtr domain, GError **error)
{
    g_autofree char *mark = mark_path(run);

    if (is_paused(domain))
        return TRUE; /* by its owner, or by us before a crash: the mark tells which */
    if (!ckpt_file_mark(mark, error))
        return FALSE;
    if (virDomainSuspend(domain) == 0)
        return TRUE;
    ckpt_libvirt_error(error, CKPT_REASON_HYPERVISOR_FAILED, "suspend the guest for the pivot");
    return FALSE;
}

/* ---- The job ---- */

static gboolean
job_failed(const CkptStep *step, GError **error, const char *what)
{
    ckpt_libvirt_error(error, CKPT_REASON_HYPERVISOR_FAILED, "disk %s: %s", step->target, what);
    ckpt_error_add(error, CKPT_META_DISK, step->target);
    return FALSE;
}

/* 1 = a job is there, 0 = none, -1 = not known. */
static int
get_job(virDomainPtr domain, const CkptStep *step, virDomainBlockJobInfo *info)
{
    return virDomainGetBlockJobInfo(domain, step->target, info, 0);
}

/* A job of ours from before a crash is gone on with. */
static gboolean
is_ours(const CkptRun *run, const CkptXmlDisk *live, const virDomainBlockJobInfo *info, gboolean top)
{
    if (!top)
        return info->type == VIR_DOMAIN_BLOCK_JOB_TYPE_COMMIT;
    return info->type == VIR_DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT && live->mirror &&
           ckpt_image_same(live->mirror, run->step->base);
}

static gboolean
begin(CkptRun *run, CkptView *view, gboolean top, GError **error)
{
    const CkptStep *step = run->step;
    const CkptXmlDisk *live = ckpt_xml_domain_find(view->live_xml, step->target);
    virDomainBlockJobInfo info = {0};
    guint place = 0;
    int found = get_job(view->domain, step, &info);

    if (found < 0)
        return job_failed(step, error, "ask for its block job");
    if (found == 1 && is_ours(run, live, &info, top))
        return TRUE;
    if (found == 1) {
        ckpt_error_set(error, CKPT_REASON_BLOCK_JOB_ACTIVE,
                       "disk %s: another block job is under way (virsh blockjob)", step->target);
        ckpt_error_add(error, CKPT_META_DISK, step->target);
        return FALSE;
    }
    if (!ckpt_pins_check(run, error))
        return FALSE;
    while (!ckpt_image_same(live->chain[place], step->file))
        place++;
    /* libvirt compares names, so it gets its own. */
    if (virDomainBlockCommit(view->domain, step->target, live->chain[place + 1], live->chain[place],
                             run->merge_mib, top ? VIR_DOMAIN_BLOCK_COMMIT_ACTIVE : 0) < 0)
        return job_failed(step, error, "begin the block commit");
    return TRUE;
}

static gboolean
cancel(CkptRun *run, virDomainPtr domain, GError **error)
{
    if (virDomainBlockJobAbort(domain, run->step->target, 0) < 0)
        virResetLastError(); /* ended by itself */
    ckpt_error_set(error, CKPT_REASON_OPERATION_CANCELLED, "disk %s: the merge was stopped",
                   run->step->target);
    return FALSE;
}

static gboolean
is_ready(CkptRun *run)
{
    g_autoptr(CkptView) view = ckpt_view_load(run->connection, run->plan->vm_id, NULL);
    const CkptXmlDisk *live =
        view ? ckpt_xml_domain_find(view->live_xml, run->step->target) : NULL;

    return live && live->mirror_ready;
}

typedef enum { JOB_FAILED, JOB_READY, JOB_GONE } JobEnd;

/* Until QEMU has copied everything. Polled: libvirt's events do not tell how far a job is, and one of
 * them missed would be waited for in vain. */
static JobEnd
wait_for_job(CkptRun *run, virDomainPtr domain, gboolean top, GError **error)
{
    gulong pause = POLL_MIN_US;

    while (TRUE) {
        virDomainBlockJobInfo info = {0};
        int found = get_job(domain, run->step, &info);

        if (found == 0 || (found < 0 && virDomainIsActive(domain) == 0))
            return JOB_GONE;
        if (found < 0) {
            job_failed(run->step, error, "ask for its block job");
            return JOB_FAILED;
        }
        if (g_cancellable_is_cancelled(run->cancellable)) {
            cancel(run, domain, error);
            return JOB_FAILED;
        }
        if (run->progress)
            run->progress(info.cur, info.end, run->data);
        if (top && is_ready(run)) {
            if (run->progress)
                run->progress(info.end, info.end, run->data);
            return JOB_READY;
        }
        g_usleep(pause);
        pause = MIN(pause * 2, POLL_MAX_US);
    }
}

void
ckpt_merge_bar(const CkptStep *step)
{
    g_autoptr(GError) error = NULL;

    if (!ckpt_file_chmod(step->file, 0, &error))
        g_warning("disk %s: %s", step->target, error->message);
}

gboolean
ckpt_merge_is_barred(const CkptStep *step)
{
    struct stat found;

    return stat(step->file, &found) == 0 && (found.st_mode & 07777) == 0;
}

/* libvirt changes the definition at the pivot, shows it changed, and only logs that it could not be
 * saved (9.0): asked for again, it says so. The guest is not kept standing for as long as a full disk
 * may last: without the overlay the VM cannot boot into the past, whatever the definition says. While
 * libvirt is away nothing is known, and the guest stands until the step is run again. */
void
ckpt_merge_save(CkptRun *run)
{
    CkptStep *step = run->step;
    g_autoptr(GError) error = NULL;

    for (guint i = 0; i < SAVE_ATTEMPTS; i++) {
        g_clear_error(&error);
        if (ckpt_define_save(run, &error) ||
            ckpt_error_reason(error) == CKPT_REASON_HYPERVISOR_UNAVAILABLE)
            return;
    }
    ckpt_merge_bar(step);
    g_warning("VM %s runs on %s, but its saved definition names %s: %s, and save it (virsh "
              "dumpxml --inactive, virsh define) before libvirtd is restarted: %s",
              run->plan->vm_id, step->base, step->file, ckpt_define_remedy(error), error->message);
    g_free(step->warning);
    step->warning = g_strdup_printf("disk %s: the VM runs on %s, but its saved definition still names %s: "
                                    "%s, then virsh dumpxml --inactive and virsh define: %s",
                                    step->target, step->base, step->file, ckpt_define_remedy(error),
                                    error->message);
}

static gboolean
pivot(CkptRun *run, virDomainPtr domain, GError **error)
{
    if (!ckpt_define_save(run, error) || !ckpt_merge_note(run->step, error) || !suspend(run, domain, error))
        return FALSE;
    ckpt_fault_point_named("pivoting");
    if (virDomainBlockJobAbort(domain, run->step->target, VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT) == 0) {
        ckpt_fault_point_named("pivoted");
        ckpt_merge_save(run);
        return TRUE;
    }
    return job_failed(run->step, error, "pivot to the merged file");
}

/* Only who is seen to write to the overlay still has not pivoted. */
static void
forget_pivot(CkptRun *run)
{
    g_autoptr(CkptView) view = ckpt_view_load(run->connection, run->plan->vm_id, NULL);
    g_autoptr(GError) error = NULL;

    if (view && ckpt_chain_find_top(view->live_xml, run->step->target, run->step->file) &&
        !ckpt_merge_forget(run->step->file, &error))
        g_warning("disk %s: %s", run->step->target, error->message);
}

/* Whether the job did what it was for, or the VM is off and the rest is done offline. */
static gboolean
is_merged(CkptRun *run, GError **error)
{
    g_autoptr(CkptView) view = ckpt_view_load(run->connection, run->plan->vm_id, error);
    const CkptXmlDisk *live =
        view ? ckpt_xml_domain_find(view->live_xml, run->step->target) : NULL;

    if (!view)
        return FALSE;
    for (char **path = live ? live->chain : NULL; path && *path; path++) {
        if (!ckpt_image_same(*path, run->step->file))
            continue;
        ckpt_error_set(error, CKPT_REASON_HYPERVISOR_FAILED,
                       "disk %s: the block commit ended before it was complete; QEMU's reason is in "
                       "the VM's libvirt log",
                       run->step->target);
        ckpt_error_add(error, CKPT_META_DISK, run->step->target);
        return FALSE;
    }
    return TRUE;
}

gboolean
ckpt_merge_live(CkptRun *run, CkptView *view, gboolean top, GError **error)
{
    g_autoptr(GError) cause = NULL;

    if (!begin(run, view, top, error))
        return FALSE;
    switch (wait_for_job(run, view->domain, top, error)) {
    case JOB_FAILED:
        return FALSE;
    case JOB_GONE:
        return is_merged(run, error);
    case JOB_READY:
        break;
    }
    if (pivot(run, view->domain, &cause))
        return is_merged(run, error);
    /* An error is not "not done" (hazard A6). */
    if (is_merged(run, NULL))
        return TRUE;
    if (virDomainBlockJobAbort(view->domain, run->step->target, 0) < 0)
        virResetLastError();
    forget_pivot(run);
    g_propagate_error(error, g_steal_pointer(&cause));
    return FALSE;
}
