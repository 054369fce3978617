#include "agent/rpc/accept.h"

#include "common/error.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* A connection that was let in. Nobody tells when it is closed: whether it lives is asked of the
 * kernel, by its cookie, when the limit is reached. */
typedef struct {
    guint64 cookie;
    struct in6_addr source;
} Connection;

typedef struct {
    guint port, max;
    GHashTable *connections; /* descriptor → Connection */
    CkptAcceptCounts counts;
} Guard;

static GMutex lock; /* guards all below */
static GPtrArray *guards;
static int spare = -1; /* given up to take a connection out of the queue when none is left */

int accept4(int fd, struct sockaddr *address, socklen_t *size, int flags);

static int
plain_accept4(int fd, struct sockaddr *address, socklen_t *size, int flags)
{
    return (int)syscall(SYS_accept4, fd, address, size, flags);
}

static void
open_spare(void)
{
    if (spare < 0)
        spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
}

static guint64
socket_cookie(int fd)
{
    guint64 cookie = 0;
    socklen_t size = sizeof cookie;

    if (getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &size) != 0)
        return 0;
    return cookie;
}

/* The address as IPv6, so that 1.2.3.4 and ::ffff:1.2.3.4 are one source. */
static struct in6_addr
source_of(const struct sockaddr_storage *address)
{
    struct in6_addr source = IN6ADDR_ANY_INIT;

    if (address->ss_family == AF_INET6) {
        source = ((const struct sockaddr_in6 *)address)->sin6_addr;
    } else if (address->ss_family == AF_INET) {
        source.s6_addr[10] = source.s6_addr[11] = 0xff;
        memcpy(&source.s6_addr[12], &((const struct sockaddr_in *)address)->sin_addr, 4);
    }
    return source;
}

static gboolean
is_closed(gpointer key, gpointer value, gpointer data)
{
    return socket_cookie(GPOINTER_TO_INT(key)) != ((Connection *)value)->cookie;
}

static guint
count_source(Guard *guard, const struct in6_addr *source)
{
    GHashTableIter iter;
    gpointer value;
    guint count = 0;

    g_hash_table_iter_init(&iter, guard->connections);
    while (g_hash_table_iter_next(&iter, NULL, &value))
        count += IN6_ARE_ADDR_EQUAL(&((Connection *)value)->source, source);
    return count;
}

static gboolean
within_limits(Guard *guard, const struct in6_addr *source)
{
    return g_hash_table_size(guard->connections) < guard->max &&
           count_source(guard, source) < MAX(guard->max / 2, 1);
}

/* Whether the new connection may stay; it is then remembered. */
static gboolean
admit(Guard *guard, int fd, const struct sockaddr_storage *address)
{
    struct in6_addr source = source_of(address);
    Connection *connection;

    /* The number was free, so whatever was known under it is closed. */
    g_hash_table_remove(guard->connections, GINT_TO_POINTER(fd));
    if (!within_limits(guard, &source)) {
        g_hash_table_foreach_remove(guard->connections, is_closed, NULL);
        if (!within_limits(guard, &source)) {
            guard->counts.refused++;
            return FALSE;
        }
    }
    connection = g_new(Connection, 1);
    connection->cookie = socket_cookie(fd);
    connection->source = source;
    g_hash_table_insert(guard->connections, GINT_TO_POINTER(fd), connection);
    guard->counts.accepted++;
    return TRUE;
}

/* With no descriptor left: takes the oldest waiting connection out of the queue and closes it, so
 * that its peer is told and the listener is not left ready for ever. FALSE: nothing was waiting, or
 * even the spare is lost. */
static gboolean
drop_one(Guard *guard, int listener)
{
    int fd;

    if (spare < 0)
        return FALSE;
    close(spare);
    spare = -1;
    fd = plain_accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd >= 0) {
        close(fd);
        guard->counts.starved++;
    }
    open_spare();
    return fd >= 0;
}

/* Never gives gRPC an error that would silence the listener. */
static int
guarded_accept4(Guard *guard, int listener, struct sockaddr *address, socklen_t *size, int flags)
{
    for (;;) {
        struct sockaddr_storage peer = {.ss_family = AF_UNSPEC};
        socklen_t peer_size = sizeof peer;
        int fd;

        open_spare();
        fd = plain_accept4(listener, (struct sockaddr *)&peer, &peer_size, flags);
        if (fd >= 0 && !admit(guard, fd, &peer)) {
            close(fd);
            continue;
        }
        if (fd >= 0) {
            if (address && size) {
                memcpy(address, &peer, MIN(*size, peer_size));
                *size = peer_size;
            }
            return fd;
        }
        switch (errno) {
        case EMFILE:
        case ENFILE:
            if (drop_one(guard, listener))
                continue;
            errno = EAGAIN;
            return -1;
        /* The connection failed while it waited; the next may be well. */
        case EINTR:
        case ECONNABORTED:
        case EPROTO:
        case EPERM:
        case ENETDOWN:
        case ENETUNREACH:
        case EHOSTDOWN:
        case EHOSTUNREACH:
        case ENONET:
        case ENOPROTOOPT:
        case ETIMEDOUT:
            continue;
        /* Out of memory: what waits is seen when the next one knocks. */
        case ENOBUFS:
        case ENOMEM:
            errno = EAGAIN;
            return -1;
        default: /* EAGAIN, or the listener was shut down */
            return -1;
        }
    }
}

static guint
port_of(int fd)
{
    struct sockaddr_storage address = {.ss_family = AF_UNSPEC};
    socklen_t size = sizeof address;

    if (getsockname(fd, (struct sockaddr *)&address, &size) != 0)
        return 0;
    if (address.ss_family == AF_INET)
        return ntohs(((struct sockaddr_in *)&address)->sin_port);
    if (address.ss_family == AF_INET6)
        return ntohs(((struct sockaddr_in6 *)&address)->sin6_port);
    return 0;
}

static Guard *
find_guard(guint port)
{
    for (guint i = 0; port && guards && i < guards->len; i++) {
        Guard *guard = g_ptr_array_index(guards, i);

        if (guard->port == port)
            return guard;
    }
    return NULL;
}

int
accept4(int fd, struct sockaddr *address, socklen_t *size, int flags)
{
    guint port = port_of(fd);
    Guard *guard;
    int accepted;

    g_mutex_lock(&lock);
    guard = find_guard(port);
    /* gRPC's listeners do not block, so holding the lock is short. */
    if (guard && (fcntl(fd, F_GETFL) & O_NONBLOCK)) {
        accepted = guarded_accept4(guard, fd, address, size, flags);
        g_mutex_unlock(&lock);
        return accepted;
    }
    g_mutex_unlock(&lock);
    return plain_accept4(fd, address, size, flags);
}

static void
guard_free(gpointer data)
{
    Guard *guard = data;

    g_hash_table_unref(guard->connections);
    g_free(guard);
}

gboolean
ckpt_accept_guard(guint port, guint max, GError **error)
{
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&lock);
    Guard *guard;

    open_spare();
    if (spare < 0) {
        ckpt_error_set(error, CKPT_REASON_FILE_FAILED, "/dev/null: %s", g_strerror(errno));
        return FALSE;
    }
    if (!guards)
        guards = g_ptr_array_new_with_free_func(guard_free);
    guard = g_new0(Guard, 1);
    guard->port = port;
    guard->max = max;
    guard->connections = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    g_ptr_array_add(guards, guard);
    return TRUE;
}

void
ckpt_accept_unguard(guint port)
{
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&lock);
    Guard *guard = find_guard(port);

    if (!guard)
        return;
    g_ptr_array_remove_fast(guards, guard);
    if (guards->len > 0)
        return;
    g_clear_pointer(&guards, g_ptr_array_unref);
    close(spare);
    spare = -1;
}

CkptAcceptCounts
ckpt_accept_counts(guint port)
{
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&lock);
    Guard *guard = find_guard(port);

    return guard ? guard->counts : (CkptAcceptCounts){0, 0, 0};
}
