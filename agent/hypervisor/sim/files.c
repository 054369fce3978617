/* Image files: layers of cells, with holes through which the file below shows. */
#include "agent/hypervisor/sim/sim.h"

void
ckpt_sim_crime(CkptSim *sim, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_ptr_array_add(sim->crimes, g_strdup_vprintf(format, args));
    va_end(args);
}

CkptSimFile *
ckpt_sim_find(CkptSim *sim, const char *path)
{
    return path ? g_hash_table_lookup(sim->files, path) : NULL;
}

CkptSimFile *
ckpt_sim_file_ref(CkptSimFile *file)
{
    g_atomic_ref_count_inc(&file->refs);
    return file;
}

void
ckpt_sim_file_unref(CkptSimFile *file)
{
    if (!g_atomic_ref_count_dec(&file->refs))
        return;
    g_free(file->path);
    g_free(file->backing);
    g_free(file);
}

CkptSimFile *
ckpt_sim_add_file(CkptSim *sim, const char *path, CkptFormat format, guint cells,
                  const char *backing, guint mode)
{
    CkptSimFile *file = g_new0(CkptSimFile, 1);
    CkptSimFile *below = ckpt_sim_find(sim, backing);

    g_atomic_ref_count_init(&file->refs);
    file->inode = ++sim->last_inode;
    file->path = g_strdup(path);
    file->format = format;
    file->cells = cells || !below ? cells : below->cells;
    file->backing = g_strdup(backing);
    file->backing_format = below ? below->format : 0;
    file->mode = mode;
    file->mtime = ++sim->clock;
    g_hash_table_insert(sim->files, file->path, file);
    return file;
}

void
ckpt_sim_rename(CkptSim *sim, CkptSimFile *file, const char *path)
{
    char *before = g_steal_pointer(&file->path);

    g_hash_table_steal(sim->files, before);
    file->path = g_strdup(path);
    if (path)
        g_hash_table_insert(sim->files, file->path, file);
    else
        ckpt_sim_file_unref(file);
    g_free(before);
}

GPtrArray *
ckpt_sim_chain(CkptSim *sim, const char *path)
{
    g_autoptr(GPtrArray) chain = g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_sim_file_unref);

    while (path && chain->len <= g_hash_table_size(sim->files)) {
        CkptSimFile *file = ckpt_sim_find(sim, path);

        if (!file)
            return NULL;
        g_ptr_array_add(chain, ckpt_sim_file_ref(file));
        path = file->backing;
    }
    return path ? NULL : g_steal_pointer(&chain);
}

guint32
ckpt_sim_read_cell(GPtrArray *chain, guint from, guint cell)
{
    for (guint i = from; i < chain->len; i++) {
        CkptSimFile *file = g_ptr_array_index(chain, i);

        if (cell >= file->cells)
            return 0;
        if (file->set[cell])
            return file->data[cell];
    }
    return 0;
}

void
ckpt_sim_write_cell(CkptSim *sim, CkptSimFile *file, guint cell, guint32 value)
{
    g_assert(cell < CKPT_SIM_CELLS);
    file->set[cell] = TRUE;
    file->data[cell] = value;
    file->mtime = ++sim->clock;
}

void
ckpt_sim_resize(CkptSim *sim, GPtrArray *chain, guint cells)
{
    CkptSimFile *top = g_ptr_array_index(chain, 0);

    for (guint i = 0; i < CKPT_SIM_CELLS; i++) {
        if (i >= cells)
            top->set[i] = FALSE;
        else if (i >= top->cells)
            ckpt_sim_write_cell(sim, top, i, 0);
    }
    top->cells = cells;
    top->mtime = ++sim->clock;
}

CkptFileId
ckpt_sim_file_id(const CkptSimFile *file)
{
    guint used = 0;

    for (guint i = 0; i < CKPT_SIM_CELLS; i++)
        used += file->set[i];
    return (CkptFileId){
        .device = 1,
        .inode = file->inode,
        .size = file->format == CKPT_FORMAT_RAW ? (guint64)file->cells * CKPT_SIM_CELL
                                                : (guint64)(used + 1) * CKPT_SIM_CELL,
        .mtime_ns = file->mtime,
    };
}

void
ckpt_sim_locks(CkptSim *sim, const CkptSimFile *file, gboolean *read, gboolean *write)
{
    *read = *write = FALSE;
    for (guint i = 0; i < sim->vms->len; i++) {
        CkptSimVm *vm = g_ptr_array_index(sim->vms, i);

        for (guint k = 0; vm->live_disks && k < vm->live_disks->len; k++) {
            GPtrArray *chain = ((CkptSimLive *)g_ptr_array_index(vm->live_disks, k))->chain;

            for (guint l = 0; l < chain->len; l++) {
                if (g_ptr_array_index(chain, l) != file)
                    continue;
                *read = TRUE;
                *write = *write || l == 0;
            }
        }
    }
}

static char *
find_definition(CkptSim *sim, const CkptSimFile *file)
{
    for (guint i = 0; i < sim->vms->len; i++) {
        CkptSimVm *vm = g_ptr_array_index(sim->vms, i);

        for (guint k = 0; k < vm->definition->disks->len; k++) {
            CkptSimDisk *disk = g_ptr_array_index(vm->definition->disks, k);
            g_autoptr(GPtrArray) chain = ckpt_sim_chain(sim, disk->source);

            if (chain && g_ptr_array_find(chain, file, NULL))
                return g_strdup_printf("the definition of %s", vm->name);
        }
    }
    return NULL;
}

/* Who would miss it: QEMU, a definition's chain, the header of a file of the agent's. An owner's file that
 * no definition and no checkpoint has is nobody's business. */
static char *
find_user(CkptSim *sim, const CkptSimFile *file)
{
    GHashTableIter iter;
    gpointer value;
    gboolean read, write;

    ckpt_sim_locks(sim, file, &read, &write);
    if (read)
        return g_strdup("a running VM");
    g_hash_table_iter_init(&iter, sim->files);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        CkptSimFile *other = value;

        if (other->agent_made && !other->given_up && g_strcmp0(other->backing, file->path) == 0)
            return g_strdup(other->path);
    }
    return find_definition(sim, file);
}

void
ckpt_sim_unlink(CkptSim *sim, CkptSimFile *file)
{
    g_autofree char *user = find_user(sim, file);

    if (!file->agent_made)
        ckpt_sim_crime(sim, "%s was removed, which the agent did not make", file->path);
    if (user)
        ckpt_sim_crime(sim, "%s was removed, which %s needs", file->path, user);
    ckpt_sim_rename(sim, file, NULL);
}
