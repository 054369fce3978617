/* Overlays that the catalogue does not know, since it is older than they are, or was read back without them: what
 * they lie on is needed. So is what it knows to be another VM's. On the simulated hypervisor, with a real
 * store. */
#include "agent/model/manifest.h"
#include "common/id.h"
#include "tests/unit/cmocka_all.h"
#include "tests/unit/engine_fixture.h"

#include <glib/gstdio.h>

static int
setup(void **state)
{
    int result = engine_fixture_setup(state);

    ckpt_sim_share(((EngineFixture *)*state)->sim);
    return result;
}

static char *
write_and(EngineFixture *fixture, CkptKind kind, const char *checkpoint_id)
{
    engine_fixture_write(fixture);
    return engine_fixture_must(fixture, kind, checkpoint_id);
}

static void
settle(EngineFixture *fixture)
{
    ckpt_sim_tell(fixture->sim, NULL);
    while (!ckpt_engine_is_idle(fixture->engine)) {
        while (g_main_context_iteration(NULL, FALSE))
            ;
        g_usleep(10 * G_TIME_SPAN_MILLISECOND);
    }
}

static char *
catalogue(const EngineFixture *fixture)
{
    return g_build_filename(fixture->dir, "vmcheckpoint.db", NULL);
}

/* As a backup of the host does. */
static void
save_catalogue(EngineFixture *fixture, char **contents, gsize *length)
{
    g_autofree char *path = catalogue(fixture);

    engine_fixture_close(fixture);
    assert_true(g_file_get_contents(path, contents, length, NULL));
    engine_fixture_open(fixture);
}

static void
put_back_catalogue(EngineFixture *fixture, const char *contents, gsize length)
{
    g_autofree char *path = catalogue(fixture);

    engine_fixture_close(fixture);
    assert_true(g_file_set_contents_full(path, contents, (gssize)length, G_FILE_SET_CONTENTS_CONSISTENT, 0600,
                                         NULL));
    engine_fixture_open(fixture);
    settle(fixture);
}

static char *
sealed_file(EngineFixture *fixture, const char *id)
{
    g_autoptr(CkptCheckpoint) row = ckpt_store_get_checkpoint(fixture->store, id, NULL);

    assert_non_null(row);
    return g_strdup(((CkptCheckpointDisk *)row->disks->pdata[0])->sealed_file);
}

static void
assert_delete_refused(EngineFixture *fixture, const char *id, const char *file, CkptReason reason)
{
    g_auto(Outcome) outcome = {0};
    g_autofree char *request_id = ckpt_id_new();

    engine_fixture_call(fixture, engine_fixture_request(CKPT_KIND_DELETE, request_id, id), &outcome);
    if (!outcome.error || ckpt_error_reason(outcome.error) != reason)
        fail_msg("%s", outcome.error ? outcome.error->message : "it was done");
    assert_non_null(ckpt_sim_find(fixture->sim, file));
    assert_int_equal(fixture->sim->crimes->len, 0);
}

static void
undefine(EngineFixture *fixture)
{
    CkptSimVm *vm = ckpt_sim_find_vm(fixture->sim, FIXTURE_VM);

    ckpt_sim_stop(fixture->sim, vm);
    g_ptr_array_remove(fixture->sim->vms, vm);
    settle(fixture);
}

/* ---- Tests ---- */

/* A leaf when the catalogue was saved; since then the VM was there again, and left a safety checkpoint. */
static void
what_lies_on_a_leaf_of_an_older_catalogue_keeps_it(void **state)
{
    EngineFixture *fixture = *state;
    g_autofree char *first = engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL);
    g_autofree char *leaf = write_and(fixture, CKPT_KIND_RESTORE, first);
    g_autofree char *file = sealed_file(fixture, leaf), *contents = NULL, *other = NULL, *last = NULL;
    g_autofree char *again = NULL;
    gsize length;

    save_catalogue(fixture, &contents, &length);
    other = engine_fixture_must(fixture, CKPT_KIND_RESTORE, leaf);
    engine_fixture_write(fixture);
    last = engine_fixture_must(fixture, CKPT_KIND_RESTORE, first);
    put_back_catalogue(fixture, contents, length);
    again = engine_fixture_must(fixture, CKPT_KIND_RESTORE, first); /* on a file that it knows */
    assert_delete_refused(fixture, leaf, file, CKPT_REASON_DISK_DETACHED);
}

/* Its definition is gone, as on a host that was installed anew: nothing but its header says what the newest
 * file lies on. */
static void
the_newest_file_of_an_undefined_vm_keeps_what_it_lies_on(void **state)
{
    EngineFixture *fixture = *state;
    g_autofree char *first = engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL);
    g_autofree char *contents = NULL, *second = NULL, *file = NULL;
    gsize length;

    save_catalogue(fixture, &contents, &length);
    engine_fixture_write(fixture);
    second = engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL);
    file = sealed_file(fixture, second);
    put_back_catalogue(fixture, contents, length);
    undefine(fixture);
    assert_delete_refused(fixture, first, file, CKPT_REASON_BRANCH_REBASE_REQUIRED);
}

/* A lost catalogue, and one manifest that nobody can read. */
static void
a_checkpoint_that_could_not_be_read_back_keeps_what_it_lies_on(void **state)
{
    EngineFixture *fixture = *state;
    g_autofree char *first = engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL);
    g_autofree char *second = write_and(fixture, CKPT_KIND_CREATE, NULL);
    g_autofree char *safety = write_and(fixture, CKPT_KIND_RESTORE, first);
    g_autofree char *unreadable = sealed_file(fixture, safety), *below = sealed_file(fixture, second);
    g_autofree char *path = catalogue(fixture), *agreed = ckpt_id_new();
    g_auto(Outcome) outcome = {0};

    engine_fixture_close(fixture);
    g_unlink(path);
    g_hash_table_remove(fixture->sim->manifest_texts, unreadable);
    engine_fixture_open(fixture);
    settle(fixture);
    engine_fixture_call(fixture, engine_fixture_request(CKPT_KIND_REPAIR, agreed, NULL), &outcome);
    assert_null(outcome.error);
    assert_delete_refused(fixture, second, below, CKPT_REASON_DISK_DETACHED);
}

static gboolean
lay_on_what_was_merged(CkptSim *sim, CkptSimMoment moment, const CkptPlan *plan, const CkptStep *step,
                       gpointer data, GError **error)
{
    const char *laid = data;

    (void)plan;
    (void)error;
    if (moment == CKPT_SIM_CHANGED && step && step->kind == CKPT_STEP_MERGE && !ckpt_sim_find(sim, laid))
        ckpt_sim_add_file(sim, laid, CKPT_FORMAT_QCOW2, 0, step->file, 0600);
    return TRUE;
}

/* One that comes, or comes to light, after the delete was planned. */
static void
a_file_is_not_removed_from_below_what_the_plan_did_not_know(void **state)
{
    EngineFixture *fixture = *state;
    g_autofree char *id = engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL);
    CkptSimVm *vm = ckpt_sim_find_vm(fixture->sim, FIXTURE_VM);
    g_autofree char *merged = g_strdup(ckpt_sim_definition_find(vm->definition, "vda")->source);

    fixture->sim->hook = lay_on_what_was_merged;
    fixture->sim->hook_data = (char *)"/images/web-01.ckpt-0badcafe.qcow2";
    g_free(engine_fixture_must(fixture, CKPT_KIND_DELETE, id));
    settle(fixture);
    assert_non_null(ckpt_sim_find(fixture->sim, merged));
    assert_int_equal(fixture->sim->crimes->len, 0);
}

/* A checkpoint of another VM's, which is not defined here. */
static void
add_other_vms_checkpoint(EngineFixture *fixture, const char *like, const char *sealed, const CkptFileId *identity)
{
    CkptCheckpoint *row = ckpt_store_get_checkpoint(fixture->store, like, NULL);
    CkptCheckpointDisk *disk = g_ptr_array_index(row->disks, 0);
    g_autoptr(CkptChange) change = ckpt_change_new();

    ckpt_set_str(&row->id, "44444444-4444-4444-8444-444444444444");
    ckpt_set_str(&row->vm_id, "55555555-5555-4555-8555-555555555555");
    ckpt_set_str(&disk->sealed_file, sealed);
    disk->id = *identity;
    g_ptr_array_add(change->upserts, row);
    assert_true(ckpt_store_apply(fixture->store, change, row->vm_id, NULL));
}

static const CkptSimFile *
top_of(EngineFixture *fixture)
{
    const CkptSimVm *vm = ckpt_sim_find_vm(fixture->sim, FIXTURE_VM);

    return ckpt_sim_find(fixture->sim, ckpt_sim_definition_find(vm->definition, "vda")->source);
}

/* The VM was defined anew under another UUID, had a checkpoint, and is defined no longer. */
static void
what_another_vms_checkpoint_has_sealed_is_not_merged_away(void **state)
{
    EngineFixture *fixture = *state;
    g_autofree char *id = engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL);
    const CkptSimFile *top = top_of(fixture);
    const CkptFileId identity = ckpt_sim_file_id(top);

    add_other_vms_checkpoint(fixture, id, top->path, &identity);
    assert_delete_refused(fixture, id, top->path, CKPT_REASON_BRANCH_POINT);
}

/* The other VM went away with its files, and this one was made in their place: nobody can delete that row. */
static void
a_file_in_place_of_what_another_vms_checkpoint_had_sealed_is_merged(void **state)
{
    EngineFixture *fixture = *state;
    g_autofree char *id = engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL);
    const CkptSimFile *top = top_of(fixture);
    CkptFileId identity = ckpt_sim_file_id(top);

    identity.inode += 1000;
    add_other_vms_checkpoint(fixture, id, top->path, &identity);
    g_free(engine_fixture_must(fixture, CKPT_KIND_DELETE, id));
    assert_int_equal(fixture->sim->crimes->len, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, engine_fixture_teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_lies_on_a_leaf_of_an_older_catalogue_keeps_it),
        TEST(the_newest_file_of_an_undefined_vm_keeps_what_it_lies_on),
        TEST(a_checkpoint_that_could_not_be_read_back_keeps_what_it_lies_on),
        TEST(a_file_is_not_removed_from_below_what_the_plan_did_not_know),
        TEST(what_another_vms_checkpoint_has_sealed_is_not_merged_away),
        TEST(a_file_in_place_of_what_another_vms_checkpoint_had_sealed_is_merged),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
