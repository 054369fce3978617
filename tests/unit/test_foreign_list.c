/* Lists in which other tools' snapshots stand beside the agent's checkpoints, page by page. */
#include "tests/unit/cmocka_all.h"
#include "tests/unit/engine_fixture.h"

static GPtrArray *
without_a_time(CkptDriver *driver, const char *vm_id, const CkptKnownFile *files, GError **error)
{
    GPtrArray *found = g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_snapshot_free);

    (void)driver;
    (void)vm_id;
    (void)files;
    (void)error;
    g_ptr_array_add(found, ckpt_snapshot_new("one"));
    g_ptr_array_add(found, ckpt_snapshot_new("two"));
    return found;
}

/* Of which nobody knows when they were made. */
static void
pages_behind_snapshots_without_a_time_go_on(void **state)
{
    EngineFixture *fixture = *state;
    g_autofree char *id = engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL), *last = NULL;
    CkptCheckpointQuery query = {.vm_id = FIXTURE_VM, .enabled = -1, .limit = 1};
    g_autoptr(GPtrArray) warnings = g_ptr_array_new_with_free_func(g_free);
    guint pages = 0;

    ckpt_sim_driver(fixture->sim)->foreign = without_a_time;
    for (;;) {
        g_autoptr(GPtrArray) infos =
            ckpt_engine_list_checkpoints(fixture->engine, &query, FALSE, warnings, NULL);
        const CkptCheckpoint *row;

        assert_non_null(infos);
        if (infos->len == 0)
            break;
        row = ((CkptCheckpointInfo *)infos->pdata[0])->checkpoint;
        assert_true(++pages <= 3);
        assert_string_not_equal(row->id, last ? last : "");
        ckpt_set_str(&last, row->id);
        query.after_added_us = row->added_us;
        query.after_id = last;
    }
    assert_int_equal(pages, 3);
    assert_string_equal(last, id);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(pages_behind_snapshots_without_a_time_go_on, engine_fixture_setup,
                                        engine_fixture_teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
