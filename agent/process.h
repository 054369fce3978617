/* What the agent sets up for its own process: limits, memory, the log. */
#pragma once

#include <glib.h>

/* Before any thread: logs to the journal if standard error is it, else lines "vmcheckpointd: …" to
 * standard error; no SIGPIPE; all descriptors the kernel allows; few malloc arenas. */
void ckpt_process_init(void);
/* Gives back memory that is not needed while the agent is idle. */
void ckpt_process_trim(void);
