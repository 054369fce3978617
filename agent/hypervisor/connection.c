#include "agent/hypervisor/connection.h"

#include "agent/hypervisor/below.h"
#include "agent/hypervisor/stored.h"

/* A libvirtd that does not answer for this long (10 s, twice, and once more) counts as gone, so that no call waits
 * for that for ever. One that answers may still wait for a QEMU: see ask.h. */
#define KEEPALIVE_INTERVAL_S 10
#define KEEPALIVE_COUNT 2
/* An opening has no keepalive yet: it hangs as long as libvirtd does, in a thread of its own. */
#define OPEN_WAIT_S 30
#define OPENINGS_MAX 16

struct _CkptConnection {
    char *uri;
    int hanging; /* atomic; openings whose caller has given up */
    gboolean is_shared;
    GMutex lock;          /* guards shared */
    virConnectPtr shared; /* NULL = not open yet, or not shared */
    CkptStoredVms *stored; /* constant, as are these two */
    CkptBelow *below;
    gboolean is_without_clones;
};

/* A thread's own connection. Two threads that share one and lose it while both wait have crashed
 * libvirt 9.0's client, whose event loop passes from one caller to the next. */
typedef struct {
    CkptConnection *owner; /* acquired */
    virConnectPtr conn;    /* NULL = not open */
} Slot;

/* Counted: a hanging opening outlives its caller. */
typedef struct {
    CkptConnection *owner; /* acquired */
    GMutex lock;           /* guards all below */
    GCond ended;
    gboolean done, abandoned;
    virConnectPtr conn;
    GError *error;
} Opening;

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

static void
free_error(gpointer error)
{
    virFreeError(error);
}

static GPrivate taken = G_PRIVATE_INIT(free_error);

void
ckpt_libvirt_take_error(virErrorPtr error)
{
    virResetLastError();
    g_private_replace(&taken, error);
}

/* NULL: none. */
static virErrorPtr
last_error(void)
{
    virErrorPtr last = virGetLastError();

    if (!last || last->code == VIR_ERR_OK)
        last = g_private_get(&taken);
    return last && last->code != VIR_ERR_OK ? last : NULL;
}

int
ckpt_libvirt_code(void)
{
    virErrorPtr last = last_error();

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

gboolean
ckpt_libvirt_is_away(void)
{
    virErrorPtr last = last_error();

    return last && reason_of(last, CKPT_REASON_HYPERVISOR_FAILED) == CKPT_REASON_HYPERVISOR_UNAVAILABLE;
}

void
ckpt_libvirt_error(GError **error, CkptReason fallback, const char *format, ...)
{
    g_autofree char *code = NULL;
    g_autofree char *words = NULL;
    virErrorPtr last = last_error();
    va_list args;

    va_start(args, format);
    words = g_strdup_vprintf(format, args);
    va_end(args);
    if (!last) {
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
    connection->below = ckpt_below_new();
    return connection;
}

CkptConnection *
ckpt_connection_new_shared(const char *uri)
{
    CkptConnection *connection = ckpt_connection_new(uri);

    connection->is_shared = TRUE;
    return connection;
}

static void
clear_connection(gpointer data)
{
    CkptConnection *connection = data;

    g_clear_pointer(&connection->shared, virConnectClose);
    g_mutex_clear(&connection->lock);
    ckpt_stored_vms_free(connection->stored);
    ckpt_below_free(connection->below);
    g_free(connection->uri);
}

CkptConnection *
ckpt_connection_ref(CkptConnection *connection)
{
    return g_atomic_rc_box_acquire(connection);
}

void
ckpt_connection_free(CkptConnection *connection)
{
    if (connection)
        g_atomic_rc_box_release_full(connection, clear_connection);
}

void
ckpt_connection_set_stored(CkptConnection *connection, CkptStoredVms *stored)
{
    connection->stored = stored;
}

CkptStoredVms *
ckpt_connection_stored(CkptConnection *connection)
{
    return connection->stored;
}

CkptBelow *
ckpt_connection_below(CkptConnection *connection)
{
    return connection->below;
}

void
ckpt_connection_set_without_clones(CkptConnection *connection, gboolean without)
{
    connection->is_without_clones = without;
}

gboolean
ckpt_connection_is_without_clones(const CkptConnection *connection)
{
    return connection->is_without_clones;
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

static void
clear_opening(gpointer data)
{
    Opening *opening = data;

    g_clear_pointer(&opening->conn, virConnectClose);
    g_clear_error(&opening->error);
    g_cond_clear(&opening->ended);
    g_mutex_clear(&opening->lock);
    ckpt_connection_free(opening->owner);
}

static gpointer
open_in_thread(gpointer data)
{
    Opening *opening = data;
    GError *error = NULL;
    virConnectPtr conn = open_connection(opening->owner->uri, &error);

    g_mutex_lock(&opening->lock);
    opening->conn = conn;
    opening->error = error;
    opening->done = TRUE;
    if (opening->abandoned)
        g_atomic_int_add(&opening->owner->hanging, -1);
    g_cond_signal(&opening->ended);
    g_mutex_unlock(&opening->lock);
    g_atomic_rc_box_release_full(opening, clear_opening);
    return NULL;
}

static virConnectPtr
wait_for_opening(Opening *opening, GError **error)
{
    gint64 deadline = g_get_monotonic_time() + OPEN_WAIT_S * G_USEC_PER_SEC;
    virConnectPtr conn;

    g_mutex_lock(&opening->lock);
    while (!opening->done && g_cond_wait_until(&opening->ended, &opening->lock, deadline))
        continue;
    conn = g_steal_pointer(&opening->conn);
    if (!opening->done) {
        opening->abandoned = TRUE;
        g_atomic_int_inc(&opening->owner->hanging);
        ckpt_error_set(error, CKPT_REASON_HYPERVISOR_UNAVAILABLE, "open %s: no answer within %d s",
                       opening->owner->uri, OPEN_WAIT_S);
    } else if (!conn) {
        g_propagate_error(error, g_steal_pointer(&opening->error));
    }
    g_mutex_unlock(&opening->lock);
    return conn;
}

static virConnectPtr
open_within_limit(CkptConnection *connection, GError **error)
{
    Opening *opening;
    virConnectPtr conn;

    if (g_atomic_int_get(&connection->hanging) >= OPENINGS_MAX) {
        ckpt_error_set(error, CKPT_REASON_HYPERVISOR_UNAVAILABLE,
                       "open %s: libvirt answers none of %d earlier attempts", connection->uri,
                       OPENINGS_MAX);
        return NULL;
    }
    opening = g_atomic_rc_box_new0(Opening);
    opening->owner = g_atomic_rc_box_acquire(connection);
    g_mutex_init(&opening->lock);
    g_cond_init(&opening->ended);
    g_thread_unref(g_thread_new("open-libvirt", open_in_thread, g_atomic_rc_box_acquire(opening)));
    conn = wait_for_opening(opening, error);
    g_atomic_rc_box_release_full(opening, clear_opening);
    return conn;
}

static void
slot_free(gpointer data)
{
    Slot *slot = data;

    g_clear_pointer(&slot->conn, virConnectClose);
    ckpt_connection_free(slot->owner);
    g_free(slot);
}

static virConnectPtr
get_shared(CkptConnection *connection, GError **error)
{
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&connection->lock);

    if (!connection->shared)
        connection->shared = open_within_limit(connection, error);
    if (connection->shared)
        virConnectRef(connection->shared);
    return connection->shared;
}

virConnectPtr
ckpt_connection_get(CkptConnection *connection, GError **error)
{
    static GPrivate slots = G_PRIVATE_INIT(slot_free);
    Slot *slot = g_private_get(&slots);

    if (connection->is_shared)
        return get_shared(connection, error);
    if (!slot || slot->owner != connection) {
        slot = g_new0(Slot, 1);
        slot->owner = g_atomic_rc_box_acquire(connection);
        g_private_replace(&slots, slot);
    }
    /* Asked of the local end only, so this does not wait for libvirtd. */
    if (slot->conn && virConnectIsAlive(slot->conn) != 1)
        g_clear_pointer(&slot->conn, virConnectClose);
    if (!slot->conn)
        slot->conn = open_within_limit(connection, error);
    if (slot->conn)
        virConnectRef(slot->conn);
    return slot->conn;
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
