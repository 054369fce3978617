#include "agent/core/growth.h"

#include "agent/core/graph.h"

typedef struct {
    guint64 device;
    guint64 available;
    double per_hour; /* bytes, of this VM alone */
    const char *file;
} Volume;

void
ckpt_growth_free(CkptGrowth *growth)
{
    if (!growth)
        return;
    g_free(growth->file);
    g_free(growth);
}

/* The disk's top, if that is an overlay of the agent's on the checkpoint's own file. */
static const CkptLayer *
written_top(const CkptPlanInput *input, const CkptCheckpointDisk *disk)
{
    const CkptDisk *attached = ckpt_graph_attached(input, disk->sealed_file);
    const CkptLayer *top;

    if (!attached || attached->chain->len < 2)
        return NULL;
    top = g_ptr_array_index(attached->chain, 0);
    return top->exists && ckpt_graph_agent_made(input, top->path) &&
                   g_strcmp0(top->backing, disk->sealed_file) == 0
               ? top
               : NULL;
}

/* Where the file system does not tell when it was made: when the VM came to the checkpoint. */
static gint64
written_since(const CkptCheckpoint *checkpoint, const CkptLayer *top)
{
    if (top->born_us)
        return top->born_us;
    return g_strcmp0(checkpoint->most_recent_task, ckpt_kind_task(CKPT_KIND_RESTORE)) == 0
               ? checkpoint->modified_us
               : checkpoint->added_us;
}

static void
add_rate(GArray *volumes, const CkptLayer *top, double per_hour)
{
    Volume first = {top->id.device, top->fs_available, per_hour, top->path};

    for (guint i = 0; i < volumes->len; i++) {
        Volume *volume = &g_array_index(volumes, Volume, i);

        if (volume->device == top->id.device) {
            volume->per_hour += per_hour;
            return;
        }
    }
    g_array_append_val(volumes, first);
}

static void
add_top(const CkptPlanInput *input, const CkptCheckpoint *checkpoint, const CkptLayer *top,
        GArray *volumes, CkptGrowth *growth)
{
    gint64 since = written_since(checkpoint, top), age = input->now_us - since;

    growth->has_rate = (growth->has_rate || !growth->known) && age >= CKPT_GROWTH_MIN_AGE_US;
    growth->known = TRUE;
    growth->bytes += top->allocated;
    growth->since_us = growth->since_us ? MIN(growth->since_us, since) : since;
    if (growth->has_rate)
        add_rate(volumes, top, (double)top->allocated * G_TIME_SPAN_HOUR / (double)age);
}

static void
find_first_full(GArray *volumes, CkptGrowth *growth)
{
    double per_hour = 0, first = 0;

    for (guint i = 0; i < volumes->len; i++) {
        const Volume *volume = &g_array_index(volumes, Volume, i);
        double hours = volume->per_hour > 0 ? (double)volume->available / volume->per_hour : -1;

        per_hour += volume->per_hour;
        if (hours < 0 || (growth->will_be_full && hours >= first))
            continue;
        growth->will_be_full = TRUE;
        first = hours;
        growth->hours = (guint64)hours;
        ckpt_set_str(&growth->file, volume->file);
    }
    growth->bytes_per_hour = (guint64)per_hour;
}

static void
measure_present(const CkptPlanInput *input, const CkptCheckpoint *checkpoint, CkptGrowth *growth)
{
    g_autoptr(GArray) volumes = g_array_new(FALSE, FALSE, sizeof(Volume));

    for (guint i = 0; i < checkpoint->disks->len; i++) {
        const CkptLayer *top = written_top(input, g_ptr_array_index(checkpoint->disks, i));

        if (top)
            add_top(input, checkpoint, top, volumes, growth);
    }
    if (growth->has_rate)
        find_first_full(volumes, growth);
}

/* Those are sealed themselves: what they take does not change any more. */
static void
measure_past(const CkptPlanInput *input, const CkptCheckpoint *checkpoint, CkptGrowth *growth)
{
    for (guint i = 0; i < checkpoint->disks->len; i++) {
        const CkptCheckpointDisk *disk = g_ptr_array_index(checkpoint->disks, i);
        g_autoptr(GPtrArray) readers = ckpt_graph_readers(input, disk->sealed_file);

        for (guint k = 0; k < readers->len; k++) {
            const CkptLayer *layer = g_ptr_array_index(readers, k);

            if (!layer->exists || !ckpt_graph_agent_made(input, layer->path))
                continue;
            growth->known = TRUE;
            growth->bytes += layer->allocated;
        }
    }
}

CkptGrowth *
ckpt_growth_measure(const CkptPlanInput *input, const CkptCheckpoint *checkpoint)
{
    CkptGrowth *growth = g_new0(CkptGrowth, 1);

    if (!checkpoint || input->vm->mechanism == CKPT_MECHANISM_NATIVE)
        return growth;
    if (g_strcmp0(input->current_id, checkpoint->id) == 0)
        measure_present(input, checkpoint, growth);
    else
        measure_past(input, checkpoint, growth);
    return growth;
}
