#include "agent/service/internal.h"

#define FRESH_US (3 * G_USEC_PER_SEC)  /* an answer counts so long */
#define STALE_US (15 * G_USEC_PER_SEC) /* and so long where nobody can wait for the next */

struct _CkptReach {
    CkptDriver *driver;
    GThreadPool *asker; /* one thread, which ends when idle */
    GMutex lock;        /* guards the rest; not held while the driver is asked */
    GCond answered;
    CkptHostInfo *host; /* of the last answer */
    gboolean up;        /* what the last asking found */
    gint64 asked_us;    /* when that ended, monotonic; 0 = never */
    gint64 asking_us;   /* when the asker began; 0 = it is idle */
};

static CkptHostInfo *
host_copy(const CkptHostInfo *host)
{
    CkptHostInfo *copy = g_new0(CkptHostInfo, 1);

    copy->host_id = g_strdup(host->host_id);
    copy->host_name = g_strdup(host->host_name);
    copy->libvirt_version = g_strdup(host->libvirt_version);
    copy->qemu_version = g_strdup(host->qemu_version);
    copy->uri = g_strdup(host->uri);
    return copy;
}

gboolean
ckpt_reach_ask(CkptReach *reach, CkptHostInfo **host, GError **error)
{
    CkptHostInfo *found = NULL;
    gboolean up = reach->driver->host_info(reach->driver, &found, error);

    g_mutex_lock(&reach->lock);
    if (up) {
        g_clear_pointer(&reach->host, ckpt_host_info_free);
        reach->host = found;
    }
    reach->up = up;
    reach->asked_us = g_get_monotonic_time();
    if (host)
        *host = reach->host ? host_copy(reach->host) : NULL;
    g_mutex_unlock(&reach->lock);
    return up;
}

static void
ask(gpointer data, gpointer user)
{
    CkptReach *reach = data;
    g_autoptr(GError) error = NULL;

    (void)ckpt_reach_ask(reach, NULL, &error);
    g_mutex_lock(&reach->lock);
    reach->asking_us = 0;
    g_cond_broadcast(&reach->answered);
    g_mutex_unlock(&reach->lock);
}

gboolean
ckpt_reach_is_up(CkptReach *reach, guint max_wait_ms)
{
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&reach->lock);
    gint64 now = g_get_monotonic_time();
    gint64 until;

    if (reach->asked_us && now - reach->asked_us < FRESH_US)
        return reach->up;
    if (!reach->asking_us) {
        reach->asking_us = now;
        g_thread_pool_push(reach->asker, reach, NULL);
    }
    /* From when it began: with a hypervisor that hangs only the first callers wait. */
    until = reach->asking_us + max_wait_ms * G_GINT64_CONSTANT(1000);
    while (max_wait_ms && reach->asking_us)
        if (!g_cond_wait_until(&reach->answered, &reach->lock, until))
            break;
    now = g_get_monotonic_time();
    return reach->up && reach->asked_us &&
           now - reach->asked_us < (max_wait_ms ? FRESH_US : STALE_US);
}

CkptReach *
ckpt_reach_new(CkptDriver *driver)
{
    CkptReach *reach = g_new0(CkptReach, 1);

    reach->driver = driver;
    g_mutex_init(&reach->lock);
    g_cond_init(&reach->answered);
    reach->asker = g_thread_pool_new(ask, NULL, 1, FALSE, NULL);
    return reach;
}

void
ckpt_reach_free(CkptReach *reach)
{
    g_thread_pool_free(reach->asker, FALSE, TRUE);
    g_clear_pointer(&reach->host, ckpt_host_info_free);
    g_cond_clear(&reach->answered);
    g_mutex_clear(&reach->lock);
    g_free(reach);
}
