/* Inside the executor only: what its way forward and its way back share. */
#pragma once

#include "agent/core/executor.h"

CkptStep *ckpt_executor_step(const CkptPlan *plan, gint index);
/* Whether the hypervisor does not answer: there is neither way until it does. */
gboolean ckpt_executor_is_away(const GError *error);
/* The files are another agent's by now: there is no way forward and none back, and nothing to mend here. */
gboolean ckpt_executor_is_moved(const GError *error);
gboolean ckpt_executor_store_is_gone(CkptExecution *x);
/* The step's file is ours, and is removed when that is possible. */
void ckpt_executor_leave(CkptChange *change, const CkptStep *step);
/* What can be neither undone nor told to be done leaves the VM neither as before nor as asked, so that it is
 * tried again while it might yet come right: a file in use for a moment, a libvirt that is busy. Waits between
 * two attempts; attempt: the one that failed, from 1. */
gboolean ckpt_executor_again(guint attempt, const GError *why);

/* ---- executor_undo.c ---- */
/* The operation knows from now on, and the journal from its next write on, why it will fail. (May be NULL; that
 * libvirt is away is no cause: it comes back.) */
void ckpt_executor_remember(CkptExecution *x, const GError *cause);
/* Everything that was begun, from the last step downwards. cause (transfer full): why; NULL = what is remembered,
 * or a crash. */
CkptEnd ckpt_executor_undo(CkptExecution *x, GError *cause, GError **error);
