/* A second host: all VMs go there with their files, running or off, and its agent takes their checkpoints over,
 * whatever moment it dies at. One agent runs at a time; the one that was left looks at its catalogue while
 * the VMs are away, and from then on touches no file. */
#include "model.h"

#include "tests/support/power_vfs.h"

#include <glib/gstdio.h>

static const char *const hosts[] = {"22222222-2222-4222-8222-222222222222",
                                    "33333333-3333-4333-8333-333333333344"};

void
model_share(Model *model)
{
    model->other_dir = g_build_filename(model->dir, "other", NULL);
    g_mkdir(model->other_dir, 0700);
    ckpt_sim_share(model->sim);
}

/* What is half done, or odd, stays where it is: of a file whose removal failed, for one, the new host cannot know
 * that nobody needs it. */
static gboolean
can_migrate(Model *model)
{
    if (!model->other_dir || model_is_odd(model) || model->manifests_open || model->detached->len > 0 ||
        g_hash_table_size(model->excused) > 0 || /* as libvirt */ model->foreign->len > 0)
        return FALSE;
    for (guint i = 0; i < model->expected->len; i++)
        if (((Expected *)g_ptr_array_index(model->expected, i))->deleting)
            return FALSE;
    for (guint i = 0; i < MODEL_VMS; i++) {
        const CkptSimVm *vm = model_sim_vm(model, i);
        g_autoptr(GPtrArray) doomed = ckpt_store_doomed_files(model->store, vm->id, NULL);
        g_autoptr(CkptVmRecord) record = ckpt_store_get_vm(model->store, vm->id, NULL);

        if (vm->suspended || vm->frozen || vm->power == CKPT_POWER_PAUSED || doomed->len > 0 ||
            record->quarantine_reason || model->vms[i].reattached)
            return FALSE;
    }
    return TRUE;
}

static void
swap_hosts(Model *model)
{
    char *dir = model->dir;

    model->dir = model->other_dir;
    model->other_dir = dir;
    model->sim->host_id = model->sim->host_id == hosts[1] ? hosts[0] : hosts[1];
}

/* The rows of everything that there is, and of nothing else. */
static gboolean
is_adopted(Model *model, gpointer data)
{
    guint rows = 0;

    if (model->store_failed || power_vfs_fired())
        return TRUE;
    for (guint i = 0; i < MODEL_VMS; i++) {
        g_autoptr(GPtrArray) all = ckpt_store_vm_checkpoints(model->store, model->vms[i].id, NULL);

        for (guint k = 0; all && k < all->len; k++) {
            const CkptCheckpoint *row = g_ptr_array_index(all, k);

            if (row->state == CKPT_STATE_MOVED)
                return FALSE;
            rows++;
        }
    }
    return rows == model->expected->len && ckpt_engine_is_idle(model->engine);
}

static gboolean
is_given_away(Model *model, gpointer data)
{
    for (guint i = 0; i < MODEL_VMS; i++) {
        g_autoptr(CkptVmRecord) record = ckpt_store_get_vm(model->store, model->vms[i].id, NULL);
        g_autoptr(GPtrArray) made = ckpt_store_vm_files(model->store, model->vms[i].id, NULL);

        if (!record || record->checkpoints > 0)
            return FALSE;
        if (made->len > 0)
            return FALSE;
    }
    return ckpt_engine_is_idle(model->engine);
}

static void
start_until(Model *model, gboolean (*ready)(Model *model, gpointer data))
{
    if (!model_agent_start(model))
        return;
    ckpt_sim_tell(model->sim, NULL);
    model_wait(model, ready, NULL);
}

/* The agent that was left: it sees whose they are, and leaves everything as it is. */
static void
look_from_behind(Model *model)
{
    const guint64 inode = model->sim->last_inode;
    const gint64 clock = model->sim->clock;

    swap_hosts(model);
    model->sim->elsewhere = TRUE;
    start_until(model, is_given_away);
    model_agent_stop(model);
    model->sim->elsewhere = FALSE;
    swap_hosts(model);
    if (model->sim->last_inode != inode || model->sim->clock != clock)
        model_fail(model, "the host that the VMs left has touched files");
}

void
model_migrate(Model *model, const Action *action)
{
    for (guint i = 0; i < MODEL_VMS; i++)
        ckpt_sim_forget_saved(model_sim_vm(model, i)); /* it would stay behind */
    model_finish_deletes(model);
    if (!can_migrate(model))
        return;
    model_log(model, "    all VMs go to the other host");
    model_agent_stop(model);
    model->migrations++;
    g_ptr_array_set_size(model->past, 0); /* the other agent knows nothing of these */
    swap_hosts(model);
    /* It dies while it takes them over, and once more, and is back. */
    for (guint i = 0; i < MODEL_FAULTS && !model->violation; i++) {
        if (!action->faults[i].kind)
            continue;
        model->faults[0] = (Fault){FAULT_CRASH, action->faults[i].at, 0};
        model->faults[1] = (Fault){0};
        model->fault = 0;
        model->moments = 0;
        start_until(model, is_adopted);
        model->fault = MODEL_FAULTS;
        model_agent_stop(model);
    }
    start_until(model, is_adopted);
    model_agent_stop(model);
    if (!model->violation)
        look_from_behind(model);
    if (!model->violation)
        start_until(model, is_adopted);
    for (guint i = 0; i < model->expected->len && !model->violation; i++) {
        const Expected *expected = g_ptr_array_index(model->expected, i);
        g_autoptr(CkptCheckpoint) row = ckpt_store_get_checkpoint(model->store, expected->id, NULL);

        if (!row || row->state == CKPT_STATE_MOVED)
            model_fail(model, "checkpoint %s did not come along", expected->id);
        else if (expected->held != (*row->hold != '\0'))
            model_fail(model, "checkpoint %s is no longer held, or is", expected->id);
    }
}
