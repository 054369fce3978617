/* Whose the checkpoints are, with the engine on a simulated hypervisor whose files other hosts share. */
#include "agent/core/engine_internal.h"
#include "agent/model/manifest.h"
#include "common/id.h"
#include "tests/unit/cmocka_all.h"
#include "tests/unit/engine_fixture.h"

#define OTHER_HOST "eeeeeeee-0000-4000-8000-00000000000e"
#define OTHER_VM "22222222-1111-4111-8111-111111111111"

static int
setup(void **state)
{
    int failed = engine_fixture_setup(state);

    ckpt_sim_share(((EngineFixture *)*state)->sim);
    return failed;
}

static void
spin(guint ms)
{
    gint64 until = g_get_monotonic_time() + ms * 1000;

    while (g_get_monotonic_time() < until) {
        while (g_main_context_iteration(NULL, FALSE))
            ;
        g_usleep(5000);
    }
}

/* What it is refused with; 0: a checkpoint was made. */
static CkptReason
try_create(EngineFixture *fixture)
{
    g_auto(Outcome) outcome = {0};
    g_autofree char *request_id = ckpt_id_new();

    engine_fixture_call(fixture, engine_fixture_request(CKPT_KIND_CREATE, request_id, NULL), &outcome);
    return outcome.error ? ckpt_error_reason(outcome.error) : (CkptReason)0;
}

static CkptCheckpoint *
row_of(EngineFixture *fixture, const char *id)
{
    CkptCheckpoint *row = ckpt_store_get_checkpoint(fixture->store, id, NULL);

    assert_non_null(row);
    return row;
}

/* A new mainboard: the manifests name the host's old UUID, and so nobody who could be asked. */
static void
a_host_whose_uuid_changed_keeps_its_checkpoints(void **state)
{
    EngineFixture *fixture = *state;
    g_autofree char *id = engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL);
    g_autoptr(CkptManifest) head = NULL;
    g_autoptr(CkptCheckpoint) row = NULL;
    CkptReason reason = CKPT_REASON_VM_MOVED;

    engine_fixture_close(fixture);
    fixture->sim->host_id = OTHER_HOST;
    engine_fixture_open(fixture);
    for (guint i = 0; reason == CKPT_REASON_VM_MOVED && i < 50; i++) {
        spin(100);
        reason = try_create(fixture);
    }
    assert_int_equal(reason, 0);
    row = row_of(fixture, id);
    assert_int_equal(row->state, CKPT_STATE_READY);
    assert_int_equal(row->epoch, 2);
    head = fixture->sim->base.manifest_head(&fixture->sim->base,
                                            ((CkptCheckpointDisk *)row->disks->pdata[0])->sealed_file);
    assert_non_null(head);
    assert_string_equal(head->agent, OTHER_HOST);
    assert_int_equal(head->epoch, 2);
}

/* A checkpoint that another host's agent was making of the VM's disk when the host was lost. */
static void
what_another_host_left_unfinished_does_not_keep_the_vm(void **state)
{
    EngineFixture *fixture = *state;
    g_autofree char *id = engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL);
    g_autoptr(CkptCheckpoint) row = row_of(fixture, id);
    CkptCheckpointDisk *disk = g_ptr_array_index(row->disks, 0);
    CkptSimVm *vm = ckpt_sim_find_vm(fixture->sim, FIXTURE_VM);
    const char *top = ((CkptSimDisk *)vm->definition->disks->pdata[0])->source;
    CkptHostInfo host = {.host_id = (char *)OTHER_HOST, .host_name = (char *)"b"};
    CkptReason reason = CKPT_REASON_VM_MOVED;

    ckpt_set_str(&row->id, "0c0c0c0c-0000-4000-8000-000000000003");
    ckpt_set_str(&row->parent_id, id);
    ckpt_set_str(&disk->sealed_file, top);
    disk->format = CKPT_FORMAT_QCOW2;
    disk->agent_made = TRUE;
    disk->id = (CkptFileId){0};
    g_hash_table_insert(fixture->sim->manifests, g_strdup(top), g_strdup(row->id));
    g_hash_table_insert(fixture->sim->manifest_texts, g_strdup(top), ckpt_manifest_text(row, &host, 1));
    assert_int_equal(try_create(fixture), CKPT_REASON_VM_MOVED);
    for (guint i = 0; reason == CKPT_REASON_VM_MOVED && i < 50; i++) {
        spin(100);
        reason = try_create(fixture);
    }
    assert_int_equal(reason, 0);
}

/* One ID is one checkpoint: that of another VM would take this one's row. */
static void
another_vms_checkpoint_is_not_overwritten_by_one_of_its_id(void **state)
{
    EngineFixture *fixture = *state;
    g_autofree char *id = engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL);
    g_autoptr(CkptCheckpoint) row = row_of(fixture, id), stored = NULL;
    CkptCheckpointDisk *disk = g_ptr_array_index(row->disks, 0);
    CkptSimVm *other = ckpt_sim_add_vm(fixture->sim, OTHER_VM, "web-02");
    CkptHostInfo host = {.host_id = (char *)OTHER_HOST, .host_name = (char *)"b"};
    CkptSimFile *file;

    /* As another host's agent would have left it, had its checkpoint the same ID. */
    ckpt_sim_add_file(fixture->sim, "/images/two.raw", CKPT_FORMAT_RAW, 4, NULL, 0440);
    file = ckpt_sim_find(fixture->sim, "/images/two.raw");
    ckpt_sim_add_file(fixture->sim, "/images/two.ckpt-0b0b0b0b.qcow2", CKPT_FORMAT_QCOW2, 0,
                      "/images/two.raw", 0600);
    ckpt_sim_definition_set(other->definition, "vda", "/images/two.ckpt-0b0b0b0b.qcow2",
                            CKPT_FORMAT_QCOW2);
    ckpt_set_str(&row->vm_id, OTHER_VM);
    ckpt_set_str(&disk->sealed_file, "/images/two.raw");
    disk->format = CKPT_FORMAT_RAW;
    disk->agent_made = FALSE;
    disk->id = ckpt_sim_file_id(file);
    g_hash_table_insert(fixture->sim->manifests, g_strdup("/images/two.raw"), g_strdup(id));
    g_hash_table_insert(fixture->sim->manifest_texts, g_strdup("/images/two.raw"),
                        ckpt_manifest_text(row, &host, 1));
    ckpt_engine_mark(fixture->engine, OTHER_VM);
    spin(1000);
    stored = row_of(fixture, id);
    assert_string_equal(stored->vm_id, FIXTURE_VM);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, engine_fixture_teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_host_whose_uuid_changed_keeps_its_checkpoints),
        TEST(what_another_host_left_unfinished_does_not_keep_the_vm),
        TEST(another_vms_checkpoint_is_not_overwritten_by_one_of_its_id),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
