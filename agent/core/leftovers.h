/* Files that nobody needs: how one of them is removed, by an operation or, when that could not do it, by
 * the looks that follow. */
#pragma once

#include "agent/hypervisor/hypervisor.h"
#include "agent/store/store.h"

/* Fills in who might lie on the file that this REMOVE_FILE is about to remove: all that the catalogue
 * knows by now, since the plan may be days old, and what it does not know; not what is doomed itself. */
gboolean ckpt_removal_prepare(CkptDriver *driver, CkptStore *store, const char *vm_id, CkptStep *step,
                              GError **error) G_GNUC_WARN_UNUSED_RESULT;
