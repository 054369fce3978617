#include "common/rpc_client_words.h"

#include <grpc/status.h>
#include <string.h>

/* Substrings of gRPC 1.51's and OpenSSL 3's messages, the most telling first. */
static const struct {
    const char *found;
    const char *words; /* %s: the address */
    gboolean unsent;   /* no connection was made; "no route" may also end an established one */
} table[] = {
    {"is not in peer certificate", "the certificate of %s is valid, but for another name: use a "
                                   "name that it carries, or give the agent one for this name"},
    {"Hostname Verification", "the certificate of %s is valid, but for another name: use a name "
                              "that it carries, or give the agent one for this name"},
    {"CERTIFICATE_VERIFY_FAILED",
     "the certificate of %s is not trusted: check that it is signed by "
     "the CA given here and has not expired"},
    {"certificate verify failed",
     "the certificate of %s is not trusted: check that it is signed by "
     "the CA given here and has not expired"},
    {"wrong version number", "%s does not speak TLS: check the port"},
    {"packet length too long", "%s does not speak TLS: check the port"},
    {"Cannot check peer: missing selected ALPN", "%s speaks TLS but not gRPC: check the port"},
    {"Connection refused",
     "cannot connect to %s: connection refused: check that the agent is "
     "running there and listens on this port",
     TRUE},
    {"No route to host", "cannot connect to %s: no route to host"},
    {"Network is unreachable", "cannot connect to %s: the network is unreachable"},
    {"DNS resolution failed", "cannot connect to %s: the name is not known", TRUE},
    {"Domain name not found", "cannot connect to %s: the name is not known", TRUE},
    {"Name or service not known", "cannot connect to %s: the name is not known", TRUE},
    {"Name resolution failure", "cannot connect to %s: the name could not be resolved", TRUE},
    {"FD Shutdown", "cannot connect to %s: no answer"},
};

/* How TLS 1.3 shows the refusal of a client's certificate: the client has sent it last and thinks
 * that it is connected. */
static const char *const closed[] = {"Socket closed",
                                     "Connection reset",
                                     "recvmsg",
                                     "handshaker shutdown",
                                     "Broken pipe",
                                     "alert",
                                     "EOF",
                                     "GOAWAY received",
                                     "endpoint",
                                     "Transport closed",
                                     "Handshake read failed"};

static gboolean
contains_any(const char *text, const char *const *words, gsize n)
{
    for (gsize i = 0; i < n; i++)
        if (strstr(text, words[i]))
            return TRUE;
    return FALSE;
}

static char *
unavailable(const char *text, const char *address, CkptConnectionHistory history, gboolean *unsent)
{
    for (gsize i = 0; i < G_N_ELEMENTS(table); i++) {
        g_auto(GStrv) halves = NULL;

        if (!strstr(text, table[i].found))
            continue;
        *unsent = table[i].unsent;
        halves = g_strsplit(table[i].words, "%s", 2);
        return g_strconcat(halves[0], address, halves[1], NULL);
    }
    if (!contains_any(text, closed, G_N_ELEMENTS(closed)))
        return g_strdup_printf("cannot reach %s: %s", address, text);
    if (history == CKPT_CONNECTION_PROVEN)
        return g_strdup_printf("the connection to %s was lost", address);
    return g_strdup_printf(
        "%s closed the connection: most likely it refused this client's certificate (not signed by "
        "the agent's client CA, expired, or without the purpose clientAuth); the agent's log has "
        "the "
        "reason",
        address);
}

CkptRpcStatus *
ckpt_rpc_words(int code, const char *grpc_message, const char *address,
               CkptConnectionHistory history, gboolean connecting, guint timeout_ms)
{
    g_autofree char *words = NULL;
    gboolean unsent = FALSE;
    CkptRpcStatus *status;

    if (code == GRPC_STATUS_DEADLINE_EXCEEDED && connecting) {
        /* Never sent, so it is safe to send it again: not what DEADLINE_EXCEEDED says. */
        words =
            g_strdup_printf("cannot connect to %s: no answer within %u ms", address, timeout_ms);
        code = GRPC_STATUS_UNAVAILABLE;
    } else if (code == GRPC_STATUS_DEADLINE_EXCEEDED) {
        words = g_strdup_printf("%s did not answer within %u ms", address, timeout_ms);
    } else if (code == GRPC_STATUS_UNAVAILABLE) {
        words = unavailable(grpc_message, address, history, &unsent);
    }
    status = ckpt_rpc_status_new(code, words ? words : grpc_message);
    status->unsent = unsent;
    return status;
}
