/* Diagnose and Repair of the engine, with a real store on the simulated hypervisor. */
#include "agent/core/engine_internal.h"
#include "common/id.h"
#include "tests/unit/cmocka_all.h"
#include "tests/unit/engine_fixture.h"

#include <string.h>

static GPtrArray *
diagnose(EngineFixture *fixture)
{
    g_autoptr(GError) error = NULL;
    GPtrArray *findings = ckpt_engine_diagnose(fixture->engine, NULL, &error);

    if (!findings)
        fail_msg("%s", error->message);
    return findings;
}

static void
must_be_well(EngineFixture *fixture)
{
    g_autoptr(GPtrArray) findings = diagnose(fixture);

    if (findings->len > 0)
        fail_msg("%s", ((CkptFinding *)findings->pdata[0])->message);
}

/* The only finding there is. (transfer full) */
static CkptFinding *
must_find(EngineFixture *fixture, CkptFindingKind kind)
{
    g_autoptr(GPtrArray) findings = diagnose(fixture);

    for (guint i = 0; i < findings->len; i++)
        print_message("%s: %s\n", ckpt_finding_kind_name(((CkptFinding *)findings->pdata[i])->kind),
                      ((CkptFinding *)findings->pdata[i])->message);
    assert_int_equal(findings->len, 1);
    assert_int_equal(((CkptFinding *)findings->pdata[0])->kind, kind);
    return ckpt_finding_copy(findings->pdata[0]);
}

static void
repair_as(EngineFixture *fixture, const char *request_id, const char *finding_id, gboolean validate_only,
          Outcome *outcome)
{
    CkptRequest *request = engine_fixture_request(CKPT_KIND_REPAIR, request_id, NULL);
    const char *const ids[] = {finding_id, NULL};

    request->finding_ids = finding_id ? g_strdupv((char **)ids) : NULL;
    request->validate_only = validate_only;
    engine_fixture_call(fixture, request, outcome);
    if (outcome->error)
        fail_msg("%s", outcome->error->message);
    assert_non_null(outcome->op->repair);
}

static void
repair(EngineFixture *fixture, const char *finding_id, Outcome *outcome)
{
    g_autofree char *id = ckpt_id_new();

    repair_as(fixture, id, finding_id, FALSE, outcome);
}

static CkptCheckpoint *
read_row(EngineFixture *fixture, const char *id)
{
    CkptCheckpoint *row = ckpt_store_get_checkpoint(fixture->store, id, NULL);

    assert_non_null(row);
    return row;
}

static CkptSimFile *
sealed_file(EngineFixture *fixture, const char *id)
{
    g_autoptr(CkptCheckpoint) row = read_row(fixture, id);
    CkptSimFile *file =
        ckpt_sim_find(fixture->sim, ((CkptCheckpointDisk *)row->disks->pdata[0])->sealed_file);

    assert_non_null(file);
    return file;
}

/* ---- Tests ---- */

static void
a_healthy_host_has_no_findings(void **state)
{
    EngineFixture *fixture = *state;

    g_free(engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL));
    must_be_well(fixture);
}

static void
a_writable_sealed_file_is_sealed_again_and_its_contents_stay(void **state)
{
    EngineFixture *fixture = *state;
    guint32 written = engine_fixture_write(fixture);
    g_autofree char *id = engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL);
    g_autoptr(CkptFinding) finding = NULL;
    g_auto(Outcome) outcome = {0};
    g_autofree char *safety = NULL;

    engine_fixture_write(fixture);
    sealed_file(fixture, id)->mode = 0644;
    finding = must_find(fixture, CKPT_FINDING_SEALED_FILE_WRITABLE);
    repair(fixture, NULL, &outcome);
    assert_int_equal(outcome.op->repair->repaired->len, 1);
    assert_int_equal(outcome.op->repair->left->len, 0);
    assert_int_equal(sealed_file(fixture, id)->mode, 0440);
    must_be_well(fixture);
    safety = engine_fixture_must(fixture, CKPT_KIND_RESTORE, id);
    assert_int_equal(engine_fixture_read(fixture), written);
}

static void
a_missing_manifest_is_written_again(void **state)
{
    EngineFixture *fixture = *state;
    g_autoptr(CkptFinding) finding = NULL;
    g_auto(Outcome) outcome = {0};

    g_free(engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL));
    g_hash_table_remove_all(fixture->sim->manifests);
    finding = must_find(fixture, CKPT_FINDING_MANIFEST_MISSING);
    repair(fixture, finding->id, &outcome);
    assert_int_equal(outcome.op->repair->repaired->len, 1);
    assert_int_equal(g_hash_table_size(fixture->sim->manifests), 1);
    must_be_well(fixture);
}

static void
what_is_only_validated_changes_nothing(void **state)
{
    EngineFixture *fixture = *state;
    g_autofree char *id = engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL);
    g_autofree char *request_id = ckpt_id_new();
    g_auto(Outcome) outcome = {0};

    sealed_file(fixture, id)->mode = 0644;
    repair_as(fixture, request_id, NULL, TRUE, &outcome);
    assert_int_equal(outcome.op->repair->repaired->len, 1);
    assert_int_equal(sealed_file(fixture, id)->mode, 0644);
}

/* libvirt goes away as soon as something was changed. */
static gboolean
away_after_a_change(CkptSim *sim, CkptSimMoment moment, const CkptPlan *plan, const CkptStep *step,
                    gpointer data, GError **error)
{
    gboolean *changed = data;

    if (moment == CKPT_SIM_CHANGED)
        *changed = TRUE;
    if (moment != CKPT_SIM_ASKED || !*changed)
        return TRUE;
    ckpt_error_set(error, CKPT_REASON_HYPERVISOR_UNAVAILABLE, "libvirt is away");
    return FALSE;
}

static void
what_cannot_be_looked_at_afterwards_is_not_called_repaired(void **state)
{
    EngineFixture *fixture = *state;
    g_autofree char *id = engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL);
    g_autoptr(CkptFinding) finding = NULL;
    g_auto(Outcome) outcome = {0};
    CkptSimHook hook = fixture->sim->hook;
    gboolean changed = FALSE, found = FALSE;

    sealed_file(fixture, id)->mode = 0644;
    finding = must_find(fixture, CKPT_FINDING_SEALED_FILE_WRITABLE);
    fixture->sim->hook = away_after_a_change;
    fixture->sim->hook_data = &changed;
    repair(fixture, finding->id, &outcome);
    assert_true(changed);
    assert_int_equal(outcome.op->repair->repaired->len, 0);
    for (guint i = 0; i < outcome.op->repair->left->len; i++) {
        const CkptFinding *left = g_ptr_array_index(outcome.op->repair->left, i);

        if (!g_str_equal(left->id, finding->id))
            continue;
        found = TRUE;
        assert_non_null(strstr(left->repair_error, "libvirt is away"));
    }
    assert_true(found);
    fixture->sim->hook = hook;
    fixture->sim->hook_data = fixture;
}

static void
only_what_is_asked_for_is_repaired(void **state)
{
    EngineFixture *fixture = *state;
    g_autofree char *id = engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL);
    g_autoptr(CkptFinding) finding = NULL;
    g_auto(Outcome) outcome = {0};

    sealed_file(fixture, id)->mode = 0644;
    finding = must_find(fixture, CKPT_FINDING_SEALED_FILE_WRITABLE);
    g_hash_table_remove_all(fixture->sim->manifests);
    repair(fixture, finding->id, &outcome);
    assert_int_equal(outcome.op->repair->repaired->len, 1);
    assert_int_equal(outcome.op->repair->left->len, 1);
    assert_int_equal(sealed_file(fixture, id)->mode, 0440);
    assert_int_equal(g_hash_table_size(fixture->sim->manifests), 0);
}

static void
a_finding_that_is_gone_is_said_to_be(void **state)
{
    EngineFixture *fixture = *state;
    g_autofree char *id = engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL);
    g_autoptr(CkptFinding) finding = NULL;
    g_auto(Outcome) outcome = {0};

    sealed_file(fixture, id)->mode = 0644;
    finding = must_find(fixture, CKPT_FINDING_SEALED_FILE_WRITABLE);
    sealed_file(fixture, id)->mode = 0440;
    repair(fixture, finding->id, &outcome);
    assert_int_equal(outcome.op->repair->repaired->len, 0);
    assert_int_equal(outcome.op->repair->vanished->len, 1);
    assert_string_equal(outcome.op->repair->vanished->pdata[0], finding->id);
}

static void
what_cannot_be_repaired_is_left_and_untouched(void **state)
{
    EngineFixture *fixture = *state;
    g_autofree char *id = engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL);
    g_auto(Outcome) outcome = {0};
    CkptSimFile *file = sealed_file(fixture, id);
    gint64 mtime;

    ckpt_sim_write_cell(fixture->sim, file, 1, 77);
    file->mode = 0644;
    mtime = file->mtime;
    repair(fixture, NULL, &outcome);
    assert_int_equal(outcome.op->repair->repaired->len, 0);
    assert_int_equal(outcome.op->repair->left->len, 2);
    assert_int_equal(file->mode, 0644);
    assert_int_equal(file->mtime, mtime);
}

static void
a_disabled_checkpoint_is_enabled_again_and_a_quarantine_lifted(void **state)
{
    EngineFixture *fixture = *state;
    g_autofree char *id = engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL);
    g_autoptr(CkptCheckpoint) row = read_row(fixture, id);
    g_autoptr(GPtrArray) rows = g_ptr_array_new();
    g_autoptr(CkptVmRecord) record = NULL;
    g_auto(Outcome) outcome = {0};

    ckpt_set_str(&row->disabled_reason, "it was missing");
    g_ptr_array_add(rows, row);
    assert_true(ckpt_store_note_verified(fixture->store, rows, NULL));
    assert_true(ckpt_store_quarantine_vm(fixture->store, FIXTURE_VM, "chains differed", NULL));
    repair(fixture, NULL, &outcome);
    assert_int_equal(outcome.op->repair->repaired->len, 2);
    g_clear_pointer(&row, ckpt_checkpoint_free);
    row = read_row(fixture, id);
    assert_null(row->disabled_reason);
    record = ckpt_store_get_vm(fixture->store, FIXTURE_VM, NULL);
    assert_null(record->quarantine_reason);
    must_be_well(fixture);
}

static void
a_guest_that_the_agent_paused_goes_on(void **state)
{
    EngineFixture *fixture = *state;
    CkptSimVm *vm = ckpt_sim_find_vm(fixture->sim, FIXTURE_VM);
    g_autoptr(CkptFinding) finding = NULL;
    g_auto(Outcome) outcome = {0};

    vm->suspended = TRUE;
    vm->power = CKPT_POWER_PAUSED;
    finding = must_find(fixture, CKPT_FINDING_GUEST_PAUSED);
    repair(fixture, finding->id, &outcome);
    assert_int_equal(outcome.op->repair->repaired->len, 1);
    assert_int_equal(vm->power, CKPT_POWER_RUNNING);
}

static void
only_a_guest_that_the_agent_froze_is_thawed(void **state)
{
    EngineFixture *fixture = *state;
    CkptSimVm *vm = ckpt_sim_find_vm(fixture->sim, FIXTURE_VM);
    g_autoptr(CkptFinding) theirs = NULL, ours = NULL;
    g_auto(Outcome) outcome = {0};

    vm->agent = CKPT_SIM_AGENT_GOOD;
    vm->frozen = TRUE;
    theirs = must_find(fixture, CKPT_FINDING_GUEST_FROZEN);
    assert_string_equal(theirs->repair, "");
    repair(fixture, NULL, &outcome);
    assert_true(vm->frozen);
    vm->guards = 1;
    ours = must_find(fixture, CKPT_FINDING_GUEST_FROZEN);
    repair(fixture, NULL, &outcome);
    assert_int_equal(outcome.op->repair->repaired->len, 1);
    assert_false(vm->frozen);
}

static void
a_repair_is_done_once_by_its_request_id(void **state)
{
    EngineFixture *fixture = *state;
    g_autofree char *id = engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL);
    g_autofree char *request_id = ckpt_id_new();
    g_auto(Outcome) outcome = {0};

    sealed_file(fixture, id)->mode = 0644;
    repair_as(fixture, request_id, NULL, FALSE, &outcome);
    assert_int_equal(sealed_file(fixture, id)->mode, 0440);
    sealed_file(fixture, id)->mode = 0644;
    engine_fixture_restart(fixture);
    repair_as(fixture, request_id, NULL, FALSE, &outcome);
    assert_int_equal(outcome.op->repair->repaired->len, 1); /* as it was stored */
    assert_int_equal(sealed_file(fixture, id)->mode, 0644);
}

static void
checkpoints_of_a_vm_that_is_gone_are_orphans_and_never_repaired(void **state)
{
    EngineFixture *fixture = *state;
    g_autofree char *id = engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL);
    g_autoptr(CkptFinding) finding = NULL;
    g_auto(Outcome) outcome = {0};

    ckpt_sim_stop(fixture->sim, ckpt_sim_find_vm(fixture->sim, FIXTURE_VM));
    g_ptr_array_set_size(fixture->sim->vms, 0);
    finding = must_find(fixture, CKPT_FINDING_CHECKPOINT_ORPHANED);
    repair(fixture, NULL, &outcome);
    assert_int_equal(outcome.op->repair->left->len, 1);
    g_assert_nonnull(sealed_file(fixture, id));
}

/* Guests that keep who asks them waiting until they are let go. */
typedef struct {
    GMutex lock;
    GCond changed;
    const char *vm_id; /* NULL: all of them */
    gboolean asked, go;
} Hang;
static Hang hang;

static gboolean
hung_guest_look(CkptDriver *driver, const char *vm_id, CkptGuest *guest, GError **error)
{
    if (hang.vm_id && !g_str_equal(vm_id, hang.vm_id))
        return TRUE;
    g_mutex_lock(&hang.lock);
    hang.asked = TRUE;
    g_cond_broadcast(&hang.changed);
    while (!hang.go)
        g_cond_wait(&hang.changed, &hang.lock);
    g_mutex_unlock(&hang.lock);
    return TRUE;
}

static void
let_go(void)
{
    g_mutex_lock(&hang.lock);
    hang.go = TRUE;
    g_cond_broadcast(&hang.changed);
    g_mutex_unlock(&hang.lock);
}

static void
a_vm_that_does_not_answer_keeps_nobody_from_the_others(void **state)
{
    EngineFixture *fixture = *state;
    static const char other_id[] = "22222222-1111-4111-8111-111111111111";
    CkptSimVm *other = ckpt_sim_add_vm(fixture->sim, other_id, "web-02");
    gboolean (*look)(CkptDriver *, const char *, CkptGuest *, GError **) =
        fixture->sim->base.guest_look;
    g_autoptr(GPtrArray) findings = NULL;
    gint64 begun;

    g_free(engine_fixture_must(fixture, CKPT_KIND_CREATE, NULL));
    other->suspended = TRUE;
    fixture->limits.max_diagnose_us = 300 * 1000;
    engine_fixture_restart(fixture);
    fixture->sim->base.guest_look = hung_guest_look;
    hang.vm_id = FIXTURE_VM;
    hang.asked = hang.go = FALSE;
    begun = g_get_monotonic_time();
    findings = diagnose(fixture);
    assert_true(g_get_monotonic_time() - begun < 5 * G_USEC_PER_SEC);
    assert_true(hang.asked);
    assert_int_equal(findings->len, 1);
    assert_int_equal(((CkptFinding *)findings->pdata[0])->kind, CKPT_FINDING_NOT_EXAMINED);
    assert_string_equal(((CkptFinding *)findings->pdata[0])->vm_id, FIXTURE_VM);
    let_go();
    fixture->sim->base.guest_look = look;
}

/* More than are looked at at once. */
static void
add_running_vms(EngineFixture *fixture, guint count)
{
    for (guint i = 0; i < count; i++) {
        g_autofree char *id = ckpt_id_new();
        g_autofree char *name = g_strdup_printf("db-%u", i);
        g_autofree char *file = g_strdup_printf("/images/db-%u.qcow2", i);
        CkptSimVm *vm = ckpt_sim_add_vm(fixture->sim, id, name);

        ckpt_sim_add_file(fixture->sim, file, CKPT_FORMAT_QCOW2, 4, NULL, 0600);
        ckpt_sim_definition_set(vm->definition, "vda", file, CKPT_FORMAT_QCOW2);
        assert_true(ckpt_sim_start(fixture->sim, vm, CKPT_POWER_RUNNING, NULL));
    }
}

static gpointer
diagnose_beside(gpointer data)
{
    return diagnose(data);
}

static void
a_diagnose_ends_when_the_agent_stops_and_says_that_it_did(void **state)
{
    EngineFixture *fixture = *state;
    gboolean (*look)(CkptDriver *, const char *, CkptGuest *, GError **) =
        fixture->sim->base.guest_look;
    g_autoptr(GPtrArray) findings = NULL;
    GThread *asking;
    gint64 begun;

    add_running_vms(fixture, 30);
    fixture->sim->base.guest_look = hung_guest_look;
    hang.vm_id = NULL;
    hang.asked = hang.go = FALSE;
    asking = g_thread_new("diagnose", diagnose_beside, fixture);
    g_mutex_lock(&hang.lock);
    while (!hang.asked)
        g_cond_wait(&hang.changed, &hang.lock);
    g_mutex_unlock(&hang.lock);
    begun = g_get_monotonic_time();
    ckpt_engine_stop(fixture->engine, 0);
    let_go();
    findings = g_thread_join(asking);
    assert_true(g_get_monotonic_time() - begun < fixture->limits.max_diagnose_us / 2);
    fixture->sim->base.guest_look = look;
    assert_true(findings->len > 0);
    for (guint i = 0; i < findings->len; i++) {
        const CkptFinding *finding = g_ptr_array_index(findings, i);

        assert_int_equal(finding->kind, CKPT_FINDING_NOT_EXAMINED);
        assert_non_null(strstr(finding->message, "the agent is stopping"));
    }
}

static void
a_vm_that_nobody_knows_is_refused(void **state)
{
    EngineFixture *fixture = *state;
    g_autoptr(GError) error = NULL;

    assert_null(ckpt_engine_diagnose(fixture->engine, "99999999-1111-4111-8111-111111111111", &error));
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_VM_NOT_FOUND);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, engine_fixture_setup, engine_fixture_teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_healthy_host_has_no_findings),
        TEST(a_writable_sealed_file_is_sealed_again_and_its_contents_stay),
        TEST(a_missing_manifest_is_written_again),
        TEST(what_is_only_validated_changes_nothing),
        TEST(what_cannot_be_looked_at_afterwards_is_not_called_repaired),
        TEST(only_what_is_asked_for_is_repaired),
        TEST(a_finding_that_is_gone_is_said_to_be),
        TEST(what_cannot_be_repaired_is_left_and_untouched),
        TEST(a_disabled_checkpoint_is_enabled_again_and_a_quarantine_lifted),
        TEST(a_guest_that_the_agent_paused_goes_on),
        TEST(only_a_guest_that_the_agent_froze_is_thawed),
        TEST(a_repair_is_done_once_by_its_request_id),
        TEST(checkpoints_of_a_vm_that_is_gone_are_orphans_and_never_repaired),
        TEST(a_vm_that_does_not_answer_keeps_nobody_from_the_others),
        TEST(a_diagnose_ends_when_the_agent_stops_and_says_that_it_did),
        TEST(a_vm_that_nobody_knows_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
