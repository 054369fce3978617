/* The transport: accepts calls over mutual TLS, hands (identity, method, message bytes) to the
 * service and takes (status, message bytes, stream events) back. The only part of the agent that
 * knows gRPC; it knows nothing of protobuf messages, VMs or roles. */
#pragma once

#include "common/rpc_status.h"

#include <gio/gio.h>

/* Bytes of a request; a larger one is MESSAGE_TOO_LARGE. */
#define CKPT_RPC_MESSAGE_MAX 65536

/* Who is calling, verified by TLS. Never from anything the caller says. */
typedef struct {
    char *identity; /* the certificate's only URI or DNS SAN, "spiffe://…" or "dns:name"; NULL if
                       it has none, several, or the certificate lacks the purpose clientAuth */
    char *why;      /* why identity is NULL, for the refusal and the log; else NULL */
    char *address;  /* "ipv4:127.0.0.1:4711" */
    char *serial;   /* the certificate's serial number, hexadecimal */
    char *fingerprint; /* SHA-256 of the certificate, hexadecimal */
} CkptPeer;

typedef struct _CkptCall CkptCall; /* one call in progress; reference counted, thread-safe */

typedef enum { CKPT_METHOD_UNKNOWN, CKPT_METHOD_UNARY, CKPT_METHOD_SERVER_STREAM } CkptMethodKind;

/* The service as the transport sees it. */
typedef struct {
    /* Called on a transport thread: must not block. Full method name, "/package.Service/Method". Sets
     * *slow for a method that may wait for somebody else (the hypervisor, a network folder): those have
     * handler threads of their own, so that they cannot keep the others waiting. */
    CkptMethodKind (*lookup)(gpointer service, const char *method, gboolean *slow);
    /* Called once per call on a thread of the handler pool. Must lead to exactly one
     * ckpt_call_finish(), now or later, from any thread. Takes a reference if it keeps the call. */
    void (*handle)(gpointer service, CkptCall *call, GBytes *request);
} CkptServiceVtable;

typedef struct {
    const char *listen;    /* "127.0.0.1:7443", "[::1]:0" (0: any free port) */
    const char *ca_file;   /* PEM; clients must chain to it */
    const char *cert_file; /* PEM; re-read for each handshake when it changed */
    const char *key_file;
    guint handler_threads;       /* 0 = 4 */
    guint max_calls;             /* calls in progress at once, more end QUEUE_FULL; 0 = 1024 */
    guint max_connection_age_ms; /* 0 = 600000 */
    guint max_connection_age_grace_ms; /* 0 = 360000 */
    guint handshake_timeout_ms;        /* 0 = 5000 */
    guint body_timeout_ms;             /* from a call's headers to its message; 0 = 10000 */
    guint max_connections; /* more are closed at once, as are more than half of them from
                              one address; 0 = 512 */
} CkptServerOptions;

typedef struct _CkptServer CkptServer;

/* Once per process, before any other gRPC or OpenSSL call: TLS 1.3 only, no session tickets,
 * through OPENSSL_init_ssl with a configuration of our own (grpc-facts.md, 2). */
gboolean ckpt_rpc_init(GError **error) G_GNUC_WARN_UNUSED_RESULT;

CkptServer *ckpt_server_new(const CkptServerOptions *options, const CkptServiceVtable *vtable,
                            gpointer service, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Binds and serves. */
gboolean ckpt_server_start(CkptServer *server, GError **error) G_GNUC_WARN_UNUSED_RESULT;
guint ckpt_server_port(CkptServer *server);
/* Proves on loopback that the running listener refuses TLS 1.2, accepts 1.3, asks for a client
 * certificate, and that accept4() is guarded (accept.h). */
gboolean ckpt_server_prove_tls(CkptServer *server, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* No new calls; waits until its own calls have ended, at most grace_ms, then cancels them and waits
 * until their handlers have finished. Streams are told to end through ckpt_call_is_cancelled(). */
void ckpt_server_stop(CkptServer *server, guint grace_ms);
void ckpt_server_free(CkptServer *server);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CkptServer, ckpt_server_free)

CkptCall *ckpt_call_ref(CkptCall *call);
void ckpt_call_unref(CkptCall *call);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CkptCall, ckpt_call_unref)
const char *ckpt_call_method(CkptCall *call);
const CkptPeer *ckpt_call_peer(CkptCall *call);
/* Milliseconds until the caller's deadline; G_MAXINT64 without one. */
gint64 ckpt_call_remaining_ms(CkptCall *call);
/* TRUE once the caller went away, its deadline passed, or the server is stopping. */
gboolean ckpt_call_is_cancelled(CkptCall *call);
/* Calls func once, on some thread, when that happens (at once if it has). func must not block; it
 * may finish the call. Only one func per call, NULL takes it back; it is neither called nor still
 * running after ckpt_call_finish() (or a further ckpt_call_on_cancel()) returned. So do not hold a
 * lock that func takes while calling one of these two. */
void ckpt_call_on_cancel(CkptCall *call, void (*func)(CkptCall *, gpointer), gpointer data);
/* Queues one message of a stream. FALSE when the caller is gone or the call finished or its queue
 * (256 messages or 1 MiB) is full: a reader that slow is ended by the caller of this function. */
gboolean ckpt_call_send(CkptCall *call, GBytes *message);
/* Ends the call: reply (NULL for a stream or an error) and status (NULL = OK). Sends what is queued
 * first. The second finish of a call is a defect and asserts. */
void ckpt_call_finish(CkptCall *call, GBytes *reply, const CkptRpcStatus *status);
