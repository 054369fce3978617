#include "agent/store/operation_rows.h"

#include "agent/model/json.h"

enum {
    NUMBER,
    IDENTITY,
    REQUEST_ID,
    DIGEST,
    KIND,
    STATE,
    VM_ID,
    CHECKPOINT_ID,
    CREATED_US,
    STARTED_US,
    ENDED_US,
    REQUEST,
    STEP_BEGUN,
    STEP_ENDED,
    UNDOING,
    REASON,
    MESSAGE,
    METADATA,
    CHECKPOINT,
    SAFETY,
    WARNINGS,
    PLAN
};

static void
take_text(sqlite3_stmt *row, int column, char **member)
{
    g_free(*member);
    *member = ckpt_column_text(row, column);
}

static void
read_plain(sqlite3_stmt *row, CkptOperation *operation)
{
    operation->number = sqlite3_column_int64(row, NUMBER);
    take_text(row, IDENTITY, &operation->identity);
    take_text(row, REQUEST_ID, &operation->request_id);
    take_text(row, DIGEST, &operation->digest);
    operation->kind = (CkptKind)sqlite3_column_int(row, KIND);
    operation->state = (CkptOpState)sqlite3_column_int(row, STATE);
    take_text(row, VM_ID, &operation->vm_id);
    take_text(row, CHECKPOINT_ID, &operation->checkpoint_id);
    operation->created_us = sqlite3_column_int64(row, CREATED_US);
    operation->started_us = sqlite3_column_int64(row, STARTED_US);
    operation->ended_us = sqlite3_column_int64(row, ENDED_US);
    operation->step_begun = sqlite3_column_int(row, STEP_BEGUN);
    operation->step_ended = sqlite3_column_int(row, STEP_ENDED);
    operation->undoing = sqlite3_column_int(row, UNDOING);
    operation->reason = (CkptReason)sqlite3_column_int(row, REASON);
    take_text(row, MESSAGE, &operation->message);
}

static const char *
json(sqlite3_stmt *row, int column)
{
    return (const char *)sqlite3_column_text(row, column);
}

/* A column that is NULL leaves the member NULL. */
static gboolean
read_result(sqlite3_stmt *row, CkptOperation *operation, GError **error)
{
    if (json(row, METADATA)) {
        operation->metadata = ckpt_map_from_json(json(row, METADATA), error);
        if (!operation->metadata)
            return FALSE;
    }
    if (json(row, CHECKPOINT) && operation->kind == CKPT_KIND_REPAIR) {
        operation->repair = ckpt_repair_result_from_json(json(row, CHECKPOINT), error);
        if (!operation->repair)
            return FALSE;
    } else if (json(row, CHECKPOINT)) {
        operation->checkpoint = ckpt_checkpoint_from_json(json(row, CHECKPOINT), error);
        if (!operation->checkpoint)
            return FALSE;
    }
    if (json(row, SAFETY)) {
        operation->safety = ckpt_checkpoint_from_json(json(row, SAFETY), error);
        if (!operation->safety)
            return FALSE;
    }
    g_clear_pointer(&operation->warnings, g_ptr_array_unref);
    operation->warnings = ckpt_strings_from_json(json(row, WARNINGS), error);
    return operation->warnings != NULL;
}

static gboolean
read_asked(sqlite3_stmt *row, CkptOperation *operation, GError **error)
{
    if (json(row, REQUEST)) {
        operation->request = ckpt_request_from_json(json(row, REQUEST), error);
        if (!operation->request)
            return FALSE;
        operation->request->identity = g_strdup(operation->identity);
    }
    if (json(row, PLAN)) {
        operation->plan = ckpt_plan_from_json(json(row, PLAN), error);
        if (!operation->plan)
            return FALSE;
    }
    return TRUE;
}

/* The statement is read to its end by the caller even when this fails, so that it is reset. */
static CkptOperation *
read_row(sqlite3_stmt *row, GError **error)
{
    g_autoptr(CkptOperation) operation = ckpt_operation_new();

    read_plain(row, operation);
    if (read_asked(row, operation, error) && read_result(row, operation, error))
        return g_steal_pointer(&operation);
    g_prefix_error(error, "operation %" G_GINT64_FORMAT " of the journal: ", operation->number);
    return NULL;
}

static gboolean
read_step_results(CkptDatabase *db, CkptOperation *operation, GError **error)
{
    gboolean failed = FALSE;
    sqlite3_stmt *row;

    if (!operation->plan)
        return TRUE;
    row = ckpt_database_query(db, error,
                              "SELECT step, device, inode, size, mtime_ns FROM step_results"
                              " WHERE operation = ?1",
                              "i", operation->number);
    if (!row)
        return FALSE;
    while (ckpt_database_next(db, row, &failed, error)) {
        gint64 step = sqlite3_column_int64(row, 0);
        CkptFileId id = {
            .device = (guint64)sqlite3_column_int64(row, 1),
            .inode = (guint64)sqlite3_column_int64(row, 2),
            .size = (guint64)sqlite3_column_int64(row, 3),
            .mtime_ns = sqlite3_column_int64(row, 4),
        };

        if (step >= 0 && step < (gint64)operation->plan->steps->len)
            ((CkptStep *)operation->plan->steps->pdata[step])->id = id;
    }
    return !failed;
}

static gboolean
read_snapshot_results(CkptDatabase *db, CkptOperation *operation, GError **error)
{
    gboolean failed = FALSE;
    sqlite3_stmt *row;

    if (!operation->plan)
        return TRUE;
    row = ckpt_database_query(db, error,
                              "SELECT step, reached, freeze_us, pause_us, note FROM snapshot_results"
                              " WHERE operation = ?1",
                              "i", operation->number);
    if (!row)
        return FALSE;
    while (ckpt_database_next(db, row, &failed, error)) {
        gint64 index = sqlite3_column_int64(row, 0);
        CkptStep *step;

        if (index < 0 || index >= (gint64)operation->plan->steps->len)
            continue;
        step = operation->plan->steps->pdata[index];
        step->reached = (CkptConsistency)sqlite3_column_int64(row, 1);
        step->freeze_us = sqlite3_column_int64(row, 2);
        step->pause_us = sqlite3_column_int64(row, 3);
        ckpt_set_str(&step->note, (const char *)sqlite3_column_text(row, 4));
    }
    return !failed;
}

gboolean
ckpt_operation_rows(CkptDatabase *db, sqlite3_stmt *statement, GPtrArray *operations,
                    GError **error)
{
    g_autoptr(GError) broken = NULL;
    gboolean failed = FALSE;

    if (!statement)
        return FALSE;
    while (ckpt_database_next(db, statement, &failed, error)) {
        CkptOperation *operation = broken ? NULL : read_row(statement, &broken);

        if (operation)
            g_ptr_array_add(operations, operation);
    }
    if (failed)
        return FALSE;
    if (broken) {
        g_propagate_error(error, g_steal_pointer(&broken));
        return FALSE;
    }
    for (guint i = 0; i < operations->len; i++)
        if (!read_step_results(db, operations->pdata[i], error) ||
            !read_snapshot_results(db, operations->pdata[i], error))
            return FALSE;
    return TRUE;
}
