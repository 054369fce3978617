/* The guest's file systems, frozen around a snapshot: explicitly, not by libvirt's QUIESCE, which takes
 * a failed thaw for a failed snapshot. Nothing that a guest agent says is believed but what both ends
 * of it say: as many file systems thawed as were frozen. */
#include "agent/hypervisor/guard.h"
#include "agent/hypervisor/qemu.h"

#include <string.h>

#define THAW_ATTEMPTS 3
#define THAW_PAUSE_US (100 * 1000)
/* One that took so long to fail is not waited for again: the guard does that. */
#define THAW_QUICK_US (G_USEC_PER_SEC)

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(CkptFreeze, ckpt_freeze_clear)

void
ckpt_freeze_clear(CkptFreeze *freeze)
{
    g_clear_pointer(&freeze->guard, ckpt_guard_free);
    g_clear_pointer(&freeze->why, g_free);
}

/* The first thing that went wrong is what is told. */
static void G_GNUC_PRINTF(2, 3)
set_why(CkptFreeze *freeze, const char *format, ...)
{
    va_list args;

    if (freeze->why)
        return;
    va_start(args, format);
    freeze->why = g_strdup_vprintf(format, args);
    va_end(args);
}

static const char *
libvirt_words(void)
{
    virErrorPtr last = virGetLastError();

    return last && last->message ? last->message : "libvirt does not say why";
}

/* ---- Thaw ---- */

/* The connection may have been lost since the freeze, so it is asked for anew. The number of file
 * systems; -1 = not confirmed, *words says why. */
static int
thaw_once(CkptRun *run, char **words)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(virDomain) domain =
        ckpt_connection_lookup(run->connection, run->plan->vm_id, &error);
    int count = domain ? virDomainFSThaw(domain, NULL, 0, 0) : -1;

    if (count < 0) {
        g_free(*words);
        *words = g_strdup(error ? error->message : libvirt_words());
    }
    return count;
}

static int
thaw(CkptRun *run, char **words)
{
    for (guint attempt = 1;; attempt++) {
        gint64 begun_us = g_get_monotonic_time();
        int count = thaw_once(run, words);

        if (count >= 0 || attempt == THAW_ATTEMPTS ||
            g_get_monotonic_time() - begun_us > THAW_QUICK_US)
            return count;
        g_usleep(THAW_PAUSE_US);
    }
}

void
ckpt_freeze_end(CkptRun *run, CkptFreeze *freeze)
{
    g_autofree char *words = NULL;
    int count;

    if (!freeze->begun_us || freeze->ended)
        return;
    freeze->ended = TRUE;
    count = thaw(run, &words);
    if (count < 0) {
        set_why(freeze,
                "the guest agent did not confirm the thaw (%s); it is asked on until it does", words);
        g_warning("VM %s: thaw: %s; its thaw guard goes on", run->plan->vm_id, words);
        if (!ckpt_guard_tell(freeze->guard, CKPT_GUARD_THAW)) /* it was killed; its mark is still there */
            ckpt_guard_take_up(run->options->guard_program, run->options->uri, run->options->guard_folder);
        return;
    }
    (void)ckpt_guard_tell(freeze->guard, CKPT_GUARD_THAWED);
    if (freeze->frozen > 0)
        freeze->us = g_get_monotonic_time() - freeze->begun_us;
    if (freeze->frozen > 0 && count < freeze->frozen)
        set_why(freeze,
                "the guest agent froze %d file systems and found %d to thaw: the guest went on by "
                "itself before the end",
                freeze->frozen, count);
}

/* ---- Freeze ---- */

const char *
ckpt_freeze_obstacle(const CkptView *view)
{
    if (!view->active)
        return "the VM is not running";
    if (view->state == VIR_DOMAIN_PAUSED)
        return "the VM is paused, so that its guest agent cannot answer";
    if (!view->live_xml->guest_agent)
        return "the VM has no channel for a guest agent (org.qemu.guest_agent.0)";
    if (!view->live_xml->guest_agent_connected)
        return "no guest agent runs in the guest (its channel is not connected)";
    return NULL;
}

static gboolean
prepare(CkptRun *run, const CkptView *view, CkptFreeze *freeze)
{
    const CkptQemuOptions *options = run->options;
    const char *obstacle = ckpt_freeze_obstacle(view);
    g_autoptr(GError) error = NULL;

    if (obstacle) {
        set_why(freeze, "%s", obstacle);
        return FALSE;
    }
    if (!options->guard_program) {
        set_why(freeze, "there is no thaw guard");
        return FALSE;
    }
    if (virDomainAgentSetResponseTimeout(view->domain, (int)options->guest_agent_seconds, 0) < 0) {
        set_why(freeze, "no time limit for the guest agent can be set: %s", libvirt_words());
        return FALSE;
    }
    freeze->guard =
        ckpt_guard_start(options->guard_program, options->uri, options->guard_folder,
                         run->plan->vm_id, options->guest_agent_seconds, &error);
    if (!freeze->guard)
        set_why(freeze, "%s", error->message);
    return freeze->guard != NULL;
}

/* Another tool has it frozen, and would not forgive us a thaw. qemu-ga says so in these words; whatever
 * else it says, the guest is thawed. */
static gboolean
is_frozen_by_others(void)
{
    return strstr(libvirt_words(), "the agent is in frozen state") != NULL;
}

void
ckpt_freeze_begin(CkptRun *run, const CkptView *view, CkptFreeze *freeze)
{
    if (!prepare(run, view, freeze))
        return;
    if (!ckpt_guard_tell(freeze->guard, CKPT_GUARD_FREEZING)) {
        set_why(freeze, "the thaw guard ended");
        return;
    }
    freeze->begun_us = g_get_monotonic_time();
    freeze->frozen = virDomainFSFreeze(view->domain, NULL, 0, 0);
    if (freeze->frozen > 0) {
        if (ckpt_guard_tell(freeze->guard, CKPT_GUARD_FROZEN))
            return;
        set_why(freeze, "the thaw guard ended");
    } else if (freeze->frozen == 0) {
        set_why(freeze, "the guest agent froze no file system");
    } else {
        set_why(freeze, "the guest agent did not freeze: %s", libvirt_words());
        if (is_frozen_by_others()) {
            (void)ckpt_guard_tell(freeze->guard, CKPT_GUARD_THAWED);
            freeze->ended = TRUE;
            return;
        }
    }
    /* It may have frozen all the same, or may do so late. */
    ckpt_freeze_end(run, freeze);
}

/* ---- After a crash ---- */

/* What no guard is due for was not frozen by us, or is thawed: another tool may have frozen it, and would not
 * forgive us a thaw. */
void
ckpt_freeze_recover(CkptRun *run)
{
    const CkptQemuOptions *options = run->options;
    g_autoptr(CkptView) view = NULL;
    g_autoptr(CkptGuard) guard = NULL;
    g_autofree char *words = NULL;
    int count;

    if (run->step->asked < CKPT_CONSISTENCY_APPLICATION || run->step->reached ||
        !ckpt_guard_is_due(options->guard_folder, run->plan->vm_id))
        return;
    view = ckpt_view_load(run->connection, run->plan->vm_id, NULL);
    if (!view || ckpt_freeze_obstacle(view))
        return; /* what is frozen beyond reach is the guard's */
    (void)virDomainAgentSetResponseTimeout(view->domain, (int)options->guest_agent_seconds, 0);
    count = thaw(run, &words);
    if (count >= 0) {
        g_message("VM %s: a freeze was under way; %d file systems thawed", run->plan->vm_id, count);
        return;
    }
    g_warning("VM %s: thaw: %s; a thaw guard goes on", run->plan->vm_id, words);
    guard = options->guard_program
                ? ckpt_guard_start(options->guard_program, options->uri, options->guard_folder,
                                   run->plan->vm_id, options->guest_agent_seconds, NULL)
                : NULL;
    /* None: the one from before the crash is still at it. */
    (void)(ckpt_guard_tell(guard, CKPT_GUARD_FREEZING) && ckpt_guard_tell(guard, CKPT_GUARD_THAW));
}
