/* What is asked for and what is reached: guest agents of every kind, and crashes around the instant, on
 * the simulated hypervisor with a real store. */
#include "cmocka_all.h"

#include "agent/core/engine.h"
#include "agent/hypervisor/sim/sim.h"
#include "common/id.h"

#include <glib/gstdio.h>
#include <string.h>

#define VM "11111111-1111-4111-8111-111111111111"
#define BASE "/img/web.raw"
#define ID_A "aaaaaaaa-0000-4000-8000-000000000000"
#define ID_B "bbbbbbbb-0000-4000-8000-000000000000"
#define ID_C "cccccccc-0000-4000-8000-000000000000"
#define CRASH CKPT_CONSISTENCY_CRASH
#define APPLICATION CKPT_CONSISTENCY_APPLICATION
#define MEMORY CKPT_CONSISTENCY_MEMORY

typedef struct {
    char *dir;
    CkptSim *sim;
    CkptSimVm *vm;
    CkptStore *store;
    CkptEngine *engine;
    /* Of the hook, under the sim's lock: libvirt goes away for good when the snapshot's `cut`th moment
     * with a frozen guest comes. */
    guint cut, moments;
    gboolean away;
} Fixture;

typedef struct {
    int done; /* atomic */
    CkptOperation *op;
    GError *error;
} Outcome;

static void
outcome_clear(Outcome *outcome)
{
    g_clear_pointer(&outcome->op, ckpt_operation_free);
    g_clear_error(&outcome->error);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Outcome, outcome_clear)

static void
on_outcome(CkptOperation *op, const GError *error, gpointer data)
{
    Outcome *outcome = data;

    outcome->op = op;
    outcome->error = error ? g_error_copy(error) : NULL;
    g_atomic_int_set(&outcome->done, 1);
}

static void
submit(Fixture *fixture, CkptRequest *request, const char *id, Outcome *outcome)
{
    outcome_clear(outcome);
    g_atomic_int_set(&outcome->done, 0);
    ckpt_set_str(&request->identity, "spiffe://test/operator");
    ckpt_set_str(&request->request_id, id);
    ckpt_engine_submit(fixture->engine, request, on_outcome, outcome);
    while (!g_atomic_int_get(&outcome->done)) {
        while (g_main_context_iteration(NULL, FALSE))
            ;
        g_usleep(2000);
    }
}

static void
create(Fixture *fixture, CkptConsistency asked, CkptConsistency minimum, const char *id,
       gint64 wait_us, Outcome *outcome)
{
    CkptRequest *request = ckpt_request_new(CKPT_KIND_CREATE);

    ckpt_set_str(&request->vm_id, VM);
    request->asked = asked;
    request->minimum = minimum;
    request->wait_us = wait_us;
    submit(fixture, request, id, outcome);
}

static gboolean
on_moment(CkptSim *sim, CkptSimMoment moment, const CkptPlan *plan, const CkptStep *step,
          gpointer data, GError **error)
{
    Fixture *fixture = data;

    if (fixture->cut && fixture->vm->frozen && ++fixture->moments == fixture->cut)
        fixture->away = TRUE;
    if (fixture->away)
        ckpt_error_set(error, CKPT_REASON_HYPERVISOR_UNAVAILABLE, "libvirt is away");
    return !fixture->away;
}

static void
engine_open(Fixture *fixture)
{
    CkptLimits limits;

    ckpt_limits_init(&limits);
    fixture->store = ckpt_store_open(fixture->dir, NULL);
    fixture->engine = ckpt_engine_new(ckpt_sim_driver(fixture->sim), fixture->store, &limits);
    assert_true(ckpt_engine_start(fixture->engine, NULL));
}

static void
engine_close(Fixture *fixture)
{
    ckpt_engine_stop(fixture->engine, 5000);
    g_clear_pointer(&fixture->engine, ckpt_engine_free);
    g_clear_pointer(&fixture->store, ckpt_store_close);
}

static int
setup(void **state)
{
    Fixture *fixture = g_new0(Fixture, 1);

    fixture->dir = g_dir_make_tmp("ckpt-consistency-XXXXXX", NULL);
    fixture->sim = ckpt_sim_new();
    fixture->sim->hook = on_moment;
    fixture->sim->hook_data = fixture;
    ckpt_sim_add_file(fixture->sim, BASE, CKPT_FORMAT_RAW, 4, NULL, 0644);
    fixture->vm = ckpt_sim_add_vm(fixture->sim, VM, "web-01");
    ckpt_sim_definition_set(fixture->vm->definition, "vda", BASE, CKPT_FORMAT_RAW);
    fixture->vm->agent = CKPT_SIM_AGENT_GOOD;
    assert_true(ckpt_sim_start(fixture->sim, fixture->vm, CKPT_POWER_RUNNING, NULL));
    engine_open(fixture);
    *state = fixture;
    return 0;
}

static int
teardown(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(GDir) dir = g_dir_open(fixture->dir, 0, NULL);
    const char *name;

    engine_close(fixture);
    while ((name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(fixture->dir, name, NULL);

        g_unlink(path);
    }
    g_rmdir(fixture->dir);
    assert_int_equal(fixture->sim->crimes->len, 0);
    ckpt_driver_free(ckpt_sim_driver(fixture->sim));
    g_free(fixture->dir);
    g_free(fixture);
    return 0;
}

static gboolean
is_on_base(Fixture *fixture)
{
    CkptSimFile *base = ckpt_sim_find(fixture->sim, BASE);

    return g_str_equal(ckpt_sim_definition_find(fixture->vm->definition, "vda")->source, BASE) &&
           base->mode == 0644 && g_hash_table_size(fixture->sim->files) == 1 &&
           g_hash_table_size(fixture->sim->manifests) == 0;
}

static void
assert_reached(const Outcome *outcome, CkptConsistency reached, const char *warning)
{
    const CkptOperation *op = outcome->op;

    if (outcome->error)
        fail_msg("%s", outcome->error->message);
    assert_int_equal(op->checkpoint->reached, reached);
    assert_int_equal(op->warnings->len, warning ? 1 : 0);
    if (warning && !strstr(g_ptr_array_index(op->warnings, 0), warning))
        fail_msg("the warning does not say \"%s\": %s", warning,
                 (char *)g_ptr_array_index(op->warnings, 0));
}

/* ---- Guest agents ---- */

static void
a_good_agent_reaches_application_and_the_row_says_so(void **state)
{
    Fixture *fixture = *state;
    g_auto(Outcome) outcome = {0};
    g_autoptr(CkptCheckpoint) row = NULL;

    create(fixture, MEMORY, APPLICATION, ID_A, 0, &outcome);
    assert_reached(&outcome, APPLICATION, "memory is not captured");
    row = ckpt_store_get_checkpoint(fixture->store, outcome.op->checkpoint->id, NULL);
    assert_int_equal(row->asked, MEMORY);
    assert_int_equal(row->reached, APPLICATION);
    assert_true(row->freeze_us == 1000);
    assert_false(fixture->vm->frozen);
    create(fixture, CRASH, CRASH, ID_B, 0, &outcome);
    assert_reached(&outcome, CRASH, NULL);
    assert_true(outcome.op->checkpoint->freeze_us == -1);
}

static const struct {
    CkptSimAgent agent;
    const char *why;
} bad_agents[] = {
    {CKPT_SIM_AGENT_HUNG, "did not freeze"},       {CKPT_SIM_AGENT_LATE, "did not freeze"},
    {CKPT_SIM_AGENT_LYING, "froze nothing"},       {CKPT_SIM_AGENT_REFUSING, "did not freeze"},
    {CKPT_SIM_AGENT_IMPATIENT, "thawed by itself"}, {CKPT_SIM_AGENT_DEAF, "not confirmed"},
};

static void
a_bad_agent_ends_in_what_was_allowed(void **state)
{
    Fixture *fixture = *state;

    for (guint i = 0; i < G_N_ELEMENTS(bad_agents); i++) {
        g_auto(Outcome) outcome = {0};
        g_autofree char *strict = ckpt_id_new();
        g_autofree char *lenient = ckpt_id_new();

        fixture->vm->agent = bad_agents[i].agent;
        create(fixture, APPLICATION, APPLICATION, strict, 0, &outcome);
        assert_int_equal(ckpt_error_reason(outcome.error), CKPT_REASON_QUIESCE_FAILED);
        assert_non_null(strstr(outcome.error->message, bad_agents[i].why));
        if (i == 0)
            assert_true(is_on_base(fixture));
        assert_true(!fixture->vm->frozen || fixture->vm->guards == 1);
        create(fixture, APPLICATION, CRASH, lenient, 0, &outcome);
        assert_reached(&outcome, CRASH, bad_agents[i].why);
        ckpt_sim_wake_agent(fixture->vm);
        assert_false(fixture->vm->frozen);
        /* The failure has not used up the id. */
        create(fixture, APPLICATION, APPLICATION, strict, 0, &outcome);
        assert_reached(&outcome, APPLICATION, NULL);
    }
}

static void
a_snapshot_that_is_not_good_enough_is_undone(void **state)
{
    Fixture *fixture = *state;
    g_auto(Outcome) outcome = {0};

    fixture->vm->agent = CKPT_SIM_AGENT_IMPATIENT;
    create(fixture, APPLICATION, APPLICATION, ID_A, 0, &outcome);
    assert_int_equal(ckpt_error_reason(outcome.error), CKPT_REASON_QUIESCE_FAILED);
    assert_true(is_on_base(fixture));
}

static void
what_the_vm_cannot_do_is_refused_beforehand(void **state)
{
    Fixture *fixture = *state;
    g_auto(Outcome) outcome = {0};

    create(fixture, MEMORY, MEMORY, ID_A, 0, &outcome);
    assert_int_equal(ckpt_error_reason(outcome.error), CKPT_REASON_CONSISTENCY_UNAVAILABLE);
    fixture->vm->agent = CKPT_SIM_AGENT_NONE;
    create(fixture, APPLICATION, APPLICATION, ID_B, 0, &outcome);
    assert_int_equal(ckpt_error_reason(outcome.error), CKPT_REASON_CONSISTENCY_UNAVAILABLE);
    assert_true(is_on_base(fixture));
    create(fixture, APPLICATION, CRASH, ID_C, 0, &outcome);
    assert_reached(&outcome, CRASH, "no guest agent");
}

static void
a_vm_that_is_off_has_it_without_an_agent(void **state)
{
    Fixture *fixture = *state;
    g_auto(Outcome) outcome = {0};

    ckpt_sim_stop(fixture->sim, fixture->vm);
    fixture->vm->agent = CKPT_SIM_AGENT_NONE;
    create(fixture, APPLICATION, APPLICATION, ID_A, 0, &outcome);
    assert_reached(&outcome, APPLICATION, NULL);
    assert_true(outcome.op->checkpoint->freeze_us == -1);
}

/* The file is the one that was captured; only whoever loads it sees that it is not whole. */
static void
what_cannot_be_loaded_is_foreseen(void **state)
{
    Fixture *fixture = *state;
    g_auto(Outcome) outcome = {0};
    g_autofree char *made = NULL;
    CkptRequest *request = ckpt_request_new(CKPT_KIND_RESTORE);
    const CkptCheckpointFile *memory;

    fixture->vm->captures_memory = TRUE;
    create(fixture, MEMORY, MEMORY, ID_A, 0, &outcome);
    assert_reached(&outcome, MEMORY, NULL);
    made = g_strdup(outcome.op->checkpoint->id);
    memory = ckpt_checkpoint_find_extra(outcome.op->checkpoint, CKPT_FILE_MEMORY);
    ckpt_sim_find(fixture->sim, memory->path)->set[0] = FALSE;
    ckpt_set_str(&request->checkpoint_id, made);
    request->validate_only = TRUE;
    submit(fixture, request, ID_B, &outcome);
    assert_null(outcome.op);
    assert_int_equal(ckpt_error_reason(outcome.error), CKPT_REASON_MEMORY_UNLOADABLE);
    assert_true(fixture->vm->live);
}

/* ---- Crashes ---- */

static gboolean
is_away(Fixture *fixture)
{
    gboolean away;

    g_rec_mutex_lock(&fixture->sim->lock);
    away = fixture->away;
    g_rec_mutex_unlock(&fixture->sim->lock);
    return away;
}

/* Cut off at the nth moment of the frozen guest, and taken up by another agent: the guest goes on, and a
 * snapshot of which nobody knows whether it was frozen is kept only where that is allowed. FALSE when
 * there are fewer moments. */
static gboolean
cut_at(Fixture *fixture, guint nth, CkptConsistency minimum)
{
    g_auto(Outcome) outcome = {0};
    gboolean reached;

    fixture->cut = nth;
    create(fixture, APPLICATION, minimum, ID_A, 100000, &outcome);
    /* On a slow machine it may not have come that far by then. */
    for (guint i = 0; outcome.error && !is_away(fixture) && i < 1000; i++)
        g_usleep(10 * 1000);
    engine_close(fixture);
    reached = fixture->away;
    if (reached)
        assert_int_equal(ckpt_error_reason(outcome.error), CKPT_REASON_OPERATION_RUNNING);
    fixture->cut = 0;
    fixture->away = FALSE;
    engine_open(fixture);
    create(fixture, APPLICATION, minimum, ID_A, 0, &outcome);
    if (outcome.error) /* undone by the recovery: anew */
        create(fixture, APPLICATION, minimum, ID_A, 0, &outcome);
    if (outcome.error)
        fail_msg("cut at %u: %s", nth, outcome.error->message);
    assert_true(outcome.op->checkpoint->reached >= minimum);
    assert_false(fixture->vm->frozen);
    return reached;
}

static void
a_crash_leaves_no_guest_frozen_and_keeps_the_minimum(void **state)
{
    for (CkptConsistency minimum = CRASH; minimum <= APPLICATION; minimum++) {
        gboolean reached = TRUE;
        guint nth;

        for (nth = 1; reached; nth++) {
            void *fixture = NULL;

            setup(&fixture);
            reached = cut_at(fixture, nth, minimum);
            teardown(&fixture);
        }
        assert_true(nth > 3);
    }
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_good_agent_reaches_application_and_the_row_says_so),
        TEST(a_bad_agent_ends_in_what_was_allowed),
        TEST(a_snapshot_that_is_not_good_enough_is_undone),
        TEST(what_the_vm_cannot_do_is_refused_beforehand),
        TEST(a_vm_that_is_off_has_it_without_an_agent),
        TEST(what_cannot_be_loaded_is_foreseen),
        cmocka_unit_test(a_crash_leaves_no_guest_frozen_and_keeps_the_minimum),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
