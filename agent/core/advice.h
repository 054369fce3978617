/* What whoever looks at a VM or at one of its checkpoints should know before it is a trouble: what migrating
 * or storing the VM would leave behind, how deep it is, how long the space lasts. */
#pragma once

#include "agent/core/growth.h"

/* char *, sentences for people; empty for a VM without checkpoints or whose hypervisor keeps them. growth:
 * of the checkpoint that the VM is at. */
GPtrArray *ckpt_advice_of(const CkptPlanInput *input, const CkptGrowth *growth);
