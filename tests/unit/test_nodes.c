/* When QEMU is asked for its block nodes: only where it may have opened an overlay for a snapshot, and not
 * beside a block job. On libvirt's test driver, with what that lacks put in between. */
#include "tests/unit/domain_fixture.h"

#include <libvirt/libvirt-qemu.h>

int __real_virDomainQemuMonitorCommand(virDomainPtr domain, const char *command, char **result,
                                       unsigned int flags);
int __wrap_virDomainQemuMonitorCommand(virDomainPtr domain, const char *command, char **result,
                                       unsigned int flags);
int __wrap_virDomainGetBlockJobInfo(virDomainPtr domain, const char *disk, virDomainBlockJobInfo *info,
                                    unsigned int flags);
int __wrap_virDomainGetJobInfo(virDomainPtr domain, virDomainJobInfo *info);

static guint asked;     /* QEMU, through its monitor */
static gboolean denied; /* libvirt forbids that */
static gboolean pulled; /* a block job is under way */
static int job;         /* virDomainJobType of a job of the domain's */

int
__wrap_virDomainQemuMonitorCommand(virDomainPtr domain, const char *command, char **result,
                                   unsigned int flags)
{
    asked++;
    if (denied) /* the test driver has no monitor, and says so */
        return __real_virDomainQemuMonitorCommand(domain, command, result, flags);
    *result = strdup("{\"return\":[]}");
    return 0;
}

int
__wrap_virDomainGetBlockJobInfo(virDomainPtr domain, const char *disk, virDomainBlockJobInfo *info,
                                unsigned int flags)
{
    return pulled;
}

int
__wrap_virDomainGetJobInfo(virDomainPtr domain, virDomainJobInfo *info)
{
    *info = (virDomainJobInfo){.type = job};
    return 0;
}

/* As the planner leaves the step. */
static World *
world_new(void)
{
    World *world = world_before(CKPT_STEP_SNAPSHOT);

    asked = 0;
    denied = pulled = FALSE;
    job = VIR_DOMAIN_JOB_NONE;
    world->step->power = CKPT_POWER_RUNNING;
    world->step->untried = TRUE;
    return world;
}

static void
fails(World *world, CkptReason reason)
{
    g_autoptr(GError) error = NULL;

    assert_false(ckpt_step_snapshot(&world->run, &error));
    if (ckpt_error_reason(error) != reason)
        fail_msg("%s", error->message);
}

static void
undo(World *world)
{
    g_autoptr(GError) error = NULL;

    if (!ckpt_step_snapshot_undo(&world->run, &error))
        fail_msg("%s", error->message);
}

static void
an_undo_before_the_switch_asks_nothing(void **state)
{
    g_autoptr(World) world = world_new();

    undo(world); /* cancelled before it began */
    world->step->power = CKPT_POWER_SHUT_OFF;
    fails(world, CKPT_REASON_VM_BUSY); /* started meanwhile */
    undo(world);
    assert_int_equal(asked, 0);
}

static void
a_job_that_began_meanwhile_is_seen_before_the_switch(void **state)
{
    g_autoptr(World) world = world_new();

    pulled = TRUE;
    fails(world, CKPT_REASON_VM_BUSY);
    assert_true(world->step->untried);
    undo(world);
    assert_int_equal(asked, 0);
}

/* A migration, a backup: it may take hours, and none of it is waited for. */
static void
a_job_of_the_domain_is_seen_before_the_switch(void **state)
{
    g_autoptr(World) world = world_new();

    job = VIR_DOMAIN_JOB_UNBOUNDED;
    fails(world, CKPT_REASON_VM_BUSY);
    job = VIR_DOMAIN_JOB_COMPLETED; /* libvirt has yet to clear up behind it */
    fails(world, CKPT_REASON_VM_BUSY);
    assert_true(world->step->untried);
    assert_int_equal(ckpt_step_snapshot_check(&world->run, NULL), CKPT_OUTCOME_NOT_DONE);
    undo(world);
    assert_int_equal(asked, 0);
}

static void
an_undo_of_a_switch_that_failed_asks(void **state)
{
    g_autoptr(World) world = world_new();

    fails(world, CKPT_REASON_HYPERVISOR_FAILED); /* the test driver knows no such snapshot */
    assert_false(world->step->untried);
    undo(world);
    assert_int_equal(asked, 1);
}

static void
after_a_crash_it_is_asked(void **state)
{
    g_autoptr(World) world = world_new();

    world->step->untried = FALSE; /* as the journal gives it back */
    undo(world);
    assert_int_equal(asked, 1);
}

static void
beside_a_block_job_it_is_not_asked_but_tried_again(void **state)
{
    g_autoptr(World) world = world_new();
    g_autoptr(GError) error = NULL;

    world->step->untried = FALSE;
    pulled = TRUE;
    assert_false(ckpt_step_snapshot_undo(&world->run, &error));
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_VM_BUSY);
    assert_int_equal(asked, 0);
    pulled = FALSE;
    undo(world);
    assert_int_equal(asked, 1);
}

static void
a_forbidden_monitor_is_no_failure_of_the_undo(void **state)
{
    g_autoptr(World) world = world_new();

    world->step->untried = FALSE;
    denied = TRUE;
    undo(world);
    assert_int_equal(asked, 1);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_undo_before_the_switch_asks_nothing),
        cmocka_unit_test(a_job_that_began_meanwhile_is_seen_before_the_switch),
        cmocka_unit_test(a_job_of_the_domain_is_seen_before_the_switch),
        cmocka_unit_test(an_undo_of_a_switch_that_failed_asks),
        cmocka_unit_test(after_a_crash_it_is_asked),
        cmocka_unit_test(beside_a_block_job_it_is_not_asked_but_tried_again),
        cmocka_unit_test(a_forbidden_monitor_is_no_failure_of_the_undo),
    };

    return cmocka_run_group_tests(tests, images_open, images_close);
}
