#include "agent/hypervisor/below.h"

#include "agent/hypervisor/image.h"
#include "agent/model/json_text.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_DEPTH 200

/* DOUBTFUL: nothing, as far as can be seen; it may have been seen better before. */
typedef enum { NEXT_NONE, NEXT_DOUBTFUL, NEXT_UNREAD, NEXT_FOUND } Next;

/* ---- Names ---- */

static const char *
text_of(JsonObject *object, const char *name)
{
    JsonNode *node = json_object_get_member(object, name);

    return node && JSON_NODE_HOLDS_VALUE(node) ? json_node_get_string(node) : NULL;
}

/* As libvirt and QEMU write it where a name alone would not do: {"driver":"qcow2","file":{"filename":…}}, or with
 * dots for what is nested. What else is in there (backing files, data files) is not what the header is about. */
static char *
name_in_json(const char *text)
{
    static const char *const names[] = {"filename", "file.filename", "file.file.filename"};
    g_autoptr(JsonNode) root = ckpt_json_text_parse(text, NULL);
    JsonObject *object = root && JSON_NODE_HOLDS_OBJECT(root) ? json_node_get_object(root) : NULL;
    const char *found = NULL;

    while (object && !found) {
        JsonNode *inner = json_object_get_member(object, "file");

        for (guint i = 0; i < G_N_ELEMENTS(names) && !found; i++)
            found = text_of(object, names[i]);
        object = inner && JSON_NODE_HOLDS_OBJECT(inner) ? json_node_get_object(inner) : NULL;
    }
    return g_strdup(found);
}

static char *
beside(const char *path, const char *name)
{
    g_autofree char *folder = g_path_get_dirname(path);

    return *name == '/' ? g_strdup(name) : g_build_filename(folder, name, NULL);
}

/* NULL: it is no file. */
static char *
resolve(const char *path, const char *name)
{
    g_autofree char *inner = NULL;

    if (g_str_has_prefix(name, "file:"))
        return beside(path, name + strlen("file:"));
    if (!g_str_has_prefix(name, "json:"))
        return ckpt_image_resolve(path, name);
    inner = name_in_json(name + strlen("json:"));
    return inner ? beside(path, inner) : NULL;
}

/* ---- One file ---- */

static Next
read_open(int fd, const char *path, char **below, CkptFormat *format)
{
    g_autoptr(GError) why = NULL;
    g_autofree char *name = NULL;
    struct stat found;

    if (fstat(fd, &found) < 0)
        return NEXT_UNREAD;
    if (!S_ISREG(found.st_mode) && !S_ISBLK(found.st_mode))
        return NEXT_NONE;
    if (!ckpt_qcow2_read_backing(fd, &name, format, &why))
        return ckpt_error_reason(why) == CKPT_REASON_DISK_FORMAT_UNSUPPORTED ? NEXT_DOUBTFUL : NEXT_UNREAD;
    *below = name ? resolve(path, name) : NULL;
    return *below ? NEXT_FOUND : NEXT_NONE;
}

/* One that the agent may not read is another user's, as in overlays_on.c; a socket is no image, and what no QEMU
 * can open either is nobody's. */
static Next
read_next(const char *path, char **below, CkptFormat *format)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    Next next;

    if (fd < 0 && (errno == EACCES || errno == ENXIO || errno == ELOOP || errno == ENAMETOOLONG))
        return NEXT_DOUBTFUL;
    if (fd < 0)
        return NEXT_UNREAD;
    next = read_open(fd, path, below, format);
    close(fd);
    return next;
}

/* ---- The chain ---- */

static void
file_free(gpointer data)
{
    CkptBelowFile *file = data;

    g_free(file->path);
    g_free(file);
}

GPtrArray *
ckpt_below_list_new(void)
{
    return g_ptr_array_new_with_free_func(file_free);
}

void
ckpt_below_list_add(GPtrArray *list, const CkptBelowFile *file)
{
    CkptBelowFile *copy;

    for (guint i = 0; i < list->len; i++)
        if (g_str_equal(((const CkptBelowFile *)list->pdata[i])->path, file->path))
            return;
    copy = g_memdup2(file, sizeof *file);
    copy->path = g_strdup(file->path);
    g_ptr_array_add(list, copy);
}

static void
identify(CkptBelowFile *file)
{
    char *real = realpath(file->path, NULL);
    struct stat found;

    if (real)
        ckpt_set_str(&file->path, real);
    free(real);
    if (stat(file->path, &found) == 0 && S_ISREG(found.st_mode)) {
        file->device = found.st_dev;
        file->inode = found.st_ino;
    }
}

GPtrArray *
ckpt_below_read(const char *top, CkptFormat format, char **unread, gboolean *doubtful)
{
    GPtrArray *list = ckpt_below_list_new();
    const char *path = top;
    Next next = NEXT_FOUND;

    *unread = NULL;
    /* A format that nobody says may be qcow2; a raw file is not looked into, its guest writes what it likes. */
    while (next == NEXT_FOUND && format != CKPT_FORMAT_RAW && list->len < MAX_DEPTH) {
        gboolean known = format != 0;
        CkptBelowFile *file = g_new0(CkptBelowFile, 1);

        next = read_next(path, &file->path, &file->format);
        if (next == NEXT_DOUBTFUL && !known)
            next = NEXT_NONE;
        if (next == NEXT_UNREAD)
            *unread = g_strdup(path);
        if (next != NEXT_FOUND) {
            file_free(file);
            break;
        }
        identify(file);
        g_ptr_array_add(list, file);
        path = file->path;
        format = file->format;
    }
    *doubtful = next == NEXT_DOUBTFUL;
    return list;
}
