/* MERGE: one overlay into the file below it. Each round looks at the world anew and does the one thing
 * that is next, so that it may begin after a crash at any point, whoever started or stopped the VM
 * since. */
#include "agent/hypervisor/image.h"
#include "agent/hypervisor/locks.h"
#include "agent/hypervisor/qemu.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

/* Each round either ends the merge, fails, or gets on by one; more means somebody works against us. */
#define ROUNDS 8

typedef enum {
    NEXT_DONE,
    NEXT_FAILED,      /* *error says why */
    NEXT_LIVE_TOP,    /* the running VM writes to `file` */
    NEXT_LIVE_MIDDLE, /* the running VM has `file` in its chain, under `above` */
    NEXT_COMMIT,      /* nobody has `file` open, and something lies on it */
    NEXT_DEFINE       /* merged; only the definition still names `file`, as the top or in the chain
                         that libvirt told there */
} Next;

static gint
position(const CkptXmlDisk *disk, const char *file)
{
    for (gint i = 0; disk && disk->chain[i]; i++)
        if (ckpt_image_same(disk->chain[i], file))
            return i;
    return -1;
}

static Next
fail(GError **error, const CkptStep *step, const char *what)
{
    ckpt_error_set(error, CKPT_REASON_CHAIN_MISMATCH, "disk %s: %s", step->target, what);
    ckpt_error_add(error, CKPT_META_DISK, step->target);
    ckpt_error_add(error, CKPT_META_FILE, step->file);
    return NEXT_FAILED;
}

/* Another tool's overlay came in between: all is as it should be below that, and goes on when it is gone. */
static Next
fail_under(GError **error, const CkptStep *step, const char *above, const char *file)
{
    ckpt_error_set(error, CKPT_REASON_VM_BUSY,
                   "disk %s: %s was laid on %s meanwhile: end that with the tool that made it (virsh "
                   "blockcommit), then repeat the request",
                   step->target, above, file);
    ckpt_error_add(error, CKPT_META_DISK, step->target);
    ckpt_error_add(error, CKPT_META_FILE, above);
    return NEXT_FAILED;
}

/* The disk that the merge is about, whatever its target is by now. NULL: it has none of the files. */
static const CkptXmlDisk *
find_disk(const CkptStep *step, const CkptXmlDomain *domain)
{
    const char *const files[] = {step->file, step->above ? step->above : step->base, step->base, NULL};

    return ckpt_chain_find_disk(domain, step->target, files);
}

/* Its newest file may be somebody's only copy: it is left under its name, and all goes on when the disk is
 * back. */
static Next
refuse_detached(const CkptStep *step, GError **error)
{
    ckpt_error_set(error, CKPT_REASON_DISK_DETACHED,
                   "disk %s is no longer attached, no disk of the VM lies on %s or %s, which are to be "
                   "merged: they are left as they are; attach it again, under any target, then repeat "
                   "the request",
                   step->target, step->file, step->base);
    ckpt_error_add(error, CKPT_META_DISK, step->target);
    ckpt_error_add(error, CKPT_META_FILE, step->file);
    return NEXT_FAILED;
}

/* What a header says lies below: `file` → commit, `base` → done. */
static Next
next_above(const CkptStep *step, GError **error)
{
    g_autoptr(GError) fault = NULL;
    CkptLayer *above = ckpt_layer_look(step->above, CKPT_FORMAT_QCOW2, NULL, &fault);
    Next next = NEXT_FAILED;

    if (fault)
        g_propagate_error(error, g_steal_pointer(&fault));
    else if (ckpt_image_same(above->backing, step->file))
        next = NEXT_COMMIT;
    else if (ckpt_image_same(above->backing, step->base) &&
             above->backing_format == step->base_format)
        next = NEXT_DONE;
    else
        fail(error, step, "the file above lies on neither of the two");
    ckpt_layer_free(above);
    return next;
}

/* ---- Whether it was merged ----
 * A definition that names the lower file does not say so: its owner may have put it there in the midst of the
 * merge (hazard A22), when what the upper one holds is nowhere else. A mark beside that one says it, from just
 * before the definition is changed. */

static char *
merged_path(const char *file)
{
    return g_strconcat(file, ".vmckpt-merged", NULL);
}

gboolean
ckpt_merge_note(const CkptStep *step, GError **error)
{
    g_autofree char *mark = merged_path(step->file);

    return ckpt_file_mark(mark, error);
}

gboolean
ckpt_merge_forget(const char *file, GError **error)
{
    g_autofree char *mark = merged_path(file);

    return !g_file_test(mark, G_FILE_TEST_EXISTS) || ckpt_file_remove(mark, error);
}

/* What holds nothing is not missed. */
static gboolean
holds_data(const char *file)
{
    g_autoptr(CkptQcow2) header = NULL;
    CkptLayer *layer = ckpt_layer_look(file, CKPT_FORMAT_QCOW2, &header, NULL);
    gboolean holds = layer->exists && !(header && header->empty);

    ckpt_layer_free(layer);
    return holds;
}

gboolean
ckpt_merge_is_done(const CkptStep *step, GError **error)
{
    g_autofree char *mark = merged_path(step->file);

    if (g_file_test(mark, G_FILE_TEST_EXISTS) || ckpt_merge_is_barred(step) || !holds_data(step->file))
        return TRUE;
    ckpt_error_set(error, CKPT_REASON_CHAIN_MISMATCH,
                   "disk %s: the VM was put on %s before all of %s was merged into that: shut it down, define "
                   "the disk on %s again, then repeat the request (if you have merged it by hand, say so first "
                   "with an empty file %s)",
                   step->target, step->base, step->file, step->file, mark);
    ckpt_error_add(error, CKPT_META_DISK, step->target);
    ckpt_error_add(error, CKPT_META_FILE, step->file);
    return FALSE;
}

static Next
next_merged(const CkptStep *step, const CkptView *view)
{
    const CkptXmlDisk *defined = find_disk(step, view->definition_xml);

    return position(defined, step->file) >= 0 ? NEXT_DEFINE : NEXT_DONE;
}

/* The running VM has base in its chain, but no longer `file`: QEMU is past the merge. Never once
 * more, base has newer data than `file` by now (hazard A26). */
static Next
next_past(const CkptStep *step, const CkptXmlDisk *live, gint base, const CkptView *view, GError **error)
{
    gboolean read_locked, write_locked;

    if (step->above) {
        Next next = next_above(step, error);

        if (next == NEXT_DONE)
            return next_merged(step, view);
        return next == NEXT_COMMIT
                   ? fail(error, step, "the running VM reads the lower file through another one")
                   : next;
    }
    if (base != 0)
        return ckpt_merge_is_done(step, error) ? fail_under(error, step, live->chain[base - 1], step->base)
                                               : NEXT_FAILED;
    /* Past it QEMU writes to base; libvirt may only believe so (hazard A5). */
    if (!ckpt_locks_probe_path(step->base, &read_locked, &write_locked, error))
        return NEXT_FAILED;
    if (!write_locked && virDomainIsActive(view->domain) == 1)
        return fail(error, step, "libvirt names the lower file, but QEMU does not write to it");
    return ckpt_merge_is_done(step, error) ? next_merged(step, view) : NEXT_FAILED;
}

static Next
next_live(const CkptStep *step, const CkptXmlDisk *live, const CkptView *view, GError **error)
{
    gint file = position(live, step->file);
    gint base = position(live, step->base);

    if (file < 0)
        return next_past(step, live, base, view, error);
    if (base != file + 1)
        return fail(error, step, "the running VM has the two files in another order");
    if (file > 0 && !step->above)
        return fail_under(error, step, live->chain[file - 1], step->file);
    if (file == 0 && step->above)
        return fail(error, step, "the running VM has the merged file in another place of its chain");
    if (file == 0 && ckpt_merge_is_barred(step))
        return fail(error, step, "the running VM writes to a file that was merged already, and is older "
                                 "than the one below it: shut it down");
    if (file == 0)
        return NEXT_LIVE_TOP;
    if (!ckpt_image_same(live->chain[file - 1], step->above))
        return fail(error, step, "the running VM has another file above the merged one");
    return NEXT_LIVE_MIDDLE;
}

static Next
look(const CkptView *view, const CkptStep *step, GError **error)
{
    const CkptXmlDisk *live = find_disk(step, view->live_xml);
    const CkptXmlDisk *defined = find_disk(step, view->definition_xml);

    if (live && (position(live, step->file) >= 0 || position(live, step->base) >= 0))
        return next_live(step, live, view, error);
    if (step->above) {
        Next next = next_above(step, error);

        return next == NEXT_DONE ? next_merged(step, view) : next;
    }
    if (!defined)
        return refuse_detached(step, error);
    if (defined->source && ckpt_image_same(defined->source, step->base))
        return ckpt_merge_is_done(step, error) ? NEXT_DONE : NEXT_FAILED;
    if (!defined->source || !ckpt_image_same(defined->source, step->file))
        return fail(error, step, "the definition names neither of the two files");
    /* The guest has written to base since (hazard A26). */
    return ckpt_merge_is_barred(step) ? NEXT_DEFINE : NEXT_COMMIT;
}

/* ---- Offline ---- */

static gboolean
lies_on_base(const CkptStep *step, guint64 *bytes, GError **error)
{
    g_autoptr(GError) fault = NULL;
    CkptLayer *layer = ckpt_layer_look(step->file, CKPT_FORMAT_QCOW2, NULL, &fault);
    gboolean lies = !fault && ckpt_image_same(layer->backing, step->base) &&
                    layer->backing_format == step->base_format;

    *bytes = layer->allocated;
    if (fault)
        g_propagate_error(error, g_steal_pointer(&fault));
    else if (!lies)
        fail(error, step, "the merged file's header names another file, or format, below it");
    ckpt_layer_free(layer);
    return lies;
}

/* Without the chain that libvirt keeps in definitions: it would start the VM on that one, not on the
 * headers' (hazard A3). */
static gboolean
define_merged(CkptRun *run, const CkptView *view, GError **error)
{
    const CkptStep *step = run->step;
    const CkptXmlDisk *defined = find_disk(step, view->definition_xml);
    gboolean top = ckpt_image_same(defined->source, step->file);
    CkptDiskFile merged = {
        .target = defined->target,
        .file = top ? step->base : defined->source,
        .format = top ? step->base_format : ckpt_format_from_name(defined->format),
    };

    return ckpt_define_disk(run, &merged, defined->source, error);
}

/* qemu-img takes QEMU's locks on both files, so a VM that starts meanwhile fails, not the merge; one
 * that starts afterwards is met in the next round. To commit a second time does no harm as long as
 * nothing but `file` has been written to since. */
static gboolean
commit_files(CkptRun *run, GError **error)
{
    const CkptStep *step = run->step;
    g_autofree char *rate = run->merge_mib ? g_strdup_printf("%uM", run->merge_mib) : NULL;
    const char *const arguments[] = {"commit", "-p", "-d", "-f", "qcow2", "-r", rate, step->file, NULL};
    const char *const unlimited[] = {"commit", "-p", "-d", "-f", "qcow2", step->file, NULL};
    guint64 bytes = 0;

    return lies_on_base(step, &bytes, error) && ckpt_pins_check(run, error) &&
           ckpt_file_is_free(step->file, error) &&
           ckpt_file_is_free(step->base, error) &&
           (!step->above || ckpt_file_is_free(step->above, error)) &&
           ckpt_qemu_img(run, bytes, rate ? arguments : unlimited, error) &&
           ckpt_file_sync(step->base, error);
}

/* The base is the disk's newest file from now on, and belongs to whom that belonged: when a VM stops libvirt
 * gives back the top of a chain only, so that the base may still be QEMU's. */
static void
take_owner(CkptStep *step)
{
    struct stat top, base;

    if (stat(step->file, &top) < 0 || stat(step->base, &base) < 0 ||
        (top.st_uid == base.st_uid && top.st_gid == base.st_gid) ||
        chown(step->base, top.st_uid, top.st_gid) == 0)
        return;
    g_free(step->warning);
    step->warning = g_strdup_printf("%s still belongs to user %u, group %u, not to %u and %u as the disk "
                                    "did before the merge: %s",
                                    step->base, base.st_uid, base.st_gid, top.st_uid, top.st_gid,
                                    g_strerror(errno));
}

gboolean
ckpt_merge_refuse_saved(const CkptView *view, const char *file, GError **error)
{
    CkptDiskFile disk = {.file = (char *)file};
    g_autoptr(GPtrArray) disks = g_ptr_array_new();
    g_autoptr(CkptQcow2) header = NULL;
    gboolean on = FALSE;

    if (view->active)
        return FALSE;
    g_ptr_array_add(disks, &disk);
    ckpt_layer_free(ckpt_layer_look(file, CKPT_FORMAT_QCOW2, &header, NULL));
    if (header && header->empty && !header->snapshots && !header->bitmaps &&
        ckpt_saved_look_on(view->domain, disks, TRUE, &on, NULL) && !on)
        return FALSE;
    return ckpt_view_refuse_saved(view, error);
}

static gboolean
commit_offline(CkptRun *run, const CkptView *view, GError **error)
{
    CkptStep *step = run->step;

    if (ckpt_merge_refuse_saved(view, step->file, error) || !ckpt_merge_forget(step->file, error) ||
        !commit_files(run, error))
        return FALSE;
    if (step->above)
        return ckpt_rebase_header(run, step->above, step->base, step->base_format, error);
    take_owner(step);
    return ckpt_merge_note(step, error) && define_merged(run, view, error);
}

/* libvirt's jobs are by target: by that which the disk has in the running VM. */
static gboolean
merge_live(CkptRun *run, CkptView *view, gboolean top, GError **error)
{
    CkptStep step = *run->step;
    CkptRun here = *run;
    gboolean done;

    step.target = find_disk(run->step, view->live_xml)->target;
    here.step = &step;
    done = ckpt_merge_live(&here, view, top, error);
    run->step->warning = step.warning;
    return done;
}

static gboolean
do_next(CkptRun *run, CkptView *view, Next next, GError **error)
{
    switch (next) {
    case NEXT_DONE:
        return TRUE;
    case NEXT_FAILED:
        return FALSE;
    case NEXT_LIVE_TOP:
        return merge_live(run, view, TRUE, error);
    case NEXT_LIVE_MIDDLE:
        return merge_live(run, view, FALSE, error);
    case NEXT_COMMIT:
        return commit_offline(run, view, error);
    case NEXT_DEFINE:
        if (define_merged(run, view, error))
            return TRUE;
        if (view->active && !run->step->above)
            ckpt_merge_bar(run->step);
        return FALSE;
    }
    return FALSE;
}

/* What is done is on the disk, also what a QEMU did that is gone by now. Not while the guest stands still:
 * its host may have much to write. (QEMU has flushed the base before the pivot.) */
static gboolean
finish(const CkptStep *step, GError **error)
{
    ckpt_reserve_release(step->base);
    return ckpt_file_sync(step->base, error) &&
           (!step->above || ckpt_file_sync(step->above, error));
}

/* A sealed file on which nothing lies goes into the one below it. Nothing tells afterwards that it was
 * done, and nothing need: neither file changes any more, so that once more comes to the same. */
static gboolean
merge_leaf(CkptRun *run, GError **error)
{
    return commit_files(run, error);
}

/* Of a VM that is not defined here (any more): nobody has it as a disk. What is its newest state is left under
 * its name, unless it was planned so (leaf). */
static gboolean
merge_undefined(CkptRun *run, GError **error)
{
    const CkptStep *step = run->step;

    if (!step->above)
        return refuse_detached(step, error) == NEXT_DONE;
    switch (next_above(step, error)) {
    case NEXT_DONE:
        return TRUE;
    case NEXT_COMMIT:
        return commit_files(run, error) &&
               ckpt_rebase_header(run, step->above, step->base, step->base_format, error);
    case NEXT_FAILED:
    case NEXT_LIVE_TOP:
    case NEXT_LIVE_MIDDLE:
    case NEXT_DEFINE:
        break;
    }
    return FALSE;
}

/* libvirt refuses what was meant for a VM that has just been started or stopped, and what was compared with one in
 * the midst of that is no mismatch. */
static gboolean
is_outdated(CkptRun *run, const CkptView *view, const GError *why)
{
    CkptReason reason = ckpt_error_reason(why);

    if (reason == CKPT_REASON_CHAIN_MISMATCH)
        return ckpt_view_has_changed(run->connection, run->plan->vm_id, view);
    return reason == CKPT_REASON_HYPERVISOR_FAILED && ckpt_view_is_stale(view);
}

static gboolean
merge(CkptRun *run, GError **error)
{
    if (run->step->leaf)
        return merge_leaf(run, error);
    for (guint round = 0; round < ROUNDS; round++) {
        g_autoptr(GError) why = NULL;
        g_autoptr(CkptView) view = ckpt_view_load(run->connection, run->plan->vm_id, &why);
        Next next = view ? look(view, run->step, &why) : NEXT_FAILED;

        if (!view && ckpt_error_reason(why) == CKPT_REASON_VM_NOT_FOUND)
            return merge_undefined(run, error);
        if (!view) {
            g_propagate_error(error, g_steal_pointer(&why));
            return FALSE;
        }
        /* Who died behind the pivot has not seen it saved. */
        if (next == NEXT_DONE && round == 0 && view->active && !run->step->above)
            ckpt_merge_save(run);
        if (next == NEXT_DONE)
            return TRUE;
        if (do_next(run, view, next, &why))
            continue;
        if (is_outdated(run, view, why))
            continue;
        g_propagate_error(error, g_steal_pointer(&why));
        return FALSE;
    }
    ckpt_error_set(error, CKPT_REASON_VM_BUSY,
                   "disk %s: the VM is started and stopped again and again while it is merged, or stands still "
                   "for a save or a migration (virsh domstate --reason)",
                   run->step->target);
    return FALSE;
}

gboolean
ckpt_step_merge(CkptRun *run, GError **error)
{
    gboolean done = merge(run, error);
    g_autoptr(GError) paused = NULL;

    /* Once the saved definition was seen to be right, or nothing came of it. */
    if (ckpt_merge_resume(run, &paused))
        return done && finish(run->step, error);
    /* A suspended guest comes before whatever else went wrong: as if libvirt were away, the step is run
     * again, and with it the resume. */
    paused->code = CKPT_REASON_HYPERVISOR_UNAVAILABLE;
    if (!done && error && *error) {
        g_prefix_error(&paused, "%s; ", (*error)->message);
        g_clear_error(error);
    }
    g_propagate_error(error, g_steal_pointer(&paused));
    return FALSE;
}

CkptOutcome
ckpt_step_merge_check(CkptRun *run, GError **error)
{
    g_autoptr(CkptView) view = NULL;

    if (run->step->leaf)
        return CKPT_OUTCOME_NOT_DONE;
    view = ckpt_view_load(run->connection, run->plan->vm_id, error);
    if (!view)
        return CKPT_OUTCOME_UNCLEAR; /* MERGE is never the decisive step */
    switch (look(view, run->step, error)) {
    case NEXT_DONE:
        return CKPT_OUTCOME_DONE;
    case NEXT_FAILED:
        return CKPT_OUTCOME_UNCLEAR;
    case NEXT_LIVE_TOP:
    case NEXT_LIVE_MIDDLE:
    case NEXT_COMMIT:
    case NEXT_DEFINE:
        break;
    }
    return CKPT_OUTCOME_NOT_DONE;
}
