/* What the service makes of well-formed requests. */
#include "agent/service/internal.h"
#include "tests/unit/cmocka_all.h"

#include <string.h>

#define ID "11111111-2222-4333-8444-555555555555"

/* An UpdateCheckpoint of the hold with these two etags; borrows them. */
static CkptRequest *
take_update(const char *beside, const char *within, GError **error)
{
    PB(RequestOptions) options = VMCHECKPOINT__V1__REQUEST_OPTIONS__INIT;
    PB(Checkpoint) checkpoint = VMCHECKPOINT__V1__CHECKPOINT__INIT;
    Google__Protobuf__FieldMask mask = GOOGLE__PROTOBUF__FIELD_MASK__INIT;
    PB(UpdateCheckpointRequest) request = VMCHECKPOINT__V1__UPDATE_CHECKPOINT_REQUEST__INIT;
    char *paths[] = {(char *)"hold"};

    options.request_id = (char *)ID;
    checkpoint.checkpoint_id = (char *)ID;
    checkpoint.etag = (char *)within;
    mask.paths = paths;
    mask.n_paths = 1;
    request.options = &options;
    request.checkpoint = &checkpoint;
    request.update_mask = &mask;
    request.etag = (char *)beside;
    return ckpt_take_update(&request.base, error);
}

static void
an_update_takes_the_etag_of_the_checkpoint_it_sends_back(void **state)
{
    g_autoptr(CkptRequest) within = take_update("", "7", NULL);
    g_autoptr(CkptRequest) beside = take_update("7", "", NULL);
    g_autoptr(CkptRequest) both = take_update("7", "7", NULL);
    g_autoptr(CkptRequest) none = take_update("", "", NULL);

    assert_int_equal(within->etag, 7);
    assert_int_equal(beside->etag, 7);
    assert_int_equal(both->etag, 7);
    assert_int_equal(none->etag, 0);
}

static void
two_etags_that_differ_are_refused(void **state)
{
    g_autoptr(GError) error = NULL;

    assert_null(take_update("7", "8", &error));
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_INVALID_ARGUMENT);
    assert_string_equal(g_hash_table_lookup(ckpt_error_metadata(error), CKPT_META_FIELD), "etag");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_update_takes_the_etag_of_the_checkpoint_it_sends_back),
        cmocka_unit_test(two_etags_that_differ_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
