/* Filled values of the domain, for tests of what keeps and carries them. */
#pragma once

#include "agent/model/operation.h"

/* Every member is set, with awkward values: the largest numbers, quotes, control characters. */
CkptCheckpoint *sample_checkpoint(const char *id, const char *vm_id, gint64 added_us);
/* A create, with every member set. */
CkptRequest *sample_request(const char *request_id);
/* A restore with three steps, the second of which has every member set. */
CkptPlan *sample_plan(void);
CkptOperation *sample_operation(const char *identity, const char *request_id);
