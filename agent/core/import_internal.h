/* What the files of the import share: how one that is being made grows. */
#pragma once

#include "agent/core/import.h"

/* Adds to its notes. */
void ckpt_import_note(CkptImport *import, const char *format, ...) G_GNUC_PRINTF(2, 3);

/* import_choose.c: takes the manifests of its VM out of `found`. Of each checkpoint the one that holds goes into
 * `manifests`, oldest first; where none does a note says why, and they go into `left_out`, unless two agents
 * claim the checkpoint. */
void ckpt_import_choose(CkptImport *import, GPtrArray *found);
