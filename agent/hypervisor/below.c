#include "agent/hypervisor/below.h"

#include "agent/hypervisor/image.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define MAX_DEPTH 200

typedef enum { NEXT_NONE, NEXT_FOUND, NEXT_UNREAD } Next;

/* As libvirt and QEMU write it where a name alone would not do, nested or with dots; the first is the file's. */
static char *
name_in_json(const char *text)
{
    g_autoptr(GRegex) regex =
        g_regex_new("\"(?:[a-z-]+\\.)*filename\"\\s*:\\s*\"((?:[^\"\\\\]|\\\\.)*)\"", 0, 0, NULL);
    g_autoptr(GMatchInfo) match = NULL;
    g_autofree char *quoted = NULL;

    if (!regex || !g_regex_match(regex, text, 0, &match))
        return NULL;
    quoted = g_match_info_fetch(match, 1);
    return g_strcompress(quoted);
}

static char *
resolve(const char *path, const char *name)
{
    g_autofree char *inner = g_str_has_prefix(name, "json:") ? name_in_json(name) : NULL;

    if (inner)
        return resolve(path, inner);
    if (g_str_has_prefix(name, "file:"))
        name += strlen("file:");
    return ckpt_image_resolve(path, name);
}

/* A file that is no such image lies on nothing. */
static Next
read_open(int fd, const char *path, char **below, CkptFormat *format)
{
    g_autoptr(CkptQcow2) header = NULL;
    g_autoptr(GError) why = NULL;
    g_autofree char *name = NULL;
    struct stat found;

    if (fstat(fd, &found) < 0)
        return NEXT_UNREAD;
    if (!S_ISREG(found.st_mode) && !S_ISBLK(found.st_mode))
        return NEXT_NONE;
    if (!ckpt_qcow2_read_backing(fd, &name, &why))
        return ckpt_error_reason(why) == CKPT_REASON_DISK_FORMAT_UNSUPPORTED ? NEXT_NONE : NEXT_UNREAD;
    if (!name)
        return NEXT_NONE;
    header = ckpt_qcow2_read(fd, NULL);
    *format = header ? ckpt_format_from_name(header->backing_format) : 0;
    *below = resolve(path, name);
    return *below ? NEXT_FOUND : NEXT_NONE;
}

/* One that the agent may not read is another user's, as in overlays_on.c, and a socket is no image. */
static Next
read_next(const char *path, char **below, CkptFormat *format)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    Next next;

    if (fd < 0)
        return errno == EACCES || errno == ENXIO ? NEXT_NONE : NEXT_UNREAD;
    next = read_open(fd, path, below, format);
    close(fd);
    return next;
}

GPtrArray *
ckpt_below_read(const char *top, char **unread)
{
    GPtrArray *paths = g_ptr_array_new_with_free_func(g_free);
    const char *path = top;
    CkptFormat format = CKPT_FORMAT_QCOW2;
    Next next = NEXT_FOUND;

    *unread = NULL;
    /* A format that nobody says may be qcow2; a raw file is not looked into, its guest writes what it likes. */
    while (next == NEXT_FOUND && format != CKPT_FORMAT_RAW && paths->len < MAX_DEPTH) {
        char *below = NULL;

        next = read_next(path, &below, &format);
        if (next == NEXT_UNREAD)
            *unread = g_strdup(path);
        if (next == NEXT_FOUND) {
            g_ptr_array_add(paths, below);
            path = below;
        }
    }
    return paths;
}
