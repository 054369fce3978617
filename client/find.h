/* Finds the checkpoint that the user names: by ID, or as VM/NAME. */
#pragma once

#include "client/query.h"

typedef struct {
    const CkptHost *host;
    PbCheckpoint *checkpoint; /* in full, as the host just verified it */
    ProtobufCMessage *reply;  /* owns it; a GetCheckpointResponse */
    char *vm_name;    /* what its VM is called now; NULL: the host has no such VM deployed, or could
                         not say */
    char *current_id; /* the checkpoint at which its VM is; NULL: none, or not known */
} CkptFoundCheckpoint;

/* Reports by itself what is wrong, and sets *exit, when it returns NULL. An ambiguous VM/NAME lists
 * the candidates and ends FAILED, since another run may find another number of them. for_change: a
 * VM/NAME is not enough while a host does not answer, because it may have another of that name. */
CkptFoundCheckpoint *ckpt_find_checkpoint(CkptClient *client, const char *text, gboolean for_change,
                                          CkptExit *exit) G_GNUC_WARN_UNUSED_RESULT;
/* What to call its VM: by its present name, or the one that it had when captured. */
const char *ckpt_found_vm_name(const CkptFoundCheckpoint *found);
void ckpt_found_checkpoint_free(CkptFoundCheckpoint *found);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CkptFoundCheckpoint, ckpt_found_checkpoint_free)
