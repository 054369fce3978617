#include "agent/model/types.h"

#include <string.h>

CkptCheckpoint *
ckpt_checkpoint_new(void)
{
    CkptCheckpoint *checkpoint = g_new0(CkptCheckpoint, 1);

    checkpoint->name = g_strdup("");
    checkpoint->description = g_strdup("");
    checkpoint->most_recent_task = g_strdup("");
    checkpoint->run_id = g_strdup("");
    checkpoint->reason = g_strdup("");
    checkpoint->ticket = g_strdup("");
    checkpoint->creator = g_strdup("");
    checkpoint->hold = g_strdup("");
    checkpoint->qemu_version = g_strdup("");
    checkpoint->disks = g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_checkpoint_disk_free);
    checkpoint->extras = g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_checkpoint_file_free);
    checkpoint->not_captured = g_ptr_array_new_with_free_func(g_free);
    checkpoint->labels = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    checkpoint->epoch = 1;
    return checkpoint;
}

static void
free_secret(char *text)
{
    if (text)
        explicit_bzero(text, strlen(text));
    g_free(text);
}

void
ckpt_checkpoint_free(CkptCheckpoint *checkpoint)
{
    if (!checkpoint)
        return;
    g_free(checkpoint->id);
    g_free(checkpoint->vm_id);
    g_free(checkpoint->vm_name);
    g_free(checkpoint->parent_id);
    g_free(checkpoint->name);
    g_free(checkpoint->description);
    g_free(checkpoint->most_recent_task);
    g_free(checkpoint->qemu_version);
    g_clear_pointer(&checkpoint->disks, g_ptr_array_unref);
    g_clear_pointer(&checkpoint->extras, g_ptr_array_unref);
    g_clear_pointer(&checkpoint->not_captured, g_ptr_array_unref);
    g_free(checkpoint->run_id);
    g_free(checkpoint->reason);
    g_free(checkpoint->ticket);
    g_free(checkpoint->creator);
    g_free(checkpoint->hold);
    g_clear_pointer(&checkpoint->labels, g_hash_table_unref);
    g_free(checkpoint->disabled_reason);
    free_secret(checkpoint->definition);
    free_secret(checkpoint->live_definition);
    g_free(checkpoint);
}

static GHashTable *
copy_map(GHashTable *map)
{
    GHashTable *copy = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    GHashTableIter iter;
    gpointer key, value;

    g_hash_table_iter_init(&iter, map);
    while (g_hash_table_iter_next(&iter, &key, &value))
        g_hash_table_insert(copy, g_strdup(key), g_strdup(value));
    return copy;
}

CkptCheckpoint *
ckpt_checkpoint_copy(const CkptCheckpoint *checkpoint)
{
    CkptCheckpoint *copy;

    if (!checkpoint)
        return NULL;
    copy = g_memdup2(checkpoint, sizeof *checkpoint);
    copy->id = g_strdup(checkpoint->id);
    copy->vm_id = g_strdup(checkpoint->vm_id);
    copy->vm_name = g_strdup(checkpoint->vm_name);
    copy->parent_id = g_strdup(checkpoint->parent_id);
    copy->name = g_strdup(checkpoint->name);
    copy->description = g_strdup(checkpoint->description);
    copy->most_recent_task = g_strdup(checkpoint->most_recent_task);
    copy->qemu_version = g_strdup(checkpoint->qemu_version);
    copy->run_id = g_strdup(checkpoint->run_id);
    copy->reason = g_strdup(checkpoint->reason);
    copy->ticket = g_strdup(checkpoint->ticket);
    copy->creator = g_strdup(checkpoint->creator);
    copy->hold = g_strdup(checkpoint->hold);
    copy->disabled_reason = g_strdup(checkpoint->disabled_reason);
    copy->definition = g_strdup(checkpoint->definition);
    copy->live_definition = g_strdup(checkpoint->live_definition);
    copy->disks = g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_checkpoint_disk_free);
    for (guint i = 0; i < checkpoint->disks->len; i++)
        g_ptr_array_add(copy->disks, ckpt_checkpoint_disk_copy(checkpoint->disks->pdata[i]));
    copy->extras = g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_checkpoint_file_free);
    for (guint i = 0; i < checkpoint->extras->len; i++)
        g_ptr_array_add(copy->extras, ckpt_checkpoint_file_copy(checkpoint->extras->pdata[i]));
    copy->not_captured = g_ptr_array_new_with_free_func(g_free);
    for (guint i = 0; i < checkpoint->not_captured->len; i++)
        g_ptr_array_add(copy->not_captured, g_strdup(checkpoint->not_captured->pdata[i]));
    copy->labels = copy_map(checkpoint->labels);
    return copy;
}

CkptCheckpointFile *
ckpt_checkpoint_find_extra(const CkptCheckpoint *checkpoint, CkptFileKind kind)
{
    for (guint i = 0; i < checkpoint->extras->len; i++) {
        CkptCheckpointFile *file = checkpoint->extras->pdata[i];

        if (file->kind == kind)
            return file;
    }
    return NULL;
}

const char *
ckpt_file_kind_name(CkptFileKind kind)
{
    return kind == CKPT_FILE_MEMORY ? "memory" : "nvram";
}

void
ckpt_checkpoint_file_free(CkptCheckpointFile *file)
{
    if (!file)
        return;
    g_free(file->path);
    g_free(file);
}

CkptCheckpointFile *
ckpt_checkpoint_file_copy(const CkptCheckpointFile *file)
{
    CkptCheckpointFile *copy = g_memdup2(file, sizeof *file);

    copy->path = g_strdup(file->path);
    return copy;
}

CkptCheckpointDisk *
ckpt_checkpoint_find_disk(const CkptCheckpoint *checkpoint, const char *target)
{
    for (guint i = 0; i < checkpoint->disks->len; i++) {
        CkptCheckpointDisk *disk = checkpoint->disks->pdata[i];

        if (g_strcmp0(disk->target, target) == 0)
            return disk;
    }
    return NULL;
}

void
ckpt_checkpoint_disk_free(CkptCheckpointDisk *disk)
{
    if (!disk)
        return;
    g_free(disk->target);
    g_free(disk->sealed_file);
    g_free(disk);
}

CkptCheckpointDisk *
ckpt_checkpoint_disk_copy(const CkptCheckpointDisk *disk)
{
    CkptCheckpointDisk *copy = g_memdup2(disk, sizeof *disk);

    copy->target = g_strdup(disk->target);
    copy->sealed_file = g_strdup(disk->sealed_file);
    return copy;
}
