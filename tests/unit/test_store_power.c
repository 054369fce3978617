/* The store on a disk that fails, fills up or loses power at every one of its calls: what was answered
 * with TRUE is there afterwards, what was under way is there wholly or not at all, and once something
 * failed nothing more is written until the store is opened again. */
#include "tests/support/power_vfs.h"
#include "tests/unit/cmocka_all.h"
#include "tests/unit/model_samples.h"
#include "tests/unit/store_fixture.h"

#include <sqlite3.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* ---- A sequence of what the engine writes in the life of a VM ---- */

typedef struct {
    char *dir;
    CkptStore *store;
    CkptOperation *operation; /* under way; a crash leaves it to the next */
} World;

typedef gboolean (*Call)(World *world, GError **error);

static CkptOperation *
begin(World *world, const char *request_id)
{
    g_clear_pointer(&world->operation, ckpt_operation_free);
    return world->operation = sample_operation("alice", request_id);
}

static gboolean
add_first(World *world, GError **error)
{
    return ckpt_store_add_operation(world->store, begin(world, "r1"), error);
}

static gboolean
add_second(World *world, GError **error)
{
    return ckpt_store_add_operation(world->store, begin(world, "r2"), error);
}

/* Its name belongs to one that failed. */
static gboolean
add_again(World *world, GError **error)
{
    return add_first(world, error);
}

static gboolean
reserve(World *world, GError **error)
{
    begin(world, "r3")->state = CKPT_OP_CANCELLED;
    world->operation->ended_us = 7;
    return ckpt_store_add_operation(world->store, world->operation, error);
}

static gboolean
plan(World *world, GError **error)
{
    world->operation->plan = sample_plan();
    return ckpt_store_set_plan(world->store, world->operation, error);
}

static gboolean
step(World *world, gint index, CkptChange *change, GError **error)
{
    world->operation->step_begun = index;
    world->operation->step_ended = change ? index : index - 1;
    return ckpt_store_journal(world->store, world->operation, change, error);
}

static gboolean
first_step(World *world, GError **error)
{
    return step(world, 0, NULL, error);
}

static gboolean
second_step(World *world, GError **error)
{
    return step(world, 1, NULL, error);
}

static CkptChange *
change_of(const char *id, guint count, const char *gone)
{
    CkptChange *change = ckpt_change_new();

    for (guint i = 0; i < count; i++) {
        g_autofree char *each = g_strdup_printf("%s%u", id, i);

        g_ptr_array_add(change->upserts, sample_checkpoint(each, "v1", 1 + i));
        g_ptr_array_add(change->made, g_strdup_printf("/images/%s.qcow2", each));
        ckpt_set_str(&change->current_id, each);
    }
    change->set_current = TRUE;
    if (gone) {
        g_ptr_array_add(change->removes, g_strdup(gone));
        g_ptr_array_add(change->gone, g_strdup_printf("/images/%s.qcow2", gone));
    }
    return change;
}

static gboolean
commit_many(World *world, GError **error)
{
    g_autoptr(CkptChange) change = change_of("c", 5, NULL);

    return step(world, 2, change, error);
}

static gboolean
commit_removal(World *world, GError **error)
{
    g_autoptr(CkptChange) change = change_of("d", 3, "c1");

    return step(world, 2, change, error);
}

static gboolean
end(World *world, CkptOpState how, GError **error)
{
    world->operation->state = how;
    world->operation->ended_us = 100;
    if (how == CKPT_OP_SUCCEEDED)
        world->operation->checkpoint = sample_checkpoint("c0", "v1", 1);
    else
        world->operation->reason = CKPT_REASON_FILE_FAILED;
    return ckpt_store_end_operation(world->store, world->operation, NULL, error);
}

static gboolean
succeed(World *world, GError **error)
{
    return end(world, CKPT_OP_SUCCEEDED, error);
}

static gboolean
fail_it(World *world, GError **error)
{
    return end(world, CKPT_OP_FAILED, error);
}

static gboolean
quarantine(World *world, GError **error)
{
    return ckpt_store_quarantine_vm(world->store, "v1", "its definition names a sealed file", error);
}

static gboolean
lift(World *world, GError **error)
{
    return ckpt_store_quarantine_vm(world->store, "v1", NULL, error);
}

static gboolean
number_events(World *world, GError **error)
{
    return ckpt_store_next_event_block(world->store, error) != 0;
}

static gboolean
disable(World *world, GError **error)
{
    g_autoptr(GPtrArray) rows = ckpt_store_vm_checkpoints(world->store, "v1", error);

    for (guint i = 0; rows && i < rows->len; i++)
        ckpt_set_str(&((CkptCheckpoint *)rows->pdata[i])->disabled_reason, "a file is missing");
    return rows && ckpt_store_note_verified(world->store, rows, error);
}

static gboolean
remove_all(World *world, GError **error)
{
    g_autoptr(CkptChange) change = change_of("e", 1, "c2");

    return ckpt_store_apply(world->store, change, "v1", error);
}

static gboolean
forget(World *world, GError **error)
{
    return ckpt_store_forget_operations(world->store, 50, error);
}

static gboolean
reopen(World *world, GError **error)
{
    g_clear_pointer(&world->store, ckpt_store_close);
    world->store = ckpt_store_open(world->dir, error);
    return world->store != NULL;
}

static const Call sequence[] = {
    reopen, add_first,  plan,    first_step, second_step, fail_it, add_second, plan,
    first_step, second_step, commit_many, succeed, quarantine, number_events, add_again, plan,
    commit_removal, reopen, succeed, disable, reserve, forget, lift, remove_all,
};
#define CALLS G_N_ELEMENTS(sequence)

/* ---- Everything that the database holds, as text ---- */

static void
dump_rows(sqlite3 *handle, const char *sql, GString *out)
{
    sqlite3_stmt *statement = NULL;
    int result;

    assert_int_equal(sqlite3_prepare_v2(handle, sql, -1, &statement, NULL), SQLITE_OK);
    while ((result = sqlite3_step(statement)) == SQLITE_ROW) {
        for (int i = 0; i < sqlite3_column_count(statement); i++) {
            const char *text = (const char *)sqlite3_column_text(statement, i);

            g_string_append_printf(out, "%s|", text ? text : "NULL");
        }
        g_string_append_c(out, '\n');
    }
    assert_int_equal(result, SQLITE_DONE);
    sqlite3_finalize(statement);
}

/* "" while there are no tables. Of the closed or the open store. */
static char *
dump(const char *dir)
{
    static const char *const tables[] = {"checkpoints", "labels", "operations", "step_results",
                                         "vms", "files", "counters"};
    g_autofree char *path = g_build_filename(dir, "vmcheckpoint.db", NULL);
    GString *out = g_string_new(NULL);
    sqlite3 *handle;
    GString *whole = g_string_new(NULL);

    assert_int_equal(sqlite3_open_v2(path, &handle, SQLITE_OPEN_READWRITE, "unix"), SQLITE_OK);
    dump_rows(handle, "PRAGMA integrity_check", whole);
    dump_rows(handle, "PRAGMA foreign_key_check", whole);
    assert_string_equal(whole->str, "ok|\n");
    dump_rows(handle, "SELECT name FROM sqlite_schema WHERE name = 'counters'", out);
    for (gsize i = 0; out->len && i < G_N_ELEMENTS(tables); i++) {
        g_autofree char *sql = g_strdup_printf("SELECT * FROM %s ORDER BY 1, 2", tables[i]);

        g_string_append_printf(out, "-- %s\n", tables[i]);
        dump_rows(handle, sql, out);
    }
    sqlite3_close(handle);
    g_string_free(whole, TRUE);
    return g_string_free(out, FALSE);
}

/* ---- Runs ---- */

static World *
world_new(void)
{
    World *world = g_new0(World, 1);

    world->dir = g_strdup_printf("%s/ckpt-power.%d.XXXXXX",
                                 access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp", (int)getpid());
    assert_non_null(g_mkdtemp_full(world->dir, 0700));
    power_vfs_forget();
    return world;
}

static void
world_free(World *world)
{
    g_clear_pointer(&world->store, ckpt_store_close);
    g_clear_pointer(&world->operation, ckpt_operation_free);
    store_fixture_remove_tree(world->dir);
    g_free(world->dir);
    g_free(world);
}

/* Until a call fails; the number of those that did not. */
static guint
run(World *world)
{
    for (guint i = 0; i < CALLS; i++) {
        g_autoptr(GError) error = NULL;

        if (sequence[i](world, &error))
            continue;
        if (!g_error_matches(error, CKPT_ERROR, CKPT_REASON_STORE_FAILED))
            fail_msg("call %u: %s", i, error->message);
        return i;
    }
    return CALLS;
}

static char *states[CALLS + 1]; /* after so many calls */

static int
learn_states(void **state)
{
    World *world;

    (void)state;
    power_vfs_install();
    world = world_new();
    states[0] = g_strdup("");
    for (guint i = 0; i < CALLS; i++) {
        g_autoptr(GError) error = NULL;

        if (!sequence[i](world, &error)) {
            fprintf(stderr, "call %u: %s\n", i, error->message);
            return 1;
        }
        states[i + 1] = dump(world->dir);
    }
    world_free(world);
    return 0;
}

static int
drop_states(void **state)
{
    (void)state;
    for (guint i = 0; i <= CALLS; i++)
        g_free(states[i]);
    return 0;
}

static void
assert_state(const char *dir, guint done, PowerFault fault, guint at, guint64 seed)
{
    g_autofree char *found = dump(dir);

    if (g_str_equal(found, states[done]) ||
        (done < CALLS && g_str_equal(found, states[done + 1])))
        return;
    for (guint i = 0; i <= CALLS; i++)
        if (g_str_equal(found, states[i]))
            fail_msg("fault %u at %u, seed %" G_GUINT64_FORMAT ": %u calls answered TRUE, and the "
                     "database is as after %u",
                     fault, at, seed, done, i);
    fail_msg("fault %u at %u, seed %" G_GUINT64_FORMAT ": after %u calls, a state of its own:\n%s",
             fault, at, seed, done, found);
}

/* Reads go on, as before the call that failed; writes do not, though the disk is well again. */
static void
assert_read_only(World *world, guint done)
{
    g_autofree char *why = ckpt_store_read_only_reason(world->store);
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptOperation) late = sample_operation("alice", "late");
    g_autoptr(CkptVmRecord) vm = NULL;
    g_autofree char *found = NULL;

    assert_non_null(why);
    expect_reason(ckpt_store_add_operation(world->store, late, &error), &error,
                  CKPT_REASON_STORE_FAILED);
    vm = ckpt_store_get_vm(world->store, "v1", &error);
    if (!vm)
        fail_msg("%s", error->message);
    found = dump(world->dir);
    assert_string_equal(found, states[done]);
}

/* The fault strikes at the at-th call. FALSE: there are fewer. */
static gboolean
suffer(PowerFault fault, guint at, gboolean stays, gboolean cut_after, guint64 seed)
{
    World *world = world_new();
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptOperation) late = sample_operation("alice", "late");
    gboolean fired;
    guint done;

    power_vfs_arm(fault, at, stays, seed);
    done = run(world);
    fired = power_vfs_fired();
    if (fault != POWER_CUT)
        power_vfs_arm(POWER_GOOD, 0, FALSE, seed);
    if (fired && fault != POWER_CUT && done < CALLS && world->store)
        assert_read_only(world, done);
    if (cut_after)
        power_vfs_cut();
    g_clear_pointer(&world->store, ckpt_store_close);
    if (fault == POWER_CUT || cut_after)
        power_vfs_lose(seed);
    world->store = ckpt_store_open(world->dir, &error);
    if (!world->store)
        fail_msg("fault %u at %u, seed %" G_GUINT64_FORMAT ": %s", fault, at, seed, error->message);
    /* Not before: whoever opens it first mends it. */
    assert_state(world->dir, MAX(done, 1), fault, at, seed);
    store_add(world->store, late);
    assert_null(ckpt_store_read_only_reason(world->store));
    world_free(world);
    return fired;
}

/* The sanitizers look at each way through the code; all places are met by the other builds. */
#ifdef CKPT_SANITIZED
#define SPARSER 7
#else
#define SPARSER 1
#endif

/* VMCKPT_POWER_SEEDS=10: at every place, with ten times the seeds. Without it, at each stride-th. */
static void
sweep(PowerFault fault, gboolean stays, gboolean cut_after, guint stride, guint seeds)
{
    const char *more = g_getenv("VMCKPT_POWER_SEEDS");
    guint at = 1, runs = 0;

    seeds *= more ? (guint)g_ascii_strtoull(more, NULL, 10) : 1;
    while (suffer(fault, at, stays, cut_after, at)) {
        for (guint i = 1; i < seeds; i++)
            suffer(fault, at, stays, cut_after, at + i * 1000000);
        runs += seeds;
        at += more ? 1 : stride * SPARSER;
    }
    print_message("%u places, %u runs\n", runs / seeds, runs);
    assert_true(at > CALLS);
}

/* ---- The tests ---- */

static void
a_power_cut_anywhere_loses_nothing_answered(void **state)
{
    (void)state;
    sweep(POWER_CUT, FALSE, FALSE, 1, 1);
}

static void
no_space_anywhere_makes_it_read_only(void **state)
{
    (void)state;
    sweep(POWER_NO_SPACE, FALSE, FALSE, 3, 1);
    sweep(POWER_NO_SPACE, TRUE, TRUE, 4, 1);
}

static void
short_writes_anywhere_make_it_read_only(void **state)
{
    (void)state;
    sweep(POWER_SHORT, FALSE, TRUE, 3, 1);
}

static void
disk_errors_anywhere_make_it_read_only(void **state)
{
    (void)state;
    sweep(POWER_EIO, FALSE, FALSE, 4, 1);
    sweep(POWER_EIO, TRUE, TRUE, 5, 1);
    sweep(POWER_READ_EIO, FALSE, FALSE, 2, 1);
}

/* The kernel reports it once, and may have dropped what it did not write. */
static void
failing_syncs_anywhere_lose_nothing_answered(void **state)
{
    (void)state;
    sweep(POWER_SYNC_FAILS, FALSE, FALSE, 1, 1);
    sweep(POWER_SYNC_FAILS, FALSE, TRUE, 1, 3);
}

/* ---- Opening it ---- */

static guint
count_set_aside(const char *dir)
{
    g_autoptr(GDir) folder = g_dir_open(dir, 0, NULL);
    const char *name;
    guint count = 0;

    while (folder && (name = g_dir_read_name(folder)))
        count += strstr(name, ".lost-") != NULL;
    return count;
}

/* FALSE: opening it has fewer calls than that. */
static gboolean
open_on_a_bad_disk(StoreFixture *fixture, PowerFault fault, guint at, gboolean stays)
{
    g_autofree char *reason = NULL;
    g_autoptr(CkptCheckpoint) row = NULL;
    CkptStore *store;
    gboolean fired;

    power_vfs_arm(fault, at, stays, at);
    store = ckpt_store_open(fixture->dir, NULL);
    fired = power_vfs_fired();
    if (fault != POWER_CUT)
        power_vfs_arm(POWER_GOOD, 0, FALSE, 0);
    ckpt_store_close(store);
    if (fault == POWER_CUT)
        power_vfs_lose(at);
    if (count_set_aside(fixture->dir))
        fail_msg("fault %u at call %u: the catalogue was set aside", fault, at);
    store_fixture_reopen(fixture);
    assert_true(ckpt_store_lost_reason(fixture->store, &reason, NULL));
    assert_null(reason);
    row = ckpt_store_get_checkpoint(fixture->store, "c1", NULL);
    assert_non_null(row);
    g_clear_pointer(&fixture->store, ckpt_store_close);
    return fired;
}

/* What the disk does is no damage of what is on it: set aside, a whole catalogue would be lost for nothing. */
static void
a_disk_that_fails_while_it_is_opened_sets_nothing_aside(void **state)
{
    static const PowerFault faults[] = {POWER_READ_EIO, POWER_EIO, POWER_NO_SPACE, POWER_SHORT,
                                        POWER_SYNC_FAILS};
    StoreFixture *fixture = *state;
    guint places = 0;

    for (guint i = 0; i < 20; i++) { /* more than SQLite keeps: rows are read from the disk twice */
        g_autofree char *id = g_strdup_printf("c%u", i);
        CkptCheckpoint *row = sample_checkpoint(id, "v1", 1);

        g_free(row->definition);
        row->definition = g_strnfill(200000, 'x');
        store_put(fixture->store, row);
    }
    g_clear_pointer(&fixture->store, ckpt_store_close);
    for (guint i = 0; i < G_N_ELEMENTS(faults); i++)
        for (guint stays = 0; stays < 2; stays++)
            for (guint at = 1; open_on_a_bad_disk(fixture, faults[i], at, stays == 1); at += at < 40 ? 1 : 83)
                places++;
    print_message("%u places\n", places);
    assert_true(places > 20);
}

static void
make_older(const char *dir)
{
    g_autofree char *path = g_build_filename(dir, "vmcheckpoint.db", NULL);
    sqlite3 *handle;

    assert_int_equal(sqlite3_open_v2(path, &handle, SQLITE_OPEN_READWRITE, "unix"), SQLITE_OK);
    assert_int_equal(sqlite3_exec(handle, "ALTER TABLE operations DROP COLUMN sum; PRAGMA user_version = 5", NULL,
                                  NULL, NULL),
                     SQLITE_OK);
    sqlite3_close(handle);
    power_vfs_forget();
}

/* It is made wholly, or not at all and then once more. */
static void
an_upgrade_that_fails_anywhere_loses_nothing(void **state)
{
    static const PowerFault faults[] = {POWER_CUT, POWER_NO_SPACE, POWER_SHORT, POWER_EIO, POWER_SYNC_FAILS};
    StoreFixture *fixture = *state;
    guint places = 0;

    store_put(fixture->store, sample_checkpoint("c1", "v1", 1));
    g_clear_pointer(&fixture->store, ckpt_store_close);
    for (guint i = 0; i < G_N_ELEMENTS(faults); i++)
        for (guint at = 1; make_older(fixture->dir), open_on_a_bad_disk(fixture, faults[i], at, FALSE); at++)
            places++;
    print_message("%u places\n", places);
    assert_true(places > 20);
}

/* The catalogue's pages go home every few commits, so that these faults meet checkpoints of the log. */
static int
checkpoint_often(sqlite3 *handle, const char **message, const void *routines)
{
    (void)message;
    (void)routines;
    return sqlite3_wal_autocheckpoint(handle, 12);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_disk_that_fails_while_it_is_opened_sets_nothing_aside,
                                        store_fixture_setup, store_fixture_teardown),
        cmocka_unit_test_setup_teardown(an_upgrade_that_fails_anywhere_loses_nothing, store_fixture_setup,
                                        store_fixture_teardown),
        cmocka_unit_test(a_power_cut_anywhere_loses_nothing_answered),
        cmocka_unit_test(no_space_anywhere_makes_it_read_only),
        cmocka_unit_test(short_writes_anywhere_make_it_read_only),
        cmocka_unit_test(disk_errors_anywhere_make_it_read_only),
        cmocka_unit_test(failing_syncs_anywhere_lose_nothing_answered),
    };

    sqlite3_auto_extension((void (*)(void))checkpoint_often);
    return cmocka_run_group_tests(tests, learn_states, drop_states);
}
