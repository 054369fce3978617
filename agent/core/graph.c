#include "agent/core/graph.h"

CkptCheckpoint *
ckpt_graph_find(GPtrArray *checkpoints, const char *id)
{
    for (guint i = 0; id && i < checkpoints->len; i++) {
        CkptCheckpoint *checkpoint = g_ptr_array_index(checkpoints, i);

        if (g_str_equal(checkpoint->id, id))
            return checkpoint;
    }
    return NULL;
}

/* One file may have several names (a symbolic link in its path): hazard A22 by another name. */
static gboolean
is_same(const CkptPlanInput *input, const char *a, const char *b)
{
    const CkptLayer *one, *other;

    if (g_strcmp0(a, b) == 0)
        return TRUE;
    if (!a || !b)
        return FALSE;
    one = ckpt_vm_find_file(input->vm, a);
    other = ckpt_vm_find_file(input->vm, b);
    return one && other && one->exists && other->exists && one->id.device == other->id.device &&
           one->id.inode == other->id.inode;
}

CkptCheckpoint *
ckpt_graph_owner(const CkptPlanInput *input, const char *file, CkptCheckpointDisk **disk)
{
    for (guint i = 0; i < input->checkpoints->len; i++) {
        CkptCheckpoint *checkpoint = g_ptr_array_index(input->checkpoints, i);

        for (guint k = 0; k < checkpoint->disks->len; k++) {
            CkptCheckpointDisk *candidate = g_ptr_array_index(checkpoint->disks, k);

            if (!is_same(input, candidate->sealed_file, file))
                continue;
            if (disk)
                *disk = candidate;
            return checkpoint;
        }
    }
    return NULL;
}

gboolean
ckpt_graph_is_as_sealed(const CkptPlanInput *input, const CkptCheckpoint *checkpoint)
{
    for (guint i = 0; i < checkpoint->disks->len; i++) {
        const CkptCheckpointDisk *disk = g_ptr_array_index(checkpoint->disks, i);
        const CkptLayer *layer = ckpt_vm_find_file(input->vm, disk->sealed_file);

        if (!layer || !layer->exists || !ckpt_file_id_holds(&layer->id, &disk->id))
            return FALSE;
    }
    return TRUE;
}

static int
compare_layers(gconstpointer a, gconstpointer b)
{
    return g_strcmp0((*(CkptLayer *const *)a)->path, (*(CkptLayer *const *)b)->path);
}

/* The same overlay by another name is one reader, not two. */
static gboolean
has_layer(GPtrArray *layers, const CkptLayer *layer)
{
    for (guint i = 0; i < layers->len; i++) {
        const CkptLayer *seen = g_ptr_array_index(layers, i);

        if (seen->id.device == layer->id.device && seen->id.inode == layer->id.inode)
            return TRUE;
    }
    return FALSE;
}

GPtrArray *
ckpt_graph_readers(const CkptPlanInput *input, const char *file)
{
    GPtrArray *readers = g_ptr_array_new();
    GHashTableIter iter;
    gpointer value;

    g_hash_table_iter_init(&iter, input->vm->files);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        CkptLayer *layer = value;

        if (layer->exists && layer->backing && is_same(input, layer->backing, file) &&
            !has_layer(readers, layer) && !ckpt_graph_is_doomed(input, layer->path))
            g_ptr_array_add(readers, layer);
    }
    g_ptr_array_sort(readers, compare_layers);
    return readers;
}

char **
ckpt_graph_chain(const CkptPlanInput *input, const char *file)
{
    g_autoptr(GPtrArray) chain = g_ptr_array_new();

    /* No chain has more layers than there are files: a loop in the headers ends here. */
    while (file && chain->len <= g_hash_table_size(input->vm->files)) {
        CkptLayer *layer = ckpt_vm_find_file(input->vm, file);

        g_ptr_array_add(chain, g_strdup(file));
        file = layer ? layer->backing : NULL;
    }
    g_ptr_array_add(chain, NULL);
    return (char **)g_ptr_array_free(g_steal_pointer(&chain), FALSE);
}

CkptDisk *
ckpt_graph_attached(const CkptPlanInput *input, const char *file)
{
    for (guint i = 0; i < input->vm->disks->len; i++) {
        CkptDisk *disk = g_ptr_array_index(input->vm->disks, i);

        for (guint k = 0; k < disk->chain->len; k++) {
            CkptLayer *layer = g_ptr_array_index(disk->chain, k);

            if (is_same(input, layer->path, file))
                return disk;
        }
    }
    return NULL;
}

gboolean
ckpt_graph_is_top(const CkptPlanInput *input, const char *file)
{
    for (guint i = 0; i < input->vm->disks->len; i++) {
        CkptDisk *disk = g_ptr_array_index(input->vm->disks, i);

        if (is_same(input, disk->source, file) || is_same(input, disk->live_source, file))
            return TRUE;
    }
    return FALSE;
}

gboolean
ckpt_graph_lies_on(const CkptPlanInput *input, const char *overlay, const char *file)
{
    g_auto(GStrv) chain = ckpt_graph_chain(input, overlay);

    for (guint i = 1; chain[0] && chain[i]; i++)
        if (is_same(input, chain[i], file))
            return TRUE;
    return FALSE;
}

gboolean
ckpt_graph_agent_made(const CkptPlanInput *input, const char *file)
{
    return g_ptr_array_find_with_equal_func(input->made, file, g_str_equal, NULL);
}

static gboolean
is_made(const CkptPlanInput *input, const char *file)
{
    for (guint i = 0; i < input->made->len; i++)
        if (is_same(input, g_ptr_array_index(input->made, i), file))
            return TRUE;
    return FALSE;
}

char *
ckpt_graph_root(const CkptPlanInput *input, const char *file)
{
    g_auto(GStrv) chain = ckpt_graph_chain(input, file);
    guint i = 0;

    while (chain[i] && chain[i + 1] && is_made(input, chain[i]))
        i++;
    return g_strdup(chain[i]);
}

gboolean
ckpt_graph_same_disk(const CkptPlanInput *input, const char *a, const char *b)
{
    g_autofree char *one = ckpt_graph_root(input, a);
    g_autofree char *other = ckpt_graph_root(input, b);

    return one && is_same(input, one, other);
}

const CkptFileUser *
ckpt_graph_user(const CkptPlanInput *input, const char *file)
{
    for (guint i = 0; i < input->vm->users->len; i++) {
        CkptFileUser *user = g_ptr_array_index(input->vm->users, i);

        if (is_same(input, user->file, file))
            return user;
    }
    return NULL;
}

gboolean
ckpt_graph_runs_on(const CkptPlanInput *input, const CkptDisk *disk, const CkptLayer *overlay)
{
    const CkptLayer *below = overlay->backing ? ckpt_vm_find_file(input->vm, overlay->backing) : NULL;

    return overlay->exists && overlay->write_locked && below && !below->write_locked &&
           disk->live_source &&
           (g_strcmp0(disk->live_source, overlay->path) == 0 ||
            ckpt_graph_lies_on(input, overlay->path, disk->live_source));
}

static CkptPin
pin_of(const CkptPlanInput *input, const CkptSnapshot *snapshot, const char *file)
{
    CkptPin pin = CKPT_PIN_NONE;

    for (guint i = 0; i < snapshot->disks->len; i++) {
        const CkptSnapshotFile *disk = g_ptr_array_index(snapshot->disks, i);

        if (ckpt_graph_lies_on(input, disk->path, file))
            return CKPT_PIN_CONTENTS;
        if (!is_same(input, disk->path, file))
            continue;
        if (!snapshot->internal)
            return CKPT_PIN_CONTENTS;
        /* qcow2 counts who refers to each cluster: what is written to such a file goes elsewhere. */
        pin = CKPT_PIN_NAMED;
    }
    for (guint i = 0; i < snapshot->named->len && pin == CKPT_PIN_NONE; i++)
        if (is_same(input, ((CkptSnapshotFile *)g_ptr_array_index(snapshot->named, i))->path, file))
            pin = CKPT_PIN_NAMED;
    return pin;
}

CkptPin
ckpt_graph_pin(const CkptPlanInput *input, const char *file, const CkptSnapshot **who)
{
    CkptPin most = CKPT_PIN_NONE;

    for (guint i = 0; i < input->vm->foreign->len; i++) {
        const CkptSnapshot *snapshot = g_ptr_array_index(input->vm->foreign, i);
        CkptPin pin = pin_of(input, snapshot, file);

        if (pin > most && who)
            *who = snapshot;
        most = MAX(most, pin);
    }
    return most;
}

const CkptLayer *
ckpt_graph_foreign_reader(const CkptPlanInput *input, const char *file)
{
    g_autoptr(GPtrArray) readers = ckpt_graph_readers(input, file);

    for (guint i = 0; i < readers->len; i++) {
        const CkptLayer *reader = g_ptr_array_index(readers, i);

        if (!is_made(input, reader->path))
            return reader;
    }
    return NULL;
}

static gboolean
is_extra(const CkptPlanInput *input, const char *file)
{
    for (guint i = 0; i < input->checkpoints->len; i++) {
        const CkptCheckpoint *checkpoint = g_ptr_array_index(input->checkpoints, i);

        for (guint k = 0; k < checkpoint->extras->len; k++)
            if (is_same(input, ((CkptCheckpointFile *)checkpoint->extras->pdata[k])->path, file))
                return TRUE;
    }
    return FALSE;
}

static gboolean
is_used(const CkptPlanInput *input, const char *file)
{
    const CkptLayer *layer = ckpt_vm_find_file(input->vm, file);

    if (ckpt_graph_is_top(input, file) || ckpt_graph_attached(input, file) ||
        ckpt_graph_owner(input, file, NULL) || is_extra(input, file) || ckpt_graph_user(input, file) ||
        ckpt_graph_pin(input, file, NULL) || (layer && layer->snapshots))
        return TRUE;
    for (guint i = 0; layer && i < input->vm->disks->len; i++)
        if (ckpt_graph_runs_on(input, g_ptr_array_index(input->vm->disks, i), layer))
            return TRUE;
    return FALSE;
}

/* deep: ends where headers form a loop. */
static gboolean
is_doomed(const CkptPlanInput *input, const char *file, guint deep)
{
    GHashTableIter iter;
    gpointer value;

    if (!g_ptr_array_find_with_equal_func(input->doomed, file, g_str_equal, NULL) || deep == 0 ||
        is_used(input, file))
        return FALSE;
    g_hash_table_iter_init(&iter, input->vm->files);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        const CkptLayer *layer = value;

        if (layer->exists && layer->backing && is_same(input, layer->backing, file) &&
            !is_doomed(input, layer->path, deep - 1))
            return FALSE;
    }
    return TRUE;
}

gboolean
ckpt_graph_is_doomed(const CkptPlanInput *input, const char *file)
{
    return input->doomed && input->doomed->len > 0 &&
           is_doomed(input, file, input->doomed->len);
}

char *
ckpt_graph_manifest(const CkptLayer *layer)
{
    g_autofree char *name = NULL;

    if (layer->manifest_file)
        return g_strdup(layer->manifest_file);
    if (!layer->overlay_folder)
        return g_strconcat(layer->path, CKPT_MANIFEST_ENDING, NULL);
    name = ckpt_device_stem(layer->path);
    return g_strconcat(layer->overlay_folder, "/", name, CKPT_MANIFEST_ENDING, NULL);
}

char *
ckpt_graph_describe(const CkptPlanInput *input, const char *file)
{
    CkptCheckpoint *owner = ckpt_graph_owner(input, file, NULL);

    if (owner)
        return g_strdup_printf("checkpoint %s (%s)", owner->name, owner->id);
    if (ckpt_graph_is_top(input, file))
        return g_strdup("the present state");
    return g_strdup(file);
}
