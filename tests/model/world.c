/* The world's beginning, and what guests and owners do in it. */
#include "model.h"

#include "tests/support/power_vfs.h"

#include <glib/gstdio.h>

static const char *const vm_ids[MODEL_VMS] = {
    "11111111-1111-4111-8111-111111111111",
    "22222222-2222-4222-8222-222222222222",
    "33333333-3333-4333-8333-333333333333",
};
static const char *const targets[MODEL_TARGETS] = {"vda", "vdb", "vdc", "vdd"};

const char *
model_target(guint index)
{
    return targets[index];
}

CkptSimVm *
model_sim_vm(Model *model, guint vm)
{
    return ckpt_sim_find_vm(model->sim, vm_ids[vm]);
}

void
model_fail(Model *model, const char *format, ...)
{
    va_list args;

    if (model->violation)
        return;
    va_start(args, format);
    model->violation = g_strdup_vprintf(format, args);
    va_end(args);
}

void
model_log(Model *model, const char *format, ...)
{
    g_autofree char *text = NULL;
    va_list args;

    if (!model->verbose)
        return;
    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    g_printerr("%s\n", text);
}

/* ---- Beginning ---- */

static void
expected_free(gpointer data)
{
    Expected *expected = data;

    g_free(expected->id);
    g_free(expected);
}

static void
detached_free(gpointer data)
{
    Detached *detached = data;

    g_free(detached->path);
    g_free(detached);
}

static void
past_free(gpointer data)
{
    Past *past = data;

    g_free(past->request_id);
    g_free(past->checkpoint_id);
    g_free(past->hold);
    g_free(past->result_id);
    g_free(past);
}

Expected *
model_find_expected(Model *model, const char *id)
{
    for (guint i = 0; id && i < model->expected->len; i++) {
        Expected *expected = g_ptr_array_index(model->expected, i);

        if (g_str_equal(expected->id, id))
            return expected;
    }
    return NULL;
}

gboolean
model_is_odd(Model *model)
{
    for (guint i = 0; i < MODEL_VMS; i++)
        if (model->vms[i].redefined || model->vms[i].vanished)
            return TRUE;
    return FALSE;
}

void
model_forget_expected(Model *model, const char *id)
{
    Expected *expected = model_find_expected(model, id);

    if (expected)
        g_ptr_array_remove(model->expected, expected);
}

static void
fill(Model *model, CkptSimFile *file, Image *image, guint64 *random)
{
    image->cells = file->cells;
    for (guint i = 0; i < file->cells; i++) {
        image->data[i] = 0;
        if (file->format == CKPT_FORMAT_QCOW2 && script_next(random) % 2)
            continue;
        image->data[i] = ++model->last_value;
        ckpt_sim_write_cell(model->sim, file, i, image->data[i]);
    }
}

/* A fresh disk, made by the owner. */
static void
add_disk(Model *model, guint vm, guint index, guint64 *random)
{
    Image *image = &model->vms[vm].present.disks[index];
    gboolean raw = script_next(random) % 2;
    g_autofree char *path = g_strdup_printf("/img%u/disk-%u.%s", (guint)(script_next(random) % 2),
                                            model->last_file++, raw ? "raw" : "qcow2");
    CkptFormat format = raw ? CKPT_FORMAT_RAW : CKPT_FORMAT_QCOW2;
    CkptSimFile *file = ckpt_sim_add_file(model->sim, path, format,
                                          2 + (guint)(script_next(random) % 4), NULL, 0644);
    CkptSimVm *sim_vm = model_sim_vm(model, vm);

    *image = (Image){.attached = TRUE, .disk = ++model->last_disk};
    fill(model, file, image, random);
    ckpt_sim_attach(model->sim, sim_vm, targets[index], path, format, NULL);
}

/* The second disk of a VM may be a thin clone of a template that all share. */
static void
add_clone_of_template(Model *model, guint vm, guint index)
{
    Image *image = &model->vms[vm].present.disks[index];
    CkptSimFile *template = ckpt_sim_find(model->sim, "/img0/template.raw");
    g_autofree char *path = g_strdup_printf("/img0/disk-%u.qcow2", model->last_file++);

    *image = (Image){.attached = TRUE, .disk = ++model->last_disk, .cells = template->cells};
    for (guint i = 0; i < template->cells; i++)
        image->data[i] = template->data[i];
    ckpt_sim_add_file(model->sim, path, CKPT_FORMAT_QCOW2, 0, template->path, 0600);
    ckpt_sim_attach(model->sim, model_sim_vm(model, vm), targets[index], path, CKPT_FORMAT_QCOW2,
                    NULL);
}

static void
populate(Model *model, guint64 seed, guint64 *random)
{
    CkptSimFile *template =
        ckpt_sim_add_file(model->sim, "/img0/template.raw", CKPT_FORMAT_RAW, 3, NULL, 0444);

    for (guint i = 0; i < 3; i++)
        ckpt_sim_write_cell(model->sim, template, i, ++model->last_value);
    for (guint i = 0; i < MODEL_VMS; i++) {
        g_autofree char *name = g_strdup_printf("vm-%u", i);
        CkptSimVm *vm = ckpt_sim_add_vm(model->sim, vm_ids[i], name);

        model->vms[i].id = vm->id;
        /* Every kind of guest agent comes by; drawn apart, so that old seeds stay what they were. */
        vm->agent = (CkptSimAgent)((model->ids / 7 + i) % (CKPT_SIM_AGENT_DEAF + 1));
        vm->captures_memory = TRUE;
        model->vms[i].present.memory = vm->definition->memory = 1 + i;
        if (seed % 7 == 0 && i > 0) { /* of no world that once failed: it stays what it was */
            vm->nvram = g_strdup_printf("/nvram/vm-%u", i);
            ckpt_sim_write_cell(model->sim,
                                ckpt_sim_add_file(model->sim, vm->nvram, CKPT_FORMAT_RAW, 1, NULL, 0600), 0,
                                1 + i);
        }
        add_disk(model, i, 0, random);
        if (script_next(random) % 3 == 0)
            add_clone_of_template(model, i, 1);
        else if (script_next(random) % 2)
            add_disk(model, i, 1, random);
        model->vms[i].power = script_next(random) % 3 ? CKPT_POWER_RUNNING : CKPT_POWER_SHUT_OFF;
        if (model->vms[i].power == CKPT_POWER_RUNNING)
            ckpt_sim_start(model->sim, vm, CKPT_POWER_RUNNING, NULL);
    }
}

Model *
model_new(guint64 seed, const char *dir)
{
    Model *model = g_new0(Model, 1);
    guint64 random = seed;

    model_present = model;
    model->sim = ckpt_sim_new();
    g_mutex_init(&model->lock);
    g_cond_init(&model->changed);
    model->dir = g_strdup(dir);
    model->ids = seed ^ 0x1d;
    model->losses = seed ^ 0x105e;
    power_vfs_forget();
    model->expected = g_ptr_array_new_with_free_func(expected_free);
    model->detached = g_ptr_array_new_with_free_func(detached_free);
    model->past = g_ptr_array_new_with_free_func(past_free);
    model->foreign = g_ptr_array_new_with_free_func(g_free);
    model->captures = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    model->excused = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    ckpt_limits_init(&model->limits);
    model->limits.max_depth = 3 + (guint)(script_next(&random) % 6);
    populate(model, seed, &random);
    return model;
}

static void
empty_dir(const char *path)
{
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *file = g_build_filename(path, name, NULL);

        g_unlink(file);
    }
}

void
model_free(Model *model)
{
    model_agent_stop(model);
    empty_dir(model->dir);
    if (model->other_dir)
        empty_dir(model->other_dir);
    if (model->other_dir) /* the one of the two that lies in the other */
        g_rmdir(strlen(model->other_dir) > strlen(model->dir) ? model->other_dir : model->dir);
    for (guint i = 0; i < MODEL_VMS; i++) {
        ckpt_sim_definition_free(model->vms[i].redefined);
        g_clear_pointer(&model->vms[i].vanished_file, ckpt_sim_file_unref);
        g_free(model->vms[i].vanished);
    }
    ckpt_driver_free(ckpt_sim_driver(model->sim));
    g_ptr_array_unref(model->expected);
    g_ptr_array_unref(model->detached);
    g_ptr_array_unref(model->past);
    g_ptr_array_unref(model->foreign);
    g_hash_table_unref(model->captures);
    g_hash_table_unref(model->excused);
    g_mutex_clear(&model->lock);
    g_cond_clear(&model->changed);
    g_free(model->violation);
    g_free(model->dir);
    g_free(model->other_dir);
    g_free(model);
    model_present = NULL;
}

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
        if (g_str_equal(targets[i], live->target)) {
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
        ckpt_sim_disk_chain(model->sim, model_sim_vm(model, vm), targets[index]);
    guint cells = 1 + action->c % CKPT_SIM_CELLS;

    /* Mostly grown: a shrunk one is never merged again. */
    if (!image->attached || !chain || model->vms[vm].redefined)
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
    } else {
        sim_vm->power =
            sim_vm->power == CKPT_POWER_PAUSED ? CKPT_POWER_RUNNING : CKPT_POWER_PAUSED;
    }
    model->vms[vm].power = sim_vm->power;
}

static void
act_detach(Model *model, const Action *action)
{
    guint vm = action->a % MODEL_VMS, index = action->b % MODEL_TARGETS;
    CkptSimVm *sim_vm = model_sim_vm(model, vm);
    Image *image = &model->vms[vm].present.disks[index];
    CkptSimDisk *disk = ckpt_sim_definition_find(sim_vm->definition, targets[index]);
    Detached *detached;

    if (!image->attached || model_is_odd(model) || sim_vm->definition->disks->len < 2)
        return;
    if (image->clone && !ckpt_sim_find(model->sim, disk->source)->agent_made) {
        ckpt_sim_detach(model->sim, sim_vm, targets[index]);
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
    ckpt_sim_detach(model->sim, sim_vm, targets[index]);
}

/* A disk that was detached comes back, perhaps under another name; or a fresh one. */
static void
act_attach(Model *model, const Action *action)
{
    guint vm = action->a % MODEL_VMS, index = action->b % MODEL_TARGETS;
    CkptSimVm *sim_vm = model_sim_vm(model, vm);
    guint64 random = action->d;

    if (model->vms[vm].present.disks[index].attached || model_is_odd(model))
        return;
    for (guint i = 0; action->c % 3 && i < model->detached->len; i++) {
        Detached *detached = g_ptr_array_index(model->detached, i);

        if (detached->vm != vm)
            continue;
        if (!ckpt_sim_attach(model->sim, sim_vm, targets[index], detached->path, detached->format,
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
    add_disk(model, vm, index, &random);
}

static void
act_configure(Model *model, const Action *action)
{
    guint vm = action->a % MODEL_VMS;
    CkptSimVm *sim_vm = model_sim_vm(model, vm);

    if (sim_vm->live || model_is_odd(model))
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
        if (g_str_equal(targets[i], target))
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

    if (!disk || image->attached || model_is_odd(model) ||
        is_put_back(model, to, targets[index], disk->sealed_file))
        return;
    path = g_strdup_printf("/img1/disk-%u.qcow2", model->last_file++);
    ckpt_sim_add_file(model->sim, path, CKPT_FORMAT_QCOW2, 0, disk->sealed_file, 0600);
    if (!ckpt_sim_attach(model->sim, model_sim_vm(model, to), targets[index], path,
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
    if (!disk || vm->vanished || !ckpt_sim_definition_find(sim_vm->definition, disk->target))
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
