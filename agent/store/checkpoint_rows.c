#include "agent/store/checkpoint_rows.h"

#include "agent/model/json.h"

static void
row_free(gpointer data)
{
    CkptCheckpointRow *row = data;

    g_free(row->body);
    g_free(row->sum);
    g_free(row);
}

GPtrArray *
ckpt_checkpoint_rows_new(void)
{
    return g_ptr_array_new_with_free_func(row_free);
}

gboolean
ckpt_checkpoint_rows_collect(CkptDatabase *db, sqlite3_stmt *statement, GPtrArray *rows, GError **error)
{
    gboolean failed = FALSE;

    if (!statement)
        return FALSE;
    while (ckpt_database_next(db, statement, &failed, error)) {
        CkptCheckpointRow *row = g_new0(CkptCheckpointRow, 1);

        row->revision = (guint64)sqlite3_column_int64(statement, 0);
        row->body = ckpt_column_text(statement, 1);
        row->sum = ckpt_column_text(statement, 2);
        g_ptr_array_add(rows, row);
    }
    return !failed;
}

char *
ckpt_checkpoint_row_sum(const char *body)
{
    char *sum = g_compute_checksum_for_string(G_CHECKSUM_SHA256, body, -1);

    sum[16] = '\0';
    return sum;
}

/* Older agents wrote no sum. */
static gboolean
is_as_written(const char *body, const char *sum)
{
    g_autofree char *present = ckpt_checkpoint_row_sum(body);

    return !sum || g_str_equal(present, sum);
}

CkptCheckpoint *
ckpt_checkpoint_row_parse(const CkptCheckpointRow *row, GError **error)
{
    const gboolean written = is_as_written(row->body, row->sum);
    CkptCheckpoint *checkpoint = written ? ckpt_checkpoint_from_json(row->body, error) : NULL;

    if (checkpoint)
        checkpoint->revision = row->revision;
    else if (written)
        g_prefix_error(error, "a checkpoint of the catalogue: ");
    else
        ckpt_error_set(error, CKPT_REASON_STORE_FAILED,
                       "a checkpoint of the catalogue is not what was written: restart the agent");
    return checkpoint;
}

GPtrArray *
ckpt_checkpoint_rows_parse(GPtrArray *rows, GError **error)
{
    g_autoptr(GPtrArray) checkpoints =
        g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_checkpoint_free);

    for (guint i = 0; i < rows->len; i++) {
        CkptCheckpoint *checkpoint = ckpt_checkpoint_row_parse(rows->pdata[i], error);

        if (!checkpoint)
            return NULL;
        g_ptr_array_add(checkpoints, checkpoint);
    }
    return g_steal_pointer(&checkpoints);
}

gboolean
ckpt_checkpoint_row_enabled(const CkptCheckpoint *checkpoint)
{
    return !checkpoint->disabled_reason || !*checkpoint->disabled_reason;
}

/* ---- Whether they are what was written ---- */

static const char *
or_empty(const char *text)
{
    return text ? text : "";
}

static gboolean
is_same(sqlite3_stmt *statement, int column, const char *text)
{
    return g_str_equal(or_empty((const char *)sqlite3_column_text(statement, column)), or_empty(text));
}

/* What is asked for must be what is answered. */
static gboolean
fits(sqlite3_stmt *statement, const CkptCheckpoint *row)
{
    return is_same(statement, 1, row->id) && is_same(statement, 2, row->vm_id) &&
           is_same(statement, 3, row->vm_name) && is_same(statement, 4, row->parent_id) &&
           is_same(statement, 5, row->name) && is_same(statement, 6, row->run_id) &&
           sqlite3_column_int64(statement, 7) == row->added_us &&
           sqlite3_column_int64(statement, 8) == (gint64)row->state &&
           sqlite3_column_int64(statement, 9) == (gint64)ckpt_checkpoint_row_enabled(row) &&
           sqlite3_column_int64(statement, 10) == (gint64)row->accessibility;
}

static gboolean
is_hurt(sqlite3_stmt *statement, GError **error)
{
    const char *body = or_empty((const char *)sqlite3_column_text(statement, 0));
    const char *sum = (const char *)sqlite3_column_text(statement, 11);
    g_autoptr(CkptCheckpoint) row = NULL;

    if (!is_as_written(body, sum))
        return TRUE;
    row = ckpt_checkpoint_from_json(body, NULL);
    if (row || !sum)
        return !row || !fits(statement, row);
    ckpt_error_set(error, CKPT_REASON_STORE_FAILED,
                   "the catalogue has a checkpoint that this agent does not understand (%s): a newer agent wrote "
                   "it; install that agent again",
                   (const char *)sqlite3_column_text(statement, 1));
    return FALSE;
}

gboolean
ckpt_checkpoint_rows_check(CkptDatabase *db, char **damage, GError **error)
{
    g_autoptr(GError) why = NULL;
    gboolean failed = FALSE, hurt = FALSE, newer;
    sqlite3_stmt *statement =
        ckpt_database_query(db, error,
                            "SELECT body, id, vm_id, vm_name, parent_id, name, run_id, added_us, state,"
                            " enabled, accessibility, sum FROM checkpoints",
                            "");

    *damage = NULL;
    if (!statement)
        return FALSE;
    while (ckpt_database_next(db, statement, &failed, error))
        hurt = is_hurt(statement, why ? NULL : &why) || hurt;
    if (failed)
        return FALSE;
    if (hurt)
        *damage = g_strdup("a checkpoint's row is not what was written");
    newer = why != NULL;
    if (newer && !hurt)
        g_propagate_error(error, g_steal_pointer(&why));
    return hurt || !newer;
}
