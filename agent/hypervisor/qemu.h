/* What the parts of the qemu driver share: a step under way, the VM's present shape, and the steps'
 * functions by file. Inside the driver only. */
#pragma once

#include "agent/hypervisor/domain_view.h"
#include "agent/hypervisor/hypervisor.h"

typedef struct {
    CkptConnection *connection;
    const CkptPlan *plan;
    CkptStep *step; /* only IDENTIFY, SNAPSHOT and a MERGE's warning are written to it */
    CkptProgressFunc progress; /* NULL = nobody listens */
    gpointer data;
    GCancellable *cancellable; /* or NULL */
    guint merge_mib;           /* a second; 0 = no limit */
    const CkptQemuOptions *options;
    gboolean undoing;
} CkptRun;

/* ---- chain.c ---- */
/* Told of each thing that stands in the way of using a chain. */
typedef void (*CkptFindingFunc)(CkptReason reason, const char *file, const char *message,
                                gpointer data);
/* The layers by the headers, from `top` of this format down, top first; layers belong to `files`
 * (path → CkptLayer), are looked at once each. (transfer container) */
GPtrArray *ckpt_chain_walk(const char *top, CkptFormat format, GHashTable *files,
                           CkptFindingFunc finding, gpointer data);
GHashTable *ckpt_chain_files_new(void);
/* The paths of such a chain, and one for people: "a.qcow2 -> b.qcow2". */
char **ckpt_chain_paths(GPtrArray *chain);
/* Same files in the same order, by path or identity. */
gboolean ckpt_chain_equal(const char *const *a, const char *const *b);
/* Whether what the definition tells of the disk's chain is in the headers: all of it, and their end
 * where it tells one. */
gboolean ckpt_chain_fits(const CkptXmlDisk *defined, const char *const *headers);
gboolean ckpt_step_check_chain(CkptRun *run, GError **error);
/* Disks are known by their files: their owner may move one to another target or bus at any time, also between
 * an operation's begin and its end. `target` decides only between several. */
/* Whether the file is in the disk's chain, as the XML tells it or by the headers. */
gboolean ckpt_chain_has(const CkptXmlDisk *disk, const char *file);
/* Whether the VM has a managed save image that goes on on any of `disks` (CkptDiskFile), as its tops or, with
 * `below`, also through what others have laid on them. FALSE, with MANAGED_SAVE_PRESENT, if it has one and its
 * files cannot be told: it is its owner's to use up or to remove. */
gboolean ckpt_saved_look_on(virDomainPtr domain, GPtrArray *disks, gboolean below, gboolean *on, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;
/* TRUE, with an error: it is off, and was saved, and not on any of these. */
gboolean ckpt_refuse_saved_elsewhere(const CkptView *view, GPtrArray *disks, gboolean below, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;
/* The disk whose top this file is. NULL: none. */
CkptXmlDisk *ckpt_chain_find_top(const CkptXmlDomain *domain, const char *target, const char *file);
/* The disk that has one of `files` (NULL-terminated, the most telling first) in its chain. NULL: none. */
CkptXmlDisk *ckpt_chain_find_disk(const CkptXmlDomain *domain, const char *target,
                                  const char *const *files);

/* ---- users.c ---- */
/* Told for each file of `files` (path → CkptLayer) that a domain uses; user: "VM web-02 (UUID), disk
 * vda". */
typedef void (*CkptUserFunc)(const char *file, gboolean is_top, const char *user, gpointer data);
/* Definitions and live chains of all domains: of `vm_id` (may be NULL) only the disks that no
 * checkpoint captures, unless `own_too`. unreadable: told for each disk of a definition that may lie on any of
 * `files`, since its chain cannot be read beyond `file`, which is missing or fails. */
gboolean ckpt_users_scan(CkptConnection *connection, const char *vm_id, gboolean own_too, GHashTable *files,
                         CkptUserFunc found, CkptUserFunc unreadable, gpointer data, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;

/* Whether all that uses files can be told: FILE_FAILED if a library of stored VMs cannot be read. For who is about
 * to take a file away, or to write to it. */
gboolean ckpt_users_are_known(CkptConnection *connection, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* ---- pins.c ---- */
/* That the step's `file` may be merged into its `base`, as far as other tools' snapshots, other VMs and stored
 * ones go: FOREIGN_SNAPSHOT_PRESENT, BRANCH_POINT. The plan knew only those that were there then. */
gboolean ckpt_pins_check(CkptRun *run, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* RESERVE; also DISK_FILE_MISSING, for a VM that nobody can tell of: what has begun is not held up by it. */
gboolean ckpt_step_reserve_unpinned(CkptRun *run, GError **error);

/* ---- inspect.c, inspect_disk.c ---- */
CkptVm *ckpt_inspect(CkptConnection *connection, const CkptQemuOptions *options, const char *vm_id,
                     const CkptKnownFile *files, GError **error) G_GNUC_WARN_UNUSED_RESULT;
CkptVm *ckpt_inspect_undefined(CkptConnection *connection, const CkptQemuOptions *options,
                               const char *vm_id, const CkptKnownFile *files, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;
/* Adds the disks, their chains and what stands in their way. */
void ckpt_inspect_disks(CkptVm *vm, const CkptView *view);
void ckpt_inspect_files(CkptVm *vm, const CkptKnownFile *files);
/* ---- block.c ---- */
/* Fills in where overlays of block devices go; refuses a VM that has such a disk, or a checkpoint of one,
 * where that is not configured. */
void ckpt_inspect_block(CkptVm *vm, const CkptQemuOptions *options, const CkptKnownFile *files);
/* FILE and ENDING: what lies beside a file, and of a block device in the folder for its overlays.
 * (transfer full) */
char *ckpt_block_beside(const CkptQemuOptions *options, const char *file, const char *ending);

/* ---- qemu_img.c ---- */
/* Runs qemu-img with these arguments (NULL-terminated, without its name) in a clean environment.
 * IMAGE_TOOL_FAILED with its words, SPACE_LOW if those are about space, OPERATION_CANCELLED.
 * With `-p` among the arguments, `total` bytes scale what it reports. */
gboolean ckpt_qemu_img(const CkptRun *run, guint64 total, const char *const *arguments,
                       GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* Told of each line, without its end. */
typedef void (*CkptLineFunc)(const char *line, gpointer data);
/* The same, for what it says on stdout. */
gboolean ckpt_qemu_img_lines(const CkptRun *run, const char *const *arguments, CkptLineFunc func,
                             gpointer data, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* ---- confinement.c ---- */
/* Marks the files that AppArmor denies the running VM to write to, whatever it is allowed later. */
void ckpt_inspect_confinement(CkptVm *vm, const CkptView *view);
/* profile: the text of libvirt-UUID.files. */
gboolean ckpt_confinement_denies(const char *profile, const char *path);

/* ---- reserve.c ---- */
/* Before RESERVE looks at anything: a mark that another operation left there would have the undo of this one take
 * for its own doing what somebody has changed in the sealed file. */
gboolean ckpt_reserve_forget(const CkptStep *step, GError **error) G_GNUC_WARN_UNUSED_RESULT;
gboolean ckpt_step_reserve(CkptRun *run, GError **error);
gboolean ckpt_step_reserve_undo(CkptRun *run, GError **error);
/* After the merge: what `path` holds beyond its end, if nobody writes to it; its mtime changes. */
void ckpt_reserve_release(const char *path);

/* ---- files.c ---- */
#define CKPT_SEALED_MODE 0440
gboolean ckpt_file_sync(const char *path, GError **error) G_GNUC_WARN_UNUSED_RESULT;
gboolean ckpt_file_sync_folder(const char *path, GError **error) G_GNUC_WARN_UNUSED_RESULT;
gboolean ckpt_file_chmod(const char *path, guint mode, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* An empty file that outlives a crash of ours and of the host. */
gboolean ckpt_file_mark(const char *path, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Whether it was there or not: it does not come back. Who was killed in the midst of it has not seen to that. */
gboolean ckpt_file_remove(const char *path, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Under this very name, be it a link to nowhere; also where that cannot be told. */
gboolean ckpt_file_is_there(const char *path);
/* Owner, group and label of `like`, and this mode: QEMU must be able to open it as it opens that one. */
gboolean ckpt_file_make_alike(const char *path, const char *like, guint mode, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;
/* FILE_FAILED with errno's words, and the file in the metadata; FALSE. */
gboolean ckpt_file_error(GError **error, const char *what, const char *path);
gboolean ckpt_step_make_overlay(CkptRun *run, GError **error);
gboolean ckpt_step_make_overlay_undo(CkptRun *run, GError **error);
CkptOutcome ckpt_step_make_overlay_check(CkptRun *run, GError **error);
gboolean ckpt_step_seal(CkptRun *run, GError **error);
gboolean ckpt_step_set_mode(CkptRun *run, GError **error); /* undo of SEAL, do of UNSEAL */
CkptOutcome ckpt_step_seal_check(CkptRun *run, GError **error);
CkptOutcome ckpt_step_set_mode_check(CkptRun *run, GError **error);
gboolean ckpt_step_identify(CkptRun *run, GError **error);
gboolean ckpt_step_remove_file(CkptRun *run, GError **error);
CkptOutcome ckpt_step_remove_file_check(CkptRun *run, GError **error);

/* ---- nvram.c ---- */
/* Where the VM's UEFI variables are, or what stands in the way of capturing them. */
void ckpt_inspect_nvram(CkptVm *vm, const CkptView *view);
gboolean ckpt_step_save_nvram(CkptRun *run, GError **error);
gboolean ckpt_step_save_nvram_undo(CkptRun *run, GError **error);
CkptOutcome ckpt_step_save_nvram_check(CkptRun *run, GError **error);
gboolean ckpt_step_put_nvram(CkptRun *run, GError **error);
gboolean ckpt_step_put_nvram_undo(CkptRun *run, GError **error);
CkptOutcome ckpt_step_put_nvram_check(CkptRun *run, GError **error);
gboolean ckpt_step_compare_nvram(CkptRun *run, GError **error);

/* ---- manifest.c ---- */
gboolean ckpt_step_write_manifest(CkptRun *run, GError **error);
gboolean ckpt_step_remove_manifest(CkptRun *run, GError **error);
CkptOutcome ckpt_step_write_manifest_check(CkptRun *run, GError **error);
CkptOutcome ckpt_step_remove_manifest_check(CkptRun *run, GError **error);

/* ---- overlays_on.c ---- */
GPtrArray *ckpt_overlays_on(const CkptQemuOptions *options, const CkptKnownFile *files, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;

/* ---- manifests.c ---- */
CkptFoundFiles *ckpt_manifests_find(const CkptQemuOptions *options, const char *const *folders,
                                    GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* CkptDriver.manifest_head: of a block device it lies in the folder for its overlays. */
CkptManifest *ckpt_manifest_head_of(const CkptQemuOptions *options, const char *file);
/* Puts it in place, synced; 0600. */
gboolean ckpt_manifest_write(const char *path, const char *text, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;

/* ---- owner.c ---- */
typedef struct _CkptOwnership CkptOwnership;
/* No other agent takes over the step's files, or what lies below them, until this is freed. VM_MOVED if one
 * has: `host_id` is ours. FILE_FAILED if there is a manifest that cannot be read: it may be another's. */
CkptOwnership *ckpt_ownership_hold(const CkptQemuOptions *options, const char *host_id,
                                   const CkptPlan *plan, const CkptStep *step, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;
void ckpt_ownership_free(CkptOwnership *ownership);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CkptOwnership, ckpt_ownership_free)
/* CkptDriver.take_over. */
gboolean ckpt_manifest_take_over(const CkptQemuOptions *options, const char *file, const char *text,
                                 const char *agent, guint64 epoch, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;

/* ---- watch.c ---- */
typedef struct _CkptWatcher CkptWatcher;
/* Told before the change itself is: the VM has migrated to another host, or is here (again). */
typedef void (*CkptMigratedFunc)(const char *vm_id, gboolean away, gpointer data);
/* Calls both as CkptDriver.watch says, until it is stopped. Needs the default main context. */
CkptWatcher *ckpt_watcher_start(const char *uri, CkptVmChangedFunc func, gpointer data,
                                CkptMigratedFunc migrated, gpointer migrated_data);
void ckpt_watcher_stop(CkptWatcher *watcher); /* NULL is none */

/* ---- snapshot.c ---- */
gboolean ckpt_step_snapshot(CkptRun *run, GError **error);
gboolean ckpt_step_snapshot_undo(CkptRun *run, GError **error);
CkptOutcome ckpt_step_snapshot_check(CkptRun *run, GError **error);

/* ---- instant.c ---- */
/* What the step asks for, at one instant, and its results. *cause: what the switch itself says. FALSE: it was
 * not tried. */
gboolean ckpt_switch_to_overlays(CkptRun *run, const CkptView *view, GError **cause, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;

/* ---- freeze.c ---- */
struct _CkptGuard;
typedef struct {
    struct _CkptGuard *guard;
    int frozen;       /* file systems */
    gint64 begun_us;  /* monotonic, before the freeze was asked for; 0 = it was not */
    gint64 us;        /* from then until the thaw was confirmed; -1 = not frozen, or not known */
    gboolean ended;
    char *why;        /* it did not hold from begin to end; NULL = it does so far */
} CkptFreeze;
/* Why the VM cannot be frozen now; NULL = it can. */
const char *ckpt_freeze_obstacle(const CkptView *view);
/* Freezes, with a thaw guard beside it; whatever fails is told in freeze->why, and the guest runs then,
 * or the guard is at it. */
void ckpt_freeze_begin(CkptRun *run, const CkptView *view, CkptFreeze *freeze);
/* Thaws; what the guest does not confirm goes to the guard. May be called twice. */
void ckpt_freeze_end(CkptRun *run, CkptFreeze *freeze);
void ckpt_freeze_clear(CkptFreeze *freeze);
/* Thaws what a SNAPSHOT that was cut short may have frozen. */
void ckpt_freeze_recover(CkptRun *run);

/* ---- guest.c ---- */
gboolean ckpt_guest_look(CkptConnection *connection, const CkptQemuOptions *options, const char *vm_id,
                         CkptGuest *guest, GError **error);
gboolean ckpt_guest_release(CkptConnection *connection, const CkptQemuOptions *options, const char *vm_id,
                            GError **error);

/* ---- pause.c ---- */
typedef struct _CkptPause CkptPause;
CkptPause *ckpt_pause_begin(virDomainPtr domain);
/* Microseconds that its processors stood still since, in full; -1 = not known. Frees it. */
gint64 ckpt_pause_end(CkptPause *pause);

/* ---- define.c ---- */
/* Puts the disks (CkptDiskFile) of the persistent definition, as it is when that is done, on their files: a
 * disk that has the file already, or whose own is below it, whatever its target is. Nothing is told any
 * more of what lies below. CHAIN_MISMATCH if there is none. */
gboolean ckpt_define_disks(CkptRun *run, GPtrArray *disks, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* So one disk; that which lies on `from` now, if there is one (NULL: as above). */
gboolean ckpt_define_disk(CkptRun *run, const CkptDiskFile *disk, const char *from, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;
/* Has libvirt write the persistent definition as it is by now: libvirt 9.0 switches a VM to its overlays also
 * where it cannot save that, and does not always say so. */
gboolean ckpt_define_flush(CkptRun *run, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Has libvirt write the persistent definition of the merge's disk as it is; one that lies on neither of the
 * two files is its owner's affair. What a block job changed in it, libvirt shows
 * even if it could not be saved. */
gboolean ckpt_define_save(CkptRun *run, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* What comes first for whoever has to save what these two could not. */
const char *ckpt_define_remedy(const GError *why);
gboolean ckpt_step_define(CkptRun *run, GError **error);
gboolean ckpt_step_define_undo(CkptRun *run, GError **error);
CkptOutcome ckpt_step_define_check(CkptRun *run, GError **error);

/* ---- power.c ---- */
gboolean ckpt_step_stop(CkptRun *run, GError **error);
gboolean ckpt_step_stop_undo(CkptRun *run, GError **error);
CkptOutcome ckpt_step_stop_check(CkptRun *run, GError **error);
gboolean ckpt_step_start(CkptRun *run, GError **error);
gboolean ckpt_step_start_undo(CkptRun *run, GError **error);
CkptOutcome ckpt_step_start_check(CkptRun *run, GError **error);

/* ---- rebase.c ---- */
gboolean ckpt_step_rebase(CkptRun *run, GError **error);
CkptOutcome ckpt_step_rebase_check(CkptRun *run, GError **error);
/* The header of `file` (qcow2) names `base` from now on; synced. */
gboolean ckpt_rebase_header(CkptRun *run, const char *file, const char *base,
                            CkptFormat base_format, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* VM_BUSY, with who it is, if a process has the image open. */
gboolean ckpt_file_is_free(const char *path, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* ---- nodes.c ---- */
/* No block job is under way on any disk of the running VM, or, unless `all`, on any that a checkpoint
 * captures; VM_BUSY if one is. */
gboolean ckpt_nodes_no_job(virDomainPtr domain, const CkptXmlDomain *live, gboolean all,
                           GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Has the running VM's QEMU close what it has open of this file without using it. QEMU itself refuses
 * for what is in use, so that nothing is lost by asking; that is TRUE too, and the locks tell. The VM
 * is tainted for libvirt (custom-monitor) from then on: not to be asked without a reason. VM_BUSY, and
 * not asked, while a block job is under way on any of its disks, or QEMU hangs. */
gboolean ckpt_nodes_release(CkptConnection *connection, virDomainPtr domain, const char *path,
                            GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* ---- merge.c, merge_live.c ---- */
gboolean ckpt_step_merge(CkptRun *run, GError **error);
CkptOutcome ckpt_step_merge_check(CkptRun *run, GError **error);
/* Beside the file into which a merge is pivoting: the guest stands still by our doing. */
#define CKPT_PAUSED_ENDING ".vmckpt-paused"
/* Lets a guest go on that a merge of this step's suspended, before a crash too. */
gboolean ckpt_merge_resume(CkptRun *run, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* So for an operation that is given up: of any merge into `base`, and of an undone snapshot of the disk. */
void ckpt_merge_let_go(CkptRun *run, const char *base);
void ckpt_snapshot_let_go(CkptRun *run, const CkptDiskFile *disk);
/* Nobody can start the VM from the merged overlay any more, should a crash bring back a definition that
 * names it: it has what is older than the file below, and would ruin that. Its mode (0000) says so from
 * then on: it is never merged again. */
void ckpt_merge_bar(const CkptStep *step);
gboolean ckpt_merge_is_barred(const CkptStep *step);
/* Has libvirt save the definition of a VM that has pivoted; bars the overlay, and warns, if it cannot. */
void ckpt_merge_save(CkptRun *run);
/* That all of the merge's file is in its base, or will be by the pivot that is about to be made; it is said by
 * a mark beside the file, which goes before that does. */
gboolean ckpt_merge_note(const CkptStep *step, GError **error) G_GNUC_WARN_UNUSED_RESULT;
gboolean ckpt_merge_forget(const char *file, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* TRUE, with an error: the VM is off, and was saved, and would not find what it was saved on if this overlay were
 * merged below it. An empty one on which it was not saved may be: that changes nothing. */
gboolean ckpt_merge_refuse_saved(const CkptView *view, const char *file, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* CHAIN_MISMATCH if the file may hold what is nowhere else. */
gboolean ckpt_merge_is_done(const CkptStep *step, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* One block commit of step->file into step->base in the running VM, begun or found running, to its
 * end; the caller looks again afterwards. */
gboolean ckpt_merge_live(CkptRun *run, CkptView *view, gboolean top, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;

/* ---- pull.c ---- */
gboolean ckpt_step_pull(CkptRun *run, GError **error);
CkptOutcome ckpt_step_pull_check(CkptRun *run, GError **error);
