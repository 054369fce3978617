#include "agent/core/access.h"
#include "tests/unit/cmocka_all.h"

#include <string.h>

#define OPS "spiffe://example.org/ops"

static void
nobody_gets_in_without_a_rule(void **state)
{
    g_autoptr(CkptAccess) access = ckpt_access_new();
    g_autoptr(GError) error = NULL;

    assert_int_equal(ckpt_access_role(access, OPS), CKPT_ROLE_NONE);
    assert_int_equal(ckpt_access_role(access, NULL), CKPT_ROLE_NONE);
    assert_false(ckpt_access_check(access, OPS, NULL, CKPT_ROLE_VIEWER, "GetAgentInfo", &error));
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_ACCESS_DENIED);
    assert_non_null(strstr(error->message, OPS));
}

static void
a_certificate_without_a_name_is_unauthenticated(void **state)
{
    g_autoptr(CkptAccess) access = ckpt_access_new();
    g_autoptr(GError) error = NULL;

    assert_false(
        ckpt_access_check(access, NULL, "it has two names", CKPT_ROLE_VIEWER, "x", &error));
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_UNAUTHENTICATED);
    assert_string_equal(error->message, "it has two names");
}

static void
each_role_may_what_the_lower_ones_may(void **state)
{
    for (guint has = CKPT_ROLE_VIEWER; has <= CKPT_ROLE_ADMIN; has++) {
        g_autoptr(CkptAccess) access = ckpt_access_new();

        assert_true(ckpt_access_add(access, OPS, (CkptRole)has, NULL));
        for (guint needs = CKPT_ROLE_VIEWER; needs <= CKPT_ROLE_ADMIN; needs++) {
            g_autoptr(GError) error = NULL;

            assert_int_equal(
                ckpt_access_check(access, OPS, NULL, (CkptRole)needs, "Method", &error),
                has >= needs);
            if (has < needs)
                assert_int_equal(ckpt_error_reason(error), CKPT_REASON_ACCESS_DENIED);
        }
    }
}

static void
identities_match_exactly(void **state)
{
    static const char *const others[] = {"spiffe://example.org/op", "spiffe://example.org/opss",
                                         "SPIFFE://example.org/ops", "dns:example.org", ""};
    g_autoptr(CkptAccess) access = ckpt_access_new();

    assert_true(ckpt_access_add(access, OPS, CKPT_ROLE_ADMIN, NULL));
    for (gsize i = 0; i < G_N_ELEMENTS(others); i++)
        assert_int_equal(ckpt_access_role(access, others[i]), CKPT_ROLE_NONE);
}

static void
what_could_never_match_is_refused(void **state)
{
    static const char *const bad[] = {
        "",        "ops", "dns:", "dns:*.example.org", "spiffe://example.org/*",
        "spiffe:", ":x",  "1:x",  "spiffe://a b",      "dns:a/b"};
    g_autoptr(CkptAccess) access = ckpt_access_new();

    for (gsize i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;

        if (ckpt_access_add(access, bad[i], CKPT_ROLE_ADMIN, &error))
            fail_msg("'%s' was accepted", bad[i]);
        assert_int_equal(ckpt_error_reason(error), CKPT_REASON_INVALID_ARGUMENT);
    }
    assert_true(ckpt_access_add(access, "dns:ops.example.org", CKPT_ROLE_ADMIN, NULL));
    assert_int_equal(ckpt_access_size(access), 1);
}

static void
an_identity_has_one_rule(void **state)
{
    g_autoptr(CkptAccess) access = ckpt_access_new();
    g_autoptr(GError) error = NULL;

    assert_true(ckpt_access_add(access, OPS, CKPT_ROLE_VIEWER, NULL));
    assert_false(ckpt_access_add(access, OPS, CKPT_ROLE_ADMIN, &error));
    assert_int_equal(ckpt_access_role(access, OPS), CKPT_ROLE_VIEWER);
}

static void
role_names_are_read_as_they_are_written(void **state)
{
    for (guint i = CKPT_ROLE_VIEWER; i <= CKPT_ROLE_ADMIN; i++)
        assert_int_equal(ckpt_role_parse(ckpt_role_name((CkptRole)i)), i);
    assert_int_equal(ckpt_role_parse("none"), CKPT_ROLE_NONE);
    assert_int_equal(ckpt_role_parse("Admin"), CKPT_ROLE_NONE);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nobody_gets_in_without_a_rule),
        cmocka_unit_test(a_certificate_without_a_name_is_unauthenticated),
        cmocka_unit_test(each_role_may_what_the_lower_ones_may),
        cmocka_unit_test(identities_match_exactly),
        cmocka_unit_test(what_could_never_match_is_refused),
        cmocka_unit_test(an_identity_has_one_rule),
        cmocka_unit_test(role_names_are_read_as_they_are_written),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
