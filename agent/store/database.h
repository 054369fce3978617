/* SQLite as the store uses it: one connection, its statements kept prepared, errors as GErrors. Used
 * from one thread at a time. */
#pragma once

#include <glib.h>
#include <sqlite3.h>

typedef struct {
    sqlite3 *handle;
    GHashTable *statements; /* SQL → sqlite3_stmt */
    char *failure;          /* why nothing may be written any more; NULL = nothing failed */
    GHashTable *folders;    /* set of paths, see folders.c; NULL = they are not kept */
    char *folders_path;
    gboolean folders_unwritten; /* some of them are not in their file: it could not be written */
} CkptDatabase;

/* Opens the file, which must exist, sets the connection up and brings the schema to this agent's
 * version. Refuses a corrupt file, somebody else's, and a newer agent's. mark: tables are made where
 * there are none, and in the same transaction the counter of that name; NULL: there must be some. *corrupt: it
 * is refused for what is in it, or not in it, and for nothing else: neither the disk nor its rights. */
CkptDatabase *ckpt_database_open(const char *path, const char *mark, gboolean *corrupt, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;
void ckpt_database_close(CkptDatabase *db);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CkptDatabase, ckpt_database_close)

/* types has a letter for each parameter: t = const char * (NULL = SQL's NULL; must live until the
 * statement is done), i = gint64. `sql` is kept: give string literals, or text from a bounded set. */
sqlite3_stmt *ckpt_database_query(CkptDatabase *db, GError **error, const char *sql,
                                  const char *types, ...);
/* The next row: TRUE. No more, or an error: FALSE, and the statement is reset; *failed tells which. */
gboolean ckpt_database_next(CkptDatabase *db, sqlite3_stmt *statement, gboolean *failed,
                            GError **error);
/* A statement without rows. */
gboolean ckpt_database_run(CkptDatabase *db, GError **error, const char *sql, const char *types,
                           ...) G_GNUC_WARN_UNUSED_RESULT;
/* Sets error to STORE_FAILED from the connection's last one. What is not the statement's own fault
 * (no space, I/O, corruption) becomes `failure`. */
void ckpt_database_failed(CkptDatabase *db, const char *doing, GError **error);

/* Brings the schema to this agent's version. */
gboolean ckpt_schema_prepare(CkptDatabase *db, const char *mark, gboolean *corrupt,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Whether the last error tells of damage within the file. */
gboolean ckpt_database_is_damaged(CkptDatabase *db);
/* *damage: what SQLite finds wrong with it, or a row that is not what was written; NULL = nothing. FALSE: it
 * cannot be read. */
gboolean ckpt_database_check(CkptDatabase *db, char **damage, GError **error) G_GNUC_WARN_UNUSED_RESULT;

char *ckpt_column_text(sqlite3_stmt *statement, int column); /* a copy; NULL for SQL's NULL */
