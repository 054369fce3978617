/* The planner: (view of the VM, its files, its catalogue; request) → the ordered steps of the
 * operation, or a typed refusal. Pure: it asks nobody, changes nothing, and is given time and chance. */
#pragma once

#include "agent/core/engine.h"

typedef struct {
    const CkptVm *vm;          /* as the driver found it just now, all files of the catalogue included */
    GPtrArray *checkpoints;    /* CkptCheckpoint, all of the VM, DELETING ones too */
    GPtrArray *made;           /* char *, files that the agent made for the VM */
    GPtrArray *doomed;         /* char *, of those, what the catalogue says nobody needs; NULL = none */
    const char *current_id;    /* NULL = none */
    const CkptLimits *limits;
    gint64 now_us;
    const char *new_id;        /* for the checkpoint that the plan makes */
    const char *host_id;       /* as manifests name this host; NULL: whose the files are is not asked */
} CkptPlanInput;

/* The plan of a create, restore or delete. request->checkpoint_id is the checkpoint's own ID. */
CkptPlan *ckpt_plan_make(const CkptPlanInput *input, const CkptRequest *request, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;

/* Why one that is DELETING is not enabled. */
const char *ckpt_plan_deleting_reason(const CkptCheckpoint *checkpoint);

/* Whether the checkpoint can be restored: every file that its contents lie in, down to the root, is
 * there, is what was sealed, is not being written to, and is nobody's writable top. On refusal the
 * error is what disabled_reason should say. */
gboolean ckpt_plan_verify(const CkptPlanInput *input, const CkptCheckpoint *checkpoint,
                          GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* The same of its disks alone: a delete needs no more. */
gboolean ckpt_plan_verify_disks(const CkptPlanInput *input, const CkptCheckpoint *checkpoint,
                                GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* Whether the VM can be trusted as it is found, nobody having asked for anything: definition, running VM,
 * headers, locks and catalogue agree. CHAIN_MISMATCH or VM_QUARANTINED: they do not; any other error:
 * that cannot be told now. */
gboolean ckpt_plan_look(const CkptPlanInput *input, GError **error);
/* Hazards A5, A26: the plan that puts the disks of the persistent definition onto the overlays of ours that
 * QEMU is writing to, where that names a file below them. NULL: there is nothing to be put right. */
CkptPlan *ckpt_plan_mend(const CkptPlanInput *input);

/* Bytes that the files which the checkpoint has beside its disks' take: as they were looked at, else as they
 * were captured. */
guint64 ckpt_plan_extra_bytes(const CkptVm *vm, const CkptCheckpoint *checkpoint);
/* As ckpt_plan_verify(), of its disks and firmware alone, whatever became of its memory image. */
gboolean ckpt_plan_verify_without_memory(const CkptPlanInput *input,
                                         const CkptCheckpoint *checkpoint, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;

/* Checkpoints from the root to this one. */
guint ckpt_plan_depth(GPtrArray *checkpoints, const CkptCheckpoint *checkpoint);
