/* The executor: runs a journalled plan step by step, and takes it up again after a crash or an error,
 * forward or back. */
#pragma once

#include "agent/hypervisor/hypervisor.h"
#include "agent/store/store.h"

typedef struct {
    CkptDriver *driver;
    CkptStore *store;
    CkptOperation *operation; /* with a plan; step_begun tells how far it came: -1 = fresh */
    GCancellable *cancellable;
    const int *stopping;      /* atomic; non-zero: stop at the next step's end */
    CkptProgressFunc progress;
    void (*on_step)(gpointer data); /* a step began */
    gpointer data;            /* for progress and on_step */
    char *alarm;              /* result: why the VM is to be quarantined although it is DONE; NULL = it
                                 is not. The caller frees it */
    CkptChange *left;         /* result of an operation that was undone: what of it is left behind, to be
                                 stored with its end. NULL = nothing. The caller frees it */
} CkptExecution;

typedef enum {
    CKPT_END_DONE,   /* the operation is stored as SUCCEEDED */
    CKPT_END_FAILED, /* *error says why; the VM is as before, or (delete) only to be finished */
    CKPT_END_STUCK,  /* *error says why; neither way could be taken to its end: quarantine */
    CKPT_END_LATER   /* the hypervisor is away, or the agent stops: run again with the same journal */
} CkptEnd;

CkptEnd ckpt_execute(CkptExecution *execution, GError **error);
