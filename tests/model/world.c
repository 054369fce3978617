/* The world's beginning and end, and what is said of it. */
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
void
model_add_disk(Model *model, guint vm, guint index, guint64 *random)
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
        model_add_disk(model, i, 0, random);
        if (script_next(random) % 3 == 0)
            add_clone_of_template(model, i, 1);
        else if (script_next(random) % 2)
            model_add_disk(model, i, 1, random);
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
    model->kept = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
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
    g_hash_table_unref(model->kept);
    g_mutex_clear(&model->lock);
    g_cond_clear(&model->changed);
    g_free(model->violation);
    g_free(model->dir);
    g_free(model->other_dir);
    g_free(model);
    model_present = NULL;
}
