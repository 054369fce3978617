/* Opaque page tokens: a position in a list, bound by a keyed hash to the method, the caller and
 * everything in the request that selects. So a token cannot be forged, passed on, or used with
 * another filter, which would skip entries unseen. */
#pragma once

#include "common/error.h"

#define CKPT_PAGE_TOKEN_MAX 1024 /* bytes of a token */

/* Random, for the life of the process: after a restart a list begins anew. */
typedef struct _CkptPageKey CkptPageKey;
CkptPageKey *ckpt_page_key_new(void);
void ckpt_page_key_free(CkptPageKey *key);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CkptPageKey, ckpt_page_key_free)

/* bound: bytes of the request without page token and size. */
char *ckpt_page_token_new(const CkptPageKey *key, const char *method, const char *identity,
                          GBytes *bound, const char *position);
/* The position; "" for the empty token, which is the first page's. PAGE_TOKEN_INVALID for a token
 * that was not made with the same four. */
char *ckpt_page_token_open(const CkptPageKey *key, const char *method, const char *identity,
                           GBytes *bound, const char *token, GError **error);
