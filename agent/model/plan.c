#include "agent/model/plan.h"

#include <string.h>

static const char *const step_names[] = {
    [CKPT_STEP_MAKE_OVERLAY] = "make-overlay",
    [CKPT_STEP_SEAL] = "seal",
    [CKPT_STEP_UNSEAL] = "unseal",
    [CKPT_STEP_SNAPSHOT] = "snapshot",
    [CKPT_STEP_IDENTIFY] = "identify",
    [CKPT_STEP_WRITE_MANIFEST] = "write-manifest",
    [CKPT_STEP_REMOVE_MANIFEST] = "remove-manifest",
    [CKPT_STEP_DEFINE] = "define",
    [CKPT_STEP_STOP] = "stop",
    [CKPT_STEP_START] = "start",
    [CKPT_STEP_MERGE] = "merge",
    [CKPT_STEP_CHECK_CHAIN] = "check-chain",
    [CKPT_STEP_REMOVE_FILE] = "remove-file",
    [CKPT_STEP_RESERVE] = "reserve",
    [CKPT_STEP_REBASE] = "rebase",
    [CKPT_STEP_NATIVE_CREATE] = "native-create",
    [CKPT_STEP_NATIVE_REVERT] = "native-revert",
    [CKPT_STEP_NATIVE_DELETE] = "native-delete",
    [CKPT_STEP_CATALOGUE] = "catalogue",
    [CKPT_STEP_PULL] = "pull",
    [CKPT_STEP_SAVE_NVRAM] = "save-nvram",
    [CKPT_STEP_COMPARE_NVRAM] = "compare-nvram",
    [CKPT_STEP_PUT_NVRAM] = "put-nvram",
    [CKPT_STEP_CHECK_MEMORY] = "check-memory",
};
G_STATIC_ASSERT(G_N_ELEMENTS(step_names) == CKPT_STEP_END_);

const char *
ckpt_step_name(CkptStepKind kind)
{
    if (kind < CKPT_STEP_MAKE_OVERLAY || kind >= CKPT_STEP_END_)
        return "unknown";
    return step_names[kind];
}

CkptDiskFile *
ckpt_disk_file_new(const char *target, const char *file, CkptFormat format,
                   const char *const *chain)
{
    CkptDiskFile *disk = g_new0(CkptDiskFile, 1);

    disk->target = g_strdup(target);
    disk->file = g_strdup(file);
    disk->format = format;
    disk->chain = g_strdupv((char **)chain);
    return disk;
}

void
ckpt_disk_file_free(CkptDiskFile *disk)
{
    if (!disk)
        return;
    g_free(disk->target);
    g_free(disk->file);
    g_strfreev(disk->chain);
    g_free(disk);
}

CkptChange *
ckpt_change_new(void)
{
    CkptChange *change = g_new0(CkptChange, 1);

    change->upserts = g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_checkpoint_free);
    change->removes = g_ptr_array_new_with_free_func(g_free);
    change->made = g_ptr_array_new_with_free_func(g_free);
    change->gone = g_ptr_array_new_with_free_func(g_free);
    change->unlinked = g_ptr_array_new_with_free_func(g_free);
    return change;
}

void
ckpt_change_free(CkptChange *change)
{
    if (!change)
        return;
    g_clear_pointer(&change->upserts, g_ptr_array_unref);
    g_clear_pointer(&change->removes, g_ptr_array_unref);
    g_clear_pointer(&change->made, g_ptr_array_unref);
    g_clear_pointer(&change->gone, g_ptr_array_unref);
    g_clear_pointer(&change->unlinked, g_ptr_array_unref);
    g_free(change->current_id);
    g_free(change);
}

CkptStep *
ckpt_step_new(CkptStepKind kind)
{
    CkptStep *step = g_new0(CkptStep, 1);

    step->kind = kind;
    step->freeze_us = -1;
    return step;
}

/* Definitions hold passwords: not left behind in freed memory. */
static void
free_secret(char *text)
{
    if (text)
        explicit_bzero(text, strlen(text));
    g_free(text);
}

void
ckpt_step_free(CkptStep *step)
{
    if (!step)
        return;
    g_free(step->target);
    g_free(step->file);
    g_free(step->base);
    g_free(step->above);
    g_free(step->like);
    g_free(step->from);
    g_free(step->checkpoint_id);
    g_free(step->note);
    free_secret(step->text);
    free_secret(step->definition);
    free_secret(step->definition_before);
    g_clear_pointer(&step->disks, g_ptr_array_unref);
    ckpt_change_free(step->change);
    g_free(step->warning);
    g_free(step);
}

CkptPlan *
ckpt_plan_new(CkptKind kind)
{
    CkptPlan *plan = g_new0(CkptPlan, 1);

    plan->kind = kind;
    plan->steps = g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_step_free);
    plan->warnings = g_ptr_array_new_with_free_func(g_free);
    return plan;
}

void
ckpt_plan_free(CkptPlan *plan)
{
    if (!plan)
        return;
    g_free(plan->vm_id);
    g_free(plan->vm_name);
    g_free(plan->checkpoint_id);
    g_free(plan->safety_id);
    g_clear_pointer(&plan->steps, g_ptr_array_unref);
    g_clear_pointer(&plan->warnings, g_ptr_array_unref);
    ckpt_checkpoint_free(plan->checkpoint);
    ckpt_checkpoint_free(plan->safety);
    ckpt_forecast_free(plan->forecast);
    g_free(plan);
}

static void
disk_forecast_free(gpointer data)
{
    CkptDiskForecast *disk = data;

    g_free(disk->target);
    g_free(disk->from);
    g_free(disk->into);
    g_free(disk);
}

CkptForecast *
ckpt_forecast_new(void)
{
    CkptForecast *forecast = g_new0(CkptForecast, 1);

    forecast->disks = g_ptr_array_new_with_free_func(disk_forecast_free);
    return forecast;
}

void
ckpt_forecast_free(CkptForecast *forecast)
{
    if (!forecast)
        return;
    g_ptr_array_unref(forecast->disks);
    g_free(forecast);
}

/* ---- Descriptions ---- */

static const char *
or_unnamed(const char *text)
{
    return text ? text : "?";
}

/* "vda to /…/a.qcow2, vdb to /…/b.qcow2" */
static char *
list_disks(const CkptStep *step, const char *between)
{
    GString *list = g_string_new(NULL);

    for (guint i = 0; step->disks && i < step->disks->len; i++) {
        const CkptDiskFile *disk = step->disks->pdata[i];

        g_string_append_printf(list, "%s%s", i ? ", " : "", or_unnamed(disk->target));
        if (between)
            g_string_append_printf(list, " %s %s", between, or_unnamed(disk->file));
    }
    if (list->len == 0)
        g_string_append(list, "no disk");
    return g_string_free(list, FALSE);
}

static char *
describe_change(const CkptChange *change)
{
    GString *text = g_string_new("write to the catalogue:");

    if (!change)
        return g_string_free(g_string_append(text, " nothing"), FALSE);
    for (guint i = 0; i < change->upserts->len; i++) {
        const CkptCheckpoint *checkpoint = change->upserts->pdata[i];

        g_string_append_printf(text, " checkpoint %s%s,", or_unnamed(checkpoint->id),
                               checkpoint->state == CKPT_STATE_DELETING ? " is being deleted" : "");
    }
    for (guint i = 0; i < change->removes->len; i++)
        g_string_append_printf(text, " checkpoint %s is gone,", (char *)change->removes->pdata[i]);
    if (change->set_current)
        g_string_append_printf(text, " the VM is at %s,",
                               change->current_id ? change->current_id : "no checkpoint");
    for (guint i = 0; i < change->made->len; i++)
        g_string_append_printf(text, " %s is made,", (char *)change->made->pdata[i]);
    for (guint i = 0; i < change->gone->len; i++)
        g_string_append_printf(text, " %s is given up,", (char *)change->gone->pdata[i]);
    g_string_truncate(text, text->len - 1);
    return g_string_free(text, FALSE);
}

static char *
describe_disks(const CkptStep *step)
{
    g_autofree char *targets = list_disks(step, NULL);
    g_autofree char *files = list_disks(step, "on");
    g_autofree char *moves = list_disks(step, "to");
    const char *checkpoint = or_unnamed(step->checkpoint_id);

    if (step->kind == CKPT_STEP_SNAPSHOT && step->asked == CKPT_CONSISTENCY_MEMORY)
        return g_strdup_printf("snapshot: write the running VM's memory to %s, and at its last instant switch %s",
                               or_unnamed(step->file), moves);
    if (step->kind == CKPT_STEP_SNAPSHOT && step->asked == CKPT_CONSISTENCY_APPLICATION)
        return g_strdup_printf("snapshot: freeze the guest, switch %s at one instant, thaw", moves);
    if (step->kind == CKPT_STEP_SNAPSHOT)
        return g_strdup_printf("snapshot: switch %s at one instant", moves);
    if (step->kind == CKPT_STEP_WRITE_MANIFEST)
        return g_strdup_printf("write the manifest of checkpoint %s beside %s", checkpoint, files);
    if (step->kind == CKPT_STEP_REMOVE_MANIFEST)
        return g_strdup_printf("remove the manifest of checkpoint %s beside %s", checkpoint, files);
    if (step->kind == CKPT_STEP_DEFINE)
        return g_strdup_printf("define the VM with %s", files);
    return g_strdup_printf("check the disk chain of %s", targets);
}

char *
ckpt_step_describe(const CkptStep *step)
{
    const char *target = or_unnamed(step->target), *file = or_unnamed(step->file);
    const char *base = or_unnamed(step->base);

    switch (step->kind) {
    case CKPT_STEP_MAKE_OVERLAY:
        return g_strdup_printf("make overlay %s on %s for %s", file, base, target);
    case CKPT_STEP_SEAL:
        return g_strdup_printf("seal %s", file);
    case CKPT_STEP_UNSEAL:
        return g_strdup_printf("unseal %s, to mode %04o", file, step->mode);
    case CKPT_STEP_IDENTIFY:
        return g_strdup_printf("sync and identify %s", file);
    case CKPT_STEP_SNAPSHOT:
    case CKPT_STEP_WRITE_MANIFEST:
    case CKPT_STEP_REMOVE_MANIFEST:
    case CKPT_STEP_DEFINE:
    case CKPT_STEP_CHECK_CHAIN:
        return describe_disks(step);
    case CKPT_STEP_STOP:
        return g_strdup("stop the VM");
    case CKPT_STEP_START:
        if (step->file)
            return g_strdup_printf("start the VM%s from its memory in %s",
                                   step->power == CKPT_POWER_PAUSED ? ", paused," : "", file);
        return g_strdup(step->power == CKPT_POWER_PAUSED ? "start the VM, paused" : "start the VM");
    case CKPT_STEP_MERGE:
        return g_strdup_printf("merge %s of %s into %s", file, target, base);
    case CKPT_STEP_REMOVE_FILE:
        return g_strdup_printf("remove %s", file);
    case CKPT_STEP_RESERVE:
        return g_strdup_printf("reserve space in %s for the merge of %s", base, file);
    case CKPT_STEP_REBASE:
        return g_strdup_printf("rebase %s from %s to %s", file, or_unnamed(step->from), base);
    case CKPT_STEP_NATIVE_CREATE:
        return g_strdup_printf("have the hypervisor make snapshot %s", or_unnamed(step->checkpoint_id));
    case CKPT_STEP_NATIVE_REVERT:
        return g_strdup_printf("have the hypervisor revert to snapshot %s",
                               or_unnamed(step->checkpoint_id));
    case CKPT_STEP_NATIVE_DELETE:
        return g_strdup_printf("have the hypervisor delete snapshot %s",
                               or_unnamed(step->checkpoint_id));
    case CKPT_STEP_CATALOGUE:
        return describe_change(step->change);
    case CKPT_STEP_PULL:
        return g_strdup_printf("pull what %s of %s holds up into %s", file, target,
                               or_unnamed(step->above));
    case CKPT_STEP_SAVE_NVRAM:
        return g_strdup_printf("save the UEFI variables %s as %s", base, file);
    case CKPT_STEP_COMPARE_NVRAM:
        return g_strdup_printf("compare the UEFI variables %s with %s", base, file);
    case CKPT_STEP_PUT_NVRAM:
        return g_strdup_printf("put the UEFI variables %s in the place of %s", file, base);
    case CKPT_STEP_CHECK_MEMORY:
        return g_strdup_printf("check that the memory in %s can be loaded", file);
    case CKPT_STEP_END_:
        break;
    }
    return g_strdup("unknown step");
}
