/* The client's executable against two agents of straw in this process, over mutual TLS. */
#include "client/fanout.h"
#include "common/error.h"
#include "tests/unit/rpc_fixture.h"

#include <fcntl.h>
#include <gio/gio.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define VM_1 "11111111-1111-4111-8111-111111111111"
#define VM_2 "22222222-2222-4222-8222-222222222222"
#define VM_3 "33333333-3333-4333-8333-333333333333"
#define VM_4 "44444444-4444-4444-8444-444444444444"
#define POINT_1 "aaaaaaa1-0000-4000-8000-000000000000"
#define POINT_2 "aaaaaaa2-0000-4000-8000-000000000000"
#define POINT_3 "aaaaaaa3-0000-4000-8000-000000000000"

typedef struct {
    const char *id, *name;
    gboolean stored;
} StrawVm;

typedef struct {
    const char *id, *name, *vm_id, *vm_name;
    gboolean deleting;
} StrawPoint;

typedef struct {
    CkptServer *server;
    char *address;
    StrawVm vms[4];
    StrawPoint points[4];

    GMutex lock; /* guards the rest */
    GCond changed;
    CkptReason refusal;  /* of mutations; 0: they are done */
    guint refuse_first;  /* so many mutations are refused, then they are done; 0: all */
    guint retry_ms;      /* sent with a refusal */
    gboolean hold;       /* mutations are not answered */
    guint mutations;     /* that came */
    GPtrArray *ids;      /* their request_ids */
    char *etag;          /* the last one's */
    const char *current; /* of every VM; NULL: none */
    Vmcheckpoint__V1__Growth *growth; /* of every VM and checkpoint; NULL: none, and no warnings */
    char expected[40];   /* the current checkpoint that the last restore expects */
} Straw;

typedef struct {
    Straw a, b;
    char *fleet;
    char *output, *errors;
    int status;
} World;

static World world;

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

static void
serve(Straw *straw, const char *listen)
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
    serve(straw, "127.0.0.1:0");
    straw->address = g_strdup_printf("127.0.0.1:%u", ckpt_server_port(straw->server));
}

static void
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

static void
straw_wait(Straw *straw, guint mutations)
{
    gint64 until = g_get_monotonic_time() + 10 * G_USEC_PER_SEC;

    g_mutex_lock(&straw->lock);
    while (straw->mutations < mutations && g_cond_wait_until(&straw->changed, &straw->lock, until))
        continue;
    g_mutex_unlock(&straw->lock);
    assert_true(straw->mutations >= mutations);
}

static int
set_up(void **state)
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

static int
tear_down(void **state)
{
    straw_clear(&world.a);
    straw_clear(&world.b);
    g_clear_pointer(&world.fleet, g_free);
    g_clear_pointer(&world.output, g_free);
    g_clear_pointer(&world.errors, g_free);
    return 0;
}

/* terminal: the slave's end of one, for standard input and error; -1: pipes. */
static GSubprocess *
start_on(const char *arguments, int terminal)
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

static GSubprocess *
start(const char *arguments)
{
    return start_on(arguments, -1);
}

static void
finish(GSubprocess *process)
{
    g_autoptr(GError) error = NULL;

    g_clear_pointer(&world.output, g_free);
    g_clear_pointer(&world.errors, g_free);
    if (!g_subprocess_communicate_utf8(process, NULL, NULL, &world.output, &world.errors, &error))
        fail_msg("%s", error->message);
    world.status = g_subprocess_get_exit_status(process);
    g_object_unref(process);
}

static void
assert_run(const char *arguments, int status)
{
    finish(start(arguments));
    if (world.status != status)
        fail_msg("'%s' ended %d, not %d: %s%s", arguments, world.status, status, world.output,
                 world.errors);
}

static void
assert_says(const char *text, const char *words)
{
    if (!strstr(text, words))
        fail_msg("'%s' does not say '%s'", text, words);
}

static void
a_deployed_vm_is_checkpointed_on_its_host(void **state)
{
    assert_run("create web-01 --name 'before patch' --format published", 0);
    assert_int_equal(world.a.mutations, 1);
    assert_int_equal(world.b.mutations, 0);
    assert_says(world.output, "\nCheckpoint Name: before patch\n");
    assert_says(world.output, "\nVM ID: " VM_1 "\n");
    assert_run("--format json create {" VM_1 "}", 0);
    assert_says(world.output, "\"host\" : \"a\"");
}

static void
a_stored_vm_is_refused_before_anything_is_created(void **state)
{
    assert_run("create web-01 kept", 1);
    assert_int_equal(world.a.mutations + world.b.mutations, 0);
    assert_says(world.errors,
                "VM kept: it is stored in library shelf (/shelf/vm.xml), not deployed");
    assert_says(world.errors, "nothing was created: 1 of 2 VMs");
    assert_string_equal(world.output, "");
}

static void
an_unknown_or_ambiguous_vm_is_refused_with_the_reason(void **state)
{
    assert_run("create web-01 twin nobody", 1);
    assert_int_equal(world.a.mutations + world.b.mutations, 0);
    assert_says(world.errors,
                "VM twin: ambiguous: twin (" VM_2 ") on host a, twin (" VM_3 ") on host b");
    assert_says(world.errors, "VM nobody: no host of the fleet has it");
}

static void
a_vm_named_twice_is_checkpointed_once(void **state)
{
    assert_run("create web-01 web-01 " VM_1, 0);
    assert_int_equal(world.a.mutations, 1);
}

static void
several_vms_have_a_request_id_each(void **state)
{
    assert_run("create " VM_1 " " VM_2 " " VM_3, 0);
    assert_int_equal(world.a.mutations, 2);
    assert_int_equal(world.b.mutations, 1);
    assert_string_not_equal(g_ptr_array_index(world.a.ids, 0), g_ptr_array_index(world.a.ids, 1));
    assert_says(world.errors, "3 created, 0 failed, 0 not known");
}

static void
a_part_that_fails_ends_partly(void **state)
{
    world.b.refusal = CKPT_REASON_SPACE_LOW;
    assert_run("create " VM_1 " " VM_3, 3);
    assert_says(world.errors,
                "vmcheckpoint: host b: VM twin: straw says no. Free space in the file");
}

static void
a_running_operation_is_attached_to(void **state)
{
    world.a.refusal = CKPT_REASON_OPERATION_RUNNING;
    world.a.refuse_first = 2;
    assert_run("create web-01", 0);
    assert_int_equal(world.a.mutations, 3);
    assert_string_equal(g_ptr_array_index(world.a.ids, 0), g_ptr_array_index(world.a.ids, 2));
}

static void
a_busy_agent_is_asked_again_after_its_delay(void **state)
{
    gint64 begin = g_get_monotonic_time();

    world.a.refusal = CKPT_REASON_QUEUE_FULL;
    world.a.refuse_first = 1;
    world.a.retry_ms = 400;
    assert_run("create web-01", 0);
    assert_int_equal(world.a.mutations, 2);
    assert_true(g_get_monotonic_time() - begin >= 400000);
}

static void
a_refusal_is_not_repeated(void **state)
{
    world.a.refusal = CKPT_REASON_ACCESS_DENIED;
    assert_run("create web-01", 1);
    assert_int_equal(world.a.mutations, 1);
}

static void
what_outlasts_the_timeout_is_unknown_and_can_be_followed(void **state)
{
    g_autofree char *words = NULL;

    world.a.refusal = CKPT_REASON_OPERATION_RUNNING;
    assert_run("create web-01 --timeout 1s", 4);
    words = g_strconcat("vmcheckpoint operation ", g_ptr_array_index(world.a.ids, 0), NULL);
    assert_says(world.errors, words);
}

static void
a_lost_connection_is_made_again_with_the_same_request_id(void **state)
{
    GSubprocess *process;

    world.a.hold = TRUE;
    process = start("create web-01 --timeout 30s");
    straw_wait(&world.a, 1);
    straw_stop(&world.a);
    world.a.hold = FALSE;
    serve(&world.a, world.a.address);
    finish(process);
    assert_int_equal(world.status, 0);
    assert_true(world.a.mutations >= 2);
    assert_string_equal(g_ptr_array_index(world.a.ids, 0), g_ptr_array_index(world.a.ids, 1));
}

static void
an_interrupt_ends_the_wait_and_tells_the_id(void **state)
{
    g_autofree char *words = NULL;
    GSubprocess *process;

    world.a.hold = TRUE;
    process = start("create web-01");
    straw_wait(&world.a, 1);
    g_subprocess_send_signal(process, SIGINT);
    finish(process);
    assert_int_equal(world.status, 130);
    assert_says(world.errors, "is not known (interrupted)");
    words = g_strconcat("vmcheckpoint operation ", g_ptr_array_index(world.a.ids, 0), NULL);
    assert_says(world.errors, words);
}

static void
lists_have_all_pages(void **state)
{
    assert_run("list --format json", 0);
    assert_says(world.output, POINT_1);
    assert_says(world.output, POINT_2);
    assert_says(world.output, POINT_3);
    assert_run("list web-01 --format published", 0);
    assert_says(world.output, "\n\nAccessibility: ");
}

static void
delete_needs_yes_away_from_a_terminal(void **state)
{
    assert_run("delete " POINT_1, 2);
    assert_says(world.errors, "--yes");
    assert_int_equal(world.a.mutations, 0);
}

static void
delete_sends_the_etag_that_was_read(void **state)
{
    assert_run("delete web-01/one --yes", 0);
    assert_string_equal(world.a.etag, "etag-1");
}

/* Runs it on a terminal where somebody types the answer; returns what the terminal shows. */
static char *
run_on_terminal(const char *arguments, const char *typed)
{
    int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    g_autoptr(GString) shown = g_string_new(NULL);
    GSubprocess *process;
    char some[1024];
    gssize size;

    assert_true(master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0);
    assert_int_equal(write(master, typed, strlen(typed)), strlen(typed));
    process = start_on(arguments, open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC));
    finish(process);
    /* The kernel hands a terminal's words on in pieces, in its own time; when all is told, and nobody has
     * the other end, it says EIO. */
    while ((size = read(master, some, sizeof some)) > 0)
        g_string_append_len(shown, some, size);
    close(master);
    return g_strdup(shown->str);
}

static void
on_mutated(CkptReply *reply, gpointer data)
{
    *(CkptOutcome *)reply->tag = reply->outcome;
    assert_non_null(reply->error);
    assert_says(reply->error->message, data);
}

/* One mutation of a host where nobody listens, in this process. */
static CkptOutcome
outcome_without_a_host(gboolean interrupted, const char *words)
{
    static const struct {
        CkptSetting setting;
        const char *file;
    } files[] = {{CKPT_SETTING_FLEET, "fleet.conf"},
                 {CKPT_SETTING_CA, "ca.pem"},
                 {CKPT_SETTING_CERT, "jane.pem"},
                 {CKPT_SETTING_KEY, "jane-key.pem"}};
    Vmcheckpoint__V1__DeleteCheckpointRequest request =
        VMCHECKPOINT__V1__DELETE_CHECKPOINT_REQUEST__INIT;
    Vmcheckpoint__V1__RequestOptions options = VMCHECKPOINT__V1__REQUEST_OPTIONS__INIT;
    g_autoptr(CkptSettings) settings = ckpt_settings_new();
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptClient) client = NULL;
    g_autoptr(CkptFanout) fanout = NULL;
    CkptOutcome outcome = CKPT_OUTCOME_DONE;

    for (gsize i = 0; i < G_N_ELEMENTS(files); i++) {
        g_autofree char *file = fixture_file(files[i].file);

        ckpt_settings_set(settings, files[i].setting, file);
    }
    ckpt_settings_set(settings, CKPT_SETTING_TIMEOUT, "2s");
    assert_true(ckpt_settings_complete(settings, NULL, &error));
    client = ckpt_client_open(settings, &error);
    if (!client)
        fail_msg("%s", error->message);
    fanout = ckpt_fanout_new(client);
    request.options = &options;
    ckpt_fanout_mutate(fanout, g_ptr_array_index(client->inventory->hosts, 0),
                       CKPT_METHOD("CheckpointService", "DeleteCheckpoint"), &request.base,
                       &options, &vmcheckpoint__v1__delete_checkpoint_response__descriptor,
                       &outcome, on_mutated, (gpointer)words);
    if (interrupted)
        g_cancellable_cancel(client->cancellable);
    ckpt_fanout_run(fanout);
    return outcome;
}

static void
what_was_never_sent_has_failed(void **state)
{
    straw_stop(&world.a);
    assert_int_equal(outcome_without_a_host(FALSE, "connection refused"), CKPT_OUTCOME_FAILED);
    assert_int_equal(outcome_without_a_host(TRUE, "not begun: interrupted"), CKPT_OUTCOME_FAILED);
}

static void
delete_asks_on_a_terminal(void **state)
{
    g_autofree char *shown = run_on_terminal("delete web-01/one", "n\n");

    assert_int_equal(world.status, 1);
    assert_int_equal(world.a.mutations, 0);
    assert_says(shown, "Delete checkpoint 'one'");
    assert_says(shown, POINT_1);
    assert_says(shown, "of VM web-01 (" VM_1 ") on host a?");
    assert_says(shown, "all other checkpoints are kept");
    assert_says(shown, "frees 5.0 MiB to 20.0 MiB, moves up to 20.0 MiB");
    assert_says(shown, "nothing was done");
    g_free(g_steal_pointer(&shown));
    shown = run_on_terminal("delete web-01/one", "yes\n");
    assert_int_equal(world.status, 0);
    assert_int_equal(world.a.mutations, 1);
}

static void
show_and_vms_tell_of_growth(void **state)
{
    Vmcheckpoint__V1__Growth growth = VMCHECKPOINT__V1__GROWTH__INIT;
    Google__Protobuf__Timestamp since = GOOGLE__PROTOBUF__TIMESTAMP__INIT;

    since.seconds = g_get_real_time() / G_USEC_PER_SEC - 3 * 3600;
    growth.bytes = 36u << 20;
    growth.since_time = &since;
    world.a.growth = &growth;
    assert_run("show web-01/one", 0);
    assert_says(world.output, "Written since:     36.0 MiB in 3 hours\nWarnings:");
    assert_says(world.output, "Warnings:          storing leaves it behind\n");
    assert_says(world.output, "                   it is deep\n");
    growth.bytes_per_hour_presence_case =
        VMCHECKPOINT__V1__GROWTH__BYTES_PER_HOUR_PRESENCE_BYTES_PER_HOUR;
    growth.bytes_per_hour = 12u << 20;
    assert_run("vms --full", 0);
    assert_says(world.output, "36.0 MiB  12.0 MiB an hour\n");
    growth.hours_until_full_presence_case =
        VMCHECKPOINT__V1__GROWTH__HOURS_UNTIL_FULL_PRESENCE_HOURS_UNTIL_FULL;
    growth.hours_until_full = 40;
    assert_run("show web-01/one", 0);
    assert_says(world.output, "                   12.0 MiB an hour, full in 40 hours\n");
}

static void
delete_dry_run_only_tells(void **state)
{
    assert_run("delete --dry-run web-01/one", 0);
    assert_int_equal(world.a.mutations, 0);
    assert_says(world.output, "frees 5.0 MiB to 20.0 MiB, moves up to 20.0 MiB");
    assert_says(world.output, "vda: commit, while the VM runs");
    assert_says(world.output, "takes up to 20.0 MiB of the 3.0 GiB free beside /img/web.raw");
    assert_run("delete --dry-run --format json web-01/one", 0);
    assert_says(world.output, "\"freedBytesMax\" : \"20971520\"");
    world.a.refusal = CKPT_REASON_BRANCH_POINT;
    assert_run("delete --dry-run web-01/one", 1);
    assert_says(world.errors, "straw says no");
    assert_int_equal(world.a.mutations, 0);
}

/* It may have to wait behind an operation that is in the way now. */
static void
what_is_refused_now_can_be_asked_for_all_the_same(void **state)
{
    g_autofree char *shown = NULL;

    world.a.refusal = CKPT_REASON_VM_BUSY;
    shown = run_on_terminal("delete web-01/one", "yes\n");
    assert_says(shown, "At this moment it is refused: ");
    assert_int_equal(world.a.mutations, 1);
}

static void
a_renamed_vm_is_told_by_its_present_name(void **state)
{
    g_autofree char *shown = NULL;

    world.a.vms[0].name = "db-old";
    shown = run_on_terminal("delete " POINT_1, "n\n");
    assert_says(shown, "of VM db-old (named web-01 when captured) (" VM_1 ") on host a?");
    assert_run("list", 0);
    assert_says(world.output, "a     db-old  one");
    assert_run("show " POINT_1, 0);
    assert_says(world.output, "web-01 when captured");
    world.a.refusal = CKPT_REASON_ACCESS_DENIED;
    assert_run("restore --yes " POINT_1 " --power shut-off", 1);
    assert_says(world.errors, "VM db-old: straw says no");
    world.a.vms[0] = (StrawVm){VM_2, "twin", FALSE};
    g_free(g_steal_pointer(&shown));
    shown = run_on_terminal("restore " POINT_1, "n\n");
    assert_says(shown, "of a VM named web-01 when captured, whose present name is not known");
}

static void
what_is_being_deleted_is_shown_and_can_be_finished(void **state)
{
    world.a.points[0].deleting = TRUE;
    assert_run("list", 0);
    assert_says(world.output, "deleting\n");
    assert_run("list --most-recent", 0);
    assert_null(strstr(world.output, "deleting"));
    assert_run("tree web-01", 0);
    assert_says(world.output, "being deleted");
    assert_run("restore web-01/one --yes", 1);
    assert_says(world.errors, "is being deleted and cannot be restored");
    assert_int_equal(world.a.mutations, 0);
    assert_run("delete web-01/one --yes", 0);
    assert_int_equal(world.a.mutations, 1);
}

static void
an_ambiguous_checkpoint_name_lists_the_candidates(void **state)
{
    assert_run("delete web-01/same --yes", 1);
    assert_int_equal(world.a.mutations, 0);
    assert_says(world.errors, POINT_2);
    assert_says(world.errors, POINT_3);
}

static void
a_name_is_not_enough_while_a_host_does_not_answer(void **state)
{
    straw_stop(&world.b);
    assert_run("delete web-01/one --yes", 1);
    assert_int_equal(world.a.mutations, 0);
    assert_says(world.errors, "host b: cannot connect");
    assert_says(world.errors, "give the checkpoint's ID");
    assert_run("delete " POINT_1 " --yes", 0);
    assert_int_equal(world.a.mutations, 1);
    assert_run("list web-01", 3);
    assert_run("create web-01", 1);
    assert_int_equal(world.a.mutations, 1);
    assert_says(world.errors, "VM web-01: its name is not enough");
    assert_says(world.errors, "(b)");
    assert_run("create " VM_1, 0);
    assert_run("create web-01 --host a", 0);
    assert_int_equal(world.a.mutations, 3);
}

static void
restore_tells_the_safety_checkpoint(void **state)
{
    assert_run("restore --yes web-01/one --power shut-off", 0);
    assert_string_equal(world.a.etag, "etag-1");
    assert_says(world.errors, "restored; the state it had is checkpoint " POINT_2);
    assert_run("restore " POINT_1 " --yes --power shut-off --discard-present-state --format json",
               0);
    assert_null(strstr(world.output, POINT_2));
    assert_run("restore " POINT_1 " --yes --power off", 2);
}

static void
restore_holds_for_the_situation_asked_about(void **state)
{
    g_autofree char *shown = NULL;

    world.a.current = POINT_3;
    shown = run_on_terminal("restore --power shut-off " POINT_1, "y\n");
    assert_says(shown, "It is now at checkpoint " POINT_3);
    assert_int_equal(world.status, 0);
    assert_string_equal(world.a.expected, POINT_3);
}

static void
hosts_shows_the_unreachable_too(void **state)
{
    assert_run("hosts", 0);
    assert_says(world.output, "9.8.7");
    assert_says(world.output, "read-write  operator  2");
    straw_stop(&world.b);
    assert_run("hosts --format json", 3);
    assert_says(world.output, "\"reachable\" : false");
    assert_says(world.output, "\"vmCount\" : 2");
    assert_null(strstr(world.output, "\"vmCount\" : 0"));
    straw_stop(&world.a);
    assert_run("hosts", 1);
}

static void
vms_shows_a_deployed_vm_as_deployed_only(void **state)
{
    assert_run("vms", 0);
    assert_says(world.output, "stored shelf");
    assert_says(world.output, "a     web-01  " VM_1 "  deployed");
    assert_null(strstr(world.output, "b     web-01"));
    assert_null(strstr(world.output, "APPLICATION"));
}

static void
vms_shows_a_stored_vm_once_and_what_a_vm_can(void **state)
{
    world.a.vms[2] = (StrawVm){VM_4, "kept", TRUE};
    assert_run("vms --full", 0);
    assert_says(world.output, "LIVE  MEMORY  APPLICATION  SIZE  GROWN  RATE\n");
    assert_says(world.output, "yes   no      -            -     -      -\n");
    assert_says(world.output, "kept");
    assert_null(strstr(strstr(world.output, VM_4) + 1, VM_4));
}

static void
an_operation_is_found_on_its_host(void **state)
{
    assert_run("operation {" POINT_1 "}", 4);
    assert_says(world.output, "running");
    assert_says(world.output, ", 25% (5.0 MiB of 20.0 MiB)");
    assert_run("operation " POINT_2, 1);
    assert_says(world.errors, "no host has an operation " POINT_2);
    assert_run("operation x", 2);
}

static void
tree_and_show_find_the_vm(void **state)
{
    assert_run("tree web-01", 0);
    assert_says(world.output, "web-01 (" VM_1 ") on host a\no one  " POINT_1);
    assert_run("tree twin", 1);
    assert_run("show web-01/one", 0);
    assert_says(world.output, "Enabled:           yes");
    assert_run("show web-01/none", 1);
    assert_run("show " VM_1, 1);
}

static void
mistakes_are_told_before_anything_is_sent(void **state)
{
    straw_stop(&world.a);
    straw_stop(&world.b);
    assert_run("create 'a\nb'", 2);
    assert_run("create a/b", 2);
    assert_run("create web-01 --label Bad=1", 2);
    assert_run("create web-01 --consistency perfect", 2);
    assert_run("create web-01 --run x", 2);
    assert_run("create", 2);
    assert_run("show nonsense", 2);
    assert_run("hosts --format published", 2);
    g_setenv("VMCHECKPOINT_FORMAT", "published", TRUE);
    assert_run("hosts", 1);
    g_unsetenv("VMCHECKPOINT_FORMAT");
    assert_run("create -- -x", 1);
    assert_says(world.errors, "VM -x: no host");
    assert_null(strstr(world.errors, "VM --:"));
    assert_run("creat web-01", 2);
    assert_says(world.errors, "did you mean 'create'?");
    assert_run("--nonsense", 2);
    assert_run("create --help", 0);
    assert_run("--version", 0);
}

int
main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(a_deployed_vm_is_checkpointed_on_its_host),
        T(a_stored_vm_is_refused_before_anything_is_created),
        T(an_unknown_or_ambiguous_vm_is_refused_with_the_reason),
        T(a_vm_named_twice_is_checkpointed_once),
        T(several_vms_have_a_request_id_each),
        T(a_part_that_fails_ends_partly),
        T(a_running_operation_is_attached_to),
        T(a_busy_agent_is_asked_again_after_its_delay),
        T(a_refusal_is_not_repeated),
        T(what_outlasts_the_timeout_is_unknown_and_can_be_followed),
        T(a_lost_connection_is_made_again_with_the_same_request_id),
        T(an_interrupt_ends_the_wait_and_tells_the_id),
        T(lists_have_all_pages),
        T(delete_needs_yes_away_from_a_terminal),
        T(delete_sends_the_etag_that_was_read),
        T(what_was_never_sent_has_failed),
        T(delete_asks_on_a_terminal),
        T(delete_dry_run_only_tells),
        T(show_and_vms_tell_of_growth),
        T(what_is_refused_now_can_be_asked_for_all_the_same),
        T(a_renamed_vm_is_told_by_its_present_name),
        T(what_is_being_deleted_is_shown_and_can_be_finished),
        T(an_ambiguous_checkpoint_name_lists_the_candidates),
        T(a_name_is_not_enough_while_a_host_does_not_answer),
        T(restore_tells_the_safety_checkpoint),
        T(restore_holds_for_the_situation_asked_about),
        T(hosts_shows_the_unreachable_too),
        T(vms_shows_a_deployed_vm_as_deployed_only),
        T(vms_shows_a_stored_vm_once_and_what_a_vm_can),
        T(an_operation_is_found_on_its_host),
        T(tree_and_show_find_the_vm),
        T(mistakes_are_told_before_anything_is_sent),
    };
#undef T

    return cmocka_run_group_tests_name("client", tests, fixture_group_setup,
                                       fixture_group_teardown);
}
