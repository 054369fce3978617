/* Views of a VM with its disks, files and checkpoints, put together by hand, and what the planner makes of
 * them. */
#pragma once

#include "cmocka_all.h"

#include "agent/core/planner.h"

#define MIB (1024 * 1024)

typedef struct {
    CkptVm *vm;
    GPtrArray *checkpoints, *made, *doomed;
    CkptLimits limits;
    CkptPlanInput input;
    char *current;
    guint64 inode;
} World;

World *world_new(void); /* a running VM without disks */
void world_free(World *world);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(World, world_free)
/* One disk with a line of checkpoints c1 … cN and the present state on cN. base ← o1 ← o2 … */
World *world_with_line(guint count);

/* backing NULL: a raw one. Of 64 MiB, with 1 GiB free beside it. */
CkptLayer *world_add_file(World *world, const char *path, const char *backing);
CkptDisk *world_add_disk(World *world, const char *target, const char *top);
void world_put_on(World *world, CkptDisk *disk, const char *top);
/* A checkpoint whose only disk vda lies in `file`. */
CkptCheckpoint *world_add_checkpoint(World *world, const char *id, const char *parent, const char *file);
/* A second branch on the checkpoint: a safety checkpoint sealed `file`, which lies on `backing`. */
void world_add_branch(World *world, const char *id, const char *parent, const char *file,
                      const char *backing);
void world_set_current(World *world, const char *id);

CkptPlan *world_plan(World *world, CkptKind kind, const char *checkpoint_id, GError **error);
CkptPlan *world_plan_request(World *world, CkptRequest *request, GError **error);
CkptPlan *world_must_plan(World *world, CkptKind kind, const char *checkpoint_id);
void assert_refused(World *world, CkptKind kind, const char *checkpoint_id, CkptReason reason);

char *plan_names(const CkptPlan *made); /* "make-overlay seal …" */
void assert_steps(const CkptPlan *made, const char *expected);
/* The nth of the kind, from 0; the test fails if there is none. */
CkptStep *plan_find_step(const CkptPlan *made, CkptStepKind kind, guint nth);
guint plan_count_steps(const CkptPlan *made, CkptStepKind kind);
CkptChange *plan_last_change(const CkptPlan *made);
