/* The agent's end of a thaw guard. */
#include "agent/hypervisor/guard.h"

#include "agent/hypervisor/hypervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <gio/gunixinputstream.h>
#include <gio/gunixoutputstream.h>
#include <poll.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <unistd.h>

#define READY_WAIT_MS (10 * 1000)
#define MARK_ENDING ".thaw"

struct _CkptGuard {
    GSubprocess *process;
    int to, from; /* borrowed from the subprocess' streams */
};

/* In the child, before exec: no terminal's and no service manager's signal for the agent reaches it,
 * and it needs no capability. */
static void
set_up_child(gpointer data)
{
    (void)setsid();
    (void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
}

static char *
mark_path(const char *folder, const char *vm_id)
{
    return g_strdup_printf("%s/%s" MARK_ENDING, folder, vm_id);
}

static CkptGuard *
spawn(const char *program, const char *uri, const char *mark, const char *vm_id, guint seconds,
      GError **error)
{
    g_autoptr(GSubprocessLauncher) launcher =
        g_subprocess_launcher_new(G_SUBPROCESS_FLAGS_STDIN_PIPE | G_SUBPROCESS_FLAGS_STDOUT_PIPE);
    g_autofree char *limit = g_strdup_printf("%u", seconds);
    const char *const argv[] = {program, CKPT_THAW_GUARD_OPTION, uri, vm_id, limit, mark, NULL};
    g_autoptr(GError) cause = NULL;
    GSubprocess *process;
    CkptGuard *guard;

    g_subprocess_launcher_set_child_setup(launcher, set_up_child, NULL, NULL);
    process = g_subprocess_launcher_spawnv(launcher, argv, &cause);
    if (!process) {
        ckpt_error_set(error, CKPT_REASON_QUIESCE_FAILED, "start a thaw guard: %s", cause->message);
        return NULL;
    }
    guard = g_new0(CkptGuard, 1);
    guard->process = process;
    guard->to = g_unix_output_stream_get_fd(
        G_UNIX_OUTPUT_STREAM(g_subprocess_get_stdin_pipe(process)));
    guard->from = g_unix_input_stream_get_fd(
        G_UNIX_INPUT_STREAM(g_subprocess_get_stdout_pipe(process)));
    return guard;
}

/* The guard's first word; 0 = it ended, or says nothing. */
static char
hear(CkptGuard *guard)
{
    struct pollfd poller = {.fd = guard->from, .events = POLLIN};
    char word = 0;
    int n;

    do
        n = poll(&poller, 1, READY_WAIT_MS);
    while (n < 0 && errno == EINTR);
    return n == 1 && read(guard->from, &word, 1) == 1 ? word : 0;
}

CkptGuard *
ckpt_guard_start(const char *program, const char *uri, const char *folder, const char *vm_id,
                 guint seconds, GError **error)
{
    g_autofree char *mark = mark_path(folder, vm_id);
    g_autoptr(CkptGuard) guard = NULL;

    if (g_mkdir_with_parents(folder, 0700) != 0) {
        ckpt_error_set(error, CKPT_REASON_QUIESCE_FAILED, "%s: %s", folder, g_strerror(errno));
        return NULL;
    }
    guard = spawn(program, uri, mark, vm_id, seconds, error);
    if (!guard)
        return NULL;
    switch (hear(guard)) {
    case CKPT_GUARD_READY:
        return g_steal_pointer(&guard);
    case CKPT_GUARD_BUSY:
        ckpt_error_set(error, CKPT_REASON_QUIESCE_FAILED,
                       "the guest agent has not confirmed an earlier thaw yet");
        return NULL;
    default:
        ckpt_error_set(error, CKPT_REASON_QUIESCE_FAILED,
                       "the thaw guard did not start, without which no guest is frozen");
        return NULL;
    }
}

gboolean
ckpt_guard_tell(CkptGuard *guard, CkptGuardWord word)
{
    char letter = (char)word;
    ssize_t n;

    if (!guard)
        return FALSE;
    do
        n = write(guard->to, &letter, 1);
    while (n < 0 && errno == EINTR);
    return n == 1;
}

void
ckpt_guard_free(CkptGuard *guard)
{
    if (!guard)
        return;
    /* It sees that; GLib keeps the process until it has ended, and reaps it. */
    (void)g_output_stream_close(g_subprocess_get_stdin_pipe(guard->process), NULL, NULL);
    (void)g_input_stream_close(g_subprocess_get_stdout_pipe(guard->process), NULL, NULL);
    g_clear_object(&guard->process);
    g_free(guard);
}

/* The lock goes with the process that had it. */
static gboolean
is_held(const char *mark)
{
    int fd = open(mark, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    gboolean held = fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) != 0;

    if (fd >= 0)
        close(fd);
    return held;
}

gboolean
ckpt_guard_is_due(const char *folder, const char *vm_id)
{
    g_autofree char *mark = folder ? mark_path(folder, vm_id) : NULL;

    return mark && g_file_test(mark, G_FILE_TEST_EXISTS);
}

void
ckpt_guard_take_up(const char *program, const char *uri, const char *folder)
{
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *mark = g_build_filename(folder, name, NULL);
        g_autofree char *vm_id = NULL;
        g_autoptr(GError) error = NULL;
        g_autoptr(CkptGuard) guard = NULL;

        if (!g_str_has_suffix(name, MARK_ENDING) || is_held(mark))
            continue;
        vm_id = g_strndup(name, strlen(name) - strlen(MARK_ENDING));
        g_message("VM %s: its thaw guard was killed; another takes its place", vm_id);
        guard = spawn(program, uri, mark, vm_id, 1, &error);
        if (!guard)
            g_warning("VM %s may be frozen (virsh domfsthaw): %s", vm_id, error->message);
    }
}
