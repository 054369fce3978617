#include "agent/hypervisor/connection.h"

/* A libvirtd that does not answer for this long (5 s, five times) counts as gone, so that no call
 * hangs for ever (hazard A10). */
#define KEEPALIVE_INTERVAL_S 5
#define KEEPALIVE_COUNT 5
/* An opening has no keepalive yet: it hangs as long as libvirtd does, in a thread of its own. */
#define OPEN_WAIT_S 30

/* Counted: a hanging opening may outlive its owner. */
struct _CkptConnection {
    char *uri;
    GMutex lock;        /* guards all below; never held over a call that goes to libvirtd */
    GCond opened;
    virConnectPtr conn; /* NULL = not open */
    gboolean opening;   /* a thread is at it */
    guint attempts;     /* openings that ended */
    GError *error;      /* of the last one that ended; NULL = it succeeded */
};

static void
ignore_error(void *data, virErrorPtr error)
{
    /* libvirt prints to stderr unless told otherwise; errors reach us as return values. */
}

static gpointer
register_once(gpointer data)
{
    virSetErrorFunc(NULL, ignore_error);
    /* From 6.0 on libvirt's default event loop is GLib's default main context. It must be there
     * before the first connection is opened. */
    return GINT_TO_POINTER(virEventRegisterDefaultImpl() == 0 && virInitialize() == 0);
}

void
ckpt_domain_list_free(CkptDomainList *domains)
{
    if (!domains)
        return;
    for (virDomainPtr *domain = domains; *domain; domain++)
        virDomainFree(*domain);
    free(domains);
}

int
ckpt_libvirt_code(void)
{
    virErrorPtr last = virGetLastError();

    return last ? last->code : VIR_ERR_OK;
}

static CkptReason
reason_of(const virError *last, CkptReason fallback)
{
    if (last->domain == VIR_FROM_RPC || last->domain == VIR_FROM_REMOTE)
        return CKPT_REASON_HYPERVISOR_UNAVAILABLE;
    switch (last->code) {
    case VIR_ERR_NO_DOMAIN:
        return CKPT_REASON_VM_NOT_FOUND;
    case VIR_ERR_OPERATION_TIMEOUT:
        return CKPT_REASON_VM_BUSY;
    case VIR_ERR_NO_CONNECT:
    case VIR_ERR_INVALID_CONN:
    case VIR_ERR_RPC:
        return CKPT_REASON_HYPERVISOR_UNAVAILABLE;
    default:
        return fallback;
    }
}

void
ckpt_libvirt_error(GError **error, CkptReason fallback, const char *format, ...)
{
    g_autofree char *code = NULL;
    g_autofree char *words = NULL;
    virErrorPtr last = virGetLastError();
    va_list args;

    va_start(args, format);
    words = g_strdup_vprintf(format, args);
    va_end(args);
    if (!last || last->code == VIR_ERR_OK) {
        ckpt_error_set(error, fallback, "%s: libvirt does not say why", words);
        return;
    }
    ckpt_error_set(error, reason_of(last, fallback), "%s: libvirt: %.600s", words,
                   last->message ? last->message : "no message");
    code = g_strdup_printf("%d", last->code);
    ckpt_error_add(error, CKPT_META_LIBVIRT_CODE, code);
}

CkptConnection *
ckpt_connection_new(const char *uri)
{
    static GOnce once = G_ONCE_INIT;
    CkptConnection *connection = g_atomic_rc_box_new0(CkptConnection);

    g_once(&once, register_once, NULL);
    connection->uri = g_strdup(uri);
    g_mutex_init(&connection->lock);
    g_cond_init(&connection->opened);
    return connection;
}

static void
clear_connection(gpointer data)
{
    CkptConnection *connection = data;

    g_clear_pointer(&connection->conn, virConnectClose);
    g_clear_error(&connection->error);
    g_cond_clear(&connection->opened);
    g_mutex_clear(&connection->lock);
    g_free(connection->uri);
}

void
ckpt_connection_free(CkptConnection *connection)
{
    if (connection)
        g_atomic_rc_box_release_full(connection, clear_connection);
}

const char *
ckpt_connection_uri(const CkptConnection *connection)
{
    return connection->uri;
}

static virConnectPtr
open_connection(const char *uri, GError **error)
{
    virConnectPtr conn = virConnectOpen(uri);

    if (!conn) {
        ckpt_libvirt_error(error, CKPT_REASON_HYPERVISOR_UNAVAILABLE, "open %s", uri);
        /* Whatever stood in the way, an unopened connection means this. */
        if (error && *error)
            (*error)->code = CKPT_REASON_HYPERVISOR_UNAVAILABLE;
        return NULL;
    }
    /* In-process drivers (qemu:///embed) have none and need none. */
    if (virConnectSetKeepAlive(conn, KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT) < 0)
        virResetLastError();
    return conn;
}

static gpointer
open_in_thread(gpointer data)
{
    CkptConnection *connection = data;
    GError *error = NULL;
    virConnectPtr conn = open_connection(connection->uri, &error);

    g_mutex_lock(&connection->lock);
    connection->conn = conn;
    g_clear_error(&connection->error);
    connection->error = error;
    connection->opening = FALSE;
    connection->attempts++;
    g_cond_broadcast(&connection->opened);
    g_mutex_unlock(&connection->lock);
    ckpt_connection_free(connection);
    return NULL;
}

/* Called with the lock held, which it lets go of while it waits. */
static void
wait_for_opening(CkptConnection *connection, GError **error)
{
    gint64 deadline = g_get_monotonic_time() + OPEN_WAIT_S * G_USEC_PER_SEC;
    guint attempts = connection->attempts;

    if (!connection->opening) {
        connection->opening = TRUE;
        g_thread_unref(
            g_thread_new("open-libvirt", open_in_thread, g_atomic_rc_box_acquire(connection)));
    }
    while (connection->attempts == attempts &&
           g_cond_wait_until(&connection->opened, &connection->lock, deadline))
        continue;
    if (connection->conn)
        return;
    if (connection->attempts != attempts && connection->error)
        g_propagate_error(error, g_error_copy(connection->error));
    else
        ckpt_error_set(error, CKPT_REASON_HYPERVISOR_UNAVAILABLE, "open %s: no answer within %d s",
                       connection->uri, OPEN_WAIT_S);
}

virConnectPtr
ckpt_connection_get(CkptConnection *connection, GError **error)
{
    virConnectPtr conn;

    g_mutex_lock(&connection->lock);
    /* Asked of the local end only, so this does not wait for libvirtd. */
    if (connection->conn && virConnectIsAlive(connection->conn) != 1)
        g_clear_pointer(&connection->conn, virConnectClose);
    if (!connection->conn)
        wait_for_opening(connection, error);
    conn = connection->conn;
    if (conn)
        virConnectRef(conn);
    g_mutex_unlock(&connection->lock);
    return conn;
}

virDomainPtr
ckpt_connection_lookup(CkptConnection *connection, const char *vm_id, GError **error)
{
    g_autoptr(virConnect) conn = ckpt_connection_get(connection, error);
    virDomainPtr domain;

    if (!conn)
        return NULL;
    domain = virDomainLookupByUUIDString(conn, vm_id);
    if (!domain) {
        ckpt_libvirt_error(error, CKPT_REASON_HYPERVISOR_FAILED, "look up VM %s", vm_id);
        ckpt_error_add(error, CKPT_META_VM, vm_id);
    }
    return domain;
}
