#include "agent/core/filesystems.h"

#include <gio/gunixmounts.h>
#include <string.h>
#include <sys/statvfs.h>

void
ckpt_file_system_free(CkptFileSystem *file_system)
{
    if (!file_system)
        return;
    g_free(file_system->mount_point);
    g_free(file_system->type);
    g_free(file_system);
}

static CkptFileSystem *
look(const char *folder)
{
    g_autoptr(GUnixMountEntry) mount = g_unix_mount_for(folder, NULL);
    CkptFileSystem *found;
    struct statvfs info;

    if (statvfs(folder, &info) != 0)
        return NULL;
    found = g_new0(CkptFileSystem, 1);
    found->mount_point = g_strdup(mount ? g_unix_mount_get_mount_path(mount) : folder);
    found->type = g_strdup(mount ? g_unix_mount_get_fs_type(mount) : "");
    found->size = (guint64)info.f_blocks * info.f_frsize;
    found->available = (guint64)info.f_bavail * info.f_frsize;
    return found;
}

static int
compare(gconstpointer a, gconstpointer b)
{
    return strcmp((*(CkptFileSystem *const *)a)->mount_point,
                  (*(CkptFileSystem *const *)b)->mount_point);
}

static gboolean
has_mount_point(gconstpointer item, gconstpointer mount_point)
{
    return g_str_equal(((const CkptFileSystem *)item)->mount_point, mount_point);
}

GPtrArray *
ckpt_file_systems_list(CkptDriver *driver, GError **error)
{
    g_autoptr(GPtrArray) files = driver->image_files ? driver->image_files(driver, FALSE, error)
                                                     : g_ptr_array_new();
    g_autoptr(GHashTable) folders = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    GPtrArray *list;

    if (!files)
        return NULL;
    list = g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_file_system_free);
    for (guint i = 0; i < files->len; i++) {
        char *folder = g_path_get_dirname(g_ptr_array_index(files, i));
        CkptFileSystem *found = g_hash_table_add(folders, folder) ? look(folder) : NULL;

        if (found && !g_ptr_array_find_with_equal_func(list, found->mount_point,
                                                       has_mount_point, NULL))
            g_ptr_array_add(list, found);
        else
            ckpt_file_system_free(found);
    }
    g_ptr_array_sort(list, compare);
    return list;
}
