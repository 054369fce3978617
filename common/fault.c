#include "common/fault.h"

#ifdef CKPT_FAULTS
#include <glib.h>

#include <signal.h>
#include <stdlib.h>

static void
raise_at(const char *name, int reached, int signal)
{
    const char *at = g_getenv(name);

    if (at && atoi(at) == reached)
        raise(signal);
}

void
ckpt_fault_point(void)
{
    static int points;
    int reached = g_atomic_int_add(&points, 1) + 1;

    raise_at("VMCKPT_KILL_AT", reached, SIGKILL);
    raise_at("VMCKPT_PAUSE_AT", reached, SIGSTOP);
}

/* Once: who has gone on is not met again by a later test. */
static void
raise_named(const char *variable, const char *name, int signal)
{
    static int paused;
    int killed = 0, *raised = signal == SIGSTOP ? &paused : &killed;
    const char *at = g_getenv(variable);
    g_auto(GStrv) names = at ? g_strsplit(at, ",", -1) : NULL;

    if (names && g_strv_contains((const char *const *)names, name) &&
        g_atomic_int_compare_and_exchange(raised, 0, 1))
        raise(signal);
}

void
ckpt_fault_point_named(const char *name)
{
    raise_named("VMCKPT_KILL_AT", name, SIGKILL);
    raise_named("VMCKPT_PAUSE_AT", name, SIGSTOP);
    ckpt_fault_point();
}
#endif
