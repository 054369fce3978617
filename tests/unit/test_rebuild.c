/* A catalogue that is lost and read back from the manifests: on the simulated hypervisor, with a real store. */
#include "agent/core/engine_internal.h"
#include "agent/model/manifest.h"
#include "common/id.h"
#include "tests/unit/cmocka_all.h"
#include "tests/unit/engine_fixture.h"

#include <glib/gstdio.h>
#include <string.h>

#define OTHER_HOST "33333333-3333-4333-8333-333333333344"

static int
setup(void **state)
{
    int result = engine_fixture_setup(state);

    ckpt_sim_share(((EngineFixture *)*state)->sim);
    return result;
}

/* As somebody who cleans up does, while the agent is off. */
static void
lose(EngineFixture *fixture, const char *const *names)
{
    engine_fixture_close(fixture);
    for (guint i = 0; names[i]; i++) {
        g_autofree char *path = g_build_filename(fixture->dir, names[i], NULL);

        g_unlink(path);
    }
    engine_fixture_open(fixture);
}

static void
lose_catalogue(EngineFixture *fixture)
{
    lose(fixture, (const char *const[]){"vmcheckpoint.db", "vmcheckpoint.db-wal", "vmcheckpoint.db-shm", NULL});
}

static void
lose_folder(EngineFixture *fixture)
{
    lose(fixture, (const char *const[]){"vmcheckpoint.db", "vmcheckpoint.db-wal", "vmcheckpoint.db-shm",
                                        "vmcheckpoint.lock", "vmcheckpoint.folders", NULL});
}

/* The hypervisor answers: what there is to be read is read. */
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

static gboolean
is_read_only(EngineFixture *fixture)
{
    g_autofree char *reason = ckpt_engine_read_only_reason(fixture->engine);

    return reason != NULL;
}

/* "ID NAME PARENT STATE DISABLED" of each, sorted. */
static char *
rows(EngineFixture *fixture)
{
    const CkptCheckpointQuery all = {.enabled = -1, .include_deleting = TRUE, .include_moved = TRUE};
    g_autoptr(GPtrArray) found = ckpt_store_list_checkpoints(fixture->store, &all, NULL);
    g_autoptr(GString) text = g_string_new(NULL);

    assert_non_null(found);
    for (guint i = 0; i < found->len; i++) {
        const CkptCheckpoint *row = g_ptr_array_index(found, i);

        g_string_append_printf(text, "%s %s %s %u %s\n", row->id, row->name, row->parent_id ? row->parent_id : "",
                               row->state, row->disabled_reason ? row->disabled_reason : "");
    }
    return g_strdup(text->str);
}

static void
assert_refused(EngineFixture *fixture, CkptKind kind, const char *id, CkptReason reason)
{
    g_auto(Outcome) outcome = {0};
    g_autofree char *request_id = ckpt_id_new();

    engine_fixture_call(fixture, engine_fixture_request(kind, request_id, id), &outcome);
    if (!outcome.error || ckpt_error_reason(outcome.error) != reason)
        fail_msg("%s", outcome.error ? outcome.error->message : "it was done");
}

static void
agree(EngineFixture *fixture)
{
    g_auto(Outcome) outcome = {0};
    g_autofree char *id = ckpt_id_new();

    engine_fixture_call(fixture, engine_fixture_request(CKPT_KIND_REPAIR, id, NULL), &outcome);
    if (outcome.error)
        fail_msg("%s", outcome.error->message);
}

/* ---- Tests ---- */

static void
comes_back(EngineFixture *fixture, void (*lose_it)(EngineFixture *))
{
    guint32 one = engine_fixture_write(fixture);
    g_autofree char *first = engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL);
    g_autofree char *second = (engine_fixture_write(fixture),
                               engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL));
    g_autofree char *before = rows(fixture), *after = NULL, *agreed = NULL, *safety = NULL;

    lose_it(fixture);
    for (guint i = 0; i < 3; i++) { /* nothing but agreement ends it */
        g_autofree char *found = NULL;

        settle(fixture);
        assert_true(is_read_only(fixture));
        found = rows(fixture);
        assert_string_equal(found, before);
        assert_refused(fixture, CKPT_KIND_CREATE, NULL, CKPT_REASON_CATALOGUE_REBUILT);
        assert_refused(fixture, CKPT_KIND_DELETE, second, CKPT_REASON_CATALOGUE_REBUILT);
        engine_fixture_restart(fixture);
        assert_true(i > 1 || is_read_only(fixture) || lose_it == lose_folder);
    }
    settle(fixture);
    agree(fixture);
    assert_false(is_read_only(fixture));
    after = rows(fixture);
    assert_string_equal(after, before);
    engine_fixture_restart(fixture);
    settle(fixture);
    assert_false(is_read_only(fixture));
    agreed = rows(fixture);
    assert_string_equal(agreed, before);
    safety = engine_fixture_must(fixture, CKPT_KIND_RESTORE, first);
    assert_int_equal(engine_fixture_read(fixture), one);
    g_free(engine_fixture_must(fixture, CKPT_KIND_DELETE, second));
    assert_int_equal(fixture->sim->crimes->len, 0);
}

static void
one_that_is_gone_comes_back_and_waits_for_agreement(void **state)
{
    comes_back(*state, lose_catalogue);
}

static void
one_that_is_gone_with_its_folder_comes_back_and_waits_for_agreement(void **state)
{
    comes_back(*state, lose_folder);
}

/* Not even the first request after the start slips through before anything was looked at. */
static void
a_request_waits_for_no_look_to_be_refused(void **state)
{
    EngineFixture *fixture = *state;

    g_free(engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL));
    lose_folder(fixture);
    assert_refused(fixture, CKPT_KIND_CREATE, NULL, CKPT_REASON_CATALOGUE_REBUILT);
}

static guint
count_listed(EngineFixture *fixture, GPtrArray *warnings)
{
    const CkptCheckpointQuery all = {.enabled = -1};
    g_autoptr(GPtrArray) infos = ckpt_engine_list_checkpoints(fixture->engine, &all, FALSE, warnings, NULL);

    assert_non_null(infos);
    return infos->len;
}

/* Nobody is told that there are none before that is known. */
static void
a_list_waits_for_no_look_to_be_whole(void **state)
{
    EngineFixture *fixture = *state;
    g_autoptr(GPtrArray) warnings = g_ptr_array_new_with_free_func(g_free);

    engine_fixture_write(fixture);
    g_free(engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL));
    lose_folder(fixture);
    assert_int_equal(count_listed(fixture, NULL), 0); /* the hypervisor may be away */
    assert_false(ckpt_engine_is_compared(fixture->engine));
    assert_int_equal(count_listed(fixture, warnings), 1);
    assert_true(ckpt_engine_is_compared(fixture->engine));
    lose_catalogue(fixture);
    assert_int_equal(count_listed(fixture, NULL), 0);
    assert_int_equal(count_listed(fixture, warnings), 1);
    assert_int_equal(warnings->len, 0);
}

static void
a_new_host_is_not_read_only(void **state)
{
    EngineFixture *fixture = *state;

    lose_folder(fixture);
    settle(fixture);
    assert_false(is_read_only(fixture));
    g_free(engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL));
    engine_fixture_restart(fixture);
    settle(fixture);
    assert_false(is_read_only(fixture));
}

/* The present state branched off, and no definition and no other manifest names the folder any more. */
static void
a_checkpoint_in_a_folder_that_nothing_names_is_found(void **state)
{
    EngineFixture *fixture = *state;
    CkptSimVm *vm = ckpt_sim_find_vm(fixture->sim, FIXTURE_VM);
    g_autofree char *first = engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL);
    g_autofree char *top = g_strdup(ckpt_sim_definition_find(vm->definition, "vda")->source);
    g_autofree char *safety = NULL, *before = NULL, *after = NULL;

    /* Another tool's overlay, elsewhere. */
    ckpt_sim_stop(fixture->sim, vm);
    ckpt_sim_add_file(fixture->sim, "/elsewhere/web.virsh", CKPT_FORMAT_QCOW2, 0, top, 0600);
    ckpt_sim_definition_set(vm->definition, "vda", "/elsewhere/web.virsh", CKPT_FORMAT_QCOW2);
    assert_true(ckpt_sim_start(fixture->sim, vm, CKPT_POWER_RUNNING, NULL));
    safety = engine_fixture_must(fixture, CKPT_KIND_RESTORE, first);
    before = rows(fixture);
    assert_non_null(strstr(before, safety));
    lose_catalogue(fixture);
    settle(fixture);
    after = rows(fixture);
    assert_string_equal(after, before);
}

/* What another agent took over is its own, as it was when the catalogue was there. */
static void
what_another_agent_took_over_is_not_taken_back(void **state)
{
    EngineFixture *fixture = *state;
    CkptDriver *driver = ckpt_sim_driver(fixture->sim);
    g_autofree char *first = engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL);
    g_autofree char *second = engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL);
    g_autoptr(CkptCheckpoint) row = ckpt_store_get_checkpoint(fixture->store, second, NULL);
    const CkptHostInfo other = {.host_id = (char *)OTHER_HOST, .host_name = (char *)"other"};
    g_autofree char *text = ckpt_manifest_text(row, &other, row->epoch + 1);
    const char *file = ((CkptCheckpointDisk *)row->disks->pdata[0])->sealed_file;
    g_autoptr(CkptManifest) head = driver->manifest_head(driver, file);
    g_autoptr(CkptCheckpoint) moved = NULL, kept = NULL;
    g_autoptr(GPtrArray) made = NULL;

    engine_fixture_close(fixture);
    assert_true(driver->take_over(driver, file, text, head->agent, head->epoch, NULL));
    engine_fixture_open(fixture);
    lose_catalogue(fixture);
    settle(fixture);
    kept = ckpt_store_get_checkpoint(fixture->store, first, NULL);
    assert_int_equal(kept->state, CKPT_STATE_READY);
    moved = ckpt_store_get_checkpoint(fixture->store, second, NULL);
    assert_int_equal(moved->state, CKPT_STATE_MOVED);
    made = ckpt_store_vm_files(fixture->store, FIXTURE_VM, NULL);
    assert_int_equal(made->len, 0);
}

/* By the headers of what it lies on: its definition names the other folder alone. */
static void
checkpoints_below_another_tools_overlay_in_another_folder_come_back(void **state)
{
    EngineFixture *fixture = *state;
    g_autofree char *id = engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL);
    g_autofree char *before = rows(fixture), *after = NULL;

    assert_non_null(ckpt_sim_snapshot_add(fixture->sim, fixture->sim->vms->pdata[0], "virsh-1", "/elsewhere"));
    lose_folder(fixture);
    settle(fixture);
    after = rows(fixture);
    assert_string_equal(before, after);
    agree(fixture);
    assert_non_null(strstr(after, id));
}

static CkptFoundFiles *
no_manifests(CkptDriver *driver, const char *const *folders, GError **error)
{
    ckpt_error_set(error, CKPT_REASON_FILE_FAILED, "look into folder /images: Stale file handle");
    return NULL;
}

/* Nor is it taken for a hypervisor that does not answer; once that is mended, a repair reads it back. */
static void
what_keeps_it_from_being_read_back_is_said(void **state)
{
    EngineFixture *fixture = *state;
    CkptDriver *driver = ckpt_sim_driver(fixture->sim);
    CkptFoundFiles *(*find)(CkptDriver *, const char *const *, GError **) = driver->find_manifests;
    g_autofree char *reason = NULL, *before = NULL, *after = NULL;

    g_free(engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL));
    before = rows(fixture);
    driver->find_manifests = no_manifests;
    lose_catalogue(fixture);
    settle(fixture);
    reason = ckpt_engine_read_only_reason(fixture->engine);
    assert_non_null(strstr(reason, "Stale file handle"));
    driver->find_manifests = find;
    agree(fixture);
    assert_false(is_read_only(fixture));
    after = rows(fixture);
    assert_string_equal(after, before);
}

static CkptVm *
no_vm(CkptDriver *driver, const char *vm_id, const CkptKnownFile *files, GError **error)
{
    ckpt_error_set(error, CKPT_REASON_HYPERVISOR_FAILED, "told to fail");
    return NULL;
}

/* Else it would keep all others' from being read back, and the agent read-only. */
static void
checkpoints_of_a_vm_that_cannot_be_looked_at_come_back(void **state)
{
    EngineFixture *fixture = *state;
    CkptDriver *driver = ckpt_sim_driver(fixture->sim);
    CkptVm *(*inspect)(CkptDriver *, const char *, const CkptKnownFile *, GError **) = driver->inspect;
    g_autofree char *before = NULL, *found = NULL, *after = NULL;

    g_free(engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL));
    g_free(engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL));
    before = rows(fixture);
    driver->inspect = no_vm;
    lose_catalogue(fixture);
    settle(fixture);
    found = rows(fixture);
    assert_string_equal(found, before);
    driver->inspect = inspect;
    agree(fixture);
    after = rows(fixture);
    assert_string_equal(after, before);
    g_free(engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL));
}

/* ---- A VM that comes while the catalogue is new ---- */

static GPtrArray *(*real_image_files)(CkptDriver *driver, gboolean below, GError **error);

static GPtrArray *
no_image_files(CkptDriver *driver, gboolean below, GError **error)
{
    ckpt_error_set(error, CKPT_REASON_HYPERVISOR_UNAVAILABLE, "told to fail");
    return NULL;
}

/* Its manifests become this agent's before the catalogue has it: to a look after a crash in between they would
 * be those of a catalogue that was lost. */
static void
nothing_is_adopted_before_a_new_catalogue_was_compared(void **state)
{
    EngineFixture *fixture = *state;
    CkptDriver *driver = ckpt_sim_driver(fixture->sim);
    g_autofree char *id = engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL);
    g_autoptr(CkptCheckpoint) row = ckpt_store_get_checkpoint(fixture->store, id, NULL);
    const char *file = ((CkptCheckpointDisk *)row->disks->pdata[0])->sealed_file;
    g_autoptr(CkptManifest) head = NULL, then = NULL;

    engine_fixture_close(fixture);
    fixture->sim->host_id = OTHER_HOST;
    real_image_files = driver->image_files;
    driver->image_files = no_image_files;
    lose_folder(fixture);
    settle(fixture);
    head = driver->manifest_head(driver, file);
    assert_string_not_equal(head->agent, OTHER_HOST);
    assert_refused(fixture, CKPT_KIND_CREATE, NULL, CKPT_REASON_HYPERVISOR_UNAVAILABLE);
    driver->image_files = real_image_files;
    settle(fixture);
    then = driver->manifest_head(driver, file);
    assert_string_equal(then->agent, OTHER_HOST);
    assert_false(is_read_only(fixture));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, engine_fixture_teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(one_that_is_gone_comes_back_and_waits_for_agreement),
        TEST(one_that_is_gone_with_its_folder_comes_back_and_waits_for_agreement),
        TEST(a_request_waits_for_no_look_to_be_refused),
        TEST(a_list_waits_for_no_look_to_be_whole),
        TEST(a_new_host_is_not_read_only),
        TEST(a_checkpoint_in_a_folder_that_nothing_names_is_found),
        TEST(checkpoints_below_another_tools_overlay_in_another_folder_come_back),
        TEST(what_another_agent_took_over_is_not_taken_back),
        TEST(what_keeps_it_from_being_read_back_is_said),
        TEST(checkpoints_of_a_vm_that_cannot_be_looked_at_come_back),
        TEST(nothing_is_adopted_before_a_new_catalogue_was_compared),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
