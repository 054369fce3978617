/* What VMs are called now: a checkpoint has only the name that its VM had when it was captured. */
#pragma once

#include "client/query.h"

typedef struct _CkptNames CkptNames;

/* Asks each host of the answers (of ckpt_query_checkpoints) once for the VMs of the checkpoints
 * that it listed. A host that cannot say leaves its names unknown. */
CkptNames *ckpt_names_ask(CkptClient *client, GPtrArray *answers);
void ckpt_names_free(CkptNames *names);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CkptNames, ckpt_names_free)

/* The name of the VM that is deployed on the host; NULL if it is not known. */
const char *ckpt_names_lookup(const CkptNames *names, const CkptHost *host, const char *vm_id);
