/* What the doctor finds: one thing that is not as it should be, and what can be done about it. */
#pragma once

#include "agent/model/types.h"

/* Values equal the proto's, and are part of a finding's id. */
typedef enum {
    CKPT_FINDING_CATALOGUE_REBUILT = 1,
    CKPT_FINDING_CATALOGUE_DAMAGED = 2,
    CKPT_FINDING_FILE_MISSING = 3,
    CKPT_FINDING_SEALED_FILE_CHANGED = 4,
    CKPT_FINDING_SEALED_FILE_WRITABLE = 5,
    CKPT_FINDING_SEALED_FILE_IN_USE = 6,
    CKPT_FINDING_CHECKPOINT_DISABLED = 7,
    CKPT_FINDING_CHAIN_MISMATCH = 8,
    CKPT_FINDING_VM_QUARANTINED = 9,
    CKPT_FINDING_GUEST_FROZEN = 10,
    CKPT_FINDING_GUEST_PAUSED = 11,
    CKPT_FINDING_OPERATION_UNFINISHED = 12,
    CKPT_FINDING_DELETE_UNFINISHED = 13,
    CKPT_FINDING_FILE_UNNEEDED = 14,
    CKPT_FINDING_FILE_UNKNOWN = 15,
    CKPT_FINDING_MANIFEST_MISSING = 16,
    CKPT_FINDING_MANIFEST_UNKNOWN = 17,
    CKPT_FINDING_LEFTOVER = 18,
    CKPT_FINDING_CHECKPOINT_ORPHANED = 19,
    CKPT_FINDING_SPACE_LOW = 20,
    CKPT_FINDING_NOT_EXAMINED = 21,
    CKPT_FINDING_END_
} CkptFindingKind;
const char *ckpt_finding_kind_name(CkptFindingKind kind); /* "file-missing" */

typedef enum {
    CKPT_SEVERITY_NOTE = 1,
    CKPT_SEVERITY_WARNING = 2,
    CKPT_SEVERITY_ERROR = 3
} CkptSeverity;

typedef struct {
    char *id; /* 16 hexadecimal digits; the same as long as it is about the same thing */
    CkptFindingKind kind;
    CkptSeverity severity;
    char *vm_id, *vm_name, *checkpoint_id, *file; /* "" = none */
    char *message;      /* what is wrong, and what to do where no repair can */
    char *repair;       /* what a repair would do; "" = none can */
    char *origin;       /* of files and checkpoints that nobody here owns: whose they are; "" = not known */
    char *repair_error; /* why a repair that was tried was not done; "" = none was */
} CkptFinding;
/* checkpoint_id and file may be NULL; message: severity is for whoever makes it to set. */
CkptFinding *ckpt_finding_new(CkptFindingKind kind, CkptSeverity severity, const char *vm_id,
                              const char *checkpoint_id, const char *file);
CkptFinding *ckpt_finding_copy(const CkptFinding *finding);
void ckpt_finding_free(CkptFinding *finding);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CkptFinding, ckpt_finding_free)
/* How a repair came out. */
typedef struct {
    GPtrArray *repaired; /* CkptFinding, as they were */
    GPtrArray *left;     /* CkptFinding, as they are now */
    GPtrArray *vanished; /* char *: asked for by their ids, and not found at all */
} CkptRepairResult;
CkptRepairResult *ckpt_repair_result_new(void);
void ckpt_repair_result_free(CkptRepairResult *result);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CkptRepairResult, ckpt_repair_result_free)

GPtrArray *ckpt_findings_new(void); /* of CkptFinding, which it owns */
const CkptFinding *ckpt_findings_lookup(GPtrArray *findings, const char *id); /* NULL if none */
