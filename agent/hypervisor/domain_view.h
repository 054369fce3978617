/* One VM as libvirt shows it at one moment. For every driver over libvirt. */
#pragma once

#include "agent/hypervisor/connection.h"
#include "agent/hypervisor/domain_xml.h"

typedef struct {
    virDomainPtr domain;
    gboolean active;
    int state, reason;             /* virDomainState and its reason */
    char *definition;              /* inactive XML, SECURE: secret */
    char *live;                    /* live XML, SECURE; NULL unless active */
    CkptXmlDomain *definition_xml;
    CkptXmlDomain *live_xml;       /* NULL unless active */
} CkptView;
CkptView *ckpt_view_load(CkptConnection *connection, const char *vm_id, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;
void ckpt_view_free(CkptView *view);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CkptView, ckpt_view_free)
/* Whether the VM changed between active and shut off, or was started anew, since. */
gboolean ckpt_view_is_stale(const CkptView *view);
/* Whether it did, or is in another state or on other files than the view says, as far as that is known once what
 * libvirt was just doing to it has ended, or stands still for a save or the like, or its QEMU does not answer:
 * what was compared with such a view is no mismatch. */
gboolean ckpt_view_has_changed(CkptConnection *connection, const char *vm_id, const CkptView *view);
/* Whether the VM has a managed save image. FALSE: libvirt does not tell, which is not "none". */
gboolean ckpt_saved_look(virDomainPtr domain, gboolean *saved, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* TRUE, with MANAGED_SAVE_PRESENT: the VM is off, and its memory was saved: it would go on on the files that it
 * had then, which must stay as they are (hazard A24). So, with its own reason, if libvirt does not tell. */
gboolean ckpt_view_refuse_saved(const CkptView *view, GError **error);
const char *ckpt_view_source(const CkptView *view, const char *target);      /* NULL if none */
const char *ckpt_view_live_source(const CkptView *view, const char *target); /* likewise */

/* Whether libvirt has a job under way on it, or one that is done and not cleared up yet. FALSE also where it
 * cannot be asked, as of a domain that is off: libvirt's last error says why. */
gboolean ckpt_domain_has_job(CkptConnection *connection, virDomainPtr domain);
/* Waits, at most 30 s, for libvirt's jobs on the VM: VM_BUSY if one is left. */
gboolean ckpt_settle(CkptConnection *connection, const char *vm_id, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;

CkptPower ckpt_power_of(int state); /* virDomainState */
/* Fills id, name, power, definitions, autostart, and what in the VM's state forbids operating on it. */
gboolean ckpt_view_describe(const CkptView *view, const char *vm_id, CkptVm *vm, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;
