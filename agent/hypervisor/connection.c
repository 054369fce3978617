#include "agent/hypervisor/connection.h"

#include <string.h>

/* A libvirtd that does not answer for this long (5 s, five times) counts as gone, so that no call
 * hangs for ever (hazard A10). */
#define KEEPALIVE_INTERVAL_S 5
#define KEEPALIVE_COUNT 5

struct _CkptConnection {
    char *uri;
    GMutex lock;           /* guards conn; never held over a call that goes to libvirtd, but for the
                              opening itself */
    virConnectPtr conn;    /* NULL = not open */
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
    CkptConnection *connection = g_new0(CkptConnection, 1);

    g_once(&once, register_once, NULL);
    connection->uri = g_strdup(uri);
    g_mutex_init(&connection->lock);
    return connection;
}

void
ckpt_connection_free(CkptConnection *connection)
{
    if (!connection)
        return;
    g_clear_pointer(&connection->conn, virConnectClose);
    g_mutex_clear(&connection->lock);
    g_free(connection->uri);
    g_free(connection);
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

virConnectPtr
ckpt_connection_get(CkptConnection *connection, GError **error)
{
    virConnectPtr conn;

    g_mutex_lock(&connection->lock);
    /* Asked of the local end only, so this does not wait for libvirtd. */
    if (connection->conn && virConnectIsAlive(connection->conn) != 1)
        g_clear_pointer(&connection->conn, virConnectClose);
    if (!connection->conn)
        connection->conn = open_connection(connection->uri, error);
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
