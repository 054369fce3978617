/* Puts right what the doctor found: finding by finding, each looked for anew when its VM's turn has come,
 * and counted as repaired only if a look afterwards does not find it any more. Nothing here removes a file
 * whose contents somebody may need. */
#include "agent/core/diagnose.h"
#include "agent/core/engine_internal.h"
#include "agent/core/graph.h"
#include "agent/core/plan_parts.h"
#include "agent/model/manifest.h"

#define TURN_US (30 * G_USEC_PER_SEC)

typedef struct {
    CkptEngine *engine;
    const CkptRequest *request;
    GHashTable *wanted; /* set of finding ids that are to be repaired */
    GHashTable *failed; /* finding id → why (char *) */
} Repair;

/* ---- Which ---- */

static gboolean
is_asked_for(const CkptRequest *request, const CkptFinding *finding)
{
    if (!request->finding_ids || !*request->finding_ids)
        return TRUE;
    return g_strv_contains((const char *const *)request->finding_ids, finding->id);
}

static GHashTable *
choose(const CkptRequest *request, GPtrArray *findings)
{
    GHashTable *wanted = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);

    for (guint i = 0; i < findings->len; i++) {
        const CkptFinding *finding = g_ptr_array_index(findings, i);

        if (*finding->repair && is_asked_for(request, finding))
            g_hash_table_add(wanted, g_strdup(finding->id));
    }
    return wanted;
}

/* Of a VM that cannot be looked at afterwards nothing is found, and nothing is known. */
static const CkptFinding *
find_unexamined(GPtrArray *after, const CkptFinding *finding)
{
    for (guint i = 0; i < after->len; i++) {
        const CkptFinding *other = g_ptr_array_index(after, i);

        if (other->kind == CKPT_FINDING_NOT_EXAMINED && g_str_equal(other->vm_id, finding->vm_id))
            return other;
    }
    return NULL;
}

static void
add_gone(CkptRepairResult *result, const CkptFinding *finding, GPtrArray *after, GHashTable *failed)
{
    const char *why = failed ? g_hash_table_lookup(failed, finding->id) : NULL;
    const CkptFinding *unexamined = find_unexamined(after, finding);
    CkptFinding *copy = ckpt_finding_copy(finding);

    if (!why && unexamined)
        why = unexamined->message;
    /* One whose repair failed and that is not found any more has gone by itself. */
    if (!unexamined) {
        g_ptr_array_add(result->repaired, copy);
        return;
    }
    ckpt_set_str(&copy->repair_error, why);
    g_ptr_array_add(result->left, copy);
}

static CkptRepairResult *
make_result(const CkptRequest *request, GPtrArray *before, GPtrArray *after, GHashTable *wanted,
            GHashTable *failed)
{
    CkptRepairResult *result = ckpt_repair_result_new();

    for (guint i = 0; i < before->len; i++) {
        const CkptFinding *finding = g_ptr_array_index(before, i);

        if (g_hash_table_contains(wanted, finding->id) && !ckpt_findings_lookup(after, finding->id))
            add_gone(result, finding, after, failed);
    }
    for (guint i = 0; i < after->len; i++) {
        CkptFinding *finding = ckpt_finding_copy(g_ptr_array_index(after, i));
        const char *why = failed ? g_hash_table_lookup(failed, finding->id) : NULL;

        if (failed && !why && g_hash_table_contains(wanted, finding->id))
            why = "it is found again";
        ckpt_set_str(&finding->repair_error, why ? why : "");
        g_ptr_array_add(result->left, finding);
    }
    for (char **id = request->finding_ids; id && *id; id++)
        if (!ckpt_findings_lookup(before, *id) && !ckpt_findings_lookup(after, *id))
            g_ptr_array_add(result->vanished, g_strdup(*id));
    return result;
}

/* ---- One of a VM's ---- */

static gboolean
run_step(CkptEngine *engine, const Situation *situation, CkptPlan *plan, CkptStep *step, GError **error)
{
    ckpt_set_str(&plan->vm_id, situation->vm->id);
    ckpt_set_str(&plan->vm_name, situation->vm->name);
    return engine->driver->step_do(engine->driver, plan, step, NULL, NULL, NULL, error);
}

static gboolean
seal(CkptEngine *engine, Situation *situation, const CkptFinding *finding, GError **error)
{
    g_autoptr(CkptPlan) plan = ckpt_plan_new(CKPT_KIND_REPAIR);
    const CkptLayer *layer = ckpt_vm_find_file(situation->vm, finding->file);
    CkptCheckpointDisk *disk = NULL;

    if (!ckpt_graph_owner(&situation->input, finding->file, &disk) || !layer ||
        !ckpt_file_id_holds(&layer->id, &disk->id)) {
        ckpt_error_set(error, CKPT_REASON_SEALED_FILE_CHANGED, "%s was changed meanwhile", finding->file);
        return FALSE;
    }
    return run_step(engine, situation, plan, ckpt_plan_add_seal(plan, finding->file, 0440), error);
}

static gboolean
write_manifest(CkptEngine *engine, Situation *situation, const CkptFinding *finding, GError **error)
{
    g_autoptr(CkptPlan) plan = ckpt_plan_new(CKPT_KIND_REPAIR);
    CkptCheckpoint *row = ckpt_graph_find(situation->checkpoints, finding->checkpoint_id);
    g_autoptr(CkptHostInfo) host = NULL;
    CkptStep *step;

    if (row && !ckpt_graph_is_as_sealed(&situation->input, row)) {
        ckpt_error_set(error, CKPT_REASON_SEALED_FILE_CHANGED, "%s was changed meanwhile", finding->file);
        return FALSE;
    }
    if (!row || !engine->driver->host_info(engine->driver, &host, error))
        return FALSE;
    step = ckpt_plan_add_manifest(plan, row);
    g_free(step->text);
    step->text = ckpt_manifest_text(row, host, row->epoch);
    return run_step(engine, situation, plan, step, error);
}

static gboolean
verify(CkptEngine *engine, Situation *situation, const CkptFinding *finding, GError **error)
{
    ckpt_situation_record(engine, situation);
    return TRUE;
}

/* What a delete that was cut short leaves is refused by itself, but for the delete. */
static gboolean
agrees_but_for_delete(const Situation *situation, GError **error)
{
    g_autoptr(GError) why = NULL;

    if (ckpt_plan_look(&situation->input, &why) || ckpt_error_reason(why) == CKPT_REASON_CHECKPOINT_DELETING)
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&why));
    return FALSE;
}

static gboolean
lift(CkptEngine *engine, Situation *situation, const CkptFinding *finding, GError **error)
{
    if (ckpt_unread_is(engine, situation->vm->id))
        return agrees_but_for_delete(situation, error) &&
               ckpt_unread_agree(engine, situation->vm->id, error);
    return ckpt_plan_look(&situation->input, error) &&
           ckpt_engine_lift_quarantine(engine, situation, error);
}

static gboolean
put_definition_right(CkptEngine *engine, Situation *situation, const CkptFinding *finding, GError **error)
{
    g_autoptr(CkptPlan) plan = ckpt_plan_mend(&situation->input);

    return !plan || run_step(engine, situation, plan, g_ptr_array_index(plan->steps, 0), error);
}

static gboolean
release_guest(CkptEngine *engine, Situation *situation, const CkptFinding *finding, GError **error)
{
    return engine->driver->guest_release(engine->driver, situation->vm->id, error);
}

static gboolean
remove_unneeded(CkptEngine *engine, Situation *situation, const CkptFinding *finding, GError **error)
{
    ckpt_leftovers_look(engine, situation->vm->id);
    return TRUE;
}

typedef gboolean (*RepairFunc)(CkptEngine *engine, Situation *situation, const CkptFinding *finding,
                               GError **error);

static const RepairFunc of_vm[CKPT_FINDING_END_] = {
    [CKPT_FINDING_SEALED_FILE_WRITABLE] = seal,
    [CKPT_FINDING_CHECKPOINT_DISABLED] = verify,
    [CKPT_FINDING_CHAIN_MISMATCH] = put_definition_right,
    [CKPT_FINDING_VM_QUARANTINED] = lift,
    [CKPT_FINDING_GUEST_FROZEN] = release_guest,
    [CKPT_FINDING_GUEST_PAUSED] = release_guest,
    [CKPT_FINDING_FILE_UNNEEDED] = remove_unneeded,
    [CKPT_FINDING_MANIFEST_MISSING] = write_manifest,
};

/* ---- All of a VM's, in its turn ---- */

static void
note_failure(Repair *repair, const CkptFinding *finding, const GError *why)
{
    g_warning("VM %s: %s could not be repaired: %s", finding->vm_id,
              ckpt_finding_kind_name(finding->kind), why ? why->message : "it is gone");
    g_hash_table_insert(repair->failed, g_strdup(finding->id),
                        g_strdup(why ? why->message : "it is gone"));
}

/* Looked at for each anew: what one repair changed, the next must not judge by what was before. */
static gboolean
put_right(CkptEngine *engine, const CkptFinding *finding, GError **error)
{
    g_auto(Situation) situation = {0};
    g_autoptr(GError) why = NULL;

    if (ckpt_situation_read(engine, finding->vm_id, FALSE, &situation, &why))
        return of_vm[finding->kind](engine, &situation, finding, error);
    if (finding->kind == CKPT_FINDING_VM_QUARANTINED && ckpt_error_reason(why) == CKPT_REASON_VM_NOT_FOUND &&
        ckpt_unread_is(engine, finding->vm_id)) /* there is nothing to compare */
        return ckpt_unread_agree(engine, finding->vm_id, error);
    g_propagate_error(error, g_steal_pointer(&why));
    return FALSE;
}

static void
repair_one(Repair *repair, const CkptFinding *finding)
{
    CkptEngine *engine = repair->engine;
    g_autoptr(GError) error = NULL;

    if (!of_vm[finding->kind])
        return;
    if (put_right(engine, finding, &error))
        g_message("VM %s: repaired %s%s%s: %s", finding->vm_id, ckpt_finding_kind_name(finding->kind),
                  *finding->file ? " of " : "", finding->file, finding->repair);
    else
        note_failure(repair, finding, error);
}

static void
repair_vm(Repair *repair, const char *vm_id)
{
    CkptEngine *engine = repair->engine;
    g_autoptr(GPtrArray) findings = ckpt_findings_new();
    g_autoptr(GError) error = NULL;

    if (!ckpt_doctor_look(engine, vm_id, findings, &error))
        g_warning("VM %s cannot be looked at: %s", vm_id, error->message);
    ckpt_findings_sort_for_repair(findings);
    for (guint i = 0; i < findings->len; i++) {
        const CkptFinding *finding = g_ptr_array_index(findings, i);

        if (*finding->repair && g_hash_table_contains(repair->wanted, finding->id))
            repair_one(repair, finding);
    }
}

static void
repair_in_turn(Repair *repair, GPtrArray *before, const char *vm_id)
{
    CkptEngine *engine = repair->engine;
    g_autoptr(GError) busy = NULL;

    if (ckpt_engine_claim_turn(engine, vm_id, g_get_monotonic_time() + TURN_US)) {
        repair_vm(repair, vm_id);
        ckpt_engine_end_turn(engine, vm_id);
        return;
    }
    ckpt_error_set(&busy, CKPT_REASON_VM_BUSY, "an operation works on the VM: repair it when that has ended");
    for (guint i = 0; i < before->len; i++) {
        const CkptFinding *finding = g_ptr_array_index(before, i);

        if (g_str_equal(finding->vm_id, vm_id) && g_hash_table_contains(repair->wanted, finding->id))
            note_failure(repair, finding, busy);
    }
}

/* Before everything else: until then only reads are allowed. FALSE: it stays so. */
static gboolean
agree(Repair *repair, GPtrArray *before)
{
    g_autofree char *unagreed = ckpt_rebuild_unagreed(repair->engine);
    g_autoptr(GError) error = NULL;

    for (guint i = 0; unagreed && i < before->len; i++) {
        const CkptFinding *finding = g_ptr_array_index(before, i);

        if (!g_hash_table_contains(repair->wanted, finding->id))
            continue;
        if (finding->kind == CKPT_FINDING_CATALOGUE_REBUILT) {
            if (ckpt_rebuild_agree(repair->engine, &error))
                return TRUE;
            note_failure(repair, finding, error);
        }
    }
    return !unagreed;
}

static void
refuse_all(Repair *repair, GPtrArray *before)
{
    g_autoptr(GError) why = NULL;

    ckpt_error_set(&why, CKPT_REASON_CATALOGUE_REBUILT, "agree to the rebuilt catalogue first");
    for (guint i = 0; i < before->len; i++) {
        const CkptFinding *finding = g_ptr_array_index(before, i);

        if (finding->kind != CKPT_FINDING_CATALOGUE_REBUILT &&
            g_hash_table_contains(repair->wanted, finding->id))
            note_failure(repair, finding, why);
    }
}

static void
repair_all(Repair *repair, GPtrArray *before)
{
    g_autoptr(GHashTable) done = g_hash_table_new(g_str_hash, g_str_equal);

    for (guint i = 0; i < before->len; i++) {
        const CkptFinding *finding = g_ptr_array_index(before, i);

        if (*finding->vm_id && g_hash_table_contains(repair->wanted, finding->id) &&
            g_hash_table_add(done, finding->vm_id))
            repair_in_turn(repair, before, finding->vm_id);
    }
}

/* ---- The operation ---- */

gboolean
ckpt_repair_foresee(CkptEngine *engine, CkptOperation *op, GError **error)
{
    g_autoptr(GPtrArray) before = ckpt_engine_diagnose(engine, op->request->vm_id, error);
    g_autoptr(GPtrArray) after = NULL;
    g_autoptr(GHashTable) wanted = NULL;

    if (!before)
        return FALSE;
    wanted = choose(op->request, before);
    after = ckpt_findings_new();
    for (guint i = 0; i < before->len; i++) {
        const CkptFinding *finding = g_ptr_array_index(before, i);

        if (!g_hash_table_contains(wanted, finding->id))
            g_ptr_array_add(after, ckpt_finding_copy(finding));
    }
    op->repair = make_result(op->request, before, after, wanted, NULL);
    return TRUE;
}

gboolean
ckpt_repair_run(CkptEngine *engine, CkptOperation *op, GError **error)
{
    g_autoptr(GPtrArray) before = ckpt_engine_diagnose(engine, op->request->vm_id, error);
    g_autoptr(GHashTable) wanted = before ? choose(op->request, before) : NULL;
    g_autoptr(GHashTable) failed =
        g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    g_autoptr(GPtrArray) after = NULL;
    Repair repair = {engine, op->request, wanted, failed};

    if (!before)
        return FALSE;
    if (agree(&repair, before))
        repair_all(&repair, before);
    else
        refuse_all(&repair, before);
    after = ckpt_engine_diagnose(engine, op->request->vm_id, error);
    if (!after)
        return FALSE;
    op->repair = make_result(op->request, before, after, wanted, failed);
    return TRUE;
}
