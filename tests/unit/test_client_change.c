/* The client's deletes and restores on two agents of straw: which checkpoint is meant, and what is asked
 * before. */
#include "tests/unit/client_fixture.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

static void
delete_needs_yes_away_from_a_terminal(void **state)
{
    assert_run("delete " POINT_1, 2);
    assert_says(world.errors, "--yes");
    assert_int_equal(world.a.mutations, 0);
}

static void
delete_sends_the_etag_that_was_read(void **state)
{
    assert_run("delete web-01/one --yes", 0);
    assert_string_equal(world.a.etag, "etag-1");
}

/* Runs it on a terminal where somebody types the answer; returns what the terminal shows. */
static char *
run_on_terminal(const char *arguments, const char *typed)
{
    int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    g_autoptr(GString) shown = g_string_new(NULL);
    GSubprocess *process;
    char some[1024];
    gssize size;

    assert_true(master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0);
    assert_int_equal(write(master, typed, strlen(typed)), strlen(typed));
    process = client_start_on(arguments, open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC));
    client_finish(process);
    /* The kernel hands a terminal's words on in pieces, in its own time; when all is told, and nobody has
     * the other end, it says EIO. */
    while ((size = read(master, some, sizeof some)) > 0)
        g_string_append_len(shown, some, size);
    close(master);
    return g_strdup(shown->str);
}

static void
delete_asks_on_a_terminal(void **state)
{
    g_autofree char *shown = run_on_terminal("delete web-01/one", "n\n");

    assert_int_equal(world.status, 1);
    assert_int_equal(world.a.mutations, 0);
    assert_says(shown, "Delete checkpoint 'one'");
    assert_says(shown, POINT_1);
    assert_says(shown, "of VM web-01 (" VM_1 ") on host a?");
    assert_says(shown, "all other checkpoints are kept");
    assert_says(shown, "frees 5.0 MiB to 20.0 MiB, moves up to 20.0 MiB");
    assert_says(shown, "nothing was done");
    g_free(g_steal_pointer(&shown));
    shown = run_on_terminal("delete web-01/one", "yes\n");
    assert_int_equal(world.status, 0);
    assert_int_equal(world.a.mutations, 1);
}

static void
delete_dry_run_only_tells(void **state)
{
    assert_run("delete --dry-run web-01/one", 0);
    assert_int_equal(world.a.mutations, 0);
    assert_says(world.output, "frees 5.0 MiB to 20.0 MiB, moves up to 20.0 MiB");
    assert_says(world.output, "vda: commit, while the VM runs");
    assert_says(world.output, "takes up to 20.0 MiB of the 3.0 GiB free beside /img/web.raw");
    assert_run("delete --dry-run --format json web-01/one", 0);
    assert_says(world.output, "\"freedBytesMax\" : \"20971520\"");
    world.a.refusal = CKPT_REASON_BRANCH_POINT;
    assert_run("delete --dry-run web-01/one", 1);
    assert_says(world.errors, "straw says no");
    assert_int_equal(world.a.mutations, 0);
}

/* It may have to wait behind an operation that is in the way now. */
static void
what_is_refused_now_can_be_asked_for_all_the_same(void **state)
{
    g_autofree char *shown = NULL;

    world.a.refusal = CKPT_REASON_VM_BUSY;
    shown = run_on_terminal("delete web-01/one", "yes\n");
    assert_says(shown, "At this moment it is refused: ");
    assert_int_equal(world.a.mutations, 1);
}

static void
a_renamed_vm_is_told_by_its_present_name(void **state)
{
    g_autofree char *shown = NULL;

    world.a.vms[0].name = "db-old";
    shown = run_on_terminal("delete " POINT_1, "n\n");
    assert_says(shown, "of VM db-old (named web-01 when captured) (" VM_1 ") on host a?");
    assert_run("list", 0);
    assert_says(world.output, "a     db-old  one");
    assert_run("show " POINT_1, 0);
    assert_says(world.output, "web-01 when captured");
    world.a.refusal = CKPT_REASON_ACCESS_DENIED;
    assert_run("restore --yes " POINT_1 " --power shut-off", 1);
    assert_says(world.errors, "VM db-old: straw says no");
    world.a.vms[0] = (StrawVm){VM_2, "twin", FALSE};
    g_free(g_steal_pointer(&shown));
    shown = run_on_terminal("restore " POINT_1, "n\n");
    assert_says(shown, "of a VM named web-01 when captured, whose present name is not known");
}

static void
what_is_being_deleted_is_shown_and_can_be_finished(void **state)
{
    world.a.points[0].deleting = TRUE;
    assert_run("list", 0);
    assert_says(world.output, "deleting\n");
    assert_run("list --most-recent", 0);
    assert_null(strstr(world.output, "deleting"));
    assert_run("tree web-01", 0);
    assert_says(world.output, "being deleted");
    assert_run("restore web-01/one --yes", 1);
    assert_says(world.errors, "is being deleted and cannot be restored");
    assert_int_equal(world.a.mutations, 0);
    assert_run("delete web-01/one --yes", 0);
    assert_int_equal(world.a.mutations, 1);
}

static void
an_ambiguous_checkpoint_name_lists_the_candidates(void **state)
{
    assert_run("delete web-01/same --yes", 1);
    assert_int_equal(world.a.mutations, 0);
    assert_says(world.errors, POINT_2);
    assert_says(world.errors, POINT_3);
}

static void
a_name_is_not_enough_while_a_host_does_not_answer(void **state)
{
    straw_stop(&world.b);
    assert_run("delete web-01/one --yes", 1);
    assert_int_equal(world.a.mutations, 0);
    assert_says(world.errors, "host b: cannot connect");
    assert_says(world.errors, "give the checkpoint's ID");
    assert_run("delete " POINT_1 " --yes", 0);
    assert_int_equal(world.a.mutations, 1);
    assert_run("list web-01", 3);
    assert_run("create web-01", 1);
    assert_int_equal(world.a.mutations, 1);
    assert_says(world.errors, "VM web-01: its name is not enough");
    assert_says(world.errors, "(b)");
    assert_run("create " VM_1, 0);
    assert_run("create web-01 --host a", 0);
    assert_int_equal(world.a.mutations, 3);
}

static void
restore_tells_the_safety_checkpoint(void **state)
{
    assert_run("restore --yes web-01/one --power shut-off", 0);
    assert_string_equal(world.a.etag, "etag-1");
    assert_says(world.errors, "restored; the state it had is checkpoint " POINT_2);
    assert_run("restore " POINT_1 " --yes --power shut-off --discard-present-state --format json",
               0);
    assert_null(strstr(world.output, POINT_2));
    assert_run("restore " POINT_1 " --yes --power off", 2);
}

static void
restore_holds_for_the_situation_asked_about(void **state)
{
    g_autofree char *shown = NULL;

    world.a.current = POINT_3;
    shown = run_on_terminal("restore --power shut-off " POINT_1, "y\n");
    assert_says(shown, "It is now at checkpoint " POINT_3);
    assert_int_equal(world.status, 0);
    assert_string_equal(world.a.expected, POINT_3);
}

int
main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, client_set_up, client_tear_down)
    const struct CMUnitTest tests[] = {
        T(delete_needs_yes_away_from_a_terminal),
        T(delete_sends_the_etag_that_was_read),
        T(delete_asks_on_a_terminal),
        T(delete_dry_run_only_tells),
        T(what_is_refused_now_can_be_asked_for_all_the_same),
        T(a_renamed_vm_is_told_by_its_present_name),
        T(what_is_being_deleted_is_shown_and_can_be_finished),
        T(an_ambiguous_checkpoint_name_lists_the_candidates),
        T(a_name_is_not_enough_while_a_host_does_not_answer),
        T(restore_tells_the_safety_checkpoint),
        T(restore_holds_for_the_situation_asked_about),
    };
#undef T

    return cmocka_run_group_tests_name("client_change", tests, fixture_group_setup, fixture_group_teardown);
}
