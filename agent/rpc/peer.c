#include "agent/rpc/peer.h"

#include <openssl/bn.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <string.h>
#include <time.h>

#define NAME_MAX_BYTES 1024
#define PEM_MAX_BYTES 65536
#define CACHE_ENTRIES 256

/* A certificate as it was read; constant. */
typedef struct {
    char *identity, *serial, *fingerprint;
    const char *why;
    gint64 not_before, not_after; /* seconds since 1970 */
} Entry;

struct _CkptPeerCache {
    GMutex lock;         /* guards entries */
    GHashTable *entries; /* PEM text → Entry */
};

static char *
hex(const guint8 *data, gsize size)
{
    GString *text = g_string_sized_new(size * 2 + 1);

    for (gsize i = 0; i < size; i++)
        g_string_append_printf(text, "%02x", data[i]);
    return g_string_free(text, FALSE);
}

static char *
fingerprint_of(X509 *x509)
{
    guint8 digest[EVP_MAX_MD_SIZE];
    unsigned size = 0;

    if (X509_digest(x509, EVP_sha256(), digest, &size) != 1)
        return NULL;
    return hex(digest, size);
}

static char *
serial_of(X509 *x509)
{
    const ASN1_INTEGER *serial = X509_get0_serialNumber(x509);
    char *text = hex(ASN1_STRING_get0_data(serial), (gsize)ASN1_STRING_length(serial));

    return text;
}

/* A date that cannot be read is one that is not in force. */
static gboolean
seconds_of(const ASN1_TIME *time, gint64 *seconds)
{
    struct tm tm;

    if (ASN1_TIME_to_tm(time, &tm) != 1)
        return FALSE;
    *seconds = timegm(&tm);
    return TRUE;
}

static const char *
check_dates(const Entry *entry)
{
    gint64 now = g_get_real_time() / G_USEC_PER_SEC;

    if (now < entry->not_before)
        return "the certificate is not valid yet";
    if (now >= entry->not_after)
        return "the certificate has expired";
    return NULL;
}

/* The purpose must be stated: a certificate for anything, or for servers, such as an agent's own,
 * opens nothing. */
static const char *
check_purpose(X509 *x509)
{
    uint32_t flags = X509_get_extension_flags(x509);

    if (flags & EXFLAG_INVALID)
        return "the certificate has an extension that cannot be understood";
    if (flags & EXFLAG_CA)
        return "the certificate is a CA's";
    if (!(flags & EXFLAG_XKUSAGE) || !(X509_get_extended_key_usage(x509) & XKU_SSL_CLIENT))
        return "the certificate lacks the extended key usage clientAuth";
    return NULL;
}

/* Names are compared as strings and stand in logs, so only visible ASCII (all that a URI or a DNS
 * name may have); that refuses an embedded NUL too. */
static char *
san_text(const GENERAL_NAME *name)
{
    const ASN1_STRING *string = name->d.ia5;
    const guint8 *data = ASN1_STRING_get0_data(string);
    int size = ASN1_STRING_length(string);

    if (size <= 0 || size > NAME_MAX_BYTES)
        return NULL;
    for (int i = 0; i < size; i++)
        if (!g_ascii_isgraph(data[i]))
            return NULL;
    return g_strndup((const char *)data, (gsize)size);
}

/* The only URI or DNS name; other types (e-mail, IP) are not identities here and are passed over.
 */
static char *
find_identity(const GENERAL_NAMES *names, const char **why)
{
    const GENERAL_NAME *found = NULL;
    g_autofree char *text = NULL;

    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);

        if (name->type != GEN_URI && name->type != GEN_DNS)
            continue;
        if (found) {
            *why = "the certificate has more than one URI or DNS subject alternative name";
            return NULL;
        }
        found = name;
    }
    if (!found) {
        *why = "the certificate has no URI or DNS subject alternative name";
        return NULL;
    }
    text = san_text(found);
    if (!text) {
        *why = "the certificate's subject alternative name is empty, too long, or has characters "
               "that no URI or DNS name may have";
        return NULL;
    }
    if (found->type == GEN_DNS)
        return g_strconcat("dns:", text, NULL);
    /* A URI without a scheme, or with ours for DNS names, could pass for another identity. */
    if (!strchr(text, ':') || g_ascii_strncasecmp(text, "dns:", 4) == 0) {
        *why = "the certificate's URI has no scheme, or the scheme dns";
        return NULL;
    }
    return g_steal_pointer(&text);
}

static char *
identity_of(X509 *x509, const char **why)
{
    GENERAL_NAMES *names;
    char *identity;
    int critical = 0;

    *why = check_purpose(x509);
    if (*why)
        return NULL;
    names = X509_get_ext_d2i(x509, NID_subject_alt_name, &critical, NULL);
    if (!names) {
        *why = critical == -2   ? "the certificate has the extension subjectAltName twice"
               : critical == -1 ? "the certificate has no subject alternative name"
                                : "the certificate's subject alternative name cannot be decoded";
        return NULL;
    }
    identity = find_identity(names, why);
    GENERAL_NAMES_free(names);
    return identity;
}

static void
entry_free(gpointer data)
{
    Entry *entry = data;

    g_free(entry->identity);
    g_free(entry->serial);
    g_free(entry->fingerprint);
    g_free(entry);
}

static Entry *
entry_new(const char *pem)
{
    Entry *entry = g_new0(Entry, 1);
    gsize size = strlen(pem);
    BIO *bio = BIO_new_mem_buf(pem, (int)MIN(size, PEM_MAX_BYTES));
    X509 *x509 = PEM_read_bio_X509(bio, NULL, NULL, NULL);

    if (!x509 || !seconds_of(X509_get0_notBefore(x509), &entry->not_before) ||
        !seconds_of(X509_get0_notAfter(x509), &entry->not_after)) {
        entry->why = "the certificate cannot be decoded";
    } else {
        entry->serial = serial_of(x509);
        entry->fingerprint = fingerprint_of(x509);
        entry->identity = identity_of(x509, &entry->why);
    }
    ERR_clear_error();
    X509_free(x509);
    BIO_free(bio);
    return entry;
}

CkptPeerCache *
ckpt_peer_cache_new(void)
{
    CkptPeerCache *cache = g_new0(CkptPeerCache, 1);

    g_mutex_init(&cache->lock);
    cache->entries = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, entry_free);
    return cache;
}

void
ckpt_peer_cache_free(CkptPeerCache *cache)
{
    g_hash_table_unref(cache->entries);
    g_mutex_clear(&cache->lock);
    g_free(cache);
}

/* With the lock. */
static const Entry *
find_or_read(CkptPeerCache *cache, const char *pem)
{
    Entry *entry = g_hash_table_lookup(cache->entries, pem);

    if (entry)
        return entry;
    if (g_hash_table_size(cache->entries) >= CACHE_ENTRIES)
        g_hash_table_remove_all(cache->entries);
    entry = entry_new(pem);
    g_hash_table_insert(cache->entries, g_strdup(pem), entry);
    return entry;
}

void
ckpt_peer_identify(CkptPeerCache *cache, CkptPeer *peer, const char *pem)
{
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&cache->lock);
    const Entry *entry;
    const char *why;

    if (!pem) {
        peer->why = g_strdup("the caller presented no certificate");
        return;
    }
    entry = find_or_read(cache, pem);
    why = entry->why ? entry->why : check_dates(entry);
    peer->serial = g_strdup(entry->serial);
    peer->fingerprint = g_strdup(entry->fingerprint);
    if (why)
        peer->why = g_strdup(why);
    else
        peer->identity = g_strdup(entry->identity);
}

void
ckpt_peer_clear(CkptPeer *peer)
{
    g_clear_pointer(&peer->identity, g_free);
    g_clear_pointer(&peer->why, g_free);
    g_clear_pointer(&peer->address, g_free);
    g_clear_pointer(&peer->serial, g_free);
    g_clear_pointer(&peer->fingerprint, g_free);
}
