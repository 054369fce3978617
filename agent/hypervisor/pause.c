/* How long the guest's processors stood still, by QEMU's own STOP and RESUME events. */
#include "agent/hypervisor/qemu.h"

#include <libvirt/libvirt-qemu.h>
#include <string.h>

#define DELIVERY_WAIT_US (2 * G_USEC_PER_SEC)

/* Counted: libvirt's and ours; libvirt gives up its own when it pleases. */
typedef struct {
    GMutex lock; /* guards all below */
    GCond delivered;
    gint64 stopped_us; /* 0 = it runs */
    gint64 paused_us;
    gboolean drained;
} Events;

struct _CkptPause {
    virConnectPtr conn;
    virDomainPtr domain;
    int callback;
    Events *events;
};

static void
events_clear(gpointer data)
{
    Events *events = data;

    g_mutex_clear(&events->lock);
    g_cond_clear(&events->delivered);
}

static void
events_unref(gpointer events)
{
    g_atomic_rc_box_release_full(events, events_clear);
}

static void
on_event(virConnectPtr conn, virDomainPtr domain, const char *event, long long seconds,
         unsigned int micros, const char *details, void *data)
{
    Events *events = data;
    gint64 at_us = (gint64)seconds * G_USEC_PER_SEC + micros;

    g_mutex_lock(&events->lock);
    if (g_str_equal(event, "STOP") && !events->stopped_us)
        events->stopped_us = at_us;
    if (g_str_equal(event, "RESUME") && events->stopped_us) {
        events->paused_us += at_us - events->stopped_us;
        events->stopped_us = 0;
    }
    g_mutex_unlock(&events->lock);
}

CkptPause *
ckpt_pause_begin(virDomainPtr domain)
{
    CkptPause *pause = g_new0(CkptPause, 1);

    pause->events = g_atomic_rc_box_new0(Events);
    g_mutex_init(&pause->events->lock);
    g_cond_init(&pause->events->delivered);
    pause->conn = virDomainGetConnect(domain);
    pause->domain = domain;
    virConnectRef(pause->conn);
    virDomainRef(domain);
    pause->callback = virConnectDomainQemuMonitorEventRegister(
        pause->conn, domain, "^(STOP|RESUME)$", on_event,
        g_atomic_rc_box_acquire(pause->events), events_unref,
        VIR_CONNECT_DOMAIN_QEMU_MONITOR_EVENT_REGISTER_REGEX);
    if (pause->callback < 0) {
        virResetLastError();
        events_unref(pause->events);
    }
    return pause;
}

static gboolean
on_drained(gpointer data)
{
    Events *events = data;

    g_mutex_lock(&events->lock);
    events->drained = TRUE;
    g_cond_signal(&events->delivered);
    g_mutex_unlock(&events->lock);
    return G_SOURCE_REMOVE;
}

/* libvirt sends what QEMU said before the answer to a later question, and hands it on in the default
 * main context: after both, no event is under way any more. */
static void
drain(CkptPause *pause)
{
    gint64 deadline_us = g_get_monotonic_time() + DELIVERY_WAIT_US;
    int state;

    if (virDomainGetState(pause->domain, &state, NULL, 0) < 0)
        virResetLastError();
    g_idle_add_full(G_PRIORITY_LOW, on_drained, g_atomic_rc_box_acquire(pause->events),
                    events_unref);
    g_mutex_lock(&pause->events->lock);
    while (!pause->events->drained &&
           g_cond_wait_until(&pause->events->delivered, &pause->events->lock, deadline_us))
        continue;
    g_mutex_unlock(&pause->events->lock);
}

gint64
ckpt_pause_end(CkptPause *pause)
{
    gint64 paused_us = -1;

    if (pause->callback >= 0) {
        drain(pause);
        g_mutex_lock(&pause->events->lock);
        if (pause->events->drained && !pause->events->stopped_us)
            paused_us = pause->events->paused_us;
        g_mutex_unlock(&pause->events->lock);
        if (virConnectDomainQemuMonitorEventDeregister(pause->conn, pause->callback) < 0)
            virResetLastError();
    }
    events_unref(pause->events);
    virDomainFree(pause->domain);
    virConnectClose(pause->conn);
    g_free(pause);
    return paused_us;
}
