/* The native driver where libvirt fails. */
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

static void
a_lookup_that_fails_is_not_a_snapshot_that_is_gone(void **state)
{
    g_auto(Fixture) f = {0};

    open_file(&f, ON, "");
    must(&f, create(A, CKPT_POWER_RUNNING));
    lookups_fail = TRUE;
    assert_int_equal(check(&f, create(A, CKPT_POWER_RUNNING)), CKPT_OUTCOME_UNCLEAR);
    assert_int_equal(check(&f, delete(A)), CKPT_OUTCOME_UNCLEAR);
    assert_false(run(&f, delete(A), NULL));
    assert_false(run(&f, revert(A, B, CKPT_POWER_RUNNING), NULL));
    lookups_fail = FALSE;
    assert_int_equal(check(&f, create(A, CKPT_POWER_RUNNING)), CKPT_OUTCOME_DONE);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_lookup_that_fails_is_not_a_snapshot_that_is_gone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
