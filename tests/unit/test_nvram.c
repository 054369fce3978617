/* UEFI variables: with each checkpoint, and with each restore and its undo. On the simulated hypervisor,
 * with a real store. */
#include "cmocka_all.h"

#include "engine_fixture.h"

#include "common/id.h"

#define NVRAM "/nvram/web-01_VARS.fd"

static int
setup(void **state)
{
    EngineFixture *fixture;

    engine_fixture_setup(state);
    fixture = *state;
    ckpt_sim_find_vm(fixture->sim, FIXTURE_VM)->nvram = g_strdup(NVRAM);
    ckpt_sim_write_cell(fixture->sim,
                        ckpt_sim_add_file(fixture->sim, NVRAM, CKPT_FORMAT_RAW, 1, NULL, 0600), 0, 1);
    return 0;
}

static guint32
variables(EngineFixture *fixture)
{
    CkptSimFile *file = ckpt_sim_find(fixture->sim, NVRAM);

    return file ? file->data[0] : 0;
}

static void
set_variables(EngineFixture *fixture, guint32 value)
{
    ckpt_sim_write_cell(fixture->sim, ckpt_sim_find(fixture->sim, NVRAM), 0, value);
}

static char *
copy_of(EngineFixture *fixture, const char *id)
{
    g_autoptr(CkptCheckpoint) row = ckpt_store_get_checkpoint(fixture->store, id, NULL);
    const CkptCheckpointFile *file = ckpt_checkpoint_find_extra(row, CKPT_FILE_NVRAM);

    return file ? g_strdup(file->path) : NULL;
}

static guint
raw_files(EngineFixture *fixture)
{
    GHashTableIter iter;
    gpointer value;
    guint count = 0;

    g_hash_table_iter_init(&iter, fixture->sim->files);
    while (g_hash_table_iter_next(&iter, NULL, &value))
        count += g_str_has_suffix(((CkptSimFile *)value)->path, ".nvram");
    return count;
}

/* Nothing is judged while an operation, or the look behind it, is at the VM. */
static gboolean
is_enabled(EngineFixture *fixture, const char *id)
{
    g_autoptr(CkptCheckpointInfo) info = NULL;

    while (!ckpt_engine_is_idle(fixture->engine)) {
        while (g_main_context_iteration(NULL, FALSE))
            ;
        g_usleep(1000);
    }
    info = ckpt_engine_get_checkpoint(fixture->engine, id, TRUE, NULL);
    return !info->checkpoint->disabled_reason || !*info->checkpoint->disabled_reason;
}

static void
restore_brings_uefi_variables_back_and_keeps_the_present_ones(void **state)
{
    EngineFixture *fixture = *state;
    g_autofree char *id = engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL);
    g_autofree char *safety = NULL, *again = NULL, *copy = copy_of(fixture, id);

    assert_non_null(copy);
    set_variables(fixture, 2);
    safety = engine_fixture_must(fixture, CKPT_KIND_RESTORE, id);
    assert_int_equal(variables(fixture), 1);
    assert_true(is_enabled(fixture, safety));
    again = engine_fixture_must(fixture, CKPT_KIND_RESTORE, safety);
    assert_int_equal(variables(fixture), 2);
}

static void
delete_removes_the_copy(void **state)
{
    EngineFixture *fixture = *state;
    g_autofree char *id = engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL);

    assert_int_equal(raw_files(fixture), 1);
    g_free(engine_fixture_must(fixture, CKPT_KIND_DELETE, id));
    assert_int_equal(raw_files(fixture), 0);
    assert_int_equal(variables(fixture), 1);
}

static void
restore_that_discards_leaves_no_copy_behind(void **state)
{
    EngineFixture *fixture = *state;
    g_autofree char *id = engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL);
    g_autofree char *request_id = ckpt_id_new();
    CkptRequest *request = engine_fixture_request(CKPT_KIND_RESTORE, request_id, id);
    g_auto(Outcome) outcome = {0};

    set_variables(fixture, 2);
    request->discard_present_state = TRUE;
    engine_fixture_call(fixture, request, &outcome);
    if (outcome.error)
        fail_msg("%s", outcome.error->message);
    assert_int_equal(variables(fixture), 1);
    assert_int_equal(raw_files(fixture), 1);
}

/* Each with and without a safety checkpoint: a failed restore leaves the VM as before. */
static void
failed_restore_puts_the_present_variables_back(void **state)
{
    static const CkptStepKind kinds[] = {CKPT_STEP_SAVE_NVRAM, CKPT_STEP_PUT_NVRAM, CKPT_STEP_START,
                                         CKPT_STEP_CHECK_CHAIN};
    EngineFixture *fixture = *state;
    g_autofree char *id = engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL);

    for (guint i = 0; i < 2 * G_N_ELEMENTS(kinds); i++) {
        g_autofree char *request_id = g_strdup_printf("r-fails-%u", i);
        CkptRequest *request = engine_fixture_request(CKPT_KIND_RESTORE, request_id, id);
        g_auto(Outcome) outcome = {0};

        set_variables(fixture, 100 + i);
        request->discard_present_state = i % 2;
        fixture->fail_kind = kinds[i / 2];
        engine_fixture_call(fixture, request, &outcome);
        assert_non_null(outcome.error);
        assert_int_equal(variables(fixture), 100 + i);
        assert_int_equal(raw_files(fixture), 1);
    }
}

/* The restore fails at its start, and libvirt is away for a moment in its undo, when the copy of the present
 * variables is gone already: the undo is done again from its beginning. */
typedef struct {
    gboolean failed;
    guint defines;
} Cut;

static gboolean
cut_the_undo(CkptSim *sim, CkptSimMoment moment, const CkptPlan *plan, const CkptStep *step, gpointer data,
             GError **error)
{
    Cut *cut = data;

    (void)sim;
    (void)plan;
    if (moment != CKPT_SIM_BEGUN || !step)
        return TRUE;
    if (step->kind == CKPT_STEP_START && !cut->failed) {
        cut->failed = TRUE;
        ckpt_error_set(error, CKPT_REASON_HYPERVISOR_FAILED, "told to fail");
        return FALSE;
    }
    if (step->kind != CKPT_STEP_DEFINE || ++cut->defines != 2)
        return TRUE;
    ckpt_error_set(error, CKPT_REASON_HYPERVISOR_UNAVAILABLE, "libvirt is away");
    return FALSE;
}

static void
undo_that_is_cut_short_is_done_again(void **state)
{
    EngineFixture *fixture = *state;
    g_autofree char *id = engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL);
    g_autoptr(CkptVmRecord) record = NULL;
    g_auto(Outcome) outcome = {0};
    Cut cut = {0};

    set_variables(fixture, 2);
    fixture->sim->hook = cut_the_undo;
    fixture->sim->hook_data = &cut;
    engine_fixture_call(fixture, engine_fixture_request(CKPT_KIND_RESTORE, "r-cut", id), &outcome);
    assert_non_null(outcome.error);
    assert_true(cut.defines > 2);
    record = ckpt_store_get_vm(fixture->store, FIXTURE_VM, NULL);
    assert_null(record->quarantine_reason);
    assert_int_equal(ckpt_sim_find_vm(fixture->sim, FIXTURE_VM)->power, CKPT_POWER_RUNNING);
    assert_int_equal(variables(fixture), 2);
    assert_int_equal(raw_files(fixture), 1);
}

static void
checkpoint_whose_copy_was_changed_is_not_restored(void **state)
{
    EngineFixture *fixture = *state;
    g_autofree char *id = engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL);
    g_autofree char *copy = copy_of(fixture, id);
    g_auto(Outcome) outcome = {0};

    ckpt_sim_write_cell(fixture->sim, ckpt_sim_find(fixture->sim, copy), 0, 66);
    assert_false(is_enabled(fixture, id));
    engine_fixture_call(fixture, engine_fixture_request(CKPT_KIND_RESTORE, "r-changed", id), &outcome);
    assert_int_equal(ckpt_error_reason(outcome.error), CKPT_REASON_SEALED_FILE_CHANGED);
    assert_int_equal(variables(fixture), 1);
    g_free(engine_fixture_must(fixture, CKPT_KIND_DELETE, id)); /* its disks are whole */
    assert_int_equal(raw_files(fixture), 0);
}

static void
restore_without_a_place_for_the_variables_is_refused(void **state)
{
    EngineFixture *fixture = *state;
    g_autofree char *id = engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL);
    g_auto(Outcome) outcome = {0};

    g_clear_pointer(&ckpt_sim_find_vm(fixture->sim, FIXTURE_VM)->nvram, g_free);
    engine_fixture_call(fixture, engine_fixture_request(CKPT_KIND_RESTORE, "r-bios", id), &outcome);
    assert_int_equal(ckpt_error_reason(outcome.error), CKPT_REASON_NVRAM_UNSUPPORTED);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(restore_brings_uefi_variables_back_and_keeps_the_present_ones, setup,
                                        engine_fixture_teardown),
        cmocka_unit_test_setup_teardown(delete_removes_the_copy, setup, engine_fixture_teardown),
        cmocka_unit_test_setup_teardown(restore_that_discards_leaves_no_copy_behind, setup,
                                        engine_fixture_teardown),
        cmocka_unit_test_setup_teardown(failed_restore_puts_the_present_variables_back, setup,
                                        engine_fixture_teardown),
        cmocka_unit_test_setup_teardown(undo_that_is_cut_short_is_done_again, setup,
                                        engine_fixture_teardown),
        cmocka_unit_test_setup_teardown(checkpoint_whose_copy_was_changed_is_not_restored, setup,
                                        engine_fixture_teardown),
        cmocka_unit_test_setup_teardown(restore_without_a_place_for_the_variables_is_refused, setup,
                                        engine_fixture_teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
