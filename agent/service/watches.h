/* Calls that last: streams of operations' events and of health. None of them holds a thread. Each
 * ends by itself before its connection grows too old. */
#pragma once

#include "agent/core/engine.h"
#include "agent/rpc/server.h"

typedef struct _CkptWatches CkptWatches;
typedef struct _CkptStream CkptStream; /* reference counted */

/* max_streams: of each type at once; one identity has at most a quarter of them. */
CkptWatches *ckpt_watches_new(CkptEngine *engine, guint max_streams);
/* Ends every stream in order, and every later one at once. */
void ckpt_watches_stop(CkptWatches *watches);
void ckpt_watches_free(CkptWatches *watches);

/* What a stream is told. event, tick and farewell are called with the stream's lock held and may
 * only push and close. */
typedef struct {
    /* An event of the engine; NULL: not told. Also before ckpt_stream_begin(), which sorts it in.
     */
    void (*event)(CkptStream *stream, guint64 number, const CkptOperation *operation,
                  guint64 bytes_done, guint64 bytes_total, gpointer data);
    /* Every 5 s; NULL: not needed. */
    void (*tick)(CkptStream *stream, gpointer data);
    /* It ends by itself: a last message to be sent, or NULL. last: the number of the last event
     * sent. */
    GBytes *(*farewell)(guint64 last, gpointer data);
    GDestroyNotify free;
} CkptStreamType;

/* Takes the call over: from now on the stream ends it, at the latest after age_ms, or when the
 * caller is gone or the agent stops. On FALSE (QUEUE_FULL) the call is untouched and data is freed.
 */
CkptStream *ckpt_stream_new(CkptWatches *watches, CkptCall *call, const CkptStreamType *type,
                            gpointer data, guint age_ms, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void ckpt_stream_unref(CkptStream *stream);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CkptStream, ckpt_stream_unref)

/* The present state is pushed first, under the lock, which guards data too. */
void ckpt_stream_lock(CkptStream *stream);
void ckpt_stream_unlock(CkptStream *stream);
/* Then events above `number` follow; those that came meanwhile were held back. */
void ckpt_stream_begin(CkptStream *stream, guint64 number);

/* ---- With the lock ---- */

/* Queues a message with its event's number (0 = none). A reader so slow that too much is queued is
 * ended with QUEUE_FULL. */
void ckpt_stream_push(CkptStream *stream, guint64 number, GBytes *message);
/* The stream ends OK after what is queued. */
void ckpt_stream_close(CkptStream *stream);

/* ---- Without it ---- */

/* Ends it at once, if it has not ended; error NULL: OK. */
void ckpt_stream_end(CkptStream *stream, const GError *error);
