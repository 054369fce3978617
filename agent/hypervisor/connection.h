/* Connections to libvirt, one for each thread that asks: opened when first needed, opened again after it
 * was lost, closed when the thread ends. */
#pragma once

#include "agent/hypervisor/libvirt_types.h"

typedef struct _CkptConnection CkptConnection;

CkptConnection *ckpt_connection_new(const char *uri);
void ckpt_connection_free(CkptConnection *connection);

/* A reference that the caller closes, for use on this thread alone. HYPERVISOR_UNAVAILABLE if libvirt
 * cannot be reached. */
virConnectPtr ckpt_connection_get(CkptConnection *connection, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;
const char *ckpt_connection_uri(const CkptConnection *connection);

/* The domain with this UUID; VM_NOT_FOUND if it is not defined here. */
virDomainPtr ckpt_connection_lookup(CkptConnection *connection, const char *vm_id, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;
