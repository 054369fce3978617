/* What a delete would free and cost, by what its files take: bounds, since which parts of two files overlap
 * is in their tables only. */
#include "agent/core/graph.h"
#include "agent/core/plan_merge.h"

/* A qcow2 file's header and tables: of what it takes, what is no contents. */
#define TABLES(layer) ((1u << 20) + (layer)->allocated / 1024)

static void
forecast_removal(const CkptMerge *merge, CkptDiskForecast *disk)
{
    disk->work = merge->disk->agent_made ? CKPT_WORK_REMOVE : CKPT_WORK_LEAVE;
    if (disk->work == CKPT_WORK_LEAVE)
        return;
    disk->from = g_strdup(merge->disk->sealed_file);
    if (merge->sealed)
        disk->freed_min = disk->freed_max = merge->sealed->allocated;
}

/* What both have is freed once; what only the dissolved one has is taken anew. */
static void
forecast_merge(const CkptPlanInput *input, const CkptMerge *merge, CkptDiskForecast *disk)
{
    const CkptLayer *from = ckpt_merge_dissolved(merge), *into = ckpt_merge_target(merge);

    disk->work = merge->pulled ? CKPT_WORK_PULL : CKPT_WORK_COMMIT;
    disk->live = input->vm->power != CKPT_POWER_SHUT_OFF &&
                 ckpt_graph_attached(input, merge->overlay.layer->path) != NULL;
    disk->from = g_strdup(from->path);
    disk->into = g_strdup(into->path);
    disk->into_format = into->format;
    disk->moved = from->allocated;
    disk->needed = ckpt_merge_needs(merge);
    disk->device = into->id.device;
    disk->available = into->fs_available;
    disk->freed_min = from->allocated - MIN(disk->needed, from->allocated);
    disk->freed_max = MIN(from->allocated, into->allocated + TABLES(from));
    disk->freed_min = MIN(disk->freed_min, disk->freed_max);
}

CkptForecast *
ckpt_merge_forecast(const CkptPlanInput *input, const CkptCheckpoint *target, GPtrArray *merges)
{
    CkptForecast *forecast = ckpt_forecast_new();

    forecast->files_freed = ckpt_plan_extra_bytes(input->vm, target);
    for (guint i = 0; i < merges->len; i++) {
        const CkptMerge *merge = g_ptr_array_index(merges, i);
        CkptDiskForecast *disk = g_new0(CkptDiskForecast, 1);

        disk->target = g_strdup(merge->disk->target);
        g_ptr_array_add(forecast->disks, disk);
        if (merge->overlay.layer)
            forecast_merge(input, merge, disk);
        else
            forecast_removal(merge, disk);
    }
    return forecast;
}
