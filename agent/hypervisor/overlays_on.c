/* Which overlays lie on a file, by the folders alone: also those that no catalogue and no definition names. */
#include "agent/hypervisor/image.h"
#include "agent/hypervisor/qemu.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct {
    GHashTable *paths;      /* set: the files */
    GHashTable *identities; /* set: "device:inode" of those that are there */
    GPtrArray *found;       /* char * */
} Search;

static char *
identity(const struct stat *found)
{
    return S_ISBLK(found->st_mode) ? g_strdup_printf("block %" G_GUINT64_FORMAT, (guint64)found->st_rdev)
                                   : g_strdup_printf("%" G_GUINT64_FORMAT ":%" G_GUINT64_FORMAT,
                                                     (guint64)found->st_dev, (guint64)found->st_ino);
}

/* Under whatever name. */
static gboolean
is_wanted(const Search *search, const char *path)
{
    g_autofree char *key = NULL;
    struct stat found;

    if (g_hash_table_contains(search->paths, path))
        return TRUE;
    if (stat(path, &found) < 0)
        return FALSE;
    key = identity(&found);
    return g_hash_table_contains(search->identities, key);
}

/* FALSE: nobody can tell what it lies on. One that is no qcow2 lies on nothing; one that the agent may not read is
 * not one that it made: those belong to the owner of what they lie on. */
static gboolean
read_backing(const char *path, char **backing, GError **error)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    g_autoptr(CkptQcow2) header = NULL;
    struct stat found;

    *backing = NULL;
    if (fd < 0)
        return errno == ENOENT || errno == ELOOP || errno == EACCES || ckpt_file_error(error, "open", path);
    header = fstat(fd, &found) == 0 && S_ISREG(found.st_mode) ? ckpt_qcow2_read(fd, NULL) : NULL;
    close(fd);
    *backing = header && header->backing ? ckpt_image_resolve(path, header->backing) : NULL;
    return TRUE;
}

static gboolean
look_at(Search *search, const char *path, GError **error)
{
    g_autofree char *backing = NULL;

    if (!ckpt_manifest_is_overlay_name(path) || is_wanted(search, path))
        return TRUE;
    if (!read_backing(path, &backing, error))
        return FALSE;
    if (backing && is_wanted(search, backing))
        g_ptr_array_add(search->found, g_strdup(path));
    return TRUE;
}

static gboolean
scan_folder(Search *search, const char *folder, GError **error)
{
    DIR *entries = opendir(folder);
    gboolean done = TRUE;

    if (!entries)
        return errno == ENOENT || errno == ENOTDIR || ckpt_file_error(error, "look into folder", folder);
    while (done) {
        const struct dirent *entry;
        g_autofree char *path = NULL;

        errno = 0;
        entry = readdir(entries);
        if (!entry) {
            done = errno == 0 || ckpt_file_error(error, "look into folder", folder);
            break;
        }
        path = g_build_filename(folder, entry->d_name, NULL);
        done = look_at(search, path, error);
    }
    closedir(entries);
    return done;
}

static GHashTable *
add_files(Search *search, const CkptQemuOptions *options, const CkptKnownFile *files)
{
    GHashTable *folders = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);

    for (; files && files->path; files++) {
        g_autofree char *beside = ckpt_block_beside(options, files->path, "");
        struct stat found;

        g_hash_table_add(search->paths, g_strdup(files->path));
        g_hash_table_add(folders, g_path_get_dirname(beside));
        if (stat(files->path, &found) == 0)
            g_hash_table_add(search->identities, identity(&found));
    }
    return folders;
}

GPtrArray *
ckpt_overlays_on(const CkptQemuOptions *options, const CkptKnownFile *files, GError **error)
{
    g_autoptr(GHashTable) paths = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    g_autoptr(GHashTable) identities = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    g_autoptr(GPtrArray) found = g_ptr_array_new_with_free_func(g_free);
    Search search = {paths, identities, found};
    g_autoptr(GHashTable) folders = add_files(&search, options, files);
    GHashTableIter iter;
    gpointer folder;

    g_hash_table_iter_init(&iter, folders);
    while (g_hash_table_iter_next(&iter, &folder, NULL))
        if (!scan_folder(&search, folder, error))
            return NULL;
    return g_steal_pointer(&found);
}
