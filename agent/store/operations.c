#include "agent/store/operation_rows.h"

#include "agent/model/json.h"

/* ---- Reads ---- */

typedef struct {
    const char *identity, *request_id;
    const CkptOperationQuery *query;
    GPtrArray *operations;
} Read;

static GPtrArray *
operations_new(void)
{
    return g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_operation_free);
}

static gboolean
find_work(CkptDatabase *db, gpointer data, GError **error)
{
    Read *read = data;
    sqlite3_stmt *statement = ckpt_database_query(
        db, error, CKPT_OPERATION_SELECT " WHERE identity = ?1 AND request_id = ?2", "tt",
        read->identity, read->request_id);

    return ckpt_operation_rows(db, statement, read->operations, error);
}

CkptOperation *
ckpt_store_find_operation(CkptStore *store, const char *identity, const char *request_id,
                          GError **error)
{
    g_autoptr(GPtrArray) operations = operations_new();
    Read read = {.identity = identity, .request_id = request_id, .operations = operations};
    const CkptOperation *found;

    if (!ckpt_store_read(store, find_work, &read, error) || operations->len == 0)
        return NULL;
    found = g_ptr_array_index(operations, 0);
    if (found->damage) {
        ckpt_error_set(error, CKPT_REASON_STORE_FAILED,
                       "%s. How it ended, if it did, is not known: look at the VM (vmcheckpoint doctor), and ask "
                       "again with a new request_id",
                       found->damage);
        ckpt_error_add(error, CKPT_META_REQUEST, request_id);
        return NULL;
    }
    return g_ptr_array_steal_index(operations, 0);
}

static gboolean
unfinished_work(CkptDatabase *db, gpointer data, GError **error)
{
    Read *read = data;
    sqlite3_stmt *statement = ckpt_database_query(
        db, error, CKPT_OPERATION_SELECT CKPT_OPERATION_OPEN " ORDER BY state DESC, number", "");

    return ckpt_operation_rows(db, statement, read->operations, error);
}
G_STATIC_ASSERT(CKPT_OP_QUEUED == 1 && CKPT_OP_RUNNING == 2 && CKPT_OP_CANCELLED == 5);

GPtrArray *
ckpt_store_unfinished_operations(CkptStore *store, GError **error)
{
    g_autoptr(GPtrArray) operations = operations_new();
    Read read = {.operations = operations};

    if (!ckpt_store_read(store, unfinished_work, &read, error))
        return NULL;
    return g_steal_pointer(&operations);
}

/* `+` keeps SQLite from using the index of a filter that is not given. */
#define LIST_WHERE                                                                                 \
    " WHERE number > ?1 AND (?2 IS NULL OR identity = ?2) AND (?3 IS NULL OR +vm_id = ?3)"         \
    " AND (?4 IS NULL OR +checkpoint_id = ?4) AND (?5 = 0 OR ?5 & (1 << state))"                   \
    " ORDER BY number LIMIT ?6"
#define LIST_WHERE_VM                                                                              \
    " WHERE vm_id = ?3 AND number > ?1 AND (?2 IS NULL OR identity = ?2)"                          \
    " AND (?4 IS NULL OR +checkpoint_id = ?4) AND (?5 = 0 OR ?5 & (1 << state))"                   \
    " ORDER BY number LIMIT ?6"
#define LIST_WHERE_CHECKPOINT                                                                      \
    " WHERE checkpoint_id = ?4 AND number > ?1 AND (?2 IS NULL OR identity = ?2)"                  \
    " AND (?3 IS NULL OR +vm_id = ?3) AND (?5 = 0 OR ?5 & (1 << state))"                           \
    " ORDER BY number LIMIT ?6"

static const char *
list_sql(const CkptOperationQuery *query)
{
    if (query->checkpoint_id)
        return query->without_plans ? CKPT_OPERATION_SELECT_WITHOUT_PLANS LIST_WHERE_CHECKPOINT
                                    : CKPT_OPERATION_SELECT LIST_WHERE_CHECKPOINT;
    if (query->vm_id)
        return query->without_plans ? CKPT_OPERATION_SELECT_WITHOUT_PLANS LIST_WHERE_VM
                                    : CKPT_OPERATION_SELECT LIST_WHERE_VM;
    return query->without_plans ? CKPT_OPERATION_SELECT_WITHOUT_PLANS LIST_WHERE
                                : CKPT_OPERATION_SELECT LIST_WHERE;
}

static gboolean
list_work(CkptDatabase *db, gpointer data, GError **error)
{
    Read *read = data;
    const CkptOperationQuery *query = read->query;
    sqlite3_stmt *statement = ckpt_database_query(
        db, error, list_sql(query), "itttii", query->after_number, query->identity, query->vm_id,
        query->checkpoint_id, (gint64)query->states,
        query->limit ? (gint64)query->limit : (gint64)-1);

    return ckpt_operation_rows(db, statement, read->operations, error);
}

GPtrArray *
ckpt_store_list_operations(CkptStore *store, const CkptOperationQuery *query, GError **error)
{
    g_autoptr(GPtrArray) operations = operations_new();
    Read read = {.query = query, .operations = operations};

    if (!ckpt_store_read(store, list_work, &read, error))
        return NULL;
    return g_steal_pointer(&operations);
}

/* ---- Writes: JSON is made by the caller's thread, before the store thread is asked ---- */

typedef struct {
    const CkptOperation *operation;
    const CkptChange *change;
    GArray *revisions;
    char *request, *plan, *metadata, *checkpoint, *safety, *warnings;
    gint64 number; /* of the row that was inserted */
    gint64 before_us;
    const char *message;
} Write;

static void
write_clear(Write *write)
{
    g_free(write->request);
    g_free(write->plan);
    g_free(write->metadata);
    g_free(write->checkpoint);
    g_free(write->safety);
    g_free(write->warnings);
    g_clear_pointer(&write->revisions, g_array_unref);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Write, write_clear)

static void
prepare_result(Write *write, const CkptOperation *operation)
{
    write->metadata = operation->metadata ? ckpt_map_to_json(operation->metadata) : NULL;
    if (operation->repair) /* the result, as a checkpoint is of the other kinds */
        write->checkpoint = ckpt_repair_result_to_json(operation->repair);
    else if (operation->checkpoint)
        write->checkpoint = ckpt_checkpoint_to_json(operation->checkpoint);
    write->safety = operation->safety ? ckpt_checkpoint_to_json(operation->safety) : NULL;
    write->warnings = ckpt_strings_to_json(operation->warnings);
}

static const char *
or_empty(const char *text)
{
    return text ? text : "";
}

/* FALSE with an error if one of that name is there that must stay. */
static gboolean
make_room(CkptDatabase *db, const CkptOperation *operation, GError **error)
{
    gboolean failed = FALSE;
    gint64 state = 0, number = 0;
    sqlite3_stmt *statement = ckpt_database_query(
        db, error, "SELECT state, number FROM operations WHERE identity = ?1 AND request_id = ?2",
        "tt", operation->identity, operation->request_id);

    if (!statement)
        return FALSE;
    while (ckpt_database_next(db, statement, &failed, error)) {
        state = sqlite3_column_int64(statement, 0);
        number = sqlite3_column_int64(statement, 1);
    }
    if (failed || state == 0)
        return !failed;
    if (state == CKPT_OP_FAILED)
        return ckpt_database_run(db, error, "DELETE FROM operations WHERE number = ?1", "i",
                                 number);
    if (state == CKPT_OP_CANCELLED)
        ckpt_error_set(error, CKPT_REASON_OPERATION_CANCELLED, "request %s was cancelled",
                       operation->request_id);
    else
        ckpt_error_set(error, CKPT_REASON_REQUEST_ID_REUSED,
                       "request %s names operation %" G_GINT64_FORMAT " already",
                       operation->request_id, number);
    ckpt_error_add(error, CKPT_META_REQUEST, operation->request_id);
    return FALSE;
}

static gboolean
add_work(CkptDatabase *db, gpointer data, GError **error)
{
    Write *write = data;
    const CkptOperation *operation = write->operation;

    if (!make_room(db, operation, error) ||
        !ckpt_database_run(
            db, error,
            "INSERT INTO operations (identity, request_id, digest, kind, state, vm_id,"
            " checkpoint_id, created_us, started_us, ended_us, request, plan, step_begun,"
            " step_ended, undoing, reason, message, metadata, checkpoint, safety, warnings)"
            " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17,"
            " ?18, ?19, ?20, ?21)",
            "tttiittiiittiiiittttt", operation->identity, operation->request_id,
            or_empty(operation->digest), (gint64)operation->kind, (gint64)operation->state,
            or_empty(operation->vm_id), or_empty(operation->checkpoint_id), operation->created_us,
            operation->started_us, operation->ended_us, write->request, write->plan,
            (gint64)operation->step_begun, (gint64)operation->step_ended,
            (gint64)operation->undoing, (gint64)operation->reason, or_empty(operation->message),
            write->metadata, write->checkpoint, write->safety, write->warnings))
        return FALSE;
    write->number = sqlite3_last_insert_rowid(db->handle);
    return ckpt_operation_sum(db, write->number, error);
}

gboolean
ckpt_store_add_operation(CkptStore *store, CkptOperation *operation, GError **error)
{
    g_auto(Write) write = {.operation = operation};

    prepare_result(&write, operation);
    write.request = operation->request ? ckpt_request_to_json(operation->request) : NULL;
    write.plan = operation->plan ? ckpt_plan_to_json(operation->plan) : NULL;
    if (!ckpt_store_write(store, add_work, &write, error))
        return FALSE;
    operation->number = write.number;
    return TRUE;
}

/* An operation ends once: what was written for one that is not open is a defect, and refused. */
static gboolean
must_be_open(CkptDatabase *db, const CkptOperation *operation, GError **error)
{
    if (sqlite3_changes(db->handle) == 1)
        return TRUE;
    ckpt_error_set(error, CKPT_REASON_INTERNAL,
                   "operation %" G_GINT64_FORMAT " is not open in the journal", operation->number);
    return FALSE;
}

static gboolean
plan_work(CkptDatabase *db, gpointer data, GError **error)
{
    Write *write = data;
    const CkptOperation *operation = write->operation;

    return ckpt_database_run(db, error, "DELETE FROM step_results WHERE operation = ?1", "i",
                             operation->number) &&
           ckpt_database_run(db, error, "DELETE FROM snapshot_results WHERE operation = ?1", "i",
                             operation->number) &&
           ckpt_database_run(db, error,
                             "UPDATE operations SET state = 2, started_us = ?2, vm_id = ?3,"
                             " checkpoint_id = ?4, request = ?5, plan = ?6, step_begun = ?7,"
                             " step_ended = ?8, undoing = ?9 WHERE number = ?1 AND state <= 2",
                             "iittttiii", operation->number, operation->started_us,
                             or_empty(operation->vm_id), or_empty(operation->checkpoint_id),
                             write->request, write->plan, (gint64)operation->step_begun,
                             (gint64)operation->step_ended, (gint64)operation->undoing) &&
           must_be_open(db, operation, error) && ckpt_operation_sum(db, operation->number, error);
}

gboolean
ckpt_store_set_plan(CkptStore *store, CkptOperation *operation, GError **error)
{
    g_auto(Write) write = {.operation = operation};

    write.request = operation->request ? ckpt_request_to_json(operation->request) : NULL;
    write.plan = operation->plan ? ckpt_plan_to_json(operation->plan) : NULL;
    if (!ckpt_store_write(store, plan_work, &write, error))
        return FALSE;
    operation->state = CKPT_OP_RUNNING;
    return TRUE;
}

static gboolean
write_step_result(CkptDatabase *db, const CkptOperation *operation, gint index, GError **error)
{
    const CkptStep *step = operation->plan->steps->pdata[index];

    if (step->reached &&
        !ckpt_database_run(db, error,
                           "INSERT OR REPLACE INTO snapshot_results"
                           " (operation, step, reached, freeze_us, pause_us, note)"
                           " VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                           "iiiiit", operation->number, (gint64)index, (gint64)step->reached,
                           step->freeze_us, step->pause_us, step->note))
        return FALSE;
    if (!ckpt_file_id_is_set(&step->id))
        return TRUE;
    return ckpt_database_run(db, error,
                             "INSERT OR REPLACE INTO step_results"
                             " (operation, step, device, inode, size, mtime_ns)"
                             " VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                             "iiiiii", operation->number, (gint64)index, (gint64)step->id.device,
                             (gint64)step->id.inode, (gint64)step->id.size, step->id.mtime_ns);
}

/* Those of the steps that ended since the last time: rarely more than one. */
static gboolean
write_step_results(CkptDatabase *db, const CkptOperation *operation, GError **error)
{
    gboolean failed = FALSE;
    gint last = -1;
    sqlite3_stmt *statement;

    if (!operation->plan)
        return TRUE;
    statement = ckpt_database_query(
        db, error, "SELECT step_ended FROM operations WHERE number = ?1", "i", operation->number);
    if (!statement)
        return FALSE;
    while (ckpt_database_next(db, statement, &failed, error))
        last = sqlite3_column_int(statement, 0);
    if (failed)
        return FALSE;
    for (gint i = MAX(last, -1) + 1;
         i <= operation->step_ended && i < (gint)operation->plan->steps->len; i++)
        if (!write_step_result(db, operation, i, error))
            return FALSE;
    return TRUE;
}

static gboolean
journal_work(CkptDatabase *db, gpointer data, GError **error)
{
    Write *write = data;
    const CkptOperation *operation = write->operation;

    return write_step_results(db, operation, error) &&
           ckpt_database_run(db, error,
                             "UPDATE operations SET step_begun = ?2, step_ended = ?3, undoing = ?4,"
                             " reason = ?5, message = ?6, metadata = ?7 WHERE number = ?1 AND state <= 2",
                             "iiiiitt", operation->number, (gint64)operation->step_begun,
                             (gint64)operation->step_ended, (gint64)operation->undoing,
                             (gint64)operation->reason, or_empty(operation->message), write->metadata) &&
           must_be_open(db, operation, error) && ckpt_operation_sum(db, operation->number, error) &&
           ckpt_change_apply(db, write->change, operation->vm_id, write->revisions, error);
}

gboolean
ckpt_store_journal(CkptStore *store, const CkptOperation *operation, CkptChange *change,
                   GError **error)
{
    g_auto(Write) write = {.operation = operation, .change = change};

    write.metadata = operation->metadata ? ckpt_map_to_json(operation->metadata) : NULL;
    write.revisions = g_array_new(FALSE, FALSE, sizeof(guint64));
    if (!ckpt_store_write(store, journal_work, &write, error))
        return FALSE;
    ckpt_change_set_revisions(change, write.revisions);
    return TRUE;
}

static gboolean
end_work(CkptDatabase *db, gpointer data, GError **error)
{
    Write *write = data;
    const CkptOperation *operation = write->operation;

    return write_step_results(db, operation, error) &&
           ckpt_database_run(
               db, error,
               "UPDATE operations SET state = ?2, started_us = ?3, ended_us = ?4, vm_id = ?5,"
               " checkpoint_id = ?6, step_begun = ?7, step_ended = ?8, undoing = ?9, reason = ?10,"
               " message = ?11, metadata = ?12, checkpoint = ?13, safety = ?14, warnings = ?15"
               " WHERE number = ?1 AND state <= 2",
               "iiiittiiiittttt", operation->number, (gint64)operation->state,
               operation->started_us, operation->ended_us, or_empty(operation->vm_id),
               or_empty(operation->checkpoint_id), (gint64)operation->step_begun,
               (gint64)operation->step_ended, (gint64)operation->undoing, (gint64)operation->reason,
               or_empty(operation->message), write->metadata, write->checkpoint, write->safety,
               write->warnings) &&
           must_be_open(db, operation, error) && ckpt_operation_sum(db, operation->number, error) &&
           ckpt_change_apply(db, write->change, operation->vm_id, write->revisions, error);
}

gboolean
ckpt_store_end_operation(CkptStore *store, const CkptOperation *operation, CkptChange *change,
                         GError **error)
{
    g_auto(Write) write = {.operation = operation, .change = change};

    prepare_result(&write, operation);
    write.revisions = g_array_new(FALSE, FALSE, sizeof(guint64));
    if (!ckpt_store_write(store, end_work, &write, error))
        return FALSE;
    ckpt_change_set_revisions(change, write.revisions);
    return TRUE;
}

static gboolean
give_up_work(CkptDatabase *db, gpointer data, GError **error)
{
    Write *write = data;

    return ckpt_database_run(db, error, "DELETE FROM step_results WHERE operation = ?1", "i", write->number) &&
           ckpt_database_run(db, error, "DELETE FROM snapshot_results WHERE operation = ?1", "i",
                             write->number) &&
           ckpt_database_run(db, error,
                             "UPDATE operations SET state = 4, ended_us = ?2, reason = ?3, message = ?4,"
                             " kind = CASE WHEN kind IN (1, 2, 3, 4, 6) THEN kind ELSE 6 END,"
                             " request = NULL, plan = NULL, step_begun = -1, step_ended = -1, undoing = 0,"
                             " metadata = NULL, checkpoint = NULL, safety = NULL, warnings = '[]'"
                             " WHERE number = ?1",
                             "iiit", write->number, write->before_us, (gint64)CKPT_REASON_RECOVERY_FAILED,
                             write->message) &&
           ckpt_operation_sum(db, write->number, error);
}
G_STATIC_ASSERT(CKPT_OP_FAILED == 4 && CKPT_KIND_DELETE == 4 && CKPT_KIND_REPAIR == 6);

gboolean
ckpt_store_give_up_operation(CkptStore *store, gint64 number, const char *message, GError **error)
{
    Write write = {.number = number, .message = message, .before_us = g_get_real_time()};

    return ckpt_store_write(store, give_up_work, &write, error);
}

static gboolean
forget_work(CkptDatabase *db, gpointer data, GError **error)
{
    Write *write = data;

    /* But for the plan by which a delete that has begun can be finished. */
    return ckpt_database_run(db, error,
                             "DELETE FROM operations WHERE state IN (3, 4, 5)"
                             " AND ended_us > 0 AND ended_us < ?1"
                             " AND NOT EXISTS (SELECT 1 FROM checkpoints"
                             " WHERE checkpoints.id = operations.checkpoint_id"
                             " AND checkpoints.state = 2)",
                             "i", write->before_us);
}

gboolean
ckpt_store_forget_operations(CkptStore *store, gint64 before_us, GError **error)
{
    Write write = {.before_us = before_us};

    return ckpt_store_write(store, forget_work, &write, error);
}
