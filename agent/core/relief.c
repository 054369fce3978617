/* Operations in whose midst a VM hangs wait for it, for hours perhaps: what was begun may still take effect. They
 * must not keep those of other VMs waiting: while any waits for a thread, those that hang are not counted. */
#include "agent/core/engine_internal.h"

#define LOOK_SECONDS 5
/* Each keeps a thread here, and one of libvirt's, which has 20 by default: where more hang, the host does, and
 * more operations begun on it help nobody. */
#define MORE_MAX 64

static gint
at_most(const CkptEngine *engine, guint hanging)
{
    return (gint)(engine->limits.max_running + MIN(hanging, MORE_MAX));
}

/* VMs whose turn it is. */
static GPtrArray *
list_busy(CkptEngine *engine)
{
    GPtrArray *busy = g_ptr_array_new_with_free_func(g_free);
    GHashTableIter iter;
    gpointer value;

    g_mutex_lock(&engine->lock);
    g_hash_table_iter_init(&iter, engine->queues);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        const VmQueue *queue = value;

        if (queue->busy && !queue->looking && !g_str_equal(queue->vm_id, CKPT_HOST_QUEUE))
            g_ptr_array_add(busy, g_strdup(queue->vm_id));
    }
    g_mutex_unlock(&engine->lock);
    return busy;
}

void
ckpt_relief_work(gpointer data, gpointer user_data)
{
    CkptEngine *engine = user_data;
    g_autoptr(GPtrArray) busy = list_busy(engine);
    guint hanging = 0;

    for (guint i = 0; i < busy->len && !g_atomic_int_get(&engine->stopping); i++)
        if (engine->driver->hangs(engine->driver, busy->pdata[i]))
            hanging++;
    if (g_thread_pool_get_max_threads(engine->pool) == at_most(engine, hanging))
        return;
    g_message("%u VMs with an operation hang: %d may run at once", hanging, at_most(engine, hanging));
    g_thread_pool_set_max_threads(engine->pool, at_most(engine, hanging), NULL);
}

static gboolean
on_timer(gpointer data)
{
    CkptEngine *engine = data;
    /* In this order: a round under way may raise the limit yet, and only the next one lowers it. */
    gboolean looking = g_thread_pool_get_num_threads(engine->relief) > 0;
    gboolean relieved = g_thread_pool_get_max_threads(engine->pool) > at_most(engine, 0);
    gboolean needed;

    g_mutex_lock(&engine->lock);
    needed = looking || relieved || g_thread_pool_unprocessed(engine->pool) > 0;
    if (!needed)
        engine->relief_timer = 0;
    else if (!looking)
        g_thread_pool_push(engine->relief, engine, NULL);
    g_mutex_unlock(&engine->lock);
    return needed ? G_SOURCE_CONTINUE : G_SOURCE_REMOVE;
}

void
ckpt_relief_may_be_due(CkptEngine *engine)
{
    if (!engine->relief_timer && engine->driver->hangs && g_thread_pool_unprocessed(engine->pool) > 0)
        engine->relief_timer = g_timeout_add_seconds(LOOK_SECONDS, on_timer, engine);
}
