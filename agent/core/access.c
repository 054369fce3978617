#include "agent/core/access.h"

#include <string.h>

#define IDENTITY_MAX 1024 /* bytes; the transport takes no longer names from a certificate */

struct _CkptAccess {
    GHashTable *roles; /* identity → CkptRole */
};

static const char *const role_names[] = {"none", "viewer", "operator", "admin"};

const char *
ckpt_role_name(CkptRole role)
{
    return (guint)role < G_N_ELEMENTS(role_names) ? role_names[role] : "none";
}

CkptRole
ckpt_role_parse(const char *name)
{
    for (guint i = CKPT_ROLE_VIEWER; i < G_N_ELEMENTS(role_names); i++)
        if (g_str_equal(name, role_names[i]))
            return (CkptRole)i;
    return CKPT_ROLE_NONE;
}

CkptAccess *
ckpt_access_new(void)
{
    CkptAccess *access = g_new0(CkptAccess, 1);

    access->roles = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    return access;
}

void
ckpt_access_free(CkptAccess *access)
{
    if (!access)
        return;
    g_hash_table_unref(access->roles);
    g_free(access);
}

/* "dns:" and a host name, or a URI with a scheme: what the transport makes of a certificate. A rule
 * in any other form could never match, which its author should learn. */
static gboolean
is_identity(const char *identity)
{
    const char *rest;
    const char *dot;

    if (strlen(identity) > IDENTITY_MAX)
        return FALSE;
    for (const char *c = identity; *c; c++)
        if (!g_ascii_isgraph(*c))
            return FALSE;
    if (g_str_has_prefix(identity, "dns:")) {
        rest = identity + strlen("dns:");
        return *rest && !strchr(rest, '/') && !strchr(rest, '*');
    }
    dot = strchr(identity, ':');
    return dot && dot != identity && dot[1] && g_ascii_isalpha(identity[0]) &&
           !strpbrk(identity, "*?");
}

gboolean
ckpt_access_add(CkptAccess *access, const char *identity, CkptRole role, GError **error)
{
    if (!is_identity(identity)) {
        ckpt_error_set(error, CKPT_REASON_INVALID_ARGUMENT,
                       "identity '%s' is neither a URI such as spiffe://example.org/patch nor "
                       "dns:NAME; patterns are not supported",
                       identity);
        return FALSE;
    }
    if (g_hash_table_contains(access->roles, identity)) {
        ckpt_error_set(error, CKPT_REASON_INVALID_ARGUMENT, "identity '%s' has a role already",
                       identity);
        return FALSE;
    }
    g_hash_table_insert(access->roles, g_strdup(identity), GUINT_TO_POINTER(role));
    return TRUE;
}

guint
ckpt_access_size(const CkptAccess *access)
{
    return g_hash_table_size(access->roles);
}

CkptRole
ckpt_access_role(const CkptAccess *access, const char *identity)
{
    if (!identity)
        return CKPT_ROLE_NONE;
    return (CkptRole)GPOINTER_TO_UINT(g_hash_table_lookup(access->roles, identity));
}

gboolean
ckpt_access_check(const CkptAccess *access, const char *identity, const char *why, CkptRole needed,
                  const char *method, GError **error)
{
    CkptRole role = ckpt_access_role(access, identity);

    if (!identity) {
        ckpt_error_set(error, CKPT_REASON_UNAUTHENTICATED, "%s",
                       why ? why : "the certificate names nobody");
        return FALSE;
    }
    if (role == CKPT_ROLE_NONE) {
        ckpt_error_set(error, CKPT_REASON_ACCESS_DENIED, "%s has no role on this agent", identity);
        return FALSE;
    }
    if (role < needed) {
        ckpt_error_set(error, CKPT_REASON_ACCESS_DENIED, "%s is %s; %s needs %s", identity,
                       ckpt_role_name(role), method, ckpt_role_name(needed));
        return FALSE;
    }
    return TRUE;
}
