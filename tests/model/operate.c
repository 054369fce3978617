/* Mutations: one request each, cut off or not, and what must be so afterwards whichever way it went. */
#include "model.h"

#include "common/id.h"
#include "tests/support/power_vfs.h"

#define IDENTITY "spiffe://test/model"

typedef struct {
    int answered; /* atomic: set last */
    CkptOperation *op;
    GError *error;
} Answer;

static void
on_answer(CkptOperation *op, const GError *error, gpointer data)
{
    Answer *answer = data;

    answer->op = op;
    answer->error = error ? g_error_copy(error) : NULL;
    g_atomic_int_set(&answer->answered, 1);
    model_wake(model_present);
}

static void
answer_clear(Answer *answer)
{
    g_clear_pointer(&answer->op, ckpt_operation_free);
    g_clear_error(&answer->error);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Answer, answer_clear)

static gboolean
is_answered(Model *model, gpointer data)
{
    return g_atomic_int_get(&((Answer *)data)->answered) || model->store_failed;
}

static CkptRequest *
make_request(Model *model, const Attempt *attempt)
{
    CkptRequest *request = ckpt_request_new(attempt->kind);

    ckpt_set_str(&request->identity, IDENTITY);
    ckpt_set_str(&request->request_id, attempt->request_id);
    request->asked = attempt->memory ? CKPT_CONSISTENCY_MEMORY : CKPT_CONSISTENCY_APPLICATION;
    request->without_memory = attempt->without_memory;
    request->minimum = CKPT_CONSISTENCY_CRASH;
    if (attempt->kind == CKPT_KIND_CREATE) {
        ckpt_set_str(&request->vm_id, model->vms[attempt->vm].id);
        ckpt_set_str(&request->name, attempt->request_id);
    } else {
        ckpt_set_str(&request->checkpoint_id, attempt->checkpoint_id);
    }
    if (attempt->kind == CKPT_KIND_UPDATE)
        ckpt_set_str(&request->hold, attempt->hold);
    request->discard_present_state = attempt->discard;
    request->when_possible = attempt->when_possible;
    request->restore_power = attempt->power;
    return request;
}

/* ---- What a success means ---- */

static void
expect(Model *model, guint vm, const CkptCheckpoint *row, const State *state)
{
    Expected *expected = g_new0(Expected, 1);

    expected->id = g_strdup(row->id);
    expected->vm = vm;
    expected->state = *state;
    expected->power = row->power;
    g_ptr_array_add(model->expected, expected);
}

static gboolean
state_has_disk(const State *state, guint disk)
{
    for (guint i = 0; i < MODEL_TARGETS; i++)
        if (state->disks[i].attached && state->disks[i].disk == disk)
            return TRUE;
    return FALSE;
}

/* The restored VM does not have them, and no checkpoint was asked for: they lie where they lay. */
static void
leave_disks(Model *model, const Attempt *attempt, char *const *tops)
{
    const State *before = &model->vms[attempt->vm].present;

    for (guint i = 0; i < MODEL_TARGETS; i++) {
        Detached *detached;
        CkptSimFile *file = ckpt_sim_find(model->sim, tops[i]);

        if (!before->disks[i].attached)
            continue;
        if (state_has_disk(&attempt->restored, before->disks[i].disk)) {
            /* To be removed, or, where the planner is not certain, left with a warning. */
            if (file)
                g_hash_table_add(model->excused, g_strdup(tops[i]));
            continue;
        }
        if (before->disks[i].clone && file && !file->agent_made)
            continue;
        if (!file) {
            model_fail(model, "%s is gone, the newest file of a disk that the restored VM lacks",
                       tops[i]);
            return;
        }
        detached = g_new0(Detached, 1);
        detached->vm = attempt->vm;
        detached->path = g_strdup(tops[i]);
        detached->format = file->format;
        detached->image = before->disks[i];
        detached->restores = model->vms[attempt->vm].restores;
        g_ptr_array_add(model->detached, detached);
    }
}

static void
restored(Model *model, Attempt *attempt, const CkptOperation *op, char *const *tops)
{
    ModelVm *vm = &model->vms[attempt->vm];
    Expected *target = model_find_expected(model, attempt->checkpoint_id);
    CkptPower power = attempt->power ? attempt->power : target->power;

    if (op->safety)
        expect(model, attempt->vm, op->safety, &vm->present);
    else
        leave_disks(model, attempt, tops);
    if (target->deferred)
        model_fail(model, "a checkpoint was restored whose delete waits");
    if ((op->safety == NULL) != attempt->discard)
        model_fail(model, "the restore made %s safety checkpoint", op->safety ? "a" : "no");
    vm->present = attempt->restored;
    vm->restores++;
    vm->reattached = FALSE;
    vm->power = power;
}

static void
succeeded(Model *model, Attempt *attempt, const CkptOperation *op, char *const *tops)
{
    Expected *expected;
    State *capture;
    Past *past = g_new0(Past, 1);

    model->done++;
    switch (attempt->kind) {
    case CKPT_KIND_CREATE:
        capture = g_hash_table_lookup(model->captures, op->checkpoint->id);
        if (capture)
            expect(model, attempt->vm, op->checkpoint, capture);
        else
            model_fail(model, "checkpoint %s was created without a snapshot", op->checkpoint->id);
        break;
    case CKPT_KIND_RESTORE:
        restored(model, attempt, op, tops);
        break;
    case CKPT_KIND_DELETE:
        expected = model_find_expected(model, attempt->checkpoint_id);
        /* After a restart the agent may have finished by itself what was to wait. */
        if (op->checkpoint->state != CKPT_STATE_DELETING)
            model_forget_expected(model, attempt->checkpoint_id);
        else if (!attempt->when_possible)
            model_fail(model, "a delete waits, and was not asked to");
        else if (expected)
            expected->deferred = TRUE;
        break;
    case CKPT_KIND_REPAIR:
        break;
    case CKPT_KIND_UPDATE:
        expected = model_find_expected(model, attempt->checkpoint_id);
        if (expected)
            expected->held = *attempt->hold != '\0';
        break;
    }
    past->kind = attempt->kind;
    past->vm = attempt->vm;
    past->request_id = g_strdup(attempt->request_id);
    past->checkpoint_id = g_strdup(attempt->checkpoint_id);
    past->hold = g_strdup(attempt->hold);
    past->discard = attempt->discard;
    past->when_possible = attempt->when_possible;
    past->power = attempt->power;
    past->memory = attempt->memory;
    past->without_memory = attempt->without_memory;
    past->result_id = g_strdup(op->checkpoint ? op->checkpoint->id : NULL);
    g_ptr_array_add(model->past, past);
}

/* ---- What a refusal or failure may be ---- */

static gboolean
may_be_refused(Model *model, const Attempt *attempt, CkptReason reason)
{
    const ModelVm *vm = &model->vms[attempt->vm];
    Expected *expected = model_find_expected(model, attempt->checkpoint_id);

    if (reason == CKPT_REASON_CHECKPOINT_DELETING)
        for (guint i = 0; i < model->expected->len; i++) {
            Expected *other = g_ptr_array_index(model->expected, i);

            if (other->vm == attempt->vm && other->deleting)
                return TRUE;
        }
    if (reason == CKPT_REASON_CHECKPOINT_DELETING && attempt->kind == CKPT_KIND_RESTORE && expected &&
        expected->deferred)
        return TRUE;
    if (model_is_odd(model) &&
        (reason == CKPT_REASON_VM_QUARANTINED || reason == CKPT_REASON_SEALED_FILE_CHANGED ||
         reason == CKPT_REASON_DISK_FILE_MISSING || reason == CKPT_REASON_CHAIN_MISMATCH ||
         reason == CKPT_REASON_VM_BUSY))
        return TRUE;
    if (reason == CKPT_REASON_CHAIN_MISMATCH && vm->reattached)
        return TRUE;
    if (reason == CKPT_REASON_MANAGED_SAVE_PRESENT && model_sim_vm(model, attempt->vm)->saved)
        return TRUE;
    /* The agent has finished by itself what was to wait, between two attempts. */
    if (attempt->checkpoint_id && !expected)
        return reason == CKPT_REASON_CHECKPOINT_NOT_FOUND;
    switch (attempt->kind) {
    case CKPT_KIND_CREATE:
        return reason == CKPT_REASON_DEPTH_LIMIT || reason == CKPT_REASON_DISK_SHAREABLE;
    case CKPT_KIND_RESTORE:
        return reason == CKPT_REASON_DEPTH_LIMIT;
    case CKPT_KIND_DELETE:
        return ((reason == CKPT_REASON_BRANCH_POINT ||
                 reason == CKPT_REASON_BRANCH_REBASE_REQUIRED) &&
                !attempt->when_possible) ||
               (reason == CKPT_REASON_FOREIGN_SNAPSHOT_PRESENT && model->last_snapshot) ||
               reason == CKPT_REASON_DISK_DETACHED || reason == CKPT_REASON_DISK_RESIZED ||
               /* somebody started the VM after a pull had begun */
               (reason == CKPT_REASON_SHUT_DOWN_REQUIRED && expected && expected->deleting &&
                model_sim_vm(model, attempt->vm)->live) ||
               (reason == CKPT_REASON_CHECKPOINT_HELD && expected && expected->held);
    case CKPT_KIND_UPDATE:
    case CKPT_KIND_REPAIR:
        break;
    }
    return FALSE;
}

static void
failed(Model *model, const Attempt *attempt, const CkptOperation *op, CkptReason reason,
       const char *message)
{
    Expected *expected = model_find_expected(model, attempt->checkpoint_id);
    g_autoptr(CkptCheckpoint) row =
        expected ? ckpt_store_get_checkpoint(model->store, expected->id, NULL) : NULL;

    model_log(model, "    -> %s: %s", ckpt_reason_name(reason), message);
    if (op && op->plan)
        model->failed++;
    else
        model->refused++;
    if (reason < G_N_ELEMENTS(model->reasons))
        model->reasons[reason]++;
    if (expected && row) {
        expected->deferred = row->deferred;
        expected->deleting = row->state == CKPT_STATE_DELETING && !row->deferred;
    }
    if (reason == CKPT_REASON_RECOVERY_FAILED)
        model_fail(model, "%s ended neither done nor as before: %s", ckpt_kind_name(attempt->kind),
                   message);
    else if (!model->fired && !may_be_refused(model, attempt, reason))
        model_fail(model, "%s was refused without need: %s: %s", ckpt_kind_name(attempt->kind),
                   ckpt_reason_name(reason), message);
}

/* ---- One attempt ---- */

static void
adopt_power(Model *model, const Attempt *attempt)
{
    ModelVm *vm = &model->vms[attempt->vm];
    CkptPower now = model_sim_vm(model, attempt->vm)->power;

    if (!attempt->power_open)
        return;
    if (now == CKPT_POWER_PAUSED && attempt->power_before != now && vm->power != now)
        model_fail(model, "vm-%u was left paused", attempt->vm);
    vm->power = now;
}

static char **
present_tops(Model *model, guint vm)
{
    char **tops = g_new0(char *, MODEL_TARGETS + 1);

    for (guint i = 0; i < MODEL_TARGETS; i++) {
        CkptSimDisk *disk =
            ckpt_sim_definition_find(model_sim_vm(model, vm)->definition, model_target(i));

        tops[i] = g_strdup(disk ? disk->source : "");
    }
    return tops;
}

/* Without a fault the answer is believed, save now and then: the store's own word costs time. */
static CkptOperation *
stored(Model *model, const Attempt *attempt, Answer *answer, GError **error)
{
    g_autoptr(CkptOperation) op = NULL;

    if (!model->fired && answer->op && model->done % 8)
        return g_steal_pointer(&answer->op);
    op = ckpt_engine_get_operation(model->engine, IDENTITY, attempt->request_id, error);
    if (op && (op->state == CKPT_OP_QUEUED || op->state == CKPT_OP_RUNNING))
        model_fail(model, "the operation is not settled");
    else if (op && answer->error && op->state == CKPT_OP_SUCCEEDED)
        model_fail(model, "the caller was told of a failure, the store of a success");
    else if (answer->op && (!op || op->state != CKPT_OP_SUCCEEDED))
        model_fail(model, "the caller was told of a success, the store not");
    return g_steal_pointer(&op);
}

static void
settle(Model *model, Attempt *attempt, Answer *answer, char *const *tops)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptOperation) op = stored(model, attempt, answer, &error);

    if (op && op->state == CKPT_OP_SUCCEEDED)
        succeeded(model, attempt, op, tops);
    else if (op && (model->fired || !answer->error))
        failed(model, attempt, op, op->reason, op->message);
    else /* the store may have what became of the same id before: a refusal does not use it up */
        failed(model, attempt, NULL, ckpt_error_reason(answer->error ? answer->error : error),
               answer->error ? answer->error->message : error->message);
    adopt_power(model, attempt);
}

static void
prepare(Model *model, Attempt *attempt)
{
    Expected *expected = model_find_expected(model, attempt->checkpoint_id);

    attempt->inode_before = model->sim->last_inode;
    attempt->power_before = model->vms[attempt->vm].power;
    attempt->power_open = FALSE;
    attempt->back = 0;
    if (expected)
        attempt->restored = expected->state;
    model->attempt = attempt;
    model->touched = attempt->vm;
    model->moments = model->changes = model->away = 0;
    model->fired = FALSE;
}

/* ---- Deletes that wait ---- */

void
model_reconcile(Model *model)
{
    for (guint i = model->expected->len; i > 0; i--) {
        Expected *expected = g_ptr_array_index(model->expected, i - 1);
        g_autoptr(CkptCheckpoint) row = NULL;

        if (!expected->deferred && !expected->deleting)
            continue;
        row = ckpt_store_get_checkpoint(model->store, expected->id, NULL);
        if (!row) {
            model_log(model, "    checkpoint %s was deleted by the agent", expected->id);
            g_ptr_array_remove_index(model->expected, i - 1);
        } else if (row->state == CKPT_STATE_DELETING) {
            expected->deferred = row->deferred;
            expected->deleting = !row->deferred;
        }
    }
}

void
model_finish_deletes(Model *model)
{
    for (guint i = 0; i < MODEL_VMS && !model->violation; i++) {
        ckpt_sim_tell(model->sim, model->vms[i].id);
        model_wait_idle(model);
    }
    model_reconcile(model);
}

/* Asked as anybody might ask: whether it could be deleted now. */
static void
check_waits(Model *model, const Expected *expected)
{
    Attempt attempt = {.kind = CKPT_KIND_DELETE,
                       .vm = expected->vm,
                       .request_id = (char *)"00000000-0000-4000-8000-000000000000",
                       .checkpoint_id = expected->id};
    g_auto(Answer) answer = {0};
    CkptRequest *request = make_request(model, &attempt);

    request->validate_only = TRUE;
    ckpt_engine_submit(model->engine, request, on_answer, &answer);
    if (answer.op && answer.op->plan->no_return)
        model_fail(model, "the delete of checkpoint %s waits, and need not", expected->id);
}

/* Each operation's end is an occasion to finish them. */
static void
check_all_that_wait(Model *model, guint vm)
{
    for (guint i = 0; i < model->expected->len && !model->violation; i++) {
        const Expected *expected = g_ptr_array_index(model->expected, i);

        if (expected->vm == vm && expected->deferred)
            check_waits(model, expected);
    }
}

static gboolean
is_idle(Model *model, gpointer data)
{
    return model->store_failed || power_vfs_fired() || ckpt_engine_is_idle(model->engine);
}

/* Until it is answered, or the agent is dead. */
static void
send(Model *model, Attempt *attempt, Answer *answer)
{
    prepare(model, attempt);
    ckpt_engine_submit(model->engine, make_request(model, attempt), on_answer, answer);
    model_wait(model, is_answered, answer);
    model_wait(model, is_idle, NULL);
}

static gboolean
run(Model *model, Attempt *attempt)
{
    g_auto(Answer) answer = {0};
    g_auto(GStrv) tops = present_tops(model, attempt->vm);
    guint done = model->done;

    send(model, attempt, &answer);
    if (g_atomic_int_get(&model->dead) || model->store_failed || power_vfs_fired()) {
        model_log(model, "    the agent is restarted");
        model_agent_restart(model);
        answer_clear(&answer); /* nobody heard it */
    }
    if (!model->violation)
        settle(model, attempt, &answer, tops);
    model_reconcile(model);
    model->attempt = NULL;
    model->fault = MODEL_FAULTS; /* the rest was not reached */
    power_vfs_arm(POWER_GOOD, 0, FALSE, 0);
    model->away = 0;
    model->sim->free_bytes += model->filled;
    model->filled = 0;
    if (model->fired)
        model_excuse_doomed(model, attempt->vm);
    if (model->done > done && !model->fired) {
        check_all_that_wait(model, attempt->vm);
        model_check_doomed(model, attempt->vm);
    }
    return model->done > done;
}

void
model_attempt_clear(Attempt *attempt)
{
    g_clear_pointer(&attempt->request_id, g_free);
    g_clear_pointer(&attempt->checkpoint_id, g_free);
    g_clear_pointer(&attempt->hold, g_free);
}

static gboolean
choose(Model *model, const Action *action, Attempt *attempt)
{
    static const CkptPower powers[] = {CKPT_POWER_UNKNOWN, CKPT_POWER_UNKNOWN, CKPT_POWER_RUNNING,
                                       CKPT_POWER_PAUSED, CKPT_POWER_SHUT_OFF};
    Expected *expected;

    attempt->request_id = ckpt_id_new();
    if (attempt->kind == CKPT_KIND_CREATE) {
        attempt->vm = action->a % MODEL_VMS;
        attempt->memory = action->b / 16 % 3 == 1;
        return TRUE;
    }
    if (model->expected->len == 0)
        return FALSE;
    expected = g_ptr_array_index(model->expected, action->a % model->expected->len);
    attempt->vm = expected->vm;
    attempt->checkpoint_id = g_strdup(expected->id);
    if (attempt->kind == CKPT_KIND_RESTORE) {
        attempt->discard = action->b % 3 == 0;
        attempt->without_memory = action->b / 16 % 4 == 1;
        attempt->power = powers[action->c % G_N_ELEMENTS(powers)];
    }
    if (attempt->kind == CKPT_KIND_UPDATE)
        attempt->hold = g_strdup(action->b % 5 ? "" : "audit");
    return TRUE;
}

void
model_mutate(Model *model, const Action *action)
{
    g_auto(Attempt) attempt = {
        .kind = action->kind == ACT_CREATE    ? CKPT_KIND_CREATE
                : action->kind == ACT_RESTORE ? CKPT_KIND_RESTORE
                : action->kind == ACT_DELETE || action->kind == ACT_DEFER ? CKPT_KIND_DELETE
                                              : CKPT_KIND_UPDATE,
    };
    Expected *expected;

    if (!choose(model, action, &attempt))
        return;
    attempt.when_possible = action->kind == ACT_DEFER;
    model_log(model, "  %s of vm-%u, checkpoint %s%s", ckpt_kind_name(attempt.kind), attempt.vm,
              attempt.checkpoint_id ? attempt.checkpoint_id : "(new)",
              attempt.discard ? ", without safety" : "");
    memcpy(model->faults, action->faults, sizeof model->faults);
    model->fault = 0;
    if (run(model, &attempt) || model->violation)
        return;
    model_check(model);
    expected = model_find_expected(model, attempt.checkpoint_id);
    if (!model->violation && model->fired && (action->d % 2 || (expected && expected->deleting))) {
        model_log(model, "    again");
        run(model, &attempt);
    }
}

gboolean
model_interrupt(Model *model, const Action *action, Attempt *attempt)
{
    static const CkptKind kinds[] = {CKPT_KIND_CREATE, CKPT_KIND_RESTORE, CKPT_KIND_DELETE, CKPT_KIND_DELETE};
    g_auto(Answer) answer = {0};

    *attempt = (Attempt){.kind = kinds[action->c % G_N_ELEMENTS(kinds)]};
    if (!choose(model, action, attempt))
        return FALSE;
    attempt->when_possible = action->c / 4 % 2;
    model_log(model, "  %s of vm-%u, checkpoint %s, and no more", ckpt_kind_name(attempt->kind), attempt->vm,
              attempt->checkpoint_id ? attempt->checkpoint_id : "(new)");
    model->faults[0] = (Fault){action->c / 8 % 3 ? FAULT_CRASH : FAULT_HOST, 1 + action->c / 32 % 45, action->d};
    model->faults[1] = (Fault){0};
    model->fault = 0;
    send(model, attempt, &answer);
    model->fault = MODEL_FAULTS;
    if (!g_atomic_int_get(&model->dead)) /* it was over by then */
        model->over = TRUE;
    model_agent_stop(model); /* it answers all who wait */
    model->attempt = NULL;
    return !model->over && !model->violation;
}

/* ---- Once more ---- */

void
model_repeat(Model *model, const Action *action)
{
    g_auto(Answer) answer = {0};
    Attempt attempt;
    CkptRequest *request;
    Past *past;

    if (model->past->len == 0)
        return;
    past = g_ptr_array_index(model->past, action->a % model->past->len);
    attempt = (Attempt){.kind = past->kind,
                        .vm = past->vm,
                        .request_id = past->request_id,
                        .checkpoint_id = past->checkpoint_id,
                        .discard = past->discard,
                        .when_possible = past->when_possible,
                        .power = past->power,
                        .memory = past->memory,
                        .without_memory = past->without_memory,
                        .hold = past->hold};
    request = make_request(model, &attempt);
    if (action->b % 3 == 0)
        request->expire_us = 1; /* a different request */
    model->changes = 0;
    ckpt_engine_submit(model->engine, request, on_answer, &answer);
    model_wait(model, is_answered, &answer);
    if (model->changes > 0)
        model_fail(model, "a repeated request changed something");
    else if (action->b % 3 == 0 && ckpt_error_reason(answer.error) != CKPT_REASON_REQUEST_ID_REUSED)
        model_fail(model, "a different request with a used id was not refused");
    else if (action->b % 3 && (!answer.op || !answer.op->checkpoint ||
                               g_strcmp0(answer.op->checkpoint->id, past->result_id) != 0))
        model_fail(model, "a repeated request got another answer: %s",
                   answer.error ? answer.error->message : "no error");
}
