/* The domain's plain values: what a virtual machine, a checkpoint, a plan and an operation are.
 * Includes nothing of ours but common/, is included by every layer of the agent above the
 * transport. All strings are owned by the struct that holds them unless said otherwise; times are
 * microseconds since the epoch, UTC; 0 = absent. Enum values equal the proto's. */
#pragma once

#include "common/error.h"

#include <glib.h>

/* Replaces an owned string by a copy of value (g_set_str of a newer GLib). */
static inline void
ckpt_set_str(char **member, const char *value)
{
    char *copy = g_strdup(value);

    g_free(*member);
    *member = copy;
}

typedef enum {
    CKPT_ACCESSIBILITY_PUBLIC = 1,
    CKPT_ACCESSIBILITY_INTERNAL = 2
} CkptAccessibility;

typedef enum {
    CKPT_CONSISTENCY_CRASH = 1,
    CKPT_CONSISTENCY_APPLICATION = 2,
    CKPT_CONSISTENCY_MEMORY = 3
} CkptConsistency;

typedef enum {
    CKPT_MECHANISM_OVERLAY = 1,
    CKPT_MECHANISM_NATIVE = 2,
    CKPT_MECHANISM_FOREIGN = 3
} CkptMechanism;

/* MOVED: the VM and its files belong to another host's agent, and are not touched by this one. */
typedef enum { CKPT_STATE_READY = 1, CKPT_STATE_DELETING = 2, CKPT_STATE_MOVED = 3 } CkptState;

typedef enum { CKPT_FORMAT_RAW = 1, CKPT_FORMAT_QCOW2 = 2 } CkptFormat;
const char *ckpt_format_name(CkptFormat format); /* "raw", "qcow2" */

typedef enum {
    CKPT_POWER_UNKNOWN = 0,
    CKPT_POWER_RUNNING = 1,
    CKPT_POWER_PAUSED = 2,
    CKPT_POWER_SHUT_OFF = 3,
    CKPT_POWER_CRASHED = 4,
    CKPT_POWER_SUSPENDED = 5
} CkptPower;
const char *ckpt_power_name(CkptPower power); /* "running", "shut off" */

/* Identifies a file's contents as far as stat(2) can: all four must match. */
typedef struct {
    guint64 device;
    guint64 inode;
    guint64 size;     /* bytes, st_size */
    gint64 mtime_ns;
} CkptFileId;
/* The `device` of block devices: their nodes' own says nothing. */
#define CKPT_FILE_ID_BLOCK G_MAXUINT64
gboolean ckpt_file_id_equal(const CkptFileId *a, const CkptFileId *b);
/* Whether what was found is what was sealed: a block device that has grown since holds it where it was. */
gboolean ckpt_file_id_holds(const CkptFileId *found, const CkptFileId *sealed);
gboolean ckpt_file_id_is_set(const CkptFileId *id);

/* ---- Virtual machines, as a driver finds them ---- */

/* One image file, as the file system, its own header and the kernel's locks show it. */
typedef struct {
    char *path;             /* absolute */
    gboolean exists;        /* all below is unset when FALSE */
    CkptFormat format;      /* from the definition or the overlay above, never probed; 0 = nobody says */
    guint64 virtual_size;   /* bytes; 0 where it could not be read */
    guint64 allocated;      /* bytes, st_blocks * 512 */
    gint64 born_us;         /* when the file was made; 0 where its file system does not tell */
    guint64 fs_available;   /* bytes free in its file system */
    guint64 fs_size;        /* bytes that this has; 0 where that is not known */
    CkptFileId id;
    guint mode;             /* permission bits */
    guint uid, gid;
    char *backing;          /* absolute path that its own qcow2 header names; NULL = none (raw) */
    CkptFormat backing_format; /* as that header says; 0 = it does not */
    gboolean block;         /* it is a block device, which has neither a mode that would protect it nor times:
                               `id` is made from its own name and its size */
    char *overlay_folder;   /* where overlays and manifests of it go; NULL = beside it. Of a block device */
    guint64 overlay_device; /* of that folder's file system, of which fs_available then is */
    gboolean manifest;      /* a checkpoint's manifest lies beside it: somebody has sealed it */
    char *manifest_file;    /* where it lies if that is not beside it; NULL = FILE.vmckpt.json */
    gboolean manifest_unread; /* … which nobody can tell: it cannot be read, or not be believed */
    char *owner_agent, *owner_host, *owner_vm; /* as that says: the agent's host, its name, the VM; NULL if it
                                                  cannot be read */
    gboolean bitmaps;       /* has persistent dirty bitmaps */
    gboolean snapshots;     /* has internal snapshots */
    gboolean commit_denied; /* the running VM's confinement denies writing to it (hazard A14) */
    gboolean encrypted;     /* its header says so */
    gboolean unguarded;     /* on a network file system whose locks do not tell what other hosts do, and the
                               agent's configuration does not say that this is all right */
    gboolean read_locked;   /* a process holds QEMU's lock byte 100 (consistent read) */
    gboolean write_locked;  /* … 101 (write) */
} CkptLayer;
void ckpt_layer_free(CkptLayer *layer);

/* What is kept of a block device in the folder for that is named after its path, '-' for '/'; a '-' or a '_' of
 * the path has a '_' before it, so that no two paths have one name. (transfer full) */
char *ckpt_device_stem(const char *path);

/* One disk of a VM. Only writable disks that a checkpoint must capture; read-only ones and CD-ROMs
 * are left alone and do not appear. */
typedef struct {
    char *target;       /* "vda" */
    char *source;       /* the top's path in the persistent definition; NULL if it is not a file */
    CkptFormat format;  /* of source, from the definition */
    char *live_source;  /* the top's path in the live XML; NULL unless active and attached */
    char **live_chain;  /* live XML's source and backingStore paths, top first; NULL unless active */
    GPtrArray *chain;   /* CkptLayer by the headers, from source (active: from live_source), top first */
} CkptDisk;

/* What forbids operating on a VM, by name. */
typedef struct {
    CkptReason reason;
    char *message; /* says what, where and what to do */
    char *disk;    /* target; NULL = the VM as a whole */
    char *file;    /* or NULL */
} CkptObstacle;

/* A file of ours that somebody else uses: another VM's definition or live chain. */
typedef struct {
    char *file;
    char *user;       /* "VM web-02 (UUID), disk vda" */
    gboolean is_top;  /* as a writable top (hazard A22), not as a backing file */
} CkptFileUser;

typedef struct {
    gboolean available;
    char *reason; /* NULL if available */
} CkptAbility;

typedef struct {
    char *target;      /* "" = not known */
    char *path;
    CkptFormat format; /* 0 = nobody says */
} CkptSnapshotFile;

/* A snapshot that the hypervisor itself keeps of a VM, whoever made it. What follows `current` is told of
 * foreign ones only (CkptVm.foreign). */
typedef struct {
    char *name;
    char *parent;     /* the name of its parent; NULL at the root */
    CkptPower power;  /* what it captured: active with memory, or SHUT_OFF */
    gboolean current; /* the VM's present state was last created from or reverted to it */
    char *description; /* NULL = none */
    gint64 created_us;
    gboolean internal; /* inside the disks' own qcow2 files; else those files are the contents */
    gboolean unlisted; /* in a file's snapshot table only: libvirt does not know it */
    gboolean memory;
    GPtrArray *disks;  /* CkptSnapshotFile: each disk's file that holds (internal) or is the contents */
    GPtrArray *named;  /* CkptSnapshotFile: every file that it names, the overlays made for it too */
} CkptSnapshot;
CkptSnapshot *ckpt_snapshot_new(const char *name); /* empty arrays */
/* To disks or named, once. */
void ckpt_snapshot_add_file(GPtrArray *files, const char *target, const char *path, CkptFormat format);
void ckpt_snapshot_free(CkptSnapshot *snapshot);

typedef struct {
    char *id;   /* lower-case UUID */
    char *name;
    CkptPower power;
    gboolean persistent;
    gboolean autostart;
    char *definition;      /* inactive XML, SECURE; holds passwords: 0600, never in replies or logs */
    char *live_definition; /* live XML, SECURE; NULL unless active */
    GPtrArray *disks;      /* CkptDisk in the definition's order */
    GPtrArray *obstacles;  /* CkptObstacle, the most telling first */
    char *nvram;           /* the file of its UEFI variables; NULL = it has none. In `files`, where it may
                              not exist: they are made at the first start */
    GPtrArray *not_captured; /* char *, what a checkpoint of it does not hold, for people */
    GHashTable *files;     /* path (a copy, owned) → CkptLayer: every chain's and every asked file's
                              (owned here; CkptDisk.chain borrows) */
    GPtrArray *users;      /* CkptFileUser of any of those files, other VMs only */
    GPtrArray *unreadable; /* CkptFileUser: other VMs' disks that may lie on any of those files, since nobody can
                              read their chains beyond this file, which is missing or fails */
    CkptMechanism mechanism; /* how its driver keeps checkpoints: OVERLAY unless the driver says NATIVE.
                                With NATIVE, disks have neither source nor chain, files is empty */
    GPtrArray *snapshots;  /* CkptSnapshot, any order; of a native driver only */
    GPtrArray *foreign;    /* CkptSnapshot, any order: what others made, beside the agent's overlays; the
                              files that hold their contents are in `files`, and what lies below */
    guint backup_points;   /* libvirt checkpoints (virDomainCheckpoint): bitmaps that a backup tool keeps */
    CkptAbility checkpoint, live, memory, application;
    guint64 memory_bytes;    /* RAM, by the definition in force */
    char *qemu_version;      /* "7.2.22"; NULL = not known, or none */
    guint downtime_ms;       /* how long QEMU may let the guest stand at the end of a live copy of its memory;
                                0 = not known, or not asked: for a plan only */
} CkptVm;
void ckpt_vm_free(CkptVm *vm);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CkptVm, ckpt_vm_free)
CkptVm *ckpt_vm_new(void); /* empty arrays */
CkptSnapshot *ckpt_vm_find_snapshot(const CkptVm *vm, const char *name); /* NULL if none */
CkptDisk *ckpt_vm_find_disk(const CkptVm *vm, const char *target); /* NULL if none */
CkptLayer *ckpt_vm_find_file(const CkptVm *vm, const char *path);  /* NULL if not looked at */
void ckpt_disk_free(CkptDisk *disk);
void ckpt_vm_add_file(CkptVm *vm, CkptLayer *layer); /* takes it; replaces one of the same path */
void ckpt_vm_add_obstacle(CkptVm *vm, CkptReason reason, const char *disk, const char *file,
                          const char *format, ...) G_GNUC_PRINTF(5, 6);
void ckpt_vm_add_user(CkptVm *vm, const char *file, gboolean is_top, const char *user);
void ckpt_vm_add_unreadable(CkptVm *vm, const char *file, const char *user);
/* DISK_FILE_MISSING: why nothing is merged or removed that such a disk may lie on. */
void ckpt_unreadable_error(GError **error, const char *file, const char *user);

typedef struct {
    char *id;
    char *name;
    CkptPower power;
} CkptVmSummary;
void ckpt_vm_summary_free(CkptVmSummary *summary);

typedef struct {
    char *host_id;         /* host UUID */
    char *host_name;
    char *uri;             /* of the hypervisor connection */
    char *libvirt_version; /* "9.0.0" */
    char *qemu_version;    /* "7.2.22"; NULL where it is not QEMU */
} CkptHostInfo;
void ckpt_host_info_free(CkptHostInfo *info);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CkptHostInfo, ckpt_host_info_free)

/* ---- Checkpoints, as the catalogue keeps them ---- */

/* Of the manifest that lies beside a sealed file. */
#define CKPT_MANIFEST_ENDING ".vmckpt.json"

typedef struct {
    char *target;
    char *sealed_file;    /* absolute path; "" where the hypervisor keeps the contents (NATIVE) */
    CkptFormat format;
    guint64 virtual_size; /* bytes */
    CkptFileId id;        /* as sealed; a file that differs is not what was captured */
    guint mode_before;    /* permission bits before it was sealed */
    gboolean agent_made;  /* one that the agent did not make is never removed */
} CkptCheckpointDisk;

typedef enum { CKPT_FILE_MEMORY = 1, CKPT_FILE_NVRAM = 2 } CkptFileKind;
const char *ckpt_file_kind_name(CkptFileKind kind); /* "memory", "nvram" */

/* A file that a checkpoint has beside its disks' sealed files; the agent made it, nothing lies on it. */
typedef struct {
    CkptFileKind kind;
    char *path;        /* absolute */
    CkptFormat format; /* of an NVRAM; 0 for a memory image, which is libvirt's save image */
    CkptFileId id;     /* as it was captured; a file that differs is not what was captured */
    guint64 bytes;     /* allocated */
} CkptCheckpointFile;
void ckpt_checkpoint_file_free(CkptCheckpointFile *file);
CkptCheckpointFile *ckpt_checkpoint_file_copy(const CkptCheckpointFile *file);

typedef struct {
    char *id;        /* lower-case UUID, also the platform's ID for overlays */
    char *vm_id, *vm_name;
    char *parent_id; /* NULL at the root */
    char *name, *description;
    CkptAccessibility accessibility;
    gint64 added_us, modified_us;
    char *most_recent_task;
    CkptConsistency asked, reached;
    gint64 freeze_us;  /* -1 = was not frozen */
    gint64 pause_us;   /* -1 = not known (NATIVE, with memory) */
    GPtrArray *disks;  /* CkptCheckpointDisk in the definition's order */
    GPtrArray *extras; /* CkptCheckpointFile, at most one of a kind; never NULL */
    GPtrArray *not_captured; /* char *, what a restore will not bring back, a sentence each; never NULL */
    guint64 memory_bytes;
    char *qemu_version; /* that wrote its memory; "" = none, or not known */
    CkptPower power;   /* at capture */
    char *run_id, *reason, *ticket, *creator, *hold; /* "" = none */
    GHashTable *labels; /* string → string, never NULL */
    gint64 expire_us;   /* 0 = never */
    CkptMechanism mechanism;
    CkptState state;
    gboolean deferred; /* DELETING, but no file has been touched: it waits until nothing but one
                          branch lies on it */
    char *disabled_reason; /* NULL or "" = enabled */
    char *definition;      /* as in CkptVm; secret */
    char *live_definition; /* NULL unless it was active */
    gboolean autostart;
    guint64 revision;      /* grows with every change; the etag */
    guint64 epoch;         /* of the manifest by which it is this agent's; 1 for who made it */
    gboolean departed;     /* the VM was seen to be defined here no longer */
    gboolean stayed;       /* the VM migrated away, and its disks of that time stayed here */
} CkptCheckpoint;
CkptCheckpoint *ckpt_checkpoint_new(void); /* strings "" where "" means none, disks and labels empty */
CkptCheckpoint *ckpt_checkpoint_copy(const CkptCheckpoint *checkpoint);
void ckpt_checkpoint_free(CkptCheckpoint *checkpoint);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CkptCheckpoint, ckpt_checkpoint_free)
CkptCheckpointDisk *ckpt_checkpoint_find_disk(const CkptCheckpoint *checkpoint, const char *target);
CkptCheckpointFile *ckpt_checkpoint_find_extra(const CkptCheckpoint *checkpoint, CkptFileKind kind);
void ckpt_checkpoint_disk_free(CkptCheckpointDisk *disk);
CkptCheckpointDisk *ckpt_checkpoint_disk_copy(const CkptCheckpointDisk *disk);
