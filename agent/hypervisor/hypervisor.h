/* The one interface to a hypervisor. A driver is a struct of function pointers; only agent/main.c
 * names one. All functions are called from executor and handler threads, several at once, but never
 * two steps of the same VM at once; no caller's lock is held. */
#pragma once

#include "agent/model/manifest.h"
#include "agent/model/plan.h"

#include <gio/gio.h>

typedef enum {
    CKPT_OUTCOME_NOT_DONE,
    CKPT_OUTCOME_DONE,
    CKPT_OUTCOME_UNCLEAR /* partly done, or the sources disagree: *error says what */
} CkptOutcome;

/* Told by a step that moves data; from any thread. total 0 = unknown. */
typedef void (*CkptProgressFunc)(guint64 bytes_done, guint64 bytes_total, gpointer data);

/* A file of the catalogue, and its format as that says. */
typedef struct {
    const char *path; /* absolute; NULL ends a list of these */
    CkptFormat format;
} CkptKnownFile;

/* Told that a VM was defined, undefined, started, resumed or stopped, by anybody; NULL: any of them may have
 * been. */
typedef void (*CkptVmChangedFunc)(const char *vm_id, gpointer data);

/* What lies in image folders of what agents leave there. */
typedef struct {
    GPtrArray *manifests; /* CkptManifest, with rows, any order: each read strictly, and written by root or by
                             who we are */
    GPtrArray *overlays;  /* char *: files named as agents name their overlays */
    GPtrArray *notes;     /* char *: "manifest PATH: " why it is none */
} CkptFoundFiles;

/* Why a guest that should run does not. */
typedef enum {
    CKPT_HALT_NONE,        /* it runs, is off, or its owner paused it */
    CKPT_HALT_NO_SPACE,    /* QEMU could not write: a file system is full */
    CKPT_HALT_IO_ERROR,    /* … or another error */
    CKPT_HALT_OURS,        /* the agent paused it, and a mark of it says so */
    CKPT_HALT_INTERRUPTED, /* a job (save, snapshot, migration) that is no longer under way */
    CKPT_HALT_CRASHED      /* the guest, or its watchdog */
} CkptHalt;

/* What a guest itself is up to. */
typedef struct {
    gboolean asked;        /* its guest agent answered: the next two are known */
    gboolean frozen;       /* its file systems */
    gboolean frozen_by_us; /* a thaw guard of the agent's has not seen it thawed yet */
    CkptHalt halt;
    char *detail;          /* for people: "disk vda (no space)"; NULL = none */
} CkptGuest;
static inline void
ckpt_guest_clear(CkptGuest *guest)
{
    g_clear_pointer(&guest->detail, g_free);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(CkptGuest, ckpt_guest_clear)

typedef struct _CkptDriver CkptDriver;
struct _CkptDriver {
    const char *name; /* "qemu" */

    gboolean (*host_info)(CkptDriver *driver, CkptHostInfo **info, GError **error);
    /* All VMs deployed on the host: CkptVmSummary, any order. */
    GPtrArray *(*list_vms)(CkptDriver *driver, GError **error);
    /* Looks at one VM: definition, state, chains, locks, and at `files` (may be NULL) and what lies
     * below them with the same care; who else uses any of them is in `users`. VM_NOT_FOUND if it is
     * not defined here. Changes nothing. No format is probed: it is what the definition, the list or
     * the header above tells. */
    CkptVm *(*inspect)(CkptDriver *driver, const char *vm_id, const CkptKnownFile *files,
                       GError **error);
    /* Waits, at most 30 s, until no libvirt job of an earlier caller (ours, before a crash) is at
     * work on the VM; VM_BUSY if there still is one. A block job of a merge of ours is not waited for. */
    gboolean (*settle)(CkptDriver *driver, const char *vm_id, GError **error);

    /* Steps of all kinds but CKPT_STEP_CATALOGUE. `plan` gives vm_id and names. VM_MOVED, with nothing
     * touched, if a manifest beside one of the step's files, or of those below, says that the VM's checkpoint
     * is another agent's; so for an undo. */
    gboolean (*step_do)(CkptDriver *driver, const CkptPlan *plan, CkptStep *step,
                        CkptProgressFunc progress, gpointer data, GCancellable *cancellable,
                        GError **error);
    gboolean (*step_undo)(CkptDriver *driver, const CkptPlan *plan, CkptStep *step, GError **error);
    /* Whether the step's effect is there, read anew from the world. Asked for the decisive step after
     * a crash or an error: an error is not "not done" (hazard A6). Of a SNAPSHOT that a crash cut
     * short, it first puts the definition onto the overlays where these hold the present state
     * (hazards A5, A26); of a NATIVE_REVERT, it first brings the VM to the power state asked for. */
    CkptOutcome (*step_check)(CkptDriver *driver, const CkptPlan *plan, const CkptStep *step,
                              GError **error);
    void (*free)(CkptDriver *driver);
    /* The operation has failed, be it neither done nor as before: a guest that was suspended for this step,
     * before a crash too, goes on. What fails is logged. NULL in a driver that suspends none. */
    void (*let_go)(CkptDriver *driver, const CkptPlan *plan, const CkptStep *step);

    /* After a crash, before anything is looked at: ends what a step that it cut short has left at work in the
     * hypervisor for a caller that is gone. NULL in a driver that leaves nothing. */
    void (*interrupt)(CkptDriver *driver, const CkptPlan *plan, const CkptStep *step);

    /* The files of all VMs' writable disks by their definitions; below: and those that these lie on, by the
     * headers. char *, any order, some perhaps twice. NULL in a driver whose disks are no files of this host. */
    GPtrArray *(*image_files)(CkptDriver *driver, gboolean below, GError **error);
    /* From now on tells of changes: first that any VM may have changed, as soon as the hypervisor
     * answers, and so again whenever it was away. On any thread; func must not block. func NULL: no
     * more; it is not called after that returned. NULL in a driver that cannot tell. */
    void (*watch)(CkptDriver *driver, CkptVmChangedFunc func, gpointer data);

    /* Looks into these folders (absolute, NULL-terminated); one that is not there is empty. NULL in a
     * driver that keeps no manifests; likewise the two below. */
    CkptFoundFiles *(*find_manifests)(CkptDriver *driver, const char *const *folders, GError **error);
    /* As inspect(), of files alone: a VM that is not defined here, off, with no definition and no disk;
     * `users` are all domains, one of this ID too. */
    CkptVm *(*inspect_files)(CkptDriver *driver, const char *vm_id, const CkptKnownFile *files,
                             GError **error);
    /* The head of the manifest beside this file. NULL: there is none that can be read. */
    CkptManifest *(*manifest_head)(CkptDriver *driver, const char *file);

    /* What inspect() would have in `foreign`, CkptSnapshot, with less effort. NULL in a driver that keeps
     * checkpoints as the hypervisor's own snapshots: there they are not told apart. */
    GPtrArray *(*foreign)(CkptDriver *driver, const char *vm_id, const CkptKnownFile *files,
                          GError **error);

    /* Asks the guest of an active VM, its guest agent for at most 5 s; one that does not answer
     * is no error. NULL in a driver that cannot ask; so the one below. */
    gboolean (*guest_look)(CkptDriver *driver, const char *vm_id, CkptGuest *guest, GError **error);
    /* Thaws what the agent froze, resumes what it paused; nothing that somebody else did. */
    gboolean (*guest_release)(CkptDriver *driver, const char *vm_id, GError **error);
    /* The VM migrated to another host, as far as is known since the watch began, and was not here since. NULL in a
     * driver whose VMs do not. */
    gboolean (*has_left)(CkptDriver *driver, const char *vm_id);
    /* Puts this text in the place of the manifest beside the file, synced, if that is still of this agent and
     * epoch, and no step of another agent is at work on the file: VM_BUSY, VM_MOVED otherwise. */
    gboolean (*take_over)(CkptDriver *driver, const char *file, const char *text, const char *agent,
                          guint64 epoch, GError **error);
    /* Whatever is named as agents name their overlays, or has a manifest, lies where overlays of one of these
     * files would, and says in its header that it lies on one of them: char *, without those that are among them.
     * Files that a catalogue lost, or is too old to know, or that are another host's checkpoints, are found so.
     * FILE_FAILED if one that is there cannot be read; another user's, which may not be, lies on nothing. NULL in
     * a driver whose checkpoints are no files. */
    GPtrArray *(*overlays_on)(CkptDriver *driver, const CkptKnownFile *files, GError **error);
    /* Whether what runs this active VM answers: VM_BUSY if not, within a minute, and at once while an earlier
     * question still waits. downtime_ms (may be NULL): as CkptVm's. NULL in a driver whose VMs always do. */
    gboolean (*answers)(CkptDriver *driver, const char *vm_id, guint *downtime_ms, GError **error);
    /* Whether that is known not to answer, at once and without asking it; a VM in a long job does not hang. NULL
     * in a driver whose VMs never do. */
    gboolean (*hangs)(CkptDriver *driver, const char *vm_id);
};

static inline CkptFoundFiles *
ckpt_found_files_new(void)
{
    CkptFoundFiles *found = g_new0(CkptFoundFiles, 1);

    found->manifests = g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_manifest_free);
    found->overlays = g_ptr_array_new_with_free_func(g_free);
    found->notes = g_ptr_array_new_with_free_func(g_free);
    return found;
}
static inline void
ckpt_found_files_free(CkptFoundFiles *found)
{
    if (!found)
        return;
    g_ptr_array_unref(found->manifests);
    g_ptr_array_unref(found->overlays);
    g_ptr_array_unref(found->notes);
    g_free(found);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CkptFoundFiles, ckpt_found_files_free)

typedef struct {
    const char *uri; /* as in "qemu:///system" or "qemu+unix:///session?socket=PATH" */
    /* How long a command to a guest agent may take, and how long a guest stays frozen; 0 = 10. */
    guint guest_agent_seconds;
    /* The program that is a thaw guard when its first argument says so, and an own folder for them.
     * NULL: no guest is ever frozen. */
    const char *guard_program, *guard_folder;
    /* Where overlays over block devices, and their manifests, go; NULL: such disks are refused. */
    const char *block_overlay_folder;
    /* Offline work also where locks do not tell what other hosts do. */
    gboolean offline_without_locks;
    /* A VM of the host whose files cannot be read, and never could, holds up no merge and no removal. */
    gboolean without_linked_clones;
    /* Memory is captured beside the running guest also where QEMU emulates the processor and may miss what the
     * guest writes meanwhile (before 9.0). */
    gboolean live_memory_when_emulated;
} CkptQemuOptions;

/* Copies options. Connects lazily and reconnects. Needs GLib's default main context to be iterated
 * (libvirt's event loop lives there). Never fails for an unreachable hypervisor: its functions then
 * answer HYPERVISOR_UNAVAILABLE. */
CkptDriver *ckpt_qemu_driver_new(const CkptQemuOptions *options, GError **error);
/* Merges move at most so many MiB a second; 0 = as fast as they can. Before the first step. */
void ckpt_qemu_driver_limit_merges(CkptDriver *driver, guint mib_per_second);
/* Libraries (folders, NULL-terminated) whose stored VMs use files too. Before the first call. */
void ckpt_qemu_driver_set_libraries(CkptDriver *driver, const char *const *folders);
/* The thaw guard's main(): for whoever is guard_program, when its first argument is this. */
#define CKPT_THAW_GUARD_OPTION "--thaw-guard"
int ckpt_thaw_guard(int argc, char **argv);
/* The same over the hypervisor's own snapshots, for URIs of the schemes test, esx, vpx and vbox;
 * INVALID_ARGUMENT for others. What libvirt's test driver keeps is gone with the driver. */
CkptDriver *ckpt_native_driver_new(const char *uri, GError **error);
static inline void
ckpt_driver_free(CkptDriver *driver)
{
    if (driver)
        driver->free(driver);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CkptDriver, ckpt_driver_free)
