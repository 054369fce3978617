/* The store on a catalogue of an older or a newer agent. */
#include "tests/unit/cmocka_all.h"
#include "tests/unit/model_samples.h"
#include "tests/unit/store_fixture.h"

#include <sqlite3.h>

/* Runs SQL on the closed store's file. */
static void
tamper(StoreFixture *fixture, const char *sql)
{
    g_autofree char *path = g_build_filename(fixture->dir, "vmcheckpoint.db", NULL);
    sqlite3 *handle;

    g_clear_pointer(&fixture->store, ckpt_store_close);
    assert_int_equal(sqlite3_open(path, &handle), SQLITE_OK);
    assert_int_equal(sqlite3_exec(handle, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(handle);
}

static void
a_newer_schema_is_refused(void **state)
{
    StoreFixture *fixture = *state;

    tamper(fixture, "PRAGMA user_version = 99");
    assert_not_opened(fixture->dir, "newer agent");
}

static char *
read_schema(StoreFixture *fixture)
{
    g_autofree char *path = g_build_filename(fixture->dir, "vmcheckpoint.db", NULL);
    GString *text = g_string_new(NULL);
    sqlite3 *handle;
    sqlite3_stmt *statement;

    g_clear_pointer(&fixture->store, ckpt_store_close);
    assert_int_equal(sqlite3_open(path, &handle), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(handle,
                                        "SELECT user_version FROM pragma_user_version UNION ALL"
                                        " SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL",
                                        -1, &statement, NULL),
                     SQLITE_OK);
    while (sqlite3_step(statement) == SQLITE_ROW)
        g_string_append_printf(text, "%s\n", (const char *)sqlite3_column_text(statement, 0));
    sqlite3_finalize(statement);
    sqlite3_close(handle);
    return g_string_free(text, FALSE);
}

/* The newest schema less what later versions added is the older one. */
#define BACK_TO_2                                                                                  \
    "ALTER TABLE checkpoints DROP COLUMN sum; ALTER TABLE operations DROP COLUMN sum;"             \
    "UPDATE checkpoints SET body = json_remove(body, '$.deferred');"                               \
    "UPDATE operations SET request = json_remove(request, '$.when_possible'),"                     \
    " checkpoint = json_remove(checkpoint, '$.deferred');"                                         \
    "DROP INDEX files_doomed; ALTER TABLE files DROP COLUMN doomed; PRAGMA user_version = 2;"
#define BACK_TO_1 BACK_TO_2 "DROP TABLE snapshot_results; PRAGMA user_version = 1;"

static void
add_ended(CkptStore *store)
{
    g_autoptr(CkptOperation) operation = sample_operation("alice", "r1");

    store_add(store, operation);
    operation->plan = sample_plan();
    assert_true(ckpt_store_set_plan(store, operation, NULL));
    operation->state = CKPT_OP_SUCCEEDED;
    operation->ended_us = 7;
    operation->checkpoint = sample_checkpoint("c1", "v1", 1);
    assert_true(ckpt_store_end_operation(store, operation, NULL, NULL));
}

static void
an_older_schema_is_upgraded_and_keeps_its_rows(void **state)
{
    static const char *const back[] = {BACK_TO_1, BACK_TO_2};
    StoreFixture *fixture = *state;
    g_autoptr(CkptChange) made = ckpt_change_new(), gone = ckpt_change_new();
    g_autofree char *schema = NULL;

    g_ptr_array_add(made->made, g_strdup("/images/a.qcow2"));
    g_ptr_array_add(gone->gone, g_strdup("/images/a.qcow2"));
    store_put(fixture->store, sample_checkpoint("c1", "v1", 1));
    assert_true(ckpt_store_apply(fixture->store, made, "v1", NULL));
    add_ended(fixture->store);
    schema = read_schema(fixture);
    for (gsize i = 0; i < G_N_ELEMENTS(back); i++) {
        g_autoptr(CkptCheckpoint) row = NULL;
        g_autoptr(CkptOperation) ended = NULL;
        g_autoptr(GPtrArray) files = NULL, doomed = NULL, then = NULL;
        g_autofree char *upgraded = NULL;

        tamper(fixture, back[i]);
        store_fixture_reopen(fixture);
        row = ckpt_store_get_checkpoint(fixture->store, "c1", NULL);
        assert_non_null(row);
        ended = ckpt_store_find_operation(fixture->store, "alice", "r1", NULL);
        assert_non_null(ended);
        assert_string_equal(ended->checkpoint->id, "c1");
        files = ckpt_store_vm_files(fixture->store, "v1", NULL);
        assert_int_equal(files->len, 1);
        doomed = ckpt_store_doomed_files(fixture->store, "v1", NULL);
        assert_int_equal(doomed->len, 0); /* an older agent had not said so */
        assert_true(ckpt_store_apply(fixture->store, gone, "v1", NULL));
        then = ckpt_store_doomed_files(fixture->store, "v1", NULL);
        assert_int_equal(then->len, 1);
        upgraded = read_schema(fixture);
        assert_string_equal(upgraded, schema);
    }
}

#define BACK_TO_5 "ALTER TABLE operations DROP COLUMN sum; PRAGMA user_version = 5;"
#define BACK_TO_4 "ALTER TABLE checkpoints DROP COLUMN sum;" BACK_TO_5 "PRAGMA user_version = 4;"
#define BACK_TO_LAST_OF_4 "UPDATE checkpoints SET body = body || char(10) || sum;" BACK_TO_4
#define BACK_TO_3                                                                                  \
    BACK_TO_4                                                                                      \
    "UPDATE checkpoints SET body = json_remove(body, '$.departed', '$.epoch', '$.extras',"         \
    " '$.not_captured', '$.qemu_version', '$.stayed');"                                            \
    "UPDATE operations SET request = json_remove(request, '$.finding_ids', '$.without_memory');"   \
    "PRAGMA user_version = 3;"

/* Steps have had the same numbers since. */
static void
a_later_schema_is_upgraded_with_what_is_unfinished(void **state)
{
    static const char *const back[] = {BACK_TO_5, BACK_TO_LAST_OF_4, BACK_TO_4, BACK_TO_3};
    StoreFixture *fixture = *state;
    g_autoptr(CkptOperation) begun = sample_operation("alice", "r1");

    store_put(fixture->store, sample_checkpoint("c1", "v1", 1));
    store_add(fixture->store, begun);
    begun->plan = sample_plan();
    assert_true(ckpt_store_set_plan(fixture->store, begun, NULL));
    for (gsize i = 0; i < G_N_ELEMENTS(back); i++) {
        g_autoptr(CkptCheckpoint) row = NULL;
        g_autoptr(GPtrArray) open = NULL;
        g_autofree char *reason = NULL;
        const CkptOperation *found;

        tamper(fixture, back[i]);
        store_fixture_reopen(fixture);
        assert_true(ckpt_store_lost_reason(fixture->store, &reason, NULL));
        assert_null(reason);
        row = ckpt_store_get_checkpoint(fixture->store, "c1", NULL);
        assert_non_null(row);
        open = ckpt_store_unfinished_operations(fixture->store, NULL);
        assert_int_equal(open->len, 1);
        found = open->pdata[0];
        assert_null(found->damage);
        assert_int_equal(found->plan->steps->len, begun->plan->steps->len);
    }
}

static void
an_older_schema_with_a_begun_delete_is_refused(void **state)
{
    StoreFixture *fixture = *state;

    store_put(fixture->store, sample_checkpoint("c1", "v1", 1));
    tamper(fixture, BACK_TO_2 "UPDATE checkpoints SET state = 2;");
    assert_not_opened(fixture->dir, "older agent's");
}

#define TEST(name)                                                                                 \
    cmocka_unit_test_setup_teardown(name, store_fixture_setup, store_fixture_teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_newer_schema_is_refused),
        TEST(an_older_schema_is_upgraded_and_keeps_its_rows),
        TEST(a_later_schema_is_upgraded_with_what_is_unfinished),
        TEST(an_older_schema_with_a_begun_delete_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
