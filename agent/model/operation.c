#include "agent/model/operation.h"

CkptOperation *
ckpt_operation_new(void)
{
    CkptOperation *operation = g_new0(CkptOperation, 1);

    operation->identity = g_strdup("");
    operation->request_id = g_strdup("");
    operation->digest = g_strdup("");
    operation->state = CKPT_OP_QUEUED;
    operation->vm_id = g_strdup("");
    operation->checkpoint_id = g_strdup("");
    operation->step_begun = -1;
    operation->step_ended = -1;
    operation->message = g_strdup("");
    operation->warnings = g_ptr_array_new_with_free_func(g_free);
    return operation;
}

void
ckpt_operation_free(CkptOperation *operation)
{
    if (!operation)
        return;
    g_free(operation->identity);
    g_free(operation->request_id);
    g_free(operation->digest);
    g_free(operation->vm_id);
    g_free(operation->checkpoint_id);
    ckpt_request_free(operation->request);
    ckpt_plan_free(operation->plan);
    g_free(operation->message);
    g_clear_pointer(&operation->metadata, g_hash_table_unref);
    ckpt_checkpoint_free(operation->checkpoint);
    ckpt_checkpoint_free(operation->safety);
    ckpt_repair_result_free(operation->repair);
    g_clear_pointer(&operation->warnings, g_ptr_array_unref);
    g_free(operation->damage);
    g_free(operation);
}

void
ckpt_operation_set_error(CkptOperation *operation, const GError *error)
{
    GHashTable *metadata = error ? ckpt_error_metadata(error) : NULL;

    operation->reason = error ? ckpt_error_reason(error) : (CkptReason)0;
    ckpt_set_str(&operation->message, error ? error->message : "");
    g_clear_pointer(&operation->metadata, g_hash_table_unref);
    if (metadata)
        operation->metadata = g_hash_table_ref(metadata);
}

void
ckpt_operation_error(const CkptOperation *operation, GError **error)
{
    GHashTableIter iter;
    gpointer key, value;

    ckpt_error_set(error, operation->reason ? operation->reason : CKPT_REASON_INTERNAL, "%s",
                   operation->message ? operation->message : "it failed");
    if (!operation->metadata)
        return;
    g_hash_table_iter_init(&iter, operation->metadata);
    while (g_hash_table_iter_next(&iter, &key, &value))
        ckpt_error_add(error, key, value);
}
