/* The thaw guard's own process. It does as little as it can: one connection, one lock, one wait, and
 * thawing until the guest confirms it or is no longer there. It never ends before, nor before the agent has
 * said that it thawed, or is gone. */
#include "agent/hypervisor/domain_view.h"
#include "agent/hypervisor/guard.h"
#include "agent/hypervisor/hypervisor.h"
#include "common/fault.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* Beyond the time limit: libvirt's own 5 s for finding the guest agent before it tells it to freeze. */
#define FREEZE_GRACE_S 6
#define PAUSE_MIN_US (100 * 1000)
#define PAUSE_MAX_US (5 * G_USEC_PER_SEC)
#define TELL_EVERY_US (60 * G_USEC_PER_SEC)
/* A thaw that took longer waited for other calls to the guest agent, and may have come before a freeze that waited
 * with it. */
#define QUICK_US (G_USEC_PER_SEC)
#define SLOW_THAWS 3 /* then it is the guest agent that is slow */

typedef struct {
    const char *vm_id, *mark;
    CkptConnection *connection;
    guint seconds;
    int lock;
    int domain_id; /* of the VM as it was frozen; another one has been started since */
    gboolean saved; /* to go on with its file systems frozen, under another ID */
} Guard;

/* ---- The mark ---- */

/* 1 = ours, 0 = another guard has it, -1 = cannot be had. */
static int
take_lock(Guard *guard)
{
    struct stat found = {0};

    /* One that was unlinked in between is nobody's. */
    while (found.st_nlink == 0) {
        if (guard->lock >= 0)
            close(guard->lock);
        guard->lock = open(guard->mark, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (guard->lock < 0)
            return -1;
        if (flock(guard->lock, LOCK_EX | LOCK_NB) != 0)
            return errno == EWOULDBLOCK ? 0 : -1;
        if (fstat(guard->lock, &found) != 0)
            return -1;
    }
    return 1;
}

static void
remove_mark(Guard *guard)
{
    (void)unlink(guard->mark);
}

/* The ID that an earlier guard, which was killed, has left; -1 = none. */
static int
read_mark(Guard *guard)
{
    char text[16] = "";

    return pread(guard->lock, text, sizeof text - 1, 0) > 0 ? atoi(text) : -1;
}

static gboolean
write_mark(Guard *guard)
{
    g_autofree char *text = g_strdup_printf("%d\n", guard->domain_id);

    return pwrite(guard->lock, text, strlen(text), 0) == (ssize_t)strlen(text);
}

/* ---- Thawing ---- */

typedef enum { THAW_CONFIRMED, THAW_NEEDLESS, THAW_FAILED } Thaw;

typedef enum {
    GUEST_SAME,
    GUEST_SAVED,   /* as it is, frozen: the VM will go on from that, under another ID */
    GUEST_ANOTHER, /* booted since, or none */
    GUEST_UNKNOWN  /* *error says why */
} Guest;

static gboolean
was_saved(const Guard *guard, virDomainPtr domain)
{
    int state = VIR_DOMAIN_NOSTATE, reason = 0;

    return guard->saved || (virDomainGetState(domain, &state, &reason, 0) == 0 && state == VIR_DOMAIN_RUNNING &&
                            reason == VIR_DOMAIN_RUNNING_RESTORED);
}

static Guest
look(Guard *guard, virDomainPtr domain, GError **error)
{
    int id = (int)virDomainGetID(domain);
    gboolean saved;

    if (id == guard->domain_id)
        return GUEST_SAME;
    if (id == -1) {
        if (!ckpt_saved_look(domain, &saved, error))
            return GUEST_UNKNOWN;
        guard->saved = saved;
        return guard->saved ? GUEST_SAVED : GUEST_ANOTHER;
    }
    if (!was_saved(guard, domain))
        return GUEST_ANOTHER;
    guard->saved = FALSE;
    guard->domain_id = id;
    (void)write_mark(guard);
    return GUEST_SAME;
}

static Thaw
thaw(Guard *guard, int *count, GError **error)
{
    g_autoptr(virDomain) domain = ckpt_connection_lookup(guard->connection, guard->vm_id, error);

    if (!domain)
        return error && *error && ckpt_error_reason(*error) == CKPT_REASON_VM_NOT_FOUND
                   ? THAW_NEEDLESS
                   : THAW_FAILED;
    switch (look(guard, domain, error)) {
    case GUEST_SAME:
        break;
    case GUEST_SAVED:
        ckpt_error_set(error, CKPT_REASON_MANAGED_SAVE_PRESENT, "the VM was saved as it was (virsh managedsave)");
        return THAW_FAILED;
    case GUEST_ANOTHER:
        return THAW_NEEDLESS;
    case GUEST_UNKNOWN:
        return THAW_FAILED;
    }
    /* So that a guest agent that hangs does not keep this one waiting for ever. */
    (void)virDomainAgentSetResponseTimeout(domain, (int)guard->seconds, 0);
    *count = virDomainFSThaw(domain, NULL, 0, 0);
    if (*count >= 0)
        return THAW_CONFIRMED;
    ckpt_libvirt_error(error, CKPT_REASON_QUIESCE_FAILED, "thaw");
    return THAW_FAILED;
}

static void
thaw_for_certain(Guard *guard)
{
    gulong pause = PAUSE_MIN_US;
    gint64 told_us = 0;
    const gint64 begun_us = g_get_monotonic_time();
    guint confirmed = 0;

    while (TRUE) {
        const gint64 asked_us = g_get_monotonic_time();
        g_autoptr(GError) error = NULL;
        int count = 0;
        Thaw outcome = thaw(guard, &count, &error);

        if (outcome == THAW_CONFIRMED)
            g_message("VM %s: the thaw guard thawed %d file systems", guard->vm_id, count);
        else if (outcome == THAW_NEEDLESS)
            g_message("VM %s: stopped or started anew, nothing is frozen", guard->vm_id);
        if (outcome == THAW_NEEDLESS ||
            (outcome == THAW_CONFIRMED &&
             (g_get_monotonic_time() - asked_us < QUICK_US || ++confirmed == SLOW_THAWS)))
            return;
        if (outcome == THAW_CONFIRMED)
            continue;
        if (told_us == 0 || g_get_monotonic_time() - told_us > TELL_EVERY_US) {
            g_warning("VM %s: not thawed for %d s, trying on: %s", guard->vm_id,
                      (int)((g_get_monotonic_time() - begun_us) / G_USEC_PER_SEC), error->message);
            told_us = g_get_monotonic_time();
        }
        g_usleep(pause);
        pause = MIN(pause * 2, PAUSE_MAX_US);
    }
}

/* ---- The watch ---- */

/* The agent's next word; 0 = none in time, CKPT_GUARD_THAW also when its end is closed. */
static char
hear(gint64 deadline_us)
{
    while (TRUE) {
        struct pollfd poller = {.fd = STDIN_FILENO, .events = POLLIN};
        gint64 left_us = deadline_us - g_get_monotonic_time();
        int n = poll(&poller, 1, deadline_us ? (int)MAX(left_us / 1000 + 1, 0) : -1);
        char word;
        ssize_t got;

        if (n == 0)
            return 0;
        if (n < 0)
            continue;
        got = read(STDIN_FILENO, &word, 1);
        if (got < 0 && errno == EINTR)
            continue;
        return got == 1 ? word : CKPT_GUARD_THAW;
    }
}

static gint64
seconds_from_now(guint seconds)
{
    return g_get_monotonic_time() + seconds * G_USEC_PER_SEC;
}

typedef enum {
    WATCH_ENDED,   /* nothing is frozen any more */
    WATCH_LEFT,    /* it is for the guard to thaw, and nobody tells it anything any more */
    WATCH_EXPIRED  /* it is for the guard to thaw, whatever the agent is doing */
} Watch;

static Watch
watch(Guard *guard, gboolean *begun)
{
    gint64 deadline_us = 0; /* none */

    while (TRUE) {
        switch (hear(deadline_us)) {
        case CKPT_GUARD_FREEZING:
            *begun = TRUE;
            deadline_us = seconds_from_now(guard->seconds + FREEZE_GRACE_S);
            break;
        case CKPT_GUARD_FROZEN:
            deadline_us = seconds_from_now(guard->seconds);
            break;
        case CKPT_GUARD_THAWED:
            return WATCH_ENDED;
        case CKPT_GUARD_THAW:
            return *begun ? WATCH_LEFT : WATCH_ENDED;
        default:
            g_warning("VM %s: frozen for longer than its time limit, thawing it", guard->vm_id);
            return WATCH_EXPIRED;
        }
    }
}

/* libvirt may let a freeze wait for longer than the guard does: it then comes after the guard's thaw, and is
 * guarded like one that comes in time. */
static void
serve(Guard *guard)
{
    gboolean begun = FALSE;
    Watch watched;

    do {
        watched = watch(guard, &begun);
        if (watched == WATCH_ENDED)
            return;
        ckpt_fault_point_named("guard");
        thaw_for_certain(guard);
    } while (watched == WATCH_EXPIRED);
}

static gboolean
say(CkptGuardWord word)
{
    char letter = (char)word;

    return write(STDOUT_FILENO, &letter, 1) == 1;
}

/* Which run of the VM it is about; FALSE if it cannot be found out. */
static gboolean
know_domain(Guard *guard)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(virDomain) domain = ckpt_connection_lookup(guard->connection, guard->vm_id, &error);

    if (domain)
        guard->domain_id = (int)virDomainGetID(domain);
    return domain && write_mark(guard);
}

static gpointer
run_loop(gpointer data)
{
    g_main_loop_run(g_main_loop_new(NULL, FALSE));
    return NULL;
}

static int
run(Guard *guard)
{
    int locked = take_lock(guard);

    if (locked != 1)
        return say(locked == 0 ? CKPT_GUARD_BUSY : CKPT_GUARD_FAILED) ? 0 : 1;
    guard->domain_id = read_mark(guard);
    if (guard->domain_id != -1) /* whoever left the mark was killed before it had thawed */
        thaw_for_certain(guard);
    if (!know_domain(guard))
        (void)say(CKPT_GUARD_FAILED);
    else if (say(CKPT_GUARD_READY))
        serve(guard);
    remove_mark(guard);
    return 0;
}

int
ckpt_thaw_guard(int argc, char **argv)
{
    Guard guard = {.lock = -1};

    if (argc != 6)
        return 2;
    /* The agent's reading end may be gone. */
    (void)signal(SIGPIPE, SIG_IGN);
    guard.connection = ckpt_connection_new(argv[2]);
    guard.vm_id = argv[3];
    guard.seconds = (guint)MAX(atoi(argv[4]), 1);
    guard.mark = argv[5];
    /* libvirt's keepalives live there: a libvirtd that hangs is noticed. */
    g_thread_unref(g_thread_new("libvirt-events", run_loop, NULL));
    return run(&guard);
}
