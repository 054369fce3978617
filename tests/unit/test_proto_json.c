#include "common/proto_json.h"
#include "tests/unit/cmocka_all.h"

#include <google/protobuf/field_mask.pb-c.h>
#include <string.h>
#include <vmcheckpoint/v1/checkpoint.pb-c.h>
#include <vmcheckpoint/v1/operation.pb-c.h>

typedef Google__Protobuf__Timestamp Timestamp;
typedef Google__Protobuf__Duration Duration;

static void
assert_json(const ProtobufCMessage *message, CkptProtoJsonFlags flags, const char *expected)
{
    g_autoptr(JsonNode) node = ckpt_proto_to_json(message, flags);
    g_autofree char *text = ckpt_json_to_text(node, FALSE);

    assert_string_equal(text, expected);
}

static void
timestamps_are_rfc3339(void **state)
{
    static const struct {
        gint64 seconds;
        int nanos;
        const char *json;
    } times[] = {{0, 0, "\"1970-01-01T00:00:00Z\""},
                 {1795352709, 500000000, "\"2026-11-22T13:05:09.500Z\""},
                 {1795352709, 123456000, "\"2026-11-22T13:05:09.123456Z\""},
                 {-1, 1, "\"1969-12-31T23:59:59.000000001Z\""},
                 {G_MAXINT64, -5, "\"9999-12-31T23:59:59Z\""}};

    for (gsize i = 0; i < G_N_ELEMENTS(times); i++) {
        Timestamp time = GOOGLE__PROTOBUF__TIMESTAMP__INIT;

        time.seconds = times[i].seconds;
        time.nanos = times[i].nanos;
        assert_json(&time.base, 0, times[i].json);
    }
}

static void
durations_are_seconds(void **state)
{
    static const struct {
        gint64 seconds;
        int nanos;
        const char *json;
    } times[] = {{0, 0, "\"0s\""},
                 {1, 500000000, "\"1.500s\""},
                 {0, 1000, "\"0.000001s\""},
                 {-1, -1, "\"-1.000000001s\""},
                 {0, -500000000, "\"-0.500s\""},
                 {G_MININT64, 0, "\"-9223372036854775808s\""}};

    for (gsize i = 0; i < G_N_ELEMENTS(times); i++) {
        Duration time = GOOGLE__PROTOBUF__DURATION__INIT;

        time.seconds = times[i].seconds;
        time.nanos = times[i].nanos;
        assert_json(&time.base, 0, times[i].json);
    }
}

static void
defaults_are_left_out_unless_asked_for(void **state)
{
    Vmcheckpoint__V1__CheckpointDisk disk = VMCHECKPOINT__V1__CHECKPOINT_DISK__INIT;
    Vmcheckpoint__V1__PlanStep step = VMCHECKPOINT__V1__PLAN_STEP__INIT;

    assert_json(&disk.base, 0, "{}");
    assert_json(&disk.base, CKPT_PROTO_JSON_ALL_FIELDS,
                "{\"target\":\"\",\"sealedFile\":\"\",\"format\":\"DISK_FORMAT_UNSPECIFIED\","
                "\"allocatedBytes\":\"0\",\"virtualSizeBytes\":\"0\",\"agentMade\":false,"
                "\"backingFiles\":[],\"manifestFile\":\"\"}");
    assert_json(&step.base, CKPT_PROTO_JSON_ALL_FIELDS,
                "{\"name\":\"\",\"description\":\"\",\"files\":[]}");
}

static void
values_have_their_json_types(void **state)
{
    Vmcheckpoint__V1__CheckpointDisk disk = VMCHECKPOINT__V1__CHECKPOINT_DISK__INIT;

    disk.target = (char *)"vda \"x\"\n";
    disk.format = VMCHECKPOINT__V1__DISK_FORMAT__DISK_FORMAT_QCOW2;
    disk.allocated_bytes = G_MAXUINT64;
    disk.agent_made = 1;
    assert_json(&disk.base, 0,
                "{\"target\":\"vda \\\"x\\\"\\n\",\"format\":\"DISK_FORMAT_QCOW2\","
                "\"allocatedBytes\":\"18446744073709551615\",\"agentMade\":true}");
}

static void
an_unknown_enum_value_is_its_number(void **state)
{
    Vmcheckpoint__V1__CheckpointDisk disk = VMCHECKPOINT__V1__CHECKPOINT_DISK__INIT;

    disk.format = (Vmcheckpoint__V1__DiskFormat)77;
    assert_json(&disk.base, 0, "{\"format\":77}");
}

static void
a_oneof_has_presence(void **state)
{
    Vmcheckpoint__V1__CheckpointFilter filter = VMCHECKPOINT__V1__CHECKPOINT_FILTER__INIT;

    assert_json(&filter.base, 0, "{}");
    filter.enabled_presence_case = VMCHECKPOINT__V1__CHECKPOINT_FILTER__ENABLED_PRESENCE_ENABLED;
    assert_json(&filter.base, 0, "{\"enabled\":false}");
}

static void
lists_and_nested_messages(void **state)
{
    Vmcheckpoint__V1__Label a = VMCHECKPOINT__V1__LABEL__INIT, b = a;
    Vmcheckpoint__V1__Label *labels[] = {&a, &b};
    char *drives[] = {(char *)"vda", (char *)"sdb"};
    Vmcheckpoint__V1__Checkpoint checkpoint = VMCHECKPOINT__V1__CHECKPOINT__INIT;

    a.key = (char *)"env";
    a.value = (char *)"prod";
    checkpoint.n_labels = 2;
    checkpoint.labels = labels;
    checkpoint.n_virtual_disk_drives = 2;
    checkpoint.virtual_disk_drives = drives;
    assert_json(&checkpoint.base, 0,
                "{\"virtualDiskDrives\":[\"vda\",\"sdb\"],"
                "\"labels\":[{\"key\":\"env\",\"value\":\"prod\"},{}]}");
}

static void
maps_are_objects(void **state)
{
    Vmcheckpoint__V1__OperationError__MetadataEntry entry =
        VMCHECKPOINT__V1__OPERATION_ERROR__METADATA_ENTRY__INIT;
    Vmcheckpoint__V1__OperationError__MetadataEntry *entries[] = {&entry};
    Vmcheckpoint__V1__OperationError error = VMCHECKPOINT__V1__OPERATION_ERROR__INIT;

    entry.key = (char *)"vm_id";
    entry.value = (char *)"x";
    error.code = 9;
    error.n_metadata = 1;
    error.metadata = entries;
    assert_json(&error.base, 0, "{\"code\":9,\"metadata\":{\"vm_id\":\"x\"}}");
}

static void
a_field_mask_is_one_string(void **state)
{
    char *paths[] = {(char *)"checkpoint_name", (char *)"hold"};
    Google__Protobuf__FieldMask mask = GOOGLE__PROTOBUF__FIELD_MASK__INIT;

    mask.n_paths = 2;
    mask.paths = paths;
    assert_json(&mask.base, 0, "\"checkpointName,hold\"");
}

static void
text_is_safe_to_print(void **state)
{
    Vmcheckpoint__V1__PlanStep step = VMCHECKPOINT__V1__PLAN_STEP__INIT;

    step.name = (char *)"a\x1b[2J\x7f"
                        "\u202e"
                        "\xc2\x9b"
                        "b\xff";
    assert_json(&step.base, 0, "{\"name\":\"a\\u001b[2J\\u007f\\u202e\\u009bb\uFFFD\"}");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(timestamps_are_rfc3339),
        cmocka_unit_test(durations_are_seconds),
        cmocka_unit_test(defaults_are_left_out_unless_asked_for),
        cmocka_unit_test(values_have_their_json_types),
        cmocka_unit_test(an_unknown_enum_value_is_its_number),
        cmocka_unit_test(a_oneof_has_presence),
        cmocka_unit_test(lists_and_nested_messages),
        cmocka_unit_test(maps_are_objects),
        cmocka_unit_test(a_field_mask_is_one_string),
        cmocka_unit_test(text_is_safe_to_print),
    };

    return cmocka_run_group_tests_name("proto_json", tests, NULL, NULL);
}
