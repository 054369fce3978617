/* Turns a stranger's bytes into a message, or refuses them by name. Works over protobuf-c's
 * descriptors, so it holds for every message, also for those to come. */
#pragma once

#include "common/error.h"

#include <protobuf-c/protobuf-c.h>

typedef enum {
    CKPT_DECODE_LENIENT, /* unknown fields are passed over: reads that must work between versions */
    CKPT_DECODE_STRICT /* unknown fields are UNKNOWN_FIELD: whatever changes or selects something */
} CkptDecodeMode;

/* Checks the bytes, then unpacks them. What protobuf-c would let pass is refused: strings that are
 * not UTF-8 or have a NUL (it would cut them there), control characters, enum values without a
 * name, too long strings and lists. INVALID_ARGUMENT, or UNKNOWN_FIELD, with metadata "field". Free
 * the result with protobuf_c_message_free_unpacked(). */
ProtobufCMessage *ckpt_decode(const ProtobufCMessageDescriptor *type, const guint8 *data,
                              gsize size, CkptDecodeMode mode,
                              GError **error) G_GNUC_WARN_UNUSED_RESULT;
