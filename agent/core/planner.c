/* What every plan begins with: the checks that hold for all operations, and verification. One file
 * per operation follows: plan_create.c, plan_restore.c, plan_delete.c; and plan_native.c for hypervisors
 * that keep checkpoints themselves. */
#include "agent/core/planner.h"

#include "agent/core/graph.h"
#include "agent/core/plan_parts.h"

void
ckpt_limits_init(CkptLimits *limits)
{
    *limits = (CkptLimits){
        .max_depth = 20, /* hazard A15: some libvirts do not start VMs over about 25 layers */
        .max_running = 4,
        .max_queued_per_vm = 16,
        .max_checkpoints_per_vm = 100,
        .reserve_bytes = 64 * 1024 * 1024,
        .result_days = 7,
        .max_wait_us = 5 * G_TIME_SPAN_MINUTE,
        .max_diagnose_us = 10 * G_TIME_SPAN_SECOND, /* the client gives up after 15 */
    };
}

guint64
ckpt_plan_extra_bytes(const CkptVm *vm, const CkptCheckpoint *checkpoint)
{
    guint64 bytes = 0;

    for (guint i = 0; i < checkpoint->extras->len; i++) {
        const CkptCheckpointFile *file = g_ptr_array_index(checkpoint->extras, i);
        const CkptLayer *layer = ckpt_vm_find_file(vm, file->path);

        bytes += layer && layer->exists ? layer->allocated : file->bytes;
    }
    return bytes;
}

guint
ckpt_plan_depth(GPtrArray *checkpoints, const CkptCheckpoint *checkpoint)
{
    guint depth = 0;

    while (checkpoint && depth <= checkpoints->len) {
        depth++;
        checkpoint = ckpt_graph_find(checkpoints, checkpoint->parent_id);
    }
    return depth;
}

/* A present state whose newest file is gone can still be given up. UEFI variables are no part of a delete. A
 * guest that has crashed (its QEMU is there) is stopped by a restore like any other. */
static gboolean
is_overcome(const CkptVm *vm, const CkptRequest *request, const CkptObstacle *obstacle)
{
    if (request->kind == CKPT_KIND_DELETE && obstacle->reason == CKPT_REASON_NVRAM_UNSUPPORTED)
        return TRUE;
    if (request->kind == CKPT_KIND_RESTORE && obstacle->reason == CKPT_REASON_VM_STATE_UNSUPPORTED)
        return vm->power == CKPT_POWER_CRASHED;
    if (request->kind != CKPT_KIND_RESTORE || !request->discard_present_state ||
        obstacle->reason != CKPT_REASON_DISK_FILE_MISSING)
        return FALSE;
    for (guint i = 0; i < vm->disks->len; i++) {
        const CkptDisk *disk = g_ptr_array_index(vm->disks, i);
        const CkptLayer *top = disk->chain->len ? g_ptr_array_index(disk->chain, 0) : NULL;

        if (top && !top->exists && g_strcmp0(top->path, obstacle->file) == 0)
            return TRUE;
    }
    return FALSE;
}

gboolean
ckpt_plan_refuse_obstacle(const CkptVm *vm, const CkptRequest *request, GError **error)
{
    const CkptObstacle *obstacle = NULL;

    for (guint i = 0; i < vm->obstacles->len && !obstacle; i++)
        if (!is_overcome(vm, request, g_ptr_array_index(vm->obstacles, i)))
            obstacle = g_ptr_array_index(vm->obstacles, i);
    if (!obstacle)
        return FALSE;
    ckpt_error_set(error, obstacle->reason, "%s", obstacle->message);
    ckpt_error_add(error, CKPT_META_DISK, obstacle->disk);
    ckpt_error_add(error, CKPT_META_FILE, obstacle->file);
    return TRUE;
}

/* Left by a delete of ours that could not remove it: nothing that the catalogue knows is in the file, and it was
 * unsealed. The next checkpoint's manifest takes its place. */
static gboolean
is_stale_manifest(const CkptPlanInput *input, const CkptLayer *top)
{
    return g_strcmp0(top->owner_vm, input->vm->id) == 0 && (top->mode & 0200) &&
           (!input->host_id || g_strcmp0(top->owner_agent, input->host_id) == 0);
}

/* Hazard A22: somebody defined the VM again with a path that a checkpoint has sealed. */
static gboolean
refuse_sealed_top(const CkptPlanInput *input, const CkptDisk *disk, GError **error)
{
    const CkptLayer *top = g_ptr_array_index(disk->chain, 0);
    CkptCheckpoint *owner = ckpt_graph_owner(input, top->path, NULL);

    if (!owner && (!top->manifest || is_stale_manifest(input, top)))
        return FALSE;
    if (!owner) {
        g_autofree char *manifest = ckpt_graph_manifest(top);

        ckpt_error_set(error, CKPT_REASON_VM_QUARANTINED,
                       "disk %s is defined on %s, of which there is the manifest (%s) of "
                       "another VM's checkpoint: writing to it would ruin that one; if that "
                       "checkpoint is gone, remove the manifest",
                       disk->target, top->path, manifest);
        ckpt_error_add(error, CKPT_META_DISK, disk->target);
        ckpt_error_add(error, CKPT_META_FILE, top->path);
        return TRUE;
    }
    ckpt_error_set(error, CKPT_REASON_VM_QUARANTINED,
                   "disk %s is defined on %s, which is the sealed file of checkpoint %s (%s): "
                   "starting the VM would overwrite it; define the disk on the overlay that the VM "
                   "ran on before",
                   disk->target, top->path, owner->name, owner->id);
    ckpt_error_add(error, CKPT_META_DISK, disk->target);
    ckpt_error_add(error, CKPT_META_FILE, top->path);
    ckpt_error_add(error, CKPT_META_CHECKPOINT, owner->id);
    return TRUE;
}

/* The checkpoint that sealed the file below a top is the current one, or one above it in its line that was
 * the last to have the disk: that was detached then, and attached again since. */
static gboolean
is_last_to_have(const CkptPlanInput *input, const CkptCheckpoint *owner, const char *file)
{
    CkptCheckpoint *checkpoint = ckpt_graph_find(input->checkpoints, input->current_id);

    for (guint i = 0; checkpoint && i < input->checkpoints->len; i++) {
        if (checkpoint == owner)
            return TRUE;
        for (guint k = 0; k < checkpoint->disks->len; k++) {
            const CkptCheckpointDisk *disk = g_ptr_array_index(checkpoint->disks, k);

            if (ckpt_graph_lies_on(input, disk->sealed_file, file) &&
                ckpt_graph_same_disk(input, disk->sealed_file, file))
                return FALSE;
        }
        checkpoint = ckpt_graph_find(input->checkpoints, checkpoint->parent_id);
    }
    return FALSE;
}

static gboolean
is_attached_beside(const CkptPlanInput *input, const CkptDisk *disk, const char *file)
{
    for (guint i = 0; i < input->vm->disks->len; i++) {
        const CkptDisk *other = g_ptr_array_index(input->vm->disks, i);
        const CkptLayer *top = other->chain->len ? g_ptr_array_index(other->chain, 0) : NULL;

        if (other != disk && top && ckpt_graph_same_disk(input, top->path, file))
            return TRUE;
    }
    return FALSE;
}

/* A disk of its own, which its owner laid on a sealed file of this VM's (hazard A18), perhaps by way of
 * another VM's. In the place of the disk that was sealed there it is that one, put back by hand. */
static gboolean
is_clone(const CkptPlanInput *input, const CkptDisk *disk, const char *file)
{
    CkptCheckpointDisk *sealed = NULL;

    for (guint i = 0; i < disk->chain->len; i++) {
        const CkptLayer *layer = g_ptr_array_index(disk->chain, i);
        g_autofree char *root = ckpt_graph_root(input, layer->path);

        if (layer->path == file)
            break;
        if (!g_str_equal(root, layer->path)) /* an overlay of the agent's was moved */
            return FALSE;
    }
    return ckpt_graph_owner(input, file, &sealed) &&
           (!g_str_equal(sealed->target, disk->target) || is_attached_beside(input, disk, file));
}

/* The first of the VM's sealed files below the top is that of the last checkpoint which has the disk. A
 * disk that lies on none of them was attached since. What lies between is no checkpoint's: the agent's present
 * overlay, what another tool has laid (virsh snapshot-create-as, a backup's overlay), and what an undone create
 * had to leave under that. */
static gboolean
refuse_other_lineage(const CkptPlanInput *input, const CkptDisk *disk, GError **error)
{
    for (guint i = 1; i < disk->chain->len; i++) {
        const CkptLayer *layer = g_ptr_array_index(disk->chain, i);
        CkptCheckpoint *owner = ckpt_graph_owner(input, layer->path, NULL);

        if (!owner)
            continue;
        if (is_last_to_have(input, owner, layer->path) || is_clone(input, disk, layer->path))
            return FALSE;
        ckpt_error_set(error, CKPT_REASON_CHAIN_MISMATCH,
                       "disk %s runs on %s of checkpoint %s (%s), but the VM was last at checkpoint "
                       "%s: somebody changed the disk's chain; see docs/by-hand.md",
                       disk->target, layer->path, owner->name, owner->id,
                       input->current_id ? input->current_id : "(none)");
        ckpt_error_add(error, CKPT_META_DISK, disk->target);
        ckpt_error_add(error, CKPT_META_FILE, layer->path);
        return TRUE;
    }
    return FALSE;
}

const char *
ckpt_plan_deleting_reason(const CkptCheckpoint *checkpoint)
{
    return checkpoint->deferred ? "it is deleted as soon as one branch is left"
                                : "its delete has begun";
}

/* A delete that has begun is finished before anything else moves the files it works on. One that waits for
 * branches has not touched any. */
static gboolean
refuse_unfinished_delete(const CkptPlanInput *input, const CkptRequest *request, GError **error)
{
    for (guint i = 0; i < input->checkpoints->len; i++) {
        CkptCheckpoint *checkpoint = g_ptr_array_index(input->checkpoints, i);

        if (checkpoint->state != CKPT_STATE_DELETING || checkpoint->deferred)
            continue;
        ckpt_error_set(error, CKPT_REASON_CHECKPOINT_DELETING,
                       "the delete of checkpoint %s (%s) has begun and is not finished: call "
                       "DeleteCheckpoint for it again first",
                       checkpoint->name, checkpoint->id);
        ckpt_error_add(error, CKPT_META_CHECKPOINT, checkpoint->id);
        return TRUE;
    }
    return FALSE;
}

gboolean
ckpt_plan_check_tops(const CkptPlanInput *input, GError **error)
{
    if (input->vm->mechanism == CKPT_MECHANISM_NATIVE) /* the hypervisor's own business */
        return TRUE;
    for (guint i = 0; i < input->vm->disks->len; i++) {
        CkptDisk *disk = g_ptr_array_index(input->vm->disks, i);

        if (refuse_sealed_top(input, disk, error) || refuse_other_lineage(input, disk, error))
            return FALSE;
    }
    return TRUE;
}

gboolean
ckpt_plan_refuse_moved(const CkptPlanInput *input, GError **error)
{
    GHashTableIter iter;
    gpointer value;

    g_hash_table_iter_init(&iter, input->vm->files);
    while (input->host_id && g_hash_table_iter_next(&iter, NULL, &value)) {
        const CkptLayer *layer = value;

        if (!layer->owner_agent || g_strcmp0(layer->owner_vm, input->vm->id) != 0 ||
            g_str_equal(layer->owner_agent, input->host_id))
            continue;
        ckpt_error_set(error, CKPT_REASON_VM_MOVED,
                       "%s belongs to the agent of host %s (%s), says the manifest beside it: the VM came "
                       "from there, or went there; once it runs here, this agent takes its checkpoints over",
                       layer->path, *layer->owner_host ? layer->owner_host : "?", layer->owner_agent);
        ckpt_error_add(error, CKPT_META_FILE, layer->path);
        return TRUE;
    }
    return FALSE;
}

static gboolean
refuse_layer_unread(const CkptLayer *layer, GError **error)
{
    if (!layer || !layer->manifest_unread)
        return FALSE;
    ckpt_error_set(error, CKPT_REASON_FILE_FAILED,
                   "whose file %s is cannot be told: its manifest cannot be read, or another user than root and "
                   "the agent's wrote it; put that right, or, if no other host has the VM, move the manifest away",
                   layer->path);
    ckpt_error_add(error, CKPT_META_FILE, layer->path);
    return TRUE;
}

/* Each step would be refused. */
static gboolean
refuse_unread(const CkptPlanInput *input, GError **error)
{
    for (guint i = 0; i < input->vm->disks->len; i++) {
        const CkptDisk *disk = g_ptr_array_index(input->vm->disks, i);

        for (guint k = 0; k < disk->chain->len; k++)
            if (refuse_layer_unread(g_ptr_array_index(disk->chain, k), error))
                return TRUE;
    }
    for (guint i = 0; i < input->checkpoints->len; i++) {
        const CkptCheckpoint *row = g_ptr_array_index(input->checkpoints, i);

        for (guint k = 0; k < row->disks->len; k++)
            if (refuse_layer_unread(
                    ckpt_vm_find_file(input->vm, ((CkptCheckpointDisk *)row->disks->pdata[k])->sealed_file),
                    error))
                return TRUE;
    }
    return FALSE;
}

static gboolean
check_vm(const CkptPlanInput *input, const CkptRequest *request, GError **error)
{
    return !ckpt_plan_refuse_moved(input, error) && !refuse_unread(input, error) &&
           !ckpt_plan_refuse_obstacle(input->vm, request, error) &&
           !refuse_unfinished_delete(input, request, error) && ckpt_plan_check_tops(input, error);
}

static gboolean
verify_file(const CkptPlanInput *input, const CkptCheckpointDisk *disk, GError **error)
{
    const CkptLayer *layer = ckpt_vm_find_file(input->vm, disk->sealed_file);
    const CkptFileUser *user = ckpt_graph_user(input, disk->sealed_file);

    if (!layer || !layer->exists)
        ckpt_error_set(error, CKPT_REASON_DISK_FILE_MISSING, "%s of disk %s is missing",
                       disk->sealed_file, disk->target);
    else if (!ckpt_file_id_holds(&layer->id, &disk->id))
        ckpt_error_set(error, CKPT_REASON_SEALED_FILE_CHANGED,
                       "%s of disk %s was changed after it was sealed", disk->sealed_file,
                       disk->target);
    else if (layer->write_locked)
        ckpt_error_set(error, CKPT_REASON_SEALED_FILE_CHANGED,
                       "%s of disk %s is open for writing by another process", disk->sealed_file,
                       disk->target);
    else if (ckpt_graph_is_top(input, disk->sealed_file))
        ckpt_error_set(error, CKPT_REASON_SEALED_FILE_CHANGED,
                       "%s of disk %s is the writable disk of the VM's definition",
                       disk->sealed_file, disk->target);
    else if (user && user->is_top)
        ckpt_error_set(error, CKPT_REASON_SEALED_FILE_CHANGED, "%s of disk %s is a writable disk of %s",
                       disk->sealed_file, disk->target, user->user);
    else
        return TRUE;
    ckpt_error_add(error, CKPT_META_DISK, disk->target);
    ckpt_error_add(error, CKPT_META_FILE, disk->sealed_file);
    return FALSE;
}

/* Every sealed file that the contents of `file` lie in. Files below the first checkpoint's (a shared
 * template) are nobody's seal; that they are there is checked. */
static gboolean
verify_chain(const CkptPlanInput *input, const char *file, GError **error)
{
    g_auto(GStrv) chain = ckpt_graph_chain(input, file);

    for (guint i = 0; chain[i]; i++) {
        const CkptLayer *layer = ckpt_vm_find_file(input->vm, chain[i]);
        CkptCheckpointDisk *disk = NULL;

        if (ckpt_graph_owner(input, chain[i], &disk)) {
            if (!verify_file(input, disk, error))
                return FALSE;
        } else if (!layer || !layer->exists) {
            ckpt_error_set(error, CKPT_REASON_DISK_FILE_MISSING, "%s, on which %s lies, is missing",
                           chain[i], file);
            ckpt_error_add(error, CKPT_META_FILE, chain[i]);
            return FALSE;
        }
    }
    return TRUE;
}

gboolean
ckpt_plan_verify_without_memory(const CkptPlanInput *input, const CkptCheckpoint *checkpoint, GError **error)
{
    const CkptCheckpointFile *nvram = ckpt_checkpoint_find_extra(checkpoint, CKPT_FILE_NVRAM);

    return ckpt_plan_verify_disks(input, checkpoint, error) &&
           (!nvram || ckpt_plan_verify_extra(input, nvram, error));
}

gboolean
ckpt_plan_verify(const CkptPlanInput *input, const CkptCheckpoint *checkpoint, GError **error)
{
    const CkptCheckpointFile *memory = ckpt_checkpoint_find_extra(checkpoint, CKPT_FILE_MEMORY);

    return ckpt_plan_verify_without_memory(input, checkpoint, error) &&
           (!memory || ckpt_plan_verify_extra(input, memory, error));
}

gboolean
ckpt_plan_verify_disks(const CkptPlanInput *input, const CkptCheckpoint *checkpoint, GError **error)
{
    if (checkpoint->mechanism == CKPT_MECHANISM_NATIVE ||
        input->vm->mechanism == CKPT_MECHANISM_NATIVE)
        return ckpt_plan_verify_native(input, checkpoint, error);
    for (guint i = 0; i < checkpoint->disks->len; i++) {
        CkptCheckpointDisk *disk = g_ptr_array_index(checkpoint->disks, i);

        if (!verify_chain(input, disk->sealed_file, error))
            return FALSE;
    }
    return TRUE;
}

static CkptPlan *
make_overlay_plan(const CkptPlanInput *input, const CkptRequest *request, GError **error)
{
    if (!check_vm(input, request, error))
        return NULL;
    switch (request->kind) {
    case CKPT_KIND_CREATE:
        return ckpt_plan_create(input, request, error);
    case CKPT_KIND_RESTORE:
        return ckpt_plan_restore(input, request, error);
    case CKPT_KIND_DELETE:
        return ckpt_plan_delete(input, request, error);
    case CKPT_KIND_UPDATE:
    case CKPT_KIND_REPAIR:
        break;
    }
    ckpt_error_set(error, CKPT_REASON_INTERNAL, "an update or a repair needs no plan");
    return NULL;
}

CkptPlan *
ckpt_plan_make(const CkptPlanInput *input, const CkptRequest *request, GError **error)
{
    CkptPlan *plan = input->vm->mechanism == CKPT_MECHANISM_NATIVE
                         ? ckpt_plan_native(input, request, error)
                         : make_overlay_plan(input, request, error);

    if (!plan)
        return NULL;
    g_free(plan->vm_id);
    plan->vm_id = g_strdup(input->vm->id);
    g_free(plan->vm_name);
    plan->vm_name = g_strdup(input->vm->name);
    return plan;
}
