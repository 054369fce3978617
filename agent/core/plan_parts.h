/* What the plans of create, restore and delete are put together from. Inside the planner only. */
#pragma once

#include "agent/core/planner.h"

CkptPlan *ckpt_plan_create(const CkptPlanInput *input, const CkptRequest *request, GError **error);
CkptPlan *ckpt_plan_restore(const CkptPlanInput *input, const CkptRequest *request, GError **error);
CkptPlan *ckpt_plan_delete(const CkptPlanInput *input, const CkptRequest *request, GError **error);

/* Each disk's top is no sealed file (hazard A22), and lies on the current checkpoint's. */
gboolean ckpt_plan_check_tops(const CkptPlanInput *input, GError **error);

/* plan_native.c: all three, for a VM whose hypervisor keeps the checkpoints. */
CkptPlan *ckpt_plan_native(const CkptPlanInput *input, const CkptRequest *request, GError **error);
gboolean ckpt_plan_verify_native(const CkptPlanInput *input, const CkptCheckpoint *checkpoint,
                                 GError **error);

/* VM_MOVED: a manifest beside one of the VM's files says that its checkpoint is another agent's. */
gboolean ckpt_plan_refuse_moved(const CkptPlanInput *input, GError **error);
/* Whether what forbids operating on the VM refuses the request; *error is then set. */
gboolean ckpt_plan_refuse_obstacle(const CkptVm *vm, const CkptRequest *request, GError **error);
/* The row that a create asks for, and the one of the state that a restore of target replaces; IDs of
 * files still unset. */
CkptCheckpoint *ckpt_plan_new_checkpoint(const CkptPlanInput *input, const CkptRequest *request);
CkptCheckpoint *ckpt_plan_new_safety(const CkptPlanInput *input, const CkptRequest *request,
                                     const CkptCheckpoint *target);

/* Appends a step and returns it. */
CkptStep *ckpt_plan_add(CkptPlan *plan, CkptStepKind kind);
CkptStep *ckpt_plan_add_make_overlay(CkptPlan *plan, const char *overlay, const char *base,
                                     CkptFormat base_format, const char *target);
CkptStep *ckpt_plan_add_seal(CkptPlan *plan, const char *file, guint mode_before);
CkptStep *ckpt_plan_add_unseal(CkptPlan *plan, const char *file, guint mode);
/* Steps that make the sealed file writable and take the space that merging `overlay` into it may need. */
void ckpt_plan_add_reserve(CkptPlan *plan, const CkptCheckpointDisk *disk, const CkptLayer *sealed,
                           const CkptLayer *overlay);
/* The same for a pull of the sealed file into the top that lies on it. */
void ckpt_plan_add_reserve_in_top(CkptPlan *plan, const CkptCheckpointDisk *disk, const CkptLayer *top);
CkptStep *ckpt_plan_add_identify(CkptPlan *plan, const char *file);
/* Beside each of the checkpoint's disks. The text is written when the step is run. */
CkptStep *ckpt_plan_add_manifest(CkptPlan *plan, const CkptCheckpoint *checkpoint);
CkptStep *ckpt_plan_add_remove_manifest(CkptPlan *plan, const char *checkpoint_id, const char *file);
CkptStep *ckpt_plan_add_on_disks(CkptPlan *plan, CkptStepKind kind, GPtrArray *disks);
void ckpt_plan_add_remove_file(CkptPlan *plan, const char *file);
void ckpt_plan_add_catalogue(CkptPlan *plan, CkptChange *change); /* change: transfer full */
/* The checkpoint that the plan is about (transfer full). */
void ckpt_plan_set_checkpoint(CkptPlan *plan, CkptCheckpoint *checkpoint);
void ckpt_plan_warn(CkptPlan *plan, const char *format, ...) G_GNUC_PRINTF(2, 3);

/* The overlay to be laid over the disk's files: DISK.ckpt-SHORTID.qcow2, in the folder of `base`, or in that
 * for overlays of block devices. Several disks with one name in one folder are told apart by their targets. */
char *ckpt_plan_overlay_path(const CkptPlanInput *input, CkptPlan *plan, const char *base, const char *target,
                             const char *id);

/* Steps that lay an overlay of input->new_id over each disk of `on`; sized: with the size that the disk
 * had when it was captured (hazard A29). Returns the new tops, CkptDiskFile with their chains, and adds
 * the files to change->made. */
GPtrArray *ckpt_plan_lay_overlays(const CkptPlanInput *input, CkptPlan *plan,
                                  const CkptCheckpoint *on, gboolean sized, CkptChange *change);

/* plan_extras.c: the files that a checkpoint has beside its disks'. */
CkptCheckpointFile *ckpt_plan_add_extra(CkptCheckpoint *checkpoint, CkptFileKind kind, const char *path,
                                        CkptFormat format);
/* Where it is kept: as the first of the new overlays is called, with the kind as its ending. */
char *ckpt_plan_extra_path(GPtrArray *tops, CkptFileKind kind);
/* It is there and is what was captured. */
gboolean ckpt_plan_verify_extra(const CkptPlanInput *input, const CkptCheckpointFile *file, GError **error);
/* The deleted checkpoint's: nobody needs them any more; and the steps, behind that, which remove them. */
void ckpt_plan_give_up_extras(const CkptCheckpoint *checkpoint, CkptChange *change);
void ckpt_plan_add_remove_extras(CkptPlan *plan, const CkptCheckpoint *checkpoint);

/* A step that copies the VM's UEFI variables; `checkpoint` (may be NULL) gets them among its extras. The
 * copy's path, which is the plan's; NULL: the VM has none. */
const char *ckpt_plan_save_nvram(const CkptPlanInput *input, CkptPlan *plan, CkptCheckpoint *checkpoint,
                                 GPtrArray *tops, CkptChange *change);
/* One that says so if a running guest has changed them since. */
void ckpt_plan_compare_nvram(const CkptPlanInput *input, CkptPlan *plan, const char *copy);
/* Whether those of the checkpoint have a place to be put in; warns if it has none and the VM does. */
gboolean ckpt_plan_check_nvram(const CkptPlanInput *input, const CkptCheckpoint *target, CkptPlan *plan,
                               GError **error);
/* One that puts them there, if it has any; undone from `saved`. */
void ckpt_plan_put_nvram(const CkptPlanInput *input, CkptPlan *plan, const CkptCheckpoint *target,
                         const char *saved);

/* plan_backup.c: what becomes of backup tools' bitmaps is warned of, or, where libvirt cannot go on beside
 * them, refused (LIBVIRT_CHECKPOINT_PRESENT). */
gboolean ckpt_plan_backups_at_create(const CkptPlanInput *input, CkptPlan *plan, GError **error);
void ckpt_plan_backups_at_restore(const CkptPlanInput *input, CkptPlan *plan);
void ckpt_plan_backups_at_merge(const CkptPlanInput *input, CkptPlan *plan, const CkptLayer *overlay);

/* A checkpoint of the present state, IDs of files still unset. */
CkptCheckpoint *ckpt_plan_capture(const CkptPlanInput *input, const char *creator);

/* What a plan takes of each file system, over all disks. */
GArray *ckpt_plan_space_new(void);
/* What is kept free where `layer` lies. */
guint64 ckpt_plan_reserve_of(const CkptLimits *limits, const CkptLayer *layer);
/* Takes `bytes` more where `layer` lies: SPACE_LOW when less than the reserve would be left. */
gboolean ckpt_plan_take_space(const CkptPlanInput *input, GArray *space, const CkptLayer *layer,
                              guint64 bytes, GError **error);
/* An overlay as it is made, with its manifest. */
#define CKPT_PLAN_OVERLAY_BYTES (512u * 1024)
/* Hazard A15, long before it is one: from three quarters of the limit on. */
static inline gboolean
ckpt_plan_is_deep(guint depth, guint limit)
{
    return depth * 4 >= limit * 3;
}
gboolean ckpt_plan_check_depth(const CkptPlanInput *input, const CkptCheckpoint *parent,
                               GError **error);
gboolean ckpt_plan_check_etag(const CkptCheckpoint *checkpoint, const CkptRequest *request,
                              GError **error);
/* The request's checkpoint, whose state is READY (a delete's may wait for branches); CHECKPOINT_NOT_FOUND,
 * CHECKPOINT_DELETING, ETAG_MISMATCH, NOT_IMPLEMENTED for one of another mechanism than the VM's. */
CkptCheckpoint *ckpt_plan_find_target(const CkptPlanInput *input, const CkptRequest *request,
                                      GError **error);
