/* Tells of changes of VMs, on a connection of its own: without libvirt's keepalive, since it waits for
 * events only and must not wake an idle agent; that it was lost is told by its socket. */
#include "agent/hypervisor/qemu.h"

#define RETRY_MIN_S 1
#define RETRY_MAX_S 15

/* Counted: a thread that opens, or libvirt that still may call, outlives who watches. */
struct _CkptWatcher {
    char *uri;
    CkptVmChangedFunc func;
    gpointer data;
    CkptMigratedFunc migrated;
    gpointer migrated_data;
    GMutex lock; /* guards all below; held while func is called, so that it is not after stop */
    gboolean stopped;
    virConnectPtr conn; /* NULL = not open */
    virConnectPtr lost; /* to be closed; NULL = none */
    int events;         /* libvirt's number of our callback on either */
    guint retry;        /* source; 0 = none */
    guint retry_s;
};

static gpointer open_in_thread(gpointer data);

static CkptWatcher *
watcher_ref(CkptWatcher *watcher)
{
    return g_atomic_rc_box_acquire(watcher);
}

static void
watcher_clear(gpointer data)
{
    CkptWatcher *watcher = data;

    g_mutex_clear(&watcher->lock);
    g_free(watcher->uri);
}

static void
watcher_unref(gpointer watcher)
{
    g_atomic_rc_box_release_full(watcher, watcher_clear);
}

static void
run_in_thread(CkptWatcher *watcher, GThreadFunc func)
{
    g_thread_unref(g_thread_new("watch-libvirt", func, watcher_ref(watcher)));
}

static void
tell(CkptWatcher *watcher, const char *vm_id)
{
    g_mutex_lock(&watcher->lock);
    if (!watcher->stopped)
        watcher->func(vm_id, watcher->data);
    g_mutex_unlock(&watcher->lock);
}

static void
tell_migrated(CkptWatcher *watcher, const char *vm_id, gboolean away)
{
    g_mutex_lock(&watcher->lock);
    if (!watcher->stopped)
        watcher->migrated(vm_id, away, watcher->migrated_data);
    g_mutex_unlock(&watcher->lock);
}

static int
on_event(virConnectPtr conn, virDomainPtr domain, int event, int detail, void *data)
{
    char uuid[VIR_UUID_STRING_BUFLEN];
    g_autofree char *id = NULL;

    if (event != VIR_DOMAIN_EVENT_DEFINED && event != VIR_DOMAIN_EVENT_STARTED &&
        event != VIR_DOMAIN_EVENT_STOPPED && event != VIR_DOMAIN_EVENT_UNDEFINED &&
        event != VIR_DOMAIN_EVENT_RESUMED) /* so a migration ends */
        return 0;
    if (virDomainGetUUIDString(domain, uuid) < 0)
        return 0;
    id = g_ascii_strdown(uuid, -1);
    if (event == VIR_DOMAIN_EVENT_STOPPED && detail == VIR_DOMAIN_EVENT_STOPPED_MIGRATED)
        tell_migrated(data, id, TRUE);
    else if (event == VIR_DOMAIN_EVENT_STARTED || event == VIR_DOMAIN_EVENT_RESUMED ||
             (event == VIR_DOMAIN_EVENT_DEFINED && detail == VIR_DOMAIN_EVENT_DEFINED_ADDED))
        tell_migrated(data, id, FALSE);
    tell(data, id);
    return 0;
}

static gboolean
on_retry(gpointer data)
{
    CkptWatcher *watcher = data;

    g_mutex_lock(&watcher->lock);
    watcher->retry = 0;
    if (!watcher->stopped)
        run_in_thread(watcher, open_in_thread);
    g_mutex_unlock(&watcher->lock);
    return G_SOURCE_REMOVE;
}

/* Called with the lock held. */
static void
retry_later(CkptWatcher *watcher)
{
    if (watcher->stopped || watcher->retry)
        return;
    watcher->retry_s = CLAMP(watcher->retry_s * 2, RETRY_MIN_S, RETRY_MAX_S);
    watcher->retry = g_timeout_add_seconds_full(G_PRIORITY_DEFAULT, watcher->retry_s, on_retry,
                                                watcher_ref(watcher), watcher_unref);
}

static void
close_connection(virConnectPtr conn, int events)
{
    if (events >= 0)
        virConnectDomainEventDeregisterAny(conn, events);
    virConnectClose(conn);
}

/* Closes what was lost, or is not wanted any more, and unless stopped opens anew. */
static gpointer
reopen_in_thread(gpointer data)
{
    CkptWatcher *watcher = data;
    virConnectPtr lost;
    gboolean stopped;
    int events;

    g_mutex_lock(&watcher->lock);
    lost = g_steal_pointer(&watcher->lost);
    events = watcher->events;
    stopped = watcher->stopped;
    g_mutex_unlock(&watcher->lock);
    if (lost)
        close_connection(lost, events);
    if (!stopped)
        return open_in_thread(watcher);
    watcher_unref(watcher);
    return NULL;
}

/* Called with the lock held. libvirt may be in the middle of its work on this connection, or never
 * answer on it any more: it is closed elsewhere, and nobody waits for that. */
static void
give_up(CkptWatcher *watcher)
{
    watcher->lost = g_steal_pointer(&watcher->conn);
    run_in_thread(watcher, reopen_in_thread);
}

/* From libvirt's event loop. */
static void
on_close(virConnectPtr conn, int reason, void *data)
{
    CkptWatcher *watcher = data;

    g_mutex_lock(&watcher->lock);
    if (!watcher->stopped && watcher->conn == conn) {
        g_message("the connection to libvirt is lost: %s", watcher->uri);
        give_up(watcher);
    }
    g_mutex_unlock(&watcher->lock);
}

static int
subscribe(CkptWatcher *watcher, virConnectPtr conn)
{
    int events = virConnectDomainEventRegisterAny(conn, NULL, VIR_DOMAIN_EVENT_ID_LIFECYCLE,
                                                  VIR_DOMAIN_EVENT_CALLBACK(on_event),
                                                  watcher_ref(watcher), watcher_unref);

    if (events < 0)
        watcher_unref(watcher);
    return events;
}

/* A connection that is lost before its callback is there tells nobody. */
static void
follow(CkptWatcher *watcher, virConnectPtr conn)
{
    if (virConnectRegisterCloseCallback(conn, on_close, watcher_ref(watcher), watcher_unref) < 0)
        watcher_unref(watcher);
    if (virConnectIsAlive(conn) != 1)
        on_close(conn, 0, watcher);
}

/* Takes a reference of the watcher's. */
static gpointer
open_in_thread(gpointer data)
{
    CkptWatcher *watcher = data;
    virConnectPtr conn = virConnectOpen(watcher->uri);
    int events = conn ? subscribe(watcher, conn) : -1;
    gboolean kept = FALSE;

    g_mutex_lock(&watcher->lock);
    if (events >= 0 && !watcher->stopped) {
        watcher->conn = conn;
        watcher->events = events;
        watcher->retry_s = 0;
        kept = TRUE;
        virConnectRef(conn);
        watcher->func(NULL, watcher->data);
    } else {
        retry_later(watcher);
    }
    g_mutex_unlock(&watcher->lock);
    if (kept) {
        follow(watcher, conn);
        virConnectClose(conn);
    } else if (conn) {
        close_connection(conn, events);
    }
    watcher_unref(watcher);
    return NULL;
}

CkptWatcher *
ckpt_watcher_start(const char *uri, CkptVmChangedFunc func, gpointer data, CkptMigratedFunc migrated,
                   gpointer migrated_data)
{
    CkptWatcher *watcher = g_atomic_rc_box_new0(CkptWatcher);

    watcher->uri = g_strdup(uri);
    watcher->func = func;
    watcher->data = data;
    watcher->migrated = migrated;
    watcher->migrated_data = migrated_data;
    watcher->events = -1;
    g_mutex_init(&watcher->lock);
    run_in_thread(watcher, open_in_thread);
    return watcher;
}

void
ckpt_watcher_stop(CkptWatcher *watcher)
{
    if (!watcher)
        return;
    g_mutex_lock(&watcher->lock);
    watcher->stopped = TRUE;
    if (watcher->retry)
        g_source_remove(watcher->retry);
    watcher->retry = 0;
    give_up(watcher);
    g_mutex_unlock(&watcher->lock);
    watcher_unref(watcher);
}
