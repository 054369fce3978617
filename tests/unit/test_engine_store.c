/* What the engine owes to a store that forgets, refuses and fails: the plan of a delete that has begun is
 * never lost, an end that could not be written is written later, and nothing acts twice. */
#include "tests/unit/cmocka_all.h"
#include "tests/unit/engine_fixture.h"
#include "tests/unit/store_fixture.h"

#include "common/id.h"

#include <string.h>

/* ---- Between the engine and the store (ld --wrap): ends that are refused ---- */

static guint refuse_ends; /* atomic: so many more; the engine's threads write ends */
static guint refused;     /* atomic */

gboolean __real_ckpt_store_end_operation(CkptStore *store, const CkptOperation *operation,
                                         CkptChange *change, GError **error);
gboolean __wrap_ckpt_store_end_operation(CkptStore *store, const CkptOperation *operation,
                                         CkptChange *change, GError **error);
gboolean
__wrap_ckpt_store_end_operation(CkptStore *store, const CkptOperation *operation,
                                CkptChange *change, GError **error)
{
    if (g_atomic_int_get(&refuse_ends) == 0)
        return __real_ckpt_store_end_operation(store, operation, change, error);
    g_atomic_int_dec_and_test(&refuse_ends);
    g_atomic_int_inc(&refused);
    ckpt_error_set(error, CKPT_REASON_STORE_FAILED, "somebody else has the catalogue");
    return FALSE;
}

/* ---- A catalogue that becomes read-only with the commit that decides ---- */

static int lost; /* atomic: 1 = the next such commit is lost, 2 = it was */
static guint asked_while_lost; /* atomic */

gboolean __real_ckpt_store_journal(CkptStore *store, const CkptOperation *operation,
                                   CkptChange *change, GError **error);
gboolean __wrap_ckpt_store_journal(CkptStore *store, const CkptOperation *operation,
                                   CkptChange *change, GError **error);
gboolean
__wrap_ckpt_store_journal(CkptStore *store, const CkptOperation *operation, CkptChange *change,
                          GError **error)
{
    if (g_atomic_int_get(&lost) == 0 || !change)
        return __real_ckpt_store_journal(store, operation, change, error);
    g_atomic_int_set(&lost, 2);
    ckpt_error_set(error, CKPT_REASON_STORE_FAILED, "input/output error");
    return FALSE;
}

char *__real_ckpt_store_read_only_reason(CkptStore *store);
char *__wrap_ckpt_store_read_only_reason(CkptStore *store);
char *
__wrap_ckpt_store_read_only_reason(CkptStore *store)
{
    if (g_atomic_int_get(&lost) != 2)
        return __real_ckpt_store_read_only_reason(store);
    g_atomic_int_inc(&asked_while_lost);
    return g_strdup("input/output error");
}

/* ---- The delete that has begun ---- */

typedef struct {
    char *older, *newer; /* checkpoints: the guest wrote 1, then 2, then 3 */
    char *request_id;    /* of the delete of `older` that could not be finished */
} Begun;

static void
begun_clear(Begun *begun)
{
    g_free(begun->older);
    g_free(begun->newer);
    g_free(begun->request_id);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Begun, begun_clear)

static void
begin_delete(EngineFixture *fixture, Begun *begun)
{
    g_auto(Outcome) outcome = {0};
    g_autoptr(CkptCheckpoint) row = NULL;

    engine_fixture_write(fixture);
    begun->older = engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL);
    engine_fixture_write(fixture);
    begun->newer = engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL);
    engine_fixture_write(fixture);
    begun->request_id = ckpt_id_new();
    fixture->fail_kind = CKPT_STEP_MERGE;
    engine_fixture_call(
        fixture, engine_fixture_request(CKPT_KIND_DELETE, begun->request_id, begun->older), &outcome);
    assert_non_null(outcome.error);
    row = ckpt_store_get_checkpoint(fixture->store, begun->older, NULL);
    assert_int_equal(row->state, CKPT_STATE_DELETING);
}

static void
assert_finished(EngineFixture *fixture, const Begun *begun)
{
    g_autoptr(GPtrArray) rows = ckpt_store_vm_checkpoints(fixture->store, FIXTURE_VM, NULL);
    g_autofree char *safety = NULL;

    assert_int_equal(rows->len, 1);
    assert_int_equal(engine_fixture_read(fixture), 3);
    safety = engine_fixture_must(fixture, CKPT_KIND_RESTORE, begun->newer);
    assert_int_equal(engine_fixture_read(fixture), 2);
    assert_int_equal(fixture->sim->crimes->len, 0);
}

/* Results are forgotten after result_days: here at once, with each start. */
static void
the_plan_of_a_delete_that_has_begun_is_never_forgotten(void **state)
{
    EngineFixture *fixture = *state;
    g_autofree char *id = ckpt_id_new();
    g_auto(Outcome) outcome = {0};
    g_auto(Begun) begun = {0};
    g_autoptr(GPtrArray) left = NULL;

    begin_delete(fixture, &begun);
    fixture->limits.result_days = 0;
    engine_fixture_restart(fixture);
    engine_fixture_restart(fixture);
    left = ckpt_store_list_operations(fixture->store, &(CkptOperationQuery){0}, NULL);
    assert_int_equal(left->len, 2); /* of the deleted one only: the other create is forgotten */
    /* Another caller's request, since nobody remembers the first one's id. */
    engine_fixture_call(fixture, engine_fixture_request(CKPT_KIND_DELETE, id, begun.older), &outcome);
    if (outcome.error)
        fail_msg("%s", outcome.error->message);
    assert_finished(fixture, &begun);
    engine_fixture_restart(fixture);
    g_ptr_array_unref(left);
    left = ckpt_store_list_operations(fixture->store, &(CkptOperationQuery){0}, NULL);
    for (guint i = 0; i < left->len; i++)
        assert_int_not_equal(((CkptOperation *)left->pdata[i])->kind, CKPT_KIND_DELETE);
}

/* A failure gives its id back; one that left a delete half done does not, since its row has the plan. */
static void
the_id_of_a_delete_that_has_begun_is_not_given_back(void **state)
{
    EngineFixture *fixture = *state;
    g_auto(Outcome) outcome = {0};
    g_auto(Begun) begun = {0};

    begin_delete(fixture, &begun);
    engine_fixture_call(fixture,
                        engine_fixture_request(CKPT_KIND_RESTORE, begun.request_id, begun.newer),
                        &outcome);
    assert_int_equal(ckpt_error_reason(outcome.error), CKPT_REASON_REQUEST_ID_REUSED);
    engine_fixture_call(fixture,
                        engine_fixture_request(CKPT_KIND_DELETE, begun.request_id, begun.newer),
                        &outcome);
    assert_int_equal(ckpt_error_reason(outcome.error), CKPT_REASON_REQUEST_ID_REUSED);
    engine_fixture_call(fixture,
                        engine_fixture_request(CKPT_KIND_DELETE, begun.request_id, begun.older),
                        &outcome);
    assert_null(outcome.error);
    assert_finished(fixture, &begun);
}

/* The other half: what failed with the VM as before may be sent again, also as something else. */
static void
the_id_of_a_failure_that_changed_nothing_is_given_back(void **state)
{
    EngineFixture *fixture = *state;
    g_autofree char *id = ckpt_id_new();
    g_autofree char *checkpoint = engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL);
    g_auto(Outcome) outcome = {0};

    fixture->fail_kind = CKPT_STEP_SNAPSHOT;
    engine_fixture_call(fixture, engine_fixture_request(CKPT_KIND_CREATE, id, NULL), &outcome);
    assert_int_equal(ckpt_error_reason(outcome.error), CKPT_REASON_FILE_FAILED);
    engine_fixture_call(fixture, engine_fixture_request(CKPT_KIND_DELETE, id, checkpoint), &outcome);
    assert_null(outcome.error);
}

/* ---- Ends that the store refuses ---- */

static CkptOperation *
stored(EngineFixture *fixture, const char *request_id)
{
    CkptOperation *op =
        ckpt_store_find_operation(fixture->store, FIXTURE_IDENTITY, request_id, NULL);

    assert_non_null(op);
    return op;
}

static void
assert_no_end_is_open(EngineFixture *fixture)
{
    g_autoptr(GPtrArray) unfinished = ckpt_store_unfinished_operations(fixture->store, NULL);

    assert_int_equal(unfinished->len, 0);
    assert_int_equal(g_atomic_int_get(&refuse_ends), 0);
}

/* The caller waits until it is told the truth, which by then is stored. */
static void
a_success_whose_end_is_refused_is_ended_later(void **state)
{
    EngineFixture *fixture = *state;
    g_autofree char *id = ckpt_id_new();
    g_auto(Outcome) outcome = {0};
    g_autoptr(CkptOperation) op = NULL;
    g_autoptr(GPtrArray) rows = NULL;

    g_atomic_int_set(&refused, 0);
    g_atomic_int_set(&refuse_ends, 2);
    engine_fixture_call(fixture, engine_fixture_request(CKPT_KIND_CREATE, id, NULL), &outcome);
    if (outcome.error)
        fail_msg("%s", outcome.error->message);
    assert_int_equal(g_atomic_int_get(&refused), 2);
    op = stored(fixture, id);
    assert_int_equal(op->state, CKPT_OP_SUCCEEDED);
    assert_string_equal(op->checkpoint->id, outcome.op->checkpoint->id);
    rows = ckpt_store_vm_checkpoints(fixture->store, FIXTURE_VM, NULL);
    assert_int_equal(rows->len, 1); /* it acted once */
    assert_no_end_is_open(fixture);
}

static void
a_failure_whose_end_is_refused_is_ended_later(void **state)
{
    EngineFixture *fixture = *state;
    g_autofree char *id = ckpt_id_new();
    g_auto(Outcome) outcome = {0};
    g_autoptr(CkptOperation) op = NULL;
    g_autoptr(GPtrArray) rows = NULL;

    fixture->fail_kind = CKPT_STEP_SNAPSHOT;
    g_atomic_int_set(&refused, 0);
    g_atomic_int_set(&refuse_ends, 1);
    engine_fixture_call(fixture, engine_fixture_request(CKPT_KIND_CREATE, id, NULL), &outcome);
    assert_non_null(outcome.error);
    assert_int_equal(g_atomic_int_get(&refused), 1);
    op = stored(fixture, id);
    assert_int_equal(op->state, CKPT_OP_FAILED);
    rows = ckpt_store_vm_checkpoints(fixture->store, FIXTURE_VM, NULL);
    assert_int_equal(rows->len, 0);
    assert_no_end_is_open(fixture);
}

static void
an_update_whose_end_is_refused_is_not_half_made(void **state)
{
    EngineFixture *fixture = *state;
    g_autofree char *checkpoint = engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL);
    g_autofree char *id = ckpt_id_new();
    g_autoptr(CkptCheckpoint) row = NULL;
    g_auto(Outcome) outcome = {0};
    CkptRequest *request = engine_fixture_request(CKPT_KIND_UPDATE, id, checkpoint);
    gboolean renamed;

    ckpt_set_str(&request->name, "renamed");
    g_atomic_int_set(&refuse_ends, 1);
    engine_fixture_call(fixture, request, &outcome);
    row = ckpt_store_get_checkpoint(fixture->store, checkpoint, NULL);
    renamed = g_str_equal(row->name, "renamed");
    assert_int_equal(renamed, outcome.error == NULL);
    assert_no_end_is_open(fixture);
}

/* Refused until the agent ends: the next one writes the end, and does nothing again. */
static void
an_end_that_was_never_written_is_written_by_the_next_start(void **state)
{
    EngineFixture *fixture = *state;
    g_autofree char *id = ckpt_id_new();
    g_auto(Outcome) outcome = {0};
    g_autoptr(GPtrArray) rows = NULL;
    CkptRequest *request = engine_fixture_request(CKPT_KIND_CREATE, id, NULL);

    request->wait_us = 200000;
    g_atomic_int_set(&refuse_ends, 1000);
    engine_fixture_call(fixture, request, &outcome);
    assert_int_equal(ckpt_error_reason(outcome.error), CKPT_REASON_OPERATION_RUNNING);
    while (g_atomic_int_get(&refuse_ends) == 1000) /* it has done all but end */
        g_usleep(1000);
    engine_fixture_close(fixture);
    g_atomic_int_set(&refuse_ends, 0);
    engine_fixture_open(fixture);
    engine_fixture_call(fixture, engine_fixture_request(CKPT_KIND_CREATE, id, NULL), &outcome);
    if (outcome.error)
        fail_msg("%s", outcome.error->message);
    rows = ckpt_store_vm_checkpoints(fixture->store, FIXTURE_VM, NULL);
    assert_int_equal(rows->len, 1);
    assert_string_equal(((CkptCheckpoint *)rows->pdata[0])->id, outcome.op->checkpoint->id);
    assert_no_end_is_open(fixture);
}

/* Neither done nor undone while nothing can be written; tried again meanwhile, which changes nothing. */
static void
a_decision_that_cannot_be_written_waits(void **state)
{
    EngineFixture *fixture = *state;
    g_autofree char *id = ckpt_id_new();
    g_autofree char *checkpoint = engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL);
    g_auto(Outcome) outcome = {0}, again = {0};
    CkptRequest *request = engine_fixture_request(CKPT_KIND_DELETE, id, checkpoint);
    guint asked;

    request->wait_us = 200000;
    g_atomic_int_set(&asked_while_lost, 0);
    g_atomic_int_set(&lost, 1);
    engine_fixture_call(fixture, request, &outcome);
    assert_int_equal(ckpt_error_reason(outcome.error), CKPT_REASON_OPERATION_RUNNING);
    while (g_atomic_int_get(&lost) != 2) /* it has come to the commit that decides */
        g_usleep(1000);
    asked = (guint)g_atomic_int_get(&asked_while_lost);
    while ((guint)g_atomic_int_get(&asked_while_lost) == asked)
        g_main_context_iteration(NULL, TRUE);
    g_atomic_int_set(&lost, 0);
    engine_fixture_call(fixture, engine_fixture_request(CKPT_KIND_DELETE, id, checkpoint), &again);
    assert_no_end_is_open(fixture);
    assert_int_equal(fixture->sim->crimes->len, 0);
}

/* A crash had left the guest suspended, and what comes before the merge back cannot be undone, ever. */
static gboolean
manifests_fail(CkptSim *sim, CkptSimMoment moment, const CkptPlan *plan, const CkptStep *step,
           gpointer data, GError **error)
{
    CkptSimVm *vm = ckpt_sim_find_vm(sim, FIXTURE_VM);
    gboolean *snapshotted = data;

    (void)plan;
    if (moment != CKPT_SIM_BEGUN || !step)
        return TRUE;
    *snapshotted = *snapshotted || step->kind == CKPT_STEP_SNAPSHOT;
    if (!*snapshotted || step->kind != CKPT_STEP_WRITE_MANIFEST)
        return TRUE;
    vm->power = CKPT_POWER_PAUSED;
    vm->suspended = TRUE;
    ckpt_error_set(error, CKPT_REASON_FILE_FAILED, "told to fail");
    return FALSE;
}

static void
an_operation_that_is_given_up_leaves_no_guest_suspended(void **state)
{
    EngineFixture *fixture = *state;
    CkptSimVm *vm = ckpt_sim_find_vm(fixture->sim, FIXTURE_VM);
    g_auto(Outcome) outcome = {0};
    g_autofree char *id = ckpt_id_new();
    gboolean snapshotted = FALSE;

    fixture->sim->hook = manifests_fail;
    fixture->sim->hook_data = &snapshotted;
    engine_fixture_call(fixture, engine_fixture_request(CKPT_KIND_CREATE, id, NULL), &outcome);
    assert_int_equal(ckpt_error_reason(outcome.error), CKPT_REASON_RECOVERY_FAILED);
    assert_true(snapshotted);
    assert_false(vm->suspended);
    assert_int_equal(vm->power, CKPT_POWER_RUNNING);
}

#define TEST(name)                                                                                 \
    cmocka_unit_test_setup_teardown(name, engine_fixture_setup, engine_fixture_teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_plan_of_a_delete_that_has_begun_is_never_forgotten),
        TEST(the_id_of_a_delete_that_has_begun_is_not_given_back),
        TEST(the_id_of_a_failure_that_changed_nothing_is_given_back),
        TEST(a_success_whose_end_is_refused_is_ended_later),
        TEST(a_failure_whose_end_is_refused_is_ended_later),
        TEST(an_update_whose_end_is_refused_is_not_half_made),
        TEST(an_end_that_was_never_written_is_written_by_the_next_start),
        TEST(a_decision_that_cannot_be_written_waits),
        TEST(an_operation_that_is_given_up_leaves_no_guest_suspended),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
