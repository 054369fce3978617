/* Reads libraries: folders that hold stored VMs as libvirt domain XML beside their disks. */
#pragma once

#include "common/error.h"

#define CKPT_LIBRARY_FILE_MAX (1024 * 1024) /* bytes of one definition */
#define CKPT_LIBRARY_VMS_MAX 10000          /* definitions of one library */

typedef struct {
    char *vm_id;   /* lower-case UUID */
    char *vm_name;
    char *file;    /* absolute path of the definition */
    char *library; /* the library's name */
} CkptStoredVm;
void ckpt_stored_vm_free(CkptStoredVm *vm);

typedef struct {
    char *name, *path;
    GPtrArray *vms;      /* CkptStoredVm */
    GPtrArray *warnings; /* char *: files that could not be read, each with the reason; a half-written
                            one among them */
    GError *error;       /* why the library as a whole cannot be read; NULL if it can */
} CkptLibrary;
/* Reads all *.xml files of the folder and its direct sub-folders; never fails as a whole: see error.
 * No network, no entities, no DTD. */
CkptLibrary *ckpt_library_read(const char *name, const char *path);
void ckpt_library_free(CkptLibrary *library);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CkptLibrary, ckpt_library_free)
