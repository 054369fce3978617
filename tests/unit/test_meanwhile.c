/* What somebody else does to the VM in the midst of a look or a step: what was compared is no mismatch then, and
 * what libvirt refused is no failure. On libvirt's test driver, with what that lacks put in between. */
#include "tests/unit/domain_fixture.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

int __real_virDomainGetBlockInfo(virDomainPtr domain, const char *disk, virDomainBlockInfoPtr info,
                                 unsigned int flags);
int __wrap_virDomainGetBlockInfo(virDomainPtr domain, const char *disk, virDomainBlockInfoPtr info,
                                 unsigned int flags);
int __real_virDomainGetState(virDomainPtr domain, int *state, int *reason, unsigned int flags);
int __wrap_virDomainGetState(virDomainPtr domain, int *state, int *reason, unsigned int flags);
int __wrap_virDomainGetBlockJobInfo(virDomainPtr domain, const char *disk, virDomainBlockJobInfo *info,
                                    unsigned int flags);
int __real_virDomainBlockCommit(virDomainPtr domain, const char *disk, const char *base, const char *top,
                                unsigned long bandwidth, unsigned int flags);
int __wrap_virDomainBlockCommit(virDomainPtr domain, const char *disk, const char *base, const char *top,
                                unsigned long bandwidth, unsigned int flags);

int __real_virDomainSetAutostart(virDomainPtr domain, int autostart);
int __wrap_virDomainSetAutostart(virDomainPtr domain, int autostart);

int __wrap_virDomainGetJobInfo(virDomainPtr domain, virDomainJobInfoPtr info);
int __wrap_virDomainGetJobStats(virDomainPtr domain, int *type, virTypedParameterPtr *params, int *count,
                                unsigned int flags);
int __real_virDomainBlockStats(virDomainPtr domain, const char *disk, virDomainBlockStatsPtr stats, size_t size);
int __wrap_virDomainBlockStats(virDomainPtr domain, const char *disk, virDomainBlockStatsPtr stats, size_t size);

static int job, next_job;          /* what is under way, to one question and to those after it */
static guint jobs;                 /* so many questions */
static gboolean qemu_gone;         /* libvirt has not noticed yet */
static int comes_back = -1;        /* a file that its QEMU opens for writing before it answers */
static gboolean no_autostart;      /* it cannot be set */
static gboolean destroyed_in_wait; /* somebody else's virsh destroy ends while its end is waited for */
static gboolean restless;          /* each look finds another state */
static gboolean being_saved;       /* its QEMU has let go of its files */
static guint paused_for;           /* so many questions: then somebody else has resumed it */
static guint states, commits;

/* What libvirt lets wait for jobs that change the VM. */
int
__wrap_virDomainGetBlockInfo(virDomainPtr domain, const char *disk, virDomainBlockInfoPtr info,
                             unsigned int flags)
{
    if (destroyed_in_wait && virDomainIsActive(domain) == 1)
        assert_int_equal(virDomainDestroy(domain), 0);
    return __real_virDomainGetBlockInfo(domain, disk, info, flags);
}

int
__wrap_virDomainGetState(virDomainPtr domain, int *state, int *reason, unsigned int flags)
{
    int result = __real_virDomainGetState(domain, state, reason, flags);

    if (restless && reason)
        *reason = (int)(states++ % 2);
    if (being_saved) {
        *state = VIR_DOMAIN_PAUSED;
        if (reason)
            *reason = VIR_DOMAIN_PAUSED_SAVE;
    }
    if (paused_for > 0) {
        paused_for--;
        *state = VIR_DOMAIN_PAUSED;
    }
    return result;
}

int
__wrap_virDomainGetBlockJobInfo(virDomainPtr domain, const char *disk, virDomainBlockJobInfo *info,
                                unsigned int flags)
{
    (void)domain;
    (void)disk;
    (void)info;
    (void)flags;
    return 0;
}

int
__wrap_virDomainSetAutostart(virDomainPtr domain, int autostart)
{
    return no_autostart ? -1 : __real_virDomainSetAutostart(domain, autostart);
}

int
__wrap_virDomainGetJobInfo(virDomainPtr domain, virDomainJobInfoPtr info)
{
    int told = job;

    (void)domain;
    jobs++;
    job = next_job;
    *info = (virDomainJobInfo){.type = told};
    return 0;
}

int
__wrap_virDomainGetJobStats(virDomainPtr domain, int *type, virTypedParameterPtr *params, int *count,
                            unsigned int flags)
{
    virDomainJobInfo info;

    (void)flags;
    *params = NULL;
    *count = 0;
    (void)__wrap_virDomainGetJobInfo(domain, &info);
    *type = info.type;
    return 0;
}

int
__wrap_virDomainBlockStats(virDomainPtr domain, const char *disk, virDomainBlockStatsPtr stats, size_t size)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 101, .l_len = 1};

    if (comes_back >= 0)
        assert_int_equal(fcntl(comes_back, F_OFD_SETLK, &lock), 0);
    return qemu_gone ? -1 : __real_virDomainBlockStats(domain, disk, stats, size);
}

/* The VM is destroyed just before it. */
int
__wrap_virDomainBlockCommit(virDomainPtr domain, const char *disk, const char *base, const char *top,
                            unsigned long bandwidth, unsigned int flags)
{
    commits++;
    assert_int_equal(virDomainDestroy(domain), 0);
    return __real_virDomainBlockCommit(domain, disk, base, top, bandwidth, flags);
}

static World *
world_with(CkptStepKind kind, gboolean theirs)
{
    destroyed_in_wait = restless = being_saved = no_autostart = qemu_gone = FALSE;
    job = next_job = VIR_DOMAIN_JOB_NONE;
    paused_for = states = commits = jobs = 0;
    return world_after(kind, theirs);
}

static World *
world_new(CkptStepKind kind)
{
    return world_with(kind, FALSE);
}

/* As the first obstacle: that is what a request is refused with. */
static void
must_find(World *world, CkptReason reason)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptVm) vm = ckpt_inspect(world->connection, &world->options, VM, NULL, &error);
    const CkptObstacle *first;

    if (!vm)
        fail_msg("%s", error->message);
    assert_true(vm->obstacles->len > 0);
    first = g_ptr_array_index(vm->obstacles, 0);
    if (first->reason != reason)
        fail_msg("%s: %s", ckpt_reason_name(first->reason), first->message);
    assert_false(vm->checkpoint.available);
    assert_string_equal(vm->checkpoint.reason, first->message);
    assert_string_equal(vm->memory.reason, first->message);
}

static void
must_check(World *world, CkptReason reason)
{
    g_autoptr(GError) error = NULL;

    assert_false(ckpt_step_check_chain(&world->run, &error));
    if (ckpt_error_reason(error) != reason)
        fail_msg("%s", error->message);
}

static void
a_mismatch_that_stays_is_one(void **state)
{
    g_autoptr(World) world = world_new(CKPT_STEP_CHECK_CHAIN);

    must_find(world, CKPT_REASON_CHAIN_MISMATCH);
    must_check(world, CKPT_REASON_CHAIN_MISMATCH);
}

/* Its QEMU has let go of its files, and libvirt still calls it running. */
static void
a_vm_that_is_being_stopped_has_no_mismatch(void **state)
{
    g_autoptr(World) world = world_new(CKPT_STEP_CHECK_CHAIN);
    g_autoptr(World) again = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptVm) vm = NULL;

    destroyed_in_wait = TRUE;
    vm = ckpt_inspect(world->connection, &world->options, VM, NULL, &error);
    if (!vm)
        fail_msg("%s", error->message);
    for (guint i = 0; i < vm->obstacles->len; i++)
        fail_msg("%s", ((CkptObstacle *)vm->obstacles->pdata[i])->message);
    assert_int_equal(vm->power, CKPT_POWER_SHUT_OFF);

    again = world_new(CKPT_STEP_CHECK_CHAIN);
    destroyed_in_wait = TRUE;
    if (!ckpt_step_check_chain(&again->run, &error))
        fail_msg("%s", error->message);
}

static void
a_vm_that_changes_all_the_time_is_busy(void **state)
{
    g_autoptr(World) world = world_new(CKPT_STEP_CHECK_CHAIN);

    restless = TRUE;
    must_find(world, CKPT_REASON_VM_BUSY);
    must_check(world, CKPT_REASON_VM_BUSY);
}

static void
a_vm_that_is_being_saved_is_busy(void **state)
{
    g_autoptr(World) world = world_new(CKPT_STEP_CHECK_CHAIN);

    being_saved = TRUE;
    must_find(world, CKPT_REASON_VM_BUSY);
    must_check(world, CKPT_REASON_VM_BUSY);
}

/* Of a VM that its owner had paused before, libvirt tells no more than that. */
static void
a_paused_vm_whose_save_is_about_to_end_is_busy(void **state)
{
    g_autoptr(World) world = world_new(CKPT_STEP_CHECK_CHAIN);
    g_autoptr(CkptVm) vm = NULL;

    paused_for = G_MAXUINT;
    must_find(world, CKPT_REASON_CHAIN_MISMATCH);
    must_check(world, CKPT_REASON_CHAIN_MISMATCH);
    job = next_job = VIR_DOMAIN_JOB_COMPLETED;
    must_find(world, CKPT_REASON_VM_BUSY);
    must_check(world, CKPT_REASON_VM_BUSY);
    vm = ckpt_inspect(world->connection, &world->options, VM, NULL, NULL);
    assert_non_null(strstr(vm->checkpoint.reason, "a job is under way"));
    job = VIR_DOMAIN_JOB_NONE; /* it began in the midst of the look */
    must_find(world, CKPT_REASON_VM_BUSY);
}

static CkptHalt
halt_of(World *world)
{
    g_auto(CkptGuest) guest = {0};
    g_autoptr(GError) error = NULL;

    if (!ckpt_guest_look(world->connection, &world->options, VM, &guest, &error))
        fail_msg("%s", error->message);
    return guest.halt;
}

/* libvirt has yet to clear up behind it. */
static void
a_job_that_is_done_is_under_way_until_it_is_gone(void **state)
{
    g_autoptr(World) world = world_new(CKPT_STEP_CHECK_CHAIN);
    g_autoptr(GError) error = NULL;

    job = VIR_DOMAIN_JOB_COMPLETED;
    if (!ckpt_settle(world->connection, VM, &error))
        fail_msg("%s", error->message);
    assert_int_equal(jobs, 2);
    being_saved = TRUE;
    job = VIR_DOMAIN_JOB_COMPLETED;
    assert_int_equal(halt_of(world), CKPT_HALT_NONE);
    assert_int_equal(halt_of(world), CKPT_HALT_INTERRUPTED);
}

/* virsh laid an overlay on it after the look began, and committed that again before it ended: what the look saw of
 * the files is of neither moment. */
static void
a_vm_that_is_back_on_its_files_has_no_mismatch(void **state)
{
    g_autoptr(World) world = world_new(CKPT_STEP_CHECK_CHAIN);
    g_autofree char *top = image("o");
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptVm) vm = NULL;

    comes_back = open(top, O_RDWR | O_CLOEXEC);
    vm = ckpt_inspect(world->connection, &world->options, VM, NULL, &error);
    close(comes_back);
    comes_back = -1;
    if (!vm)
        fail_msg("%s", error->message);
    for (guint i = 0; i < vm->obstacles->len; i++)
        fail_msg("%s", ((CkptObstacle *)vm->obstacles->pdata[i])->message);

    comes_back = open(top, O_RDWR | O_CLOEXEC);
    (void)ckpt_step_check_chain(&world->run, &error);
    close(comes_back);
    comes_back = -1;
    if (error)
        fail_msg("%s", error->message);
}

/* It was killed, or its guest is just off, and libvirt has not come to that yet. */
static void
a_vm_whose_qemu_does_not_answer_is_busy(void **state)
{
    g_autoptr(World) world = world_new(CKPT_STEP_CHECK_CHAIN);

    qemu_gone = TRUE;
    must_find(world, CKPT_REASON_VM_BUSY);
    must_check(world, CKPT_REASON_VM_BUSY);
}

static void
a_vm_that_somebody_else_resumed_was_started(void **state)
{
    g_autoptr(World) world = world_new(CKPT_STEP_START);
    g_autoptr(GError) error = NULL;

    world->step->power = CKPT_POWER_RUNNING;
    paused_for = 2;
    if (!ckpt_step_start(&world->run, &error))
        fail_msg("%s", error->message);
    assert_int_equal(paused_for, 0);
    paused_for = 3;
    assert_false(ckpt_step_start(&world->run, &error));
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_HYPERVISOR_FAILED);
}

static void
a_merge_of_a_vm_that_was_just_stopped_goes_on(void **state)
{
    g_autoptr(World) world = world_new(CKPT_STEP_MERGE);
    g_autoptr(GError) error = NULL;

    set_merge(world, "o", "b");
    assert_false(ckpt_step_merge(&world->run, &error));
    /* All of it but the definition, which the test driver does not change. */
    if (!strstr(error->message, "put disk vda of the definition on"))
        fail_msg("%s", error->message);
    assert_int_equal(commits, 1);
    shell("qemu-io -r -f qcow2 -c 'read -q -P 7 0 64k' $d/b");
}

/* It is on the lower file, and its QEMU does not write there: it is being started, or stopped. */
static void
a_merged_vm_that_is_being_stopped_has_no_mismatch(void **state)
{
    g_autoptr(World) world = world_new(CKPT_STEP_MERGE);
    g_autoptr(GError) error = NULL;

    set_merge(world, "above", "o"); /* merged into the VM's disk, and nobody's since */
    shell("qemu-img create -q -f qcow2 -F qcow2 -b $d/o $d/above; touch $d/above.vmckpt-merged");
    assert_false(ckpt_step_merge(&world->run, &error));
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_CHAIN_MISMATCH);
    g_clear_error(&error);
    destroyed_in_wait = TRUE;
    if (!ckpt_step_merge(&world->run, &error))
        fail_msg("%s", error->message);
}

static void
must_wait_for_theirs(World *world, gboolean (*step)(CkptRun *run, GError **error))
{
    g_autoptr(GError) error = NULL;

    assert_false(step(&world->run, &error));
    if (ckpt_error_reason(error) != CKPT_REASON_VM_BUSY || !strstr(error->message, "/theirs was laid on"))
        fail_msg("%s", error->message);
}

static void
what_another_tool_lays_over_the_disk_is_waited_for(void **state)
{
    g_autoptr(World) check = world_with(CKPT_STEP_CHECK_CHAIN, TRUE);
    g_autoptr(World) merge = world_with(CKPT_STEP_MERGE, TRUE);
    g_autoptr(World) merged = world_with(CKPT_STEP_MERGE, TRUE);

    must_wait_for_theirs(check, ckpt_step_check_chain);
    set_merge(merge, "o", "b");
    must_wait_for_theirs(merge, ckpt_step_merge);
    set_merge(merged, "above", "o");
    shell("qemu-img create -q -f qcow2 -F qcow2 -b $d/o $d/above; touch $d/above.vmckpt-merged");
    must_wait_for_theirs(merged, ckpt_step_merge);
}

/* As a QEMU that reads it below another file. The descriptor: closing it ends that. */
static int
read_lock(const char *name)
{
    g_autofree char *path = image(name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 100, .l_len = 1};

    assert_true(fd >= 0);
    assert_int_equal(fcntl(fd, F_OFD_SETLK, &lock), 0);
    return fd;
}

static void
must_find_snapshot(World *world, CkptOutcome expected)
{
    g_autoptr(GError) error = NULL;
    CkptOutcome outcome = ckpt_step_snapshot_check(&world->run, &error);

    if (outcome != expected)
        fail_msg("%d: %s", outcome, error ? error->message : "no error");
}

/* The disk was switched to $d/o: that another tool has laid its own on it since takes nothing of that back. */
static void
a_snapshot_under_another_tools_overlay_was_made(void **state)
{
    g_autoptr(World) running = world_with(CKPT_STEP_SNAPSHOT, TRUE);
    g_autoptr(World) off = NULL;
    g_autoptr(World) stopped = NULL;
    int fd;

    must_find_snapshot(running, CKPT_OUTCOME_UNCLEAR); /* libvirt says so, and no QEMU has it open */
    fd = read_lock("o");
    must_find_snapshot(running, CKPT_OUTCOME_DONE);
    /* Hazard A25: what libvirt laid it over is not what its header names. */
    shell("qemu-img create -q -f qcow2 $d/other 1M; qemu-img rebase -u -f qcow2 -F qcow2 -b $d/other $d/o");
    must_find_snapshot(running, CKPT_OUTCOME_UNCLEAR);
    close(fd);
    /* A VM that was on those files and is off; the other tool's overlay came in between. */
    off = world_with(CKPT_STEP_SNAPSHOT, TRUE);
    stop_vm(off);
    must_find_snapshot(off, CKPT_OUTCOME_DONE);
    /* Nothing was written to it yet. */
    stopped = world_with(CKPT_STEP_SNAPSHOT, TRUE);
    shell("rm $d/o; qemu-img create -q -f qcow2 -F qcow2 -b $d/b $d/o");
    stop_vm(stopped);
    must_find_snapshot(stopped, CKPT_OUTCOME_DONE);
}

/* The definition is there; that it is not all that was asked for must not be lost with the error. */
static void
a_definition_without_its_autostart_is_not_in_force(void **state)
{
    g_autoptr(World) world = world_new(CKPT_STEP_DEFINE);
    g_autoptr(virDomain) domain = world_vm(world);
    g_autoptr(GError) error = NULL, why = NULL;
    char *xml = virDomainGetXMLDesc(domain, VIR_DOMAIN_XML_INACTIVE | VIR_DOMAIN_XML_SECURE);

    world->step->definition = g_strdup(xml);
    world->step->definition_before = g_strdup(xml);
    free(xml);
    world->step->autostart = TRUE;
    no_autostart = TRUE;
    assert_false(ckpt_step_define(&world->run, &error));
    assert_int_equal(ckpt_step_define_check(&world->run, &why), CKPT_OUTCOME_NOT_DONE);
    assert_true(ckpt_step_define_undo(&world->run, NULL));
    no_autostart = FALSE;
    g_clear_error(&error);
    if (!ckpt_step_define(&world->run, &error))
        fail_msg("%s", error->message);
    assert_int_equal(ckpt_step_define_check(&world->run, NULL), CKPT_OUTCOME_DONE);
}

/* The files of a restore that is undone are about to go. */
static void
a_vm_that_runs_on_the_files_under_theirs_is_stopped(void **state)
{
    g_autoptr(World) world = world_with(CKPT_STEP_STOP, TRUE);
    g_autofree char *other = image("other");
    CkptDiskFile *disk = g_ptr_array_index(world->step->disks, 0);
    g_autofree char *top = g_steal_pointer(&disk->file);
    g_autoptr(GError) error = NULL;

    disk->file = g_strdup(other);
    assert_true(ckpt_step_stop(&world->run, &error));
    assert_int_equal(ckpt_step_stop_check(&world->run, &error), CKPT_OUTCOME_NOT_DONE);
    ckpt_set_str(&disk->file, top);
    if (!ckpt_step_stop(&world->run, &error))
        fail_msg("%s", error->message);
    assert_int_equal(ckpt_step_stop_check(&world->run, &error), CKPT_OUTCOME_DONE);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_mismatch_that_stays_is_one),
        cmocka_unit_test(a_vm_that_is_being_stopped_has_no_mismatch),
        cmocka_unit_test(a_vm_that_changes_all_the_time_is_busy),
        cmocka_unit_test(a_vm_that_is_being_saved_is_busy),
        cmocka_unit_test(a_paused_vm_whose_save_is_about_to_end_is_busy),
        cmocka_unit_test(a_vm_that_is_back_on_its_files_has_no_mismatch),
        cmocka_unit_test(a_job_that_is_done_is_under_way_until_it_is_gone),
        cmocka_unit_test(a_vm_whose_qemu_does_not_answer_is_busy),
        cmocka_unit_test(a_vm_that_somebody_else_resumed_was_started),
        cmocka_unit_test(a_merge_of_a_vm_that_was_just_stopped_goes_on),
        cmocka_unit_test(a_merged_vm_that_is_being_stopped_has_no_mismatch),
        cmocka_unit_test(what_another_tool_lays_over_the_disk_is_waited_for),
        cmocka_unit_test(a_snapshot_under_another_tools_overlay_was_made),
        cmocka_unit_test(a_definition_without_its_autostart_is_not_in_force),
        cmocka_unit_test(a_vm_that_runs_on_the_files_under_theirs_is_stopped),
    };

    return cmocka_run_group_tests(tests, images_open, images_close);
}
