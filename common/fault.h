/* Kill points, for tests: in a build with CKPT_FAULTS the agent ends itself with SIGKILL at the point
 * that VMCKPT_KILL_AT counts to (1 = the first one reached) or names ("frozen,guard"), and stops
 * itself with SIGSTOP at the point that VMCKPT_PAUSE_AT counts to or names, so that others can be killed
 * at that very point. Nothing in other builds. */
#pragma once

#ifdef CKPT_FAULTS
void ckpt_fault_point(void);
void ckpt_fault_point_named(const char *name);
#else
static inline void
ckpt_fault_point(void)
{
}
static inline void
ckpt_fault_point_named(const char *name)
{
}
#endif
