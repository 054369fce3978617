#include "client/fanout.h"

#include <string.h>

#define READ_TIMEOUT_MS 15000 /* unless the user says how long */
#define GRACE_MS 5000      /* for the agent's own "still running" to arrive before our deadline */
#define WAIT_MAX_MS 300000 /* the agent's cap */
#define WAIT_SHARED_MS                                                                             \
    10000 /* when several wait: then one that lost its host is soon tried again */
#define RETRY_MIN_MS 200
#define RETRY_LOST_MS 1000 /* after a connection was lost or refused */

/* The codes that are looked at; see grpc/status.h, which only common/rpc_client may include. */
enum {
    CODE_CANCELLED = 1,
    CODE_UNKNOWN = 2,
    CODE_DEADLINE = 4,
    CODE_EXHAUSTED = 8,
    CODE_INTERNAL = 13,
    CODE_UNAVAILABLE = 14
};

typedef struct {
    CkptFanout *fanout;
    CkptReply reply;
    const char *method;
    const ProtobufCMessage *request; /* of a mutation */
    Vmcheckpoint__V1__RequestOptions *options;
    const ProtobufCMessageDescriptor *reply_type;
    CkptReplyFunc func;
    gpointer data;
    gint64 deadline,
        due;      /* monotonic microseconds, of a mutation: when to give up; when to retry */
    GError *last; /* why it is being retried */
    CkptOutcome last_outcome; /* what it ends with if there is no time to */
    gboolean maybe_begun;     /* a call of it left us, and its answer did not say */
} Job;

struct _CkptFanout {
    CkptClient *client;
    guint jobs, mutations; /* that have not ended */
    GPtrArray *later;      /* Jobs to be tried again in the next round */
};

CkptFanout *
ckpt_fanout_new(CkptClient *client)
{
    CkptFanout *fanout = g_new0(CkptFanout, 1);

    fanout->client = client;
    fanout->later = g_ptr_array_new();
    return fanout;
}

void
ckpt_fanout_free(CkptFanout *fanout)
{
    if (!fanout)
        return;
    g_ptr_array_unref(fanout->later);
    g_free(fanout);
}

static GBytes *
pack(const ProtobufCMessage *message)
{
    gsize size = protobuf_c_message_get_packed_size(message);
    guint8 *data = g_malloc(MAX(size, 1));

    protobuf_c_message_pack(message, data);
    return g_bytes_new_take(data, size);
}

static void
job_end(Job *job, CkptOutcome outcome)
{
    CkptFanout *fanout = job->fanout;

    fanout->jobs--;
    if (job->options)
        fanout->mutations--;
    job->reply.outcome = outcome;
    job->func(&job->reply, job->data);
    pb_free(job->reply.message);
    g_clear_error(&job->reply.error);
    g_clear_error(&job->last);
    g_free(job);
}

/* Like ckpt_rpc_status_to_error(), but what the transport says needs no code's name before it. */
static GError *
error_of(const CkptRpcStatus *status)
{
    GError *error = NULL;

    if (status->reason || status->code != CODE_UNAVAILABLE)
        ckpt_rpc_status_to_error(status, &error);
    else
        ckpt_error_set(&error, CKPT_REASON_INTERNAL, "%s", status->message);
    return error;
}

static GError *
interrupted_error(const Job *job)
{
    return g_error_new_literal(G_IO_ERROR, G_IO_ERROR_CANCELLED,
                               job->options && !job->maybe_begun ? "not begun: interrupted"
                                                                 : "interrupted");
}

static GError *
error_at_end(const Job *job, const CkptRpcStatus *status)
{
    if (!status->reason && status->code == CODE_CANCELLED &&
        g_cancellable_is_cancelled(job->fanout->client->cancellable))
        return interrupted_error(job);
    return error_of(status);
}

static gboolean
decode(Job *job, GBytes *bytes)
{
    gsize size;
    const guint8 *data = g_bytes_get_data(bytes, &size);

    job->reply.message = protobuf_c_message_unpack(job->reply_type, NULL, size, data);
    if (!job->reply.message)
        ckpt_error_set(&job->reply.error, CKPT_REASON_INTERNAL,
                       "the agent's reply cannot be decoded");
    return job->reply.message != NULL;
}

/* Whether this call of a mutation said nothing about the operation's outcome. A code without an
 * agent's reason is gRPC's own word, or that of something between. */
static gboolean
is_inconclusive(const CkptRpcStatus *status)
{
    if (status->reason)
        return strcmp(status->reason, "OPERATION_RUNNING") == 0;
    return status->code == CODE_CANCELLED || status->code == CODE_UNKNOWN ||
           status->code == CODE_DEADLINE || status->code == CODE_INTERNAL ||
           status->code == CODE_UNAVAILABLE;
}

/* What a mutation ends with if this was its last call: nothing that never left us goes on. */
static CkptOutcome
outcome_of(Job *job, const CkptRpcStatus *status)
{
    if (!is_inconclusive(status))
        return CKPT_OUTCOME_FAILED;
    job->maybe_begun = job->maybe_begun || !status->unsent;
    return job->maybe_begun ? CKPT_OUTCOME_UNKNOWN : CKPT_OUTCOME_FAILED;
}

/* After how long it is worth another try, in ms; -1: never. */
static int
retry_delay(const CkptRpcStatus *status)
{
    gboolean busy = status->code == CODE_UNAVAILABLE || status->code == CODE_EXHAUSTED;

    if (status->reason && busy && status->retry_ms > 0)
        return (int)MIN(status->retry_ms, 3600000);
    if (!is_inconclusive(status))
        return -1;
    return status->reason ? RETRY_MIN_MS : RETRY_LOST_MS;
}

static gboolean
will_retry(Job *job, const CkptRpcStatus *status, CkptOutcome outcome)
{
    gint64 now = g_get_monotonic_time();
    int delay = retry_delay(status);

    if (delay < 0 || g_cancellable_is_cancelled(job->fanout->client->cancellable))
        return FALSE;
    job->due = now + MAX(delay, RETRY_MIN_MS) * (gint64)1000;
    if (job->due >= job->deadline)
        return FALSE;
    if (!status->reason && !job->last)
        ckpt_report(job->reply.host->name, NULL, "%s; trying again with the same request id",
                    status->message);
    g_clear_error(&job->last);
    job->last = error_of(status);
    job->last_outcome = outcome;
    g_ptr_array_add(job->fanout->later, job);
    return TRUE;
}

static void
on_mutated(const CkptRpcStatus *status, GBytes *bytes, gpointer data)
{
    Job *job = data;
    CkptOutcome outcome;

    job->reply.code = status->code;
    if (status->code == 0) {
        job_end(job, decode(job, bytes) ? CKPT_OUTCOME_DONE : CKPT_OUTCOME_UNKNOWN);
        return;
    }
    outcome = outcome_of(job, status);
    if (will_retry(job, status, outcome))
        return;
    job->reply.error = error_at_end(job, status);
    job->reply.unreachable = !status->reason && status->code == CODE_UNAVAILABLE;
    job_end(job, outcome);
}

static void
on_read(const CkptRpcStatus *status, GBytes *bytes, gpointer data)
{
    Job *job = data;

    job->reply.code = status->code;
    if (status->code == 0) {
        job_end(job, decode(job, bytes) ? CKPT_OUTCOME_DONE : CKPT_OUTCOME_FAILED);
        return;
    }
    job->reply.error = error_at_end(job, status);
    job->reply.unreachable =
        !status->reason && (status->code == CODE_UNAVAILABLE || status->code == CODE_DEADLINE);
    job_end(job, CKPT_OUTCOME_FAILED);
}

static Job *
job_new(CkptFanout *fanout, const CkptHost *host, const char *method,
        const ProtobufCMessageDescriptor *reply_type, gpointer tag, CkptReplyFunc func,
        gpointer data)
{
    Job *job = g_new0(Job, 1);

    job->fanout = fanout;
    job->reply.host = host;
    job->reply.tag = tag;
    job->method = method;
    job->reply_type = reply_type;
    job->func = func;
    job->data = data;
    fanout->jobs++;
    return job;
}

void
ckpt_fanout_read(CkptFanout *fanout, const CkptHost *host, const char *method,
                 const ProtobufCMessage *request, const ProtobufCMessageDescriptor *reply_type,
                 gpointer tag, CkptReplyFunc func, gpointer data)
{
    Job *job = job_new(fanout, host, method, reply_type, tag, func, data);
    CkptRpcClient *rpc = fanout->client->rpc;
    const CkptSettings *settings = fanout->client->settings;
    g_autoptr(GBytes) bytes = pack(request);

    ckpt_rpc_client_call(rpc, ckpt_rpc_client_channel(rpc, host->address), method, bytes,
                         settings->values[CKPT_SETTING_TIMEOUT] ? settings->timeout_ms
                                                                : READ_TIMEOUT_MS,
                         on_read, job);
}

void
ckpt_fanout_mutate(CkptFanout *fanout, const CkptHost *host, const char *method,
                   const ProtobufCMessage *request, Vmcheckpoint__V1__RequestOptions *options,
                   const ProtobufCMessageDescriptor *reply_type, gpointer tag, CkptReplyFunc func,
                   gpointer data)
{
    Job *job = job_new(fanout, host, method, reply_type, tag, func, data);

    job->request = request;
    job->options = options;
    fanout->mutations++;
    g_ptr_array_add(fanout->later, job);
}

static void
start_mutation(Job *job)
{
    CkptFanout *fanout = job->fanout;
    CkptRpcClient *rpc = fanout->client->rpc;
    Google__Protobuf__Duration wait = GOOGLE__PROTOBUF__DURATION__INIT;
    g_autoptr(GBytes) bytes = NULL;
    gint64 now = g_get_monotonic_time(), left_ms;

    if (job->deadline == 0)
        job->deadline = now + (gint64)fanout->client->settings->timeout_ms * 1000;
    left_ms = MAX((job->deadline - now) / 1000, RETRY_MIN_MS);
    left_ms = MIN(left_ms, fanout->mutations > 1 ? WAIT_SHARED_MS : WAIT_MAX_MS);
    wait.seconds = left_ms / 1000;
    wait.nanos = (int)(left_ms % 1000) * 1000000;
    job->options->wait = &wait;
    bytes = pack(job->request);
    job->options->wait = NULL;
    ckpt_rpc_client_call(rpc, ckpt_rpc_client_channel(rpc, job->reply.host->address), job->method,
                         bytes, (guint)left_ms + GRACE_MS, on_mutated, job);
}

/* Waits until the first of them is due, or somebody interrupts. */
static void
wait_until_due(CkptFanout *fanout)
{
    gint64 first = G_MAXINT64, now;
    GPollFD fd;

    if (fanout->later->len == 0)
        return;
    for (guint i = 0; i < fanout->later->len; i++)
        first = MIN(first, ((Job *)g_ptr_array_index(fanout->later, i))->due);
    now = g_get_monotonic_time();
    if (first <= now || !g_cancellable_make_pollfd(fanout->client->cancellable, &fd))
        return;
    g_poll(&fd, 1, (int)MIN((first - now) / 1000 + 1, 60000));
    g_cancellable_release_fd(fanout->client->cancellable);
}

static void
start_due(CkptFanout *fanout)
{
    g_autoptr(GPtrArray) jobs = g_steal_pointer(&fanout->later);
    gboolean interrupted = g_cancellable_is_cancelled(fanout->client->cancellable);
    gint64 now = g_get_monotonic_time();

    fanout->later = g_ptr_array_new();
    for (guint i = 0; i < jobs->len; i++) {
        Job *job = g_ptr_array_index(jobs, i);

        if (interrupted && job->last && job->last_outcome == CKPT_OUTCOME_UNKNOWN) {
            job->reply.error = g_steal_pointer(&job->last);
            job_end(job, job->last_outcome);
        } else if (interrupted) {
            job->reply.error = interrupted_error(job);
            job_end(job, CKPT_OUTCOME_FAILED);
        } else if (job->due > now) {
            g_ptr_array_add(fanout->later, job);
        } else {
            start_mutation(job);
        }
    }
}

/* In rounds, since the connection's queue knows no timers: a job that is to be tried again waits
 * for the round's end, which WAIT_SHARED_MS bounds. */
void
ckpt_fanout_run(CkptFanout *fanout)
{
    while (fanout->jobs > 0) {
        wait_until_due(fanout);
        start_due(fanout);
        ckpt_rpc_client_run(fanout->client->rpc, fanout->client->cancellable);
    }
}
