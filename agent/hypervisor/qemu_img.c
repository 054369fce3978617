/* qemu-img as a child with a clean environment, its words as our errors. */
#include "agent/hypervisor/qemu.h"

#include <linux/capability.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define TOOL "qemu-img"

/* What a hostile image could make of the tool is no more than what it needs: to open images that are
 * others'. What cannot be inherited the kernel takes from the ambient set, too. Runs between fork and
 * exec, so that only system calls are allowed. */
static void
confine_child(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3];

    (void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (syscall(SYS_capget, &header, sets) < 0)
        return;
    sets[0].inheritable &= 1u << CAP_DAC_OVERRIDE;
    sets[1].inheritable = 0;
    (void)syscall(SYS_capset, &header, sets);
}

/* It must not go on without the agent that is to journal its end. The kernel ends it with the thread
 * that began it, which waits for it anyway. */
static void
set_up_child(gpointer parent)
{
    confine_child();
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != GPOINTER_TO_INT(parent))
        _exit(127);
}

static GSubprocess *
spawn(const char *const *arguments, GError **error)
{
    /* Nothing of ours, above all no LD_*, QEMU_* or secrets; C, so that its words can be read. */
    const char *const environment[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                                       "LC_ALL=C", NULL};
    g_autoptr(GSubprocessLauncher) launcher =
        g_subprocess_launcher_new(G_SUBPROCESS_FLAGS_STDOUT_PIPE | G_SUBPROCESS_FLAGS_STDERR_PIPE);
    g_autoptr(GPtrArray) argv = g_ptr_array_new();
    g_autofree char *program = NULL;
    g_autoptr(GError) cause = NULL;
    GSubprocess *child;

    program = g_find_program_in_path(TOOL);
    g_ptr_array_add(argv, program ? program : (char *)TOOL);
    for (; *arguments; arguments++)
        g_ptr_array_add(argv, (char *)*arguments);
    g_ptr_array_add(argv, NULL);
    g_subprocess_launcher_set_environ(launcher, (char **)environment);
    g_subprocess_launcher_set_child_setup(launcher, set_up_child, GINT_TO_POINTER(getpid()), NULL);
    child = g_subprocess_launcher_spawnv(launcher, (const char *const *)argv->pdata, &cause);
    if (!child)
        ckpt_error_set(error, CKPT_REASON_IMAGE_TOOL_FAILED, TOOL ": %s", cause->message);
    return child;
}

/* "    (12.34/100%)\r", many times over. */
static void
report_progress(const CkptRun *run, guint64 total, const char *text)
{
    const char *mark = strrchr(text, '(');

    if (mark && run->progress && total)
        run->progress((guint64)(g_ascii_strtod(mark + 1, NULL) / 100 * (double)total), total,
                      run->data);
}

/* What becomes of its words on stdout. */
typedef struct {
    const CkptRun *run;
    guint64 total;     /* of progress */
    CkptLineFunc func; /* NULL: they are progress */
    gpointer data;
    GString *line;     /* begun */
} Listener;

static void
take_text(Listener *listener, const char *text)
{
    if (!listener->func) {
        report_progress(listener->run, listener->total, text);
        return;
    }
    for (; *text; text++) {
        if (*text != '\n') {
            g_string_append_c(listener->line, *text);
            continue;
        }
        listener->func(listener->line->str, listener->data);
        g_string_truncate(listener->line, 0);
    }
}

/* Reads what it says on stdout to its end, so that the pipe never fills. */
static gboolean
follow(Listener *listener, GSubprocess *child, GError **error)
{
    GInputStream *output = g_subprocess_get_stdout_pipe(child);
    g_autoptr(GString) line = listener->line = g_string_new(NULL);
    char buffer[4097];
    gssize got;

    while ((got = g_input_stream_read(output, buffer, sizeof buffer - 1,
                                      listener->run->cancellable, error)) > 0) {
        buffer[got] = '\0';
        take_text(listener, buffer);
    }
    if (got == 0 && listener->func && line->len > 0)
        listener->func(line->str, listener->data);
    return got == 0;
}

static char *
read_words(GSubprocess *child)
{
    GInputStream *stream = g_subprocess_get_stderr_pipe(child);
    g_autofree char *buffer = g_malloc0(4097);
    char rest[512];
    gsize length = 0;

    g_input_stream_read_all(stream, buffer, 4096, &length, NULL, NULL);
    /* What does not fit is read all the same. */
    while (g_input_stream_read(stream, rest, sizeof rest, NULL, NULL) > 0)
        continue;
    g_strdelimit(g_strchomp(buffer), "\r\n", ' ');
    return g_utf8_make_valid(buffer, -1);
}

static gboolean
run_tool(Listener *listener, const char *const *arguments, GError **error)
{
    g_autoptr(GSubprocess) child = spawn(arguments, error);
    g_autoptr(GError) stopped = NULL;
    g_autofree char *words = NULL;

    if (!child)
        return FALSE;
    if (!follow(listener, child, &stopped))
        g_subprocess_force_exit(child);
    words = read_words(child);
    g_subprocess_wait(child, NULL, NULL);
    if (stopped) {
        ckpt_error_set(error,
                       g_error_matches(stopped, G_IO_ERROR, G_IO_ERROR_CANCELLED)
                           ? CKPT_REASON_OPERATION_CANCELLED
                           : CKPT_REASON_IMAGE_TOOL_FAILED,
                       TOOL " %s: %s", arguments[0], stopped->message);
        return FALSE;
    }
    if (g_subprocess_get_if_exited(child) && g_subprocess_get_exit_status(child) == 0)
        return TRUE;
    if (g_subprocess_get_if_signaled(child))
        ckpt_error_set(error, CKPT_REASON_IMAGE_TOOL_FAILED, TOOL " %s: ended by signal %d",
                       arguments[0], g_subprocess_get_term_sig(child));
    else
        ckpt_error_set(error,
                       strstr(words, "No space left on device") ? CKPT_REASON_SPACE_LOW
                                                                : CKPT_REASON_IMAGE_TOOL_FAILED,
                       TOOL " %s: %.600s", arguments[0], words);
    return FALSE;
}

gboolean
ckpt_qemu_img(const CkptRun *run, guint64 total, const char *const *arguments, GError **error)
{
    Listener listener = {.run = run, .total = total};

    return run_tool(&listener, arguments, error);
}

gboolean
ckpt_qemu_img_lines(const CkptRun *run, const char *const *arguments, CkptLineFunc func,
                    gpointer data, GError **error)
{
    Listener listener = {.run = run, .func = func, .data = data};

    return run_tool(&listener, arguments, error);
}
