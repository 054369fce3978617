/* Checkpoints read back from the manifests that lie beside their files: for a lost catalogue, and for a VM
 * that came from another host. Reads only; who takes what is found into the catalogue decides. */
#pragma once

#include "agent/hypervisor/hypervisor.h"

/* What the manifests tell of one VM. A row is taken as follows:
 * - manifests of one checkpoint: the greatest epoch holds, then the latest change, of those rows beside each
 *   of whose files a manifest of the checkpoint lies. Where none has them all (a delete was under way, or
 *   somebody removed one) the checkpoint is left out, and said so; so is one whose making was not finished;
 * - size, modification time and (qcow2) virtual size must be those that were sealed; device and inode are
 *   taken from the file as it is here: another host, or a copy that kept the times, has others. Where they
 *   are not, the row keeps its old identity: "changed after it was sealed";
 * - what cannot be restored as it lies here is not enabled, with the reason;
 * - a parent that is not among them makes it a root, and is said so;
 * - `made` are the files that rows say an agent made and that are named so, and overlays named so that lie on
 *   one of the sealed files: all else is somebody's, pinned and never removed. */
typedef struct {
    char *vm_id;
    GPtrArray *checkpoints; /* CkptCheckpoint, parents first */
    GPtrArray *manifests;   /* CkptManifest of each of these, in the same order: owner and epoch */
    GPtrArray *left_out;    /* CkptManifest of checkpoints that are not among these: unfinished, or in part gone */
    GPtrArray *made;        /* char *, sorted */
    char *current_id;       /* by the VM's chains, or, where these tell nothing, by the newest overlays;
                               NULL = none */
    GPtrArray *notes;       /* char *: what was left out, or taken with a reservation, and why */
    gboolean deployed;      /* the VM is defined here */
    CkptVm *vm;             /* as it was looked at, all these files included */
} CkptImport;
void ckpt_import_free(CkptImport *import);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CkptImport, ckpt_import_free)

/* CkptImport of each VM that has manifests in these folders (absolute, NULL-terminated), and in those that
 * they name, of `vm_id` alone
 * unless NULL. `notes`: what is wrong with manifests of nobody knows which VM. */
GPtrArray *ckpt_import_read(CkptDriver *driver, const char *const *folders, const char *vm_id,
                            GPtrArray *notes, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* The folders in which the VM's files lie, all layers of its chains. (transfer full) */
char **ckpt_import_folders(const CkptVm *vm);
/* All of it as one change of the catalogue, for ckpt_store_apply(). */
CkptChange *ckpt_import_change(const CkptImport *import);
