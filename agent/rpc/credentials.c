#include "agent/rpc/internal.h"
#include "common/error.h"

#include <sys/stat.h>

/* What tells one version of the files from the next. */
static char *
stamp_of(CkptServer *server)
{
    const char *files[] = {server->ca_file, server->cert_file, server->key_file};
    GString *stamp = g_string_new(NULL);

    for (gsize i = 0; i < G_N_ELEMENTS(files); i++) {
        struct stat st;

        if (stat(files[i], &st) == 0)
            g_string_append_printf(stamp, "%ju:%ju:%jd:%jd.%09ld;", (uintmax_t)st.st_dev,
                                   (uintmax_t)st.st_ino, (intmax_t)st.st_size,
                                   (intmax_t)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
        else
            g_string_append(stamp, "missing;");
    }
    return g_string_free(stamp, FALSE);
}

static grpc_ssl_server_certificate_config *
load(CkptServer *server, GError **error)
{
    g_auto(CkptTlsPem) pem = {NULL, NULL, NULL};
    grpc_ssl_pem_key_cert_pair pair;

    /* An expired certificate does not keep the agent from starting: it has VMs to recover. */
    if (!ckpt_tls_load(server->ca_file, server->cert_file, server->key_file, 0, &pem, error))
        return NULL;
    pair = (grpc_ssl_pem_key_cert_pair){pem.key, pem.cert};
    return grpc_ssl_server_certificate_config_create(pem.ca, &pair, 1);
}

/* Called by gRPC for each handshake, so it must be cheap. Files that cannot be used (half written,
 * perhaps) leave what is in use; they are looked at again when they change. */
static grpc_ssl_certificate_config_reload_status
fetch(void *data, grpc_ssl_server_certificate_config **config)
{
    CkptServer *server = data;
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&server->cert_lock);
    g_autofree char *stamp = stamp_of(server);
    g_autoptr(GError) error = NULL;

    if (g_strcmp0(stamp, server->cert_stamp) == 0)
        return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
    g_free(server->cert_stamp);
    server->cert_stamp = g_steal_pointer(&stamp);
    *config = load(server, &error);
    if (*config) {
        g_message("certificates were read: %s", server->cert_file);
        return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
    }
    g_warning("changed certificates are not used: %s", error->message);
    return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
}

grpc_server_credentials *
ckpt_server_credentials(CkptServer *server, GError **error)
{
    grpc_ssl_server_certificate_config *config = load(server, error);

    if (!config)
        return NULL;
    grpc_ssl_server_certificate_config_destroy(config);
    return grpc_ssl_server_credentials_create_with_options(
        grpc_ssl_server_credentials_create_options_using_config_fetcher(
            GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY, fetch, server));
}
