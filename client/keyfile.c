#include "client/keyfile.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct {
    char *group; /* NULL before the first */
    CkptKeyfileFunc func;
    gpointer data;
} Reader;

static gboolean
take_line(Reader *reader, char *line, GError **error)
{
    gsize length;
    char *equals;

    g_strstrip(line);
    length = strlen(line);
    if (length == 0 || line[0] == '#' || line[0] == ';')
        return TRUE;
    if (line[0] == '[') {
        if (line[length - 1] != ']') {
            ckpt_error_set(error, CKPT_REASON_INVALID_ARGUMENT, "the group lacks its ']'");
            return FALSE;
        }
        line[length - 1] = '\0';
        g_free(reader->group);
        reader->group = g_strstrip(g_strdup(line + 1));
        return reader->func(reader->group, NULL, NULL, reader->data, error);
    }
    equals = strchr(line, '=');
    if (!equals || equals == line) {
        ckpt_error_set(error, CKPT_REASON_INVALID_ARGUMENT, "expected key = value or [group]");
        return FALSE;
    }
    *equals = '\0';
    return reader->func(reader->group, g_strchomp(line), g_strchug(equals + 1), reader->data,
                        error);
}

static char *
read_file(const char *file, gboolean *missing, GError **error)
{
    g_autofree char *text = NULL;
    struct stat status;
    gsize size = 0, done = 0;
    int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (missing)
        *missing = fd < 0 && errno == ENOENT;
    if (fd >= 0 && fstat(fd, &status) == 0 && S_ISREG(status.st_mode) &&
        status.st_size <= CKPT_KEYFILE_MAX) {
        size = (gsize)status.st_size;
        text = g_malloc0(size + 1);
        while (done < size) {
            gssize got = read(fd, text + done, size - done);

            if (got <= 0)
                break;
            done += (gsize)got;
        }
    } else {
        ckpt_error_set(error, CKPT_REASON_FILE_FAILED, "%s: %s", file,
                       fd < 0 ? g_strerror(errno) : "not a regular file, or too large");
    }
    if (fd >= 0)
        close(fd);
    if (text && !g_utf8_validate(text, (gssize)done, NULL)) {
        ckpt_error_set(error, CKPT_REASON_INVALID_ARGUMENT, "%s: not valid UTF-8", file);
        return NULL;
    }
    return g_steal_pointer(&text);
}

gboolean
ckpt_keyfile_read(const char *file, CkptKeyfileFunc func, gpointer data, gboolean *missing,
                  GError **error)
{
    g_autofree char *text = read_file(file, missing, error);
    g_auto(GStrv) lines = NULL;
    Reader reader = {NULL, func, data};
    gboolean ok = text != NULL;

    if (!text)
        return FALSE;
    lines = g_strsplit(text, "\n", -1);
    for (guint i = 0; ok && lines[i]; i++) {
        ok = take_line(&reader, lines[i], error);
        if (!ok)
            g_prefix_error(error, "%s:%u: ", file, i + 1);
    }
    g_free(reader.group);
    return ok;
}
