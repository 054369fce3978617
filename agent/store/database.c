#include "agent/store/database.h"

#include "agent/store/checkpoint_rows.h"
#include "agent/store/operation_rows.h"
#include "common/error.h"

#include <string.h>
#include <unistd.h>

/* How long a tool that a person runs on the file (a backup) may hold it. */
#define BUSY_TIMEOUT_MS 5000

void
ckpt_database_failed(CkptDatabase *db, const char *doing, GError **error)
{
    int code = sqlite3_extended_errcode(db->handle);
    int kind = code & 0xff;

    ckpt_error_set(error, CKPT_REASON_STORE_FAILED, "catalogue: %s: %s (SQLite %d)", doing,
                   sqlite3_errmsg(db->handle), code);
    /* Those leave the transaction as it is: only the one statement did not succeed. */
    if (kind == SQLITE_CONSTRAINT || kind == SQLITE_TOOBIG || kind == SQLITE_BUSY ||
        kind == SQLITE_MISMATCH || kind == SQLITE_RANGE || kind == SQLITE_ERROR)
        return;
    if (!db->failure)
        db->failure =
            g_strdup_printf("%s: %s (SQLite %d)", doing, sqlite3_errmsg(db->handle), code);
}

static gboolean
bind(CkptDatabase *db, sqlite3_stmt *statement, const char *types, va_list args, GError **error)
{
    g_assert((int)strlen(types) == sqlite3_bind_parameter_count(statement));
    for (int i = 0; types[i]; i++) {
        int result;

        if (types[i] == 't')
            result =
                sqlite3_bind_text(statement, i + 1, va_arg(args, const char *), -1, SQLITE_STATIC);
        else
            result = sqlite3_bind_int64(statement, i + 1, va_arg(args, gint64));
        if (result == SQLITE_OK)
            continue;
        ckpt_database_failed(db, "a parameter", error);
        return FALSE;
    }
    return TRUE;
}

static void
finalize(gpointer statement)
{
    sqlite3_finalize(statement);
}

static sqlite3_stmt *
prepare(CkptDatabase *db, const char *sql, GError **error)
{
    sqlite3_stmt *statement = g_hash_table_lookup(db->statements, sql);

    if (statement)
        return statement;
    if (sqlite3_prepare_v3(db->handle, sql, -1, SQLITE_PREPARE_PERSISTENT, &statement, NULL) !=
        SQLITE_OK) {
        ckpt_database_failed(db, sql, error);
        return NULL;
    }
    g_hash_table_insert(db->statements, g_strdup(sql), statement);
    return statement;
}

static void
finish(sqlite3_stmt *statement)
{
    sqlite3_reset(statement);
    sqlite3_clear_bindings(statement);
}

static sqlite3_stmt *
query(CkptDatabase *db, const char *sql, const char *types, va_list args, GError **error)
{
    sqlite3_stmt *statement = prepare(db, sql, error);

    if (!statement || !bind(db, statement, types, args, error))
        return NULL;
    return statement;
}

sqlite3_stmt *
ckpt_database_query(CkptDatabase *db, GError **error, const char *sql, const char *types, ...)
{
    sqlite3_stmt *statement;
    va_list args;

    va_start(args, types);
    statement = query(db, sql, types, args, error);
    va_end(args);
    return statement;
}

gboolean
ckpt_database_next(CkptDatabase *db, sqlite3_stmt *statement, gboolean *failed, GError **error)
{
    int result = sqlite3_step(statement);

    if (result == SQLITE_ROW)
        return TRUE;
    *failed = result != SQLITE_DONE;
    if (*failed)
        ckpt_database_failed(db, sqlite3_sql(statement), error);
    finish(statement);
    return FALSE;
}

gboolean
ckpt_database_run(CkptDatabase *db, GError **error, const char *sql, const char *types, ...)
{
    sqlite3_stmt *statement;
    gboolean failed = FALSE;
    va_list args;

    va_start(args, types);
    statement = query(db, sql, types, args, error);
    va_end(args);
    if (!statement)
        return FALSE;
    while (ckpt_database_next(db, statement, &failed, error))
        continue;
    return !failed;
}

char *
ckpt_column_text(sqlite3_stmt *statement, int column)
{
    return g_strdup((const char *)sqlite3_column_text(statement, column));
}

static gboolean
refuse_corrupt(const char *path, const char *what, gboolean *corrupt, GError **error)
{
    g_autofree char *line = g_strdelimit(g_strdup(what), "\n", ' ');

    *corrupt = TRUE;
    ckpt_error_set(error, CKPT_REASON_STORE_FAILED, "the catalogue %s is corrupt (%s)", path, line);
    ckpt_error_add(error, CKPT_META_FILE, path);
    return FALSE;
}

gboolean
ckpt_database_is_damaged(CkptDatabase *db)
{
    int code = sqlite3_extended_errcode(db->handle), kind = code & 0xff;

    if (kind == SQLITE_NOTADB || kind == SQLITE_CORRUPT || kind == SQLITE_FORMAT ||
        code == SQLITE_ERROR) /* "unsupported file format", or no such table */
        return TRUE;
    /* A byte in its header says so, where anybody may write to the file. */
    return code == SQLITE_READONLY && access(sqlite3_db_filename(db->handle, "main"), W_OK) == 0;
}

/* What SQLite says; NULL and an error: it could not be asked. */
static char *
ask_whole(CkptDatabase *db, const char *pragma, GError **error)
{
    gboolean failed = FALSE;
    g_autofree char *found = NULL;
    sqlite3_stmt *statement = ckpt_database_query(db, error, pragma, "");

    while (statement && ckpt_database_next(db, statement, &failed, error)) {
        if (!found)
            found = ckpt_column_text(statement, 0);
    }
    return statement && !failed ? g_steal_pointer(&found) : NULL;
}

/* Also the first statement that reads the file, so that it finds what is no database at all. */
static gboolean
check_whole(CkptDatabase *db, const char *path, gboolean *corrupt, GError **error)
{
    g_autoptr(GError) local = NULL;
    g_autofree char *found = ask_whole(db, "PRAGMA integrity_check(1)", &local);

    if (!local && g_strcmp0(found, "ok") == 0)
        return TRUE;
    if (!local && found &&
        (strstr(found, "unable to get the page") || strstr(found, "failed to get page"))) {
        /* The disk's fault, not what is in the file: set aside it would be lost for nothing. */
        ckpt_error_set(error, CKPT_REASON_STORE_FAILED, "the catalogue %s cannot be read: %s", path, found);
        ckpt_error_add(error, CKPT_META_FILE, path);
        return FALSE;
    }
    if (!local)
        return refuse_corrupt(path, found ? found : "SQLite does not say why", corrupt, error);
    if (ckpt_database_is_damaged(db))
        return refuse_corrupt(path, sqlite3_errmsg(db->handle), corrupt, error);
    g_propagate_error(error, g_steal_pointer(&local));
    return FALSE;
}

static gboolean
check_rows(CkptDatabase *db, const char *path, gboolean *corrupt, GError **error)
{
    g_autoptr(GError) local = NULL;
    g_autofree char *damage = NULL;

    if (ckpt_checkpoint_rows_check(db, &damage, &local) &&
        (damage || ckpt_operation_rows_check(db, &damage, &local)))
        return !damage || refuse_corrupt(path, damage, corrupt, error);
    if (ckpt_database_is_damaged(db))
        return refuse_corrupt(path, sqlite3_errmsg(db->handle), corrupt, error);
    g_propagate_error(error, g_steal_pointer(&local));
    return FALSE;
}

gboolean
ckpt_database_check(CkptDatabase *db, char **damage, GError **error)
{
    gboolean corrupt = FALSE;
    const char *path = sqlite3_db_filename(db->handle, "main");
    g_autoptr(GError) local = NULL;

    *damage = NULL;
    if (check_whole(db, path, &corrupt, &local) && check_rows(db, path, &corrupt, &local))
        return TRUE;
    if (corrupt)
        *damage = g_strdup(local->message);
    else
        g_propagate_error(error, g_steal_pointer(&local));
    return corrupt;
}

static gboolean
set_up(CkptDatabase *db, const char *path, const char *mark, gboolean *corrupt, GError **error)
{
    static const char *const pragmas[] = {
        "PRAGMA journal_mode = WAL",
        "PRAGMA synchronous = FULL",
        "PRAGMA foreign_keys = ON",
        "PRAGMA temp_store = MEMORY",
        "PRAGMA journal_size_limit = 16777216",
        "PRAGMA trusted_schema = OFF",
        /* After a sync that failed, the log is read back whole from the page cache while the disk may
         * lack a part of it, which no later sync writes: a power cut would take all that was
         * committed behind it. Written home anew and synced, nothing depends on that log. */
        "PRAGMA wal_checkpoint(TRUNCATE)",
    };

    sqlite3_extended_result_codes(db->handle, 1);
    sqlite3_busy_timeout(db->handle, BUSY_TIMEOUT_MS);
    /* The schema before the pragmas, which write to a file that may be somebody else's. */
    if (!check_whole(db, path, corrupt, error) ||
        !ckpt_schema_prepare(db, mark, corrupt, error) || !check_rows(db, path, corrupt, error))
        return FALSE;
    for (gsize i = 0; i < G_N_ELEMENTS(pragmas); i++)
        if (!ckpt_database_run(db, error, pragmas[i], "")) {
            *corrupt = ckpt_database_is_damaged(db);
            return FALSE;
        }
    return TRUE;
}

CkptDatabase *
ckpt_database_open(const char *path, const char *mark, gboolean *corrupt, GError **error)
{
    g_autoptr(CkptDatabase) db = g_new0(CkptDatabase, 1);

    *corrupt = FALSE;
    db->statements = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, finalize);
    if (sqlite3_open_v2(path, &db->handle,
                        SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE,
                        NULL) != SQLITE_OK) {
        ckpt_database_failed(db, "open", error);
        g_prefix_error(error, "%s: ", path);
        return NULL;
    }
    return set_up(db, path, mark, corrupt, error) ? g_steal_pointer(&db) : NULL;
}

void
ckpt_database_close(CkptDatabase *db)
{
    if (!db)
        return;
    g_hash_table_unref(db->statements);
    g_clear_pointer(&db->folders, g_hash_table_unref);
    g_free(db->folders_path);
    sqlite3_close(db->handle);
    g_free(db->failure);
    g_free(db);
}
