/* Unary calls of the published API with requests given as bytes, one after the other: for tests that choose the
 * request_id, or that send what no client of ours would send. "call" is its better half. */
#include "common/proto_json.h"
#include "common/rpc_client.h"

#include "vmcheckpoint/v1/agent.pb-c.h"
#include "vmcheckpoint/v1/checkpoint.pb-c.h"
#include "vmcheckpoint/v1/lease.pb-c.h"
#include "vmcheckpoint/v1/operation.pb-c.h"
#include "vmcheckpoint/v1/virtual_machine.pb-c.h"

#include <stdio.h>
#include <string.h>

static const ProtobufCServiceDescriptor *const services[] = {
    &vmcheckpoint__v1__checkpoint_service__descriptor,
    &vmcheckpoint__v1__virtual_machine_service__descriptor,
    &vmcheckpoint__v1__operation_service__descriptor,
    &vmcheckpoint__v1__lease_service__descriptor,
    &vmcheckpoint__v1__agent_service__descriptor,
};

/* "CreateCheckpoint" → its full name and the type of its reply. */
static char *
find_method(const char *name, const ProtobufCMessageDescriptor **reply)
{
    for (gsize i = 0; i < G_N_ELEMENTS(services); i++)
        for (unsigned k = 0; k < services[i]->n_methods; k++) {
            if (strcmp(services[i]->methods[k].name, name) != 0)
                continue;
            *reply = services[i]->methods[k].output;
            return g_strdup_printf("/%s/%s", services[i]->name, name);
        }
    return NULL;
}

static void
print_json(JsonNode *node)
{
    g_autofree char *text = ckpt_json_to_text(node, FALSE);

    puts(text);
    json_node_unref(node);
}

static JsonNode *
error_json(const CkptRpcStatus *status)
{
    g_autoptr(JsonBuilder) builder = json_builder_new();
    GHashTableIter iter;
    gpointer key, value;

    json_builder_begin_object(builder);
    json_builder_set_member_name(builder, "code");
    json_builder_add_string_value(builder, ckpt_grpc_code_name(status->code));
    json_builder_set_member_name(builder, "reason");
    json_builder_add_string_value(builder, status->reason ? status->reason : "");
    json_builder_set_member_name(builder, "message");
    json_builder_add_string_value(builder, status->message);
    json_builder_set_member_name(builder, "metadata");
    json_builder_begin_object(builder);
    if (status->metadata) {
        g_hash_table_iter_init(&iter, status->metadata);
        while (g_hash_table_iter_next(&iter, &key, &value)) {
            json_builder_set_member_name(builder, key);
            json_builder_add_string_value(builder, value);
        }
    }
    json_builder_end_object(builder);
    json_builder_end_object(builder);
    return json_builder_get_root(builder);
}

typedef struct {
    const ProtobufCMessageDescriptor *type;
    int exit;
} Answer;

static void
on_reply(const CkptRpcStatus *status, GBytes *reply, gpointer data)
{
    Answer *answer = data;
    ProtobufCMessage *message;
    gsize size;
    const guint8 *bytes;

    if (!reply) {
        print_json(error_json(status));
        answer->exit = 1;
        return;
    }
    bytes = g_bytes_get_data(reply, &size);
    message = protobuf_c_message_unpack(answer->type, NULL, size, bytes);
    if (!message) {
        fprintf(stderr, "call: the reply cannot be decoded\n");
        answer->exit = 2;
        return;
    }
    print_json(ckpt_proto_to_json(message, CKPT_PROTO_JSON_ALL_FIELDS));
    protobuf_c_message_free_unpacked(message, NULL);
    answer->exit = 0;
}

/* The request: a file, or "hex:" and its bytes. */
static GBytes *
read_request(const char *where, GError **error)
{
    char *contents = NULL;
    gsize size = 0;

    if (!g_str_has_prefix(where, "hex:"))
        return g_file_get_contents(where, &contents, &size, error)
                   ? g_bytes_new_take(contents, size)
                   : NULL;
    where += strlen("hex:");
    size = strlen(where) / 2;
    contents = g_malloc(size + 1);
    for (gsize i = 0; i < size; i++)
        contents[i] = (char)(g_ascii_xdigit_value(where[2 * i]) * 16 +
                             g_ascii_xdigit_value(where[2 * i + 1]));
    return g_bytes_new_take(contents, size);
}

/* 0: answered; 1: refused; 2: there was no call. */
static int
call(CkptRpcClient *client, const char *address, const char *name, const char *where, guint seconds)
{
    Answer answer = {NULL, 2};
    g_autofree char *method = find_method(name, &answer.type);
    g_autoptr(GError) error = NULL;
    g_autoptr(GBytes) request = read_request(where, &error);

    if (!method || !request) {
        fprintf(stderr, "call: %s\n", request ? "there is no such method" : error->message);
        return 2;
    }
    ckpt_rpc_client_call(client, ckpt_rpc_client_channel(client, address), method, request,
                         seconds * 1000, on_reply, &answer);
    ckpt_rpc_client_run(client, NULL);
    return answer.exit;
}

int
main(int argc, char **argv)
{
    g_autofree char *address = NULL, *ca = NULL, *cert = NULL, *key = NULL;
    int seconds = 300, exit = 0;
    GOptionEntry entries[] = {
        {"address", 0, 0, G_OPTION_ARG_STRING, &address, "host:port", NULL},
        {"ca", 0, 0, G_OPTION_ARG_FILENAME, &ca, "PEM", NULL},
        {"cert", 0, 0, G_OPTION_ARG_FILENAME, &cert, "PEM", NULL},
        {"key", 0, 0, G_OPTION_ARG_FILENAME, &key, "PEM", NULL},
        {"timeout", 0, 0, G_OPTION_ARG_INT, &seconds, "seconds, of each call", NULL},
        {NULL},
    };
    g_autoptr(GOptionContext) context = g_option_context_new("(METHOD REQUEST)…");
    g_autoptr(CkptRpcClient) client = NULL;
    g_autoptr(GError) error = NULL;

    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error) || argc % 2 == 0 || !address) {
        fprintf(stderr, "call: %s\n", error ? error->message : "--address and pairs are wanted");
        return 2;
    }
    client = ckpt_rpc_client_new(&(CkptClientTls){ca, cert, key}, &error);
    if (!client) {
        fprintf(stderr, "call: %s\n", error->message);
        return 2;
    }
    for (int i = 1; i < argc; i += 2) {
        int this = call(client, address, argv[i], argv[i + 1], (guint)seconds);

        exit = MAX(exit, this);
    }
    return exit;
}
