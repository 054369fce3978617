/* A VM that somebody else's job keeps busy: what cannot be told now is told later. On the simulated hypervisor,
 * with a real store. */
#include "cmocka_all.h"

#include "engine_fixture.h"

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
    assert_non_null(outcome.error);
    assert_int_not_equal(ckpt_error_reason(outcome.error), CKPT_REASON_RECOVERY_FAILED);
    assert_true(busy.asked >= 5);
    record = ckpt_store_get_vm(fixture->store, FIXTURE_VM, NULL);
    assert_null(record->quarantine_reason);
    g_free(engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_snapshot_that_cannot_be_asked_about_is_asked_about_later,
                                        engine_fixture_setup, engine_fixture_teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
