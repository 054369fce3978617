#include "agent/rpc/server.h"

#include "agent/rpc/accept.h"
#include "agent/rpc/internal.h"
#include "common/error.h"
#include "common/grpc_log.h"

#include <string.h>

#define ARMED 8 /* requests for new calls kept with the core; each is renewed at once */
#define POLITE_MS 500

/* A request for the next new call. */
typedef struct {
    CkptTag tag;
    CkptServer *server;
    grpc_call *core;
    grpc_call_details details;
    grpc_metadata_array metadata;
} Arm;

gboolean
ckpt_rpc_init(GError **error)
{
    ckpt_grpc_log_to_glib(G_LOG_LEVEL_MESSAGE);
    /* Read by grpc_init(). An agent resolves nothing; c-ares would only cost memory. */
    g_setenv("GRPC_DNS_RESOLVER", "native", FALSE);
    return ckpt_tls_init(error);
}

CkptServer *
ckpt_server_new(const CkptServerOptions *options, const CkptServiceVtable *vtable, gpointer service,
                GError **error)
{
    g_auto(CkptTlsPem) pem = {NULL, NULL, NULL};
    CkptServer *server;

    if (!ckpt_tls_load(options->ca_file, options->cert_file, options->key_file, 0, &pem, error))
        return NULL;
    grpc_init();
    server = g_new0(CkptServer, 1);
    g_mutex_init(&server->lock);
    g_mutex_init(&server->cert_lock);
    g_cond_init(&server->changed);
    server->peers = ckpt_peer_cache_new();
    g_queue_init(&server->calls);
    g_queue_init(&server->bodies);
    server->vtable = vtable;
    server->service = service;
    server->listen = g_strdup(options->listen);
    server->ca_file = g_strdup(options->ca_file);
    server->cert_file = g_strdup(options->cert_file);
    server->key_file = g_strdup(options->key_file);
    server->handler_threads = options->handler_threads ? options->handler_threads : 4;
    server->max_calls = options->max_calls ? options->max_calls : 1024;
    server->max_connections = options->max_connections ? options->max_connections : 512;
    server->max_connection_age_ms =
        options->max_connection_age_ms ? options->max_connection_age_ms : 600000;
    server->max_connection_age_grace_ms =
        options->max_connection_age_grace_ms ? options->max_connection_age_grace_ms : 360000;
    server->handshake_timeout_ms =
        options->handshake_timeout_ms ? options->handshake_timeout_ms : 5000;
    server->body_timeout_ms = options->body_timeout_ms ? options->body_timeout_ms : 10000;
    return server;
}

static grpc_arg
int_arg(const char *key, int value)
{
    return (grpc_arg){.type = GRPC_ARG_INTEGER, .key = (char *)key, .value.integer = value};
}

static grpc_server *
create_core(CkptServer *server)
{
    grpc_arg args[] = {
        int_arg(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, (int)server->handshake_timeout_ms),
        int_arg(GRPC_ARG_MAX_CONNECTION_AGE_MS, (int)server->max_connection_age_ms),
        int_arg(GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS, (int)server->max_connection_age_grace_ms),
        int_arg(GRPC_ARG_MAX_CONNECTION_IDLE_MS, 300000),
        int_arg(GRPC_ARG_MAX_CONCURRENT_STREAMS, 256),
        /* Twice what is accepted, so that the agent itself can say what is wrong. */
        int_arg(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, 2 * CKPT_RPC_MESSAGE_MAX),
        int_arg(GRPC_ARG_MAX_METADATA_SIZE, 8192),
        /* A compressed message is refused, never unpacked: see take_body() in call.c. */
        int_arg(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0),
        int_arg(GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1),
        int_arg(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10000),
        int_arg(GRPC_ARG_KEEPALIVE_TIME_MS, 60000),
        int_arg(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20000),
        int_arg(GRPC_ARG_HTTP2_BDP_PROBE, 0),
        int_arg(GRPC_ARG_HTTP2_HPACK_TABLE_SIZE_DECODER, 4096),
        int_arg(GRPC_ARG_ENABLE_CHANNELZ, 0),
        /* A second agent on the same port must fail, not take half of the calls. */
        int_arg(GRPC_ARG_ALLOW_REUSEPORT, 0),
    };
    grpc_channel_args list = {G_N_ELEMENTS(args), args};

    return grpc_server_create(&list, NULL);
}

static void on_new_call(CkptTag *tag, gboolean ok);

/* With the lock. */
static void
arm(CkptServer *server)
{
    Arm *request = g_new0(Arm, 1);

    request->tag = (CkptTag){on_new_call, request};
    request->server = server;
    grpc_call_details_init(&request->details);
    grpc_metadata_array_init(&request->metadata);
    if (grpc_server_request_call(server->core, &request->core, &request->details,
                                 &request->metadata, server->queue, server->queue,
                                 &request->tag) != GRPC_CALL_OK)
        g_error("gRPC does not take a request for new calls");
    server->armed++;
}

static void
arm_free(Arm *request)
{
    grpc_call_details_destroy(&request->details);
    grpc_metadata_array_destroy(&request->metadata);
    g_free(request);
}

/* Why a new call cannot be taken; NULL if it can. With the lock. */
static GError *
refusal(CkptServer *server)
{
    GError *error = NULL;

    if (server->stopping) {
        ckpt_error_set(&error, CKPT_REASON_AGENT_STARTING, "the agent is being stopped");
        ckpt_error_set_retry_ms(&error, 5000);
    } else if (server->calls.length > server->max_calls) {
        ckpt_error_set(&error, CKPT_REASON_QUEUE_FULL, "the agent has %u calls in progress",
                       server->max_calls);
        ckpt_error_set_retry_ms(&error, 1000);
    }
    return error;
}

static void
on_new_call(CkptTag *tag, gboolean ok)
{
    Arm *request = tag->data;
    CkptServer *server = request->server;
    g_autoptr(GError) error = NULL;
    CkptCall *call = NULL;

    g_mutex_lock(&server->lock);
    server->armed--;
    if (ok) {
        /* From here on the call counts: a stop waits for it. */
        call = ckpt_call_new(server, request->core, &request->details);
        g_queue_push_tail_link(&server->calls, &call->link);
        error = refusal(server);
        if (!server->stopping)
            arm(server);
    }
    g_cond_broadcast(&server->changed);
    g_mutex_unlock(&server->lock);
    arm_free(request);
    if (call)
        ckpt_call_begin(call, error);
}

static void
on_shut_down(CkptTag *tag, gboolean ok)
{
    CkptServer *server = tag->data;

    g_mutex_lock(&server->lock);
    server->shut_down = TRUE;
    g_cond_broadcast(&server->changed);
    g_mutex_unlock(&server->lock);
}

void
ckpt_server_queue_body(CkptServer *server, CkptCall *call)
{
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&server->lock);

    call->in_bodies = TRUE;
    call->body_deadline_us = g_get_monotonic_time() + (gint64)server->body_timeout_ms * 1000;
    g_queue_push_tail_link(&server->bodies, &call->body_link);
}

void
ckpt_server_body_came(CkptServer *server, CkptCall *call)
{
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&server->lock);

    if (call->in_bodies)
        g_queue_unlink(&server->bodies, &call->body_link);
    call->in_bodies = FALSE;
}

void
ckpt_server_handle(CkptServer *server, CkptCall *call)
{
    g_thread_pool_push(call->slow ? server->slow_pool : server->pool, call, NULL);
}

void
ckpt_server_call_over(CkptServer *server, CkptCall *call)
{
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&server->lock);

    g_queue_unlink(&server->calls, &call->link);
    g_cond_broadcast(&server->changed);
}

/* Ends the calls whose message is late, and says when to look again: never, mostly, so that an idle
 * agent sleeps. */
static gpr_timespec
expire_bodies(CkptServer *server)
{
    for (;;) {
        CkptCall *call;
        gint64 left;

        g_mutex_lock(&server->lock);
        call = g_queue_peek_head(&server->bodies);
        if (!call) {
            g_mutex_unlock(&server->lock);
            return gpr_inf_future(GPR_CLOCK_MONOTONIC);
        }
        left = call->body_deadline_us - g_get_monotonic_time();
        if (left > 0) {
            g_mutex_unlock(&server->lock);
            return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                                gpr_time_from_micros(left, GPR_TIMESPAN));
        }
        g_queue_unlink(&server->bodies, &call->body_link);
        call->in_bodies = FALSE;
        g_mutex_unlock(&server->lock);
        /* It lives: its message's completion comes on this thread only. */
        ckpt_call_body_late(call);
    }
}

/* The transport thread: all of gRPC's input and output, never a handler. One is enough: measured,
 * two are slower for single callers. */
static gpointer
serve(gpointer data)
{
    CkptServer *server = data;

    for (;;) {
        gpr_timespec until = expire_bodies(server);
        grpc_event event = grpc_completion_queue_next(server->queue, until, NULL);

        if (event.type == GRPC_QUEUE_SHUTDOWN)
            return NULL;
        if (event.type == GRPC_OP_COMPLETE) {
            CkptTag *tag = event.tag;

            tag->func(tag, event.success != 0);
        }
    }
}

static void
handle(gpointer call, gpointer server)
{
    ckpt_call_handle(call);
}

/* gRPC says only that it failed; binding once more says why. */
static void
explain_listen(const char *listen, GError **error)
{
    g_autoptr(GError) why = NULL;
    g_autoptr(GSocketConnectable) parsed = g_network_address_parse(listen, 0, &why);
    g_autoptr(GInetAddress) inet = NULL;
    g_autoptr(GSocketAddress) address = NULL;
    g_autoptr(GSocket) sock = NULL;

    if (parsed)
        inet = g_inet_address_new_from_string(
            g_network_address_get_hostname(G_NETWORK_ADDRESS(parsed)));
    if (inet) {
        address =
            g_inet_socket_address_new(inet, g_network_address_get_port(G_NETWORK_ADDRESS(parsed)));
        sock = g_socket_new(g_inet_address_get_family(inet), G_SOCKET_TYPE_STREAM,
                            G_SOCKET_PROTOCOL_TCP, &why);
        if (sock)
            g_socket_bind(sock, address, TRUE, &why);
    }
    ckpt_error_set(error, CKPT_REASON_INVALID_ARGUMENT, "cannot listen on %s: %s", listen,
                   why ? why->message : "not an address with a port");
}

static gboolean
listen_on(CkptServer *server, GError **error)
{
    grpc_server_credentials *credentials = ckpt_server_credentials(server, error);
    int port;

    if (!credentials)
        return FALSE;
    port = grpc_server_add_http2_port(server->core, server->listen, credentials);
    grpc_server_credentials_release(credentials);
    if (port <= 0) {
        explain_listen(server->listen, error);
        return FALSE;
    }
    server->port = (guint)port;
    return ckpt_accept_guard(server->port, server->max_connections, error);
}

gboolean
ckpt_server_start(CkptServer *server, GError **error)
{
    gboolean listening;

    g_assert(!server->core);
    server->queue = grpc_completion_queue_create_for_next(NULL);
    server->core = create_core(server);
    grpc_server_register_completion_queue(server->core, server->queue, NULL);
    server->shutdown_tag = (CkptTag){on_shut_down, server};
    listening = listen_on(server, error);
    server->pool = g_thread_pool_new(handle, server, (int)server->handler_threads, FALSE, NULL);
    server->slow_pool =
        g_thread_pool_new(handle, server, (int)server->handler_threads, FALSE, NULL);
    grpc_server_start(server->core);
    server->thread = g_thread_new("rpc", serve, server);
    if (!listening) {
        ckpt_server_stop(server, 0);
        return FALSE;
    }
    g_mutex_lock(&server->lock);
    for (guint i = 0; i < ARMED; i++)
        arm(server);
    g_mutex_unlock(&server->lock);
    return TRUE;
}

guint
ckpt_server_port(CkptServer *server)
{
    return server->port;
}

/* Tells every call that the server stops; FALSE if it did already or was never started. */
static gboolean
begin_stop(CkptServer *server)
{
    g_autoptr(GPtrArray) calls = g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_call_unref);

    g_mutex_lock(&server->lock);
    if (server->stopping || !server->core) {
        g_mutex_unlock(&server->lock);
        return FALSE;
    }
    server->stopping = TRUE;
    for (GList *link = server->calls.head; link; link = link->next)
        g_ptr_array_add(calls, ckpt_call_ref(link->data));
    g_mutex_unlock(&server->lock);
    grpc_server_shutdown_and_notify(server->core, server->queue, &server->shutdown_tag);
    for (guint i = 0; i < calls->len; i++)
        ckpt_call_stop(g_ptr_array_index(calls, i));
    return TRUE;
}

static gboolean
calls_ended(CkptServer *server)
{
    return server->calls.length == 0 && server->armed == 0;
}

static gboolean
all_ended(CkptServer *server)
{
    /* The core's tag may come while a call of ours lives; starting anything on that call after the
     * queue is shut down would abort the process. */
    return calls_ended(server) && server->shut_down;
}

static void
wait_ended(CkptServer *server, guint grace_ms)
{
    gint64 until = g_get_monotonic_time() + (gint64)grace_ms * 1000;

    g_mutex_lock(&server->lock);
    while (!calls_ended(server) && g_cond_wait_until(&server->changed, &server->lock, until))
        continue;
    /* Connections that are told to go away close by themselves, once their replies are out; who
     * does not close is cut off. */
    until = g_get_monotonic_time() + MIN(grace_ms, POLITE_MS) * 1000;
    while (calls_ended(server) && !server->shut_down &&
           g_cond_wait_until(&server->changed, &server->lock, until))
        continue;
    g_mutex_unlock(&server->lock);
    grpc_server_cancel_all_calls(server->core);
    g_mutex_lock(&server->lock);
    while (!all_ended(server))
        g_cond_wait(&server->changed, &server->lock);
    g_mutex_unlock(&server->lock);
}

void
ckpt_server_stop(CkptServer *server, guint grace_ms)
{
    if (!begin_stop(server))
        return;
    wait_ended(server, grace_ms);
    /* A handler may still be on its way out after its ckpt_call_finish(). */
    g_thread_pool_free(server->pool, FALSE, TRUE);
    g_thread_pool_free(server->slow_pool, FALSE, TRUE);
    grpc_server_destroy(server->core);
    grpc_completion_queue_shutdown(server->queue);
    g_thread_join(server->thread);
    grpc_completion_queue_destroy(server->queue);
    ckpt_accept_unguard(server->port);
}

void
ckpt_server_free(CkptServer *server)
{
    if (!server)
        return;
    ckpt_server_stop(server, 0);
    grpc_shutdown();
    ckpt_peer_cache_free(server->peers);
    g_free(server->cert_stamp);
    g_free(server->listen);
    g_free(server->ca_file);
    g_free(server->cert_file);
    g_free(server->key_file);
    g_cond_clear(&server->changed);
    g_mutex_clear(&server->cert_lock);
    g_mutex_clear(&server->lock);
    g_free(server);
}
