/* The catalogue, the journal and the stored results: one SQLite database, written by one thread.
 * Functions block until what they wrote is on disk; callable from any thread but the store's own.
 * Once a commit failed the store is read-only: writes answer STORE_FAILED until the agent is
 * restarted. */
#pragma once

#include "agent/model/operation.h"

typedef struct _CkptStore CkptStore;

/* Opens or creates state_dir/vmcheckpoint.db (0600); state_dir must exist and be ours alone (0700).
 * Refuses a database of a newer agent, and one that another process has locked. One that is corrupt or
 * somebody else's is set aside: renamed, never removed; in its place, and in that of one that was there and
 * is gone, comes an empty one that says so (ckpt_store_lost_reason). */
CkptStore *ckpt_store_open(const char *state_dir, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void ckpt_store_close(CkptStore *store);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CkptStore, ckpt_store_close)
/* Why it is read-only; NULL if it is not. (transfer full) */
char *ckpt_store_read_only_reason(CkptStore *store);

/* ---- A catalogue that was lost ---- */

/* *reason: how it was lost, until somebody agreed to what was made of it since; NULL = it was not. (transfer
 * full) */
gboolean ckpt_store_lost_reason(CkptStore *store, char **reason, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* reason NULL: somebody agreed. */
gboolean ckpt_store_set_lost(CkptStore *store, const char *reason,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Whether it is a new one, which nobody has compared with what lies beside the disks yet. */
gboolean ckpt_store_is_new(CkptStore *store, gboolean *is_new, GError **error) G_GNUC_WARN_UNUSED_RESULT;
gboolean ckpt_store_set_compared(CkptStore *store, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* In which checkpoints have, or had, files; kept apart from the catalogue, so that it outlives that. char *,
 * sorted. (transfer full) */
GPtrArray *ckpt_store_folders(CkptStore *store);
/* *damage: what is wrong with the database; NULL = nothing. (transfer full) FALSE: it cannot be read. */
gboolean ckpt_store_check(CkptStore *store, char **damage, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* ---- Operations ---- */

/* By caller and request_id: NULL without an error if there is none; STORE_FAILED if its row is damaged. As
 * wherever operations are read, the results of steps that ended stand in their plan (CkptStep.id), and request has
 * its identity. */
CkptOperation *ckpt_store_find_operation(CkptStore *store, const char *identity,
                                         const char *request_id, GError **error);
/* Inserts it (number is filled in), in place of an ended FAILED one of the same name. Any other one of
 * that name refuses it: OPERATION_CANCELLED if that was cancelled or is reserved, else
 * REQUEST_ID_REUSED. */
gboolean ckpt_store_add_operation(CkptStore *store, CkptOperation *operation, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;
/* Writes its plan, state RUNNING (set in operation too), started_us, the steps' indexes, and the
 * vm_id, checkpoint_id and request that planning completed. Results of an earlier plan's steps are
 * dropped. Only of an operation that has not ended; so the two below. */
gboolean ckpt_store_set_plan(CkptStore *store, CkptOperation *operation, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;
/* Journals step_begun, step_ended, undoing, why it will fail and, of the steps that ended since, their result
 * (id). With a change, applies that in the same transaction: revisions of the upserted checkpoints are raised, and
 * set in the change's checkpoints. One commit. */
gboolean ckpt_store_journal(CkptStore *store, const CkptOperation *operation, CkptChange *change,
                            GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Writes how it ended, and a change, in one transaction. */
gboolean ckpt_store_end_operation(CkptStore *store, const CkptOperation *operation,
                                  CkptChange *change, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* RUNNING ones, then QUEUED ones, each in the order in which they came: what a crash left. With them those whose
 * rows are damaged and that may not have ended; their vm_id can be believed. */
GPtrArray *ckpt_store_unfinished_operations(CkptStore *store, GError **error);
typedef struct {
    const char *identity; /* NULL = everybody's */
    const char *vm_id, *checkpoint_id; /* NULL = any */
    guint states;         /* bit (1 << CkptOpState) for each wanted; 0 = any */
    gint64 after_number;  /* page: numbers above this one */
    guint limit;          /* 0 = all */
    gboolean without_plans; /* their plan is NULL: plans are large, and a list rarely needs them */
} CkptOperationQuery;
GPtrArray *ckpt_store_list_operations(CkptStore *store, const CkptOperationQuery *query,
                                      GError **error);
/* One whose row is damaged: from now on it is FAILED with RECOVERY_FAILED, and nothing else of it is left. */
gboolean ckpt_store_give_up_operation(CkptStore *store, gint64 number, const char *message,
                                      GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Forgets operations that ended before `before_us`. */
gboolean ckpt_store_forget_operations(CkptStore *store, gint64 before_us, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;

/* ---- Checkpoints ---- */

/* NULL and CHECKPOINT_NOT_FOUND if there is none. */
CkptCheckpoint *ckpt_store_get_checkpoint(CkptStore *store, const char *id, GError **error);
/* All of a VM, DELETING ones too, in the order in which they were added. */
GPtrArray *ckpt_store_vm_checkpoints(CkptStore *store, const char *vm_id, GError **error);
typedef struct {
    const char *vm_id, *vm_name, *name, *run_id; /* NULL = any; exact */
    GHashTable *labels;      /* all must match; NULL = any */
    CkptAccessibility accessibility; /* 0 = any */
    int enabled;             /* -1 = any, 0, 1 */
    gint64 added_after_us, added_before_us; /* 0 = any; >=, < */
    gboolean most_recent;    /* only the newest of each VM among those that match */
    gboolean include_deleting;
    gboolean only_deleting;
    gboolean include_moved;
    /* Page: those after this one in the order (added_us, id); after_id NULL = from the start. */
    gint64 after_added_us;
    const char *after_id;
    guint limit; /* 0 = all */
} CkptCheckpointQuery;
GPtrArray *ckpt_store_list_checkpoints(CkptStore *store, const CkptCheckpointQuery *query,
                                       GError **error);
/* Records disabled_reason of rows (CkptCheckpoint, borrowed) that were read and verified: only of those
 * that nobody has changed or removed since; sets the revisions of these. */
gboolean ckpt_store_note_verified(CkptStore *store, GPtrArray *rows, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;
/* A change outside of an operation, for tests and repairs. */
gboolean ckpt_store_apply(CkptStore *store, CkptChange *change, const char *vm_id, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;

/* ---- Virtual machines ---- */

typedef struct {
    char *vm_id;
    char *current_id;        /* NULL = none */
    char *quarantine_reason; /* NULL = not quarantined */
    guint checkpoints;       /* READY ones */
} CkptVmRecord;
void ckpt_vm_record_free(CkptVmRecord *record);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CkptVmRecord, ckpt_vm_record_free)
/* Never NULL without an error: a VM the store does not know has an empty record. */
CkptVmRecord *ckpt_store_get_vm(CkptStore *store, const char *vm_id, GError **error);
/* The VMs that have checkpoints or doomed files or are quarantined: char *. */
GPtrArray *ckpt_store_vms(CkptStore *store, GError **error);
/* Files that the agent made for the VM (CkptChange.made less .unlinked): char *, sorted. A path belongs to
 * the VM that named it last. */
GPtrArray *ckpt_store_vm_files(CkptStore *store, const char *vm_id, GError **error);
/* Those of them that are doomed: nobody needs them, and they could not be removed yet. */
GPtrArray *ckpt_store_doomed_files(CkptStore *store, const char *vm_id, GError **error);
/* reason NULL lifts the quarantine. */
gboolean ckpt_store_quarantine_vm(CkptStore *store, const char *vm_id, const char *reason,
                                  GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* ---- Events ---- */

#define CKPT_EVENT_BLOCK 1000000
/* Reserves the next CKPT_EVENT_BLOCK event numbers and returns the first: numbers so grow over
 * restarts without a write for each event. The first ever is 1; 0 with an error. */
guint64 ckpt_store_next_event_block(CkptStore *store, GError **error);
