#include "tests/unit/rpc_fixture.h"

#include "common/error.h"

#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>

static char *dir;

const char *
fixture_dir(void)
{
    return dir;
}

char *
fixture_file(const char *name)
{
    return g_build_filename(dir, name, NULL);
}

void
fixture_make_cert(const char *const *arguments)
{
    g_autoptr(GPtrArray) argv = g_ptr_array_new();
    g_autoptr(GError) error = NULL;
    int status;

    g_ptr_array_add(argv, (gpointer)CKPT_MAKE_CERTS);
    for (; *arguments; arguments++)
        g_ptr_array_add(argv, (gpointer)*arguments);
    g_ptr_array_add(argv, NULL);
    if (!g_spawn_sync(NULL, (char **)argv->pdata, NULL, 0, NULL, NULL, NULL, NULL, &status,
                      &error) ||
        !g_spawn_check_wait_status(status, &error))
        fail_msg("%s: %s", CKPT_MAKE_CERTS, error->message);
}

#define MAKE(...) fixture_make_cert((const char *const[]){__VA_ARGS__, NULL})

int
fixture_group_setup(void **state)
{
    g_autofree char *other = NULL;
    g_autoptr(GError) error = NULL;

    dir = g_dir_make_tmp("ckpt-rpc-XXXXXX", NULL);
    other = g_build_filename(dir, "other", NULL);
    MAKE("ca", dir);
    MAKE("agent", dir, "agent", "--dns", "localhost", "--ip", "127.0.0.1", "--ip", "::1");
    MAKE("agent", dir, "elsewhere", "--dns", "elsewhere.example");
    MAKE("client", dir, "jane", "--uri", "spiffe://example.org/operator/jane");
    MAKE("client", dir, "expired", "--uri", "spiffe://example.org/operator/old", "--days", "-1");
    MAKE("ca", other);
    MAKE("client", other, "stranger", "--uri", "spiffe://example.org/operator/jane");
    if (!ckpt_rpc_init(&error))
        fail_msg("%s", error->message);
    return 0;
}

static void
remove_tree(const char *path)
{
    g_autoptr(GDir) entries = g_dir_open(path, 0, NULL);
    const char *name;

    while (entries && (name = g_dir_read_name(entries))) {
        g_autofree char *child = g_build_filename(path, name, NULL);

        if (g_file_test(child, G_FILE_TEST_IS_DIR))
            remove_tree(child);
        else
            g_unlink(child);
    }
    g_rmdir(path);
}

int
fixture_group_teardown(void **state)
{
    remove_tree(dir);
    g_clear_pointer(&dir, g_free);
    return 0;
}

static void
finish_with(CkptCall *call, CkptReason reason, const char *message)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptRpcStatus) status = NULL;

    ckpt_error_set(&error, reason, "%s", message);
    ckpt_error_add(&error, CKPT_META_VM, "web-01");
    ckpt_error_set_retry_ms(&error, 2500);
    status = ckpt_rpc_status_from_error(error);
    ckpt_call_finish(call, NULL, status);
}

static void
finish_text(CkptCall *call, const char *text)
{
    g_autoptr(GBytes) reply = g_bytes_new(text, strlen(text));

    ckpt_call_finish(call, reply, NULL);
}

static void
on_held_cancel(CkptCall *call, gpointer data)
{
    Fixture *fixture = data;

    finish_with(call, CKPT_REASON_OPERATION_RUNNING, "still running");
    g_mutex_lock(&fixture->lock);
    fixture->cancelled++;
    g_cond_broadcast(&fixture->changed);
    g_mutex_unlock(&fixture->lock);
    ckpt_call_unref(call);
}

static void
hold(Fixture *fixture, CkptCall *call)
{
    g_mutex_lock(&fixture->lock);
    fixture->held++;
    fixture->remaining_ms = ckpt_call_remaining_ms(call);
    g_cond_broadcast(&fixture->changed);
    g_mutex_unlock(&fixture->lock);
    ckpt_call_on_cancel(ckpt_call_ref(call), on_held_cancel, fixture);
    if (fixture->cancel_when_held)
        g_cancellable_cancel(fixture->cancel_when_held);
}

static void
block(Fixture *fixture, CkptCall *call)
{
    g_mutex_lock(&fixture->lock);
    fixture->inside++;
    g_cond_broadcast(&fixture->changed);
    while (!fixture->open)
        g_cond_wait(&fixture->changed, &fixture->lock);
    g_mutex_unlock(&fixture->lock);
    finish_text(call, "unblocked");
}

static void
stream(CkptCall *call, GBytes *request)
{
    g_autofree char *text = g_strndup(g_bytes_get_data(request, NULL), g_bytes_get_size(request));
    int count = atoi(text);

    for (int i = 0; i < count; i++) {
        g_autofree char *number = g_strdup_printf("%d", i);
        g_autoptr(GBytes) message = g_bytes_new(number, strlen(number));

        assert_true(ckpt_call_send(call, message));
    }
    ckpt_call_finish(call, NULL, NULL);
}

static void
flood(Fixture *fixture, CkptCall *call)
{
    g_autofree guint8 *zeros = g_malloc0(16384);
    g_autoptr(GBytes) message = g_bytes_new(zeros, 16384);
    guint sent = 0;

    while (ckpt_call_send(call, message))
        sent++;
    finish_with(call, CKPT_REASON_QUEUE_FULL, "the reader is too slow");
    g_mutex_lock(&fixture->lock);
    fixture->sent = sent;
    fixture->flood_over = TRUE;
    g_cond_broadcast(&fixture->changed);
    g_mutex_unlock(&fixture->lock);
}

static CkptMethodKind
lookup(gpointer service, const char *method, gboolean *slow)
{
    *slow = g_str_equal(method, METHOD("Block"));
    if (g_str_equal(method, METHOD("Stream")) || g_str_equal(method, METHOD("Flood")))
        return CKPT_METHOD_SERVER_STREAM;
    return g_str_has_prefix(method, "/test.Test/") && !g_str_equal(method, METHOD("Unknown"))
               ? CKPT_METHOD_UNARY
               : CKPT_METHOD_UNKNOWN;
}

static void
handle(gpointer service, CkptCall *call, GBytes *request)
{
    const char *method = ckpt_call_method(call);

    if (g_str_equal(method, METHOD("Echo"))) {
        ckpt_call_finish(call, request, NULL);
    } else if (g_str_equal(method, METHOD("Identity"))) {
        const CkptPeer *peer = ckpt_call_peer(call);

        finish_text(call, peer->identity ? peer->identity : peer->why);
    } else if (g_str_equal(method, METHOD("Fail"))) {
        finish_with(call, CKPT_REASON_VM_BUSY, "web-01 is being checkpointed");
    } else if (g_str_equal(method, METHOD("Long"))) {
        g_autofree char *text = g_strnfill(9000, 'x');

        finish_with(call, CKPT_REASON_SPACE_LOW, text);
    } else if (g_str_equal(method, METHOD("Hold"))) {
        hold(service, call);
    } else if (g_str_equal(method, METHOD("Block"))) {
        block(service, call);
    } else if (g_str_equal(method, METHOD("Stream"))) {
        stream(call, request);
    } else {
        flood(service, call);
    }
}

static const CkptServiceVtable vtable = {lookup, handle};

Fixture *
fixture_new(const CkptServerOptions *changes)
{
    Fixture *fixture = g_new0(Fixture, 1);
    g_autofree char *ca = fixture_file("ca.pem"), *cert = fixture_file("agent.pem");
    g_autofree char *key = fixture_file("agent-key.pem");
    CkptServerOptions options = changes ? *changes : (CkptServerOptions){0};
    g_autoptr(GError) error = NULL;

    g_mutex_init(&fixture->lock);
    g_cond_init(&fixture->changed);
    options.listen = "127.0.0.1:0";
    options.ca_file = ca;
    if (!options.cert_file) {
        options.cert_file = cert;
        options.key_file = key;
    }
    fixture->server = ckpt_server_new(&options, &vtable, fixture, &error);
    if (!fixture->server || !ckpt_server_start(fixture->server, &error))
        fail_msg("%s", error->message);
    fixture->address = g_strdup_printf("127.0.0.1:%u", ckpt_server_port(fixture->server));
    return fixture;
}

void
fixture_free(Fixture *fixture)
{
    fixture_open(fixture);
    ckpt_server_stop(fixture->server, 1000);
    ckpt_server_free(fixture->server);
    g_clear_object(&fixture->cancel_when_held);
    g_free(fixture->address);
    g_cond_clear(&fixture->changed);
    g_mutex_clear(&fixture->lock);
    g_free(fixture);
}

int
fixture_setup(void **state)
{
    *state = fixture_new(NULL);
    return 0;
}

int
fixture_teardown(void **state)
{
    fixture_free(*state);
    return 0;
}

void
fixture_wait(Fixture *fixture, guint *what, guint value)
{
    gint64 until = g_get_monotonic_time() + 10 * G_USEC_PER_SEC;
    gboolean reached;

    g_mutex_lock(&fixture->lock);
    while (*what < value && g_cond_wait_until(&fixture->changed, &fixture->lock, until))
        continue;
    reached = *what >= value;
    g_mutex_unlock(&fixture->lock);
    assert_true(reached);
}

void
fixture_open(Fixture *fixture)
{
    g_mutex_lock(&fixture->lock);
    fixture->open = TRUE;
    g_cond_broadcast(&fixture->changed);
    g_mutex_unlock(&fixture->lock);
}

CkptRpcClient *
fixture_client(const char *name)
{
    g_autofree char *pem = g_strconcat(name, ".pem", NULL),
                    *key_pem = g_strconcat(name, "-key.pem", NULL);
    g_autofree char *ca = fixture_file("ca.pem"), *cert = fixture_file(pem);
    g_autofree char *key = fixture_file(key_pem);
    CkptClientTls tls = {ca, cert, key};
    g_autoptr(GError) error = NULL;
    CkptRpcClient *client = ckpt_rpc_client_new(&tls, &error);

    if (!client)
        fail_msg("%s", error->message);
    return client;
}

typedef struct {
    CkptRpcStatus *status;
    char *reply;
} Answer;

static void
on_answer(const CkptRpcStatus *status, GBytes *reply, gpointer data)
{
    Answer *answer = data;

    assert_null(answer->status);
    answer->status = ckpt_rpc_status_copy(status);
    if (reply)
        answer->reply = g_strndup(g_bytes_get_data(reply, NULL), g_bytes_get_size(reply));
}

CkptRpcStatus *
fixture_call_with(CkptRpcClient *client, const char *address, const char *method, GBytes *request,
                  guint timeout_ms, GCancellable *cancellable, char **reply)
{
    CkptRpcChannel *channel = ckpt_rpc_client_channel(client, address);
    Answer answer = {NULL, NULL};

    ckpt_rpc_client_call(client, channel, method, request, timeout_ms, on_answer, &answer);
    ckpt_rpc_client_run(client, cancellable);
    assert_non_null(answer.status);
    if (reply)
        *reply = answer.reply;
    else
        g_free(answer.reply);
    return answer.status;
}

CkptRpcStatus *
fixture_call(Fixture *fixture, const char *name, const char *method, const char *request,
             guint timeout_ms, char **reply)
{
    g_autoptr(CkptRpcClient) client = fixture_client(name);
    g_autoptr(GBytes) bytes = g_bytes_new(request, strlen(request));

    return fixture_call_with(client, fixture->address, method, bytes, timeout_ms, NULL, reply);
}
