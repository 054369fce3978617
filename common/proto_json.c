#include "common/proto_json.h"

#include <math.h>
#include <string.h>
#include <time.h>

static JsonNode *message_to_json(const ProtobufCMessage *message, CkptProtoJsonFlags flags);

static JsonNode *
node_take_string(char *text)
{
    JsonNode *node = json_node_init_string(json_node_alloc(), text);

    g_free(text);
    return node;
}

static JsonNode *
node_take_object(JsonObject *object)
{
    JsonNode *node = json_node_init_object(json_node_alloc(), object);

    json_object_unref(object); /* the node has a reference of its own */
    return node;
}

static JsonNode *
node_string(const char *text)
{
    return node_take_string(g_utf8_make_valid(text ? text : "", -1));
}

/* "checkpoint_id" → "checkpointId"; with first_upper "CheckpointId". */
static char *
camel_case(const char *name, gboolean first_upper)
{
    GString *out = g_string_new(NULL);
    gboolean upper = first_upper;

    for (; *name; name++) {
        if (*name != '_')
            g_string_append_c(out, upper ? g_ascii_toupper(*name) : *name);
        upper = *name == '_';
    }
    return g_string_free(out, FALSE);
}

/* The fraction as proto JSON has it: 0, 3, 6 or 9 digits. */
static char *
fraction_text(int nanos)
{
    if (nanos == 0)
        return g_strdup("");
    if (nanos % 1000000 == 0)
        return g_strdup_printf(".%03d", nanos / 1000000);
    if (nanos % 1000 == 0)
        return g_strdup_printf(".%06d", nanos / 1000);
    return g_strdup_printf(".%09d", nanos);
}

static gint64
int64_field(const ProtobufCMessage *message, const char *name)
{
    const ProtobufCFieldDescriptor *field =
        protobuf_c_message_descriptor_get_field_by_name(message->descriptor, name);

    return *(const gint64 *)((const char *)message + field->offset);
}

static int
int32_field(const ProtobufCMessage *message, const char *name)
{
    const ProtobufCFieldDescriptor *field =
        protobuf_c_message_descriptor_get_field_by_name(message->descriptor, name);

    return *(const int32_t *)((const char *)message + field->offset);
}

static JsonNode *
timestamp_to_json(const ProtobufCMessage *message)
{
    /* 0001-01-01 to 9999-12-31, the range of the type: a stranger's value may be outside. */
    time_t seconds = (time_t)CLAMP(int64_field(message, "seconds"), -62135596800LL, 253402300799LL);
    g_autofree char *fraction = fraction_text(CLAMP(int32_field(message, "nanos"), 0, 999999999));
    struct tm tm;

    gmtime_r(&seconds, &tm);
    return node_take_string(g_strdup_printf("%04d-%02d-%02dT%02d:%02d:%02d%sZ", tm.tm_year + 1900,
                                            tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min,
                                            tm.tm_sec, fraction));
}

static JsonNode *
duration_to_json(const ProtobufCMessage *message)
{
    gint64 seconds = int64_field(message, "seconds");
    int nanos = CLAMP(int32_field(message, "nanos"), -999999999, 999999999);
    g_autofree char *fraction = fraction_text(ABS(nanos));
    guint64 magnitude = seconds < 0 ? 0 - (guint64)seconds : (guint64)seconds;

    return node_take_string(g_strdup_printf(
        "%s%" G_GUINT64_FORMAT "%ss", seconds < 0 || nanos < 0 ? "-" : "", magnitude, fraction));
}

static JsonNode *
field_mask_to_json(const ProtobufCMessage *message)
{
    const ProtobufCFieldDescriptor *field = &message->descriptor->fields[0];
    gsize n = *(const size_t *)((const char *)message + field->quantifier_offset);
    char **paths = *(char **const *)((const char *)message + field->offset);
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);

    for (gsize i = 0; i < n; i++)
        g_ptr_array_add(names, camel_case(paths[i], FALSE));
    g_ptr_array_add(names, NULL);
    return node_take_string(g_strjoinv(",", (char **)names->pdata));
}

static JsonNode *
enum_to_json(const ProtobufCEnumDescriptor *descriptor, int number)
{
    const ProtobufCEnumValue *value = protobuf_c_enum_descriptor_get_value(descriptor, number);

    return value ? node_string(value->name) : json_node_init_int(json_node_alloc(), number);
}

static JsonNode *
double_to_json(double value)
{
    if (isnan(value))
        return node_string("NaN");
    if (isinf(value))
        return node_string(value > 0 ? "Infinity" : "-Infinity");
    return json_node_init_double(json_node_alloc(), value);
}

static JsonNode *
bytes_to_json(const ProtobufCBinaryData *bytes)
{
    return bytes->len ? node_take_string(g_base64_encode(bytes->data, bytes->len))
                      : node_string("");
}

/* One value at p, which is no list. */
static JsonNode *
value_to_json(const ProtobufCFieldDescriptor *field, const void *p, CkptProtoJsonFlags flags)
{
    switch (field->type) {
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_SFIXED32:
        return json_node_init_int(json_node_alloc(), *(const int32_t *)p);
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32:
        return json_node_init_int(json_node_alloc(), *(const uint32_t *)p);
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
        return node_take_string(g_strdup_printf("%" G_GINT64_FORMAT, *(const gint64 *)p));
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
        return node_take_string(g_strdup_printf("%" G_GUINT64_FORMAT, *(const guint64 *)p));
    case PROTOBUF_C_TYPE_FLOAT:
        return double_to_json((double)*(const float *)p);
    case PROTOBUF_C_TYPE_DOUBLE:
        return double_to_json(*(const double *)p);
    case PROTOBUF_C_TYPE_BOOL:
        return json_node_init_boolean(json_node_alloc(), *(const protobuf_c_boolean *)p);
    case PROTOBUF_C_TYPE_ENUM:
        return enum_to_json(field->descriptor, *(const int *)p);
    case PROTOBUF_C_TYPE_STRING:
        return node_string(*(const char *const *)p);
    case PROTOBUF_C_TYPE_BYTES:
        return bytes_to_json(p);
    case PROTOBUF_C_TYPE_MESSAGE:
        return message_to_json(*(const ProtobufCMessage *const *)p, flags);
    }
    return json_node_init_null(json_node_alloc());
}

static gsize
value_size(ProtobufCType type)
{
    switch (type) {
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_SFIXED32:
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32:
    case PROTOBUF_C_TYPE_FLOAT:
    case PROTOBUF_C_TYPE_ENUM:
        return 4;
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_DOUBLE:
        return 8;
    case PROTOBUF_C_TYPE_BOOL:
        return sizeof(protobuf_c_boolean);
    case PROTOBUF_C_TYPE_BYTES:
        return sizeof(ProtobufCBinaryData);
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_MESSAGE:
        return sizeof(void *);
    }
    return 0;
}

static gboolean
is_default(const ProtobufCFieldDescriptor *field, const void *p)
{
    static const char zeros[8];

    if (field->type == PROTOBUF_C_TYPE_STRING) {
        const char *text = *(const char *const *)p;

        return !text || !*text;
    }
    if (field->type == PROTOBUF_C_TYPE_BYTES)
        return ((const ProtobufCBinaryData *)p)->len == 0;
    if (field->type == PROTOBUF_C_TYPE_MESSAGE)
        return *(void *const *)p == NULL;
    return memcmp(p, zeros, value_size(field->type)) == 0;
}

/* protobuf-c drops the map_entry option, but not the name that protoc gives such a message. */
static gboolean
is_map(const ProtobufCMessageDescriptor *owner, const ProtobufCFieldDescriptor *field)
{
    const ProtobufCMessageDescriptor *entry = field->descriptor;
    g_autofree char *camel = NULL, *name = NULL;

    if (field->type != PROTOBUF_C_TYPE_MESSAGE || entry->n_fields != 2 ||
        strcmp(entry->fields[0].name, "key") != 0)
        return FALSE;
    camel = camel_case(field->name, TRUE);
    name = g_strconcat(owner->name, ".", camel, "Entry", NULL);
    return strcmp(entry->name, name) == 0;
}

/* A map's key is a string in JSON, whatever it is in proto. */
static char *
key_text(JsonNode *key)
{
    if (json_node_get_value_type(key) == G_TYPE_STRING)
        return g_strdup(json_node_get_string(key));
    if (json_node_get_value_type(key) == G_TYPE_BOOLEAN)
        return g_strdup(json_node_get_boolean(key) ? "true" : "false");
    return g_strdup_printf("%" G_GINT64_FORMAT, json_node_get_int(key));
}

static JsonNode *
map_to_json(ProtobufCMessage *const *entries, gsize n, CkptProtoJsonFlags flags)
{
    JsonObject *object = json_object_new();

    for (gsize i = 0; i < n; i++) {
        const ProtobufCFieldDescriptor *fields = entries[i]->descriptor->fields;
        const char *base = (const char *)entries[i];
        g_autoptr(JsonNode) key = value_to_json(&fields[0], base + fields[0].offset, flags);
        g_autofree char *text = key_text(key);

        json_object_set_member(object, text,
                               value_to_json(&fields[1], base + fields[1].offset, flags));
    }
    return node_take_object(object);
}

static JsonNode *
list_to_json(const ProtobufCFieldDescriptor *field, const char *first, gsize n,
             CkptProtoJsonFlags flags)
{
    JsonArray *array = json_array_sized_new((guint)n);
    JsonNode *node;

    for (gsize i = 0; i < n; i++)
        json_array_add_element(array,
                               value_to_json(field, first + i * value_size(field->type), flags));
    node = json_node_init_array(json_node_alloc(), array);
    json_array_unref(array); /* the node has a reference of its own */
    return node;
}

/* NULL when the field is not written. */
static JsonNode *
field_to_json(const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field,
              CkptProtoJsonFlags flags)
{
    const char *base = (const char *)message;
    const void *p = base + field->offset;

    if (field->label == PROTOBUF_C_LABEL_REPEATED) {
        gsize n = *(const size_t *)(base + field->quantifier_offset);
        gboolean map = is_map(message->descriptor, field);

        if (n == 0 && !(flags & CKPT_PROTO_JSON_ALL_FIELDS))
            return NULL;
        return map ? map_to_json(*(ProtobufCMessage * *const *)p, n, flags)
                   : list_to_json(field, *(char *const *)p, n, flags);
    }
    if (field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) {
        if (*(const uint32_t *)(base + field->quantifier_offset) != field->id)
            return NULL;
    } else if (is_default(field, p) &&
               (field->type == PROTOBUF_C_TYPE_MESSAGE || !(flags & CKPT_PROTO_JSON_ALL_FIELDS))) {
        return NULL;
    }
    return value_to_json(field, p, flags);
}

static JsonNode *
message_to_json(const ProtobufCMessage *message, CkptProtoJsonFlags flags)
{
    const ProtobufCMessageDescriptor *descriptor;
    JsonObject *object;

    if (!message)
        return json_node_init_null(json_node_alloc());
    descriptor = message->descriptor;
    if (strcmp(descriptor->name, "google.protobuf.Timestamp") == 0)
        return timestamp_to_json(message);
    if (strcmp(descriptor->name, "google.protobuf.Duration") == 0)
        return duration_to_json(message);
    if (strcmp(descriptor->name, "google.protobuf.FieldMask") == 0)
        return field_mask_to_json(message);
    object = json_object_new();
    for (unsigned i = 0; i < descriptor->n_fields; i++) {
        JsonNode *value = field_to_json(message, &descriptor->fields[i], flags);
        g_autofree char *name = NULL;

        if (!value)
            continue;
        name = camel_case(descriptor->fields[i].name, FALSE);
        json_object_set_member(object, name, value);
    }
    return node_take_object(object);
}

JsonNode *
ckpt_proto_to_json(const ProtobufCMessage *message, CkptProtoJsonFlags flags)
{
    return message_to_json(message, flags);
}

char *
ckpt_json_to_text(JsonNode *node, gboolean pretty)
{
    g_autofree char *text = json_to_string(node, pretty);
    GString *out = g_string_sized_new(strlen(text) + 1);

    /* They can stand only within strings, so that the escape means the same. */
    for (const char *p = text; *p; p = g_utf8_next_char(p)) {
        gunichar c = g_utf8_get_char(p);

        if ((c >= 0x7f && c < 0xa0) || (c >= 0x2028 && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069))
            g_string_append_printf(out, "\\u%04x", c);
        else
            g_string_append_len(out, p, g_utf8_next_char(p) - p);
    }
    return g_string_free(out, FALSE);
}
