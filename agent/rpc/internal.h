/* What the files of this folder share. Nobody else includes it. */
#pragma once

#include "agent/rpc/peer.h"
#include "agent/rpc/server.h"
#include "common/tls.h"

#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/support/time.h>

/* What the completion queue gives back. */
typedef struct _CkptTag CkptTag;
struct _CkptTag {
    void (*func)(CkptTag *tag, gboolean ok);
    gpointer data;
};

/* Order of locks: CkptServer.lock, then CkptCall.lock. */
struct _CkptServer {
    /* Set by ckpt_server_new/start, constant afterwards. */
    const CkptServiceVtable *vtable;
    gpointer service;
    char *listen, *ca_file, *cert_file, *key_file;
    guint handler_threads, max_calls, max_connections;
    guint max_connection_age_ms, max_connection_age_grace_ms, handshake_timeout_ms, body_timeout_ms;
    guint port;
    grpc_server *core;
    grpc_completion_queue *queue;
    GThread *thread;
    GThreadPool *pool, *slow_pool; /* handlers; those that may wait for somebody else have their own */
    CkptPeerCache *peers;
    CkptTag shutdown_tag;

    GMutex cert_lock; /* guards cert_stamp; gRPC's handshakes take it */
    char *cert_stamp; /* what stat() said of the three files when they were last read */

    GMutex lock;   /* guards the rest */
    GCond changed; /* calls, armed or shut_down changed */
    gboolean stopping;
    gboolean shut_down; /* the core's shutdown tag has come */
    guint armed;        /* requests for new calls that the core holds */
    GQueue calls;       /* CkptCalls whose core call lives */
    GQueue bodies;      /* CkptCalls that wait for their message, oldest first */
};

typedef enum {
    CKPT_CALL_HANDLER = 1 << 0, /* ckpt_call_finish() has not been called */
    CKPT_CALL_CLOSE = 1 << 1,   /* RECV_CLOSE_ON_SERVER is with the core */
    CKPT_CALL_BODY = 1 << 2,    /* RECV_MESSAGE is with the core */
    CKPT_CALL_SEND = 1 << 3,    /* a send batch is with the core */
} CkptCallBusy;

struct _CkptCall {
    gatomicrefcount refs;
    /* Constant once the handler has the call. */
    char *method;
    CkptMethodKind kind;
    CkptPeer peer;
    gint64 deadline_us; /* monotonic; G_MAXINT64 = none */
    gboolean slow;      /* handled in slow_pool */
    GBytes *request;

    CkptServer *server; /* valid while core is */
    GList link;         /* in server->calls; the server's lock */
    GList body_link;    /* in server->bodies; the server's lock */
    gboolean in_bodies; /* the server's lock */
    gint64 body_deadline_us;

    CkptTag close_tag, body_tag, send_tag;
    int recv_cancelled;
    grpc_byte_buffer *body;

    GMutex lock; /* guards the rest, and every start_batch on core */
    GCond notified;
    grpc_call *core;   /* NULL once nothing is busy */
    guint busy;        /* CkptCallBusy; the core call is released when it is 0 */
    gboolean gone;     /* the caller is: what is sent gets lost */
    gboolean stopping; /* the server is */
    gboolean finished, initial_sent, status_sent;
    void (*on_cancel)(CkptCall *, gpointer);
    gpointer on_cancel_data;
    GThread *notifying; /* the thread that is inside on_cancel */
    GQueue queue;       /* GBytes to be sent */
    gsize queue_bytes;
    GBytes *reply;
    CkptRpcStatus *status;
    GBytes *details;
    grpc_metadata trailing;
};

/* A new call of the core: owned by the core's completions until they have all come. Called with
 * the server's lock. */
CkptCall *ckpt_call_new(CkptServer *server, grpc_call *core, const grpc_call_details *details);
/* Looks its method up and waits for its message, or refuses it. refusal: end it with that. */
void ckpt_call_begin(CkptCall *call, const GError *refusal);
/* On a handler thread: identifies the peer and calls the service. */
void ckpt_call_handle(CkptCall *call);
/* Its message did not come in time. */
void ckpt_call_body_late(CkptCall *call);
/* The server is stopping. */
void ckpt_call_stop(CkptCall *call);

/* Server side of it. */
void ckpt_server_queue_body(CkptServer *server, CkptCall *call);
void ckpt_server_body_came(CkptServer *server, CkptCall *call);
void ckpt_server_handle(CkptServer *server, CkptCall *call);
void ckpt_server_call_over(CkptServer *server, CkptCall *call);

grpc_server_credentials *ckpt_server_credentials(CkptServer *server, GError **error);
