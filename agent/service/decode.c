#include "agent/service/decode.h"

#include "common/text.h"

#include <string.h>

#define DEPTH_MAX 8      /* the API nests 4 deep */
#define STRING_MAX 1024  /* bytes, unless the table below says otherwise */
#define REPEATED_MAX 500 /* entries, likewise */

/* Limits that the proto states, by field name: it uses one name for one thing. */
static const struct {
    const char *field;
    gsize max;
    CkptTextKind kind;
} string_limits[] = {
    {"checkpoint_name", 255, CKPT_TEXT_LINE},
    {"description", 4096, CKPT_TEXT_PARAGRAPHS},
    {"reason", 1024, CKPT_TEXT_LINE},
    {"ticket", 255, CKPT_TEXT_LINE},
    {"hold", 255, CKPT_TEXT_LINE},
    {"key", 63, CKPT_TEXT_LINE},
    {"value", 255, CKPT_TEXT_LINE},
    {"vm_name", 255, CKPT_TEXT_LINE},
    {"vm_names", 255, CKPT_TEXT_LINE},
    {"vm_id", 64, CKPT_TEXT_LINE},
    {"vm_ids", 64, CKPT_TEXT_LINE},
    {"checkpoint_id", 64, CKPT_TEXT_LINE},
    {"request_id", 64, CKPT_TEXT_LINE},
    {"request_ids", 64, CKPT_TEXT_LINE},
    {"run_id", 64, CKPT_TEXT_LINE},
    {"etag", 64, CKPT_TEXT_LINE},
};
static const struct {
    const char *field;
    guint max;
} repeated_limits[] = {{"labels", 32}, {"request_ids", 256}, {"paths", 32}, {"states", 16},
                       {"finding_ids", 256}};

typedef struct {
    const guint8 *at, *end;
} Reader;

typedef struct {
    CkptDecodeMode mode;
    GString
        *path; /* of the message being walked: "options", "checkpoint.labels[3]"; "" at the top */
    GError **error;
} Walk;

enum { WIRE_VARINT = 0, WIRE_64BIT = 1, WIRE_BYTES = 2, WIRE_32BIT = 5 };

static gboolean walk_message(Walk *walk, const ProtobufCMessageDescriptor *type, Reader reader,
                             guint depth);

static gboolean
read_varint(Reader *reader, guint64 *value)
{
    *value = 0;
    for (guint shift = 0; shift < 70 && reader->at < reader->end; shift += 7) {
        guint8 byte = *reader->at++;

        if (shift < 64)
            *value |= (guint64)(byte & 0x7f) << shift;
        if (!(byte & 0x80))
            return TRUE;
    }
    return FALSE;
}

static gboolean
skip(Reader *reader, gsize size)
{
    if (size > (gsize)(reader->end - reader->at))
        return FALSE;
    reader->at += size;
    return TRUE;
}

static char *
field_path(const Walk *walk, const char *name)
{
    return walk->path->len ? g_strdup_printf("%s.%s", walk->path->str, name) : g_strdup(name);
}

static gboolean
refuse(Walk *walk, const char *field, const char *what)
{
    g_autofree char *path = field_path(walk, field);

    ckpt_error_set(walk->error, CKPT_REASON_INVALID_ARGUMENT, "%s %s", path, what);
    ckpt_error_add(walk->error, CKPT_META_FIELD, path);
    return FALSE;
}

static gboolean
malformed(Walk *walk)
{
    const char *path = walk->path->len ? walk->path->str : "the request";

    ckpt_error_set(walk->error, CKPT_REASON_INVALID_ARGUMENT, "%s is not a well-formed message",
                   path);
    if (walk->path->len)
        ckpt_error_add(walk->error, CKPT_META_FIELD, path);
    return FALSE;
}

static gboolean
refuse_unknown_field(Walk *walk, const ProtobufCMessageDescriptor *type, guint64 number)
{
    g_autofree char *name = g_strdup_printf(
        "%s (%" G_GUINT64_FORMAT ")", walk->path->len ? walk->path->str : type->short_name, number);

    ckpt_error_set(walk->error, CKPT_REASON_UNKNOWN_FIELD,
                   "%s: this agent does not know the field with this number", name);
    ckpt_error_add(walk->error, CKPT_META_FIELD, name);
    return FALSE;
}

static gboolean
check_enum(Walk *walk, const ProtobufCFieldDescriptor *field, guint64 value)
{
    g_autofree char *path = NULL;

    if (protobuf_c_enum_descriptor_get_value(field->descriptor, (int)(gint32)value))
        return TRUE;
    path = field_path(walk, field->name);
    ckpt_error_set(walk->error, CKPT_REASON_UNKNOWN_FIELD,
                   "%s: this agent does not know the value %d", path, (int)(gint32)value);
    ckpt_error_add(walk->error, CKPT_META_FIELD, path);
    return FALSE;
}

static gboolean
check_string(Walk *walk, const ProtobufCFieldDescriptor *field, const guint8 *data, gsize size)
{
    g_autofree char *path = field_path(walk, field->name);
    CkptTextKind kind = CKPT_TEXT_LINE;
    gsize max = STRING_MAX;

    for (gsize i = 0; i < G_N_ELEMENTS(string_limits); i++)
        if (g_str_equal(field->name, string_limits[i].field)) {
            max = string_limits[i].max;
            kind = string_limits[i].kind;
        }
    return ckpt_text_check(path, (const char *)data, (gssize)size, max, kind, walk->error);
}

static gboolean
check_count(Walk *walk, const ProtobufCFieldDescriptor *field, guint count)
{
    g_autofree char *what = NULL;
    guint max = REPEATED_MAX;

    for (gsize i = 0; i < G_N_ELEMENTS(repeated_limits); i++)
        if (g_str_equal(field->name, repeated_limits[i].field))
            max = repeated_limits[i].max;
    if (count <= max)
        return TRUE;
    what = g_strdup_printf("has more than %u entries", max);
    return refuse(walk, field->name, what);
}

static gboolean
walk_submessage(Walk *walk, const ProtobufCFieldDescriptor *field, Reader inner, guint index,
                guint depth)
{
    gsize length = walk->path->len;
    gboolean ok;

    if (depth >= DEPTH_MAX)
        return malformed(walk);
    g_string_append_printf(walk->path, "%s%s", length ? "." : "", field->name);
    if (field->label == PROTOBUF_C_LABEL_REPEATED)
        g_string_append_printf(walk->path, "[%u]", index);
    ok = walk_message(walk, field->descriptor, inner, depth + 1);
    g_string_truncate(walk->path, length);
    return ok;
}

/* The wire type of one value of the field. */
static guint
wire_type_of(ProtobufCType type)
{
    switch (type) {
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_BOOL:
    case PROTOBUF_C_TYPE_ENUM:
        return WIRE_VARINT;
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_DOUBLE:
        return WIRE_64BIT;
    case PROTOBUF_C_TYPE_FIXED32:
    case PROTOBUF_C_TYPE_SFIXED32:
    case PROTOBUF_C_TYPE_FLOAT:
        return WIRE_32BIT;
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_BYTES:
    case PROTOBUF_C_TYPE_MESSAGE:
        return WIRE_BYTES;
    }
    return WIRE_BYTES;
}

static gboolean
walk_scalar(Walk *walk, const ProtobufCFieldDescriptor *field, Reader *reader)
{
    guint64 value;

    switch (wire_type_of(field->type)) {
    case WIRE_64BIT:
        return skip(reader, 8) || malformed(walk);
    case WIRE_32BIT:
        return skip(reader, 4) || malformed(walk);
    default:
        if (!read_varint(reader, &value))
            return malformed(walk);
        return field->type != PROTOBUF_C_TYPE_ENUM || check_enum(walk, field, value);
    }
}

static gboolean
walk_packed(Walk *walk, const ProtobufCFieldDescriptor *field, Reader inner, guint *count)
{
    while (inner.at < inner.end)
        if (!check_count(walk, field, ++*count) || !walk_scalar(walk, field, &inner))
            return FALSE;
    return TRUE;
}

static gboolean
walk_bytes(Walk *walk, const ProtobufCFieldDescriptor *field, Reader *reader, guint *count,
           guint depth)
{
    gboolean repeated = field->label == PROTOBUF_C_LABEL_REPEATED;
    Reader inner;
    guint64 size;

    if (!read_varint(reader, &size))
        return malformed(walk);
    inner.at = reader->at;
    if (size > G_MAXINT32 || !skip(reader, size))
        return malformed(walk);
    inner.end = reader->at;
    if (wire_type_of(field->type) != WIRE_BYTES)
        return repeated ? walk_packed(walk, field, inner, count) : malformed(walk);
    if (repeated && !check_count(walk, field, ++*count))
        return FALSE;
    if (field->type == PROTOBUF_C_TYPE_STRING)
        return check_string(walk, field, inner.at, size);
    if (field->type == PROTOBUF_C_TYPE_MESSAGE)
        return walk_submessage(walk, field, inner, *count - 1, depth);
    return TRUE;
}

static gboolean
skip_unknown(Walk *walk, Reader *reader, guint wire_type)
{
    guint64 value;

    switch (wire_type) {
    case WIRE_VARINT:
        return read_varint(reader, &value) || malformed(walk);
    case WIRE_64BIT:
        return skip(reader, 8) || malformed(walk);
    case WIRE_32BIT:
        return skip(reader, 4) || malformed(walk);
    case WIRE_BYTES:
        return (read_varint(reader, &value) && skip(reader, value)) || malformed(walk);
    default: /* groups: proto2's, and protobuf-c refuses them too */
        return malformed(walk);
    }
}

static gboolean
walk_message(Walk *walk, const ProtobufCMessageDescriptor *type, Reader reader, guint depth)
{
    g_autofree guint *counts = g_new0(guint, type->n_fields + 1);

    while (reader.at < reader.end) {
        const ProtobufCFieldDescriptor *field;
        guint64 tag;
        guint wire_type;

        /* A field number has 29 bits. */
        if (!read_varint(&reader, &tag) || tag > G_MAXUINT32 || tag >> 3 == 0)
            return malformed(walk);
        wire_type = tag & 7;
        field = protobuf_c_message_descriptor_get_field(type, (unsigned)(tag >> 3));
        if (!field) {
            if (walk->mode == CKPT_DECODE_STRICT)
                return refuse_unknown_field(walk, type, tag >> 3);
            if (!skip_unknown(walk, &reader, wire_type))
                return FALSE;
            continue;
        }
        if (wire_type == WIRE_BYTES) {
            if (!walk_bytes(walk, field, &reader, &counts[field - type->fields], depth))
                return FALSE;
            continue;
        }
        if (wire_type != wire_type_of(field->type))
            return refuse(walk, field->name, "has the wrong type");
        if (field->label == PROTOBUF_C_LABEL_REPEATED &&
            !check_count(walk, field, ++counts[field - type->fields]))
            return FALSE;
        if (!walk_scalar(walk, field, &reader))
            return FALSE;
    }
    return TRUE;
}

ProtobufCMessage *
ckpt_decode(const ProtobufCMessageDescriptor *type, const guint8 *data, gsize size,
            CkptDecodeMode mode, GError **error)
{
    /* With room for any path, so that a walk allocates once. */
    g_autoptr(GString) path = g_string_sized_new(128);
    Walk walk = {mode, path, error};
    /* NULL of size 0 is nothing to count from; protobuf-c takes it only since 1.5. */
    const guint8 *begin = size > 0 ? data : (const guint8 *)"";
    Reader reader = {begin, begin + size};
    ProtobufCMessage *message;

    if (!walk_message(&walk, type, reader, 0))
        return NULL;
    message = protobuf_c_message_unpack(type, NULL, size, begin);
    if (!message)
        malformed(&walk);
    return message;
}
