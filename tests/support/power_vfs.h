/* A disk for SQLite that can fail and lose power: a VFS laid over the real one, for tests. It keeps what
 * each file has for certain (synced) apart from what was only written, and what a folder names for certain
 * from what was only made or removed; a cut leaves of the rest what the test chooses. Faults strike at the
 * n-th call that alters something. One disk for the process; callable from any thread.
 *
 * Writes also go to the real file, which stands for the page cache: programs that look at it see what a
 * reader sees while the power is on. Sectors of 512 bytes are written wholly or not at all. */
#pragma once

#include <glib.h>

typedef enum {
    POWER_GOOD,
    POWER_CUT,        /* the call may have been made or not; from then on none has any effect */
    POWER_NO_SPACE,   /* a write or a new file: nothing of it is done */
    POWER_SHORT,      /* a write: its first half is done, then there is no space */
    POWER_EIO,        /* a write, truncation or removal: nothing of it is done */
    POWER_SYNC_FAILS, /* a sync: the kernel then forgets what was to be written, or has written it, and
                         the next sync succeeds: nobody is told again */
    POWER_READ_EIO,   /* a read; these are counted by themselves */
    POWER_FAULTS
} PowerFault;

/* Makes it the process's default; later calls do nothing. */
void power_vfs_install(void);
/* The fault at the at-th call it can strike (0 = never), and with `stays` at all after it. Counts anew. */
void power_vfs_arm(PowerFault fault, guint at, gboolean stays, guint64 seed);
guint power_vfs_calls(void); /* of the armed fault's sort, since then */
gboolean power_vfs_fired(void);
/* Now, whatever is armed. */
void power_vfs_cut(void);
/* After a cut, when nobody has the files open any more: they become what a disk may hold, and the power is
 * on again. The seed chooses: nothing unsynced, all of it, a prefix, any subset, any sectors. POWER_KEEP:
 * all of it, as when a process was killed and the power stayed on. */
#define POWER_KEEP 0
void power_vfs_lose(guint64 seed);
/* All files are taken as they lie on the real disk, as certain. */
void power_vfs_forget(void);
