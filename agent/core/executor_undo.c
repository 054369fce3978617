/* The way back: every step that was begun is undone, from the last downwards. */
#include "agent/core/executor_internal.h"

#include "common/fault.h"

#define ATTEMPTS 3
#define ATTEMPT_PAUSE_US (100 * 1000)

gboolean
ckpt_executor_again(guint attempt, const GError *why)
{
    if (attempt == ATTEMPTS || ckpt_executor_is_away(why) || ckpt_error_reason(why) == CKPT_REASON_VM_MOVED)
        return FALSE;
    g_usleep(ATTEMPT_PAUSE_US);
    return TRUE;
}

static gboolean
undo_step(CkptExecution *x, gint index, GError **error)
{
    CkptStep *step = ckpt_executor_step(x->operation->plan, index);

    if (step->kind == CKPT_STEP_CATALOGUE || step->kind == CKPT_STEP_CHECK_CHAIN ||
        step->kind == CKPT_STEP_IDENTIFY)
        return TRUE;
    return x->driver->step_undo(x->driver, x->operation->plan, step, error);
}

static gboolean
undo_step_stubbornly(CkptExecution *x, gint index, GError **error)
{
    for (guint attempt = 1;; attempt++) {
        g_autoptr(GError) why = NULL;
        g_autofree char *what = NULL;

        if (undo_step(x, index, &why))
            return TRUE;
        if (ckpt_executor_again(attempt, why))
            continue;
        what = ckpt_step_describe(ckpt_executor_step(x->operation->plan, index));
        g_propagate_prefixed_error(error, g_steal_pointer(&why), "undo of %s: ", what);
        return FALSE;
    }
}

/* A file that a failed restore cannot take away again must not keep the VM from running as before. */
static gboolean
is_left_behind(const CkptPlan *plan, gint index)
{
    CkptStepKind kind = ckpt_executor_step(plan, index)->kind;

    return plan->kind == CKPT_KIND_RESTORE &&
           (kind == CKPT_STEP_MAKE_OVERLAY || kind == CKPT_STEP_SAVE_NVRAM ||
            kind == CKPT_STEP_WRITE_MANIFEST);
}

/* QEMU may have opened an overlay and never switched to it, and keeps it open until it ends: there is
 * nothing in it, and the VM is as before. */
static gboolean
is_opened_only(CkptExecution *x, gint index)
{
    CkptPlan *plan = x->operation->plan;
    CkptStep *step = ckpt_executor_step(plan, index);

    return plan->kind == CKPT_KIND_CREATE && step->kind == CKPT_STEP_MAKE_OVERLAY &&
           x->driver->step_check(x->driver, plan, step, NULL) == CKPT_OUTCOME_DONE;
}

/* It is removed when that is possible; what may be another's is not. */
static void
leave_behind(CkptExecution *x, gint index)
{
    CkptOperation *op = x->operation;
    CkptStep *step = ckpt_executor_step(op->plan, index);

    if ((step->kind != CKPT_STEP_MAKE_OVERLAY && step->kind != CKPT_STEP_SAVE_NVRAM) ||
        (index > op->step_ended &&
         x->driver->step_check(x->driver, op->plan, step, NULL) != CKPT_OUTCOME_DONE))
        return;
    if (!x->left)
        x->left = ckpt_change_new();
    ckpt_executor_leave(x->left, step);
}

/* Whether the VM may run on what a restore brought. Where it was defined, its owner may have started it on
 * that; where the hypervisor went back to a snapshot, that has. */
static gboolean
may_run_restored(const CkptOperation *op, GPtrArray **tops)
{
    *tops = NULL;
    if (op->plan->kind != CKPT_KIND_RESTORE)
        return FALSE;
    for (gint i = 0; i <= op->step_begun; i++) {
        if (ckpt_executor_step(op->plan, i)->kind == CKPT_STEP_DEFINE) {
            *tops = ckpt_executor_step(op->plan, i)->disks;
            return TRUE;
        }
    }
    if (op->step_ended < (gint)op->plan->decisive)
        return FALSE;
    for (gint i = op->step_ended + 1; i < (gint)op->plan->steps->len; i++)
        if (ckpt_executor_step(op->plan, i)->kind == CKPT_STEP_STOP)
            return FALSE;
    return TRUE;
}

/* Between the restored definition and its undo somebody else may have started the VM: it then runs on the
 * files that are about to go. One on its old files goes on. */
static gboolean
stop_restored(CkptExecution *x, GError **error)
{
    CkptOperation *op = x->operation;
    GPtrArray *tops;
    CkptStep *stop;
    gboolean done = FALSE;

    if (!may_run_restored(op, &tops))
        return TRUE;
    stop = ckpt_step_new(CKPT_STEP_STOP);
    stop->power = CKPT_POWER_SHUT_OFF;
    stop->disks = tops ? g_ptr_array_ref(tops) : NULL;
    for (guint attempt = 1; !done; attempt++) {
        g_autoptr(GError) why = NULL;

        done = x->driver->step_do(x->driver, op->plan, stop, NULL, NULL, NULL, &why);
        if (done || ckpt_executor_again(attempt, why))
            continue;
        g_propagate_prefixed_error(error, g_steal_pointer(&why), "stop the VM: ");
        break;
    }
    ckpt_step_free(stop);
    return done;
}

/* Once the definition is the old one again nobody can start it on the restored files any more, but it may
 * just have been. */
static gboolean
undo_one(CkptExecution *x, gint index, GError **error)
{
    return undo_step_stubbornly(x, index, error) &&
           (ckpt_executor_step(x->operation->plan, index)->kind != CKPT_STEP_DEFINE || stop_restored(x, error));
}

/* All but STOP, from the last begun downwards; the VM is started again when everything else is as it
 * was. Each undo is idempotent, so that a crash in between does them all again. */
static gboolean
undo_steps(CkptExecution *x, GError **error)
{
    CkptOperation *op = x->operation;
    g_autoptr(GError) why = NULL;
    gint stop = -1;

    if (!stop_restored(x, error))
        return FALSE;
    for (gint i = op->step_begun; i >= 0; i--) {
        if (ckpt_executor_step(op->plan, i)->kind == CKPT_STEP_STOP) {
            stop = i;
            continue;
        }
        ckpt_fault_point();
        if (undo_one(x, i, &why))
            continue;
        if (ckpt_executor_is_away(why) || !(is_left_behind(op->plan, i) || is_opened_only(x, i))) {
            g_propagate_error(error, g_steal_pointer(&why));
            return FALSE;
        }
        g_warning("VM %s: left behind: %s", op->plan->vm_id, why->message);
        leave_behind(x, i);
        g_clear_error(&why);
    }
    ckpt_fault_point();
    return stop < 0 || undo_step_stubbornly(x, stop, error);
}

void
ckpt_executor_remember(CkptExecution *x, const GError *cause)
{
    if (cause && !ckpt_executor_is_away(cause))
        ckpt_operation_set_error(x->operation, cause);
}

/* Everything is as it was: why it had to be, though that may have been found before a crash. */
static void
tell_cause(const CkptOperation *op, GError *cause, GError **error)
{
    if (cause)
        g_propagate_error(error, cause);
    else if (op->reason)
        ckpt_operation_error(op, error);
    else
        ckpt_error_set(error, CKPT_REASON_HYPERVISOR_FAILED,
                       "the agent or libvirt was interrupted; the VM is as before");
}

/* What its owner, or libvirt, will end: the undo goes on then. A VM that was saved goes on on the files that it
 * had. */
static gboolean
is_passing(const GError *why)
{
    CkptReason reason = ckpt_error_reason(why);

    return ckpt_executor_is_away(why) || reason == CKPT_REASON_VM_BUSY ||
           reason == CKPT_REASON_MANAGED_SAVE_PRESENT;
}

CkptEnd
ckpt_executor_undo(CkptExecution *x, GError *cause, GError **error)
{
    CkptOperation *op = x->operation;
    g_autoptr(GError) why = NULL;

    op->undoing = TRUE;
    ckpt_executor_remember(x, cause);
    if (!ckpt_executor_store_is_gone(x) && !ckpt_store_journal(x->store, op, NULL, &why)) {
        /* The next start would go forward over what was undone. */
        if (op->step_begun > (gint)op->plan->decisive) {
            op->undoing = FALSE;
            g_clear_error(&cause);
            g_propagate_error(error, g_steal_pointer(&why));
            return CKPT_END_LATER;
        }
        g_clear_error(&why); /* it undoes, too: nothing decisive was done */
    }
    if (undo_steps(x, &why)) {
        tell_cause(op, cause, error);
        return ckpt_executor_store_is_gone(x) ? CKPT_END_LATER : CKPT_END_FAILED;
    }
    if (ckpt_executor_is_moved(why)) {
        g_clear_error(&cause);
        g_propagate_error(error, g_steal_pointer(&why));
        return CKPT_END_FAILED;
    }
    if (is_passing(why)) {
        g_clear_error(&cause);
        g_propagate_error(error, g_steal_pointer(&why));
        return CKPT_END_LATER;
    }
    ckpt_error_set(error, CKPT_REASON_RECOVERY_FAILED, "%s; and then %s",
                   cause        ? cause->message
                   : op->reason ? op->message
                                : "the agent was interrupted",
                   why->message);
    g_clear_error(&cause);
    return CKPT_END_STUCK;
}
