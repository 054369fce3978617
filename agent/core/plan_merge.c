#include "agent/core/plan_merge.h"

#include "agent/core/graph.h"
#include "agent/core/plan_parts.h"

#define LISTED 8 /* branches in a message; the rest is counted */

static CkptTreeFile
tree_file(const CkptPlanInput *input, CkptLayer *layer)
{
    CkptTreeFile file = {.layer = layer};

    file.owner = ckpt_graph_owner(input, layer->path, &file.disk);
    return file;
}

static void
merge_free(gpointer data)
{
    CkptMerge *merge = data;

    g_array_unref(merge->siblings);
    g_free(merge);
}

/* ---- Refusals ---- */

static void
refuse_branches(const CkptPlanInput *input, const CkptCheckpoint *target, GPtrArray *readers,
                GError **error)
{
    g_autoptr(GString) list = g_string_new(NULL);

    for (guint i = 0; i < readers->len && i < LISTED; i++) {
        CkptLayer *layer = g_ptr_array_index(readers, i);
        g_autofree char *name = ckpt_graph_describe(input, layer->path);

        g_string_append_printf(list, "%s%s", i ? ", " : "", name);
    }
    if (readers->len > LISTED)
        g_string_append_printf(list, " and %u more", readers->len - LISTED);
    ckpt_error_set(error, CKPT_REASON_BRANCH_POINT,
                   "checkpoint %s (%s) is a branch point: %u branches lie on it: %s", target->name,
                   target->id, readers->len, list->str);
}

/* Hazard A18: a template or a linked clone of another VM. */
static gboolean
refuse_user(const CkptPlanInput *input, const char *file, GError **error)
{
    const CkptFileUser *user = ckpt_graph_user(input, file);

    if (!user)
        return FALSE;
    ckpt_error_set(error, CKPT_REASON_BRANCH_POINT, "%s is used by %s", file, user->user);
    ckpt_error_add(error, CKPT_META_FILE, file);
    return TRUE;
}

/* The newest state of an undefined VM's disk, under whatever name. */
static gboolean
has_newest(const CkptPlanInput *input, const char *file)
{
    for (guint i = 0; i < input->made->len; i++) {
        const char *other = g_ptr_array_index(input->made, i);
        const CkptLayer *layer = ckpt_vm_find_file(input->vm, other);

        if (layer && layer->exists && !ckpt_graph_owner(input, other, NULL) &&
            !g_str_equal(other, file) && ckpt_graph_same_disk(input, other, file))
            return TRUE;
    }
    return FALSE;
}

static gboolean
refuse_pinned(const CkptPlanInput *input, const CkptLayer *layer, CkptPin least, const char *what,
              GError **error)
{
    const CkptSnapshot *who = NULL;
    CkptPin pin = ckpt_graph_pin(input, layer->path, &who);

    if (pin >= least && who)
        ckpt_error_set(error, CKPT_REASON_FOREIGN_SNAPSHOT_PRESENT,
                       "%s would be %s, but snapshot '%s', which another tool made, %s: delete that "
                       "first, with the tool that made it (virsh snapshot-delete)",
                       layer->path, what, who->name,
                       pin == CKPT_PIN_CONTENTS ? "consists of what is in it" : "has it");
    else if (least == CKPT_PIN_NAMED && layer->snapshots) /* a table that could not be read */
        ckpt_error_set(error, CKPT_REASON_FOREIGN_SNAPSHOT_PRESENT,
                       "%s would be %s, but holds internal snapshots, which another tool made: delete "
                       "those first (virsh snapshot-delete)",
                       layer->path, what);
    else
        return FALSE;
    ckpt_error_add(error, CKPT_META_FILE, layer->path);
    return TRUE;
}

/* Somebody who laid a file of his own on one of ours will look for that where it was. */
static gboolean
refuse_foreign_reader(const CkptPlanInput *input, const CkptLayer *layer, GError **error)
{
    const CkptLayer *reader = ckpt_graph_foreign_reader(input, layer->path);

    if (!reader)
        return FALSE;
    ckpt_error_set(error, CKPT_REASON_FOREIGN_SNAPSHOT_PRESENT,
                   "%s would be merged away, but %s, which this agent did not make, lies on it: end that "
                   "with the tool that made it (virsh snapshot-delete, virsh blockcommit)",
                   layer->path, reader->path);
    ckpt_error_add(error, CKPT_META_FILE, reader->path);
    return TRUE;
}

/* Nothing is merged away or removed that a snapshot of another tool names, nor merged into what it
 * consists of. */
static gboolean
refuse_foreign(const CkptPlanInput *input, const CkptMerge *merge, GError **error)
{
    const CkptLayer *overlay = merge->overlay.layer;

    if (!overlay)
        return merge->disk->agent_made && merge->sealed &&
               refuse_pinned(input, merge->sealed, CKPT_PIN_NAMED, "removed", error);
    return refuse_pinned(input, merge->sealed, CKPT_PIN_CONTENTS, "written to", error) ||
           refuse_pinned(input, overlay, CKPT_PIN_NAMED, "merged away", error) ||
           refuse_foreign_reader(input, overlay, error);
}

static gboolean
is_attached(const CkptPlanInput *input, const char *file)
{
    if (!input->vm->definition)
        return has_newest(input, file);
    for (guint i = 0; i < input->vm->disks->len; i++) {
        const CkptDisk *disk = g_ptr_array_index(input->vm->disks, i);

        if (ckpt_graph_same_disk(input, disk->source, file))
            return TRUE;
    }
    return FALSE;
}

/* Beside the present chain a file is only known to be free by its locks. */
static gboolean
refuse_unguarded(const CkptPlanInput *input, const CkptLayer *layer, GError **error)
{
    if (!layer || !layer->unguarded || ckpt_graph_attached(input, layer->path))
        return FALSE;
    ckpt_error_set(error, CKPT_REASON_LOCKS_UNAVAILABLE,
                   "%s lies on a network file system whose locks do not tell whether another host uses it: "
                   "mount it with locks, or set offline_without_locks in [checkpoints] of the agent's "
                   "configuration",
                   layer->path);
    ckpt_error_add(error, CKPT_META_FILE, layer->path);
    return TRUE;
}

/* The newest file of a disk that was detached since may be somebody's only copy of it: neither merged
 * away under its name nor removed. */
static gboolean
refuse_detached(const CkptPlanInput *input, const CkptMerge *merge, GError **error)
{
    const CkptLayer *overlay = merge->overlay.layer;
    const char *newest = overlay ? overlay->path : merge->disk->sealed_file;

    /* Of a VM that is defined nowhere it is merged only because somebody asks for just that: what it holds is
     * in the file below then, which is said. */
    if (overlay ? merge->overlay.owner || ckpt_graph_is_top(input, newest) ||
                      ckpt_graph_attached(input, newest) || !input->vm->definition
                : !merge->disk->agent_made || is_attached(input, newest))
        return FALSE;
    ckpt_error_set(error, CKPT_REASON_DISK_DETACHED,
                   "%s is the newest state of disk %s, which is no longer attached: it may be "
                   "somebody's only copy; attach the disk again, or move the file away by hand",
                   newest, merge->disk->target);
    ckpt_error_add(error, CKPT_META_DISK, merge->disk->target);
    ckpt_error_add(error, CKPT_META_FILE, newest);
    return TRUE;
}

static gboolean
refuse_resized(const CkptMerge *merge, GError **error)
{
    const CkptLayer *overlay = merge->overlay.layer;

    if (merge->sealed->block && overlay->virtual_size > merge->sealed->virtual_size) {
        ckpt_error_set(error, CKPT_REASON_DISK_RESIZED,
                       "disk %s has grown to %" G_GUINT64_FORMAT " bytes, and the block device %s has "
                       "%" G_GUINT64_FORMAT ": make that as large first",
                       merge->disk->target, overlay->virtual_size, merge->disk->sealed_file,
                       merge->sealed->virtual_size);
        return TRUE;
    }
    if (overlay->virtual_size >= merge->sealed->virtual_size)
        return FALSE;
    ckpt_error_set(error, CKPT_REASON_DISK_RESIZED,
                   "disk %s has %" G_GUINT64_FORMAT " bytes in %s and %" G_GUINT64_FORMAT
                   " in %s: it was shrunk since",
                   merge->disk->target, overlay->virtual_size, overlay->path,
                   merge->sealed->virtual_size, merge->disk->sealed_file);
    return TRUE;
}

/* ---- The other direction ---- */

/* The present top lies on the sealed file, and that on a third. */
static CkptLayer *
below_sealed(const CkptPlanInput *input, const CkptMerge *merge)
{
    const CkptLayer *overlay = merge->overlay.layer;
    const CkptDisk *disk = ckpt_graph_attached(input, overlay->path);

    if (!disk || disk->chain->len < 3 || g_ptr_array_index(disk->chain, 0) != overlay ||
        g_ptr_array_index(disk->chain, 1) != merge->sealed ||
        g_strcmp0(disk->source, overlay->path) != 0)
        return NULL;
    return g_ptr_array_index(disk->chain, 2);
}

static gboolean
is_plain(const CkptLayer *layer)
{
    return layer->exists && layer->virtual_size > 0 && !layer->encrypted && !layer->bitmaps &&
           !layer->snapshots;
}

/* Where what the sealed file holds may go up into the top instead. That file is ours to remove, unlike the
 * one that the disk was at first, whose name is to survive. A file below that is longer would show through
 * where the sealed one ended. Nor where the disk was resized since. Never in a running VM: QEMU (7.2, measured;
 * later ones not) dies when it is asked for its block nodes at the end of a block pull, as libvirt does now
 * and then, and names the lower file in the overlay's header before the tables that lead to what it has copied
 * are written, so that a QEMU that is killed then leaves an overlay without it. */
static CkptLayer *
find_pull(const CkptPlanInput *input, const CkptMerge *merge)
{
    const CkptLayer *overlay = merge->overlay.layer, *sealed = merge->sealed;
    CkptLayer *below = below_sealed(input, merge);

    if (!below || input->vm->power != CKPT_POWER_SHUT_OFF || merge->overlay.owner ||
        ckpt_graph_pin(input, sealed->path, NULL) || ckpt_graph_pin(input, overlay->path, NULL) ||
        !merge->disk->agent_made || !ckpt_graph_agent_made(input, sealed->path))
        return NULL;
    if (overlay->format != CKPT_FORMAT_QCOW2 || sealed->format != CKPT_FORMAT_QCOW2 ||
        !sealed->backing_format || !is_plain(overlay) || !is_plain(sealed) || !is_plain(below) ||
        overlay->virtual_size != sealed->virtual_size || sealed->virtual_size < below->virtual_size)
        return NULL;
    return below;
}

/* A merge moves what the overlay holds, a pull what the sealed file holds. Where they are about equal it is
 * the merge, which makes the chain's lowest file the only one in the end. */
static void
choose_direction(const CkptPlanInput *input, CkptMerge *merge)
{
    CkptLayer *below = find_pull(input, merge);

    if (below && merge->sealed->allocated < merge->overlay.layer->allocated / 2)
        merge->pulled = below;
}

CkptLayer *
ckpt_merge_dissolved(const CkptMerge *merge)
{
    return merge->pulled ? merge->sealed : merge->overlay.layer;
}

/* Known before anything changes: a delete that has begun could only be finished with the VM off. */
static gboolean
refuse_confined(const CkptPlanInput *input, const CkptMerge *merge, GError **error)
{
    if (!merge->sealed->commit_denied || input->vm->power == CKPT_POWER_SHUT_OFF ||
        !ckpt_graph_attached(input, merge->overlay.layer->path))
        return FALSE;
    ckpt_error_set(error, CKPT_REASON_SHUT_DOWN_REQUIRED,
                   "AppArmor denies the running VM to write to %s, into which disk %s would be merged "
                   "(mended in libvirt 12.1): shut the VM down (virsh shutdown %s) and delete the "
                   "checkpoint then",
                   merge->disk->sealed_file, merge->disk->target, input->vm->name);
    ckpt_error_add(error, CKPT_META_DISK, merge->disk->target);
    ckpt_error_add(error, CKPT_META_FILE, merge->disk->sealed_file);
    return TRUE;
}

static gboolean
check_overlay(const CkptPlanInput *input, CkptMerge *merge, GError **error)
{
    const CkptLayer *overlay = merge->overlay.layer;

    if (refuse_user(input, overlay->path, error))
        return FALSE;
    if (!ckpt_graph_agent_made(input, overlay->path)) {
        ckpt_error_set(error, CKPT_REASON_BRANCH_POINT,
                       "%s, which lies on %s, was not made by this agent, as far as its catalogue tells",
                       overlay->path, merge->disk->sealed_file);
        return FALSE;
    }
    if (refuse_resized(merge, error))
        return FALSE;
    choose_direction(input, merge);
    return !refuse_confined(input, merge, error);
}

/* Beside the present chain a header is rewritten while nobody reads the file (hazard A27): one that is not
 * ours, or that the VM has attached elsewhere, is left alone, and with it the delete. */
static gboolean
check_sibling(const CkptPlanInput *input, const CkptMerge *merge, const CkptTreeFile *sibling,
              GError **error)
{
    const CkptLayer *layer = sibling->layer;
    gboolean ours = sibling->owner || ckpt_graph_agent_made(input, layer->path);

    if (refuse_user(input, layer->path, error) || refuse_unguarded(input, layer, error))
        return FALSE;
    if (ours && !layer->read_locked && !layer->write_locked &&
        !ckpt_graph_attached(input, layer->path))
        return TRUE;
    ckpt_error_set(error, CKPT_REASON_BRANCH_REBASE_REQUIRED,
                   "%s lies on %s, which would be merged, and cannot be put on %s: %s", layer->path,
                   merge->overlay.layer->path, merge->disk->sealed_file,
                   ours ? "it is in use" : "this agent did not make it");
    ckpt_error_add(error, CKPT_META_FILE, layer->path);
    return FALSE;
}

/* A damaged tree is left as it is, for inspection. */
static gboolean
check_whole(const CkptPlanInput *input, const CkptCheckpoint *checkpoint, GError **error)
{
    if (!checkpoint || ckpt_plan_verify_disks(input, checkpoint, error))
        return TRUE;
    g_prefix_error(error, "checkpoint %s (%s) is not whole, the files are left for inspection: ",
                   checkpoint->name, checkpoint->id);
    return FALSE;
}

/* ---- What lies where ---- */

/* Of the files on the overlay, the one of the present chain, else any: QEMU and qemu-img move one along
 * with a merge. */
static void
sort_readers(const CkptPlanInput *input, GPtrArray *readers, CkptMerge *merge)
{
    guint above = 0;

    for (guint i = 0; i < readers->len; i++) {
        const CkptLayer *layer = g_ptr_array_index(readers, i);

        if (ckpt_graph_attached(input, layer->path))
            above = i;
    }
    for (guint i = 0; i < readers->len; i++) {
        CkptTreeFile file = tree_file(input, g_ptr_array_index(readers, i));

        if (i == above)
            merge->above = file;
        else
            g_array_append_val(merge->siblings, file);
    }
}

static gboolean
find_above(const CkptPlanInput *input, CkptMerge *merge, GError **error)
{
    const char *overlay = merge->overlay.layer->path;
    g_autoptr(GPtrArray) readers = ckpt_graph_readers(input, overlay);

    if (readers->len > 0 && ckpt_graph_is_top(input, overlay)) {
        ckpt_error_set(error, CKPT_REASON_BRANCH_POINT,
                       "%s, the present state of disk %s, has %s lying on it", overlay,
                       merge->disk->target, ((CkptLayer *)readers->pdata[0])->path);
        ckpt_error_add(error, CKPT_META_FILE, overlay);
        return FALSE;
    }
    sort_readers(input, readers, merge);
    if (merge->above.layer && !ckpt_graph_attached(input, merge->above.layer->path) &&
        !check_sibling(input, merge, &merge->above, error))
        return FALSE;
    for (guint i = 0; i < merge->siblings->len; i++)
        if (!check_sibling(input, merge, &g_array_index(merge->siblings, CkptTreeFile, i), error))
            return FALSE;
    return TRUE;
}

static gboolean
find_merge(const CkptPlanInput *input, const CkptCheckpoint *target, CkptMerge *merge,
           GError **error)
{
    g_autoptr(GPtrArray) readers = ckpt_graph_readers(input, merge->disk->sealed_file);

    merge->sealed = ckpt_vm_find_file(input->vm, merge->disk->sealed_file);
    if (refuse_user(input, merge->disk->sealed_file, error))
        return FALSE;
    if (readers->len > 1) {
        refuse_branches(input, target, readers, error);
        return FALSE;
    }
    if (readers->len == 1) {
        merge->overlay = tree_file(input, g_ptr_array_index(readers, 0));
        if (!find_above(input, merge, error))
            return FALSE;
    }
    if (refuse_foreign(input, merge, error) ||
        refuse_unguarded(input, merge->overlay.layer ? merge->overlay.layer : merge->sealed, error))
        return FALSE;
    if (refuse_detached(input, merge, error))
        return FALSE;
    return !merge->overlay.layer || check_overlay(input, merge, error);
}

static gboolean
check_owners(const CkptPlanInput *input, const CkptMerge *merge, GError **error)
{
    if (!check_whole(input, merge->overlay.owner, error) ||
        !check_whole(input, merge->above.owner, error))
        return FALSE;
    for (guint i = 0; i < merge->siblings->len; i++)
        if (!check_whole(input, g_array_index(merge->siblings, CkptTreeFile, i).owner, error))
            return FALSE;
    return TRUE;
}

const CkptLayer *
ckpt_merge_target(const CkptMerge *merge)
{
    return merge->pulled ? merge->overlay.layer : merge->sealed;
}

/* What an overlay holds may all be new to the file below, as far as that has no blocks for it; the overlay
 * is freed afterwards; and the other way round in a pull. */
guint64
ckpt_merge_needs(const CkptMerge *merge)
{
    const CkptLayer *overlay = merge->overlay.layer, *sealed = merge->sealed;

    if (!overlay)
        return 0;
    if (merge->pulled)
        return sealed->allocated;
    if (merge->disk->format != CKPT_FORMAT_RAW)
        return overlay->allocated;
    return MIN(overlay->allocated,
               overlay->virtual_size - MIN(sealed->allocated, overlay->virtual_size));
}

static gboolean
check_space(const CkptPlanInput *input, GPtrArray *merges, GError **error)
{
    g_autoptr(GArray) space = ckpt_plan_space_new();

    for (guint i = 0; i < merges->len; i++) {
        const CkptMerge *merge = g_ptr_array_index(merges, i);
        guint64 needed = ckpt_merge_needs(merge);

        /* One that takes nothing is the way out where the reserve is touched already. */
        if (needed > 0 && !ckpt_plan_take_space(input, space, ckpt_merge_target(merge), needed, error))
            return FALSE;
    }
    return TRUE;
}

GPtrArray *
ckpt_merge_find_all(const CkptPlanInput *input, const CkptCheckpoint *target, GError **error)
{
    g_autoptr(GPtrArray) merges = g_ptr_array_new_with_free_func(merge_free);

    if (!check_whole(input, target, error))
        return NULL;
    for (guint i = 0; i < target->disks->len; i++) {
        CkptMerge *merge = g_new0(CkptMerge, 1);

        merge->disk = g_ptr_array_index(target->disks, i);
        merge->siblings = g_array_new(FALSE, FALSE, sizeof(CkptTreeFile));
        g_ptr_array_add(merges, merge);
        if (!find_merge(input, target, merge, error) || !check_owners(input, merge, error))
            return NULL;
    }
    return check_space(input, merges, error) ? g_steal_pointer(&merges) : NULL;
}
