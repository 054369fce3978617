#include "toy_driver.h"

#include <string.h>

static void
toy_file_free(gpointer data)
{
    ToyFile *file = data;

    g_free(file->backing);
    g_free(file->data);
    g_free(file);
}

static ToyFile *
toy_add(ToyDriver *toy, const char *path, const char *backing)
{
    ToyFile *file = g_new0(ToyFile, 1);

    file->backing = g_strdup(backing);
    file->mode = backing ? 0600 : 0644;
    file->changed = ++toy->clock;
    g_hash_table_replace(toy->files, g_strdup(path), file);
    return file;
}

static ToyFile *
toy_file(ToyDriver *toy, const char *path)
{
    return g_hash_table_lookup(toy->files, path);
}

void
toy_write(ToyDriver *toy, const char *data)
{
    ToyFile *file = toy_file(toy, toy->live_top);

    ckpt_set_str(&file->data, data);
    file->changed = ++toy->clock;
}

const char *
toy_read(ToyDriver *toy)
{
    for (const char *path = toy->live_top ? toy->live_top : toy->top; path;) {
        ToyFile *file = toy_file(toy, path);

        if (!file)
            return "(missing)";
        if (file->data)
            return file->data;
        path = file->backing;
    }
    return "";
}

static int
compare_strings(gconstpointer a, gconstpointer b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

char *
toy_describe(ToyDriver *toy)
{
    g_autoptr(GString) text = g_string_new(NULL);
    g_autoptr(GPtrArray) paths = g_ptr_array_new();
    GHashTableIter iter;
    gpointer key;

    g_hash_table_iter_init(&iter, toy->files);
    while (g_hash_table_iter_next(&iter, &key, NULL))
        g_ptr_array_add(paths, key);
    g_ptr_array_sort(paths, compare_strings);
    for (guint i = 0; i < paths->len; i++) {
        ToyFile *file = toy_file(toy, paths->pdata[i]);

        g_string_append_printf(text, "%s on %s, %o, %s; ", (char *)paths->pdata[i],
                               file->backing ? file->backing : "-", file->mode,
                               file->data ? file->data : "-");
    }
    g_string_append_printf(text, "defined %s, live %s", toy->top,
                           toy->live_top ? toy->live_top : "-");
    return g_string_free(g_steal_pointer(&text), FALSE);
}

static CkptLayer *
look(ToyDriver *toy, const char *path)
{
    ToyFile *file = toy_file(toy, path);
    CkptLayer *layer = g_new0(CkptLayer, 1);

    layer->path = g_strdup(path);
    layer->exists = file != NULL;
    if (!file)
        return layer;
    layer->format = file->backing ? CKPT_FORMAT_QCOW2 : CKPT_FORMAT_RAW;
    layer->virtual_size = 1 << 20;
    layer->allocated = 4096;
    layer->fs_available = 1ull << 40;
    layer->id = (CkptFileId){.device = 1, .inode = g_str_hash(path), .mtime_ns = file->changed};
    layer->mode = file->mode;
    layer->backing = g_strdup(file->backing);
    return layer;
}

static void
add_chain(ToyDriver *toy, CkptVm *vm, const char *path, GPtrArray *chain)
{
    while (path) {
        CkptLayer *layer = ckpt_vm_find_file(vm, path);

        if (!layer) {
            layer = look(toy, path);
            g_hash_table_insert(vm->files, g_strdup(path), layer);
        }
        if (chain)
            g_ptr_array_add(chain, layer);
        path = layer->backing;
    }
}

static CkptVm *
inspect(CkptDriver *driver, const char *vm_id, const CkptKnownFile *files, GError **error)
{
    ToyDriver *toy = (ToyDriver *)driver;
    CkptVm *vm;
    CkptDisk *disk;

    if (!g_str_equal(vm_id, TOY_VM)) {
        ckpt_error_set(error, CKPT_REASON_VM_NOT_FOUND, "there is no VM %s", vm_id);
        return NULL;
    }
    g_mutex_lock(&toy->lock);
    vm = ckpt_vm_new();
    ckpt_set_str(&vm->id, TOY_VM);
    ckpt_set_str(&vm->name, "toy");
    vm->power = toy->running ? CKPT_POWER_RUNNING : CKPT_POWER_SHUT_OFF;
    vm->persistent = TRUE;
    ckpt_set_str(&vm->definition, toy->top);
    disk = g_new0(CkptDisk, 1);
    disk->target = g_strdup("vda");
    disk->source = g_strdup(toy->top);
    disk->live_source = g_strdup(toy->live_top);
    disk->chain = g_ptr_array_new();
    g_ptr_array_add(vm->disks, disk);
    add_chain(toy, vm, toy->live_top ? toy->live_top : toy->top, disk->chain);
    for (; files && files->path; files++)
        add_chain(toy, vm, files->path, NULL);
    g_mutex_unlock(&toy->lock);
    return vm;
}

static const char *
first_file(const CkptStep *step)
{
    return ((CkptDiskFile *)g_ptr_array_index(step->disks, 0))->file;
}

static void
merge(ToyDriver *toy, const CkptStep *step)
{
    ToyFile *file = toy_file(toy, step->file);
    ToyFile *base = toy_file(toy, step->base);

    if (file->data) {
        ckpt_set_str(&base->data, file->data);
        base->changed = ++toy->clock;
    }
    if (step->above) {
        ToyFile *above = toy_file(toy, step->above);

        ckpt_set_str(&above->backing, step->base);
        above->changed = ++toy->clock;
    }
    if (g_strcmp0(toy->top, step->file) == 0)
        ckpt_set_str(&toy->top, step->base);
    if (g_strcmp0(toy->live_top, step->file) == 0)
        ckpt_set_str(&toy->live_top, step->base);
}

static void
start(ToyDriver *toy)
{
    toy->running = TRUE;
    ckpt_set_str(&toy->live_top, toy->top);
}

static void
stop(ToyDriver *toy)
{
    toy->running = FALSE;
    g_clear_pointer(&toy->live_top, g_free);
}

static void
apply(ToyDriver *toy, CkptStep *step)
{
    switch (step->kind) {
    case CKPT_STEP_MAKE_OVERLAY:
        if (!toy_file(toy, step->file))
            toy_add(toy, step->file, step->base);
        break;
    case CKPT_STEP_SEAL:
        toy_file(toy, step->file)->mode = 0440;
        break;
    case CKPT_STEP_UNSEAL:
        if (toy_file(toy, step->file))
            toy_file(toy, step->file)->mode = step->mode;
        break;
    case CKPT_STEP_SNAPSHOT:
        ckpt_set_str(&toy->top, first_file(step));
        if (toy->running)
            ckpt_set_str(&toy->live_top, toy->top);
        break;
    case CKPT_STEP_IDENTIFY: {
        CkptLayer *layer = look(toy, step->file);

        step->id = layer->id;
        ckpt_layer_free(layer);
        break;
    }
    case CKPT_STEP_DEFINE:
        ckpt_set_str(&toy->top, first_file(step));
        break;
    case CKPT_STEP_STOP:
        if (!step->disks ||
            g_strcmp0(((CkptDiskFile *)step->disks->pdata[0])->file, toy->live_top) == 0)
            stop(toy);
        break;
    case CKPT_STEP_START:
        toy->taken_up = step->taken_up;
        if (!toy->running)
            start(toy);
        break;
    case CKPT_STEP_MERGE:
        if (toy_file(toy, step->file))
            merge(toy, step);
        break;
    case CKPT_STEP_REMOVE_FILE:
        g_hash_table_remove(toy->files, step->file);
        break;
    case CKPT_STEP_WRITE_MANIFEST:
    case CKPT_STEP_REMOVE_MANIFEST:
    case CKPT_STEP_CHECK_CHAIN:
    case CKPT_STEP_RESERVE:
    case CKPT_STEP_REBASE:
    case CKPT_STEP_NATIVE_CREATE:
    case CKPT_STEP_NATIVE_REVERT:
    case CKPT_STEP_NATIVE_DELETE:
    case CKPT_STEP_CATALOGUE:
    case CKPT_STEP_PULL:
    case CKPT_STEP_SAVE_NVRAM:
    case CKPT_STEP_COMPARE_NVRAM:
    case CKPT_STEP_PUT_NVRAM:
    case CKPT_STEP_CHECK_MEMORY:
    case CKPT_STEP_END_:
        break;
    }
}

static gboolean
step_do(CkptDriver *driver, const CkptPlan *plan, CkptStep *step, CkptProgressFunc progress,
        gpointer data, GCancellable *cancellable, GError **error)
{
    ToyDriver *toy = (ToyDriver *)driver;
    gboolean fails;

    if (toy->gate) {
        g_atomic_int_inc(&toy->at_gate);
        g_mutex_lock(toy->gate);
        g_mutex_unlock(toy->gate);
    }
    for (guint i = 0; progress && i < toy->polls; i++)
        progress(0, 0, data);
    g_mutex_lock(&toy->lock);
    g_string_append_printf(toy->log, "%s ", ckpt_step_name(step->kind));
    fails = toy->fail_at && ++toy->calls == toy->fail_at;
    if (!fails || toy->failure == TOY_FAIL_AFTER)
        apply(toy, step);
    g_mutex_unlock(&toy->lock);
    if (fails)
        ckpt_error_set(error, toy->reason, "told to fail");
    return !fails;
}

static gboolean
step_undo(CkptDriver *driver, const CkptPlan *plan, CkptStep *step, GError **error)
{
    ToyDriver *toy = (ToyDriver *)driver;
    ToyFile *file;

    g_mutex_lock(&toy->lock);
    file = step->file ? toy_file(toy, step->file) : NULL;
    g_string_append_printf(toy->log, "-%s ", ckpt_step_name(step->kind));
    if (step->kind == CKPT_STEP_MAKE_OVERLAY)
        g_hash_table_remove(toy->files, step->file);
    else if (step->kind == CKPT_STEP_SEAL && file)
        file->mode = step->mode;
    else if (step->kind == CKPT_STEP_UNSEAL && file)
        file->mode = 0440;
    else if (step->kind == CKPT_STEP_DEFINE)
        ckpt_set_str(&toy->top, step->definition_before);
    else if (step->kind == CKPT_STEP_START)
        stop(toy);
    else if (step->kind == CKPT_STEP_STOP && !toy->running)
        start(toy);
    g_mutex_unlock(&toy->lock);
    return TRUE;
}

static CkptOutcome
step_check(CkptDriver *driver, const CkptPlan *plan, const CkptStep *step, GError **error)
{
    ToyDriver *toy = (ToyDriver *)driver;

    if (step->kind == CKPT_STEP_SNAPSHOT && toy->found)
        ckpt_set_str(&((CkptStep *)step)->warning, toy->found);
    if (step->kind == CKPT_STEP_MAKE_OVERLAY && toy->lived_in)
        return CKPT_OUTCOME_UNCLEAR;
    if (step->kind == CKPT_STEP_REMOVE_FILE)
        return toy_file(toy, step->file) ? CKPT_OUTCOME_NOT_DONE : CKPT_OUTCOME_DONE;
    return g_strcmp0(toy->top, first_file(step)) == 0 ? CKPT_OUTCOME_DONE : CKPT_OUTCOME_NOT_DONE;
}

static gboolean
host_info(CkptDriver *driver, CkptHostInfo **info, GError **error)
{
    *info = g_new0(CkptHostInfo, 1);
    (*info)->host_id = g_strdup("22222222-2222-4222-8222-222222222222");
    return TRUE;
}

static GPtrArray *
list_vms(CkptDriver *driver, GError **error)
{
    return g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_vm_summary_free);
}

static gboolean
settle(CkptDriver *driver, const char *vm_id, GError **error)
{
    return TRUE;
}

static void
toy_free(CkptDriver *driver)
{
    ToyDriver *toy = (ToyDriver *)driver;

    g_hash_table_unref(toy->files);
    g_string_free(toy->log, TRUE);
    g_free(toy->top);
    g_free(toy->live_top);
    g_mutex_clear(&toy->lock);
    g_free(toy);
}

ToyDriver *
toy_driver_new(void)
{
    ToyDriver *toy = g_new0(ToyDriver, 1);

    toy->base = (CkptDriver){"toy",     host_info, list_vms,   inspect, settle,
                             step_do, step_undo, step_check, toy_free};
    g_mutex_init(&toy->lock);
    toy->files = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, toy_file_free);
    toy->log = g_string_new(NULL);
    toy_add(toy, "/img/toy.raw", NULL);
    toy->top = g_strdup("/img/toy.raw");
    start(toy);
    return toy;
}
