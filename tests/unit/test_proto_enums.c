/* The domain's enums equal the proto's, so that to_proto.c and from_proto.c may cast. */
#include "agent/model/operation.h"
#include "tests/unit/cmocka_all.h"

#include "vmcheckpoint/v1/checkpoint.pb-c.h"
#include "vmcheckpoint/v1/error.pb-c.h"
#include "vmcheckpoint/v1/operation.pb-c.h"

#include <string.h>

static const struct {
    const char *name;
    CkptReason reason;
} reasons[] = {
#define X(name, number, grpc, remedy) {#name, CKPT_REASON_##name},
#include "common/reasons.def"
#undef X
};

static void
every_reason_is_published_with_its_number(void **state)
{
    for (gsize i = 0; i < G_N_ELEMENTS(reasons); i++) {
        g_autofree char *name = g_strconcat("ERROR_REASON_", reasons[i].name, NULL);
        const ProtobufCEnumValue *value = protobuf_c_enum_descriptor_get_value_by_name(
            &vmcheckpoint__v1__error_reason__descriptor, name);

        if (!value)
            fail_msg("%s is not in error.proto", name);
        assert_int_equal(value->value, reasons[i].reason);
    }
}

static void
every_published_reason_is_one_of_ours(void **state)
{
    /* One more: UNSPECIFIED. */
    assert_int_equal(vmcheckpoint__v1__error_reason__descriptor.n_values,
                     G_N_ELEMENTS(reasons) + 1);
}

typedef struct {
    const char *name;
    int ours;
} Value;

static void
assert_enum(const ProtobufCEnumDescriptor *type, const Value *values, guint n, const char *zero)
{
    const ProtobufCEnumValue *unspecified = protobuf_c_enum_descriptor_get_value(type, 0);

    for (guint i = 0; i < n; i++) {
        const ProtobufCEnumValue *value =
            protobuf_c_enum_descriptor_get_value_by_name(type, values[i].name);

        if (!value)
            fail_msg("%s is not in %s", values[i].name, type->name);
        assert_int_equal(value->value, values[i].ours);
    }
    assert_string_equal(unspecified->name, zero);
}

#define ASSERT_ENUM(type, prefix, ...)                                                             \
    do {                                                                                           \
        static const Value values[] = {__VA_ARGS__};                                               \
        assert_enum(&vmcheckpoint__v1__##type##__descriptor, values, G_N_ELEMENTS(values),         \
                    prefix "_UNSPECIFIED");                                                        \
    } while (0)

static void
the_models_values_are_the_protos(void **state)
{
    ASSERT_ENUM(accessibility, "ACCESSIBILITY", {"ACCESSIBILITY_PUBLIC", CKPT_ACCESSIBILITY_PUBLIC},
                {"ACCESSIBILITY_INTERNAL", CKPT_ACCESSIBILITY_INTERNAL});
    ASSERT_ENUM(consistency, "CONSISTENCY", {"CONSISTENCY_CRASH", CKPT_CONSISTENCY_CRASH},
                {"CONSISTENCY_APPLICATION", CKPT_CONSISTENCY_APPLICATION},
                {"CONSISTENCY_MEMORY", CKPT_CONSISTENCY_MEMORY});
    ASSERT_ENUM(mechanism, "MECHANISM", {"MECHANISM_OVERLAY", CKPT_MECHANISM_OVERLAY},
                {"MECHANISM_NATIVE", CKPT_MECHANISM_NATIVE},
                {"MECHANISM_FOREIGN", CKPT_MECHANISM_FOREIGN});
    ASSERT_ENUM(checkpoint_state, "CHECKPOINT_STATE", {"CHECKPOINT_STATE_READY", CKPT_STATE_READY},
                {"CHECKPOINT_STATE_DELETING", CKPT_STATE_DELETING},
                {"CHECKPOINT_STATE_MOVED", CKPT_STATE_MOVED});
    ASSERT_ENUM(file_kind, "FILE_KIND", {"FILE_KIND_MEMORY", CKPT_FILE_MEMORY},
                {"FILE_KIND_NVRAM", CKPT_FILE_NVRAM});
    ASSERT_ENUM(disk_format, "DISK_FORMAT", {"DISK_FORMAT_RAW", CKPT_FORMAT_RAW},
                {"DISK_FORMAT_QCOW2", CKPT_FORMAT_QCOW2});
    ASSERT_ENUM(power_state, "POWER_STATE", {"POWER_STATE_RUNNING", CKPT_POWER_RUNNING},
                {"POWER_STATE_PAUSED", CKPT_POWER_PAUSED},
                {"POWER_STATE_SHUT_OFF", CKPT_POWER_SHUT_OFF},
                {"POWER_STATE_CRASHED", CKPT_POWER_CRASHED},
                {"POWER_STATE_SUSPENDED", CKPT_POWER_SUSPENDED});
    ASSERT_ENUM(operation_kind, "OPERATION_KIND", {"OPERATION_KIND_CREATE", CKPT_KIND_CREATE},
                {"OPERATION_KIND_UPDATE", CKPT_KIND_UPDATE},
                {"OPERATION_KIND_RESTORE", CKPT_KIND_RESTORE},
                {"OPERATION_KIND_DELETE", CKPT_KIND_DELETE},
                {"OPERATION_KIND_REPAIR", CKPT_KIND_REPAIR});
    ASSERT_ENUM(operation_state, "OPERATION_STATE", {"OPERATION_STATE_QUEUED", CKPT_OP_QUEUED},
                {"OPERATION_STATE_RUNNING", CKPT_OP_RUNNING},
                {"OPERATION_STATE_SUCCEEDED", CKPT_OP_SUCCEEDED},
                {"OPERATION_STATE_FAILED", CKPT_OP_FAILED},
                {"OPERATION_STATE_CANCELLED", CKPT_OP_CANCELLED});
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_reason_is_published_with_its_number),
        cmocka_unit_test(every_published_reason_is_one_of_ours),
        cmocka_unit_test(the_models_values_are_the_protos),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
