#include "agent/core/leftovers.h"

#include "agent/core/engine_internal.h"
#include "agent/core/graph.h"
#include "agent/core/plan_parts.h"

static void
add_known(CkptStep *step, const char *file, CkptFormat format)
{
    if (!g_str_equal(file, step->file))
        g_ptr_array_add(step->disks, ckpt_disk_file_new("", file, format, NULL));
}

static gboolean
is_listed(GPtrArray *files, const char *file)
{
    return g_ptr_array_find_with_equal_func(files, file, g_str_equal, NULL);
}

static gboolean
add_unknown(CkptDriver *driver, CkptStep *step, GPtrArray *doomed, GError **error)
{
    const CkptKnownFile files[] = {{step->file, CKPT_FORMAT_QCOW2}, {NULL, 0}};
    g_autoptr(GPtrArray) unknown = driver->overlays_on ? driver->overlays_on(driver, files, error) : NULL;

    for (guint i = 0; unknown && i < unknown->len; i++)
        if (!is_listed(doomed, unknown->pdata[i]))
            add_known(step, unknown->pdata[i], CKPT_FORMAT_QCOW2);
    return unknown || !driver->overlays_on;
}

gboolean
ckpt_removal_prepare(CkptDriver *driver, CkptStore *store, const char *vm_id, CkptStep *step, GError **error)
{
    const CkptCheckpointQuery all = {
        .enabled = -1, .include_deleting = TRUE, .include_moved = TRUE};
    g_autoptr(GPtrArray) rows = ckpt_store_list_checkpoints(store, &all, error);
    g_autoptr(GPtrArray) made = rows ? ckpt_store_vm_files(store, vm_id, error) : NULL;
    g_autoptr(GPtrArray) doomed = made ? ckpt_store_doomed_files(store, vm_id, error) : NULL;

    if (!doomed)
        return FALSE;
    g_clear_pointer(&step->disks, g_ptr_array_unref);
    step->disks = g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_disk_file_free);
    for (guint i = 0; i < rows->len; i++) {
        const CkptCheckpoint *row = g_ptr_array_index(rows, i);

        for (guint k = 0; k < row->disks->len; k++) {
            const CkptCheckpointDisk *disk = g_ptr_array_index(row->disks, k);

            add_known(step, disk->sealed_file, disk->format);
        }
    }
    for (guint i = 0; i < made->len; i++)
        if (!is_listed(doomed, made->pdata[i]))
            add_known(step, made->pdata[i], CKPT_FORMAT_QCOW2);
    return add_unknown(driver, step, doomed, error);
}

/* ---- What is tried again ---- */

gboolean
ckpt_leftovers_are_due(CkptEngine *engine, const char *vm_id)
{
    g_autoptr(GPtrArray) doomed = ckpt_store_doomed_files(engine->store, vm_id, NULL);

    return doomed && doomed->len > 0;
}

/* A VM that is not understood, and files that a delete is moving, are left as they are. */
static gboolean
may_remove(const Situation *situation)
{
    for (guint i = 0; i < situation->checkpoints->len; i++) {
        const CkptCheckpoint *row = g_ptr_array_index(situation->checkpoints, i);

        if (row->state == CKPT_STATE_DELETING && !row->deferred)
            return FALSE;
    }
    return !situation->record->quarantine_reason;
}

static gboolean
is_needed(const Situation *situation, const char *file)
{
    CkptPlanInput all = situation->input;

    all.checkpoints = situation->others; /* every VM's, this one's too */
    return !ckpt_graph_is_doomed(&all, file);
}

static gboolean
remove_again(CkptEngine *engine, const char *vm_id, const char *file, GError **error)
{
    g_autoptr(CkptPlan) plan = ckpt_plan_new(CKPT_KIND_DELETE);
    CkptStep *step = ckpt_plan_add(plan, CKPT_STEP_REMOVE_FILE);

    ckpt_set_str(&plan->vm_id, vm_id);
    ckpt_set_str(&step->file, file);
    return ckpt_removal_prepare(engine->driver, engine->store, vm_id, step, error) &&
           engine->driver->step_do(engine->driver, plan, step, NULL, NULL, NULL, error);
}

static void
look_at_file(CkptEngine *engine, const Situation *situation, const char *file)
{
    const char *vm_id = situation->vm->id;
    g_autoptr(CkptChange) change = ckpt_change_new();
    g_autoptr(GError) error = NULL;

    if (is_needed(situation, file)) {
        g_warning("VM %s: %s was to be removed, but somebody uses it: it is kept", vm_id, file);
        g_ptr_array_add(change->made, g_strdup(file));
    } else if (!may_remove(situation)) {
        return;
    } else if (!remove_again(engine, vm_id, file, &error)) {
        g_debug("VM %s: %s cannot be removed yet: %s", vm_id, file, error->message);
        return;
    } else {
        g_message("VM %s: %s, which nobody needs, was removed", vm_id, file);
        g_ptr_array_add(change->unlinked, g_strdup(file));
    }
    if (!ckpt_store_apply(engine->store, change, vm_id, &error))
        g_warning("VM %s: cannot record what became of %s: %s", vm_id, file, error->message);
}

void
ckpt_leftovers_look(CkptEngine *engine, const char *vm_id)
{
    g_autofree char *read_only = ckpt_engine_read_only_reason(engine);
    g_auto(Situation) situation = {0};
    g_autoptr(GError) error = NULL;

    if (read_only || ckpt_unread_is(engine, vm_id) || !ckpt_leftovers_are_due(engine, vm_id))
        return;
    if (!ckpt_situation_read(engine, vm_id, TRUE, &situation, &error)) {
        g_debug("cannot look at VM %s: %s", vm_id, error->message);
        return;
    }
    for (guint i = 0; i < situation.doomed->len; i++)
        look_at_file(engine, &situation, g_ptr_array_index(situation.doomed, i));
}

gboolean
ckpt_leftovers_start(CkptEngine *engine, GError **error)
{
    g_autoptr(GPtrArray) vms = ckpt_store_vms(engine->store, error);

    for (guint i = 0; vms && i < vms->len; i++)
        if (ckpt_leftovers_are_due(engine, vms->pdata[i]))
            ckpt_engine_mark(engine, vms->pdata[i]);
    return vms != NULL;
}
