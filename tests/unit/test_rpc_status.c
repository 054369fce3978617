#include "common/error.h"
#include "common/rpc_status.h"
#include "tests/unit/cmocka_all.h"

#include <string.h>

static CkptRpcStatus *
round_trip(const CkptRpcStatus *sent)
{
    g_autoptr(GBytes) bytes = ckpt_rpc_status_pack(sent);
    /* What gRPC itself carries: code and message. */
    CkptRpcStatus *received = ckpt_rpc_status_new(sent->code, sent->message);

    assert_non_null(bytes);
    assert_true(g_bytes_get_size(bytes) <= CKPT_STATUS_DETAILS_MAX);
    assert_true(
        ckpt_rpc_status_unpack(received, g_bytes_get_data(bytes, NULL), g_bytes_get_size(bytes)));
    return received;
}

static void
an_error_survives_the_way_there_and_back(void **state)
{
    g_autoptr(GError) error = NULL, back = NULL;
    g_autoptr(CkptRpcStatus) sent = NULL, received = NULL;

    ckpt_error_set(&error, CKPT_REASON_DEPTH_LIMIT, "web-01 has %d checkpoints", 32);
    ckpt_error_add(&error, CKPT_META_VM, "6ba7b810-9dad-11d1-80b4-00c04fd430c8");
    ckpt_error_add(&error, CKPT_META_FIELD, "name");
    ckpt_error_set_retry_ms(&error, 1500);
    sent = ckpt_rpc_status_from_error(error);
    assert_int_equal(sent->code, 8);
    received = round_trip(sent);
    ckpt_rpc_status_to_error(received, &back);
    assert_true(g_error_matches(back, CKPT_ERROR, CKPT_REASON_DEPTH_LIMIT));
    assert_string_equal(back->message, "web-01 has 32 checkpoints");
    assert_int_equal(ckpt_error_retry_ms(back), 1500);
    assert_string_equal(g_hash_table_lookup(ckpt_error_metadata(back), CKPT_META_VM),
                        "6ba7b810-9dad-11d1-80b4-00c04fd430c8");
    assert_string_equal(g_hash_table_lookup(ckpt_error_metadata(back), CKPT_META_FIELD), "name");
}

static void
an_error_of_another_domain_is_internal(void **state)
{
    g_autoptr(GError) error = g_error_new(G_FILE_ERROR, G_FILE_ERROR_NOSPC, "disk full");
    g_autoptr(CkptRpcStatus) status = ckpt_rpc_status_from_error(error);

    assert_int_equal(status->code, 13);
    assert_string_equal(status->reason, "INTERNAL");
    assert_string_equal(status->message, "disk full");
}

static void
a_long_message_is_cut_between_characters(void **state)
{
    g_autofree char *ascii = g_strnfill(9000, 'x');
    g_autoptr(GString) umlauts = g_string_new(NULL);
    g_autoptr(CkptRpcStatus) plain = NULL, wide = NULL;

    for (int i = 0; i < 3000; i++)
        g_string_append(umlauts, "\xc3\xa4");
    plain = ckpt_rpc_status_new(13, ascii);
    assert_int_equal(strlen(plain->message), CKPT_STATUS_MESSAGE_MAX);
    assert_true(g_str_has_suffix(plain->message, "x..."));
    wide = ckpt_rpc_status_new(13, umlauts->str);
    assert_true(g_utf8_validate(wide->message, -1, NULL));
    /* 2048 bytes when percent-encoded: six for each ä */
    assert_true(strlen(wide->message) <= 2048 / 6 * 2 + 3);
    assert_true(g_str_has_suffix(wide->message, "\xc3\xa4..."));
}

static void
a_message_that_just_fits_is_not_cut(void **state)
{
    g_autofree char *text = g_strnfill(CKPT_STATUS_MESSAGE_MAX, 'x');
    g_autoptr(CkptRpcStatus) status = ckpt_rpc_status_new(13, text);

    assert_string_equal(status->message, text);
}

static void
control_characters_and_bad_utf8_do_not_reach_a_terminal(void **state)
{
    g_autoptr(CkptRpcStatus) status = ckpt_rpc_status_new(13, "a\nb\033[31mc\xff\xc2\x9b"
                                                              "d\xe2\x80\xa8"
                                                              "e");

    assert_string_equal(status->message, "a b [31mc\xef\xbf\xbd d e");
}

static void
details_never_exceed_their_limit(void **state)
{
    g_autofree char *huge = g_strnfill(9000, 'v');
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptRpcStatus) sent = NULL, received = NULL;

    ckpt_error_set(&error, CKPT_REASON_SPACE_LOW, "%s", huge);
    for (int i = 0; i < 200; i++) {
        g_autofree char *key = g_strdup_printf("key_%03d", i);

        ckpt_error_add(&error, key, huge);
    }
    ckpt_error_add(&error, CKPT_META_FIELD, huge);
    ckpt_error_add(&error, CKPT_META_VM, "the-vm");
    sent = ckpt_rpc_status_from_error(error);
    received = round_trip(sent);
    assert_string_equal(received->reason, "SPACE_LOW");
    /* What callers act on is kept first. */
    assert_string_equal(g_hash_table_lookup(received->metadata, CKPT_META_VM), "the-vm");
    assert_non_null(g_hash_table_lookup(received->metadata, CKPT_META_FIELD));
}

static void
ok_has_no_details(void **state)
{
    g_autoptr(CkptRpcStatus) status = ckpt_rpc_status_new(0, NULL);

    assert_null(ckpt_rpc_status_pack(status));
}

static void
bytes_that_are_no_status_leave_it_alone(void **state)
{
    static const char *const bad[] = {"\xff\xff\xff",
                                      "\x1a\x05"
                                      "abc",
                                      /* an Any of ErrorInfo whose value does not decode */
                                      "\x1a\x2e\x0a\x28"
                                      "type.googleapis.com/google.rpc.ErrorInfo"
                                      "\x12\x02\x0a\x7f"};
    g_autofree guint8 *huge = g_malloc0(100000);

    for (gsize i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(CkptRpcStatus) status = ckpt_rpc_status_new(14, "as it was");

        assert_false(ckpt_rpc_status_unpack(status, (const guint8 *)bad[i], strlen(bad[i])));
        assert_false(ckpt_rpc_status_unpack(status, huge, 100000));
        assert_false(ckpt_rpc_status_unpack(status, huge, 0));
        assert_string_equal(status->message, "as it was");
        assert_null(status->reason);
    }
}

static void
an_unknown_reason_becomes_internal_with_the_codes_name(void **state)
{
    g_autoptr(CkptRpcStatus) status = ckpt_rpc_status_new(14, "come back later");
    g_autoptr(GError) error = NULL;

    status->reason = g_strdup("OF_A_NEWER_AGENT");
    ckpt_rpc_status_to_error(status, &error);
    assert_true(g_error_matches(error, CKPT_ERROR, CKPT_REASON_INTERNAL));
    assert_string_equal(error->message, "UNAVAILABLE: OF_A_NEWER_AGENT: come back later");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_error_survives_the_way_there_and_back),
        cmocka_unit_test(an_error_of_another_domain_is_internal),
        cmocka_unit_test(a_long_message_is_cut_between_characters),
        cmocka_unit_test(a_message_that_just_fits_is_not_cut),
        cmocka_unit_test(control_characters_and_bad_utf8_do_not_reach_a_terminal),
        cmocka_unit_test(details_never_exceed_their_limit),
        cmocka_unit_test(ok_has_no_details),
        cmocka_unit_test(bytes_that_are_no_status_leave_it_alone),
        cmocka_unit_test(an_unknown_reason_becomes_internal_with_the_codes_name),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
