/* The client's side of gRPC: many hosts asked at once on one completion queue, mutual TLS 1.3. */
#pragma once

#include "common/rpc_status.h"

#include <gio/gio.h>

typedef struct {
    const char *ca_file, *cert_file, *key_file; /* PEM */
} CkptClientTls;

typedef struct _CkptRpcClient CkptRpcClient;   /* one completion queue; used from one thread */
typedef struct _CkptRpcChannel CkptRpcChannel; /* one host; connects at its first call */

/* Reads the certificates; an error names the file and what is wrong with it (missing, no PEM, key
 * does not match, expired). */
CkptRpcClient *ckpt_rpc_client_new(const CkptClientTls *tls, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void ckpt_rpc_client_free(CkptRpcClient *client);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CkptRpcClient, ckpt_rpc_client_free)

/* address: "host:port" or "[::1]:port". The server's certificate must be valid for its host part. */
CkptRpcChannel *ckpt_rpc_client_channel(CkptRpcClient *client, const char *address);

/* Called from ckpt_rpc_client_run(): reply is NULL unless status->code is 0. For a connection that
 * could not be made, the status' message says what to check (unreachable, refused certificate: with
 * TLS 1.3 a client learns of a refusal of its certificate only as a closed connection). */
typedef void (*CkptRpcReplyFunc)(const CkptRpcStatus *status, GBytes *reply, gpointer data);
/* One message of a server stream. Return FALSE to cancel the stream. */
typedef gboolean (*CkptRpcEventFunc)(GBytes *message, gpointer data);

/* Starts (or queues: at most `window` calls are started at once, the timeout counts from the start)
 * a unary call. */
void ckpt_rpc_client_call(CkptRpcClient *client, CkptRpcChannel *channel, const char *method,
                          GBytes *request, guint timeout_ms, CkptRpcReplyFunc func, gpointer data);
void ckpt_rpc_client_stream(CkptRpcClient *client, CkptRpcChannel *channel, const char *method,
                            GBytes *request, guint timeout_ms, CkptRpcEventFunc on_event,
                            CkptRpcReplyFunc on_end, gpointer data);
void ckpt_rpc_client_set_window(CkptRpcClient *client, guint window); /* default 64 */

/* Runs until every call has been answered (funcs may start further calls), or cancellable is
 * cancelled, which cancels what is running; each func is still called once. */
void ckpt_rpc_client_run(CkptRpcClient *client, GCancellable *cancellable);

/* The same with one call and its reply: the common case of a single host. */
GBytes *ckpt_rpc_client_call_sync(CkptRpcClient *client, CkptRpcChannel *channel, const char *method,
                                  GBytes *request, guint timeout_ms, GCancellable *cancellable,
                                  GError **error) G_GNUC_WARN_UNUSED_RESULT;
