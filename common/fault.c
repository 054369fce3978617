#include "common/fault.h"

#ifdef CKPT_FAULTS
#include <glib.h>

#include <signal.h>
#include <stdlib.h>

void
ckpt_fault_point(void)
{
    static int reached;
    const char *at = g_getenv("VMCKPT_KILL_AT");

    if (at && g_atomic_int_add(&reached, 1) + 1 == atoi(at))
        raise(SIGKILL);
}

void
ckpt_fault_point_named(const char *name)
{
    const char *at = g_getenv("VMCKPT_KILL_AT");
    g_auto(GStrv) names = at ? g_strsplit(at, ",", -1) : NULL;

    if (names && g_strv_contains((const char *const *)names, name))
        raise(SIGKILL);
    ckpt_fault_point();
}
#endif
