/* Manifests read back, from folders in which others may write too. */
#include "agent/hypervisor/image.h"
#include "agent/hypervisor/qemu.h"
#include "agent/model/json.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FIRST "{\"vmcheckpoint_manifest\":1"

static gboolean G_GNUC_PRINTF(2, 3)
refuse(GError **error, const char *format, ...)
{
    g_autofree char *message = NULL;
    va_list args;

    va_start(args, format);
    message = g_strdup_vprintf(format, args);
    va_end(args);
    ckpt_error_set(error, CKPT_REASON_VALIDATION_FAILED, "%s", message);
    return FALSE;
}

/* Only root, or who we are, can have written it; what others may write proves nothing. */
static gboolean
check_stat(const struct stat *found, GError **error)
{
    if (!S_ISREG(found->st_mode))
        return refuse(error, "it is no regular file");
    if (found->st_uid != 0 && found->st_uid != geteuid())
        return refuse(error, "it belongs to uid %u, who is neither root nor the agent",
                      (guint)found->st_uid);
    if (found->st_mode & 022)
        return refuse(error, "others than its owner may write to it (mode %04o)",
                      (guint)(found->st_mode & 07777));
    if (found->st_size <= 0 || found->st_size > CKPT_MANIFEST_MAX)
        return refuse(error, "it has %" G_GINT64_FORMAT " bytes", (gint64)found->st_size);
    return TRUE;
}

/* At most `most` bytes of it. NULL without a failure of ours: what is wrong with it is the error. */
static char *
read_text(int fd, gsize most, GError **error)
{
    g_autofree char *text = g_malloc(most + 1);
    gsize length = 0;

    while (length < most) {
        gssize got = read(fd, text + length, most - length);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            refuse(error, "it cannot be read: %s", g_strerror(errno));
            return NULL;
        }
        if (got == 0)
            break;
        length += (gsize)got;
    }
    text[length] = '\0';
    if (memchr(text, '\0', length)) {
        refuse(error, "there are zero bytes in it");
        return NULL;
    }
    return g_steal_pointer(&text);
}

static char *
open_and_read(const char *path, gsize most, GError **error)
{
    struct stat found;
    char *text = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);

    if (fd < 0) {
        refuse(error, "it cannot be opened: %s", g_strerror(errno));
        return NULL;
    }
    if (fstat(fd, &found) < 0)
        refuse(error, "it cannot be looked at: %s", g_strerror(errno));
    else if (check_stat(&found, error))
        text = read_text(fd, MIN(most, (gsize)found.st_size), error);
    close(fd);
    return text;
}

static gboolean
check_definition(const CkptManifest *manifest, GError **error)
{
    g_autoptr(GError) why = NULL;
    g_autoptr(CkptXmlDomain) domain = ckpt_xml_domain_parse(manifest->row->definition, &why);

    if (!domain)
        return refuse(error, "its definition cannot be read: %s", why->message);
    if (!domain->uuid || g_ascii_strcasecmp(domain->uuid, manifest->domain) != 0)
        return refuse(error, "its definition is that of another VM");
    return TRUE;
}

/* The file whose manifest this is: the one beside which it lies, or the block device among its disks that has
 * its manifest in this place. */
static char *
find_file(const CkptQemuOptions *options, const char *path, const char *text)
{
    g_autoptr(CkptManifest) told =
        options->block_overlay_folder ? ckpt_manifest_from_json(text, NULL) : NULL;

    for (guint i = 0; told && told->row && i < told->row->disks->len; i++) {
        const CkptCheckpointDisk *disk = g_ptr_array_index(told->row->disks, i);
        g_autofree char *own =
            ckpt_is_block(disk->sealed_file)
                ? ckpt_block_beside(options, disk->sealed_file, CKPT_MANIFEST_ENDING)
                : NULL;

        if (own && ckpt_image_same(own, path))
            return g_strdup(disk->sealed_file);
    }
    return g_strndup(path, strlen(path) - strlen(CKPT_MANIFEST_ENDING));
}

static CkptManifest *
read_manifest(const CkptQemuOptions *options, const char *path, GError **error)
{
    g_autofree char *text = open_and_read(path, CKPT_MANIFEST_MAX, error);
    g_autofree char *file = text ? find_file(options, path, text) : NULL;
    g_autoptr(CkptManifest) manifest = text ? ckpt_manifest_parse(text, file, error) : NULL;

    if (text)
        explicit_bzero(text, strlen(text));
    if (!manifest || !check_definition(manifest, error))
        return NULL;
    return g_steal_pointer(&manifest);
}

char *
ckpt_manifest_read(const char *path, GError **error)
{
    return open_and_read(path, CKPT_MANIFEST_MAX, error);
}

gboolean
ckpt_manifest_is_first(const char *path)
{
    g_autofree char *text = open_and_read(path, strlen(FIRST), NULL);

    return g_strcmp0(text, FIRST) == 0;
}

CkptManifest *
ckpt_manifest_read_head(const char *path, const char *file, GError **error)
{
    g_autofree char *text = open_and_read(path, CKPT_MANIFEST_HEAD, error);
    CkptManifest *head = text ? ckpt_manifest_parse_head(text, file) : NULL;

    if (text && !head)
        refuse(error, "it is none, or of a later version of the agent");
    return head;
}

CkptManifest *
ckpt_manifest_head_beside(const char *file)
{
    g_autofree char *path = g_strconcat(file, CKPT_MANIFEST_ENDING, NULL);
    CkptManifest *head = ckpt_manifest_read_head(path, file, NULL);
    char *real = head ? NULL : realpath(file, NULL);

    if (real && !g_str_equal(real, file)) { /* the file by another name */
        g_autofree char *beside = g_strconcat(real, CKPT_MANIFEST_ENDING, NULL);

        ckpt_manifest_free(head);
        head = ckpt_manifest_read_head(beside, file, NULL);
    }
    free(real);
    return head;
}

CkptFormat
ckpt_manifest_format_beside(const char *file)
{
    g_autofree char *path = g_strconcat(file, CKPT_MANIFEST_ENDING, NULL);
    g_autofree char *text = open_and_read(path, CKPT_MANIFEST_MAX, NULL);
    g_autoptr(CkptManifest) manifest = text ? ckpt_manifest_parse(text, file, NULL) : NULL;

    if (text)
        explicit_bzero(text, strlen(text));
    for (guint i = 0; manifest && i < manifest->row->disks->len; i++) {
        const CkptCheckpointDisk *disk = g_ptr_array_index(manifest->row->disks, i);

        if (g_str_equal(disk->sealed_file, file))
            return disk->format;
    }
    return (CkptFormat)0;
}

CkptManifest *
ckpt_manifest_head_of(const CkptQemuOptions *options, const char *file)
{
    g_autofree char *path = NULL;

    if (!options->block_overlay_folder || !ckpt_is_block(file))
        return ckpt_manifest_head_beside(file);
    path = ckpt_block_beside(options, file, CKPT_MANIFEST_ENDING);
    return ckpt_manifest_read_head(path, file, NULL);
}

static void
add_file(const CkptQemuOptions *options, const char *folder, const char *name, CkptFoundFiles *found)
{
    g_autofree char *path = g_build_filename(folder, name, NULL);
    g_autoptr(GError) error = NULL;
    CkptManifest *manifest;

    if (ckpt_manifest_is_overlay_name(path))
        g_ptr_array_add(found->overlays, g_strdup(path));
    if (!g_str_has_suffix(name, CKPT_MANIFEST_ENDING) || g_str_equal(name, CKPT_MANIFEST_ENDING))
        return;
    manifest = read_manifest(options, path, &error);
    if (manifest)
        g_ptr_array_add(found->manifests, manifest);
    else
        g_ptr_array_add(found->notes, g_strdup_printf("manifest %s: %s", path, error->message));
}

static gboolean
scan_folder(const CkptQemuOptions *options, const char *folder, CkptFoundFiles *found, GError **error)
{
    DIR *entries = opendir(folder);

    if (!entries && (errno == ENOENT || errno == ENOTDIR))
        return TRUE;
    if (!entries)
        return ckpt_file_error(error, "look into folder", folder);
    for (;;) {
        const struct dirent *entry;

        errno = 0;
        entry = readdir(entries);
        if (!entry)
            break;
        add_file(options, folder, entry->d_name, found);
    }
    if (errno != 0) {
        ckpt_file_error(error, "look into folder", folder);
        closedir(entries);
        return FALSE;
    }
    closedir(entries);
    return TRUE;
}

CkptFoundFiles *
ckpt_manifests_find(const CkptQemuOptions *options, const char *const *folders, GError **error)
{
    g_autoptr(CkptFoundFiles) found = ckpt_found_files_new();

    for (; *folders; folders++)
        if (!scan_folder(options, *folders, found, error))
            return NULL;
    return g_steal_pointer(&found);
}
