#include "tests/unit/client_fixture.h"

#include <string.h>
#include <unistd.h>

World world;

static void
answer(CkptCall *call, const ProtobufCMessage *message)
{
    gsize size = protobuf_c_message_get_packed_size(message);
    guint8 *data = g_malloc(size + 1);
    g_autoptr(GBytes) reply = NULL;

    protobuf_c_message_pack(message, data);
    reply = g_bytes_new_take(data, size);
    ckpt_call_finish(call, reply, NULL);
}

static void
refuse(CkptCall *call, CkptReason reason, guint retry_ms)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptRpcStatus) status = NULL;

    ckpt_error_set(&error, reason, "straw says no");
    ckpt_error_set_retry_ms(&error, retry_ms);
    status = ckpt_rpc_status_from_error(error);
    ckpt_call_finish(call, NULL, status);
}

static gboolean
matches(const char *text, char *const *list, gsize n)
{
    for (gsize i = 0; i < n; i++)
        if (strcmp(list[i], text) == 0)
            return TRUE;
    return n == 0;
}

static void
list_vms(Straw *straw, CkptCall *call, const Vmcheckpoint__V1__ListVirtualMachinesRequest *request)
{
    Vmcheckpoint__V1__ListVirtualMachinesResponse response =
        VMCHECKPOINT__V1__LIST_VIRTUAL_MACHINES_RESPONSE__INIT;
    const Vmcheckpoint__V1__VirtualMachineFilter *filter = request->filter;
    PbVm vms[G_N_ELEMENTS(straw->vms)], *list[G_N_ELEMENTS(straw->vms)];
    Vmcheckpoint__V1__Ability can = VMCHECKPOINT__V1__ABILITY__INIT, cannot = can;

    can.available = 1;
    for (gsize i = 0; i < G_N_ELEMENTS(straw->vms) && straw->vms[i].id; i++) {
        const StrawVm *from = &straw->vms[i];
        PbVm *vm = &vms[response.n_virtual_machines];

        if (filter && (!matches(from->id, filter->vm_ids, filter->n_vm_ids) ||
                       !matches(from->name, filter->vm_names, filter->n_vm_names)))
            continue;
        vmcheckpoint__v1__virtual_machine__init(vm);
        vm->vm_id = (char *)from->id;
        vm->vm_name = (char *)from->name;
        vm->placement = from->stored ? VMCHECKPOINT__V1__PLACEMENT__PLACEMENT_STORED
                                     : VMCHECKPOINT__V1__PLACEMENT__PLACEMENT_DEPLOYED;
        vm->live = &can;
        vm->current_checkpoint_id = (char *)(straw->current ? straw->current : "");
        vm->memory = &cannot;
        vm->growth = straw->growth;
        vm->library = (char *)(from->stored ? "shelf" : "");
        vm->library_file = (char *)(from->stored ? "/shelf/vm.xml" : "");
        list[response.n_virtual_machines++] = vm;
    }
    response.virtual_machines = list;
    answer(call, &response.base);
}

static void
fill_point(PbCheckpoint *checkpoint, const StrawPoint *point)
{
    vmcheckpoint__v1__checkpoint__init(checkpoint);
    checkpoint->checkpoint_id = (char *)point->id;
    checkpoint->checkpoint_name = (char *)point->name;
    checkpoint->vm_id = (char *)point->vm_id;
    checkpoint->vm_name = (char *)point->vm_name;
    checkpoint->etag = (char *)"etag-1";
    checkpoint->enabled = !point->deleting;
    checkpoint->state = point->deleting
                            ? VMCHECKPOINT__V1__CHECKPOINT_STATE__CHECKPOINT_STATE_DELETING
                            : VMCHECKPOINT__V1__CHECKPOINT_STATE__CHECKPOINT_STATE_READY;
}

static void
list_points(Straw *straw, CkptCall *call, const Vmcheckpoint__V1__ListCheckpointsRequest *request)
{
    Vmcheckpoint__V1__ListCheckpointsResponse response =
        VMCHECKPOINT__V1__LIST_CHECKPOINTS_RESPONSE__INIT;
    const Vmcheckpoint__V1__CheckpointFilter *filter = request->filter;
    PbCheckpoint points[G_N_ELEMENTS(straw->points)], *list[G_N_ELEMENTS(straw->points)];
    gsize skip = *request->page_token ? 1 : 0, matched = 0;

    /* Pages of one entry: the client must ask for each. */
    for (gsize i = 0; i < G_N_ELEMENTS(straw->points) && straw->points[i].id; i++) {
        const StrawPoint *point = &straw->points[i];

        if ((point->deleting && !filter->include_deleting) ||
            (*filter->vm_id && strcmp(filter->vm_id, point->vm_id) != 0) ||
            (*filter->vm_name && strcmp(filter->vm_name, point->vm_name) != 0) ||
            (*filter->checkpoint_name && strcmp(filter->checkpoint_name, point->name) != 0))
            continue;
        if (matched++ < skip)
            continue;
        if (response.n_checkpoints == 1 && skip == 0) {
            response.next_page_token = (char *)"more";
            break;
        }
        fill_point(&points[response.n_checkpoints], point);
        list[response.n_checkpoints] = &points[response.n_checkpoints];
        response.n_checkpoints++;
    }
    response.checkpoints = list;
    answer(call, &response.base);
}

static void
get_point(Straw *straw, CkptCall *call, const Vmcheckpoint__V1__GetCheckpointRequest *request)
{
    Vmcheckpoint__V1__GetCheckpointResponse response =
        VMCHECKPOINT__V1__GET_CHECKPOINT_RESPONSE__INIT;
    char *warnings[] = {(char *)"storing leaves it behind", (char *)"it is deep"};
    PbCheckpoint checkpoint;

    for (gsize i = 0; i < G_N_ELEMENTS(straw->points) && straw->points[i].id; i++)
        if (strcmp(straw->points[i].id, request->checkpoint_id) == 0) {
            fill_point(&checkpoint, &straw->points[i]);
            checkpoint.growth = straw->growth;
            response.checkpoint = &checkpoint;
            response.warnings = warnings;
            response.n_warnings = straw->growth ? G_N_ELEMENTS(warnings) : 0;
            answer(call, &response.base);
            return;
        }
    refuse(call, CKPT_REASON_CHECKPOINT_NOT_FOUND, 0);
}

static void
on_held_cancel(CkptCall *call, gpointer data)
{
    refuse(call, CKPT_REASON_OPERATION_RUNNING, 0);
    ckpt_call_unref(call);
}

/* TRUE if the mutation is to be done now. */
static gboolean
begin_mutation(Straw *straw, CkptCall *call, const Vmcheckpoint__V1__RequestOptions *options,
               const char *etag)
{
    CkptReason refusal;
    gboolean hold;

    g_mutex_lock(&straw->lock);
    straw->mutations++;
    refusal = straw->refuse_first && straw->mutations > straw->refuse_first ? (CkptReason)0
                                                                            : straw->refusal;
    hold = straw->hold;
    g_ptr_array_add(straw->ids, g_strdup(options ? options->request_id : "none"));
    g_free(straw->etag);
    straw->etag = g_strdup(etag);
    g_cond_broadcast(&straw->changed);
    g_mutex_unlock(&straw->lock);
    if (refusal)
        refuse(call, refusal, straw->retry_ms);
    else if (hold)
        ckpt_call_on_cancel(ckpt_call_ref(call), on_held_cancel, straw);
    return !refusal && !hold;
}

static void
create(Straw *straw, CkptCall *call, const Vmcheckpoint__V1__CreateCheckpointRequest *request)
{
    Vmcheckpoint__V1__CreateCheckpointResponse response =
        VMCHECKPOINT__V1__CREATE_CHECKPOINT_RESPONSE__INIT;
    StrawPoint point = {POINT_1, request->checkpoint_name, request->vm_id, "captured"};
    PbCheckpoint checkpoint;

    if (!begin_mutation(straw, call, request->options, ""))
        return;
    fill_point(&checkpoint, &point);
    response.checkpoint = &checkpoint;
    answer(call, &response.base);
}

/* What it would free and cost, of one disk; nothing is said of what is refused or being deleted. */
static void
forecast(Straw *straw, CkptCall *call, Vmcheckpoint__V1__DeleteCheckpointResponse *response)
{
    Vmcheckpoint__V1__DeleteForecast forecast = VMCHECKPOINT__V1__DELETE_FORECAST__INIT;
    Vmcheckpoint__V1__DiskForecast disk = VMCHECKPOINT__V1__DISK_FORECAST__INIT, *disks[] = {&disk};
    Vmcheckpoint__V1__SpaceNeed need = VMCHECKPOINT__V1__SPACE_NEED__INIT, *needs[] = {&need};

    if (straw->refusal) {
        refuse(call, straw->refusal, 0);
        return;
    }
    disk.target = (char *)"vda";
    disk.method = VMCHECKPOINT__V1__DELETE_METHOD__DELETE_METHOD_COMMIT;
    disk.live = TRUE;
    need.file = (char *)"/img/web.raw";
    need.needed_bytes = 20u << 20;
    need.available_bytes = 3ull << 30;
    forecast.freed_bytes_min = 5u << 20;
    forecast.freed_bytes_max = 20u << 20;
    forecast.moved_bytes = 20u << 20;
    forecast.n_disks = forecast.n_needs = 1;
    forecast.disks = disks;
    forecast.needs = needs;
    response->forecast = straw->points[0].deleting ? NULL : &forecast;
    answer(call, &response->base);
}

static void
delete_point(Straw *straw, CkptCall *call, const Vmcheckpoint__V1__DeleteCheckpointRequest *request)
{
    Vmcheckpoint__V1__DeleteCheckpointResponse response =
        VMCHECKPOINT__V1__DELETE_CHECKPOINT_RESPONSE__INIT;

    if (request->options->validate_only)
        forecast(straw, call, &response);
    else if (begin_mutation(straw, call, request->options, request->etag))
        answer(call, &response.base);
}

static void
restore(Straw *straw, CkptCall *call, const Vmcheckpoint__V1__RestoreCheckpointRequest *request)
{
    Vmcheckpoint__V1__RestoreCheckpointResponse response =
        VMCHECKPOINT__V1__RESTORE_CHECKPOINT_RESPONSE__INIT;
    PbCheckpoint restored, safety;

    if (!begin_mutation(straw, call, request->options, request->etag))
        return;
    g_strlcpy(straw->expected, request->expected_current_checkpoint_id, sizeof straw->expected);
    if (request->power_state !=
        VMCHECKPOINT__V1__RESTORE_POWER_STATE__RESTORE_POWER_STATE_SHUT_OFF) {
        refuse(call, CKPT_REASON_INTERNAL, 0);
        return;
    }
    fill_point(&restored, &straw->points[0]);
    fill_point(&safety, &straw->points[1]);
    response.checkpoint = &restored;
    response.safety_checkpoint = request->discard_present_state ? NULL : &safety;
    answer(call, &response.base);
}

static void
get_info(Straw *straw, CkptCall *call, const Vmcheckpoint__V1__GetAgentInfoRequest *request)
{
    Vmcheckpoint__V1__GetAgentInfoResponse response =
        VMCHECKPOINT__V1__GET_AGENT_INFO_RESPONSE__INIT;

    response.agent_version = (char *)"9.8.7";
    response.mode = VMCHECKPOINT__V1__AGENT_MODE__AGENT_MODE_READ_WRITE;
    response.caller_role = (char *)"operator";
    answer(call, &response.base);
}

static void
get_operation(Straw *straw, CkptCall *call, const Vmcheckpoint__V1__GetOperationRequest *request)
{
    Vmcheckpoint__V1__GetOperationResponse response =
        VMCHECKPOINT__V1__GET_OPERATION_RESPONSE__INIT;
    PbOperation operation = VMCHECKPOINT__V1__OPERATION__INIT;

    if (straw != &world.b || strcmp(request->request_id, POINT_1) != 0) {
        refuse(call, CKPT_REASON_OPERATION_NOT_FOUND, 0);
        return;
    }
    operation.request_id = request->request_id;
    operation.state = VMCHECKPOINT__V1__OPERATION_STATE__OPERATION_STATE_RUNNING;
    operation.bytes_done = 5u << 20;
    operation.bytes_total = 20u << 20;
    response.operation = &operation;
    answer(call, &response.base);
}

static const struct {
    const char *method;
    const ProtobufCMessageDescriptor *request;
    void (*handle)(Straw *straw, CkptCall *call, const void *request);
} methods[] = {
#define M(service, name, type, function)                                                           \
    {                                                                                              \
        CKPT_METHOD(service, name), &vmcheckpoint__v1__##type##__descriptor,                       \
            (void (*)(Straw *, CkptCall *, const void *))(gpointer)function                        \
    }
    M("VirtualMachineService", "ListVirtualMachines", list_virtual_machines_request, list_vms),
    M("CheckpointService", "ListCheckpoints", list_checkpoints_request, list_points),
    M("CheckpointService", "GetCheckpoint", get_checkpoint_request, get_point),
    M("CheckpointService", "CreateCheckpoint", create_checkpoint_request, create),
    M("CheckpointService", "DeleteCheckpoint", delete_checkpoint_request, delete_point),
    M("CheckpointService", "RestoreCheckpoint", restore_checkpoint_request, restore),
    M("AgentService", "GetAgentInfo", get_agent_info_request, get_info),
    M("OperationService", "GetOperation", get_operation_request, get_operation),
#undef M
};

static CkptMethodKind
lookup(gpointer service, const char *method, gboolean *slow)
{
    for (gsize i = 0; i < G_N_ELEMENTS(methods); i++)
        if (strcmp(methods[i].method, method) == 0)
            return CKPT_METHOD_UNARY;
    return CKPT_METHOD_UNKNOWN;
}

static void
handle(gpointer service, CkptCall *call, GBytes *bytes)
{
    for (gsize i = 0; i < G_N_ELEMENTS(methods); i++) {
        ProtobufCMessage *request;

        if (strcmp(methods[i].method, ckpt_call_method(call)) != 0)
            continue;
        request = protobuf_c_message_unpack(methods[i].request, NULL, g_bytes_get_size(bytes),
                                            g_bytes_get_data(bytes, NULL));
        methods[i].handle(service, call, request);
        pb_free(request);
        return; /* the call may be gone */
    }
}

static const CkptServiceVtable vtable = {lookup, handle};

void
straw_serve(Straw *straw, const char *listen)
{
    g_autofree char *ca = fixture_file("ca.pem"), *cert = fixture_file("agent.pem");
    g_autofree char *key = fixture_file("agent-key.pem");
    CkptServerOptions options = {
        .listen = listen, .ca_file = ca, .cert_file = cert, .key_file = key};
    g_autoptr(GError) error = NULL;

    straw->server = ckpt_server_new(&options, &vtable, straw, &error);
    if (!straw->server || !ckpt_server_start(straw->server, &error))
        fail_msg("%s", error->message);
}

static void
straw_start(Straw *straw)
{
    memset(straw, 0, sizeof *straw);
    g_mutex_init(&straw->lock);
    g_cond_init(&straw->changed);
    straw->ids = g_ptr_array_new_with_free_func(g_free);
    straw_serve(straw, "127.0.0.1:0");
    straw->address = g_strdup_printf("127.0.0.1:%u", ckpt_server_port(straw->server));
}

void
straw_stop(Straw *straw)
{
    if (!straw->server)
        return;
    ckpt_server_stop(straw->server, 0);
    g_clear_pointer(&straw->server, ckpt_server_free);
}

static void
straw_clear(Straw *straw)
{
    straw_stop(straw);
    g_free(straw->address);
    g_free(straw->etag);
    g_ptr_array_unref(straw->ids);
    g_mutex_clear(&straw->lock);
    g_cond_clear(&straw->changed);
}

void
straw_wait(Straw *straw, guint mutations)
{
    gint64 until = g_get_monotonic_time() + 10 * G_USEC_PER_SEC;

    g_mutex_lock(&straw->lock);
    while (straw->mutations < mutations && g_cond_wait_until(&straw->changed, &straw->lock, until))
        continue;
    g_mutex_unlock(&straw->lock);
    assert_true(straw->mutations >= mutations);
}

int
client_set_up(void **state)
{
    g_autofree char *fleet = NULL;

    straw_start(&world.a);
    straw_start(&world.b);
    world.a.vms[0] = (StrawVm){VM_1, "web-01", FALSE};
    world.a.vms[1] = (StrawVm){VM_2, "twin", FALSE};
    world.b.vms[0] = (StrawVm){VM_3, "twin", FALSE};
    world.b.vms[1] = (StrawVm){VM_4, "kept", TRUE};
    world.b.vms[2] = (StrawVm){VM_1, "web-01", TRUE}; /* deployed on a, which counts */
    world.a.points[0] = (StrawPoint){POINT_1, "one", VM_1, "web-01"};
    world.a.points[1] = (StrawPoint){POINT_2, "same", VM_1, "web-01"};
    world.a.points[2] = (StrawPoint){POINT_3, "same", VM_1, "web-01"};
    fleet = g_strdup_printf("[host a]\naddress = %s\n[host b]\naddress = %s\n", world.a.address,
                            world.b.address);
    world.fleet = fixture_file("fleet.conf");
    return g_file_set_contents(world.fleet, fleet, -1, NULL) ? 0 : -1;
}

int
client_tear_down(void **state)
{
    straw_clear(&world.a);
    straw_clear(&world.b);
    g_clear_pointer(&world.fleet, g_free);
    g_clear_pointer(&world.output, g_free);
    g_clear_pointer(&world.errors, g_free);
    return 0;
}

GSubprocess *
client_start_on(const char *arguments, int terminal)
{
    g_autofree char *ca = fixture_file("ca.pem"), *cert = fixture_file("jane.pem");
    g_autofree char *key = fixture_file("jane-key.pem");
    g_autofree char *line = g_strdup_printf("%s --fleet %s --ca %s --cert %s --key %s %s",
                                            CKPT_CLIENT, world.fleet, ca, cert, key, arguments);
    g_auto(GStrv) argv = NULL;
    g_autoptr(GError) error = NULL;
    GSubprocessFlags errors = terminal < 0 ? G_SUBPROCESS_FLAGS_STDERR_PIPE : 0;
    g_autoptr(GSubprocessLauncher) launcher =
        g_subprocess_launcher_new(G_SUBPROCESS_FLAGS_STDOUT_PIPE | errors);
    GSubprocess *process;

    g_subprocess_launcher_setenv(launcher, "XDG_CONFIG_HOME", fixture_dir(), TRUE);
    if (terminal >= 0) {
        g_subprocess_launcher_take_stdin_fd(launcher, dup(terminal));
        g_subprocess_launcher_take_stderr_fd(launcher, terminal);
    }
    if (!g_shell_parse_argv(line, NULL, &argv, &error))
        fail_msg("%s", error->message);
    process = g_subprocess_launcher_spawnv(launcher, (const char *const *)argv, &error);
    if (!process)
        fail_msg("%s", error->message);
    return process;
}

GSubprocess *
client_start(const char *arguments)
{
    return client_start_on(arguments, -1);
}

void
client_finish(GSubprocess *process)
{
    g_autoptr(GError) error = NULL;

    g_clear_pointer(&world.output, g_free);
    g_clear_pointer(&world.errors, g_free);
    if (!g_subprocess_communicate_utf8(process, NULL, NULL, &world.output, &world.errors, &error))
        fail_msg("%s", error->message);
    world.status = g_subprocess_get_exit_status(process);
    g_object_unref(process);
}

void
assert_run(const char *arguments, int status)
{
    client_finish(client_start(arguments));
    if (world.status != status)
        fail_msg("'%s' ended %d, not %d: %s%s", arguments, world.status, status, world.output,
                 world.errors);
}

void
assert_says(const char *text, const char *words)
{
    if (!strstr(text, words))
        fail_msg("'%s' does not say '%s'", text, words);
}
