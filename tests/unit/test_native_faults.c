/* The native driver where libvirt fails, or what it does is cut short. */
#include "native_fixture.h"

/* Between the driver and libvirt. A lookup fails for another reason than that nothing is there. */
virDomainSnapshotPtr __real_virDomainSnapshotLookupByName(virDomainPtr domain, const char *name,
                                                          unsigned int flags);
virDomainSnapshotPtr __wrap_virDomainSnapshotLookupByName(virDomainPtr domain, const char *name,
                                                          unsigned int flags);
static gboolean lookups_fail;

virDomainSnapshotPtr
__wrap_virDomainSnapshotLookupByName(virDomainPtr domain, const char *name, unsigned int flags)
{
    return __real_virDomainSnapshotLookupByName(lookups_fail ? NULL : domain, name, flags);
}

int __real_virDomainResume(virDomainPtr domain);
int __wrap_virDomainResume(virDomainPtr domain);
int __real_virDomainGetAutostart(virDomainPtr domain, int *autostart);
int __wrap_virDomainGetAutostart(virDomainPtr domain, int *autostart);
int __real_virDomainSnapshotIsCurrent(virDomainSnapshotPtr snapshot, unsigned int flags);
int __wrap_virDomainSnapshotIsCurrent(virDomainSnapshotPtr snapshot, unsigned int flags);
int __real_virDomainGetState(virDomainPtr domain, int *state, int *reason, unsigned int flags);
int __wrap_virDomainGetState(virDomainPtr domain, int *state, int *reason, unsigned int flags);
static gboolean in_no_state; /* as vbox and esx have one that is just starting */
static gboolean resumes_fail, autostart_fails, current_fails;

static gboolean
is_to_fail(gboolean fault)
{
    virResetLastError();
    return fault;
}

int
__wrap_virDomainGetState(virDomainPtr domain, int *state, int *reason, unsigned int flags)
{
    int result = __real_virDomainGetState(domain, state, reason, flags);

    if (in_no_state)
        *state = VIR_DOMAIN_NOSTATE;
    return result;
}

int
__wrap_virDomainResume(virDomainPtr domain)
{
    return is_to_fail(resumes_fail) ? -1 : __real_virDomainResume(domain);
}

int
__wrap_virDomainGetAutostart(virDomainPtr domain, int *autostart)
{
    return is_to_fail(autostart_fails) ? -1 : __real_virDomainGetAutostart(domain, autostart);
}

int
__wrap_virDomainSnapshotIsCurrent(virDomainSnapshotPtr snapshot, unsigned int flags)
{
    return is_to_fail(current_fails) ? -1 : __real_virDomainSnapshotIsCurrent(snapshot, flags);
}

static void
a_lookup_that_fails_is_not_a_snapshot_that_is_gone(void **state)
{
    g_auto(Fixture) f = {0};
    g_autoptr(GError) error = NULL;
    CkptStep step;

    open_file(&f, ON, "");
    must(&f, create(A, CKPT_POWER_RUNNING));
    lookups_fail = TRUE;
    assert_int_equal(check(&f, create(A, CKPT_POWER_RUNNING)), CKPT_OUTCOME_UNCLEAR);
    assert_int_equal(check(&f, delete(A)), CKPT_OUTCOME_UNCLEAR);
    assert_false(run(&f, delete(A), NULL));
    assert_false(run(&f, revert(A, B, CKPT_POWER_RUNNING), NULL));
    step = revert(A, B, CKPT_POWER_RUNNING);
    assert_false(f.driver->step_undo(f.driver, f.plan, &step, &error));
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_HYPERVISOR_FAILED);
    lookups_fail = FALSE;
    assert_int_equal(check(&f, create(A, CKPT_POWER_RUNNING)), CKPT_OUTCOME_DONE);
}

/* B is of a guest that stood, and the VM is at it: what a crash between the two calls of a revert leaves. */
static void
go_back_to_a_paused_one(Fixture *f)
{
    open_file(f, ON, "?flags=no");
    must(f, create(A, CKPT_POWER_RUNNING));
    must(f, revert(A, B, CKPT_POWER_PAUSED));
    must(f, create(B, CKPT_POWER_PAUSED));
    must(f, revert(A, B, CKPT_POWER_RUNNING));
    must(f, revert(B, A, CKPT_POWER_PAUSED));
}

static void
a_revert_that_was_cut_short_leaves_no_guest_paused(void **state)
{
    g_auto(Fixture) f = {0};

    go_back_to_a_paused_one(&f);
    assert_int_equal(check(&f, revert(B, A, CKPT_POWER_RUNNING)), CKPT_OUTCOME_DONE);
    assert_power(&f, CKPT_POWER_RUNNING);
}

static void
a_revert_to_another_power_state_than_asked_for_is_not_done(void **state)
{
    g_auto(Fixture) f = {0};

    go_back_to_a_paused_one(&f);
    resumes_fail = TRUE;
    assert_false(run(&f, revert(B, A, CKPT_POWER_RUNNING), NULL));
    assert_int_equal(check(&f, revert(B, A, CKPT_POWER_RUNNING)), CKPT_OUTCOME_NOT_DONE);
    resumes_fail = FALSE;
    must_undo(&f, revert(B, A, CKPT_POWER_RUNNING));
    assert_power(&f, CKPT_POWER_RUNNING);
}

static void
an_autostart_that_cannot_be_read_is_not_taken_for_off(void **state)
{
    g_auto(Fixture) f = {0};
    CkptStep step = revert(A, B, CKPT_POWER_SHUT_OFF);
    gboolean done;

    open_file(&f, OFF, "");
    must(&f, create(A, CKPT_POWER_SHUT_OFF));
    step.autostart = TRUE;
    must(&f, step);
    step.autostart = FALSE;
    autostart_fails = TRUE;
    done = run(&f, step, NULL);
    autostart_fails = FALSE;
    assert_false(done);
}

static void
an_undo_brings_the_vm_back_also_where_its_autostart_cannot_be(void **state)
{
    g_auto(Fixture) f = {0};
    CkptStep step = revert(A, B, CKPT_POWER_RUNNING);
    gboolean done;

    open_file(&f, ON, "");
    must(&f, create(A, CKPT_POWER_RUNNING));
    must(&f, step_of(CKPT_STEP_STOP, NULL, CKPT_POWER_SHUT_OFF));
    must(&f, create(B, CKPT_POWER_SHUT_OFF));
    must(&f, step);
    autostart_fails = TRUE;
    done = f.driver->step_undo(f.driver, f.plan, &step, NULL);
    autostart_fails = FALSE;
    assert_false(done);
    assert_power(&f, CKPT_POWER_SHUT_OFF);
    assert_int_equal(check(&f, step), CKPT_OUTCOME_NOT_DONE);
}

/* The next checkpoint would be recorded as one without a parent. */
static void
a_snapshot_of_which_it_cannot_be_told_is_not_taken_for_an_old_one(void **state)
{
    g_auto(Fixture) f = {0};
    g_autoptr(GError) error = NULL;
    CkptVm *vm;

    open_file(&f, ON, "");
    must(&f, create(A, CKPT_POWER_RUNNING));
    current_fails = TRUE;
    vm = f.driver->inspect(f.driver, ON, NULL, &error);
    current_fails = FALSE;
    assert_null(vm);
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_HYPERVISOR_FAILED);
}

static void
must_fail_with_a_reason(Fixture *f, CkptStep step, gboolean undo)
{
    g_autoptr(GError) error = NULL;

    assert_false(undo ? f->driver->step_undo(f->driver, f->plan, &step, &error) : run(f, step, &error));
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_VM_BUSY);
}

/* Whoever undoes it tells why it could not. */
static void
a_vm_in_no_state_is_busy(void **state)
{
    g_auto(Fixture) f = {0};

    open_file(&f, ON, "");
    must(&f, create(A, CKPT_POWER_RUNNING));
    in_no_state = TRUE;
    must_fail_with_a_reason(&f, step_of(CKPT_STEP_START, NULL, CKPT_POWER_RUNNING), FALSE);
    must_fail_with_a_reason(&f, step_of(CKPT_STEP_START, NULL, CKPT_POWER_RUNNING), TRUE);
    must_fail_with_a_reason(&f, create(B, CKPT_POWER_RUNNING), FALSE);
    must_fail_with_a_reason(&f, revert(B, A, CKPT_POWER_RUNNING), TRUE);
    in_no_state = FALSE;
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_lookup_that_fails_is_not_a_snapshot_that_is_gone),
        cmocka_unit_test(a_revert_that_was_cut_short_leaves_no_guest_paused),
        cmocka_unit_test(a_revert_to_another_power_state_than_asked_for_is_not_done),
        cmocka_unit_test(an_autostart_that_cannot_be_read_is_not_taken_for_off),
        cmocka_unit_test(an_undo_brings_the_vm_back_also_where_its_autostart_cannot_be),
        cmocka_unit_test(a_snapshot_of_which_it_cannot_be_told_is_not_taken_for_an_old_one),
        cmocka_unit_test(a_vm_in_no_state_is_busy),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
