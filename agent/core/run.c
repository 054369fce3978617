/* One operation from its turn to its end. */
#include "agent/core/engine_internal.h"

#include "agent/core/graph.h"

gboolean
ckpt_operation_has_begun_delete(const CkptOperation *op)
{
    return op->kind == CKPT_KIND_DELETE && op->plan && op->plan->no_return &&
           op->step_ended >= (gint)op->plan->decisive;
}

/* ---- Planning ---- */

/* The delete of this checkpoint has begun earlier and could not be finished: its own plan, from where it
 * stopped, is the only one that is right. */
static gboolean
take_over_delete(CkptEngine *engine, CkptOperation *op, GError **error)
{
    CkptOperationQuery query = {
        .checkpoint_id = op->checkpoint_id,
        .states = 1u << CKPT_OP_FAILED | 1u << CKPT_OP_CANCELLED,
    };
    g_autoptr(GPtrArray) earlier = ckpt_store_list_operations(engine->store, &query, error);

    if (!earlier)
        return FALSE;
    for (guint i = earlier->len; i > 0; i--) {
        CkptOperation *last = g_ptr_array_index(earlier, i - 1);

        if (!ckpt_operation_has_begun_delete(last))
            continue;
        op->plan = g_steal_pointer(&last->plan);
        op->step_begun = last->step_begun;
        op->step_ended = last->step_ended;
        return TRUE;
    }
    ckpt_error_set(error, CKPT_REASON_RECOVERY_FAILED,
                   "the plan of the delete that has begun is no longer stored; see docs/by-hand.md");
    return FALSE;
}

static void
drop_plan(CkptOperation *op)
{
    g_clear_pointer(&op->plan, ckpt_plan_free);
    op->step_begun = op->step_ended = -1;
}

static gboolean
has_pull_left(const CkptOperation *op)
{
    for (gint i = op->step_ended + 1; op->plan && i < (gint)op->plan->steps->len; i++)
        if (((const CkptStep *)g_ptr_array_index(op->plan->steps, i))->kind == CKPT_STEP_PULL)
            return TRUE;
    return FALSE;
}

/* As if it had not begun. That a file was merged into, in part or whole, shows in its identity, and is refused
 * here; a pull that was cut short leaves nothing that must be undone. FALSE: the operation is as it was. */
static gboolean
plan_anew(Situation *situation, CkptCheckpoint *row, CkptOperation *op)
{
    CkptRequest *request = ckpt_request_new(CKPT_KIND_DELETE); /* unconditional: it has begun */
    g_autoptr(GError) why = NULL;
    CkptPlan *plan;

    ckpt_set_str(&request->identity, op->identity);
    ckpt_set_str(&request->vm_id, row->vm_id);
    ckpt_set_str(&request->checkpoint_id, row->id);
    row->state = CKPT_STATE_READY;
    ckpt_set_str(&row->disabled_reason, NULL);
    plan = ckpt_plan_make(&situation->input, request, &why);
    row->state = CKPT_STATE_DELETING;
    ckpt_request_free(request);
    if (!plan) {
        g_debug("the delete of checkpoint %s is not planned anew: %s", row->id, why->message);
        return FALSE;
    }
    drop_plan(op);
    op->plan = plan;
    return TRUE;
}

/* Its own plan goes on, unless that has a VM started by now in its way, which a pull needs shut off; or an
 * attempt to plan it anew has failed and taken the place of the one that began it. */
static gboolean
plan_begun_delete(CkptEngine *engine, Situation *situation, CkptCheckpoint *row, CkptOperation *op,
                  GError **error)
{
    g_autoptr(GError) lost = NULL;

    if (!op->plan && !take_over_delete(engine, op, &lost) && !plan_anew(situation, row, op)) {
        g_propagate_error(error, g_steal_pointer(&lost));
        return FALSE;
    }
    if (has_pull_left(op) && situation->vm->power != CKPT_POWER_SHUT_OFF)
        (void)plan_anew(situation, row, op);
    return TRUE;
}

void
ckpt_engine_quarantine(CkptEngine *engine, const char *vm_id, const char *reason)
{
    g_autoptr(GError) error = NULL;

    g_warning("VM %s is quarantined: %s", vm_id, reason);
    if (!ckpt_store_quarantine_vm(engine->store, vm_id, reason, &error))
        g_warning("cannot record the quarantine of VM %s: %s", vm_id, error->message);
}

gboolean
ckpt_engine_is_alarming(const GError *error)
{
    CkptReason reason = ckpt_error_reason(error);

    return reason == CKPT_REASON_CHAIN_MISMATCH || reason == CKPT_REASON_VM_QUARANTINED;
}

/* What the refusal says about the VM and its checkpoints is kept, for whoever lists them. */
static void
note_refusal(CkptEngine *engine, Situation *situation, const GError *refusal)
{
    CkptReason reason = ckpt_error_reason(refusal);

    if (ckpt_engine_is_alarming(refusal))
        ckpt_engine_quarantine(engine, situation->vm->id, refusal->message);
    if (ckpt_engine_is_alarming(refusal) || reason == CKPT_REASON_SEALED_FILE_CHANGED ||
        reason == CKPT_REASON_DISK_FILE_MISSING || reason == CKPT_REASON_CHECKPOINT_NOT_ENABLED)
        ckpt_situation_record(engine, situation);
}

gboolean
ckpt_engine_lift_quarantine(CkptEngine *engine, Situation *situation, GError **error)
{
    if (!situation->record->quarantine_reason || ckpt_unread_is(engine, situation->vm->id))
        return TRUE;
    g_message("VM %s is no longer quarantined: its definition and files agree", situation->vm->id);
    return ckpt_store_quarantine_vm(engine->store, situation->vm->id, NULL, error);
}

static void
refuse_moved(const CkptCheckpoint *row, GError **error)
{
    ckpt_error_set(error, CKPT_REASON_VM_MOVED, "checkpoint %s (%s): %s", row->name, row->id,
                   row->disabled_reason ? row->disabled_reason : "the VM moved");
    ckpt_error_add(error, CKPT_META_CHECKPOINT, row->id);
}

/* The VM is on another host, without the disks that its checkpoints were made of: what is asked for would make a
 * second one of it. Its checkpoints here can be deleted. TRUE: refused. */
static gboolean
refuse_left(const Situation *situation, const CkptOperation *op, GError **error)
{
    if (op->kind == CKPT_KIND_DELETE ||
        (situation->vm && situation->vm->power != CKPT_POWER_SHUT_OFF)) /* it is back */
        return FALSE;
    for (guint i = 0; i < situation->checkpoints->len; i++) {
        const CkptCheckpoint *row = g_ptr_array_index(situation->checkpoints, i);

        if (!row->stayed ||
            (op->kind == CKPT_KIND_RESTORE && g_strcmp0(row->id, op->checkpoint_id) != 0))
            continue;
        ckpt_error_set(error, CKPT_REASON_VM_MOVED,
                       "VM %s (%s) migrated to another host, and the disks of checkpoint %s (%s) stayed here: "
                       "delete what nobody needs of these; to have the VM back with them, stop it over there, and "
                       "define it (if it is not any more) and start it here first",
                       row->vm_name, row->vm_id, row->name, row->id);
        ckpt_error_add(error, CKPT_META_CHECKPOINT, row->id);
        ckpt_error_add(error, CKPT_META_VM, row->vm_id);
        return TRUE;
    }
    return FALSE;
}

/* An undefined VM's checkpoints can still be deleted, by their files alone. */
static gboolean
read_situation(CkptEngine *engine, const CkptOperation *op, Situation *situation, GError **error)
{
    g_autoptr(GError) why = NULL;

    if (ckpt_situation_read(engine, op->vm_id, op->kind == CKPT_KIND_DELETE, situation, &why))
        return TRUE;
    if (op->kind == CKPT_KIND_DELETE && ckpt_error_reason(why) == CKPT_REASON_VM_NOT_FOUND &&
        engine->driver->inspect_files)
        return ckpt_situation_read_orphans(engine, op->vm_id, situation, error);
    if (op->kind == CKPT_KIND_RESTORE && ckpt_error_reason(why) == CKPT_REASON_VM_NOT_FOUND)
        g_prefix_error(&why, "define the VM again, with its UUID, then restore: ");
    g_propagate_error(error, g_steal_pointer(&why));
    return FALSE;
}

/* Why is known already, and better. */
static gboolean
is_known_to_be_busy(const CkptVm *vm)
{
    for (guint i = 0; i < vm->obstacles->len; i++) {
        CkptReason reason = ((const CkptObstacle *)g_ptr_array_index(vm->obstacles, i))->reason;

        if (reason == CKPT_REASON_VM_BUSY || reason == CKPT_REASON_BACKUP_JOB_ACTIVE)
            return TRUE;
    }
    return FALSE;
}

/* What is planned for a VM that hangs would hang in its midst; a look does not ask, for it need not. */
static gboolean
does_answer(CkptEngine *engine, CkptVm *vm, GError **error)
{
    gboolean active = vm->power == CKPT_POWER_RUNNING || vm->power == CKPT_POWER_PAUSED;

    return !active || is_known_to_be_busy(vm) || !engine->driver->answers ||
           engine->driver->answers(engine->driver, vm->id, &vm->downtime_ms, error);
}

gboolean
ckpt_engine_plan(CkptEngine *engine, CkptOperation *op, gboolean dry, GError **error)
{
    g_auto(Situation) situation = {0};
    g_autoptr(GError) refusal = NULL;
    CkptCheckpoint *row;

    if (!read_situation(engine, op, &situation, &refusal)) {
        row = situation.moved ? ckpt_graph_find(situation.moved, op->checkpoint_id) : NULL;
        if (ckpt_error_reason(refusal) == CKPT_REASON_VM_NOT_FOUND) {
            if (row)
                refuse_moved(row, error);
            if (row || (situation.checkpoints && refuse_left(&situation, op, error)))
                return FALSE;
        }
        g_propagate_error(error, g_steal_pointer(&refusal));
        return FALSE;
    }
    row = ckpt_graph_find(situation.moved, op->checkpoint_id);
    if (row) {
        refuse_moved(row, error);
        return FALSE;
    }
    if (refuse_left(&situation, op, error) || !does_answer(engine, situation.vm, error))
        return FALSE;
    row = ckpt_graph_find(situation.checkpoints, op->checkpoint_id);
    if (op->kind == CKPT_KIND_DELETE && row && row->state == CKPT_STATE_DELETING && !row->deferred)
        return plan_begun_delete(engine, &situation, row, op, error);
    drop_plan(op);
    op->plan = ckpt_plan_make(&situation.input, op->request, &refusal);
    if (op->plan)
        return dry || ckpt_engine_lift_quarantine(engine, &situation, error);
    if (!dry)
        note_refusal(engine, &situation, refusal);
    /* Who has the files may be gone by now, or has only said so now. */
    if (!dry && ckpt_error_reason(refusal) == CKPT_REASON_VM_MOVED)
        ckpt_engine_mark(engine, op->vm_id);
    g_propagate_error(error, g_steal_pointer(&refusal));
    return FALSE;
}

/* ---- Update: the catalogue alone ---- */

static void
change_text(char **member, const char *value)
{
    if (value)
        ckpt_set_str(member, value);
}

static void
apply_update(CkptCheckpoint *row, const CkptRequest *request)
{
    change_text(&row->name, request->name);
    change_text(&row->description, request->description);
    change_text(&row->reason, request->reason);
    change_text(&row->ticket, request->ticket);
    change_text(&row->hold, request->hold);
    if (request->labels) {
        g_hash_table_unref(row->labels);
        row->labels = g_hash_table_ref(request->labels);
    }
    if (request->set_expire)
        row->expire_us = request->expire_us;
    row->modified_us = g_get_real_time();
    ckpt_set_str(&row->most_recent_task, ckpt_kind_task(CKPT_KIND_UPDATE));
}

static gboolean
check_update(const CkptCheckpoint *row, const CkptRequest *request, GError **error)
{
    if (row->state == CKPT_STATE_DELETING && !row->deferred)
        ckpt_error_set(error, CKPT_REASON_CHECKPOINT_DELETING, "checkpoint %s (%s) is gone: %s",
                       row->name, row->id, ckpt_plan_deleting_reason(row));
    else if (row->state == CKPT_STATE_MOVED)
        refuse_moved(row, error);
    else if (request->etag && request->etag != row->revision)
        ckpt_error_set(error, CKPT_REASON_ETAG_MISMATCH,
                       "checkpoint %s was changed since the caller read it", row->id);
    else
        return TRUE;
    ckpt_error_add(error, CKPT_META_CHECKPOINT, row->id);
    return FALSE;
}

/* *again: somebody else has changed the row since it was read. */
static gboolean
try_update(CkptEngine *engine, CkptOperation *op, gboolean *again, GError **error)
{
    const CkptRequest *request = op->request;
    g_autoptr(CkptCheckpoint) row =
        ckpt_store_get_checkpoint(engine->store, request->checkpoint_id, error);
    g_autoptr(CkptChange) change = ckpt_change_new();
    g_autoptr(GError) why = NULL;

    *again = FALSE;
    if (!row || !check_update(row, request, error))
        return FALSE;
    apply_update(row, request);
    g_ptr_array_add(change->upserts, ckpt_checkpoint_copy(row));
    change->if_unchanged = TRUE;
    row->revision++; /* what the store makes of it in the same transaction */
    op->checkpoint = g_steal_pointer(&row);
    op->state = CKPT_OP_SUCCEEDED;
    op->ended_us = g_get_real_time();
    if (ckpt_store_end_operation(engine->store, op, change, &why)) {
        ckpt_manifests_refresh(engine, op->vm_id);
        return TRUE;
    }
    op->state = CKPT_OP_RUNNING;
    g_clear_pointer(&op->checkpoint, ckpt_checkpoint_free);
    *again = ckpt_error_reason(why) == CKPT_REASON_ETAG_MISMATCH;
    g_propagate_error(error, g_steal_pointer(&why));
    return FALSE;
}

/* Beside whatever else works on the VM: each round that is lost, another change was won. */
static gboolean
run_update(CkptEngine *engine, CkptOperation *op, GError **error)
{
    for (;;) {
        g_autoptr(GError) why = NULL;
        gboolean again;

        if (try_update(engine, op, &again, &why))
            return TRUE;
        if (again)
            continue;
        g_propagate_error(error, g_steal_pointer(&why));
        return FALSE;
    }
}

static gboolean
run_repair(CkptEngine *engine, CkptOperation *op, GError **error)
{
    const CkptOpState before = op->state;

    if (!ckpt_repair_run(engine, op, error))
        return FALSE;
    op->state = CKPT_OP_SUCCEEDED;
    op->ended_us = g_get_real_time();
    if (ckpt_store_end_operation(engine->store, op, NULL, error))
        return TRUE;
    op->state = before;
    g_clear_pointer(&op->repair, ckpt_repair_result_free);
    return FALSE;
}

/* ---- Running ---- */

/* FALSE when the store does not take it: the operation has not ended, then. */
static gboolean
store_failure(CkptEngine *engine, CkptOperation *op, CkptChange *left, const GError *error)
{
    const CkptOpState before = op->state;
    g_autoptr(GError) why = NULL;

    ckpt_operation_set_error(op, error);
    op->state =
        op->reason == CKPT_REASON_OPERATION_CANCELLED ? CKPT_OP_CANCELLED : CKPT_OP_FAILED;
    op->ended_us = g_get_real_time();
    g_message("%s of VM %s for %s failed: %s: %s", ckpt_kind_name(op->kind), op->vm_id, op->identity,
              ckpt_reason_name(op->reason), error->message);
    if (ckpt_store_end_operation(engine->store, op, left, &why))
        return TRUE;
    g_warning("cannot store the end of operation %s: %s", op->request_id, why->message);
    op->state = before;
    return FALSE;
}

static gboolean
check_start(const CkptOperation *op, LiveOp *live, GError **error)
{
    gint64 limit = op->request->start_within_us;

    if (g_cancellable_is_cancelled(live->cancellable)) {
        ckpt_error_set(error, CKPT_REASON_OPERATION_CANCELLED, "cancelled before it began");
        return FALSE;
    }
    if (limit > 0 && g_get_real_time() - op->created_us > limit) {
        ckpt_error_set(error, CKPT_REASON_START_WITHIN_EXCEEDED,
                       "it could not begin within %" G_GINT64_FORMAT " ms", limit / 1000);
        return FALSE;
    }
    return TRUE;
}

static gboolean
is_deleting(CkptEngine *engine, const char *id)
{
    g_autoptr(CkptCheckpoint) row = ckpt_store_get_checkpoint(engine->store, id, NULL);

    return row && row->state == CKPT_STATE_DELETING && !row->deferred;
}

/* From QUEUED to RUNNING, with a journalled plan. */
static gboolean
begin(CkptEngine *engine, LiveOp *live, GError **error)
{
    CkptOperation *op = live->op;

    if (!check_start(op, live, error) ||
        (op->kind != CKPT_KIND_REPAIR && !ckpt_unread_check(engine, op->vm_id, error)))
        return FALSE;
    op->started_us = g_get_real_time();
    if (op->kind == CKPT_KIND_UPDATE || op->kind == CKPT_KIND_REPAIR)
        return TRUE;
    if (op->plan && !is_deleting(engine, op->checkpoint_id))
        drop_plan(op); /* somebody else has finished that delete since */
    if ((!op->plan || has_pull_left(op)) && !ckpt_engine_plan(engine, op, FALSE, error))
        return FALSE;
    ckpt_set_str(&op->checkpoint_id, op->plan->checkpoint_id);
    op->state = CKPT_OP_RUNNING;
    if (!ckpt_store_set_plan(engine->store, op, error))
        return FALSE;
    ckpt_engine_emit(engine, live);
    return TRUE;
}

typedef struct {
    CkptEngine *engine;
    LiveOp *live;
} Telling;

static void
set_progress(Telling *telling, guint64 done, guint64 total)
{
    g_mutex_lock(&telling->engine->lock);
    telling->live->bytes_done = done;
    telling->live->bytes_total = total;
    g_mutex_unlock(&telling->engine->lock);
}

static void
on_step(gpointer data)
{
    Telling *telling = data;

    set_progress(telling, 0, 0);
    ckpt_engine_emit(telling->engine, telling->live);
}

static void
on_progress(guint64 done, guint64 total, gpointer data)
{
    Telling *telling = data;
    LiveOp *live = telling->live;
    gint64 now = g_get_monotonic_time();

    set_progress(telling, done, total);
    if ((total == 0 || done != total) && now - live->told_us < G_TIME_SPAN_SECOND / 2)
        return;
    live->told_us = now;
    ckpt_engine_emit(telling->engine, live);
}

static CkptEnd
execute(CkptEngine *engine, LiveOp *live, CkptChange **left, GError **error)
{
    Telling telling = {engine, live};
    CkptExecution execution = {
        .driver = engine->driver,
        .store = engine->store,
        .operation = live->op,
        .cancellable = live->cancellable,
        .stopping = &engine->stopping,
        .progress = on_progress,
        .on_step = on_step,
        .data = &telling,
    };

    CkptEnd end = ckpt_execute(&execution, error);

    if (execution.alarm)
        ckpt_engine_quarantine(engine, live->op->vm_id, execution.alarm);
    g_free(execution.alarm);
    *left = execution.left;
    return end;
}

/* What waits for its owner is tried again all the while. */
static void
tell_unfinished(LiveOp *live, const GError *why)
{
    if (g_strcmp0(live->unfinished, why->message) == 0)
        return;
    ckpt_set_str(&live->unfinished, why->message);
    g_warning("%s of VM %s is not finished yet: %s", ckpt_kind_name(live->op->kind), live->op->vm_id,
              why->message);
}

CkptEnd
ckpt_engine_run(CkptEngine *engine, LiveOp *live, GError **error)
{
    CkptOperation *op = live->op;
    g_autoptr(CkptChange) left = NULL;
    CkptEnd end = CKPT_END_DONE;

    if (op->state == CKPT_OP_QUEUED && !begin(engine, live, error))
        end = CKPT_END_FAILED;
    else if (op->kind == CKPT_KIND_UPDATE)
        end = run_update(engine, op, error) ? CKPT_END_DONE : CKPT_END_FAILED;
    else if (op->kind == CKPT_KIND_REPAIR)
        end = run_repair(engine, op, error) ? CKPT_END_DONE : CKPT_END_FAILED;
    else
        end = execute(engine, live, &left, error);
    switch (end) {
    case CKPT_END_DONE:
        if (op->kind != CKPT_KIND_UPDATE)
            ckpt_manifests_refresh(engine, op->vm_id);
        g_message("%s of VM %s for %s done: checkpoint %s", ckpt_kind_name(op->kind), op->vm_id,
                  op->identity, op->checkpoint_id);
        break;
    case CKPT_END_STUCK:
        ckpt_engine_quarantine(engine, op->vm_id, (*error)->message);
        if (!store_failure(engine, op, left, *error))
            end = CKPT_END_LATER;
        break;
    case CKPT_END_FAILED:
        ckpt_error_add(error, CKPT_META_VM, op->vm_id);
        if (!store_failure(engine, op, left, *error))
            end = CKPT_END_LATER;
        break;
    case CKPT_END_LATER:
        tell_unfinished(live, *error);
        break;
    }
    if (end == CKPT_END_LATER)
        g_clear_error(error);
    return end;
}
