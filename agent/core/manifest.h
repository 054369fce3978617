/* The manifest that lies beside each sealed file: enough to rebuild a lost catalogue, or to adopt a VM
 * that moved to another host. */
#pragma once

#include "agent/model/types.h"

/* agent_id: the owning agent's host UUID. epoch: grows with each change of owner. The text holds the
 * definition, so it is secret: 0600. (transfer full) */
char *ckpt_manifest_text(const CkptCheckpoint *checkpoint, const char *agent_id, guint64 epoch);
