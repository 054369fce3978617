/* Manifests say what the catalogue says: a name, a hold or a label that changed since is in them, too. */
#include "agent/core/engine_internal.h"

#include "agent/core/plan_parts.h"

const char *
ckpt_engine_host_id(CkptEngine *engine)
{
    g_autoptr(CkptHostInfo) info = NULL;
    const char *host_id;

    if (!engine->driver->manifest_head)
        return NULL;
    g_mutex_lock(&engine->lock);
    host_id = engine->host_id;
    g_mutex_unlock(&engine->lock);
    if (host_id || !engine->driver->host_info(engine->driver, &info, NULL))
        return host_id;
    g_mutex_lock(&engine->lock);
    if (!engine->host_id) {
        engine->host_name = g_strdup(info->host_name);
        engine->host_id = g_strdup(info->host_id);
    }
    host_id = engine->host_id;
    g_mutex_unlock(&engine->lock);
    return host_id;
}

/* Another agent's is not ours to mend, nor is one that is not there: whoever removed it had a reason, or
 * removed the file with it. */
static gboolean
is_stale(CkptEngine *engine, const CkptCheckpoint *row, const char *host_id)
{
    for (guint i = 0; i < row->disks->len; i++) {
        const CkptCheckpointDisk *disk = g_ptr_array_index(row->disks, i);
        g_autoptr(CkptManifest) head =
            engine->driver->manifest_head(engine->driver, disk->sealed_file);

        if (!head || !g_str_equal(head->agent, host_id) ||
            !g_str_equal(head->checkpoint_id, row->id))
            return FALSE;
        if (head->modified_us != row->modified_us)
            return TRUE;
    }
    return FALSE;
}

static gboolean
write_again(CkptEngine *engine, const CkptCheckpoint *row, GError **error)
{
    g_autoptr(CkptPlan) plan = ckpt_plan_new(CKPT_KIND_UPDATE);
    /* As it was when it was asked: an update waits for no hypervisor. */
    const CkptHostInfo host = {.host_id = engine->host_id, .host_name = engine->host_name};
    CkptStep *step = ckpt_plan_add_manifest(plan, row);

    ckpt_set_str(&plan->vm_id, row->vm_id);
    step->text = ckpt_manifest_text(row, &host, row->epoch);
    return engine->driver->step_do(engine->driver, plan, step, NULL, NULL, NULL, error);
}

void
ckpt_manifests_refresh(CkptEngine *engine, const char *vm_id)
{
    const char *host_id = ckpt_engine_host_id(engine);
    g_autoptr(GPtrArray) rows = host_id ? ckpt_store_vm_checkpoints(engine->store, vm_id, NULL) : NULL;

    for (guint i = 0; rows && i < rows->len; i++) {
        const CkptCheckpoint *row = g_ptr_array_index(rows, i);
        g_autoptr(GError) error = NULL;

        if (row->mechanism != CKPT_MECHANISM_OVERLAY ||
            (row->state != CKPT_STATE_READY &&
             !(row->state == CKPT_STATE_DELETING && row->deferred)) ||
            !is_stale(engine, row, host_id))
            continue;
        if (!write_again(engine, row, &error))
            g_warning("checkpoint %s: its manifest says what it was before: %s", row->id, error->message);
    }
}
