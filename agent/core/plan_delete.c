/* Delete: merge downwards, or pull upwards. The one overlay that lies on a sealed file of the checkpoint is
 * committed into it; the file then holds what the overlay held, and takes its place: whatever lay on the
 * overlay lies on the file from then on. Where it is less work, or the only way, the file goes up into the
 * overlay instead (plan_merge.h). A sealed file on which nothing lies is removed. From the step that marks
 * the checkpoint DELETING on it is only finished.
 *
 * Cut off anywhere, every branch still shows its contents: the overlay over the merged file reads like
 * the merged file alone, so that a sibling is right on either, and the overlay is unlinked last. */
#include "agent/core/graph.h"
#include "agent/core/plan_merge.h"
#include "agent/core/plan_parts.h"

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

/* ---- One disk ---- */

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
unseal(CkptPlan *plan, const CkptTreeFile *file)
{
    if (file->owner)
        ckpt_plan_add_unseal(plan, file->layer->path, file->disk->mode_before | 0600);
}

static void
seal_again(CkptPlan *plan, const CkptTreeFile *file, CkptChange *change)
{
    if (!file->owner)
        return;
    ckpt_plan_add_seal(plan, file->layer->path, file->disk->mode_before);
    ckpt_plan_add_identify(plan, file->layer->path);
    upsert(change, file->owner);
}

static void
add_merge_step(const CkptPlanInput *input, CkptPlan *plan, const CkptMerge *merge)
{
    CkptStep *step = ckpt_plan_add(plan, CKPT_STEP_MERGE);
    const CkptDisk *present = ckpt_graph_attached(input, merge->overlay.layer->path);

    /* The present name: the same disk may have been attached under another one. */
    step->target = g_strdup(present ? present->target : merge->disk->target);
    step->file = g_strdup(merge->overlay.layer->path);
    step->base = g_strdup(merge->disk->sealed_file);
    step->base_format = merge->disk->format;
    step->leaf = !merge->above.layer && (merge->overlay.owner || !input->vm->definition);
    if (merge->above.layer) {
        step->above = g_strdup(merge->above.layer->path);
        step->above_format = CKPT_FORMAT_QCOW2;
    }
}

static void
add_rebase(CkptPlan *plan, const CkptMerge *merge, const CkptTreeFile *sibling, CkptChange *change)
{
    CkptStep *step;

    unseal(plan, sibling);
    step = ckpt_plan_add(plan, CKPT_STEP_REBASE);
    step->target = g_strdup(merge->disk->target);
    step->file = g_strdup(sibling->layer->path);
    step->from = g_strdup(merge->overlay.layer->path);
    step->base = g_strdup(merge->disk->sealed_file);
    step->base_format = merge->disk->format;
    seal_again(plan, sibling, change);
}

/* Nothing is unsealed: neither the sealed file nor the one below is written to. No other file lies on either
 * of the two by way of the other, so that no row changes. */
static void
add_pull(const CkptPlanInput *input, CkptPlan *plan, const CkptMerge *merge, CkptChange *change)
{
    CkptStep *step = ckpt_plan_add(plan, CKPT_STEP_PULL);

    step->target = g_strdup(ckpt_graph_attached(input, merge->overlay.layer->path)->target);
    step->file = g_strdup(merge->sealed->path);
    step->above = g_strdup(merge->overlay.layer->path);
    step->above_format = CKPT_FORMAT_QCOW2;
    step->base = g_strdup(merge->pulled->path);
    step->base_format = merge->sealed->backing_format;
    g_ptr_array_add(change->gone, g_strdup(merge->sealed->path));
}

static void
add_merge(const CkptPlanInput *input, CkptPlan *plan, const CkptMerge *merge, CkptChange *change)
{
    const CkptCheckpointDisk *disk = merge->disk;

    unseal(plan, &merge->overlay); /* qemu-img opens it for writing, though it only reads */
    unseal(plan, &merge->above);   /* its header is rewritten to lie on the merged file */
    add_merge_step(input, plan, merge);
    seal_again(plan, &merge->above, change);
    for (guint i = 0; i < merge->siblings->len; i++)
        add_rebase(plan, merge, &g_array_index(merge->siblings, CkptTreeFile, i), change);
    if (!merge->overlay.owner && !input->vm->definition)
        ckpt_plan_warn(plan, "the VM is not defined here: the newest state of disk %s is in %s from now on, "
                             "define it on that",
                       disk->target, disk->sealed_file);
    if (merge->overlay.owner) {
        ckpt_plan_add_seal(plan, disk->sealed_file, disk->mode_before);
        ckpt_plan_add_identify(plan, disk->sealed_file);
        remap_disk(upsert(change, merge->overlay.owner), merge->overlay.disk->target, disk,
                   merge->overlay.layer->virtual_size);
    }
    g_ptr_array_add(change->gone, g_strdup(merge->overlay.layer->path));
}

static void
add_removals(CkptPlan *plan, const CkptCheckpoint *target, const CkptMerge *merge)
{
    const CkptTreeFile *overlay = &merge->overlay;

    if (overlay->owner)
        ckpt_plan_add_remove_manifest(plan, overlay->owner->id, overlay->layer->path);
    ckpt_plan_add_remove_manifest(plan, target->id, merge->disk->sealed_file);
    if (overlay->layer) {
        ckpt_plan_add_remove_file(plan, ckpt_merge_dissolved(merge)->path);
    } else if (merge->disk->agent_made) {
        ckpt_plan_add_remove_file(plan, merge->disk->sealed_file);
    } else {
        ckpt_plan_add_unseal(plan, merge->disk->sealed_file, merge->disk->mode_before);
        ckpt_plan_warn(plan, "%s of disk %s was not made by the agent and was left where it is",
                       merge->disk->sealed_file, merge->disk->target);
    }
}

/* ---- The whole ---- */

static gboolean
is_dissolved(GPtrArray *merges, const CkptLayer *layer)
{
    for (guint i = 0; i < merges->len; i++)
        if (ckpt_merge_dissolved(g_ptr_array_index(merges, i)) == layer)
            return TRUE;
    return FALSE;
}

/* The present tops and their chains as they will be. */
static GPtrArray *
chains_after(const CkptPlanInput *input, GPtrArray *merges)
{
    GPtrArray *disks = g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_disk_file_free);

    for (guint i = 0; i < input->vm->disks->len; i++) {
        CkptDisk *disk = g_ptr_array_index(input->vm->disks, i);
        g_autoptr(GPtrArray) chain = g_ptr_array_new();
        CkptFormat format = 0;

        for (guint k = 0; k < disk->chain->len; k++) {
            CkptLayer *layer = g_ptr_array_index(disk->chain, k);

            if (is_dissolved(merges, layer))
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
static CkptCheckpoint *
add_mark(const CkptPlanInput *input, CkptPlan *plan, const CkptCheckpoint *target,
         gboolean deferred)
{
    CkptChange *change = ckpt_change_new();
    CkptCheckpoint *marked = upsert(change, target);

    change->if_unchanged = TRUE; /* it may have been put on hold since */
    marked->state = CKPT_STATE_DELETING;
    marked->deferred = deferred;
    marked->modified_us = input->now_us;
    ckpt_set_str(&marked->most_recent_task, ckpt_kind_task(CKPT_KIND_DELETE));
    ckpt_set_str(&marked->disabled_reason, ckpt_plan_deleting_reason(marked));
    ckpt_plan_add_catalogue(plan, change);
    return marked;
}

/* Everything that may be refused for want of space or permission is, while there is a way back. */
static void
add_reservations(CkptPlan *plan, GPtrArray *merges)
{
    for (guint i = 0; i < merges->len; i++) {
        const CkptMerge *merge = g_ptr_array_index(merges, i);

        if (merge->pulled)
            ckpt_plan_add_reserve_in_top(plan, merge->disk, merge->overlay.layer);
        else if (merge->overlay.layer)
            ckpt_plan_add_reserve(plan, merge->disk, merge->sealed, merge->overlay.layer);
    }
}

static void
add_steps(const CkptPlanInput *input, CkptPlan *plan, const CkptCheckpoint *target,
          GPtrArray *merges)
{
    CkptChange *change = ckpt_change_new();
    g_autoptr(GPtrArray) after = chains_after(input, merges);

    add_reservations(plan, merges);
    plan->decisive = plan->steps->len;
    plan->no_return = TRUE;
    add_mark(input, plan, target, FALSE);
    for (guint i = 0; i < merges->len; i++) {
        const CkptMerge *merge = g_ptr_array_index(merges, i);

        if (merge->pulled)
            add_pull(input, plan, merge, change);
        else if (merge->overlay.layer)
            add_merge(input, plan, merge, change);
        else if (merge->disk->agent_made)
            g_ptr_array_add(change->gone, g_strdup(merge->disk->sealed_file));
    }
    ckpt_plan_give_up_extras(target, change);
    if (input->vm->definition)
        ckpt_plan_add_on_disks(plan, CKPT_STEP_CHECK_CHAIN, after);
    move_children_up(input, target, change);
    for (guint i = 0; i < change->upserts->len; i++)
        ckpt_plan_add_manifest(plan, g_ptr_array_index(change->upserts, i));
    g_ptr_array_add(change->removes, g_strdup(target->id));
    ckpt_plan_add_catalogue(plan, change);
    for (guint i = 0; i < merges->len; i++)
        add_removals(plan, target, g_ptr_array_index(merges, i));
    ckpt_plan_add_remove_extras(plan, target);
}

/* With when_possible a branch point is not refused, nor what may be one: it is hidden, and the engine deletes it
 * when the reason is gone. Only the catalogue says so, no file is touched. */
static CkptPlan *
plan_deferral(const CkptPlanInput *input, const CkptCheckpoint *target, const GError *why)
{
    CkptPlan *plan = ckpt_plan_new(CKPT_KIND_DELETE);
    const CkptCheckpoint *marked = add_mark(input, plan, target, TRUE);

    ckpt_plan_set_checkpoint(plan, ckpt_checkpoint_copy(marked));
    ckpt_plan_warn(plan, "hidden, and deleted as soon as that is possible: %s", why->message);
    return plan;
}

static gboolean
is_branch(const GError *why)
{
    CkptReason reason = ckpt_error_reason(why);

    return reason == CKPT_REASON_BRANCH_POINT || reason == CKPT_REASON_BRANCH_REBASE_REQUIRED;
}

/* As the caller knew it, whether it waited or not. */
static CkptCheckpoint *
deleted_row(const CkptCheckpoint *target)
{
    CkptCheckpoint *row = ckpt_checkpoint_copy(target);

    if (row->deferred)
        g_clear_pointer(&row->disabled_reason, g_free);
    row->state = CKPT_STATE_READY;
    row->deferred = FALSE;
    return row;
}

static gboolean
refuse_held(const CkptCheckpoint *target, GError **error)
{
    if (!target->hold || !*target->hold)
        return FALSE;
    ckpt_error_set(error, CKPT_REASON_CHECKPOINT_HELD, "checkpoint %s (%s) is held: %s",
                   target->name, target->id, target->hold);
    return TRUE;
}

static gboolean
is_above(const CkptPlanInput *input, const CkptCheckpoint *checkpoint, const CkptCheckpoint *below)
{
    for (guint depth = 0; checkpoint && depth <= input->checkpoints->len; depth++) {
        if (g_strcmp0(checkpoint->parent_id, below->id) == 0)
            return TRUE;
        checkpoint = ckpt_graph_find(input->checkpoints, checkpoint->parent_id);
    }
    return FALSE;
}

static const char *
missing_file(const CkptPlanInput *input, const CkptCheckpoint *checkpoint)
{
    for (guint i = 0; i < checkpoint->disks->len; i++) {
        const CkptCheckpointDisk *disk = g_ptr_array_index(checkpoint->disks, i);
        const CkptLayer *layer = ckpt_vm_find_file(input->vm, disk->sealed_file);

        if (!layer || !layer->exists)
            return disk->sealed_file;
    }
    return NULL;
}

/* A branch whose file is not there, since its folder is not mounted say, is one: what is merged below it would be
 * in it when it is back, or what it lies on would be gone. */
static gboolean
refuse_missing_branch(const CkptPlanInput *input, const CkptCheckpoint *target, GError **error)
{
    for (guint i = 0; i < input->checkpoints->len; i++) {
        const CkptCheckpoint *other = g_ptr_array_index(input->checkpoints, i);
        const char *file = is_above(input, other, target) ? missing_file(input, other) : NULL;

        if (!file)
            continue;
        ckpt_error_set(error, CKPT_REASON_DISK_FILE_MISSING,
                       "checkpoint %s (%s), which lies on %s (%s), would be ruined: its file %s is missing, put "
                       "it back first",
                       other->name, other->id, target->name, target->id, file);
        ckpt_error_add(error, CKPT_META_FILE, file);
        return TRUE;
    }
    return FALSE;
}

/* The same of other VMs, of which no catalogue tells on what they lie. */
static gboolean
refuse_unreadable(const CkptPlanInput *input, GError **error)
{
    const CkptFileUser *first = input->vm->unreadable->len ? input->vm->unreadable->pdata[0] : NULL;

    if (first)
        ckpt_unreadable_error(error, first->file, first->user);
    return first != NULL;
}

CkptPlan *
ckpt_plan_delete(const CkptPlanInput *input, const CkptRequest *request, GError **error)
{
    g_autoptr(CkptPlan) plan = ckpt_plan_new(CKPT_KIND_DELETE);
    CkptCheckpoint *target = ckpt_plan_find_target(input, request, error);
    g_autoptr(GPtrArray) merges = NULL;
    g_autoptr(GError) why = NULL;
    gboolean may_wait;

    if (!target || refuse_held(target, error))
        return NULL;
    merges = refuse_missing_branch(input, target, &why) ? NULL : ckpt_merge_find_all(input, target, &why);
    may_wait = merges ? refuse_unreadable(input, &why) : is_branch(why);
    if (may_wait && request->when_possible)
        return plan_deferral(input, target, why);
    if (why) {
        g_propagate_error(error, g_steal_pointer(&why));
        ckpt_error_add(error, CKPT_META_CHECKPOINT, target->id);
        return NULL;
    }
    ckpt_plan_set_checkpoint(plan, deleted_row(target));
    add_steps(input, plan, target, merges);
    plan->forecast = ckpt_merge_forecast(input, target, merges);
    for (guint i = 0; i < merges->len; i++) {
        const CkptMerge *merge = g_ptr_array_index(merges, i);

        if (merge->overlay.layer && !merge->pulled)
            ckpt_plan_backups_at_merge(input, plan, merge->overlay.layer);
    }
    return g_steal_pointer(&plan);
}
