/* What create, restore and delete have in common: a fresh request id each, what is said of an end,
 * and the exit status. */
#pragma once

#include "client/fanout.h"

typedef struct {
    const char *verb; /* "create" */
    const CkptHost *host;
    const char *vm_name;
    char *request_id;
} CkptMutation;

typedef struct {
    guint done, failed, unknown;
} CkptTally;

/* vm_name must outlive it. Initialises options with a fresh request_id. */
void ckpt_mutation_init(CkptMutation *mutation, Vmcheckpoint__V1__RequestOptions *options,
                        const char *verb, const CkptHost *host, const char *vm_name);
void ckpt_mutation_clear(CkptMutation *mutation);

/* Counts the end and reports one that is not a success; an unknown one with the command that
 * follows it. TRUE if it is done. */
gboolean ckpt_mutation_ended(const CkptMutation *mutation, const CkptReply *reply,
                             CkptTally *tally);
void ckpt_warnings_report(const CkptMutation *mutation, char *const *warnings, gsize n);

/* done: "created", for the summary of several. */
CkptExit ckpt_tally_exit(const CkptClient *client, const CkptTally *tally, const char *done);
