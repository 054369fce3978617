/* How fast a VM's disks take space since a checkpoint, and when their file systems will be full. */
#pragma once

#include "agent/core/planner.h"

/* Below that age what a layer takes says nothing of how fast it grows. */
#define CKPT_GROWTH_MIN_AGE_US G_TIME_SPAN_MINUTE

struct _CkptGrowth {
    gboolean known;   /* FALSE: no file of the agent's is written to since; the rest is then unset */
    guint64 bytes;    /* allocated by the files written to since */
    gint64 since_us;  /* since when the oldest of them is written to; 0 unless the VM is at the checkpoint */
    gboolean has_rate;
    guint64 bytes_per_hour;
    gboolean will_be_full;
    guint64 hours;    /* until the first of their file systems has nothing free */
    char *file;       /* the one in that file system */
};
void ckpt_growth_free(CkptGrowth *growth);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CkptGrowth, ckpt_growth_free)

/* Of the checkpoint that the VM is at: the tops that lie on its sealed files, with their rate. Of another:
 * the agent's files that lie directly on its own. checkpoint NULL: nothing is known. (transfer full) */
CkptGrowth *ckpt_growth_measure(const CkptPlanInput *input, const CkptCheckpoint *checkpoint);
