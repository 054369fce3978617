/* The libraries that the configuration names: which stored VMs are in them. Folders are read when
 * somebody asks, at most every few seconds; nothing watches them in between. */
#pragma once

#include "common/library.h"

typedef struct _CkptLibraryIndex CkptLibraryIndex;

/* places: CkptLibraryPlace (service.h). */
CkptLibraryIndex *ckpt_library_index_new(GPtrArray *places);
void ckpt_library_index_free(CkptLibraryIndex *index);

/* All libraries in the configuration's order: CkptLibrary. Blocks for the file system unless they
 * were read less than max_age_us ago. */
GPtrArray *ckpt_library_index_read(CkptLibraryIndex *index, gint64 max_age_us);
/* VM_STORED_IN_LIBRARY, naming library and file, if a library has the VM; read anew. */
gboolean ckpt_library_index_refuse(CkptLibraryIndex *index, const char *vm_id, GError **error);
