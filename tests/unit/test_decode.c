#include "agent/service/decode.h"
#include "tests/unit/cmocka_all.h"

#include "vmcheckpoint/v1/agent.pb-c.h"
#include "vmcheckpoint/v1/checkpoint.pb-c.h"
#include "vmcheckpoint/v1/lease.pb-c.h"
#include "vmcheckpoint/v1/operation.pb-c.h"
#include "vmcheckpoint/v1/virtual_machine.pb-c.h"

#include <string.h>

#define CREATE (&vmcheckpoint__v1__create_checkpoint_request__descriptor)

/* ---- Bytes by hand: what no encoder would write ---- */

static void
put_varint(GByteArray *out, guint64 value)
{
    do {
        guint8 byte = (guint8)((value & 0x7f) | (value > 0x7f ? 0x80 : 0));

        g_byte_array_append(out, &byte, 1);
        value >>= 7;
    } while (value);
}

static void
put_bytes(GByteArray *out, guint field, const void *data, gsize size)
{
    put_varint(out, field << 3 | 2);
    put_varint(out, size);
    g_byte_array_append(out, data, (guint)size);
}

static void
put_text(GByteArray *out, guint field, const char *text)
{
    put_bytes(out, field, text, strlen(text));
}

static void
put_number(GByteArray *out, guint field, guint64 value)
{
    put_varint(out, (guint64)field << 3);
    put_varint(out, value);
}

static ProtobufCMessage *
decode(const ProtobufCMessageDescriptor *type, GByteArray *bytes, CkptDecodeMode mode,
       GError **error)
{
    /* A copy of exactly this size, so that the sanitizer sees a read beyond it. */
    g_autofree guint8 *data = g_memdup2(bytes->data, bytes->len);

    return ckpt_decode(type, data, bytes->len, mode, error);
}

static void
assert_refused(const ProtobufCMessageDescriptor *type, GByteArray *bytes, CkptReason reason,
               const char *field)
{
    g_autoptr(GError) error = NULL;
    ProtobufCMessage *message = decode(type, bytes, CKPT_DECODE_STRICT, &error);
    GHashTable *metadata;

    if (message)
        fail_msg("accepted; expected a refusal of %s", field);
    metadata = ckpt_error_metadata(error);
    assert_int_equal(ckpt_error_reason(error), reason);
    if (field) {
        assert_non_null(metadata);
        assert_string_equal(g_hash_table_lookup(metadata, CKPT_META_FIELD), field);
    }
}

static void
assert_accepted(const ProtobufCMessageDescriptor *type, GByteArray *bytes, CkptDecodeMode mode)
{
    g_autoptr(GError) error = NULL;
    ProtobufCMessage *message = decode(type, bytes, mode, &error);

    if (!message)
        fail_msg("refused: %s", error->message);
    protobuf_c_message_free_unpacked(message, NULL);
}

static void
an_empty_request_is_a_message(void **state)
{
    g_autoptr(GByteArray) bytes = g_byte_array_new();

    assert_accepted(CREATE, bytes, CKPT_DECODE_STRICT);
    assert_accepted(&vmcheckpoint__v1__get_agent_info_request__descriptor, bytes,
                    CKPT_DECODE_LENIENT);
}

static void
an_unknown_field_is_refused_by_number(void **state)
{
    g_autoptr(GByteArray) bytes = g_byte_array_new();

    put_text(bytes, 99, "x");
    assert_refused(CREATE, bytes, CKPT_REASON_UNKNOWN_FIELD, "CreateCheckpointRequest (99)");
    assert_accepted(CREATE, bytes, CKPT_DECODE_LENIENT);
}

static void
an_unknown_field_at_depth_is_refused_with_its_path(void **state)
{
    g_autoptr(GByteArray) wait = g_byte_array_new();
    g_autoptr(GByteArray) options = g_byte_array_new();
    g_autoptr(GByteArray) label = g_byte_array_new();
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    g_autoptr(GByteArray) labels = g_byte_array_new();

    put_number(wait, 7, 1);
    put_bytes(options, 3, wait->data, wait->len);
    put_bytes(bytes, 1, options->data, options->len);
    assert_refused(CREATE, bytes, CKPT_REASON_UNKNOWN_FIELD, "options.wait (7)");

    put_text(label, 1, "k");
    put_bytes(labels, 8, label->data, label->len);
    put_text(label, 536870911, "x");
    put_bytes(labels, 8, label->data, label->len);
    assert_refused(CREATE, labels, CKPT_REASON_UNKNOWN_FIELD, "labels[1] (536870911)");
}

static void
an_unknown_enum_value_is_refused(void **state)
{
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    g_autoptr(GByteArray) negative = g_byte_array_new();
    g_autoptr(GByteArray) options = g_byte_array_new();
    g_autoptr(GByteArray) nested = g_byte_array_new();
    g_autoptr(GByteArray) packed = g_byte_array_new();
    g_autoptr(GByteArray) states = g_byte_array_new();

    put_number(bytes, 5, 4);
    assert_refused(CREATE, bytes, CKPT_REASON_UNKNOWN_FIELD, "consistency");
    put_number(negative, 5, (guint64)-1);
    assert_refused(CREATE, negative, CKPT_REASON_UNKNOWN_FIELD, "consistency");
    put_number(options, 4, 77);
    put_bytes(nested, 1, options->data, options->len);
    assert_refused(CREATE, nested, CKPT_REASON_UNKNOWN_FIELD, "options.return_when");
    put_varint(packed, 1);
    put_varint(packed, 9);
    put_bytes(states, 2, packed->data, packed->len);
    assert_refused(&vmcheckpoint__v1__operation_filter__descriptor, states,
                   CKPT_REASON_UNKNOWN_FIELD, "states");
}

static void
a_nul_in_a_string_is_refused(void **state)
{
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    g_autoptr(GByteArray) label = g_byte_array_new();
    g_autoptr(GByteArray) nested = g_byte_array_new();

    put_bytes(bytes, 3, "web\0; rm", 8);
    assert_refused(CREATE, bytes, CKPT_REASON_INVALID_ARGUMENT, "checkpoint_name");
    put_text(label, 1, "key");
    put_bytes(label, 2, "\0", 1);
    put_bytes(nested, 8, label->data, label->len);
    assert_refused(CREATE, nested, CKPT_REASON_INVALID_ARGUMENT, "labels[0].value");
}

static void
invalid_utf8_and_control_characters_are_refused(void **state)
{
    static const char *const bad[] = {"\xff", "\xc0\x80", "\xed\xa0\x80",
                                      "a\nb", "\x1b[2J",  "\xe2\x80\xae"};

    for (gsize i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GByteArray) bytes = g_byte_array_new();

        put_text(bytes, 3, bad[i]);
        assert_refused(CREATE, bytes, CKPT_REASON_INVALID_ARGUMENT, "checkpoint_name");
    }
}

static void
descriptions_may_have_lines(void **state)
{
    g_autoptr(GByteArray) bytes = g_byte_array_new();

    put_text(bytes, 4, "one\n\ttwo");
    assert_accepted(CREATE, bytes, CKPT_DECODE_STRICT);
}

static void
what_is_too_long_is_refused(void **state)
{
    g_autofree char *name = g_strnfill(10 * 1024, 'n');
    g_autofree char *just = g_strnfill(255, 'n');
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    g_autoptr(GByteArray) fits = g_byte_array_new();
    g_autoptr(GByteArray) any = g_byte_array_new();

    put_text(bytes, 3, name);
    assert_refused(CREATE, bytes, CKPT_REASON_INVALID_ARGUMENT, "checkpoint_name");
    put_text(fits, 3, just);
    assert_accepted(CREATE, fits, CKPT_DECODE_STRICT);
    put_text(any, 3, name); /* a field without a limit of its own */
    assert_refused(&vmcheckpoint__v1__list_leases_request__descriptor, any,
                   CKPT_REASON_INVALID_ARGUMENT, "page_token");
}

static void
lists_are_bounded(void **state)
{
    g_autoptr(GByteArray) bytes = g_byte_array_new();

    /* Empty sub-messages: two bytes each, forty times that once unpacked. */
    for (guint i = 0; i < 32 * 1024; i++)
        put_bytes(bytes, 8, "", 0);
    assert_refused(CREATE, bytes, CKPT_REASON_INVALID_ARGUMENT, "labels");
}

static void
what_is_cut_or_mistyped_is_refused(void **state)
{
    g_autoptr(GByteArray) group = g_byte_array_new();
    g_autoptr(GByteArray) typed = g_byte_array_new();
    g_autoptr(GByteArray) zero = g_byte_array_new();
    g_autoptr(GByteArray) whole = g_byte_array_new();

    put_varint(group, 3 << 3 | 3);
    assert_refused(CREATE, group, CKPT_REASON_INVALID_ARGUMENT, NULL);
    put_number(typed, 3, 5);
    assert_refused(CREATE, typed, CKPT_REASON_INVALID_ARGUMENT, "checkpoint_name");
    put_number(zero, 0, 1);
    assert_refused(CREATE, zero, CKPT_REASON_INVALID_ARGUMENT, NULL);
    put_text(whole, 3, "name");
    while (whole->len > 1) {
        g_byte_array_set_size(whole, whole->len - 1);
        assert_refused(CREATE, whole, CKPT_REASON_INVALID_ARGUMENT, NULL);
    }
}

/* ---- Random bytes ---- */

static const ProtobufCMessageDescriptor *const types[] = {
    &vmcheckpoint__v1__create_checkpoint_request__descriptor,
    &vmcheckpoint__v1__list_checkpoints_request__descriptor,
    &vmcheckpoint__v1__update_checkpoint_request__descriptor,
    &vmcheckpoint__v1__restore_checkpoint_request__descriptor,
    &vmcheckpoint__v1__watch_operations_request__descriptor,
    &vmcheckpoint__v1__list_virtual_machines_request__descriptor,
    &vmcheckpoint__v1__get_operation_response__descriptor,
};

/* Noise, or bytes that look like fields: low field numbers, plausible lengths. */
static void
make_noise(GRand *random, GByteArray *out)
{
    guint n = (guint)g_rand_int_range(random, 0, 40);
    gboolean shaped = g_rand_boolean(random);

    g_byte_array_set_size(out, 0);
    for (guint i = 0; i < n; i++) {
        guint8 byte = (guint8)g_rand_int_range(random, 0, 256);

        if (shaped && i % 3 == 0)
            byte =
                (guint8)(g_rand_int_range(random, 1, 13) << 3 | (g_rand_boolean(random) ? 2 : 0));
        else if (shaped && i % 3 == 1)
            byte = (guint8)g_rand_int_range(random, 0, 12);
        g_byte_array_append(out, &byte, 1);
    }
}

/* Whatever is accepted was understood whole. */
static void
random_bytes_never_pass_half_read(void **state)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(20261122);
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    guint accepted = 0;

    for (guint i = 0; i < 100000; i++) {
        CkptDecodeMode mode = i % 2 ? CKPT_DECODE_STRICT : CKPT_DECODE_LENIENT;
        g_autoptr(GError) error = NULL;
        ProtobufCMessage *message;

        make_noise(random, bytes);
        message = decode(types[i % G_N_ELEMENTS(types)], bytes, mode, &error);
        assert_true((message != NULL) == (error == NULL));
        if (!message)
            continue;
        accepted++;
        assert_true(mode == CKPT_DECODE_LENIENT || message->n_unknown_fields == 0);
        protobuf_c_message_free_unpacked(message, NULL);
    }
    assert_true(accepted > 100);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_request_is_a_message),
        cmocka_unit_test(an_unknown_field_is_refused_by_number),
        cmocka_unit_test(an_unknown_field_at_depth_is_refused_with_its_path),
        cmocka_unit_test(an_unknown_enum_value_is_refused),
        cmocka_unit_test(a_nul_in_a_string_is_refused),
        cmocka_unit_test(invalid_utf8_and_control_characters_are_refused),
        cmocka_unit_test(descriptions_may_have_lines),
        cmocka_unit_test(what_is_too_long_is_refused),
        cmocka_unit_test(lists_are_bounded),
        cmocka_unit_test(what_is_cut_or_mistyped_is_refused),
        cmocka_unit_test(random_bytes_never_pass_half_read),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
