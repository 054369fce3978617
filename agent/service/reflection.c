/* grpc.reflection.v1alpha, so that any gRPC tool works with the agent alone. The descriptor set of
 * the build is walked on the wire: unpacking it would keep some hundred kilobytes for nothing. */
#include "agent/service/internal.h"

#include "grpc/reflection/v1alpha/reflection.pb-c.h"

#include <string.h>

extern const guint8 ckpt_descriptor_set[], ckpt_descriptor_set_end[];

#define REPLY(name) GRPC__REFLECTION__V1ALPHA__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_##name
#define ASKED(name) GRPC__REFLECTION__V1ALPHA__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_##name
#define GRPC_NOT_FOUND 5
#define GRPC_UNIMPLEMENTED 12

typedef Grpc__Reflection__V1alpha__ServerReflectionResponse Response;
typedef Grpc__Reflection__V1alpha__ServerReflectionRequest Request;

typedef struct {
    const guint8 *at, *end;
} Span;

static guint64
next_varint(Span *span)
{
    guint64 value = 0;

    for (guint shift = 0; span->at < span->end && shift < 64; shift += 7) {
        value |= (guint64)(*span->at & 0x7f) << shift;
        if (!(*span->at++ & 0x80))
            break;
    }
    return value;
}

/* The next length-delimited field of a message that protoc wrote; the others, which are all
 * varints, are passed over. 0 at the end. */
static guint
next_field(Span *span, Span *field)
{
    while (span->at < span->end) {
        guint64 tag = next_varint(span);
        guint64 value = next_varint(span);

        if ((tag & 7) != 2)
            continue;
        field->at = span->at;
        field->end = span->at + MIN(value, (gsize)(span->end - span->at));
        span->at = field->end;
        return (guint)(tag >> 3);
    }
    return 0;
}

static gboolean
span_is(const Span *span, const char *text, gsize size)
{
    return (gsize)(span->end - span->at) == size && memcmp(span->at, text, size) == 0;
}

/* Fields of FileDescriptorProto; of messages, enums and services only the name is read, also 1. */
enum {
    FILE_NAME = 1,
    FILE_PACKAGE = 2,
    FILE_DEPENDENCY = 3,
    FILE_MESSAGE = 4,
    FILE_ENUM = 5,
    FILE_SERVICE = 6
};

/* The first field of each of them, in what protoc writes. */
static Span
name_of(Span message)
{
    Span field = {NULL, NULL};

    if (next_field(&message, &field) != FILE_NAME)
        field.end = field.at;
    return field;
}

/* Whether the symbol, relative to the scope it is looked up in, is this entity or within it. */
static gboolean
names_symbol(Span entity, const char *symbol)
{
    Span name = name_of(entity);
    gsize size = (gsize)(name.end - name.at);

    return size > 0 && strncmp(symbol, (const char *)name.at, size) == 0 &&
           (symbol[size] == '\0' || symbol[size] == '.');
}

static gboolean
file_has_symbol(Span file, const char *symbol)
{
    Span field;
    Span rest = file;
    guint number;

    while ((number = next_field(&rest, &field))) {
        gsize size = (gsize)(field.end - field.at);

        if (number == FILE_PACKAGE) {
            if (strncmp(symbol, (const char *)field.at, size) != 0 || symbol[size] != '.')
                return FALSE;
            symbol += size + 1;
        } else if (number == FILE_MESSAGE || number == FILE_ENUM || number == FILE_SERVICE) {
            if (names_symbol(field, symbol))
                return TRUE;
        }
    }
    return FALSE;
}

typedef gboolean (*FileTest)(Span file, const char *text);

static gboolean
file_is_named(Span file, const char *name)
{
    Span found = name_of(file);

    return span_is(&found, name, strlen(name));
}

static gboolean
find_file(FileTest test, const char *text, Span *file)
{
    Span set = {ckpt_descriptor_set, ckpt_descriptor_set_end};

    while (next_field(&set, file))
        if (test(*file, text))
            return TRUE;
    return FALSE;
}

/* The file and all that it imports, each once: clients need them all. */
static void
collect(Span file, GPtrArray *names, GArray *files)
{
    Span field;
    Span rest = file;
    guint number;

    g_array_append_val(files, file);
    while ((number = next_field(&rest, &field))) {
        g_autofree char *name = NULL;
        Span imported;

        if (number != FILE_DEPENDENCY)
            continue;
        name = g_strndup((const char *)field.at, (gsize)(field.end - field.at));
        if (g_ptr_array_find_with_equal_func(names, name, g_str_equal, NULL))
            continue;
        if (find_file(file_is_named, name, &imported)) {
            g_ptr_array_add(names, g_steal_pointer(&name));
            collect(imported, names, files);
        }
    }
}

static void
fail(Response *reply, int code, const char *message)
{
    reply->message_response_case = REPLY(ERROR_RESPONSE);
    reply->error_response =
        ckpt_message_new(&grpc__reflection__v1alpha__error_response__descriptor);
    reply->error_response->error_code = code;
    reply->error_response->error_message = g_strdup(message);
}

static void
give_files(Response *reply, FileTest test, const char *text)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GArray) files = g_array_new(FALSE, FALSE, sizeof(Span));
    Grpc__Reflection__V1alpha__FileDescriptorResponse *list;
    Span file;

    if (!find_file(test, text, &file)) {
        fail(reply, GRPC_NOT_FOUND, "no such file or symbol");
        return;
    }
    collect(file, names, files);
    list = ckpt_message_new(&grpc__reflection__v1alpha__file_descriptor_response__descriptor);
    list->file_descriptor_proto = g_new0(ProtobufCBinaryData, files->len);
    for (guint i = 0; i < files->len; i++) {
        const Span *span = &g_array_index(files, Span, i);
        ProtobufCBinaryData *data = &list->file_descriptor_proto[list->n_file_descriptor_proto++];

        data->len = (gsize)(span->end - span->at);
        data->data = g_memdup2(span->at, data->len);
    }
    reply->message_response_case = REPLY(FILE_DESCRIPTOR_RESPONSE);
    reply->file_descriptor_response = list;
}

static gboolean
is_listed(const Grpc__Reflection__V1alpha__ListServiceResponse *list, const char *name)
{
    for (gsize i = 0; i < list->n_service; i++)
        if (g_str_equal(list->service[i]->name, name))
            return TRUE;
    return FALSE;
}

static void
give_services(Response *reply)
{
    Grpc__Reflection__V1alpha__ListServiceResponse *list =
        ckpt_message_new(&grpc__reflection__v1alpha__list_service_response__descriptor);

    list->service = g_new0(Grpc__Reflection__V1alpha__ServiceResponse *, ckpt_n_methods);
    for (guint i = 0; i < ckpt_n_methods; i++) {
        const char *name = ckpt_methods[i].name + 1;
        g_autofree char *service = g_strndup(name, strcspn(name, "/"));
        Grpc__Reflection__V1alpha__ServiceResponse *entry;

        if (is_listed(list, service))
            continue;
        entry = ckpt_message_new(&grpc__reflection__v1alpha__service_response__descriptor);
        entry->name = g_steal_pointer(&service);
        list->service[list->n_service++] = entry;
    }
    reply->message_response_case = REPLY(LIST_SERVICES_RESPONSE);
    reply->list_services_response = list;
}

static GBytes *
answer(const Request *request)
{
    g_autoptr(ProtobufCMessage) owner =
        ckpt_message_new(&grpc__reflection__v1alpha__server_reflection_response__descriptor);
    Response *reply = (void *)owner;
    GBytes *bytes;

    reply->valid_host = g_strdup(request->host);
    switch (request->message_request_case) {
    case ASKED(FILE_BY_FILENAME):
        give_files(reply, file_is_named, request->file_by_filename);
        break;
    case ASKED(FILE_CONTAINING_SYMBOL):
        give_files(reply, file_has_symbol, request->file_containing_symbol);
        break;
    case ASKED(LIST_SERVICES):
        give_services(reply);
        break;
    case ASKED(FILE_CONTAINING_EXTENSION):
    case ASKED(ALL_EXTENSION_NUMBERS_OF_TYPE):
        fail(reply, GRPC_NOT_FOUND, "the API has no extensions");
        break;
    case GRPC__REFLECTION__V1ALPHA__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST__NOT_SET:
    case _GRPC__REFLECTION__V1ALPHA__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST__CASE_IS_INT_SIZE:
        fail(reply, GRPC_UNIMPLEMENTED, "unknown kind of request");
        break;
    }
    /* Borrowed while it is packed. */
    reply->original_request = (Request *)request;
    bytes = ckpt_message_pack(owner);
    reply->original_request = NULL;
    return bytes;
}

const ProtobufCMessageDescriptor *
ckpt_reflection_request(void)
{
    return &grpc__reflection__v1alpha__server_reflection_request__descriptor;
}

/* One request for each stream: more would need a transport that receives on, for nothing that a new
 * stream does not do. */
gboolean
ckpt_reflect(const CkptCaller *caller, const ProtobufCMessage *base, GError **error)
{
    g_autoptr(GBytes) reply = answer((const Request *)base);

    (void)ckpt_call_send(caller->call, reply);
    ckpt_call_finish(caller->call, NULL, NULL);
    return TRUE;
}
