#include "agent/service/internal.h"

#include "agent/core/filesystems.h"

#define LIBRARY_MAX_AGE_US (30 * G_USEC_PER_SEC)

/* What this agent implements; a caller asks for a name before it relies on it. */
static const char *const features[] = {
    "create", "get",           "list",   "update", "restore",           "delete",  "watch",
    "cancel", "validate-only", "labels", "runs",   "consistency-crash", "library",
    "consistency-application", "consistency-memory", "foreign-snapshots", "migration", "diagnose", "repair",
};

/* Who the host is can be told without its hypervisor, once that has answered; versions are of the
 * last answer. FALSE: it does not answer now. */
static gboolean
give_host(CkptService *service, PB(GetAgentInfoResponse) * reply, GError **error)
{
    g_autoptr(CkptHostInfo) host = NULL;
    gboolean answers = ckpt_reach_ask(service->reach, &host, error);

    if (!host)
        return answers;
    reply->host_id = g_strdup(host->host_id);
    reply->host_name = g_strdup(host->host_name);
    reply->libvirt_version = g_strdup(host->libvirt_version);
    reply->qemu_version = g_strdup(host->qemu_version ? host->qemu_version : "");
    reply->hypervisor = g_strdup(host->uri);
    return answers;
}

static PB(AgentLimits) * give_limits(const CkptLimits *limits)
{
    PB(AgentLimits) *message = ckpt_message_new(&vmcheckpoint__v1__agent_limits__descriptor);

    message->max_depth = limits->max_depth;
    message->max_running_operations = limits->max_running;
    message->max_queued_operations_per_vm = limits->max_queued_per_vm;
    message->max_request_bytes = CKPT_RPC_MESSAGE_MAX;
    message->max_page_size = CKPT_PAGE_SIZE_MAX;
    message->max_wait_seconds = (guint32)(limits->max_wait_us / G_USEC_PER_SEC);
    message->result_retention_days = limits->result_days;
    message->reserve_bytes = limits->reserve_bytes;
    message->reserve_percent = limits->reserve_percent;
    return message;
}

static void
give_libraries(CkptService *service, PB(GetAgentInfoResponse) * reply)
{
    g_autoptr(GPtrArray) libraries =
        ckpt_library_index_read(service->libraries, LIBRARY_MAX_AGE_US);

    if (libraries->len == 0)
        return;
    reply->libraries = g_new0(PB(Library) *, libraries->len);
    for (guint i = 0; i < libraries->len; i++) {
        const CkptLibrary *library = g_ptr_array_index(libraries, i);
        PB(Library) *message = ckpt_message_new(&vmcheckpoint__v1__library__descriptor);

        message->name = g_strdup(library->name);
        message->path = g_strdup(library->path);
        message->vm_count = library->vms->len;
        message->error = g_strdup(library->error ? library->error->message : "");
        reply->libraries[reply->n_libraries++] = message;
    }
}

/* Left empty when the hypervisor does not answer: mode_reason says so. */
static void
give_file_systems(CkptService *service, PB(GetAgentInfoResponse) * reply)
{
    g_autoptr(GPtrArray) found = ckpt_file_systems_list(ckpt_engine_driver(service->engine), NULL);

    if (!found || found->len == 0)
        return;
    reply->file_systems = g_new0(PB(FileSystem) *, found->len);
    for (guint i = 0; i < found->len; i++) {
        const CkptFileSystem *file_system = g_ptr_array_index(found, i);
        PB(FileSystem) *message = ckpt_message_new(&vmcheckpoint__v1__file_system__descriptor);

        message->mount_point = g_strdup(file_system->mount_point);
        message->type = g_strdup(file_system->type);
        message->size_bytes = file_system->size;
        message->available_bytes = file_system->available;
        reply->file_systems[reply->n_file_systems++] = message;
    }
}

static void
give_mode(CkptService *service, PB(GetAgentInfoResponse) * reply, const GError *hypervisor)
{
    g_autofree char *read_only = NULL;
    const char *why;

    if (!hypervisor)
        ckpt_engine_compare(service->engine);
    read_only = ckpt_engine_read_only_reason(service->engine);
    why = read_only ? read_only : hypervisor ? hypervisor->message : NULL;
    if (why) {
        reply->mode = VMCHECKPOINT__V1__AGENT_MODE__AGENT_MODE_READ_ONLY;
    } else if (ckpt_engine_is_recovering(service->engine)) {
        reply->mode = VMCHECKPOINT__V1__AGENT_MODE__AGENT_MODE_STARTING;
        why = "operations that were interrupted are being finished";
    } else {
        reply->mode = VMCHECKPOINT__V1__AGENT_MODE__AGENT_MODE_READ_WRITE;
    }
    reply->mode_reason = g_strdup(why ? why : "");
}

ProtobufCMessage *
ckpt_get_agent_info(const CkptCaller *caller, const ProtobufCMessage *base, GError **error)
{
    CkptService *service = caller->service;
    PB(GetAgentInfoResponse) *reply =
        ckpt_message_new(&vmcheckpoint__v1__get_agent_info_response__descriptor);
    g_autoptr(GError) hypervisor = NULL;

    (void)give_host(service, reply, &hypervisor);
    reply->agent_version = g_strdup(service->options.agent_version);
    reply->grpc_version = g_strdup(service->options.grpc_version);
    reply->features = g_new0(char *, G_N_ELEMENTS(features));
    for (guint i = 0; i < G_N_ELEMENTS(features); i++)
        reply->features[reply->n_features++] = g_strdup(features[i]);
    reply->limits = give_limits(ckpt_engine_limits(service->engine));
    give_mode(service, reply, hypervisor);
    give_libraries(service, reply);
    give_file_systems(service, reply);
    reply->start_time = ckpt_give_time(service->started_us);
    reply->caller_identity = g_strdup(caller->identity);
    reply->caller_role = g_strdup(ckpt_role_name(caller->role));
    return &reply->base;
}
