#include "agent/hypervisor/native/native.h"

#include <string.h>

/* esx, vpx and vbox have the same calls, by libvirt's documentation; what they make of them nobody has tried. */
static const CkptPlatform platforms[] = {
    {"test", .live = TRUE, .memory = TRUE, .revert_flags = TRUE, .in_process = TRUE},
    {"esx", .live = TRUE, .memory = TRUE},
    {"vpx", .live = TRUE, .memory = TRUE},
    {"vbox", .live = TRUE, .memory = TRUE},
};

static gboolean
take_away(CkptPlatform *platform, const char *key, const char *value, GError **error)
{
    gboolean *ability = g_str_equal(key, "live")     ? &platform->live
                        : g_str_equal(key, "memory") ? &platform->memory
                        : g_str_equal(key, "flags")  ? &platform->revert_flags
                                                     : NULL;

    if (!ability || !g_str_equal(value, "no")) {
        ckpt_error_set(error, CKPT_REASON_INVALID_ARGUMENT,
                       "the test hypervisor's URI may say live=no, memory=no and flags=no, not %s=%s",
                       key, value);
        return FALSE;
    }
    *ability = FALSE;
    return TRUE;
}

static gboolean
take_query(CkptPlatform *platform, const char *query, GError **error)
{
    GUriParamsIter iter;
    gboolean good = TRUE;
    char *key, *value;

    g_uri_params_iter_init(&iter, query, -1, "&", G_URI_PARAMS_NONE);
    while (good && g_uri_params_iter_next(&iter, &key, &value, NULL)) {
        good = take_away(platform, key, value, error);
        g_free(key);
        g_free(value);
    }
    return good;
}

gboolean
ckpt_platform_of(const char *uri, CkptPlatform *platform, GError **error)
{
    const gsize length = strcspn(uri, "+:");
    const char *query = strchr(uri, '?');

    for (guint i = 0; i < G_N_ELEMENTS(platforms); i++) {
        if (strlen(platforms[i].scheme) != length || strncmp(platforms[i].scheme, uri, length) != 0)
            continue;
        *platform = platforms[i];
        return !platform->in_process || !query || take_query(platform, query + 1, error);
    }
    ckpt_error_set(error, CKPT_REASON_INVALID_ARGUMENT,
                   "libvirt has no snapshots for the hypervisor of %s", uri);
    return FALSE;
}
