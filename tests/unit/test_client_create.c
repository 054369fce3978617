/* The client's creates on two agents of straw: which hosts are asked, and how often, for how long. */
#include "tests/unit/client_fixture.h"

#include "client/fanout.h"

#include <signal.h>

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
    process = client_start("create web-01 --timeout 30s");
    straw_wait(&world.a, 1);
    straw_stop(&world.a);
    world.a.hold = FALSE;
    straw_serve(&world.a, world.a.address);
    client_finish(process);
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
    process = client_start("create web-01");
    straw_wait(&world.a, 1);
    g_subprocess_send_signal(process, SIGINT);
    client_finish(process);
    assert_int_equal(world.status, 130);
    assert_says(world.errors, "is not known (interrupted)");
    words = g_strconcat("vmcheckpoint operation ", g_ptr_array_index(world.a.ids, 0), NULL);
    assert_says(world.errors, words);
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

int
main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, client_set_up, client_tear_down)
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
        T(what_was_never_sent_has_failed),
    };
#undef T

    return cmocka_run_group_tests_name("client_create", tests, fixture_group_setup, fixture_group_teardown);
}
