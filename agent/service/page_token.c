#include "agent/service/page_token.h"

#include <string.h>
#include <sys/random.h>

#define KEY_BYTES 32
#define MAC_BYTES 16

struct _CkptPageKey {
    guint8 bytes[KEY_BYTES];
};

CkptPageKey *
ckpt_page_key_new(void)
{
    CkptPageKey *key = g_new0(CkptPageKey, 1);

    /* Up to 256 bytes are never cut short, and fail only before the kernel's pool is filled. */
    if (getrandom(key->bytes, sizeof key->bytes, 0) != (ssize_t)sizeof key->bytes)
        g_error("getrandom: no random bytes");
    return key;
}

void
ckpt_page_key_free(CkptPageKey *key)
{
    if (!key)
        return;
    explicit_bzero(key->bytes, sizeof key->bytes);
    g_free(key);
}

/* With its length before it, so that no two lists of parts give the same bytes. */
static void
add_part(GHmac *hmac, const void *data, gsize size)
{
    guint64 length = GUINT64_TO_LE(size);

    g_hmac_update(hmac, (const guchar *)&length, sizeof length);
    g_hmac_update(hmac, data, (gssize)size);
}

static void
mac_of(const CkptPageKey *key, const char *method, const char *identity, GBytes *bound,
       const char *position, guint8 mac[MAC_BYTES])
{
    g_autoptr(GHmac) hmac = g_hmac_new(G_CHECKSUM_SHA256, key->bytes, sizeof key->bytes);
    guint8 digest[32];
    gsize size = sizeof digest;
    gsize bound_size;
    gconstpointer bound_data = g_bytes_get_data(bound, &bound_size);

    add_part(hmac, method, strlen(method));
    add_part(hmac, identity, strlen(identity));
    add_part(hmac, bound_data ? bound_data : "", bound_size);
    add_part(hmac, position, strlen(position));
    g_hmac_get_digest(hmac, digest, &size);
    memcpy(mac, digest, MAC_BYTES);
}

char *
ckpt_page_token_new(const CkptPageKey *key, const char *method, const char *identity, GBytes *bound,
                    const char *position)
{
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    guint8 mac[MAC_BYTES];

    mac_of(key, method, identity, bound, position, mac);
    g_byte_array_append(bytes, mac, sizeof mac);
    g_byte_array_append(bytes, (const guint8 *)position, (guint)strlen(position));
    return g_base64_encode(bytes->data, bytes->len);
}

static gboolean
macs_equal(const guint8 *a, const guint8 *b)
{
    guint8 difference = 0;

    for (guint i = 0; i < MAC_BYTES; i++)
        difference |= a[i] ^ b[i];
    return difference == 0;
}

char *
ckpt_page_token_open(const CkptPageKey *key, const char *method, const char *identity,
                     GBytes *bound, const char *token, GError **error)
{
    g_autofree guchar *bytes = NULL;
    g_autofree char *position = NULL;
    guint8 mac[MAC_BYTES];
    gsize size = 0;

    if (*token == '\0')
        return g_strdup("");
    if (strlen(token) <= CKPT_PAGE_TOKEN_MAX)
        bytes = g_base64_decode(token, &size);
    if (bytes && size > MAC_BYTES) {
        position = g_strndup((const char *)bytes + MAC_BYTES, size - MAC_BYTES);
        mac_of(key, method, identity, bound, position, mac);
        if (strlen(position) == size - MAC_BYTES && macs_equal(mac, bytes))
            return g_steal_pointer(&position);
    }
    ckpt_error_set(error, CKPT_REASON_PAGE_TOKEN_INVALID,
                   "page_token is not one that this agent gave for this method, filter, view and "
                   "caller since it was started");
    ckpt_error_add(error, CKPT_META_FIELD, "page_token");
    return NULL;
}
