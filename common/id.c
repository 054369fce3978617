#include "common/id.h"

#include <string.h>
#include <uuid/uuid.h>

static gboolean
is_hyphen_place(gsize i)
{
    return i == 8 || i == 13 || i == 18 || i == 23;
}

char *
ckpt_id_parse(const char *text)
{
    char id[CKPT_ID_LEN + 1];
    gboolean braces, nil = TRUE;

    if (!text)
        return NULL;
    braces = text[0] == '{';
    text += braces;
    /* Not uuid_parse(): it takes no braces, and what it takes varies with its release. */
    for (gsize i = 0; i < CKPT_ID_LEN; i++) {
        if (is_hyphen_place(i) ? text[i] != '-' : !g_ascii_isxdigit(text[i]))
            return NULL;
        nil = nil && (text[i] == '0' || text[i] == '-');
        id[i] = g_ascii_tolower(text[i]);
    }
    id[CKPT_ID_LEN] = '\0';
    if (nil || strcmp(text + CKPT_ID_LEN, braces ? "}" : "") != 0)
        return NULL;
    return g_strdup(id);
}

char *
ckpt_id_new(void)
{
    uuid_t uuid;
    char text[UUID_STR_LEN];

    uuid_generate_random(uuid);
    uuid_unparse_lower(uuid, text);
    return g_strdup(text);
}

char *
ckpt_id_short(const char *id)
{
    return g_strndup(id, 8);
}

char *
ckpt_id_of_snapshot(const char *vm_id, const char *snapshot_name)
{
    uuid_t space, uuid;
    char text[UUID_STR_LEN];
    int bad = uuid_parse(vm_id, space);

    g_assert(bad == 0);
    uuid_generate_sha1(uuid, space, snapshot_name, strlen(snapshot_name));
    uuid_unparse_lower(uuid, text);
    return g_strdup(text);
}
