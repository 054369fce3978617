/* Inside the engine only: engine.c (operations), run.c (one operation), reads.c. */
#pragma once

#include "agent/core/engine.h"
#include "agent/core/executor.h"
#include "agent/core/planner.h"

/* An operation that has not ended, or an id that is being admitted. */
typedef struct {
    gatomicrefcount refs;
    char *key;            /* request_id, a blank, identity */
    char *digest;
    CkptOperation *op;    /* NULL until admitted; from then on touched by its worker alone */
    GPtrArray *waiters;   /* Waiter; engine.lock */
    GCancellable *cancellable;
    gboolean recovered;   /* left by a crash */
    guint64 bytes_done, bytes_total; /* of the present step; written by its worker, engine.lock */
    gint64 told_us;       /* when progress was last told */
    char *unfinished;     /* why it was last put off, as logged; NULL = it was not; its worker's alone */
} LiveOp;

/* The operations of one VM, one at a time. All fields: engine.lock. */
typedef struct {
    CkptEngine *engine;
    char *vm_id;
    GQueue waiting;       /* LiveOp */
    gboolean busy;        /* one is running, or waits to be tried again; or it is looked at */
    gboolean look;        /* to be looked at, when none of them runs or waits */
    gboolean looking;     /* is being looked at */
    guint64 turns;        /* how often one began to run */
    guint retry;          /* source; 0 = none */
    guint retry_ms;
} VmQueue;

typedef struct {
    guint id;
    CkptWatchFunc func;
    gpointer data;
} Watch;

/* Locks, in their order: lock, watch_lock. Neither is held over a call of the driver or the store, nor
 * lock over a waiter's func. */
struct _CkptEngine {
    CkptDriver *driver;
    CkptStore *store;
    CkptLimits limits;
    GThreadPool *pool;
    char *unagreed;       /* why the rebuilt catalogue is not acted on yet; NULL = it is; lock */
    int is_new;           /* atomic: the catalogue was not compared with the manifests yet */
    int to_be_read_back;  /* atomic: it was lost, and was not read back from them yet */
    GMutex rebuild_lock;  /* held over calls of the driver and the store; before all others */
    gboolean rebuilt;     /* since this start; rebuild_lock */
    int stopping;         /* atomic */
    GMutex lock;
    GCond idle;           /* running fell */
    GHashTable *live;     /* key → LiveOp; lock */
    GHashTable *tickets;  /* ticket → Waiter; lock */
    GHashTable *queues;   /* vm_id → VmQueue; lock */
    GThreadPool *lookers; /* of reconcile.c: char *, a vm_id, or "" for all of them */
    GThreadPool *relief;  /* of relief.c: which VMs hang */
    guint relief_timer;   /* source; 0 = none; lock */
    GThreadPool *doctors; /* of doctor.c: VMs to be diagnosed */
    GHashTable *changed;  /* such, told of since; NULL = none; lock */
    guint settle;         /* source; 0 = none; lock */
    int looks;            /* atomic: what was told of is being marked, or all VMs are looked for, or will be */
    guint64 last_ticket;  /* lock */
    guint running;        /* workers pushed and not done; lock */
    guint recovering;     /* recovered operations not ended; lock */
    GHashTable *deferred; /* set: vm_id of VMs that have a delete that waits; lock */
    GHashTable *finishing; /* set: checkpoint_id whose delete the agent itself has submitted; lock */
    guint deferred_timer; /* source; 0 = none; lock */
    GHashTable *again;    /* vm_id of VMs to be looked at again → how often again_timer fires until then; lock */
    GHashTable *looked_again; /* vm_id → how often in a row it was; lock */
    GHashTable *unread;   /* vm_id → why the VM is left alone, see unread.c; lock */
    GHashTable *left_out; /* set: checkpoint_id of those that an adoption left out, since this agent began; lock */
    guint again_timer;    /* source; 0 = none; lock */
    char *host_id;        /* as manifests name this host; NULL = not known yet; lock, and once set it stays */
    char *host_name; /* likewise, set before it */
    GMutex watch_lock;
    GPtrArray *watches;   /* Watch; watch_lock */
    guint last_watch;     /* watch_lock */
    guint64 next_event, events_end; /* of the block reserved in the store; watch_lock */
};

/* The queue of what is about no VM alone: it has no ID. */
#define CKPT_HOST_QUEUE ""

char *ckpt_live_key(const char *identity, const char *request_id);
LiveOp *ckpt_live_new(const char *identity, const char *request_id);
LiveOp *ckpt_live_ref(LiveOp *live);
void ckpt_live_unref(LiveOp *live);
/* Behind the VM's other operations; an update is done when this returns. */
void ckpt_engine_enqueue(CkptEngine *engine, LiveOp *live);
/* How many turns the VM's operations have had, and whether one is running: what was looked at meanwhile
 * may be half of before and half of after. */
guint64 ckpt_engine_turns(CkptEngine *engine, const char *vm_id, gboolean *busy);
guint ckpt_engine_queued(CkptEngine *engine, const char *vm_id);
/* The VM is to be looked at when no operation of it runs or waits. */
void ckpt_engine_mark(CkptEngine *engine, const char *vm_id);
/* FALSE: not now, or no longer wanted. After TRUE the VM is the caller's, until end_turn. */
gboolean ckpt_engine_take_turn(CkptEngine *engine, const char *vm_id);
/* Waits for it, at most until then (monotonic); not behind operations that wait. */
gboolean ckpt_engine_claim_turn(CkptEngine *engine, const char *vm_id, gint64 until_us);
void ckpt_engine_end_turn(CkptEngine *engine, const char *vm_id);
/* Tells the watchers of the operation as it is now. On its worker's thread. */
void ckpt_engine_emit(CkptEngine *engine, LiveOp *live);

/* waiters.c. Called with the lock held. any_end: of a cancel, which is told of any end. */
guint64 ckpt_waiters_add(CkptEngine *engine, LiveOp *live, gint64 wait_us, gboolean any_end,
                         CkptOutcomeFunc func, gpointer data);
/* The operation has ended: its id is free for a new attempt or for replays from the store. error: what
 * the waiters are told; NULL = the stored result. */
void ckpt_waiters_release(CkptEngine *engine, LiveOp *live, const GError *error);
/* All that still wait are told that their operations go on. */
void ckpt_waiters_answer_all(CkptEngine *engine);
/* What an ended operation tells those who ask for it: its stored result, or its error; with any_end the
 * operation itself, however it ended. */
void ckpt_answer_from_store(CkptEngine *engine, const char *identity, const char *request_id,
                            gboolean any_end, CkptOutcomeFunc func, gpointer data);

/* deferred.c. At start: whatever waits is looked at. */
gboolean ckpt_deferred_start(CkptEngine *engine, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Submits the first of the VM's deletes that need not wait any more. The VM's turn is the caller's. */
void ckpt_deferred_look(CkptEngine *engine, const char *vm_id);
/* Whether the end of this operation is an occasion to look. */
gboolean ckpt_deferred_is_due(CkptEngine *engine, const LiveOp *live);

/* rebuild.c. At start, before anything else: whether the catalogue was lost. */
gboolean ckpt_rebuild_start(CkptEngine *engine, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Reads it back where it was lost, once a start; tells a new one from a lost one. FALSE: not now. */
gboolean ckpt_rebuild_look(CkptEngine *engine, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* FALSE, with CATALOGUE_REBUILT, until somebody agreed; or while a new one could not be told from a lost one. */
gboolean ckpt_rebuild_check(CkptEngine *engine, GError **error) G_GNUC_WARN_UNUSED_RESULT;
gboolean ckpt_rebuild_agree(CkptEngine *engine, GError **error) G_GNUC_WARN_UNUSED_RESULT;
char *ckpt_rebuild_unagreed(CkptEngine *engine); /* NULL = it is agreed to. (transfer full) */
/* What agents left in the folders of all disks; NULL where the driver cannot tell. */
gboolean ckpt_rebuild_find(CkptEngine *engine, CkptFoundFiles **found, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;

/* leftovers.c. Whether the VM has files that are still to be removed. */
gboolean ckpt_leftovers_are_due(CkptEngine *engine, const char *vm_id);
/* Removes them where that is possible now; one that somebody uses is kept from then on. The VM's turn is
 * the caller's. */
void ckpt_leftovers_look(CkptEngine *engine, const char *vm_id);
/* At start: whatever is left is looked at. */
gboolean ckpt_leftovers_start(CkptEngine *engine, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* unread.c. An open operation whose row is damaged: its VM is quarantined, and left alone. */
gboolean ckpt_unread_note(CkptEngine *engine, const CkptOperation *op, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* NULL = there is none. (transfer full) */
char *ckpt_unread_reason(CkptEngine *engine, const char *vm_id);
gboolean ckpt_unread_is(CkptEngine *engine, const char *vm_id);
/* FALSE: VM_QUARANTINED. vm_id NULL: of no VM. */
gboolean ckpt_unread_check(CkptEngine *engine, const char *vm_id, GError **error);
/* Its guest goes on, if it is we who keep it. */
void ckpt_unread_release(CkptEngine *engine, const char *vm_id);
/* Somebody agreed: it has failed. The VM's turn is the caller's. */
gboolean ckpt_unread_agree(CkptEngine *engine, const char *vm_id, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* Runs, or takes up again, one operation and stores how it ended. *error: what its waiters are told. */
CkptEnd ckpt_engine_run(CkptEngine *engine, LiveOp *live, GError **error);
/* Fills op->plan (fresh), or takes over that of an unfinished delete, which is planned anew where its pull has
 * met a VM that was started since. dry: only to show it; what is found
 * wrong, or right again, is not recorded. */
gboolean ckpt_engine_plan(CkptEngine *engine, CkptOperation *op, gboolean dry, GError **error);

/* adopt.c: whose the VM's checkpoints are is looked at and recorded: taken over, MOVED, or orphans. The VM's
 * turn is the caller's. */
void ckpt_adopt_look(CkptEngine *engine, const char *vm_id);
/* relief.c. An operation was given to the pool, where it may have to wait. Called with the lock held. */
void ckpt_relief_may_be_due(CkptEngine *engine);
void ckpt_relief_work(gpointer data, gpointer engine);

/* look_again.c: the VM is marked to be looked at in a while; or that is not needed any more. */
void ckpt_look_again(CkptEngine *engine, const char *vm_id);
void ckpt_look_settled(CkptEngine *engine, const char *vm_id);
/* The manifests beside the files of the VM's rows are made to say what those say; what fails is logged. */
void ckpt_manifests_refresh(CkptEngine *engine, const char *vm_id);
/* As manifests name this host; NULL if the hypervisor is away, or keeps none. */
const char *ckpt_engine_host_id(CkptEngine *engine);
#define CKPT_NOT_DEFINED_REASON "its VM is not defined on this host"
#define CKPT_STAYED_REASON                                                                                  \
    "its VM migrated to another host, and the disks that it was made of stayed here"

/* reconcile.c */
void ckpt_reconcile_changed(const char *vm_id, gpointer engine); /* CkptVmChangedFunc */
void ckpt_reconcile_all(CkptEngine *engine);
void ckpt_reconcile_work(gpointer vm_id, gpointer engine);
/* Looks at the VM now, and records what it finds. The VM's turn is the caller's. */
void ckpt_engine_look(CkptEngine *engine, const char *vm_id);

/* Its delete was committed: it cannot be undone, only finished, and only by its own plan. */
gboolean ckpt_operation_has_begun_delete(const CkptOperation *op);

/* What the planner is given, with its owners. */
typedef struct {
    CkptPlanInput input;
    CkptVm *vm;
    GPtrArray *checkpoints, *made, *doomed;
    GPtrArray *moved;  /* CkptCheckpoint of the VM that are another agent's: in none of the others */
    GPtrArray *others; /* CkptCheckpoint of every VM; NULL unless asked for */
    GPtrArray *unknown; /* char *: overlays in no list that lie on a file that is in one; NULL unless asked for */
    CkptVmRecord *record;
    char *new_id;
} Situation;
/* others: looks at the files of other VMs' checkpoints, too. One may lie on a file of this VM and be in
 * no definition: a clone that was detached, or that a restored VM no longer has. And at the agents' overlays that
 * the catalogue does not know (it was read back without them, or is a backup) and that lie on what it knows. */
gboolean ckpt_situation_read(CkptEngine *engine, const char *vm_id, gboolean others,
                             Situation *situation, GError **error);
/* CkptKnownFile: every file that the catalogue knows of the VM, borrowed; with `others` (may be NULL), those
 * that other VMs' checkpoints lie in, too. */
GArray *ckpt_situation_files(GPtrArray *checkpoints, GPtrArray *made, GPtrArray *others);
/* Of a VM that is not defined here: its files alone (CkptDriver.inspect_files). */
gboolean ckpt_situation_read_orphans(CkptEngine *engine, const char *vm_id, Situation *situation,
                                     GError **error) G_GNUC_WARN_UNUSED_RESULT;
void ckpt_situation_clear(Situation *situation);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Situation, ckpt_situation_clear)
/* Verifies every checkpoint of the VM and records where the answer has changed. */
void ckpt_situation_record(CkptEngine *engine, Situation *situation);
/* What says that the VM is not as it must be, not only that something cannot be done with it. */
gboolean ckpt_engine_is_alarming(const GError *error);
/* The alarm: recorded, and logged as a warning that says "is quarantined". */
void ckpt_engine_quarantine(CkptEngine *engine, const char *vm_id, const char *reason);
/* The planner found catalogue and world in agreement: whatever was wrong has been put right. */
gboolean ckpt_engine_lift_quarantine(CkptEngine *engine, Situation *situation, GError **error);

/* doctor.c. One VM of a Diagnose, on a thread of engine->doctors. */
void ckpt_doctor_work(gpointer task, gpointer engine);
/* Whether the VM's last operation ended neither way. */
gboolean ckpt_doctor_left_stuck(CkptEngine *engine, const char *vm_id);
/* repair.c. Fills op->repair: with what is found and what was put right of it; foresee changes nothing. */
gboolean ckpt_repair_run(CkptEngine *engine, CkptOperation *op, GError **error);
gboolean ckpt_repair_foresee(CkptEngine *engine, CkptOperation *op, GError **error);
/* One VM's findings; FALSE if the store fails. */
gboolean ckpt_doctor_look(CkptEngine *engine, const char *vm_id, GPtrArray *findings, GError **error);
