#include "client/mutation.h"

#include "common/id.h"

void
ckpt_mutation_init(CkptMutation *mutation, Vmcheckpoint__V1__RequestOptions *options,
                   const char *verb, const CkptHost *host, const char *vm_name)
{
    mutation->verb = verb;
    mutation->host = host;
    mutation->vm_name = vm_name;
    mutation->request_id = ckpt_id_new();
    vmcheckpoint__v1__request_options__init(options);
    options->request_id = mutation->request_id;
}

void
ckpt_mutation_clear(CkptMutation *mutation)
{
    g_clear_pointer(&mutation->request_id, g_free);
}

gboolean
ckpt_mutation_ended(const CkptMutation *mutation, const CkptReply *reply, CkptTally *tally)
{
    switch (reply->outcome) {
    case CKPT_OUTCOME_DONE:
        tally->done++;
        return TRUE;
    case CKPT_OUTCOME_FAILED:
        tally->failed++;
        ckpt_report_error(mutation->host->name, mutation->vm_name, reply->error);
        return FALSE;
    case CKPT_OUTCOME_UNKNOWN:
        tally->unknown++;
        ckpt_report(mutation->host->name, mutation->vm_name,
                    "the outcome of this %s is not known (%s); it goes on by itself once the agent "
                    "has it. Follow it with: vmcheckpoint operation %s",
                    mutation->verb, reply->error->message, mutation->request_id);
        return FALSE;
    }
    return FALSE;
}

void
ckpt_warnings_report(const CkptMutation *mutation, char *const *warnings, gsize n)
{
    for (gsize i = 0; i < n; i++)
        ckpt_report(mutation->host->name, mutation->vm_name, "warning: %s", warnings[i]);
}

CkptExit
ckpt_tally_exit(const CkptClient *client, const CkptTally *tally, const char *done)
{
    if (tally->done + tally->failed + tally->unknown > 1)
        ckpt_report(NULL, NULL, "%u %s, %u failed, %u not known", tally->done, done, tally->failed,
                    tally->unknown);
    if (tally->unknown + tally->failed > 0 && g_cancellable_is_cancelled(client->cancellable))
        return CKPT_EXIT_INTERRUPTED;
    if (tally->unknown > 0)
        return CKPT_EXIT_UNKNOWN;
    return ckpt_exit_of(tally->done, tally->failed);
}
