/* The catalogue is deleted, emptied, overwritten or gone with its folder while the agent is down. It reads its
 * checkpoints back from the manifests, dies in the midst of that, touches nothing before somebody agrees, and
 * then knows what it knew: every checkpoint, its name, its place in the tree, its hold, its delete that waits. */
#include "model.h"

#include "common/id.h"
#include "tests/support/power_vfs.h"

#include <glib/gstdio.h>
#include <string.h>

#define IDENTITY "spiffe://test/model"

typedef enum { LOSE_FILE, LOSE_FOLDER, LOSE_CONTENTS, LOSE_LENGTH, LOSSES } Loss;

/* ---- What must be known again ---- */

static int
compare_lines(gconstpointer a, gconstpointer b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static char *
describe_row(const CkptCheckpoint *row)
{
    return g_strdup_printf("%s '%s' parent %s state %u deferred %u hold '%s' run '%s' memory %" G_GUINT64_FORMAT
                           " disks %u extras %u %s",
                           row->id, row->name, row->parent_id ? row->parent_id : "none", row->state, row->deferred,
                           row->hold, row->run_id, row->memory_bytes, row->disks->len, row->extras->len,
                           row->disabled_reason && *row->disabled_reason ? "disabled" : "enabled");
}

/* A line for each checkpoint and each VM. */
static char *
describe(Model *model)
{
    g_autoptr(GPtrArray) lines = g_ptr_array_new_with_free_func(g_free);

    for (guint i = 0; i < MODEL_VMS; i++) {
        g_autoptr(GPtrArray) rows = ckpt_store_vm_checkpoints(model->store, model->vms[i].id, NULL);
        g_autoptr(CkptVmRecord) record = ckpt_store_get_vm(model->store, model->vms[i].id, NULL);

        for (guint k = 0; k < rows->len; k++)
            g_ptr_array_add(lines, describe_row(g_ptr_array_index(rows, k)));
        if (rows->len > 0)
            g_ptr_array_add(lines, g_strdup_printf("vm-%u is on %s", i,
                                                   record->current_id ? record->current_id : "none"));
    }
    g_ptr_array_sort(lines, compare_lines);
    g_ptr_array_add(lines, NULL);
    return g_strjoinv("\n", (char **)lines->pdata);
}

static void
check_known(Model *model, const char *before, const char *when)
{
    g_autofree char *now = NULL;
    g_auto(GStrv) had = NULL;
    g_auto(GStrv) has = NULL;

    if (model->violation)
        return;
    now = describe(model);
    had = g_strsplit(before, "\n", -1);
    has = g_strsplit(now, "\n", -1);
    for (guint i = 0; had[i] && !model->violation; i++)
        if (!g_strv_contains((const char *const *)has, had[i]))
            model_fail(model, "%s the agent no longer knows: %s; but: %s", when, had[i], now);
    for (guint i = 0; has[i] && !model->violation; i++)
        if (!g_strv_contains((const char *const *)had, has[i]))
            model_fail(model, "%s the agent knows what was not: %s", when, has[i]);
}

/* ---- The loss ---- */

static gboolean
can_be_lost(Model *model)
{
    if (!model->other_dir || model_is_odd(model) || model->manifests_open || g_hash_table_size(model->excused) > 0)
        return FALSE;
    for (guint i = 0; i < model->expected->len; i++)
        if (((Expected *)g_ptr_array_index(model->expected, i))->deleting)
            return FALSE;
    for (guint i = 0; i < MODEL_VMS; i++) {
        g_autoptr(GPtrArray) doomed = ckpt_store_doomed_files(model->store, model->vms[i].id, NULL);
        g_autoptr(CkptVmRecord) record = ckpt_store_get_vm(model->store, model->vms[i].id, NULL);

        if (doomed->len > 0 || record->quarantine_reason || model->vms[i].reattached)
            return FALSE;
    }
    return TRUE;
}

static void
scribble(const char *path, guint64 random)
{
    g_autofree char *bytes = NULL;
    gsize length;

    if (!g_file_get_contents(path, &bytes, &length, NULL))
        return;
    for (gsize i = 0; i < length / 3; i++)
        bytes[64 + i] = (char)script_next(&random);
    g_file_set_contents(path, bytes, (gssize)length, NULL);
    g_chmod(path, 0600);
}

/* Of a folder that another tool chose, and that nothing names any more, only the list that lies beside the
 * catalogue knows: with that gone, too, a checkpoint there is not found. */
static Loss
choose_loss(Model *model, const Action *action)
{
    Loss loss = action->b % LOSSES;

    return loss == LOSE_FOLDER && model->last_snapshot ? LOSE_FILE : loss;
}

static void
lose(Model *model, Loss loss, guint64 random)
{
    static const char *const names[] = {"vmcheckpoint.db-wal", "vmcheckpoint.db-shm", "vmcheckpoint.db",
                                        "vmcheckpoint.folders", "vmcheckpoint.lock"};
    g_autofree char *database = g_build_filename(model->dir, "vmcheckpoint.db", NULL);

    if (loss == LOSE_CONTENTS)
        scribble(database, random);
    if (loss == LOSE_LENGTH)
        g_file_set_contents(database, "", 0, NULL);
    for (guint i = 0; i < (loss == LOSE_FOLDER ? G_N_ELEMENTS(names) : loss == LOSE_FILE ? 3 : 2); i++) {
        g_autofree char *path = g_build_filename(model->dir, names[i], NULL);

        g_unlink(path);
    }
    power_vfs_forget();
}

/* ---- The agent meanwhile ---- */

static gboolean
is_read_back(Model *model, gpointer data)
{
    g_autofree char *lost = NULL;
    g_autofree char *reason = ckpt_engine_read_only_reason(model->engine);
    gboolean is_new = TRUE;

    if (model->store_failed)
        return TRUE;
    if (!ckpt_store_lost_reason(model->store, &lost, NULL) ||
        !ckpt_store_is_new(model->store, &is_new, NULL) || is_new)
        return FALSE;
    return (!lost || (reason && strstr(reason, "were read back"))) && ckpt_engine_is_idle(model->engine);
}

static void
start(Model *model)
{
    model->moments = 0;
    if (!model_agent_start(model))
        return;
    ckpt_sim_tell(model->sim, NULL);
    model_wait(model, is_read_back, NULL);
}

static gboolean
is_lost(Model *model)
{
    g_autofree char *reason = NULL;

    return ckpt_store_lost_reason(model->store, &reason, NULL) && reason;
}

typedef struct {
    int answered; /* atomic: set last */
    CkptReason reason; /* 0 = it was done */
} Answer;

static void
on_answer(CkptOperation *op, const GError *error, gpointer data)
{
    Answer *answer = data;

    answer->reason = error ? ckpt_error_reason(error) : 0;
    ckpt_operation_free(op);
    g_atomic_int_set(&answer->answered, 1);
    model_wake(model_present);
}

static gboolean
is_answered(Model *model, gpointer data)
{
    return g_atomic_int_get(&((Answer *)data)->answered) || model->store_failed;
}

static CkptReason
ask(Model *model, CkptKind kind)
{
    static Answer answer; /* an agent that dies gives it when it is stopped, and nobody waits any more */
    CkptRequest *request = ckpt_request_new(kind);

    answer = (Answer){0};
    ckpt_set_str(&request->identity, IDENTITY);
    request->request_id = ckpt_id_new();
    request->asked = request->minimum = CKPT_CONSISTENCY_CRASH;
    if (kind == CKPT_KIND_CREATE)
        ckpt_set_str(&request->vm_id, model->vms[model->touched].id);
    ckpt_engine_submit(model->engine, request, on_answer, &answer);
    model_wait(model, is_answered, &answer);
    return answer.reason;
}

static void
agree(Model *model, const Fault *fault)
{
    model->faults[0] = (Fault){fault->kind ? FAULT_CRASH : FAULT_NONE, fault->at, 0};
    model->faults[1] = (Fault){0};
    model->fault = 0;
    model->moments = 0;
    (void)ask(model, CKPT_KIND_REPAIR);
    if (!model->violation)
        model_wait_idle(model);
    model->fault = MODEL_FAULTS;
    if (!g_atomic_int_get(&model->dead) || model->violation)
        return;
    model_agent_stop(model);
    start(model);
    if (!model->violation && is_lost(model)) {
        (void)ask(model, CKPT_KIND_REPAIR);
        model_wait_idle(model);
    }
}

/* It dies while it reads, and once more, and is back. */
static void
read_back(Model *model, const Action *action)
{
    for (guint i = 0; i < MODEL_FAULTS && !model->violation; i++) {
        if (!action->faults[i].kind)
            continue;
        model->faults[0] = (Fault){FAULT_CRASH, 1 + action->faults[i].at % 12, 0};
        model->faults[1] = (Fault){0};
        model->fault = 0;
        start(model);
        model->fault = MODEL_FAULTS;
        model_agent_stop(model);
    }
    if (!model->violation)
        start(model);
}

/* ---- In the midst of an operation ---- */

static gboolean
has_state(Model *model, guint vm, const State *state)
{
    for (guint i = 0; i < MODEL_TARGETS; i++) {
        g_autoptr(GPtrArray) chain =
            ckpt_sim_disk_chain(model->sim, model_sim_vm(model, vm), model_target(i));
        g_autofree char *wrong = NULL;

        if (state->disks[i].attached != (chain != NULL))
            return FALSE;
        wrong = chain ? model_compare(model->sim, chain, &state->disks[i]) : NULL;
        if (wrong)
            return FALSE;
    }
    return TRUE;
}

/* What the VM had, or what the restore gave it: never a mixture, never another thing. */
static void
check_present(Model *model, guint vm, const Attempt *attempt)
{
    /* What is left frozen the real driver's watchdog thaws, which outlives the agent and is not simulated. */
    if (model_sim_vm(model, vm)->suspended)
        model_fail(model, "vm-%u is left suspended", vm);
    if (!has_state(model, vm, &model->vms[vm].present) &&
        !(attempt->vm == vm && attempt->kind == CKPT_KIND_RESTORE && has_state(model, vm, &attempt->restored)))
        model_fail(model, "vm-%u has other contents than before", vm);
}

static gboolean
is_enabled(const CkptCheckpoint *row)
{
    return !row->disabled_reason || !*row->disabled_reason;
}

static void
check_contents(Model *model, const CkptCheckpoint *row, const State *state)
{
    for (guint i = 0; i < row->disks->len; i++) {
        const CkptCheckpointDisk *disk = g_ptr_array_index(row->disks, i);
        g_autoptr(GPtrArray) chain = ckpt_sim_chain(model->sim, disk->sealed_file);
        g_autofree char *wrong = NULL;
        guint target = 0;

        while (!g_str_equal(model_target(target), disk->target))
            target++;
        wrong = chain ? model_compare(model->sim, chain, &state->disks[target]) : g_strdup("it cannot be read");
        if (wrong)
            model_fail(model, "checkpoint %s, %s: %s: %s", row->id,
                       is_enabled(row) ? "enabled" : "not enabled", disk->sealed_file, wrong);
    }
}

/* Made by what was under way, and whole: or nobody could have listed it. */
static const State *
find_new(Model *model, const CkptCheckpoint *row, const Attempt *attempt)
{
    const State *captured = g_hash_table_lookup(model->captures, row->id);

    if (captured)
        return captured;
    return attempt->kind == CKPT_KIND_RESTORE ? &model->vms[attempt->vm].present : NULL;
}

/* Its data goes into the files of others. */
static gboolean
is_deleted(const Attempt *attempt, const char *id)
{
    return attempt->kind == CKPT_KIND_DELETE && g_str_equal(attempt->checkpoint_id, id);
}

static void
check_rows(Model *model, const Attempt *attempt)
{
    for (guint i = 0; i < MODEL_VMS; i++) {
        g_autoptr(GPtrArray) rows = ckpt_store_vm_checkpoints(model->store, model->vms[i].id, NULL);

        for (guint k = 0; k < rows->len; k++) {
            const CkptCheckpoint *row = g_ptr_array_index(rows, k);
            const Expected *expected = model_find_expected(model, row->id);
            const State *state = expected ? &expected->state : find_new(model, row, attempt);

            if (!state)
                model_fail(model, "checkpoint %s is listed, and nobody made it", row->id);
            else if (is_enabled(row) || !is_deleted(attempt, row->id))
                check_contents(model, row, state);
        }
    }
    for (guint i = 0; i < model->expected->len; i++) {
        const Expected *expected = g_ptr_array_index(model->expected, i);
        g_autoptr(CkptCheckpoint) row = ckpt_store_get_checkpoint(model->store, expected->id, NULL);
        /* Files that a delete works on are not what was sealed, of those above it neither. */
        gboolean open = attempt->kind == CKPT_KIND_DELETE && attempt->vm == expected->vm;

        if (expected->deferred || is_deleted(attempt, expected->id))
            continue;
        if (!row)
            model_fail(model, "checkpoint %s is no longer known", expected->id);
        else if (!open && !is_enabled(row))
            model_fail(model, "checkpoint %s is whole, and not enabled: %s", expected->id, row->disabled_reason);
    }
}

/* The journal is lost with the catalogue: what was under way is not gone on with. No data is lost for that. */
static void
lose_midway(Model *model, const Action *action)
{
    g_auto(Attempt) attempt = {0};

    if (!model_interrupt(model, action, &attempt))
        return;
    model_log(model, "    the catalogue is lost (%u) with it", choose_loss(model, action));
    model->losses_of_catalogue++;
    lose(model, choose_loss(model, action), action->d);
    start(model);
    if (!model->violation && is_lost(model))
        agree(model, &(Fault){0});
    for (guint i = 0; i < MODEL_VMS && !model->violation; i++) {
        ckpt_sim_tell(model->sim, model->vms[i].id);
        model_wait_idle(model);
    }
    for (guint i = 0; i < MODEL_VMS && !model->violation; i++)
        check_present(model, i, &attempt);
    if (!model->violation)
        check_rows(model, &attempt);
    if (model->sim->crimes->len > 0)
        model_fail(model, "%s", (char *)model->sim->crimes->pdata[0]);
    model->over = TRUE; /* what it left is by hand */
}

void
model_lose(Model *model, const Action *action)
{
    const Loss loss = choose_loss(model, action);
    g_autofree char *before = NULL;
    guint64 inode;
    gint64 clock;

    model_finish_deletes(model);
    if (!can_be_lost(model))
        return;
    if (action->d % 4 == 0) {
        lose_midway(model, action);
        return;
    }
    before = describe(model);
    model_log(model, "    the catalogue is lost (%u)", loss);
    model_agent_stop(model);
    model->losses_of_catalogue++;
    g_ptr_array_set_size(model->past, 0); /* results are not read back */
    lose(model, loss, action->c);
    inode = model->sim->last_inode;
    clock = model->sim->clock;
    read_back(model, action);
    check_known(model, before, "after the loss");
    if (!model->violation && !is_lost(model) && (loss != LOSE_FOLDER || model->expected->len > 0))
        model_fail(model, "a lost catalogue was taken for a new one");
    if (!model->violation && is_lost(model) && ask(model, CKPT_KIND_CREATE) != CKPT_REASON_CATALOGUE_REBUILT)
        model_fail(model, "a checkpoint was created before anybody agreed");
    if (!model->violation) {
        model_agent_stop(model);
        start(model);
    }
    check_known(model, before, "after a restart");
    if (model->sim->last_inode != inode || model->sim->clock != clock)
        model_fail(model, "files were touched before anybody agreed");
    if (!model->violation && is_lost(model))
        agree(model, &action->faults[0]);
    if (!model->violation && is_lost(model))
        model_fail(model, "it was agreed to, and is lost still");
    check_known(model, before, "after agreement");
}
