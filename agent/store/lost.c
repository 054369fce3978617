/* A catalogue that was lost, and one that is new: noted among the counters, whose names can say anything. */
#include "agent/store/internal.h"

#include <string.h>

#define LOST "lost: "
#define IS_LOST " WHERE name >= 'lost: ' AND name < 'lost:!'"
#define NEW "not compared"

char *
ckpt_lost_mark(const char *reason)
{
    return reason ? g_strconcat(LOST, reason, NULL) : g_strdup(NEW);
}

static gboolean
write_lost(CkptDatabase *db, const char *reason, GError **error)
{
    g_autofree char *name = reason ? g_strconcat(LOST, reason, NULL) : NULL;

    return ckpt_database_run(db, error, "DELETE FROM counters" IS_LOST, "") &&
           (!name || ckpt_database_run(db, error, "INSERT INTO counters (name, value) VALUES (?1, ?2)",
                                       "ti", name, (gint64)g_get_real_time()));
}

static gboolean
read_name(CkptDatabase *db, gpointer data, GError **error)
{
    char **name = data;
    gboolean failed = FALSE;
    sqlite3_stmt *statement =
        ckpt_database_query(db, error, "SELECT name FROM counters" IS_LOST, "");

    while (statement && ckpt_database_next(db, statement, &failed, error)) {
        g_free(*name);
        *name = ckpt_column_text(statement, 0);
    }
    return statement && !failed;
}

gboolean
ckpt_store_lost_reason(CkptStore *store, char **reason, GError **error)
{
    g_autofree char *name = NULL;

    *reason = NULL;
    if (!ckpt_store_read(store, read_name, &name, error))
        return FALSE;
    if (name)
        *reason = g_strdup(name + strlen(LOST));
    return TRUE;
}

static gboolean
lost_work(CkptDatabase *db, gpointer data, GError **error)
{
    return write_lost(db, data, error);
}

gboolean
ckpt_store_set_lost(CkptStore *store, const char *reason, GError **error)
{
    return ckpt_store_write(store, lost_work, (gpointer)reason, error);
}

static gboolean
new_work(CkptDatabase *db, gpointer data, GError **error)
{
    gboolean *is_new = data, failed = FALSE;
    sqlite3_stmt *statement =
        ckpt_database_query(db, error, "SELECT 1 FROM counters WHERE name = ?1", "t", NEW);

    while (statement && ckpt_database_next(db, statement, &failed, error))
        *is_new = TRUE;
    return statement && !failed;
}

gboolean
ckpt_store_is_new(CkptStore *store, gboolean *is_new, GError **error)
{
    *is_new = FALSE;
    return ckpt_store_read(store, new_work, is_new, error);
}

static gboolean
compared_work(CkptDatabase *db, gpointer data, GError **error)
{
    return ckpt_database_run(db, error, "DELETE FROM counters WHERE name = ?1", "t", NEW);
}

gboolean
ckpt_store_set_compared(CkptStore *store, GError **error)
{
    return ckpt_store_write(store, compared_work, NULL, error);
}

static gboolean
check_work(CkptDatabase *db, gpointer data, GError **error)
{
    return ckpt_database_check(db, data, error);
}

gboolean
ckpt_store_check(CkptStore *store, char **damage, GError **error)
{
    *damage = NULL;
    return ckpt_store_read(store, check_work, damage, error);
}
