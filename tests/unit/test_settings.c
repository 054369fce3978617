#include "client/options.h"
#include "tests/unit/cmocka_all.h"

#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

static char *folder, *own, *common;

static int
set_up(void **state)
{
    folder = g_dir_make_tmp("ckpt-settings-XXXXXX", NULL);
    own = g_build_filename(folder, "own.conf", NULL);
    common = g_build_filename(folder, "common.conf", NULL);
    return folder ? 0 : -1;
}

static int
tear_down(void **state)
{
    static const char *const variables[] = {"FLEET", "HOST",   "CA",     "CERT",
                                            "KEY",   "FORMAT", "TIMEOUT"};

    for (gsize i = 0; i < G_N_ELEMENTS(variables); i++) {
        g_autofree char *name = g_strconcat("VMCHECKPOINT_", variables[i], NULL);

        g_unsetenv(name);
    }
    g_unlink(own);
    g_unlink(common);
    g_rmdir(folder);
    g_clear_pointer(&own, g_free);
    g_clear_pointer(&common, g_free);
    g_clear_pointer(&folder, g_free);
    return 0;
}

static void
put(const char *file, const char *text)
{
    assert_true(g_file_set_contents(file, text, -1, NULL));
}

static gboolean
complete(CkptSettings *settings, GError **error)
{
    const char *const files[] = {own, common, NULL};

    return ckpt_settings_complete(settings, files, error);
}

static void
a_common_file_that_is_not_for_us_is_skipped(void **state)
{
    g_autoptr(CkptSettings) settings = ckpt_settings_new();
    g_autoptr(GError) error = NULL;
    const char *const first[] = {common, NULL}, *const second[] = {"/nonexistent", common, NULL};
    gboolean root = geteuid() == 0, ok;

    put(common, "[client]\nfleet = /common\n");
    assert_int_equal(g_chmod(common, 0), 0);
    if (root)
        assert_int_equal(seteuid(65534), 0);
    ok = ckpt_settings_complete(settings, second, &error) &&
         !ckpt_settings_complete(settings, first, NULL);
    if (root)
        assert_int_equal(seteuid(0), 0);
    if (!ok)
        fail_msg("%s", error ? error->message : "one's own is skipped too");
    assert_null(settings->values[CKPT_SETTING_FLEET]);
}

static void
the_first_that_has_it_counts(void **state)
{
    g_autoptr(CkptSettings) settings = ckpt_settings_new();
    g_autoptr(GError) error = NULL;

    put(own, "[client]\nfleet = /own\nca = /own\ncert = /own\n");
    put(common, "[client]\nfleet = /common\nca = /common\ncert = /common\nkey = /common\n");
    g_setenv("VMCHECKPOINT_FLEET", "/variable", TRUE);
    g_setenv("VMCHECKPOINT_CA", "/variable", TRUE);
    g_setenv("VMCHECKPOINT_CERT", "", TRUE); /* empty is unset */
    ckpt_settings_set(settings, CKPT_SETTING_FLEET, "/option");
    assert_true(complete(settings, &error));
    assert_string_equal(settings->values[CKPT_SETTING_FLEET], "/option");
    assert_string_equal(settings->values[CKPT_SETTING_CA], "/variable");
    assert_string_equal(settings->values[CKPT_SETTING_CERT], "/own");
    assert_string_equal(settings->values[CKPT_SETTING_KEY], "/common");
    assert_null(settings->values[CKPT_SETTING_HOST]);
}

static void
missing_files_give_the_defaults(void **state)
{
    g_autoptr(CkptSettings) settings = ckpt_settings_new();

    assert_true(complete(settings, NULL));
    assert_int_equal(settings->format, CKPT_FORMAT_TABLE);
    assert_int_equal(settings->timeout_ms, 300000);
}

static void
file_names_are_relative_to_the_file_that_has_them(void **state)
{
    g_autoptr(CkptSettings) settings = ckpt_settings_new();
    g_autofree char *expected = g_build_filename(folder, "pki", "ca.pem", NULL);

    put(own, "[client]\nca = pki/ca.pem\nformat = json\n");
    assert_true(complete(settings, NULL));
    assert_string_equal(settings->values[CKPT_SETTING_CA], expected);
    assert_int_equal(settings->format, CKPT_FORMAT_JSON);
}

static void
hosts_given_twice_are_both_meant(void **state)
{
    g_autoptr(CkptSettings) settings = ckpt_settings_new();

    ckpt_settings_set(settings, CKPT_SETTING_HOST, "a");
    ckpt_settings_set(settings, CKPT_SETTING_HOST, "b:1");
    ckpt_settings_set(settings, CKPT_SETTING_FORMAT, "json");
    ckpt_settings_set(settings, CKPT_SETTING_FORMAT, "table");
    assert_string_equal(settings->values[CKPT_SETTING_HOST], "a,b:1");
    assert_string_equal(settings->values[CKPT_SETTING_FORMAT], "table");
}

static void
mistakes_in_a_file_are_told_with_file_and_line(void **state)
{
    static const struct {
        const char *text, *words;
    } bad[] = {{"[client]\nflet = /x\n", ":2: unknown key 'flet'"},
               {"fleet = /x\n", ":1: 'fleet' stands before [client]"},
               {"[server]\n", ":1: unknown group 'server': expected [client]"},
               {"[client]\nca = /x\nca = /y\n", ":3: 'ca' is set twice"}};

    for (gsize i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(CkptSettings) settings = ckpt_settings_new();
        g_autoptr(GError) error = NULL;
        g_autofree char *expected = g_strconcat(own, bad[i].words, NULL);

        put(own, bad[i].text);
        assert_false(complete(settings, &error));
        assert_string_equal(error->message, expected);
    }
}

static void
timeouts_have_units(void **state)
{
    static const struct {
        const char *text;
        guint ms; /* 0: refused */
    } timeouts[] = {{"90", 90000},   {"90s", 90000},    {"5m", 300000},
                    {"1h", 3600000}, {"24h", 86400000}, {"25h", 0},
                    {"0", 0},        {"-1", 0},         {"5d", 0},
                    {"", 0},         {"1.5m", 0},       {"99999999999999999999h", 0}};

    for (gsize i = 0; i < G_N_ELEMENTS(timeouts); i++) {
        g_autoptr(CkptSettings) settings = ckpt_settings_new();
        g_autoptr(GError) error = NULL;

        ckpt_settings_set(settings, CKPT_SETTING_TIMEOUT, timeouts[i].text);
        assert_int_equal(complete(settings, &error), timeouts[i].ms != 0);
        if (timeouts[i].ms)
            assert_int_equal(settings->timeout_ms, timeouts[i].ms);
    }
}

static void
an_unknown_format_is_refused(void **state)
{
    g_autoptr(CkptSettings) settings = ckpt_settings_new();
    g_autoptr(GError) error = NULL;

    g_setenv("VMCHECKPOINT_FORMAT", "yaml", TRUE);
    assert_false(complete(settings, &error));
    assert_string_equal(error->message, "unknown format 'yaml': expected table, json or published");
}

int
main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(a_common_file_that_is_not_for_us_is_skipped),
        T(the_first_that_has_it_counts),
        T(missing_files_give_the_defaults),
        T(file_names_are_relative_to_the_file_that_has_them),
        T(hosts_given_twice_are_both_meant),
        T(mistakes_in_a_file_are_told_with_file_and_line),
        T(timeouts_have_units),
        T(an_unknown_format_is_refused),
    };
#undef T

    return cmocka_run_group_tests_name("settings", tests, NULL, NULL);
}
