/* Delete: merge downwards. The one overlay that lies on a sealed file of the checkpoint is committed
 * into it; the file then holds what the overlay held, and takes its place. A sealed file on which
 * nothing lies is removed. From the step that marks the checkpoint DELETING on it is only finished. */
#include "agent/core/graph.h"
#include "agent/core/plan_parts.h"

/* What becomes of one disk of the checkpoint. */
typedef struct {
    CkptCheckpointDisk *disk; /* the checkpoint's */
    CkptLayer *sealed;
    CkptLayer *overlay;       /* to be merged into it; NULL: nothing lies on it */
    CkptCheckpoint *overlay_owner;          /* who sealed the overlay; NULL: it is a top */
    CkptCheckpointDisk *overlay_owner_disk;
    CkptLayer *above;         /* what lies on the overlay; NULL: nothing */
    CkptCheckpoint *above_owner;            /* who sealed that; NULL: it is a top */
    CkptCheckpointDisk *above_owner_disk;
} Merge;

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

static void
list_branches(const CkptPlanInput *input, GPtrArray *readers, CkptReason reason, const char *what,
              GError **error)
{
    g_autoptr(GString) list = g_string_new(NULL);

    for (guint i = 0; i < readers->len && i < 8; i++) {
        CkptLayer *layer = g_ptr_array_index(readers, i);
        g_autofree char *name = ckpt_graph_describe(input, layer->path);

        g_string_append_printf(list, "%s%s", i ? ", " : "", name);
    }
    if (readers->len > 8)
        g_string_append_printf(list, " and %u more", readers->len - 8);
    ckpt_error_set(error, reason, "%s is a branch point: %u branches lie on it: %s", what,
                   readers->len, list->str);
}

static gboolean
is_attached(const CkptPlanInput *input, const char *file)
{
    g_auto(GStrv) chain = ckpt_graph_chain(input, file);

    return ckpt_graph_attached(input, chain[g_strv_length(chain) - 1]) != NULL;
}

/* The newest file of a disk that was detached since may be somebody's only copy of it: neither merged
 * away under its name nor removed. */
static gboolean
refuse_detached(const CkptPlanInput *input, const Merge *merge, GError **error)
{
    const char *newest = merge->overlay ? merge->overlay->path : merge->disk->sealed_file;

    if (merge->overlay ? merge->overlay_owner || ckpt_graph_is_top(input, newest)
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
check_overlay(const CkptPlanInput *input, const Merge *merge, GError **error)
{
    const CkptLayer *overlay = merge->overlay;

    if (refuse_user(input, overlay->path, error))
        return FALSE;
    if (!ckpt_graph_agent_made(input, overlay->path)) {
        ckpt_error_set(error, CKPT_REASON_BRANCH_POINT,
                       "%s, which lies on %s, was not made by this agent", overlay->path,
                       merge->disk->sealed_file);
        return FALSE;
    }
    if (overlay->virtual_size < merge->sealed->virtual_size) {
        ckpt_error_set(error, CKPT_REASON_DISK_RESIZED,
                       "disk %s has %" G_GUINT64_FORMAT " bytes in %s and %" G_GUINT64_FORMAT
                       " in %s: it was shrunk since",
                       merge->disk->target, overlay->virtual_size, overlay->path,
                       merge->sealed->virtual_size, merge->disk->sealed_file);
        return FALSE;
    }
    return TRUE;
}

static gboolean
find_above(const CkptPlanInput *input, Merge *merge, GError **error)
{
    g_autoptr(GPtrArray) readers = ckpt_graph_readers(input, merge->overlay->path);

    merge->overlay_owner =
        ckpt_graph_owner(input, merge->overlay->path, &merge->overlay_owner_disk);
    if (readers->len > 1) {
        g_autofree char *what = ckpt_graph_describe(input, merge->overlay->path);

        list_branches(input, readers, CKPT_REASON_BRANCH_REBASE_REQUIRED, what, error);
        g_prefix_error(error, "deleting it would need other branches rebased: ");
        return FALSE;
    }
    if (readers->len == 1) {
        merge->above = g_ptr_array_index(readers, 0);
        merge->above_owner = ckpt_graph_owner(input, merge->above->path, &merge->above_owner_disk);
    }
    return TRUE;
}

static gboolean
find_merge(const CkptPlanInput *input, const CkptCheckpoint *target, CkptCheckpointDisk *disk,
           Merge *merge, GError **error)
{
    g_autoptr(GPtrArray) readers = ckpt_graph_readers(input, disk->sealed_file);

    merge->disk = disk;
    merge->sealed = ckpt_vm_find_file(input->vm, disk->sealed_file);
    if (refuse_user(input, disk->sealed_file, error))
        return FALSE;
    if (readers->len > 1) {
        g_autofree char *what = g_strdup_printf("checkpoint %s (%s)", target->name, target->id);

        list_branches(input, readers, CKPT_REASON_BRANCH_POINT, what, error);
        return FALSE;
    }
    if (readers->len == 1) {
        merge->overlay = g_ptr_array_index(readers, 0);
        if (!find_above(input, merge, error))
            return FALSE;
    }
    if (refuse_detached(input, merge, error))
        return FALSE;
    return !merge->overlay || check_overlay(input, merge, error);
}

/* The final rows of the checkpoints that the delete touches; each is made once. */
static CkptCheckpoint *
upsert(CkptChange *change, const CkptCheckpoint *checkpoint)
{
    CkptCheckpoint *copy = ckpt_graph_find(change->upserts, checkpoint->id);

    if (copy)
        return copy;
    copy = ckpt_checkpoint_copy(checkpoint);
    g_ptr_array_add(change->upserts, copy);
    return copy;
}

static void
remap_disk(CkptCheckpoint *checkpoint, const char *target, const CkptCheckpointDisk *to,
           guint64 virtual_size)
{
    CkptCheckpointDisk *disk = ckpt_checkpoint_find_disk(checkpoint, target);

    ckpt_set_str(&disk->sealed_file, to->sealed_file);
    disk->format = to->format;
    disk->mode_before = to->mode_before;
    disk->agent_made = to->agent_made;
    disk->virtual_size = virtual_size;
}

static void
add_merge_step(const CkptPlanInput *input, CkptPlan *plan, const Merge *merge)
{
    CkptStep *step = ckpt_plan_add(plan, CKPT_STEP_MERGE);
    const CkptDisk *present = ckpt_graph_attached(input, merge->overlay->path);

    /* The present name: the same disk may have been attached under another one. */
    step->target = g_strdup(present ? present->target : merge->disk->target);
    step->file = g_strdup(merge->overlay->path);
    step->base = g_strdup(merge->disk->sealed_file);
    step->base_format = merge->disk->format;
    step->leaf = !merge->above && merge->overlay_owner;
    if (merge->above) {
        step->above = g_strdup(merge->above->path);
        step->above_format = CKPT_FORMAT_QCOW2;
    }
}

static void
add_merge(const CkptPlanInput *input, CkptPlan *plan, const Merge *merge, CkptChange *change)
{
    const CkptCheckpointDisk *disk = merge->disk;

    if (merge->overlay_owner) /* qemu-img opens it for writing, though it only reads */
        ckpt_plan_add_unseal(plan, merge->overlay->path, merge->overlay_owner_disk->mode_before | 0600);
    if (merge->above_owner) /* its header is rewritten to lie on the merged file */
        ckpt_plan_add_unseal(plan, merge->above->path, merge->above_owner_disk->mode_before | 0600);
    add_merge_step(input, plan, merge);
    if (merge->above_owner) {
        ckpt_plan_add_seal(plan, merge->above->path, merge->above_owner_disk->mode_before);
        ckpt_plan_add_identify(plan, merge->above->path);
        upsert(change, merge->above_owner);
    }
    if (merge->overlay_owner) {
        ckpt_plan_add_seal(plan, disk->sealed_file, disk->mode_before);
        ckpt_plan_add_identify(plan, disk->sealed_file);
        remap_disk(upsert(change, merge->overlay_owner),
                   merge->overlay_owner_disk->target, disk, merge->overlay->virtual_size);
    }
    g_ptr_array_add(change->gone, g_strdup(merge->overlay->path));
}

/* The present tops and their chains as they will be. */
static GPtrArray *
chains_after(const CkptPlanInput *input, const Merge *merges, guint count)
{
    GPtrArray *disks = g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_disk_file_free);

    for (guint i = 0; i < input->vm->disks->len; i++) {
        CkptDisk *disk = g_ptr_array_index(input->vm->disks, i);
        g_autoptr(GPtrArray) chain = g_ptr_array_new();
        CkptFormat format = 0;

        for (guint k = 0; k < disk->chain->len; k++) {
            CkptLayer *layer = g_ptr_array_index(disk->chain, k);
            gboolean merged = FALSE;

            for (guint m = 0; m < count; m++)
                merged = merged || merges[m].overlay == layer;
            if (merged)
                continue;
            if (chain->len == 0)
                format = layer->format;
            g_ptr_array_add(chain, layer->path);
        }
        g_ptr_array_add(chain, NULL);
        g_ptr_array_add(disks, ckpt_disk_file_new(disk->target, chain->pdata[0], format,
                                                  (const char *const *)chain->pdata));
    }
    return disks;
}

/* Children move up to the deleted one's parent, and so does the present state. */
static void
move_children_up(const CkptPlanInput *input, const CkptCheckpoint *target, CkptChange *change)
{
    for (guint i = 0; i < input->checkpoints->len; i++) {
        CkptCheckpoint *child = g_ptr_array_index(input->checkpoints, i);

        if (g_strcmp0(child->parent_id, target->id) == 0)
            ckpt_set_str(&upsert(change, child)->parent_id, target->parent_id);
    }
    if (g_strcmp0(input->current_id, target->id) == 0) {
        change->set_current = TRUE;
        change->current_id = g_strdup(target->parent_id);
    }
}

/* Its contents are no longer restorable from here on: said before the first byte moves. */
static void
add_mark(const CkptPlanInput *input, CkptPlan *plan, const CkptCheckpoint *target)
{
    CkptChange *change = ckpt_change_new();
    CkptCheckpoint *marked = upsert(change, target);

    marked->state = CKPT_STATE_DELETING;
    marked->modified_us = input->now_us;
    ckpt_set_str(&marked->most_recent_task, ckpt_kind_task(CKPT_KIND_DELETE));
    ckpt_plan_add_catalogue(plan, change);
}

static void
add_removals(CkptPlan *plan, const CkptCheckpoint *target, const Merge *merges, guint count)
{
    for (guint i = 0; i < count; i++) {
        const Merge *merge = &merges[i];
        const char *doomed = merge->overlay             ? merge->overlay->path
                             : merge->disk->agent_made ? merge->disk->sealed_file
                                                       : NULL;

        if (merge->overlay_owner)
            ckpt_plan_add_remove_manifest(plan, merge->overlay_owner->id, merge->overlay->path);
        ckpt_plan_add_remove_manifest(plan, target->id, merge->disk->sealed_file);
        if (doomed) {
            ckpt_plan_add_remove_file(plan, doomed);
        } else {
            ckpt_plan_add_unseal(plan, merge->disk->sealed_file, merge->disk->mode_before);
            ckpt_plan_warn(plan, "%s of disk %s was not made by the agent and was left where it is",
                           merge->disk->sealed_file, merge->disk->target);
        }
    }
}

/* What an overlay holds may all be new to the file below, as far as that has no blocks for it; the overlay
 * is freed afterwards. */
static gboolean
check_space(const CkptPlanInput *input, const Merge *merges, guint count, GError **error)
{
    g_autoptr(GArray) space = ckpt_plan_space_new();

    for (guint i = 0; i < count; i++) {
        const CkptLayer *overlay = merges[i].overlay, *sealed = merges[i].sealed;
        guint64 bytes = overlay ? overlay->allocated : 0;

        if (overlay && merges[i].disk->format == CKPT_FORMAT_RAW)
            bytes = MIN(bytes, overlay->virtual_size - MIN(sealed->allocated, overlay->virtual_size));
        if (overlay && !ckpt_plan_take_space(input, space, sealed, bytes, error))
            return FALSE;
    }
    return TRUE;
}

/* Everything that may be refused for want of space or permission is, while there is a way back. */
static void
add_reservations(CkptPlan *plan, const Merge *merges, guint count)
{
    for (guint i = 0; i < count; i++)
        if (merges[i].overlay)
            ckpt_plan_add_reserve(plan, merges[i].disk, merges[i].sealed, merges[i].overlay);
}

static void
add_steps(const CkptPlanInput *input, CkptPlan *plan, const CkptCheckpoint *target,
          const Merge *merges, guint count)
{
    CkptChange *change = ckpt_change_new();
    g_autoptr(GPtrArray) after = chains_after(input, merges, count);

    add_reservations(plan, merges, count);
    plan->decisive = plan->steps->len;
    plan->no_return = TRUE;
    add_mark(input, plan, target);
    for (guint i = 0; i < count; i++) {
        if (merges[i].overlay)
            add_merge(input, plan, &merges[i], change);
        else if (merges[i].disk->agent_made)
            g_ptr_array_add(change->gone, g_strdup(merges[i].disk->sealed_file));
    }
    ckpt_plan_add_on_disks(plan, CKPT_STEP_CHECK_CHAIN, after);
    move_children_up(input, target, change);
    for (guint i = 0; i < change->upserts->len; i++)
        ckpt_plan_add_manifest(plan, g_ptr_array_index(change->upserts, i));
    g_ptr_array_add(change->removes, g_strdup(target->id));
    ckpt_plan_add_catalogue(plan, change);
    add_removals(plan, target, merges, count);
}

static gboolean
check_whole(const CkptPlanInput *input, const CkptCheckpoint *checkpoint, GError **error)
{
    if (!checkpoint || ckpt_plan_verify(input, checkpoint, error))
        return TRUE;
    g_prefix_error(error, "checkpoint %s (%s) is not whole, the files are left for inspection: ",
                   checkpoint->name, checkpoint->id);
    return FALSE;
}

static gboolean
check_target(const CkptPlanInput *input, const CkptCheckpoint *target, GError **error)
{
    if (target->hold && *target->hold) {
        ckpt_error_set(error, CKPT_REASON_CHECKPOINT_HELD, "checkpoint %s (%s) is held: %s",
                       target->name, target->id, target->hold);
        return FALSE;
    }
    return check_whole(input, target, error);
}

CkptPlan *
ckpt_plan_delete(const CkptPlanInput *input, const CkptRequest *request, GError **error)
{
    g_autoptr(CkptPlan) plan = ckpt_plan_new(CKPT_KIND_DELETE);
    CkptCheckpoint *target = ckpt_plan_find_target(input, request, error);
    g_autofree Merge *merges = NULL;

    if (!target || !check_target(input, target, error))
        return NULL;
    merges = g_new0(Merge, target->disks->len);
    for (guint i = 0; i < target->disks->len; i++) {
        if (!find_merge(input, target, g_ptr_array_index(target->disks, i), &merges[i], error) ||
            !check_whole(input, merges[i].overlay_owner, error) ||
            !check_whole(input, merges[i].above_owner, error)) {
            ckpt_error_add(error, CKPT_META_CHECKPOINT, target->id);
            return NULL;
        }
    }
    if (!check_space(input, merges, target->disks->len, error))
        return NULL;
    ckpt_plan_set_checkpoint(plan, ckpt_checkpoint_copy(target));
    add_steps(input, plan, target, merges, target->disks->len);
    return g_steal_pointer(&plan);
}
