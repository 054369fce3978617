/* Kill points, for tests: in a build with CKPT_FAULTS the agent ends itself with SIGKILL at the point
 * that VMCKPT_KILL_AT counts to (1 = the first one reached). Nothing in other builds. */
#pragma once

#ifdef CKPT_FAULTS
void ckpt_fault_point(void);
#else
static inline void
ckpt_fault_point(void)
{
}
#endif
