/* What lay below the files of VMs when it could be read last. */
#include "agent/hypervisor/below.h"

struct _CkptBelow {
    GMutex lock;     /* guards all */
    GHashTable *all; /* top → GPtrArray of paths; never changed, only replaced */
};

CkptBelow *
ckpt_below_new(void)
{
    CkptBelow *below = g_new0(CkptBelow, 1);

    g_mutex_init(&below->lock);
    return below;
}

void
ckpt_below_free(CkptBelow *below)
{
    if (!below)
        return;
    g_clear_pointer(&below->all, g_hash_table_unref);
    g_mutex_clear(&below->lock);
    g_free(below);
}

GPtrArray *
ckpt_below_last(CkptBelow *below, const char *top)
{
    GPtrArray *last;

    g_mutex_lock(&below->lock);
    last = below->all ? g_hash_table_lookup(below->all, top) : NULL;
    last = last ? g_ptr_array_ref(last) : NULL;
    g_mutex_unlock(&below->lock);
    return last;
}

void
ckpt_below_keep(CkptBelow *below, GHashTable *all)
{
    GHashTable *before;

    g_mutex_lock(&below->lock);
    before = below->all;
    below->all = g_hash_table_ref(all);
    g_mutex_unlock(&below->lock);
    if (before)
        g_hash_table_unref(before);
}
