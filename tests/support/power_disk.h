/* What the disk of power_vfs.h holds: inodes, the names in folders, and the fault to come. Everything is called
 * with the lock held but where said otherwise. */
#pragma once

#include "tests/support/power_vfs.h"

/* What the installed VFS does to it. */
typedef enum {
    POWER_CALL_WRITE,
    POWER_CALL_TRUNCATE,
    POWER_CALL_SYNC,
    POWER_CALL_DELETE,
    POWER_CALL_MAKE,
    POWER_CALL_READ
} PowerCall;

void power_disk_prepare(void); /* once, before anything else; without the lock */
void power_disk_lock(void);
void power_disk_unlock(void);

/* The fault of this call; POWER_CUT also for all calls after the cut. */
PowerFault power_disk_pass(PowerCall call);
void power_disk_die(void); /* no call has any effect from now on */
gboolean power_disk_is_dead(void);

/* An inode: what it holds for certain, and what was written since. */
typedef struct _PowerNode PowerNode;
PowerNode *power_node_ref(PowerNode *node);
void power_node_unref(gpointer node);
/* data NULL: it is truncated to `offset`. */
void power_node_write(PowerNode *node, gint64 offset, const void *data, gsize length);
/* One that fails has written nothing, half of it or all, and it is forgotten either way. */
void power_node_sync(PowerNode *node, gboolean succeeds);
gboolean power_node_is_named(const PowerNode *node); /* its creation needs no sync of the folder any more */

/* The one that the folder names now; NULL if there is none. Borrowed. */
PowerNode *power_disk_find(const char *path);
PowerNode *power_disk_make(const char *path);
void power_disk_remove(const char *path);
void power_disk_sync_folder(const char *path); /* all of the folder that path is in */
