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

/* ---- When it may be taken ---- */

#define SEALED "/images/two.raw"
#define TOP "/images/two.ckpt-0b0b0b0b.qcow2"

static const char *open_elsewhere; /* a file that another host's agent or QEMU may have open; NULL = none */
static gboolean locks_tell;

static CkptVm *(*sim_inspect)(CkptDriver *, const char *, const CkptKnownFile *, GError **);

static CkptVm *
inspect_beside_others(CkptDriver *driver, const char *vm_id, const CkptKnownFile *files, GError **error)
{
    CkptVm *vm = sim_inspect(driver, vm_id, files, error);
    CkptLayer *layer = vm && open_elsewhere ? ckpt_vm_find_file(vm, open_elsewhere) : NULL;

    if (layer && locks_tell)
        layer->read_locked = TRUE;
    else if (layer)
        layer->unguarded = TRUE;
    return vm;
}

/* A VM that is off, whose checkpoint another host's agent made. Its ID. (transfer full) */
static char *
add_arrived(EngineFixture *fixture)
{
    g_autofree char *known = engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL);
    g_autoptr(CkptCheckpoint) row = row_of(fixture, known);
    CkptCheckpointDisk *disk = g_ptr_array_index(row->disks, 0);
    CkptSimVm *other = ckpt_sim_add_vm(fixture->sim, OTHER_VM, "web-02");
    CkptHostInfo host = {.host_id = (char *)OTHER_HOST, .host_name = (char *)"b"};
    char *id = ckpt_id_new();

    ckpt_sim_add_file(fixture->sim, SEALED, CKPT_FORMAT_RAW, 4, NULL, 0440);
    ckpt_sim_add_file(fixture->sim, TOP, CKPT_FORMAT_QCOW2, 0, SEALED, 0600);
    ckpt_sim_definition_set(other->definition, "vda", TOP, CKPT_FORMAT_QCOW2);
    ckpt_set_str(&row->id, id);
    ckpt_set_str(&row->vm_id, OTHER_VM);
    ckpt_set_str(&disk->sealed_file, SEALED);
    disk->format = CKPT_FORMAT_RAW;
    disk->agent_made = FALSE;
    disk->id = ckpt_sim_file_id(ckpt_sim_find(fixture->sim, SEALED));
    g_hash_table_insert(fixture->sim->manifests, g_strdup(SEALED), g_strdup(id));
    g_hash_table_insert(fixture->sim->manifest_texts, g_strdup(SEALED), ckpt_manifest_text(row, &host, 1));
    return id;
}

static gboolean
is_adopted(EngineFixture *fixture, const char *id)
{
    g_autoptr(CkptCheckpoint) row = ckpt_store_get_checkpoint(fixture->store, id, NULL);

    return row != NULL;
}

static void
wait_until_idle(EngineFixture *fixture)
{
    gint64 until = g_get_monotonic_time() + 20 * G_USEC_PER_SEC;

    while (!ckpt_engine_is_idle(fixture->engine)) {
        assert_true(g_get_monotonic_time() < until);
        spin(5);
    }
}

/* In how many ticks the VM is looked at again; 0: not at all. */
static guint
ticks_left(EngineFixture *fixture)
{
    CkptEngine *engine = fixture->engine;
    guint ticks;

    g_mutex_lock(&engine->lock);
    ticks = GPOINTER_TO_UINT(g_hash_table_lookup(engine->again, OTHER_VM));
    assert_int_equal(ticks > 0, engine->again_timer > 0);
    g_mutex_unlock(&engine->lock);
    return ticks;
}

/* The timer fires now. */
static void
tick(EngineFixture *fixture)
{
    GSource *timer = g_main_context_find_source_by_id(NULL, fixture->engine->again_timer);

    assert_non_null(timer);
    g_source_set_ready_time(timer, 0);
    spin(5);
    wait_until_idle(fixture);
}

/* Nobody tells when the other host lets go of it. */
static void
is_adopted_once_it_is_free(EngineFixture *fixture)
{
    g_autofree char *id = add_arrived(fixture);

    sim_inspect = fixture->sim->base.inspect;
    fixture->sim->base.inspect = inspect_beside_others;
    ckpt_engine_mark(fixture->engine, OTHER_VM);
    wait_until_idle(fixture);
    for (guint ticks = 1; ticks <= 4; ticks *= 2) {
        assert_false(is_adopted(fixture, id));
        assert_int_equal(ticks_left(fixture), ticks); /* ever later */
        for (guint i = 0; i < ticks; i++)
            tick(fixture);
    }
    assert_false(is_adopted(fixture, id));
    open_elsewhere = NULL;
    for (guint i = 0; i < 8; i++)
        tick(fixture);
    assert_true(is_adopted(fixture, id));
    assert_int_equal(ticks_left(fixture), 0);
    fixture->sim->base.inspect = sim_inspect;
}

static void
a_vm_that_is_open_elsewhere_is_adopted_once_it_is_free(void **state)
{
    open_elsewhere = SEALED;
    locks_tell = TRUE;
    is_adopted_once_it_is_free(*state);
}

static void
a_vm_whose_locks_tell_nothing_is_adopted_once_they_do(void **state)
{
    open_elsewhere = SEALED;
    locks_tell = FALSE;
    is_adopted_once_it_is_free(*state);
}

static void
a_vm_that_is_never_free_is_not_looked_at_for_ever(void **state)
{
    EngineFixture *fixture = *state;
    g_autofree char *id = add_arrived(fixture);
    guint ticks = 0;

    open_elsewhere = SEALED;
    locks_tell = TRUE;
    sim_inspect = fixture->sim->base.inspect;
    fixture->sim->base.inspect = inspect_beside_others;
    ckpt_engine_mark(fixture->engine, OTHER_VM);
    wait_until_idle(fixture);
    for (; ticks_left(fixture) > 0; ticks++) {
        assert_true(ticks < 1000);
        tick(fixture);
    }
    assert_int_equal(ticks, 127); /* some ten minutes */
    assert_false(is_adopted(fixture, id));
    fixture->sim->base.inspect = sim_inspect;
}

/* ---- What stayed behind ---- */

static gboolean left;

static gboolean
has_left(CkptDriver *driver, const char *vm_id)
{
    (void)driver;
    return left && g_str_equal(vm_id, FIXTURE_VM);
}

static CkptReason
try_restore(EngineFixture *fixture, const char *id)
{
    g_auto(Outcome) outcome = {0};
    g_autofree char *request_id = ckpt_id_new();

    engine_fixture_call(fixture, engine_fixture_request(CKPT_KIND_RESTORE, request_id, id), &outcome);
    return outcome.error ? ckpt_error_reason(outcome.error) : (CkptReason)0;
}

static void
must_have_stayed(EngineFixture *fixture, const char *id, gboolean stayed)
{
    g_autoptr(CkptCheckpoint) row = NULL;

    ckpt_engine_mark(fixture->engine, FIXTURE_VM);
    wait_until_idle(fixture);
    row = row_of(fixture, id);
    assert_int_equal(row->state, CKPT_STATE_READY);
    assert_int_equal(row->stayed, stayed);
    assert_int_equal(row->disabled_reason != NULL, stayed);
}

/* Migrated away with its disks: here is what it was, and there what it is. */
static void
a_vm_that_left_its_disks_here_is_restored_only_when_it_is_back(void **state)
{
    EngineFixture *fixture = *state;
    g_autofree char *id = engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL);
    CkptSimVm *vm = ckpt_sim_find_vm(fixture->sim, FIXTURE_VM);

    fixture->sim->base.has_left = has_left;
    left = FALSE;
    must_have_stayed(fixture, id, FALSE);
    left = TRUE;
    ckpt_sim_stop(fixture->sim, vm);
    must_have_stayed(fixture, id, TRUE);
    assert_int_equal(try_restore(fixture, id), CKPT_REASON_VM_MOVED);
    assert_int_equal(try_create(fixture), CKPT_REASON_VM_MOVED);
    left = FALSE; /* nobody knows any more after the agent's restart, and it is off still */
    engine_fixture_restart(fixture);
    must_have_stayed(fixture, id, TRUE);
    assert_int_equal(try_restore(fixture, id), CKPT_REASON_VM_MOVED);
    assert_true(ckpt_sim_start(fixture->sim, vm, CKPT_POWER_RUNNING, NULL));
    must_have_stayed(fixture, id, FALSE);
    assert_int_equal(try_restore(fixture, id), 0);
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
        TEST(a_vm_that_is_open_elsewhere_is_adopted_once_it_is_free),
        TEST(a_vm_whose_locks_tell_nothing_is_adopted_once_they_do),
        TEST(a_vm_that_is_never_free_is_not_looked_at_for_ever),
        TEST(a_vm_that_left_its_disks_here_is_restored_only_when_it_is_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
