/* A capture of memory beside jobs of others: only its own is told of, given more downtime or ended; and which
 * guests go on after one that failed. On libvirt's test driver, with what that lacks put in between. */
#include "agent/hypervisor/memory.h"
#include "tests/unit/image_fixture.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#define VM "11111111-1111-4111-8111-111111111111"
#define CALL_US (400 * 1000)
#define PATIENT_US (20 * G_USEC_PER_SEC)
#define POLL_US (5 * 1000)
#define GROWS_BY (7 * 1000 * 1000)

virDomainSnapshotPtr __wrap_virDomainSnapshotCreateXML(virDomainPtr domain, const char *xml,
                                                       unsigned int flags);
int __wrap_virDomainGetJobStats(virDomainPtr domain, int *type, virTypedParameterPtr *params, int *count,
                                unsigned int flags);
int __real_virDomainAbortJob(virDomainPtr domain);
int __wrap_virDomainAbortJob(virDomainPtr domain);
int __wrap_virDomainMigrateSetMaxDowntime(virDomainPtr domain, unsigned long long ms, unsigned int flags);
int __wrap_virDomainMigrateGetMaxDowntime(virDomainPtr domain, unsigned long long *ms, unsigned int flags);

int __wrap_sync_file_range(int fd, off64_t offset, off64_t count, unsigned int flags);
int __wrap_posix_fadvise(int fd, off_t offset, off_t count, int advice);
int __wrap_statvfs(const char *path, struct statvfs *found);

int __wrap_virDomainGetState(virDomainPtr domain, int *state, int *reason, unsigned int flags);
int __wrap_virDomainResume(virDomainPtr domain);

/* Written before the capture begins, or atomic. */
static int operation;       /* of the job under way */
static const char *makes;   /* the file that the call makes at its beginning; NULL = it waits */
static gboolean writes_long; /* a write takes until the call has ended, which has patience then */
static gboolean filled;     /* atomic; the file system */
static gboolean impossible; /* the call refuses at once */
static virDomainPtr off;    /* to free it would take back the error */
static int aborted;
static int limit;           /* ms */
static int told;
static int stands;          /* virDomainPausedReason */
static guint resumed;
static guint resume_fails;  /* so often, then it is done */
static const char *opened;  /* QEMU opens it to go on: for writing */
static guint switches;      /* of the disks alone */
static gboolean grows;      /* the image, while the call lasts */
static off_t started;       /* up to there it is on its way to the disk */
static off_t waited;        /* up to there it is on the disk */
static off_t dropped;       /* from the page cache */
static guint dropped_whole, dropped_wrong; /* times */
static gboolean dropped_much; /* atomic */
#define MUCH (64 * 1024 * 1024)

/* As libvirt refuses what cannot be migrated: here since the VM is off. */
static void
fail_as_invalid(virDomainPtr domain)
{
    off = off ? off
              : virDomainDefineXML(virDomainGetConnect(domain),
                                   "<domain type='test'><name>off</name><memory>65536</memory><os><type>hvm</type>"
                                   "</os></domain>");
    assert_true(off && virDomainFSThaw(off, NULL, 0, 0) < 0);
    assert_int_equal(ckpt_libvirt_code(), VIR_ERR_OPERATION_INVALID);
}

/* Fails when its job is ended, or in the end, as one that waited for another's job in vain. */
virDomainSnapshotPtr
__wrap_virDomainSnapshotCreateXML(virDomainPtr domain, const char *xml, unsigned int flags)
{
    gint64 until = g_get_monotonic_time() + (writes_long || grows ? PATIENT_US : CALL_US);
    struct stat found;

    (void)xml;
    if (flags & VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY) {
        switches++;
        if (opened) {
            assert_int_equal(stat(opened, &found), 0);
            assert_int_equal(found.st_mode & 07777, CKPT_SEALED_MODE);
        }
    }
    if (makes)
        assert_true(g_file_set_contents(makes, "LibvirtQemudPart", -1, NULL));
    if (impossible) {
        fail_as_invalid(domain);
        return NULL;
    }
    while (g_get_monotonic_time() < until && !g_atomic_int_get(&aborted) && !g_atomic_int_get(&dropped_much)) {
        g_usleep(POLL_US);
        if (grows)
            assert_true(stat(makes, &found) == 0 && truncate(makes, found.st_size + GROWS_BY) == 0);
    }
    (void)__real_virDomainAbortJob(domain); /* the test driver has none, and says so */
    return NULL;
}

int
__wrap_virDomainGetJobStats(virDomainPtr domain, int *type, virTypedParameterPtr *params, int *count,
                            unsigned int flags)
{
    int max = 0;

    (void)domain;
    (void)flags;
    *type = VIR_DOMAIN_JOB_UNBOUNDED;
    *params = NULL;
    *count = 0;
    virTypedParamsAddInt(params, count, &max, VIR_DOMAIN_JOB_OPERATION, operation);
    virTypedParamsAddULLong(params, count, &max, VIR_DOMAIN_JOB_DATA_PROCESSED, 10);
    virTypedParamsAddULLong(params, count, &max, VIR_DOMAIN_JOB_DATA_REMAINING, 90);
    virTypedParamsAddULLong(params, count, &max, VIR_DOMAIN_JOB_MEMORY_ITERATION, 100);
    return 0;
}

int
__wrap_virDomainAbortJob(virDomainPtr domain)
{
    (void)domain;
    g_atomic_int_inc(&aborted);
    return 0;
}

int
__wrap_virDomainMigrateSetMaxDowntime(virDomainPtr domain, unsigned long long ms, unsigned int flags)
{
    (void)domain;
    (void)flags;
    g_atomic_int_set(&limit, (int)ms);
    return 0;
}

int
__wrap_virDomainMigrateGetMaxDowntime(virDomainPtr domain, unsigned long long *ms, unsigned int flags)
{
    (void)domain;
    (void)flags;
    *ms = 300;
    return 0;
}

int
__wrap_virDomainGetState(virDomainPtr domain, int *state, int *reason, unsigned int flags)
{
    (void)domain;
    (void)flags;
    *state = VIR_DOMAIN_PAUSED;
    if (reason)
        *reason = stands;
    return 0;
}

int
__wrap_virDomainResume(virDomainPtr domain)
{
    struct stat found;

    if (opened) {
        assert_int_equal(stat(opened, &found), 0);
        assert_int_equal(found.st_mode & 07777, resumed == 0 ? CKPT_SEALED_MODE : 0640);
    }
    resumed++;
    if (resume_fails == 0)
        return 0;
    resume_fails--;
    (void)__real_virDomainAbortJob(domain); /* for an error of libvirt's */
    return -1;
}

/* What is written meanwhile fills the file system. */
int
__wrap_sync_file_range(int fd, off64_t offset, off64_t count, unsigned int flags)
{
    gint64 until = g_get_monotonic_time() + PATIENT_US;
    struct stat found;

    assert_true(offset == 0 && count == 0); /* all of it */
    assert_int_equal(flags, SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE);
    assert_int_equal(fstat(fd, &found), 0);
    waited = started;
    started = found.st_size;
    if (writes_long) {
        g_atomic_int_set(&filled, TRUE);
        while (g_get_monotonic_time() < until && !g_atomic_int_get(&aborted))
            g_usleep(POLL_US);
    }
    return 0;
}

/* Each byte once, and never one that is still on its way: the kernel would keep it, and nobody would ask again. */
int
__wrap_posix_fadvise(int fd, off_t offset, off_t count, int advice)
{
    (void)fd;
    if (offset == 0 && count == 0) { /* all that is left */
        dropped_whole++;
    } else {
        if (advice != POSIX_FADV_DONTNEED || offset != dropped || offset + count > waited ||
            (offset + count) % (64 * 1024) != 0) /* not whole pages of any processor's */
            dropped_wrong++;
        dropped = offset + count;
        g_atomic_int_set(&dropped_much, dropped > MUCH);
    }
    return 0;
}

int
__wrap_statvfs(const char *path, struct statvfs *found)
{
    (void)path;
    *found = (struct statvfs){.f_frsize = 4096, .f_bavail = g_atomic_int_get(&filled) ? 0 : 1 << 20};
    return 0;
}

static void
on_progress(guint64 done, guint64 total, gpointer data)
{
    (void)data;
    assert_true(done == 10 && total == 100);
    g_atomic_int_inc(&told);
}

/* A host with the VM "on". */
static CkptConnection *
connect(void)
{
    g_autofree char *uri = g_strdup_printf("test://%s/host.xml", images);

    shell("cat >$d/host.xml <<END\n<node><domain type='test'><name>on</name><uuid>" VM "</uuid>"
          "<memory>65536</memory><vcpu>1</vcpu><os><type>hvm</type></os></domain></node>\nEND");
    return ckpt_connection_new_shared(uri);
}

/* The reason why it failed. */
static CkptReason
capture_unless(gboolean cancelled, const char *file)
{
    CkptConnection *connection = connect();
    g_autoptr(CkptPlan) plan = ckpt_plan_new(CKPT_KIND_CREATE);
    g_autoptr(GCancellable) cancellable = g_cancellable_new();
    CkptStep *step = ckpt_step_new(CKPT_STEP_SNAPSHOT);
    CkptRun run = {.plan = plan, .step = step, .progress = on_progress, .cancellable = cancellable};
    g_autoptr(CkptView) view = NULL;
    g_autoptr(GError) error = NULL;
    CkptReason reason;

    run.connection = connection;
    plan->vm_id = g_strdup(VM);
    g_ptr_array_add(plan->steps, step);
    step->file = g_strdup(file);
    step->asked = CKPT_CONSISTENCY_MEMORY;
    step->size = 1 << 20;
    aborted = told = limit = 0;
    started = waited = dropped = 0;
    dropped_whole = dropped_wrong = 0;
    dropped_much = FALSE;
    if (cancelled)
        g_cancellable_cancel(cancellable);
    view = ckpt_view_load(connection, VM, &error);
    if (!view)
        fail_msg("%s", error->message);
    assert_false(ckpt_memory_snapshot(&run, view, "<domainsnapshot/>", &error));
    reason = ckpt_error_reason(error);
    g_clear_pointer(&view, ckpt_view_free);
    ckpt_connection_free(connection);
    return reason;
}

static CkptReason
capture(const char *file)
{
    return capture_unless(TRUE, file);
}

static void
a_disk_that_fills_up_while_it_is_written_ends_the_capture(void **state)
{
    g_autofree char *file = image("fills.memory");

    (void)state;
    makes = file;
    operation = VIR_DOMAIN_JOB_OPERATION_SNAPSHOT;
    writes_long = TRUE;
    assert_int_equal(capture_unless(FALSE, file), CKPT_REASON_SPACE_LOW);
    assert_true(aborted > 0);
    writes_long = FALSE;
    g_atomic_int_set(&filled, FALSE);
}

/* The page cache is the host's memory, and an image may be as large. */
static void
what_is_on_the_disk_leaves_the_page_cache(void **state)
{
    g_autofree char *file = image("dropped.memory");

    (void)state;
    makes = file;
    grows = TRUE;
    operation = VIR_DOMAIN_JOB_OPERATION_SNAPSHOT;
    assert_int_equal(capture_unless(FALSE, file), CKPT_REASON_HYPERVISOR_FAILED);
    grows = FALSE;
    assert_true(dropped > MUCH && dropped > waited - MUCH);
    assert_int_equal(dropped_whole, 1);
    assert_int_equal(dropped_wrong, 0);
}

static void
a_cancel_ends_its_own_job(void **state)
{
    g_autofree char *file = image("own.memory");

    (void)state;
    makes = file;
    operation = VIR_DOMAIN_JOB_OPERATION_SNAPSHOT;
    assert_int_equal(capture(file), CKPT_REASON_OPERATION_CANCELLED);
    assert_true(aborted > 0);
    assert_true(told > 0);
    assert_int_equal(limit, 300);
}

static void
a_cancel_does_not_end_anothers_job(void **state)
{
    static const int operations[] = {VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT, VIR_DOMAIN_JOB_OPERATION_BACKUP,
                                     VIR_DOMAIN_JOB_OPERATION_SNAPSHOT /* virsh's own */};
    g_autofree char *file = image("waits.memory");

    (void)state;
    makes = NULL;
    for (guint i = 0; i < G_N_ELEMENTS(operations); i++) {
        operation = operations[i];
        assert_int_equal(capture(file), CKPT_REASON_OPERATION_CANCELLED);
        assert_int_equal(aborted, 0);
        assert_int_equal(told, 0);
        assert_int_equal(limit, 300);
    }
}

static void
a_guest_goes_on_unless_its_owner_paused_it(void **state)
{
    static const int ours[] = {VIR_DOMAIN_PAUSED_SNAPSHOT, VIR_DOMAIN_PAUSED_MIGRATION,
                               VIR_DOMAIN_PAUSED_IOERROR /* the image took the last room */};
    static const int others[] = {VIR_DOMAIN_PAUSED_USER, VIR_DOMAIN_PAUSED_WATCHDOG,
                                 VIR_DOMAIN_PAUSED_DUMP};
    CkptConnection *connection = connect();
    g_autoptr(CkptPlan) plan = ckpt_plan_new(CKPT_KIND_CREATE);
    CkptStep *step = ckpt_step_new(CKPT_STEP_SNAPSHOT);
    CkptRun run = {.connection = connection, .plan = plan, .step = step};

    (void)state;
    plan->vm_id = g_strdup(VM);
    g_ptr_array_add(plan->steps, step);
    step->asked = CKPT_CONSISTENCY_MEMORY;
    step->power = CKPT_POWER_RUNNING;
    resumed = 0;
    for (guint i = 0; i < G_N_ELEMENTS(others); i++) {
        stands = others[i];
        ckpt_memory_recover(&run);
    }
    assert_int_equal(resumed, 0);
    for (guint i = 0; i < G_N_ELEMENTS(ours); i++) {
        stands = ours[i];
        ckpt_memory_recover(&run);
    }
    assert_int_equal(resumed, G_N_ELEMENTS(ours));
    step->power = CKPT_POWER_PAUSED; /* before, too */
    ckpt_memory_recover(&run);
    assert_int_equal(resumed, G_N_ELEMENTS(ours));
    ckpt_connection_free(connection);
}

/* What was not begun has stopped nobody: a full disk has, or a migration of somebody else's. */
static void
a_guest_that_stands_before_the_capture_is_left_alone(void **state)
{
    CkptConnection *connection = connect();
    g_autoptr(CkptPlan) plan = ckpt_plan_new(CKPT_KIND_CREATE);
    CkptStep *step = ckpt_step_new(CKPT_STEP_SNAPSHOT);
    CkptRun run = {.connection = connection, .plan = plan, .step = step};

    (void)state;
    plan->vm_id = g_strdup(VM);
    g_ptr_array_add(plan->steps, step);
    step->asked = CKPT_CONSISTENCY_MEMORY;
    step->power = CKPT_POWER_RUNNING;
    step->untried = TRUE;
    stands = VIR_DOMAIN_PAUSED_MIGRATION;
    limit = 0;
    resumed = 0;
    ckpt_memory_recover(&run);
    assert_int_equal(resumed, 0);
    assert_int_equal(limit, 0);
    ckpt_connection_free(connection);
}

/* The disks are captured without it, and that succeeds: nobody would look after the guest again. */
static void
a_guest_that_stands_after_a_capture_in_vain_goes_on(void **state)
{
    CkptConnection *connection = connect();
    g_autoptr(CkptPlan) plan = ckpt_plan_new(CKPT_KIND_CREATE);
    CkptStep *step = ckpt_step_new(CKPT_STEP_SNAPSHOT);
    CkptQemuOptions options = {0};
    CkptRun run = {.connection = connection, .plan = plan, .step = step, .options = &options};
    g_autoptr(CkptView) view = ckpt_view_load(connection, VM, NULL);
    g_autoptr(GError) cause = NULL, error = NULL;

    (void)state;
    plan->vm_id = g_strdup(VM);
    g_ptr_array_add(plan->steps, step);
    step->asked = CKPT_CONSISTENCY_MEMORY;
    step->minimum = CKPT_CONSISTENCY_CRASH;
    step->power = CKPT_POWER_RUNNING;
    step->file = image("in-vain.memory");
    step->disks = g_ptr_array_new();
    impossible = TRUE;
    makes = NULL;
    stands = VIR_DOMAIN_PAUSED_SNAPSHOT;
    resumed = 0;
    assert_true(ckpt_switch_to_overlays(&run, view, &cause, &error));
    impossible = FALSE;
    g_clear_pointer(&off, virDomainFree);
    assert_int_equal(step->reached, CKPT_CONSISTENCY_CRASH);
    assert_int_equal(resumed, 1);
    g_clear_pointer(&view, ckpt_view_free);
    ckpt_connection_free(connection);
}

/* ---- Seals ---- */

typedef struct {
    CkptConnection *connection;
    CkptPlan *plan;
    char *file;
    CkptRun run;
} Sealed;

/* A capture of the memory was cut short, with its file sealed, and the guest stands for it. */
static Sealed *
sealed_new(void)
{
    Sealed *sealed = g_new0(Sealed, 1);
    CkptStep *seal = ckpt_step_new(CKPT_STEP_SEAL), *snapshot = ckpt_step_new(CKPT_STEP_SNAPSHOT);

    shell("rm -f $d/sealed; echo contents >$d/sealed; chmod 0440 $d/sealed");
    sealed->file = image("sealed");
    seal->file = g_strdup(sealed->file);
    seal->mode = 0640;
    snapshot->asked = CKPT_CONSISTENCY_MEMORY;
    snapshot->power = CKPT_POWER_RUNNING;
    sealed->connection = connect();
    sealed->plan = ckpt_plan_new(CKPT_KIND_CREATE);
    sealed->plan->vm_id = g_strdup(VM);
    g_ptr_array_add(sealed->plan->steps, seal);
    g_ptr_array_add(sealed->plan->steps, snapshot);
    sealed->run = (CkptRun){.connection = sealed->connection, .plan = sealed->plan, .step = snapshot};
    stands = VIR_DOMAIN_PAUSED_SNAPSHOT;
    opened = sealed->file;
    resumed = resume_fails = 0;
    return sealed;
}

static void
sealed_free(Sealed *sealed)
{
    opened = NULL;
    resume_fails = 0;
    ckpt_plan_free(sealed->plan);
    ckpt_connection_free(sealed->connection);
    g_free(sealed->file);
    g_free(sealed);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Sealed, sealed_free)

static void
must_have_mode(const Sealed *sealed, guint mode)
{
    struct stat found;

    assert_int_equal(stat(sealed->file, &found), 0);
    assert_int_equal(found.st_mode & 07777, mode);
}

/* It was not switched: QEMU writes to the file again. */
static void
a_guest_that_needs_its_file_to_go_on_gets_it(void **state)
{
    g_autoptr(Sealed) sealed = sealed_new();

    (void)state;
    resume_fails = 1;
    ckpt_memory_recover(&sealed->run);
    assert_int_equal(resumed, 2);
    must_have_mode(sealed, 0640);
}

static void
a_guest_that_does_not_go_on_leaves_its_file_sealed(void **state)
{
    g_autoptr(Sealed) sealed = sealed_new();

    (void)state;
    resume_fails = 2;
    ckpt_memory_recover(&sealed->run);
    assert_int_equal(resumed, 2);
    must_have_mode(sealed, CKPT_SEALED_MODE);
}

/* The checkpoint is there, and its file would stay open to writers. */
static void
a_snapshot_that_was_made_after_all_is_sealed_again(void **state)
{
    g_autoptr(Sealed) sealed = sealed_new();

    (void)state;
    resume_fails = 1;
    ckpt_memory_recover(&sealed->run);
    ckpt_memory_note_reached(&sealed->run);
    must_have_mode(sealed, CKPT_SEALED_MODE);
}

/* As far as the disks alone. *cause: why not. */
static void
switch_in_vain(Sealed *sealed, GError **cause)
{
    CkptQemuOptions options = {0};
    CkptStep *step = sealed->run.step;
    g_autoptr(CkptView) view = ckpt_view_load(sealed->connection, VM, NULL);
    g_autoptr(GError) error = NULL;

    step->minimum = CKPT_CONSISTENCY_CRASH;
    step->file = image("in-vain.memory");
    step->disks = g_ptr_array_new();
    sealed->run.options = &options;
    impossible = TRUE;
    makes = NULL;
    switches = 0;
    assert_true(ckpt_switch_to_overlays(&sealed->run, view, cause, &error));
    impossible = FALSE;
    g_clear_pointer(&off, virDomainFree);
}

/* The disks are captured without it, and the checkpoint's file would stay open to writers. */
static void
a_file_given_back_after_a_capture_in_vain_is_sealed_again(void **state)
{
    g_autoptr(Sealed) sealed = sealed_new();
    g_autoptr(GError) cause = NULL;

    (void)state;
    resume_fails = 1;
    switch_in_vain(sealed, &cause);
    assert_int_equal(resumed, 2);
    assert_int_equal(switches, 1);
    must_have_mode(sealed, CKPT_SEALED_MODE);
}

static void
a_file_that_cannot_be_sealed_again_fails_the_capture(void **state)
{
    g_autoptr(Sealed) sealed = sealed_new();
    g_autoptr(GError) cause = NULL;

    (void)state;
    opened = NULL;
    shell("rm $d/sealed");
    switch_in_vain(sealed, &cause);
    assert_int_equal(ckpt_error_reason(cause), CKPT_REASON_DISK_FILE_MISSING);
    assert_int_equal(switches, 0);
    assert_int_equal(sealed->run.step->reached, 0);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_on_the_disk_leaves_the_page_cache),
        cmocka_unit_test(a_cancel_ends_its_own_job),
        cmocka_unit_test(a_disk_that_fills_up_while_it_is_written_ends_the_capture),
        cmocka_unit_test(a_cancel_does_not_end_anothers_job),
        cmocka_unit_test(a_guest_goes_on_unless_its_owner_paused_it),
        cmocka_unit_test(a_guest_that_stands_before_the_capture_is_left_alone),
        cmocka_unit_test(a_guest_that_stands_after_a_capture_in_vain_goes_on),
        cmocka_unit_test(a_guest_that_needs_its_file_to_go_on_gets_it),
        cmocka_unit_test(a_guest_that_does_not_go_on_leaves_its_file_sealed),
        cmocka_unit_test(a_snapshot_that_was_made_after_all_is_sealed_again),
        cmocka_unit_test(a_file_given_back_after_a_capture_in_vain_is_sealed_again),
        cmocka_unit_test(a_file_that_cannot_be_sealed_again_fails_the_capture),
    };

    return cmocka_run_group_tests(tests, images_open, images_close);
}
