/* The listener is asked, as a stranger would, which TLS it speaks: a setting that is believed and
 * not in force is worse than none. */
#include "agent/rpc/accept.h"
#include "agent/rpc/internal.h"
#include "common/error.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define TIMEOUT_S 5

typedef struct {
    gboolean hello;     /* our part was sent */
    gboolean handshake; /* completed, as far as a client can tell */
    gboolean asked;     /* the server asked for our certificate */
    gboolean
        refused; /* the server ended it: an alert, or, as gRPC 1.51 does, no more than a close */
    char *why;   /* what ended it, if it was not completed */
} Probe;

static void
on_message(int sent, int version, int type, const void *data, size_t size, SSL *ssl, void *arg)
{
    Probe *probe = arg;

    guint8 message = size > 0 ? *(const guint8 *)data : 0;

    if (type != SSL3_RT_HANDSHAKE)
        return;
    if (sent && message == SSL3_MT_CLIENT_HELLO)
        probe->hello = TRUE;
    if (!sent && message == SSL3_MT_CERTIFICATE_REQUEST)
        probe->asked = TRUE;
}

/* Our own listener; a wildcard is reached through loopback. */
static int
connect_listener(CkptServer *server, GError **error)
{
    g_autoptr(GSocketConnectable) parsed = g_network_address_parse(server->listen, 0, NULL);
    const char *host = parsed ? g_network_address_get_hostname(G_NETWORK_ADDRESS(parsed)) : NULL;
    g_autoptr(GInetAddress) inet = host ? g_inet_address_new_from_string(host) : NULL;
    g_autoptr(GSocketAddress) address = NULL;
    struct sockaddr_storage native;
    struct timeval timeout = {.tv_sec = TIMEOUT_S};
    int fd;

    if (!inet || g_inet_address_get_is_any(inet)) {
        GSocketFamily family = inet ? g_inet_address_get_family(inet) : G_SOCKET_FAMILY_IPV4;

        g_clear_object(&inet);
        inet = g_inet_address_new_loopback(family);
    }
    address = g_inet_socket_address_new(inet, (guint16)server->port);
    if (!g_socket_address_to_native(address, &native, sizeof native, error))
        return -1;
    fd = socket(native.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0) {
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
        if (connect(fd, (struct sockaddr *)&native,
                    (socklen_t)g_socket_address_get_native_size(address)) == 0)
            return fd;
    }
    ckpt_error_set(error, CKPT_REASON_INTERNAL, "cannot connect to the agent's own port %u: %s",
                   server->port, g_strerror(errno));
    if (fd >= 0)
        close(fd);
    return -1;
}

static SSL_CTX *
context_for(CkptServer *server, int version)
{
    static const guint8 h2[] = {2, 'h', '2'};
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());

    if (!context)
        return NULL;
    /* This process' own settings would keep the probe from even asking for 1.2. */
    SSL_CTX_clear_options(context, SSL_OP_NO_TLSv1_2);
    SSL_CTX_set_min_proto_version(context, version);
    SSL_CTX_set_max_proto_version(context, version);
    SSL_CTX_set_alpn_protos(context, h2, sizeof h2);
    SSL_CTX_set_verify(context, SSL_VERIFY_NONE, NULL);
    if (SSL_CTX_use_certificate_chain_file(context, server->cert_file) == 1 &&
        SSL_CTX_use_PrivateKey_file(context, server->key_file, SSL_FILETYPE_PEM) == 1)
        return context;
    SSL_CTX_free(context);
    return NULL;
}

static void
shake_hands(SSL_CTX *context, int fd, Probe *probe)
{
    SSL *ssl = SSL_new(context);

    SSL_set_msg_callback(ssl, on_message);
    SSL_set_msg_callback_arg(ssl, probe);
    SSL_set_fd(ssl, fd);
    ERR_clear_error();
    errno = 0;
    probe->handshake = SSL_connect(ssl) == 1;
    if (!probe->handshake) {
        int failed = errno;
        unsigned long code = ERR_peek_last_error();
        const char *reason = code ? ERR_reason_error_string(code) : NULL;

        /* A time out (EAGAIN) proves nothing. */
        probe->refused = (ERR_GET_LIB(code) == ERR_LIB_SSL &&
                          (ERR_GET_REASON(code) == SSL_R_TLSV1_ALERT_PROTOCOL_VERSION ||
                           ERR_GET_REASON(code) == SSL_R_UNEXPECTED_EOF_WHILE_READING)) ||
                         failed == ECONNRESET || failed == EPIPE;
        probe->why = g_strdup(reason ? reason : g_strerror(failed));
    }
    ERR_clear_error();
    SSL_free(ssl);
}

static gboolean
try_version(CkptServer *server, int version, Probe *probe, GError **error)
{
    SSL_CTX *context;
    int fd = connect_listener(server, error);

    if (fd < 0)
        return FALSE;
    context = context_for(server, version);
    if (context)
        shake_hands(context, fd, probe);
    else
        ckpt_error_set(error, CKPT_REASON_INTERNAL, "cannot prepare a TLS probe");
    close(fd);
    ERR_clear_error();
    SSL_CTX_free(context);
    return context != NULL;
}

static gboolean
unproven(GError **error, const char *what, const char *detail)
{
    ckpt_error_set(error, CKPT_REASON_INTERNAL, "the agent's own listener %s%s%s", what,
                   detail ? ": " : "", detail ? detail : "");
    return FALSE;
}

gboolean
ckpt_server_prove_tls(CkptServer *server, GError **error)
{
    Probe old = {.why = NULL}, current = {.why = NULL};
    g_autofree char *old_why = NULL, *current_why = NULL;
    gboolean tried = try_version(server, TLS1_2_VERSION, &old, error) &&
                     try_version(server, TLS1_3_VERSION, &current, error);

    old_why = old.why;
    current_why = current.why;
    if (!tried)
        return FALSE;
    if (old.handshake)
        return unproven(error, "accepts TLS 1.2", NULL);
    /* Everything but the version is the same in the second probe, which is accepted. */
    if (!old.hello || !old.refused)
        return unproven(error, "does not refuse TLS 1.2 as such", old_why);
    if (!current.handshake)
        return unproven(error, "does not accept TLS 1.3", current_why);
    if (!current.asked)
        return unproven(error, "does not ask for a client certificate", NULL);
    if (ckpt_accept_counts(server->port).accepted == 0)
        return unproven(error, "is not guarded: the executable does not export accept4", NULL);
    return TRUE;
}
