#include "agent/service/internal.h"

#include "common/id.h"

#include <stdarg.h>
#include <string.h>

#define LABEL_KEY_MAX 63
/* google.protobuf.Timestamp's own range: years 1 to 9999. */
#define TIME_MIN_S G_GINT64_CONSTANT(-62135596800)
#define TIME_MAX_S G_GINT64_CONSTANT(253402300799)
#define DURATION_MAX_S (366 * 24 * 3600)

gboolean
ckpt_invalid(GError **error, const char *field, const char *format, ...)
{
    g_autofree char *what = NULL;
    va_list args;

    va_start(args, format);
    what = g_strdup_vprintf(format, args);
    va_end(args);
    ckpt_error_set(error, CKPT_REASON_INVALID_ARGUMENT, "%s %s", field, what);
    ckpt_error_add(error, CKPT_META_FIELD, field);
    return FALSE;
}

static void
set_text(char **member, const char *value)
{
    g_free(*member);
    *member = g_strdup(value);
}

char *
ckpt_take_id(const char *field, const char *value, GError **error)
{
    char *id;

    if (*value == '\0') {
        ckpt_invalid(error, field, "is required");
        return NULL;
    }
    id = ckpt_id_parse(value);
    if (!id)
        ckpt_invalid(error, field, "is no UUID: '%s'", value);
    return id;
}

char *
ckpt_take_optional_id(const char *field, const char *value, GError **error)
{
    return *value ? ckpt_take_id(field, value, error) : g_strdup("");
}

gboolean
ckpt_take_duration(const char *field, const Google__Protobuf__Duration *value, gint64 *us,
                   GError **error)
{
    if (value->seconds < 0 || value->nanos < 0)
        return ckpt_invalid(error, field, "is negative");
    if (value->seconds > DURATION_MAX_S || value->nanos > 999999999)
        return ckpt_invalid(error, field, "is out of range");
    *us = value->seconds * G_USEC_PER_SEC + value->nanos / 1000;
    return TRUE;
}

gboolean
ckpt_take_time(const char *field, const Google__Protobuf__Timestamp *value, gint64 *us,
               GError **error)
{
    if (value->seconds < TIME_MIN_S || value->seconds > TIME_MAX_S || value->nanos < 0 ||
        value->nanos > 999999999)
        return ckpt_invalid(error, field, "is out of range");
    *us = value->seconds * G_USEC_PER_SEC + value->nanos / 1000;
    /* 0 stands for absent inside; the epoch itself is nobody's time. */
    if (*us <= 0)
        return ckpt_invalid(error, field, "is before 1970");
    return TRUE;
}

static gboolean
is_label_char(char c)
{
    return g_ascii_islower(c) || g_ascii_isdigit(c);
}

/* [a-z0-9]([a-z0-9._/-]{0,61}[a-z0-9])? */
static gboolean
is_label_key(const char *key)
{
    gsize size = strlen(key);

    if (size == 0 || size > LABEL_KEY_MAX || !is_label_char(key[0]) ||
        !is_label_char(key[size - 1]))
        return FALSE;
    for (gsize i = 1; i + 1 < size; i++)
        if (!is_label_char(key[i]) && !strchr("._/-", key[i]))
            return FALSE;
    return TRUE;
}

GHashTable *
ckpt_take_labels(const char *field, PB(Label) *const *labels, gsize n, GError **error)
{
    g_autoptr(GHashTable) table = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);

    for (gsize i = 0; i < n; i++) {
        if (!is_label_key(labels[i]->key)) {
            ckpt_invalid(
                error, field,
                "has the key '%s', which does not match [a-z0-9]([a-z0-9._/-]{0,61}[a-z0-9])?",
                labels[i]->key);
            return NULL;
        }
        if (!g_hash_table_insert(table, g_strdup(labels[i]->key), g_strdup(labels[i]->value))) {
            ckpt_invalid(error, field, "has the key '%s' twice", labels[i]->key);
            return NULL;
        }
    }
    return g_steal_pointer(&table);
}

gboolean
ckpt_take_page_size(guint32 asked, guint *size, GError **error)
{
    *size = asked ? asked : CKPT_PAGE_SIZE_DEFAULT;
    if (asked > CKPT_PAGE_SIZE_MAX)
        return ckpt_invalid(error, "page_size", "is %u, more than %d", asked, CKPT_PAGE_SIZE_MAX);
    return TRUE;
}

static gboolean
take_options(const PB(RequestOptions) * options, CkptRequest *request, GError **error)
{
    if (!options)
        return ckpt_invalid(error, "options.request_id", "is required");
    request->request_id = ckpt_take_id("options.request_id", options->request_id, error);
    if (!request->request_id)
        return FALSE;
    request->validate_only = options->validate_only;
    request->return_accepted =
        options->return_when == VMCHECKPOINT__V1__RETURN_WHEN__RETURN_WHEN_ACCEPTED;
    if (options->wait) {
        if (!ckpt_take_duration("options.wait", options->wait, &request->wait_us, error))
            return FALSE;
        /* Present and zero is "do not wait", which the domain's 0 is not. */
        request->wait_us = MAX(request->wait_us, 1);
    }
    if (options->start_within) {
        if (!ckpt_take_duration("options.start_within", options->start_within,
                                &request->start_within_us, error))
            return FALSE;
        if (request->start_within_us == 0)
            return ckpt_invalid(error, "options.start_within", "must be more than zero");
    }
    return TRUE;
}

/* An etag is a revision in decimal. Anything else was never one, so it cannot be current: that is
 * the engine's refusal to make, not a form error. */
static guint64
take_etag(const char *etag)
{
    guint64 revision;

    if (*etag == '\0')
        return 0;
    if (!g_ascii_string_to_unsigned(etag, 10, 1, G_MAXUINT64, &revision, NULL))
        return G_MAXUINT64;
    return revision;
}

/* model/types.h says that the values are the proto's; test_proto_enums holds it to that. */
static gboolean
take_consistency(const PB(CreateCheckpointRequest) * message, CkptRequest *request, GError **error)
{
    request->asked =
        message->consistency ? (CkptConsistency)message->consistency : CKPT_CONSISTENCY_APPLICATION;
    request->minimum = message->minimum_consistency ? (CkptConsistency)message->minimum_consistency
                                                    : CKPT_CONSISTENCY_CRASH;
    if (request->minimum > request->asked)
        return ckpt_invalid(error, "minimum_consistency", "is above consistency");
    return TRUE;
}

CkptRequest *
ckpt_take_create(const ProtobufCMessage *base, GError **error)
{
    const PB(CreateCheckpointRequest) *message = (const void *)base;
    g_autoptr(CkptRequest) request = ckpt_request_new(CKPT_KIND_CREATE);
    g_autoptr(GHashTable) labels = NULL;

    if (!take_options(message->options, request, error))
        return NULL;
    request->vm_id = ckpt_take_id("vm_id", message->vm_id, error);
    if (!request->vm_id || !take_consistency(message, request, error))
        return NULL;
    g_free(request->run_id);
    request->run_id = ckpt_take_optional_id("run_id", message->run_id, error);
    if (!request->run_id)
        return NULL;
    labels = ckpt_take_labels("labels", message->labels, message->n_labels, error);
    if (!labels)
        return NULL;
    g_clear_pointer(&request->labels, g_hash_table_unref);
    request->labels = g_steal_pointer(&labels);
    if (message->expire_time &&
        !ckpt_take_time("expire_time", message->expire_time, &request->expire_us, error))
        return NULL;
    set_text(&request->name, *message->checkpoint_name ? message->checkpoint_name : NULL);
    set_text(&request->description, message->description);
    set_text(&request->reason, message->reason);
    set_text(&request->ticket, message->ticket);
    set_text(&request->hold, message->hold);
    return g_steal_pointer(&request);
}

/* One path of the mask. */
static gboolean
take_masked(CkptRequest *request, const PB(Checkpoint) * values, const char *path, GError **error)
{
    if (g_str_equal(path, "checkpoint_name")) {
        if (*values->checkpoint_name == '\0')
            return ckpt_invalid(error, "checkpoint.checkpoint_name", "must not be empty");
        set_text(&request->name, values->checkpoint_name);
    } else if (g_str_equal(path, "description")) {
        set_text(&request->description, values->description);
    } else if (g_str_equal(path, "reason")) {
        set_text(&request->reason, values->reason);
    } else if (g_str_equal(path, "ticket")) {
        set_text(&request->ticket, values->ticket);
    } else if (g_str_equal(path, "hold")) {
        set_text(&request->hold, values->hold);
    } else if (g_str_equal(path, "labels")) {
        g_clear_pointer(&request->labels, g_hash_table_unref);
        request->labels =
            ckpt_take_labels("checkpoint.labels", values->labels, values->n_labels, error);
        return request->labels != NULL;
    } else if (g_str_equal(path, "expire_time")) {
        request->set_expire = TRUE;
        return !values->expire_time || ckpt_take_time("checkpoint.expire_time", values->expire_time,
                                                      &request->expire_us, error);
    } else {
        return ckpt_invalid(error, "update_mask", "names '%s', which cannot be updated", path);
    }
    return TRUE;
}

/* A caller that sends back the checkpoint as it read it means its etag, too. */
static gboolean
take_update_etag(const PB(UpdateCheckpointRequest) * message, CkptRequest *request, GError **error)
{
    const char *beside = message->etag;
    const char *within = message->checkpoint->etag;

    if (*beside && *within && !g_str_equal(beside, within))
        return ckpt_invalid(error, "etag", "is '%s' and checkpoint.etag is '%s'", beside, within);
    request->etag = take_etag(*beside ? beside : within);
    return TRUE;
}

CkptRequest *
ckpt_take_update(const ProtobufCMessage *base, GError **error)
{
    const PB(UpdateCheckpointRequest) *message = (const void *)base;
    g_autoptr(CkptRequest) request = ckpt_request_new(CKPT_KIND_UPDATE);

    if (!take_options(message->options, request, error))
        return NULL;
    request->checkpoint_id =
        ckpt_take_id("checkpoint.checkpoint_id",
                     message->checkpoint ? message->checkpoint->checkpoint_id : "", error);
    if (!request->checkpoint_id)
        return NULL;
    if (!message->update_mask || message->update_mask->n_paths == 0) {
        ckpt_invalid(error, "update_mask", "is required");
        return NULL;
    }
    for (gsize i = 0; i < message->update_mask->n_paths; i++)
        if (!take_masked(request, message->checkpoint, message->update_mask->paths[i], error))
            return NULL;
    if (!take_update_etag(message, request, error))
        return NULL;
    return g_steal_pointer(&request);
}

static gboolean
take_power(PB(RestorePowerState) state, CkptPower *power)
{
    switch (state) {
    case VMCHECKPOINT__V1__RESTORE_POWER_STATE__RESTORE_POWER_STATE_UNSPECIFIED:
    case VMCHECKPOINT__V1__RESTORE_POWER_STATE__RESTORE_POWER_STATE_AS_CAPTURED:
        *power = CKPT_POWER_UNKNOWN;
        return TRUE;
    case VMCHECKPOINT__V1__RESTORE_POWER_STATE__RESTORE_POWER_STATE_RUNNING:
        *power = CKPT_POWER_RUNNING;
        return TRUE;
    case VMCHECKPOINT__V1__RESTORE_POWER_STATE__RESTORE_POWER_STATE_PAUSED:
        *power = CKPT_POWER_PAUSED;
        return TRUE;
    case VMCHECKPOINT__V1__RESTORE_POWER_STATE__RESTORE_POWER_STATE_SHUT_OFF:
        *power = CKPT_POWER_SHUT_OFF;
        return TRUE;
    case _VMCHECKPOINT__V1__RESTORE_POWER_STATE_IS_INT_SIZE:
        break;
    }
    return FALSE;
}

CkptRequest *
ckpt_take_restore(const ProtobufCMessage *base, GError **error)
{
    const PB(RestoreCheckpointRequest) *message = (const void *)base;
    g_autoptr(CkptRequest) request = ckpt_request_new(CKPT_KIND_RESTORE);

    if (message->restore_unless_confirmed_within) {
        ckpt_not_implemented(error, "restore_unless_confirmed_within");
        return NULL;
    }
    if (!take_options(message->options, request, error))
        return NULL;
    request->checkpoint_id = ckpt_take_id("checkpoint_id", message->checkpoint_id, error);
    if (!request->checkpoint_id)
        return NULL;
    if (*message->expected_current_checkpoint_id) {
        request->expected_current_checkpoint_id = ckpt_take_id(
            "expected_current_checkpoint_id", message->expected_current_checkpoint_id, error);
        if (!request->expected_current_checkpoint_id)
            return NULL;
    }
    if (!take_power(message->power_state, &request->restore_power)) {
        ckpt_invalid(error, "power_state", "is unknown");
        return NULL;
    }
    request->discard_present_state = message->discard_present_state;
    request->without_memory = message->without_memory;
    request->etag = take_etag(message->etag);
    return g_steal_pointer(&request);
}

CkptRequest *
ckpt_take_delete(const ProtobufCMessage *base, GError **error)
{
    const PB(DeleteCheckpointRequest) *message = (const void *)base;
    g_autoptr(CkptRequest) request = ckpt_request_new(CKPT_KIND_DELETE);

    if (!take_options(message->options, request, error))
        return NULL;
    request->checkpoint_id = ckpt_take_id("checkpoint_id", message->checkpoint_id, error);
    if (!request->checkpoint_id)
        return NULL;
    request->when_possible = message->when_possible;
    request->etag = take_etag(message->etag);
    return g_steal_pointer(&request);
}

static gboolean
is_finding_id(const char *id)
{
    if (strlen(id) != 16)
        return FALSE;
    for (; *id; id++)
        if (!g_ascii_isxdigit(*id) || g_ascii_isupper(*id))
            return FALSE;
    return TRUE;
}

CkptRequest *
ckpt_take_repair(const ProtobufCMessage *base, GError **error)
{
    const PB(RepairRequest) *message = (const void *)base;
    g_autoptr(CkptRequest) request = ckpt_request_new(CKPT_KIND_REPAIR);
    g_autoptr(GStrvBuilder) ids = g_strv_builder_new();

    if (!take_options(message->options, request, error))
        return NULL;
    request->vm_id = ckpt_take_optional_id("vm_id", message->vm_id, error);
    if (!request->vm_id)
        return NULL;
    for (gsize i = 0; i < message->n_finding_ids; i++) {
        if (!is_finding_id(message->finding_ids[i])) {
            ckpt_invalid(error, "finding_ids", "has '%s', which is not a finding's id: 16 hexadecimal digits",
                         message->finding_ids[i]);
            return NULL;
        }
        g_strv_builder_add(ids, message->finding_ids[i]);
    }
    request->finding_ids = g_strv_builder_end(ids);
    return g_steal_pointer(&request);
}
