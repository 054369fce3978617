/* Connections to libvirt, one for each thread that asks: opened when first needed, opened again after it
 * was lost, closed when the thread ends. Or, where the hypervisor's state lives in the connection, one
 * for all threads. */
#pragma once

#include "agent/hypervisor/libvirt_types.h"

typedef struct _CkptConnection CkptConnection;

CkptConnection *ckpt_connection_new(const char *uri);
/* One for all threads, until it is freed: for libvirt's test driver, whose hypervisor is gone with its last
 * connection, and with a file is another one in each. */
CkptConnection *ckpt_connection_new_shared(const char *uri);
CkptConnection *ckpt_connection_ref(CkptConnection *connection);
void ckpt_connection_free(CkptConnection *connection); /* one reference */

/* A reference that the caller closes, for use on this thread. HYPERVISOR_UNAVAILABLE if libvirt
 * cannot be reached. */
virConnectPtr ckpt_connection_get(CkptConnection *connection, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;
/* What else lies on the host's files; taken, before the first use. NULL = nothing. */
struct _CkptStoredVms;
void ckpt_connection_set_stored(CkptConnection *connection, struct _CkptStoredVms *stored);
struct _CkptStoredVms *ckpt_connection_stored(CkptConnection *connection);
/* What lay below the files of the host's VMs when it could be read last. */
struct _CkptBelow *ckpt_connection_below(CkptConnection *connection);
/* A VM whose files cannot be read lies on no other's (CkptQemuOptions). Before the first use. */
void ckpt_connection_set_without_clones(CkptConnection *connection, gboolean without);
gboolean ckpt_connection_is_without_clones(const CkptConnection *connection);
const char *ckpt_connection_uri(const CkptConnection *connection);

/* The domain with this UUID; VM_NOT_FOUND if it is not defined here. */
virDomainPtr ckpt_connection_lookup(CkptConnection *connection, const char *vm_id, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;
