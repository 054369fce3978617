#include "common/rpc_client.h"

#include "common/error.h"
#include "common/grpc_log.h"
#include "common/rpc_client_words.h"
#include "common/tls.h"

#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/support/alloc.h>
#include <grpc/support/time.h>
#include <string.h>

#define REPLY_MAX (4 * 1024 * 1024)
#define WINDOW_DEFAULT 64
#define CONNECT_TIMEOUT_MS 10000

typedef struct _Call Call;

/* What the completion queue gives back: the function that goes on with the call. */
typedef struct {
    void (*func)(Call *call, gboolean ok);
    Call *call;
} Tag;

struct _CkptRpcClient {
    grpc_completion_queue *queue;
    grpc_channel_credentials *credentials;
    GHashTable *channels; /* address → CkptRpcChannel */
    GQueue waiting;       /* Calls that the window holds back */
    guint window;
    GMutex lock;         /* guards the rest: a GCancellable is cancelled on any thread */
    GHashTable *running; /* set of Calls */
    gboolean cancelled;
};

struct _CkptRpcChannel {
    CkptRpcClient *client;
    char *address;
    grpc_channel *core; /* NULL before the first call and after a close */
    guint calls;        /* waiting or running */
    gboolean closing;
    CkptConnectionHistory history;
};

struct _Call {
    CkptRpcClient *client;
    CkptRpcChannel *channel;
    char *method;
    GBytes *request;
    guint timeout_ms;
    CkptRpcEventFunc on_event; /* NULL for a unary call */
    CkptRpcReplyFunc on_end;
    gpointer data;

    grpc_call *core;
    Tag started, received, ended;
    guint pending; /* tags that the queue still owes */
    grpc_metadata_array initial, trailing;
    grpc_byte_buffer *message;
    grpc_status_code code;
    grpc_slice details;
    GBytes *reply;
    gboolean failed_early; /* the request could not be handed to the core */
};

static void receive_next(Call *call);

static void
call_free(Call *call)
{
    grpc_metadata_array_destroy(&call->initial);
    grpc_metadata_array_destroy(&call->trailing);
    grpc_slice_unref(call->details);
    if (call->core)
        grpc_call_unref(call->core);
    g_clear_pointer(&call->reply, g_bytes_unref);
    g_bytes_unref(call->request);
    g_free(call->method);
    g_free(call);
}

static CkptRpcStatus *
call_status(Call *call)
{
    g_autofree char *text = g_strndup((const char *)GRPC_SLICE_START_PTR(call->details),
                                      GRPC_SLICE_LENGTH(call->details));
    CkptRpcStatus *status;
    gboolean connecting;

    if (call->code == GRPC_STATUS_OK && !call->on_event && !call->reply)
        return ckpt_rpc_status_new(GRPC_STATUS_INTERNAL, "the agent answered OK without a reply");
    if (call->code == GRPC_STATUS_OK)
        return ckpt_rpc_status_new(GRPC_STATUS_OK, NULL);
    status = ckpt_rpc_status_new(call->code, text);
    for (gsize i = 0; i < call->trailing.count; i++) {
        const grpc_metadata *entry = &call->trailing.metadata[i];

        if (grpc_slice_str_cmp(entry->key, "grpc-status-details-bin") == 0 &&
            ckpt_rpc_status_unpack(status, GRPC_SLICE_START_PTR(entry->value),
                                   GRPC_SLICE_LENGTH(entry->value)))
            return status;
    }
    ckpt_rpc_status_free(status);
    connecting =
        grpc_channel_check_connectivity_state(call->channel->core, 0) != GRPC_CHANNEL_READY;
    return ckpt_rpc_words(call->code, text, call->channel->address, call->channel->history,
                          connecting, call->timeout_ms);
}

static void
channel_release_if_closing(CkptRpcChannel *channel)
{
    if (!channel->closing || channel->calls > 0)
        return;
    channel->closing = FALSE;
    if (channel->core)
        grpc_channel_destroy(channel->core);
    channel->core = NULL;
}

/* The one end of every call, started or not. */
static void
call_end(Call *call, const CkptRpcStatus *status)
{
    CkptRpcChannel *channel = call->channel;

    g_mutex_lock(&call->client->lock);
    g_hash_table_remove(call->client->running, call);
    g_mutex_unlock(&call->client->lock);
    if (call->on_end)
        call->on_end(status, status->code == GRPC_STATUS_OK ? call->reply : NULL, call->data);
    channel->calls--;
    call_free(call);
    channel_release_if_closing(channel);
}

static void
tag_done(Call *call)
{
    g_autoptr(CkptRpcStatus) status = NULL;

    if (--call->pending > 0)
        return;
    if (call->failed_early)
        status = ckpt_rpc_status_new(GRPC_STATUS_INTERNAL, "gRPC did not take the request");
    else
        status = call_status(call);
    /* Any answer of the agent itself proves the connection; gRPC's own failures are UNAVAILABLE,
     * DEADLINE_EXCEEDED or CANCELLED without details. */
    if (status->code == GRPC_STATUS_OK || status->reason)
        call->channel->history = CKPT_CONNECTION_PROVEN;
    call_end(call, status);
}

static void
on_started(Call *call, gboolean ok)
{
    tag_done(call);
}

static void
on_ended(Call *call, gboolean ok)
{
    tag_done(call);
}

static GBytes *
bytes_from_buffer(grpc_byte_buffer *buffer)
{
    grpc_byte_buffer_reader reader;
    grpc_slice slice;
    GBytes *bytes;

    if (!grpc_byte_buffer_reader_init(&reader, buffer))
        return NULL;
    slice = grpc_byte_buffer_reader_readall(&reader);
    bytes = g_bytes_new(GRPC_SLICE_START_PTR(slice), GRPC_SLICE_LENGTH(slice));
    grpc_slice_unref(slice);
    grpc_byte_buffer_reader_destroy(&reader);
    return bytes;
}

static void
on_received(Call *call, gboolean ok)
{
    g_autoptr(GBytes) bytes = NULL;

    if (call->message) {
        bytes = bytes_from_buffer(call->message);
        g_clear_pointer(&call->message, grpc_byte_buffer_destroy);
    }
    if (ok && bytes) {
        if (!call->on_event) {
            call->reply = g_steal_pointer(&bytes);
        } else {
            call->channel->history = CKPT_CONNECTION_PROVEN;
            if (call->on_event(bytes, call->data))
                receive_next(call);
            else
                grpc_call_cancel(call->core, NULL);
        }
    }
    tag_done(call);
}

/* Starts one batch, whose tag is then owed. */
static void
start_batch(Call *call, const grpc_op *ops, gsize n, Tag *tag)
{
    if (grpc_call_start_batch(call->core, ops, n, tag, NULL) == GRPC_CALL_OK) {
        call->pending++;
    } else {
        call->failed_early = TRUE;
        grpc_call_cancel(call->core, NULL);
    }
}

static void
receive_next(Call *call)
{
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};

    op.data.recv_message.recv_message = &call->message;
    start_batch(call, &op, 1, &call->received);
}

static void
send_request(Call *call)
{
    gsize size;
    gconstpointer data = g_bytes_get_data(call->request, &size);
    grpc_slice slice = grpc_slice_from_copied_buffer(data ? data : "", size);
    grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_op ops[4] = {{.op = GRPC_OP_SEND_INITIAL_METADATA},
                      {.op = GRPC_OP_SEND_MESSAGE},
                      {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT},
                      {.op = GRPC_OP_RECV_INITIAL_METADATA}};

    ops[1].data.send_message.send_message = buffer;
    ops[3].data.recv_initial_metadata.recv_initial_metadata = &call->initial;
    start_batch(call, ops, G_N_ELEMENTS(ops), &call->started);
    grpc_byte_buffer_destroy(buffer);
    grpc_slice_unref(slice);
}

static void
expect_end(Call *call)
{
    grpc_op op = {.op = GRPC_OP_RECV_STATUS_ON_CLIENT};

    op.data.recv_status_on_client.trailing_metadata = &call->trailing;
    op.data.recv_status_on_client.status = &call->code;
    op.data.recv_status_on_client.status_details = &call->details;
    start_batch(call, &op, 1, &call->ended);
}

static grpc_arg
int_arg(const char *key, int value)
{
    return (grpc_arg){.type = GRPC_ARG_INTEGER, .key = (char *)key, .value.integer = value};
}

/* Literal addresses need no resolver; a name goes to the system's own (nsswitch), see client_new.
 */
static char *
target_of(const char *address)
{
    g_autofree char *host = NULL;
    const char *colon = strrchr(address, ':');

    if (address[0] == '[')
        return g_strconcat("ipv6:", address, NULL);
    host = g_strndup(address, (gsize)(colon - address));
    return g_strconcat(g_hostname_is_ip_address(host) ? "ipv4:" : "dns:///", address, NULL);
}

static void
channel_open(CkptRpcChannel *channel)
{
    g_autofree char *target = target_of(channel->address);
    grpc_arg args[] = {
        /* An agent is never behind a web proxy, not even when the environment names one. */
        int_arg(GRPC_ARG_ENABLE_HTTP_PROXY, 0),
        int_arg(GRPC_ARG_ENABLE_RETRIES, 0),
        int_arg(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1),
        int_arg(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, REPLY_MAX),
        int_arg(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0),
        int_arg(GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1),
        int_arg(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, CONNECT_TIMEOUT_MS),
        int_arg(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 200),
        int_arg(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000),
        /* A call that waits minutes must notice that its host has died. */
        int_arg(GRPC_ARG_KEEPALIVE_TIME_MS, 30000),
        int_arg(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10000),
        int_arg(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0),
        /* Nothing is to be shared with another client of this process. */
        int_arg(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1),
    };
    grpc_channel_args list = {G_N_ELEMENTS(args), args};

    channel->core = grpc_channel_create(target, channel->client->credentials, &list);
}

static gboolean
address_is_valid(const char *address)
{
    const char *colon = strrchr(address, ':');
    guint64 port;

    if (!colon || colon == address || strpbrk(address, "/@?#% \t\r\n") ||
        !g_ascii_string_to_unsigned(colon + 1, 10, 1, 65535, &port, NULL))
        return FALSE;
    if (address[0] == '[')
        return colon[-1] == ']';
    return !memchr(address, ':', (gsize)(colon - address));
}

static void
call_start(Call *call)
{
    CkptRpcChannel *channel = call->channel;
    gpr_timespec deadline = gpr_inf_future(GPR_CLOCK_MONOTONIC);
    grpc_slice method = grpc_slice_from_copied_string(call->method);
    gboolean cancelled;

    if (!channel->core)
        channel_open(channel);
    if (call->timeout_ms)
        deadline = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                                gpr_time_from_millis(call->timeout_ms, GPR_TIMESPAN));
    call->core = grpc_channel_create_call(channel->core, NULL, GRPC_PROPAGATE_DEFAULTS,
                                          call->client->queue, method, NULL, deadline, NULL);
    grpc_slice_unref(method);
    g_mutex_lock(&call->client->lock);
    g_hash_table_add(call->client->running, call);
    cancelled = call->client->cancelled;
    g_mutex_unlock(&call->client->lock);
    expect_end(call);
    send_request(call);
    receive_next(call);
    if (cancelled)
        grpc_call_cancel(call->core, NULL);
}

static gboolean
is_cancelled(CkptRpcClient *client)
{
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&client->lock);

    return client->cancelled;
}

static void
start_or_refuse(Call *call)
{
    g_autoptr(CkptRpcStatus) status = NULL;
    g_autofree char *words = NULL;

    if (is_cancelled(call->client)) {
        status = ckpt_rpc_status_new(GRPC_STATUS_CANCELLED, "cancelled before it was sent");
        status->unsent = TRUE;
    } else if (!address_is_valid(call->channel->address)) {
        words = g_strdup_printf("'%s' is not an address: expected host:port or [ipv6]:port",
                                call->channel->address);
        status = ckpt_rpc_status_new(GRPC_STATUS_INVALID_ARGUMENT, words);
    } else {
        call_start(call);
        return;
    }
    call_end(call, status);
}

static guint
running_count(CkptRpcClient *client)
{
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&client->lock);

    return g_hash_table_size(client->running);
}

static void
on_cancellable(GCancellable *cancellable, gpointer data)
{
    CkptRpcClient *client = data;
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&client->lock);
    GHashTableIter iter;
    gpointer call;

    client->cancelled = TRUE;
    g_hash_table_iter_init(&iter, client->running);
    while (g_hash_table_iter_next(&iter, &call, NULL))
        grpc_call_cancel(((Call *)call)->core, NULL);
}

void
ckpt_rpc_client_run(CkptRpcClient *client, GCancellable *cancellable)
{
    gulong handler = 0;

    if (cancellable)
        handler = g_cancellable_connect(cancellable, G_CALLBACK(on_cancellable), client, NULL);
    for (;;) {
        grpc_event event;

        while (client->waiting.length > 0 && running_count(client) < client->window)
            start_or_refuse(g_queue_pop_head(&client->waiting));
        if (running_count(client) == 0 && client->waiting.length == 0)
            break;
        event =
            grpc_completion_queue_next(client->queue, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
        if (event.type == GRPC_OP_COMPLETE) {
            Tag *tag = event.tag;

            tag->func(tag->call, event.success != 0);
        }
    }
    if (handler)
        g_cancellable_disconnect(cancellable, handler);
    g_mutex_lock(&client->lock);
    client->cancelled = FALSE;
    g_mutex_unlock(&client->lock);
}

static void
queue_call(CkptRpcClient *client, CkptRpcChannel *channel, const char *method, GBytes *request,
           guint timeout_ms, CkptRpcEventFunc on_event, CkptRpcReplyFunc on_end, gpointer data)
{
    Call *call = g_new0(Call, 1);

    call->client = client;
    call->channel = channel;
    call->method = g_strdup(method);
    call->request = g_bytes_ref(request);
    call->timeout_ms = timeout_ms;
    call->on_event = on_event;
    call->on_end = on_end;
    call->data = data;
    call->started = (Tag){on_started, call};
    call->received = (Tag){on_received, call};
    call->ended = (Tag){on_ended, call};
    call->details = grpc_empty_slice();
    grpc_metadata_array_init(&call->initial);
    grpc_metadata_array_init(&call->trailing);
    channel->calls++;
    g_queue_push_tail(&client->waiting, call);
}

void
ckpt_rpc_client_call(CkptRpcClient *client, CkptRpcChannel *channel, const char *method,
                     GBytes *request, guint timeout_ms, CkptRpcReplyFunc func, gpointer data)
{
    queue_call(client, channel, method, request, timeout_ms, NULL, func, data);
}

void
ckpt_rpc_client_stream(CkptRpcClient *client, CkptRpcChannel *channel, const char *method,
                       GBytes *request, guint timeout_ms, CkptRpcEventFunc on_event,
                       CkptRpcReplyFunc on_end, gpointer data)
{
    g_assert(on_event);
    queue_call(client, channel, method, request, timeout_ms, on_event, on_end, data);
}

typedef struct {
    GBytes *reply;
    GError **error;
} Sync;

static void
on_sync_reply(const CkptRpcStatus *status, GBytes *reply, gpointer data)
{
    Sync *sync = data;

    if (reply)
        sync->reply = g_bytes_ref(reply);
    ckpt_rpc_status_to_error(status, sync->error);
}

GBytes *
ckpt_rpc_client_call_sync(CkptRpcClient *client, CkptRpcChannel *channel, const char *method,
                          GBytes *request, guint timeout_ms, GCancellable *cancellable,
                          GError **error)
{
    Sync sync = {NULL, error};

    ckpt_rpc_client_call(client, channel, method, request, timeout_ms, on_sync_reply, &sync);
    ckpt_rpc_client_run(client, cancellable);
    return sync.reply;
}

static void
channel_free(gpointer data)
{
    CkptRpcChannel *channel = data;

    if (channel->core)
        grpc_channel_destroy(channel->core);
    g_free(channel->address);
    g_free(channel);
}

CkptRpcChannel *
ckpt_rpc_client_channel(CkptRpcClient *client, const char *address)
{
    CkptRpcChannel *channel = g_hash_table_lookup(client->channels, address);

    if (channel)
        return channel;
    channel = g_new0(CkptRpcChannel, 1);
    channel->client = client;
    channel->address = g_strdup(address);
    g_hash_table_insert(client->channels, channel->address, channel);
    return channel;
}

void
ckpt_rpc_channel_close(CkptRpcChannel *channel)
{
    channel->closing = TRUE;
    channel_release_if_closing(channel);
}

const char *
ckpt_rpc_channel_address(const CkptRpcChannel *channel)
{
    return channel->address;
}

void
ckpt_rpc_client_set_window(CkptRpcClient *client, guint window)
{
    client->window = MAX(window, 1);
}

CkptRpcClient *
ckpt_rpc_client_new(const CkptClientTls *tls, GError **error)
{
    g_auto(CkptTlsPem) pem = {NULL, NULL, NULL};
    grpc_ssl_pem_key_cert_pair pair;
    CkptRpcClient *client;

    if (!ckpt_tls_init(error) || !ckpt_tls_load(tls->ca_file, tls->cert_file, tls->key_file,
                                                CKPT_TLS_CHECK_DATES, &pem, error))
        return NULL;
    /* Names are resolved as everything else on the host resolves them: /etc/hosts, nsswitch. */
    g_setenv("GRPC_DNS_RESOLVER", "native", FALSE);
    ckpt_grpc_log_to_glib(G_LOG_LEVEL_DEBUG);
    grpc_init();
    client = g_new0(CkptRpcClient, 1);
    g_mutex_init(&client->lock);
    client->queue = grpc_completion_queue_create_for_next(NULL);
    pair = (grpc_ssl_pem_key_cert_pair){pem.key, pem.cert};
    client->credentials = grpc_ssl_credentials_create(pem.ca, &pair, NULL, NULL);
    client->channels = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, channel_free);
    client->running = g_hash_table_new(NULL, NULL);
    g_queue_init(&client->waiting);
    client->window = WINDOW_DEFAULT;
    return client;
}

void
ckpt_rpc_client_free(CkptRpcClient *client)
{
    Call *call;

    if (!client)
        return;
    /* Calls that were never run are dropped silently: who frees does not want answers. */
    while ((call = g_queue_pop_head(&client->waiting)))
        call_free(call);
    g_assert(g_hash_table_size(client->running) == 0);
    g_hash_table_unref(client->running);
    g_hash_table_unref(client->channels);
    grpc_channel_credentials_release(client->credentials);
    grpc_completion_queue_shutdown(client->queue);
    while (
        grpc_completion_queue_next(client->queue, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL).type !=
        GRPC_QUEUE_SHUTDOWN)
        continue;
    grpc_completion_queue_destroy(client->queue);
    grpc_shutdown();
    g_mutex_clear(&client->lock);
    g_free(client);
}
