#include "agent/core/advice.h"

#include "agent/core/graph.h"
#include "agent/core/plan_parts.h"

#include "common/text.h"

#define SOON_HOURS 24

typedef struct {
    guint checkpoints;
    guint64 bytes;    /* of all files that the agent made for the VM */
    GString *folders; /* those of the sealed files, each once */
} Held;

static void
say(GPtrArray *advice, const char *format, ...) G_GNUC_PRINTF(2, 3);
static void
say(GPtrArray *advice, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_ptr_array_add(advice, g_strdup_vprintf(format, args));
    va_end(args);
}

static void
add_folders(const CkptCheckpoint *checkpoint, GHashTable *seen, GString *folders)
{
    for (guint i = 0; i < checkpoint->disks->len; i++) {
        const CkptCheckpointDisk *disk = g_ptr_array_index(checkpoint->disks, i);
        char *folder = g_path_get_dirname(disk->sealed_file);

        if (g_hash_table_contains(seen, folder)) {
            g_free(folder);
            continue;
        }
        g_string_append_printf(folders, "%s%s", folders->len ? ", " : "", folder);
        g_hash_table_add(seen, folder);
    }
}

static void
count_held(const CkptPlanInput *input, Held *held)
{
    g_autoptr(GHashTable) seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);

    for (guint i = 0; i < input->checkpoints->len; i++) {
        const CkptCheckpoint *checkpoint = g_ptr_array_index(input->checkpoints, i);

        held->checkpoints++;
        add_folders(checkpoint, seen, held->folders);
    }
    for (guint i = 0; i < input->made->len; i++) {
        const CkptLayer *layer = ckpt_vm_find_file(input->vm, g_ptr_array_index(input->made, i));

        if (layer && layer->exists)
            held->bytes += layer->allocated;
    }
}

/* Nothing of ours stands in libvirt, so that nothing hinders whoever does either. */
static void
advise_of_moving(const CkptPlanInput *input, const Held *held, GPtrArray *advice)
{
    g_autofree char *size = ckpt_size_text(held->bytes);
    const char *plural = held->checkpoints == 1 ? "" : "s";

    say(advice,
        "migrating the VM with its storage (virsh migrate --copy-storage-all, or -inc) leaves its "
        "%u checkpoint%s behind on this host: the disks arrive flat, and %s stay in %s, of use to "
        "nobody there; delete the checkpoints first, or migrate on shared storage",
        held->checkpoints, plural, size, held->folders->str);
    say(advice,
        "storing the VM leaves its %u checkpoint%s behind: each disk is a chain of files, of which a "
        "library's definition names the top alone; delete the checkpoints first",
        held->checkpoints, plural);
}

static void
advise_of_depth(const CkptPlanInput *input, GPtrArray *advice)
{
    const CkptCheckpoint *current = ckpt_graph_find(input->checkpoints, input->current_id);
    guint depth = ckpt_plan_depth(input->checkpoints, current), limit = input->limits->max_depth;

    if (depth >= limit)
        say(advice,
            "the VM is at checkpoint %u of a line of %u at most (limits.max_depth): no further one "
            "can be created until some are deleted", depth, limit);
    else if (ckpt_plan_is_deep(depth, limit))
        say(advice, "the VM is at checkpoint %u of a line of %u at most (limits.max_depth): each "
                    "one slows its disks; delete those that are no longer needed", depth, limit);
}

static void
advise_of_space(const CkptPlanInput *input, const CkptGrowth *growth, GPtrArray *advice)
{
    if (growth->has_rate && growth->will_be_full && growth->hours < SOON_HOURS) {
        g_autofree char *rate = ckpt_size_text(growth->bytes_per_hour);

        say(advice, "the file system of %s is full in %" G_GUINT64_FORMAT " hours if the VM goes on "
                    "writing %s an hour", growth->file, growth->hours, rate);
    }
    for (guint i = 0; i < input->vm->disks->len; i++) {
        const CkptDisk *disk = g_ptr_array_index(input->vm->disks, i);
        const CkptLayer *top = disk->chain->len ? g_ptr_array_index(disk->chain, 0) : NULL;
        g_autofree char *available = ckpt_size_text(top ? top->fs_available : 0);

        if (top && top->exists && top->fs_available < ckpt_plan_reserve_of(input->limits, top))
            say(advice, "the file system of %s has %s free, less than its reserve: no checkpoint can "
                        "be created", top->path, available);
    }
}

GPtrArray *
ckpt_advice_of(const CkptPlanInput *input, const CkptGrowth *growth)
{
    GPtrArray *advice = g_ptr_array_new_with_free_func(g_free);
    Held held = {.folders = g_string_new(NULL)};

    if (input->vm->mechanism != CKPT_MECHANISM_NATIVE) {
        count_held(input, &held);
        if (held.checkpoints > 0)
            advise_of_moving(input, &held, advice);
        advise_of_depth(input, advice);
        advise_of_space(input, growth, advice);
    }
    g_string_free(held.folders, TRUE);
    return advice;
}
