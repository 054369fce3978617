/* The files that a checkpoint has beside its disks' sealed files, and what becomes of the VM's UEFI
 * variables in each plan. */
#include "agent/core/graph.h"
#include "agent/core/plan_parts.h"

#include <string.h>

#define OVERLAY_ENDING ".qcow2"

CkptCheckpointFile *
ckpt_plan_add_extra(CkptCheckpoint *checkpoint, CkptFileKind kind, const char *path, CkptFormat format)
{
    CkptCheckpointFile *file = g_new0(CkptCheckpointFile, 1);

    file->kind = kind;
    file->path = g_strdup(path);
    file->format = format;
    g_ptr_array_add(checkpoint->extras, file);
    return file;
}

char *
ckpt_plan_extra_path(GPtrArray *tops, CkptFileKind kind)
{
    const CkptDiskFile *first = g_ptr_array_index(tops, 0);
    gsize length = strlen(first->file);

    g_assert(g_str_has_suffix(first->file, OVERLAY_ENDING));
    return g_strdup_printf("%.*s.%s", (int)(length - strlen(OVERLAY_ENDING)), first->file,
                           ckpt_file_kind_name(kind));
}

gboolean
ckpt_plan_verify_extra(const CkptPlanInput *input, const CkptCheckpointFile *file, GError **error)
{
    const CkptLayer *layer = ckpt_vm_find_file(input->vm, file->path);
    const char *what = ckpt_file_kind_name(file->kind);

    if (!layer || !layer->exists)
        ckpt_error_set(error, CKPT_REASON_DISK_FILE_MISSING, "%s (%s) is missing", file->path, what);
    else if (!ckpt_file_id_equal(&layer->id, &file->id))
        ckpt_error_set(error, CKPT_REASON_SEALED_FILE_CHANGED, "%s (%s) was changed after it was written",
                       file->path, what);
    else
        return TRUE;
    ckpt_error_add(error, CKPT_META_FILE, file->path);
    return FALSE;
}

void
ckpt_plan_give_up_extras(const CkptCheckpoint *checkpoint, CkptChange *change)
{
    for (guint i = 0; i < checkpoint->extras->len; i++)
        g_ptr_array_add(change->gone,
                        g_strdup(((CkptCheckpointFile *)checkpoint->extras->pdata[i])->path));
}

void
ckpt_plan_add_remove_extras(CkptPlan *plan, const CkptCheckpoint *checkpoint)
{
    for (guint i = 0; i < checkpoint->extras->len; i++)
        ckpt_plan_add_remove_file(plan, ((CkptCheckpointFile *)checkpoint->extras->pdata[i])->path);
}

/* ---- UEFI variables ---- */

static gboolean
has_nvram(const CkptPlanInput *input)
{
    const CkptLayer *layer = input->vm->nvram ? ckpt_vm_find_file(input->vm, input->vm->nvram) : NULL;

    return layer && layer->exists;
}

static CkptStep *
add_step(CkptPlan *plan, CkptStepKind kind, const char *nvram, const char *copy)
{
    CkptStep *step = ckpt_plan_add(plan, kind);

    ckpt_set_str(&step->base, nvram);
    ckpt_set_str(&step->file, copy);
    return step;
}

const char *
ckpt_plan_save_nvram(const CkptPlanInput *input, CkptPlan *plan, CkptCheckpoint *checkpoint,
                     GPtrArray *tops, CkptChange *change)
{
    g_autofree char *copy = NULL;
    CkptStep *step;

    if (!has_nvram(input) || tops->len == 0)
        return NULL;
    copy = ckpt_plan_extra_path(tops, CKPT_FILE_NVRAM);
    step = add_step(plan, CKPT_STEP_SAVE_NVRAM, input->vm->nvram, copy);
    g_ptr_array_add(change->made, g_strdup(copy));
    if (checkpoint)
        ckpt_plan_add_extra(checkpoint, CKPT_FILE_NVRAM, copy, CKPT_FORMAT_RAW);
    return step->file;
}

void
ckpt_plan_compare_nvram(const CkptPlanInput *input, CkptPlan *plan, const char *copy)
{
    if (copy && input->vm->power != CKPT_POWER_SHUT_OFF)
        add_step(plan, CKPT_STEP_COMPARE_NVRAM, input->vm->nvram, copy);
}

gboolean
ckpt_plan_check_nvram(const CkptPlanInput *input, const CkptCheckpoint *target, CkptPlan *plan,
                      GError **error)
{
    const CkptCheckpointFile *kept = ckpt_checkpoint_find_extra(target, CKPT_FILE_NVRAM);

    if (kept && !input->vm->nvram) {
        ckpt_error_set(error, CKPT_REASON_NVRAM_UNSUPPORTED,
                       "checkpoint %s (%s) was made when the VM booted by UEFI, and holds its variables, for "
                       "which the VM has no file now: define it with <nvram> again first",
                       target->name, target->id);
        ckpt_error_add(error, CKPT_META_FILE, kept->path);
        return FALSE;
    }
    if (!kept && has_nvram(input))
        ckpt_plan_warn(plan, "the checkpoint holds no UEFI variables: those in %s stay as they are",
                       input->vm->nvram);
    return TRUE;
}

void
ckpt_plan_put_nvram(const CkptPlanInput *input, CkptPlan *plan, const CkptCheckpoint *target,
                    const char *saved)
{
    const CkptCheckpointFile *kept = ckpt_checkpoint_find_extra(target, CKPT_FILE_NVRAM);

    if (kept)
        ckpt_set_str(&add_step(plan, CKPT_STEP_PUT_NVRAM, input->vm->nvram, kept->path)->from, saved);
}
