#include "agent/core/plan_parts.h"

#include "agent/core/graph.h"

#include <string.h>

CkptStep *
ckpt_plan_add(CkptPlan *plan, CkptStepKind kind)
{
    CkptStep *step = ckpt_step_new(kind);

    g_ptr_array_add(plan->steps, step);
    return step;
}

CkptStep *
ckpt_plan_add_make_overlay(CkptPlan *plan, const char *overlay, const char *base,
                           CkptFormat base_format, const char *target)
{
    CkptStep *step = ckpt_plan_add(plan, CKPT_STEP_MAKE_OVERLAY);

    ckpt_set_str(&step->file, overlay);
    ckpt_set_str(&step->base, base);
    ckpt_set_str(&step->like, base);
    ckpt_set_str(&step->target, target);
    step->base_format = base_format;
    return step;
}

static CkptStep *
add_with_mode(CkptPlan *plan, CkptStepKind kind, const char *file, guint mode)
{
    CkptStep *step = ckpt_plan_add(plan, kind);

    ckpt_set_str(&step->file, file);
    step->mode = mode;
    return step;
}

CkptStep *
ckpt_plan_add_seal(CkptPlan *plan, const char *file, guint mode_before)
{
    return add_with_mode(plan, CKPT_STEP_SEAL, file, mode_before);
}

CkptStep *
ckpt_plan_add_unseal(CkptPlan *plan, const char *file, guint mode)
{
    return add_with_mode(plan, CKPT_STEP_UNSEAL, file, mode);
}

void
ckpt_plan_add_reserve(CkptPlan *plan, const CkptCheckpointDisk *disk, const CkptLayer *sealed,
                      const CkptLayer *overlay)
{
    CkptStep *step;

    ckpt_plan_add_unseal(plan, disk->sealed_file, disk->mode_before | 0600);
    step = ckpt_plan_add(plan, CKPT_STEP_RESERVE);
    ckpt_set_str(&step->target, disk->target);
    ckpt_set_str(&step->file, overlay->path);
    ckpt_set_str(&step->base, disk->sealed_file);
    step->base_format = disk->format;
    step->id = disk->id;
    step->size = sealed->allocated;
}

void
ckpt_plan_add_reserve_in_top(CkptPlan *plan, const CkptCheckpointDisk *disk, const CkptLayer *top)
{
    CkptStep *step = ckpt_plan_add(plan, CKPT_STEP_RESERVE);

    ckpt_set_str(&step->target, disk->target);
    ckpt_set_str(&step->file, disk->sealed_file);
    ckpt_set_str(&step->base, top->path);
    step->base_format = CKPT_FORMAT_QCOW2;
}

CkptStep *
ckpt_plan_add_identify(CkptPlan *plan, const char *file)
{
    CkptStep *step = ckpt_plan_add(plan, CKPT_STEP_IDENTIFY);

    ckpt_set_str(&step->file, file);
    return step;
}

static GPtrArray *
disk_files_new(void)
{
    return g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_disk_file_free);
}

CkptStep *
ckpt_plan_add_manifest(CkptPlan *plan, const CkptCheckpoint *checkpoint)
{
    CkptStep *step = ckpt_plan_add(plan, CKPT_STEP_WRITE_MANIFEST);

    ckpt_set_str(&step->checkpoint_id, checkpoint->id);
    step->disks = disk_files_new();
    for (guint i = 0; i < checkpoint->disks->len; i++) {
        CkptCheckpointDisk *disk = g_ptr_array_index(checkpoint->disks, i);

        g_ptr_array_add(step->disks, ckpt_disk_file_new(disk->target, disk->sealed_file,
                                                        disk->format, NULL));
    }
    return step;
}

CkptStep *
ckpt_plan_add_remove_manifest(CkptPlan *plan, const char *checkpoint_id, const char *file)
{
    CkptStep *step = ckpt_plan_add(plan, CKPT_STEP_REMOVE_MANIFEST);

    ckpt_set_str(&step->checkpoint_id, checkpoint_id);
    step->disks = disk_files_new();
    g_ptr_array_add(step->disks, ckpt_disk_file_new("", file, CKPT_FORMAT_QCOW2, NULL));
    return step;
}

void
ckpt_plan_add_catalogue(CkptPlan *plan, CkptChange *change)
{
    ckpt_plan_add(plan, CKPT_STEP_CATALOGUE)->change = change;
}

void
ckpt_plan_add_remove_file(CkptPlan *plan, const char *file)
{
    ckpt_set_str(&ckpt_plan_add(plan, CKPT_STEP_REMOVE_FILE)->file, file);
}

void
ckpt_plan_set_checkpoint(CkptPlan *plan, CkptCheckpoint *checkpoint)
{
    ckpt_set_str(&plan->checkpoint_id, checkpoint->id);
    plan->checkpoint = checkpoint;
}

void
ckpt_plan_warn(CkptPlan *plan, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_ptr_array_add(plan->warnings, g_strdup_vprintf(format, args));
    va_end(args);
}

/* "/images/web.ckpt-0a1b2c3d.qcow2" → "web". */
static char *
disk_stem(const char *base)
{
    g_autofree char *name = g_path_get_basename(base);
    static const char *const endings[] = {".qcow2", ".raw", ".img"};
    char *mark = strstr(name, ".ckpt-");

    if (mark && mark != name) {
        *mark = '\0';
    } else {
        for (guint i = 0; i < G_N_ELEMENTS(endings); i++)
            if (g_str_has_suffix(name, endings[i]) && strlen(name) > strlen(endings[i])) {
                name[strlen(name) - strlen(endings[i])] = '\0';
                break;
            }
    }
    /* NAME_MAX is 255 bytes; room for target, ID and the manifest's ending. */
    if (strlen(name) > 160)
        *g_utf8_find_prev_char(name, name + 161) = '\0';
    return g_steal_pointer(&name);
}

static gboolean
plan_makes(CkptPlan *plan, const char *path)
{
    for (guint i = 0; i < plan->steps->len; i++) {
        CkptStep *step = g_ptr_array_index(plan->steps, i);

        if (step->kind == CKPT_STEP_MAKE_OVERLAY && g_str_equal(step->file, path))
            return TRUE;
    }
    return FALSE;
}

/* "/dev/vg0/web" → "/overlays/dev-vg0-web"; a file as it is. */
static char *
place_of(const CkptPlanInput *input, const char *base)
{
    const CkptLayer *layer = ckpt_vm_find_file(input->vm, base);
    g_autofree char *name = NULL;

    if (!layer || !layer->overlay_folder)
        return g_strdup(base);
    name = ckpt_device_stem(base);
    return g_build_filename(layer->overlay_folder, name, NULL);
}

char *
ckpt_plan_overlay_path(const CkptPlanInput *input, CkptPlan *plan, const char *base, const char *target,
                       const char *id)
{
    g_autofree char *place = place_of(input, base);
    g_autofree char *folder = g_path_get_dirname(place);
    g_autofree char *stem = disk_stem(place);
    g_autofree char *path = g_strdup_printf("%s/%s.ckpt-%.8s.qcow2", folder, stem, id);

    if (!plan_makes(plan, path))
        return g_steal_pointer(&path);
    return g_strdup_printf("%s/%s-%s.ckpt-%.8s.qcow2", folder, stem, target, id);
}

static char **
chain_under(const CkptPlanInput *input, const char *overlay, const char *file)
{
    g_auto(GStrv) below = ckpt_graph_chain(input, file);
    g_autoptr(GStrvBuilder) builder = g_strv_builder_new();

    g_strv_builder_add(builder, overlay);
    g_strv_builder_addv(builder, (const char **)below);
    return g_strv_builder_end(builder);
}

GPtrArray *
ckpt_plan_lay_overlays(const CkptPlanInput *input, CkptPlan *plan, const CkptCheckpoint *on,
                       gboolean sized, CkptChange *change)
{
    GPtrArray *tops = disk_files_new();

    for (guint i = 0; i < on->disks->len; i++) {
        CkptCheckpointDisk *disk = g_ptr_array_index(on->disks, i);
        g_autofree char *overlay =
            ckpt_plan_overlay_path(input, plan, disk->sealed_file, disk->target, input->new_id);
        g_auto(GStrv) chain = chain_under(input, overlay, disk->sealed_file);
        CkptStep *step = ckpt_plan_add_make_overlay(plan, overlay, disk->sealed_file, disk->format,
                                                    disk->target);

        step->size = sized ? disk->virtual_size : 0;
        step->mode = disk->mode_before & 0020 ? 0660 : 0600;
        g_ptr_array_add(tops, ckpt_disk_file_new(disk->target, overlay, CKPT_FORMAT_QCOW2,
                                                 (const char *const *)chain));
        g_ptr_array_add(change->made, g_strdup(overlay));
    }
    return tops;
}

CkptStep *
ckpt_plan_add_on_disks(CkptPlan *plan, CkptStepKind kind, GPtrArray *disks)
{
    CkptStep *step = ckpt_plan_add(plan, kind);

    step->disks = g_ptr_array_ref(disks);
    return step;
}

static CkptCheckpointDisk *
capture_disk(const CkptPlanInput *input, const CkptDisk *disk)
{
    const CkptLayer *top;
    CkptCheckpointDisk *captured = g_new0(CkptCheckpointDisk, 1);

    captured->target = g_strdup(disk->target);
    if (input->vm->mechanism == CKPT_MECHANISM_NATIVE) {
        captured->sealed_file = g_strdup("");
        return captured;
    }
    top = g_ptr_array_index(disk->chain, 0);
    captured->sealed_file = g_strdup(top->path);
    captured->format = top->format;
    captured->virtual_size = top->virtual_size;
    captured->mode_before = top->mode;
    captured->agent_made = ckpt_graph_agent_made(input, top->path);
    return captured;
}

CkptCheckpoint *
ckpt_plan_capture(const CkptPlanInput *input, const char *creator)
{
    CkptCheckpoint *checkpoint = ckpt_checkpoint_new();
    const CkptVm *vm = input->vm;

    ckpt_set_str(&checkpoint->id, input->new_id);
    ckpt_set_str(&checkpoint->vm_id, vm->id);
    ckpt_set_str(&checkpoint->vm_name, vm->name);
    ckpt_set_str(&checkpoint->parent_id, input->current_id);
    ckpt_set_str(&checkpoint->creator, creator);
    checkpoint->added_us = checkpoint->modified_us = input->now_us;
    checkpoint->asked = CKPT_CONSISTENCY_CRASH;
    checkpoint->reached =
        vm->power == CKPT_POWER_SHUT_OFF ? CKPT_CONSISTENCY_APPLICATION : CKPT_CONSISTENCY_CRASH;
    checkpoint->freeze_us = -1;
    checkpoint->power = vm->power;
    checkpoint->mechanism = vm->mechanism;
    checkpoint->state = CKPT_STATE_READY;
    ckpt_set_str(&checkpoint->definition, vm->definition);
    ckpt_set_str(&checkpoint->live_definition, vm->live_definition);
    checkpoint->autostart = vm->autostart;
    for (guint i = 0; i < vm->not_captured->len; i++)
        g_ptr_array_add(checkpoint->not_captured, g_strdup(vm->not_captured->pdata[i]));
    for (guint i = 0; i < vm->disks->len; i++)
        g_ptr_array_add(checkpoint->disks, capture_disk(input, g_ptr_array_index(vm->disks, i)));
    return checkpoint;
}

typedef struct {
    guint64 device, bytes;
} Space;

GArray *
ckpt_plan_space_new(void)
{
    return g_array_new(FALSE, FALSE, sizeof(Space));
}

/* What is taken of this file system with these. */
static guint64
add_space(GArray *space, guint64 device, guint64 bytes)
{
    Space first = {device, bytes};

    for (guint i = 0; i < space->len; i++) {
        Space *taken = &g_array_index(space, Space, i);

        if (taken->device == device)
            return taken->bytes += bytes;
    }
    g_array_append_val(space, first);
    return bytes;
}

guint64
ckpt_plan_reserve_of(const CkptLimits *limits, const CkptLayer *layer)
{
    return MAX(limits->reserve_bytes, layer->fs_size / 100 * limits->reserve_percent);
}

static void
add_number(GError **error, const char *key, guint64 number)
{
    g_autofree char *text = g_strdup_printf("%" G_GUINT64_FORMAT, number);

    ckpt_error_add(error, key, text);
}

gboolean
ckpt_plan_take_space(const CkptPlanInput *input, GArray *space, const CkptLayer *layer,
                     guint64 bytes, GError **error)
{
    guint64 reserve = ckpt_plan_reserve_of(input->limits, layer);
    guint64 device = layer->overlay_folder ? layer->overlay_device : layer->id.device;
    guint64 needed = add_space(space, device, bytes) + reserve;

    if (layer->fs_available >= needed)
        return TRUE;
    ckpt_error_set(error, CKPT_REASON_SPACE_LOW,
                   "the file system of %s has %" G_GUINT64_FORMAT " MiB free, %" G_GUINT64_FORMAT
                   " MiB are needed (%" G_GUINT64_FORMAT " MiB of them stay in reserve): make room "
                   "there, delete checkpoints, or change limits.reserve_bytes and reserve_percent",
                   layer->path, layer->fs_available >> 20, (needed >> 20) + 1, reserve >> 20);
    ckpt_error_add(error, CKPT_META_FILE, layer->path);
    add_number(error, CKPT_META_FREE_BYTES, layer->fs_available);
    add_number(error, CKPT_META_NEEDED_BYTES, needed);
    return FALSE;
}

gboolean
ckpt_plan_check_depth(const CkptPlanInput *input, const CkptCheckpoint *parent, GError **error)
{
    guint depth = ckpt_plan_depth(input->checkpoints, parent) + 1;

    if (depth > input->limits->max_depth) {
        ckpt_error_set(error, CKPT_REASON_DEPTH_LIMIT,
                       "the VM is at checkpoint %u of a line of %u at most (limits.max_depth): delete "
                       "some first", depth - 1, input->limits->max_depth);
        return FALSE;
    }
    if (input->checkpoints->len >= input->limits->max_checkpoints_per_vm) {
        ckpt_error_set(error, CKPT_REASON_DEPTH_LIMIT,
                       "the VM has %u checkpoints, %u are allowed (limits.max_checkpoints_per_vm): "
                       "delete some first",
                       input->checkpoints->len, input->limits->max_checkpoints_per_vm);
        return FALSE;
    }
    return TRUE;
}

gboolean
ckpt_plan_check_etag(const CkptCheckpoint *checkpoint, const CkptRequest *request, GError **error)
{
    if (request->etag == 0 || request->etag == checkpoint->revision)
        return TRUE;
    ckpt_error_set(error, CKPT_REASON_ETAG_MISMATCH,
                   "checkpoint %s was changed since the caller read it (its etag is %" G_GUINT64_FORMAT
                   ", given was %" G_GUINT64_FORMAT ")",
                   checkpoint->id, checkpoint->revision, request->etag);
    ckpt_error_add(error, CKPT_META_CHECKPOINT, checkpoint->id);
    return FALSE;
}

CkptCheckpoint *
ckpt_plan_find_target(const CkptPlanInput *input, const CkptRequest *request, GError **error)
{
    CkptCheckpoint *checkpoint = ckpt_graph_find(input->checkpoints, request->checkpoint_id);

    if (!checkpoint) {
        ckpt_error_set(error, CKPT_REASON_CHECKPOINT_NOT_FOUND, "there is no checkpoint %s",
                       request->checkpoint_id);
    } else if (checkpoint->state == CKPT_STATE_DELETING &&
               !(checkpoint->deferred && request->kind == CKPT_KIND_DELETE)) {
        ckpt_error_set(error, CKPT_REASON_CHECKPOINT_DELETING, "checkpoint %s (%s) is gone: %s",
                       checkpoint->name, checkpoint->id, ckpt_plan_deleting_reason(checkpoint));
    } else if (checkpoint->mechanism != input->vm->mechanism) {
        ckpt_error_set(error, CKPT_REASON_NOT_IMPLEMENTED,
                       "checkpoint %s was not made by %s: only listed", checkpoint->id,
                       input->vm->mechanism == CKPT_MECHANISM_NATIVE ? "this hypervisor's snapshots"
                                                                     : "this agent's overlays");
    } else if (ckpt_plan_check_etag(checkpoint, request, error)) {
        return checkpoint;
    }
    ckpt_error_add(error, CKPT_META_CHECKPOINT, request->checkpoint_id);
    return NULL;
}
