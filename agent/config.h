/* The agent's configuration file: groups and keys as GKeyFile has them, every one known and
 * checked, every error with file and line. */
#pragma once

#include "agent/core/access.h"
#include "agent/core/engine.h"

#define CKPT_CONFIG_DEFAULT "/etc/vmcheckpoint/vmcheckpointd.conf"

typedef struct {
    char *listen;     /* "127.0.0.1:7443", "[::1]:0" */
    char *hypervisor; /* libvirt's connection URI */
    char *state_dir;
    char *ca_file, *cert_file, *key_file;
    CkptAccess *access;
    GPtrArray *libraries; /* CkptLibraryPlace, in the file's order */
    CkptLimits limits;
    guint merge_mib; /* a second; 0 = no limit */
    guint handler_threads, max_calls, max_connections, max_watches; /* 0 = the default */
    guint guest_agent_seconds; /* likewise */
    char *block_overlay_folder; /* NULL: disks on block devices are refused */
    gboolean offline_without_locks; /* on network file systems, too */
    gboolean without_linked_clones; /* VMs whose files cannot be read hold nothing up */
    gboolean live_memory_when_emulated; /* by a QEMU before 9.0, too */
} CkptConfig;

/* INVALID_ARGUMENT "FILE:LINE: what", or FILE_FAILED. */
CkptConfig *ckpt_config_load(const char *file, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void ckpt_config_free(CkptConfig *config);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CkptConfig, ckpt_config_free)
