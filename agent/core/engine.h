/* The checkpoint engine: takes mutations, names them by request_id, runs them one at a time per VM,
 * finishes or undoes what a crash interrupted, and answers reads. */
#pragma once

#include "agent/hypervisor/hypervisor.h"
#include "agent/model/finding.h"
#include "agent/store/store.h"

/* Of growth.h. */
typedef struct _CkptGrowth CkptGrowth;

typedef struct {
    guint max_depth;            /* checkpoints from root to leaf; 20 */
    guint max_running;          /* operations at once on the host; 4 */
    guint max_queued_per_vm;    /* 16 */
    guint max_checkpoints_per_vm; /* 100 */
    guint64 reserve_bytes;      /* kept free in every image file system; 64 MiB */
    guint reserve_percent;      /* of its size, where that is more; 0 */
    guint result_days;          /* 7 */
    gint64 max_wait_us;         /* 5 min */
    gint64 max_diagnose_us;     /* what does not answer by then is told as not examined; 10 s */
} CkptLimits;
void ckpt_limits_init(CkptLimits *limits);

/* Of operations that the agent begins by itself. Neither a URI nor "dns:NAME": no certificate has it, and no
 * rule can give it a role. */
#define CKPT_OWN_IDENTITY "vmcheckpointd"

typedef struct _CkptEngine CkptEngine;

/* Borrows driver and store, which must outlive it. Needs the default main context to be iterated. */
CkptEngine *ckpt_engine_new(CkptDriver *driver, CkptStore *store, const CkptLimits *limits);
/* Takes up what a crash left: in the background, VM by VM, each VM's own recovery first; mutations of
 * a VM that is not recovered yet wait behind it. */
gboolean ckpt_engine_start(CkptEngine *engine, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* No new operations; running ones reach their next safe step end, at most for grace_ms; what is not
 * finished by then is taken up at the next start. Waiters are answered. */
void ckpt_engine_stop(CkptEngine *engine, guint grace_ms);
void ckpt_engine_free(CkptEngine *engine);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CkptEngine, ckpt_engine_free)

/* How a submitted request came out: exactly one of operation and error is set. operation is a copy for
 * the callee (transfer full); SUCCEEDED, or QUEUED or RUNNING with return_accepted; with validate_only
 * it has the plan and state QUEUED. An error is a refusal, a failure, or OPERATION_RUNNING when the
 * wait was over. Called once, on any thread; must not block. */
typedef void (*CkptOutcomeFunc)(CkptOperation *operation, const GError *error, gpointer data);

/* Takes the request. Returns a ticket for ckpt_engine_forget(). */
guint64 ckpt_engine_submit(CkptEngine *engine, CkptRequest *request, CkptOutcomeFunc func,
                           gpointer data);
/* The waiter went away: its func will not be called after this returned TRUE; FALSE = it has been, or
 * is being called. The operation goes on. */
gboolean ckpt_engine_forget(CkptEngine *engine, guint64 ticket);

/* Asks an operation to stop where it can still be undone, and waits at most wait_us (0 = not at all),
 * without a thread, for its end. func gets the operation as it is then, in whatever state; or NULL with
 * no error: the id was unknown and is reserved now. Returns a ticket as ckpt_engine_submit() does. */
guint64 ckpt_engine_cancel(CkptEngine *engine, const char *identity, const char *request_id,
                           gint64 wait_us, CkptOutcomeFunc func, gpointer data);

/* An event of the operations' life; `number` grows, also over a restart. Watchers are called in order,
 * on an engine thread, and must not block. operation is borrowed. */
typedef void (*CkptWatchFunc)(guint64 number, const CkptOperation *operation, guint64 bytes_done,
                              guint64 bytes_total, gpointer data);
guint ckpt_engine_watch(CkptEngine *engine, CkptWatchFunc func, gpointer data);
void ckpt_engine_unwatch(CkptEngine *engine, guint watch); /* func is not called after it returned */
guint64 ckpt_engine_last_event(CkptEngine *engine);

/* ---- Reads: block for the store, some for the driver; call them from a handler thread ---- */

/* What Checkpoint has beyond the catalogue's row. */
typedef struct {
    CkptCheckpoint *checkpoint;
    guint depth;
    gboolean current;
    guint64 size_bytes;       /* 0 unless verified */
    guint64 *allocated_bytes; /* per disk; NULL unless verified */
    GPtrArray *backing_files; /* per disk a GPtrArray of the paths below it, nearest first; NULL
                                 unless verified */
    GPtrArray *manifests;     /* per disk its path, "" = none is there; NULL unless verified */
    CkptGrowth *growth;       /* NULL unless verified */
    GPtrArray *advice;        /* char *, what should be known of its VM; NULL unless verified */
} CkptCheckpointInfo;
void ckpt_checkpoint_info_free(CkptCheckpointInfo *info);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CkptCheckpointInfo, ckpt_checkpoint_info_free)

/* id: checkpoint_id or id, normalised. verify: looks at its files, and records when it is no longer
 * whole. */
CkptCheckpointInfo *ckpt_engine_get_checkpoint(CkptEngine *engine, const char *id, gboolean verify,
                                               GError **error);
#define CKPT_NOT_COMPARED                                                                                   \
    "the catalogue is new, or was lost, and was not compared yet with what lies on this host, for which the "   \
    "hypervisor must answer: there may be checkpoints that are not listed"
/* GPtrArray of CkptCheckpointInfo. warnings (char *): the hypervisor is asked; the snapshots that other tools made
 * are listed too, and what could not be looked at is told there; NULL: only what the catalogue has. */
GPtrArray *ckpt_engine_list_checkpoints(CkptEngine *engine, const CkptCheckpointQuery *query,
                                        gboolean verify, GPtrArray *warnings, GError **error);
CkptOperation *ckpt_engine_get_operation(CkptEngine *engine, const char *identity,
                                         const char *request_id, GError **error);
GPtrArray *ckpt_engine_list_operations(CkptEngine *engine, const CkptOperationQuery *query,
                                       GError **error);

typedef struct {
    CkptVmSummary *summary;
    CkptVm *vm;             /* NULL unless looked at in full */
    guint checkpoint_count;
    char *current_id, *quarantine_reason; /* NULL = none */
    guint chain_depth;      /* 0 unless looked at in full; likewise */
    guint64 checkpoint_bytes;
    CkptGrowth *growth;     /* since the current checkpoint; NULL unless looked at in full, likewise */
    GPtrArray *advice;      /* char * */
} CkptVmInfo;
void ckpt_vm_info_free(CkptVmInfo *info);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CkptVmInfo, ckpt_vm_info_free)
/* All deployed VMs, by name then ID. */
GPtrArray *ckpt_engine_list_vms(CkptEngine *engine, GError **error); /* CkptVmInfo */
CkptVmInfo *ckpt_engine_get_vm(CkptEngine *engine, const char *vm_id, GError **error);
CkptDriver *ckpt_engine_driver(CkptEngine *engine);
const CkptLimits *ckpt_engine_limits(CkptEngine *engine);
/* Why mutations are refused for the whole agent; NULL if they are not. (transfer full) */
char *ckpt_engine_read_only_reason(CkptEngine *engine);
/* Before that is asked for, where the hypervisor answers: a new catalogue may be one that was lost, and one that
 * was is read back. Asks it, once in a catalogue's life, or after a start. */
void ckpt_engine_compare(CkptEngine *engine);
/* FALSE: that is still to be done, and the catalogue may lack what lies on this host. */
gboolean ckpt_engine_is_compared(CkptEngine *engine);
/* TRUE while operations that a crash interrupted are still being finished. */
gboolean ckpt_engine_is_recovering(CkptEngine *engine);
/* TRUE while no operation runs or waits, and there is nothing that the agent was told of and has not looked at. */
gboolean ckpt_engine_is_idle(CkptEngine *engine);

/* ---- The doctor ---- */

/* Compares catalogue, files, definitions, guests and journal, and changes nothing. vm_id NULL or "": of
 * the whole host. CkptFinding, the gravest first. */
GPtrArray *ckpt_engine_diagnose(CkptEngine *engine, const char *vm_id, GError **error);
