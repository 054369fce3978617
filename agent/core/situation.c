/* What the engine knows of one VM at one moment: catalogue and world. */
#include "agent/core/engine_internal.h"

#include "common/id.h"

void
ckpt_situation_clear(Situation *situation)
{
    g_clear_pointer(&situation->vm, ckpt_vm_free);
    g_clear_pointer(&situation->checkpoints, g_ptr_array_unref);
    g_clear_pointer(&situation->made, g_ptr_array_unref);
    g_clear_pointer(&situation->record, ckpt_vm_record_free);
    g_clear_pointer(&situation->new_id, g_free);
}

/* Every file that the catalogue knows of the VM: borrowed strings, NULL-terminated. */
static GPtrArray *
known_files(const Situation *situation)
{
    GPtrArray *files = g_ptr_array_new();

    for (guint i = 0; i < situation->checkpoints->len; i++) {
        CkptCheckpoint *checkpoint = g_ptr_array_index(situation->checkpoints, i);

        for (guint k = 0; k < checkpoint->disks->len; k++)
            g_ptr_array_add(
                files, ((CkptCheckpointDisk *)g_ptr_array_index(checkpoint->disks, k))->sealed_file);
    }
    for (guint i = 0; i < situation->made->len; i++)
        g_ptr_array_add(files, g_ptr_array_index(situation->made, i));
    g_ptr_array_add(files, NULL);
    return files;
}

gboolean
ckpt_situation_read(CkptEngine *engine, const char *vm_id, Situation *situation, GError **error)
{
    g_autoptr(GPtrArray) files = NULL;

    situation->record = ckpt_store_get_vm(engine->store, vm_id, error);
    if (!situation->record)
        return FALSE;
    situation->checkpoints = ckpt_store_vm_checkpoints(engine->store, vm_id, error);
    if (!situation->checkpoints)
        return FALSE;
    situation->made = ckpt_store_vm_files(engine->store, vm_id, error);
    if (!situation->made)
        return FALSE;
    files = known_files(situation);
    situation->vm = engine->driver->inspect(engine->driver, vm_id,
                                            (const char *const *)files->pdata, error);
    if (!situation->vm)
        return FALSE;
    situation->new_id = ckpt_id_new();
    situation->input = (CkptPlanInput){
        .vm = situation->vm,
        .checkpoints = situation->checkpoints,
        .made = situation->made,
        .current_id = situation->record->current_id,
        .limits = &engine->limits,
        .now_us = g_get_real_time(),
        .new_id = situation->new_id,
    };
    return TRUE;
}

static gboolean
verify(const Situation *situation, CkptCheckpoint *checkpoint)
{
    g_autoptr(GError) why = NULL;
    const char *reason = "";

    if (checkpoint->state == CKPT_STATE_DELETING)
        reason = "its delete has begun";
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
    g_autoptr(CkptChange) change = ckpt_change_new();
    g_autoptr(GError) error = NULL;

    for (guint i = 0; i < situation->checkpoints->len; i++) {
        CkptCheckpoint *checkpoint = g_ptr_array_index(situation->checkpoints, i);

        if (verify(situation, checkpoint))
            g_ptr_array_add(change->upserts, ckpt_checkpoint_copy(checkpoint));
    }
    if (change->upserts->len > 0 &&
        !ckpt_store_apply(engine->store, change, situation->vm->id, &error))
        g_warning("cannot record which checkpoints are enabled: %s", error->message);
    for (guint i = 0; i < change->upserts->len; i++) {
        CkptCheckpoint *row = g_ptr_array_index(change->upserts, i);

        for (guint k = 0; k < situation->checkpoints->len; k++) {
            CkptCheckpoint *checkpoint = g_ptr_array_index(situation->checkpoints, k);

            if (g_str_equal(checkpoint->id, row->id))
                checkpoint->revision = row->revision;
        }
    }
}
