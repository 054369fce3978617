#include "agent/service/internal.h"

#include "common/text.h"

#define SERVICE "/vmcheckpoint.v1."
#define REQUEST(name) .request = &vmcheckpoint__v1__##name##__descriptor
#define GRPC_REQUEST(service) .grpc_request = ckpt_##service##_request
#define UNARY .kind = CKPT_METHOD_UNARY
#define STREAM .kind = CKPT_METHOD_SERVER_STREAM
#define VIEWER .role = CKPT_ROLE_VIEWER
#define OPERATOR .role = CKPT_ROLE_OPERATOR
#define ADMIN .role = CKPT_ROLE_ADMIN
#define STRICT .mode = CKPT_DECODE_STRICT
#define SLOW .slow = TRUE
#define LENIENT .mode = CKPT_DECODE_LENIENT

/* Strict are mutations, and reads that select: a filter that was passed over shows too much. */
const CkptMethod ckpt_methods[] = {
    /* clang-format off */
    {SERVICE "CheckpointService/CreateCheckpoint", OPERATOR, STRICT, UNARY, REQUEST(create_checkpoint_request),
     .mutation = ckpt_take_create, .reply = ckpt_create_reply},
    {SERVICE "CheckpointService/GetCheckpoint", VIEWER, LENIENT, UNARY, SLOW, REQUEST(get_checkpoint_request),
     .read = ckpt_get_checkpoint},
    {SERVICE "CheckpointService/ListCheckpoints", VIEWER, STRICT, UNARY, SLOW, REQUEST(list_checkpoints_request),
     .read = ckpt_list_checkpoints},
    {SERVICE "CheckpointService/UpdateCheckpoint", OPERATOR, STRICT, UNARY, REQUEST(update_checkpoint_request),
     .mutation = ckpt_take_update, .reply = ckpt_update_reply},
    {SERVICE "CheckpointService/RestoreCheckpoint", OPERATOR, STRICT, UNARY, REQUEST(restore_checkpoint_request),
     .mutation = ckpt_take_restore, .reply = ckpt_restore_reply},
    {SERVICE "CheckpointService/DeleteCheckpoint", OPERATOR, STRICT, UNARY, REQUEST(delete_checkpoint_request),
     .mutation = ckpt_take_delete, .reply = ckpt_delete_reply},
    {SERVICE "CheckpointService/PruneCheckpoints", OPERATOR, STRICT, UNARY, REQUEST(prune_checkpoints_request)},
    {SERVICE "VirtualMachineService/ListVirtualMachines", VIEWER, STRICT, UNARY, SLOW,
     REQUEST(list_virtual_machines_request), .read = ckpt_list_virtual_machines},
    {SERVICE "VirtualMachineService/GetVirtualMachine", VIEWER, LENIENT, UNARY, SLOW,
     REQUEST(get_virtual_machine_request), .read = ckpt_get_virtual_machine},
    {SERVICE "OperationService/GetOperation", VIEWER, LENIENT, UNARY, REQUEST(get_operation_request),
     .read = ckpt_get_operation},
    {SERVICE "OperationService/ListOperations", VIEWER, STRICT, UNARY, REQUEST(list_operations_request),
     .read = ckpt_list_operations},
    {SERVICE "OperationService/WatchOperations", VIEWER, STRICT, STREAM, REQUEST(watch_operations_request),
     .start = ckpt_watch_operations},
    {SERVICE "OperationService/CancelOperation", OPERATOR, STRICT, UNARY, REQUEST(cancel_operation_request),
     .start = ckpt_cancel_operation, .reply = ckpt_cancel_reply},
    {SERVICE "LeaseService/ConfirmLease", OPERATOR, STRICT, UNARY, REQUEST(confirm_lease_request)},
    {SERVICE "LeaseService/RenewLease", OPERATOR, STRICT, UNARY, REQUEST(renew_lease_request)},
    {SERVICE "LeaseService/HoldLease", OPERATOR, STRICT, UNARY, REQUEST(hold_lease_request)},
    {SERVICE "LeaseService/ListLeases", VIEWER, STRICT, UNARY, REQUEST(list_leases_request)},
    {SERVICE "AgentService/GetAgentInfo", VIEWER, LENIENT, UNARY, SLOW, REQUEST(get_agent_info_request),
     .read = ckpt_get_agent_info},
    {SERVICE "AgentService/Diagnose", VIEWER, STRICT, UNARY, SLOW, REQUEST(diagnose_request),
     .read = ckpt_diagnose},
    {SERVICE "AgentService/Repair", ADMIN, STRICT, UNARY, REQUEST(repair_request),
     .mutation = ckpt_take_repair, .reply = ckpt_repair_reply},
    {"/grpc.health.v1.Health/Check", VIEWER, LENIENT, UNARY, GRPC_REQUEST(health),
     .start = ckpt_check_health},
    {"/grpc.health.v1.Health/Watch", VIEWER, LENIENT, STREAM, GRPC_REQUEST(health),
     .start = ckpt_watch_health},
    {"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", VIEWER, LENIENT, STREAM,
     GRPC_REQUEST(reflection), .start = ckpt_reflect},
    /* clang-format on */
};
const guint ckpt_n_methods = G_N_ELEMENTS(ckpt_methods);

static const CkptMethod *
find_method(const char *name)
{
    for (guint i = 0; i < ckpt_n_methods; i++)
        if (g_str_equal(name, ckpt_methods[i].name))
            return &ckpt_methods[i];
    return NULL;
}

static CkptMethodKind
lookup(gpointer service, const char *name, gboolean *slow)
{
    const CkptMethod *method = find_method(name);

    *slow = method && method->slow;
    return method ? method->kind : CKPT_METHOD_UNKNOWN;
}

void
ckpt_caller_fail(CkptCall *call, const GError *error)
{
    g_autoptr(CkptRpcStatus) status = ckpt_rpc_status_from_error(error);

    ckpt_call_finish(call, NULL, status);
}

gboolean
ckpt_not_implemented(GError **error, const char *what)
{
    ckpt_error_set(error, CKPT_REASON_NOT_IMPLEMENTED, "this agent does not implement %s", what);
    ckpt_error_add(error, CKPT_META_FIELD, what);
    return FALSE;
}

static const char *
or_else(const char *text, const char *otherwise)
{
    return text && *text ? text : otherwise;
}

/* "request … (only validated), VM …, checkpoint …" */
static char *
describe(const CkptAuditSubject *subject)
{
    GString *text = g_string_new("request ");

    g_string_append(text, or_else(subject->request_id, "-"));
    if (subject->validate_only)
        g_string_append(text, " (only validated)");
    if (*or_else(subject->vm_id, ""))
        g_string_append_printf(text, ", VM %s", subject->vm_id);
    if (*or_else(subject->checkpoint_id, ""))
        g_string_append_printf(text, ", checkpoint %s", subject->checkpoint_id);
    return g_string_free(text, FALSE);
}

void
ckpt_audit(CkptCall *call, const CkptAuditSubject *subject, const GError *error)
{
    static const CkptAuditSubject unknown = {0};
    const CkptAuditSubject *about = subject ? subject : &unknown;
    const CkptPeer *peer = ckpt_call_peer(call);
    g_autofree char *what = describe(about);
    g_autofree char *outcome = ckpt_text_printable(error ? error->message : "done", -1, 1024);
    const char *reason = error ? ckpt_reason_name(ckpt_error_reason(error)) : "OK";

    g_log_structured(
        G_LOG_DOMAIN, G_LOG_LEVEL_MESSAGE, "VMCHECKPOINT_IDENTITY",
        peer->identity ? peer->identity : "", "VMCHECKPOINT_SERIAL",
        peer->serial ? peer->serial : "", "VMCHECKPOINT_METHOD", ckpt_call_method(call),
        "VMCHECKPOINT_REQUEST_ID", or_else(about->request_id, ""), "VMCHECKPOINT_VM_ID",
        or_else(about->vm_id, ""), "VMCHECKPOINT_CHECKPOINT_ID", or_else(about->checkpoint_id, ""),
        "VMCHECKPOINT_VALIDATE_ONLY", about->validate_only ? "1" : "0", "VMCHECKPOINT_REASON",
        reason, "MESSAGE", "%s by %s from %s, %s: %s%s%s", ckpt_call_method(call),
        peer->identity ? peer->identity : "nobody", peer->address ? peer->address : "nowhere", what,
        reason, error ? ": " : "", error ? outcome : "");
}

static void
answer_read(const CkptCaller *caller, const ProtobufCMessage *request, GError **error)
{
    g_autoptr(ProtobufCMessage) reply = caller->method->read(caller, request, error);
    g_autoptr(GBytes) bytes = NULL;

    if (!reply)
        return;
    bytes = ckpt_message_pack(reply);
    ckpt_call_finish(caller->call, bytes, NULL);
}

static void
start_mutation(const CkptCaller *caller, const ProtobufCMessage *message, GError **error)
{
    CkptRequest *request = caller->method->mutation(message, error);

    if (!request)
        return;
    request->identity = g_strdup(caller->identity);
    (void)ckpt_mutation_start(caller, request, error);
}

/* With *error set the call is still to be ended. */
static void
dispatch(const CkptCaller *caller, GBytes *bytes, GError **error)
{
    const CkptMethod *method = caller->method;
    const ProtobufCMessageDescriptor *type =
        method->grpc_request ? method->grpc_request() : method->request;
    g_autoptr(ProtobufCMessage) request = NULL;
    gsize size;
    const guint8 *data = g_bytes_get_data(bytes, &size);

    /* Before the decoder: a stranger learns nothing about it, and gives it nothing to do. */
    if (!ckpt_access_check(caller->service->options.access, caller->identity,
                           ckpt_call_peer(caller->call)->why, method->role, method->name, error))
        return;
    request = ckpt_decode(type, data, size, method->mode, error);
    if (!request)
        return;
    if (method->read)
        answer_read(caller, request, error);
    else if (method->mutation)
        start_mutation(caller, request, error);
    else if (method->start)
        method->start(caller, request, error);
    else
        ckpt_not_implemented(error, method->name + 1);
}

static gboolean
is_on_record(const CkptMethod *method, const GError *error)
{
    CkptReason reason = ckpt_error_reason(error);

    return method->role > CKPT_ROLE_VIEWER || reason == CKPT_REASON_ACCESS_DENIED ||
           reason == CKPT_REASON_UNAUTHENTICATED;
}

static void
handle(gpointer data, CkptCall *call, GBytes *bytes)
{
    CkptService *service = data;
    const CkptMethod *method = find_method(ckpt_call_method(call));
    const CkptPeer *peer = ckpt_call_peer(call);
    CkptCaller caller = {service, call, method, peer->identity,
                         ckpt_access_role(service->options.access, peer->identity)};
    /* dispatch() may end the call and so drop the transport's reference. */
    g_autoptr(CkptCall) own = ckpt_call_ref(call);
    g_autoptr(GError) error = NULL;

    dispatch(&caller, bytes, &error);
    if (!error)
        return;
    if (is_on_record(method, error))
        ckpt_audit(own, NULL, error);
    ckpt_caller_fail(own, error);
}

static const CkptServiceVtable vtable = {lookup, handle};

const CkptServiceVtable *
ckpt_service_vtable(void)
{
    return &vtable;
}

CkptService *
ckpt_service_new(CkptEngine *engine, const CkptServiceOptions *options)
{
    CkptService *service = g_new0(CkptService, 1);

    service->options = *options;
    service->options.libraries = NULL;
    service->engine = engine;
    service->libraries = ckpt_library_index_new(options->libraries);
    service->page_key = ckpt_page_key_new();
    service->watches = ckpt_watches_new(engine, options->max_streams ? options->max_streams : 128);
    /* Not exclusive: idle threads are GLib's to keep, and end after a while. */
    service->finishers = g_thread_pool_new(ckpt_mutation_finish, service, 2, FALSE, NULL);
    service->started_us = g_get_real_time();
    service->reach = ckpt_reach_new(ckpt_engine_driver(engine));
    return service;
}

void
ckpt_service_stop(CkptService *service)
{
    g_atomic_int_set(&service->stopping, 1);
    ckpt_watches_stop(service->watches);
}

void
ckpt_service_free(CkptService *service)
{
    if (!service)
        return;
    g_thread_pool_free(service->finishers, FALSE, TRUE);
    ckpt_watches_free(service->watches);
    ckpt_page_key_free(service->page_key);
    ckpt_library_index_free(service->libraries);
    ckpt_reach_free(service->reach);
    g_free(service);
}
