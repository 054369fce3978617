#include "agent/store/database.h"

#include "common/error.h"

/* "ckpt": tells our file from other SQLite files. */
#define APPLICATION_ID 0x636b7074
#define SCHEMA_VERSION 6

/* No agent ever gets there: beyond it the number is damage. */
#define VERSION_MAX 9999

/* Columns are what is asked for; `body` is the whole checkpoint. 64-bit identities of files are
 * kept as the signed number of the same bits. */
static const char version_1[] =
    "CREATE TABLE checkpoints ("
    " seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, vm_id TEXT NOT NULL,"
    " vm_name TEXT NOT NULL, parent_id TEXT, name TEXT NOT NULL, accessibility INTEGER NOT NULL,"
    " added_us INTEGER NOT NULL, run_id TEXT NOT NULL, state INTEGER NOT NULL,"
    " enabled INTEGER NOT NULL, revision INTEGER NOT NULL, body TEXT NOT NULL) STRICT;"
    "CREATE INDEX checkpoints_added ON checkpoints (added_us, id);"
    "CREATE INDEX checkpoints_vm ON checkpoints (vm_id, added_us, id);"
    "CREATE INDEX checkpoints_vm_state ON checkpoints (vm_id, state);"
    "CREATE INDEX checkpoints_vm_name ON checkpoints (vm_name, added_us, id);"
    "CREATE INDEX checkpoints_name ON checkpoints (name, added_us, id);"
    "CREATE INDEX checkpoints_run ON checkpoints (run_id, added_us, id);"
    "CREATE TABLE labels ("
    " checkpoint_id TEXT NOT NULL REFERENCES checkpoints (id) ON DELETE CASCADE,"
    " name TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (checkpoint_id, name))"
    " STRICT, WITHOUT ROWID;"
    "CREATE INDEX labels_name ON labels (name, value);"
    "CREATE TABLE operations ("
    " number INTEGER PRIMARY KEY AUTOINCREMENT, identity TEXT NOT NULL, request_id TEXT NOT NULL,"
    " digest TEXT NOT NULL, kind INTEGER NOT NULL, state INTEGER NOT NULL, vm_id TEXT NOT NULL,"
    " checkpoint_id TEXT NOT NULL, created_us INTEGER NOT NULL, started_us INTEGER NOT NULL,"
    " ended_us INTEGER NOT NULL, request TEXT, plan TEXT, step_begun INTEGER NOT NULL,"
    " step_ended INTEGER NOT NULL, undoing INTEGER NOT NULL, reason INTEGER NOT NULL,"
    " message TEXT NOT NULL, metadata TEXT, checkpoint TEXT, safety TEXT, warnings TEXT NOT NULL,"
    " UNIQUE (identity, request_id)) STRICT;"
    "CREATE INDEX operations_vm ON operations (vm_id, number);"
    "CREATE INDEX operations_checkpoint ON operations (checkpoint_id, number);"
    "CREATE INDEX operations_open ON operations (number) WHERE state <= 2;"
    "CREATE INDEX operations_ended ON operations (ended_us) WHERE state > 2;"
    "CREATE TABLE step_results ("
    " operation INTEGER NOT NULL REFERENCES operations (number) ON DELETE CASCADE,"
    " step INTEGER NOT NULL, device INTEGER NOT NULL, inode INTEGER NOT NULL,"
    " size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, PRIMARY KEY (operation, step))"
    " STRICT, WITHOUT ROWID;"
    "CREATE TABLE vms (vm_id TEXT PRIMARY KEY, current_id TEXT, quarantine_reason TEXT)"
    " STRICT, WITHOUT ROWID;"
    "CREATE TABLE files (path TEXT PRIMARY KEY, vm_id TEXT NOT NULL) STRICT, WITHOUT ROWID;"
    "CREATE INDEX files_vm ON files (vm_id, path);"
    "CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;";

/* What a snapshot reached. */
static const char version_2[] =
    "CREATE TABLE snapshot_results ("
    " operation INTEGER NOT NULL REFERENCES operations (number) ON DELETE CASCADE,"
    " step INTEGER NOT NULL, reached INTEGER NOT NULL, freeze_us INTEGER NOT NULL,"
    " pause_us INTEGER NOT NULL, note TEXT, PRIMARY KEY (operation, step)) STRICT, WITHOUT ROWID;";

/* A file that nobody needs, and that is still to be removed. Members that JSON has had since; plans of
 * operations that have ended, whose steps had other numbers, are of no more use. */
static const char version_3[] =
    "UPDATE checkpoints SET body = json_insert(body, '$.deferred', json('false'));"
    "UPDATE operations SET plan = NULL,"
    " request = json_insert(request, '$.when_possible', json('false')),"
    " checkpoint = json_insert(checkpoint, '$.deferred', json('false')),"
    " safety = json_insert(safety, '$.deferred', json('false'));"
    "ALTER TABLE files ADD COLUMN doomed INTEGER NOT NULL DEFAULT 0;"
    "CREATE INDEX files_doomed ON files (vm_id) WHERE doomed = 1;";

/* Bodies and plans may have members since that an older agent would refuse. */
static const char version_4[] = "";

/* What a body was when it was written: a byte of it that changed on the disk is nothing that SQLite sees. Older
 * agents wrote none, or, the last of version 4, behind the body on a line of its own. */
static const char version_5[] =
    "ALTER TABLE checkpoints ADD COLUMN sum TEXT;"
    "UPDATE checkpoints SET sum = substr(body, instr(body, char(10)) + 1),"
    " body = substr(body, 1, instr(body, char(10)) - 1) WHERE instr(body, char(10)) > 0;";

/* The same of operations: of a whole row. */
static const char version_6[] = "ALTER TABLE operations ADD COLUMN sum TEXT;";

static gboolean
read_pragma(CkptDatabase *db, const char *sql, gint64 *value, GError **error)
{
    gboolean failed = FALSE;
    sqlite3_stmt *statement = ckpt_database_query(db, error, sql, "");

    if (!statement)
        return FALSE;
    while (ckpt_database_next(db, statement, &failed, error))
        *value = sqlite3_column_int64(statement, 0);
    return !failed;
}

/* Version 3 gave the steps of plans other numbers: what an older agent's plan says cannot be gone on with. */
static gboolean
is_settled(CkptDatabase *db, GError **error)
{
    gint64 unfinished = 0;

    if (!read_pragma(db, "SELECT EXISTS (SELECT 1 FROM operations WHERE state <= 2) OR"
                         " EXISTS (SELECT 1 FROM checkpoints WHERE state = 2)", &unfinished, error))
        return FALSE;
    if (unfinished)
        ckpt_error_set(error, CKPT_REASON_STORE_FAILED,
                       "the catalogue is an older agent's, which left operations or deletes unfinished: "
                       "start that one again and let it finish them first");
    return !unfinished;
}

/* From the version that is there, 0 = none, to ours, all at once. */
static gboolean
upgrade(CkptDatabase *db, gint64 version, const char *mark, GError **error)
{
    static const char *const versions[] = {version_1, version_2, version_3, version_4, version_5,
                                          version_6};

    G_STATIC_ASSERT(G_N_ELEMENTS(versions) == SCHEMA_VERSION);
    if (!ckpt_database_run(db, error, "BEGIN IMMEDIATE", ""))
        return FALSE;
    for (gint64 i = version; i < SCHEMA_VERSION; i++) {
        if (sqlite3_exec(db->handle, versions[i], NULL, NULL, NULL) == SQLITE_OK)
            continue;
        ckpt_database_failed(db, "create the tables", error);
        return FALSE;
    }
    return (!mark || ckpt_database_run(db, error, "INSERT INTO counters (name, value) VALUES (?1, 1)", "t",
                                       mark)) &&
           ckpt_database_run(db, error, "PRAGMA application_id = 1667985524", "") &&
           ckpt_database_run(db, error, "PRAGMA user_version = 6", "") &&
           ckpt_database_run(db, error, "COMMIT", "");
}
G_STATIC_ASSERT(APPLICATION_ID == 1667985524 && SCHEMA_VERSION == 6);

gboolean
ckpt_schema_prepare(CkptDatabase *db, const char *mark, gboolean *corrupt, GError **error)
{
    gint64 application = 0, version = 0, tables = 0;

    if (!read_pragma(db, "PRAGMA application_id", &application, error) ||
        !read_pragma(db, "PRAGMA user_version", &version, error) ||
        !read_pragma(db, "SELECT count(*) FROM sqlite_schema", &tables, error)) {
        *corrupt = ckpt_database_is_damaged(db);
        return FALSE;
    }
    if (application == 0 && version == 0 && tables == 0 && mark)
        return upgrade(db, 0, mark, error);
    *corrupt = application != APPLICATION_ID || version < 1 || version > VERSION_MAX;
    if (application != APPLICATION_ID) {
        ckpt_error_set(error, CKPT_REASON_STORE_FAILED,
                       "the catalogue is the SQLite file of another program: set it aside");
        return FALSE;
    }
    if (version >= 1 && version < SCHEMA_VERSION)
        return (version >= 3 || is_settled(db, error)) && upgrade(db, version, NULL, error);
    if (*corrupt) {
        ckpt_error_set(error, CKPT_REASON_STORE_FAILED, "the catalogue's schema has no number");
        return FALSE;
    }
    if (version != SCHEMA_VERSION) {
        ckpt_error_set(error, CKPT_REASON_STORE_FAILED,
                       "the catalogue has schema %" G_GINT64_FORMAT " and this agent knows %d: a "
                       "newer agent wrote it; install that agent again, or put the catalogue's "
                       "backup from before its first start in place",
                       version, SCHEMA_VERSION);
        return FALSE;
    }
    return TRUE;
}
