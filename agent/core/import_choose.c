#include "agent/core/import_internal.h"

static gboolean
has_manifest_beside(GPtrArray *group, const char *file)
{
    for (guint i = 0; i < group->len; i++)
        if (g_str_equal(((const CkptManifest *)g_ptr_array_index(group, i))->path, file))
            return TRUE;
    return FALSE;
}

/* The file of the row beside which none lies; NULL: there is one beside each. */
static const char *
find_bare(GPtrArray *group, const CkptCheckpoint *row)
{
    for (guint i = 0; i < row->disks->len; i++) {
        const CkptCheckpointDisk *disk = g_ptr_array_index(row->disks, i);

        if (!has_manifest_beside(group, disk->sealed_file))
            return disk->sealed_file;
    }
    return NULL;
}

static gboolean
is_identified(const CkptCheckpoint *row)
{
    for (guint i = 0; i < row->disks->len; i++)
        if (!ckpt_file_id_is_set(&((CkptCheckpointDisk *)g_ptr_array_index(row->disks, i))->id))
            return FALSE;
    return TRUE;
}

static gboolean
holds_over(const CkptManifest *a, const CkptManifest *b)
{
    if (a->epoch != b->epoch)
        return a->epoch > b->epoch;
    if (a->modified_us != b->modified_us)
        return a->modified_us > b->modified_us;
    return is_identified(a->row) && !is_identified(b->row);
}

/* Whoever takes over writes with a greater epoch: the same one twice was not written by agents. */
static gboolean
is_disputed(GPtrArray *group, const CkptManifest *best)
{
    for (guint i = 0; i < group->len; i++) {
        const CkptManifest *other = g_ptr_array_index(group, i);

        if (other->epoch == best->epoch && !g_str_equal(other->agent, best->agent))
            return TRUE;
    }
    return FALSE;
}

static void
leave_out(CkptImport *import, GPtrArray *group)
{
    while (group->len > 0)
        g_ptr_array_add(import->left_out, g_ptr_array_steal_index(group, group->len - 1));
}

/* Steals it from the group. NULL: it is left out, which was noted. */
static CkptManifest *
choose(CkptImport *import, GPtrArray *group)
{
    const CkptManifest *any = g_ptr_array_index(group, 0);
    const char *bare = NULL;
    guint best = group->len;

    for (guint i = 0; i < group->len; i++) {
        const CkptManifest *manifest = g_ptr_array_index(group, i);
        const char *missing = find_bare(group, manifest->row);

        if (missing)
            bare = missing;
        else if (best == group->len || holds_over(manifest, g_ptr_array_index(group, best)))
            best = i;
    }
    if (best == group->len) {
        ckpt_import_note(import,
                         "checkpoint %s (%s): no manifest of it lies beside its file %s: left out",
                         any->row->name, any->checkpoint_id, bare);
        leave_out(import, group);
    } else if (!is_identified(((CkptManifest *)g_ptr_array_index(group, best))->row)) {
        ckpt_import_note(import, "checkpoint %s (%s): its making was not finished: left out",
                         any->row->name, any->checkpoint_id);
        leave_out(import, group);
    } else if (is_disputed(group, g_ptr_array_index(group, best))) {
        ckpt_import_note(import, "checkpoint %s (%s): two agents claim it with one epoch: left out",
                         any->row->name, any->checkpoint_id);
    } else {
        return g_ptr_array_steal_index(group, best);
    }
    return NULL;
}

static int
compare_age(gconstpointer a, gconstpointer b)
{
    const CkptCheckpoint *left = (*(CkptManifest *const *)a)->row;
    const CkptCheckpoint *right = (*(CkptManifest *const *)b)->row;

    if (left->added_us != right->added_us)
        return left->added_us < right->added_us ? -1 : 1;
    return g_strcmp0(left->id, right->id);
}

void
ckpt_import_choose(CkptImport *import, GPtrArray *found)
{
    g_autoptr(GHashTable) groups =
        g_hash_table_new_full(g_str_hash, g_str_equal, g_free, (GDestroyNotify)g_ptr_array_unref);
    GHashTableIter iter;
    gpointer value;

    for (guint i = found->len; i > 0; i--) {
        CkptManifest *manifest = g_ptr_array_index(found, i - 1);
        GPtrArray *group;

        if (!g_str_equal(manifest->domain, import->vm_id))
            continue;
        group = g_hash_table_lookup(groups, manifest->checkpoint_id);
        if (!group) {
            group = g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_manifest_free);
            g_hash_table_insert(groups, g_strdup(manifest->checkpoint_id), group);
        }
        g_ptr_array_add(group, g_ptr_array_steal_index(found, i - 1));
    }
    g_hash_table_iter_init(&iter, groups);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        CkptManifest *chosen = choose(import, value);

        if (chosen)
            g_ptr_array_add(import->manifests, chosen);
    }
    g_ptr_array_sort(import->manifests, compare_age);
}
