/* The client's side of gRPC: many hosts asked at once on one completion queue, mutual TLS 1.3. */
#pragma once

#include "common/rpc_status.h"

#include <gio/gio.h>

typedef struct {
    const char *ca_file, *cert_file, *key_file; /* PEM */
} CkptClientTls;

typedef struct _CkptRpcClient CkptRpcClient;   /* one completion queue; used from one thread */
typedef struct _CkptRpcChannel CkptRpcChannel; /* one host; connects at its first call */

/* Before any other use of OpenSSL in the process (it is told to speak TLS 1.3 only), and before the
 * first thread. Reads the certificates; an error names the file and what is wrong with it (missing,
 * no PEM, key does not match, expired). */
CkptRpcClient *ckpt_rpc_client_new(const CkptClientTls *tls,
                                   GError **error) G_GNUC_WARN_UNUSED_RESULT;
void ckpt_rpc_client_free(CkptRpcClient *client);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CkptRpcClient, ckpt_rpc_client_free)

/* address: "host:port" or "[::1]:port". The server's certificate must be valid for its host part.
 */
/* The same address gives the same channel; it belongs to the client. A malformed address makes its
 * calls end INVALID_ARGUMENT. */
CkptRpcChannel *ckpt_rpc_client_channel(CkptRpcClient *client, const char *address);
/* Closes the connection once its calls have ended (a connection costs some 170 kB and a descriptor,
 * which a fan-out over thousands of hosts wants back); the next call connects anew. */
void ckpt_rpc_channel_close(CkptRpcChannel *channel);
const char *ckpt_rpc_channel_address(const CkptRpcChannel *channel);

/* Called from ckpt_rpc_client_run(): reply is NULL unless status->code is 0. For a connection that
 * could not be made, the status' message says what to check (unreachable, refused certificate: with
 * TLS 1.3 a client learns of a refusal of its certificate only as a closed connection). */
typedef void (*CkptRpcReplyFunc)(const CkptRpcStatus *status, GBytes *reply, gpointer data);
/* One message of a server stream. Return FALSE to cancel the stream. */
typedef gboolean (*CkptRpcEventFunc)(GBytes *message, gpointer data);

/* Starts (or queues: at most `window` calls are in progress at once, the timeout counts from the
 * start; 0 = none) a unary call. */
void ckpt_rpc_client_call(CkptRpcClient *client, CkptRpcChannel *channel, const char *method,
                          GBytes *request, guint timeout_ms, CkptRpcReplyFunc func, gpointer data);
void ckpt_rpc_client_stream(CkptRpcClient *client, CkptRpcChannel *channel, const char *method,
                            GBytes *request, guint timeout_ms, CkptRpcEventFunc on_event,
                            CkptRpcReplyFunc on_end, gpointer data);
void ckpt_rpc_client_set_window(CkptRpcClient *client, guint window); /* default 64 */

/* Runs until every call has been answered (funcs may start further calls), or cancellable is
 * cancelled (from any thread), which cancels what is running; each func is still called once. */
void ckpt_rpc_client_run(CkptRpcClient *client, GCancellable *cancellable);

/* The same with one call and its reply: the common case of a single host. Not from within a func.
 */
GBytes *ckpt_rpc_client_call_sync(CkptRpcClient *client, CkptRpcChannel *channel,
                                  const char *method, GBytes *request, guint timeout_ms,
                                  GCancellable *cancellable,
                                  GError **error) G_GNUC_WARN_UNUSED_RESULT;
