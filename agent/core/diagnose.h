/* The doctor's eye: what is not as it should be, told from what was read. Pure: it asks nobody and
 * changes nothing. Finding is here, doctor.c reads the world, repair.c puts right. */
#pragma once

#include "agent/core/planner.h"
#include "agent/model/finding.h"
#include "agent/model/operation.h"
#include "agent/store/store.h"

/* One VM that the catalogue knows, or that is defined here. */
typedef struct {
    const char *vm_id;
    /* NULL: it is not defined on this host. */
    const CkptPlanInput *input;
    GPtrArray *checkpoints;     /* CkptCheckpoint, all of it */
    const CkptVmRecord *record;
    const CkptGuest *guest;     /* NULL: nobody asked it */
    GPtrArray *operations;      /* CkptOperation of the VM that have not ended; plans are not needed */
    const char *unread;         /* an operation of it may not have ended, and its row is damaged; NULL = none */
    gboolean left_stuck;        /* its last operation ended neither way (RECOVERY_FAILED) */
    gint64 now_us;
} CkptDiagnosis;

/* Adds what is found to findings (CkptFinding); one that is there already is not added again. */
void ckpt_diagnose_vm(const CkptDiagnosis *diagnosis, GPtrArray *findings);

/* What lies in the folders of all disks. */
typedef struct {
    const CkptFoundFiles *found;
    GPtrArray *rows;         /* CkptCheckpoint of all VMs */
    GHashTable *known;       /* set of paths that the catalogue or a definition knows */
    const char *host_id;
    const CkptVm *strangers; /* those that nobody knows, as they were looked at; NULL = they could not be */
} CkptFoundLook;
void ckpt_diagnose_folders(const CkptFoundLook *look, GPtrArray *findings);

/* What others depend on first: files, then the chain, the quarantine, the guest. */
void ckpt_findings_sort_for_repair(GPtrArray *findings);

/* Takes it; *message and the rest are set by the caller. NULL: the same is in findings already. */
CkptFinding *ckpt_findings_add(GPtrArray *findings, CkptFinding *finding);
