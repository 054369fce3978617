/* The manifest that lies beside each sealed file: enough to rebuild a lost catalogue, or to adopt a VM
 * that moved to another host. It holds a definition, so it is secret: 0600. */
#pragma once

#include "agent/model/types.h"

#define CKPT_MANIFEST_FORMAT 2
/* No longer one is read: libvirt's own limit of a definition is 4 MiB, and there are two. */
#define CKPT_MANIFEST_MAX (16u * 1024 * 1024)

/* No agent takes over so often. */
#define CKPT_MANIFEST_EPOCH_MAX G_MAXUINT32

typedef struct {
    char *agent;         /* host UUID of the agent that the checkpoint belongs to */
    char *checkpoint_id; /* these three are the row's */
    char *domain;        /* the VM's UUID */
    guint64 epoch;       /* grows with each change of owner; of two manifests the greater holds */
    guint format;        /* CKPT_MANIFEST_FORMAT */
    char *host_name;     /* that agent's, for people; "" = not told */
    gint64 modified_us;
    CkptCheckpoint *row; /* NULL where only the head was read */
    char *path;          /* the file beside which it lies; NULL before it was read */
} CkptManifest;
CkptManifest *ckpt_manifest_new(void);
void ckpt_manifest_free(CkptManifest *manifest);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CkptManifest, ckpt_manifest_free)

/* (transfer full; secret) */
char *ckpt_manifest_text(const CkptCheckpoint *checkpoint, const CkptHostInfo *owner, guint64 epoch);
/* Distrusts everything: any agent, or anybody whom the folder lets in, may have written it. Unknown
 * members, another format, IDs that are none, paths that are not plain absolute ones, two members of one
 * meaning that disagree: refused with VALIDATION_FAILED. */
CkptManifest *ckpt_manifest_parse(const char *text, const char *file, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;
/* The same of its beginning alone; row stays NULL. NULL if it is none. CKPT_MANIFEST_HEAD bytes are enough. */
#define CKPT_MANIFEST_HEAD 1024
CkptManifest *ckpt_manifest_parse_head(const char *text, const char *file);

/* Whether the file is named as the overlays are that agents make: DISK.ckpt-SHORTID.qcow2. */
gboolean ckpt_manifest_is_overlay_name(const char *file);
