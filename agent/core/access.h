/* Who may do what: rules that give identities roles. Deny by default; no patterns, since a pattern
 * that matches too much is found only after the fact. */
#pragma once

#include "common/error.h"

/* Each role may do what the ones before it may. */
typedef enum {
    CKPT_ROLE_NONE = 0,
    CKPT_ROLE_VIEWER = 1,
    CKPT_ROLE_OPERATOR = 2,
    CKPT_ROLE_ADMIN = 3
} CkptRole;
const char *ckpt_role_name(CkptRole role);  /* "viewer"; "none" */
CkptRole ckpt_role_parse(const char *name); /* CKPT_ROLE_NONE if it is no role's name */

typedef struct _CkptAccess CkptAccess; /* unchanged once it is in use, so it needs no lock */
CkptAccess *ckpt_access_new(void);
void ckpt_access_free(CkptAccess *access);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CkptAccess, ckpt_access_free)

/* INVALID_ARGUMENT when identity is neither "dns:NAME" nor a URI, or has a rule already. */
gboolean ckpt_access_add(CkptAccess *access, const char *identity, CkptRole role,
                         GError **error) G_GNUC_WARN_UNUSED_RESULT;
guint ckpt_access_size(const CkptAccess *access);
/* CKPT_ROLE_NONE for an identity without a rule, and for NULL. */
CkptRole ckpt_access_role(const CkptAccess *access, const char *identity);

/* UNAUTHENTICATED with `why` when identity is NULL; ACCESS_DENIED, naming identity and method, when
 * its role is below `needed`. */
gboolean ckpt_access_check(const CkptAccess *access, const char *identity, const char *why,
                           CkptRole needed, const char *method,
                           GError **error) G_GNUC_WARN_UNUSED_RESULT;
