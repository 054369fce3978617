#include "agent/config_scan.h"

#include <string.h>

static void
line_free(CkptConfigLine *line)
{
    g_free(line->group);
    g_free(line->key);
    g_free(line);
}

/* Adds it unless it is there already. */
static gboolean
add(GPtrArray *lines, const char *file, const char *group, const char *key, guint number,
    GError **error)
{
    CkptConfigLine *line;

    for (guint i = 0; i < lines->len; i++) {
        const CkptConfigLine *other = g_ptr_array_index(lines, i);

        if (!g_str_equal(other->group, group) || g_strcmp0(other->key, key) != 0)
            continue;
        if (key)
            ckpt_error_set(error, CKPT_REASON_INVALID_ARGUMENT,
                           "%s:%u: '%s' comes twice in [%s], first in line %u", file, number, key,
                           group, other->line);
        else
            ckpt_error_set(error, CKPT_REASON_INVALID_ARGUMENT,
                           "%s:%u: group [%s] comes twice, first in line %u", file, number, group,
                           other->line);
        return FALSE;
    }
    line = g_new0(CkptConfigLine, 1);
    line->group = g_strdup(group);
    line->key = g_strdup(key);
    line->line = number;
    g_ptr_array_add(lines, line);
    return TRUE;
}

static gboolean
refuse(const char *file, guint number, const char *what, GError **error)
{
    ckpt_error_set(error, CKPT_REASON_INVALID_ARGUMENT, "%s:%u: %s", file, number, what);
    return FALSE;
}

/* *group: the one the line stands in; replaced by a header. */
static gboolean
scan_line(GPtrArray *lines, const char *file, char *line, guint number, char **group,
          GError **error)
{
    gsize size = strlen(line);
    char *equals;

    if (*line == '\0' || *line == '#')
        return TRUE;
    if (*line == '[') {
        if (size < 3 || line[size - 1] != ']' || strpbrk(line + 1, "[]") != line + size - 1)
            return refuse(file, number, "a group's header is [NAME]", error);
        g_free(*group);
        *group = g_strndup(line + 1, size - 2);
        return add(lines, file, *group, NULL, number, error);
    }
    equals = strchr(line, '=');
    if (!equals || equals == line)
        return refuse(file, number, "neither KEY = VALUE, [GROUP] nor # comment", error);
    if (!*group)
        return refuse(file, number, "stands before the first [GROUP]", error);
    *equals = '\0';
    g_strchomp(line);
    /* GKeyFile's own rule; brackets would name a translation. */
    if (strpbrk(line, "[]"))
        return refuse(file, number, "a key must not contain [ or ]", error);
    return add(lines, file, *group, line, number, error);
}

GPtrArray *
ckpt_config_scan(const char *file, const char *text, GError **error)
{
    g_autoptr(GPtrArray) lines = g_ptr_array_new_with_free_func((GDestroyNotify)line_free);
    g_auto(GStrv) parts = g_strsplit(text, "\n", -1);
    g_autofree char *group = NULL;

    for (guint i = 0; parts[i]; i++)
        if (!scan_line(lines, file, g_strstrip(parts[i]), i + 1, &group, error))
            return NULL;
    return g_steal_pointer(&lines);
}
