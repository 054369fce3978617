/* Image files as they are on disk: qcow2's header read by ourselves, never probed for its format
 * (hazard A28), and every number in it distrusted. */
#pragma once

#include "agent/model/manifest.h"

#include <sys/stat.h>

typedef struct {
    guint version;          /* 2 or 3 */
    guint64 virtual_size;   /* bytes */
    guint64 cluster_size;   /* bytes; 512 to 2 MiB */
    gboolean encrypted;
    gboolean corrupt;       /* QEMU marked it so */
    gboolean data_file;     /* its data lies in another file */
    gboolean bitmaps;       /* has persistent dirty bitmaps */
    guint snapshots;        /* internal ones */
    gboolean empty;         /* no cluster was ever allocated: reads as its backing file everywhere */
    char *backing;          /* as written; NULL = none */
    char *backing_format;   /* as written; NULL = the header does not say */
} CkptQcow2;
void ckpt_qcow2_free(CkptQcow2 *header);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CkptQcow2, ckpt_qcow2_free)

/* Reads the header of a file that is known to be qcow2. DISK_FORMAT_UNSUPPORTED if it is not one, or
 * breaks the format's rules. */
CkptQcow2 *ckpt_qcow2_read(int fd, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* The name in it alone, as written; NULL = none. What else is wrong with the file is not looked at. *format, which
 * may be NULL: of that file; 0 = neither raw nor qcow2, or it is not said. */
gboolean ckpt_qcow2_read_backing(int fd, char **backing, CkptFormat *format, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;

typedef struct {
    char *name;
    gint64 created_us;
    gboolean memory;
} CkptQcow2Snapshot;
/* The internal snapshots that the file's table tells, CkptQcow2Snapshot: at most 1000 of them. */
GPtrArray *ckpt_qcow2_snapshots(int fd, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* "raw" or "qcow2"; 0 for anything else, NULL too. */
CkptFormat ckpt_format_from_name(const char *name);

/* Looks at one file, with everything in CkptLayer. Never NULL; what stands in the way of using it
 * (missing, not a regular file, no such header, …) is *fault, whose reason and message make an
 * obstacle. `header`, which may be NULL, gets the qcow2 header if format is QCOW2 and it is one. */
CkptLayer *ckpt_layer_look(const char *path, CkptFormat format, CkptQcow2 **header,
                           GError **fault);

/* A block device's identity: the name that device-mapper, the disk or a loop device's file gives it, which
 * the next boot does not change, and its size. Its node's inode and times say nothing of its contents. */
void ckpt_block_identify(const char *path, const struct stat *node, guint64 size, CkptFileId *id);
gboolean ckpt_is_block(const char *path);
/* As what its overlays and its manifest are called: "/dev/vg0/web" → "dev-vg0-web". */

/* What QEMU would open for a backing name in the header of `path`: absolute as it is, relative ones
 * below the folder of `path`. NULL for names with a protocol ("json:{…}", "nbd://…"). */
char *ckpt_image_resolve(const char *path, const char *backing);

/* manifests.c: the head of the manifest beside this file, under its own name or its link's; NULL: none. */
CkptManifest *ckpt_manifest_head_beside(const char *file);
/* Of what format that says the file is; 0: there is none that can be used. */
CkptFormat ckpt_manifest_format_beside(const char *file);
/* … that lies at `path`; NULL with what is wrong with it. */
CkptManifest *ckpt_manifest_read_head(const char *path, const char *file, GError **error);
/* All of it, whatever it says, of a regular file that only root or who we are can have written. */
char *ckpt_manifest_read(const char *path, GError **error);
/* It is of the first format, whose agents shared no folder: it tells nothing of whose the file is. */
gboolean ckpt_manifest_is_first(const char *path);

/* Whether both paths name one file, by name or by device and inode. */
gboolean ckpt_image_same(const char *a, const char *b);
