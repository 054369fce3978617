/* The store's journal: operations, their steps, and what is changed together with them. */
#include "agent/model/json.h"
#include "tests/unit/cmocka_all.h"
#include "tests/unit/model_samples.h"
#include "tests/unit/store_fixture.h"

static void
operations_are_found_by_caller_and_request(void **state)
{
    StoreFixture *fixture = *state;
    g_autoptr(CkptOperation) operation = sample_operation("alice", "r1");
    g_autoptr(CkptOperation) found = NULL, nobody = NULL, other = NULL;
    g_autoptr(GError) error = NULL;
    g_autofree char *asked = ckpt_request_digest(operation->request), *kept = NULL;

    store_add(fixture->store, operation);
    assert_true(operation->number > 0);
    found = ckpt_store_find_operation(fixture->store, "alice", "r1", &error);
    nobody = ckpt_store_find_operation(fixture->store, "bob", "r1", &error);
    other = ckpt_store_find_operation(fixture->store, "alice", "r2", &error);
    assert_null(error);
    assert_null(nobody);
    assert_null(other);
    assert_true(found->number == operation->number);
    assert_string_equal(found->digest, "00ff");
    assert_int_equal(found->state, CKPT_OP_QUEUED);
    assert_int_equal(found->step_begun, -1);
    assert_null(found->plan);
    assert_string_equal(found->request->identity, "alice");
    kept = ckpt_request_digest(found->request);
    assert_string_equal(asked, kept);
}

static void
end(CkptStore *store, CkptOperation *operation, CkptOpState how)
{
    g_autoptr(GError) error = NULL;

    operation->state = how;
    operation->ended_us = 100;
    operation->reason = how == CKPT_OP_SUCCEEDED ? (CkptReason)0 : CKPT_REASON_VM_BUSY;
    assert_true(ckpt_store_end_operation(store, operation, NULL, &error));
}

static void
only_a_failed_operation_is_replaced(void **state)
{
    static const struct {
        CkptOpState how;
        CkptReason reason;
    } cases[] = {
        {CKPT_OP_QUEUED, CKPT_REASON_REQUEST_ID_REUSED},
        {CKPT_OP_SUCCEEDED, CKPT_REASON_REQUEST_ID_REUSED},
        {CKPT_OP_CANCELLED, CKPT_REASON_OPERATION_CANCELLED},
        {CKPT_OP_FAILED, (CkptReason)0},
    };
    StoreFixture *fixture = *state;

    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *id = g_strdup_printf("r%zu", i);
        g_autoptr(CkptOperation) first = sample_operation("alice", id);
        g_autoptr(CkptOperation) second = sample_operation("alice", id);
        g_autoptr(GError) error = NULL;
        gboolean done;

        store_add(fixture->store, first);
        if (cases[i].how != CKPT_OP_QUEUED)
            end(fixture->store, first, cases[i].how);
        done = ckpt_store_add_operation(fixture->store, second, &error);
        if (cases[i].reason) {
            expect_reason(done, &error, cases[i].reason);
            assert_true(second->number == 0);
        } else {
            assert_true(done);
            assert_true(second->number > first->number);
        }
    }
}

static void
a_reserved_id_refuses_the_late_request(void **state)
{
    StoreFixture *fixture = *state;
    g_autoptr(CkptOperation) reserved = ckpt_operation_new();
    g_autoptr(CkptOperation) late = sample_operation("alice", "r1");
    g_autoptr(CkptOperation) found = NULL;
    g_autoptr(GError) error = NULL;

    ckpt_set_str(&reserved->identity, "alice");
    ckpt_set_str(&reserved->request_id, "r1");
    reserved->state = CKPT_OP_CANCELLED;
    reserved->reason = CKPT_REASON_OPERATION_CANCELLED;
    reserved->ended_us = 100;
    store_add(fixture->store, reserved);
    expect_reason(ckpt_store_add_operation(fixture->store, late, &error), &error,
                  CKPT_REASON_OPERATION_CANCELLED);
    found = ckpt_store_find_operation(fixture->store, "alice", "r1", &error);
    assert_string_equal(found->digest, "");
    assert_null(found->request);
    assert_int_equal(found->reason, CKPT_REASON_OPERATION_CANCELLED);
}

static void
an_operation_ends_once(void **state)
{
    StoreFixture *fixture = *state;
    g_autoptr(CkptOperation) operation = sample_operation("alice", "r1");
    g_autoptr(GError) error = NULL;

    store_add(fixture->store, operation);
    end(fixture->store, operation, CKPT_OP_SUCCEEDED);
    expect_reason(ckpt_store_end_operation(fixture->store, operation, NULL, &error), &error,
                  CKPT_REASON_INTERNAL);
    expect_reason(ckpt_store_journal(fixture->store, operation, NULL, &error), &error,
                  CKPT_REASON_INTERNAL);
    expect_reason(ckpt_store_set_plan(fixture->store, operation, &error), &error,
                  CKPT_REASON_INTERNAL);
}

/* What recovery needs after a restart: the plan, where it was, and what its steps found out. */
static void
journal_keeps_the_steps_results_over_a_restart(void **state)
{
    StoreFixture *fixture = *state;
    g_autoptr(CkptOperation) operation = sample_operation("alice", "r1");
    g_autoptr(GPtrArray) unfinished = NULL;
    g_autoptr(GError) error = NULL;
    CkptFileId id = {G_MAXUINT64, (guint64)1 << 63, 7, -1}, earlier = {1, 2, 3, 4};
    const CkptOperation *found;
    CkptStep *step;

    store_add(fixture->store, operation);
    operation->plan = sample_plan();
    operation->started_us = 55;
    assert_true(ckpt_store_set_plan(fixture->store, operation, &error));
    assert_int_equal(operation->state, CKPT_OP_RUNNING);
    operation->step_begun = 2;
    operation->step_ended = 1;
    step = operation->plan->steps->pdata[0];
    step->id = earlier;
    step = operation->plan->steps->pdata[1];
    step->id = id;
    step->reached = CKPT_CONSISTENCY_CRASH;
    step->freeze_us = 12345;
    step->pause_us = 7;
    ckpt_set_str(&step->note, "by itself");
    assert_true(ckpt_store_journal(fixture->store, operation, NULL, &error));
    store_fixture_reopen(fixture);
    unfinished = ckpt_store_unfinished_operations(fixture->store, &error);
    assert_int_equal(unfinished->len, 1);
    found = unfinished->pdata[0];
    assert_int_equal(found->state, CKPT_OP_RUNNING);
    assert_int_equal(found->step_begun, 2);
    assert_int_equal(found->step_ended, 1);
    assert_true(found->started_us == 55);
    step = found->plan->steps->pdata[0];
    assert_true(ckpt_file_id_equal(&step->id, &earlier));
    step = found->plan->steps->pdata[1];
    assert_true(ckpt_file_id_equal(&step->id, &id));
    assert_int_equal(step->reached, CKPT_CONSISTENCY_CRASH);
    assert_true(step->freeze_us == 12345);
    assert_int_equal(step->pause_us, 7);
    assert_string_equal(step->note, "by itself");
}

static CkptChange *
change_of(CkptCheckpoint *checkpoint)
{
    CkptChange *change = ckpt_change_new();

    g_ptr_array_add(change->upserts, checkpoint);
    change->set_current = TRUE;
    change->current_id = g_strdup(checkpoint->id);
    return change;
}

static void
journal_and_change_are_one(void **state)
{
    StoreFixture *fixture = *state;
    g_autoptr(CkptOperation) operation = sample_operation("alice", "r1"), found = NULL;
    g_autoptr(CkptChange) good = NULL, bad = ckpt_change_new();
    g_autoptr(CkptCheckpoint) checkpoint = NULL;
    g_autoptr(CkptVmRecord) vm = NULL;
    g_autoptr(GError) error = NULL;
    CkptCheckpoint *nameless = sample_checkpoint("c2", "v1", 2);

    store_add(fixture->store, operation);
    operation->plan = sample_plan();
    assert_true(ckpt_store_set_plan(fixture->store, operation, &error));
    operation->step_begun = 1;
    good = change_of(sample_checkpoint("c1", "v1", 1));
    ((CkptCheckpoint *)good->upserts->pdata[0])->revision = 0;
    assert_true(ckpt_store_journal(fixture->store, operation, good, &error));
    assert_true(((CkptCheckpoint *)good->upserts->pdata[0])->revision == 1);
    /* The second of two upserts cannot be written: neither the first, nor the step, is. */
    g_ptr_array_add(bad->upserts, sample_checkpoint("c3", "v1", 3));
    g_ptr_array_add(bad->upserts, nameless);
    g_clear_pointer(&nameless->vm_id, g_free);
    operation->step_begun = 2;
    expect_reason(ckpt_store_journal(fixture->store, operation, bad, &error), &error,
                  CKPT_REASON_STORE_FAILED);
    assert_null(ckpt_store_read_only_reason(fixture->store));
    expect_reason((checkpoint = ckpt_store_get_checkpoint(fixture->store, "c3", &error)) != NULL,
                  &error, CKPT_REASON_CHECKPOINT_NOT_FOUND);
    found = ckpt_store_find_operation(fixture->store, "alice", "r1", &error);
    assert_int_equal(found->step_begun, 1);
    vm = ckpt_store_get_vm(fixture->store, "v1", &error);
    assert_string_equal(vm->current_id, "c1");
    assert_int_equal(vm->checkpoints, 1);
}

static void
the_end_and_its_change_are_kept(void **state)
{
    StoreFixture *fixture = *state;
    g_autoptr(CkptOperation) operation = sample_operation("alice", "r1"), found = NULL;
    g_autoptr(CkptChange) change = change_of(sample_checkpoint("c1", "v1", 1));
    g_autoptr(CkptCheckpoint) checkpoint = NULL;
    g_autoptr(GPtrArray) unfinished = NULL;
    g_autoptr(GError) error = NULL;
    g_autofree char *before = NULL, *after = NULL;

    store_add(fixture->store, operation);
    operation->state = CKPT_OP_SUCCEEDED;
    operation->ended_us = 77;
    ckpt_set_str(&operation->message, "m\xff");
    ckpt_set_str(&operation->checkpoint_id, "c1");
    operation->metadata = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    g_hash_table_insert(operation->metadata, g_strdup("k"), g_strdup("v"));
    operation->checkpoint = sample_checkpoint("c1", "v1", 1);
    operation->safety = sample_checkpoint("c2", "v1", 2);
    g_ptr_array_add(operation->warnings, g_strdup("w"));
    assert_true(ckpt_store_end_operation(fixture->store, operation, change, &error));
    store_fixture_reopen(fixture);
    found = ckpt_store_find_operation(fixture->store, "alice", "r1", &error);
    unfinished = ckpt_store_unfinished_operations(fixture->store, &error);
    checkpoint = ckpt_store_get_checkpoint(fixture->store, "c1", &error);
    assert_int_equal(unfinished->len, 0);
    assert_int_equal(found->state, CKPT_OP_SUCCEEDED);
    assert_true(found->ended_us == 77);
    assert_string_equal(found->message, "m\xff");
    assert_string_equal(found->warnings->pdata[0], "w");
    assert_string_equal(g_hash_table_lookup(found->metadata, "k"), "v");
    before = ckpt_checkpoint_to_json(operation->safety);
    after = ckpt_checkpoint_to_json(found->safety);
    assert_string_equal(before, after);
    assert_non_null(checkpoint);
}

static void
operations_are_listed_in_pages_by_each_filter(void **state)
{
    StoreFixture *fixture = *state;
    g_autoptr(GError) error = NULL;
    CkptOperationQuery query = {.limit = 3};
    guint seen = 0;

    for (int i = 0; i < 10; i++) {
        g_autofree char *id = g_strdup_printf("r%d", i);
        g_autoptr(CkptOperation) operation = sample_operation(i % 2 ? "alice" : "bob", id);

        ckpt_set_str(&operation->vm_id, i < 5 ? "v1" : "v2");
        ckpt_set_str(&operation->checkpoint_id, i == 3 ? "c3" : "");
        operation->plan = sample_plan();
        store_add(fixture->store, operation);
        if (i == 4)
            end(fixture->store, operation, CKPT_OP_FAILED);
    }
    for (;;) {
        g_autoptr(GPtrArray) page = ckpt_store_list_operations(fixture->store, &query, &error);

        if (page->len == 0)
            break;
        seen += page->len;
        assert_true(((CkptOperation *)page->pdata[0])->number > query.after_number);
        query.after_number = ((CkptOperation *)page->pdata[page->len - 1])->number;
    }
    assert_int_equal(seen, 10);
    const struct {
        CkptOperationQuery query;
        guint count;
    } cases[] = {
        {{.identity = "alice"}, 5},
        {{.vm_id = "v1"}, 5},
        {{.vm_id = "v1", .identity = "alice"}, 2},
        {{.checkpoint_id = "c3"}, 1},
        {{.checkpoint_id = "c3", .vm_id = "v2"}, 0},
        {{.states = 1 << CKPT_OP_FAILED}, 1},
        {{.states = 1 << CKPT_OP_QUEUED | 1 << CKPT_OP_FAILED}, 10},
        {{.vm_id = "v1", .states = 1 << CKPT_OP_QUEUED}, 4},
        {{.without_plans = TRUE}, 10},
    };
    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GPtrArray) list =
            ckpt_store_list_operations(fixture->store, &cases[i].query, &error);
        const CkptOperation *first = list->len ? list->pdata[0] : NULL;

        assert_int_equal(list->len, cases[i].count);
        assert_true(!first || (first->plan == NULL) == cases[i].query.without_plans);
    }
}

static void
only_old_ended_operations_are_forgotten(void **state)
{
    StoreFixture *fixture = *state;
    g_autoptr(CkptOperation) ended = sample_operation("alice", "r1");
    g_autoptr(CkptOperation) queued = sample_operation("alice", "r2");
    g_autoptr(CkptOperation) later = sample_operation("alice", "r3");
    g_autoptr(GPtrArray) left = NULL;
    g_autoptr(GError) error = NULL;
    gint64 last;

    store_add(fixture->store, ended);
    store_add(fixture->store, queued);
    end(fixture->store, ended, CKPT_OP_SUCCEEDED);
    assert_true(ckpt_store_forget_operations(fixture->store, 100, &error));
    left = ckpt_store_list_operations(fixture->store, &(CkptOperationQuery){0}, &error);
    assert_int_equal(left->len, 2);
    assert_true(ckpt_store_forget_operations(fixture->store, 101, &error));
    g_ptr_array_unref(left);
    left = ckpt_store_list_operations(fixture->store, &(CkptOperationQuery){0}, &error);
    assert_int_equal(left->len, 1);
    /* Numbers are never used again, also when the newest operation is forgotten. */
    last = queued->number;
    end(fixture->store, queued, CKPT_OP_SUCCEEDED);
    assert_true(ckpt_store_forget_operations(fixture->store, 101, &error));
    store_add(fixture->store, later);
    assert_true(later->number > last);
}

#define TEST(name)                                                                                 \
    cmocka_unit_test_setup_teardown(name, store_fixture_setup, store_fixture_teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(operations_are_found_by_caller_and_request),
        TEST(only_a_failed_operation_is_replaced),
        TEST(a_reserved_id_refuses_the_late_request),
        TEST(an_operation_ends_once),
        TEST(journal_keeps_the_steps_results_over_a_restart),
        TEST(journal_and_change_are_one),
        TEST(the_end_and_its_change_are_kept),
        TEST(operations_are_listed_in_pages_by_each_filter),
        TEST(only_old_ended_operations_are_forgotten),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
