/* The file systems that hold the disks of the host's virtual machines. */
#pragma once

#include "agent/hypervisor/hypervisor.h"

typedef struct {
    char *mount_point;
    char *type;        /* "ext4" */
    guint64 size;      /* bytes */
    guint64 available; /* bytes that an unprivileged process may still use */
} CkptFileSystem;
void ckpt_file_system_free(CkptFileSystem *file_system);

/* CkptFileSystem by mount point, each once. Empty for a driver without files. */
GPtrArray *ckpt_file_systems_list(CkptDriver *driver, GError **error);
