/* A hypervisor in memory, for tests: VMs, their definitions, image files with contents, QEMU's locks.
 * It does what the real one does where it matters for the planner and the executor: a sealed file is
 * not opened for writing, a merge alters the file below cell by cell, a VM that was started keeps its
 * files open under whatever name. Every change passes a hook that may cut it off there.
 *
 * Threads: `lock` guards everything; it is recursive, so that a hook may act on the world. */
#pragma once

#include "agent/hypervisor/hypervisor.h"

#define CKPT_SIM_CELLS 10          /* the largest disk has so many */
#define CKPT_SIM_CELL (1u << 20)   /* bytes */

/* An inode. It outlives its name as long as a running VM has it open. */
typedef struct {
    gatomicrefcount refs;
    guint64 inode;                 /* grows: tells which of two files is younger */
    char *path;                    /* NULL = unlinked */
    CkptFormat format;
    guint cells;                   /* virtual size */
    gboolean set[CKPT_SIM_CELLS];  /* FALSE = a hole: the file below shows through */
    guint32 data[CKPT_SIM_CELLS];
    char *backing;                 /* as its header says; NULL = none */
    CkptFormat backing_format;
    guint mode;
    gint64 mtime;
    gboolean agent_made;
    gboolean given_up;             /* its removal was told to fail: nobody minds what becomes of it */
    guint64 reserved;              /* bytes for a merge to come */
    gboolean merged_back;          /* an undo is merging it down: a mark beside it says so */
} CkptSimFile;

typedef struct {
    char *target;
    char *source;
    CkptFormat format;
} CkptSimDisk;

typedef struct {
    guint memory;                  /* stands for the hardware configuration */
    GPtrArray *disks;              /* CkptSimDisk */
} CkptSimDefinition;

/* A disk of a running VM: what QEMU has open. */
typedef struct {
    char *target;
    GPtrArray *chain;              /* CkptSimFile, referenced, top first */
} CkptSimLive;

/* What a guest agent makes of freeze and thaw. */
typedef enum {
    CKPT_SIM_AGENT_NONE,       /* no channel: nothing can be asked */
    CKPT_SIM_AGENT_GOOD,
    CKPT_SIM_AGENT_HUNG,       /* does nothing, answers nothing */
    CKPT_SIM_AGENT_LATE,       /* freezes after the time limit, hears no thaw before */
    CKPT_SIM_AGENT_LYING,      /* freezes, and says that it froze nothing */
    CKPT_SIM_AGENT_REFUSING,   /* answers with an error */
    CKPT_SIM_AGENT_IMPATIENT,  /* thaws by itself before it is told to */
    CKPT_SIM_AGENT_DEAF        /* freezes, and hears no thaw for a while */
} CkptSimAgent;

typedef struct {
    char *id, *name;
    CkptPower power;
    gboolean autostart;
    CkptSimAgent agent;
    gboolean frozen;               /* the guest writes nothing */
    guint guards;                  /* thaw guards that wait for it to hear a thaw */
    CkptSimDefinition *definition; /* persistent */
    CkptSimDefinition *live;       /* NULL while off */
    GPtrArray *live_disks;         /* CkptSimLive; NULL while off */
    char *nvram;                   /* raw file whose first cell stands for its UEFI variables; NULL = none */
    gboolean captures_memory;      /* its memory can be captured */
    gboolean loaded;               /* it went on from a memory image, and was not booted */
    CkptSimDefinition *saved;      /* as virsh managedsave: what it ran on, and goes on on; NULL = not */
    CkptPower saved_power;
    guint32 saved_sum;             /* over what its disks held */
    gboolean shut_down;            /* by its owner: it did not die, and was not stopped by the agent */
    gboolean suspended;            /* the agent paused it for a pivot, and says so in a mark */
} CkptSimVm;

/* One disk of a snapshot that another tool made. */
typedef struct {
    char *target, *path;
    CkptSimFile *file;             /* referenced: what `path` was */
    char *overlay;                 /* laid over it; NULL of an internal one */
    guint cells;                   /* what the file itself had then, which an internal one keeps */
    gboolean set[CKPT_SIM_CELLS];
    guint32 data[CKPT_SIM_CELLS];
} CkptSimSaved;
typedef struct {
    char *vm_id, *name;
    gboolean internal;
    GPtrArray *disks;              /* CkptSimSaved */
} CkptSimSnapshot;

typedef struct _CkptSim CkptSim;

typedef enum {
    CKPT_SIM_ASKED,                /* inspect, settle, host_info, step_check are about to answer */
    CKPT_SIM_BEGUN,                /* a step, or its undo, is about to change something */
    CKPT_SIM_CHANGED               /* it has just changed one thing, which is now in effect */
} CkptSimMoment;

/* FALSE, with an error: the call ends here with it. step is NULL for what is no step. */
typedef gboolean (*CkptSimHook)(CkptSim *sim, CkptSimMoment moment, const CkptPlan *plan,
                                const CkptStep *step, gpointer data, GError **error);

struct _CkptSim {
    CkptDriver base;
    GRecMutex lock;
    GHashTable *files;             /* path (the file's own) → CkptSimFile */
    GHashTable *manifests;         /* path of the sealed file → ID of the checkpoint */
    GHashTable *manifest_texts;    /* the same → what it says */
    GPtrArray *vms;                /* CkptSimVm */
    const char *host_id;           /* of the host that asks; a constant */
    gboolean elsewhere;            /* the VMs are not on that host */
    gint64 clock;                  /* ns; grows with every write */
    guint64 last_inode;
    guint64 free_bytes;            /* of the one file system */
    CkptSimHook hook;
    gpointer hook_data;
    GPtrArray *snapshots;          /* CkptSimSnapshot: other tools' */
    GPtrArray *crimes;             /* char *: what must never happen and did */
    CkptVmChangedFunc watcher;     /* NULL = nobody watches */
    gpointer watcher_data;
};

CkptSim *ckpt_sim_new(void);
/* From now on there may be more hosts than one: manifests are read back, and tell whose the files are;
 * and they are found where disks lie. */
void ckpt_sim_share(CkptSim *sim);
/* Tells whoever watches that the VM (NULL: any) was changed by somebody. */
void ckpt_sim_tell(CkptSim *sim, const char *vm_id);
CkptDriver *ckpt_sim_driver(CkptSim *sim); /* borrowed; its free() frees the sim */

/* ---- Files (files.c) ---- */
CkptSimFile *ckpt_sim_find(CkptSim *sim, const char *path); /* NULL if none */
/* backing NULL: a root of so many cells. Else as large as the backing file when cells is 0. */
CkptSimFile *ckpt_sim_add_file(CkptSim *sim, const char *path, CkptFormat format, guint cells,
                               const char *backing, guint mode);
CkptSimFile *ckpt_sim_file_ref(CkptSimFile *file);
void ckpt_sim_file_unref(CkptSimFile *file);
void ckpt_sim_rename(CkptSim *sim, CkptSimFile *file, const char *path); /* NULL = unlink */
/* Files from this one down as headers say, referenced; NULL if one is missing. */
GPtrArray *ckpt_sim_chain(CkptSim *sim, const char *path);
/* What a reader of chain[from] sees in a cell. */
guint32 ckpt_sim_read_cell(GPtrArray *chain, guint from, guint cell);
void ckpt_sim_write_cell(CkptSim *sim, CkptSimFile *file, guint cell, guint32 value);
/* Growing shows zeros, also where a file below is longer. */
void ckpt_sim_resize(CkptSim *sim, GPtrArray *chain, guint cells);
CkptFileId ckpt_sim_file_id(const CkptSimFile *file);
void ckpt_sim_locks(CkptSim *sim, const CkptSimFile *file, gboolean *read, gboolean *write);
void ckpt_sim_crime(CkptSim *sim, const char *format, ...) G_GNUC_PRINTF(2, 3);

/* ---- VMs (vms.c) ---- */
CkptSimVm *ckpt_sim_add_vm(CkptSim *sim, const char *id, const char *name);
CkptSimVm *ckpt_sim_find_vm(CkptSim *sim, const char *id);
CkptSimDefinition *ckpt_sim_definition_new(void);
CkptSimDefinition *ckpt_sim_definition_copy(const CkptSimDefinition *definition);
void ckpt_sim_definition_free(CkptSimDefinition *definition);
char *ckpt_sim_definition_text(const CkptSimDefinition *definition);
CkptSimDefinition *ckpt_sim_definition_parse(const char *text);
CkptSimDisk *ckpt_sim_definition_find(const CkptSimDefinition *definition, const char *target);
void ckpt_sim_definition_set(CkptSimDefinition *definition, const char *target, const char *source,
                             CkptFormat format);
void ckpt_sim_definition_remove(CkptSimDefinition *definition, const char *target);
/* The guest agent comes to itself, and every thaw guard with it. */
void ckpt_sim_wake_agent(CkptSimVm *vm);
CkptSimLive *ckpt_sim_find_live(const CkptSimVm *vm, const char *target);
/* Opens every chain as QEMU does: refused for a missing, sealed or locked file. One that was saved goes on on the
 * files that it had, in the power state that it had; a crime where they hold anything else by now. */
gboolean ckpt_sim_start(CkptSim *sim, CkptSimVm *vm, CkptPower power, GError **error);
void ckpt_sim_stop(CkptSim *sim, CkptSimVm *vm);
void ckpt_sim_save(CkptSim *sim, CkptSimVm *vm); /* as virsh managedsave, of one that runs */
void ckpt_sim_forget_saved(CkptSimVm *vm);
/* FALSE: it was saved, and its disks are not there any more, not to be opened, or hold anything else. */
gboolean ckpt_sim_can_go_on(CkptSim *sim, CkptSimVm *vm);
/* It was saved on one of these files, or on an overlay of them. */
gboolean ckpt_sim_is_saved_on(CkptSim *sim, const CkptSimVm *vm, GPtrArray *disks);
/* TRUE, with an error: it is off, and was saved: it would go on on its disks as they were. */
gboolean ckpt_sim_refuse_saved(const CkptSimVm *vm, GError **error);
/* The same, but for the merge of an empty overlay on which it was not saved. */
gboolean ckpt_sim_refuse_saved_merge(CkptSim *sim, const CkptSimVm *vm, const CkptSimFile *overlay,
                                     GError **error);
/* Hot-plug: as if the disk had been there when it started. */
gboolean ckpt_sim_attach(CkptSim *sim, CkptSimVm *vm, const char *target, const char *source,
                         CkptFormat format, GError **error);
void ckpt_sim_detach(CkptSim *sim, CkptSimVm *vm, const char *target);
/* The chain that a disk of the VM is read through, now or at its next start, referenced; NULL if it
 * cannot be read. */
GPtrArray *ckpt_sim_disk_chain(CkptSim *sim, const CkptSimVm *vm, const char *target);

/* ---- Other tools (foreign.c) ---- */
/* As virsh snapshot-create-as: over all disks with overlays in folder, or, with NULL, inside all of them, which
 * are qcow2 then. Borrowed. */
CkptSimSnapshot *ckpt_sim_snapshot_add(CkptSim *sim, CkptSimVm *vm, const char *name, const char *folder);
/* What an internal one holds in a cell. */
guint32 ckpt_sim_saved_cell(CkptSim *sim, const CkptSimSaved *saved, guint cell);
gboolean ckpt_sim_has_inside(CkptSim *sim, const CkptSimFile *file);
CkptSnapshot *ckpt_sim_snapshot_tell(const CkptSimSnapshot *snapshot);
void ckpt_sim_snapshot_free(gpointer snapshot);

/* ---- Inside the driver ---- */
gboolean ckpt_sim_guest_look(CkptDriver *driver, const char *vm_id, CkptGuest *guest, GError **error);
gboolean ckpt_sim_guest_release(CkptDriver *driver, const char *vm_id, GError **error);
void ckpt_sim_watch(CkptDriver *driver, CkptVmChangedFunc func, gpointer data);
typedef struct {
    CkptSim *sim;
    const CkptPlan *plan;
    CkptStep *step;
} CkptSimRun;
CkptSimVm *ckpt_sim_vm_of(CkptSimRun *run); /* of the plan; borrowed */
CkptVm *ckpt_sim_inspect(CkptSim *sim, CkptSimVm *vm, const CkptKnownFile *files);
/* The missing file beyond which nobody can tell on what this disk lies; NULL: none is. Free it. */
char *ckpt_sim_unreadable(CkptSim *sim, const CkptSimDisk *disk);
gboolean ckpt_sim_may_touch(CkptSimRun *run, GError **error); /* VM_MOVED: the files are another host's */
gboolean ckpt_sim_ask(CkptSim *sim, GError **error);          /* asks the hook at CKPT_SIM_ASKED */
gboolean ckpt_sim_changed(CkptSimRun *run, GError **error);
gboolean ckpt_sim_begin(CkptSimRun *run, GError **error); /* asks the hook at CKPT_SIM_BEGUN */
/* Runs `act` with the guest frozen around it, as the step asks for (freeze.c). */
gboolean ckpt_sim_frozen(CkptSimRun *run, CkptSimVm *vm,
                         gboolean (*act)(CkptSimRun *run, GError **error), GError **error);
/* Writes the memory image that the step asks for, and runs `act` at its instant (memory.c). */
gboolean ckpt_sim_capture(CkptSimRun *run, CkptSimVm *vm,
                          gboolean (*act)(CkptSimRun *run, GError **error), GError **error);
/* Of a snapshot that was cut short, and made: whether with its memory. */
void ckpt_sim_note_captured(CkptSimRun *run);
gboolean ckpt_sim_capture_undo(CkptSimRun *run, GError **error);
gboolean ckpt_sim_load(CkptSimRun *run, CkptSimVm *vm, GError **error); /* of one that is off */
gboolean ckpt_sim_check_memory(CkptSimRun *run, GError **error);
/* Thaws what a snapshot that was cut short may have frozen. */
gboolean ckpt_sim_recover(CkptSimRun *run, CkptSimVm *vm, GError **error);
gboolean ckpt_sim_merge(CkptSimRun *run, GError **error);
/* Of the sim's free bytes, to the target; a merge takes from there what it writes to holes. */
gboolean ckpt_sim_reserve(CkptSimRun *run, GError **error);
gboolean ckpt_sim_reserve_undo(CkptSimRun *run, GError **error);
gboolean ckpt_sim_pull(CkptSimRun *run, GError **error);
gboolean ckpt_sim_rebase(CkptSimRun *run, GError **error);
/* Undoes a snapshot: what was written to the overlays since goes into the files below. */
gboolean ckpt_sim_merge_back(CkptSimRun *run, GError **error);
gboolean ckpt_sim_check_chain(CkptSimRun *run, GError **error);
/* power.c */
gboolean ckpt_sim_step_stop(CkptSimRun *run, GError **error);
gboolean ckpt_sim_step_stop_undo(CkptSimRun *run, GError **error);
gboolean ckpt_sim_step_start(CkptSimRun *run, GError **error);
gboolean ckpt_sim_step_start_undo(CkptSimRun *run, GError **error);
CkptOutcome ckpt_sim_is_stopped(CkptSimRun *run, GError **error);
CkptOutcome ckpt_sim_is_started(CkptSimRun *run, GError **error);
/* What the disks of a running VM hold. */
guint32 ckpt_sim_sum_of_disks(const CkptSimVm *vm);
/* overlays.c */
gboolean ckpt_sim_make_overlay(CkptSimRun *run, GError **error);
gboolean ckpt_sim_make_overlay_undo(CkptSimRun *run, GError **error);
CkptOutcome ckpt_sim_make_overlay_check(CkptSimRun *run, GError **error);
gboolean ckpt_sim_remove_file(CkptSimRun *run, GError **error);
CkptOutcome ckpt_sim_remove_file_check(CkptSimRun *run, GError **error);
gboolean ckpt_sim_seal(CkptSimRun *run, GError **error);
gboolean ckpt_sim_unseal(CkptSimRun *run, GError **error);
gboolean ckpt_sim_identify(CkptSimRun *run, GError **error);
/* manifests.c */
gboolean ckpt_sim_write_manifest(CkptSimRun *run, GError **error);
gboolean ckpt_sim_remove_manifest(CkptSimRun *run, GError **error);
/* snapshot.c */
gboolean ckpt_sim_snapshot(CkptSimRun *run, GError **error);
gboolean ckpt_sim_snapshot_undo(CkptSimRun *run, GError **error);
CkptOutcome ckpt_sim_snapshot_recover(CkptSimRun *run, GError **error); /* its check */
/* nvram.c */
gboolean ckpt_sim_save_nvram(CkptSimRun *run, GError **error);
gboolean ckpt_sim_save_nvram_undo(CkptSimRun *run, GError **error);
CkptOutcome ckpt_sim_save_nvram_check(CkptSimRun *run, GError **error);
gboolean ckpt_sim_compare_nvram(CkptSimRun *run, GError **error);
gboolean ckpt_sim_put_nvram(CkptSimRun *run, GError **error);
gboolean ckpt_sim_put_nvram_undo(CkptSimRun *run, GError **error);
/* Unlinks it; a crime if somebody needs it. */
void ckpt_sim_unlink(CkptSim *sim, CkptSimFile *file);
