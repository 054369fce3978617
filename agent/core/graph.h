/* The graph of a VM's files: which lies on which, who sealed it, who reads it. For the planner. */
#pragma once

#include "agent/core/planner.h"

CkptCheckpoint *ckpt_graph_find(GPtrArray *checkpoints, const char *id); /* NULL if there is none */
/* The checkpoint that sealed this file, and its disk entry; NULL if none did. */
CkptCheckpoint *ckpt_graph_owner(const CkptPlanInput *input, const char *file,
                                 CkptCheckpointDisk **disk);
/* Whether each of its disks' files is there, and is what was sealed. */
gboolean ckpt_graph_is_as_sealed(const CkptPlanInput *input, const CkptCheckpoint *checkpoint);
/* CkptLayer (borrowed): every known file whose header names this one as its backing file, but for doomed
 * ones: what they show is nobody's business. */
GPtrArray *ckpt_graph_readers(const CkptPlanInput *input, const char *file);
/* The paths from file down to its root, file first. NULL-terminated. */
char **ckpt_graph_chain(const CkptPlanInput *input, const char *file);
/* The disk of the present state whose chain contains file; NULL if none does. */
CkptDisk *ckpt_graph_attached(const CkptPlanInput *input, const char *file);
gboolean ckpt_graph_is_top(const CkptPlanInput *input, const char *file);
gboolean ckpt_graph_agent_made(const CkptPlanInput *input, const char *file);
/* The file that the disk was when the agent first met it: the first one downwards that the agent did not
 * make. What lies below that is its owner's affair: a template, or the file that this one is a clone of.
 * (transfer full; NULL for NULL) */
char *ckpt_graph_root(const CkptPlanInput *input, const char *file);
/* Whether both are states of one disk. */
gboolean ckpt_graph_same_disk(const CkptPlanInput *input, const char *a, const char *b);
/* Whether `file` is below `overlay`, by the headers. */
gboolean ckpt_graph_lies_on(const CkptPlanInput *input, const char *overlay, const char *file);
/* Who, besides this VM, uses the file; NULL if nobody does. */
const CkptFileUser *ckpt_graph_user(const CkptPlanInput *input, const char *file);
/* What snapshots of other tools need of a file. */
typedef enum {
    CKPT_PIN_NONE,
    CKPT_PIN_NAMED,   /* that it stays, under its name: it may be written to as the VM itself would */
    CKPT_PIN_CONTENTS /* that nothing in it changes, too */
} CkptPin;
/* The most that any of them needs; *who (may be NULL) is that one. */
CkptPin ckpt_graph_pin(const CkptPlanInput *input, const char *file, const CkptSnapshot **who);
/* A file that lies directly on this one and was not made by the agent; NULL if none does. */
const CkptLayer *ckpt_graph_foreign_reader(const CkptPlanInput *input, const char *file);
/* Whether nobody needs the file: the catalogue says so, and nothing that is known contradicts it, be it a
 * definition, a running VM, a row, another VM or a file lying on it that is needed. */
gboolean ckpt_graph_is_doomed(const CkptPlanInput *input, const char *file);
/* Whether QEMU writes to this overlay for the disk, be it that libvirt names one below it. One that was
 * opened and never switched to is open for writing, too, and so is then the file below. */
gboolean ckpt_graph_runs_on(const CkptPlanInput *input, const CkptDisk *disk, const CkptLayer *overlay);
/* Where the manifest of what this file holds is: beside it, of a block device in the folder for its overlays. */
char *ckpt_graph_manifest(const CkptLayer *layer);
/* What a reader is, for people: "checkpoint NAME (ID)", "the present state", "FILE". */
char *ckpt_graph_describe(const CkptPlanInput *input, const char *file);
