#include "common/grpc_log.h"

#include <grpc/support/log.h>
#include <string.h>

#define BURST 20
#define WINDOW_US G_GINT64_CONSTANT(10000000)

static GLogLevelFlags error_level;

/* TRUE for the first BURST lines of each window; *dropped is what the last window left out. */
static gboolean
may_log(guint *dropped)
{
    static GMutex lock; /* guards the rest */
    static gint64 window_start;
    static guint count;
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&lock);
    gint64 now = g_get_monotonic_time();

    *dropped = 0;
    if (now - window_start > WINDOW_US) {
        *dropped = count > BURST ? count - BURST : 0;
        window_start = now;
        count = 0;
    }
    return ++count <= BURST;
}

static void
log_to_glib(gpr_log_func_args *args)
{
    guint dropped;

    if (strstr(args->message, "ssertion")) {
        g_warning("gRPC: %s (%s:%d)", args->message, args->file, args->line);
        return;
    }
    if (args->severity < GPR_LOG_SEVERITY_ERROR) {
        g_debug("gRPC: %s", args->message);
        return;
    }
    if (!may_log(&dropped))
        return;
    if (dropped)
        g_log(G_LOG_DOMAIN, error_level, "gRPC: %u more lines were left out", dropped);
    g_log(G_LOG_DOMAIN, error_level, "gRPC: %s", args->message);
}

void
ckpt_grpc_log_to_glib(GLogLevelFlags level)
{
    static gsize once;

    if (g_once_init_enter(&once)) {
        error_level = level;
        gpr_set_log_function(log_to_glib);
        g_once_init_leave(&once, 1);
    }
}
