/* The store's catalogue: checkpoints and their lists, VMs, the files that the agent made, events. */
#include "agent/model/json.h"
#include "tests/unit/cmocka_all.h"
#include "tests/unit/model_samples.h"
#include "tests/unit/store_fixture.h"

#include <glib/gstdio.h>

/* ---- Checkpoints ---- */

static void
revision_grows_with_every_change(void **state)
{
    StoreFixture *fixture = *state;
    g_autoptr(CkptCheckpoint) first = sample_checkpoint("c1", "v1", 1);
    g_autoptr(CkptCheckpoint) now = NULL;
    g_autoptr(GError) error = NULL;

    first->revision = 0;
    for (guint i = 0; i < 3; i++)
        store_put(fixture->store, ckpt_checkpoint_copy(first));
    now = ckpt_store_get_checkpoint(fixture->store, "c1", &error);
    assert_true(now->revision == 3);
}

static void
a_checkpoint_is_kept_whole(void **state)
{
    StoreFixture *fixture = *state;
    g_autoptr(CkptCheckpoint) checkpoint = sample_checkpoint("c1", "v1", 1), back = NULL;
    g_autoptr(GError) error = NULL;
    g_autofree char *before = NULL, *after = NULL;

    checkpoint->revision = 41;
    store_put(fixture->store, ckpt_checkpoint_copy(checkpoint));
    store_fixture_reopen(fixture);
    back = ckpt_store_get_checkpoint(fixture->store, "c1", &error);
    checkpoint->revision = 42;
    before = ckpt_checkpoint_to_json(checkpoint);
    after = ckpt_checkpoint_to_json(back);
    assert_string_equal(before, after);
}

static void
put_named(CkptStore *store, guint number, const char *vm_id, const char *tier)
{
    g_autofree char *id = g_strdup_printf("c%02u", number);
    CkptCheckpoint *checkpoint = sample_checkpoint(id, vm_id, 1000 + number / 2);

    checkpoint->revision = 0;
    g_hash_table_insert(checkpoint->labels, g_strdup("tier"), g_strdup(tier));
    ckpt_set_str(&checkpoint->vm_name, vm_id);
    ckpt_set_str(&checkpoint->run_id, number < 4 ? "run-a" : "");
    if (number == 5)
        checkpoint->accessibility = CKPT_ACCESSIBILITY_INTERNAL;
    if (number == 6)
        checkpoint->disabled_reason = g_strdup("file missing");
    if (number == 7)
        checkpoint->state = CKPT_STATE_DELETING;
    if (number == 8)
        ckpt_set_str(&checkpoint->name, "other");
    store_put(store, checkpoint);
}

/* c00 … c11, two at each time; even ones of v0, odd ones of v1. */
static void
put_twelve(CkptStore *store)
{
    for (guint i = 0; i < 12; i++)
        put_named(store, 11 - i, (11 - i) % 2 ? "v1" : "v0", (11 - i) % 3 ? "web" : "db");
}

static char *
list(CkptStore *store, const CkptCheckpointQuery *query)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) found = ckpt_store_list_checkpoints(store, query, &error);
    GString *text = g_string_new(NULL);

    assert_non_null(found);
    for (guint i = 0; i < found->len; i++)
        g_string_append_printf(text, "%s%s", i ? " " : "",
                               ((CkptCheckpoint *)found->pdata[i])->id + 1);
    return g_string_free(text, FALSE);
}

static void
checkpoints_are_listed_by_each_filter(void **state)
{
    StoreFixture *fixture = *state;
    g_autoptr(GHashTable) db = g_hash_table_new(g_str_hash, g_str_equal);
    g_autoptr(GHashTable) none = g_hash_table_new(g_str_hash, g_str_equal);

    g_hash_table_insert(db, (char *)"tier", (char *)"db");
    g_hash_table_insert(db, (char *)"ärger \"x\"", (char *)"\\\n\t\x7f\x01");
    g_hash_table_insert(none, (char *)"tier", (char *)"db");
    g_hash_table_insert(none, (char *)"nope", (char *)"");
    put_twelve(fixture->store);
    const struct {
        CkptCheckpointQuery query;
        const char *ids;
    } cases[] = {
        {{.enabled = -1}, "00 01 02 03 04 05 06 08 09 10 11"},
        {{.enabled = -1, .include_deleting = TRUE}, "00 01 02 03 04 05 06 07 08 09 10 11"},
        {{.enabled = -1, .vm_id = "v0"}, "00 02 04 06 08 10"},
        {{.enabled = -1, .vm_name = "v1"}, "01 03 05 09 11"},
        {{.enabled = -1, .name = "other"}, "08"},
        {{.enabled = -1, .run_id = "run-a"}, "00 01 02 03"},
        {{.enabled = -1, .labels = db}, "00 03 06 09"},
        {{.enabled = -1, .labels = none}, ""},
        {{.enabled = -1, .accessibility = CKPT_ACCESSIBILITY_INTERNAL}, "05"},
        {{.enabled = 0}, "06"},
        {{.enabled = 1, .vm_id = "v0"}, "00 02 04 08 10"},
        {{.enabled = -1, .added_after_us = 1004}, "08 09 10 11"},
        {{.enabled = -1, .added_before_us = 1002}, "00 01 02 03"},
        {{.enabled = -1, .most_recent = TRUE}, "10 11"},
        {{.enabled = -1, .most_recent = TRUE, .run_id = "run-a"}, "02 03"},
        {{.enabled = -1, .most_recent = TRUE, .added_before_us = 1004}, "05 06"},
        {{.enabled = -1, .most_recent = TRUE, .limit = 1}, "10"},
        {{.enabled = -1, .most_recent = TRUE, .after_added_us = 1005, .after_id = "c10"}, "11"},
        {{.enabled = -1, .limit = 3}, "00 01 02"},
        {{.enabled = -1, .limit = 3, .after_added_us = 1001, .after_id = "c02"}, "03 04 05"},
    };
    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *ids = list(fixture->store, &cases[i].query);

        assert_string_equal(ids, cases[i].ids);
    }
}

static void
pages_neither_repeat_nor_leave_out(void **state)
{
    StoreFixture *fixture = *state;
    g_autoptr(GString) all = g_string_new(NULL);
    g_autofree char *last = NULL;
    CkptCheckpointQuery query = {.enabled = -1, .limit = 5};

    put_twelve(fixture->store);
    for (;;) {
        g_autoptr(GPtrArray) page = ckpt_store_list_checkpoints(fixture->store, &query, NULL);
        const CkptCheckpoint *end_of_page;

        for (guint i = 0; i < page->len; i++)
            g_string_append(all, ((CkptCheckpoint *)page->pdata[i])->id);
        if (page->len == 0)
            break;
        end_of_page = page->pdata[page->len - 1];
        query.after_added_us = end_of_page->added_us;
        ckpt_set_str(&last, end_of_page->id);
        query.after_id = last;
        /* What is removed behind the page changes nothing before it. */
        if (g_str_equal(last, "c04")) {
            g_autoptr(CkptChange) change = ckpt_change_new();

            g_ptr_array_add(change->removes, g_strdup("c01"));
            assert_true(ckpt_store_apply(fixture->store, change, "v1", NULL));
        }
    }
    assert_string_equal(all->str, "c00c01c02c03c04c05c06c08c09c10c11");
}

static void
a_vms_checkpoints_come_in_the_order_of_their_making(void **state)
{
    StoreFixture *fixture = *state;
    g_autoptr(GPtrArray) found = NULL, nothing = NULL;

    put_twelve(fixture->store);
    found = ckpt_store_vm_checkpoints(fixture->store, "v1", NULL);
    nothing = ckpt_store_vm_checkpoints(fixture->store, "v9", NULL);
    assert_int_equal(found->len, 6);
    assert_int_equal(nothing->len, 0);
    for (guint i = 0; i < found->len; i++) {
        g_autofree char *id = g_strdup_printf("c%02u", 2 * i + 1);

        assert_string_equal(((CkptCheckpoint *)found->pdata[i])->id, id);
    }
}

/* ---- Virtual machines, files, events ---- */

static void
a_vm_has_a_record(void **state)
{
    StoreFixture *fixture = *state;
    g_autoptr(CkptVmRecord) unknown = ckpt_store_get_vm(fixture->store, "v9", NULL);
    g_autoptr(CkptVmRecord) known = NULL, lifted = NULL;
    g_autoptr(CkptChange) change = ckpt_change_new();

    assert_string_equal(unknown->vm_id, "v9");
    assert_null(unknown->current_id);
    assert_null(unknown->quarantine_reason);
    put_twelve(fixture->store);
    change->set_current = TRUE;
    change->current_id = g_strdup("c11");
    assert_true(ckpt_store_apply(fixture->store, change, "v1", NULL));
    assert_true(ckpt_store_quarantine_vm(fixture->store, "v1", "somebody wrote", NULL));
    store_fixture_reopen(fixture);
    known = ckpt_store_get_vm(fixture->store, "v1", NULL);
    assert_string_equal(known->current_id, "c11");
    assert_string_equal(known->quarantine_reason, "somebody wrote");
    assert_int_equal(known->checkpoints, 5);
    g_clear_pointer(&change->current_id, g_free);
    assert_true(ckpt_store_apply(fixture->store, change, "v1", NULL));
    assert_true(ckpt_store_quarantine_vm(fixture->store, "v1", NULL, NULL));
    lifted = ckpt_store_get_vm(fixture->store, "v1", NULL);
    assert_null(lifted->current_id);
    assert_null(lifted->quarantine_reason);
}

static void
files_that_the_agent_made_are_known_until_they_are_removed(void **state)
{
    StoreFixture *fixture = *state;
    g_autoptr(CkptChange) made = ckpt_change_new(), gone = ckpt_change_new(), unlinked = ckpt_change_new();
    g_autoptr(GPtrArray) before = NULL, after = NULL, doomed = NULL, spared = NULL, vms = NULL;

    g_ptr_array_add(made->made, g_strdup("/b"));
    g_ptr_array_add(made->made, g_strdup("/a"));
    assert_true(ckpt_store_apply(fixture->store, made, "v1", NULL));
    assert_true(ckpt_store_apply(fixture->store, made, "v1", NULL));
    g_ptr_array_add(gone->gone, g_strdup("/a"));
    assert_true(ckpt_store_apply(fixture->store, gone, "v2", NULL));
    before = ckpt_store_vm_files(fixture->store, "v1", NULL);
    assert_int_equal(before->len, 2);
    assert_string_equal(before->pdata[0], "/a");
    assert_true(ckpt_store_apply(fixture->store, gone, "v1", NULL));
    store_fixture_reopen(fixture);
    doomed = ckpt_store_doomed_files(fixture->store, "v1", NULL);
    assert_int_equal(doomed->len, 1);
    assert_string_equal(doomed->pdata[0], "/a");
    vms = ckpt_store_vms(fixture->store, NULL);
    assert_int_equal(vms->len, 1); /* has no checkpoint */
    assert_true(ckpt_store_apply(fixture->store, made, "v1", NULL));
    spared = ckpt_store_doomed_files(fixture->store, "v1", NULL);
    assert_int_equal(spared->len, 0);
    g_ptr_array_add(unlinked->unlinked, g_strdup("/a"));
    assert_true(ckpt_store_apply(fixture->store, unlinked, "v1", NULL));
    after = ckpt_store_vm_files(fixture->store, "v1", NULL);
    assert_int_equal(after->len, 1);
    assert_string_equal(after->pdata[0], "/b");
}

/* A full disk, for one: a catalogue that is lost later looks where the file says. */
static void
a_folder_that_could_not_be_written_down_is_with_the_next_change(void **state)
{
    StoreFixture *fixture = *state;
    g_autofree char *path = g_build_filename(fixture->dir, "vmcheckpoint.folders", NULL);
    g_autofree char *inside = g_build_filename(path, "in the way", NULL);
    g_autoptr(GPtrArray) folders = NULL;

    assert_int_equal(g_mkdir_with_parents(inside, 0700), 0);
    store_put(fixture->store, sample_checkpoint("c1", "v1", 1));
    assert_int_equal(g_rmdir(inside), 0);
    assert_int_equal(g_rmdir(path), 0);
    store_put(fixture->store, sample_checkpoint("c2", "v1", 2));
    store_fixture_reopen(fixture);
    folders = ckpt_store_folders(fixture->store);
    assert_int_not_equal(folders->len, 0);
}

/* An older agent kept no such file. */
static void
folders_of_known_files_are_written_down_at_the_start(void **state)
{
    StoreFixture *fixture = *state;
    g_autofree char *path = g_build_filename(fixture->dir, "vmcheckpoint.folders", NULL);
    g_autofree char *text = NULL;
    g_autoptr(CkptChange) made = ckpt_change_new();

    g_ptr_array_add(made->made, g_strdup("/far/away/a.qcow2"));
    assert_true(ckpt_store_apply(fixture->store, made, "v1", NULL));
    g_clear_pointer(&fixture->store, ckpt_store_close);
    assert_int_equal(g_unlink(path), 0);
    store_fixture_reopen(fixture);
    assert_true(g_file_get_contents(path, &text, NULL, NULL));
    assert_string_equal(text, "/far/away\n");
}

static void
event_numbers_grow_over_restarts(void **state)
{
    StoreFixture *fixture = *state;

    assert_true(ckpt_store_next_event_block(fixture->store, NULL) == 1);
    assert_true(ckpt_store_next_event_block(fixture->store, NULL) == CKPT_EVENT_BLOCK + 1);
    store_fixture_reopen(fixture);
    assert_true(ckpt_store_next_event_block(fixture->store, NULL) == 2 * CKPT_EVENT_BLOCK + 1);
}

#define TEST(name)                                                                                 \
    cmocka_unit_test_setup_teardown(name, store_fixture_setup, store_fixture_teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(revision_grows_with_every_change),
        TEST(a_checkpoint_is_kept_whole),
        TEST(checkpoints_are_listed_by_each_filter),
        TEST(pages_neither_repeat_nor_leave_out),
        TEST(a_vms_checkpoints_come_in_the_order_of_their_making),
        TEST(a_vm_has_a_record),
        TEST(files_that_the_agent_made_are_known_until_they_are_removed),
        TEST(a_folder_that_could_not_be_written_down_is_with_the_next_change),
        TEST(folders_of_known_files_are_written_down_at_the_start),
        TEST(event_numbers_grow_over_restarts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
