#include "agent/rpc/internal.h"
#include "common/error.h"

#include <grpc/byte_buffer_reader.h>
#include <grpc/support/alloc.h>
#include <string.h>

#define QUEUE_MESSAGES 256
#define QUEUE_BYTES 1048576

static void
call_destroy(CkptCall *call)
{
    g_assert(!call->core && !call->notifying);
    g_queue_clear_full(&call->queue, (GDestroyNotify)g_bytes_unref);
    g_clear_pointer(&call->reply, g_bytes_unref);
    g_clear_pointer(&call->request, g_bytes_unref);
    g_clear_pointer(&call->details, g_bytes_unref);
    g_clear_pointer(&call->body, grpc_byte_buffer_destroy);
    ckpt_rpc_status_free(call->status);
    ckpt_peer_clear(&call->peer);
    g_free(call->method);
    g_cond_clear(&call->notified);
    g_mutex_clear(&call->lock);
    g_free(call);
}

CkptCall *
ckpt_call_ref(CkptCall *call)
{
    g_atomic_ref_count_inc(&call->refs);
    return call;
}

void
ckpt_call_unref(CkptCall *call)
{
    if (g_atomic_ref_count_dec(&call->refs))
        call_destroy(call);
}

/* One reason less to keep the core's call; with the last it is released, and the server forgets the
 * call. Takes the lock held and releases it; the call may be gone afterwards. */
static void
not_busy_unlock(CkptCall *call, CkptCallBusy what)
{
    CkptServer *server = call->server;
    grpc_call *core = NULL;

    call->busy &= ~(guint)what;
    if (!call->busy)
        core = g_steal_pointer(&call->core);
    g_mutex_unlock(&call->lock);
    if (!core)
        return;
    grpc_call_unref(core);
    ckpt_server_call_over(server, call);
    ckpt_call_unref(call);
}

static void
start_batch(CkptCall *call, const grpc_op *ops, gsize n, CkptTag *tag, CkptCallBusy busy)
{
    grpc_call_error failed = grpc_call_start_batch(call->core, ops, n, tag, NULL);

    if (failed != GRPC_CALL_OK)
        g_error("gRPC call %s: %s", call->method, grpc_call_error_to_string(failed));
    call->busy |= busy;
}

static grpc_byte_buffer *
buffer_from_bytes(GBytes *bytes)
{
    gsize size;
    gconstpointer data = g_bytes_get_data(bytes, &size);
    grpc_slice slice = grpc_slice_from_copied_buffer(data ? data : "", size);
    grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);

    grpc_slice_unref(slice);
    return buffer;
}

/* Adds the final status to ops; the slices in call->trailing are released after start_batch. */
static void
add_status(CkptCall *call, grpc_op *op, grpc_slice *message)
{
    *op = (grpc_op){.op = GRPC_OP_SEND_STATUS_FROM_SERVER};
    op->data.send_status_from_server.status = (grpc_status_code)call->status->code;
    *message = grpc_slice_from_copied_string(call->status->message);
    op->data.send_status_from_server.status_details = message;
    call->details = ckpt_rpc_status_pack(call->status);
    if (!call->details)
        return;
    call->trailing.key = grpc_slice_from_static_string("grpc-status-details-bin");
    call->trailing.value = grpc_slice_from_copied_buffer(g_bytes_get_data(call->details, NULL),
                                                         g_bytes_get_size(call->details));
    op->data.send_status_from_server.trailing_metadata = &call->trailing;
    op->data.send_status_from_server.trailing_metadata_count = 1;
}

/* Hands the next thing to the core, if there is one and nothing is in flight. With the lock. */
static void
pump(CkptCall *call)
{
    g_autoptr(GBytes) bytes = NULL;
    grpc_byte_buffer *buffer = NULL;
    grpc_slice message = grpc_empty_slice();
    grpc_op ops[3];
    gsize n = 0;

    if ((call->busy & CKPT_CALL_SEND) || call->status_sent)
        return;
    if (call->gone) {
        g_queue_clear_full(&call->queue, (GDestroyNotify)g_bytes_unref);
        call->queue_bytes = 0;
        g_clear_pointer(&call->reply, g_bytes_unref);
    }
    bytes = g_queue_pop_head(&call->queue);
    if (bytes)
        call->queue_bytes -= g_bytes_get_size(bytes);
    else if (!call->finished)
        return;
    else
        bytes = g_steal_pointer(&call->reply);

    if (!call->initial_sent)
        ops[n++] = (grpc_op){.op = GRPC_OP_SEND_INITIAL_METADATA};
    call->initial_sent = TRUE;
    if (bytes) {
        buffer = buffer_from_bytes(bytes);
        ops[n] = (grpc_op){.op = GRPC_OP_SEND_MESSAGE};
        ops[n++].data.send_message.send_message = buffer;
    }
    if (call->finished && call->queue.length == 0 && !call->reply) {
        add_status(call, &ops[n++], &message);
        call->status_sent = TRUE;
    }
    start_batch(call, ops, n, &call->send_tag, CKPT_CALL_SEND);
    if (buffer)
        grpc_byte_buffer_destroy(buffer);
    grpc_slice_unref(message);
    if (call->status_sent && call->details)
        grpc_slice_unref(call->trailing.value);
}

static void
on_sent(CkptTag *tag, gboolean ok)
{
    CkptCall *call = tag->data;

    g_mutex_lock(&call->lock);
    if (!ok)
        call->gone = TRUE;
    call->busy &= ~(guint)CKPT_CALL_SEND;
    pump(call);
    /* A caller that has sent no message, or has not ended its half, would keep the core's call. */
    if (call->status_sent && (call->busy & CKPT_CALL_BODY))
        grpc_call_cancel(call->core, NULL);
    not_busy_unlock(call, 0);
}

/* Runs on_cancel, once, without the lock. */
static void
notify_unlock(CkptCall *call)
{
    void (*func)(CkptCall *, gpointer) = call->on_cancel;
    gpointer data = call->on_cancel_data;

    call->on_cancel = NULL;
    if (func)
        call->notifying = g_thread_self();
    g_mutex_unlock(&call->lock);
    if (!func)
        return;
    /* func may finish the call and drop the last reference. */
    ckpt_call_ref(call);
    func(call, data);
    g_mutex_lock(&call->lock);
    call->notifying = NULL;
    g_cond_broadcast(&call->notified);
    g_mutex_unlock(&call->lock);
    ckpt_call_unref(call);
}

static void
on_close(CkptTag *tag, gboolean ok)
{
    CkptCall *call = tag->data;

    g_mutex_lock(&call->lock);
    if (call->recv_cancelled) {
        call->gone = TRUE;
        notify_unlock(call);
        g_mutex_lock(&call->lock);
        pump(call);
    }
    not_busy_unlock(call, CKPT_CALL_CLOSE);
}

static void
refuse(CkptCall *call, CkptReason reason, const char *message, guint retry_ms)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptRpcStatus) status = NULL;

    ckpt_error_set(&error, reason, "%s", message);
    ckpt_error_set_retry_ms(&error, retry_ms);
    status = ckpt_rpc_status_from_error(error);
    ckpt_call_finish(call, NULL, status);
}

/* NULL with *reason and *message set when the service shall not see it. */
static GBytes *
take_body(CkptCall *call, CkptReason *reason, const char **message)
{
    grpc_byte_buffer_reader reader;
    grpc_slice slice;
    GBytes *bytes;

    *reason = CKPT_REASON_INVALID_ARGUMENT;
    *message = "the call has no request message";
    if (!call->body)
        return NULL;
    /* A few kilobytes may unpack to gigabytes; no client needs it. */
    if (call->body->data.raw.compression != GRPC_COMPRESS_NONE) {
        *reason = CKPT_REASON_NOT_IMPLEMENTED;
        *message = "compressed requests are not accepted";
        return NULL;
    }
    if (grpc_byte_buffer_length(call->body) > CKPT_RPC_MESSAGE_MAX) {
        *reason = CKPT_REASON_MESSAGE_TOO_LARGE;
        *message = "the request has more than 64 KiB";
        return NULL;
    }
    if (!grpc_byte_buffer_reader_init(&reader, call->body))
        return NULL;
    slice = grpc_byte_buffer_reader_readall(&reader);
    bytes = g_bytes_new(GRPC_SLICE_START_PTR(slice), GRPC_SLICE_LENGTH(slice));
    grpc_slice_unref(slice);
    grpc_byte_buffer_reader_destroy(&reader);
    return bytes;
}

static void
on_body(CkptTag *tag, gboolean ok)
{
    CkptCall *call = tag->data;
    CkptReason reason;
    const char *message;
    gboolean finished;

    ckpt_server_body_came(call->server, call);
    g_mutex_lock(&call->lock);
    finished = call->finished; /* it came too late */
    g_mutex_unlock(&call->lock);
    if (!finished) {
        call->request = take_body(call, &reason, &message);
        g_clear_pointer(&call->body, grpc_byte_buffer_destroy);
        if (call->request)
            ckpt_server_handle(call->server, call);
        else
            refuse(call, reason, message, 0);
    }
    g_mutex_lock(&call->lock);
    not_busy_unlock(call, CKPT_CALL_BODY);
}

void
ckpt_call_body_late(CkptCall *call)
{
    refuse(call, CKPT_REASON_INVALID_ARGUMENT, "the request message did not come in time", 0);
}

static gint64
deadline_of(const grpc_call_details *details)
{
    gpr_timespec left;

    if (gpr_time_cmp(details->deadline, gpr_inf_future(details->deadline.clock_type)) == 0)
        return G_MAXINT64;
    left = gpr_time_sub(details->deadline, gpr_now(details->deadline.clock_type));
    return g_get_monotonic_time() + gpr_timespec_to_micros(left);
}

CkptCall *
ckpt_call_new(CkptServer *server, grpc_call *core, const grpc_call_details *details)
{
    CkptCall *call = g_new0(CkptCall, 1);

    g_atomic_ref_count_init(&call->refs); /* the core's completions' reference */
    g_mutex_init(&call->lock);
    g_cond_init(&call->notified);
    g_queue_init(&call->queue);
    call->server = server;
    call->core = core;
    call->method = g_strndup((const char *)GRPC_SLICE_START_PTR(details->method),
                             GRPC_SLICE_LENGTH(details->method));
    call->deadline_us = deadline_of(details);
    call->link.data = call;
    call->body_link.data = call;
    call->close_tag = (CkptTag){on_close, call};
    call->body_tag = (CkptTag){on_body, call};
    call->send_tag = (CkptTag){on_sent, call};
    call->busy = CKPT_CALL_HANDLER;
    return call;
}

static void
expect_close(CkptCall *call)
{
    grpc_op op = {.op = GRPC_OP_RECV_CLOSE_ON_SERVER};

    op.data.recv_close_on_server.cancelled = &call->recv_cancelled;
    start_batch(call, &op, 1, &call->close_tag, CKPT_CALL_CLOSE);
}

static void
expect_body(CkptCall *call)
{
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};

    op.data.recv_message.recv_message = &call->body;
    start_batch(call, &op, 1, &call->body_tag, CKPT_CALL_BODY);
}

void
ckpt_call_begin(CkptCall *call, const GError *refusal)
{
    CkptServer *server = call->server;

    g_mutex_lock(&call->lock);
    expect_close(call);
    g_mutex_unlock(&call->lock);
    if (refusal) {
        g_autoptr(CkptRpcStatus) status = ckpt_rpc_status_from_error(refusal);

        ckpt_call_finish(call, NULL, status);
        return;
    }
    call->kind = server->vtable->lookup(server->service, call->method, &call->slow);
    if (call->kind == CKPT_METHOD_UNKNOWN) {
        g_autofree char *message = g_strdup_printf("no such method: %s", call->method);

        refuse(call, CKPT_REASON_NOT_IMPLEMENTED, message, 0);
        return;
    }
    ckpt_server_queue_body(server, call);
    g_mutex_lock(&call->lock);
    expect_body(call);
    g_mutex_unlock(&call->lock);
}

static void
identify(CkptCall *call)
{
    grpc_auth_context *context = grpc_call_auth_context(call->core);
    grpc_auth_property_iterator iterator =
        grpc_auth_context_find_properties_by_name(context, GRPC_X509_PEM_CERT_PROPERTY_NAME);
    const grpc_auth_property *pem = grpc_auth_property_iterator_next(&iterator);
    char *address = grpc_call_get_peer(call->core);

    ckpt_peer_identify(call->server->peers, &call->peer, pem ? pem->value : NULL);
    call->peer.address = g_strdup(address);
    gpr_free(address);
    grpc_auth_context_release(context);
}

static gboolean
is_abandoned(CkptCall *call)
{
    gboolean gone;

    g_mutex_lock(&call->lock);
    gone = call->gone;
    g_mutex_unlock(&call->lock);
    return gone || ckpt_call_remaining_ms(call) == 0;
}

void
ckpt_call_handle(CkptCall *call)
{
    g_autoptr(GBytes) request = g_steal_pointer(&call->request);

    /* Nobody would see what it costs to answer. A mutation that was not begun may be sent again. */
    if (is_abandoned(call)) {
        g_autoptr(CkptRpcStatus) status = ckpt_rpc_status_new(
            GRPC_STATUS_CANCELLED, "the caller was gone before the call's turn came");

        ckpt_call_finish(call, NULL, status);
        return;
    }
    /* core is valid: the handler has not finished. */
    identify(call);
    call->server->vtable->handle(call->server->service, call, request);
}

void
ckpt_call_stop(CkptCall *call)
{
    g_mutex_lock(&call->lock);
    call->stopping = TRUE;
    notify_unlock(call);
}

const char *
ckpt_call_method(CkptCall *call)
{
    return call->method;
}

const CkptPeer *
ckpt_call_peer(CkptCall *call)
{
    return &call->peer;
}

gint64
ckpt_call_remaining_ms(CkptCall *call)
{
    if (call->deadline_us == G_MAXINT64)
        return G_MAXINT64;
    return MAX(call->deadline_us - g_get_monotonic_time(), 0) / 1000;
}

static gboolean
is_over(CkptCall *call)
{
    return call->gone || call->stopping;
}

gboolean
ckpt_call_is_cancelled(CkptCall *call)
{
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&call->lock);

    return is_over(call);
}

/* Waits until on_cancel has returned, unless this is on_cancel. With the lock. */
static void
wait_notified(CkptCall *call)
{
    while (call->notifying && call->notifying != g_thread_self())
        g_cond_wait(&call->notified, &call->lock);
}

void
ckpt_call_on_cancel(CkptCall *call, void (*func)(CkptCall *, gpointer), gpointer data)
{
    g_mutex_lock(&call->lock);
    wait_notified(call);
    call->on_cancel = call->finished ? NULL : func;
    call->on_cancel_data = data;
    if (is_over(call))
        notify_unlock(call);
    else
        g_mutex_unlock(&call->lock);
}

gboolean
ckpt_call_send(CkptCall *call, GBytes *message)
{
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&call->lock);
    gsize size = g_bytes_get_size(message);

    if (call->gone || call->finished || call->queue.length >= QUEUE_MESSAGES ||
        call->queue_bytes + size > QUEUE_BYTES)
        return FALSE;
    g_queue_push_tail(&call->queue, g_bytes_ref(message));
    call->queue_bytes += size;
    pump(call);
    return TRUE;
}

void
ckpt_call_finish(CkptCall *call, GBytes *reply, const CkptRpcStatus *status)
{
    g_mutex_lock(&call->lock);
    g_assert(!call->finished);
    call->on_cancel = NULL;
    wait_notified(call);
    call->finished = TRUE;
    call->status = status ? ckpt_rpc_status_copy(status) : ckpt_rpc_status_new(0, NULL);
    if (reply && call->status->code == 0)
        call->reply = g_bytes_ref(reply);
    pump(call);
    not_busy_unlock(call, CKPT_CALL_HANDLER);
}
