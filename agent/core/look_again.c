/* Second looks at a VM: who else has its files, or is about to take them, tells nobody here. Each comes after
 * twice as long as the one before, for ten minutes. */
#include "agent/core/engine_internal.h"

#define AGAIN_SECONDS 5
#define AGAIN_MOST 7

/* What is due by now goes into `due`; TRUE while any is left. Called with the lock held. */
static gboolean
count_down(CkptEngine *engine, GPtrArray *due)
{
    GHashTableIter iter;
    gpointer vm_id, ticks;

    g_hash_table_iter_init(&iter, engine->again);
    while (g_hash_table_iter_next(&iter, &vm_id, &ticks)) {
        guint left = GPOINTER_TO_UINT(ticks) - 1;

        if (left > 0) {
            g_hash_table_iter_replace(&iter, GUINT_TO_POINTER(left));
            continue;
        }
        g_ptr_array_add(due, g_strdup(vm_id));
        g_hash_table_iter_remove(&iter);
    }
    return g_hash_table_size(engine->again) > 0;
}

static gboolean
on_again(gpointer data)
{
    CkptEngine *engine = data;
    g_autoptr(GPtrArray) due = g_ptr_array_new_with_free_func(g_free);
    gboolean left;

    g_mutex_lock(&engine->lock);
    left = count_down(engine, due);
    if (!left)
        engine->again_timer = 0;
    g_mutex_unlock(&engine->lock);
    for (guint i = 0; i < due->len; i++)
        ckpt_engine_mark(engine, g_ptr_array_index(due, i));
    return left ? G_SOURCE_CONTINUE : G_SOURCE_REMOVE;
}

/* An idle agent sleeps: not for ever. */
void
ckpt_look_again(CkptEngine *engine, const char *vm_id)
{
    guint looks;

    g_mutex_lock(&engine->lock);
    looks = GPOINTER_TO_UINT(g_hash_table_lookup(engine->looked_again, vm_id));
    if (looks >= AGAIN_MOST || g_atomic_int_get(&engine->stopping)) {
        g_hash_table_remove(engine->looked_again, vm_id);
    } else {
        g_hash_table_insert(engine->looked_again, g_strdup(vm_id), GUINT_TO_POINTER(looks + 1));
        g_hash_table_insert(engine->again, g_strdup(vm_id), GUINT_TO_POINTER(1u << looks));
        if (!engine->again_timer)
            engine->again_timer = g_timeout_add_seconds(AGAIN_SECONDS, on_again, engine);
    }
    g_mutex_unlock(&engine->lock);
}

void
ckpt_look_settled(CkptEngine *engine, const char *vm_id)
{
    g_mutex_lock(&engine->lock);
    g_hash_table_remove(engine->looked_again, vm_id);
    g_hash_table_remove(engine->again, vm_id);
    g_mutex_unlock(&engine->lock);
}
