#include "agent/service/watches.h"

#include "common/error.h"

#define PENDING_MAX 8192 /* messages */
#define PENDING_BYTES_MAX (4 * 1024 * 1024)
#define RETRY_MS 50 /* the transport's queue was full: its drain has no event */
#define TICK_S 5
#define SHARE 4 /* one identity has at most a quarter of the streams */

/* Order of locks: CkptWatches.lock, then CkptStream.lock; the transport's calls are made with no
 * more than the stream's. ckpt_call_finish() with neither, since it waits for a running
 * on_cancel(). */
struct _CkptWatches {
    CkptEngine *engine;
    guint max_streams;
    guint watch;
    GMutex lock;        /* guards the rest */
    GPtrArray *streams; /* CkptStream, each a reference */
    gboolean stopped;
};

typedef struct {
    guint64 number;
    GBytes *bytes;
} Message;

struct _CkptStream {
    gatomicrefcount refs;
    CkptWatches *watches;
    CkptCall *call;
    const CkptStreamType *type;
    gpointer data;
    GMutex lock; /* guards the rest */
    gboolean begun, ended;
    gboolean closing; /* ends OK once nothing is pending */
    gboolean overrun; /* too much is pending */
    guint64 last_sent;
    GQueue pending; /* Message */
    gsize pending_bytes;
    GQueue early; /* Message: events before it had begun */
    gboolean in_event;
    GSource *age, *tick, *retry;
};

static void
message_free(Message *message)
{
    g_bytes_unref(message->bytes);
    g_free(message);
}

static CkptStream *
stream_ref(CkptStream *stream)
{
    g_atomic_ref_count_inc(&stream->refs);
    return stream;
}

void
ckpt_stream_unref(CkptStream *stream)
{
    if (!g_atomic_ref_count_dec(&stream->refs))
        return;
    g_queue_clear_full(&stream->pending, (GDestroyNotify)message_free);
    g_queue_clear_full(&stream->early, (GDestroyNotify)message_free);
    stream->type->free(stream->data);
    ckpt_call_unref(stream->call);
    g_mutex_clear(&stream->lock);
    g_free(stream);
}

static void
clear_source(GSource **source)
{
    if (!*source)
        return;
    g_source_destroy(*source);
    g_clear_pointer(source, g_source_unref);
}

/* TRUE for the one that may end the call. */
static gboolean
claim_end(CkptStream *stream)
{
    gboolean mine;

    g_mutex_lock(&stream->lock);
    mine = !stream->ended;
    stream->ended = TRUE;
    clear_source(&stream->age);
    clear_source(&stream->tick);
    clear_source(&stream->retry);
    g_mutex_unlock(&stream->lock);
    return mine;
}

static void
leave(CkptStream *stream)
{
    CkptWatches *watches = stream->watches;
    gboolean found;

    g_mutex_lock(&watches->lock);
    found = g_ptr_array_remove_fast(watches->streams, stream);
    g_mutex_unlock(&watches->lock);
    g_assert(found);
}

void
ckpt_stream_end(CkptStream *stream, const GError *error)
{
    g_autoptr(CkptStream) own = NULL;
    g_autoptr(CkptRpcStatus) status = NULL;

    if (!claim_end(stream))
        return;
    own = stream_ref(stream);
    if (error)
        status = ckpt_rpc_status_from_error(error);
    leave(stream);
    ckpt_call_finish(own->call, NULL, status);
}

/* The reference of a source, taken with the lock. */
static GSource *
add_source(CkptStream *stream, GSource *source, GSourceFunc func)
{
    g_source_set_callback(source, func, stream_ref(stream), (GDestroyNotify)ckpt_stream_unref);
    g_source_attach(source, NULL);
    return source;
}

static gboolean on_retry(gpointer data);

/* Passes on what the transport takes. With the lock. */
static void
pump(CkptStream *stream)
{
    Message *message;

    while (!stream->ended && (message = g_queue_peek_head(&stream->pending))) {
        if (!ckpt_call_send(stream->call, message->bytes)) {
            /* Either its queue is full, or nobody reads: then on_cancel ends it. */
            if (!stream->retry)
                stream->retry = add_source(stream, g_timeout_source_new(RETRY_MS), on_retry);
            return;
        }
        stream->last_sent = MAX(stream->last_sent, message->number);
        stream->pending_bytes -= g_bytes_get_size(message->bytes);
        message_free(g_queue_pop_head(&stream->pending));
    }
}

/* What the functions of the type asked for. Without the lock. */
static void
settle(CkptStream *stream)
{
    g_autoptr(GError) error = NULL;
    gboolean over;

    g_mutex_lock(&stream->lock);
    over = stream->closing && g_queue_is_empty(&stream->pending);
    if (stream->overrun)
        ckpt_error_set(&error, CKPT_REASON_QUEUE_FULL,
                       "the stream was read too slowly: watch again, after the last event read");
    g_mutex_unlock(&stream->lock);
    if (over || error)
        ckpt_stream_end(stream, error);
}

static gboolean
on_retry(gpointer data)
{
    CkptStream *stream = data;

    g_mutex_lock(&stream->lock);
    clear_source(&stream->retry);
    pump(stream);
    g_mutex_unlock(&stream->lock);
    settle(stream);
    return G_SOURCE_REMOVE;
}

static gboolean
on_tick(gpointer data)
{
    CkptStream *stream = data;

    g_mutex_lock(&stream->lock);
    if (!stream->ended)
        stream->type->tick(stream, stream->data);
    pump(stream);
    g_mutex_unlock(&stream->lock);
    settle(stream);
    return G_SOURCE_CONTINUE;
}

/* The stream's time is over, or the agent's. */
static void
expire(CkptStream *stream)
{
    const CkptStreamType *type = stream->type;
    g_autoptr(GBytes) farewell = NULL;

    if (type->farewell) {
        g_mutex_lock(&stream->lock);
        farewell = type->farewell(stream->last_sent, stream->data);
        /* Where it finds no room, the end of the stream says the same. */
        if (farewell && !stream->ended)
            (void)ckpt_call_send(stream->call, farewell);
        g_mutex_unlock(&stream->lock);
    }
    ckpt_stream_end(stream, NULL);
}

static gboolean
on_age(gpointer data)
{
    expire(data);
    return G_SOURCE_REMOVE;
}

static void
on_cancel(CkptCall *call, gpointer data)
{
    CkptStream *stream = data;

    /* Where the agent stops rather than the caller, this is what it hears. */
    expire(stream);
}

void
ckpt_stream_push(CkptStream *stream, guint64 number, GBytes *bytes)
{
    Message *message;

    stream->pending_bytes += g_bytes_get_size(bytes);
    if (stream->pending.length + stream->early.length >= PENDING_MAX ||
        stream->pending_bytes > PENDING_BYTES_MAX) {
        stream->overrun = TRUE;
        return;
    }
    message = g_new(Message, 1);
    message->number = number;
    message->bytes = g_bytes_ref(bytes);
    g_queue_push_tail(stream->in_event && !stream->begun ? &stream->early : &stream->pending,
                      message);
}

void
ckpt_stream_lock(CkptStream *stream)
{
    g_mutex_lock(&stream->lock);
}

void
ckpt_stream_unlock(CkptStream *stream)
{
    g_mutex_unlock(&stream->lock);
}

void
ckpt_stream_begin(CkptStream *stream, guint64 number)
{
    Message *message;

    g_mutex_lock(&stream->lock);
    stream->begun = TRUE;
    /* Else the last message of the present state has it. */
    if (g_queue_is_empty(&stream->pending))
        stream->last_sent = number;
    while ((message = g_queue_pop_head(&stream->early))) {
        if (message->number > number) {
            g_queue_push_tail(&stream->pending, message);
            continue;
        }
        stream->pending_bytes -= g_bytes_get_size(message->bytes);
        message_free(message);
    }
    pump(stream);
    g_mutex_unlock(&stream->lock);
    settle(stream);
}

void
ckpt_stream_close(CkptStream *stream)
{
    stream->closing = TRUE;
}

static void
tell(CkptStream *stream, guint64 number, const CkptOperation *operation, guint64 done,
     guint64 total)
{
    gboolean begun;

    g_mutex_lock(&stream->lock);
    if (!stream->ended && !stream->closing) {
        stream->in_event = TRUE;
        stream->type->event(stream, number, operation, done, total, stream->data);
        stream->in_event = FALSE;
    }
    begun = stream->begun;
    if (begun)
        pump(stream);
    g_mutex_unlock(&stream->lock);
    if (begun)
        settle(stream);
}

/* On the engine's thread. A copy of the list, since a stream may end on the way. */
static void
on_event(guint64 number, const CkptOperation *operation, guint64 done, guint64 total, gpointer data)
{
    CkptWatches *watches = data;
    g_autoptr(GPtrArray) streams =
        g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_stream_unref);

    g_mutex_lock(&watches->lock);
    for (guint i = 0; i < watches->streams->len; i++) {
        CkptStream *stream = g_ptr_array_index(watches->streams, i);

        if (stream->type->event)
            g_ptr_array_add(streams, stream_ref(stream));
    }
    g_mutex_unlock(&watches->lock);
    for (guint i = 0; i < streams->len; i++)
        tell(g_ptr_array_index(streams, i), number, operation, done, total);
}

/* Each type has its own room, so that probes do not take that of watches; and nobody takes more
 * than his share of it. With the lock. */
static const char *
refusal(CkptWatches *watches, const CkptStream *stream)
{
    const char *identity = ckpt_call_peer(stream->call)->identity;
    guint all = 0, own = 0;

    if (watches->stopped)
        return "the agent is stopping";
    for (guint i = 0; i < watches->streams->len; i++) {
        const CkptStream *other = g_ptr_array_index(watches->streams, i);

        if (other->type != stream->type)
            continue;
        all++;
        own += g_strcmp0(ckpt_call_peer(other->call)->identity, identity) == 0;
    }
    if (all >= watches->max_streams)
        return "too many watches at once";
    if (own >= MAX(watches->max_streams / SHARE, 1))
        return "too many watches of this identity at once";
    return NULL;
}

static gboolean
enter(CkptWatches *watches, CkptStream *stream, GError **error)
{
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&watches->lock);

    const char *why = refusal(watches, stream);

    if (why) {
        ckpt_error_set(error, CKPT_REASON_QUEUE_FULL, "%s", why);
        ckpt_error_set_retry_ms(error, 1000);
        return FALSE;
    }
    g_ptr_array_add(watches->streams, stream_ref(stream));
    return TRUE;
}

CkptStream *
ckpt_stream_new(CkptWatches *watches, CkptCall *call, const CkptStreamType *type, gpointer data,
                guint age_ms, GError **error)
{
    g_autoptr(CkptStream) stream = g_new0(CkptStream, 1);

    g_atomic_ref_count_init(&stream->refs);
    g_mutex_init(&stream->lock);
    stream->watches = watches;
    stream->call = ckpt_call_ref(call);
    stream->type = type;
    stream->data = data;
    g_queue_init(&stream->pending);
    g_queue_init(&stream->early);
    if (!enter(watches, stream, error))
        return NULL;
    g_mutex_lock(&stream->lock);
    if (!stream->ended)
        stream->age = add_source(stream, g_timeout_source_new(age_ms), on_age);
    if (!stream->ended && type->tick)
        stream->tick = add_source(stream, g_timeout_source_new_seconds(TICK_S), on_tick);
    g_mutex_unlock(&stream->lock);
    ckpt_call_on_cancel(call, on_cancel, stream);
    return g_steal_pointer(&stream);
}

CkptWatches *
ckpt_watches_new(CkptEngine *engine, guint max_streams)
{
    CkptWatches *watches = g_new0(CkptWatches, 1);

    watches->engine = engine;
    watches->max_streams = max_streams;
    g_mutex_init(&watches->lock);
    watches->streams = g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_stream_unref);
    watches->watch = ckpt_engine_watch(engine, on_event, watches);
    return watches;
}

void
ckpt_watches_stop(CkptWatches *watches)
{
    g_autoptr(GPtrArray) streams =
        g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_stream_unref);

    g_mutex_lock(&watches->lock);
    watches->stopped = TRUE;
    for (guint i = 0; i < watches->streams->len; i++)
        g_ptr_array_add(streams, stream_ref(g_ptr_array_index(watches->streams, i)));
    g_mutex_unlock(&watches->lock);
    for (guint i = 0; i < streams->len; i++)
        expire(g_ptr_array_index(streams, i));
}

void
ckpt_watches_free(CkptWatches *watches)
{
    ckpt_engine_unwatch(watches->engine, watches->watch);
    g_assert(watches->streams->len == 0);
    g_ptr_array_unref(watches->streams);
    g_mutex_clear(&watches->lock);
    g_free(watches);
}
