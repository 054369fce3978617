/* What the engine knows of one VM at one moment: catalogue and world. */
#include "agent/core/engine_internal.h"

#include "common/id.h"

void
ckpt_situation_clear(Situation *situation)
{
    g_clear_pointer(&situation->vm, ckpt_vm_free);
    g_clear_pointer(&situation->checkpoints, g_ptr_array_unref);
    g_clear_pointer(&situation->made, g_ptr_array_unref);
    g_clear_pointer(&situation->doomed, g_ptr_array_unref);
    g_clear_pointer(&situation->others, g_ptr_array_unref);
    g_clear_pointer(&situation->unknown, g_ptr_array_unref);
    g_clear_pointer(&situation->moved, g_ptr_array_unref);
    g_clear_pointer(&situation->record, ckpt_vm_record_free);
    g_clear_pointer(&situation->new_id, g_free);
}

static void
add_sealed(GArray *files, GPtrArray *checkpoints)
{
    for (guint i = 0; i < checkpoints->len; i++) {
        const CkptCheckpoint *checkpoint = g_ptr_array_index(checkpoints, i);

        for (guint k = 0; k < checkpoint->disks->len; k++) {
            const CkptCheckpointDisk *disk = g_ptr_array_index(checkpoint->disks, k);
            CkptKnownFile file = {disk->sealed_file, disk->format};

            if (*disk->sealed_file) /* else the hypervisor has the contents */
                g_array_append_val(files, file);
        }
        for (guint k = 0; k < checkpoint->extras->len; k++) {
            const CkptCheckpointFile *extra = g_ptr_array_index(checkpoint->extras, k);
            CkptKnownFile file = {extra->path, CKPT_FORMAT_RAW}; /* no header of it is looked at */

            g_array_append_val(files, file);
        }
    }
}

GArray *
ckpt_situation_files(GPtrArray *checkpoints, GPtrArray *made, GPtrArray *others)
{
    GArray *files = g_array_new(TRUE, FALSE, sizeof(CkptKnownFile));

    add_sealed(files, checkpoints);
    for (guint i = 0; i < made->len; i++) {
        CkptKnownFile file = {g_ptr_array_index(made, i), CKPT_FORMAT_QCOW2};

        g_array_append_val(files, file);
    }
    if (others)
        add_sealed(files, others);
    return files;
}

static void
split_moved(Situation *situation)
{
    situation->moved = g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_checkpoint_free);
    for (guint i = situation->checkpoints->len; i > 0; i--) {
        const CkptCheckpoint *row = g_ptr_array_index(situation->checkpoints, i - 1);

        if (row->state == CKPT_STATE_MOVED)
            g_ptr_array_add(situation->moved,
                            g_ptr_array_steal_index(situation->checkpoints, i - 1));
    }
}

static gboolean
read_catalogue(CkptEngine *engine, const char *vm_id, gboolean others, Situation *situation,
               GError **error)
{
    const CkptCheckpointQuery all = {
        .enabled = -1, .include_deleting = TRUE, .include_moved = TRUE};

    situation->record = ckpt_store_get_vm(engine->store, vm_id, error);
    if (!situation->record)
        return FALSE;
    situation->checkpoints = ckpt_store_vm_checkpoints(engine->store, vm_id, error);
    if (!situation->checkpoints)
        return FALSE;
    split_moved(situation);
    situation->made = ckpt_store_vm_files(engine->store, vm_id, error);
    if (!situation->made)
        return FALSE;
    situation->doomed = ckpt_store_doomed_files(engine->store, vm_id, error);
    if (!situation->doomed)
        return FALSE;
    if (others)
        situation->others = ckpt_store_list_checkpoints(engine->store, &all, error);
    return !others || situation->others;
}

static void
set_input(CkptEngine *engine, Situation *situation)
{
    situation->new_id = ckpt_id_new();
    situation->input = (CkptPlanInput){
        .vm = situation->vm,
        .checkpoints = situation->checkpoints,
        .made = situation->made,
        .doomed = situation->doomed,
        .current_id = situation->record->current_id,
        .limits = &engine->limits,
        .now_us = g_get_real_time(),
        .new_id = situation->new_id,
        .host_id = ckpt_engine_host_id(engine),
    };
}

/* What lies on this VM's files; others' are their own affair. */
static gboolean
find_unknown(CkptEngine *engine, Situation *situation, GError **error)
{
    g_autoptr(GArray) own = ckpt_situation_files(situation->checkpoints, situation->made, NULL);

    if (!engine->driver->overlays_on)
        return TRUE;
    situation->unknown = engine->driver->overlays_on(engine->driver, (const CkptKnownFile *)own->data, error);
    return situation->unknown != NULL;
}

/* NULL: *error says why. */
static GArray *
list_files(CkptEngine *engine, Situation *situation, GError **error)
{
    GArray *files;

    if (situation->others && !find_unknown(engine, situation, error))
        return NULL;
    files = ckpt_situation_files(situation->checkpoints, situation->made, situation->others);
    for (guint i = 0; situation->unknown && i < situation->unknown->len; i++) {
        const CkptKnownFile file = {g_ptr_array_index(situation->unknown, i), CKPT_FORMAT_QCOW2};

        g_array_append_val(files, file);
    }
    return files;
}

/* Of a checkpoint whose file was replaced or written to nothing is left there to be kept. */
static gboolean
is_still_sealed(const CkptVm *vm, const CkptCheckpointDisk *disk)
{
    const CkptLayer *layer = ckpt_vm_find_file(vm, disk->sealed_file);

    return layer && layer->exists && ckpt_file_id_holds(&layer->id, &disk->id);
}

/* A VM that was defined anew under another UUID on the same files may have sealed one of this one's: no definition
 * need tell. */
static void
add_other_owners(Situation *situation)
{
    for (guint i = 0; situation->others && i < situation->others->len; i++) {
        const CkptCheckpoint *row = g_ptr_array_index(situation->others, i);
        g_autofree char *user = NULL;

        if (g_str_equal(row->vm_id, situation->vm->id))
            continue;
        user = g_strdup_printf("checkpoint %s (%s) of VM %s (%s)", row->name, row->id, row->vm_name, row->vm_id);
        for (guint k = 0; k < row->disks->len; k++) {
            const CkptCheckpointDisk *disk = g_ptr_array_index(row->disks, k);

            if (is_still_sealed(situation->vm, disk))
                ckpt_vm_add_user(situation->vm, disk->sealed_file, FALSE, user);
        }
    }
}

gboolean
ckpt_situation_read(CkptEngine *engine, const char *vm_id, gboolean others, Situation *situation,
                    GError **error)
{
    g_autoptr(GArray) files = NULL;

    if (!read_catalogue(engine, vm_id, others, situation, error))
        return FALSE;
    files = list_files(engine, situation, error);
    if (!files)
        return FALSE;
    situation->vm = engine->driver->inspect(engine->driver, vm_id,
                                            (const CkptKnownFile *)files->data, error);
    if (!situation->vm)
        return FALSE;
    add_other_owners(situation);
    set_input(engine, situation);
    return TRUE;
}

gboolean
ckpt_situation_read_orphans(CkptEngine *engine, const char *vm_id, Situation *situation, GError **error)
{
    g_autoptr(GArray) files = NULL;

    ckpt_situation_clear(situation);
    if (!read_catalogue(engine, vm_id, TRUE, situation, error))
        return FALSE;
    files = list_files(engine, situation, error);
    if (!files)
        return FALSE;
    situation->vm = engine->driver->inspect_files(engine->driver, vm_id,
                                                  (const CkptKnownFile *)files->data, error);
    if (!situation->vm)
        return FALSE;
    add_other_owners(situation);
    set_input(engine, situation);
    return TRUE;
}

static gboolean
verify(const Situation *situation, CkptCheckpoint *checkpoint)
{
    g_autoptr(GError) why = NULL;
    const char *reason = "";

    if (checkpoint->state == CKPT_STATE_DELETING)
        reason = ckpt_plan_deleting_reason(checkpoint);
    else if (checkpoint->stayed)
        reason = CKPT_STAYED_REASON;
    else if (!ckpt_plan_verify(&situation->input, checkpoint, &why))
        reason = why->message;
    if (g_strcmp0(checkpoint->disabled_reason ? checkpoint->disabled_reason : "", reason) == 0)
        return FALSE;
    if (*reason)
        g_warning("checkpoint %s of VM %s is no longer enabled: %s", checkpoint->id,
                  checkpoint->vm_id, reason);
    else
        g_message("checkpoint %s of VM %s is enabled again", checkpoint->id, checkpoint->vm_id);
    ckpt_set_str(&checkpoint->disabled_reason, *reason ? reason : NULL);
    return TRUE;
}

void
ckpt_situation_record(CkptEngine *engine, Situation *situation)
{
    g_autoptr(GPtrArray) changed = g_ptr_array_new();
    g_autoptr(GError) error = NULL;

    for (guint i = 0; i < situation->checkpoints->len; i++) {
        CkptCheckpoint *checkpoint = g_ptr_array_index(situation->checkpoints, i);

        if (verify(situation, checkpoint))
            g_ptr_array_add(changed, checkpoint);
    }
    if (changed->len > 0 && !ckpt_store_note_verified(engine->store, changed, &error))
        g_warning("cannot record which checkpoints are enabled: %s", error->message);
}
