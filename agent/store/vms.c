#include "agent/store/internal.h"

void
ckpt_vm_record_free(CkptVmRecord *record)
{
    if (!record)
        return;
    g_free(record->vm_id);
    g_free(record->current_id);
    g_free(record->quarantine_reason);
    g_free(record);
}

static gboolean
get_work(CkptDatabase *db, gpointer data, GError **error)
{
    CkptVmRecord *record = data;
    gboolean failed = FALSE;
    sqlite3_stmt *statement =
        ckpt_database_query(db, error,
                            "SELECT current_id, quarantine_reason,"
                            " (SELECT count(*) FROM checkpoints WHERE vm_id = ?1 AND state = 1)"
                            " FROM (SELECT 1) LEFT JOIN vms ON vms.vm_id = ?1",
                            "t", record->vm_id);

    if (!statement)
        return FALSE;
    while (ckpt_database_next(db, statement, &failed, error)) {
        record->current_id = ckpt_column_text(statement, 0);
        record->quarantine_reason = ckpt_column_text(statement, 1);
        record->checkpoints = (guint)sqlite3_column_int64(statement, 2);
    }
    return !failed;
}

CkptVmRecord *
ckpt_store_get_vm(CkptStore *store, const char *vm_id, GError **error)
{
    g_autoptr(CkptVmRecord) record = g_new0(CkptVmRecord, 1);

    record->vm_id = g_strdup(vm_id);
    if (!ckpt_store_read(store, get_work, record, error))
        return NULL;
    return g_steal_pointer(&record);
}

static gboolean
list_work(CkptDatabase *db, gpointer data, GError **error)
{
    gboolean failed = FALSE;
    sqlite3_stmt *statement = ckpt_database_query(
        db, error,
        "SELECT vm_id FROM checkpoints UNION SELECT vm_id FROM files WHERE doomed = 1 UNION"
        " SELECT vm_id FROM vms WHERE quarantine_reason IS NOT NULL ORDER BY vm_id",
        "");

    if (!statement)
        return FALSE;
    while (ckpt_database_next(db, statement, &failed, error))
        g_ptr_array_add(data, ckpt_column_text(statement, 0));
    return !failed;
}

GPtrArray *
ckpt_store_vms(CkptStore *store, GError **error)
{
    g_autoptr(GPtrArray) ids = g_ptr_array_new_with_free_func(g_free);

    return ckpt_store_read(store, list_work, ids, error) ? g_steal_pointer(&ids) : NULL;
}

typedef struct {
    const char *vm_id, *sql;
    GPtrArray *paths;
} Files;

static gboolean
files_work(CkptDatabase *db, gpointer data, GError **error)
{
    Files *files = data;
    gboolean failed = FALSE;
    sqlite3_stmt *statement = ckpt_database_query(db, error, files->sql, "t", files->vm_id);

    if (!statement)
        return FALSE;
    while (ckpt_database_next(db, statement, &failed, error))
        g_ptr_array_add(files->paths, ckpt_column_text(statement, 0));
    return !failed;
}

static GPtrArray *
list_files(CkptStore *store, const char *sql, const char *vm_id, GError **error)
{
    g_autoptr(GPtrArray) paths = g_ptr_array_new_with_free_func(g_free);
    Files files = {vm_id, sql, paths};

    if (!ckpt_store_read(store, files_work, &files, error))
        return NULL;
    return g_steal_pointer(&paths);
}

GPtrArray *
ckpt_store_vm_files(CkptStore *store, const char *vm_id, GError **error)
{
    return list_files(store, "SELECT path FROM files WHERE vm_id = ?1 ORDER BY path", vm_id, error);
}

GPtrArray *
ckpt_store_doomed_files(CkptStore *store, const char *vm_id, GError **error)
{
    return list_files(store,
                      "SELECT path FROM files WHERE vm_id = ?1 AND doomed = 1 ORDER BY path", vm_id,
                      error);
}

typedef struct {
    const char *vm_id, *reason;
} Quarantine;

static gboolean
quarantine_work(CkptDatabase *db, gpointer data, GError **error)
{
    Quarantine *quarantine = data;

    return ckpt_database_run(db, error,
                             "INSERT INTO vms (vm_id, quarantine_reason) VALUES (?1, ?2)"
                             " ON CONFLICT (vm_id) DO UPDATE SET quarantine_reason = ?2",
                             "tt", quarantine->vm_id, quarantine->reason);
}

gboolean
ckpt_store_quarantine_vm(CkptStore *store, const char *vm_id, const char *reason, GError **error)
{
    Quarantine quarantine = {vm_id, reason};

    return ckpt_store_write(store, quarantine_work, &quarantine, error);
}

static gboolean
event_work(CkptDatabase *db, gpointer data, GError **error)
{
    guint64 *first = data;
    gboolean failed = FALSE;
    sqlite3_stmt *statement =
        ckpt_database_query(db, error,
                            "INSERT INTO counters (name, value) VALUES ('events', ?1)"
                            " ON CONFLICT (name) DO UPDATE SET value = value + ?1 RETURNING value",
                            "i", (gint64)CKPT_EVENT_BLOCK);

    if (!statement)
        return FALSE;
    while (ckpt_database_next(db, statement, &failed, error))
        *first = (guint64)sqlite3_column_int64(statement, 0) - CKPT_EVENT_BLOCK + 1;
    return !failed;
}

guint64
ckpt_store_next_event_block(CkptStore *store, GError **error)
{
    guint64 first = 0;

    return ckpt_store_write(store, event_work, &first, error) ? first : 0;
}
