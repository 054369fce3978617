#include "agent/store/operation_rows.h"

#include "agent/model/json.h"

#include <string.h>

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
    PLAN,
    SUM
};

/* ---- Whether a row is what was written ---- */

/* The beginning of a SHA-256 over all columns but the sum. (transfer full) */
static char *
make_sum(sqlite3_stmt *row)
{
    g_autoptr(GChecksum) sum = g_checksum_new(G_CHECKSUM_SHA256);
    char *text;

    for (int i = NUMBER; i <= PLAN; i++) {
        const guchar *value = sqlite3_column_text(row, i);

        g_checksum_update(sum, (const guchar *)(value ? "+" : "-"), 1);
        if (value) /* with the zero behind it */
            g_checksum_update(sum, value, (gssize)strlen((const char *)value) + 1);
    }
    text = g_strdup(g_checksum_get_string(sum));
    text[16] = '\0';
    return text;
}

gboolean
ckpt_operation_sum(CkptDatabase *db, gint64 number, GError **error)
{
    gboolean failed = FALSE;
    g_autofree char *sum = NULL;
    sqlite3_stmt *row =
        ckpt_database_query(db, error, CKPT_OPERATION_SELECT " WHERE number = ?1", "i", number);

    while (row && ckpt_database_next(db, row, &failed, error)) {
        g_free(sum);
        sum = make_sum(row);
    }
    return row && !failed &&
           ckpt_database_run(db, error, "UPDATE operations SET sum = ?2 WHERE number = ?1", "it", number,
                             sum);
}

static gboolean
is_open(const CkptOperation *operation)
{
    return operation->state == CKPT_OP_QUEUED || operation->state == CKPT_OP_RUNNING;
}

static gboolean
is_kind(CkptKind kind)
{
    return kind == CKPT_KIND_CREATE || kind == CKPT_KIND_UPDATE || kind == CKPT_KIND_RESTORE ||
           kind == CKPT_KIND_DELETE || kind == CKPT_KIND_REPAIR;
}

/* What its parts say of each other: older agents wrote no sum. NULL = they agree. */
static const char *
find_contradiction(const CkptOperation *operation)
{
    const gint steps = operation->plan ? (gint)operation->plan->steps->len : G_MAXINT;

    if (operation->state < CKPT_OP_QUEUED || operation->state > CKPT_OP_CANCELLED)
        return "there is no such state";
    if (!is_kind(operation->kind) && *operation->digest) /* a reserved id is of no kind */
        return "there is no such kind";
    if (is_open(operation) == (operation->ended_us != 0))
        return is_open(operation) ? "it has not ended, and has a time at which it did"
                                  : "it has ended, and at no time";
    if (is_open(operation) && !operation->request)
        return "it has no request";
    if (operation->step_begun < -1 || operation->step_begun >= steps || operation->step_ended < -1 ||
        operation->step_ended >= steps)
        return "it is at a step that its plan does not have";
    return NULL;
}

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

static void
note_damage(CkptOperation *operation, sqlite3_stmt *row, const GError *unread)
{
    g_autofree char *sum = json(row, SUM) ? make_sum(row) : NULL;
    const char *what = unread ? unread->message : find_contradiction(operation);

    if (!what && g_strcmp0(sum, json(row, SUM)) != 0)
        what = "it is not what was written";
    if (what)
        operation->damage = g_strdup_printf("operation %" G_GINT64_FORMAT " of the journal cannot be read: %s",
                                            operation->number, what);
}

static CkptOperation *
read_row(sqlite3_stmt *row)
{
    g_autoptr(CkptOperation) operation = ckpt_operation_new();
    g_autoptr(GError) unread = NULL;

    read_plain(row, operation);
    if ((!read_asked(row, operation, &unread) || !read_result(row, operation, &unread)) && !operation->warnings)
        operation->warnings = g_ptr_array_new_with_free_func(g_free);
    note_damage(operation, row, unread);
    if (operation->damage) /* other files may stand in it than those that were written */
        g_clear_pointer(&operation->plan, ckpt_plan_free);
    return g_steal_pointer(&operation);
}

/* Its column says so, and its request or its plan, too; or it is a repair of no VM alone. */
static gboolean
is_vm_told(sqlite3_stmt *row, const CkptOperation *operation)
{
    g_autofree char *quoted = g_strdup_printf("\"%s\"", operation->vm_id);

    if (*operation->vm_id == '\0')
        return operation->kind == CKPT_KIND_REPAIR;
    return (json(row, REQUEST) && strstr(json(row, REQUEST), quoted)) ||
           (json(row, PLAN) && strstr(json(row, PLAN), quoted));
}

gboolean
ckpt_operation_rows_check(CkptDatabase *db, char **damage, GError **error)
{
    gboolean failed = FALSE;
    sqlite3_stmt *row = ckpt_database_query(db, error, CKPT_OPERATION_SELECT CKPT_OPERATION_OPEN, "");

    while (row && ckpt_database_next(db, row, &failed, error)) {
        g_autoptr(CkptOperation) operation = read_row(row);

        if (!operation->damage || is_vm_told(row, operation) || *damage)
            continue;
        *damage = g_strconcat(operation->damage, ", nor which VM it is of", NULL);
    }
    return row && !failed;
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
    gboolean failed = FALSE;

    if (!statement)
        return FALSE;
    while (ckpt_database_next(db, statement, &failed, error))
        g_ptr_array_add(operations, read_row(statement));
    if (failed)
        return FALSE;
    for (guint i = 0; i < operations->len; i++)
        if (!read_step_results(db, operations->pdata[i], error) ||
            !read_snapshot_results(db, operations->pdata[i], error))
            return FALSE;
    return TRUE;
}
