#include "agent/store/checkpoint_rows.h"

#include "agent/model/json.h"

typedef struct {
    const char *id; /* of a checkpoint, or of a VM */
    GPtrArray *rows;
} ReadById;

static gboolean
get_work(CkptDatabase *db, gpointer data, GError **error)
{
    ReadById *read = data;

    return ckpt_checkpoint_rows_collect(
        db,
        ckpt_database_query(db, error, CKPT_CHECKPOINT_SELECT " WHERE id = ?1", "t", read->id),
        read->rows, error);
}

/* NULL without an error: there is none. On the store's thread. */
static gboolean
find_row(CkptDatabase *db, const char *id, CkptCheckpoint **row, GError **error)
{
    g_autoptr(GPtrArray) rows = ckpt_checkpoint_rows_new();
    ReadById read = {id, rows};

    if (!get_work(db, &read, error))
        return FALSE;
    if (rows->len > 0)
        *row = ckpt_checkpoint_row_parse(rows->pdata[0], error);
    return rows->len == 0 || *row;
}

/* ---- Changes ---- */

static gboolean
upsert_labels(CkptDatabase *db, const CkptCheckpoint *checkpoint, GError **error)
{
    GHashTableIter iter;
    gpointer name, value;

    if (!ckpt_database_run(db, error, "DELETE FROM labels WHERE checkpoint_id = ?1", "t",
                           checkpoint->id))
        return FALSE;
    g_hash_table_iter_init(&iter, checkpoint->labels);
    while (g_hash_table_iter_next(&iter, &name, &value))
        if (!ckpt_database_run(
                db, error, "INSERT INTO labels (checkpoint_id, name, value) VALUES (?1, ?2, ?3)",
                "ttt", checkpoint->id, name, value))
            return FALSE;
    return TRUE;
}

static const char *
or_empty(const char *text)
{
    return text ? text : "";
}

/* What an update changes belongs to the checkpoint's owner and waits for no operation, so that the rows of
 * a plan may be older: of these members the catalogue's are kept. */
static void
keep_owners(CkptCheckpoint *row, const CkptCheckpoint *stored)
{
    ckpt_set_str(&row->name, stored->name);
    ckpt_set_str(&row->description, stored->description);
    ckpt_set_str(&row->reason, stored->reason);
    ckpt_set_str(&row->ticket, stored->ticket);
    ckpt_set_str(&row->hold, stored->hold);
    g_hash_table_unref(row->labels);
    row->labels = g_hash_table_ref(stored->labels);
    row->expire_us = stored->expire_us;
    if (stored->modified_us <= row->modified_us)
        return;
    row->modified_us = stored->modified_us;
    ckpt_set_str(&row->most_recent_task, stored->most_recent_task);
}

static gboolean
changed_since(const CkptCheckpoint *checkpoint, const CkptCheckpoint *stored, GError **error)
{
    if (stored)
        ckpt_error_set(error, CKPT_REASON_ETAG_MISMATCH,
                       "it was changed in the meantime (its etag is %" G_GUINT64_FORMAT
                       ", it was %" G_GUINT64_FORMAT "): nothing was done",
                       stored->revision, checkpoint->revision);
    else
        ckpt_error_set(error, CKPT_REASON_CHECKPOINT_NOT_FOUND, "it was deleted in the meantime");
    ckpt_error_add(error, CKPT_META_CHECKPOINT, checkpoint->id);
    return FALSE;
}

/* *merged: the row to write if it is not the checkpoint as it is given. */
static gboolean
merge(CkptDatabase *db, const CkptCheckpoint *checkpoint, gboolean if_unchanged,
      CkptCheckpoint **merged, GError **error)
{
    g_autoptr(CkptCheckpoint) stored = NULL;

    if (!find_row(db, checkpoint->id, &stored, error))
        return FALSE;
    if (stored && stored->revision == checkpoint->revision)
        return TRUE;
    if (if_unchanged)
        return changed_since(checkpoint, stored, error);
    if (!stored)
        return TRUE;
    *merged = ckpt_checkpoint_copy(checkpoint);
    keep_owners(*merged, stored);
    return TRUE;
}

/* The revision column counts; the body's is the one before. It never goes back, also when the
 * caller changed an old copy. */
static gboolean
write_row(CkptDatabase *db, const CkptCheckpoint *checkpoint, guint64 *revision, GError **error)
{
    g_autofree char *body = ckpt_checkpoint_to_json(checkpoint);
    g_autofree char *sum = ckpt_checkpoint_row_sum(body);
    gboolean failed = FALSE;
    sqlite3_stmt *statement = ckpt_database_query(
        db, error,
        "INSERT INTO checkpoints (id, vm_id, vm_name, parent_id, name, accessibility, added_us,"
        " run_id, state, enabled, revision, body, sum)"
        " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11 + 1, ?12, ?13)"
        " ON CONFLICT (id) DO UPDATE SET vm_id = ?2, vm_name = ?3, parent_id = ?4, name = ?5,"
        " accessibility = ?6, added_us = ?7, run_id = ?8, state = ?9, enabled = ?10,"
        " revision = max(revision, ?11) + 1, body = ?12, sum = ?13 RETURNING revision",
        "tttttiitiiitt", checkpoint->id, checkpoint->vm_id, or_empty(checkpoint->vm_name),
        checkpoint->parent_id, or_empty(checkpoint->name), (gint64)checkpoint->accessibility,
        checkpoint->added_us, or_empty(checkpoint->run_id), (gint64)checkpoint->state,
        (gint64)ckpt_checkpoint_row_enabled(checkpoint), (gint64)checkpoint->revision, body, sum);

    if (!statement)
        return FALSE;
    while (ckpt_database_next(db, statement, &failed, error))
        *revision = (guint64)sqlite3_column_int64(statement, 0);
    return !failed && upsert_labels(db, checkpoint, error);
}

static gboolean
upsert(CkptDatabase *db, const CkptCheckpoint *checkpoint, gboolean if_unchanged, guint64 *revision,
       GError **error)
{
    g_autoptr(CkptCheckpoint) merged = NULL;

    return merge(db, checkpoint, if_unchanged, &merged, error) &&
           write_row(db, merged ? merged : checkpoint, revision, error);
}

static gboolean
apply_upserts(CkptDatabase *db, const CkptChange *change, GArray *revisions, GError **error)
{
    for (guint i = 0; i < change->upserts->len; i++) {
        const CkptCheckpoint *checkpoint = change->upserts->pdata[i];
        guint64 revision = 0;

        if (!upsert(db, checkpoint, change->if_unchanged, &revision, error)) {
            g_prefix_error(error, "checkpoint %s: ", checkpoint->id);
            return FALSE;
        }
        g_array_append_val(revisions, revision);
    }
    return TRUE;
}

static gboolean
apply_files(CkptDatabase *db, const CkptChange *change, const char *vm_id, GError **error)
{
    for (guint i = 0; i < change->made->len; i++)
        if (!ckpt_database_run(db, error,
                               "INSERT INTO files (path, vm_id) VALUES (?1, ?2)"
                               " ON CONFLICT (path) DO UPDATE SET vm_id = ?2, doomed = 0",
                               "tt", change->made->pdata[i], vm_id))
            return FALSE;
    for (guint i = 0; i < change->gone->len; i++)
        if (!ckpt_database_run(db, error,
                               "UPDATE files SET doomed = 1 WHERE path = ?1 AND vm_id = ?2", "tt",
                               change->gone->pdata[i], vm_id))
            return FALSE;
    for (guint i = 0; i < change->unlinked->len; i++)
        if (!ckpt_database_run(db, error, "DELETE FROM files WHERE path = ?1 AND vm_id = ?2", "tt",
                               change->unlinked->pdata[i], vm_id))
            return FALSE;
    return TRUE;
}

gboolean
ckpt_change_apply(CkptDatabase *db, const CkptChange *change, const char *vm_id, GArray *revisions,
                  GError **error)
{
    if (!change)
        return TRUE;
    ckpt_folders_note(db, change);
    if (!apply_upserts(db, change, revisions, error) || !apply_files(db, change, vm_id, error))
        return FALSE;
    for (guint i = 0; i < change->removes->len; i++)
        if (!ckpt_database_run(db, error, "DELETE FROM checkpoints WHERE id = ?1", "t",
                               change->removes->pdata[i]))
            return FALSE;
    return !change->set_current ||
           ckpt_database_run(db, error,
                             "INSERT INTO vms (vm_id, current_id) VALUES (?1, ?2)"
                             " ON CONFLICT (vm_id) DO UPDATE SET current_id = ?2",
                             "tt", vm_id, change->current_id);
}

void
ckpt_change_set_revisions(CkptChange *change, GArray *revisions)
{
    for (guint i = 0; change && i < change->upserts->len; i++)
        ((CkptCheckpoint *)change->upserts->pdata[i])->revision =
            g_array_index(revisions, guint64, i);
}

typedef struct {
    const CkptChange *change;
    const char *vm_id;
    GArray *revisions;
} Apply;

static gboolean
apply_work(CkptDatabase *db, gpointer data, GError **error)
{
    Apply *apply = data;

    return ckpt_change_apply(db, apply->change, apply->vm_id, apply->revisions, error);
}

gboolean
ckpt_store_apply(CkptStore *store, CkptChange *change, const char *vm_id, GError **error)
{
    g_autoptr(GArray) revisions = g_array_new(FALSE, FALSE, sizeof(guint64));
    Apply apply = {change, vm_id, revisions};

    if (!ckpt_store_write(store, apply_work, &apply, error))
        return FALSE;
    ckpt_change_set_revisions(change, revisions);
    return TRUE;
}

/* ---- What verification found ---- */

typedef struct {
    GPtrArray *rows;
    GArray *revisions; /* new ones; 0 = the row was changed or removed since it was read */
} Verified;

static gboolean
note_row(CkptDatabase *db, const CkptCheckpoint *row, guint64 *revision, GError **error)
{
    g_autofree char *body = ckpt_checkpoint_to_json(row);
    g_autofree char *sum = ckpt_checkpoint_row_sum(body);
    gboolean failed = FALSE;
    sqlite3_stmt *statement = ckpt_database_query(
        db, error,
        "UPDATE checkpoints SET enabled = ?3, revision = revision + 1, body = ?4, sum = ?5"
        " WHERE id = ?1 AND revision = ?2 RETURNING revision",
        "tiitt", row->id, (gint64)row->revision, (gint64)ckpt_checkpoint_row_enabled(row), body, sum);

    if (!statement)
        return FALSE;
    while (ckpt_database_next(db, statement, &failed, error))
        *revision = (guint64)sqlite3_column_int64(statement, 0);
    return !failed;
}

static gboolean
note_work(CkptDatabase *db, gpointer data, GError **error)
{
    Verified *verified = data;

    for (guint i = 0; i < verified->rows->len; i++) {
        guint64 revision = 0;

        if (!note_row(db, g_ptr_array_index(verified->rows, i), &revision, error))
            return FALSE;
        g_array_append_val(verified->revisions, revision);
    }
    return TRUE;
}

gboolean
ckpt_store_note_verified(CkptStore *store, GPtrArray *rows, GError **error)
{
    g_autoptr(GArray) revisions = g_array_new(FALSE, FALSE, sizeof(guint64));
    Verified verified = {rows, revisions};

    if (!ckpt_store_write(store, note_work, &verified, error))
        return FALSE;
    for (guint i = 0; i < rows->len; i++)
        if (g_array_index(revisions, guint64, i))
            ((CkptCheckpoint *)g_ptr_array_index(rows, i))->revision =
                g_array_index(revisions, guint64, i);
    return TRUE;
}

/* ---- Reads ---- */

CkptCheckpoint *
ckpt_store_get_checkpoint(CkptStore *store, const char *id, GError **error)
{
    g_autoptr(GPtrArray) rows = ckpt_checkpoint_rows_new();
    ReadById read = {id, rows};

    if (!ckpt_store_read(store, get_work, &read, error))
        return NULL;
    if (rows->len > 0)
        return ckpt_checkpoint_row_parse(rows->pdata[0], error);
    ckpt_error_set(error, CKPT_REASON_CHECKPOINT_NOT_FOUND, "there is no checkpoint %s", id);
    ckpt_error_add(error, CKPT_META_CHECKPOINT, id);
    return NULL;
}

static gboolean
vm_work(CkptDatabase *db, gpointer data, GError **error)
{
    ReadById *read = data;

    return ckpt_checkpoint_rows_collect(
        db,
        ckpt_database_query(db, error,
                            CKPT_CHECKPOINT_SELECT " WHERE vm_id = ?1 ORDER BY added_us, seq", "t",
                            read->id),
        read->rows, error);
}

GPtrArray *
ckpt_store_vm_checkpoints(CkptStore *store, const char *vm_id, GError **error)
{
    g_autoptr(GPtrArray) rows = ckpt_checkpoint_rows_new();
    ReadById read = {vm_id, rows};

    if (!ckpt_store_read(store, vm_work, &read, error))
        return NULL;
    return ckpt_checkpoint_rows_parse(rows, error);
}

/* ---- Lists ---- */

typedef struct {
    const CkptCheckpointQuery *query;
    GPtrArray *rows;
} List;

/* A filter that is not given compares with nothing: the text of the statement depends only on which
 * filters there are, and how many labels, so that SQLite can choose an index. Bodies are large, so
 * only those of the page are read (the `+`: not by walking all of them in order). */
static char *
list_sql(const CkptCheckpointQuery *query)
{
    GString *sql = g_string_new(NULL);
    guint labels = query->labels ? g_hash_table_size(query->labels) : 0;

    g_string_append(sql, CKPT_CHECKPOINT_SELECT " WHERE seq IN"
                                                " (SELECT seq FROM (SELECT seq, added_us, id");
    if (query->most_recent)
        g_string_append(sql, ", row_number() OVER (PARTITION BY vm_id"
                             " ORDER BY added_us DESC, id DESC) AS place");
    g_string_append(sql, " FROM checkpoints c WHERE TRUE");
    g_string_append(sql, query->vm_id ? " AND vm_id = :vm_id" : "");
    g_string_append(sql, query->vm_name ? " AND vm_name = :vm_name" : "");
    g_string_append(sql, query->name ? " AND name = :name" : "");
    g_string_append(sql, query->run_id ? " AND run_id = :run_id" : "");
    g_string_append(sql, query->accessibility ? " AND accessibility = :accessibility" : "");
    g_string_append(sql, query->enabled >= 0 ? " AND enabled = :enabled" : "");
    g_string_append(sql, query->added_after_us ? " AND added_us >= :added_after" : "");
    g_string_append(sql, query->added_before_us ? " AND added_us < :added_before" : "");
    g_string_append_printf(sql, " AND state IN (%s%s%s)", query->only_deleting ? "2" : "1",
                           query->include_deleting ? ", 2" : "", query->include_moved ? ", 3" : "");
    for (guint i = 0; i < labels; i++)
        g_string_append_printf(sql,
                               " AND EXISTS (SELECT 1 FROM labels WHERE checkpoint_id = c.id"
                               " AND labels.name = :label%u AND value = :value%u)",
                               i, i);
    g_string_append(sql, ") WHERE TRUE");
    g_string_append(sql, query->most_recent ? " AND place = 1" : "");
    g_string_append(sql, query->after_id ? " AND (added_us, id) > (:after, :after_id)" : "");
    g_string_append(sql, " ORDER BY added_us, id LIMIT :limit)"
                         " ORDER BY +added_us, id");
    return g_string_free(sql, FALSE);
}
G_STATIC_ASSERT(CKPT_STATE_READY == 1 && CKPT_STATE_DELETING == 2 && CKPT_STATE_MOVED == 3);

static void
bind_text(sqlite3_stmt *statement, const char *name, const char *value)
{
    int index = sqlite3_bind_parameter_index(statement, name);

    if (index)
        sqlite3_bind_text(statement, index, value, -1, SQLITE_STATIC);
}

static void
bind_number(sqlite3_stmt *statement, const char *name, gint64 value)
{
    int index = sqlite3_bind_parameter_index(statement, name);

    if (index)
        sqlite3_bind_int64(statement, index, value);
}

static void
bind_labels(sqlite3_stmt *statement, GHashTable *labels)
{
    GHashTableIter iter;
    gpointer label, value;
    char name[32];

    if (!labels)
        return;
    g_hash_table_iter_init(&iter, labels);
    for (guint i = 0; g_hash_table_iter_next(&iter, &label, &value); i++) {
        g_snprintf(name, sizeof name, ":label%u", i);
        bind_text(statement, name, label);
        g_snprintf(name, sizeof name, ":value%u", i);
        bind_text(statement, name, value);
    }
}

static void
bind_list(sqlite3_stmt *statement, const CkptCheckpointQuery *query)
{
    bind_text(statement, ":vm_id", query->vm_id);
    bind_text(statement, ":vm_name", query->vm_name);
    bind_text(statement, ":name", query->name);
    bind_text(statement, ":run_id", query->run_id);
    bind_number(statement, ":accessibility", query->accessibility);
    bind_number(statement, ":enabled", query->enabled);
    bind_number(statement, ":added_after", query->added_after_us);
    bind_number(statement, ":added_before", query->added_before_us);
    bind_labels(statement, query->labels);
    bind_number(statement, ":after", query->after_added_us);
    bind_text(statement, ":after_id", query->after_id);
    bind_number(statement, ":limit", query->limit ? (gint64)query->limit : -1);
}

/* Not kept prepared: there are more combinations of filters than are worth remembering. */
static gboolean
list_work(CkptDatabase *db, gpointer data, GError **error)
{
    List *list = data;
    g_autofree char *sql = list_sql(list->query);
    sqlite3_stmt *statement = NULL;
    gboolean done;

    if (sqlite3_prepare_v2(db->handle, sql, -1, &statement, NULL) != SQLITE_OK) {
        ckpt_database_failed(db, "list checkpoints", error);
        return FALSE;
    }
    bind_list(statement, list->query);
    done = ckpt_checkpoint_rows_collect(db, statement, list->rows, error);
    sqlite3_finalize(statement);
    return done;
}

GPtrArray *
ckpt_store_list_checkpoints(CkptStore *store, const CkptCheckpointQuery *query, GError **error)
{
    g_autoptr(GPtrArray) rows = ckpt_checkpoint_rows_new();
    List list = {query, rows};

    if (!ckpt_store_read(store, list_work, &list, error))
        return NULL;
    return ckpt_checkpoint_rows_parse(rows, error);
}
