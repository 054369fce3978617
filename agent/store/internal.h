/* What the files of the store share: work for the store thread. */
#pragma once

#include "agent/store/database.h"
#include "agent/store/store.h"

/* Runs on the store thread. FALSE with an error undoes what this work wrote, and only that. */
typedef gboolean (*CkptStoreWork)(CkptDatabase *db, gpointer data, GError **error);

/* Hands work to the store thread and waits. Work that waits together shares a transaction; TRUE means
 * that it is on disk. */
gboolean ckpt_store_write(CkptStore *store, CkptStoreWork work, gpointer data, GError **error);
/* Reads what was committed; outside of any transaction, so one statement sees one state. */
gboolean ckpt_store_read(CkptStore *store, CkptStoreWork work, gpointer data, GError **error);

/* lost.c: the counter that says of a database how the one before was lost, or (NULL) that it is a new one.
 * (transfer full) */
char *ckpt_lost_mark(const char *reason);

/* folders.c */
void ckpt_folders_open(CkptDatabase *db, const char *state_dir);
void ckpt_folders_note(CkptDatabase *db, const CkptChange *change);

/* Applies a change within a write; change NULL does nothing. revisions (may be NULL with it) gets the
 * new one of each upsert: they are put into the change only once they are on disk. */
gboolean ckpt_change_apply(CkptDatabase *db, const CkptChange *change, const char *vm_id,
                           GArray *revisions, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void ckpt_change_set_revisions(CkptChange *change, GArray *revisions);
