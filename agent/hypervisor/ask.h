/* Questions that libvirt hands on to a VM's QEMU. One that hangs (its storage is gone, it was stopped) never
 * answers, and libvirt waits for that for ever: keepalive tells no more than that libvirt lives (hazard A10). So
 * each is asked on a thread of its own, and given up in time; while one that was waits on, no other of that VM is
 * asked. Nothing that changes anything is asked so: what was given up may still take effect. */
#pragma once

#include "agent/hypervisor/connection.h"

/* On another thread, with its own handle of the domain. The answer goes where that says, which holds zeros; disk
 * may be NULL. Returns what libvirt does: below 0, with its last error, for a failure. */
typedef int (*CkptQuestion)(virDomainPtr domain, const char *disk, gpointer answer);

/* Returns what the question does, with size bytes of answer filled in, and this thread's last error as if it had
 * been asked here. VIR_ERR_OPERATION_TIMEOUT, as from libvirt's own waiting for a job: QEMU has not answered a
 * command, this or anybody's, for 10 s, or libvirt has not answered this for 45 s. */
int ckpt_ask(CkptConnection *connection, virDomainPtr domain, CkptQuestion question, const char *disk,
             gpointer answer, gsize size);

/* Whether such a question would be given up at once: one of this VM was, and still waits, or its QEMU has not
 * answered anybody's command for 10 s. QEMU is not asked. FALSE also where libvirt does not tell. */
gboolean ckpt_ask_is_vain(CkptConnection *connection, const char *vm_id);

/* Whether the domain's QEMU answers at all: VM_BUSY if not, HYPERVISOR_UNAVAILABLE. TRUE also for a domain that is
 * off. downtime_ms (may be NULL): how long it may let the guest stand at the end of a live copy of its memory;
 * 0 = not known. */
gboolean ckpt_ask_qemu(CkptConnection *connection, virDomainPtr domain, guint *downtime_ms, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;

/* What to tell of a VM (its name) that has timed out. */
#define CKPT_NO_ANSWER_FORMAT                                                                                \
    "the QEMU of VM %s, or a libvirt job on it, does not answer (virsh domcontrol): wait until it does, or "  \
    "end it with virsh destroy, then repeat the request"
