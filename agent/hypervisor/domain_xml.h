/* Domain XML: read into plain values, and rewritten, always as a tree, never as text. */
#pragma once

#include "agent/model/plan.h"

typedef struct {
    char *target;      /* "vda" */
    char *device;      /* "disk" where the XML does not say */
    char *type;        /* "file", "block", "network", … */
    char *source;      /* path of a file or block device; NULL = none, or something else */
    char *pool, *volume; /* of type "volume", whose file libvirt's pool knows; NULL of any other */
    char *format;      /* driver type; NULL = not said */
    gboolean readonly, shareable, transient, encrypted, sliced;
    gboolean chain_ends; /* the XML tells where the chain ends (an empty <backingStore/>); where it
                          does not, libvirt finds the rest in the headers at the next start. A
                          definition is left so by a snapshot on a disk that tells nothing */
    char **chain;      /* source and what <backingStore> tells, top first; what is no file appears as
                          "network:…", which no path equals. Never NULL */
    char *mirror;      /* file that a block job mirrors to; NULL = none, "" = not a file */
    char *mirror_job;  /* "copy", "active-commit"; NULL = none */
    gboolean mirror_ready;
} CkptXmlDisk;

typedef struct {
    char *name, *uuid;
    gboolean nvram;    /* has UEFI variables, also when libvirt is to choose the firmware */
    char *nvram_file;  /* where they are; NULL = it does not say: libvirt's convention, or no file */
    const char *nvram_fault; /* why they are in no file that could be copied; NULL = they may be */
    gboolean nvram_qcow2;    /* the file has QEMU's format: only QEMU can read it while it runs */
    GPtrArray *needs; /* char *, files and folders of the host that a device needs to start: host devices' in
                         /sys, shared folders. Drives' media are not among them */
    GPtrArray *not_captured; /* char *, devices with a state of their own that no disk holds, for people */
    gboolean guest_agent;           /* has its channel, org.qemu.guest_agent.0 */
    gboolean guest_agent_connected; /* live XML: the guest has it open */
    gboolean emulated;              /* its processor is QEMU's own work (TCG), not the host's */
    guint64 memory_bytes;           /* RAM, and the memory of its graphics cards */
    char *immovable;   /* a device whose state QEMU cannot write down, for people; NULL = none that is known */
    GPtrArray *disks;  /* CkptXmlDisk, all of them, CD-ROMs too */
} CkptXmlDomain;

CkptXmlDomain *ckpt_xml_domain_parse(const char *xml, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void ckpt_xml_domain_free(CkptXmlDomain *domain);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CkptXmlDomain, ckpt_xml_domain_free)
CkptXmlDisk *ckpt_xml_domain_find(const CkptXmlDomain *domain, const char *target);
/* The folder of a storage pool by its XML; NULL if it is none. (transfer full) */
char *ckpt_xml_pool_folder(const char *xml);
/* Whether a checkpoint must capture it: writable, and not a CD-ROM or an empty floppy drive. */
gboolean ckpt_xml_disk_is_captured(const CkptXmlDisk *disk);

/* The definition as the VM `uuid`, `name`, with each of `disks` (CkptDiskFile) on its file and
 * nothing told about what lies below it (hazard A3), and its UEFI variables in the file `nvram` where it names
 * one (NULL: as it does); drives whose medium's file is gone are emptied. Everything else stays as the owner
 * had it. VALIDATION_FAILED if a disk is not in it. (transfer full; secret if the definition is) */
char *ckpt_xml_rewrite(const char *definition, const char *uuid, const char *name,
                       GPtrArray *disks, const char *nvram, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* The same of one disk alone: its <disk> element as it would be then, target and all; with no `file` as it
 * is. */
char *ckpt_xml_disk(const char *definition, const CkptDiskFile *disk, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;

/* <domainsnapshot> that lays each of `disks` (CkptDiskFile, qcow2) over the disk's present top and
 * leaves the domain's other disks out; the memory goes to the file `memory` (NULL: nowhere). (transfer full) */
char *ckpt_xml_snapshot(const CkptXmlDomain *domain, const char *name, const char *memory,
                        GPtrArray *disks);
