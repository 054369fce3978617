/* An operation's row that is not what was written: bit rot, or a hand. The agent starts; what it cannot read it
 * takes for unfinished, and leaves that VM alone until somebody agrees. Other VMs have nothing to do with it. */
#include "tests/unit/cmocka_all.h"
#include "tests/unit/engine_fixture.h"

#include "common/id.h"

#include <sqlite3.h>
#include <string.h>

#define OTHER_VM "22222222-2222-4222-8222-222222222222"

static int refuse_ends; /* atomic */
static int refused;     /* atomic: so many were */

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
    ckpt_error_set(error, CKPT_REASON_STORE_FAILED, "somebody else has the catalogue");
    g_atomic_int_inc(&refused);
    return FALSE;
}

static void
add_other_vm(EngineFixture *fixture)
{
    CkptSimVm *vm = ckpt_sim_add_vm(fixture->sim, OTHER_VM, "web-02");

    ckpt_sim_add_file(fixture->sim, "/images/web-02.qcow2", CKPT_FORMAT_QCOW2, 4, NULL, 0600);
    ckpt_sim_definition_set(vm->definition, "vda", "/images/web-02.qcow2", CKPT_FORMAT_QCOW2);
    assert_true(ckpt_sim_start(fixture->sim, vm, CKPT_POWER_RUNNING, NULL));
}

/* The agent has ended, and this create has not: its journal is open. Returns its request_id. */
static char *
leave_create_open(EngineFixture *fixture)
{
    g_autofree char *id = ckpt_id_new();
    CkptRequest *request = engine_fixture_request(CKPT_KIND_CREATE, id, NULL);
    g_auto(Outcome) outcome = {0};

    request->wait_us = 200000;
    g_atomic_int_set(&refused, 0);
    g_atomic_int_set(&refuse_ends, 1);
    engine_fixture_call(fixture, request, &outcome);
    assert_int_equal(ckpt_error_reason(outcome.error), CKPT_REASON_OPERATION_RUNNING);
    while (g_atomic_int_get(&refused) == 0) /* it has done all but end */
        g_usleep(1000);
    engine_fixture_close(fixture);
    g_atomic_int_set(&refuse_ends, 0);
    return g_steal_pointer(&id);
}

static void
tamper(EngineFixture *fixture, const char *sql)
{
    g_autofree char *path = g_build_filename(fixture->dir, "vmcheckpoint.db", NULL);
    sqlite3 *handle;

    engine_fixture_close(fixture);
    assert_int_equal(sqlite3_open(path, &handle), SQLITE_OK);
    assert_int_equal(sqlite3_exec(handle, sql, NULL, NULL, NULL), SQLITE_OK);
    assert_true(sqlite3_changes(handle) > 0);
    sqlite3_close(handle);
    engine_fixture_open(fixture);
}

static CkptReason
try_create(EngineFixture *fixture, const char *vm_id, gboolean validate_only)
{
    g_autofree char *id = ckpt_id_new();
    CkptRequest *request = engine_fixture_request(CKPT_KIND_CREATE, id, NULL);
    g_auto(Outcome) outcome = {0};

    ckpt_set_str(&request->vm_id, vm_id);
    request->validate_only = validate_only;
    engine_fixture_call(fixture, request, &outcome);
    if (outcome.error)
        print_message("%s\n", outcome.error->message);
    return outcome.error ? ckpt_error_reason(outcome.error) : 0;
}

static CkptFinding *
find(EngineFixture *fixture, CkptFindingKind kind, const char *vm_id)
{
    g_autoptr(GPtrArray) findings = ckpt_engine_diagnose(fixture->engine, NULL, NULL);

    assert_non_null(findings);
    for (guint i = 0; i < findings->len; i++) {
        const CkptFinding *finding = g_ptr_array_index(findings, i);

        if (finding->kind == kind && g_str_equal(finding->vm_id, vm_id))
            return ckpt_finding_copy(finding);
    }
    return NULL;
}

static void
must_be_left_alone(EngineFixture *fixture)
{
    const guint files = g_hash_table_size(fixture->sim->files);
    g_autoptr(CkptFinding) finding = NULL;
    g_autoptr(GPtrArray) listed =
        ckpt_engine_list_operations(fixture->engine, &(CkptOperationQuery){0}, NULL);

    assert_int_equal(try_create(fixture, FIXTURE_VM, FALSE), CKPT_REASON_VM_QUARANTINED);
    assert_int_equal(try_create(fixture, FIXTURE_VM, TRUE), CKPT_REASON_VM_QUARANTINED);
    assert_int_equal(g_hash_table_size(fixture->sim->files), files);
    assert_non_null(listed);
    assert_true(listed->len > 0);
    finding = find(fixture, CKPT_FINDING_VM_QUARANTINED, FIXTURE_VM);
    assert_non_null(finding);
    print_message("%s\n%s\n", finding->message, finding->repair);
    assert_non_null(strstr(finding->message, "cannot be read"));
    assert_int_not_equal(*finding->repair, 0);
}

static void
agree(EngineFixture *fixture)
{
    g_autofree char *id = ckpt_id_new();
    g_auto(Outcome) outcome = {0};

    engine_fixture_call(fixture, engine_fixture_request(CKPT_KIND_REPAIR, id, NULL), &outcome);
    if (outcome.error)
        fail_msg("%s", outcome.error->message);
    for (guint i = 0; i < outcome.op->repair->left->len; i++)
        print_message("left: %s: %s\n", ((CkptFinding *)outcome.op->repair->left->pdata[i])->message,
                      ((CkptFinding *)outcome.op->repair->left->pdata[i])->repair_error);
}

/* ---- Tests ---- */

static void
leave_alone_until_agreed(EngineFixture *fixture, const char *sql)
{
    g_autofree char *id = NULL;
    g_autoptr(CkptFinding) left = NULL;
    g_autoptr(CkptOperation) given_up = NULL;

    add_other_vm(fixture);
    id = leave_create_open(fixture);
    tamper(fixture, sql);
    must_be_left_alone(fixture);
    engine_fixture_restart(fixture);
    must_be_left_alone(fixture);
    assert_int_equal(try_create(fixture, OTHER_VM, FALSE), 0);
    agree(fixture);
    left = find(fixture, CKPT_FINDING_VM_QUARANTINED, FIXTURE_VM);
    assert_null(left);
    assert_int_equal(try_create(fixture, FIXTURE_VM, FALSE), 0);
    engine_fixture_restart(fixture);
    assert_int_equal(try_create(fixture, FIXTURE_VM, FALSE), 0);
    given_up = ckpt_engine_get_operation(fixture->engine, FIXTURE_IDENTITY, id, NULL);
    assert_non_null(given_up);
    assert_int_equal(given_up->state, CKPT_OP_FAILED);
    assert_int_equal(given_up->reason, CKPT_REASON_RECOVERY_FAILED);
    assert_int_equal(fixture->sim->crimes->len, 0);
}

static void
a_plan_that_cannot_be_read_leaves_its_vm_alone_until_agreed(void **state)
{
    leave_alone_until_agreed(*state, "UPDATE operations SET plan = '{' || plan");
}

static void
a_request_that_cannot_be_read_leaves_its_vm_alone_until_agreed(void **state)
{
    leave_alone_until_agreed(*state, "UPDATE operations SET request = '{'");
}

/* It can be read: another file would be worked on. */
static void
a_plan_that_names_another_file_is_noticed(void **state)
{
    leave_alone_until_agreed(*state, "UPDATE operations SET plan = replace(plan, 'web-01', 'web-00')");
}

static void
a_step_that_the_journal_never_said_is_noticed(void **state)
{
    leave_alone_until_agreed(*state, "UPDATE operations SET step_begun = 1, step_ended = 0");
}

/* It would be forgotten, or taken for one that was done. */
static void
an_open_one_that_says_it_ended_is_not_taken_for_none(void **state)
{
    leave_alone_until_agreed(*state, "UPDATE operations SET state = 3");
}

static void
a_state_that_there_is_not_is_not_taken_for_none(void **state)
{
    leave_alone_until_agreed(*state, "UPDATE operations SET state = 66");
}

static void
a_kind_that_there_is_not_is_noticed(void **state)
{
    leave_alone_until_agreed(*state, "UPDATE operations SET kind = 33");
}

/* Only its own result cannot be told any more. */
static void
one_that_has_ended_hurts_nobody(void **state)
{
    EngineFixture *fixture = *state;
    g_autofree char *id = ckpt_id_new();
    g_auto(Outcome) outcome = {0}, again = {0};
    g_autoptr(GPtrArray) listed = NULL;

    engine_fixture_call(fixture, engine_fixture_request(CKPT_KIND_CREATE, id, NULL), &outcome);
    assert_null(outcome.error);
    tamper(fixture, "UPDATE operations SET checkpoint = '{', plan = '{'");
    engine_fixture_call(fixture, engine_fixture_request(CKPT_KIND_CREATE, id, NULL), &again);
    assert_int_equal(ckpt_error_reason(again.error), CKPT_REASON_STORE_FAILED);
    listed = ckpt_engine_list_operations(fixture->engine, &(CkptOperationQuery){0}, NULL);
    assert_non_null(listed);
    assert_int_equal(listed->len, 1);
    assert_int_equal(try_create(fixture, FIXTURE_VM, FALSE), 0);
}

/* It can be read: the merge would be gone on with, into another file. */
static void
a_begun_delete_does_not_go_on_by_a_plan_that_names_another_file(void **state)
{
    EngineFixture *fixture = *state;
    g_autofree char *id = ckpt_id_new();
    g_autofree char *checkpoint = engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL);
    const guint32 written = engine_fixture_write(fixture);
    g_auto(Outcome) outcome = {0};
    g_autoptr(GPtrArray) failed = NULL;
    const CkptOperation *found;

    fixture->fail_kind = CKPT_STEP_MERGE;
    engine_fixture_call(fixture, engine_fixture_request(CKPT_KIND_DELETE, id, checkpoint), &outcome);
    assert_non_null(outcome.error);
    tamper(fixture, "UPDATE operations SET plan = replace(plan, 'web-01', 'web-00') WHERE state = 4");
    failed = ckpt_store_list_operations(fixture->store,
                                        &(CkptOperationQuery){.states = 1u << CKPT_OP_FAILED}, NULL);
    assert_int_equal(failed->len, 1);
    found = failed->pdata[0];
    assert_non_null(found->damage);
    assert_null(found->plan);
    /* It is planned anew. */
    g_free(engine_fixture_must(fixture, CKPT_KIND_DELETE, checkpoint));
    assert_int_equal(engine_fixture_read(fixture), written);
    assert_int_equal(fixture->sim->crimes->len, 0);
}

/* Nobody can say which VM is to be left alone: all are, as after any other damage. */
static void
one_of_a_vm_that_cannot_be_told_is_a_damaged_catalogue(void **state)
{
    EngineFixture *fixture = *state;
    g_autofree char *id = NULL;
    g_autofree char *reason = NULL;

    add_other_vm(fixture);
    id = leave_create_open(fixture);
    tamper(fixture, "UPDATE operations SET vm_id = '11111111-1111-4111-8111-111111111110'");
    reason = ckpt_engine_read_only_reason(fixture->engine);
    assert_non_null(reason);
    print_message("%s\n", reason);
    assert_int_equal(try_create(fixture, OTHER_VM, FALSE), CKPT_REASON_CATALOGUE_REBUILT);
}

#define TEST(name)                                                                                 \
    cmocka_unit_test_setup_teardown(name, engine_fixture_setup, engine_fixture_teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_plan_that_cannot_be_read_leaves_its_vm_alone_until_agreed),
        TEST(a_request_that_cannot_be_read_leaves_its_vm_alone_until_agreed),
        TEST(a_plan_that_names_another_file_is_noticed),
        TEST(a_step_that_the_journal_never_said_is_noticed),
        TEST(an_open_one_that_says_it_ended_is_not_taken_for_none),
        TEST(a_state_that_there_is_not_is_not_taken_for_none),
        TEST(a_kind_that_there_is_not_is_noticed),
        TEST(one_that_has_ended_hurts_nobody),
        TEST(a_begun_delete_does_not_go_on_by_a_plan_that_names_another_file),
        TEST(one_of_a_vm_that_cannot_be_told_is_a_damaged_catalogue),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
