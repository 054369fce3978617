/* What other tools keep of a VM: libvirt's snapshots, and those that only a qcow2 file's own table tells. */
#pragma once

#include "agent/hypervisor/qemu.h"

/* Fills vm->foreign, and adds the files that hold their contents, with what lies below, to vm->files; the
 * VM's own chains and whatever else is to be looked through for internal snapshots are there already. */
gboolean ckpt_inspect_foreign(CkptVm *vm, const CkptView *view, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* libvirt's alone: CkptSnapshot. */
GPtrArray *ckpt_foreign_read(virDomainPtr domain, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Only these, of a VM and of `files`: for lists. */
GPtrArray *ckpt_foreign_list(CkptConnection *connection, const char *vm_id, const CkptKnownFile *files,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;
