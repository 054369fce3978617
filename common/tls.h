/* What agent and client share of TLS: version 1.3 only, and certificate files that are checked
 * before anybody connects. */
#pragma once

#include <glib.h>

typedef struct {
    char *ca, *cert, *key; /* PEM text */
} CkptTlsPem;

void ckpt_tls_pem_clear(CkptTlsPem *pem); /* wipes the key */
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(CkptTlsPem, ckpt_tls_pem_clear)

/* Once per process, before any other use of gRPC or OpenSSL (later calls do nothing): TLS 1.3 only,
 * no session tickets, by an OpenSSL configuration of our own, because gRPC 1.51 has no setter. It is
 * an anonymous file. The system's openssl.cnf and OPENSSL_CONF are not read. */
gboolean ckpt_tls_init(GError **error) G_GNUC_WARN_UNUSED_RESULT;

typedef enum {
    CKPT_TLS_CHECK_DATES = 1 << 0, /* an expired or not yet valid certificate is an error */
} CkptTlsFlags;

/* Reads the three PEM files. An error names the file and what is wrong with it. */
gboolean ckpt_tls_load(const char *ca_file, const char *cert_file, const char *key_file,
                       CkptTlsFlags flags, CkptTlsPem *pem,
                       GError **error) G_GNUC_WARN_UNUSED_RESULT;
