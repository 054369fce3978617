/* Where things stand in a key file: GKeyFile reads values but tells no lines, and takes a key or
 * group that comes twice without a word. */
#pragma once

#include "common/error.h"

typedef struct {
    char *group, *key; /* key NULL: the group's header */
    guint line;        /* from 1 */
} CkptConfigLine;

/* All headers and keys in their order: CkptConfigLine. INVALID_ARGUMENT "FILE:LINE: …" for what is
 * neither, for a key outside of a group, and for what comes twice. */
GPtrArray *ckpt_config_scan(const char *file, const char *text, GError **error);
