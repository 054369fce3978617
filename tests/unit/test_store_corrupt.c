/* A catalogue that is damaged at any byte, cut short, emptied or gone: it is set aside as it is, and an empty
 * one says so; or nothing of its rows was hurt. It never falls over, never has a wrong row, and never opens as
 * if nothing had been. */
#include "agent/model/json.h"
#include "tests/unit/cmocka_all.h"
#include "tests/unit/model_samples.h"
#include "tests/unit/store_fixture.h"

#include <glib/gstdio.h>
#include <string.h>

#define CHECKPOINTS 8
#define OPERATIONS 8

typedef struct {
    char *path;
    char *bytes;
    gsize length;
    char *rows[CHECKPOINTS]; /* as they were written */
    guint aside, newer, noticed, unharmed;
} Database;

static char *
lost_reason(StoreFixture *fixture)
{
    char *reason;

    assert_true(ckpt_store_lost_reason(fixture->store, &reason, NULL));
    return reason;
}

static gboolean
is_new(StoreFixture *fixture)
{
    gboolean fresh;

    assert_true(ckpt_store_is_new(fixture->store, &fresh, NULL));
    return fresh;
}

static void
fill(CkptStore *store)
{
    for (guint i = 0; i < CHECKPOINTS; i++) {
        g_autofree char *id = g_strdup_printf("c%u", i);

        store_put(store, sample_checkpoint(id, "v1", 1 + i));
    }
    for (guint i = 0; i < OPERATIONS; i++) {
        g_autofree char *id = g_strdup_printf("r%u", i);
        g_autoptr(CkptOperation) operation = sample_operation("alice", id);
        g_autoptr(GError) error = NULL;

        store_add(store, operation);
        operation->plan = sample_plan();
        assert_true(ckpt_store_set_plan(store, operation, &error));
    }
}

/* Closed, with all of it in the one file. */
static void
take(StoreFixture *fixture, Database *database)
{
    fill(fixture->store);
    for (guint i = 0; i < CHECKPOINTS; i++) {
        g_autofree char *id = g_strdup_printf("c%u", i);
        g_autoptr(CkptCheckpoint) row = ckpt_store_get_checkpoint(fixture->store, id, NULL);

        database->rows[i] = ckpt_checkpoint_to_json(row);
    }
    g_clear_pointer(&fixture->store, ckpt_store_close);
    database->path = g_build_filename(fixture->dir, "vmcheckpoint.db", NULL);
    assert_true(g_file_get_contents(database->path, &database->bytes, &database->length, NULL));
}

static void
database_clear(Database *database)
{
    print_message("%u set aside, %u a newer agent's, %u noticed by a reader, %u without effect\n",
                  database->aside, database->newer, database->noticed, database->unharmed);
    for (guint i = 0; i < CHECKPOINTS; i++)
        g_free(database->rows[i]);
    g_free(database->path);
    g_free(database->bytes);
}

static void
put_file(const char *path, const char *bytes, gsize length)
{
    FILE *file = g_fopen(path, "w");

    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, length, file), length);
    assert_int_equal(fclose(file), 0);
    g_chmod(path, 0600);
}

static void
assert_rows(const Database *database, GPtrArray *checkpoints)
{
    if (checkpoints->len != CHECKPOINTS)
        fail_msg("%u checkpoints are listed", checkpoints->len);
    for (guint i = 0; i < CHECKPOINTS; i++) {
        g_autofree char *json = ckpt_checkpoint_to_json(checkpoints->pdata[i]);

        assert_string_equal(json, database->rows[i]);
    }
}

/* A list may fail; one that does not has what was written. */
static gboolean
is_noticed(const Database *database, CkptStore *store)
{
    g_autoptr(GPtrArray) checkpoints =
        ckpt_store_list_checkpoints(store, &(CkptCheckpointQuery){.enabled = -1,
                                                                  .include_deleting = TRUE}, NULL);
    g_autoptr(GPtrArray) operations =
        ckpt_store_list_operations(store, &(CkptOperationQuery){0}, NULL);
    g_autoptr(GPtrArray) of_vm = ckpt_store_vm_checkpoints(store, "v1", NULL);

    if (checkpoints)
        assert_rows(database, checkpoints);
    if (of_vm)
        assert_rows(database, of_vm);
    if (operations && operations->len != OPERATIONS)
        fail_msg("%u operations are listed", operations->len);
    return !checkpoints || !operations || !of_vm;
}

/* The file of that name has these bytes; it is removed. */
static void
assert_is_aside(const char *dir, const char *reason, const char *bytes, gsize length)
{
    const char *last = g_strrstr(reason, dir);
    g_autofree char *found = NULL;
    gsize size = 0;

    assert_non_null(last);
    assert_true(g_file_get_contents(last, &found, &size, NULL));
    assert_int_equal(size, length);
    assert_memory_equal(found, bytes, length);
    g_unlink(last);
}

/* It is empty, says so, and says so again when it is opened again. */
static void
assert_lost(StoreFixture *fixture, const char *bytes, gsize length)
{
    g_autofree char *reason = lost_reason(fixture);
    g_autofree char *again = NULL;
    g_autoptr(GPtrArray) checkpoints = ckpt_store_list_checkpoints(
        fixture->store, &(CkptCheckpointQuery){.enabled = -1, .include_deleting = TRUE}, NULL);

    assert_int_equal(checkpoints->len, 0);
    assert_is_aside(fixture->dir, reason, bytes, length);
    g_clear_pointer(&fixture->store, ckpt_store_close);
    store_fixture_reopen(fixture);
    again = lost_reason(fixture);
    assert_string_equal(reason, again);
    g_clear_pointer(&fixture->store, ckpt_store_close);
}

static void
try_it(StoreFixture *fixture, Database *database, const char *bytes, gsize length)
{
    g_autofree char *reason = NULL;
    g_autoptr(GError) error = NULL;

    fixture->store = ckpt_store_open(fixture->dir, &error);
    if (!fixture->store) {
        assert_true(g_error_matches(error, CKPT_ERROR, CKPT_REASON_STORE_FAILED));
        if (!strstr(error->message, "newer agent"))
            fail_msg("%s", error->message);
        database->newer++;
        return;
    }
    reason = lost_reason(fixture);
    if (reason) {
        database->aside++;
        assert_lost(fixture, bytes, length);
        return;
    }
    if (is_noticed(database, fixture->store))
        database->noticed++;
    else
        database->unharmed++;
    g_clear_pointer(&fixture->store, ckpt_store_close);
}

static void
damage(StoreFixture *fixture, Database *database, gsize at, char with)
{
    char before = database->bytes[at];

    database->bytes[at] = (char)(before ^ with);
    put_file(database->path, database->bytes, database->length);
    try_it(fixture, database, database->bytes, database->length);
    database->bytes[at] = before;
}

/* A prime: it meets all places of pages. The sanitizers look at each way through the code; the other builds meet
 * more places. */
#ifdef CKPT_SANITIZED
#define STRIDE 2179
#else
#define STRIDE 311
#endif

/* All bytes of the first header, every STRIDEth of the rest. */
static void
damage_at_any_byte_sets_it_aside_or_hurts_no_row(void **state)
{
    StoreFixture *fixture = *state;
    Database database = {0};

    take(fixture, &database);
    for (gsize at = 0; at + 1 < database.length; at += at < 100 ? 1 : STRIDE) {
        damage(fixture, &database, at, (char)0xff);
        damage(fixture, &database, at + 1, (char)(1 << at % 8));
    }
    assert_true(database.aside > 100);
    database_clear(&database);
}

#define PAGE 4096

/* What is lost of the last page alone is met by its readers. */
static void
one_cut_short_is_set_aside(void **state)
{
    StoreFixture *fixture = *state;
    Database database = {0};

    take(fixture, &database);
    for (gsize length = 0; length < database.length; length += 512) {
        put_file(database.path, database.bytes, length);
        if (length == 0)
            continue;
        try_it(fixture, &database, database.bytes, length);
        if (length + PAGE <= database.length && database.noticed + database.unharmed)
            fail_msg("one of %zu bytes is opened, of %zu", length, database.length);
    }
    database_clear(&database);
}

/* A file system that lost what was written into it leaves one of no bytes. */
static void
one_emptied_is_not_taken_for_a_new_one(void **state)
{
    StoreFixture *fixture = *state;
    Database database = {0};

    take(fixture, &database);
    put_file(database.path, "", 0);
    store_fixture_reopen(fixture);
    assert_lost(fixture, "", 0);
    database_clear(&database);
}

static void
one_that_is_gone_is_not_taken_for_a_new_one(void **state)
{
    StoreFixture *fixture = *state;
    Database database = {0};
    g_autofree char *reason = NULL, *agreed = NULL;

    take(fixture, &database);
    assert_int_equal(g_unlink(database.path), 0);
    store_fixture_reopen(fixture);
    reason = lost_reason(fixture);
    assert_non_null(strstr(reason, "gone"));
    assert_true(ckpt_store_set_lost(fixture->store, NULL, NULL));
    store_put(fixture->store, sample_checkpoint("c1", "v1", 1));
    g_clear_pointer(&fixture->store, ckpt_store_close);
    store_fixture_reopen(fixture);
    agreed = lost_reason(fixture);
    assert_null(agreed);
    database_clear(&database);
}

static guint
count_aside(StoreFixture *fixture)
{
    g_autoptr(GDir) dir = g_dir_open(fixture->dir, 0, NULL);
    guint count = 0;

    for (const char *name; (name = g_dir_read_name(dir));)
        count += strstr(name, ".lost-") != NULL;
    return count;
}

/* There is nothing to set aside but what its writer had not put into it yet. */
static void
one_that_is_gone_leaves_nothing_behind(void **state)
{
    StoreFixture *fixture = *state;
    Database database = {0};
    g_autofree char *log = NULL;

    take(fixture, &database);
    log = g_strconcat(database.path, "-wal", NULL);
    assert_int_equal(g_unlink(database.path), 0);
    store_fixture_reopen(fixture);
    assert_int_equal(count_aside(fixture), 0);
    g_clear_pointer(&fixture->store, ckpt_store_close);
    assert_int_equal(g_unlink(database.path), 0);
    put_file(log, "log", 3);
    store_fixture_reopen(fixture);
    assert_int_equal(count_aside(fixture), 1);
    database_clear(&database);
}

static void
a_new_one_is_not_lost(void **state)
{
    StoreFixture *fixture = *state;
    g_autofree char *reason = lost_reason(fixture);

    assert_null(reason);
    assert_true(is_new(fixture));
    assert_true(ckpt_store_set_compared(fixture->store, NULL));
    g_clear_pointer(&fixture->store, ckpt_store_close);
    store_fixture_reopen(fixture);
    assert_false(is_new(fixture));
}

#define TEST(name)                                                                                 \
    cmocka_unit_test_setup_teardown(name, store_fixture_setup, store_fixture_teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(damage_at_any_byte_sets_it_aside_or_hurts_no_row),
        TEST(one_cut_short_is_set_aside),
        TEST(one_emptied_is_not_taken_for_a_new_one),
        TEST(one_that_is_gone_is_not_taken_for_a_new_one),
        TEST(one_that_is_gone_leaves_nothing_behind),
        TEST(a_new_one_is_not_lost),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
