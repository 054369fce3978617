/* Deletes that have begun and did not come to their end: what finishes them. On the simulated hypervisor, with
 * a real store. */
#include "cmocka_all.h"

#include "engine_fixture.h"

#include "common/id.h"

typedef struct {
    EngineFixture *engine;
    guint cells;              /* a pull is cut short behind so many, 0 = it is not */
    CkptStepKind fail_kind;   /* fails once */
    CkptReason fail_reason;
} Fixture;

static gboolean
on_moment(CkptSim *sim, CkptSimMoment moment, const CkptPlan *plan, const CkptStep *step, gpointer data,
          GError **error)
{
    Fixture *fixture = data;

    (void)sim;
    (void)plan;
    if (step && moment == CKPT_SIM_BEGUN && step->kind == fixture->fail_kind)
        fixture->fail_kind = 0;
    else if (!step || moment != CKPT_SIM_CHANGED || step->kind != CKPT_STEP_PULL || fixture->cells == 0 ||
             --fixture->cells > 0)
        return TRUE;
    ckpt_error_set(error, fixture->fail_reason, "told to fail");
    return FALSE;
}

static int
setup(void **state)
{
    Fixture *fixture = g_new0(Fixture, 1);
    void *engine = NULL;

    engine_fixture_setup(&engine);
    fixture->engine = engine;
    fixture->engine->sim->hook = on_moment;
    fixture->engine->sim->hook_data = fixture;
    fixture->fail_reason = CKPT_REASON_IMAGE_TOOL_FAILED;
    *state = fixture;
    return 0;
}

static int
teardown(void **state)
{
    Fixture *fixture = *state;
    void *engine = fixture->engine;

    assert_int_equal(fixture->engine->sim->crimes->len, 0);
    engine_fixture_teardown(&engine);
    g_free(fixture);
    return 0;
}

static CkptSimVm *
vm_of(Fixture *fixture)
{
    return ckpt_sim_find_vm(fixture->engine->sim, FIXTURE_VM);
}

static void
start(Fixture *fixture)
{
    g_autoptr(GError) error = NULL;

    if (!ckpt_sim_start(fixture->engine->sim, vm_of(fixture), CKPT_POWER_RUNNING, &error))
        fail_msg("%s", error->message);
}

static void
delete_fails(Fixture *fixture, const char *request, const char *checkpoint, CkptReason reason)
{
    g_auto(Outcome) outcome = {0};

    engine_fixture_call(fixture->engine, engine_fixture_request(CKPT_KIND_DELETE, request, checkpoint),
                        &outcome);
    assert_non_null(outcome.error);
    assert_int_equal(ckpt_error_reason(outcome.error), reason);
}

static void
delete_is_done(Fixture *fixture, const char *request, const char *checkpoint)
{
    g_auto(Outcome) outcome = {0};

    engine_fixture_call(fixture->engine, engine_fixture_request(CKPT_KIND_DELETE, request, checkpoint),
                        &outcome);
    if (outcome.error)
        fail_msg("%s", outcome.error->message);
    assert_null(ckpt_store_get_checkpoint(fixture->engine->store, checkpoint, NULL));
}

/* A VM that is off, with a checkpoint whose delete is a pull that was cut short in its midst. */
static char *
cut_a_pull_short(Fixture *fixture, const char *request)
{
    char *second;
    CkptSim *sim = fixture->engine->sim;
    CkptSimFile *sealed;

    g_free(engine_fixture_must(fixture->engine, CKPT_KIND_CREATE, NULL));
    sealed = g_ptr_array_index(ckpt_sim_find_live(vm_of(fixture), "vda")->chain, 0);
    for (guint i = 0; i < 3; i++)
        ckpt_sim_write_cell(sim, sealed, i, 100 + i);
    second = engine_fixture_must(fixture->engine, CKPT_KIND_CREATE, NULL);
    ckpt_sim_stop(sim, vm_of(fixture));
    fixture->cells = 1;
    delete_fails(fixture, request, second, CKPT_REASON_IMAGE_TOOL_FAILED);
    assert_int_equal(fixture->cells, 0); /* it was a pull */
    return second;
}

static void
assert_contents(Fixture *fixture)
{
    g_autoptr(GPtrArray) chain = ckpt_sim_disk_chain(fixture->engine->sim, vm_of(fixture), "vda");

    assert_int_equal(chain->len, 2);
    for (guint i = 0; i < 3; i++)
        assert_int_equal(ckpt_sim_read_cell(chain, 0, i), 100 + i);
}

static void
a_pull_cut_short_is_finished_in_a_vm_that_was_started_since(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *request = ckpt_id_new();
    g_autofree char *other = ckpt_id_new();
    g_autofree char *checkpoint = cut_a_pull_short(fixture, request);

    start(fixture);
    delete_is_done(fixture, other, checkpoint);
    assert_contents(fixture);
    g_free(engine_fixture_must(fixture->engine, CKPT_KIND_CREATE, NULL));
}

static void
the_same_request_finishes_it_too(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *request = ckpt_id_new();
    g_autofree char *checkpoint = cut_a_pull_short(fixture, request);

    start(fixture);
    delete_is_done(fixture, request, checkpoint);
    assert_contents(fixture);
}

/* What was planned anew takes the place of the plan that had begun. */
static void
a_delete_planned_anew_that_fails_at_once_is_planned_once_more(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *request = ckpt_id_new();
    g_autofree char *checkpoint = cut_a_pull_short(fixture, request);

    start(fixture);
    fixture->fail_kind = CKPT_STEP_RESERVE;
    delete_fails(fixture, request, checkpoint, CKPT_REASON_IMAGE_TOOL_FAILED);
    assert_int_equal(fixture->fail_kind, 0);
    delete_is_done(fixture, request, checkpoint);
    assert_contents(fixture);
}

static void
a_pull_cut_short_goes_on_while_the_vm_is_off(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *request = ckpt_id_new();
    g_autofree char *checkpoint = cut_a_pull_short(fixture, request);
    const CkptSimFile *top = NULL;

    top = ckpt_sim_find(fixture->engine->sim,
                        ckpt_sim_definition_find(vm_of(fixture)->definition, "vda")->source);
    delete_is_done(fixture, request, checkpoint);
    assert_contents(fixture);
    /* the top is the file that it was */
    assert_ptr_equal(ckpt_sim_find(fixture->engine->sim,
                                   ckpt_sim_definition_find(vm_of(fixture)->definition, "vda")->source),
                     top);
}

/* The catalogue does not go on calling it wrong when it is right again. */
static void
a_delete_that_was_given_up_and_is_finished_ends_the_quarantine(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *request = ckpt_id_new();
    g_autofree char *checkpoint = engine_fixture_must(fixture->engine, CKPT_KIND_CREATE, NULL);
    gint64 until = g_get_monotonic_time() + 10 * G_TIME_SPAN_SECOND;
    CkptVmRecord *record;
    gboolean over = FALSE;

    fixture->fail_kind = CKPT_STEP_MERGE;
    fixture->fail_reason = CKPT_REASON_CHAIN_MISMATCH;
    delete_fails(fixture, request, checkpoint, CKPT_REASON_CHAIN_MISMATCH);
    record = ckpt_store_get_vm(fixture->engine->store, FIXTURE_VM, NULL);
    assert_non_null(record->quarantine_reason);
    ckpt_vm_record_free(record);
    delete_is_done(fixture, request, checkpoint);
    while (!over && g_get_monotonic_time() < until) {
        g_main_context_iteration(NULL, FALSE);
        record = ckpt_store_get_vm(fixture->engine->store, FIXTURE_VM, NULL);
        over = !record->quarantine_reason;
        ckpt_vm_record_free(record);
        g_usleep(1000);
    }
    assert_true(over);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_pull_cut_short_is_finished_in_a_vm_that_was_started_since),
        TEST(the_same_request_finishes_it_too),
        TEST(a_delete_planned_anew_that_fails_at_once_is_planned_once_more),
        TEST(a_pull_cut_short_goes_on_while_the_vm_is_off),
        TEST(a_delete_that_was_given_up_and_is_finished_ends_the_quarantine),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
