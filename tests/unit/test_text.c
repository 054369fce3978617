#include "common/error.h"
#include "common/text.h"
#include "tests/unit/cmocka_all.h"

#include <locale.h>
#include <string.h>

#define SECOND ((gint64)G_USEC_PER_SEC)

static void
assert_check(const char *text, gssize size, gsize max, CkptTextKind kind, const char *refusal)
{
    g_autoptr(GError) error = NULL;
    gboolean ok = ckpt_text_check("field", text, size, max, kind, &error);

    assert_int_equal(ok, refusal == NULL);
    if (!refusal)
        return;
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_INVALID_ARGUMENT);
    assert_string_equal(g_hash_table_lookup(ckpt_error_metadata(error), CKPT_META_FIELD), "field");
    if (!strstr(error->message, refusal))
        fail_msg("'%s' does not say '%s'", error->message, refusal);
}

static void
check_counts_bytes(void **state)
{
    assert_check("", -1, 0, CKPT_TEXT_LINE, NULL);
    assert_check("abc", -1, 3, CKPT_TEXT_LINE, NULL);
    assert_check("abcd", -1, 3, CKPT_TEXT_LINE, "has 4 bytes; at most 3");
    assert_check("äö", -1, 4, CKPT_TEXT_LINE, NULL);
    assert_check("äö", -1, 3, CKPT_TEXT_LINE, "has 4 bytes");
}

static void
check_refuses_what_hides(void **state)
{
    static const char *const bad[] = {"a\nb",
                                      "a\tb",
                                      "a\rb",
                                      "a\x1b[2Jb",
                                      "a\x7f"
                                      "b",
                                      "a\xc2\x85"
                                      "b",
                                      "a\xc2\x9b"
                                      "b",
                                      "a\u2028b",
                                      "a\u2029b",
                                      "a\u202eb",
                                      "a\u202ab",
                                      "a\u2066b",
                                      "a\u2069b"};

    for (gsize i = 0; i < G_N_ELEMENTS(bad); i++)
        assert_check(bad[i], -1, 100, CKPT_TEXT_LINE, "control character");
    assert_check("a\0b", 3, 100, CKPT_TEXT_LINE, "U+0000) at byte 1");
    assert_check("a\0b", 3, 100, CKPT_TEXT_PARAGRAPHS, "U+0000");
    assert_check("日本 שלום\u200f é 🙂", -1, 100, CKPT_TEXT_LINE, NULL);
}

static void
check_lets_paragraphs_have_lines_and_tabs(void **state)
{
    assert_check("a\n\tb", -1, 100, CKPT_TEXT_PARAGRAPHS, NULL);
    assert_check("a\r\nb", -1, 100, CKPT_TEXT_PARAGRAPHS, "U+000D");
    assert_check("a\u202eb", -1, 100, CKPT_TEXT_PARAGRAPHS, "U+202E");
}

static void
check_refuses_bad_utf8(void **state)
{
    static const char *const bad[] = {
        "\xff",             /* never valid */
        "a\xc3",            /* cut */
        "\xc0\xaf",         /* overlong '/' */
        "\xe0\x80\xaf",     /* overlong, longer */
        "\xed\xa0\x80",     /* surrogate */
        "\xf4\x90\x80\x80", /* above U+10FFFF */
        "\x80",             /* continuation alone */
    };

    for (gsize i = 0; i < G_N_ELEMENTS(bad); i++)
        assert_check(bad[i], -1, 100, CKPT_TEXT_PARAGRAPHS, "not valid UTF-8");
}

static void
assert_printable(const char *text, gssize size, gsize max, const char *expected)
{
    g_autofree char *printable = ckpt_text_printable(text, size, max);

    assert_string_equal(printable, expected);
    assert_true(strlen(printable) <= max);
    assert_true(g_utf8_validate(printable, -1, NULL));
}

static void
printable_shows_what_it_replaces(void **state)
{
    assert_printable("plain é", -1, 100, "plain é");
    assert_printable("a\x1b[31m", -1, 100, "a\\x1b[31m");
    assert_printable("a\nb", -1, 100, "a\\x0ab");
    assert_printable("a\0b", 3, 100, "a\\x00b");
    assert_printable("\xff\xc3", -1, 100, "\\xff\\xc3");
    assert_printable("\u202e", -1, 100, "\\xe2\\x80\\xae");
    assert_printable("\xed\xa0\x80", -1, 100, "\\xed\\xa0\\x80");
}

static void
printable_never_exceeds_its_limit(void **state)
{
    assert_printable("abcdef", -1, 6, "abcdef");
    assert_printable("abcdefg", -1, 6, "abc…");
    assert_printable("ééééé", -1, 8, "éé…");
    assert_printable("abc", -1, 2, "");
    assert_printable("\x1b\x1b\x1b", -1, 11, "\\x1b\\x1b…");
    assert_printable("", -1, 0, "");
}

/* Seconds since the epoch and their published form. */
static const struct {
    gint64 seconds;
    const char *published, *rfc3339;
} times[] = {
    {0, "1970-01-01 12:00:00 AM", "1970-01-01T00:00:00.000000Z"},
    {43200, "1970-01-01 12:00:00 PM", "1970-01-01T12:00:00.000000Z"},
    {43199, "1970-01-01 11:59:59 AM", "1970-01-01T11:59:59.000000Z"},
    {86399, "1970-01-01 11:59:59 PM", "1970-01-01T23:59:59.000000Z"},
    {3600, "1970-01-01 01:00:00 AM", "1970-01-01T01:00:00.000000Z"},
    {46800, "1970-01-01 01:00:00 PM", "1970-01-01T13:00:00.000000Z"},
    {951782400, "2000-02-29 12:00:00 AM", "2000-02-29T00:00:00.000000Z"},
    {1795352709, "2026-11-22 01:05:09 PM", "2026-11-22T13:05:09.000000Z"},
    {4102444799, "2099-12-31 11:59:59 PM", "2099-12-31T23:59:59.000000Z"},
    {-1, "1969-12-31 11:59:59 PM", "1969-12-31T23:59:59.000000Z"},
};

static void
times_have_their_two_forms(void **state)
{
    for (gsize i = 0; i < G_N_ELEMENTS(times); i++) {
        g_autofree char *published = ckpt_time_published(times[i].seconds * SECOND);
        g_autofree char *rfc3339 = ckpt_time_rfc3339(times[i].seconds * SECOND);
        gint64 us = 42;

        assert_string_equal(published, times[i].published);
        assert_string_equal(rfc3339, times[i].rfc3339);
        assert_true(ckpt_time_parse(rfc3339, &us));
        assert_int_equal(us, times[i].seconds * SECOND);
    }
}

static void
published_time_does_not_follow_the_locale(void **state)
{
    static const char *const locales[] = {"de_DE.UTF-8", "ja_JP.UTF-8", "fa_IR.UTF-8", "C.UTF-8"};

    /* Those that are not installed change nothing, and then nothing is proven by them. */
    for (gsize i = 0; i < G_N_ELEMENTS(locales); i++) {
        g_autofree char *text = NULL, *size = NULL;

        setlocale(LC_ALL, locales[i]);
        g_setenv("TZ", "Asia/Tokyo", TRUE);
        text = ckpt_time_published(1795352709 * SECOND);
        size = ckpt_size_text(1610612736);
        assert_string_equal(text, "2026-11-22 01:05:09 PM");
        assert_string_equal(size, "1.5 GiB");
    }
    setlocale(LC_ALL, "C");
    g_unsetenv("TZ");
}

static void
fractions_and_zones_are_read(void **state)
{
    gint64 us;

    assert_true(ckpt_time_parse("1970-01-01T00:00:01.5Z", &us));
    assert_int_equal(us, 1500000);
    assert_true(ckpt_time_parse("1970-01-01t00:00:00.000001999z", &us));
    assert_int_equal(us, 1);
    assert_true(ckpt_time_parse("1970-01-01T02:00:00+02:00", &us));
    assert_int_equal(us, 0);
    assert_true(ckpt_time_parse("1969-12-31T23:30:00-00:30", &us));
    assert_int_equal(us, 0);
}

static void
what_is_no_time_is_refused(void **state)
{
    static const char *const bad[] = {"",
                                      "1970-01-01",
                                      "1970-01-01T00:00:00",
                                      "1970-01-01 00:00:00Z",
                                      "1970-02-30T00:00:00Z",
                                      "2001-02-29T00:00:00Z",
                                      "1970-13-01T00:00:00Z",
                                      "1970-01-01T24:00:00Z",
                                      "1970-01-01T00:60:00Z",
                                      "1970-01-01T00:00:00.Z",
                                      "1970-01-01T00:00:00Zx",
                                      "1970-1-1T00:00:00Z",
                                      "1970-01-01T00:00:00+0200",
                                      "0000-01-01T00:00:00Z",
                                      "1970-01-01T00:00:00.1234567890Z"};
    gint64 us;

    for (gsize i = 0; i < G_N_ELEMENTS(bad); i++)
        assert_false(ckpt_time_parse(bad[i], &us));
}

static void
ages_are_for_people(void **state)
{
    static const struct {
        gint64 seconds;
        const char *age;
    } ages[] = {{-5, "0 seconds"}, {0, "0 seconds"},     {1, "1 second"},  {59, "59 seconds"},
                {60, "1 minute"},  {3599, "59 minutes"}, {3600, "1 hour"}, {86399, "23 hours"},
                {86400, "1 day"},  {200000, "2 days"}};

    for (gsize i = 0; i < G_N_ELEMENTS(ages); i++) {
        g_autofree char *age = ckpt_time_age(0, ages[i].seconds * SECOND);

        assert_string_equal(age, ages[i].age);
    }
}

static void
sizes_are_for_people(void **state)
{
    static const struct {
        guint64 bytes;
        const char *text;
    } sizes[] = {{0, "0 B"},
                 {1023, "1023 B"},
                 {1024, "1.0 KiB"},
                 {1536, "1.5 KiB"},
                 {1048575, "1.0 MiB"},
                 {1610612736, "1.5 GiB"},
                 {1ULL << 40, "1.0 TiB"},
                 {G_MAXUINT64, "16.0 EiB"}};

    for (gsize i = 0; i < G_N_ELEMENTS(sizes); i++) {
        g_autofree char *text = ckpt_size_text(sizes[i].bytes);

        assert_string_equal(text, sizes[i].text);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(check_counts_bytes),
        cmocka_unit_test(check_refuses_what_hides),
        cmocka_unit_test(check_lets_paragraphs_have_lines_and_tabs),
        cmocka_unit_test(check_refuses_bad_utf8),
        cmocka_unit_test(printable_shows_what_it_replaces),
        cmocka_unit_test(printable_never_exceeds_its_limit),
        cmocka_unit_test(times_have_their_two_forms),
        cmocka_unit_test(published_time_does_not_follow_the_locale),
        cmocka_unit_test(fractions_and_zones_are_read),
        cmocka_unit_test(what_is_no_time_is_refused),
        cmocka_unit_test(ages_are_for_people),
        cmocka_unit_test(sizes_are_for_people),
    };

    return cmocka_run_group_tests_name("text", tests, NULL, NULL);
}
