#include "client/inventory.h"
#include "tests/unit/cmocka_all.h"

#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

static char *file;

static int
set_up(void **state)
{
    int fd = g_file_open_tmp("ckpt-fleet-XXXXXX", &file, NULL);

    return fd < 0 ? -1 : close(fd);
}

static int
tear_down(void **state)
{
    g_unlink(file);
    g_clear_pointer(&file, g_free);
    return 0;
}

static CkptInventory *
read_text(const char *text, GError **error)
{
    assert_true(g_file_set_contents(file, text, -1, NULL));
    return ckpt_inventory_read(file, error);
}

/* The error is the file's name, the line and these words. */
static void
assert_refused(const char *text, const char *words)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *expected = g_strconcat(file, words, NULL);

    assert_null(read_text(text, &error));
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_INVALID_ARGUMENT);
    assert_string_equal(error->message, expected);
}

#define TWO_HOSTS                                                                                  \
    "# the fleet\n\n[host a]\naddress = a.example.org:7443\n\n[host b]\n  address=[::1]:7444  \n"  \
    "; templates\n[library templates]\npath = /srv/library\n"

static void
hosts_and_libraries_are_read(void **state)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptInventory) inventory = read_text(TWO_HOSTS, &error);
    CkptLibraryPlace *place;
    CkptHost *host;

    assert_null(error);
    assert_int_equal(inventory->hosts->len, 2);
    host = g_ptr_array_index(inventory->hosts, 1);
    assert_string_equal(host->name, "b");
    assert_string_equal(host->address, "[::1]:7444");
    assert_int_equal(inventory->libraries->len, 1);
    place = g_ptr_array_index(inventory->libraries, 0);
    assert_string_equal(place->name, "templates");
    assert_string_equal(place->path, "/srv/library");
}

static void
mistakes_are_told_with_file_and_line(void **state)
{
    assert_refused("[host a]\nadress = a:1\n", ":2: unknown key 'adress'");
    assert_refused("[host a]\naddress = a:1\npath = /x\n", ":3: unknown key 'path'");
    assert_refused("\n[hosts]\n",
                   ":2: unknown group 'hosts': expected [host NAME] or [library NAME]");
    assert_refused("address = a:1\n", ":1: unknown key 'address' before any [host NAME]");
    assert_refused("[host a]\naddress = a:1\n[host a]\n", ":3: [host a] is there already");
    assert_refused("[host a]\naddress = a:1\naddress = b:1\n", ":3: 'address' is set twice");
    assert_refused("[host a]\nnonsense\n", ":2: expected key = value or [group]");
    assert_refused("[host a\n", ":1: the group lacks its ']'");
    assert_refused("[host]\n", ":1: [host] needs a name without commas, slashes or spaces");
    assert_refused("[library x]\npath = library\n", ":2: path must be absolute");
    assert_refused("[host a]\n", ": [host a] has no address");
    assert_refused("[library x]\n", ": [library x] has no path");
    assert_refused("[host \xff]\n", ": not valid UTF-8");
}

static void
what_is_no_address_is_refused(void **state)
{
    static const char *const bad[] = {"a",       "a:",    ":7443",      "a:0",   "a:65536",
                                      "a:7443x", "a b:1", "http://a:1", "a,b:1", "u@a:1"};

    for (gsize i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autofree char *text = g_strdup_printf("[host a]\naddress = %s\n", bad[i]);
        g_autofree char *words =
            g_strdup_printf(":2: '%s' is no address: expected host:port or [ipv6]:port", bad[i]);

        assert_refused(text, words);
    }
}

static void
a_missing_file_is_an_error(void **state)
{
    g_autoptr(GError) error = NULL;

    assert_null(ckpt_inventory_read("/nonexistent/fleet", &error));
    assert_string_equal(error->message, "/nonexistent/fleet: No such file or directory");
}

static void
hosts_are_selected_by_name_or_address(void **state)
{
    g_autoptr(CkptInventory) inventory = read_text(TWO_HOSTS, NULL);
    CkptHost *host;

    assert_true(ckpt_inventory_select(inventory, "b, c.example.org:7443,b", NULL));
    assert_int_equal(inventory->hosts->len, 2);
    host = g_ptr_array_index(inventory->hosts, 0);
    assert_string_equal(host->address, "[::1]:7444");
    host = g_ptr_array_index(inventory->hosts, 1);
    assert_string_equal(host->name, "c.example.org:7443");
    assert_string_equal(host->address, "c.example.org:7443");
}

static void
selecting_an_unknown_host_is_refused(void **state)
{
    g_autoptr(CkptInventory) inventory = read_text(TWO_HOSTS, NULL);
    g_autoptr(GError) error = NULL;

    assert_false(ckpt_inventory_select(inventory, "z", &error));
    assert_non_null(strstr(error->message, "host 'z' is not in the fleet file"));
    g_clear_error(&error);
    assert_false(ckpt_inventory_select(inventory, " , ", &error));
    assert_string_equal(error->message, "no host is named");
}

int
main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(hosts_and_libraries_are_read),          T(mistakes_are_told_with_file_and_line),
        T(what_is_no_address_is_refused),         T(a_missing_file_is_an_error),
        T(hosts_are_selected_by_name_or_address), T(selecting_an_unknown_host_is_refused),
    };
#undef T

    return cmocka_run_group_tests_name("inventory", tests, NULL, NULL);
}
