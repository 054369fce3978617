/* The memory of a running VM into a file, while it runs, and its disks onto their overlays in the instant
 * at which that is complete: one call of libvirt's. What is here keeps the pause at its end short, tells
 * how far it is, and ends it when it is not wanted any more or would fill the file system.
 *
 * Where the pause comes from (measured on libvirt 9.0, QEMU 7.2: a 2 GB guest with 1.2 GB touched stood
 * still for 600 to 800 ms): libvirt syncs the whole file while the guest stands, so that what is in the page
 * cache is written out here all the while; and QEMU lets the guest stand for the last 300 ms of the stream, so
 * that it gets a lower limit. A guest that changes its memory faster than that is given more, step by step.
 *
 * Not beside the running guest where it would be wrong: see loses_writes(). */
#include "agent/hypervisor/memory.h"

#include "common/fault.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* libvirt's way of writing 9.0.0. */
#define QEMU_KEEPS_WRITES 9000000
#define FIRST_DOWNTIME_MS 10
#define QEMU_DOWNTIME_MS 300 /* its own, where libvirt does not say what it is */
#define WRITE_EVERY_US (5 * 1000)
/* At least so much, and of whole pages: the kernel asks all processors whether they hold some of it. */
#define DROP_BYTES (16 * 1024 * 1024)
#define LOOK_EVERY_US (50 * 1000)
#define ABORT_EVERY_US (10 * 1000)
/* The first passes are long, and each is shorter than the one before where the guest is slower than the
 * file. */
#define PASSES_BEFORE_RAISE 3
/* At the highest limit, a stream that has not converged by then is given up. */
#define PATIENCE_US (30 * G_USEC_PER_SEC)

typedef struct {
    gboolean known; /* the rest is */
    guint64 done, left, pass;
} Stats;

typedef struct {
    CkptRun *run;
    char *folder;
    guint downtime_before_ms;
    /* Of the looking thread alone: */
    guint downtime_ms;
    guint64 raised_at_pass;
    gint64 highest_since_us; /* monotonic; 0 = the limit is not at its highest */
    GMutex lock; /* guards all below */
    GCond ended;
    gboolean is_done;
    GError *stop; /* why it was ended by us; NULL = it was not */
} Capture;

/* ---- Both threads ---- */

static gboolean
is_done_within(Capture *capture, gint64 us)
{
    gint64 deadline = g_get_monotonic_time() + us;
    gboolean done;

    g_mutex_lock(&capture->lock);
    while (!capture->is_done && g_cond_wait_until(&capture->ended, &capture->lock, deadline))
        continue;
    done = capture->is_done;
    g_mutex_unlock(&capture->lock);
    return done;
}

/* The first reason counts. */
static void G_GNUC_PRINTF(3, 4)
ask_to_stop(Capture *capture, CkptReason reason, const char *format, ...)
{
    g_autofree char *words = NULL;
    va_list args;

    va_start(args, format);
    words = g_strdup_vprintf(format, args);
    va_end(args);
    g_mutex_lock(&capture->lock);
    if (!capture->stop)
        ckpt_error_set(&capture->stop, reason, "%s", words);
    g_mutex_unlock(&capture->lock);
}

static gboolean
is_to_stop(Capture *capture)
{
    gboolean stop;

    g_mutex_lock(&capture->lock);
    stop = capture->stop != NULL;
    g_mutex_unlock(&capture->lock);
    return stop;
}

/* By both: a write may take long, and so may an answer of QEMU's. */
static void
check_space(Capture *capture)
{
    struct statvfs found;
    guint64 reserve = capture->run->step->size;

    if (statvfs(capture->folder, &found) < 0 ||
        (guint64)found.f_bavail * found.f_frsize >= reserve)
        return;
    ask_to_stop(capture, CKPT_REASON_SPACE_LOW,
                "the file system of %s has less than the %" G_GUINT64_FORMAT
                " MiB left that stay in reserve: the memory image was given up",
                capture->run->step->file, reserve >> 20);
}

/* ---- Writing out ---- */

/* Of the image, from its beginning. */
typedef struct {
    off_t asked;   /* is on its way to the disk, or there */
    off_t dropped; /* is on the disk, and no longer in the page cache */
} Written;

/* What is on the disk leaves the page cache, which is the host's memory. And the image's next bytes go where those
 * were: memory that nobody had touched before costs a virtual machine's host (this one may be nested), for each
 * page of it, far more than the copying: measured 230 MB/s against more than 1 GB/s. */
static void
drop_written(int fd, off_t there, Written *written)
{
    there -= there % DROP_BYTES;
    if (there <= written->dropped)
        return;
    (void)posix_fadvise(fd, written->dropped, there - written->dropped, POSIX_FADV_DONTNEED);
    written->dropped = there;
}

/* Not a sync: that commits the file system's journal each time, and QEMU's writes wait for it. libvirt syncs
 * in the end. Errors of the disk are told all the same, to us and to libvirt. */
static gboolean
write_out(int fd, Written *written)
{
    const off_t there = written->asked; /* once the call has waited for it */
    struct stat found;

    if (fstat(fd, &found) < 0 ||
        sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE) < 0)
        return FALSE;
    drop_written(fd, there, written);
    written->asked = found.st_size;
    return TRUE;
}

static gpointer
keep_written(gpointer data)
{
    Capture *capture = data;
    const char *path = capture->run->step->file;
    Written written = {0, 0};
    int fd = -1;

    while (!is_done_within(capture, WRITE_EVERY_US)) {
        check_space(capture);
        if (fd < 0) {
            fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
            if (fd >= 0)
                ckpt_fault_point_named("capturing");
        }
        if (fd >= 0 && !write_out(fd, &written))
            ask_to_stop(capture, CKPT_REASON_FILE_FAILED, "write %s: %s", path, g_strerror(errno));
    }
    if (fd >= 0) {
        (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED); /* libvirt has synced it */
        close(fd);
    }
    return NULL;
}

/* ---- Looking ---- */

/* FALSE: the job that is under way is not the capture's. Somebody else's, a migration or a backup, may have begun
 * just before it: the call then waits for that, and has not made its file yet. */
static gboolean
read_stats(const Capture *capture, virDomainPtr domain, Stats *stats)
{
    virTypedParameterPtr params = NULL;
    unsigned long long done = 0, left = 0, pass = 0;
    int count = 0, type = VIR_DOMAIN_JOB_NONE, operation = VIR_DOMAIN_JOB_OPERATION_UNKNOWN;
    gboolean known;

    if (virDomainGetJobStats(domain, &type, &params, &count, 0) < 0) {
        virResetLastError();
        return FALSE;
    }
    (void)virTypedParamsGetInt(params, count, VIR_DOMAIN_JOB_OPERATION, &operation);
    known = virTypedParamsGetULLong(params, count, VIR_DOMAIN_JOB_DATA_PROCESSED, &done) == 1 &&
            virTypedParamsGetULLong(params, count, VIR_DOMAIN_JOB_DATA_REMAINING, &left) == 1;
    (void)virTypedParamsGetULLong(params, count, VIR_DOMAIN_JOB_MEMORY_ITERATION, &pass);
    virTypedParamsFree(params, count);
    *stats = (Stats){known, done, left, pass};
    return type != VIR_DOMAIN_JOB_NONE && operation == VIR_DOMAIN_JOB_OPERATION_SNAPSHOT &&
           g_file_test(capture->run->step->file, G_FILE_TEST_EXISTS);
}

static void
set_downtime(virDomainPtr domain, guint ms)
{
    if (virDomainMigrateSetMaxDowntime(domain, ms, 0) < 0)
        virResetLastError();
}

static void
raise_downtime(Capture *capture, virDomainPtr domain, const Stats *stats)
{
    const guint highest_ms = MAX(capture->downtime_before_ms, FIRST_DOWNTIME_MS);

    if (stats->pass <= PASSES_BEFORE_RAISE || stats->pass <= capture->raised_at_pass + 1)
        return;
    if (capture->downtime_ms < highest_ms) {
        capture->raised_at_pass = stats->pass;
        capture->downtime_ms = MIN(capture->downtime_ms * 3 / 2, highest_ms);
        set_downtime(domain, capture->downtime_ms);
    } else if (!capture->highest_since_us) {
        capture->highest_since_us = g_get_monotonic_time();
    } else if (g_get_monotonic_time() - capture->highest_since_us > PATIENCE_US) {
        ask_to_stop(capture, CKPT_REASON_CONSISTENCY_UNAVAILABLE,
                    "the guest changes its memory faster than %s can be written, so that its pause would be "
                    "longer than %u ms (virsh migrate-setmaxdowntime raises that limit)",
                    capture->run->step->file, highest_ms);
    }
}

static void
look(Capture *capture, virDomainPtr domain)
{
    const CkptRun *run = capture->run;
    Stats stats;

    if (g_cancellable_is_cancelled(run->cancellable))
        ask_to_stop(capture, CKPT_REASON_OPERATION_CANCELLED, "cancelled before it took effect");
    if (!read_stats(capture, domain, &stats))
        return;
    if (stats.known) {
        if (run->progress)
            run->progress(stats.done, stats.done + stats.left, run->data);
        raise_downtime(capture, domain, &stats);
    }
    /* Again each time: it may not have heard. */
    if (is_to_stop(capture) && virDomainAbortJob(domain) < 0)
        virResetLastError();
}

static gpointer
keep_looking(gpointer data)
{
    Capture *capture = data;
    g_autoptr(virDomain) domain = NULL;

    while (!is_done_within(capture, is_to_stop(capture) ? ABORT_EVERY_US : LOOK_EVERY_US)) {
        check_space(capture);
        if (!domain)
            domain = ckpt_connection_lookup(capture->run->connection, capture->run->plan->vm_id, NULL);
        if (domain)
            look(capture, domain);
    }
    return NULL;
}

/* ---- The call ---- */

static void
begin(Capture *capture, CkptRun *run, const CkptView *view)
{
    unsigned long long before = 0;

    *capture = (Capture){.run = run, .downtime_ms = FIRST_DOWNTIME_MS};
    capture->folder = g_path_get_dirname(run->step->file);
    g_mutex_init(&capture->lock);
    g_cond_init(&capture->ended);
    if (virDomainMigrateGetMaxDowntime(view->domain, &before, 0) < 0)
        virResetLastError();
    capture->downtime_before_ms = before ? (guint)before : run->step->downtime_ms;
    if (!capture->downtime_before_ms)
        capture->downtime_before_ms = QEMU_DOWNTIME_MS;
    set_downtime(view->domain, FIRST_DOWNTIME_MS);
}

static void
end(Capture *capture)
{
    g_mutex_lock(&capture->lock);
    capture->is_done = TRUE;
    g_cond_broadcast(&capture->ended);
    g_mutex_unlock(&capture->lock);
}

static void
clear(Capture *capture)
{
    g_clear_error(&capture->stop);
    g_cond_clear(&capture->ended);
    g_mutex_clear(&capture->lock);
    g_free(capture->folder);
}

/* Whether QEMU may miss what the guest writes while its memory is written down. When it emulates the processor it
 * keeps which pages are known to be dirty in a table of its own (the TLB), and before 9.0 it did not reset that
 * when it began a new pass: a page in it that was changed afterwards was not written again. Measured with 7.2, at
 * 60 MB/s: 11 of 28 images of an idle guest had up to 30 old pages, and 9 of these hung once they were loaded. */
static gboolean
loses_writes(const CkptView *view)
{
    unsigned long version = 0;

    if (!view->live_xml || !view->live_xml->emulated)
        return FALSE;
    if (virConnectGetVersion(virDomainGetConnect(view->domain), &version) < 0)
        virResetLastError();
    return version < QEMU_KEEPS_WRITES;
}

static char *
describe(const Capture *capture, gboolean still)
{
    if (still)
        return g_strdup("the guest stood still while its memory was written: QEMU emulates its processor and "
                        "before version 9.0 misses some of what it writes meanwhile");
    if (capture->downtime_ms > FIRST_DOWNTIME_MS)
        return g_strdup_printf("the guest changed its memory faster than it could be written: its pause was "
                               "allowed to be %u ms",
                               capture->downtime_ms);
    return NULL;
}

/* libvirt refuses what cannot be migrated, with its reasons; and what is not running. */
static gboolean
is_impossible(const CkptView *view, const GError *stop, int code)
{
    if (stop)
        return ckpt_error_reason(stop) == CKPT_REASON_CONSISTENCY_UNAVAILABLE;
    return code == VIR_ERR_OPERATION_INVALID && virDomainIsActive(view->domain) == 1;
}

gboolean
ckpt_memory_snapshot(CkptRun *run, const CkptView *view, const char *xml, GError **error)
{
    const gboolean still = loses_writes(view) && !run->options->live_memory_when_emulated;
    Capture capture;
    g_autoptr(virDomainSnapshot) snapshot = NULL;
    GThread *writing, *looking;
    GError *why = NULL;
    int code = VIR_ERR_OK;

    begin(&capture, run, view);
    ckpt_fault_point_named("calling");
    writing = g_thread_new("write-memory", keep_written, &capture);
    looking = g_thread_new("watch-memory", keep_looking, &capture);
    snapshot = virDomainSnapshotCreateXML(
        view->domain, xml,
        VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA | VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC |
            VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT | (still ? 0 : VIR_DOMAIN_SNAPSHOT_CREATE_LIVE));
    if (!snapshot) {
        code = ckpt_libvirt_code();
        ckpt_libvirt_error(&why, CKPT_REASON_HYPERVISOR_FAILED, "capture the memory");
    }
    end(&capture);
    g_thread_join(writing);
    g_thread_join(looking);
    if (virDomainMigrateSetMaxDowntime(view->domain, capture.downtime_before_ms, 0) < 0)
        g_warning("VM %s: its downtime limit is left at %u ms, it was %u (virsh migrate-setmaxdowntime)",
                  run->plan->vm_id, capture.downtime_ms, capture.downtime_before_ms);
    g_clear_pointer(&run->step->note, g_free);
    if (snapshot)
        run->step->note = describe(&capture, still && view->state == VIR_DOMAIN_RUNNING);
    if (why && is_impossible(view, capture.stop, code))
        why->code = CKPT_REASON_CONSISTENCY_UNAVAILABLE;
    if (why && capture.stop && ckpt_error_reason(why) != CKPT_REASON_HYPERVISOR_UNAVAILABLE) {
        g_clear_error(&why);
        why = g_steal_pointer(&capture.stop);
    }
    clear(&capture);
    if (why)
        g_propagate_error(error, why);
    return snapshot != NULL;
}
