/* A VM that somebody else's job keeps busy: what cannot be told now is told later. On the simulated hypervisor,
 * with a real store. */
#include "cmocka_all.h"

#include "engine_fixture.h"

#include <string.h>

typedef struct {
    guint begun, asked; /* of SNAPSHOT */
} Busy;

static gboolean
refuse(GError **error)
{
    ckpt_error_set(error, CKPT_REASON_VM_BUSY, "a job runs on it");
    return FALSE;
}

/* The snapshot fails for the job, and so does, for a while, the question what became of it. */
static gboolean
keep_busy(CkptSim *sim, CkptSimMoment moment, const CkptPlan *plan, const CkptStep *step, gpointer data,
          GError **error)
{
    Busy *busy = data;

    (void)sim;
    (void)plan;
    if (!step || step->kind != CKPT_STEP_SNAPSHOT)
        return TRUE;
    if (moment == CKPT_SIM_BEGUN && ++busy->begun == 1)
        return refuse(error);
    if (moment == CKPT_SIM_ASKED && ++busy->asked <= 4)
        return refuse(error);
    return TRUE;
}

static void
a_snapshot_that_cannot_be_asked_about_is_asked_about_later(void **state)
{
    EngineFixture *fixture = *state;
    g_autoptr(CkptVmRecord) record = NULL;
    g_auto(Outcome) outcome = {0};
    Busy busy = {0};

    fixture->sim->hook = keep_busy;
    fixture->sim->hook_data = &busy;
    engine_fixture_call(fixture, engine_fixture_request(CKPT_KIND_CREATE, "r-busy", NULL), &outcome);
    assert_int_equal(ckpt_error_reason(outcome.error), CKPT_REASON_VM_BUSY);
    assert_non_null(strstr(outcome.error->message, "a job runs on it"));
    assert_true(busy.asked >= 5);
    record = ckpt_store_get_vm(fixture->store, FIXTURE_VM, NULL);
    assert_null(record->quarantine_reason);
    g_free(engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL));
}

/* ---- An undo that is put off ---- */

typedef struct {
    CkptReason why;  /* it cannot be undone */
    gboolean failed; /* the sync of the sealed file has */
    int tried;       /* atomic: how often the snapshot was to be undone */
} PutOff;

/* As often as two executions try it, and once more. */
#define REFUSED 7

static gint unfinished; /* how often it was logged */

static void
on_log(const char *domain, GLogLevelFlags level, const char *message, gpointer data)
{
    if (strstr(message, "is not finished yet: undo of "))
        g_atomic_int_inc(&unfinished);
    g_log_default_handler(domain, level, message, data);
}

static gboolean
put_off(CkptSim *sim, CkptSimMoment moment, const CkptPlan *plan, const CkptStep *step, gpointer data,
        GError **error)
{
    PutOff *world = data;

    (void)sim;
    (void)plan;
    if (moment != CKPT_SIM_BEGUN || !step)
        return TRUE;
    if (step->kind == CKPT_STEP_IDENTIFY && !world->failed) {
        world->failed = TRUE;
        ckpt_error_set(error, CKPT_REASON_SPACE_LOW, "no room");
        ckpt_error_add(error, CKPT_META_FILE, step->file);
        return FALSE;
    }
    if (step->kind != CKPT_STEP_SNAPSHOT || !world->failed || g_atomic_int_add(&world->tried, 1) >= REFUSED)
        return TRUE;
    ckpt_error_set(error, world->why, "its owner does something with it");
    return FALSE;
}

static void
assert_cause(const GError *error)
{
    if (ckpt_error_reason(error) != CKPT_REASON_SPACE_LOW ||
        !strstr(error->message, "identify /images/web-01.qcow2: no room"))
        fail_msg("%s: %s", ckpt_reason_name(ckpt_error_reason(error)), error->message);
    assert_string_equal(g_hash_table_lookup(ckpt_error_metadata(error), CKPT_META_FILE),
                        "/images/web-01.qcow2");
}

static void
must_put_off(EngineFixture *fixture, CkptReason why)
{
    g_autoptr(CkptVmRecord) record = NULL;
    g_auto(Outcome) outcome = {0};
    PutOff world = {.why = why};

    fixture->sim->hook = put_off;
    fixture->sim->hook_data = &world;
    g_atomic_int_set(&unfinished, 0);
    g_log_set_default_handler(on_log, NULL);
    engine_fixture_call(fixture, engine_fixture_request(CKPT_KIND_CREATE, "r-put-off", NULL), &outcome);
    g_log_set_default_handler(g_log_default_handler, NULL);
    assert_true(world.tried > REFUSED);
    assert_int_equal(g_atomic_int_get(&unfinished), 1); /* it was put off twice */
    assert_cause(outcome.error);
    record = ckpt_store_get_vm(fixture->store, FIXTURE_VM, NULL);
    assert_null(record->quarantine_reason);
    g_free(engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL));
}

static void
an_undo_that_is_put_off_still_tells_why_it_was_needed(void **state)
{
    must_put_off(*state, CKPT_REASON_VM_BUSY);
}

/* It goes on on the new overlays, with the memory that it was saved with. */
static void
an_undo_waits_for_a_vm_that_was_saved(void **state)
{
    must_put_off(*state, CKPT_REASON_MANAGED_SAVE_PRESENT);
}

static void
another_agent_that_takes_up_an_undo_tells_why_it_was_needed(void **state)
{
    EngineFixture *fixture = *state;
    g_auto(Outcome) outcome = {0};
    g_autoptr(CkptOperation) op = NULL;
    g_autoptr(GError) told = NULL;
    PutOff world = {.why = CKPT_REASON_VM_BUSY};
    CkptRequest *request = engine_fixture_request(CKPT_KIND_CREATE, "r-taken-up", NULL);

    fixture->sim->hook = put_off;
    fixture->sim->hook_data = &world;
    request->wait_us = 1;
    engine_fixture_call(fixture, request, &outcome);
    while (g_atomic_int_get(&world.tried) == 0)
        g_usleep(1000);
    engine_fixture_restart(fixture);
    while (!ckpt_engine_is_idle(fixture->engine))
        g_main_context_iteration(NULL, FALSE);
    op = ckpt_store_find_operation(fixture->store, FIXTURE_IDENTITY, "r-taken-up", NULL);
    assert_int_equal(op->state, CKPT_OP_FAILED);
    ckpt_operation_error(op, &told);
    assert_cause(told);
}

/* ---- What another tool lays on the new overlay ---- */

typedef struct {
    CkptSimVm *vm;
    gboolean off;  /* the VM is stopped right after it, and libvirt's answer is lost */
    guint changes; /* of SNAPSHOT: QEMU has switched, the definition is saved */
} Laid;

static gboolean
lay_over(CkptSim *sim, CkptSimMoment moment, const CkptPlan *plan, const CkptStep *step, gpointer data,
         GError **error)
{
    Laid *laid = data;

    (void)plan;
    if (moment != CKPT_SIM_CHANGED || !step || step->kind != CKPT_STEP_SNAPSHOT || ++laid->changes != 2)
        return TRUE;
    ckpt_sim_snapshot_add(sim, laid->vm, "virsh", "/images");
    if (laid->off)
        ckpt_sim_stop(sim, laid->vm);
    ckpt_error_set(error, CKPT_REASON_HYPERVISOR_FAILED, "the answer is lost");
    return FALSE;
}

/* The disks were switched, and what the guest wrote until then is sealed: to call that undone is not true, and
 * leaves an overlay in the VM's chain that nobody asked for. */
static void
must_have_made_it(EngineFixture *fixture, gboolean off)
{
    g_autoptr(CkptVmRecord) record = NULL;
    g_autofree char *id = NULL;
    Laid laid = {.vm = ckpt_sim_find_vm(fixture->sim, FIXTURE_VM), .off = off};
    guint32 written;

    g_free(engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL));
    written = engine_fixture_write(fixture);
    fixture->sim->hook = lay_over;
    fixture->sim->hook_data = &laid;
    id = engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL);
    assert_true(laid.changes >= 2);
    record = ckpt_store_get_vm(fixture->store, FIXTURE_VM, NULL);
    assert_null(record->quarantine_reason);
    assert_string_equal(record->current_id, id);
    assert_int_equal(engine_fixture_read(fixture), written);
    g_free(engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL));
    g_free(engine_fixture_must(fixture, CKPT_KIND_RESTORE, id));
    assert_int_equal(engine_fixture_read(fixture), written);
    assert_int_equal(fixture->sim->crimes->len, 0);
}

static void
a_snapshot_under_another_tools_overlay_was_made(void **state)
{
    must_have_made_it(*state, FALSE);
}

static void
a_snapshot_was_made_under_another_tools_overlay_of_a_vm_that_is_off(void **state)
{
    must_have_made_it(*state, TRUE);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_snapshot_that_cannot_be_asked_about_is_asked_about_later,
                                        engine_fixture_setup, engine_fixture_teardown),
        cmocka_unit_test_setup_teardown(an_undo_that_is_put_off_still_tells_why_it_was_needed,
                                        engine_fixture_setup, engine_fixture_teardown),
        cmocka_unit_test_setup_teardown(an_undo_waits_for_a_vm_that_was_saved, engine_fixture_setup,
                                        engine_fixture_teardown),
        cmocka_unit_test_setup_teardown(a_snapshot_under_another_tools_overlay_was_made,
                                        engine_fixture_setup, engine_fixture_teardown),
        cmocka_unit_test_setup_teardown(a_snapshot_was_made_under_another_tools_overlay_of_a_vm_that_is_off,
                                        engine_fixture_setup, engine_fixture_teardown),
        cmocka_unit_test_setup_teardown(another_agent_that_takes_up_an_undo_tells_why_it_was_needed,
                                        engine_fixture_setup, engine_fixture_teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
