/* What the parts of the native driver share. Inside the driver only. */
#pragma once

#include "agent/hypervisor/connection.h"
#include "agent/hypervisor/domain_view.h"
#include "agent/hypervisor/hypervisor.h"

/* ---- platform.c: what a hypervisor can do, by the scheme of its URI ---- */
typedef struct {
    const char *scheme;
    gboolean live;         /* snapshots a running VM without stopping it */
    gboolean memory;       /* … with its memory */
    gboolean revert_flags; /* its revert takes RUNNING, PAUSED and FORCE */
    gboolean in_process;   /* its state lives in the connection, and is gone with it */
} CkptPlatform;
/* INVALID_ARGUMENT for a scheme that is not in the table. With the scheme "test", abilities can be taken
 * away in the URI, so that other platforms can be tested: "test:///default?live=no&memory=no&flags=no". */
gboolean ckpt_platform_of(const char *uri, CkptPlatform *platform, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;

typedef struct {
    CkptDriver base;
    CkptConnection *connection;
    CkptPlatform platform;
} CkptNative;

/* ---- inspect.c ---- */
CkptVm *ckpt_native_inspect(CkptNative *native, const char *vm_id, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;

/* ---- snapshot_xml.c ---- */
typedef struct {
    char *parent;    /* NULL at the root */
    CkptPower power; /* SHUT_OFF, RUNNING or PAUSED; UNKNOWN for one of disks alone of a running VM */
    gboolean memory; /* it holds memory, or does not say that it holds none */
} CkptSnapshotXml;
/* <domainsnapshot> of a whole VM. (transfer full) */
char *ckpt_snapshot_xml_new(const char *name, const char *description);
gboolean ckpt_snapshot_xml_read(const char *xml, CkptSnapshotXml *found, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;
void ckpt_snapshot_xml_clear(CkptSnapshotXml *found);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(CkptSnapshotXml, ckpt_snapshot_xml_clear)

/* ---- snapshots.c ---- */
/* What the snapshot is; CHECKPOINT_NOT_ENABLED if it is gone since. */
gboolean ckpt_native_read(virDomainSnapshotPtr snapshot, CkptSnapshotXml *found, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;
gboolean ckpt_native_create(CkptNative *native, const char *vm_id, const CkptStep *step,
                            GError **error);
gboolean ckpt_native_create_undo(CkptNative *native, const char *vm_id, const CkptStep *step,
                                 GError **error);
CkptOutcome ckpt_native_create_check(CkptNative *native, const char *vm_id, const CkptStep *step,
                                     GError **error);
gboolean ckpt_native_revert(CkptNative *native, const char *vm_id, const CkptStep *step,
                            GError **error);
gboolean ckpt_native_revert_undo(CkptNative *native, const char *vm_id, const CkptStep *step,
                                 GError **error);
CkptOutcome ckpt_native_revert_check(CkptNative *native, const char *vm_id, const CkptStep *step,
                                     GError **error);
gboolean ckpt_native_delete(CkptNative *native, const char *vm_id, const CkptStep *step,
                            GError **error);
CkptOutcome ckpt_native_delete_check(CkptNative *native, const char *vm_id, const CkptStep *step,
                                     GError **error);

/* ---- power.c ---- */
/* To RUNNING, PAUSED or SHUT_OFF, from whatever it is; nothing where it is so. */
gboolean ckpt_native_bring_to(virDomainPtr domain, CkptPower power, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;
CkptPower ckpt_native_power(virDomainPtr domain, GError **error); /* UNKNOWN with an error */
gboolean ckpt_native_start(CkptNative *native, const char *vm_id, const CkptStep *step,
                           GError **error);
gboolean ckpt_native_start_undo(CkptNative *native, const char *vm_id, const CkptStep *step,
                                GError **error);
CkptOutcome ckpt_native_start_check(CkptNative *native, const char *vm_id, const CkptStep *step,
                                    GError **error);
gboolean ckpt_native_stop(CkptNative *native, const char *vm_id, const CkptStep *step,
                          GError **error);
gboolean ckpt_native_stop_undo(CkptNative *native, const char *vm_id, const CkptStep *step,
                               GError **error);
CkptOutcome ckpt_native_stop_check(CkptNative *native, const char *vm_id, const CkptStep *step,
                                   GError **error);
