#include "agent/model/request.h"

const char *
ckpt_kind_name(CkptKind kind)
{
    switch (kind) {
    case CKPT_KIND_CREATE:
        return "create";
    case CKPT_KIND_UPDATE:
        return "update";
    case CKPT_KIND_RESTORE:
        return "restore";
    case CKPT_KIND_DELETE:
        return "delete";
    case CKPT_KIND_REPAIR:
        return "repair";
    }
    return "unknown";
}

const char *
ckpt_kind_task(CkptKind kind)
{
    switch (kind) {
    case CKPT_KIND_CREATE:
        return "Create checkpoint";
    case CKPT_KIND_UPDATE:
        return "Update checkpoint";
    case CKPT_KIND_RESTORE:
        return "Restore checkpoint";
    case CKPT_KIND_DELETE:
        return "Delete checkpoint";
    case CKPT_KIND_REPAIR:
        return "Repair";
    }
    return "Unknown task";
}

CkptRequest *
ckpt_request_new(CkptKind kind)
{
    CkptRequest *request = g_new0(CkptRequest, 1);

    request->kind = kind;
    if (kind == CKPT_KIND_CREATE) {
        request->description = g_strdup("");
        request->run_id = g_strdup("");
        request->reason = g_strdup("");
        request->ticket = g_strdup("");
        request->hold = g_strdup("");
        request->labels = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    }
    return request;
}

void
ckpt_request_free(CkptRequest *request)
{
    if (!request)
        return;
    g_free(request->identity);
    g_free(request->request_id);
    g_free(request->vm_id);
    g_free(request->checkpoint_id);
    g_free(request->name);
    g_free(request->description);
    g_free(request->run_id);
    g_free(request->reason);
    g_free(request->ticket);
    g_free(request->hold);
    g_clear_pointer(&request->labels, g_hash_table_unref);
    g_free(request->expected_current_checkpoint_id);
    g_strfreev(request->finding_ids);
    g_free(request);
}
