/* A thaw guard: a process of its own that lets a guest go on whose file systems the agent froze, if the
 * agent does not do it: it dies, hangs, or the guest agent does not answer. It is vmcheckpointd itself,
 * started anew before each freeze: CKPT_THAW_GUARD_OPTION URI VM-ID SECONDS MARK-FILE.
 *
 * Agent and guard talk by one letter at a time: the guard's stdin and stdout are pipes of the agent's.
 * The guard holds a lock on a file of the VM's for as long as it lives, so that there is one guard for a
 * VM, and so that a later agent sees whose guard was killed. */
#pragma once

#include "common/error.h"

typedef enum {
    /* From the guard. */
    CKPT_GUARD_READY = 'R', /* it has a connection and knows the VM */
    CKPT_GUARD_BUSY = 'B',  /* an earlier guard still waits for the VM's guest agent to thaw */
    CKPT_GUARD_FAILED = 'X',
    /* To the guard. */
    CKPT_GUARD_FREEZING = 'F', /* the freeze is about to be asked for */
    CKPT_GUARD_FROZEN = 'Z',   /* it is confirmed: SECONDS from here on */
    CKPT_GUARD_THAWED = 'T',   /* confirmed, or never frozen: it ends */
    CKPT_GUARD_THAW = 'H'      /* thaw until the guest confirms it; as when the agent's end closes */
} CkptGuardWord;

typedef struct _CkptGuard CkptGuard;

/* Waits, some 10 s at most, until the guard is ready; `seconds`: how long the guest may stay frozen.
 * QUIESCE_FAILED if there is none: nothing may be frozen then. */
CkptGuard *ckpt_guard_start(const char *program, const char *uri, const char *folder,
                            const char *vm_id, guint seconds, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;
/* FALSE: it is gone, or was never there. */
gboolean ckpt_guard_tell(CkptGuard *guard, CkptGuardWord word);
void ckpt_guard_free(CkptGuard *guard); /* it goes on by itself if it was not told THAWED */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CkptGuard, ckpt_guard_free)

/* Whether an earlier guard has not seen the VM thawed yet, dead or alive. */
gboolean ckpt_guard_is_due(const char *folder, const char *vm_id);

/* Guards for all VMs whose guard did not end by itself and does not live: they thaw at once. */
void ckpt_guard_take_up(const char *program, const char *uri, const char *folder);
