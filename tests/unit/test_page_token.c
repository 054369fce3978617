#include "agent/service/page_token.h"
#include "tests/unit/cmocka_all.h"

#include <string.h>

#define METHOD "/vmcheckpoint.v1.CheckpointService/ListCheckpoints"
#define CALLER "spiffe://example.org/ops"
#define POSITION "1795357216920012 691ac3e4-d01a-4c6d-a565-943c33d5a8d6"

typedef struct {
    CkptPageKey *key;
    GBytes *bound;
    char *token;
} Fixture;

static int
setup(void **state)
{
    Fixture *fixture = g_new0(Fixture, 1);

    fixture->key = ckpt_page_key_new();
    fixture->bound = g_bytes_new_static("filter", 6);
    fixture->token = ckpt_page_token_new(fixture->key, METHOD, CALLER, fixture->bound, POSITION);
    *state = fixture;
    return 0;
}

static int
teardown(void **state)
{
    Fixture *fixture = *state;

    ckpt_page_key_free(fixture->key);
    g_bytes_unref(fixture->bound);
    g_free(fixture->token);
    g_free(fixture);
    return 0;
}

static void
assert_refused(const CkptPageKey *key, const char *method, const char *caller, GBytes *bound,
               const char *token)
{
    g_autoptr(GError) error = NULL;

    assert_null(ckpt_page_token_open(key, method, caller, bound, token, &error));
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_PAGE_TOKEN_INVALID);
}

static void
a_token_gives_its_position_back(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *position =
        ckpt_page_token_open(fixture->key, METHOD, CALLER, fixture->bound, fixture->token, NULL);

    assert_string_equal(position, POSITION);
}

static void
the_empty_token_is_the_first_page(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *position =
        ckpt_page_token_open(fixture->key, METHOD, CALLER, fixture->bound, "", NULL);

    assert_string_equal(position, "");
}

static void
a_token_is_bound_to_method_caller_and_filter(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(GBytes) other = g_bytes_new_static("filtes", 6);
    g_autoptr(GBytes) none = g_bytes_new_static("", 0);

    assert_refused(fixture->key, METHOD "x", CALLER, fixture->bound, fixture->token);
    assert_refused(fixture->key, METHOD, CALLER "x", fixture->bound, fixture->token);
    assert_refused(fixture->key, METHOD, CALLER, other, fixture->token);
    assert_refused(fixture->key, METHOD, CALLER, none, fixture->token);
}

static void
parts_cannot_be_moved_into_each_other(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(GBytes) empty = g_bytes_new_static("", 0);
    g_autoptr(GBytes) b = g_bytes_new_static("b", 1);
    g_autofree char *token = ckpt_page_token_new(fixture->key, "m", "ab", empty, "p");

    assert_refused(fixture->key, "m", "a", b, token);
    assert_refused(fixture->key, "ma", "b", empty, token);
}

static void
a_token_of_another_process_is_refused(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(CkptPageKey) other = ckpt_page_key_new();

    assert_refused(other, METHOD, CALLER, fixture->bound, fixture->token);
}

static void
a_changed_token_is_refused(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *longer = g_strconcat(fixture->token, "AAAA", NULL);
    g_autofree char *huge = g_strnfill(10000, 'A');

    for (gsize i = 0; fixture->token[i] && fixture->token[i] != '='; i++) {
        g_autofree char *changed = g_strdup(fixture->token);
        gsize size;
        g_autofree guchar *before = g_base64_decode(fixture->token, &size);
        g_autofree guchar *after = NULL;
        gsize after_size;

        changed[i] = changed[i] == 'A' ? 'B' : 'A';
        after = g_base64_decode(changed, &after_size);
        if (after_size == size && memcmp(before, after, size) == 0)
            continue; /* padding bits */
        assert_refused(fixture->key, METHOD, CALLER, fixture->bound, changed);
    }
    assert_refused(fixture->key, METHOD, CALLER, fixture->bound, longer);
    assert_refused(fixture->key, METHOD, CALLER, fixture->bound, huge);
    assert_refused(fixture->key, METHOD, CALLER, fixture->bound, "not base64 !");
    assert_refused(fixture->key, METHOD, CALLER, fixture->bound, "AAAA");
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_token_gives_its_position_back),
        TEST(the_empty_token_is_the_first_page),
        TEST(a_token_is_bound_to_method_caller_and_filter),
        TEST(parts_cannot_be_moved_into_each_other),
        TEST(a_token_of_another_process_is_refused),
        TEST(a_changed_token_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
