#include "agent/model/json.h"

#include "agent/model/json_codec.h"

/* Each struct is described once: its members in the order of their names. The zero adds nothing; it
 * makes the compiler compare the member's type with the one that the codec will read and write. */
#define OFFSET(S, member, ctype)                                                                   \
    (offsetof(S, member) + 0 * sizeof((ctype *)NULL == &((S *)NULL)->member))
/* clang-format off */
#define STRING(S, m) {#m, CKPT_JSON_STRING, OFFSET(S, m, char *), 0, 0, NULL, FALSE}
#define STRING_OR_NULL(S, m) {#m, CKPT_JSON_STRING_OR_NULL, OFFSET(S, m, char *), 0, 0, NULL, FALSE}
#define BOOLEAN(S, m) {#m, CKPT_JSON_BOOLEAN, OFFSET(S, m, gboolean), 0, 0, NULL, FALSE}
#define ENUM(S, m, ctype, max) {#m, CKPT_JSON_ENUM, OFFSET(S, m, ctype), 0, max, NULL, FALSE}
/* An enum without which the rest means nothing: never 0. */
#define KIND(S, m, ctype, max) {#m, CKPT_JSON_ENUM, OFFSET(S, m, ctype), 1, max, NULL, FALSE}
#define UINT(S, m) {#m, CKPT_JSON_UINT, OFFSET(S, m, guint), 0, 0, NULL, FALSE}
#define INT64(S, m) {#m, CKPT_JSON_INT64, OFFSET(S, m, gint64), 0, 0, NULL, FALSE}
#define UINT64(S, m) {#m, CKPT_JSON_UINT64, OFFSET(S, m, guint64), 0, 0, NULL, FALSE}
#define STRV(S, m) {#m, CKPT_JSON_STRV, OFFSET(S, m, char **), 0, 0, NULL, FALSE}
#define STRINGS(S, m) {#m, CKPT_JSON_STRINGS, OFFSET(S, m, GPtrArray *), 0, 0, NULL, FALSE}
#define MAP(S, m) {#m, CKPT_JSON_MAP, OFFSET(S, m, GHashTable *), 0, 0, NULL, FALSE}
#define MAP_OR_NULL(S, m) {#m, CKPT_JSON_MAP_OR_NULL, OFFSET(S, m, GHashTable *), 0, 0, NULL, FALSE}
#define ARRAY(S, m, of) {#m, CKPT_JSON_ARRAY, OFFSET(S, m, GPtrArray *), 0, 0, of, FALSE}
#define ARRAY_OR_NULL(S, m, of) {#m, CKPT_JSON_ARRAY_OR_NULL, OFFSET(S, m, GPtrArray *), 0, 0, of, FALSE}
#define OBJECT_OR_NULL(S, m, ctype, of) \
    {#m, CKPT_JSON_OBJECT_OR_NULL, OFFSET(S, m, ctype *), 0, 0, of, FALSE}
#define EMBEDDED(S, m, ctype, of) {#m, CKPT_JSON_EMBEDDED, OFFSET(S, m, ctype), 0, 0, of, FALSE}
/* Members since schema 4: older agents' rows, plans and manifests have none of them. */
#define LATER_STRING(S, m) {#m, CKPT_JSON_STRING, OFFSET(S, m, char *), 0, 0, NULL, TRUE}
#define LATER_BOOLEAN(S, m) {#m, CKPT_JSON_BOOLEAN, OFFSET(S, m, gboolean), 0, 0, NULL, TRUE}
#define LATER_UINT64(S, m) {#m, CKPT_JSON_UINT64, OFFSET(S, m, guint64), 0, 0, NULL, TRUE}

#define LATER_STRV(S, m) {#m, CKPT_JSON_STRV, OFFSET(S, m, char **), 0, 0, NULL, TRUE}
#define LATER_STRINGS(S, m) {#m, CKPT_JSON_STRINGS, OFFSET(S, m, GPtrArray *), 0, 0, NULL, TRUE}
#define LATER_BOOLEAN(S, m) {#m, CKPT_JSON_BOOLEAN, OFFSET(S, m, gboolean), 0, 0, NULL, TRUE}
#define LATER_UINT(S, m) {#m, CKPT_JSON_UINT, OFFSET(S, m, guint), 0, 0, NULL, TRUE}
#define LATER_ARRAY(S, m, of) {#m, CKPT_JSON_ARRAY, OFFSET(S, m, GPtrArray *), 0, 0, of, TRUE}
#define END {NULL, CKPT_JSON_STRING, 0, 0, 0, NULL, FALSE}
/* clang-format on */

G_STATIC_ASSERT(sizeof(CkptPower) == sizeof(guint) && sizeof(CkptStepKind) == sizeof(guint));

/* ---- File identity ---- */

static const CkptJsonMember file_id_members[] = {
    UINT64(CkptFileId, device),
    UINT64(CkptFileId, inode),
    INT64(CkptFileId, mtime_ns),
    UINT64(CkptFileId, size),
    END,
};
static const CkptJsonStruct file_id_type = {NULL, NULL, file_id_members};

/* ---- Checkpoint ---- */

static gpointer
create_checkpoint_disk(void)
{
    return g_new0(CkptCheckpointDisk, 1);
}

static const CkptJsonMember checkpoint_disk_members[] = {
    BOOLEAN(CkptCheckpointDisk, agent_made),
    ENUM(CkptCheckpointDisk, format, CkptFormat, CKPT_FORMAT_QCOW2),
    EMBEDDED(CkptCheckpointDisk, id, CkptFileId, &file_id_type),
    UINT(CkptCheckpointDisk, mode_before),
    STRING(CkptCheckpointDisk, sealed_file),
    STRING(CkptCheckpointDisk, target),
    UINT64(CkptCheckpointDisk, virtual_size),
    END,
};
static const CkptJsonStruct checkpoint_disk_type = {
    create_checkpoint_disk, (GDestroyNotify)ckpt_checkpoint_disk_free, checkpoint_disk_members};

static gpointer
create_checkpoint_file(void)
{
    return g_new0(CkptCheckpointFile, 1);
}

static const CkptJsonMember checkpoint_file_members[] = {
    UINT64(CkptCheckpointFile, bytes),
    ENUM(CkptCheckpointFile, format, CkptFormat, CKPT_FORMAT_QCOW2),
    EMBEDDED(CkptCheckpointFile, id, CkptFileId, &file_id_type),
    KIND(CkptCheckpointFile, kind, CkptFileKind, CKPT_FILE_NVRAM),
    STRING(CkptCheckpointFile, path),
    END,
};
static const CkptJsonStruct checkpoint_file_type = {
    create_checkpoint_file, (GDestroyNotify)ckpt_checkpoint_file_free, checkpoint_file_members};

static const CkptJsonMember checkpoint_members[] = {
    ENUM(CkptCheckpoint, accessibility, CkptAccessibility, CKPT_ACCESSIBILITY_INTERNAL),
    INT64(CkptCheckpoint, added_us),
    ENUM(CkptCheckpoint, asked, CkptConsistency, CKPT_CONSISTENCY_MEMORY),
    BOOLEAN(CkptCheckpoint, autostart),
    STRING(CkptCheckpoint, creator),
    BOOLEAN(CkptCheckpoint, deferred),
    STRING_OR_NULL(CkptCheckpoint, definition),
    LATER_BOOLEAN(CkptCheckpoint, departed),
    STRING(CkptCheckpoint, description),
    STRING_OR_NULL(CkptCheckpoint, disabled_reason),
    ARRAY(CkptCheckpoint, disks, &checkpoint_disk_type),
    LATER_UINT64(CkptCheckpoint, epoch),
    INT64(CkptCheckpoint, expire_us),
    LATER_ARRAY(CkptCheckpoint, extras, &checkpoint_file_type),
    INT64(CkptCheckpoint, freeze_us),
    STRING(CkptCheckpoint, hold),
    STRING(CkptCheckpoint, id),
    MAP(CkptCheckpoint, labels),
    STRING_OR_NULL(CkptCheckpoint, live_definition),
    ENUM(CkptCheckpoint, mechanism, CkptMechanism, CKPT_MECHANISM_FOREIGN),
    UINT64(CkptCheckpoint, memory_bytes),
    INT64(CkptCheckpoint, modified_us),
    STRING(CkptCheckpoint, most_recent_task),
    STRING(CkptCheckpoint, name),
    LATER_STRINGS(CkptCheckpoint, not_captured),
    STRING_OR_NULL(CkptCheckpoint, parent_id),
    INT64(CkptCheckpoint, pause_us),
    ENUM(CkptCheckpoint, power, CkptPower, CKPT_POWER_SUSPENDED),
    LATER_STRING(CkptCheckpoint, qemu_version),
    ENUM(CkptCheckpoint, reached, CkptConsistency, CKPT_CONSISTENCY_MEMORY),
    STRING(CkptCheckpoint, reason),
    UINT64(CkptCheckpoint, revision),
    STRING(CkptCheckpoint, run_id),
    ENUM(CkptCheckpoint, state, CkptState, CKPT_STATE_MOVED),
    LATER_BOOLEAN(CkptCheckpoint, stayed),
    STRING(CkptCheckpoint, ticket),
    STRING(CkptCheckpoint, vm_id),
    STRING(CkptCheckpoint, vm_name),
    END,
};
static const CkptJsonStruct checkpoint_type = {(gpointer(*)(void))ckpt_checkpoint_new,
                                               (GDestroyNotify)ckpt_checkpoint_free,
                                               checkpoint_members};

/* ---- Manifest ---- */

/* The row comes last: what lies before it is read alone. */
static const CkptJsonMember manifest_members[] = {
    STRING(CkptManifest, agent),
    STRING(CkptManifest, checkpoint_id),
    STRING(CkptManifest, domain),
    UINT64(CkptManifest, epoch),
    UINT(CkptManifest, format),
    STRING(CkptManifest, host_name),
    INT64(CkptManifest, modified_us),
    OBJECT_OR_NULL(CkptManifest, row, CkptCheckpoint, &checkpoint_type),
    END,
};
static const CkptJsonStruct manifest_type = {(gpointer(*)(void))ckpt_manifest_new,
                                             (GDestroyNotify)ckpt_manifest_free, manifest_members};

/* ---- Request ---- */

static gpointer
create_request(void)
{
    return g_new0(CkptRequest, 1);
}

static const CkptJsonMember request_members[] = {
    ENUM(CkptRequest, asked, CkptConsistency, CKPT_CONSISTENCY_MEMORY),
    STRING_OR_NULL(CkptRequest, checkpoint_id),
    STRING_OR_NULL(CkptRequest, description),
    BOOLEAN(CkptRequest, discard_present_state),
    UINT64(CkptRequest, etag),
    STRING_OR_NULL(CkptRequest, expected_current_checkpoint_id),
    INT64(CkptRequest, expire_us),
    LATER_STRV(CkptRequest, finding_ids),
    STRING_OR_NULL(CkptRequest, hold),
    KIND(CkptRequest, kind, CkptKind, CKPT_KIND_REPAIR),
    MAP_OR_NULL(CkptRequest, labels),
    ENUM(CkptRequest, minimum, CkptConsistency, CKPT_CONSISTENCY_MEMORY),
    STRING_OR_NULL(CkptRequest, name),
    STRING_OR_NULL(CkptRequest, reason),
    STRING_OR_NULL(CkptRequest, request_id),
    ENUM(CkptRequest, restore_power, CkptPower, CKPT_POWER_SUSPENDED),
    STRING_OR_NULL(CkptRequest, run_id),
    BOOLEAN(CkptRequest, set_expire),
    INT64(CkptRequest, start_within_us),
    STRING_OR_NULL(CkptRequest, ticket),
    STRING_OR_NULL(CkptRequest, vm_id),
    BOOLEAN(CkptRequest, when_possible),
    LATER_BOOLEAN(CkptRequest, without_memory),
    END,
};
static const CkptJsonStruct request_type = {create_request, (GDestroyNotify)ckpt_request_free,
                                            request_members};

/* ---- Plan ---- */

static gpointer
create_disk_file(void)
{
    return g_new0(CkptDiskFile, 1);
}

static gpointer
create_step(void)
{
    return g_new0(CkptStep, 1);
}

static gpointer
create_plan(void)
{
    return ckpt_plan_new((CkptKind)0);
}

static const CkptJsonMember disk_file_members[] = {
    STRV(CkptDiskFile, chain),
    STRING_OR_NULL(CkptDiskFile, file),
    ENUM(CkptDiskFile, format, CkptFormat, CKPT_FORMAT_QCOW2),
    STRING_OR_NULL(CkptDiskFile, target),
    END,
};
static const CkptJsonStruct disk_file_type = {create_disk_file, (GDestroyNotify)ckpt_disk_file_free,
                                              disk_file_members};

static const CkptJsonMember change_members[] = {
    STRING_OR_NULL(CkptChange, current_id),
    STRINGS(CkptChange, gone),
    STRINGS(CkptChange, made),
    STRINGS(CkptChange, removes),
    BOOLEAN(CkptChange, set_current),
    ARRAY(CkptChange, upserts, &checkpoint_type),
    END,
};
static const CkptJsonStruct change_type = {(gpointer(*)(void))ckpt_change_new,
                                           (GDestroyNotify)ckpt_change_free, change_members};

static const CkptJsonMember step_members[] = {
    STRING_OR_NULL(CkptStep, above),
    ENUM(CkptStep, above_format, CkptFormat, CKPT_FORMAT_QCOW2),
    ENUM(CkptStep, asked, CkptConsistency, CKPT_CONSISTENCY_MEMORY),
    BOOLEAN(CkptStep, autostart),
    BOOLEAN(CkptStep, autostart_before),
    STRING_OR_NULL(CkptStep, base),
    ENUM(CkptStep, base_format, CkptFormat, CKPT_FORMAT_QCOW2),
    OBJECT_OR_NULL(CkptStep, change, CkptChange, &change_type),
    STRING_OR_NULL(CkptStep, checkpoint_id),
    STRING_OR_NULL(CkptStep, definition),
    STRING_OR_NULL(CkptStep, definition_before),
    ARRAY_OR_NULL(CkptStep, disks, &disk_file_type),
    LATER_UINT(CkptStep, downtime_ms),
    STRING_OR_NULL(CkptStep, file),
    INT64(CkptStep, freeze_us),
    STRING_OR_NULL(CkptStep, from),
    EMBEDDED(CkptStep, id, CkptFileId, &file_id_type),
    KIND(CkptStep, kind, CkptStepKind, CKPT_STEP_END_ - 1),
    BOOLEAN(CkptStep, leaf),
    STRING_OR_NULL(CkptStep, like),
    ENUM(CkptStep, minimum, CkptConsistency, CKPT_CONSISTENCY_MEMORY),
    UINT(CkptStep, mode),
    STRING_OR_NULL(CkptStep, note),
    INT64(CkptStep, pause_us),
    ENUM(CkptStep, power, CkptPower, CKPT_POWER_SUSPENDED),
    ENUM(CkptStep, reached, CkptConsistency, CKPT_CONSISTENCY_MEMORY),
    UINT64(CkptStep, size),
    STRING_OR_NULL(CkptStep, target),
    STRING_OR_NULL(CkptStep, text),
    END,
};
static const CkptJsonStruct step_type = {create_step, (GDestroyNotify)ckpt_step_free, step_members};

static const CkptJsonMember plan_members[] = {
    OBJECT_OR_NULL(CkptPlan, checkpoint, CkptCheckpoint, &checkpoint_type),
    STRING_OR_NULL(CkptPlan, checkpoint_id),
    UINT(CkptPlan, decisive),
    KIND(CkptPlan, kind, CkptKind, CKPT_KIND_DELETE),
    BOOLEAN(CkptPlan, no_return),
    OBJECT_OR_NULL(CkptPlan, safety, CkptCheckpoint, &checkpoint_type),
    STRING_OR_NULL(CkptPlan, safety_id),
    ARRAY(CkptPlan, steps, &step_type),
    STRING_OR_NULL(CkptPlan, vm_id),
    STRING_OR_NULL(CkptPlan, vm_name),
    STRINGS(CkptPlan, warnings),
    END,
};
static const CkptJsonStruct plan_type = {create_plan, (GDestroyNotify)ckpt_plan_free, plan_members};

/* ---- Findings ---- */

static gpointer
create_finding(void)
{
    return g_new0(CkptFinding, 1);
}

static const CkptJsonMember finding_members[] = {
    STRING(CkptFinding, checkpoint_id),
    STRING(CkptFinding, file),
    STRING(CkptFinding, id),
    KIND(CkptFinding, kind, CkptFindingKind, CKPT_FINDING_END_ - 1),
    STRING(CkptFinding, message),
    STRING(CkptFinding, origin),
    STRING(CkptFinding, repair),
    STRING(CkptFinding, repair_error),
    KIND(CkptFinding, severity, CkptSeverity, CKPT_SEVERITY_ERROR),
    STRING(CkptFinding, vm_id),
    STRING(CkptFinding, vm_name),
    END,
};
static const CkptJsonStruct finding_type = {create_finding, (GDestroyNotify)ckpt_finding_free,
                                            finding_members};

static const CkptJsonMember repair_members[] = {
    ARRAY(CkptRepairResult, left, &finding_type),
    ARRAY(CkptRepairResult, repaired, &finding_type),
    STRINGS(CkptRepairResult, vanished),
    END,
};
static const CkptJsonStruct repair_type = {(gpointer(*)(void))ckpt_repair_result_new,
                                           (GDestroyNotify)ckpt_repair_result_free, repair_members};

/* ---- The public functions ---- */

char *
ckpt_repair_result_to_json(const CkptRepairResult *result)
{
    return ckpt_json_write(&repair_type, result);
}

CkptRepairResult *
ckpt_repair_result_from_json(const char *json, GError **error)
{
    return ckpt_json_read(&repair_type, json, error);
}

char *
ckpt_checkpoint_to_json(const CkptCheckpoint *checkpoint)
{
    return ckpt_json_write(&checkpoint_type, checkpoint);
}

char *
ckpt_manifest_to_json(const CkptManifest *manifest)
{
    return ckpt_json_write(&manifest_type, manifest);
}

char *
ckpt_request_to_json(const CkptRequest *request)
{
    return ckpt_json_write(&request_type, request);
}

char *
ckpt_request_digest(const CkptRequest *request)
{
    CkptRequest asked = *request;
    g_autofree char *json = NULL;

    if (asked.kind != CKPT_KIND_CREATE && asked.kind != CKPT_KIND_REPAIR)
        asked.vm_id = NULL;
    json = ckpt_request_to_json(&asked);
    return g_compute_checksum_for_string(G_CHECKSUM_SHA256, json, -1);
}

char *
ckpt_plan_to_json(const CkptPlan *plan)
{
    return ckpt_json_write(&plan_type, plan);
}

CkptCheckpoint *
ckpt_checkpoint_from_json(const char *json, GError **error)
{
    return ckpt_json_read(&checkpoint_type, json, error);
}

CkptManifest *
ckpt_manifest_from_json(const char *json, GError **error)
{
    return ckpt_json_read(&manifest_type, json, error);
}

CkptRequest *
ckpt_request_from_json(const char *json, GError **error)
{
    return ckpt_json_read(&request_type, json, error);
}

CkptPlan *
ckpt_plan_from_json(const char *json, GError **error)
{
    return ckpt_json_read(&plan_type, json, error);
}

/* A bare array or map is the one member of a struct, so that it needs no code of its own. */
#define BARE_STRINGS                                                                               \
    {                                                                                              \
        "", CKPT_JSON_STRINGS, 0, 0, 0, NULL                                                       \
    }
#define BARE_MAP                                                                                   \
    {                                                                                              \
        "", CKPT_JSON_MAP, 0, 0, 0, NULL                                                           \
    }

char *
ckpt_strings_to_json(GPtrArray *strings)
{
    static const CkptJsonMember bare = BARE_STRINGS;

    return ckpt_json_write_value(&bare, &strings);
}

char *
ckpt_map_to_json(GHashTable *map)
{
    static const CkptJsonMember bare = BARE_MAP;

    return ckpt_json_write_value(&bare, &map);
}

GPtrArray *
ckpt_strings_from_json(const char *json, GError **error)
{
    static const CkptJsonMember bare = BARE_STRINGS;
    GPtrArray *strings = NULL;

    return ckpt_json_read_value(&bare, json, &strings, error) ? strings : NULL;
}

GHashTable *
ckpt_map_from_json(const char *json, GError **error)
{
    static const CkptJsonMember bare = BARE_MAP;
    GHashTable *map = NULL;

    return ckpt_json_read_value(&bare, json, &map, error) ? map : NULL;
}
