#include "agent/model/json.h"

#include "tests/unit/cmocka_all.h"
#include "tests/unit/model_samples.h"

#include <string.h>

static void
checkpoint_survives_the_round_trip(void **state)
{
    g_autoptr(CkptCheckpoint) checkpoint = sample_checkpoint("c1", "v1", 5);
    g_autofree char *json = ckpt_checkpoint_to_json(checkpoint);
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptCheckpoint) back = ckpt_checkpoint_from_json(json, &error);
    g_autoptr(CkptCheckpoint) copy = ckpt_checkpoint_copy(checkpoint);
    g_autofree char *again = NULL, *copied = ckpt_checkpoint_to_json(copy);

    assert_null(error);
    again = ckpt_checkpoint_to_json(back);
    assert_string_equal(json, again);
    assert_string_equal(json, copied);
    assert_string_equal(back->definition, checkpoint->definition);
    assert_string_equal(back->description, checkpoint->description);
    assert_null(back->parent_id);
    assert_true(back->revision == G_MAXUINT64);
    assert_true(back->freeze_us == -1);
    assert_true(back->expire_us == G_MININT64);
    assert_string_equal(g_hash_table_lookup(back->labels, "ärger \"x\""), "\\\n\t\x7f\x01");
    assert_int_equal(back->disks->len, 2);
    assert_true(ckpt_file_id_equal(&((CkptCheckpointDisk *)back->disks->pdata[1])->id,
                                   &((CkptCheckpointDisk *)checkpoint->disks->pdata[1])->id));
    assert_null(strchr(json, '\n'));
    assert_int_equal(back->extras->len, 2);
    assert_string_equal(ckpt_checkpoint_find_extra(back, CKPT_FILE_NVRAM)->path, "/images/nvram");
    assert_string_equal(back->not_captured->pdata[0], "the TPM's state");
}

/* What an agent of an earlier version wrote lacks them. */
static void
later_members_may_be_missing(void **state)
{
    g_autoptr(CkptCheckpoint) checkpoint = sample_checkpoint("c1", "v1", 5), back = NULL;
    g_autofree char *text = NULL;
    GString *json;

    g_ptr_array_set_size(checkpoint->extras, 0);
    g_ptr_array_set_size(checkpoint->not_captured, 0);
    text = ckpt_checkpoint_to_json(checkpoint);
    json = g_string_new(text);
    assert_int_equal(g_string_replace(json, "\"extras\":[],", "", 0), 1);
    assert_int_equal(g_string_replace(json, "\"not_captured\":[],", "", 0), 1);
    back = ckpt_checkpoint_from_json(json->str, NULL);
    g_string_free(json, TRUE);
    assert_non_null(back);
    assert_int_equal(back->extras->len, 0);
    assert_int_equal(back->not_captured->len, 0);
}

static void
plan_survives_the_round_trip(void **state)
{
    g_autoptr(CkptPlan) plan = sample_plan();
    g_autofree char *json = ckpt_plan_to_json(plan);
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptPlan) back = ckpt_plan_from_json(json, &error);
    g_autofree char *again = NULL;
    const CkptStep *step;

    assert_null(error);
    again = ckpt_plan_to_json(back);
    assert_string_equal(json, again);
    assert_int_equal(back->steps->len, 3);
    step = back->steps->pdata[1];
    assert_true(step->id.device == G_MAXUINT64 && step->id.mtime_ns == G_MAXINT64);
    assert_int_equal(step->mode, 0640);
    assert_int_equal(step->disks->len, 2);
    assert_string_equal(((CkptDiskFile *)step->disks->pdata[0])->chain[1], "/b/base");
    assert_null(((CkptDiskFile *)step->disks->pdata[1])->chain);
    assert_string_equal(((CkptCheckpoint *)step->change->upserts->pdata[0])->id, "c9");
    assert_string_equal(step->change->removes->pdata[0], "gone");
    assert_string_equal(step->change->made->pdata[0], "/made");
    assert_string_equal(step->change->gone->pdata[0], "/gone");
    assert_true(step->change->set_current);
    step = back->steps->pdata[0];
    assert_null(step->disks);
    assert_null(step->change);
    assert_null(step->text);
}

static void
request_survives_the_round_trip(void **state)
{
    g_autoptr(CkptRequest) create = sample_request("r1");
    g_autoptr(CkptRequest) update = ckpt_request_new(CKPT_KIND_UPDATE);
    g_autofree char *json = ckpt_request_to_json(create), *json2 = ckpt_request_to_json(update);
    g_autoptr(CkptRequest) back = ckpt_request_from_json(json, NULL);
    g_autoptr(CkptRequest) back2 = ckpt_request_from_json(json2, NULL);
    g_autofree char *again = ckpt_request_to_json(back), *again2 = ckpt_request_to_json(back2);

    assert_string_equal(json, again);
    assert_string_equal(json2, again2);
    assert_null(back->identity);
    assert_null(back2->labels);
    assert_null(back2->run_id);
    assert_string_equal(back->run_id, "run");
}

static void
digest_knows_what_makes_requests_the_same(void **state)
{
    g_autoptr(CkptRequest) a = sample_request("r1"), b = sample_request("r1");
    g_autofree char *digest = ckpt_request_digest(a), *same = NULL, *other = NULL;

    b->validate_only = TRUE;
    b->return_accepted = TRUE;
    b->wait_us = 17;
    g_free(b->identity);
    b->identity = g_strdup("somebody else");
    same = ckpt_request_digest(b);
    assert_string_equal(digest, same);
    assert_int_equal(strlen(digest), 64);
    b->start_within_us = 1;
    other = ckpt_request_digest(b);
    assert_string_not_equal(digest, other);
}

static void
digest_of_a_delete_ignores_what_the_engine_fills_in(void **state)
{
    g_autoptr(CkptRequest) request = ckpt_request_new(CKPT_KIND_DELETE);
    g_autofree char *before = NULL, *after = NULL;

    request->checkpoint_id = g_strdup("c1");
    before = ckpt_request_digest(request);
    request->vm_id = g_strdup("v1");
    after = ckpt_request_digest(request);
    assert_string_equal(before, after);
}

/* Labels that were put in in another order, and every object's members, are sorted. */
static void
equal_values_give_equal_strings(void **state)
{
    g_autoptr(GHashTable) a = g_hash_table_new(g_str_hash, g_str_equal);
    g_autoptr(GHashTable) b = g_hash_table_new(g_str_hash, g_str_equal);
    g_autofree char *json_a = NULL, *json_b = NULL;
    static char names[64][8];

    for (int i = 0; i < 64; i++) {
        g_snprintf(names[i], sizeof names[i], "n%d", i);
        g_hash_table_insert(a, names[i], names[i]);
    }
    for (int i = 63; i >= 0; i--)
        g_hash_table_insert(b, names[i], names[i]);
    json_a = ckpt_map_to_json(a);
    json_b = ckpt_map_to_json(b);
    assert_string_equal(json_a, json_b);
    assert_true(g_str_has_prefix(json_a, "{\"n0\":\"n0\",\"n1\":\"n1\",\"n10\""));
}

/* Member names of one object each are greater than the one before; strings are skipped. */
static void
members_are_sorted(void **state)
{
    g_autoptr(CkptPlan) plan = sample_plan();
    g_autofree char *json = ckpt_plan_to_json(plan);
    char *last[32] = {NULL};
    int depth = 0;

    for (char *p = json; *p; p++) {
        char *end;

        if (*p == '{' || *p == '[')
            last[++depth] = NULL;
        if (*p == '}' || *p == ']')
            depth--;
        if (*p != '"')
            continue;
        for (end = p + 1; *end != '"'; end++)
            if (*end == '\\')
                end++;
        if (end[1] == ':') {
            *end = '\0';
            assert_true(!last[depth] || strcmp(last[depth], p + 1) < 0);
            last[depth] = p + 1;
        }
        p = end;
    }
    assert_int_equal(depth, 0);
}

static char *
edit(const char *json, const char *from, const char *to)
{
    const char *at = strstr(json, from);

    assert_non_null(at);
    return g_strdup_printf("%.*s%s%s", (int)(at - json), json, to, at + strlen(from));
}

static void
assert_refused(const char *json, const char *saying)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptPlan) plan = ckpt_plan_from_json(json, &error);

    assert_null(plan);
    assert_true(g_error_matches(error, CKPT_ERROR, CKPT_REASON_STORE_FAILED));
    if (!strstr(error->message, saying))
        fail_msg("\"%s\" does not say \"%s\"", error->message, saying);
}

static void
what_is_not_understood_is_refused_by_name(void **state)
{
    static const struct {
        const char *from, *to, *saying;
    } cases[] = {
        {"\"no_return\":true", "\"no_return\":1", "no_return: must be true or false"},
        {"\"no_return\":true", "\"no_return\":true,\"zeal\":1", "zeal: is not known"},
        {"\"no_return\":true", "\"no_returned\":true", "no_return: is missing"},
        {"\"no_return\":true", "\"no_return\":null", "no_return: must be true or false"},
        {"\"mode\":416", "\"mode\":\"416\"", "steps[1].mode: must be a whole number"},
        {"\"mode\":416", "\"mode\":-1", "steps[1].mode: is out of range"},
        {"\"mode\":416", "\"mode\":4294967296", "steps[1].mode: is out of range"},
        {"\"mode\":416", "\"mode\":99999999999999999999999", "steps[1].mode: "},
        {"\"mode\":416", "\"mode\":416e1", "steps[1].mode: must be"},
        {"\"mode\":416", "\"mode\":0416", "zero in front"},
        {"\"mode\":416", "\"mode\":41.6", "character"},
        {"\"mode\":416", "\"mode\":416,\"mode\":416", "twice"},
        {"\"mode\":416", "\"mode\":/* */416", "character"},
        {"\"device\":\"18446744073709551615\"", "\"device\":\"18446744073709551616\"",
         "checkpoint.disks[0].id.device: is no unsigned"},
        {"\"device\":\"18446744073709551615\"", "\"device\":\"-1\"",
         "checkpoint.disks[0].id.device: is no"},
        {"\"device\":\"18446744073709551615\"", "\"device\":18446744073709551615",
         "checkpoint.disks[0].id.device: must be a string"},
        {"\"mtime_ns\":\"9223372036854775807\"", "\"mtime_ns\":\"9223372036854775808\"",
         "steps[1].id.mtime_ns: is no 64-bit"},
        {"\"mtime_ns\":\"9223372036854775807\"", "\"mtime_ns\":\" 1\"", "steps[1].id.mtime_ns"},
        {"\"removes\":[\"gone\"]", "\"removes\":[7]", "steps[1].change.removes[0]: must be a str"},
        {"\"removes\":[\"gone\"]", "\"removes\":null", "steps[1].change.removes: must be an arr"},
        {"\"removes\":[\"gone\"]", "\"removes\":{}", "steps[1].change.removes: must be an arr"},
        {"\"name\":\"nightly\"", "\"name\":null", "name: must be a string"},
        {"\"name\":\"nightly\"", "\"name\":\"\\ud800\"", "is no JSON"},
        {"\"name\":\"nightly\"", "\"name\":\"a\\u0000b\"", "not well formed"},
        {"\"name\":\"nightly\"", "\"name\":\"a\nb\"", "not well formed"},
        {"\"name\":\"nightly\"", "\"name\":'x'", "character"},
        {"\"name\":\"nightly\"", "\"name\":\"\xff\"", "not UTF-8"},
        {"\"kind\":3", "\"kind\":0", "kind: is out of range"},
        {"\"kind\":3", "\"kind\":99", "kind: is out of range"},
    };
    g_autoptr(CkptPlan) plan = sample_plan();
    g_autofree char *json = ckpt_plan_to_json(plan);

    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *edited = edit(json, cases[i].from, cases[i].to);

        assert_refused(edited, cases[i].saying);
    }
}

static void
hostile_text_is_refused(void **state)
{
    g_autofree char *deep = g_strnfill(1000000, '[');
    g_autofree char *braces = g_strnfill(1000000, '{');
    g_autoptr(CkptPlan) plan = sample_plan();
    g_autofree char *json = ckpt_plan_to_json(plan);
    g_autofree char *twice = g_strconcat(json, json, NULL);
    g_autofree char *tail = g_strconcat(json, " x", NULL);

    assert_refused(deep, "too deeply");
    assert_refused(braces, "too deeply");
    assert_refused(twice, "goes on");
    assert_refused(tail, "goes on");
    assert_refused("", "JSON");
    assert_refused(" ", "JSON");
    assert_refused("null", "JSON");
    assert_refused("]", "bracket");
    assert_refused("\"", "not well formed");
    assert_refused("\"\\", "not well formed");
    assert_refused("[]", "must be an object");
    assert_refused("{}", "is missing");
    assert_refused("{", "JSON");
    assert_refused("{\"a\"}", "JSON");
    assert_refused("var a = {}", "JSON");
    for (gsize length = 0; length < strlen(json); length += 7) {
        g_autofree char *cut = g_strndup(json, length);

        assert_refused(cut, "JSON");
    }
}

/* The text of a tool that failed may be anything; the journal must be readable all the same. */
static void
bytes_that_are_no_utf8_can_be_read_back(void **state)
{
    g_autoptr(GPtrArray) strings = g_ptr_array_new();
    g_autoptr(GPtrArray) back = NULL;
    g_autofree char *json = NULL;

    g_ptr_array_add(strings, (char *)"qemu-img: \xff\xfe");
    json = ckpt_strings_to_json(strings);
    back = ckpt_strings_from_json(json, NULL);
    assert_int_equal(back->len, 1);
    assert_string_equal(back->pdata[0], "qemu-img: \xef\xbf\xbd\xef\xbf\xbd");
}

static void
empty_values_can_be_read_back(void **state)
{
    g_autoptr(CkptCheckpoint) checkpoint = ckpt_checkpoint_new();
    g_autofree char *json = ckpt_checkpoint_to_json(checkpoint);
    g_autoptr(CkptCheckpoint) back = ckpt_checkpoint_from_json(json, NULL);
    g_autofree char *strings = ckpt_strings_to_json(NULL);
    g_autofree char *map = ckpt_map_to_json(NULL);

    assert_non_null(back);
    assert_string_equal(back->id, "");
    assert_null(back->definition);
    assert_string_equal(strings, "[]");
    assert_string_equal(map, "{}");
}

static void
every_step_describes_itself(void **state)
{
    for (int kind = CKPT_STEP_MAKE_OVERLAY; kind < CKPT_STEP_END_; kind++) {
        CkptStep *step = ckpt_step_new((CkptStepKind)kind);
        g_autofree char *text = ckpt_step_describe(step);

        assert_non_null(ckpt_step_name((CkptStepKind)kind));
        assert_string_not_equal(text, "unknown step");
        ckpt_step_free(step);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(checkpoint_survives_the_round_trip),
        cmocka_unit_test(later_members_may_be_missing),
        cmocka_unit_test(plan_survives_the_round_trip),
        cmocka_unit_test(request_survives_the_round_trip),
        cmocka_unit_test(digest_knows_what_makes_requests_the_same),
        cmocka_unit_test(digest_of_a_delete_ignores_what_the_engine_fills_in),
        cmocka_unit_test(equal_values_give_equal_strings),
        cmocka_unit_test(members_are_sorted),
        cmocka_unit_test(what_is_not_understood_is_refused_by_name),
        cmocka_unit_test(hostile_text_is_refused),
        cmocka_unit_test(bytes_that_are_no_utf8_can_be_read_back),
        cmocka_unit_test(empty_values_can_be_read_back),
        cmocka_unit_test(every_step_describes_itself),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
