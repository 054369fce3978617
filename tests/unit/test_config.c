#include "agent/config.h"
#include "agent/service/service.h"
#include "tests/unit/cmocka_all.h"

#include <glib/gstdio.h>
#include <string.h>

/* A folder with everything that a valid configuration names. */
typedef struct {
    char *folder, *file, *ca, *cert, *key;
} Fixture;

static void
write_file(const char *path, const char *text, int mode)
{
    assert_true(g_file_set_contents(path, text, -1, NULL));
    assert_int_equal(g_chmod(path, mode), 0);
}

static int
setup(void **state)
{
    Fixture *fixture = g_new0(Fixture, 1);

    fixture->folder = g_dir_make_tmp("ckpt-config-XXXXXX", NULL);
    fixture->file = g_build_filename(fixture->folder, "agent.conf", NULL);
    fixture->ca = g_build_filename(fixture->folder, "ca.pem", NULL);
    fixture->cert = g_build_filename(fixture->folder, "cert.pem", NULL);
    fixture->key = g_build_filename(fixture->folder, "key.pem", NULL);
    write_file(fixture->ca, "x", 0644);
    write_file(fixture->cert, "x", 0644);
    write_file(fixture->key, "x", 0600);
    *state = fixture;
    return 0;
}

static int
teardown(void **state)
{
    Fixture *fixture = *state;

    g_unlink(fixture->file);
    g_unlink(fixture->ca);
    g_unlink(fixture->cert);
    g_unlink(fixture->key);
    g_rmdir(fixture->folder);
    g_free(fixture->folder);
    g_free(fixture->file);
    g_free(fixture->ca);
    g_free(fixture->cert);
    g_free(fixture->key);
    g_free(fixture);
    return 0;
}

/* Lines 1 to 8; what a test adds begins in line 9. */
static CkptConfig *
load(const Fixture *fixture, const char *more, GError **error)
{
    g_autofree char *text =
        g_strdup_printf("# test\n[agent]\nlisten = 127.0.0.1:0\nstate_dir = %s\n[tls]\nca = %s\n"
                        "cert = %s\nkey = %s\n%s",
                        fixture->folder, fixture->ca, fixture->cert, fixture->key, more);

    write_file(fixture->file, text, 0644);
    return ckpt_config_load(fixture->file, error);
}

static void
assert_error(const Fixture *fixture, const GError *error, guint line, const char *words)
{
    g_autofree char *place = g_strdup_printf("%s:%u: ", fixture->file, line);

    assert_non_null(error);
    if (!g_str_has_prefix(error->message, place) || !strstr(error->message, words))
        fail_msg("expected '%s…%s…', got '%s'", place, words, error->message);
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_INVALID_ARGUMENT);
}

/* Refuses the valid configuration with this appended. */
static void
assert_refused(const Fixture *fixture, const char *more, guint line, const char *words)
{
    g_autoptr(GError) error = NULL;

    if (load(fixture, more, &error))
        fail_msg("accepted: %s", more);
    assert_error(fixture, error, line, words);
}

/* Refuses a whole text. */
static void
assert_text_refused(const Fixture *fixture, const char *text, guint line, const char *words)
{
    g_autoptr(GError) error = NULL;

    write_file(fixture->file, text, 0644);
    assert_null(ckpt_config_load(fixture->file, &error));
    assert_error(fixture, error, line, words);
}

static void
the_least_configuration_has_defaults(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptConfig) config = load(fixture, "", &error);

    assert_null(error);
    assert_string_equal(config->listen, "127.0.0.1:0");
    assert_string_equal(config->hypervisor, "qemu:///system");
    assert_int_equal(config->limits.max_depth, 20);
    assert_int_equal(config->libraries->len, 0);
    assert_int_equal(ckpt_access_size(config->access), 0);
}

static void
everything_that_is_set_counts(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptConfig) config =
        load(fixture,
             "[access]\nspiffe://example.org/ops/a = admin\ndns:ops.example.org=viewer\n"
             "[library main store]\npath = /srv/library\n[checkpoints]\noffline_without_locks = true\n"
             "without_linked_clones = true\nlive_memory_when_emulated = true\n"
             "[limits]\nmax_depth = 7\nmerge_mib_per_second = 50\nreserve_bytes = 2 GiB\n"
             "reserve_percent = 5\nmax_wait_seconds = 60\nmax_connections = 99\n",
             &error);
    const CkptLibraryPlace *place;

    if (error)
        fail_msg("%s", error->message);
    assert_int_equal(ckpt_access_role(config->access, "spiffe://example.org/ops/a"),
                     CKPT_ROLE_ADMIN);
    assert_int_equal(ckpt_access_role(config->access, "dns:ops.example.org"), CKPT_ROLE_VIEWER);
    place = g_ptr_array_index(config->libraries, 0);
    assert_string_equal(place->name, "main store");
    assert_string_equal(place->path, "/srv/library");
    assert_int_equal(config->limits.max_depth, 7);
    assert_int_equal(config->merge_mib, 50);
    assert_int_equal(config->limits.reserve_bytes, G_GUINT64_CONSTANT(2) << 30);
    assert_int_equal(config->limits.reserve_percent, 5);
    assert_int_equal(config->limits.max_wait_us, 60 * G_USEC_PER_SEC);
    assert_int_equal(config->max_connections, 99);
    assert_true(config->offline_without_locks);
    assert_true(config->live_memory_when_emulated);
    assert_true(config->without_linked_clones);
}

static void
unknown_and_repeated_names_are_refused_in_their_line(void **state)
{
    Fixture *fixture = *state;

    assert_refused(fixture, "[acces]\n", 9, "unknown group [acces]");
    assert_refused(fixture, "[limits]\nmax_dept = 5\n", 10, "unknown key 'max_dept' in [limits]");
    assert_refused(fixture, "[limits]\n\n# x\nmax_depth = 5\nmax_depth = 6\n", 13,
                   "'max_depth' comes twice in [limits], first in line 12");
    assert_refused(fixture, "[agent]\nhypervisor = x\n", 9,
                   "group [agent] comes twice, first in line 2");
    assert_refused(fixture, "[access]\ndns:a = viewer\ndns:a = admin\n", 11, "comes twice");
    assert_refused(fixture, "[library ]\npath = /x\n", 9, "[library NAME]");
    assert_refused(fixture, "[library a]\npaths = /x\n", 10, "unknown key 'paths'");
    assert_refused(fixture, "[checkpoints]\noffline_without_locks = yes\n", 10, "neither true nor false");
}

static void
broken_lines_are_refused_in_their_line(void **state)
{
    Fixture *fixture = *state;

    assert_refused(fixture, "nonsense\n", 9, "neither KEY = VALUE");
    assert_refused(fixture, "[limits\n", 9, "a group's header is [NAME]");
    assert_refused(fixture, "= 5\n", 9, "neither KEY = VALUE");
    assert_refused(fixture, "[access]\ndns:[x] = viewer\n", 10, "must not contain [ or ]");
    assert_text_refused(fixture, "listen = x\n[agent]\n", 1, "before the first [GROUP]");
    assert_text_refused(fixture, "\xff", 1, "not a text file");
}

static void
what_is_missing_is_named(void **state)
{
    Fixture *fixture = *state;

    assert_text_refused(fixture, "", 1, "[agent] has no 'listen'");
    assert_text_refused(fixture, "#\n[agent]\nlisten = [::1]:1\nstate_dir = /tmp\n[tls]\n", 5,
                        "[tls] has no 'ca'");
    assert_refused(fixture, "[library a]\n", 9, "[library a] has no 'path'");
}

static void
addresses_are_literal_and_have_a_port(void **state)
{
    static const char *const bad[] = {
        "7443",     ":7443",         "localhost:7443", "127.0.0.1",    "127.0.0.1:x",
        "::1:7443", "[127.0.0.1]:1", "[::1]",          "127.0.0.1:-1", "1.2.3.4:65536",
        ""};
    static const char *const good[] = {"0.0.0.0:7443", "[::]:7443", "[2001:db8::1]:0"};
    Fixture *fixture = *state;

    for (gsize i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autofree char *text = g_strdup_printf("[agent]\nlisten = %s\n", bad[i]);

        assert_text_refused(fixture, text, 2, "is not ADDRESS:PORT");
    }
    for (gsize i = 0; i < G_N_ELEMENTS(good); i++) {
        g_autofree char *text = g_strdup_printf("[agent]\nlisten = %s\nhypervisor =\n", good[i]);

        assert_text_refused(fixture, text, 3, "hypervisor is empty");
    }
}

static void
files_must_be_there_and_keys_private(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(GError) shared = NULL;
    g_autoptr(GError) missing = NULL;

    assert_int_equal(g_chmod(fixture->key, 0640), 0);
    assert_null(load(fixture, "", &shared));
    assert_error(fixture, shared, 8, "can be read by others (mode 0640)");
    assert_int_equal(g_chmod(fixture->key, 0600), 0);
    g_unlink(fixture->cert);
    assert_null(load(fixture, "", &missing));
    assert_error(fixture, missing, 7, "No such file");
    assert_text_refused(fixture, "[tls]\nca = ca.pem\n", 2, "is not an absolute path");
    assert_text_refused(fixture, "[agent]\nstate_dir = /dev/null\n", 2, "is not a folder");
    assert_text_refused(fixture, "[tls]\nca = /dev/null\n", 2, "is not a file");
}

static void
numbers_have_ranges(void **state)
{
    Fixture *fixture = *state;

    assert_refused(fixture, "[limits]\nmax_depth = 0\n", 10, "from 1 to 200");
    assert_refused(fixture, "[limits]\nmax_depth = 7x\n", 10, "'7x' is not a number");
    assert_refused(fixture, "[limits]\nmax_depth =\n", 10, "is not a number");
    assert_refused(fixture, "[limits]\nresult_days = 6\n", 10, "from 7 to");
    assert_refused(fixture, "[limits]\nreserve_bytes = 5 MB\n", 10, "is not a size");
    assert_refused(fixture, "[limits]\nreserve_bytes = 99999999 TiB\n", 10, "is not a size");
    assert_refused(fixture, "[limits]\nreserve_bytes = MiB\n", 10, "is not a size");
}

static void
rules_name_identities_and_roles(void **state)
{
    Fixture *fixture = *state;

    assert_refused(fixture, "[access]\ndns:a = root\n", 10, "'root' is not a role");
    assert_refused(fixture, "[access]\nops = admin\n", 10, "identity 'ops'");
    /* The first '=' ends the key, so such a URI cannot be written; the message says so. */
    assert_refused(fixture, "[access]\nspiffe://a/b=c = admin\n", 10, "cannot be written here");
}

static void
a_missing_file_is_no_configuration(void **state)
{
    g_autoptr(GError) error = NULL;

    assert_null(ckpt_config_load("/nonexistent/agent.conf", &error));
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_FILE_FAILED);
    assert_non_null(strstr(error->message, "/nonexistent/agent.conf"));
}

static void
a_file_that_others_may_write_grants_nothing(void **state)
{
    Fixture *fixture = *state;
    const int modes[] = {0666, 0620, 0602};

    for (guint i = 0; i < G_N_ELEMENTS(modes); i++) {
        g_autoptr(GError) error = NULL;

        write_file(fixture->file, "[agent]\n", modes[i]);
        assert_null(ckpt_config_load(fixture->file, &error));
        assert_error(fixture, error, 1, "chmod go-w");
    }
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(the_least_configuration_has_defaults),
        TEST(everything_that_is_set_counts),
        TEST(unknown_and_repeated_names_are_refused_in_their_line),
        TEST(broken_lines_are_refused_in_their_line),
        TEST(what_is_missing_is_named),
        TEST(addresses_are_literal_and_have_a_port),
        TEST(files_must_be_there_and_keys_private),
        TEST(numbers_have_ranges),
        TEST(rules_name_identities_and_roles),
        TEST(a_missing_file_is_no_configuration),
        TEST(a_file_that_others_may_write_grants_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
