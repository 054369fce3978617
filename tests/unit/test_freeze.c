/* A freeze and its thaw guard, which is this very program: whoever dies, and whatever comes late, the guest is
 * thawed in the end, and nobody else's freeze is. On libvirt's test driver, with what that lacks put in
 * between. */
#include "agent/hypervisor/guard.h"
#include "agent/hypervisor/qemu.h"
#include "tests/unit/image_fixture.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define VM "11111111-1111-4111-8111-111111111111"
#define SECONDS 1
#define GUARD_PATIENCE_S (SECONDS + 6) /* for a freeze that is asked for */

int __wrap_virDomainFSFreeze(virDomainPtr domain, const char **mountpoints, unsigned int count,
                             unsigned int flags);
int __wrap_virDomainFSThaw(virDomainPtr domain, const char **mountpoints, unsigned int count,
                           unsigned int flags);
int __wrap_virDomainAgentSetResponseTimeout(virDomainPtr domain, int seconds, unsigned int flags);
unsigned int __real_virDomainGetID(virDomainPtr domain);
unsigned int __wrap_virDomainGetID(virDomainPtr domain);
int __wrap_virDomainGetState(virDomainPtr domain, int *state, int *reason, unsigned int flags);
int __wrap_virDomainHasManagedSaveImage(virDomainPtr domain, unsigned int flags);

char *__real_virDomainGetXMLDesc(virDomainPtr domain, unsigned int flags);
char *__wrap_virDomainGetXMLDesc(virDomainPtr domain, unsigned int flags);

static gboolean is_guard;
/* The agent's: */
static gulong freeze_takes_us;
static gboolean freeze_kills_guard;
static guint thaw_failures; /* so often, then it is confirmed */
static guint thaws;         /* that the agent asked for */

static gboolean
is_there(const char *name)
{
    g_autofree char *path = g_build_filename(g_getenv("d"), name, NULL);

    return g_file_test(path, G_FILE_TEST_EXISTS);
}

static char *
read_file(const char *name)
{
    g_autofree char *path = g_build_filename(g_getenv("d"), name, NULL);
    char *text = NULL;

    return g_file_get_contents(path, &text, NULL, NULL) ? text : g_strdup("");
}

static void
touch(const char *name)
{
    g_autofree char *path = g_build_filename(g_getenv("d"), name, NULL);

    assert_true(g_file_set_contents(path, "", 0, NULL));
}

static void
kill_guard(void)
{
    g_autofree char *pid = read_file("guard.pid");

    assert_int_equal(kill(atoi(pid), SIGKILL), 0);
    while (kill(atoi(pid), 0) == 0) /* GLib reaps it */
        g_usleep(1000);
}

int
__wrap_virDomainFSFreeze(virDomainPtr domain, const char **mountpoints, unsigned int count, unsigned int flags)
{
    g_usleep(freeze_takes_us);
    if (freeze_kills_guard)
        kill_guard();
    return 2;
}

/* The guard's thaws stand in a file, a character each. */
static int
guards_thaw(void)
{
    g_autofree char *path = g_build_filename(g_getenv("d"), "thaws", NULL);
    FILE *file = fopen(path, "a");

    if (!file || fputc('t', file) == EOF || fclose(file) == EOF)
        abort();
    if (is_there("first-thaw-waits")) {
        shell("rm $d/first-thaw-waits");
        g_usleep(1500 * 1000);
    }
    return 0;
}

int
__wrap_virDomainFSThaw(virDomainPtr domain, const char **mountpoints, unsigned int count, unsigned int flags)
{
    if (is_guard)
        return guards_thaw();
    thaws++;
    if (thaw_failures == 0)
        return 2;
    thaw_failures--;
    (void)virDomainAbortJob(domain); /* for an error of libvirt's */
    return -1;
}

int
__wrap_virDomainAgentSetResponseTimeout(virDomainPtr domain, int seconds, unsigned int flags)
{
    return 0;
}

/* What becomes of the VM, to the guard: files are there that say so. */
unsigned int
__wrap_virDomainGetID(virDomainPtr domain)
{
    if (is_guard && is_there("off"))
        return (unsigned int)-1;
    return is_guard && is_there("runs-anew") ? 77 : __real_virDomainGetID(domain);
}

int
__wrap_virDomainGetState(virDomainPtr domain, int *state, int *reason, unsigned int flags)
{
    *state = VIR_DOMAIN_RUNNING;
    if (reason)
        *reason = is_there("restored") ? VIR_DOMAIN_RUNNING_RESTORED : VIR_DOMAIN_RUNNING_BOOTED;
    return 0;
}

int
__wrap_virDomainHasManagedSaveImage(virDomainPtr domain, unsigned int flags)
{
    g_autoptr(virDomainSnapshot) none = NULL;

    if (!is_guard || !is_there("not-told"))
        return is_guard && is_there("saved");
    none = virDomainSnapshotLookupByName(domain, "none", 0); /* for an error of libvirt's */
    return -1;
}

/* The test driver tells of no guest agent that is connected. */
char *
__wrap_virDomainGetXMLDesc(virDomainPtr domain, unsigned int flags)
{
    char *xml = __real_virDomainGetXMLDesc(domain, flags);
    g_auto(GStrv) parts = g_strsplit(xml, "name='org.qemu.guest_agent.0'", 2);
    g_autofree char *connected = g_strjoinv("name='org.qemu.guest_agent.0' state='connected'", parts);

    free(xml);
    return strdup(connected);
}

/* ---- A host ---- */

typedef struct {
    char *uri, *guards;
    CkptConnection *connection;
    CkptPlan *plan;
    CkptStep *step;
    CkptQemuOptions options;
    CkptRun run;
    CkptView *view;
    CkptFreeze freeze;
} World;

static World *
world_new(void)
{
    World *world = g_new0(World, 1);

    shell("rm -rf $d/*; cat >$d/host.xml <<END\n<node><domain type='test'><name>on</name><uuid>" VM "</uuid>"
          "<memory>65536</memory><vcpu>1</vcpu><os><type>hvm</type></os><devices><channel type='unix'>"
          "<target type='virtio' name='org.qemu.guest_agent.0'/></channel></devices>"
          "</domain></node>\nEND");
    freeze_takes_us = 0;
    freeze_kills_guard = FALSE;
    thaw_failures = thaws = 0;
    world->uri = g_strdup_printf("test://%s/host.xml", images);
    world->guards = image("guards");
    world->connection = ckpt_connection_new_shared(world->uri);
    world->plan = ckpt_plan_new(CKPT_KIND_CREATE);
    world->plan->vm_id = g_strdup(VM);
    world->step = ckpt_step_new(CKPT_STEP_SNAPSHOT);
    world->step->asked = CKPT_CONSISTENCY_APPLICATION;
    g_ptr_array_add(world->plan->steps, world->step);
    world->options = (CkptQemuOptions){.uri = world->uri,
                                       .guest_agent_seconds = SECONDS,
                                       .guard_program = "/proc/self/exe",
                                       .guard_folder = world->guards};
    world->run = (CkptRun){.connection = world->connection,
                           .plan = world->plan,
                           .step = world->step,
                           .options = &world->options};
    world->view = ckpt_view_load(world->connection, VM, NULL);
    assert_non_null(world->view);
    assert_null(ckpt_freeze_obstacle(world->view));
    world->freeze = (CkptFreeze){.us = -1};
    return world;
}

static gboolean
guard_is_gone(void)
{
    g_autofree char *pid = read_file("guard.pid");

    return kill(atoi(pid), 0) != 0;
}

static void
wait_for(gboolean (*is_so)(void), guint seconds)
{
    gint64 deadline_us = g_get_monotonic_time() + seconds * G_USEC_PER_SEC;

    while (!is_so()) {
        assert_true(g_get_monotonic_time() < deadline_us);
        g_usleep(10 * 1000);
    }
}

/* The agent lets go of its guard, or dies. */
static void
world_free(World *world)
{
    ckpt_freeze_clear(&world->freeze);
    ckpt_view_free(world->view);
    ckpt_plan_free(world->plan);
    ckpt_connection_free(world->connection);
    g_free(world->guards);
    g_free(world->uri);
    g_free(world);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(World, world_free)

static gsize
guards_thaws(void)
{
    g_autofree char *thawed = read_file("thaws");

    return strlen(thawed);
}

static gboolean
guard_has_thawed(void)
{
    return guards_thaws() > 0;
}

static void
begin(World *world)
{
    ckpt_freeze_begin(&world->run, world->view, &world->freeze);
}

static void
agent_dies(World *world)
{
    ckpt_freeze_clear(&world->freeze);
    wait_for(guard_is_gone, 10);
    assert_false(ckpt_guard_is_due(world->guards, VM));
}

/* ---- Tests ---- */

static void
a_guard_that_is_not_needed_does_not_thaw(void **state)
{
    g_autoptr(World) world = world_new();

    (void)state;
    begin(world);
    assert_null(world->freeze.why);
    ckpt_freeze_end(&world->run, &world->freeze);
    assert_null(world->freeze.why);
    agent_dies(world);
    assert_int_equal(guards_thaws(), 0);
    assert_int_equal(thaws, 1);
}

static void
the_death_of_an_agent_thaws(void **state)
{
    g_autoptr(World) world = world_new();

    (void)state;
    begin(world);
    agent_dies(world);
    assert_int_equal(guards_thaws(), 1);
}

/* Another tool's command to the guest agent keeps the freeze waiting, and the guard thaws for nothing. */
static void
a_freeze_that_comes_after_the_guards_thaw_is_still_guarded(void **state)
{
    g_autoptr(World) world = world_new();

    (void)state;
    freeze_takes_us = (GUARD_PATIENCE_S + 1) * G_USEC_PER_SEC;
    begin(world);
    assert_int_equal(guards_thaws(), 1);
    assert_true(ckpt_guard_is_due(world->guards, VM));
    agent_dies(world);
    assert_int_equal(guards_thaws(), 2);
}

/* A thaw that had to wait may have overtaken the freeze that waited, too. */
static void
a_guards_thaw_that_took_long_is_made_again(void **state)
{
    g_autoptr(World) world = world_new();

    (void)state;
    begin(world);
    touch("first-thaw-waits");
    agent_dies(world);
    assert_int_equal(guards_thaws(), 2);
}

static void
without_a_guard_a_guest_does_not_stay_frozen(void **state)
{
    g_autoptr(World) world = world_new();

    (void)state;
    freeze_kills_guard = TRUE;
    begin(world);
    assert_non_null(world->freeze.why);
    assert_int_equal(thaws, 1);
}

static void
a_dead_guard_is_replaced_when_the_thaw_is_not_confirmed(void **state)
{
    g_autoptr(World) world = world_new();

    (void)state;
    begin(world);
    kill_guard();
    thaw_failures = 100;
    ckpt_freeze_end(&world->run, &world->freeze);
    assert_non_null(world->freeze.why);
    wait_for(guard_has_thawed, 10);
    wait_for(guard_is_gone, 10);
    assert_false(ckpt_guard_is_due(world->guards, VM));
}

/* It is saved with its file systems frozen, and goes on so. */
static void
a_guest_that_was_saved_frozen_is_thawed_when_it_goes_on(void **state)
{
    g_autoptr(World) world = world_new();

    (void)state;
    begin(world);
    touch("off");
    touch("saved");
    ckpt_freeze_clear(&world->freeze);
    g_usleep(300 * 1000);
    assert_false(guard_is_gone());
    assert_int_equal(guards_thaws(), 0);
    touch("runs-anew");
    shell("rm $d/saved $d/off");
    wait_for(guard_has_thawed, 10);
    wait_for(guard_is_gone, 10);
}

/* libvirt does not tell whether it was. */
static void
a_guest_that_may_have_been_saved_is_waited_for(void **state)
{
    g_autoptr(World) world = world_new();

    (void)state;
    begin(world);
    touch("not-told");
    touch("off");
    ckpt_freeze_clear(&world->freeze);
    g_usleep(300 * 1000);
    assert_false(guard_is_gone());
    touch("restored");
    touch("runs-anew");
    shell("rm $d/off $d/not-told");
    wait_for(guard_has_thawed, 10);
    wait_for(guard_is_gone, 10);
}

/* So soon that the guard did not see it saved. */
static void
a_guest_that_was_restored_meanwhile_is_thawed(void **state)
{
    g_autoptr(World) world = world_new();

    (void)state;
    begin(world);
    touch("runs-anew");
    touch("restored");
    agent_dies(world);
    assert_int_equal(guards_thaws(), 1);
}

static void
a_guest_that_boots_anew_is_not_thawed(void **state)
{
    g_autoptr(World) world = world_new();

    (void)state;
    begin(world);
    touch("runs-anew");
    agent_dies(world);
    assert_int_equal(guards_thaws(), 0);
}

/* After a failure, or a crash: what another tool has frozen, a backup say, is its affair. */
static void
only_what_a_guard_is_due_for_is_thawed_afterwards(void **state)
{
    g_autoptr(World) world = world_new();
    g_autofree char *mark = g_strdup_printf("%s/" VM ".thaw", world->guards);

    (void)state;
    world->step->asked = CKPT_CONSISTENCY_MEMORY;
    ckpt_freeze_recover(&world->run);
    assert_int_equal(thaws, 0);
    assert_int_equal(g_mkdir_with_parents(world->guards, 0700), 0);
    assert_true(g_file_set_contents(mark, "1\n", -1, NULL));
    ckpt_freeze_recover(&world->run);
    assert_int_equal(thaws, 1);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_guard_that_is_not_needed_does_not_thaw),
        cmocka_unit_test(the_death_of_an_agent_thaws),
        cmocka_unit_test(a_freeze_that_comes_after_the_guards_thaw_is_still_guarded),
        cmocka_unit_test(a_guards_thaw_that_took_long_is_made_again),
        cmocka_unit_test(without_a_guard_a_guest_does_not_stay_frozen),
        cmocka_unit_test(a_dead_guard_is_replaced_when_the_thaw_is_not_confirmed),
        cmocka_unit_test(a_guest_that_was_saved_frozen_is_thawed_when_it_goes_on),
        cmocka_unit_test(a_guest_that_may_have_been_saved_is_waited_for),
        cmocka_unit_test(a_guest_that_was_restored_meanwhile_is_thawed),
        cmocka_unit_test(a_guest_that_boots_anew_is_not_thawed),
        cmocka_unit_test(only_what_a_guard_is_due_for_is_thawed_afterwards),
    };

    (void)signal(SIGPIPE, SIG_IGN); /* as the agent has it */
    is_guard = argc > 1 && g_str_equal(argv[1], CKPT_THAW_GUARD_OPTION);
    if (is_guard) {
        g_autofree char *path = g_build_filename(g_getenv("d"), "guard.pid", NULL);
        g_autofree char *pid = g_strdup_printf("%d", (int)getpid());

        (void)g_file_set_contents(path, pid, -1, NULL);
        return ckpt_thaw_guard(argc, argv);
    }
    return cmocka_run_group_tests(tests, images_open, images_close);
}
