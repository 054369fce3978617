/* A catalogue that is damaged at any byte, cut short or emptied: the store refuses it with what to do, or
 * refuses the reads that meet the damage; it never falls over, and never opens as if nothing had been. */
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
    guint refused, noticed, unharmed;
} Database;

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
    g_clear_pointer(&fixture->store, ckpt_store_close);
    database->path = g_build_filename(fixture->dir, "vmcheckpoint.db", NULL);
    assert_true(g_file_get_contents(database->path, &database->bytes, &database->length, NULL));
}

static void
database_clear(Database *database)
{
    print_message("%u refused, %u noticed by a reader, %u without effect\n", database->refused,
                  database->noticed, database->unharmed);
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

/* A list may fail; one that does not has what was written. */
static gboolean
is_noticed(CkptStore *store)
{
    g_autoptr(GPtrArray) checkpoints =
        ckpt_store_list_checkpoints(store, &(CkptCheckpointQuery){.enabled = -1,
                                                                  .include_deleting = TRUE}, NULL);
    g_autoptr(GPtrArray) operations =
        ckpt_store_list_operations(store, &(CkptOperationQuery){0}, NULL);
    g_autoptr(GPtrArray) of_vm = ckpt_store_vm_checkpoints(store, "v1", NULL);

    if (checkpoints && checkpoints->len != CHECKPOINTS)
        fail_msg("%u checkpoints are listed", checkpoints->len);
    if (operations && operations->len != OPERATIONS)
        fail_msg("%u operations are listed", operations->len);
    return !checkpoints || !operations || !of_vm;
}

static void
try_it(StoreFixture *fixture, Database *database)
{
    g_autoptr(GError) error = NULL;

    fixture->store = ckpt_store_open(fixture->dir, &error);
    if (!fixture->store) {
        assert_true(g_error_matches(error, CKPT_ERROR, CKPT_REASON_STORE_FAILED));
        assert_true(strlen(error->message) > 20);
        database->refused++;
        return;
    }
    if (is_noticed(fixture->store))
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
    database->bytes[at] = before;
    try_it(fixture, database);
}

/* All bytes of the first header, every 311th of the rest, which is a prime: it meets all places of pages. */
static void
damage_at_any_byte_is_refused_or_noticed(void **state)
{
    StoreFixture *fixture = *state;
    Database database = {0};

    take(fixture, &database);
    for (gsize at = 0; at + 1 < database.length; at += at < 100 ? 1 : 311) {
        damage(fixture, &database, at, (char)0xff);
        damage(fixture, &database, at + 1, (char)(1 << at % 8));
    }
    assert_true(database.refused > 50);
    database_clear(&database);
}

#define PAGE 4096

/* What is lost of the last page alone is met by its readers. */
static void
one_cut_short_is_refused(void **state)
{
    StoreFixture *fixture = *state;
    Database database = {0};

    take(fixture, &database);
    for (gsize length = 0; length < database.length; length += 512) {
        put_file(database.path, database.bytes, length);
        try_it(fixture, &database);
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
    g_autoptr(GError) error = NULL;

    take(fixture, &database);
    put_file(database.path, "", 0);
    assert_null(ckpt_store_open(fixture->dir, &error));
    assert_non_null(strstr(error->message, "is empty, and it was not"));
    /* As the message says: set aside, there is a new one. */
    assert_int_equal(g_unlink(database.path), 0);
    store_fixture_reopen(fixture);
    store_put(fixture->store, sample_checkpoint("c1", "v1", 1));
    database_clear(&database);
}

#define TEST(name)                                                                                 \
    cmocka_unit_test_setup_teardown(name, store_fixture_setup, store_fixture_teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(damage_at_any_byte_is_refused_or_noticed),
        TEST(one_cut_short_is_refused),
        TEST(one_emptied_is_not_taken_for_a_new_one),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
