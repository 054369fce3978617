/* Any protobuf-c message as JSON, as proto3's JSON mapping has it, by walking its descriptor. */
#pragma once

#include <json-glib/json-glib.h>
#include <protobuf-c/protobuf-c.h>

typedef enum {
    CKPT_PROTO_JSON_DEFAULT = 0,
    /* Fields without presence are written also when they are zero, empty or []: a script then finds
     * "enabled": false instead of nothing. Absent messages are left out in either case. */
    CKPT_PROTO_JSON_ALL_FIELDS = 1 << 0,
} CkptProtoJsonFlags;

/* Timestamp, Duration and FieldMask have their special forms; an enum value without a name is its
 * number; bytes that are not UTF-8 become U+FFFD. */
JsonNode *ckpt_proto_to_json(const ProtobufCMessage *message,
                             CkptProtoJsonFlags flags) G_GNUC_WARN_UNUSED_RESULT;

/* JSON text that is safe to print: control characters and bidirectional overrides stand as \uNNNN.
 */
char *ckpt_json_to_text(JsonNode *node, gboolean pretty);
