/* Other tools: snapshots that virsh or virt-manager would make, end or forget, and that none is damaged. */
#include "model.h"

static gboolean
has_unfinished_delete(Model *model, guint vm)
{
    for (guint i = 0; i < model->expected->len; i++) {
        const Expected *expected = g_ptr_array_index(model->expected, i);

        if (expected->vm == vm && expected->deleting)
            return TRUE;
    }
    return FALSE;
}

static gboolean
are_tops(Model *model, guint vm, gboolean qcow2)
{
    CkptSimVm *sim_vm = model_sim_vm(model, vm);

    for (guint i = 0; i < sim_vm->definition->disks->len; i++) {
        const CkptSimDisk *disk = g_ptr_array_index(sim_vm->definition->disks, i);
        const CkptSimFile *top = ckpt_sim_find(model->sim, disk->source);

        if (!top || (qcow2 && top->format != CKPT_FORMAT_QCOW2))
            return FALSE;
    }
    return sim_vm->definition->disks->len > 0;
}

static void
make(Model *model, guint vm, gboolean internal)
{
    g_autofree char *name = NULL;
    Foreign *foreign;

    if (!are_tops(model, vm, internal))
        return;
    name = g_strdup_printf("virsh-%u", ++model->last_snapshot);
    foreign = g_new0(Foreign, 1);
    foreign->vm = vm;
    foreign->state = model->vms[vm].present;
    foreign->snapshot = ckpt_sim_snapshot_add(model->sim, model_sim_vm(model, vm), name,
                                              internal ? NULL : "/img2");
    g_ptr_array_add(model->foreign, foreign);
    model_log(model, "    another tool makes the %s snapshot %s of vm-%u",
              internal ? "internal" : "external", name, vm);
}

static void
forget(Model *model, guint index)
{
    Foreign *foreign = g_ptr_array_index(model->foreign, index);

    g_ptr_array_remove(model->sim->snapshots, foreign->snapshot);
    g_ptr_array_remove_index(model->foreign, index);
}

static gboolean
has_other_reader(Model *model, const char *path, const CkptSimFile *but)
{
    GHashTableIter iter;
    gpointer value;

    g_hash_table_iter_init(&iter, model->sim->files);
    while (g_hash_table_iter_next(&iter, NULL, &value))
        if (value != but && g_strcmp0(((CkptSimFile *)value)->backing, path) == 0)
            return TRUE;
    return FALSE;
}

static gboolean
is_another_ones(Model *model, const Foreign *foreign, const CkptSimFile *file)
{
    for (guint i = 0; i < model->foreign->len; i++) {
        const Foreign *other = g_ptr_array_index(model->foreign, i);

        for (guint k = 0; other != foreign && k < other->snapshot->disks->len; k++)
            if (((CkptSimSaved *)other->snapshot->disks->pdata[k])->file == file)
                return TRUE;
    }
    return FALSE;
}

/* Whether virsh blockcommit --active --pivot would do no harm: an owner who knows what he does. */
static gboolean
can_be_committed(Model *model, const Foreign *foreign)
{
    CkptSimVm *vm = model_sim_vm(model, foreign->vm);

    for (guint i = 0; i < foreign->snapshot->disks->len; i++) {
        const CkptSimSaved *saved = g_ptr_array_index(foreign->snapshot->disks, i);
        const CkptSimDisk *disk = ckpt_sim_definition_find(vm->definition, saved->target);
        CkptSimFile *overlay = saved->overlay ? ckpt_sim_find(model->sim, saved->overlay) : NULL;

        if (!disk || !overlay || g_strcmp0(disk->source, saved->overlay) != 0 ||
            ckpt_sim_find(model->sim, saved->path) != saved->file || !(saved->file->mode & 0200) ||
            overlay->cells != saved->file->cells || has_other_reader(model, saved->path, overlay) ||
            has_other_reader(model, saved->overlay, NULL) ||
            is_another_ones(model, foreign, saved->file) || is_another_ones(model, foreign, overlay))
            return FALSE;
    }
    return TRUE;
}

static void
commit(Model *model, const Foreign *foreign)
{
    CkptSimVm *vm = model_sim_vm(model, foreign->vm);

    for (guint i = 0; i < foreign->snapshot->disks->len; i++) {
        CkptSimSaved *saved = g_ptr_array_index(foreign->snapshot->disks, i);
        CkptSimFile *overlay = ckpt_sim_find(model->sim, saved->overlay);
        CkptSimLive *live = ckpt_sim_find_live(vm, saved->target);

        for (guint cell = 0; cell < overlay->cells; cell++)
            if (overlay->set[cell])
                ckpt_sim_write_cell(model->sim, saved->file, cell, overlay->data[cell]);
        ckpt_sim_definition_set(vm->definition, saved->target, saved->path, saved->file->format);
        if (live) {
            g_ptr_array_remove_index(live->chain, 0);
            ckpt_sim_definition_set(vm->live, saved->target, saved->path, saved->file->format);
        }
        ckpt_sim_rename(model->sim, overlay, NULL);
    }
}

static void
end(Model *model, guint vm, guint32 chance)
{
    for (guint i = 0; i < model->foreign->len; i++) {
        const Foreign *foreign = g_ptr_array_index(model->foreign, i);

        if (foreign->vm != vm)
            continue;
        if (!foreign->snapshot->internal && chance % 3 && can_be_committed(model, foreign)) {
            model_log(model, "    another tool commits %s of vm-%u", foreign->snapshot->name, vm);
            commit(model, foreign);
        } else {
            model_log(model, "    another tool forgets %s of vm-%u", foreign->snapshot->name, vm);
        }
        forget(model, i);
        return;
    }
}

void
model_act_foreign(Model *model, const Action *action)
{
    guint vm = action->a % MODEL_VMS;

    if (model_is_odd(model) || model_sim_vm(model, vm)->saved || has_unfinished_delete(model, vm))
        return;
    switch (action->b % 4) {
    case 0:
        make(model, vm, TRUE);
        break;
    case 1:
    case 2:
        make(model, vm, FALSE);
        break;
    default:
        end(model, vm, action->c);
        break;
    }
}

/* ---- Invariants ---- */

static char *
what_is_wrong(Model *model, const Foreign *foreign, const CkptSimSaved *saved, const Image *image)
{
    g_autoptr(GPtrArray) chain = NULL;

    if (ckpt_sim_find(model->sim, saved->path) != saved->file)
        return g_strdup_printf("%s is gone", saved->path);
    if (saved->overlay && !ckpt_sim_find(model->sim, saved->overlay))
        return g_strdup_printf("%s is gone", saved->overlay);
    chain = ckpt_sim_chain(model->sim, saved->path);
    if (!chain)
        return g_strdup_printf("%s cannot be read", saved->path);
    if (!foreign->snapshot->internal)
        return model_compare(model->sim, chain, image);
    for (guint cell = 0; cell < image->cells; cell++) {
        guint32 found = ckpt_sim_saved_cell(model->sim, saved, cell);

        if (found != image->data[cell])
            return g_strdup_printf("%s has %u in cell %u of it, it should have %u", saved->path, found, cell,
                                   image->data[cell]);
    }
    return NULL;
}

void
model_check_foreign(Model *model)
{
    for (guint i = 0; i < model->foreign->len && !model_is_odd(model); i++) {
        const Foreign *foreign = g_ptr_array_index(model->foreign, i);

        for (guint k = 0; k < foreign->snapshot->disks->len; k++) {
            const CkptSimSaved *saved = g_ptr_array_index(foreign->snapshot->disks, k);

            for (guint t = 0; t < MODEL_TARGETS; t++) {
                g_autofree char *wrong = NULL;

                if (!g_str_equal(model_target(t), saved->target))
                    continue;
                wrong = what_is_wrong(model, foreign, saved, &foreign->state.disks[t]);
                if (wrong)
                    model_fail(model, "snapshot %s of another tool: %s", foreign->snapshot->name, wrong);
            }
        }
    }
}
