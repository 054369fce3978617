/* What the client shows of two agents of straw, and what it does not even ask them. */
#include "tests/unit/client_fixture.h"


static void
lists_have_all_pages(void **state)
{
    assert_run("list --format json", 0);
    assert_says(world.output, POINT_1);
    assert_says(world.output, POINT_2);
    assert_says(world.output, POINT_3);
    assert_run("list web-01 --format published", 0);
    assert_says(world.output, "\n\nAccessibility: ");
}

static void
show_and_vms_tell_of_growth(void **state)
{
    Vmcheckpoint__V1__Growth growth = VMCHECKPOINT__V1__GROWTH__INIT;
    Google__Protobuf__Timestamp since = GOOGLE__PROTOBUF__TIMESTAMP__INIT;

    since.seconds = g_get_real_time() / G_USEC_PER_SEC - 3 * 3600;
    growth.bytes = 36u << 20;
    growth.since_time = &since;
    world.a.growth = &growth;
    assert_run("show web-01/one", 0);
    assert_says(world.output, "Written since:     36.0 MiB in 3 hours\nWarnings:");
    assert_says(world.output, "Warnings:          storing leaves it behind\n");
    assert_says(world.output, "                   it is deep\n");
    growth.bytes_per_hour_presence_case =
        VMCHECKPOINT__V1__GROWTH__BYTES_PER_HOUR_PRESENCE_BYTES_PER_HOUR;
    growth.bytes_per_hour = 12u << 20;
    assert_run("vms --full", 0);
    assert_says(world.output, "36.0 MiB  12.0 MiB an hour\n");
    growth.hours_until_full_presence_case =
        VMCHECKPOINT__V1__GROWTH__HOURS_UNTIL_FULL_PRESENCE_HOURS_UNTIL_FULL;
    growth.hours_until_full = 40;
    assert_run("show web-01/one", 0);
    assert_says(world.output, "                   12.0 MiB an hour, full in 40 hours\n");
}

static void
hosts_shows_the_unreachable_too(void **state)
{
    assert_run("hosts", 0);
    assert_says(world.output, "9.8.7");
    assert_says(world.output, "read-write  operator  2");
    straw_stop(&world.b);
    assert_run("hosts --format json", 3);
    assert_says(world.output, "\"reachable\" : false");
    assert_says(world.output, "\"vmCount\" : 2");
    assert_null(strstr(world.output, "\"vmCount\" : 0"));
    straw_stop(&world.a);
    assert_run("hosts", 1);
}

static void
vms_shows_a_deployed_vm_as_deployed_only(void **state)
{
    assert_run("vms", 0);
    assert_says(world.output, "stored shelf");
    assert_says(world.output, "a     web-01  " VM_1 "  deployed");
    assert_null(strstr(world.output, "b     web-01"));
    assert_null(strstr(world.output, "APPLICATION"));
}

static void
vms_shows_a_stored_vm_once_and_what_a_vm_can(void **state)
{
    world.a.vms[2] = (StrawVm){VM_4, "kept", TRUE};
    assert_run("vms --full", 0);
    assert_says(world.output, "LIVE  MEMORY  APPLICATION  SIZE  GROWN  RATE\n");
    assert_says(world.output, "yes   no      -            -     -      -\n");
    assert_says(world.output, "kept");
    assert_null(strstr(strstr(world.output, VM_4) + 1, VM_4));
}

static void
an_operation_is_found_on_its_host(void **state)
{
    assert_run("operation {" POINT_1 "}", 4);
    assert_says(world.output, "running");
    assert_says(world.output, ", 25% (5.0 MiB of 20.0 MiB)");
    assert_run("operation " POINT_2, 1);
    assert_says(world.errors, "no host has an operation " POINT_2);
    assert_run("operation x", 2);
}

static void
tree_and_show_find_the_vm(void **state)
{
    assert_run("tree web-01", 0);
    assert_says(world.output, "web-01 (" VM_1 ") on host a\no one  " POINT_1);
    assert_run("tree twin", 1);
    assert_run("show web-01/one", 0);
    assert_says(world.output, "Enabled:           yes");
    assert_run("show web-01/none", 1);
    assert_run("show " VM_1, 1);
}

static void
mistakes_are_told_before_anything_is_sent(void **state)
{
    straw_stop(&world.a);
    straw_stop(&world.b);
    assert_run("create 'a\nb'", 2);
    assert_run("create a/b", 2);
    assert_run("create web-01 --label Bad=1", 2);
    assert_run("create web-01 --consistency perfect", 2);
    assert_run("create web-01 --run x", 2);
    assert_run("create", 2);
    assert_run("show nonsense", 2);
    assert_run("hosts --format published", 2);
    g_setenv("VMCHECKPOINT_FORMAT", "published", TRUE);
    assert_run("hosts", 1);
    g_unsetenv("VMCHECKPOINT_FORMAT");
    assert_run("create -- -x", 1);
    assert_says(world.errors, "VM -x: no host");
    assert_null(strstr(world.errors, "VM --:"));
    assert_run("creat web-01", 2);
    assert_says(world.errors, "did you mean 'create'?");
    assert_run("--nonsense", 2);
    assert_run("create --help", 0);
    assert_run("--version", 0);
}

int
main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, client_set_up, client_tear_down)
    const struct CMUnitTest tests[] = {
        T(lists_have_all_pages),
        T(show_and_vms_tell_of_growth),
        T(hosts_shows_the_unreachable_too),
        T(vms_shows_a_deployed_vm_as_deployed_only),
        T(vms_shows_a_stored_vm_once_and_what_a_vm_can),
        T(an_operation_is_found_on_its_host),
        T(tree_and_show_find_the_vm),
        T(mistakes_are_told_before_anything_is_sent),
    };
#undef T

    return cmocka_run_group_tests_name("client_look", tests, fixture_group_setup, fixture_group_teardown);
}
