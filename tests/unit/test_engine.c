/* The engine on a toy hypervisor and a real store: what a request_id promises, and that every operation
 * that fails or is cut off, at any step, ends in one of the states that are allowed. */
#include "cmocka_all.h"

#include "agent/core/engine.h"
#include "common/id.h"
#include "outcome.h"
#include "toy_driver.h"

#include <glib/gstdio.h>
#include <string.h>

#define IDENTITY "spiffe://test/operator"

typedef struct {
    char *dir;
    ToyDriver *toy;
    CkptStore *store;
    CkptEngine *engine;
    CkptLimits limits;
} Fixture;

static void
fixture_open(Fixture *fixture)
{
    g_autoptr(GError) error = NULL;

    fixture->store = ckpt_store_open(fixture->dir, &error);
    assert_null(error);
    fixture->engine = ckpt_engine_new(&fixture->toy->base, fixture->store, &fixture->limits);
    assert_true(ckpt_engine_start(fixture->engine, &error));
}

static void
fixture_close(Fixture *fixture)
{
    ckpt_engine_stop(fixture->engine, 5000);
    g_clear_pointer(&fixture->engine, ckpt_engine_free);
    g_clear_pointer(&fixture->store, ckpt_store_close);
}

static int
setup(void **state)
{
    Fixture *fixture = g_new0(Fixture, 1);

    fixture->dir = g_dir_make_tmp("ckpt-engine-XXXXXX", NULL);
    fixture->toy = toy_driver_new();
    ckpt_limits_init(&fixture->limits);
    fixture_open(fixture);
    *state = fixture;
    return 0;
}

static int
teardown(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(GDir) dir = g_dir_open(fixture->dir, 0, NULL);
    const char *name;

    fixture_close(fixture);
    while ((name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(fixture->dir, name, NULL);

        g_unlink(path);
    }
    g_rmdir(fixture->dir);
    ckpt_driver_free(&fixture->toy->base);
    g_free(fixture->dir);
    g_free(fixture);
    return 0;
}

/* ---- One call ---- */

static CkptRequest *
new_request(CkptKind kind, const char *request_id, const char *checkpoint_id)
{
    CkptRequest *request = ckpt_request_new(kind);

    ckpt_set_str(&request->identity, IDENTITY);
    ckpt_set_str(&request->request_id, request_id);
    if (kind == CKPT_KIND_CREATE)
        ckpt_set_str(&request->vm_id, TOY_VM);
    ckpt_set_str(&request->checkpoint_id, checkpoint_id);
    request->asked = CKPT_CONSISTENCY_APPLICATION;
    request->minimum = CKPT_CONSISTENCY_CRASH;
    return request;
}

static void
call(Fixture *fixture, CkptRequest *request, Outcome *outcome)
{
    outcome_call(fixture->engine, request, outcome);
}

/* The new checkpoint's ID, or the safety checkpoint's. */
static char *
must(Fixture *fixture, CkptKind kind, const char *checkpoint_id)
{
    g_auto(Outcome) outcome = {0};
    g_autofree char *id = ckpt_id_new();

    call(fixture, new_request(kind, id, checkpoint_id), &outcome);
    if (outcome.error)
        fail_msg("%s: %s", ckpt_kind_name(kind), outcome.error->message);
    return g_strdup(outcome.op->safety ? outcome.op->safety->id : outcome.op->checkpoint->id);
}

static void
assert_unsettled(Fixture *fixture, guint expected)
{
    g_autoptr(GPtrArray) unfinished = ckpt_store_unfinished_operations(fixture->store, NULL);

    assert_non_null(unfinished);
    assert_int_equal(unfinished->len, expected);
}

static guint
count_checkpoints(Fixture *fixture)
{
    g_autoptr(GPtrArray) rows = ckpt_store_vm_checkpoints(fixture->store, TOY_VM, NULL);

    return rows->len;
}

/* ---- What is told of an operation ---- */

static void
count_event(guint64 number, const CkptOperation *operation, guint64 bytes_done, guint64 bytes_total,
            gpointer data)
{
    g_atomic_int_inc((gint *)data);
}

static gint
events_of_a_create(Fixture *fixture, guint polls)
{
    gint events = 0;
    guint watch = ckpt_engine_watch(fixture->engine, count_event, &events);

    fixture->toy->polls = polls;
    g_free(must(fixture, CKPT_KIND_CREATE, NULL));
    ckpt_engine_unwatch(fixture->engine, watch);
    return events;
}

/* A job polled many times a second, whose length is not known yet. */
static void
a_step_that_does_not_know_its_length_is_not_told_at_every_poll(void **state)
{
    gint quiet = events_of_a_create(*state, 0);
    gint polled = events_of_a_create(*state, 1000);

    assert_in_range(polled, quiet, quiet + 100);
}

/* ---- What a request_id promises ---- */

static void
a_repeated_request_gets_the_stored_result_also_after_a_restart(void **state)
{
    Fixture *fixture = *state;
    g_auto(Outcome) outcome = {0};
    g_autofree char *id = ckpt_id_new();
    g_autofree char *made = NULL;

    call(fixture, new_request(CKPT_KIND_CREATE, id, NULL), &outcome);
    assert_null(outcome.error);
    made = g_strdup(outcome.op->checkpoint->id);
    assert_int_equal(outcome.op->checkpoint->revision, 1);
    call(fixture, new_request(CKPT_KIND_CREATE, id, NULL), &outcome);
    assert_string_equal(outcome.op->checkpoint->id, made);
    fixture_close(fixture);
    fixture_open(fixture);
    call(fixture, new_request(CKPT_KIND_CREATE, id, NULL), &outcome);
    assert_string_equal(outcome.op->checkpoint->id, made);
    assert_int_equal(count_checkpoints(fixture), 1);
}

static void
a_different_request_with_a_used_id_is_refused(void **state)
{
    Fixture *fixture = *state;
    g_auto(Outcome) outcome = {0};
    g_autofree char *id = ckpt_id_new();
    CkptRequest *other = new_request(CKPT_KIND_CREATE, id, NULL);

    call(fixture, new_request(CKPT_KIND_CREATE, id, NULL), &outcome);
    ckpt_set_str(&other->name, "another");
    call(fixture, other, &outcome);
    assert_int_equal(ckpt_error_reason(outcome.error), CKPT_REASON_REQUEST_ID_REUSED);
    assert_int_equal(count_checkpoints(fixture), 1);
}

static void
callers_who_race_on_one_id_meet_in_one_operation(void **state)
{
    Fixture *fixture = *state;
    g_auto(Outcome) outcome = {0};
    g_autofree char *id = ckpt_id_new();
    GMutex gate;

    g_mutex_init(&gate);
    g_mutex_lock(&gate);
    fixture->toy->gate = &gate;
    for (guint i = 0; i < 64; i++)
        ckpt_engine_submit(fixture->engine, new_request(CKPT_KIND_CREATE, id, NULL), outcome_take,
                           &outcome);
    g_mutex_unlock(&gate);
    outcome_wait(&outcome, 64);
    fixture->toy->gate = NULL;
    assert_non_null(outcome.op);
    assert_int_equal(count_checkpoints(fixture), 1);
    g_mutex_clear(&gate);
}

static void
a_wait_that_is_over_says_running_and_the_operation_goes_on(void **state)
{
    Fixture *fixture = *state;
    g_auto(Outcome) outcome = {0};
    g_autofree char *id = ckpt_id_new();
    CkptRequest *request = new_request(CKPT_KIND_CREATE, id, NULL);
    GMutex gate;

    g_mutex_init(&gate);
    g_mutex_lock(&gate);
    fixture->toy->gate = &gate;
    request->wait_us = 20000;
    call(fixture, request, &outcome);
    assert_int_equal(ckpt_error_reason(outcome.error), CKPT_REASON_OPERATION_RUNNING);
    assert_true(ckpt_error_retry_ms(outcome.error) > 0);
    g_mutex_unlock(&gate);
    call(fixture, new_request(CKPT_KIND_CREATE, id, NULL), &outcome);
    assert_non_null(outcome.op);
    assert_int_equal(count_checkpoints(fixture), 1);
    fixture->toy->gate = NULL;
    g_mutex_clear(&gate);
}

/* So many as may run at once are held up by their VM, and have told so. */
static gboolean
hangs_at_the_gate(CkptDriver *driver, const char *vm_id)
{
    return g_str_equal(vm_id, TOY_VM) && g_atomic_int_get(&((ToyDriver *)driver)->at_gate) > 0;
}

static gboolean
answers_elsewhere(CkptDriver *driver, const char *vm_id, guint *downtime_ms, GError **error)
{
    if (!hangs_at_the_gate(driver, vm_id))
        return TRUE;
    ckpt_error_set(error, CKPT_REASON_VM_BUSY, "it hangs");
    return FALSE;
}

static void
an_operation_whose_vm_hangs_keeps_no_other_vms_waiting(void **state)
{
    Fixture *fixture = *state;
    g_auto(Outcome) hung = {0};
    g_auto(Outcome) other = {0};
    g_autofree char *one = ckpt_id_new();
    g_autofree char *two = ckpt_id_new();
    CkptRequest *request = new_request(CKPT_KIND_CREATE, two, NULL);
    GMutex gate;

    fixture_close(fixture);
    fixture->limits.max_running = 1;
    fixture->toy->base.hangs = hangs_at_the_gate;
    fixture_open(fixture);
    g_mutex_init(&gate);
    g_mutex_lock(&gate);
    fixture->toy->gate = &gate;
    ckpt_engine_submit(fixture->engine, new_request(CKPT_KIND_CREATE, one, NULL), outcome_take, &hung);
    /* Nobody's, which is found out when it is its turn. */
    ckpt_set_str(&request->vm_id, "99999999-9999-4999-8999-999999999999");
    call(fixture, request, &other);
    assert_int_equal(ckpt_error_reason(other.error), CKPT_REASON_VM_NOT_FOUND);
    assert_null(hung.op);
    g_mutex_unlock(&gate);
    outcome_wait(&hung, 1);
    assert_non_null(hung.op);
    fixture->toy->gate = NULL;
    g_mutex_clear(&gate);
}

static void
a_vm_that_hangs_is_not_begun_with(void **state)
{
    Fixture *fixture = *state;
    g_auto(Outcome) outcome = {0};
    g_autofree char *id = ckpt_id_new();
    g_autofree char *before = toy_describe(fixture->toy);
    g_autofree char *after = NULL;

    fixture->toy->base.answers = answers_elsewhere;
    g_atomic_int_set(&fixture->toy->at_gate, 1);
    call(fixture, new_request(CKPT_KIND_CREATE, id, NULL), &outcome);
    assert_int_equal(ckpt_error_reason(outcome.error), CKPT_REASON_VM_BUSY);
    after = toy_describe(fixture->toy);
    assert_string_equal(after, before);
    g_atomic_int_set(&fixture->toy->at_gate, 0);
    call(fixture, new_request(CKPT_KIND_CREATE, id, NULL), &outcome);
    assert_non_null(outcome.op);
}

static void
a_cancelled_id_that_was_never_used_refuses_the_late_request(void **state)
{
    Fixture *fixture = *state;
    g_auto(Outcome) outcome = {0};
    g_autofree char *id = ckpt_id_new();

    ckpt_engine_cancel(fixture->engine, IDENTITY, id, 1000, outcome_take, &outcome);
    outcome_wait(&outcome, 1);
    assert_null(outcome.op);
    assert_null(outcome.error);
    call(fixture, new_request(CKPT_KIND_CREATE, id, NULL), &outcome);
    assert_int_equal(ckpt_error_reason(outcome.error), CKPT_REASON_OPERATION_CANCELLED);
    assert_int_equal(count_checkpoints(fixture), 0);
}

static void
a_cancel_before_the_decisive_step_undoes(void **state)
{
    Fixture *fixture = *state;
    g_auto(Outcome) outcome = {0};
    g_auto(Outcome) cancelled = {0};
    g_autofree char *id = ckpt_id_new();
    g_autofree char *before = toy_describe(fixture->toy);
    g_autofree char *after = NULL;
    GMutex gate;

    g_mutex_init(&gate);
    g_mutex_lock(&gate);
    fixture->toy->gate = &gate;
    ckpt_engine_submit(fixture->engine, new_request(CKPT_KIND_CREATE, id, NULL), outcome_take,
                       &outcome);
    /* Within its first step: one that has not begun is refused elsewhere. */
    while (g_atomic_int_get(&fixture->toy->at_gate) == 0)
        g_usleep(1000);
    ckpt_engine_cancel(fixture->engine, IDENTITY, id, 5000000, outcome_take, &cancelled);
    g_mutex_unlock(&gate);
    outcome_wait(&outcome, 1);
    outcome_wait(&cancelled, 1);
    assert_int_equal(ckpt_error_reason(outcome.error), CKPT_REASON_OPERATION_CANCELLED);
    assert_int_equal(cancelled.op->state, CKPT_OP_CANCELLED);
    after = toy_describe(fixture->toy);
    assert_string_equal(before, after);
    fixture->toy->gate = NULL;
    g_mutex_clear(&gate);
}

static void
validate_only_changes_nothing_and_shows_the_plan(void **state)
{
    Fixture *fixture = *state;
    g_auto(Outcome) outcome = {0};
    g_autofree char *id = ckpt_id_new();
    CkptRequest *request = new_request(CKPT_KIND_CREATE, id, NULL);

    request->validate_only = TRUE;
    call(fixture, request, &outcome);
    assert_true(outcome.op->plan->steps->len > 3);
    assert_int_equal(fixture->toy->log->len, 0);
    assert_null(ckpt_store_find_operation(fixture->store, IDENTITY, id, NULL));
}

static void
an_update_changes_the_row_and_checks_the_etag(void **state)
{
    Fixture *fixture = *state;
    g_auto(Outcome) outcome = {0};
    g_autofree char *made = must(fixture, CKPT_KIND_CREATE, NULL);
    g_autofree char *id = ckpt_id_new();
    g_autofree char *second = ckpt_id_new();
    CkptRequest *request = new_request(CKPT_KIND_UPDATE, id, made);

    ckpt_set_str(&request->hold, "audit");
    call(fixture, request, &outcome);
    assert_null(outcome.error);
    assert_string_equal(outcome.op->checkpoint->hold, "audit");
    assert_int_equal(outcome.op->checkpoint->revision, 2);
    request = new_request(CKPT_KIND_UPDATE, second, made);
    request->etag = 1;
    call(fixture, request, &outcome);
    assert_int_equal(ckpt_error_reason(outcome.error), CKPT_REASON_ETAG_MISMATCH);
}

/* ---- Failures and cuts at every step ---- */

/* Two checkpoints, "one" at the root, and the guest at "three". */
static void
prepare(Fixture *fixture, char **first, char **second)
{
    toy_write(fixture->toy, "one");
    *first = must(fixture, CKPT_KIND_CREATE, NULL);
    toy_write(fixture->toy, "two");
    *second = must(fixture, CKPT_KIND_CREATE, NULL);
    toy_write(fixture->toy, "three");
}

/* Every checkpoint that is listed restores to what was captured; the present state is still there. */
static void
assert_contents(Fixture *fixture, const char *first, const char *second)
{
    const char *const ids[] = {first, second};
    const char *const contents[] = {"one", "two"};

    for (guint i = 0; i < 2; i++) {
        g_autoptr(CkptCheckpoint) row = ckpt_store_get_checkpoint(fixture->store, ids[i], NULL);
        g_autofree char *safety = row ? must(fixture, CKPT_KIND_RESTORE, ids[i]) : NULL;

        if (!safety)
            continue;
        assert_string_equal(toy_read(fixture->toy), contents[i]);
        g_free(must(fixture, CKPT_KIND_RESTORE, safety));
    }
}

/* The operation fails at its n-th step, cleanly or after the step's effect. It then ended as before, or
 * went through all the same; repeated, it is done. FALSE when it has fewer steps. */
static gboolean
fail_at(Fixture *fixture, CkptKind kind, guint nth, ToyFailure failure)
{
    g_autofree char *first = NULL;
    g_autofree char *second = NULL;
    g_autofree char *before = NULL;
    g_autofree char *id = ckpt_id_new();
    g_auto(Outcome) outcome = {0};
    gboolean reached;

    prepare(fixture, &first, &second);
    before = toy_describe(fixture->toy);
    fixture->toy->calls = 0;
    fixture->toy->fail_at = nth;
    fixture->toy->failure = failure;
    fixture->toy->reason = CKPT_REASON_FILE_FAILED;
    call(fixture, new_request(kind, id, first), &outcome);
    reached = fixture->toy->calls >= nth;
    fixture->toy->fail_at = 0;
    assert_string_equal(toy_read(fixture->toy),
                        kind == CKPT_KIND_RESTORE && outcome.op ? "one" : "three");
    if (outcome.error && kind == CKPT_KIND_RESTORE) {
        g_autofree char *after = toy_describe(fixture->toy);

        assert_string_equal(before, after);
    }
    if (outcome.error)
        call(fixture, new_request(kind, id, first), &outcome);
    if (outcome.error)
        fail_msg("step %u, repeated: %s", nth, outcome.error->message);
    assert_contents(fixture, first, second);
    assert_unsettled(fixture, 0);
    return reached;
}

static void
run_fail_at(CkptKind kind, ToyFailure failure)
{
    gboolean reached = TRUE;
    guint nth;

    for (nth = 1; reached; nth++) {
        void *state = NULL;

        setup(&state);
        reached = fail_at(state, kind, nth, failure);
        teardown(&state);
    }
    assert_true(nth > 5);
}

static void
a_restore_that_fails_at_any_step_leaves_the_vm_as_before(void **state)
{
    run_fail_at(CKPT_KIND_RESTORE, TOY_FAIL_BEFORE);
    run_fail_at(CKPT_KIND_RESTORE, TOY_FAIL_AFTER);
}

static void
a_delete_that_fails_at_any_step_is_finished_by_the_same_request(void **state)
{
    run_fail_at(CKPT_KIND_DELETE, TOY_FAIL_BEFORE);
    run_fail_at(CKPT_KIND_DELETE, TOY_FAIL_AFTER);
}

/* libvirt went away behind the switch, and the look afterwards finds more than that it was made. */
static void
what_a_look_finds_besides_is_told(void **state)
{
    Fixture *fixture = *state;
    g_auto(Outcome) outcome = {0};
    g_autofree char *first = must(fixture, CKPT_KIND_CREATE, NULL);
    g_auto(GStrv) steps = g_strsplit(fixture->toy->log->str, " ", -1);
    g_autofree char *id = ckpt_id_new();
    guint snapshot = 0;

    (void)first;
    while (!g_str_equal(steps[snapshot], "snapshot"))
        snapshot++;
    fixture->toy->calls = 0;
    fixture->toy->fail_at = snapshot + 1;
    fixture->toy->failure = TOY_FAIL_AFTER;
    fixture->toy->reason = CKPT_REASON_HYPERVISOR_FAILED;
    fixture->toy->found = "make room";
    call(fixture, new_request(CKPT_KIND_CREATE, id, NULL), &outcome);
    if (outcome.error)
        fail_msg("%s", outcome.error->message);
    assert_true(g_ptr_array_find_with_equal_func(outcome.op->warnings, "make room", g_str_equal, NULL));
}

/* The hypervisor goes away at the n-th step and the agent with it; both come back. */
static gboolean
cut_at(Fixture *fixture, CkptKind kind, guint nth, ToyFailure failure)
{
    g_autofree char *first = NULL;
    g_autofree char *second = NULL;
    g_autofree char *id = ckpt_id_new();
    g_auto(Outcome) outcome = {0};
    CkptRequest *request;
    gboolean reached;

    prepare(fixture, &first, &second);
    fixture->toy->calls = 0;
    fixture->toy->fail_at = nth;
    fixture->toy->failure = failure;
    fixture->toy->reason = CKPT_REASON_HYPERVISOR_UNAVAILABLE;
    request = new_request(kind, id, first);
    request->wait_us = 50000;
    call(fixture, request, &outcome);
    reached = fixture->toy->calls >= nth;
    fixture->toy->fail_at = 0;
    fixture_close(fixture);
    fixture_open(fixture);
    call(fixture, new_request(kind, id, first), &outcome);
    if (outcome.error)
        call(fixture, new_request(kind, id, first), &outcome);
    if (outcome.error)
        fail_msg("step %u: %s", nth, outcome.error->message);
    assert_contents(fixture, first, second);
    assert_unsettled(fixture, 0);
    return reached;
}

static void
an_operation_cut_off_at_any_step_is_settled_after_the_restart(void **state)
{
    static const CkptKind kinds[] = {CKPT_KIND_CREATE, CKPT_KIND_RESTORE, CKPT_KIND_DELETE};

    for (guint i = 0; i < G_N_ELEMENTS(kinds); i++) {
        for (ToyFailure failure = TOY_FAIL_BEFORE; failure <= TOY_FAIL_AFTER; failure++) {
            gboolean reached = TRUE;

            for (guint nth = 1; reached; nth++) {
                void *fixture = NULL;

                setup(&fixture);
                reached = cut_at(fixture, kinds[i], nth, failure);
                teardown(&fixture);
            }
        }
    }
}

static void
a_restore_starts_the_old_vm_only_after_its_definition_is_back(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *first = NULL;
    g_autofree char *second = NULL;
    g_auto(Outcome) outcome = {0};
    g_autofree char *id = ckpt_id_new();

    prepare(fixture, &first, &second);
    g_string_truncate(fixture->toy->log, 0);
    fixture->toy->calls = 0;
    fixture->toy->fail_at = 8; /* start */
    fixture->toy->reason = CKPT_REASON_HYPERVISOR_FAILED;
    call(fixture, new_request(CKPT_KIND_RESTORE, id, first), &outcome);
    assert_int_equal(ckpt_error_reason(outcome.error), CKPT_REASON_HYPERVISOR_FAILED);
    assert_non_null(strstr(fixture->toy->log->str, "start stop -start -write-manifest -seal -define stop "
                                                   "-write-manifest -make-overlay -stop "));
}

/* The driver keeps then what the VM has written since. */
static void
a_start_that_is_taken_up_knows_it(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *first = NULL;
    g_autofree char *second = NULL;
    g_auto(Outcome) outcome = {0};
    g_autofree char *id = ckpt_id_new();
    CkptRequest *request;

    prepare(fixture, &first, &second);
    g_free(must(fixture, CKPT_KIND_RESTORE, first));
    assert_false(fixture->toy->taken_up);
    fixture->toy->calls = 0;
    fixture->toy->fail_at = 5; /* between stop and start */
    fixture->toy->reason = CKPT_REASON_HYPERVISOR_UNAVAILABLE;
    request = new_request(CKPT_KIND_RESTORE, id, second);
    request->wait_us = 50000;
    call(fixture, request, &outcome);
    assert_non_null(outcome.error);
    fixture_close(fixture);
    fixture->toy->fail_at = 0;
    fixture_open(fixture);
    call(fixture, new_request(CKPT_KIND_RESTORE, id, second), &outcome);
    if (outcome.error)
        fail_msg("%s", outcome.error->message);
    assert_true(fixture->toy->taken_up);
}

/* What another tool has laid on the disk since; to undo the restore would take away what lies below that. */
static void
a_restore_that_another_tool_is_in_the_way_of_waits_for_it(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *first = NULL;
    g_autofree char *second = NULL;
    g_auto(Outcome) outcome = {0};
    g_autofree char *id = ckpt_id_new();

    prepare(fixture, &first, &second);
    g_string_truncate(fixture->toy->log, 0);
    fixture->toy->calls = 0;
    fixture->toy->fail_at = 9; /* check-chain */
    fixture->toy->reason = CKPT_REASON_VM_BUSY;
    call(fixture, new_request(CKPT_KIND_RESTORE, id, first), &outcome);
    if (outcome.error)
        fail_msg("%s", outcome.error->message);
    assert_non_null(strstr(fixture->toy->log->str, "start check-chain check-chain"));
    assert_string_equal(toy_read(fixture->toy), "one");
}

/* A host whose networks are not there yet after its start, say. */
static void
what_lives_on_a_restore_outlives_its_failures(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *first = NULL;
    g_autofree char *second = NULL;
    g_auto(Outcome) outcome = {0};
    g_autofree char *id = ckpt_id_new();
    CkptRequest *request;

    prepare(fixture, &first, &second);
    fixture->toy->calls = 0;
    fixture->toy->fail_at = 6; /* start */
    fixture->toy->reason = CKPT_REASON_HYPERVISOR_UNAVAILABLE;
    request = new_request(CKPT_KIND_RESTORE, id, second);
    request->wait_us = 50000;
    call(fixture, request, &outcome);
    assert_non_null(outcome.error);
    fixture_close(fixture);
    fixture->toy->lived_in = TRUE;
    fixture->toy->calls = 0;
    fixture->toy->fail_at = 1; /* once more */
    fixture->toy->reason = CKPT_REASON_HYPERVISOR_FAILED;
    fixture_open(fixture);
    call(fixture, new_request(CKPT_KIND_RESTORE, id, second), &outcome);
    if (outcome.error)
        fail_msg("%s", outcome.error->message);
    assert_string_equal(outcome.op->checkpoint->id, second);
    assert_true(fixture->toy->calls > 1);
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_step_that_does_not_know_its_length_is_not_told_at_every_poll),
        TEST(a_repeated_request_gets_the_stored_result_also_after_a_restart),
        TEST(a_different_request_with_a_used_id_is_refused),
        TEST(callers_who_race_on_one_id_meet_in_one_operation),
        TEST(a_wait_that_is_over_says_running_and_the_operation_goes_on),
        TEST(an_operation_whose_vm_hangs_keeps_no_other_vms_waiting),
        TEST(a_vm_that_hangs_is_not_begun_with),
        TEST(a_cancelled_id_that_was_never_used_refuses_the_late_request),
        TEST(a_cancel_before_the_decisive_step_undoes),
        TEST(validate_only_changes_nothing_and_shows_the_plan),
        TEST(an_update_changes_the_row_and_checks_the_etag),
        TEST(what_a_look_finds_besides_is_told),
        TEST(a_restore_starts_the_old_vm_only_after_its_definition_is_back),
        TEST(a_start_that_is_taken_up_knows_it),
        TEST(what_lives_on_a_restore_outlives_its_failures),
        TEST(a_restore_that_another_tool_is_in_the_way_of_waits_for_it),
        cmocka_unit_test(a_restore_that_fails_at_any_step_leaves_the_vm_as_before),
        cmocka_unit_test(a_delete_that_fails_at_any_step_is_finished_by_the_same_request),
        cmocka_unit_test(an_operation_cut_off_at_any_step_is_settled_after_the_restart),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
