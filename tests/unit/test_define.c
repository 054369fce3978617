/* The persistent definition: a switch to overlays that libvirt cannot save is not begun, or told of; and what was
 * in force comes back whatever it is. On libvirt's test driver, with what that lacks put in between. */
#include "tests/unit/domain_fixture.h"

#include <string.h>

int __real_virDomainSetMetadata(virDomainPtr domain, int type, const char *metadata, const char *key,
                                const char *uri, unsigned int flags);
int __wrap_virDomainSetMetadata(virDomainPtr domain, int type, const char *metadata, const char *key,
                                const char *uri, unsigned int flags);
virDomainSnapshotPtr __wrap_virDomainSnapshotCreateXML(virDomainPtr domain, const char *xml,
                                                       unsigned int flags);

virErrorPtr __real_virGetLastError(void);
virErrorPtr __wrap_virGetLastError(void);

static gboolean full;       /* libvirt cannot save */
static gboolean by_a_job;   /* … for another tool's job, for which it waits in vain */
static gboolean fills;      /* … once the disks are switched */
static guint switched, saved;

int
__wrap_virDomainSetMetadata(virDomainPtr domain, int type, const char *metadata, const char *key,
                            const char *uri, unsigned int flags)
{
    if (full) {
        (void)virDomainAbortJob(domain); /* for an error of libvirt's */
        return -1;
    }
    saved++;
    return __real_virDomainSetMetadata(domain, type, metadata, key, uri, flags);
}

virErrorPtr
__wrap_virGetLastError(void)
{
    static virError timeout = {.code = VIR_ERR_OPERATION_TIMEOUT, .domain = VIR_FROM_DOMAIN};

    timeout.message = (char *)"Timed out during operation: cannot acquire state change lock";
    return full && by_a_job ? &timeout : __real_virGetLastError();
}

/* As libvirt does it for a VM that is off. */
virDomainSnapshotPtr
__wrap_virDomainSnapshotCreateXML(virDomainPtr domain, const char *xml, unsigned int flags)
{
    g_autoptr(virDomain) defined = NULL;
    char *before = virDomainGetXMLDesc(domain, VIR_DOMAIN_XML_INACTIVE);
    g_auto(GStrv) parts = g_strsplit(before, "/b'", 2);
    g_autofree char *after = g_strjoinv("/o'", parts);

    (void)xml;
    (void)flags;
    free(before);
    switched++;
    full = fills;
    defined = virDomainDefineXML(virDomainGetConnect(domain), after);
    assert_non_null(defined);
    (void)virDomainAbortJob(domain);
    return NULL;
}

/* A VM that is off, before it is put on its overlay. */
static World *
world_new(CkptStepKind kind)
{
    World *world = world_before(kind);

    full = fills = by_a_job = FALSE;
    switched = saved = 0;
    world->step->power = CKPT_POWER_SHUT_OFF;
    world->step->untried = TRUE;
    stop_vm(world);
    return world;
}

static void
a_switch_that_cannot_be_saved_is_not_begun(void **state)
{
    g_autoptr(World) world = world_new(CKPT_STEP_SNAPSHOT);
    g_autoptr(GError) error = NULL;

    (void)state;
    full = TRUE;
    assert_false(ckpt_step_snapshot(&world->run, &error));
    assert_non_null(strstr(error->message, "cannot save the definition"));
    assert_int_equal(switched, 0);
    assert_true(world->step->untried);
}

static void
a_switch_is_saved(void **state)
{
    g_autoptr(World) world = world_new(CKPT_STEP_SNAPSHOT);
    g_autoptr(GError) error = NULL;

    (void)state;
    if (!ckpt_step_snapshot(&world->run, &error))
        fail_msg("%s", error->message);
    assert_int_equal(switched, 1);
    assert_int_equal(saved, 2); /* before, whether it can be; and after */
    assert_null(world->step->warning);
    /* Who asks anew after a crash does not know whether it was. */
    assert_int_equal(ckpt_step_snapshot_check(&world->run, NULL), CKPT_OUTCOME_DONE);
    assert_int_equal(saved, 3);
}

static void
a_switch_that_was_not_saved_is_told_of(void **state)
{
    g_autoptr(World) world = world_new(CKPT_STEP_SNAPSHOT);
    g_autoptr(GError) error = NULL;

    (void)state;
    fills = TRUE;
    if (!ckpt_step_snapshot(&world->run, &error))
        fail_msg("%s", error->message);
    assert_int_equal(switched, 1);
    assert_non_null(world->step->warning);
    assert_non_null(strstr(world->step->warning, "make room"));
}

/* There is room enough. */
static void
a_job_that_keeps_it_from_being_saved_is_named(void **state)
{
    g_autoptr(World) world = world_new(CKPT_STEP_SNAPSHOT);
    g_autoptr(GError) error = NULL;

    (void)state;
    full = by_a_job = TRUE;
    assert_false(ckpt_step_snapshot(&world->run, &error));
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_VM_BUSY);
    if (!strstr(error->message, "another job") || strstr(error->message, "full"))
        fail_msg("%s", error->message);
    assert_int_equal(switched, 0);
    g_clear_error(&error);
    full = FALSE;
    fills = TRUE;
    if (!ckpt_step_snapshot(&world->run, &error))
        fail_msg("%s", error->message);
    assert_int_equal(switched, 1);
    if (!world->step->warning || !strstr(world->step->warning, "has ended") ||
        strstr(world->step->warning, "room") || strstr(world->step->warning, "full"))
        fail_msg("%s", world->step->warning);
}

/* libvirt accepts a bridge of that name, and its schema does not. */
static void
what_was_in_force_comes_back_whatever_it_is(void **state)
{
    g_autoptr(World) world = world_new(CKPT_STEP_DEFINE);
    g_autoptr(virDomain) domain = world_vm(world);
    g_autoptr(virDomain) defined = NULL;
    char *xml = virDomainGetXMLDesc(domain, VIR_DOMAIN_XML_INACTIVE);
    g_auto(GStrv) parts = g_strsplit(xml, "</devices>", 2);
    g_autofree char *odd =
        g_strjoinv("<interface type='bridge'><source bridge='br+1'/></interface></devices>", parts);
    g_autoptr(GError) error = NULL;

    (void)state;
    free(xml);
    defined = virDomainDefineXML(virDomainGetConnect(domain), odd);
    assert_non_null(defined);
    xml = virDomainGetXMLDesc(domain, VIR_DOMAIN_XML_INACTIVE);
    world->step->definition_before = g_strdup(xml);
    free(xml);
    if (!ckpt_step_define_undo(&world->run, &error))
        fail_msg("%s", error->message);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_switch_that_cannot_be_saved_is_not_begun),
        cmocka_unit_test(a_switch_is_saved),
        cmocka_unit_test(a_switch_that_was_not_saved_is_told_of),
        cmocka_unit_test(a_job_that_keeps_it_from_being_saved_is_named),
        cmocka_unit_test(what_was_in_force_comes_back_whatever_it_is),
    };

    return cmocka_run_group_tests(tests, images_open, images_close);
}
