/* libvirt's handles with cleanups, and its errors as ours. Inside the drivers over libvirt only. */
#pragma once

#include "common/error.h"

#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>

G_DEFINE_AUTOPTR_CLEANUP_FUNC(virConnect, virConnectClose)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(virDomain, virDomainFree)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(virDomainSnapshot, virDomainSnapshotFree)

/* An array of domains as virConnectListAllDomains() gives it: NULL-terminated. */
typedef virDomainPtr CkptDomainList;
void ckpt_domain_list_free(CkptDomainList *domains);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CkptDomainList, ckpt_domain_list_free)

/* Sets *error from this thread's last libvirt error: the words given, then libvirt's own. What the
 * transport reports is HYPERVISOR_UNAVAILABLE, an unknown domain VM_NOT_FOUND, a job that did not
 * end within libvirt's 30 s VM_BUSY; anything else is `fallback`. */
void ckpt_libvirt_error(GError **error, CkptReason fallback, const char *format, ...)
    G_GNUC_PRINTF(3, 4);
/* What a call on another thread failed with counts as this one's last error, until a call of its own fails. Taken;
 * NULL: none does. */
void ckpt_libvirt_take_error(virErrorPtr error);
/* The code (virErrorNumber) of this thread's last libvirt error. */
int ckpt_libvirt_code(void);
/* Whether that says that libvirt cannot be reached. */
gboolean ckpt_libvirt_is_away(void);
