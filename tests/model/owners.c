/* What guests and owners do in the world, and the table of all actions. */
#include "model.h"

/* ---- Guests ---- */

/* The state that the VM is on: that of a restore under way once it runs on the files made for it. */
static State *
state_of(Model *model, guint vm, const CkptSimLive *live)
{
    const CkptSimFile *top = g_ptr_array_index(live->chain, 0);
    Attempt *attempt = model->attempt;

    if (attempt && attempt->vm == vm && attempt->kind == CKPT_KIND_RESTORE &&
        top->inode > attempt->inode_before)
        return &attempt->restored;
    return &model->vms[vm].present;
}

void
model_guest_write(Model *model, guint vm, guint32 chance)
{
    CkptSimVm *sim_vm = model_sim_vm(model, vm);
    CkptSimLive *live;
    CkptSimFile *top;
    Image *image;
    guint cell;

    if (sim_vm->power != CKPT_POWER_RUNNING || sim_vm->frozen || sim_vm->live_disks->len == 0)
        return;
    live = g_ptr_array_index(sim_vm->live_disks, chance % sim_vm->live_disks->len);
    top = g_ptr_array_index(live->chain, 0);
    cell = (chance >> 8) % top->cells;
    for (guint i = 0; i < MODEL_TARGETS; i++)
        if (g_str_equal(model_target(i), live->target)) {
            image = &state_of(model, vm, live)->disks[i];
            image->data[cell] = ++model->last_value;
        }
    ckpt_sim_write_cell(model->sim, top, cell, model->last_value);
    model_log(model, "    guest of vm-%u writes %u to cell %u of %s", vm, model->last_value, cell,
              top->path);
}

static void
act_resize(Model *model, const Action *action)
{
    guint vm = action->a % MODEL_VMS, index = action->b % MODEL_TARGETS;
    Image *image = &model->vms[vm].present.disks[index];
    g_autoptr(GPtrArray) chain =
        ckpt_sim_disk_chain(model->sim, model_sim_vm(model, vm), model_target(index));
    guint cells = 1 + action->c % CKPT_SIM_CELLS;

    /* Mostly grown: a shrunk one is never merged again. */
    if (!image->attached || !chain || model->vms[vm].redefined || model_sim_vm(model, vm)->saved)
        return;
    if (cells < image->cells && action->d % 4)
        cells = MIN(image->cells + 1, CKPT_SIM_CELLS);
    ckpt_sim_resize(model->sim, chain, cells);
    for (guint i = cells; i < CKPT_SIM_CELLS; i++)
        image->data[i] = 0;
    for (guint i = image->cells; i < cells; i++)
        image->data[i] = 0;
    image->cells = cells;
}

/* The agent puts a definition right that names a file below the one that QEMU writes to: then nothing is wrong
 * with it any more. */
static void
notice_mended(Model *model, guint vm)
{
    const CkptSimDefinition *definition = model_sim_vm(model, vm)->definition;
    g_autoptr(GPtrArray) rows = ckpt_store_vm_checkpoints(model->store, model->vms[vm].id, NULL);

    if (!model->vms[vm].redefined || !rows)
        return;
    for (guint i = 0; i < rows->len; i++) {
        const CkptCheckpoint *row = g_ptr_array_index(rows, i);

        for (guint k = 0; k < row->disks->len; k++)
            for (guint d = 0; d < definition->disks->len; d++)
                if (g_str_equal(((CkptCheckpointDisk *)row->disks->pdata[k])->sealed_file,
                                ((CkptSimDisk *)definition->disks->pdata[d])->source))
                    return;
    }
    g_clear_pointer(&model->vms[vm].redefined, ckpt_sim_definition_free);
}

/* ---- Owners ---- */

static void
act_power(Model *model, const Action *action)
{
    guint vm = action->a % MODEL_VMS;
    CkptSimVm *sim_vm = model_sim_vm(model, vm);

    notice_mended(model, vm);
    if (!sim_vm->live) {
        CkptPower power = action->b % 4 ? CKPT_POWER_RUNNING : CKPT_POWER_PAUSED;
        gboolean started = ckpt_sim_start(model->sim, sim_vm, power, NULL);

        if (started && model->vms[vm].redefined)
            model_fail(model, "vm-%u was started on a sealed file", vm);
        if (!started && !model_is_odd(model))
            model_fail(model, "vm-%u cannot be started", vm);
    } else if (action->b % 3) {
        ckpt_sim_stop(model->sim, sim_vm);
        sim_vm->shut_down = TRUE;
    } else {
        sim_vm->power =
            sim_vm->power == CKPT_POWER_PAUSED ? CKPT_POWER_RUNNING : CKPT_POWER_PAUSED;
    }
    model->vms[vm].power = sim_vm->power;
}

static void
act_save(Model *model, const Action *action)
{
    guint vm = action->a % MODEL_VMS;
    CkptSimVm *sim_vm = model_sim_vm(model, vm);

    if (model->vms[vm].redefined)
        return;
    if (sim_vm->live)
        ckpt_sim_save(model->sim, sim_vm);
    else
        ckpt_sim_forget_saved(sim_vm);
    model->vms[vm].power = sim_vm->power;
}

static void
act_detach(Model *model, const Action *action)
{
    guint vm = action->a % MODEL_VMS, index = action->b % MODEL_TARGETS;
    CkptSimVm *sim_vm = model_sim_vm(model, vm);
    Image *image = &model->vms[vm].present.disks[index];
    CkptSimDisk *disk = ckpt_sim_definition_find(sim_vm->definition, model_target(index));
    Detached *detached;

    if (!image->attached || sim_vm->saved || model_is_odd(model) || sim_vm->definition->disks->len < 2)
        return;
    if (image->clone && !ckpt_sim_find(model->sim, disk->source)->agent_made) {
        ckpt_sim_detach(model->sim, sim_vm, model_target(index));
        image->attached = FALSE;
        return;
    }
    detached = g_new0(Detached, 1);
    detached->vm = vm;
    detached->path = g_strdup(disk->source);
    detached->format = disk->format;
    detached->image = *image;
    detached->restores = model->vms[vm].restores;
    g_ptr_array_add(model->detached, detached);
    image->attached = FALSE;
    ckpt_sim_detach(model->sim, sim_vm, model_target(index));
}

/* A disk that was detached comes back, perhaps under another name; or a fresh one. */
static void
act_attach(Model *model, const Action *action)
{
    guint vm = action->a % MODEL_VMS, index = action->b % MODEL_TARGETS;
    CkptSimVm *sim_vm = model_sim_vm(model, vm);
    guint64 random = action->d;

    if (model->vms[vm].present.disks[index].attached || sim_vm->saved || model_is_odd(model))
        return;
    for (guint i = 0; action->c % 3 && i < model->detached->len; i++) {
        Detached *detached = g_ptr_array_index(model->detached, i);

        if (detached->vm != vm)
            continue;
        if (!ckpt_sim_attach(model->sim, sim_vm, model_target(index), detached->path, detached->format,
                             NULL)) {
            model_fail(model, "%s cannot be attached again", detached->path);
            return;
        }
        model->vms[vm].present.disks[index] = detached->image;
        if (detached->restores != model->vms[vm].restores)
            model->vms[vm].reattached = TRUE;
        g_ptr_array_remove_index(model->detached, i);
        return;
    }
    model_add_disk(model, vm, index, &random);
}

static void
act_configure(Model *model, const Action *action)
{
    guint vm = action->a % MODEL_VMS;
    CkptSimVm *sim_vm = model_sim_vm(model, vm);

    if (sim_vm->live || sim_vm->saved || model_is_odd(model))
        return;
    sim_vm->definition->memory = model->vms[vm].present.memory = 1 + action->b % 100;
    if (sim_vm->nvram) /* its UEFI variables always tell the same as its definition */
        ckpt_sim_write_cell(model->sim, ckpt_sim_find(model->sim, sim_vm->nvram), 0, 1 + action->b % 100);
}

/* ---- What owners should not do, and do ---- */

static CkptCheckpointDisk *
pick_sealed(Model *model, guint vm, guint32 chance, GPtrArray *rows, Expected **expected)
{
    CkptCheckpoint *row;

    if (!rows || rows->len == 0)
        return NULL;
    row = g_ptr_array_index(rows, chance % rows->len);
    *expected = model_find_expected(model, row->id);
    if (!*expected || (*expected)->deleting || row->disks->len == 0)
        return NULL;
    return g_ptr_array_index(row->disks, (chance >> 8) % row->disks->len);
}

static guint
target_index(const char *target)
{
    for (guint i = 0; i < MODEL_TARGETS; i++)
        if (g_str_equal(model_target(i), target))
            return i;
    g_assert_not_reached();
}

/* In the place of the very disk whose sealed file is below it, a clone is that disk put back by hand. */
static gboolean
is_put_back(Model *model, guint vm, const char *target, const char *base)
{
    g_autoptr(GPtrArray) rows = ckpt_store_vm_checkpoints(model->store, model->vms[vm].id, NULL);
    g_autoptr(GPtrArray) chain = ckpt_sim_chain(model->sim, base);

    for (guint i = 0; rows && chain && i < rows->len; i++) {
        const CkptCheckpointDisk *disk =
            ckpt_checkpoint_find_disk(g_ptr_array_index(rows, i), target);

        for (guint k = 0; disk && k < chain->len; k++)
            if (g_str_equal(((CkptSimFile *)chain->pdata[k])->path, disk->sealed_file))
                return TRUE;
    }
    return FALSE;
}

/* Another VM gets a thin clone of a checkpoint's disk (hazard A18). */
static void
act_clone(Model *model, const Action *action)
{
    guint from = action->a % MODEL_VMS, to = (from + 1 + action->b % (MODEL_VMS - 1)) % MODEL_VMS;
    guint index = action->c % MODEL_TARGETS;
    g_autoptr(GPtrArray) rows =
        ckpt_store_vm_checkpoints(model->store, model->vms[from].id, NULL);
    g_autofree char *path = NULL;
    Expected *expected = NULL;
    CkptCheckpointDisk *disk = pick_sealed(model, from, action->d, rows, &expected);
    Image *image = &model->vms[to].present.disks[index];

    if (!disk || image->attached || model_is_odd(model) || model_sim_vm(model, to)->saved ||
        is_put_back(model, to, model_target(index), disk->sealed_file))
        return;
    path = g_strdup_printf("/img1/disk-%u.qcow2", model->last_file++);
    ckpt_sim_add_file(model->sim, path, CKPT_FORMAT_QCOW2, 0, disk->sealed_file, 0600);
    if (!ckpt_sim_attach(model->sim, model_sim_vm(model, to), model_target(index), path,
                         CKPT_FORMAT_QCOW2, NULL)) {
        model_fail(model, "a clone of %s cannot be attached", disk->sealed_file);
        return;
    }
    *image = expected->state.disks[target_index(disk->target)];
    image->attached = image->clone = TRUE;
    image->disk = ++model->last_disk;
}

/* A file is moved away, and later back. */
static void
act_vanish(Model *model, const Action *action)
{
    ModelVm *vm = &model->vms[action->a % MODEL_VMS];
    g_autoptr(GPtrArray) rows = ckpt_store_vm_checkpoints(model->store, vm->id, NULL);
    Expected *expected = NULL;
    CkptCheckpointDisk *disk;

    if (vm->vanished) {
        CkptSimFile *file = g_steal_pointer(&vm->vanished_file);

        g_free(file->path);
        file->path = g_steal_pointer(&vm->vanished);
        g_hash_table_insert(model->sim->files, file->path, file);
        return;
    }
    disk = pick_sealed(model, action->a % MODEL_VMS, action->d, rows, &expected);
    if (!disk || vm->redefined || !ckpt_sim_find(model->sim, disk->sealed_file))
        return;
    vm->vanished_file = ckpt_sim_file_ref(ckpt_sim_find(model->sim, disk->sealed_file));
    vm->vanished = g_strdup(disk->sealed_file);
    ckpt_sim_rename(model->sim, vm->vanished_file, NULL);
}

/* Its old XML, from Terraform say, is defined again (hazard A22), and later put right. */
static void
act_redefine(Model *model, const Action *action)
{
    ModelVm *vm = &model->vms[action->a % MODEL_VMS];
    CkptSimVm *sim_vm = model_sim_vm(model, action->a % MODEL_VMS);
    g_autoptr(GPtrArray) rows = ckpt_store_vm_checkpoints(model->store, vm->id, NULL);
    Expected *expected = NULL;
    CkptCheckpointDisk *disk;

    notice_mended(model, action->a % MODEL_VMS);
    if (vm->redefined) {
        ckpt_sim_definition_free(sim_vm->definition);
        sim_vm->definition = g_steal_pointer(&vm->redefined);
        return;
    }
    disk = pick_sealed(model, action->a % MODEL_VMS, action->d, rows, &expected);
    if (!disk || vm->vanished || sim_vm->saved || !ckpt_sim_definition_find(sim_vm->definition, disk->target))
        return;
    vm->redefined = ckpt_sim_definition_copy(sim_vm->definition);
    ckpt_sim_definition_set(sim_vm->definition, disk->target, disk->sealed_file, disk->format);
}

static void
act_host(Model *model)
{
    for (guint i = 0; i < MODEL_VMS; i++) {
        if (model_sim_vm(model, i)->live)
            ckpt_sim_stop(model->sim, model_sim_vm(model, i));
        model->vms[i].power = CKPT_POWER_SHUT_OFF;
    }
    model_cut_power(model);
    model_agent_restart(model);
}

void
model_act(Model *model, const Action *action)
{
    switch (action->kind) {
    case ACT_WRITE:
        model_guest_write(model, action->a % MODEL_VMS, action->b);
        break;
    case ACT_POWER:
        act_power(model, action);
        break;
    case ACT_SAVE:
        act_save(model, action);
        break;
    case ACT_RESIZE:
        act_resize(model, action);
        break;
    case ACT_ATTACH:
        act_attach(model, action);
        break;
    case ACT_DETACH:
        act_detach(model, action);
        break;
    case ACT_CONFIGURE:
        act_configure(model, action);
        break;
    case ACT_CLONE:
        act_clone(model, action);
        break;
    case ACT_VANISH:
        act_vanish(model, action);
        break;
    case ACT_REDEFINE:
        act_redefine(model, action);
        break;
    case ACT_RESTART:
        model_agent_restart(model);
        break;
    case ACT_HOST:
        act_host(model);
        break;
    case ACT_FOREIGN:
        model_act_foreign(model, action);
        break;
    case ACT_MIGRATE:
        model_migrate(model, action);
        break;
    case ACT_LOSE:
        model_lose(model, action);
        break;
    case ACT_REPEAT:
        model_repeat(model, action);
        break;
    case ACT_CREATE:
    case ACT_RESTORE:
    case ACT_DELETE:
    case ACT_DEFER:
    case ACT_UPDATE:
        model_mutate(model, action);
        break;
    case ACT_KINDS:
        break;
    }
}
