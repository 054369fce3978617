/* grpc.health.v1, for load balancers and probes: SERVING while the agent takes mutations, for
 * which the hypervisor must answer. */
#include "agent/service/internal.h"

#include "grpc/health/v1/health.pb-c.h"

#include <string.h>

#define STATUS(name) GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__##name
#define GRPC_NOT_FOUND 5
#define WAIT_MS 2000

typedef Grpc__Health__V1__HealthCheckResponse__ServingStatus Status;

/* Whether one of the methods belongs to it. */
static gboolean
is_service(const char *name)
{
    gsize size = strlen(name);

    for (guint i = 0; i < ckpt_n_methods; i++)
        if (strncmp(ckpt_methods[i].name + 1, name, size) == 0 &&
            ckpt_methods[i].name[1 + size] == '/')
            return TRUE;
    return FALSE;
}

/* max_wait_ms: for the hypervisor's answer, where none is known. */
static Status
status_of(CkptService *service, const char *name, guint max_wait_ms)
{
    g_autofree char *read_only = NULL;

    if (*name && !is_service(name))
        return STATUS(SERVICE_UNKNOWN);
    if (g_atomic_int_get(&service->stopping))
        return STATUS(NOT_SERVING);
    read_only = ckpt_engine_read_only_reason(service->engine);
    if (read_only || !ckpt_reach_is_up(service->reach, max_wait_ms))
        return STATUS(NOT_SERVING);
    return STATUS(SERVING);
}

static GBytes *
pack_status(Status status)
{
    Grpc__Health__V1__HealthCheckResponse reply = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;

    reply.status = status;
    return ckpt_message_pack(&reply.base);
}

const ProtobufCMessageDescriptor *
ckpt_health_request(void)
{
    return &grpc__health__v1__health_check_request__descriptor;
}

gboolean
ckpt_check_health(const CkptCaller *caller, const ProtobufCMessage *base, GError **error)
{
    const Grpc__Health__V1__HealthCheckRequest *request = (const void *)base;
    Status status = status_of(caller->service, request->service, WAIT_MS);
    g_autoptr(GBytes) reply = NULL;

    if (status == STATUS(SERVICE_UNKNOWN)) {
        g_autoptr(CkptRpcStatus) unknown = ckpt_rpc_status_new(GRPC_NOT_FOUND, "unknown service");

        ckpt_call_finish(caller->call, NULL, unknown);
        return TRUE;
    }
    reply = pack_status(status);
    ckpt_call_finish(caller->call, reply, NULL);
    return TRUE;
}

typedef struct {
    CkptService *service;
    char *name;
    Status sent;
} Health;

static void
health_free(gpointer data)
{
    Health *health = data;

    g_free(health->name);
    g_free(health);
}

static void
push_status(CkptStream *stream, gpointer data, Status status)
{
    Health *health = data;
    g_autoptr(GBytes) message = NULL;

    if (status == health->sent)
        return;
    message = pack_status(status);
    ckpt_stream_push(stream, 0, message);
    health->sent = status;
}

/* On the main loop, which must not wait: the answer asked for here is the next tick's. */
static void
on_tick(CkptStream *stream, gpointer data)
{
    const Health *health = data;

    push_status(stream, data, status_of(health->service, health->name, 0));
}

static GBytes *
farewell(guint64 last, gpointer data)
{
    Health *health = data;

    return g_atomic_int_get(&health->service->stopping) ? pack_status(STATUS(NOT_SERVING)) : NULL;
}

static const CkptStreamType health_type = {
    .tick = on_tick, .farewell = farewell, .free = health_free};

gboolean
ckpt_watch_health(const CkptCaller *caller, const ProtobufCMessage *base, GError **error)
{
    const Grpc__Health__V1__HealthCheckRequest *request = (const void *)base;
    Health *health = g_new0(Health, 1);
    g_autoptr(CkptStream) stream = NULL;
    Status status;

    health->service = caller->service;
    health->name = g_strdup(request->service);
    stream = ckpt_stream_new(caller->service->watches, caller->call, &health_type, health,
                             CKPT_STREAM_AGE_S * 1000, error);
    if (!stream)
        return FALSE;
    status = status_of(caller->service, request->service, WAIT_MS);
    ckpt_stream_lock(stream);
    push_status(stream, health,
                status); /* sent is UNKNOWN, which no status is: something is pushed */
    ckpt_stream_unlock(stream);
    ckpt_stream_begin(stream, 0);
    return TRUE;
}
