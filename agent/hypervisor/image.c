#include "agent/hypervisor/image.h"

#include "agent/hypervisor/locks.h"
#include "agent/hypervisor/share.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* QEMU's docs/interop/qcow2.txt. */
#define MAGIC 0x514649fbu
#define V2_HEADER_LENGTH 72
#define V3_HEADER_LENGTH 104
#define MIN_CLUSTER_BITS 9
#define MAX_CLUSTER_BITS 21
#define MAX_BACKING_LENGTH 1023
#define MAX_FORMAT_LENGTH 16
#define MAX_L1_BYTES (32u << 20)
#define MAX_SNAPSHOTS 1000u
#define MAX_SNAPSHOT_EXTRA 1024u
#define INCOMPATIBLE_CORRUPT (1u << 1)
#define INCOMPATIBLE_DATA_FILE (1u << 2)
#define EXTENSION_END 0u
#define EXTENSION_BACKING_FORMAT 0xe2792acau
#define EXTENSION_BITMAPS 0x23852875u
#define EXTENSION_DATA_FILE 0x44415441u

typedef struct {
    int fd;
    guint8 bytes[V3_HEADER_LENGTH];
    guint64 cluster_size;
    guint64 extensions; /* offset of the first */
} Reader;

void
ckpt_qcow2_free(CkptQcow2 *header)
{
    if (!header)
        return;
    g_free(header->backing);
    g_free(header->backing_format);
    g_free(header);
}

CkptFormat
ckpt_format_from_name(const char *name)
{
    if (g_strcmp0(name, "raw") == 0)
        return CKPT_FORMAT_RAW;
    if (g_strcmp0(name, "qcow2") == 0)
        return CKPT_FORMAT_QCOW2;
    return (CkptFormat)0;
}

static guint32
get32(const guint8 *bytes)
{
    guint32 value;

    memcpy(&value, bytes, sizeof value);
    return GUINT32_FROM_BE(value);
}

static guint64
get64(const guint8 *bytes)
{
    guint64 value;

    memcpy(&value, bytes, sizeof value);
    return GUINT64_FROM_BE(value);
}

static gboolean
read_at(int fd, gpointer buffer, gsize length, guint64 offset, GError **error)
{
    gsize done = 0;

    while (done < length) {
        gssize got = pread(fd, (char *)buffer + done, length - done, (off_t)(offset + done));

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            ckpt_error_set(error, CKPT_REASON_FILE_FAILED, "read its qcow2 header: %s",
                           g_strerror(errno));
            return FALSE;
        }
        if (got == 0) {
            ckpt_error_set(error, CKPT_REASON_DISK_FORMAT_UNSUPPORTED,
                           "its qcow2 header is cut short");
            return FALSE;
        }
        done += (gsize)got;
    }
    return TRUE;
}

static gboolean
bad(GError **error, const char *what)
{
    ckpt_error_set(error, CKPT_REASON_DISK_FORMAT_UNSUPPORTED, "its qcow2 header is wrong: %s",
                   what);
    return FALSE;
}

static gboolean
read_backing(const Reader *reader, CkptQcow2 *header, GError **error)
{
    guint64 offset = get64(reader->bytes + 8);
    guint32 length = get32(reader->bytes + 16);
    g_autofree char *name = NULL;

    if (offset == 0)
        return TRUE;
    if (length == 0 || length > MAX_BACKING_LENGTH || offset > reader->cluster_size ||
        length > reader->cluster_size - offset)
        return bad(error, "the backing file's name lies outside of it");
    name = g_malloc0(length + 1);
    if (!read_at(reader->fd, name, length, offset, error))
        return FALSE;
    if (strlen(name) != length || !g_utf8_validate(name, length, NULL))
        return bad(error, "the backing file's name is no text");
    header->backing = g_steal_pointer(&name);
    return TRUE;
}

static gboolean
read_extension(const Reader *reader, CkptQcow2 *header, guint32 kind, guint32 length,
               guint64 offset, GError **error)
{
    guint8 count[4];

    switch (kind) {
    case EXTENSION_BACKING_FORMAT:
        if (length == 0 || length > MAX_FORMAT_LENGTH)
            return bad(error, "the backing format's name is too long");
        g_free(header->backing_format);
        header->backing_format = g_malloc0(length + 1);
        return read_at(reader->fd, header->backing_format, length, offset, error);
    case EXTENSION_BITMAPS:
        if (length < sizeof count)
            return bad(error, "the bitmaps extension is too short");
        if (!read_at(reader->fd, count, sizeof count, offset, error))
            return FALSE;
        header->bitmaps = get32(count) > 0;
        return TRUE;
    case EXTENSION_DATA_FILE:
        header->data_file = TRUE;
        return TRUE;
    default:
        return TRUE;
    }
}

static gboolean
read_extensions(const Reader *reader, CkptQcow2 *header, GError **error)
{
    /* They end where the backing file's name begins, or the cluster. */
    guint64 end = get64(reader->bytes + 8) ? get64(reader->bytes + 8) : reader->cluster_size;
    guint64 offset = reader->extensions;

    while (offset + 8 <= end) {
        guint8 head[8];
        guint32 kind, length;

        if (!read_at(reader->fd, head, sizeof head, offset, error))
            return FALSE;
        kind = get32(head);
        length = get32(head + 4);
        if (kind == EXTENSION_END)
            return TRUE;
        offset += sizeof head;
        if (length > end - offset)
            return bad(error, "an extension is longer than it");
        if (!read_extension(reader, header, kind, length, offset, error))
            return FALSE;
        offset += ((guint64)length + 7) & ~7ull;
    }
    return TRUE;
}

/* An image without a single second-level table has no data of its own. */
static gboolean
read_emptiness(const Reader *reader, CkptQcow2 *header, GError **error)
{
    guint64 left = (guint64)get32(reader->bytes + 36) * 8;
    guint64 offset = get64(reader->bytes + 40);
    guint8 buffer[4096];

    if (left > MAX_L1_BYTES || offset > G_MAXINT64 - MAX_L1_BYTES)
        return bad(error, "its first-level table is too large");
    header->empty = TRUE;
    while (left > 0 && header->empty) {
        gsize part = MIN(left, sizeof buffer);

        if (!read_at(reader->fd, buffer, part, offset, error))
            return FALSE;
        for (gsize i = 0; i < part; i++)
            if (buffer[i])
                header->empty = FALSE;
        left -= part;
        offset += part;
    }
    return TRUE;
}

static gboolean
read_fixed(Reader *reader, CkptQcow2 *header, GError **error)
{
    guint32 cluster_bits;

    if (!read_at(reader->fd, reader->bytes, V2_HEADER_LENGTH, 0, error))
        return FALSE;
    if (get32(reader->bytes) != MAGIC) {
        ckpt_error_set(error, CKPT_REASON_DISK_FORMAT_UNSUPPORTED, "it has no qcow2 header");
        return FALSE;
    }
    header->version = get32(reader->bytes + 4);
    if (header->version != 2 && header->version != 3)
        return bad(error, "its version is neither 2 nor 3");
    cluster_bits = get32(reader->bytes + 20);
    if (cluster_bits < MIN_CLUSTER_BITS || cluster_bits > MAX_CLUSTER_BITS)
        return bad(error, "its cluster size is out of range");
    reader->cluster_size = header->cluster_size = 1ull << cluster_bits;
    reader->extensions = V2_HEADER_LENGTH;
    header->virtual_size = get64(reader->bytes + 24);
    header->encrypted = get32(reader->bytes + 32) != 0;
    header->snapshots = get32(reader->bytes + 60);
    if (header->version == 3) {
        guint64 incompatible;

        if (!read_at(reader->fd, reader->bytes, V3_HEADER_LENGTH, 0, error))
            return FALSE;
        incompatible = get64(reader->bytes + 72);
        header->corrupt = (incompatible & INCOMPATIBLE_CORRUPT) != 0;
        header->data_file = (incompatible & INCOMPATIBLE_DATA_FILE) != 0;
        reader->extensions = get32(reader->bytes + 100);
        if (reader->extensions < V3_HEADER_LENGTH || reader->extensions > reader->cluster_size)
            return bad(error, "its length is out of range");
    }
    return TRUE;
}

CkptQcow2 *
ckpt_qcow2_read(int fd, GError **error)
{
    g_autoptr(CkptQcow2) header = g_new0(CkptQcow2, 1);
    Reader reader = {.fd = fd};

    if (!read_fixed(&reader, header, error) || !read_backing(&reader, header, error) ||
        !read_extensions(&reader, header, error) || !read_emptiness(&reader, header, error))
        return NULL;
    return g_steal_pointer(&header);
}

gboolean
ckpt_qcow2_read_backing(int fd, char **backing, CkptFormat *format, GError **error)
{
    g_autoptr(CkptQcow2) header = g_new0(CkptQcow2, 1);
    Reader reader = {.fd = fd};
    gboolean done = read_fixed(&reader, header, error) && read_backing(&reader, header, error);

    if (done && format)
        *format = read_extensions(&reader, header, NULL) ? ckpt_format_from_name(header->backing_format) : 0;
    *backing = done ? g_steal_pointer(&header->backing) : NULL;
    return done;
}

/* ---- The table of internal snapshots ---- */

static void
snapshot_free(gpointer data)
{
    CkptQcow2Snapshot *snapshot = data;

    g_free(snapshot->name);
    g_free(snapshot);
}

/* One entry; *offset is moved behind it. */
static CkptQcow2Snapshot *
read_snapshot(int fd, guint64 *offset, GError **error)
{
    guint8 fixed[40];
    g_autofree char *name = NULL;
    CkptQcow2Snapshot *snapshot;
    guint id_size, name_size;
    guint32 extra;

    if (!read_at(fd, fixed, sizeof fixed, *offset, error))
        return NULL;
    id_size = (guint)fixed[12] << 8 | fixed[13];
    name_size = (guint)fixed[14] << 8 | fixed[15];
    extra = get32(fixed + 36);
    if (extra > MAX_SNAPSHOT_EXTRA) {
        bad(error, "an entry of its snapshot table is too long");
        return NULL;
    }
    name = g_malloc0((gsize)name_size + 1);
    if (!read_at(fd, name, name_size, *offset + sizeof fixed + extra + id_size, error))
        return NULL;
    *offset += (sizeof fixed + extra + id_size + name_size + 7) & ~7ull;
    snapshot = g_new0(CkptQcow2Snapshot, 1);
    snapshot->name = g_utf8_make_valid(name, -1);
    snapshot->created_us = (gint64)get32(fixed + 16) * G_USEC_PER_SEC + get32(fixed + 20) / 1000;
    snapshot->memory = get32(fixed + 32) > 0;
    return snapshot;
}

GPtrArray *
ckpt_qcow2_snapshots(int fd, GError **error)
{
    g_autoptr(GPtrArray) table = g_ptr_array_new_with_free_func(snapshot_free);
    guint8 bytes[V2_HEADER_LENGTH];
    guint64 offset;
    guint32 count;

    if (!read_at(fd, bytes, sizeof bytes, 0, error))
        return NULL;
    count = MIN(get32(bytes + 60), MAX_SNAPSHOTS);
    offset = get64(bytes + 64);
    if (offset > G_MAXINT64 / 2) {
        bad(error, "its snapshot table lies beyond every file");
        return NULL;
    }
    for (guint i = 0; i < count; i++) {
        CkptQcow2Snapshot *snapshot = read_snapshot(fd, &offset, error);

        if (!snapshot)
            return NULL;
        g_ptr_array_add(table, snapshot);
    }
    return g_steal_pointer(&table);
}

char *
ckpt_image_resolve(const char *path, const char *backing)
{
    const char *colon, *slash;
    g_autofree char *folder = NULL;

    if (*backing == '/')
        return g_strdup(backing);
    /* As QEMU's path_has_protocol(): a colon before the first slash. */
    colon = strchr(backing, ':');
    slash = strchr(backing, '/');
    if (colon && (!slash || colon < slash))
        return NULL;
    folder = g_path_get_dirname(path);
    return g_build_filename(folder, backing, NULL);
}

gboolean
ckpt_image_same(const char *a, const char *b)
{
    struct stat first, second;

    if (g_strcmp0(a, b) == 0)
        return TRUE;
    return a && b && stat(a, &first) == 0 && stat(b, &second) == 0 &&
           first.st_dev == second.st_dev && first.st_ino == second.st_ino;
}

static void
fill_stat(CkptLayer *layer, const struct stat *found)
{
    layer->exists = TRUE;
    layer->allocated = (guint64)found->st_blocks * 512;
    layer->mode = found->st_mode & 07777;
    layer->uid = found->st_uid;
    layer->gid = found->st_gid;
    layer->id.device = found->st_dev;
    layer->id.inode = found->st_ino;
    layer->id.size = (guint64)found->st_size;
    layer->id.mtime_ns =
        (gint64)found->st_mtim.tv_sec * 1000000000 + (gint64)found->st_mtim.tv_nsec;
}

static gboolean
fill_header(CkptLayer *layer, int fd, CkptQcow2 **out, GError **fault)
{
    g_autoptr(CkptQcow2) header = ckpt_qcow2_read(fd, fault);

    if (!header)
        return FALSE;
    layer->virtual_size = header->virtual_size;
    layer->bitmaps = header->bitmaps;
    layer->snapshots = header->snapshots > 0;
    layer->encrypted = header->encrypted;
    layer->backing_format = ckpt_format_from_name(header->backing_format);
    if (header->backing)
        layer->backing = ckpt_image_resolve(layer->path, header->backing);
    if (out)
        *out = g_steal_pointer(&header);
    return TRUE;
}

/* Neither stat(2) nor every file system has it (NFS before 4.2, tmpfs before Linux 6.6). */
static void
fill_birth(CkptLayer *layer, int fd)
{
    struct statx found;

    if (statx(fd, "", AT_EMPTY_PATH, STATX_BTIME, &found) == 0 && found.stx_mask & STATX_BTIME)
        layer->born_us =
            (gint64)found.stx_btime.tv_sec * G_USEC_PER_SEC + found.stx_btime.tv_nsec / 1000;
}

static void
fill_block(CkptLayer *layer, int fd, const struct stat *found)
{
    off_t size = lseek(fd, 0, SEEK_END);

    layer->block = TRUE;
    layer->allocated = (guint64)MAX(size, 0);
    ckpt_block_identify(layer->path, found, layer->allocated, &layer->id);
}

static gboolean
fill_open(CkptLayer *layer, int fd, CkptQcow2 **header, GError **fault)
{
    struct stat found;
    struct statvfs space;

    if (fstat(fd, &found) < 0) {
        ckpt_error_set(fault, CKPT_REASON_FILE_FAILED, "look at it: %s", g_strerror(errno));
        return FALSE;
    }
    fill_stat(layer, &found);
    if (!S_ISREG(found.st_mode) && !S_ISBLK(found.st_mode)) {
        ckpt_error_set(fault, CKPT_REASON_DISK_TYPE_UNSUPPORTED,
                       "it is neither a regular file nor a block device");
        return FALSE;
    }
    if (S_ISBLK(found.st_mode)) {
        fill_block(layer, fd, &found);
    } else if (fstatvfs(fd, &space) == 0) {
        fill_birth(layer, fd);
        layer->fs_available = (guint64)space.f_bavail * space.f_frsize;
        layer->fs_size = (guint64)space.f_blocks * space.f_frsize;
    }
    layer->unguarded = !ckpt_share_tells(fd);
    if (!ckpt_locks_probe(fd, &layer->read_locked, &layer->write_locked, fault))
        return FALSE;
    switch (layer->format) {
    case CKPT_FORMAT_QCOW2:
        return fill_header(layer, fd, header, fault);
    case CKPT_FORMAT_RAW:
        layer->virtual_size = layer->id.size; /* of a block device, too */
        return TRUE;
    }
    return TRUE;
}

/* ---- Block devices ---- */

gboolean
ckpt_is_block(const char *path)
{
    struct stat found;

    return path && stat(path, &found) == 0 && S_ISBLK(found.st_mode);
}

static char *
own_name(const char *path, const struct stat *node)
{
    static const char *const names[] = {"dm/uuid", "wwid", "device/wwid", "loop/backing_file"};
    char *text = NULL, *real;

    for (gsize i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *file = g_strdup_printf("/sys/dev/block/%u:%u/%s", major(node->st_rdev),
                                                minor(node->st_rdev), names[i]);

        if (g_file_get_contents(file, &text, NULL, NULL) && *text)
            return text;
        g_clear_pointer(&text, g_free);
    }
    real = realpath(path, NULL);
    text = g_strdup(real ? real : path);
    free(real);
    return text;
}

void
ckpt_block_identify(const char *path, const struct stat *node, guint64 size, CkptFileId *id)
{
    g_autofree char *name = own_name(path, node);
    guint64 hash = 14695981039346656037u; /* FNV-1a */

    for (const char *at = name; *at; at++)
        hash = (hash ^ (guint8)*at) * 1099511628211u;
    *id = (CkptFileId){.device = CKPT_FILE_ID_BLOCK, .inode = hash | 1, .size = size, .mtime_ns = 0};
}

/* It is written beside the name that the definition has; the file may have another. */
static gboolean
has_manifest(const char *path)
{
    char *real = realpath(path, NULL);
    g_autofree char *named = g_strconcat(path, CKPT_MANIFEST_ENDING, NULL);
    g_autofree char *manifest = real ? g_strconcat(real, CKPT_MANIFEST_ENDING, NULL) : NULL;

    free(real);
    return g_file_test(named, G_FILE_TEST_EXISTS) ||
           (manifest && g_file_test(manifest, G_FILE_TEST_EXISTS));
}

static void
fill_owner(CkptLayer *layer)
{
    g_autofree char *path = g_strconcat(layer->path, CKPT_MANIFEST_ENDING, NULL);
    g_autoptr(CkptManifest) head = ckpt_manifest_head_beside(layer->path);

    layer->manifest_unread = !head && !ckpt_manifest_is_first(path);
    if (!head)
        return;
    layer->owner_agent = g_steal_pointer(&head->agent);
    layer->owner_host = g_steal_pointer(&head->host_name);
    layer->owner_vm = g_steal_pointer(&head->domain);
}

/* The outermost folder on the way to `path` that is closed to us; NULL if none is. */
static char *
closed_folder(const char *path)
{
    g_autofree char *folder = g_path_get_dirname(path);

    for (char *end = folder; *end; end++) {
        g_autofree char *part = NULL;

        if (end[1] != '/' && end[1] != '\0')
            continue;
        part = g_strndup(folder, (gsize)(end + 1 - folder));
        if (faccessat(AT_FDCWD, part, X_OK, AT_EACCESS) < 0 && errno == EACCES)
            return g_steal_pointer(&part);
    }
    return NULL;
}

static void
not_opened(CkptLayer *layer, int cause, GError **fault)
{
    g_autofree char *folder = cause == EACCES ? closed_folder(layer->path) : NULL;
    struct stat found;

    if (stat(layer->path, &found) == 0)
        fill_stat(layer, &found);
    if (cause == EACCES)
        ckpt_error_set(fault, CKPT_REASON_FILE_FAILED,
                       "file %s: open it: %s%s%s: the agent's user (uid %u) must be let in, or be given "
                       "CAP_DAC_OVERRIDE as its systemd unit does",
                       layer->path, g_strerror(cause), folder ? ", by the folder " : "",
                       folder ? folder : "", (guint)geteuid());
    else
        ckpt_error_set(fault,
                       layer->exists ? CKPT_REASON_FILE_FAILED : CKPT_REASON_DISK_FILE_MISSING,
                       "file %s: open it: %s", layer->path, g_strerror(cause));
    ckpt_error_add(fault, CKPT_META_FILE, layer->path);
}

CkptLayer *
ckpt_layer_look(const char *path, CkptFormat format, CkptQcow2 **header, GError **fault)
{
    CkptLayer *layer = g_new0(CkptLayer, 1);
    gboolean clean;
    int fd;

    layer->path = g_strdup(path);
    layer->format = format;
    /* Not to hang on a FIFO that somebody put there. */
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0) {
        not_opened(layer, errno, fault);
        return layer;
    }
    clean = fill_open(layer, fd, header, fault);
    close(fd);
    layer->manifest = has_manifest(path);
    if (layer->manifest)
        fill_owner(layer);
    if (!clean) {
        g_prefix_error(fault, "file %s: ", path);
        ckpt_error_add(fault, CKPT_META_FILE, path);
    }
    return layer;
}
