/* SNAPSHOT: all disks of the VM onto their overlays in one transaction of QEMU's, or, when it is shut
 * off, in its definition. */
#include "agent/hypervisor/ask.h"
#include "agent/hypervisor/image.h"
#include "agent/hypervisor/locks.h"
#include "agent/hypervisor/memory.h"

/* Where one disk is, each way it can be asked. */
typedef enum { PLACE_OLD, PLACE_NEW, PLACE_ELSEWHERE } Place;

typedef struct {
    guint old, new, elsewhere; /* answers counted over all disks */
    gboolean used;             /* an overlay was written to */
    gboolean held;             /* somebody has one open */
    gboolean misplaced;        /* one lies on another file than its header says */
    gboolean under;            /* another tool has laid its own on one */
    guint open;                /* overlays that QEMU writes to */
    guint stale;               /* of the old ones: what libvirt believes of the running VM */
    GString *facts;
} Tally;

static void
count(Tally *tally, Place place)
{
    switch (place) {
    case PLACE_OLD:
        tally->old++;
        break;
    case PLACE_NEW:
        tally->new++;
        break;
    case PLACE_ELSEWHERE:
        tally->elsewhere++;
        break;
    }
}

static Place
place_of(const char *source, const CkptDiskFile *disk, const CkptLayer *overlay)
{
    if (g_strcmp0(source, disk->file) == 0)
        return PLACE_NEW;
    /* Without its overlay a disk can only be where it was. */
    if (!source || (overlay->exists && !ckpt_image_same(source, overlay->backing)))
        return PLACE_ELSEWHERE;
    return PLACE_OLD;
}

/* QEMU opens the overlay for writing before it switches to it, and if libvirtd dies in between it stays
 * open without being anybody's disk: whoever runs on an overlay has the file below for reading only. */
static gboolean
is_written(const CkptLayer *overlay, Place live)
{
    gboolean read_locked = FALSE, write_locked = FALSE;

    if (!overlay->write_locked || live == PLACE_NEW || !overlay->backing)
        return overlay->write_locked;
    return ckpt_locks_probe_path(overlay->backing, &read_locked, &write_locked, NULL) &&
           !write_locked;
}

/* Where the disk is that the overlay was made for, under whatever target: on the overlay, or where it was. */
static const char *
source_of(const CkptXmlDomain *domain, const CkptDiskFile *disk, const CkptLayer *overlay)
{
    const CkptXmlDisk *found = ckpt_chain_find_top(domain, disk->target, disk->file);

    if (!found && overlay->backing)
        found = ckpt_chain_find_top(domain, disk->target, overlay->backing);
    if (!found && domain)
        found = ckpt_xml_domain_find(domain, disk->target);
    return found ? found->source : NULL;
}

/* What libvirt laid the overlay over, if that is not the file that the overlay's header names: a snapshot of
 * virsh's came in between (hazard A25). NULL: it lies where it was made for, or is not used. */
static const char *
misplaced_on(const CkptView *view, const CkptDiskFile *disk, const CkptLayer *overlay)
{
    const CkptXmlDisk *live = ckpt_chain_find_top(view->live_xml, disk->target, disk->file);
    const char *below = NULL;

    if (!live && view->live_xml)
        live = ckpt_xml_domain_find(view->live_xml, disk->target);
    for (guint i = 0; live && live->chain[i] && !below; i++)
        below = ckpt_image_same(live->chain[i], disk->file) ? live->chain[i + 1] : NULL;
    return below && overlay->backing && !ckpt_image_same(below, overlay->backing) ? below : NULL;
}

/* Another tool has laid its overlay on ours since: the disk was switched all the same, and lies on it. */
static gboolean
is_under(const CkptXmlDomain *domain, const CkptDiskFile *disk)
{
    const CkptXmlDisk *found = domain ? ckpt_xml_domain_find(domain, disk->target) : NULL;

    return found && found->source && !ckpt_image_same(found->source, disk->file) &&
           ckpt_chain_has(found, disk->file);
}

/* … in the running VM, whose QEMU reads ours by way of that one. */
static gboolean
is_read_under(const CkptView *view, const CkptDiskFile *disk, const CkptLayer *overlay)
{
    return is_under(view->live_xml, disk) && overlay->read_locked && !overlay->write_locked;
}

static void
tally_disk(Tally *tally, const CkptView *view, const CkptDiskFile *disk)
{
    g_autoptr(CkptQcow2) header = NULL;
    CkptLayer *overlay = ckpt_layer_look(disk->file, CKPT_FORMAT_QCOW2, &header, NULL);
    const char *defined = source_of(view->definition_xml, disk, overlay);
    const char *live = source_of(view->live_xml, disk, overlay);
    gboolean read_under = is_read_under(view, disk, overlay), under = is_under(view->definition_xml, disk);
    Place believed = read_under ? PLACE_NEW : place_of(live, disk, overlay);
    gboolean written = read_under || is_written(overlay, believed);

    tally->under = tally->under || read_under || under;
    count(tally, under ? PLACE_NEW : place_of(defined, disk, overlay));
    if (view->active) {
        count(tally, believed);
        tally->stale += believed == PLACE_OLD;
        count(tally, written ? PLACE_NEW : PLACE_OLD);
    } else if (overlay->read_locked || overlay->write_locked) {
        count(tally, PLACE_ELSEWHERE);
    }
    tally->used = tally->used || (header && !header->empty);
    tally->held = tally->held || overlay->read_locked || overlay->write_locked;
    tally->open += written;
    tally->misplaced = tally->misplaced || misplaced_on(view, disk, overlay);
    g_string_append_printf(tally->facts,
                           "%sdisk %s: the definition names %s, the running VM %s, %s is %s%s",
                           tally->facts->len ? "; " : "", disk->target,
                           defined ? defined : "nothing",
                           live ? live : (view->active ? "nothing" : "is not there"), disk->file,
                           read_under ? "read" : written ? "written to" : "not written to",
                           header && !header->empty ? " and holds data" : "");
    ckpt_layer_free(overlay);
}

/* *facts (transfer full): what was found. *forward: the overlays hold the VM's present state, whatever
 * the definition says. */
static CkptOutcome
look(const CkptView *view, GPtrArray *disks, char **facts, gboolean *forward)
{
    Tally tally = {.facts = g_string_new(NULL)};
    CkptOutcome outcome = CKPT_OUTCOME_UNCLEAR;

    for (guint i = 0; i < disks->len; i++)
        tally_disk(&tally, view, g_ptr_array_index(disks, i));
    /* What the guest writes from now on would be lost at its next start: it is taken back while it runs. Under
     * another tool's overlay it cannot be. */
    if (tally.misplaced)
        outcome = tally.under ? CKPT_OUTCOME_UNCLEAR : CKPT_OUTCOME_NOT_DONE;
    /* That libvirtd did not live to note it changes nothing of it (hazard A5): the next start is right,
     * and the check of the chain says what is wrong until then. */
    else if (tally.elsewhere == 0 && (tally.old == 0 || (tally.open == disks->len &&
                                                         tally.old == tally.stale)))
        outcome = CKPT_OUTCOME_DONE;
    /* An overlay that was written to is newer than the file that libvirt names (hazard A5). */
    else if (tally.elsewhere == 0 && tally.new == 0 && !tally.used)
        outcome = CKPT_OUTCOME_NOT_DONE;
    /* The owner has put the VM on other files meanwhile, and nobody is, or was, on the overlays. */
    else if (tally.new == 0 && !tally.used && !tally.held)
        outcome = CKPT_OUTCOME_NOT_DONE;
    *forward = tally.elsewhere == 0 && !tally.under && (view->active ? tally.open == disks->len : TRUE);
    *facts = g_string_free(tally.facts, FALSE);
    return outcome;
}

static CkptOutcome
load_and_look(CkptRun *run, CkptView **out, gboolean *forward, GError **error)
{
    g_autoptr(CkptView) view = ckpt_view_load(run->connection, run->plan->vm_id, error);
    g_autofree char *facts = NULL;
    gboolean ignored;
    CkptOutcome outcome;

    if (forward)
        *forward = FALSE;
    if (!view)
        return CKPT_OUTCOME_UNCLEAR;
    outcome = look(view, run->step->disks, &facts, forward ? forward : &ignored);
    if (outcome == CKPT_OUTCOME_UNCLEAR)
        ckpt_error_set(error, CKPT_REASON_CHAIN_MISMATCH, "%s", facts);
    if (out)
        *out = g_steal_pointer(&view);
    return outcome;
}

/* libvirt may have switched the VM without being able to save that: its next start would then be from the sealed
 * files, at which QEMU fails, or what it writes there is lost. FALSE: libvirt is away, and all is to be looked at
 * anew. */
static gboolean
save_definition(CkptRun *run, GError **error)
{
    g_autoptr(GError) why = NULL;

    if (ckpt_define_flush(run, &why))
        return TRUE;
    if (ckpt_error_reason(why) == CKPT_REASON_HYPERVISOR_UNAVAILABLE) {
        g_propagate_error(error, g_steal_pointer(&why));
        return FALSE;
    }
    g_warning("VM %s is on its overlays, but its saved definition may not be: %s", run->plan->vm_id, why->message);
    g_free(run->step->warning);
    run->step->warning = g_strdup_printf("the VM is on its overlays, but its saved definition may still name the "
                                         "files below: %s, then virsh dumpxml --inactive and virsh define, before "
                                         "libvirtd is restarted: %s", ckpt_define_remedy(why), why->message);
    return TRUE;
}

static CkptOutcome
told_of_saved(GError *why, GError **error)
{
    if (ckpt_error_reason(why) != CKPT_REASON_MANAGED_SAVE_PRESENT) {
        g_propagate_error(error, why);
        return CKPT_OUTCOME_UNCLEAR;
    }
    g_error_free(why);
    return CKPT_OUTCOME_NOT_DONE;
}

/* A crash of libvirtd or of the host may leave the overlays in use, or written to, and a definition
 * that names the files below: at its next start the VM would lose those writes and ruin the sealed
 * files (hazards A5, A26). An overlay that was not written to equals its base, so that for a VM that is
 * off the overlays are right in every case. */
CkptOutcome
ckpt_step_snapshot_check(CkptRun *run, GError **error)
{
    g_autoptr(CkptView) view = NULL;
    g_autoptr(GError) why = NULL;
    gboolean forward;
    CkptOutcome outcome;

    /* No job of ours is to be waited for then; somebody else's may take hours. */
    if (run->step->untried)
        return CKPT_OUTCOME_NOT_DONE;
    ckpt_freeze_recover(run);
    ckpt_memory_recover(run);
    if (!ckpt_settle(run->connection, run->plan->vm_id, error))
        return CKPT_OUTCOME_UNCLEAR;
    outcome = load_and_look(run, &view, &forward, &why);
    if (outcome == CKPT_OUTCOME_UNCLEAR && forward) {
        if (!ckpt_define_disks(run, run->step->disks, error))
            return CKPT_OUTCOME_UNCLEAR;
        g_clear_error(&why);
        g_clear_pointer(&view, ckpt_view_free);
        outcome = load_and_look(run, &view, NULL, &why);
    }
    if (why)
        g_propagate_error(error, g_steal_pointer(&why));
    if (outcome != CKPT_OUTCOME_DONE)
        return outcome;
    if (ckpt_refuse_saved_elsewhere(view, run->step->disks, TRUE, &why)) /* as in finish() */
        return told_of_saved(g_steal_pointer(&why), error);
    ckpt_memory_note_reached(run);
    return save_definition(run, error) ? CKPT_OUTCOME_DONE : CKPT_OUTCOME_UNCLEAR;
}

/* A disk that was resized since its overlay was made would get its old size back. */
static gboolean
has_size_of(const CkptLayer *overlay, const char *top, GError **error)
{
    CkptLayer *below = ckpt_layer_look(top, overlay->backing_format, NULL, NULL);
    gboolean same = below->virtual_size == overlay->virtual_size;

    if (!same)
        ckpt_error_set(error, CKPT_REASON_VM_BUSY, "%s was resized meanwhile: repeat the request",
                       top);
    ckpt_layer_free(below);
    return same;
}

/* What the plan laid the overlay on, also when the overlay itself can no longer be read. */
static const char *
planned_base(const CkptPlan *plan, const char *overlay)
{
    for (guint i = 0; i < plan->steps->len; i++) {
        const CkptStep *step = g_ptr_array_index(plan->steps, i);

        if (step->kind == CKPT_STEP_MAKE_OVERLAY && g_str_equal(step->file, overlay))
            return step->base;
    }
    return NULL;
}

/* The overlay is as it was planned: it is the VM that is not. */
static gboolean
was_moved(const CkptPlan *plan, const CkptDiskFile *disk, const CkptLayer *overlay, const char *top)
{
    const char *base = planned_base(plan, disk->file);

    return base && top && ckpt_image_same(overlay->backing, base) && !ckpt_image_same(top, base);
}

/* REUSE_EXT takes any file: one whose header names another one would run, and ruin that one at its
 * merge (hazard A25). */
static gboolean
overlay_fits(const CkptRun *run, const CkptView *view, const CkptDiskFile *disk, GError **error)
{
    const CkptXmlDisk *defined = ckpt_xml_domain_find(view->definition_xml, disk->target);
    const char *top = view->active ? ckpt_view_live_source(view, disk->target)
                                   : ckpt_view_source(view, disk->target);
    g_autoptr(GError) fault = NULL;
    CkptLayer *overlay = ckpt_layer_look(disk->file, CKPT_FORMAT_QCOW2, NULL, &fault);
    gboolean fits = !fault && defined && ckpt_image_same(overlay->backing, top) &&
                    overlay->backing_format == ckpt_format_from_name(defined->format);

    if (fault)
        g_propagate_error(error, g_steal_pointer(&fault));
    else if (!fits && was_moved(run->plan, disk, overlay, top))
        ckpt_error_set(error, CKPT_REASON_VM_BUSY,
                       "disk %s was put on %s meanwhile: repeat the request", disk->target, top);
    else if (!fits)
        ckpt_error_set(error, CKPT_REASON_CHAIN_MISMATCH,
                       "%s is an overlay of %s (%s), but disk %s is on %s", disk->file,
                       overlay->backing ? overlay->backing : "nothing",
                       ckpt_format_name(overlay->backing_format), disk->target,
                       top ? top : "nothing");
    fits = fits && has_size_of(overlay, top, error);
    ckpt_layer_free(overlay);
    ckpt_error_add(error, CKPT_META_DISK, disk->target);
    ckpt_error_add(error, CKPT_META_FILE, disk->file);
    return fits;
}

/* What the reply will say of the checkpoint was decided on how the VM was when it was planned. */
static gboolean
is_as_planned(CkptRun *run, const CkptView *view, GError **error)
{
    const CkptXmlDomain *present = view->active ? view->live_xml : view->definition_xml;
    gboolean was_off = run->step->power == CKPT_POWER_SHUT_OFF;
    guint captured = 0;

    for (guint i = 0; i < present->disks->len; i++)
        captured += ckpt_xml_disk_is_captured(g_ptr_array_index(present->disks, i));
    if (run->step->power != CKPT_POWER_UNKNOWN && was_off == (view->active != 0)) {
        ckpt_error_set(error, CKPT_REASON_VM_BUSY, "the VM was %s meanwhile: repeat the request",
                       view->active ? "started" : "stopped");
        return FALSE;
    }
    if (captured != run->step->disks->len) {
        ckpt_error_set(error, CKPT_REASON_VM_BUSY,
                       "a disk was attached or detached meanwhile: repeat the request");
        return FALSE;
    }
    return !ckpt_view_refuse_saved(view, error);
}

/* libvirt would refuse the switch, but only after the guest was frozen, and after 30 s; and what is not tried has
 * nothing to be closed, for which the undo would wait until the job ends. For a QEMU that hangs it would wait. */
static gboolean
has_job(CkptConnection *connection, const CkptView *view, GError **error)
{
    g_autoptr(GError) job = NULL;

    if (view->active && !ckpt_ask_qemu(connection, view->domain, NULL, error))
        return TRUE;
    if (view->active && ckpt_domain_has_job(connection, view->domain)) {
        ckpt_error_set(error, CKPT_REASON_VM_BUSY,
                       "a job was begun on the VM meanwhile (virsh domjobinfo): wait for it");
        return TRUE;
    }
    if (!view->active || ckpt_nodes_no_job(view->domain, view->live_xml, FALSE, &job) ||
        ckpt_error_reason(job) != CKPT_REASON_VM_BUSY)
        return FALSE;
    g_propagate_error(error, g_steal_pointer(&job));
    return TRUE;
}

/* ---- The step ---- */

/* A snapshot that is not what the caller must have is undone. */
static gboolean
is_good_enough(const CkptStep *step, GError **error)
{
    if (step->asked < CKPT_CONSISTENCY_APPLICATION || step->reached >= step->minimum)
        return TRUE;
    ckpt_error_set(error, CKPT_REASON_QUIESCE_FAILED, "%s",
                   step->note ? step->note : "it is not known whether the memory was captured");
    return FALSE;
}

/* Whoever asks what became of the step has nothing to thaw, should it not come to a freeze: a guest
 * that is frozen now, another tool has frozen. */
static void
set_not_frozen(CkptStep *step)
{
    if (step->asked != CKPT_CONSISTENCY_APPLICATION)
        return;
    step->reached = CKPT_CONSISTENCY_CRASH;
    step->freeze_us = -1;
    ckpt_set_str(&step->note, "the guest's file systems were not frozen, reached is CRASH");
}

/* Of a VM that was saved in the very moment libvirt switches the definition alone: its memory fits the files that
 * are to be sealed (hazard A24). */
static gboolean
finish(CkptRun *run, const CkptView *view, GError **error)
{
    return !ckpt_refuse_saved_elsewhere(view, run->step->disks, TRUE, error) && save_definition(run, error);
}

gboolean
ckpt_step_snapshot(CkptRun *run, GError **error)
{
    GPtrArray *disks = run->step->disks;
    g_autoptr(CkptView) view = NULL;
    g_autoptr(GError) cause = NULL;

    switch (load_and_look(run, &view, NULL, &cause)) {
    case CKPT_OUTCOME_DONE:
        return finish(run, view, error);
    case CKPT_OUTCOME_UNCLEAR:
        /* A libvirtd that died may have begun with anything. */
        run->step->untried = run->step->untried &&
                             ckpt_error_reason(cause) != CKPT_REASON_HYPERVISOR_UNAVAILABLE;
        g_propagate_error(error, g_steal_pointer(&cause));
        return FALSE;
    case CKPT_OUTCOME_NOT_DONE:
        break;
    }
    set_not_frozen(run->step);
    if (!is_as_planned(run, view, error) || has_job(run->connection, view, error))
        return FALSE;
    for (guint i = 0; i < disks->len; i++)
        if (!overlay_fits(run, view, g_ptr_array_index(disks, i), error))
            return FALSE;
    if (!ckpt_define_flush(run, error)) /* what cannot be saved now could not be afterwards */
        return FALSE;
    if (!ckpt_switch_to_overlays(run, view, &cause, error))
        return FALSE;
    if (cause && ckpt_error_reason(cause) == CKPT_REASON_HYPERVISOR_UNAVAILABLE) {
        g_propagate_error(error, g_steal_pointer(&cause));
        return FALSE;
    }
    /* Neither an error nor a success is believed (hazard A6). */
    g_clear_pointer(&view, ckpt_view_free);
    switch (load_and_look(run, &view, NULL, cause ? NULL : error)) {
    case CKPT_OUTCOME_DONE:
        return is_good_enough(run->step, error) && finish(run, view, error);
    case CKPT_OUTCOME_NOT_DONE:
        if (!cause)
            ckpt_error_set(error, CKPT_REASON_VM_BUSY,
                           "the VM was put on another file, by virsh say, in the very moment: repeat the "
                           "request");
        break;
    case CKPT_OUTCOME_UNCLEAR:
        break;
    }
    if (cause)
        g_propagate_error(error, g_steal_pointer(&cause));
    return FALSE;
}

/* ---- Back: each overlay is merged into the file below it ---- */

/* The file as it was before the plan sealed it: QEMU must write to it. */
static gboolean
unseal_for(const CkptPlan *plan, const char *file, GError **error)
{
    for (guint i = 0; i < plan->steps->len; i++) {
        const CkptStep *step = g_ptr_array_index(plan->steps, i);

        if (step->kind == CKPT_STEP_SEAL && ckpt_image_same(step->file, file))
            return ckpt_file_chmod(file, step->mode, error);
    }
    return TRUE;
}

/* Beside the overlay while its merge back is under way, so that it is known, after a crash too, that
 * what it holds is in the file below. */
static char *
mark_path(const CkptDiskFile *disk)
{
    return g_strconcat(disk->file, ".vmckpt-undo", NULL);
}

/* *fault: why it cannot be run. */
static CkptStep *
new_merge(const CkptPlan *plan, const CkptView *view, const CkptDiskFile *disk, GError **fault)
{
    CkptStep *merge = ckpt_step_new(CKPT_STEP_MERGE);
    CkptLayer *overlay = ckpt_layer_look(disk->file, CKPT_FORMAT_QCOW2, NULL, fault);
    const char *below = misplaced_on(view, disk, overlay);

    merge->target = g_strdup(disk->target);
    merge->file = g_strdup(disk->file);
    merge->base = g_strdup(below ? below
                           : overlay->backing ? overlay->backing
                                              : planned_base(plan, disk->file));
    merge->base_format = below ? CKPT_FORMAT_QCOW2 : overlay->backing_format; /* as what virsh lays is */
    if (!overlay->backing && *fault == NULL)
        ckpt_error_set(fault, CKPT_REASON_CHAIN_MISMATCH, "%s lies on nothing", disk->file);
    ckpt_layer_free(overlay);
    return merge;
}

static gboolean
merge_back(CkptRun *merging, const CkptView *view, const GError *fault, GError **error)
{
    const CkptStep *merge = merging->step;
    const CkptDiskFile disk = {.file = merge->file};
    g_autofree char *mark = mark_path(&disk);

    if (fault) {
        g_propagate_error(error, g_error_copy(fault));
        return FALSE;
    }
    /* What would wait for its owner stays sealed meanwhile; one that was begun may only be short of its
     * definition. */
    return (g_file_test(mark, G_FILE_TEST_EXISTS) || !ckpt_merge_refuse_saved(view, merge->file, error)) &&
           ckpt_file_mark(mark, error) &&
           unseal_for(merging->plan, merge->base, error) && ckpt_step_merge(merging, error);
}

/* A merge that a crash cut short behind its pivot has nothing left to do, or cannot go on, and its guest
 * still stands. */
static gboolean
resume_after(CkptRun *merging, gboolean done, GError **error)
{
    g_autoptr(GError) paused = NULL;

    if (!merging->step->base || ckpt_merge_resume(merging, &paused))
        return done;
    paused->code = CKPT_REASON_HYPERVISOR_UNAVAILABLE; /* as in ckpt_step_merge */
    g_clear_error(error);
    g_propagate_error(error, g_steal_pointer(&paused));
    return FALSE;
}

static gboolean
is_used(const CkptView *view, const CkptDiskFile *disk)
{
    return ckpt_chain_find_top(view->definition_xml, disk->target, disk->file) ||
           ckpt_chain_find_top(view->live_xml, disk->target, disk->file);
}

/* Hazard A5: QEMU writes to the overlay and libvirt does not know, so that nothing can be merged while the
 * VM runs; the definition must go on naming the overlay, which alone has what the guest wrote. */
static gboolean
refuse_unseen(const CkptView *view, const CkptDiskFile *disk, GError **error)
{
    CkptLayer *overlay = ckpt_layer_look(disk->file, CKPT_FORMAT_QCOW2, NULL, NULL);
    const char *live = source_of(view->live_xml, disk, overlay);
    gboolean unseen = view->active && g_strcmp0(live, disk->file) != 0 &&
                      is_written(overlay, place_of(live, disk, overlay));

    ckpt_layer_free(overlay);
    if (!unseen)
        return FALSE;
    ckpt_error_set(error, CKPT_REASON_CHAIN_MISMATCH,
                   "disk %s: QEMU writes to %s, but libvirt believes that the VM runs on %s: shut the VM "
                   "down and start it again",
                   disk->target, disk->file, live ? live : "nothing");
    ckpt_error_add(error, CKPT_META_DISK, disk->target);
    ckpt_error_add(error, CKPT_META_FILE, disk->file);
    return TRUE;
}

static gboolean
undo_disk(CkptRun *run, const CkptView *view, const CkptDiskFile *disk, GError **error)
{
    g_autofree char *mark = mark_path(disk);
    g_autoptr(GError) fault = NULL;
    CkptStep removed = {.kind = CKPT_STEP_REMOVE_FILE, .file = disk->file};
    CkptRun removal = *run, merging = *run;
    gboolean done;

    if (refuse_unseen(view, disk, error))
        return FALSE;
    merging.step = new_merge(run->plan, view, disk, &fault);
    done = resume_after(&merging, !is_used(view, disk) || merge_back(&merging, view, fault, error), error);
    if (done && g_file_test(mark, G_FILE_TEST_EXISTS)) {
        removal.step = &removed;
        done = ckpt_merge_is_done(merging.step, error) && ckpt_step_remove_file(&removal, error) &&
               ckpt_file_remove(mark, error);
    }
    ckpt_step_free(merging.step);
    return done;
}

static gboolean
is_passing(const GError *error)
{
    CkptReason reason = ckpt_error_reason(error);

    return reason == CKPT_REASON_HYPERVISOR_UNAVAILABLE || reason == CKPT_REASON_VM_BUSY;
}

/* QEMU may have opened overlays that it was never told to switch to (hazard A6): while it has them open,
 * the names of their nodes are taken, which fails the next snapshot, and their files cannot go. The kernel
 * cannot be asked: QEMU holds no lock on what nothing uses. */
static gboolean
close_unused(CkptRun *run, const CkptView *view, GError **error)
{
    GPtrArray *disks = run->step->disks;

    for (guint i = 0; view->active && !run->step->untried && i < disks->len; i++) {
        const CkptDiskFile *disk = g_ptr_array_index(disks, i);
        g_autoptr(GError) why = NULL;

        if (is_used(view, disk) || ckpt_nodes_release(run->connection, view->domain, disk->file, &why))
            continue;
        if (is_passing(why)) {
            g_propagate_error(error, g_steal_pointer(&why));
            return FALSE;
        }
        /* As where libvirt forbids its monitor. There is nothing in the file that anybody misses, and one
         * that is locked is kept by its removal. */
        g_warning("VM %s: whether QEMU still has %s open is not known: %s", run->plan->vm_id,
                  disk->file, why->message);
    }
    return TRUE;
}

gboolean
ckpt_step_snapshot_undo(CkptRun *run, GError **error)
{
    g_autoptr(CkptView) view = NULL;

    ckpt_freeze_recover(run);
    ckpt_memory_recover(run);
    view = ckpt_view_load(run->connection, run->plan->vm_id, error);
    if (!view)
        return FALSE;
    for (guint i = 0; i < run->step->disks->len; i++)
        if (!undo_disk(run, view, g_ptr_array_index(run->step->disks, i), error))
            return FALSE;
    return close_unused(run, view, error) && ckpt_memory_remove(run, error);
}

void
ckpt_snapshot_let_go(CkptRun *run, const CkptDiskFile *disk)
{
    const char *base = planned_base(run->plan, disk->file);

    if (base)
        ckpt_merge_let_go(run, base);
}
