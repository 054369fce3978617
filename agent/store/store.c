#include "agent/store/internal.h"

#include "agent/store/state_dir.h"

#include <unistd.h>

/* Lives on the waiting caller's stack. */
typedef struct {
    CkptStoreWork work;
    gpointer data;
    gboolean write;
    gboolean ok;   /* of the work itself; the store thread's until done is set */
    GError *error; /* likewise */
    gboolean done; /* guarded by the store's lock */
    GCond ended;
} Request;

struct _CkptStore {
    GThread *thread;
    CkptDatabase *db; /* the store thread's alone, from its start to its end */
    int lock_fd;

    GMutex lock; /* guards all below; held for moments only, never while SQLite works */
    GCond wanted;
    GQueue waiting; /* Request, borrowed */
    char *read_only;
    gboolean closing;
};

/* ---- The store thread ---- */

static void
fail(Request *request, const char *reason)
{
    g_clear_error(&request->error);
    request->ok = FALSE;
    ckpt_error_set(&request->error, CKPT_REASON_STORE_FAILED, "%s", reason);
}

static void
run_reads(CkptDatabase *db, GQueue *batch)
{
    for (GList *link = batch->head; link; link = link->next) {
        Request *request = link->data;

        if (!request->write)
            request->ok = request->work(db, request->data, &request->error);
    }
}

/* One request within the batch's transaction. FALSE only if the transaction is lost. */
static gboolean
run_write(CkptDatabase *db, Request *request)
{
    g_autoptr(GError) local = NULL;

    if (!ckpt_database_run(db, &local, "SAVEPOINT request", ""))
        return FALSE;
    request->ok = request->work(db, request->data, &request->error);
    if (db->failure || sqlite3_get_autocommit(db->handle))
        return FALSE;
    return (request->ok || ckpt_database_run(db, &local, "ROLLBACK TO request", "")) &&
           ckpt_database_run(db, &local, "RELEASE request", "");
}

static gboolean
commit(CkptDatabase *db, GQueue *batch)
{
    g_autoptr(GError) local = NULL;

    for (GList *link = batch->head; link; link = link->next) {
        Request *request = link->data;

        if (request->write && !run_write(db, request))
            return FALSE;
    }
    if (!ckpt_database_run(db, &local, "COMMIT", "")) {
        if (!db->failure)
            db->failure = g_strdup(local->message);
        return FALSE;
    }
    return TRUE;
}

static void
fail_writes(GQueue *batch, const char *reason)
{
    for (GList *link = batch->head; link; link = link->next) {
        Request *request = link->data;

        if (request->write)
            fail(request, reason);
    }
}

/* A transaction that could not be committed has written nothing that a reader of this process sees,
 * but after a failed sync nobody can say what is on disk: so nothing is written on top of it. */
static void
run_writes(CkptDatabase *db, GQueue *batch)
{
    g_autoptr(GError) local = NULL;
    g_autofree char *message = NULL;

    if (!db->failure && !ckpt_database_run(db, &local, "BEGIN IMMEDIATE", "") && !db->failure) {
        /* Somebody else holds it, a backup for one: nothing is lost. */
        fail_writes(batch, local->message);
        return;
    }
    if (!db->failure && commit(db, batch))
        return;
    if (!db->failure)
        db->failure = g_strdup("the transaction was lost");
    if (!sqlite3_get_autocommit(db->handle))
        sqlite3_exec(db->handle, "ROLLBACK", NULL, NULL, NULL);
    message = g_strdup_printf("the catalogue is read-only since a write failed (%s): mend its "
                              "folder, then restart the agent",
                              db->failure);
    fail_writes(batch, message);
}

static gboolean
has_writes(GQueue *batch)
{
    for (GList *link = batch->head; link; link = link->next)
        if (((Request *)link->data)->write)
            return TRUE;
    return FALSE;
}

/* Takes all that waits; FALSE when the store closes and nothing waits. */
static gboolean
take_batch(CkptStore *store, GQueue *batch)
{
    g_mutex_lock(&store->lock);
    while (g_queue_is_empty(&store->waiting) && !store->closing)
        g_cond_wait(&store->wanted, &store->lock);
    *batch = store->waiting;
    g_queue_init(&store->waiting);
    g_mutex_unlock(&store->lock);
    return !g_queue_is_empty(batch);
}

static void
answer(CkptStore *store, GQueue *batch)
{
    Request *request;

    g_mutex_lock(&store->lock);
    if (store->db->failure && !store->read_only)
        store->read_only = g_strdup(store->db->failure);
    while ((request = g_queue_pop_head(batch))) {
        request->done = TRUE;
        g_cond_signal(&request->ended);
    }
    g_mutex_unlock(&store->lock);
}

static gpointer
store_thread(gpointer data)
{
    CkptStore *store = data;
    GQueue batch;

    while (take_batch(store, &batch)) {
        run_reads(store->db, &batch);
        if (has_writes(&batch))
            run_writes(store->db, &batch);
        answer(store, &batch);
    }
    return NULL;
}

/* ---- Its callers ---- */

static gboolean
submit(CkptStore *store, Request *request, GError **error)
{
    g_assert(g_thread_self() != store->thread);
    g_cond_init(&request->ended);
    g_mutex_lock(&store->lock);
    g_queue_push_tail(&store->waiting, request);
    g_cond_signal(&store->wanted);
    while (!request->done)
        g_cond_wait(&request->ended, &store->lock);
    g_mutex_unlock(&store->lock);
    g_cond_clear(&request->ended);
    if (!request->ok)
        g_propagate_error(error, request->error);
    return request->ok;
}

gboolean
ckpt_store_write(CkptStore *store, CkptStoreWork work, gpointer data, GError **error)
{
    Request request = {.work = work, .data = data, .write = TRUE};

    return submit(store, &request, error);
}

gboolean
ckpt_store_read(CkptStore *store, CkptStoreWork work, gpointer data, GError **error)
{
    Request request = {.work = work, .data = data};

    return submit(store, &request, error);
}

char *
ckpt_store_read_only_reason(CkptStore *store)
{
    char *reason;

    g_mutex_lock(&store->lock);
    reason = g_strdup(store->read_only);
    g_mutex_unlock(&store->lock);
    return reason;
}

/* A new database in the place of one that is not to be used. */
static CkptDatabase *
start_anew(const char *state_dir, const char *path, const char *why, GError **error)
{
    g_autofree char *where = NULL;
    g_autofree char *reason = NULL;
    g_autofree char *mark = NULL;
    gboolean corrupt;

    if (!ckpt_state_dir_set_aside(state_dir, &where, error))
        return NULL;
    reason = where ? g_strdup_printf("%s; it was set aside as %s", why, where) : g_strdup(why);
    g_warning("the catalogue is lost: %s", reason);
    mark = ckpt_lost_mark(reason);
    return ckpt_database_open(path, mark, &corrupt, error);
}

static CkptDatabase *
open_database(const char *state_dir, const char *path, gboolean lost, gboolean fresh, GError **error)
{
    g_autofree char *mark = fresh ? ckpt_lost_mark(NULL) : NULL;
    g_autoptr(GError) why = NULL;
    gboolean corrupt = FALSE;
    CkptDatabase *db;

    if (lost)
        return start_anew(state_dir, path, "its file was gone, or empty", error);
    db = ckpt_database_open(path, mark, &corrupt, &why);
    if (!db && corrupt)
        return start_anew(state_dir, path, why->message, error);
    if (!db)
        g_propagate_error(error, g_steal_pointer(&why));
    return db;
}

CkptStore *
ckpt_store_open(const char *state_dir, GError **error)
{
    g_autoptr(CkptDatabase) db = NULL;
    g_autofree char *path = NULL;
    gboolean lost = FALSE, fresh = FALSE;
    CkptStore *store;
    int lock_fd;

    path = ckpt_state_dir_enter(state_dir, &lock_fd, &lost, &fresh, error);
    if (!path)
        return NULL;
    db = open_database(state_dir, path, lost, fresh, error);
    if (!db || !ckpt_state_dir_made(state_dir, lock_fd, error)) {
        close(lock_fd);
        return NULL;
    }
    ckpt_folders_open(db, state_dir);
    store = g_new0(CkptStore, 1);
    store->lock_fd = lock_fd;
    store->db = g_steal_pointer(&db);
    g_mutex_init(&store->lock);
    g_cond_init(&store->wanted);
    g_queue_init(&store->waiting);
    store->thread = g_thread_new("store", store_thread, store);
    return store;
}

void
ckpt_store_close(CkptStore *store)
{
    if (!store)
        return;
    g_mutex_lock(&store->lock);
    store->closing = TRUE;
    g_cond_signal(&store->wanted);
    g_mutex_unlock(&store->lock);
    g_thread_join(store->thread);
    ckpt_database_close(store->db);
    /* Last: whoever takes the lock next finds the database closed. */
    close(store->lock_fd);
    g_cond_clear(&store->wanted);
    g_mutex_clear(&store->lock);
    g_free(store->read_only);
    g_free(store);
}
