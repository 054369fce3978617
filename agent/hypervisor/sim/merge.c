/* MERGE: one overlay into the file below it; PULL: the other way. Cell by cell, in the driver's way: look, do
 * the one thing that is next, look again. Cut off anywhere it leaves what QEMU or qemu-img would leave. */
#include "agent/hypervisor/sim/sim.h"

typedef enum { NEXT_DONE, NEXT_FAILED, NEXT_LIVE, NEXT_COMMIT, NEXT_DEFINE } Next;

static gint
position(const CkptSimLive *live, const CkptSimFile *file)
{
    guint index;

    if (live && file && g_ptr_array_find(live->chain, file, &index))
        return (gint)index;
    return -1;
}

static Next
mismatch(const CkptStep *step, const char *what, GError **error)
{
    ckpt_error_set(error, CKPT_REASON_CHAIN_MISMATCH, "disk %s: %s", step->target, what);
    return NEXT_FAILED;
}

/* Whatever its target is by now: the disk is known by its files. */
static CkptSimDisk *
find_defined(CkptSim *sim, const CkptSimVm *vm, const CkptStep *step)
{
    for (guint i = 0; i < vm->definition->disks->len; i++) {
        CkptSimDisk *disk = g_ptr_array_index(vm->definition->disks, i);
        g_autoptr(GPtrArray) chain = ckpt_sim_chain(sim, disk->source);

        for (guint k = 0; chain && k < chain->len; k++) {
            const CkptSimFile *file = g_ptr_array_index(chain, k);

            if (file == ckpt_sim_find(sim, step->file) || file == ckpt_sim_find(sim, step->base))
                return disk;
        }
    }
    return NULL;
}

static Next
look_above(CkptSim *sim, const CkptStep *step, GError **error)
{
    CkptSimFile *above = ckpt_sim_find(sim, step->above);

    if (above && g_strcmp0(above->backing, step->file) == 0)
        return NEXT_COMMIT;
    if (above && g_strcmp0(above->backing, step->base) == 0)
        return NEXT_DONE;
    return mismatch(step, "the file above lies on neither of the two", error);
}

static Next
look(CkptSim *sim, const CkptSimVm *vm, const CkptStep *step, GError **error)
{
    CkptSimLive *live = ckpt_sim_find_live(vm, step->target);
    CkptSimDisk *defined = ckpt_sim_definition_find(vm->definition, step->target);
    gint file = position(live, ckpt_sim_find(sim, step->file));
    gint base = position(live, ckpt_sim_find(sim, step->base));

    if (file >= 0 && base != file + 1)
        return mismatch(step, "the running VM has the two files in another order", error);
    if (file >= 0 && (file == 0) != !step->above)
        return mismatch(step, "the running VM has the merged file elsewhere in its chain", error);
    if (file >= 0)
        return NEXT_LIVE;
    if (step->above)
        return look_above(sim, step, error);
    if (base > 0)
        return mismatch(step, "the running VM reads the lower file through another one", error);
    if (base == 0)
        return defined && g_str_equal(defined->source, step->file) ? NEXT_DEFINE : NEXT_DONE;
    if (defined && g_str_equal(defined->source, step->base))
        return NEXT_DONE;
    if (defined && g_str_equal(defined->source, step->file))
        return NEXT_COMMIT;
    if (find_defined(sim, vm, step))
        return mismatch(step, "the definition names neither of the two files", error);
    ckpt_error_set(error, CKPT_REASON_DISK_DETACHED, "disk %s is no longer attached", step->target);
    return NEXT_FAILED;
}

/* ---- What it does to the file below ---- */

/* Whoever reads the file below, but not through the merged one, sees other contents from now on. (What
 * others than the agent laid there is looked at by its contents.) */
static void
report_readers(CkptSim *sim, const CkptSimFile *file, const CkptSimFile *base)
{
    GHashTableIter iter;
    gpointer value;

    g_hash_table_iter_init(&iter, sim->files);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        CkptSimFile *other = value;

        if (other != file && other->agent_made && !other->given_up &&
            g_strcmp0(other->backing, base->path) == 0)
            ckpt_sim_crime(sim, "%s is merged into %s, on which %s lies", file->path, base->path,
                           other->path);
    }
    for (guint i = 0; i < sim->vms->len; i++) {
        CkptSimVm *vm = g_ptr_array_index(sim->vms, i);

        for (guint k = 0; k < vm->definition->disks->len; k++) {
            CkptSimDisk *disk = g_ptr_array_index(vm->definition->disks, k);

            if (g_str_equal(disk->source, base->path))
                ckpt_sim_crime(sim, "%s is merged into %s, the disk of %s", file->path, base->path,
                               vm->name);
        }
    }
}

static void
grow(CkptSim *sim, CkptSimFile *base, guint cells)
{
    for (guint i = base->cells; i < cells; i++)
        ckpt_sim_write_cell(sim, base, i, 0);
    base->cells = MAX(base->cells, cells);
}

static gboolean
copy_cells(CkptSimRun *run, CkptSimFile *file, CkptSimFile *base, GError **error)
{
    CkptSim *sim = run->sim;

    report_readers(sim, file, base);
    grow(sim, base, file->cells);
    for (guint i = 0; i < file->cells; i++) {
        if (!file->set[i])
            continue;
        ckpt_sim_write_cell(sim, base, i, file->data[i]);
        if (!ckpt_sim_changed(run, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean
is_writable(const CkptSimFile *file, GError **error)
{
    if (file && file->mode & 0200)
        return TRUE;
    ckpt_error_set(error, CKPT_REASON_HYPERVISOR_FAILED, "%s: Permission denied",
                   file ? file->path : "(missing)");
    return FALSE;
}

static void
set_backing(CkptSim *sim, CkptSimFile *file, const CkptSimFile *base)
{
    ckpt_set_str(&file->backing, base->path);
    file->backing_format = base->format;
    file->mtime = ++sim->clock;
}

/* ---- A running VM ---- */

/* What the guest wrote since the copy began has been mirrored by QEMU all along. */
static void
mirror(CkptSim *sim, const CkptSimFile *file, CkptSimFile *base)
{
    grow(sim, base, file->cells);
    for (guint i = 0; i < file->cells; i++)
        if (file->set[i])
            ckpt_sim_write_cell(sim, base, i, file->data[i]);
}

static gboolean
pivot(CkptSimRun *run, CkptSimVm *vm, CkptSimLive *live, CkptSimFile *file, CkptSimFile *base,
      GError **error)
{
    if (vm->power == CKPT_POWER_RUNNING) {
        vm->power = CKPT_POWER_PAUSED;
        vm->suspended = TRUE;
        if (!ckpt_sim_changed(run, error))
            return FALSE;
    }
    if (!vm->live)
        return TRUE; /* looked at anew */
    mirror(run->sim, file, base);
    g_ptr_array_remove_index(live->chain, 0);
    ckpt_sim_definition_set(vm->live, run->step->target, base->path, base->format);
    if (!ckpt_sim_changed(run, error)) {
        /* libvirt goes on with what it was asked for, unless it died with QEMU (hazard A26). */
        if (vm->live)
            ckpt_sim_definition_set(vm->definition, run->step->target, base->path, base->format);
        return FALSE;
    }
    return TRUE;
}

static gboolean
merge_live(CkptSimRun *run, CkptSimVm *vm, GError **error)
{
    CkptSim *sim = run->sim;
    CkptSimLive *live = ckpt_sim_find_live(vm, run->step->target);
    CkptSimFile *file = ckpt_sim_find(sim, run->step->file);
    CkptSimFile *base = ckpt_sim_find(sim, run->step->base);
    CkptSimFile *above = ckpt_sim_find(sim, run->step->above);
    gint place = position(live, file);

    if (!is_writable(base, error) || (above && !is_writable(above, error)) ||
        !copy_cells(run, file, base, error))
        return FALSE;
    live = ckpt_sim_find_live(vm, run->step->target);
    if (!live || position(live, file) != place)
        return TRUE; /* the VM was stopped meanwhile: looked at anew */
    if (!above)
        return pivot(run, vm, live, file, base, error);
    set_backing(sim, above, base);
    g_ptr_array_remove_index(live->chain, (guint)place);
    return ckpt_sim_changed(run, error);
}

/* ---- One that is off ---- */

static gboolean
is_free(CkptSim *sim, const CkptSimFile *file, GError **error)
{
    gboolean read, write;

    ckpt_sim_locks(sim, file, &read, &write);
    if (!read)
        return TRUE;
    ckpt_error_set(error, CKPT_REASON_VM_BUSY, "%s is in use", file->path);
    return FALSE;
}

static gboolean
commit_files(CkptSimRun *run, GError **error)
{
    CkptSim *sim = run->sim;
    CkptSimFile *file = ckpt_sim_find(sim, run->step->file);
    CkptSimFile *base = ckpt_sim_find(sim, run->step->base);

    if (!file || !base || g_strcmp0(file->backing, base->path) != 0)
        return mismatch(run->step, "the merged file does not lie on the other", error) != NEXT_FAILED;
    return is_free(sim, file, error) && is_free(sim, base, error) && is_writable(file, error) &&
           is_writable(base, error) && copy_cells(run, file, base, error);
}

static gboolean
define_base(CkptSimRun *run, CkptSimVm *vm, GError **error)
{
    CkptSimFile *base = ckpt_sim_find(run->sim, run->step->base);

    ckpt_sim_definition_set(vm->definition, run->step->target, base->path, base->format);
    return ckpt_sim_changed(run, error);
}

static gboolean
commit_offline(CkptSimRun *run, CkptSimVm *vm, GError **error)
{
    CkptSimFile *above = ckpt_sim_find(run->sim, run->step->above);

    if (above && (!is_free(run->sim, above, error) || !is_writable(above, error)))
        return FALSE;
    if (ckpt_sim_refuse_saved_merge(run->sim, vm, ckpt_sim_find(run->sim, run->step->file), error) ||
        !commit_files(run, error))
        return FALSE;
    if (!above)
        return vm->live ? TRUE : define_base(run, vm, error);
    /* qemu-img gets no lock on it where the VM was started meanwhile: looked at anew. */
    if (!is_free(run->sim, above, NULL))
        return TRUE;
    set_backing(run->sim, above, ckpt_sim_find(run->sim, run->step->base));
    return ckpt_sim_changed(run, error);
}

/* ---- */

static gboolean
merge(CkptSimRun *run, CkptSimVm *vm, GError **error)
{
    if (run->step->leaf)
        return commit_files(run, error);
    for (guint round = 0; round < 8; round++) {
        gboolean done = TRUE;

        switch (look(run->sim, vm, run->step, error)) {
        case NEXT_DONE:
            return TRUE;
        case NEXT_FAILED:
            return FALSE;
        case NEXT_LIVE:
            done = merge_live(run, vm, error);
            break;
        case NEXT_COMMIT:
            done = commit_offline(run, vm, error);
            break;
        case NEXT_DEFINE:
            done = define_base(run, vm, error);
            break;
        }
        if (!done)
            return FALSE;
    }
    ckpt_error_set(error, CKPT_REASON_VM_BUSY, "the VM is started and stopped again and again");
    return FALSE;
}

/* ---- Space for it ---- */

static void
release(CkptSim *sim, CkptSimFile *base)
{
    if (!base)
        return;
    sim->free_bytes += base->reserved;
    base->reserved = 0;
}

gboolean
ckpt_sim_reserve(CkptSimRun *run, GError **error)
{
    CkptSim *sim = run->sim;
    CkptSimFile *file = ckpt_sim_find(sim, run->step->file);
    CkptSimFile *base = ckpt_sim_find(sim, run->step->base);
    CkptFileId id;
    guint64 needed = 0;

    if (!is_writable(base, error))
        return FALSE;
    id = ckpt_sim_file_id(base);
    if (file && !ckpt_file_id_is_set(&run->step->id))
        id = run->step->id; /* a top */
    if (!file || !ckpt_file_id_equal(&id, &run->step->id)) {
        ckpt_error_set(error, CKPT_REASON_SEALED_FILE_CHANGED, "%s was changed", base->path);
        return FALSE;
    }
    for (guint i = 0; i < CKPT_SIM_CELLS; i++)
        needed += file->set[i] && !base->set[i] ? CKPT_SIM_CELL : 0;
    if (needed > sim->free_bytes) {
        ckpt_error_set(error, CKPT_REASON_SPACE_LOW, "%s: no space left", base->path);
        return FALSE;
    }
    sim->free_bytes -= needed;
    base->reserved += needed;
    if (!ckpt_file_id_is_set(&run->step->id))
        return ckpt_sim_changed(run, error);
    base->mtime = ++sim->clock;
    if (!ckpt_sim_changed(run, error))
        return FALSE;
    base->mtime = run->step->id.mtime_ns;
    return ckpt_sim_changed(run, error);
}

gboolean
ckpt_sim_reserve_undo(CkptSimRun *run, GError **error)
{
    CkptSimFile *base = ckpt_sim_find(run->sim, run->step->base);

    if (base && !ckpt_file_id_is_set(&run->step->id)) {
        release(run->sim, base);
        return ckpt_sim_changed(run, error);
    }
    if (!base || base->inode != run->step->id.inode)
        return TRUE;
    release(run->sim, base);
    base->mtime = run->step->id.mtime_ns;
    return ckpt_sim_changed(run, error);
}

/* ---- */

/* A guest that was suspended for the pivot goes on, also when the merge failed; when libvirt cannot be
 * told, that is the error, since it must be told later. */
static gboolean
resume(CkptSimRun *run, CkptSimVm *vm, gboolean done, GError **error)
{
    g_autoptr(GError) why = NULL;

    if (!vm->suspended)
        return done;
    if (!done && !ckpt_sim_changed(run, &why) &&
        ckpt_error_reason(why) == CKPT_REASON_HYPERVISOR_UNAVAILABLE) {
        g_clear_error(error);
        g_propagate_error(error, g_steal_pointer(&why));
        return FALSE;
    }
    vm->power = CKPT_POWER_RUNNING;
    vm->suspended = FALSE;
    return done && ckpt_sim_changed(run, error);
}

gboolean
ckpt_sim_merge(CkptSimRun *run, GError **error)
{
    CkptSimVm *vm = ckpt_sim_vm_of(run);
    gboolean done = resume(run, vm, merge(run, vm, error), error);

    if (done)
        release(run->sim, ckpt_sim_find(run->sim, run->step->base));
    return done;
}

/* ---- A sealed file into the top that lies on it ---- */

static Next
look_pull(CkptSim *sim, const CkptSimVm *vm, const CkptStep *step, GError **error)
{
    CkptSimLive *live = ckpt_sim_find_live(vm, step->target);

    if (position(live, ckpt_sim_find(sim, step->file)) < 0)
        return look_above(sim, step, error);
    ckpt_error_set(error, CKPT_REASON_SHUT_DOWN_REQUIRED, "disk %s: the VM was started", step->target);
    return NEXT_FAILED;
}

/* Others may act between any two cells. */
static gboolean
pull(CkptSimRun *run, GError **error)
{
    CkptSim *sim = run->sim;
    CkptSimFile *file = ckpt_sim_find(sim, run->step->file);
    CkptSimFile *above = ckpt_sim_find(sim, run->step->above);
    CkptSimFile *base = ckpt_sim_find(sim, run->step->base);

    if (!file || !above || !base)
        return mismatch(run->step, "a file is missing", error) != NEXT_FAILED;
    for (guint i = 0; i < MIN(file->cells, above->cells); i++) {
        if (!is_free(sim, above, error) || !is_writable(above, error))
            return FALSE;
        if (!file->set[i] || above->set[i])
            continue;
        ckpt_sim_write_cell(sim, above, i, file->data[i]);
        if (!ckpt_sim_changed(run, error))
            return FALSE;
    }
    set_backing(sim, above, base);
    return ckpt_sim_changed(run, error);
}

gboolean
ckpt_sim_pull(CkptSimRun *run, GError **error)
{
    CkptSimVm *vm = ckpt_sim_vm_of(run);
    Next next = look_pull(run->sim, vm, run->step, error);

    if (next == NEXT_FAILED || (next == NEXT_COMMIT && (ckpt_sim_refuse_saved(vm, error) || !pull(run, error))))
        return FALSE;
    release(run->sim, ckpt_sim_find(run->sim, run->step->above));
    return TRUE;
}

/* ---- A sibling put on the merged file ---- */

/* Only right when both show the same; what a reader sees must not change by it. */
static void
report_difference(CkptSim *sim, const CkptSimFile *file, const CkptSimFile *base)
{
    g_autoptr(GPtrArray) before = ckpt_sim_chain(sim, file->path);
    g_autoptr(GPtrArray) below = ckpt_sim_chain(sim, base->path);

    for (guint i = 0; before && below && i < file->cells; i++)
        if (!file->set[i] && ckpt_sim_read_cell(before, 1, i) != ckpt_sim_read_cell(below, 0, i))
            ckpt_sim_crime(sim, "%s is rebased onto %s, which has another cell %u", file->path,
                           base->path, i);
}

gboolean
ckpt_sim_rebase(CkptSimRun *run, GError **error)
{
    const CkptStep *step = run->step;
    CkptSimFile *file = ckpt_sim_find(run->sim, step->file);
    CkptSimFile *base = ckpt_sim_find(run->sim, step->base);

    if (file && g_strcmp0(file->backing, step->base) == 0)
        return TRUE;
    if (!file || !base || g_strcmp0(file->backing, step->from) != 0)
        return mismatch(step, "the file lies on neither of the two", error) != NEXT_FAILED;
    if (!is_free(run->sim, file, error) || !is_writable(file, error))
        return FALSE;
    report_difference(run->sim, file, base);
    set_backing(run->sim, file, base);
    return ckpt_sim_changed(run, error);
}

/* ---- A snapshot undone: each overlay is merged into what lies below ---- */

static gboolean
merge_down(CkptSimRun *run, CkptSimFile *overlay, const CkptDiskFile *disk, GError **error)
{
    CkptStep *merge_step = ckpt_step_new(CKPT_STEP_MERGE);
    CkptSimFile *base = ckpt_sim_find(run->sim, overlay->backing);
    CkptSimRun merging = {run->sim, run->plan, merge_step};
    gboolean done;

    overlay->merged_back = TRUE;
    for (guint i = 0; i < run->plan->steps->len; i++) {
        const CkptStep *seal = g_ptr_array_index(run->plan->steps, i);

        if (seal->kind == CKPT_STEP_SEAL && g_str_equal(seal->file, base->path))
            base->mode = seal->mode;
    }
    merge_step->target = g_strdup(disk->target);
    merge_step->file = g_strdup(overlay->path);
    merge_step->base = g_strdup(base->path);
    merge_step->base_format = base->format;
    done = ckpt_sim_changed(run, error) && ckpt_sim_merge(&merging, error);
    ckpt_step_free(merge_step);
    return done;
}

static gboolean
merge_back(CkptSimRun *run, CkptSimFile *overlay, const CkptDiskFile *disk, GError **error)
{
    /* One that was begun may only be short of its definition. */
    if (!overlay->merged_back && ckpt_sim_refuse_saved_merge(run->sim, ckpt_sim_vm_of(run), overlay, error))
        return FALSE;
    return merge_down(run, overlay, disk, error);
}

gboolean
ckpt_sim_merge_back(CkptSimRun *run, GError **error)
{
    CkptSimVm *vm = ckpt_sim_vm_of(run);

    for (guint i = 0; i < run->step->disks->len; i++) {
        const CkptDiskFile *disk = g_ptr_array_index(run->step->disks, i);
        CkptSimFile *overlay = ckpt_sim_find(run->sim, disk->file);
        CkptSimDisk *defined = ckpt_sim_definition_find(vm->definition, disk->target);
        CkptSimLive *live = ckpt_sim_find_live(vm, disk->target);
        gboolean used = defined && g_str_equal(defined->source, disk->file);

        if (!overlay)
            continue;
        if ((used || position(live, overlay) == 0) && !merge_back(run, overlay, disk, error))
            return FALSE;
        /* Its merge was cut short behind the pivot, and has nothing left to do. */
        if (!resume(run, vm, TRUE, error))
            return FALSE;
        if (!overlay->merged_back)
            continue;
        ckpt_sim_unlink(run->sim, overlay);
        if (!ckpt_sim_changed(run, error))
            return FALSE;
    }
    return TRUE;
}
