/* Reads what the doctor looks at: each VM that is defined here or that the catalogue knows. */
#include "agent/core/diagnose.h"
#include "agent/core/engine_internal.h"

#include <string.h>

/* Such a one may have left what no look can see: its quarantine ends with the next operation that somebody
 * asks for and that can be planned, or with a repair. */
gboolean
ckpt_doctor_left_stuck(CkptEngine *engine, const char *vm_id)
{
    const CkptOperationQuery ended = {
        .vm_id = vm_id,
        .states = 1u << CKPT_OP_SUCCEEDED | 1u << CKPT_OP_FAILED | 1u << CKPT_OP_CANCELLED,
        .without_plans = TRUE,
    };
    g_autoptr(GPtrArray) operations = ckpt_store_list_operations(engine->store, &ended, NULL);
    const CkptOperation *last;

    if (!operations || operations->len == 0)
        return !operations;
    last = g_ptr_array_index(operations, operations->len - 1);
    return last->damage || (last->state == CKPT_OP_FAILED && last->reason == CKPT_REASON_RECOVERY_FAILED);
}

static void
add_not_examined(GPtrArray *findings, const char *vm_id, const GError *why)
{
    CkptFinding *finding = ckpt_findings_add(
        findings,
        ckpt_finding_new(CKPT_FINDING_NOT_EXAMINED, CKPT_SEVERITY_ERROR, vm_id, NULL, NULL));

    if (!finding)
        return;
    g_free(finding->message);
    finding->message = g_strdup_printf("could not be looked at in full, so that more may be wrong: %s",
                                       why->message);
}

static gboolean
is_running(const CkptOperation *op)
{
    return op->state == CKPT_OP_RUNNING && !op->damage;
}

/* An operation that runs freezes and pauses it as it must. */
static gboolean
may_ask_guest(CkptEngine *engine, const CkptVm *vm, GPtrArray *operations)
{
    if (!engine->driver->guest_look || vm->power == CKPT_POWER_SHUT_OFF)
        return FALSE;
    for (guint i = 0; i < operations->len; i++)
        if (is_running(operations->pdata[i]))
            return FALSE;
    return TRUE;
}

static gboolean
does_answer(CkptEngine *engine, const char *vm_id, GError **error)
{
    return !engine->driver->answers || engine->driver->answers(engine->driver, vm_id, NULL, error);
}

gboolean
ckpt_doctor_look(CkptEngine *engine, const char *vm_id, GPtrArray *findings, GError **error)
{
    const CkptOperationQuery open = {
        .vm_id = vm_id,
        .states = 1u << CKPT_OP_QUEUED | 1u << CKPT_OP_RUNNING,
        .without_plans = TRUE,
    };
    g_autoptr(GPtrArray) operations = ckpt_store_list_operations(engine->store, &open, error);
    CkptDiagnosis diagnosis = {.vm_id = vm_id, .operations = operations};
    g_autofree char *unread = ckpt_unread_reason(engine, vm_id);
    g_auto(Situation) situation = {0};
    g_auto(CkptGuest) guest = {0};
    g_autoptr(GError) why = NULL, unanswered = NULL;

    if (!operations)
        return FALSE;
    if (ckpt_situation_read(engine, vm_id, FALSE, &situation, &why)) {
        diagnosis.input = &situation.input;
    } else if (!situation.doomed) { /* it is the catalogue that cannot be read */
        g_propagate_error(error, g_steal_pointer(&why));
        return FALSE;
    } else if (ckpt_error_reason(why) != CKPT_REASON_VM_NOT_FOUND) {
        add_not_examined(findings, vm_id, why);
        return TRUE;
    }
    if (diagnosis.input && may_ask_guest(engine, situation.vm, operations)) {
        if (!does_answer(engine, vm_id, &unanswered))
            add_not_examined(findings, vm_id, unanswered);
        else if (engine->driver->guest_look(engine->driver, vm_id, &guest, &why))
            diagnosis.guest = &guest;
    }
    diagnosis.checkpoints = situation.checkpoints;
    diagnosis.record = situation.record;
    diagnosis.left_stuck = situation.record->quarantine_reason && ckpt_doctor_left_stuck(engine, vm_id);
    diagnosis.unread = unread;
    diagnosis.now_us = g_get_real_time();
    ckpt_diagnose_vm(&diagnosis, findings);
    return TRUE;
}

static int
compare_findings(gconstpointer a, gconstpointer b)
{
    const CkptFinding *left = *(CkptFinding *const *)a;
    const CkptFinding *right = *(CkptFinding *const *)b;
    int order = (int)right->severity - (int)left->severity;

    if (order == 0)
        order = strcmp(left->vm_name, right->vm_name);
    if (order == 0)
        order = (int)left->kind - (int)right->kind;
    return order ? order : strcmp(left->id, right->id);
}

static CkptFinding *
tell(GPtrArray *findings, CkptFindingKind kind, CkptSeverity severity, const char *file,
     const char *message)
{
    CkptFinding *finding =
        ckpt_findings_add(findings, ckpt_finding_new(kind, severity, NULL, NULL, file));

    if (finding)
        ckpt_set_str(&finding->message, message);
    return finding;
}

static void
look_at_catalogue(CkptEngine *engine, GPtrArray *findings)
{
    g_autofree char *unagreed = ckpt_rebuild_unagreed(engine);
    g_autofree char *damage = NULL;
    g_autoptr(GError) unread = NULL;
    CkptFinding *finding;

    if (unagreed) {
        finding = tell(findings, CKPT_FINDING_CATALOGUE_REBUILT, CKPT_SEVERITY_ERROR, NULL, unagreed);
        if (finding)
            ckpt_set_str(&finding->repair, "the manifests are read once more, and what they say is agreed to");
    }
    if (!ckpt_store_check(engine->store, &damage, &unread)) {
        g_prefix_error(&unread, "the catalogue: ");
        add_not_examined(findings, NULL, unread);
    }
    if (damage) {
        g_autofree char *message = g_strdup_printf(
            "the catalogue's database is damaged (%s): restart the agent, which then sets it aside and reads "
            "its checkpoints back from their manifests",
            damage);

        tell(findings, CKPT_FINDING_CATALOGUE_DAMAGED, CKPT_SEVERITY_ERROR, NULL, message);
    }
}

static void
add_ids(GHashTable *ids, GPtrArray *found)
{
    for (guint i = 0; i < found->len; i++)
        g_hash_table_add(ids, g_strdup(g_ptr_array_index(found, i)));
}

/* Of all VMs: paths that the catalogue or a definition knows. */
static GHashTable *
known_files(CkptEngine *engine, GPtrArray *rows, GError **error)
{
    GHashTable *known = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    g_autoptr(GPtrArray) tops = engine->driver->image_files(engine->driver, TRUE, error);
    g_autoptr(GPtrArray) vms = tops ? ckpt_store_vms(engine->store, error) : NULL;

    for (guint i = 0; i < rows->len; i++) {
        const CkptCheckpoint *row = g_ptr_array_index(rows, i);

        for (guint k = 0; k < row->disks->len; k++)
            g_hash_table_add(known,
                             g_strdup(((CkptCheckpointDisk *)row->disks->pdata[k])->sealed_file));
    }
    for (guint i = 0; tops && i < tops->len; i++)
        g_hash_table_add(known, g_strdup(tops->pdata[i]));
    for (guint i = 0; vms && i < vms->len; i++) {
        g_autoptr(GPtrArray) made = ckpt_store_vm_files(engine->store, vms->pdata[i], NULL);

        if (made)
            add_ids(known, made);
    }
    if (!vms)
        g_clear_pointer(&known, g_hash_table_unref);
    return known;
}

/* Overlays that nobody knows, looked at as what agents make: qcow2. NULL: not now. */
static CkptVm *
look_at_strangers(CkptEngine *engine, const CkptFoundFiles *found, GHashTable *known)
{
    g_autoptr(GArray) files = g_array_new(TRUE, FALSE, sizeof(CkptKnownFile));

    for (guint i = 0; i < found->overlays->len; i++) {
        const CkptKnownFile file = {g_ptr_array_index(found->overlays, i), CKPT_FORMAT_QCOW2};

        if (!g_hash_table_contains(known, file.path))
            g_array_append_val(files, file);
    }
    if (files->len == 0 || !engine->driver->inspect_files)
        return NULL;
    return engine->driver->inspect_files(engine->driver, "", (const CkptKnownFile *)files->data, NULL);
}

static gboolean
has_running(CkptEngine *engine)
{
    const CkptOperationQuery open = {.states = 1u << CKPT_OP_RUNNING, .without_plans = TRUE};
    g_autoptr(GPtrArray) running = ckpt_store_list_operations(engine->store, &open, NULL);

    for (guint i = 0; running && i < running->len; i++)
        if (is_running(running->pdata[i]))
            return TRUE;
    return !running;
}

/* Not while operations run: their files are named nowhere yet. */
static void
look_at_folders(CkptEngine *engine, GPtrArray *findings)
{
    const CkptCheckpointQuery all = {
        .enabled = -1, .include_deleting = TRUE, .include_moved = TRUE};
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptFoundFiles) found = NULL;
    g_autoptr(GPtrArray) rows = NULL;
    g_autoptr(GHashTable) known = NULL;
    g_autoptr(CkptHostInfo) host = NULL;
    g_autoptr(CkptVm) strangers = NULL;
    CkptFoundLook look = {0};

    if (!ckpt_rebuild_find(engine, &found, &error))
        add_not_examined(findings, NULL, error);
    if (!found || !engine->driver->host_info(engine->driver, &host, NULL))
        return;
    rows = ckpt_store_list_checkpoints(engine->store, &all, &error);
    known = rows ? known_files(engine, rows, &error) : NULL;
    if (!known)
        return;
    strangers = look_at_strangers(engine, found, known);
    look = (CkptFoundLook){found, rows, known, host->host_id, strangers};
    ckpt_diagnose_folders(&look, findings);
}

/* Nothing can be said of a VM that is neither defined here nor in the catalogue. */
static gboolean
check_known(CkptEngine *engine, const char *vm_id, GError **error)
{
    g_autoptr(GPtrArray) known = ckpt_store_vms(engine->store, error);
    g_autoptr(GPtrArray) defined = NULL;

    if (!known)
        return FALSE;
    if (g_ptr_array_find_with_equal_func(known, vm_id, g_str_equal, NULL))
        return TRUE;
    defined = engine->driver->list_vms(engine->driver, error);
    if (!defined)
        return FALSE;
    for (guint i = 0; i < defined->len; i++)
        if (g_str_equal(((CkptVmSummary *)defined->pdata[i])->id, vm_id))
            return TRUE;
    ckpt_error_set(error, CKPT_REASON_VM_NOT_FOUND,
                   "VM %s is not defined on this host, and has no checkpoints here", vm_id);
    ckpt_error_add(error, CKPT_META_VM, vm_id);
    return FALSE;
}

/* ---- Several at once, in a bounded time ----
 * A VM whose QEMU or guest agent does not answer must not keep the caller from the others. */

typedef struct {
    GMutex lock;           /* guards the rest */
    GCond progress;
    GPtrArray *findings;   /* of the VMs that were looked at */
    GHashTable *pending;   /* set: vm_id of the others */
    GHashTable *seen;      /* set: vm_id of both */
    gboolean listing;      /* which VMs the hypervisor has is being asked */
    gboolean searching;    /* the folders are being looked through */
    GError *fault;         /* of the catalogue; NULL = none */
    gboolean over;         /* nobody waits any more */
    gboolean stopped;      /* it was over because the agent stops */
} Round;                   /* counted: a thread that is kept waiting outlives the caller */

typedef struct Task Task;
struct Task {
    Round *round;
    char *vm_id; /* NULL: of no VM alone */
    void (*work)(CkptEngine *engine, const Task *task);
};

static void
round_clear(gpointer data)
{
    Round *round = data;

    g_mutex_clear(&round->lock);
    g_cond_clear(&round->progress);
    g_ptr_array_unref(round->findings);
    g_hash_table_unref(round->pending);
    g_hash_table_unref(round->seen);
    g_clear_error(&round->fault);
}

static void
round_unref(Round *round)
{
    g_atomic_rc_box_release_full(round, round_clear);
}

static Round *
round_new(void)
{
    Round *round = g_atomic_rc_box_new0(Round);

    g_mutex_init(&round->lock);
    g_cond_init(&round->progress);
    round->findings = ckpt_findings_new();
    round->pending = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    round->seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    return round;
}

static void
push(CkptEngine *engine, Round *round, const char *vm_id,
     void (*work)(CkptEngine *engine, const Task *task))
{
    Task *task = g_new0(Task, 1);

    task->round = g_atomic_rc_box_acquire(round);
    task->vm_id = g_strdup(vm_id);
    task->work = work;
    g_thread_pool_push(engine->doctors, task, NULL);
}

static gboolean
is_over(Round *round)
{
    gboolean over;

    g_mutex_lock(&round->lock);
    over = round->over;
    g_mutex_unlock(&round->lock);
    return over;
}

/* Whoever waits for it waits for an agent that stops. */
static void
give_up(Round *round)
{
    g_mutex_lock(&round->lock);
    round->stopped = round->stopped || !round->over;
    round->over = TRUE;
    g_cond_signal(&round->progress);
    g_mutex_unlock(&round->lock);
}

static void
move_findings(GPtrArray *to, GPtrArray *from)
{
    while (from->len > 0)
        ckpt_findings_add(to, g_ptr_array_steal_index(from, from->len - 1));
}

static void
examine_vm(CkptEngine *engine, const Task *task)
{
    Round *round = task->round;
    g_autoptr(GPtrArray) findings = ckpt_findings_new();
    g_autoptr(GError) error = NULL;
    gboolean done = ckpt_doctor_look(engine, task->vm_id, findings, &error);

    g_mutex_lock(&round->lock);
    move_findings(round->findings, findings);
    if (done)
        g_hash_table_remove(round->pending, task->vm_id);
    else if (!round->fault)
        round->fault = g_steal_pointer(&error);
    g_cond_signal(&round->progress);
    g_mutex_unlock(&round->lock);
}

/* Called with the lock held. */
static void
add_vm(CkptEngine *engine, Round *round, const char *vm_id)
{
    if (!g_hash_table_add(round->seen, g_strdup(vm_id)))
        return;
    g_hash_table_add(round->pending, g_strdup(vm_id));
    push(engine, round, vm_id, examine_vm);
}

static void
list_vms(CkptEngine *engine, const Task *task)
{
    Round *round = task->round;
    g_autoptr(GError) why = NULL;
    g_autoptr(GPtrArray) defined = engine->driver->list_vms(engine->driver, &why);

    g_mutex_lock(&round->lock);
    round->listing = FALSE;
    if (!defined)
        add_not_examined(round->findings, NULL, why);
    for (guint i = 0; defined && !round->over && i < defined->len; i++)
        add_vm(engine, round, ((CkptVmSummary *)defined->pdata[i])->id);
    g_cond_signal(&round->progress);
    g_mutex_unlock(&round->lock);
}

static void
search_folders(CkptEngine *engine, const Task *task)
{
    Round *round = task->round;
    g_autoptr(GPtrArray) findings = ckpt_findings_new();

    if (!has_running(engine))
        look_at_folders(engine, findings);
    g_mutex_lock(&round->lock);
    round->searching = FALSE;
    move_findings(round->findings, findings);
    g_cond_signal(&round->progress);
    g_mutex_unlock(&round->lock);
}

void
ckpt_doctor_work(gpointer data, gpointer user_data)
{
    CkptEngine *engine = user_data;
    Task *task = data;

    if (g_atomic_int_get(&engine->stopping))
        give_up(task->round);
    else if (!is_over(task->round))
        task->work(engine, task);
    round_unref(task->round);
    g_free(task->vm_id);
    g_free(task);
}

static void
wait_for_all(CkptEngine *engine, Round *round)
{
    gint64 until = g_get_monotonic_time() + engine->limits.max_diagnose_us;

    g_mutex_lock(&round->lock);
    while (!round->over && !round->fault &&
           (round->listing || round->searching || g_hash_table_size(round->pending) > 0))
        if (!g_cond_wait_until(&round->progress, &round->lock, until))
            break;
    round->over = TRUE;
    g_mutex_unlock(&round->lock);
}

static GError *
why_pending(const CkptEngine *engine, const Round *round)
{
    GError *why = NULL;

    if (round->stopped)
        ckpt_error_set(&why, CKPT_REASON_AGENT_STARTING, "the agent is stopping; ask again when it is back");
    else
        ckpt_error_set(&why, CKPT_REASON_VM_BUSY,
                       "not within %" G_GINT64_FORMAT " s: its QEMU, its guest agent or libvirt does not answer, "
                       "or those of others kept all threads waiting; ask for this VM alone",
                       engine->limits.max_diagnose_us / G_USEC_PER_SEC);
    return why;
}

static void
add_pending(const CkptEngine *engine, Round *round, GPtrArray *findings)
{
    g_autoptr(GError) why = why_pending(engine, round);
    GHashTableIter iter;
    gpointer vm_id;

    if (round->listing || round->searching)
        add_not_examined(findings, NULL, why);
    g_hash_table_iter_init(&iter, round->pending);
    while (g_hash_table_iter_next(&iter, &vm_id, NULL))
        add_not_examined(findings, vm_id, why);
}

/* These VMs, and with `all` what else the hypervisor has, and the folders. FALSE if the catalogue cannot be
 * read. */
static gboolean
examine(CkptEngine *engine, GPtrArray *vms, gboolean all, GPtrArray *findings, GError **error)
{
    Round *round = round_new();
    gboolean done;

    g_mutex_lock(&round->lock);
    round->listing = round->searching = all;
    if (all) {
        push(engine, round, NULL, list_vms);
        push(engine, round, NULL, search_folders);
    }
    for (guint i = 0; i < vms->len; i++)
        add_vm(engine, round, g_ptr_array_index(vms, i));
    g_mutex_unlock(&round->lock);
    wait_for_all(engine, round);
    g_mutex_lock(&round->lock); /* a late thread may still be at its end */
    done = !round->fault;
    if (done) {
        move_findings(findings, round->findings);
        add_pending(engine, round, findings);
    } else {
        g_propagate_error(error, g_steal_pointer(&round->fault));
    }
    g_mutex_unlock(&round->lock);
    round_unref(round);
    return done;
}

GPtrArray *
ckpt_engine_diagnose(CkptEngine *engine, const char *vm_id, GError **error)
{
    g_autoptr(GPtrArray) findings = ckpt_findings_new();
    g_autoptr(GPtrArray) vms = NULL;
    gboolean all = !vm_id || !*vm_id;

    if (all) {
        vms = ckpt_store_vms(engine->store, error);
    } else if (check_known(engine, vm_id, error)) {
        vms = g_ptr_array_new_with_free_func(g_free);
        g_ptr_array_add(vms, g_strdup(vm_id));
    }
    if (!vms || !examine(engine, vms, all, findings, error))
        return NULL;
    if (all)
        look_at_catalogue(engine, findings);
    g_ptr_array_sort(findings, compare_findings);
    return g_steal_pointer(&findings);
}
