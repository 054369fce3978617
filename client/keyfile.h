/* Reads files of [groups] and key = value lines. Not GKeyFile, which knows no line numbers, lets a
 * later key silently replace an earlier one, and so cannot say where a mistake is. */
#pragma once

#include "common/error.h"

#define CKPT_KEYFILE_MAX (1024 * 1024) /* bytes */

/* One line. group is NULL before the first; key is NULL on the group's own line. Keys and values
 * have no space around them. Returns FALSE with an error that needs no place: file and line are
 * added. */
typedef gboolean (*CkptKeyfileFunc)(const char *group, const char *key, const char *value,
                                    gpointer data, GError **error);

/* Errors are INVALID_ARGUMENT "file:line: …", or FILE_FAILED when it cannot be read; missing is set
 * (if given) when that is because there is no such file. */
gboolean ckpt_keyfile_read(const char *file, CkptKeyfileFunc func, gpointer data, gboolean *missing,
                           GError **error) G_GNUC_WARN_UNUSED_RESULT;
