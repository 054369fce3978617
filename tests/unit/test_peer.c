/* What the agent reads in a caller's certificate. */
#include "agent/rpc/peer.h"
#include "tests/unit/rpc_fixture.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

typedef struct {
    int type; /* GEN_URI, GEN_DNS, GEN_EMAIL */
    const char *text;
    int size; /* -1: strlen */
} San;

static void
add_extension(X509 *x509, int nid, const char *value)
{
    X509V3_CTX context;
    X509_EXTENSION *extension;

    X509V3_set_ctx(&context, x509, x509, NULL, NULL, 0);
    extension = X509V3_EXT_conf_nid(NULL, &context, nid, value);
    assert_non_null(extension);
    X509_add_ext(x509, extension, -1);
    X509_EXTENSION_free(extension);
}

static char *
make_pem(const San *sans, gsize n_sans, const char *purpose, long not_before, long not_after)
{
    X509 *x509 = X509_new();
    EVP_PKEY *key = EVP_EC_gen("P-256");
    GENERAL_NAMES *names = sk_GENERAL_NAME_new_null();
    BIO *bio = BIO_new(BIO_s_mem());
    char *data, *pem;
    long size;

    X509_set_version(x509, X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(x509), 0xabcdef);
    X509_gmtime_adj(X509_getm_notBefore(x509), not_before);
    X509_gmtime_adj(X509_getm_notAfter(x509), not_after);
    X509_set_pubkey(x509, key);
    for (gsize i = 0; i < n_sans; i++) {
        GENERAL_NAME *name = GENERAL_NAME_new();
        ASN1_IA5STRING *text = ASN1_IA5STRING_new();

        ASN1_STRING_set(text, sans[i].text, sans[i].size);
        GENERAL_NAME_set0_value(name, sans[i].type, text);
        sk_GENERAL_NAME_push(names, name);
    }
    if (n_sans)
        X509_add1_ext_i2d(x509, NID_subject_alt_name, names, 0, 0);
    if (purpose)
        add_extension(x509, NID_ext_key_usage, purpose);
    X509_sign(x509, key, EVP_sha256());
    PEM_write_bio_X509(bio, x509);
    size = BIO_get_mem_data(bio, &data);
    pem = g_strndup(data, (gsize)size);
    BIO_free(bio);
    GENERAL_NAMES_free(names);
    EVP_PKEY_free(key);
    X509_free(x509);
    return pem;
}

static void
check_peer(char *pem, const char *identity, const char *why)
{
    CkptPeerCache *cache = ckpt_peer_cache_new();
    CkptPeer peer = {NULL, NULL, NULL, NULL, NULL};

    ckpt_peer_identify(cache, &peer, pem);
    /* The second time it comes from the cache. */
    ckpt_peer_clear(&peer);
    ckpt_peer_identify(cache, &peer, pem);
    if (identity) {
        assert_null(peer.why);
        assert_string_equal(peer.identity, identity);
        assert_string_equal(peer.serial, "abcdef");
        assert_int_equal(strlen(peer.fingerprint), 64);
    } else {
        assert_null(peer.identity);
        assert_contains(peer.why, why);
    }
    ckpt_peer_clear(&peer);
    ckpt_peer_cache_free(cache);
    g_free(pem);
}

#define YEAR (365L * 86400)
#define PEM(purpose, from, to, ...)                                                                \
    make_pem((const San[]){__VA_ARGS__}, G_N_ELEMENTS(((const San[]){__VA_ARGS__})), purpose,      \
             from, to)
#define GOOD_URI                                                                                   \
    {                                                                                              \
        GEN_URI, "spiffe://x/jane", -1                                                             \
    }

static void
one_uri_or_dns_name_is_an_identity(void **state)
{
    check_peer(PEM("clientAuth", -60, YEAR, GOOD_URI), "spiffe://x/jane", NULL);
    check_peer(PEM("clientAuth,serverAuth", -60, YEAR, {GEN_DNS, "ctl.example", -1}),
               "dns:ctl.example", NULL);
    check_peer(PEM("clientAuth", -60, YEAR, GOOD_URI, {GEN_EMAIL, "jane@x", -1}), "spiffe://x/jane",
               NULL);
}

static void
a_doubtful_certificate_has_no_identity(void **state)
{
    check_peer(NULL, NULL, "no certificate");
    check_peer(g_strdup("junk"), NULL, "cannot be decoded");
    check_peer(make_pem(NULL, 0, "clientAuth", -60, YEAR), NULL, "no subject alternative name");
    check_peer(PEM("clientAuth", -60, YEAR, {GEN_EMAIL, "jane@x", -1}), NULL, "no URI or DNS");
    check_peer(PEM("clientAuth", -60, YEAR, GOOD_URI, {GEN_URI, "spiffe://x/root", -1}), NULL,
               "more than one");
    check_peer(PEM("clientAuth", -60, YEAR, GOOD_URI, {GEN_DNS, "x", -1}), NULL, "more than one");
    check_peer(PEM("serverAuth", -60, YEAR, GOOD_URI), NULL, "clientAuth");
    check_peer(PEM(NULL, -60, YEAR, GOOD_URI), NULL, "clientAuth");
    check_peer(PEM("anyExtendedKeyUsage", -60, YEAR, GOOD_URI), NULL, "clientAuth");
    check_peer(PEM("clientAuth", -YEAR, -60, GOOD_URI), NULL, "expired");
    check_peer(PEM("clientAuth", 60, YEAR, GOOD_URI), NULL, "not valid yet");
    check_peer(PEM("clientAuth", -60, YEAR, {GEN_URI, "spiffe://x/root\0/jane", 21}), NULL,
               "characters");
    check_peer(PEM("clientAuth", -60, YEAR, {GEN_DNS, "root\0", 5}), NULL, "characters");
    check_peer(PEM("clientAuth", -60, YEAR, {GEN_URI, "spiffe://x/a b", -1}), NULL, "characters");
    check_peer(PEM("clientAuth", -60, YEAR, {GEN_URI, "", 0}), NULL, "empty");
    check_peer(PEM("clientAuth", -60, YEAR, {GEN_URI, "dns:root.example", -1}), NULL, "scheme");
    check_peer(PEM("clientAuth", -60, YEAR, {GEN_URI, "jane", -1}), NULL, "scheme");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_uri_or_dns_name_is_an_identity),
        cmocka_unit_test(a_doubtful_certificate_has_no_identity),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
