/* PULL: what a sealed file holds goes up into the overlay that lies on it, with the VM off. The overlay reads
 * the same whether nothing, some or all of that was copied, until its header names the lower file; so it may
 * be cut off anywhere, and begin again. */
#include "agent/hypervisor/image.h"
#include "agent/hypervisor/qemu.h"

/* Each round either ends the pull, fails, or gets on by one; more means somebody works against us. */
#define ROUNDS 5

typedef enum {
    NEXT_DONE,
    NEXT_FAILED,  /* *error says why */
    NEXT_UNCHAIN, /* the definition tells a chain with the sealed file in it */
    NEXT_COPY     /* the overlay lies on the sealed file */
} Next;

/* The disk that the overlay is the top of, whatever its target is by now. NULL: none. */
static const CkptXmlDisk *
find_disk(const CkptStep *step, const CkptXmlDomain *domain)
{
    return domain ? ckpt_chain_find_top(domain, step->target, step->above) : NULL;
}

static gboolean
tells(const CkptXmlDisk *disk, const char *file)
{
    for (gsize i = 0; disk && disk->chain[i]; i++)
        if (ckpt_image_same(disk->chain[i], file))
            return TRUE;
    return FALSE;
}

static Next
fail(GError **error, CkptReason reason, const CkptStep *step, const char *what)
{
    ckpt_error_set(error, reason, "disk %s: %s", step->target, what);
    ckpt_error_add(error, CKPT_META_DISK, step->target);
    ckpt_error_add(error, CKPT_META_FILE, step->above);
    return NEXT_FAILED;
}

/* As the overlay's header has it. */
static Next
look_at_header(const CkptStep *step, GError **error)
{
    g_autoptr(GError) fault = NULL;
    CkptLayer *above = ckpt_layer_look(step->above, CKPT_FORMAT_QCOW2, NULL, &fault);
    Next next = NEXT_FAILED;

    if (fault)
        g_propagate_error(error, g_steal_pointer(&fault));
    else if (ckpt_image_same(above->backing, step->file))
        next = NEXT_COPY;
    else if (ckpt_image_same(above->backing, step->base) &&
             above->backing_format == step->base_format)
        next = NEXT_DONE;
    else
        fail(error, CKPT_REASON_CHAIN_MISMATCH, step,
             "the overlay's header names neither of the two files below it");
    ckpt_layer_free(above);
    return next;
}

/* A definition that told the old chain would start the VM on that, not on the headers' (hazard A3). */
static Next
look(const CkptView *view, const CkptStep *step, GError **error)
{
    if (tells(find_disk(step, view->live_xml), step->file))
        return fail(error, CKPT_REASON_SHUT_DOWN_REQUIRED, step,
                    "the VM was started while its checkpoint was deleted; delete the checkpoint again, and if "
                    "that is refused shut the VM down first");
    if (tells(find_disk(step, view->definition_xml), step->file))
        return NEXT_UNCHAIN;
    return look_at_header(step, error);
}

static gboolean
unchain(CkptRun *run, const CkptView *view, GError **error)
{
    const CkptXmlDisk *defined = find_disk(run->step, view->definition_xml);
    g_autoptr(GPtrArray) disks =
        g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_disk_file_free);

    g_ptr_array_add(disks, ckpt_disk_file_new(defined->target, defined->source,
                                              ckpt_format_from_name(defined->format), NULL));
    return ckpt_define_disks(run, disks, error);
}

static guint64
allocated(const char *file)
{
    CkptLayer *layer = ckpt_layer_look(file, CKPT_FORMAT_QCOW2, NULL, NULL);
    guint64 bytes = layer->allocated;

    ckpt_layer_free(layer);
    return bytes;
}

/* For --image-opts. The limit is a layer of QEMU's own, since "rebase" knows none. */
static char *
image_options(const CkptRun *run)
{
    g_auto(GStrv) parts = g_strsplit(run->step->above, ",", -1);
    g_autofree char *file = g_strjoinv(",,", parts);

    return g_strconcat("driver=qcow2,discard=unmap,detect-zeroes=unmap,",
                       run->merge_mib ? "file.driver=throttle,file.throttle-group=limit,"
                                        "file.file.driver=file,file.file.filename="
                                      : "file.driver=file,file.filename=",
                       file, NULL);
}

/* A try that was killed leaves clusters that are counted and belong to nothing: QEMU writes the count first.
 * They are harmless; but they would never be used, and qemu-img check would tell of them for ever. */
static void
recount(CkptRun *run)
{
    const char *const arguments[] = {"check", "-q", "-f", "qcow2", "-r", "leaks", run->step->above, NULL};
    g_autoptr(GError) error = NULL;

    if (!ckpt_qemu_img(run, 0, arguments, &error))
        g_message("%s: clusters that an earlier try may have left are not looked for: %s", run->step->above,
                  error->message);
}

/* What of the sealed file differs from the one below is written to the overlay where that has nothing; then
 * the header. "writethrough": each write is on the disk before the next, and so is all that leads to it, so
 * that no crash leaves a header that lacks its data. qemu-img takes QEMU's locks: a VM that is started
 * meanwhile fails to, not the pull. */
static gboolean
copy(CkptRun *run, GError **error)
{
    const CkptStep *step = run->step;
    g_autofree char *image = image_options(run);
    g_autofree char *limit = g_strdup_printf("throttle-group,id=limit,x-bps-write=%" G_GUINT64_FORMAT,
                                             (guint64)MAX(run->merge_mib, 1) << 20);
    const char *const arguments[] = {"rebase", "-p", "-t", "writethrough", "--object", limit,
                                     "--image-opts", "-F", ckpt_format_name(step->base_format), "-b",
                                     step->base, image, NULL};

    if (!ckpt_file_is_free(step->above, error))
        return FALSE;
    recount(run);
    return ckpt_qemu_img(run, allocated(step->file), arguments, error);
}

gboolean
ckpt_step_pull(CkptRun *run, GError **error)
{
    for (guint round = 0; round < ROUNDS; round++) {
        g_autoptr(CkptView) view = ckpt_view_load(run->connection, run->plan->vm_id, error);
        Next next = view ? look(view, run->step, error) : NEXT_FAILED;
        gboolean done = FALSE;

        switch (next) {
        case NEXT_DONE:
            ckpt_reserve_release(run->step->above);
            return ckpt_file_sync(run->step->above, error);
        case NEXT_FAILED:
            return FALSE;
        case NEXT_UNCHAIN:
            done = !ckpt_view_refuse_saved(view, error) && unchain(run, view, error);
            break;
        case NEXT_COPY:
            done = !ckpt_view_refuse_saved(view, error) && copy(run, error);
            break;
        }
        if (!done)
            return FALSE;
    }
    fail(error, CKPT_REASON_VM_BUSY, run->step, "somebody changes the VM again and again");
    return FALSE;
}

CkptOutcome
ckpt_step_pull_check(CkptRun *run, GError **error)
{
    g_autoptr(CkptView) view = ckpt_view_load(run->connection, run->plan->vm_id, error);

    if (!view)
        return CKPT_OUTCOME_UNCLEAR;
    switch (look(view, run->step, error)) {
    case NEXT_DONE:
        return CKPT_OUTCOME_DONE;
    case NEXT_FAILED:
        return CKPT_OUTCOME_UNCLEAR;
    case NEXT_UNCHAIN:
    case NEXT_COPY:
        break;
    }
    return CKPT_OUTCOME_NOT_DONE;
}
