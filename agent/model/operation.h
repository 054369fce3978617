/* One accepted request and how far it came. */
#pragma once

#include "agent/model/finding.h"
#include "agent/model/plan.h"

typedef enum {
    CKPT_OP_QUEUED = 1,
    CKPT_OP_RUNNING = 2,
    CKPT_OP_SUCCEEDED = 3,
    CKPT_OP_FAILED = 4,
    CKPT_OP_CANCELLED = 5
} CkptOpState;

typedef struct {
    gint64 number;        /* the store's, grows; 0 = not stored yet */
    char *identity, *request_id;
    char *digest;         /* of the normalised request, hexadecimal SHA-256; "" = a cancelled id that is
                             only reserved */
    CkptKind kind;
    CkptOpState state;
    char *vm_id;          /* "" until known */
    char *checkpoint_id;  /* "" until known */
    gint64 created_us, started_us, ended_us;
    CkptRequest *request; /* NULL for a reserved id */
    CkptPlan *plan;       /* NULL until planned */
    gint step_begun;      /* index of the last step begun; -1 = none. step_ended: likewise */
    gint step_ended;
    guint64 bytes_done, bytes_total; /* of the present step; of one that runs, and never stored */
    gboolean undoing;     /* steps are being undone from step_begun downwards */
    /* Why it has failed; while it is open, why it will, once what was begun is undone: that may be another
     * agent's to do, which has not seen it. */
    CkptReason reason;    /* 0 = it has not, or, of an open one, it is not known */
    char *message;
    GHashTable *metadata; /* or NULL */
    /* When it ended: */
    CkptCheckpoint *checkpoint, *safety; /* the stored result; NULL unless SUCCEEDED */
    CkptRepairResult *repair; /* of a REPAIR; likewise */
    GPtrArray *warnings;  /* char *; never NULL */
    char *damage;         /* why its row is not what was written; NULL = it is. Then nothing of the above is sure,
                             and what could not be read is NULL */
} CkptOperation;
CkptOperation *ckpt_operation_new(void);
void ckpt_operation_free(CkptOperation *operation);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CkptOperation, ckpt_operation_free)
/* reason, message and metadata; NULL = none. */
void ckpt_operation_set_error(CkptOperation *operation, const GError *error);
void ckpt_operation_error(const CkptOperation *operation, GError **error);
