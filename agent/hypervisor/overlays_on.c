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

/* There is no such file, or it is another user's: one that the agent may not read is not one that it made, and
 * those belong to the owner of what they lie on. Whatever else went wrong says nothing of the file. */
static gboolean
is_nothing_of_ours(int cause)
{
    return cause == ENOENT || cause == ENOTDIR || cause == ELOOP || cause == ENAMETOOLONG || cause == EACCES;
}

/* Under whatever name. */
static gboolean
find_wanted(const Search *search, const char *path, gboolean *wanted, GError **error)
{
    g_autofree char *key = NULL;
    struct stat found;

    *wanted = g_hash_table_contains(search->paths, path);
    if (*wanted)
        return TRUE;
    if (stat(path, &found) < 0)
        return is_nothing_of_ours(errno) || ckpt_file_error(error, "look at", path);
    key = identity(&found);
    *wanted = g_hash_table_contains(search->identities, key);
    return TRUE;
}

/* One that is no qcow2 lies on nothing. */
static gboolean
read_header(int fd, const char *path, char **backing, GError **error)
{
    g_autoptr(GError) why = NULL;
    g_autofree char *name = NULL;
    struct stat found;

    if (fstat(fd, &found) < 0)
        return ckpt_file_error(error, "look at", path);
    if (!S_ISREG(found.st_mode))
        return TRUE;
    if (ckpt_qcow2_read_backing(fd, &name, NULL, &why)) {
        *backing = name ? ckpt_image_resolve(path, name) : NULL;
        return TRUE;
    }
    if (ckpt_error_reason(why) == CKPT_REASON_DISK_FORMAT_UNSUPPORTED)
        return TRUE;
    g_propagate_prefixed_error(error, g_steal_pointer(&why), "%s: ", path);
    ckpt_error_add(error, CKPT_META_FILE, path);
    return FALSE;
}

/* FALSE: nobody can tell what it lies on. */
static gboolean
read_backing(const char *path, char **backing, GError **error)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    gboolean done;

    *backing = NULL;
    if (fd < 0) /* ENXIO: a socket */
        return errno == ENXIO || is_nothing_of_ours(errno) || ckpt_file_error(error, "open", path);
    done = read_header(fd, path, backing, error);
    close(fd);
    return done;
}

/* What a guest wrote into a raw file is no header (hazard A28). */
static gboolean
is_raw(const char *path)
{
    return !ckpt_manifest_is_overlay_name(path) && ckpt_manifest_format_beside(path) == CKPT_FORMAT_RAW;
}

static gboolean
look_at(Search *search, const char *path, GError **error)
{
    g_autofree char *backing = NULL;
    gboolean wanted;

    if (!find_wanted(search, path, &wanted, error))
        return FALSE;
    if (wanted)
        return TRUE;
    if (!read_backing(path, &backing, error) || (backing && !find_wanted(search, backing, &wanted, error)))
        return FALSE;
    if (wanted && !is_raw(path))
        g_ptr_array_add(search->found, g_strdup(path));
    return TRUE;
}

/* Some VM's checkpoint has it, here or on another host: a clone's disk has a name of its own. */
static gboolean
is_sealed(GHashTable *names, const char *name)
{
    g_autofree char *manifest = g_strconcat(name, CKPT_MANIFEST_ENDING, NULL);

    return g_hash_table_contains(names, manifest);
}

static gboolean
read_names(DIR *entries, const char *folder, GHashTable *names, GError **error)
{
    const struct dirent *entry;

    do {
        errno = 0;
        entry = readdir(entries);
        if (entry)
            g_hash_table_add(names, g_strdup(entry->d_name));
    } while (entry);
    return errno == 0 || ckpt_file_error(error, "look into folder", folder);
}

static gboolean
scan_folder(Search *search, const char *folder, GError **error)
{
    g_autoptr(GHashTable) names = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    DIR *entries = opendir(folder);
    GHashTableIter iter;
    gpointer name;
    gboolean done;

    if (!entries)
        return errno == ENOENT || errno == ENOTDIR || ckpt_file_error(error, "look into folder", folder);
    done = read_names(entries, folder, names, error);
    closedir(entries);
    g_hash_table_iter_init(&iter, names);
    while (done && g_hash_table_iter_next(&iter, &name, NULL)) {
        g_autofree char *path = g_build_filename(folder, name, NULL);

        if (ckpt_manifest_is_overlay_name(path) || is_sealed(names, name))
            done = look_at(search, path, error);
    }
    return done;
}

/* And their folders. */
static gboolean
add_files(Search *search, const CkptQemuOptions *options, const CkptKnownFile *files, GHashTable *folders,
          GError **error)
{
    for (; files && files->path; files++) {
        g_autofree char *beside = ckpt_block_beside(options, files->path, "");
        struct stat found;

        g_hash_table_add(search->paths, g_strdup(files->path));
        g_hash_table_add(folders, g_path_get_dirname(beside));
        if (stat(files->path, &found) == 0)
            g_hash_table_add(search->identities, identity(&found));
        else if (!is_nothing_of_ours(errno))
            return ckpt_file_error(error, "look at", files->path);
    }
    return TRUE;
}

static gboolean
scan(Search *search, const CkptQemuOptions *options, const CkptKnownFile *files, GError **error)
{
    g_autoptr(GHashTable) folders = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    gboolean done = add_files(search, options, files, folders, error);
    GHashTableIter iter;
    gpointer folder;

    g_hash_table_iter_init(&iter, folders);
    while (done && g_hash_table_iter_next(&iter, &folder, NULL))
        done = scan_folder(search, folder, error);
    return done;
}

GPtrArray *
ckpt_overlays_on(const CkptQemuOptions *options, const CkptKnownFile *files, GError **error)
{
    g_autoptr(GHashTable) paths = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    g_autoptr(GHashTable) identities = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    g_autoptr(GPtrArray) found = g_ptr_array_new_with_free_func(g_free);
    Search search = {paths, identities, found};

    if (scan(&search, options, files, error))
        return g_steal_pointer(&found);
    g_prefix_error(error, "what lies on the VM's files cannot be told, and may be harmed (see to the storage, or "
                          "move away what nobody needs, then repeat the request): ");
    return NULL;
}
