#include "agent/core/import_internal.h"

#include "agent/core/graph.h"

#define ROUNDS 16 /* of folders that manifests of the folders before name */

void
ckpt_import_free(CkptImport *import)
{
    if (!import)
        return;
    g_free(import->vm_id);
    g_ptr_array_unref(import->checkpoints);
    g_ptr_array_unref(import->manifests);
    g_ptr_array_unref(import->left_out);
    g_ptr_array_unref(import->made);
    g_ptr_array_unref(import->notes);
    g_free(import->current_id);
    ckpt_vm_free(import->vm);
    g_free(import);
}

static CkptImport *
import_new(const char *vm_id)
{
    CkptImport *import = g_new0(CkptImport, 1);

    import->vm_id = g_strdup(vm_id);
    import->checkpoints = g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_checkpoint_free);
    import->manifests = g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_manifest_free);
    import->left_out = g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_manifest_free);
    import->made = g_ptr_array_new_with_free_func(g_free);
    import->notes = g_ptr_array_new_with_free_func(g_free);
    return import;
}

void
ckpt_import_note(CkptImport *import, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_ptr_array_add(import->notes, g_strdup_vprintf(format, args));
    va_end(args);
}

/* ---- The files ---- */

static GArray *
known_files(const CkptImport *import, GPtrArray *overlays)
{
    GArray *files = g_array_new(TRUE, FALSE, sizeof(CkptKnownFile));

    for (guint i = 0; i < import->manifests->len; i++) {
        const CkptManifest *manifest = g_ptr_array_index(import->manifests, i);

        for (guint k = 0; k < manifest->row->disks->len; k++) {
            const CkptCheckpointDisk *disk = g_ptr_array_index(manifest->row->disks, k);
            const CkptKnownFile file = {disk->sealed_file, disk->format};

            g_array_append_val(files, file);
        }
        for (guint k = 0; k < manifest->row->extras->len; k++) {
            const CkptCheckpointFile *extra = g_ptr_array_index(manifest->row->extras, k);
            const CkptKnownFile file = {extra->path, CKPT_FORMAT_RAW}; /* no header of it is looked at */

            g_array_append_val(files, file);
        }
    }
    for (guint i = 0; i < overlays->len; i++) {
        const CkptKnownFile file = {g_ptr_array_index(overlays, i), CKPT_FORMAT_QCOW2};

        g_array_append_val(files, file);
    }
    return files;
}

/* Where all VMs' are read, one that cannot be looked at does not keep the others' from being read: of it there are
 * the files. */
static gboolean
look(CkptImport *import, CkptDriver *driver, GPtrArray *overlays, gboolean all, GError **error)
{
    g_autoptr(GArray) files = known_files(import, overlays);
    const CkptKnownFile *known = (const CkptKnownFile *)files->data;
    g_autoptr(GError) why = NULL;

    import->vm = driver->inspect(driver, import->vm_id, known, &why);
    import->deployed = import->vm != NULL;
    if (!import->vm && all && ckpt_error_reason(why) != CKPT_REASON_VM_NOT_FOUND)
        ckpt_import_note(import, "it cannot be looked at, so its checkpoints are those of its files: %s",
                         why->message);
    if (!import->vm && (all ? ckpt_error_reason(why) != CKPT_REASON_HYPERVISOR_UNAVAILABLE
                            : ckpt_error_reason(why) == CKPT_REASON_VM_NOT_FOUND)) {
        g_clear_error(&why);
        import->vm = driver->inspect_files(driver, import->vm_id, known, &why);
    }
    if (!import->vm)
        g_propagate_error(error, g_steal_pointer(&why));
    return import->vm != NULL;
}

/* FALSE: there is no such file. */
static gboolean
identify(CkptImport *import, const CkptCheckpoint *row, CkptCheckpointDisk *disk)
{
    const CkptLayer *layer = ckpt_vm_find_file(import->vm, disk->sealed_file);

    if (!layer || !layer->exists) {
        ckpt_import_note(import, "checkpoint %s (%s): %s of disk %s is missing", row->name, row->id,
                         disk->sealed_file, disk->target);
        return FALSE;
    }
    if (layer->id.size == disk->id.size && layer->id.mtime_ns == disk->id.mtime_ns &&
        layer->virtual_size == disk->virtual_size)
        disk->id = layer->id;
    else
        ckpt_import_note(import,
                         "checkpoint %s (%s): %s of disk %s was changed after it was sealed",
                         row->name, row->id, disk->sealed_file, disk->target);
    return TRUE;
}

static void
identify_extra(CkptImport *import, const CkptCheckpoint *row, CkptCheckpointFile *extra)
{
    const CkptLayer *layer = ckpt_vm_find_file(import->vm, extra->path);

    if (layer && layer->exists && layer->id.size == extra->id.size &&
        layer->id.mtime_ns == extra->id.mtime_ns)
        extra->id = layer->id;
    else
        ckpt_import_note(import, "checkpoint %s (%s): its %s file %s is missing or was changed",
                         row->name, row->id, ckpt_file_kind_name(extra->kind), extra->path);
}

static CkptCheckpoint *
make_row(CkptImport *import, const CkptManifest *manifest)
{
    CkptCheckpoint *row = ckpt_checkpoint_copy(manifest->row);
    gboolean any = FALSE;

    ckpt_set_str(&row->disabled_reason,
                 row->state == CKPT_STATE_DELETING ? ckpt_plan_deleting_reason(row) : NULL);
    for (guint i = 0; i < row->disks->len; i++)
        any = identify(import, row, g_ptr_array_index(row->disks, i)) || any;
    for (guint i = 0; i < row->extras->len; i++)
        identify_extra(import, row, g_ptr_array_index(row->extras, i));
    row->epoch = manifest->epoch;
    row->departed = FALSE;
    row->stayed = FALSE;
    if (any)
        return row;
    ckpt_import_note(import, "checkpoint %s (%s): none of its files is there: left out", row->name,
                     row->id);
    ckpt_checkpoint_free(row);
    return NULL;
}

static void
make_rows(CkptImport *import)
{
    for (guint i = 0; i < import->manifests->len;) {
        CkptCheckpoint *row = make_row(import, g_ptr_array_index(import->manifests, i));

        if (row) {
            g_ptr_array_add(import->checkpoints, row);
            i++;
        } else {
            g_ptr_array_remove_index(import->manifests, i);
        }
    }
}

/* ---- The tree ---- */

static gboolean
is_in_ring(GPtrArray *rows, const CkptCheckpoint *row)
{
    const CkptCheckpoint *at = row;

    for (guint i = 0; at && i < rows->len; i++)
        at = ckpt_graph_find(rows, at->parent_id);
    return at != NULL;
}

static void
root_orphans(CkptImport *import)
{
    for (guint i = 0; i < import->checkpoints->len; i++) {
        CkptCheckpoint *row = g_ptr_array_index(import->checkpoints, i);

        if (!row->parent_id || (ckpt_graph_find(import->checkpoints, row->parent_id) &&
                                !is_in_ring(import->checkpoints, row)))
            continue;
        ckpt_import_note(import,
                         "checkpoint %s (%s): its parent %s is not among them: it is a root",
                         row->name, row->id, row->parent_id);
        ckpt_set_str(&row->parent_id, NULL);
    }
}

/* Parents first; of manifests and rows alike. */
static void
sort_rows(CkptImport *import)
{
    for (guint i = 0; i < import->checkpoints->len; i++) {
        guint at = i;

        while (at < import->checkpoints->len) {
            const CkptCheckpoint *row = g_ptr_array_index(import->checkpoints, at);
            const CkptCheckpoint *parent = ckpt_graph_find(import->checkpoints, row->parent_id);
            guint index = 0;

            if (!parent || (g_ptr_array_find(import->checkpoints, parent, &index) && index < i))
                break;
            at++;
        }
        g_assert(at < import->checkpoints->len); /* no ring */
        g_ptr_array_insert(import->checkpoints, (gint)i,
                           g_ptr_array_steal_index(import->checkpoints, at));
        g_ptr_array_insert(import->manifests, (gint)i,
                           g_ptr_array_steal_index(import->manifests, at));
    }
}

static int
compare_paths(gconstpointer a, gconstpointer b)
{
    return g_strcmp0(*(char *const *)a, *(char *const *)b);
}

static void
add_made(CkptImport *import, const char *file)
{
    if (!g_ptr_array_find_with_equal_func(import->made, file, g_str_equal, NULL))
        g_ptr_array_add(import->made, g_strdup(file));
}

/* Of a checkpoint that was left out, one whose making was cut short for one: it may be what a VM wrote last, and
 * whoever merges below it must know that it is there. */
static gboolean
is_left_out(const CkptImport *import, const CkptPlanInput *input, const CkptLayer *layer)
{
    return g_strcmp0(layer->owner_vm, import->vm_id) == 0 && !ckpt_graph_owner(input, layer->path, NULL);
}

static void
find_made(CkptImport *import, const CkptPlanInput *input, GPtrArray *overlays)
{
    for (guint i = 0; i < import->checkpoints->len; i++) {
        const CkptCheckpoint *row = g_ptr_array_index(import->checkpoints, i);

        for (guint k = 0; k < row->disks->len; k++) {
            const CkptCheckpointDisk *disk = g_ptr_array_index(row->disks, k);

            if (disk->agent_made)
                add_made(import, disk->sealed_file);
        }
        for (guint k = 0; k < row->extras->len; k++)
            add_made(import, ((CkptCheckpointFile *)g_ptr_array_index(row->extras, k))->path);
    }
    for (guint i = 0; i < overlays->len; i++) {
        const CkptLayer *layer = ckpt_vm_find_file(import->vm, g_ptr_array_index(overlays, i));

        if (layer && layer->exists && layer->backing &&
            (!layer->manifest || is_left_out(import, input, layer)) &&
            ckpt_graph_owner(input, layer->backing, NULL))
            add_made(import, layer->path);
    }
    g_ptr_array_sort(import->made, compare_paths);
}

/* ---- Where the VM is ---- */

static void
consider_current(CkptImport *import, const CkptCheckpoint *owner, guint *depth)
{
    guint deep = ckpt_plan_depth(import->checkpoints, owner);

    if (deep <= *depth)
        return;
    *depth = deep;
    ckpt_set_str(&import->current_id, owner->id);
}

static void
find_current(CkptImport *import, const CkptPlanInput *input)
{
    guint depth = 0;
    gboolean by_disks;

    for (guint i = 0; i < import->vm->disks->len; i++) {
        const CkptDisk *disk = g_ptr_array_index(import->vm->disks, i);
        const CkptCheckpoint *owner = NULL;

        for (guint k = 1; k < disk->chain->len && !owner; k++)
            owner = ckpt_graph_owner(input, ((CkptLayer *)g_ptr_array_index(disk->chain, k))->path,
                                     NULL);
        if (owner)
            consider_current(import, owner, &depth);
    }
    /* Not defined here, or its disks are detached. */
    by_disks = import->current_id != NULL;
    for (guint i = 0; !by_disks && i < import->made->len; i++) {
        const char *file = g_ptr_array_index(import->made, i);
        const CkptLayer *layer = ckpt_vm_find_file(import->vm, file);

        if (layer && layer->backing && !ckpt_graph_owner(input, file, NULL))
            consider_current(import, ckpt_graph_owner(input, layer->backing, NULL), &depth);
    }
}

/* At once: not for a moment is one enabled that cannot be restored. */
static void
verify_rows(CkptImport *import, const CkptPlanInput *input)
{
    for (guint i = 0; i < import->checkpoints->len; i++) {
        CkptCheckpoint *row = g_ptr_array_index(import->checkpoints, i);
        g_autoptr(GError) why = NULL;

        if (row->state != CKPT_STATE_DELETING && !ckpt_plan_verify(input, row, &why))
            ckpt_set_str(&row->disabled_reason, why->message);
    }
}

static CkptImport *
import_vm(CkptDriver *driver, const char *vm_id, CkptFoundFiles *found, gboolean all, GError **error)
{
    g_autoptr(CkptImport) import = import_new(vm_id);
    CkptPlanInput input = {0};

    ckpt_import_choose(import, found->manifests);
    if (!look(import, driver, found->overlays, all, error))
        return NULL;
    make_rows(import);
    root_orphans(import);
    sort_rows(import);
    input.vm = import->vm;
    input.checkpoints = import->checkpoints;
    input.made = import->made;
    find_made(import, &input, found->overlays);
    find_current(import, &input);
    verify_rows(import, &input);
    return g_steal_pointer(&import);
}

/* ---- For its users ---- */

static GPtrArray *
list_vms(GPtrArray *manifests, const char *vm_id)
{
    GPtrArray *ids = g_ptr_array_new_with_free_func(g_free);

    for (guint i = 0; i < manifests->len; i++) {
        const CkptManifest *manifest = g_ptr_array_index(manifests, i);

        if ((!vm_id || g_str_equal(vm_id, manifest->domain)) &&
            !g_ptr_array_find_with_equal_func(ids, manifest->domain, g_str_equal, NULL))
            g_ptr_array_add(ids, g_strdup(manifest->domain));
    }
    g_ptr_array_sort(ids, compare_paths);
    return ids;
}

static void
add_folder(GHashTable *seen, GPtrArray *folders, const char *file)
{
    char *folder = g_path_get_dirname(file);

    if (*folder == '/' && g_hash_table_add(seen, g_strdup(folder)))
        g_ptr_array_add(folders, folder);
    else
        g_free(folder);
}

/* Where else the checkpoints have files, of a disk that was detached since, for one. */
static char **
further_folders(const CkptFoundFiles *found, const char *vm_id, GHashTable *seen)
{
    GPtrArray *folders = g_ptr_array_new();

    for (guint i = 0; i < found->manifests->len; i++) {
        const CkptManifest *manifest = g_ptr_array_index(found->manifests, i);

        for (guint k = 0; k < manifest->row->disks->len; k++) {
            const CkptCheckpointDisk *disk = g_ptr_array_index(manifest->row->disks, k);

            if (!vm_id || g_str_equal(vm_id, manifest->domain))
                add_folder(seen, folders, disk->sealed_file);
        }
    }
    g_ptr_array_add(folders, NULL);
    return (char **)g_ptr_array_free(folders, FALSE);
}

static void
move_all(GPtrArray *to, GPtrArray *from)
{
    while (from->len > 0)
        g_ptr_array_add(to, g_ptr_array_steal_index(from, from->len - 1));
}

static CkptFoundFiles *
find_everywhere(CkptDriver *driver, const char *const *folders, const char *vm_id, GError **error)
{
    g_autoptr(CkptFoundFiles) found = driver->find_manifests(driver, folders, error);
    g_autoptr(GHashTable) seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);

    for (guint i = 0; folders[i]; i++)
        g_hash_table_add(seen, g_strdup(folders[i]));
    for (guint round = 0; found && round < ROUNDS; round++) {
        g_auto(GStrv) further = further_folders(found, vm_id, seen);
        g_autoptr(CkptFoundFiles) more = NULL;

        if (!*further)
            return g_steal_pointer(&found);
        more = driver->find_manifests(driver, (const char *const *)further, error);
        if (!more)
            return NULL;
        move_all(found->manifests, more->manifests);
        move_all(found->overlays, more->overlays);
        move_all(found->notes, more->notes);
    }
    return g_steal_pointer(&found);
}

GPtrArray *
ckpt_import_read(CkptDriver *driver, const char *const *folders, const char *vm_id, GPtrArray *notes,
                 GError **error)
{
    g_autoptr(GPtrArray) imports =
        g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_import_free);
    g_autoptr(CkptFoundFiles) found = NULL;
    g_autoptr(GPtrArray) ids = NULL;

    if (!driver->find_manifests || !driver->inspect_files)
        return g_steal_pointer(&imports);
    found = find_everywhere(driver, folders, vm_id, error);
    if (!found)
        return NULL;
    ids = list_vms(found->manifests, vm_id);
    for (guint i = 0; i < ids->len; i++) {
        CkptImport *import = import_vm(driver, g_ptr_array_index(ids, i), found, !vm_id, error);

        if (!import)
            return NULL;
        g_ptr_array_add(imports, import);
    }
    for (guint i = 0; notes && i < found->notes->len; i++)
        g_ptr_array_add(notes, g_strdup(g_ptr_array_index(found->notes, i)));
    return g_steal_pointer(&imports);
}

char **
ckpt_import_folders(const CkptVm *vm)
{
    g_autoptr(GHashTable) seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    GPtrArray *folders = g_ptr_array_new();

    for (guint i = 0; i < vm->disks->len; i++) {
        const CkptDisk *disk = g_ptr_array_index(vm->disks, i);

        for (guint k = 0; k < disk->chain->len; k++) {
            const CkptLayer *layer = g_ptr_array_index(disk->chain, k);

            add_folder(seen, folders, layer->manifest_file ? layer->manifest_file : layer->path);
        }
    }
    g_ptr_array_add(folders, NULL);
    return (char **)g_ptr_array_free(folders, FALSE);
}

CkptChange *
ckpt_import_change(const CkptImport *import)
{
    CkptChange *change = ckpt_change_new();

    for (guint i = 0; i < import->checkpoints->len; i++)
        g_ptr_array_add(change->upserts,
                        ckpt_checkpoint_copy(g_ptr_array_index(import->checkpoints, i)));
    for (guint i = 0; i < import->made->len; i++)
        g_ptr_array_add(change->made, g_strdup(g_ptr_array_index(import->made, i)));
    change->set_current = TRUE;
    ckpt_set_str(&change->current_id, import->current_id);
    return change;
}
