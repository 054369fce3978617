#include "tests/unit/engine_fixture.h"

#include "common/id.h"
#include "tests/unit/cmocka_all.h"
#include "tests/unit/store_fixture.h"

static gboolean
on_moment(CkptSim *sim, CkptSimMoment moment, const CkptPlan *plan, const CkptStep *step,
          gpointer data, GError **error)
{
    EngineFixture *fixture = data;

    (void)sim;
    (void)plan;
    if (moment != CKPT_SIM_BEGUN || !step || !fixture->fail_kind || step->kind != fixture->fail_kind)
        return TRUE;
    fixture->fail_kind = 0;
    ckpt_error_set(error, CKPT_REASON_FILE_FAILED, "told to fail");
    return FALSE;
}

static void
add_vm(EngineFixture *fixture)
{
    CkptSimVm *vm = ckpt_sim_add_vm(fixture->sim, FIXTURE_VM, "web-01");
    g_autoptr(GError) error = NULL;

    ckpt_sim_add_file(fixture->sim, "/images/web-01.qcow2", CKPT_FORMAT_QCOW2, 4, NULL, 0600);
    ckpt_sim_definition_set(vm->definition, "vda", "/images/web-01.qcow2", CKPT_FORMAT_QCOW2);
    assert_true(ckpt_sim_start(fixture->sim, vm, CKPT_POWER_RUNNING, &error));
}

void
engine_fixture_open(EngineFixture *fixture)
{
    g_autoptr(GError) error = NULL;

    fixture->store = ckpt_store_open(fixture->dir, &error);
    if (!fixture->store)
        fail_msg("%s", error->message);
    fixture->engine =
        ckpt_engine_new(ckpt_sim_driver(fixture->sim), fixture->store, &fixture->limits);
    if (!ckpt_engine_start(fixture->engine, &error))
        fail_msg("%s", error->message);
}

void
engine_fixture_close(EngineFixture *fixture)
{
    if (fixture->engine)
        ckpt_engine_stop(fixture->engine, 5000);
    g_clear_pointer(&fixture->engine, ckpt_engine_free);
    g_clear_pointer(&fixture->store, ckpt_store_close);
}

void
engine_fixture_restart(EngineFixture *fixture)
{
    engine_fixture_close(fixture);
    engine_fixture_open(fixture);
}

int
engine_fixture_setup(void **state)
{
    EngineFixture *fixture = g_new0(EngineFixture, 1);

    fixture->dir = g_dir_make_tmp("ckpt-engine-XXXXXX", NULL);
    fixture->sim = ckpt_sim_new();
    fixture->sim->hook = on_moment;
    fixture->sim->hook_data = fixture;
    ckpt_limits_init(&fixture->limits);
    add_vm(fixture);
    engine_fixture_open(fixture);
    *state = fixture;
    return 0;
}

int
engine_fixture_teardown(void **state)
{
    EngineFixture *fixture = *state;

    engine_fixture_close(fixture);
    store_fixture_remove_tree(fixture->dir);
    ckpt_driver_free(ckpt_sim_driver(fixture->sim));
    g_free(fixture->dir);
    g_free(fixture);
    return 0;
}

/* ---- Calls ---- */

CkptRequest *
engine_fixture_request(CkptKind kind, const char *request_id, const char *checkpoint_id)
{
    CkptRequest *request = ckpt_request_new(kind);

    ckpt_set_str(&request->identity, FIXTURE_IDENTITY);
    ckpt_set_str(&request->request_id, request_id);
    if (kind == CKPT_KIND_CREATE)
        ckpt_set_str(&request->vm_id, FIXTURE_VM);
    ckpt_set_str(&request->checkpoint_id, checkpoint_id);
    request->asked = CKPT_CONSISTENCY_APPLICATION;
    request->minimum = CKPT_CONSISTENCY_CRASH;
    return request;
}

void
engine_fixture_call(EngineFixture *fixture, CkptRequest *request, Outcome *outcome)
{
    outcome_call(fixture->engine, request, outcome);
}

char *
engine_fixture_must(EngineFixture *fixture, CkptKind kind, const char *checkpoint_id)
{
    g_auto(Outcome) outcome = {0};
    g_autofree char *id = ckpt_id_new();

    engine_fixture_call(fixture, engine_fixture_request(kind, id, checkpoint_id), &outcome);
    if (outcome.error)
        fail_msg("%s: %s", ckpt_kind_name(kind), outcome.error->message);
    return g_strdup(outcome.op->safety ? outcome.op->safety->id : outcome.op->checkpoint->id);
}

/* ---- The guest ---- */

guint32
engine_fixture_write(EngineFixture *fixture)
{
    CkptSimVm *vm = ckpt_sim_find_vm(fixture->sim, FIXTURE_VM);
    CkptSimLive *live = ckpt_sim_find_live(vm, "vda");

    ckpt_sim_write_cell(fixture->sim, g_ptr_array_index(live->chain, 0), 0, ++fixture->written);
    return fixture->written;
}

guint32
engine_fixture_read(EngineFixture *fixture)
{
    CkptSimVm *vm = ckpt_sim_find_vm(fixture->sim, FIXTURE_VM);
    g_autoptr(GPtrArray) chain = ckpt_sim_disk_chain(fixture->sim, vm, "vda");

    assert_non_null(chain);
    return ckpt_sim_read_cell(chain, 0, 0);
}
