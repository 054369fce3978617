/* The definitions of stored VMs: what their disks lie on is not to be taken away (hazard A18). */
#pragma once

#include "agent/hypervisor/domain_xml.h"

typedef struct {
    char *file;            /* of the definition, absolute */
    CkptXmlDomain *domain;
} CkptStoredDomain;

typedef struct _CkptStoredVms CkptStoredVms;
/* folders: of the libraries, NULL-terminated; copied. */
CkptStoredVms *ckpt_stored_vms_new(const char *const *folders);
void ckpt_stored_vms_free(CkptStoredVms *stored);
/* CkptStoredDomain of all libraries, read anew if a definition came or went since, or if that is some seconds ago.
 * What cannot be read is logged. (transfer full) NULL has none. */
GPtrArray *ckpt_stored_vms_read(CkptStoredVms *stored);
/* Why a library could not be read the last time, so that there may be more than these. NULL: all could.
 * (transfer full) */
char *ckpt_stored_vms_fault(CkptStoredVms *stored);
