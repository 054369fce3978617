#include "agent/core/executor_internal.h"

#include "common/fault.h"
#include "agent/core/graph.h"
#include "agent/core/leftovers.h"
#include "agent/model/manifest.h"

CkptStep *
ckpt_executor_step(const CkptPlan *plan, gint index)
{
    return g_ptr_array_index(plan->steps, index);
}

gboolean
ckpt_executor_is_away(const GError *error)
{
    return g_error_matches(error, CKPT_ERROR, CKPT_REASON_HYPERVISOR_UNAVAILABLE);
}

gboolean
ckpt_executor_is_moved(const GError *error)
{
    return g_error_matches(error, CKPT_ERROR, CKPT_REASON_VM_MOVED);
}

gboolean
ckpt_executor_store_is_gone(CkptExecution *x)
{
    g_autofree char *reason = ckpt_store_read_only_reason(x->store);

    return reason != NULL;
}

void
ckpt_executor_leave(CkptChange *change, const CkptStep *step)
{
    g_ptr_array_add(change->made, g_strdup(step->file));
    g_ptr_array_add(change->gone, g_strdup(step->file));
}

/* Whether what the steps have done is to stay: the catalogue knows of it. */
static gboolean
is_committed(const CkptPlan *plan, gint index)
{
    for (gint i = index - 1; i > (gint)plan->decisive; i--)
        if (ckpt_executor_step(plan, i)->kind == CKPT_STEP_CATALOGUE)
            return TRUE;
    return FALSE;
}

/* ---- What steps learn from those before them ---- */

static void
set_identity(CkptCheckpoint *checkpoint, const char *file, const CkptStep *found)
{
    for (guint i = 0; checkpoint && i < checkpoint->disks->len; i++) {
        CkptCheckpointDisk *disk = g_ptr_array_index(checkpoint->disks, i);

        if (g_str_equal(disk->sealed_file, file))
            disk->id = found->id;
    }
    for (guint i = 0; checkpoint && i < checkpoint->extras->len; i++) {
        CkptCheckpointFile *extra = g_ptr_array_index(checkpoint->extras, i);

        if (!g_str_equal(extra->path, file))
            continue;
        extra->id = found->id;
        extra->bytes = found->size;
        if (extra->kind == CKPT_FILE_MEMORY)
            checkpoint->memory_bytes = found->id.size;
    }
}

static void
set_consistency(CkptCheckpoint *checkpoint, const CkptStep *found)
{
    if (!checkpoint || g_strcmp0(checkpoint->id, found->checkpoint_id) != 0)
        return;
    checkpoint->reached = found->reached;
    checkpoint->freeze_us = found->freeze_us;
    checkpoint->pause_us = found->pause_us;
    if (found->reached == CKPT_CONSISTENCY_MEMORY)
        return;
    /* It was to be captured, and could not be. */
    for (guint i = 0; i < checkpoint->extras->len; i++)
        if (((CkptCheckpointFile *)g_ptr_array_index(checkpoint->extras, i))->kind == CKPT_FILE_MEMORY)
            g_ptr_array_remove_index(checkpoint->extras, i--);
    checkpoint->memory_bytes = 0;
}

static void
forget_made(CkptChange *change, const char *file)
{
    guint index;

    if (file && g_ptr_array_find_with_equal_func(change->made, file, g_str_equal, &index))
        g_ptr_array_remove_index(change->made, index);
}

static void
apply_consistency(CkptPlan *plan, const CkptStep *found)
{
    set_consistency(plan->checkpoint, found);
    for (guint k = 0; k < plan->steps->len; k++) {
        CkptStep *step = ckpt_executor_step(plan, k);

        for (guint c = 0; step->change && c < step->change->upserts->len; c++)
            set_consistency(g_ptr_array_index(step->change->upserts, c), found);
        if (step->change && found->reached != CKPT_CONSISTENCY_MEMORY)
            forget_made(step->change, found->file);
    }
}

/* The rows that the plan will write get the identities found so far, and what was reached. */
static void
apply_results(CkptPlan *plan, gint ended)
{
    for (gint i = 0; i <= ended; i++) {
        CkptStep *found = ckpt_executor_step(plan, i);

        if (found->kind == CKPT_STEP_SNAPSHOT && found->reached)
            apply_consistency(plan, found);
        if (found->kind != CKPT_STEP_IDENTIFY)
            continue;
        set_identity(plan->checkpoint, found->file, found);
        set_identity(plan->safety, found->file, found);
        for (guint k = 0; k < plan->steps->len; k++) {
            CkptStep *step = ckpt_executor_step(plan, k);

            for (guint c = 0; step->change && c < step->change->upserts->len; c++)
                set_identity(g_ptr_array_index(step->change->upserts, c), found->file, found);
        }
    }
}

/* The row that the plan writes last for this checkpoint. */
static CkptCheckpoint *
final_row(CkptPlan *plan, const char *id)
{
    for (gint i = (gint)plan->steps->len - 1; i >= 0; i--) {
        CkptStep *step = ckpt_executor_step(plan, i);
        CkptCheckpoint *row =
            step->change ? ckpt_graph_find(step->change->upserts, id) : NULL;

        if (row)
            return row;
    }
    return NULL;
}

/* What is known only when the step is run. */
static gboolean
prepare_step(CkptExecution *x, CkptStep *step, GError **error)
{
    g_autoptr(CkptHostInfo) host = NULL;
    CkptCheckpoint *row;

    if (step->kind == CKPT_STEP_REMOVE_FILE)
        return ckpt_removal_prepare(x->driver, x->store, x->operation->plan->vm_id, step, error);
    if (step->kind != CKPT_STEP_WRITE_MANIFEST)
        return TRUE;
    row = final_row(x->operation->plan, step->checkpoint_id);
    g_assert(row);
    if (!x->driver->host_info(x->driver, &host, error))
        return FALSE;
    g_free(step->text);
    step->text = ckpt_manifest_text(row, host, row->epoch);
    return TRUE;
}

/* ---- Forward ---- */

/* The operation knows only what the store has: a write that failed was not made. */
static gboolean
journal(CkptExecution *x, gint begun, gint ended, CkptChange *change, GError **error)
{
    CkptOperation *op = x->operation;
    const gint begun_before = op->step_begun, ended_before = op->step_ended;

    op->step_begun = begun;
    op->step_ended = ended;
    if (ckpt_store_journal(x->store, op, change, error))
        return TRUE;
    op->step_begun = begun_before;
    op->step_ended = ended_before;
    return FALSE;
}

/* Journals that the step at `index` begins, and with it that the one before has ended. */
static gboolean
journal_begin(CkptExecution *x, gint index, GError **error)
{
    ckpt_fault_point();
    if (!journal(x, index, index - 1, NULL, error))
        return FALSE;
    ckpt_fault_point();
    if (x->on_step)
        x->on_step(x->data);
    return TRUE;
}

static void
take_warning(CkptExecution *x, CkptStep *step)
{
    if (step->warning)
        g_ptr_array_add(x->operation->warnings, g_steal_pointer(&step->warning));
}

static gboolean
do_step(CkptExecution *x, gint index, GError **error)
{
    CkptStep *step = ckpt_executor_step(x->operation->plan, index);
    GCancellable *cancellable = x->cancellable;

    if (step->kind == CKPT_STEP_CATALOGUE)
        return journal(x, index, index, step->change, error);
    if (!prepare_step(x, step, error))
        return FALSE;
    if (!x->driver->step_do(x->driver, x->operation->plan, step, x->progress, x->data, cancellable,
                            error))
        return FALSE;
    take_warning(x, step);
    return TRUE;
}

/* A failure that must not undo or stop what the steps before have reached. */
static gboolean
is_bearable(CkptExecution *x, gint index)
{
    CkptPlan *plan = x->operation->plan;
    CkptStepKind kind = ckpt_executor_step(plan, index)->kind;

    /* It only tells something. */
    if (kind == CKPT_STEP_COMPARE_NVRAM)
        return TRUE;
    /* The provisional manifest lies there; the catalogue has the whole truth. */
    if (kind == CKPT_STEP_WRITE_MANIFEST)
        return plan->no_return && index > (gint)plan->decisive;
    /* A check that could not be made is made again before whatever comes next; what one found wrong is
     * for the quarantine: the checkpoint is there all the same, and the caller must know it. */
    if (kind == CKPT_STEP_CHECK_CHAIN)
        return is_committed(plan, index);
    return is_committed(plan, index) &&
           (kind == CKPT_STEP_REMOVE_FILE || kind == CKPT_STEP_REMOVE_MANIFEST ||
            kind == CKPT_STEP_UNSEAL || kind == CKPT_STEP_NATIVE_DELETE);
}

static void
bear(CkptExecution *x, gint index, const GError *error)
{
    g_autofree char *what = ckpt_step_describe(ckpt_executor_step(x->operation->plan, index));

    if (ckpt_error_reason(error) == CKPT_REASON_CHAIN_MISMATCH)
        ckpt_set_str(&x->alarm, error->message);
    g_ptr_array_add(x->operation->warnings, g_strdup_printf("%s: %s", what, error->message));
}

/* What passes: the same step can be done when libvirt is back, or the store is free. */
static gboolean
is_passing(const GError *error)
{
    return ckpt_executor_is_away(error) || ckpt_error_reason(error) == CKPT_REASON_STORE_FAILED;
}

/* Files whose removal failed, or cannot be told to have been done, stay doomed: it is tried again. */
static CkptChange *
files_left(CkptExecution *x)
{
    CkptPlan *plan = x->operation->plan;
    CkptChange *change = ckpt_change_new();

    for (guint i = 0; i < plan->steps->len; i++) {
        CkptStep *step = ckpt_executor_step(plan, i);

        if (step->kind != CKPT_STEP_REMOVE_FILE)
            continue;
        if (x->driver->step_check(x->driver, plan, step, NULL) == CKPT_OUTCOME_DONE)
            g_ptr_array_add(change->unlinked, g_strdup(step->file));
        else
            ckpt_executor_leave(change, step);
    }
    return change;
}

/* As the catalogue has it now, revision included; a crash may lie between the commit and this. */
static CkptCheckpoint *
stored_row(CkptExecution *x, const char *id)
{
    CkptCheckpoint *row = id ? ckpt_store_get_checkpoint(x->store, id, NULL) : NULL;

    return row || !id ? row : ckpt_checkpoint_copy(final_row(x->operation->plan, id));
}

static void
set_result(CkptExecution *x)
{
    CkptOperation *op = x->operation;
    CkptPlan *plan = op->plan;

    g_clear_pointer(&op->checkpoint, ckpt_checkpoint_free);
    g_clear_pointer(&op->safety, ckpt_checkpoint_free);
    op->checkpoint = plan->kind == CKPT_KIND_DELETE ? ckpt_checkpoint_copy(plan->checkpoint)
                                                    : stored_row(x, plan->checkpoint_id);
    op->safety = stored_row(x, plan->safety_id);
    for (guint i = 0; i < plan->warnings->len; i++)
        g_ptr_array_insert(op->warnings, (gint)i, g_strdup(g_ptr_array_index(plan->warnings, i)));
    for (guint i = 0; i < plan->steps->len; i++)
        if (ckpt_executor_step(plan, (gint)i)->note)
            g_ptr_array_add(op->warnings, g_strdup(ckpt_executor_step(plan, (gint)i)->note));
}

static CkptEnd
finish(CkptExecution *x, GError **error)
{
    CkptOperation *op = x->operation;
    g_autoptr(CkptChange) left = files_left(x);

    op->state = CKPT_OP_SUCCEEDED;
    ckpt_operation_set_error(op, NULL);
    op->ended_us = g_get_real_time();
    op->step_ended = (gint)op->plan->steps->len - 1;
    set_result(x);
    ckpt_fault_point();
    if (!ckpt_store_end_operation(x->store, op, left, error)) {
        op->state = CKPT_OP_RUNNING; /* the journal still says so */
        return CKPT_END_LATER;
    }
    ckpt_fault_point();
    return CKPT_END_DONE;
}

/* A snapshot that was made is to be kept only if it is as consistent as the caller must have it. Of one
 * that was cut short it is not known whether the guest was frozen all the while. */
static gboolean
is_good_enough(CkptStep *step, GError **cause)
{
    if (step->kind != CKPT_STEP_SNAPSHOT || step->asked < CKPT_CONSISTENCY_APPLICATION)
        return TRUE;
    if (!step->reached) {
        step->reached = CKPT_CONSISTENCY_CRASH;
        step->freeze_us = -1;
        ckpt_set_str(&step->note, "the snapshot was interrupted, so that it is not known whether the "
                                  "guest's file systems were frozen: reached is CRASH");
    }
    if (step->reached >= step->minimum)
        return TRUE;
    if (*cause == NULL)
        ckpt_error_set(cause, CKPT_REASON_QUIESCE_FAILED, "%s", step->note);
    return FALSE;
}

static CkptOutcome
check_stubbornly(CkptExecution *x, const CkptStep *step, GError **error)
{
    for (guint attempt = 1;; attempt++) {
        g_autoptr(GError) why = NULL;
        CkptOutcome outcome = x->driver->step_check(x->driver, x->operation->plan, step, &why);

        if (outcome == CKPT_OUTCOME_UNCLEAR && ckpt_executor_again(attempt, why))
            continue;
        if (outcome == CKPT_OUTCOME_UNCLEAR)
            g_propagate_error(error, g_steal_pointer(&why));
        return outcome;
    }
}

/* Asked again later, by another agent perhaps; should it not have been done, this is why. */
static void
put_off(CkptExecution *x, const GError *cause)
{
    g_autoptr(GError) why = NULL;

    ckpt_executor_remember(x, cause);
    if (cause && !ckpt_store_journal(x->store, x->operation, NULL, &why))
        g_warning("why operation %s failed cannot be journalled: %s", x->operation->request_id, why->message);
}

/* The decisive step was begun and it is not known whether it was done: asked of the world. */
static CkptEnd
decide(CkptExecution *x, GError *cause, gboolean *forward, GError **error)
{
    CkptOperation *op = x->operation;
    CkptStep *step = ckpt_executor_step(op->plan, op->step_begun);
    g_autoptr(GError) why = NULL;

    *forward = FALSE;
    if (step->kind == CKPT_STEP_CATALOGUE) { /* its commit was not made, or it would be ended */
        if (!ckpt_executor_store_is_gone(x))
            return ckpt_executor_undo(x, cause, error);
        if (cause)
            g_propagate_error(error, cause);
        else
            ckpt_error_set(error, CKPT_REASON_STORE_FAILED, "the catalogue is still read-only");
        return CKPT_END_LATER;
    }
    switch (check_stubbornly(x, step, &why)) {
    case CKPT_OUTCOME_DONE:
        if (!is_good_enough(step, &cause))
            return ckpt_executor_undo(x, cause, error);
        *forward = TRUE;
        take_warning(x, step);
        ckpt_operation_set_error(op, NULL);
        g_clear_error(&cause);
        return CKPT_END_DONE;
    case CKPT_OUTCOME_NOT_DONE:
        return ckpt_executor_undo(x, cause, error);
    case CKPT_OUTCOME_UNCLEAR:
        break;
    }
    if (ckpt_executor_is_away(why) || ckpt_error_reason(why) == CKPT_REASON_VM_BUSY) {
        put_off(x, cause);
        g_clear_error(&cause);
        g_propagate_error(error, g_steal_pointer(&why));
        return CKPT_END_LATER;
    }
    ckpt_error_set(error, CKPT_REASON_RECOVERY_FAILED, "%s%s%s",
                   cause        ? cause->message
                   : op->reason ? op->message
                                : "the agent was interrupted",
                   why ? ": " : "", why ? why->message : "");
    g_clear_error(&cause);
    return CKPT_END_STUCK;
}

/* After the point of no return, or with the store gone, there is no way back. */
static CkptEnd
fail_forward(CkptExecution *x, GError *cause, GError **error)
{
    CkptPlan *plan = x->operation->plan;
    gboolean mismatch = ckpt_error_reason(cause) == CKPT_REASON_CHAIN_MISMATCH;

    g_propagate_error(error, cause);
    if (plan->kind == CKPT_KIND_DELETE && !mismatch)
        return CKPT_END_FAILED;
    return CKPT_END_STUCK;
}

/* The VM is what was asked for, but for what somebody else is just doing to it, such as an overlay that a backup
 * has laid on what was restored: to undo it would take away what lies below that, and what the guest wrote. */
static gboolean
is_waited_for(const CkptPlan *plan, gint index, const GError *cause)
{
    return plan->kind == CKPT_KIND_RESTORE && ckpt_executor_step(plan, index)->kind == CKPT_STEP_CHECK_CHAIN &&
           ckpt_error_reason(cause) == CKPT_REASON_VM_BUSY;
}

/* Since the operation was left for a while, its restored VM has written to its new overlays: to undo it would take
 * that away. */
static gboolean
is_lived_in(const CkptExecution *x, const CkptStep *present)
{
    const CkptPlan *plan = x->operation->plan;

    if (plan->kind != CKPT_KIND_RESTORE || !present->taken_up)
        return FALSE;
    for (guint i = 0; i < plan->steps->len; i++) {
        const CkptStep *step = ckpt_executor_step(plan, (gint)i);

        if (step->kind == CKPT_STEP_MAKE_OVERLAY &&
            x->driver->step_check(x->driver, plan, step, NULL) == CKPT_OUTCOME_UNCLEAR)
            return TRUE;
    }
    return FALSE;
}

/* What is wrong with the chain is for somebody to look at, with all files there; the rest passes, or is mended on
 * the host, and is tried again. */
static CkptEnd
keep_lived_in(GError *cause, GError **error)
{
    if (ckpt_error_reason(cause) != CKPT_REASON_CHAIN_MISMATCH) {
        g_propagate_error(error, cause);
        return CKPT_END_LATER;
    }
    ckpt_error_set(error, CKPT_REASON_RECOVERY_FAILED,
                   "%s; the VM has written to what was restored, which is therefore not undone", cause->message);
    g_error_free(cause);
    return CKPT_END_STUCK;
}

static CkptEnd
handle_failure(CkptExecution *x, GError *cause, gboolean *forward, GError **error)
{
    CkptOperation *op = x->operation;
    CkptPlan *plan = op->plan;
    g_autofree char *what =
        op->step_begun < 0 ? NULL : ckpt_step_describe(ckpt_executor_step(plan, op->step_begun));

    *forward = FALSE;
    if (what)
        g_prefix_error(&cause, "%s: ", what);
    if (ckpt_executor_is_moved(cause)) {
        g_propagate_error(error, cause);
        return CKPT_END_FAILED;
    }
    if (ckpt_executor_store_is_gone(x) && op->step_begun >= (gint)plan->decisive) {
        g_propagate_error(error, cause); /* what is done is journalled; the next start finishes it */
        return CKPT_END_LATER;
    }
    if (op->step_begun == (gint)plan->decisive && op->step_ended < op->step_begun)
        return decide(x, cause, forward, error);
    if (op->step_begun > (gint)plan->decisive || op->step_ended == (gint)plan->decisive) {
        if (is_passing(cause) || is_waited_for(plan, op->step_begun, cause)) {
            g_propagate_error(error, cause);
            return CKPT_END_LATER;
        }
        if (plan->no_return || is_committed(plan, op->step_begun))
            return fail_forward(x, cause, error);
        if (is_lived_in(x, ckpt_executor_step(plan, op->step_begun)))
            return keep_lived_in(cause, error);
    }
    return ckpt_executor_undo(x, cause, error);
}

static gboolean
check_cancelled(CkptExecution *x, gint index, GError **error)
{
    if (!g_cancellable_is_cancelled(x->cancellable) || index > (gint)x->operation->plan->decisive)
        return TRUE;
    ckpt_error_set(error, CKPT_REASON_OPERATION_CANCELLED, "cancelled before it took effect");
    return FALSE;
}

static CkptEnd
forward_from(CkptExecution *x, gint from, GError **error)
{
    CkptPlan *plan = x->operation->plan;

    apply_results(plan, from - 1);
    for (gint i = from; i < (gint)plan->steps->len; i++) {
        GError *cause = NULL;
        gboolean go_on = TRUE;
        CkptEnd end;

        if (g_atomic_int_get(x->stopping)) {
            ckpt_error_set(error, CKPT_REASON_OPERATION_RUNNING,
                           "the agent is stopping; it goes on when the agent is back");
            return CKPT_END_LATER;
        }
        if (journal_begin(x, i, &cause) && check_cancelled(x, i, &cause) && do_step(x, i, &cause)) {
            ckpt_fault_point();
            apply_results(plan, i);
            continue;
        }
        if (!is_passing(cause) && !ckpt_executor_is_moved(cause) && is_bearable(x, i)) {
            bear(x, i, cause);
            g_error_free(cause);
            continue;
        }
        end = handle_failure(x, cause, &go_on, error);
        if (!go_on)
            return end;
        /* It was the journal that failed if the step now known to be done is the one before. */
        i = x->operation->step_begun;
        apply_results(plan, i);
    }
    return finish(x, error);
}

/* Between then and now others may have had the VM for however long. */
static void
note_taken_up(CkptPlan *plan)
{
    for (guint i = 0; i < plan->steps->len; i++)
        ckpt_executor_step(plan, (gint)i)->taken_up = TRUE;
}

static CkptEnd
take_up(CkptExecution *x, GError **error)
{
    CkptOperation *op = x->operation;
    gint decisive = (gint)op->plan->decisive;
    gboolean forward = TRUE;
    g_autoptr(GError) busy = NULL;
    CkptEnd end;

    if (op->step_begun < 0)
        return forward_from(x, 0, error);
    note_taken_up(op->plan);
    if (x->driver->interrupt && op->step_ended < op->step_begun)
        x->driver->interrupt(x->driver, op->plan, ckpt_executor_step(op->plan, op->step_begun));
    if (!x->driver->settle(x->driver, op->plan->vm_id, &busy) &&
        ckpt_error_reason(busy) != CKPT_REASON_VM_NOT_FOUND) {
        g_propagate_error(error, g_steal_pointer(&busy));
        return CKPT_END_LATER;
    }
    if (op->undoing || (op->step_begun < decisive))
        return ckpt_executor_undo(x, NULL, error);
    apply_results(op->plan, op->step_ended);
    if (op->step_begun == decisive && op->step_ended < decisive) {
        end = decide(x, NULL, &forward, error);
        return forward ? forward_from(x, decisive + 1, error) : end;
    }
    return forward_from(x, op->step_ended + 1, error);
}

/* Whatever it has come to, no guest stands still for it. One that will be taken up again may be in the
 * midst of a pivot, and lets the guest go then. */
static void
let_go(CkptExecution *x)
{
    for (gint i = 0; x->driver->let_go && i <= x->operation->step_begun; i++) {
        const CkptStep *step = ckpt_executor_step(x->operation->plan, i);

        if (step->kind == CKPT_STEP_SNAPSHOT || step->kind == CKPT_STEP_MERGE)
            x->driver->let_go(x->driver, x->operation->plan, step);
    }
}

CkptEnd
ckpt_execute(CkptExecution *x, GError **error)
{
    CkptEnd end = take_up(x, error);

    if (end == CKPT_END_STUCK || end == CKPT_END_FAILED)
        let_go(x);
    return end;
}
