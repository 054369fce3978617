#include "client/interrupt.h"

#include "client/client.h"

#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <signal.h>
#include <unistd.h>

static int pipe_ends[2];
static volatile sig_atomic_t caught;

static void
on_signal(int number)
{
    int saved = errno;

    if (caught)
        _exit(CKPT_EXIT_INTERRUPTED);
    caught = 1;
    if (write(pipe_ends[1], "", 1) < 0) {
        /* Nothing can be done about it here; the next signal ends the process. */
    }
    errno = saved;
}

/* A handler may not call g_cancellable_cancel(), so a thread does. */
static gpointer
wait_for_signal(gpointer data)
{
    char byte;

    while (read(pipe_ends[0], &byte, 1) < 0 && errno == EINTR)
        continue;
    g_cancellable_cancel(data);
    g_object_unref(data);
    return NULL;
}

void
ckpt_interrupt_watch(GCancellable *cancellable)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};

    if (!g_unix_open_pipe(pipe_ends, FD_CLOEXEC, NULL))
        return;
    g_thread_unref(g_thread_new("interrupt", wait_for_signal, g_object_ref(cancellable)));
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
}
