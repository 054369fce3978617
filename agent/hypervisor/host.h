/* Who the host is and which VMs it has: the same for every driver over libvirt. */
#pragma once

#include "agent/hypervisor/connection.h"
#include "agent/model/types.h"

gboolean ckpt_host_info(CkptConnection *connection, CkptHostInfo **info, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;
GPtrArray *ckpt_host_list_vms(CkptConnection *connection, GError **error); /* CkptVmSummary */
