#include "agent/process.h"

#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

G_DEFINE_AUTOPTR_CLEANUP_FUNC(FILE, fclose)

static const char *
level_prefix(GLogLevelFlags level)
{
    if (level & (G_LOG_LEVEL_ERROR | G_LOG_LEVEL_CRITICAL))
        return "error: ";
    if (level & G_LOG_LEVEL_WARNING)
        return "warning: ";
    return "";
}

/* One write per line, so that lines of several threads do not mix. */
static GLogWriterOutput
write_line(GLogLevelFlags level, const GLogField *fields, gsize n_fields)
{
    g_autofree char *line = NULL;

    for (gsize i = 0; i < n_fields; i++)
        if (g_str_equal(fields[i].key, "MESSAGE"))
            line = g_strdup_printf("vmcheckpointd: %s%s\n", level_prefix(level),
                                   (const char *)fields[i].value);
    if (!line || write(STDERR_FILENO, line, strlen(line)) < 0)
        return G_LOG_WRITER_UNHANDLED;
    return G_LOG_WRITER_HANDLED;
}

static GLogWriterOutput
log_writer(GLogLevelFlags level, const GLogField *fields, gsize n_fields, gpointer to_journal)
{
    if (g_log_writer_default_would_drop(level, G_LOG_DOMAIN))
        return G_LOG_WRITER_HANDLED;
    if (to_journal && g_log_writer_journald(level, fields, n_fields, NULL) == G_LOG_WRITER_HANDLED)
        return G_LOG_WRITER_HANDLED;
    return write_line(level, fields, n_fields);
}

/* A host with many VMs needs many; the default limit would deafen the listener (hazard C1). */
static void
raise_descriptors(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
}

static void find_constants(void);

void
ckpt_process_init(void)
{
    gboolean to_journal = g_log_writer_is_journald(STDERR_FILENO);

    /* Whoever reads standard error may go away, which must not end the agent. GSubprocess gives
     * children the default back. */
    (void)signal(SIGPIPE, SIG_IGN);
    g_log_set_writer_func(log_writer, GINT_TO_POINTER(to_journal), NULL);
    raise_descriptors();
    /* One arena for each thread would keep what each once needed. */
    (void)mallopt(M_ARENA_MAX, 2);
    (void)mallopt(M_TRIM_THRESHOLD, 256 * 1024);
    (void)mallopt(M_MMAP_THRESHOLD, 128 * 1024);
    find_constants();
}

/* What the linker mapped before main() and nobody has written to: code and constants of a file. Such a
 * mapping is never made writable later, so that dropping its pages loses nothing. */
typedef struct {
    gpointer start;
    gsize size;
} Mapping;

static GArray *constants; /* Mapping; made before any other thread is there */

/* A line that begins a mapping in /proc/self/smaps: "start-end perms offset dev inode path". FALSE for
 * the lines about it. */
static gboolean
parse_mapping(const char *line, Mapping *mapping, gboolean *constant)
{
    guint64 from, to;
    char permissions[5];

    if (sscanf(line, "%" G_GINT64_MODIFIER "x-%" G_GINT64_MODIFIER "x %4s", &from, &to,
               permissions) != 3)
        return FALSE;
    *mapping = (Mapping){GSIZE_TO_POINTER(from), to - from};
    *constant = permissions[0] == 'r' && permissions[1] == '-' && strchr(line, '/');
    return TRUE;
}

static void
find_constants(void)
{
    g_autofree char *maps = NULL;
    g_auto(GStrv) lines = NULL;
    Mapping mapping = {0};
    gboolean constant = FALSE;

    constants = g_array_new(FALSE, FALSE, sizeof(Mapping));
    if (!g_file_get_contents("/proc/self/smaps", &maps, NULL, NULL))
        return;
    lines = g_strsplit(maps, "\n", -1);
    for (char **line = lines; *line; line++) {
        guint64 written;

        if (parse_mapping(*line, &mapping, &constant) || !constant)
            continue;
        if (sscanf(*line, "Anonymous: %" G_GINT64_MODIFIER "u", &written) == 1 && written == 0)
            g_array_append_val(constants, mapping);
    }
}

/* Unmaps the pages of libraries that starting, or an operation, has gone through once. The kernel's page
 * cache keeps them; what is needed again is mapped again. */
static void
forget_constants(void)
{
    for (guint i = 0; i < constants->len; i++) {
        Mapping *mapping = &g_array_index(constants, Mapping, i);

        (void)madvise(mapping->start, mapping->size, MADV_DONTNEED);
    }
}

void
ckpt_process_trim(void)
{
    forget_constants();
    (void)malloc_trim(0);
}
