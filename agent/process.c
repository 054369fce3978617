#include "agent/process.h"

#include <malloc.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

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

void
ckpt_process_init(void)
{
    gboolean to_journal = g_log_writer_is_journald(STDERR_FILENO);

    g_log_set_writer_func(log_writer, GINT_TO_POINTER(to_journal), NULL);
    raise_descriptors();
    /* One arena for each thread would keep what each once needed. */
    (void)mallopt(M_ARENA_MAX, 2);
    (void)mallopt(M_TRIM_THRESHOLD, 256 * 1024);
    (void)mallopt(M_MMAP_THRESHOLD, 128 * 1024);
}

void
ckpt_process_trim(void)
{
    (void)malloc_trim(0);
}
