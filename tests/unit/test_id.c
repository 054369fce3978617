#include "common/id.h"
#include "tests/unit/cmocka_all.h"

#include <string.h>

#define ID "6ba7b810-9dad-11d1-80b4-00c04fd430c8"

static void
assert_parses(const char *text, const char *expected)
{
    g_autofree char *id = ckpt_id_parse(text);

    if (!expected)
        assert_null(id);
    else
        assert_string_equal(id, expected);
}

static void
upper_case_and_braces_are_accepted(void **state)
{
    assert_parses(ID, ID);
    assert_parses("6BA7B810-9DAD-11D1-80B4-00C04FD430C8", ID);
    assert_parses("{" ID "}", ID);
    assert_parses("{6BA7B810-9dad-11D1-80b4-00C04FD430C8}", ID);
}

static void
what_is_no_uuid_is_refused(void **state)
{
    static const char *const bad[] = {"",
                                      "{",
                                      "{}",
                                      "web-01",
                                      "6ba7b810",
                                      "6ba7b810-9dad-11d1-80b4-00c04fd430c",
                                      ID "0",
                                      ID " ",
                                      " " ID,
                                      ID "\n",
                                      "{" ID,
                                      ID "}",
                                      "{{" ID "}}",
                                      "(" ID ")",
                                      "6ba7b8109dad11d180b400c04fd430c8",
                                      "6ba7b810-9dad-11d1-80b400-c04fd430c8",
                                      "6ba7b81g-9dad-11d1-80b4-00c04fd430c8",
                                      "6ba7b81\xc3\xa9-9dad-11d1-80b4-00c04fd430c8",
                                      "00000000-0000-0000-0000-000000000000",
                                      "{00000000-0000-0000-0000-000000000000}"};

    for (gsize i = 0; i < G_N_ELEMENTS(bad); i++)
        assert_parses(bad[i], NULL);
    assert_parses(NULL, NULL);
}

static void
new_ids_are_in_normal_form_and_differ(void **state)
{
    g_autofree char *a = ckpt_id_new(), *b = ckpt_id_new();

    assert_parses(a, a);
    assert_int_equal(a[14], '4');
    assert_string_not_equal(a, b);
}

static void
short_form_is_the_first_eight_digits(void **state)
{
    g_autofree char *text = ckpt_id_short(ID);

    assert_string_equal(text, "6ba7b810");
}

/* The DNS namespace's well-known example: uuid.uuid5(uuid.NAMESPACE_DNS, "python.org"). */
static void
snapshot_id_is_uuid_version_5(void **state)
{
    g_autofree char *id = ckpt_id_of_snapshot(ID, "python.org");

    assert_string_equal(id, "886313e1-3b8a-5372-9b90-0c9aee199e5d");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(upper_case_and_braces_are_accepted),
        cmocka_unit_test(what_is_no_uuid_is_refused),
        cmocka_unit_test(new_ids_are_in_normal_form_and_differ),
        cmocka_unit_test(short_form_is_the_first_eight_digits),
        cmocka_unit_test(snapshot_id_is_uuid_version_5),
    };

    return cmocka_run_group_tests_name("id", tests, NULL, NULL);
}
