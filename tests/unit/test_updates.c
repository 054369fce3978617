/* Updates touch the catalogue alone: they wait for no hypervisor, and nothing that goes on beside them
 * undoes them. On the simulated hypervisor, with a real store. */
#include "cmocka_all.h"

#include "engine_fixture.h"

#include "agent/core/plan_parts.h"
#include "agent/model/json.h"
#include "common/id.h"

typedef struct {
    EngineFixture *engine;
    GMutex gate;      /* held by the test: the hypervisor hangs at `at` */
    CkptStepKind at;  /* a step of this kind; 0 = whatever is asked */
    int armed, hangs; /* atomic */
} Fixture;

static gboolean
on_moment(CkptSim *sim, CkptSimMoment moment, const CkptPlan *plan, const CkptStep *step, gpointer data,
          GError **error)
{
    Fixture *fixture = data;

    (void)sim;
    (void)plan;
    (void)error;
    if (!g_atomic_int_get(&fixture->armed))
        return TRUE;
    if (fixture->at ? moment != CKPT_SIM_BEGUN || !step || step->kind != fixture->at
                    : moment != CKPT_SIM_ASKED)
        return TRUE;
    g_atomic_int_set(&fixture->armed, 0);
    g_atomic_int_set(&fixture->hangs, 1);
    g_mutex_lock(&fixture->gate);
    g_mutex_unlock(&fixture->gate);
    return TRUE;
}

static int
setup(void **state)
{
    Fixture *fixture = g_new0(Fixture, 1);
    void *engine;

    engine_fixture_setup(&engine);
    fixture->engine = engine;
    fixture->engine->sim->hook = on_moment;
    fixture->engine->sim->hook_data = fixture;
    g_mutex_init(&fixture->gate);
    *state = fixture;
    return 0;
}

static int
teardown(void **state)
{
    Fixture *fixture = *state;
    void *engine = fixture->engine;

    engine_fixture_teardown(&engine);
    g_mutex_clear(&fixture->gate);
    g_free(fixture);
    return 0;
}

static void
hang_at(Fixture *fixture, CkptStepKind kind)
{
    g_mutex_lock(&fixture->gate);
    fixture->at = kind;
    g_atomic_int_set(&fixture->hangs, 0);
    g_atomic_int_set(&fixture->armed, 1);
}

static void
wait_until_it_hangs(Fixture *fixture)
{
    while (!g_atomic_int_get(&fixture->hangs)) {
        while (g_main_context_iteration(NULL, FALSE))
            ;
        g_usleep(1000);
    }
}

static CkptRequest *
new_update(const char *checkpoint)
{
    g_autofree char *id = ckpt_id_new();
    CkptRequest *request = engine_fixture_request(CKPT_KIND_UPDATE, id, checkpoint);

    request->wait_us = 5 * G_TIME_SPAN_SECOND; /* enough for a catalogue, not for what hangs */
    return request;
}

static void
rename_it(Fixture *fixture, const char *checkpoint, const char *name)
{
    CkptRequest *request = new_update(checkpoint);
    g_auto(Outcome) outcome = {0};

    ckpt_set_str(&request->name, name);
    request->labels = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    g_hash_table_insert(request->labels, g_strdup("named"), g_strdup(name));
    engine_fixture_call(fixture->engine, request, &outcome);
    if (outcome.error)
        fail_msg("%s", outcome.error->message);
}

static CkptCheckpoint *
stored(Fixture *fixture, const char *checkpoint)
{
    return ckpt_store_get_checkpoint(fixture->engine->store, checkpoint, NULL);
}

static void
assert_named(Fixture *fixture, const char *checkpoint, const char *name)
{
    g_autoptr(CkptCheckpoint) row = stored(fixture, checkpoint);

    assert_string_equal(row->name, name);
    assert_string_equal(g_hash_table_lookup(row->labels, "named"), name);
}

/* A delete that another thread waits for, since this one is to be free. */
typedef struct {
    Outcome outcome;
    int done; /* atomic */
} Pending;

static void
on_pending(CkptOperation *op, const GError *error, gpointer data)
{
    Pending *pending = data;

    pending->outcome.op = op;
    pending->outcome.error = error ? g_error_copy(error) : NULL;
    g_atomic_int_set(&pending->done, 1);
}

static void
begin(Fixture *fixture, CkptKind kind, const char *checkpoint, Pending *pending)
{
    g_autofree char *id = ckpt_id_new();

    ckpt_engine_submit(fixture->engine->engine, engine_fixture_request(kind, id, checkpoint), on_pending,
                       pending);
    wait_until_it_hangs(fixture);
}

static void
go_on(Fixture *fixture, Pending *pending)
{
    g_mutex_unlock(&fixture->gate);
    while (!g_atomic_int_get(&pending->done)) {
        while (g_main_context_iteration(NULL, FALSE))
            ;
        g_usleep(1000);
    }
}

/* ---- Tests ---- */

static void
an_update_waits_for_no_look(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *made = engine_fixture_must(fixture->engine, CKPT_KIND_CREATE, NULL);

    hang_at(fixture, 0);
    ckpt_sim_tell(fixture->engine->sim, FIXTURE_VM);
    wait_until_it_hangs(fixture);
    rename_it(fixture, made, "renamed");
    g_mutex_unlock(&fixture->gate);
    assert_named(fixture, made, "renamed");
}

static void
an_update_waits_for_no_operation_and_is_not_undone_by_it(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *root = engine_fixture_must(fixture->engine, CKPT_KIND_CREATE, NULL);
    g_autofree char *child = engine_fixture_must(fixture->engine, CKPT_KIND_CREATE, NULL);
    g_autoptr(CkptCheckpoint) row = NULL;
    Pending pending = {0};

    hang_at(fixture, CKPT_STEP_MERGE);
    begin(fixture, CKPT_KIND_DELETE, root, &pending);
    rename_it(fixture, child, "renamed");
    assert_named(fixture, child, "renamed");
    go_on(fixture, &pending);
    assert_null(pending.outcome.error);
    assert_named(fixture, child, "renamed");
    row = stored(fixture, child);
    assert_null(row->parent_id); /* what the delete had to say of it */
    assert_int_equal(row->most_recent_task != NULL, TRUE);
    assert_string_equal(row->most_recent_task, "Update checkpoint");
    outcome_clear(&pending.outcome);
}

static void
a_hold_stops_a_delete_that_has_not_begun(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *made = engine_fixture_must(fixture->engine, CKPT_KIND_CREATE, NULL);
    CkptRequest *hold = new_update(made);
    g_autoptr(CkptCheckpoint) row = NULL;
    g_auto(Outcome) outcome = {0};
    Pending pending = {0};

    hang_at(fixture, CKPT_STEP_RESERVE);
    begin(fixture, CKPT_KIND_DELETE, made, &pending);
    ckpt_set_str(&hold->hold, "audit");
    engine_fixture_call(fixture->engine, hold, &outcome);
    assert_null(outcome.error);
    go_on(fixture, &pending);
    assert_int_equal(ckpt_error_reason(pending.outcome.error), CKPT_REASON_ETAG_MISMATCH);
    row = stored(fixture, made);
    assert_int_equal(row->state, CKPT_STATE_READY);
    assert_string_equal(row->hold, "audit");
    outcome_clear(&pending.outcome);
}

static void
what_is_being_deleted_is_not_updated(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *made = engine_fixture_must(fixture->engine, CKPT_KIND_CREATE, NULL);
    CkptRequest *hold = new_update(made);
    g_auto(Outcome) outcome = {0};
    Pending pending = {0};

    hang_at(fixture, CKPT_STEP_MERGE);
    begin(fixture, CKPT_KIND_DELETE, made, &pending);
    ckpt_set_str(&hold->hold, "audit");
    engine_fixture_call(fixture->engine, hold, &outcome);
    assert_int_equal(ckpt_error_reason(outcome.error), CKPT_REASON_CHECKPOINT_DELETING);
    go_on(fixture, &pending);
    assert_null(pending.outcome.error);
    assert_null(stored(fixture, made));
    outcome_clear(&pending.outcome);
}

#define ROUNDS 40

typedef struct {
    Fixture *fixture;
    const char *checkpoint;
    gboolean name; /* else the description */
    int done, failed;
} Writer;

static void
on_written(CkptOperation *op, const GError *error, gpointer data)
{
    Writer *writer = data;

    writer->failed += error != NULL;
    writer->done++;
    ckpt_operation_free(op);
}

static gpointer
write_rounds(gpointer data)
{
    Writer *writer = data;

    for (int i = 1; i <= ROUNDS; i++) {
        CkptRequest *request = new_update(writer->checkpoint);
        g_autofree char *text = g_strdup_printf("%d", i);

        ckpt_set_str(writer->name ? &request->name : &request->description, text);
        ckpt_engine_submit(writer->fixture->engine->engine, request, on_written, writer);
    }
    return NULL;
}

static void
of_updates_at_the_same_time_none_is_lost(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *made = engine_fixture_must(fixture->engine, CKPT_KIND_CREATE, NULL);
    Writer writers[] = {{fixture, made, TRUE, 0, 0}, {fixture, made, FALSE, 0, 0}};
    g_autoptr(CkptCheckpoint) before = stored(fixture, made);
    g_autoptr(CkptCheckpoint) row = NULL;
    GThread *threads[2];

    for (guint i = 0; i < 2; i++)
        threads[i] = g_thread_new("writer", write_rounds, &writers[i]);
    for (guint i = 0; i < 2; i++) {
        g_thread_join(threads[i]);
        assert_int_equal(writers[i].done, ROUNDS);
        assert_int_equal(writers[i].failed, 0);
    }
    row = stored(fixture, made);
    assert_string_equal(row->name, "40");
    assert_string_equal(row->description, "40");
    assert_int_equal(row->revision, before->revision + 2 * ROUNDS);
}

/* As an agent that was killed leaves it. Takes the request. */
static CkptOperation *
new_left(CkptRequest *request, CkptOpState state)
{
    CkptOperation *op = ckpt_operation_new();

    ckpt_set_str(&op->identity, request->identity);
    ckpt_set_str(&op->request_id, request->request_id);
    g_free(op->digest);
    op->digest = ckpt_request_digest(request);
    ckpt_set_str(&op->vm_id, FIXTURE_VM);
    ckpt_set_str(&op->checkpoint_id, request->checkpoint_id);
    op->kind = request->kind;
    op->state = state;
    op->step_begun = op->step_ended = -1;
    op->request = request;
    return op;
}

static void
an_update_that_a_crash_left_is_done_at_the_start(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *made = engine_fixture_must(fixture->engine, CKPT_KIND_CREATE, NULL);
    CkptRequest *request = new_update(made);
    g_autoptr(CkptOperation) op = NULL;
    g_autoptr(CkptOperation) ended = NULL;
    g_autoptr(CkptCheckpoint) row = NULL;
    CkptStore *store;

    ckpt_set_str(&request->name, "renamed");
    op = new_left(request, CKPT_OP_QUEUED);
    engine_fixture_close(fixture->engine);
    store = ckpt_store_open(fixture->engine->dir, NULL);
    assert_true(ckpt_store_add_operation(store, op, NULL));
    ckpt_store_close(store);
    engine_fixture_open(fixture->engine);
    row = stored(fixture, made);
    assert_string_equal(row->name, "renamed");
    ended = ckpt_store_find_operation(fixture->engine->store, op->identity, op->request_id, NULL);
    assert_int_equal(ended->state, CKPT_OP_SUCCEEDED);
}

static CkptOperation *
wait_for_end(Fixture *fixture, const CkptOperation *left)
{
    for (guint i = 0; i < 5000; i++) {
        CkptOperation *op = ckpt_store_find_operation(fixture->engine->store, left->identity,
                                                      left->request_id, NULL);

        if (op->state != CKPT_OP_QUEUED && op->state != CKPT_OP_RUNNING)
            return op;
        ckpt_operation_free(op);
        while (g_main_context_iteration(NULL, FALSE))
            ;
        g_usleep(1000);
    }
    fail_msg("it does not end");
    return NULL;
}

/* Killed between the plan's journalling and its first step; the hold is stored before it is taken up. */
static void
a_hold_stops_a_delete_that_a_crash_left_planned(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *made = engine_fixture_must(fixture->engine, CKPT_KIND_CREATE, NULL);
    g_autofree char *id = ckpt_id_new();
    g_autoptr(CkptOperation) op =
        new_left(engine_fixture_request(CKPT_KIND_DELETE, id, made), CKPT_OP_RUNNING);
    CkptChange *mark = ckpt_change_new();
    g_autoptr(CkptChange) hold = ckpt_change_new();
    g_autoptr(CkptOperation) ended = NULL;
    g_autoptr(CkptCheckpoint) row = stored(fixture, made);
    CkptCheckpoint *held = ckpt_checkpoint_copy(row);
    CkptStore *store;

    row->state = CKPT_STATE_DELETING;
    row->deferred = TRUE;
    g_ptr_array_add(mark->upserts, g_steal_pointer(&row));
    mark->if_unchanged = TRUE;
    op->plan = ckpt_plan_new(CKPT_KIND_DELETE);
    ckpt_set_str(&op->plan->vm_id, FIXTURE_VM);
    ckpt_set_str(&op->plan->checkpoint_id, made);
    op->plan->checkpoint = ckpt_checkpoint_copy(held);
    ckpt_plan_add(op->plan, CKPT_STEP_CATALOGUE)->change = mark;
    engine_fixture_close(fixture->engine);
    store = ckpt_store_open(fixture->engine->dir, NULL);
    assert_true(ckpt_store_add_operation(store, op, NULL));
    ckpt_set_str(&held->hold, "audit");
    g_ptr_array_add(hold->upserts, held);
    assert_true(ckpt_store_apply(store, hold, FIXTURE_VM, NULL));
    ckpt_store_close(store);
    engine_fixture_open(fixture->engine);
    ended = wait_for_end(fixture, op);
    assert_int_equal(ended->state, CKPT_OP_FAILED);
    assert_int_equal(ended->reason, CKPT_REASON_CHECKPOINT_HELD);
    row = stored(fixture, made);
    assert_int_equal(row->state, CKPT_STATE_READY);
    assert_string_equal(row->hold, "audit");
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(an_update_waits_for_no_look),
        TEST(an_update_waits_for_no_operation_and_is_not_undone_by_it),
        TEST(a_hold_stops_a_delete_that_has_not_begun),
        TEST(what_is_being_deleted_is_not_updated),
        TEST(of_updates_at_the_same_time_none_is_lost),
        TEST(an_update_that_a_crash_left_is_done_at_the_start),
        TEST(a_hold_stops_a_delete_that_a_crash_left_planned),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
