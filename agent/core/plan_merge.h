/* What the delete of a checkpoint means for one of its disks: which file is merged into which, who is
 * told of it, and every reason not to. Inside the planner only. */
#pragma once

#include "agent/core/planner.h"

/* A file in the tree, and the checkpoint that sealed it. */
typedef struct {
    CkptLayer *layer;         /* NULL: there is no such file */
    CkptCheckpoint *owner;    /* NULL: nobody sealed it, it is a top */
    CkptCheckpointDisk *disk; /* the owner's entry for it; NULL likewise */
} CkptTreeFile;

/* Before:  above, siblings → overlay → sealed.   After:  above, siblings → sealed, which holds what the
 * overlay held. Everything is borrowed but the arrays. */
typedef struct {
    CkptCheckpointDisk *disk; /* the deleted checkpoint's */
    CkptLayer *sealed;        /* its file */
    CkptTreeFile overlay;     /* the one file that lies on it; no layer: none does */
    CkptTreeFile above;       /* the file on the overlay that the merge itself moves: that of the present
                                 chain, if the overlay is in it */
    GArray *siblings;         /* CkptTreeFile: the others on the overlay, rebased after the merge */
    CkptLayer *pulled;        /* NULL: as above. Else the work goes the other way: overlay → this, what the
                                 sealed file lies on; the overlay, the present top, holds what the sealed
                                 file held, and that is removed */
} CkptMerge;
/* The file of the two that nobody needs afterwards. */
CkptLayer *ckpt_merge_dissolved(const CkptMerge *merge);
/* The other one, into which that goes. */
const CkptLayer *ckpt_merge_target(const CkptMerge *merge);
/* Bytes that may be taken where that lies, before any is freed. */
guint64 ckpt_merge_needs(const CkptMerge *merge);

/* For each of the checkpoint's disks; NULL if one of them forbids the delete. BRANCH_POINT, with the list
 * of branches, is the refusal that passes when branches go. */
GPtrArray *ckpt_merge_find_all(const CkptPlanInput *input, const CkptCheckpoint *target,
                               GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* plan_forecast.c: what these merges would free and cost. (transfer full) */
CkptForecast *ckpt_merge_forecast(const CkptPlanInput *input, const CkptCheckpoint *target,
                                  GPtrArray *merges);
