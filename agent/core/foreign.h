/* Snapshots that other tools made, as checkpoints: looked at anew whenever somebody asks, never stored. */
#pragma once

#include "agent/core/engine_internal.h"

/* The row that a list shows of it. */
CkptCheckpoint *ckpt_foreign_row(const char *vm_id, const char *vm_name, const CkptSnapshot *snapshot,
                                 GPtrArray *all);
/* Those that the query matches, of all VMs or of its one: CkptCheckpointInfo, in its order. What could not
 * be looked at is told in warnings (char *). Blocks for store and driver. */
GPtrArray *ckpt_foreign_query(CkptEngine *engine, const CkptCheckpointQuery *query, GPtrArray *warnings);
/* The order of lists: added_us, then ID. Of CkptCheckpointInfo *. */
int ckpt_foreign_compare(gconstpointer a, gconstpointer b);
/* NULL without an error: none is known by this ID. */
CkptCheckpointInfo *ckpt_foreign_find(CkptEngine *engine, const char *id, GError **error);
/* Whether the ID is one's: it is refused by name then. */
gboolean ckpt_foreign_refuse(CkptEngine *engine, const char *id, GError **error);
