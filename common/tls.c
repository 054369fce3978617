#include "common/tls.h"

#include "common/error.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PEM_FILE_MAX 1048576

static const char configuration[] = "# Written at each start: TLS 1.3 only, no session tickets.\n"
                                    "openssl_conf = openssl_init\n"
                                    "[openssl_init]\n"
                                    "ssl_conf = ssl_sect\n"
                                    "[ssl_sect]\n"
                                    "system_default = tls\n"
                                    "[tls]\n"
                                    "Protocol = -TLSv1.2\n"
                                    "MinProtocol = TLSv1.3\n"
                                    "Options = -SessionTicket\n"
                                    "NumTickets = 0\n";

void
ckpt_tls_pem_clear(CkptTlsPem *pem)
{
    if (pem->key)
        OPENSSL_cleanse(pem->key, strlen(pem->key));
    g_clear_pointer(&pem->key, g_free);
    g_clear_pointer(&pem->cert, g_free);
    g_clear_pointer(&pem->ca, g_free);
}

/* "error:0480006C:PEM routines::no start line" without the parts that mean nothing to a reader. */
static const char *
openssl_reason(void)
{
    const char *reason = ERR_reason_error_string(ERR_peek_last_error());

    ERR_clear_error();
    return reason ? reason : "not valid";
}

static gboolean
write_configuration(int fd, const char *path, GError **error)
{
    gsize size = sizeof configuration - 1;

    if (fd >= 0 && write(fd, configuration, size) == (gssize)size)
        return TRUE;
    ckpt_error_set(error, CKPT_REASON_FILE_FAILED, "OpenSSL configuration %s: %s", path,
                   g_strerror(errno));
    return FALSE;
}

/* Loads path as OpenSSL's only configuration; one that is missing or not understood is an error
 * (flags 0), whereas the defaults would go on with TLS 1.2. */
static gboolean
load_configuration(const char *path, GError **error)
{
    OPENSSL_INIT_SETTINGS *settings = OPENSSL_INIT_new();
    int ok;

    OPENSSL_INIT_set_config_filename(settings, path);
    OPENSSL_INIT_set_config_file_flags(settings, 0);
    ok = OPENSSL_init_ssl(OPENSSL_INIT_LOAD_CONFIG, settings);
    OPENSSL_INIT_free(settings);
    if (ok)
        return TRUE;
    ckpt_error_set(error, CKPT_REASON_INTERNAL, "OpenSSL does not accept its configuration %s: %s",
                   path, openssl_reason());
    return FALSE;
}

/* That the settings are in force is proved, not assumed: something may have used OpenSSL before. */
static gboolean
settings_in_force(GError **error)
{
    SSL_CTX *context = SSL_CTX_new(TLS_method());
    gboolean in_force = context && (SSL_CTX_get_options(context) & SSL_OP_NO_TLSv1_2) &&
                        SSL_CTX_get_num_tickets(context) == 0;

    SSL_CTX_free(context);
    if (!in_force)
        ckpt_error_set(error, CKPT_REASON_INTERNAL,
                       "TLS 1.3 could not be enforced: OpenSSL was in use before");
    return in_force;
}

static gboolean
init_once(GError **error)
{
    /* Never a file in some folder: whoever may write there could put his own in its place. */
    int fd = memfd_create("openssl.cnf", MFD_CLOEXEC);
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fd);
    gboolean ok;

    ok = write_configuration(fd, path, error) && load_configuration(path, error) &&
         settings_in_force(error);
    if (fd >= 0)
        close(fd);
    return ok;
}

gboolean
ckpt_tls_init(GError **error)
{
    static GMutex lock; /* guards done */
    static gboolean done;
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&lock);

    if (!done)
        done = init_once(error);
    return done;
}

static char *
read_file(const char *path, const char *what, GError **error)
{
    g_autofree char *text = NULL;
    g_autoptr(GError) failed = NULL;
    gsize size;

    if (!path || !*path) {
        ckpt_error_set(error, CKPT_REASON_INVALID_ARGUMENT, "no %s file is given", what);
        return NULL;
    }
    if (!g_file_get_contents(path, &text, &size, &failed)) {
        ckpt_error_set(error, CKPT_REASON_FILE_FAILED, "%s %s: %s", what, path, failed->message);
        ckpt_error_add(error, CKPT_META_FILE, path);
        return NULL;
    }
    if (size > PEM_FILE_MAX || strlen(text) != size) {
        ckpt_error_set(error, CKPT_REASON_INVALID_ARGUMENT, "%s %s: not a PEM file", what, path);
        ckpt_error_add(error, CKPT_META_FILE, path);
        return NULL;
    }
    return g_steal_pointer(&text);
}

/* An encrypted key must not stop a daemon, or a script, with a prompt on the terminal. */
static int
no_password(char *buffer, int size, int writing, void *data)
{
    *(gboolean *)data = TRUE;
    return -1;
}

static X509 *
first_certificate(const char *text)
{
    BIO *bio = BIO_new_mem_buf(text, -1);
    X509 *x509 = PEM_read_bio_X509(bio, NULL, NULL, NULL);

    BIO_free(bio);
    return x509;
}

static gboolean
fail(GError **error, const char *what, const char *path, const char *reason)
{
    ckpt_error_set(error, CKPT_REASON_INVALID_ARGUMENT, "%s %s: %s", what, path, reason);
    ckpt_error_add(error, CKPT_META_FILE, path);
    return FALSE;
}

static gboolean
check_ca(const char *text, const char *path, GError **error)
{
    X509 *x509 = first_certificate(text);
    g_autofree char *reason = NULL;

    if (x509) {
        X509_free(x509);
        return TRUE;
    }
    reason = g_strdup_printf("holds no PEM certificate (%s)", openssl_reason());
    return fail(error, "CA certificate", path, reason);
}

static gboolean
check_dates(X509 *x509, const char *path, GError **error)
{
    gboolean early = X509_cmp_current_time(X509_get0_notBefore(x509)) > 0;
    gboolean late = X509_cmp_current_time(X509_get0_notAfter(x509)) < 0;
    BIO *bio;
    g_autofree char *reason = NULL;
    char *date = NULL;
    long size;

    if (!early && !late)
        return TRUE;
    bio = BIO_new(BIO_s_mem());
    ASN1_TIME_print(bio, early ? X509_get0_notBefore(x509) : X509_get0_notAfter(x509));
    size = BIO_get_mem_data(bio, &date);
    reason =
        g_strdup_printf("%s %.*s", early ? "is not valid before" : "expired on", (int)size, date);
    BIO_free(bio);
    return fail(error, "certificate", path, reason);
}

static gboolean
check_pair(const CkptTlsPem *pem, const char *cert_file, const char *key_file, CkptTlsFlags flags,
           GError **error)
{
    gboolean encrypted = FALSE, ok = FALSE;
    X509 *x509 = first_certificate(pem->cert);
    g_autofree char *reason = NULL;
    EVP_PKEY *key;
    BIO *bio;

    if (!x509) {
        reason = g_strdup_printf("holds no PEM certificate (%s)", openssl_reason());
        return fail(error, "certificate", cert_file, reason);
    }
    bio = BIO_new_mem_buf(pem->key, -1);
    key = PEM_read_bio_PrivateKey(bio, NULL, no_password, &encrypted);
    BIO_free(bio);
    if (encrypted) {
        fail(error, "private key", key_file,
             "is encrypted; only plain keys, mode 0600, are supported");
    } else if (!key) {
        reason = g_strdup_printf("holds no PEM private key (%s)", openssl_reason());
        fail(error, "private key", key_file, reason);
    } else if (X509_check_private_key(x509, key) != 1) {
        reason = g_strdup_printf("does not belong to the certificate %s", cert_file);
        fail(error, "private key", key_file, reason);
    } else {
        ok = !(flags & CKPT_TLS_CHECK_DATES) || check_dates(x509, cert_file, error);
    }
    ERR_clear_error();
    EVP_PKEY_free(key);
    X509_free(x509);
    return ok;
}

gboolean
ckpt_tls_load(const char *ca_file, const char *cert_file, const char *key_file, CkptTlsFlags flags,
              CkptTlsPem *pem, GError **error)
{
    g_auto(CkptTlsPem) loaded = {NULL, NULL, NULL};

    loaded.ca = read_file(ca_file, "CA certificate", error);
    if (!loaded.ca || !check_ca(loaded.ca, ca_file, error))
        return FALSE;
    loaded.cert = read_file(cert_file, "certificate", error);
    if (!loaded.cert)
        return FALSE;
    loaded.key = read_file(key_file, "private key", error);
    if (!loaded.key || !check_pair(&loaded, cert_file, key_file, flags, error))
        return FALSE;
    *pem = loaded;
    loaded = (CkptTlsPem){NULL, NULL, NULL};
    return TRUE;
}
