/* REBASE: a header names another file below, which has the same contents. */
#include "agent/hypervisor/image.h"
#include "agent/hypervisor/locks.h"
#include "agent/hypervisor/qemu.h"

gboolean
ckpt_file_is_free(const char *path, GError **error)
{
    gboolean read_locked, write_locked;
    g_autofree char *holder = NULL;

    if (!ckpt_locks_probe_path(path, &read_locked, &write_locked, error))
        return FALSE;
    if (!read_locked && !write_locked)
        return TRUE;
    holder = ckpt_locks_holder(path);
    ckpt_error_set(error, CKPT_REASON_VM_BUSY, "%s is in use by %s", path, holder);
    ckpt_error_add(error, CKPT_META_FILE, path);
    return FALSE;
}

gboolean
ckpt_rebase_header(CkptRun *run, const char *file, const char *base, CkptFormat base_format,
                   GError **error)
{
    const char *const arguments[] = {"rebase", "-q", "-u", "-f", "qcow2", "-F",
                                     ckpt_format_name(base_format), "-b", base, file, NULL};

    return ckpt_qemu_img(run, 0, arguments, error) && ckpt_file_sync(file, error);
}

CkptOutcome
ckpt_step_rebase_check(CkptRun *run, GError **error)
{
    const CkptStep *step = run->step;
    g_autoptr(GError) fault = NULL;
    CkptLayer *layer = ckpt_layer_look(step->file, CKPT_FORMAT_QCOW2, NULL, &fault);
    CkptOutcome outcome = CKPT_OUTCOME_UNCLEAR;

    if (fault) {
        g_propagate_error(error, g_steal_pointer(&fault));
    } else if (ckpt_image_same(layer->backing, step->base) &&
               layer->backing_format == step->base_format) {
        outcome = CKPT_OUTCOME_DONE;
    } else if (ckpt_image_same(layer->backing, step->from)) {
        outcome = CKPT_OUTCOME_NOT_DONE;
    } else {
        ckpt_error_set(error, CKPT_REASON_CHAIN_MISMATCH,
                       "disk %s: the header of %s names %s, it should be %s or %s", step->target,
                       step->file, layer->backing ? layer->backing : "no file", step->from,
                       step->base);
        ckpt_error_add(error, CKPT_META_DISK, step->target);
        ckpt_error_add(error, CKPT_META_FILE, step->file);
    }
    ckpt_layer_free(layer);
    return outcome;
}

/* qemu-img takes QEMU's locks: a VM that is started on the file meanwhile has it, or fails to start. */
gboolean
ckpt_step_rebase(CkptRun *run, GError **error)
{
    const CkptStep *step = run->step;

    switch (ckpt_step_rebase_check(run, error)) {
    case CKPT_OUTCOME_DONE:
        return ckpt_file_sync(step->file, error);
    case CKPT_OUTCOME_NOT_DONE:
        return ckpt_file_is_free(step->file, error) &&
               ckpt_rebase_header(run, step->file, step->base, step->base_format, error);
    case CKPT_OUTCOME_UNCLEAR:
        break;
    }
    return FALSE;
}
