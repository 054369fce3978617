/* accept4() as gRPC sees it in this process: never deaf, and with a limit of connections.
 *
 * gRPC up to 1.53 stops listening for ever when accept4() fails with anything but EAGAIN, EINTR or
 * ECONNABORTED (CVE-2023-4785): a stranger without a certificate who opens enough connections makes
 * the agent deaf. libgrpc calls accept4() through the dynamic linker, so the executable's own
 * definition is used instead; the ckpt_rpc target exports it. Sockets that are not guarded get the
 * plain system call. */
#pragma once

#include <glib.h>

/* Guards the listeners on this port of this process. max: connections in all; one source address
 * may have half of them. Holds one descriptor in reserve. */
gboolean ckpt_accept_guard(guint port, guint max, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void ckpt_accept_unguard(guint port);

typedef struct {
    guint64
        accepted;    /* 0 after a connection was made: the guard is not in use, the export failed */
    guint64 refused; /* closed at once for the limits */
    guint64 starved; /* closed at once because descriptors had run out */
} CkptAcceptCounts;
CkptAcceptCounts ckpt_accept_counts(guint port);
