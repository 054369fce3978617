/* Diagnose and Repair. */
#include "agent/service/internal.h"

static PB(Finding) * give_finding(const CkptFinding *finding)
{
    PB(Finding) *message = ckpt_message_new(&vmcheckpoint__v1__finding__descriptor);

    message->finding_id = g_strdup(finding->id);
    message->kind = (PB(FindingKind))finding->kind;
    message->severity = (PB(FindingSeverity))finding->severity;
    message->vm_id = g_strdup(finding->vm_id);
    message->vm_name = g_strdup(finding->vm_name);
    message->checkpoint_id = g_strdup(finding->checkpoint_id);
    message->file = g_strdup(finding->file);
    message->message = g_strdup(finding->message);
    message->repairable = *finding->repair != '\0';
    message->repair = g_strdup(finding->repair);
    message->origin = g_strdup(finding->origin);
    message->repair_error = g_strdup(finding->repair_error);
    return message;
}

/* As many as there is room for, from *bytes on; the rest are counted. NULL for none. */
static PB(Finding) * *give_findings(GPtrArray *findings, gsize *n, gsize *bytes, guint32 *omitted)
{
    PB(Finding) **list = findings && findings->len ? g_new0(PB(Finding) *, findings->len) : NULL;

    for (guint i = 0; list && i < findings->len; i++) {
        PB(Finding) *message = give_finding(g_ptr_array_index(findings, i));

        *bytes += protobuf_c_message_get_packed_size(&message->base) + 8;
        if (*bytes > CKPT_REPLY_MAX) {
            ckpt_message_free(message);
            *omitted += findings->len - i;
            break;
        }
        list[(*n)++] = message;
    }
    return list;
}

ProtobufCMessage *
ckpt_diagnose(const CkptCaller *caller, const ProtobufCMessage *base, GError **error)
{
    const PB(DiagnoseRequest) *request = (const void *)base;
    g_autofree char *vm_id = ckpt_take_optional_id("vm_id", request->vm_id, error);
    g_autoptr(GPtrArray) findings = NULL;
    PB(DiagnoseResponse) * reply;
    gsize bytes = 0;

    if (!vm_id)
        return NULL;
    findings = ckpt_engine_diagnose(caller->service->engine, vm_id, error);
    if (!findings)
        return NULL;
    reply = ckpt_message_new(&vmcheckpoint__v1__diagnose_response__descriptor);
    reply->findings = give_findings(findings, &reply->n_findings, &bytes, &reply->omitted);
    return &reply->base;
}

ProtobufCMessage *
ckpt_repair_reply(CkptService *service, const CkptOperation *operation, gboolean validate_only)
{
    PB(RepairResponse) *reply = ckpt_message_new(&vmcheckpoint__v1__repair_response__descriptor);
    const CkptRepairResult *result = operation->repair;
    gsize bytes = 0;

    if (result) {
        reply->repaired = give_findings(result->repaired, &reply->n_repaired, &bytes, &reply->omitted);
        reply->left = give_findings(result->left, &reply->n_left, &bytes, &reply->omitted);
        reply->vanished_ids = ckpt_give_strings(result->vanished, &reply->n_vanished_ids);
    }
    if (!validate_only)
        reply->operation = ckpt_give_operation(operation, 0, 0);
    return &reply->base;
}
