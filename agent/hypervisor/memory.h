/* Memory images: libvirt's save format, made live beside a VM's disks. Inside the qemu driver only. */
#pragma once

#include "agent/hypervisor/qemu.h"

/* ---- memory_capture.c ---- */
/* Makes the snapshot of `xml`, which names step->file for the memory. CONSISTENCY_UNAVAILABLE where the
 * VM's memory cannot be captured, SPACE_LOW, OPERATION_CANCELLED: nothing was switched then. Whatever it
 * comes to, the VM's downtime limit is as before. */
gboolean ckpt_memory_snapshot(CkptRun *run, const CkptView *view, const char *xml, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;

/* ---- memory_image.c ---- */
/* Whether the file is a memory image of this VM. *whole (may be NULL): and was written to its end. */
gboolean ckpt_memory_is_image(const char *path, const char *vm_id, gboolean *whole);
/* Of SNAPSHOT, unless it was never tried: removes what it has of its file. */
gboolean ckpt_memory_remove(CkptRun *run, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* After a crash: ends the job that still writes the file. */
void ckpt_memory_interrupt(CkptRun *run);
/* After a crash, or a capture that failed: the downtime limit as before, and the guest goes on if it stands for
 * the capture. */
void ckpt_memory_recover(CkptRun *run);
/* Seals again what the recovery may have given the guest to go on with; files that it has open do not mind. */
gboolean ckpt_memory_seal(CkptRun *run, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* After a crash, of a SNAPSHOT that was made: whether with the memory. */
void ckpt_memory_note_reached(CkptRun *run);
/* ---- memory_check.c ---- */
gboolean ckpt_step_check_memory(CkptRun *run, GError **error);

/* ---- memory_image.c again ---- */
/* Starts the VM from step->file, as step->power, on step->disks. */
gboolean ckpt_memory_load(CkptRun *run, virDomainPtr domain, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;
