/* Calls over real mutual TLS: what is asked, answered, refused, cancelled. */
#include "common/error.h"
#include "tests/unit/rpc_fixture.h"

#include <string.h>

#define TIMEOUT 20000

static double
seconds_since(gint64 start)
{
    return (double)(g_get_monotonic_time() - start) / G_USEC_PER_SEC;
}

static void
a_unary_call_is_answered(void **state)
{
    g_autofree char *reply = NULL;
    g_autoptr(CkptRpcStatus) status =
        fixture_call(*state, "jane", METHOD("Echo"), "hello", TIMEOUT, &reply);

    assert_int_equal(status->code, 0);
    assert_string_equal(reply, "hello");
}

static void
the_identity_is_the_certificates_uri(void **state)
{
    g_autofree char *reply = NULL;
    g_autoptr(CkptRpcStatus) status =
        fixture_call(*state, "jane", METHOD("Identity"), "", TIMEOUT, &reply);

    assert_int_equal(status->code, 0);
    assert_string_equal(reply, "spiffe://example.org/operator/jane");
}

static void
an_error_arrives_with_reason_metadata_and_delay(void **state)
{
    g_autoptr(CkptRpcStatus) status =
        fixture_call(*state, "jane", METHOD("Fail"), "", TIMEOUT, NULL);

    assert_int_equal(status->code, 14);
    assert_string_equal(status->message, "web-01 is being checkpointed");
    assert_string_equal(status->reason, "VM_BUSY");
    assert_string_equal(g_hash_table_lookup(status->metadata, CKPT_META_VM), "web-01");
    assert_int_equal(status->retry_ms, 2500);
}

static void
a_long_error_message_is_cut_and_still_decodes(void **state)
{
    g_autoptr(CkptRpcStatus) status =
        fixture_call(*state, "jane", METHOD("Long"), "", TIMEOUT, NULL);

    assert_int_equal(status->code, 8);
    assert_string_equal(status->reason, "SPACE_LOW");
    assert_int_equal(strlen(status->message), CKPT_STATUS_MESSAGE_MAX);
}

static void
an_unknown_method_is_unimplemented_at_once(void **state)
{
    gint64 start = g_get_monotonic_time();
    g_autoptr(CkptRpcStatus) status =
        fixture_call(*state, "jane", METHOD("Unknown"), "", TIMEOUT, NULL);

    assert_int_equal(status->code, 12);
    assert_string_equal(status->reason, "NOT_IMPLEMENTED");
    assert_true(seconds_since(start) < 5);
}

static void
call_with_size(Fixture *fixture, gsize size, int code, const char *reason)
{
    g_autoptr(CkptRpcClient) client = fixture_client("jane");
    g_autoptr(GBytes) request = g_bytes_new_take(g_malloc0(size), size);
    g_autoptr(CkptRpcStatus) status =
        fixture_call_with(client, fixture->address, METHOD("Echo"), request, TIMEOUT, NULL, NULL);

    assert_int_equal(status->code, code);
    if (reason)
        assert_string_equal(status->reason, reason);
}

static void
a_request_may_have_64_kib_and_no_more(void **state)
{
    call_with_size(*state, CKPT_RPC_MESSAGE_MAX, 0, NULL);
    call_with_size(*state, CKPT_RPC_MESSAGE_MAX + 1, 8, "MESSAGE_TOO_LARGE");
    call_with_size(*state, 4 * CKPT_RPC_MESSAGE_MAX, 8, NULL);
}

static gboolean
expect_next(GBytes *message, gpointer data)
{
    guint *next = data;
    g_autofree char *text = g_strndup(g_bytes_get_data(message, NULL), g_bytes_get_size(message));
    g_autofree char *expected = g_strdup_printf("%u", (*next)++);

    assert_string_equal(text, expected);
    return TRUE;
}

static void
expect_ok(const CkptRpcStatus *status, GBytes *reply, gpointer data)
{
    assert_int_equal(status->code, 0);
    assert_null(reply);
    *(guint *)data += 1000;
}

static void
a_stream_brings_all_messages_in_order(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(CkptRpcClient) client = fixture_client("jane");
    g_autoptr(GBytes) request = g_bytes_new_static("200", 3);
    guint next = 0;

    ckpt_rpc_client_stream(client, ckpt_rpc_client_channel(client, fixture->address),
                           METHOD("Stream"), request, TIMEOUT, expect_next, expect_ok, &next);
    ckpt_rpc_client_run(client, NULL);
    assert_int_equal(next, 1200);
}

static gboolean
stop_at_once(GBytes *message, gpointer data)
{
    return FALSE;
}

static void
expect_cancelled(const CkptRpcStatus *status, GBytes *reply, gpointer data)
{
    assert_int_equal(status->code, 1);
    *(gboolean *)data = TRUE;
}

static void
a_client_can_end_a_stream(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(CkptRpcClient) client = fixture_client("jane");
    g_autoptr(GBytes) request = g_bytes_new_static("0", 1);
    gboolean ended = FALSE;

    ckpt_rpc_client_stream(client, ckpt_rpc_client_channel(client, fixture->address),
                           METHOD("Flood"), request, TIMEOUT, stop_at_once, expect_cancelled,
                           &ended);
    ckpt_rpc_client_run(client, NULL);
    assert_true(ended);
}

/* Does not read on before the server has filled its queue. */
static gboolean
read_late(GBytes *message, gpointer data)
{
    Fixture *fixture = data;

    g_mutex_lock(&fixture->lock);
    while (!fixture->flood_over)
        g_cond_wait(&fixture->changed, &fixture->lock);
    fixture->sent--;
    g_mutex_unlock(&fixture->lock);
    return TRUE;
}

static void
expect_queue_full(const CkptRpcStatus *status, GBytes *reply, gpointer data)
{
    assert_string_equal(status->reason, "QUEUE_FULL");
}

static void
a_slow_reader_fills_a_bounded_queue_and_gets_what_is_in_it(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(CkptRpcClient) client = fixture_client("jane");
    g_autoptr(GBytes) request = g_bytes_new_static("", 0);

    ckpt_rpc_client_stream(client, ckpt_rpc_client_channel(client, fixture->address),
                           METHOD("Flood"), request, TIMEOUT, read_late, expect_queue_full,
                           fixture);
    ckpt_rpc_client_run(client, NULL);
    assert_int_equal(fixture->sent, 0);
}

static void
a_handler_sees_that_its_caller_cancels(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(CkptRpcClient) client = fixture_client("jane");
    g_autoptr(GBytes) request = g_bytes_new_static("", 0);
    g_autoptr(CkptRpcStatus) status = NULL;

    fixture->cancel_when_held = g_cancellable_new();
    status = fixture_call_with(client, fixture->address, METHOD("Hold"), request, TIMEOUT,
                               fixture->cancel_when_held, NULL);
    assert_int_equal(status->code, 1);
    fixture_wait(fixture, &fixture->cancelled, 1);
}

static void
a_handler_sees_the_deadline_come_and_pass(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(CkptRpcStatus) status = fixture_call(fixture, "jane", METHOD("Hold"), "", 1000, NULL);

    assert_int_equal(status->code, 4);
    fixture_wait(fixture, &fixture->cancelled, 1);
    assert_true(fixture->remaining_ms > 0 && fixture->remaining_ms <= 1000);
}

static void
count_answer(const CkptRpcStatus *status, GBytes *reply, gpointer data)
{
    ++*(guint *)data;
}

/* More slow handlers hang than there are threads for them; one other call after the other is answered. */
static void
hanging_handlers_do_not_hold_up_others(void **state)
{
    Fixture *fixture = fixture_new(&(CkptServerOptions){.handler_threads = 3});
    g_autoptr(CkptRpcClient) client = fixture_client("jane");
    g_autoptr(GBytes) request = g_bytes_new_static("", 0);
    CkptRpcChannel *channel = ckpt_rpc_client_channel(client, fixture->address);
    guint answers = 0;

    for (int i = 0; i < 5; i++)
        ckpt_rpc_client_call(client, channel, METHOD("Block"), request, 1500, count_answer,
                             &answers);
    ckpt_rpc_client_run(client, NULL);
    assert_int_equal(answers, 5);
    fixture_wait(fixture, &fixture->inside, 3);
    for (int i = 0; i < 20; i++) {
        g_autoptr(CkptRpcStatus) echo =
            fixture_call(fixture, "jane", METHOD("Echo"), "x", TIMEOUT, NULL);

        assert_int_equal(echo->code, 0);
    }
    fixture_free(fixture);
}

typedef struct {
    Fixture *fixture;
    GCancellable *cancellable;
} Waiting;

static void
end_once_all_are_held(const CkptRpcStatus *status, GBytes *reply, gpointer data)
{
    Waiting *waiting = data;

    assert_int_equal(status->code, 0);
    fixture_wait(waiting->fixture, &waiting->fixture->held, 50);
    g_cancellable_cancel(waiting->cancellable);
}

static void
a_waiting_call_holds_no_thread(void **state)
{
    Fixture *fixture = fixture_new(&(CkptServerOptions){.handler_threads = 1});
    g_autoptr(CkptRpcClient) client = fixture_client("jane");
    g_autoptr(GBytes) request = g_bytes_new_static("", 0);
    g_autoptr(GCancellable) cancellable = g_cancellable_new();
    CkptRpcChannel *channel = ckpt_rpc_client_channel(client, fixture->address);
    Waiting waiting = {fixture, cancellable};
    guint answers = 0;

    for (int i = 0; i < 50; i++)
        ckpt_rpc_client_call(client, channel, METHOD("Hold"), request, TIMEOUT, count_answer,
                             &answers);
    ckpt_rpc_client_call(client, channel, METHOD("Echo"), request, TIMEOUT, end_once_all_are_held,
                         &waiting);
    ckpt_rpc_client_set_window(client, 100);
    ckpt_rpc_client_run(client, cancellable);
    assert_int_equal(answers, 50);
    fixture_wait(fixture, &fixture->cancelled, 50);
    fixture_free(fixture);
}

static void
count_refused(const CkptRpcStatus *status, GBytes *reply, gpointer data)
{
    if (g_strcmp0(status->reason, "QUEUE_FULL") == 0 && status->retry_ms > 0)
        ++*(guint *)data;
}

static void
calls_above_the_limit_are_refused_with_a_delay(void **state)
{
    Fixture *fixture = fixture_new(&(CkptServerOptions){.max_calls = 1});
    g_autoptr(CkptRpcClient) client = fixture_client("jane");
    g_autoptr(GBytes) request = g_bytes_new_static("", 0);
    CkptRpcChannel *channel = ckpt_rpc_client_channel(client, fixture->address);
    guint refused = 0;

    for (int i = 0; i < 3; i++)
        ckpt_rpc_client_call(client, channel, METHOD("Hold"), request, 1000, count_refused,
                             &refused);
    ckpt_rpc_client_run(client, NULL);
    assert_int_equal(refused, 2);
    assert_int_equal(fixture->held, 1);
    fixture_free(fixture);
}

static void
a_window_limits_the_calls_in_progress(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(CkptRpcClient) client = fixture_client("jane");
    g_autoptr(GBytes) request = g_bytes_new_static("", 0);
    CkptRpcChannel *channel = ckpt_rpc_client_channel(client, fixture->address);
    guint answers = 0;
    gint64 start = g_get_monotonic_time();

    /* The timeout counts from the start of each call, so three calls take three timeouts. Each is long
     * enough to reach the server on a busy machine. */
    ckpt_rpc_client_set_window(client, 1);
    for (int i = 0; i < 3; i++)
        ckpt_rpc_client_call(client, channel, METHOD("Hold"), request, 1000, count_answer, &answers);
    ckpt_rpc_client_run(client, NULL);
    assert_int_equal(answers, 3);
    assert_true(seconds_since(start) >= 3.0);
    assert_int_equal(fixture->held, 3);
}

static void
a_closed_channel_connects_again(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(CkptRpcClient) client = fixture_client("jane");
    g_autoptr(GBytes) request = g_bytes_new_static("x", 1);

    for (int i = 0; i < 3; i++) {
        g_autoptr(CkptRpcStatus) status = fixture_call_with(
            client, fixture->address, METHOD("Echo"), request, TIMEOUT, NULL, NULL);

        assert_int_equal(status->code, 0);
        ckpt_rpc_channel_close(ckpt_rpc_client_channel(client, fixture->address));
    }
}

static void
a_name_is_resolved_and_checked(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(CkptRpcClient) client = fixture_client("jane");
    g_autofree char *address = g_strdup_printf("localhost:%u", ckpt_server_port(fixture->server));
    g_autoptr(GBytes) request = g_bytes_new_static("x", 1);
    g_autoptr(CkptRpcStatus) status =
        fixture_call_with(client, address, METHOD("Echo"), request, TIMEOUT, NULL, NULL);

    assert_int_equal(status->code, 0);
}

static void
a_web_proxy_in_the_environment_is_ignored(void **state)
{
    g_autoptr(CkptRpcStatus) status = NULL;

    g_setenv("https_proxy", "http://127.0.0.1:1", TRUE);
    g_setenv("http_proxy", "http://127.0.0.1:1", TRUE);
    g_setenv("grpc_proxy", "http://127.0.0.1:1", TRUE);
    status = fixture_call(*state, "jane", METHOD("Echo"), "x", TIMEOUT, NULL);
    g_unsetenv("https_proxy");
    g_unsetenv("http_proxy");
    g_unsetenv("grpc_proxy");
    assert_int_equal(status->code, 0);
}

static void
a_call_and_its_reply_in_one_function(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(CkptRpcClient) client = fixture_client("jane");
    CkptRpcChannel *channel = ckpt_rpc_client_channel(client, fixture->address);
    g_autoptr(GBytes) request = g_bytes_new_static("ping", 4), reply = NULL;
    g_autoptr(GError) error = NULL;

    reply =
        ckpt_rpc_client_call_sync(client, channel, METHOD("Echo"), request, TIMEOUT, NULL, &error);
    assert_null(error);
    assert_true(g_bytes_equal(reply, request));
    assert_null(
        ckpt_rpc_client_call_sync(client, channel, METHOD("Fail"), request, TIMEOUT, NULL, &error));
    assert_true(g_error_matches(error, CKPT_ERROR, CKPT_REASON_VM_BUSY));
}

#define SERVED(test) cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        SERVED(a_unary_call_is_answered),
        SERVED(the_identity_is_the_certificates_uri),
        SERVED(an_error_arrives_with_reason_metadata_and_delay),
        SERVED(a_long_error_message_is_cut_and_still_decodes),
        SERVED(an_unknown_method_is_unimplemented_at_once),
        SERVED(a_request_may_have_64_kib_and_no_more),
        SERVED(a_stream_brings_all_messages_in_order),
        SERVED(a_client_can_end_a_stream),
        SERVED(a_slow_reader_fills_a_bounded_queue_and_gets_what_is_in_it),
        SERVED(a_handler_sees_that_its_caller_cancels),
        SERVED(a_handler_sees_the_deadline_come_and_pass),
        cmocka_unit_test(hanging_handlers_do_not_hold_up_others),
        cmocka_unit_test(a_waiting_call_holds_no_thread),
        cmocka_unit_test(calls_above_the_limit_are_refused_with_a_delay),
        SERVED(a_window_limits_the_calls_in_progress),
        SERVED(a_closed_channel_connects_again),
        SERVED(a_name_is_resolved_and_checked),
        SERVED(a_web_proxy_in_the_environment_is_ignored),
        SERVED(a_call_and_its_reply_in_one_function),
    };

    return cmocka_run_group_tests(tests, fixture_group_setup, fixture_group_teardown);
}
