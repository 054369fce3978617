/* What strangers, wrong certificates and a lack of descriptors do to the transport, and how it
 * stops. */
#include "agent/rpc/accept.h"
#include "common/error.h"
#include "tests/unit/rpc_fixture.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/support/time.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define TIMEOUT 20000

/* Connects as any TLS client would, with cert_name's certificate or none, and reads until the
 * server says something. NULL: it let us in. */
static char *
knock(Fixture *fixture, int version, const char *cert_name)
{
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    SSL *ssl;
    BIO *bio = BIO_new_connect(fixture->address);
    char *refusal = NULL;
    char byte[64];

    SSL_CTX_clear_options(context, SSL_OP_NO_TLSv1_2);
    SSL_CTX_set_min_proto_version(context, version);
    SSL_CTX_set_max_proto_version(context, version);
    SSL_CTX_set_alpn_protos(context, (const guint8 *)"\2h2", 3);
    if (cert_name) {
        g_autofree char *pem = g_strconcat(cert_name, ".pem", NULL);
        g_autofree char *key_pem = g_strconcat(cert_name, "-key.pem", NULL);
        g_autofree char *cert = fixture_file(pem), *key = fixture_file(key_pem);

        assert_int_equal(SSL_CTX_use_certificate_file(context, cert, SSL_FILETYPE_PEM), 1);
        assert_int_equal(SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM), 1);
    }
    ssl = SSL_new(context);
    assert_int_equal(BIO_do_connect(bio), 1);
    SSL_set_bio(ssl, bio, bio);
    ERR_clear_error();
    /* A server that lets us in sends its SETTINGS. */
    if (SSL_connect(ssl) != 1 || SSL_read(ssl, byte, sizeof byte) <= 0) {
        const char *reason = ERR_reason_error_string(ERR_peek_last_error());

        refusal = g_strdup(reason ? reason : "closed");
    }
    ERR_clear_error();
    SSL_free(ssl);
    SSL_CTX_free(context);
    return refusal;
}

static void
tls_1_2_is_refused(void **state)
{
    g_autofree char *refusal = knock(*state, TLS1_2_VERSION, "jane");

    assert_non_null(refusal);
}

static void
a_client_without_a_certificate_is_refused(void **state)
{
    g_autofree char *nobody = knock(*state, TLS1_3_VERSION, NULL);
    g_autofree char *jane = knock(*state, TLS1_3_VERSION, "jane");

    assert_non_null(nobody);
    assert_null(jane);
}

static void
an_expired_client_certificate_is_refused(void **state)
{
    g_autofree char *refusal = knock(*state, TLS1_3_VERSION, "expired");

    assert_non_null(refusal);
}

static void
an_agents_own_certificate_opens_nothing(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(CkptRpcStatus) status =
        fixture_call(fixture, "agent", METHOD("Identity"), "", TIMEOUT, NULL);

    assert_int_equal(status->code, 14);
    assert_contains(status->message, "refused this client's certificate");
}

static void
a_client_of_another_authority_is_refused_with_a_hint(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(CkptRpcStatus) status =
        fixture_call(fixture, "other/stranger", METHOD("Echo"), "", TIMEOUT, NULL);

    assert_int_equal(status->code, 14);
    assert_contains(status->message, "refused this client's certificate");
    assert_contains(status->message, fixture->address);
}

static void
the_running_listener_is_proven(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(GError) error = NULL;

    if (!ckpt_server_prove_tls(fixture->server, &error))
        fail_msg("%s", error->message);
}

static CkptRpcStatus *
call_address(const char *ca_name, const char *address, guint timeout_ms)
{
    g_autofree char *ca = fixture_file(ca_name), *cert = fixture_file("jane.pem");
    g_autofree char *key = fixture_file("jane-key.pem");
    CkptClientTls tls = {ca, cert, key};
    g_autoptr(GBytes) request = g_bytes_new_static("", 0);
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptRpcClient) client = ckpt_rpc_client_new(&tls, &error);

    assert_non_null(client);
    return fixture_call_with(client, address, METHOD("Echo"), request, timeout_ms, NULL, NULL);
}

static void
an_agent_of_another_authority_is_not_trusted(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(CkptRpcStatus) status = call_address("other/ca.pem", fixture->address, TIMEOUT);

    assert_int_equal(status->code, 14);
    assert_contains(status->message, "is not trusted");
}

static void
an_agent_with_another_name_is_not_trusted(void **state)
{
    g_autofree char *cert = fixture_file("elsewhere.pem"), *key = fixture_file("elsewhere-key.pem");
    Fixture *fixture = fixture_new(&(CkptServerOptions){.cert_file = cert, .key_file = key});
    g_autoptr(CkptRpcStatus) status = call_address("ca.pem", fixture->address, TIMEOUT);

    assert_int_equal(status->code, 14);
    assert_contains(status->message, "for another name");
    fixture_free(fixture);
}

static void
an_agent_that_is_not_there_is_said_to_be_so(void **state)
{
    g_autoptr(CkptRpcStatus) refused = call_address("ca.pem", "127.0.0.1:1", TIMEOUT);
    g_autoptr(CkptRpcStatus) malformed = call_address("ca.pem", "127.0.0.1", TIMEOUT);
    g_autoptr(CkptRpcStatus) unknown = call_address("ca.pem", "no-such-host.invalid:1", TIMEOUT);

    assert_int_equal(refused->code, 14);
    assert_contains(refused->message, "connection refused");
    assert_int_equal(malformed->code, 3);
    assert_int_equal(unknown->code, 14);
    assert_contains(unknown->message, "cannot connect to no-such-host.invalid:1: the name");
}

/* A listener that takes connections and says nothing. */
static void
a_connection_without_an_answer_ends_at_the_timeout(void **state)
{
    g_autoptr(GSocketListener) listener = g_socket_listener_new();
    guint16 port = g_socket_listener_add_any_inet_port(listener, NULL, NULL);
    g_autofree char *address = g_strdup_printf("127.0.0.1:%u", port);
    g_autoptr(CkptRpcStatus) status = call_address("ca.pem", address, 500);

    assert_int_equal(status->code, 14);
    assert_contains(status->message, "no answer within 500 ms");
}

static void
check_files(const char *ca, const char *cert, const char *key, const char *words)
{
    g_autofree char *ca_file = fixture_file(ca), *cert_file = fixture_file(cert);
    g_autofree char *key_file = fixture_file(key);
    CkptClientTls tls = {ca_file, cert_file, key_file};
    g_autoptr(GError) error = NULL;

    assert_null(ckpt_rpc_client_new(&tls, &error));
    assert_non_null(error);
    assert_contains(error->message, words);
    assert_non_null(g_hash_table_lookup(ckpt_error_metadata(error), CKPT_META_FILE));
}

static void
unusable_certificate_files_are_named_before_connecting(void **state)
{
    g_autofree char *junk = fixture_file("junk.pem");

    assert_true(g_file_set_contents(junk, "not a certificate", -1, NULL));
    check_files("none.pem", "jane.pem", "jane-key.pem", "none.pem: Failed to open");
    check_files("junk.pem", "jane.pem", "jane-key.pem", "junk.pem: holds no PEM certificate");
    check_files("ca.pem", "junk.pem", "jane-key.pem", "junk.pem: holds no PEM certificate");
    check_files("ca.pem", "jane.pem", "junk.pem", "junk.pem: holds no PEM private key");
    check_files("ca.pem", "jane.pem", "agent-key.pem", "does not belong to the certificate");
    check_files("ca.pem", "expired.pem", "expired-key.pem", "expired.pem: expired on");
}

static void
replaced_certificates_are_used_without_a_restart(void **state)
{
    g_autofree char *cert = fixture_file("live.pem"), *key = fixture_file("live-key.pem");
    g_autofree char *new_cert = fixture_file("elsewhere.pem");
    g_autofree char *new_key = fixture_file("elsewhere-key.pem");
    g_autofree char *text = NULL, *key_text = NULL;
    g_autoptr(CkptRpcStatus) before = NULL, half = NULL, after = NULL;
    Fixture *fixture;

    fixture_make_cert(
        (const char *const[]){"agent", fixture_dir(), "live", "--ip", "127.0.0.1", NULL});
    fixture = fixture_new(&(CkptServerOptions){.cert_file = cert, .key_file = key});
    before = call_address("ca.pem", fixture->address, TIMEOUT);
    assert_int_equal(before->code, 0);
    assert_true(g_file_get_contents(new_cert, &text, NULL, NULL));
    assert_true(g_file_get_contents(new_key, &key_text, NULL, NULL));
    /* Half of the pair: what was in use goes on. */
    assert_true(g_file_set_contents(cert, text, -1, NULL));
    half = call_address("ca.pem", fixture->address, TIMEOUT);
    assert_int_equal(half->code, 0);
    assert_true(g_file_set_contents(key, key_text, -1, NULL));
    after = call_address("ca.pem", fixture->address, TIMEOUT);
    assert_contains(after->message, "for another name");
    fixture_free(fixture);
}

/* ---- calls that our client would not make ---- */

/* Sends headers, and data if it is not NULL, and never ends its half; the status it gets. */
static grpc_status_code
raw_call(Fixture *fixture, grpc_byte_buffer *message, guint32 timeout_ms)
{
    g_autofree char *ca_file = fixture_file("ca.pem"), *cert_file = fixture_file("jane.pem");
    g_autofree char *key_file = fixture_file("jane-key.pem");
    g_autofree char *ca = NULL, *cert = NULL, *key = NULL;
    grpc_completion_queue *queue = grpc_completion_queue_create_for_next(NULL);
    gpr_timespec deadline =
        gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(timeout_ms, GPR_TIMESPAN));
    grpc_metadata_array trailing, initial;
    grpc_status_code code = GRPC_STATUS__DO_NOT_USE;
    grpc_slice details = grpc_empty_slice();
    grpc_byte_buffer *reply = NULL;
    grpc_op ops[5] = {{.op = GRPC_OP_SEND_INITIAL_METADATA},
                      {.op = GRPC_OP_RECV_INITIAL_METADATA},
                      {.op = GRPC_OP_RECV_MESSAGE},
                      {.op = GRPC_OP_RECV_STATUS_ON_CLIENT},
                      {.op = GRPC_OP_SEND_MESSAGE}};
    grpc_channel_credentials *credentials;
    grpc_channel *channel;
    grpc_call *call;

    assert_true(g_file_get_contents(ca_file, &ca, NULL, NULL));
    assert_true(g_file_get_contents(cert_file, &cert, NULL, NULL));
    assert_true(g_file_get_contents(key_file, &key, NULL, NULL));
    credentials =
        grpc_ssl_credentials_create(ca, &(grpc_ssl_pem_key_cert_pair){key, cert}, NULL, NULL);
    channel = grpc_channel_create(fixture->address, credentials, NULL);
    call = grpc_channel_create_call(channel, NULL, GRPC_PROPAGATE_DEFAULTS, queue,
                                    grpc_slice_from_static_string(METHOD("Echo")), NULL, deadline,
                                    NULL);
    grpc_metadata_array_init(&trailing);
    grpc_metadata_array_init(&initial);
    ops[1].data.recv_initial_metadata.recv_initial_metadata = &initial;
    ops[2].data.recv_message.recv_message = &reply;
    ops[3].data.recv_status_on_client.trailing_metadata = &trailing;
    ops[3].data.recv_status_on_client.status = &code;
    ops[3].data.recv_status_on_client.status_details = &details;
    ops[4].data.send_message.send_message = message;
    assert_int_equal(grpc_call_start_batch(call, ops, message ? 5 : 4, call, NULL), GRPC_CALL_OK);
    assert_int_equal(
        grpc_completion_queue_next(queue, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL).type,
        GRPC_OP_COMPLETE);
    if (reply)
        grpc_byte_buffer_destroy(reply);
    grpc_metadata_array_destroy(&trailing);
    grpc_metadata_array_destroy(&initial);
    grpc_slice_unref(details);
    grpc_call_unref(call);
    grpc_channel_destroy(channel);
    grpc_channel_credentials_release(credentials);
    grpc_completion_queue_shutdown(queue);
    while (grpc_completion_queue_next(queue, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL).type !=
           GRPC_QUEUE_SHUTDOWN)
        continue;
    grpc_completion_queue_destroy(queue);
    return code;
}

static void
a_call_whose_message_never_comes_is_ended(void **state)
{
    Fixture *fixture = fixture_new(&(CkptServerOptions){.body_timeout_ms = 300});

    assert_int_equal(raw_call(fixture, NULL, TIMEOUT), GRPC_STATUS_INVALID_ARGUMENT);
    fixture_free(fixture);
}

static void
a_caller_that_never_ends_its_half_is_answered(void **state)
{
    grpc_slice slice = grpc_slice_from_static_string("x");
    grpc_byte_buffer *message = grpc_raw_byte_buffer_create(&slice, 1);

    assert_int_equal(raw_call(*state, message, TIMEOUT), GRPC_STATUS_OK);
    grpc_byte_buffer_destroy(message);
}

static void
a_compressed_request_is_not_unpacked(void **state)
{
    g_autofree char *zeros = g_malloc0(1024 * 1024);
    grpc_slice slice = grpc_slice_from_copied_buffer(zeros, 1024 * 1024);
    /* Marked as compressed, as a client does that compresses by itself. */
    grpc_byte_buffer *message =
        grpc_raw_compressed_byte_buffer_create(&slice, 1, GRPC_COMPRESS_GZIP);
    grpc_status_code code;

    code = raw_call(*state, message, TIMEOUT);
    assert_true(code == GRPC_STATUS_UNIMPLEMENTED || code == GRPC_STATUS_INTERNAL ||
                code == GRPC_STATUS_RESOURCE_EXHAUSTED);
    grpc_byte_buffer_destroy(message);
    grpc_slice_unref(slice);
}

/* ---- descriptors ---- */

typedef struct {
    GPid pid;
    int in, out;
} Attacker;

static void
expect_line(Attacker *attacker)
{
    char byte = 0;

    while (byte != '\n')
        assert_int_equal(read(attacker->out, &byte, 1), 1);
}

/* Another process, so that its descriptors do not count as ours. */
static Attacker
attacker_new(Fixture *fixture, guint connections)
{
    g_autofree char *script = g_strdup_printf(
        "ulimit -n 1024; echo ready; read line; for ((i = 0; i < %u; i++)); do "
        "exec {fd}<>/dev/tcp/127.0.0.1/%u; done 2>/dev/null; echo connected; read line",
        connections, ckpt_server_port(fixture->server));
    const char *argv[] = {"bash", "-c", script, NULL};
    Attacker attacker = {0, -1, -1};

    assert_true(g_spawn_async_with_pipes(
        NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH | G_SPAWN_DO_NOT_REAP_CHILD, NULL, NULL,
        &attacker.pid, &attacker.in, &attacker.out, NULL, NULL));
    expect_line(&attacker);
    return attacker;
}

static void
attacker_go(Attacker *attacker)
{
    assert_int_equal(write(attacker->in, "\n", 1), 1);
    expect_line(attacker);
}

static void
attacker_end(Attacker *attacker)
{
    int status;

    close(attacker->in);
    close(attacker->out);
    assert_int_equal(waitpid(attacker->pid, &status, 0), attacker->pid);
}

static struct rlimit
set_descriptors(rlim_t limit)
{
    struct rlimit old, reduced;

    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    reduced = old;
    reduced.rlim_cur = limit;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &reduced), 0);
    return old;
}

/* The next descriptor's number: what RLIMIT_NOFILE compares. */
static rlim_t
next_descriptor(void)
{
    int fd = dup(0);

    assert_true(fd >= 0);
    close(fd);
    return (rlim_t)fd;
}

static void
the_listener_survives_running_out_of_descriptors(void **state)
{
    Fixture *fixture =
        fixture_new(&(CkptServerOptions){.max_connections = 100000, .handshake_timeout_ms = 60000});
    guint port = ckpt_server_port(fixture->server);
    Attacker attacker = attacker_new(fixture, 200);
    struct rlimit old = set_descriptors(next_descriptor() + 12);
    g_autoptr(CkptRpcStatus) during = NULL, after = NULL;
    gint64 until = g_get_monotonic_time() + 10 * G_USEC_PER_SEC;

    attacker_go(&attacker);
    /* The attacker's connections stand in the listener's queue until they are taken. */
    while (ckpt_accept_counts(port).starved < 100 && g_get_monotonic_time() < until)
        g_usleep(1000);
    assert_true(ckpt_accept_counts(port).starved >= 100);
    setrlimit(RLIMIT_NOFILE, &old);
    during = call_address("ca.pem", fixture->address, TIMEOUT);
    assert_int_equal(during->code, 0);
    attacker_end(&attacker);
    after = call_address("ca.pem", fixture->address, TIMEOUT);
    assert_int_equal(after->code, 0);
    fixture_free(fixture);
}

static void
connections_are_limited_before_tls(void **state)
{
    Fixture *fixture =
        fixture_new(&(CkptServerOptions){.max_connections = 16, .handshake_timeout_ms = 500});
    guint port = ckpt_server_port(fixture->server);
    Attacker attacker = attacker_new(fixture, 100);
    gint64 until = g_get_monotonic_time() + 10 * G_USEC_PER_SEC;
    CkptAcceptCounts counts;
    int code;

    attacker_go(&attacker);
    do
        counts = ckpt_accept_counts(port);
    while (counts.accepted + counts.refused < 100 && g_get_monotonic_time() < until);
    assert_int_equal(counts.accepted, 8); /* one source may have half */
    assert_int_equal(counts.refused, 92);
    /* The attacker stays, the handshake's time limit makes room. */
    do {
        g_autoptr(CkptRpcStatus) status = call_address("ca.pem", fixture->address, 2000);

        code = status->code;
    } while (code != 0 && g_get_monotonic_time() < until);
    assert_int_equal(code, 0);
    attacker_end(&attacker);
    fixture_free(fixture);
}

/* ---- the end ---- */

static gpointer
call_block(gpointer data)
{
    return fixture_call(data, "jane", METHOD("Block"), "", TIMEOUT, NULL);
}

static gpointer
stop_short(gpointer data)
{
    Fixture *fixture = data;

    ckpt_server_stop(fixture->server, 50);
    g_mutex_lock(&fixture->lock);
    fixture->sent = 1;
    g_mutex_unlock(&fixture->lock);
    return NULL;
}

static void
a_stop_waits_for_a_hanging_handler(void **state)
{
    Fixture *fixture = *state;
    GThread *caller = g_thread_new("caller", call_block, fixture), *stopper;
    g_autoptr(CkptRpcStatus) status = NULL;

    fixture_wait(fixture, &fixture->inside, 1);
    stopper = g_thread_new("stopper", stop_short, fixture);
    /* The caller is cut off after the grace; the handler still hangs, and so does the stop. */
    status = g_thread_join(caller);
    assert_int_equal(status->code, 14);
    g_mutex_lock(&fixture->lock);
    assert_int_equal(fixture->sent, 0);
    g_mutex_unlock(&fixture->lock);
    fixture_open(fixture);
    g_thread_join(stopper);
    assert_int_equal(fixture->sent, 1);
}

static gpointer
call_hold(gpointer data)
{
    return fixture_call(data, "jane", METHOD("Hold"), "", TIMEOUT, NULL);
}

static void
a_stop_tells_waiting_calls_and_their_answers_arrive(void **state)
{
    Fixture *fixture = *state;
    GThread *caller = g_thread_new("caller", call_hold, fixture);
    g_autoptr(CkptRpcStatus) status = NULL;
    gint64 start;

    fixture_wait(fixture, &fixture->held, 1);
    start = g_get_monotonic_time();
    ckpt_server_stop(fixture->server, 10000);
    assert_true(g_get_monotonic_time() - start < 5 * G_USEC_PER_SEC);
    status = g_thread_join(caller);
    assert_string_equal(status->reason, "OPERATION_RUNNING");
}

static void
a_second_agent_on_the_port_fails_and_says_why(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *ca = fixture_file("ca.pem"), *cert = fixture_file("agent.pem");
    g_autofree char *key = fixture_file("agent-key.pem");
    CkptServerOptions options = {
        .listen = fixture->address, .ca_file = ca, .cert_file = cert, .key_file = key};
    static const CkptServiceVtable none = {NULL, NULL};
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptServer) second = ckpt_server_new(&options, &none, NULL, &error);

    assert_non_null(second);
    assert_false(ckpt_server_start(second, &error));
    assert_contains(error->message, "in use");
}

#define SERVED(test) cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        SERVED(tls_1_2_is_refused),
        SERVED(a_client_without_a_certificate_is_refused),
        SERVED(an_expired_client_certificate_is_refused),
        SERVED(an_agents_own_certificate_opens_nothing),
        SERVED(a_client_of_another_authority_is_refused_with_a_hint),
        SERVED(the_running_listener_is_proven),
        SERVED(an_agent_of_another_authority_is_not_trusted),
        cmocka_unit_test(an_agent_with_another_name_is_not_trusted),
        cmocka_unit_test(an_agent_that_is_not_there_is_said_to_be_so),
        cmocka_unit_test(a_connection_without_an_answer_ends_at_the_timeout),
        cmocka_unit_test(unusable_certificate_files_are_named_before_connecting),
        cmocka_unit_test(replaced_certificates_are_used_without_a_restart),
        cmocka_unit_test(a_call_whose_message_never_comes_is_ended),
        SERVED(a_caller_that_never_ends_its_half_is_answered),
        SERVED(a_compressed_request_is_not_unpacked),
        cmocka_unit_test(the_listener_survives_running_out_of_descriptors),
        cmocka_unit_test(connections_are_limited_before_tls),
        SERVED(a_stop_waits_for_a_hanging_handler),
        SERVED(a_stop_tells_waiting_calls_and_their_answers_arrive),
        SERVED(a_second_agent_on_the_port_fails_and_says_why),
    };

    return cmocka_run_group_tests(tests, fixture_group_setup, fixture_group_teardown);
}
