/* A plan: the ordered steps of one operation, as data. The planner makes it, the journal keeps it,
 * the executor runs it, a driver knows how to do, undo and check each step. */
#pragma once

#include "agent/model/request.h"
#include "agent/model/types.h"

typedef enum {
    /* Of the driver. `file`, `base`, … name members of CkptStep. Each is idempotent: done when it
     * is already so. */
    CKPT_STEP_MAKE_OVERLAY = 1, /* qcow2 `file` on `base` of `base_format`, `size` bytes (0 = as
                                   base); `mode` is 0600, or 0660 where the group may write to
                                   the disk; owner, group and label of `like`; synced. Undo:
                                   removed, if it is the one we made and nothing has it open */
    CKPT_STEP_SEAL,             /* `file` to mode 0440. Undo: back to `mode` */
    CKPT_STEP_UNSEAL,           /* `file` to `mode`, for its own merge. Undo: 0440 */
    CKPT_STEP_SNAPSHOT,         /* each of `disks` from its present top to its `file`, atomically; refused
                                   if the VM was started or stopped since it was `power`. When `asked`
                                   is APPLICATION, with the guest frozen around it; QUIESCE_FAILED when
                                   less than `minimum` is reached. When `asked` is MEMORY, with the memory of
                                   the running VM in `file`, which is made then, as long as `size` bytes stay
                                   free beside it; the VM's downtime limit is `downtime_ms` before and after.
                                   CONSISTENCY_UNAVAILABLE when that cannot be and `minimum` is MEMORY. Fills
                                   reached, freeze_us, pause_us and note. Of checkpoint `checkpoint_id` */
    CKPT_STEP_IDENTIFY,         /* syncs `file`, then fills `id`, and `size` with the bytes that it has
                                   allocated; with `leaf` it may be missing, and they stay 0 */
    CKPT_STEP_WRITE_MANIFEST,   /* the manifest of checkpoint `checkpoint_id` beside each of `disks`,
                                   `text` as contents; 0600, synced. Undo: removed */
    CKPT_STEP_REMOVE_MANIFEST,  /* those beside `disks`, if they are of `checkpoint_id` */
    CKPT_STEP_DEFINE,           /* `definition` with each of `disks` on its `file`; our layers'
                                   <backingStore> dropped; its UEFI variables in `base`, unless that is NULL;
                                   autostart as `autostart`; UUID and present name kept. Undo:
                                   `definition_before`, `autostart_before`. With no `definition`: the one in
                                   force, of which only the disks are changed (to put it right; no undo) */
    CKPT_STEP_STOP,             /* with `disks`: only if one of their `file`s is in its chains. Undo: start again
                                   as `power` was, unless its owner has saved it or shut it down; run after all
                                   other undos */
    CKPT_STEP_START,            /* `power` RUNNING or PAUSED; with `file` it goes on from that memory image, on
                                   `disks`, which nobody has written to since they were made, else VM_BUSY; or,
                                   `taken_up`, it goes on with what was written, and `warning` says so.
                                   MANAGED_SAVE_PRESENT if it would go on from what its owner has saved on other
                                   files (with `file`: on any), VM_BUSY if it runs on other files than the plan's
                                   DEFINE names. Undo: stop, if it runs on those; MANAGED_SAVE_PRESENT, to be gone
                                   on with, while its owner has it saved on those */
    CKPT_STEP_MERGE,            /* disk `target`: `file` (qcow2) into `base` of `base_format`, so that
                                   `file` is needed by nobody: live where the VM runs on it, else with
                                   qemu-img; overlay `above` (NULL: `file` is the top) then lies on
                                   `base`; the definition names `base` where it named `file`. With
                                   `leaf` nothing lies on `file` and it is no VM's top. `target` is a
                                   label: the disk is known by its files. DISK_DETACHED if its newest
                                   file is one of the two and no disk of the VM has it. May be done
                                   again after any crash. No undo */
    CKPT_STEP_CHECK_CHAIN,      /* each of `disks` has exactly `chain`: by definition, live XML, headers
                                   and locks, under whatever target it is by now. Of a delete one may
                                   have been detached: then by headers. No undo */
    CKPT_STEP_REMOVE_FILE,      /* unlinks `file` if nobody has it open, no definition names it and none
                                   of `disks` (filled in when it is run) lies on it; folder synced. No
                                   undo */
    CKPT_STEP_RESERVE,          /* the space that merging `file` (qcow2) into `base` of `base_format` may
                                   need there, before the point of no return; `id`: the sealed `base`,
                                   which it still is afterwards, `size`: the bytes that it took. Undo:
                                   given back. Of a PULL, `base` is the VM's top, and `id` is not set */
    CKPT_STEP_REBASE,           /* `file` (qcow2, open by nobody), whose header names `from`, gets `base` of
                                   `base_format` there, which has the same contents: the header only,
                                   synced. CHAIN_MISMATCH if it names neither. No undo */
    /* Of a driver whose hypervisor keeps the checkpoints (mechanism NATIVE); `checkpoint_id` is the
     * snapshot's name there. */
    CKPT_STEP_NATIVE_CREATE,    /* a snapshot of the present state, with `text` as its description;
                                   refused if the VM is no longer in `power`. Undo: deleted */
    CKPT_STEP_NATIVE_REVERT,    /* the VM to the snapshot; one that holds memory goes on in `power`
                                   (RUNNING or PAUSED), any other ends shut off; autostart as
                                   `autostart`. Undo: to snapshot `base`, `autostart_before` */
    CKPT_STEP_NATIVE_DELETE,    /* the snapshot; its children move up to its parent. No undo */
    /* Of the store; their `change` is applied in the transaction that journals their end. */
    CKPT_STEP_CATALOGUE,
    /* Of the driver again: kinds are journalled as numbers, so that a new one comes last. */
    CKPT_STEP_PULL,             /* disk `target` of a VM that is off: what `file` (qcow2, sealed) holds goes up
                                   into `above`, the top that lies on it, so that `file` is needed by
                                   nobody: `above` then lies on `base` of `base_format`. Neither `file` nor
                                   `base` is written to. SHUT_DOWN_REQUIRED if the VM runs on `file`. `target`
                                   is a label, as of a MERGE. May be done again after any crash, and stopped
                                   anywhere. No undo */
    CKPT_STEP_SAVE_NVRAM,       /* what the VM's UEFI variables (`base`) are is copied to `file`: 0600, synced, and
                                   not taken in the midst of a change. FILE_FAILED if `file` is something
                                   else. Undo: removed */
    CKPT_STEP_COMPARE_NVRAM,    /* `note`, if `base` is no longer what `file` holds. No undo */
    CKPT_STEP_PUT_NVRAM,        /* `base`, open by nobody, becomes what `file` holds, at once; owner, mode and
                                   label as before. VM_BUSY. Undo: what `from` holds (NULL: there was none,
                                   removed) */
    CKPT_STEP_CHECK_MEMORY,     /* MEMORY_UNLOADABLE, naming the reason, if the VM could not go on from the memory
                                   image `file`, which QEMU `text` wrote (NULL: not known), on `disks`. No undo */
    CKPT_STEP_END_              /* no kind: how many there are */
} CkptStepKind;
const char *ckpt_step_name(CkptStepKind kind); /* "make-overlay" */

typedef struct {
    char *target;
    char *file;
    CkptFormat format;
    char **chain; /* paths, top (= file) first; NULL where it does not matter */
} CkptDiskFile;
CkptDiskFile *ckpt_disk_file_new(const char *target, const char *file, CkptFormat format,
                                 const char *const *chain);
void ckpt_disk_file_free(CkptDiskFile *disk);

/* What becomes of the catalogue, all at once or not at all. */
typedef struct {
    GPtrArray *upserts;    /* CkptCheckpoint */
    GPtrArray *removes;    /* char *, checkpoint IDs */
    gboolean set_current;
    char *current_id;      /* the VM's current checkpoint from now on; NULL = none */
    GPtrArray *made;       /* char *, files that the agent made for the VM: only these may be removed */
    GPtrArray *gone;       /* char *, of those, files that nobody needs any more and that are to be
                              removed: doomed. `made` in a later change takes that back */
    GPtrArray *unlinked;   /* char *, of those, files that are no longer there. Not journalled: no plan
                              knows it beforehand */
    gboolean if_unchanged; /* nothing is written unless each of `upserts` still has its revision in the
                              catalogue: ETAG_MISMATCH, or CHECKPOINT_NOT_FOUND. Not journalled: of what
                              is decided now */
} CkptChange;
CkptChange *ckpt_change_new(void);
void ckpt_change_free(CkptChange *change);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CkptChange, ckpt_change_free)

typedef struct {
    CkptStepKind kind;
    char *target;
    char *file;
    char *base;
    char *above;
    char *like;
    char *from;
    CkptFormat base_format, above_format;
    guint64 size;
    guint mode;
    guint downtime_ms;
    char *checkpoint_id;
    char *text;
    char *definition, *definition_before; /* secret */
    gboolean autostart, autostart_before;
    gboolean leaf;
    CkptPower power;
    GPtrArray *disks; /* CkptDiskFile; may be NULL */
    CkptChange *change;
    CkptConsistency asked, minimum; /* of SNAPSHOT */
    /* Results, journalled with the step's end. Of IDENTIFY: */
    CkptFileId id;
    /* Of SNAPSHOT: */
    CkptConsistency reached; /* 0 = what the plan says; with `asked` APPLICATION: not known, the guest
                                may be frozen */
    gint64 freeze_us;        /* from before the freeze was asked for until the thaw was confirmed;
                                -1 = was not frozen, or until when is not known */
    gint64 pause_us;
    char *note;              /* a warning: why less was reached than asked; NULL = none */
    gboolean untried;        /* the switch was not asked for, so that QEMU has opened nothing for it. Set by the
                                planner, and not journalled: after a crash it is not known */
    gboolean taken_up;       /* of START: whoever began the operation is gone, and others may have had the VM
                                since. Set by the executor, and not journalled */
    char *warning;    /* result of any, for the operation's; not journalled. NULL = none */
} CkptStep;
CkptStep *ckpt_step_new(CkptStepKind kind);
void ckpt_step_free(CkptStep *step);
/* One sentence for people: "make overlay /…/a.qcow2 on /…/b.qcow2 for vda". (transfer full) */
char *ckpt_step_describe(const CkptStep *step);

/* What becomes of one disk's file in a delete. Enum values equal the proto's. */
typedef enum {
    CKPT_WORK_REMOVE = 1, /* nothing lies on it: it is removed */
    CKPT_WORK_COMMIT = 2, /* the overlay on it is merged into it, and removed */
    CKPT_WORK_PULL = 3,   /* it is copied up into the overlay, and removed */
    CKPT_WORK_LEAVE = 4   /* nothing lies on it and it is not ours: left where it is */
} CkptWork;

typedef struct {
    char *target;
    CkptWork work;
    gboolean live;          /* by the QEMU of the running VM */
    char *from;             /* the file that is gone afterwards; NULL = none */
    char *into;             /* what it holds lies in this then; NULL = nowhere */
    CkptFormat into_format;
    guint64 moved;          /* bytes read and written again, at most */
    guint64 freed_min, freed_max;
    guint64 needed;         /* bytes that may be taken where `into` lies before any is freed */
    guint64 device;         /* the file system of that */
    guint64 available;      /* … and what it has free */
} CkptDiskForecast;

/* What a delete would free and cost, from the files as they were when it was planned. */
typedef struct {
    GPtrArray *disks;    /* CkptDiskForecast in the checkpoint's order */
    guint64 files_freed; /* bytes of the files that the checkpoint has beside its disks' */
} CkptForecast;
CkptForecast *ckpt_forecast_new(void);
void ckpt_forecast_free(CkptForecast *forecast);

typedef struct {
    CkptKind kind;
    char *vm_id, *vm_name;
    char *checkpoint_id;  /* created, restored or deleted */
    char *safety_id;      /* of a restore; NULL = declined */
    GPtrArray *steps;     /* CkptStep */
    /* Index of the step that decides: a crash before it is done is undone, after it finished. */
    guint decisive;
    /* TRUE: from the decisive step on there is no way back, only forward (delete). FALSE: a later
     * failure is undone too. */
    gboolean no_return;
    GPtrArray *warnings;  /* char * */
    /* The checkpoint that the reply carries, and the safety checkpoint; as planned. */
    CkptCheckpoint *checkpoint, *safety;
    CkptForecast *forecast; /* of a delete that moves or removes files, as long as it is only planned: not
                               journalled. NULL = none */
} CkptPlan;
CkptPlan *ckpt_plan_new(CkptKind kind);
void ckpt_plan_free(CkptPlan *plan);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CkptPlan, ckpt_plan_free)
