#include "common/rpc_status.h"

#include "common/error.h"
#include "common/google_rpc.pb-c.h"

#include <grpc/status.h>
#include <string.h>

#define TYPE_PREFIX "type.googleapis.com/google.rpc."
#define HEADER_MAX 2048   /* bytes of grpc-message once percent-encoded */
#define VALUE_MAX 256     /* bytes of a metadata value or a description */
#define KEY_MAX 64        /* AIP-193 */
#define UNPACK_MAX 8192   /* bytes of details that are looked at: gRPC's own metadata limit */
#define UNPACK_ENTRIES 64 /* metadata entries that are taken over */

/* The part of text that fits: valid UTF-8 without control characters (a message is printed in
 * terminals and logs), at most max bytes, and at most HEADER_MAX once percent-encoded, because
 * gRPC's 8 KiB metadata limit counts the encoded form. */
static char *
clean(const char *text, gsize max)
{
    g_autofree char *bounded = g_strndup(text ? text : "", max + 8);
    g_autofree char *valid = g_utf8_make_valid(bounded, -1);
    GString *out = g_string_sized_new(MIN(strlen(valid), max) + 1);
    gsize encoded = 0, ellipsis_at = 0;

    for (const char *p = valid; *p; p = g_utf8_next_char(p)) {
        gunichar c = g_utf8_get_char(p);
        gsize size = (gsize)(g_utf8_next_char(p) - p);

        if (g_unichar_iscntrl(c) || c == 0x2028 || c == 0x2029) {
            c = ' ';
            size = 1;
        }
        encoded += c < 0x80 && c != '%' ? 1 : size * 3;
        if (out->len + size > max || encoded > HEADER_MAX) {
            g_string_truncate(out, ellipsis_at);
            g_string_append(out, "...");
            break;
        }
        g_string_append_unichar(out, c);
        if (out->len + 3 <= max && encoded + 3 <= HEADER_MAX)
            ellipsis_at = out->len;
    }
    return g_string_free(out, FALSE);
}

CkptRpcStatus *
ckpt_rpc_status_new(int code, const char *message)
{
    CkptRpcStatus *status = g_new0(CkptRpcStatus, 1);

    status->code = code;
    status->message = clean(message, CKPT_STATUS_MESSAGE_MAX);
    return status;
}

void
ckpt_rpc_status_free(CkptRpcStatus *status)
{
    if (!status)
        return;
    g_free(status->message);
    g_free(status->reason);
    g_clear_pointer(&status->metadata, g_hash_table_unref);
    g_free(status);
}

static void
add_metadata(CkptRpcStatus *status, const char *key, const char *value)
{
    if (strlen(key) == 0 || strlen(key) > KEY_MAX)
        return;
    if (!status->metadata)
        status->metadata = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    g_hash_table_insert(status->metadata, clean(key, KEY_MAX),
                        clean(value, CKPT_STATUS_MESSAGE_MAX));
}

CkptRpcStatus *
ckpt_rpc_status_from_error(const GError *error)
{
    CkptReason reason = ckpt_error_reason(error);
    const char *name = ckpt_reason_name(reason);
    GHashTable *metadata = ckpt_error_metadata(error);
    CkptRpcStatus *status =
        ckpt_rpc_status_new(ckpt_reason_grpc_code(reason), error ? error->message : NULL);

    status->reason = g_strdup(name ? name : "INTERNAL");
    status->retry_ms = ckpt_error_retry_ms(error);
    if (metadata) {
        GHashTableIter iter;
        gpointer key, value;

        g_hash_table_iter_init(&iter, metadata);
        while (g_hash_table_iter_next(&iter, &key, &value))
            add_metadata(status, key, value);
    }
    return status;
}

CkptRpcStatus *
ckpt_rpc_status_copy(const CkptRpcStatus *status)
{
    CkptRpcStatus *copy;

    if (!status)
        return NULL;
    copy = ckpt_rpc_status_new(status->code, status->message);
    copy->reason = g_strdup(status->reason);
    copy->retry_ms = status->retry_ms;
    copy->unsent = status->unsent;
    if (status->metadata) {
        GHashTableIter iter;
        gpointer key, value;

        g_hash_table_iter_init(&iter, status->metadata);
        while (g_hash_table_iter_next(&iter, &key, &value))
            add_metadata(copy, key, value);
    }
    return copy;
}

void
ckpt_rpc_status_to_error(const CkptRpcStatus *status, GError **error)
{
    CkptReason reason = (CkptReason)0;

    if (!error || status->code == GRPC_STATUS_OK)
        return;
    if (status->reason)
        reason = ckpt_reason_from_name(status->reason);
    if (reason)
        ckpt_error_set(error, reason, "%s", status->message);
    else
        ckpt_error_set(error, CKPT_REASON_INTERNAL, "%s: %s%s%s", ckpt_grpc_code_name(status->code),
                       status->reason ? status->reason : "", status->reason ? ": " : "",
                       status->message);
    ckpt_error_set_retry_ms(error, status->retry_ms);
    if (status->metadata) {
        GHashTableIter iter;
        gpointer key, value;

        g_hash_table_iter_init(&iter, status->metadata);
        while (g_hash_table_iter_next(&iter, &key, &value))
            ckpt_error_add(error, key, value);
    }
}

static gint
compare_keys(gconstpointer a, gconstpointer b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The keys in a fixed order, those that callers act on first: what is dropped is the rest. */
static GPtrArray *
sorted_keys(GHashTable *metadata)
{
    static const char *const first[] = {CKPT_META_FIELD, CKPT_META_CHECKPOINT, CKPT_META_VM};
    GPtrArray *keys = g_ptr_array_new();
    GHashTableIter iter;
    gpointer key;

    if (!metadata)
        return keys;
    g_hash_table_iter_init(&iter, metadata);
    while (g_hash_table_iter_next(&iter, &key, NULL))
        g_ptr_array_add(keys, key);
    g_ptr_array_sort(keys, compare_keys);
    for (gsize i = 0; i < G_N_ELEMENTS(first); i++) {
        guint at;

        if (g_ptr_array_find_with_equal_func(keys, first[i], g_str_equal, &at))
            g_ptr_array_insert(keys, 0, g_ptr_array_steal_index(keys, at));
    }
    return keys;
}

/* details are packed one after the other into a google.rpc.Status. */
typedef struct {
    Google__Rpc__Any any[4];
    Google__Rpc__Any *list[4];
    gsize count;
} Details;

static void
details_add(Details *details, const char *type_url, const ProtobufCMessage *message)
{
    Google__Rpc__Any *any = &details->any[details->count];

    google__rpc__any__init(any);
    any->type_url = (char *)type_url;
    any->value.len = protobuf_c_message_get_packed_size(message);
    any->value.data = g_malloc(any->value.len + 1);
    protobuf_c_message_pack(message, any->value.data);
    details->list[details->count++] = any;
}

static void
details_clear(Details *details)
{
    for (gsize i = 0; i < details->count; i++)
        g_free(details->any[i].value.data);
}

static void
add_error_info(Details *details, const CkptRpcStatus *status, GPtrArray *keys, guint n_keys)
{
    Google__Rpc__ErrorInfo info = GOOGLE__RPC__ERROR_INFO__INIT;
    g_autofree Google__Rpc__ErrorInfo__MetadataEntry *entries =
        g_new(Google__Rpc__ErrorInfo__MetadataEntry, n_keys + 1);
    g_autofree Google__Rpc__ErrorInfo__MetadataEntry **list =
        g_new(Google__Rpc__ErrorInfo__MetadataEntry *, n_keys + 1);
    g_autoptr(GPtrArray) values = g_ptr_array_new_with_free_func(g_free);

    for (guint i = 0; i < n_keys; i++) {
        char *key = g_ptr_array_index(keys, i);
        char *value = clean(g_hash_table_lookup(status->metadata, key), VALUE_MAX);

        g_ptr_array_add(values, value);
        google__rpc__error_info__metadata_entry__init(&entries[i]);
        entries[i].key = key;
        entries[i].value = value;
        list[i] = &entries[i];
    }
    info.reason = status->reason;
    info.domain = (char *)CKPT_ERROR_DOMAIN;
    info.n_metadata = n_keys;
    info.metadata = list;
    details_add(details, TYPE_PREFIX "ErrorInfo", &info.base);
}

static void
add_retry_info(Details *details, guint retry_ms)
{
    Google__Rpc__Duration delay = GOOGLE__RPC__DURATION__INIT;
    Google__Rpc__RetryInfo retry = GOOGLE__RPC__RETRY_INFO__INIT;

    delay.seconds = retry_ms / 1000;
    delay.nanos = (gint32)(retry_ms % 1000) * 1000000;
    retry.retry_delay = &delay;
    details_add(details, TYPE_PREFIX "RetryInfo", &retry.base);
}

static void
add_bad_request(Details *details, const char *field, const char *message)
{
    Google__Rpc__BadRequest__FieldViolation violation =
        GOOGLE__RPC__BAD_REQUEST__FIELD_VIOLATION__INIT;
    Google__Rpc__BadRequest__FieldViolation *list[] = {&violation};
    Google__Rpc__BadRequest bad = GOOGLE__RPC__BAD_REQUEST__INIT;
    g_autofree char *name = clean(field, VALUE_MAX), *description = clean(message, VALUE_MAX);

    violation.field = name;
    violation.description = description;
    bad.n_field_violations = 1;
    bad.field_violations = list;
    details_add(details, TYPE_PREFIX "BadRequest", &bad.base);
}

static void
add_quota_failure(Details *details, const char *vm, const char *message)
{
    Google__Rpc__QuotaFailure__Violation violation = GOOGLE__RPC__QUOTA_FAILURE__VIOLATION__INIT;
    Google__Rpc__QuotaFailure__Violation *list[] = {&violation};
    Google__Rpc__QuotaFailure quota = GOOGLE__RPC__QUOTA_FAILURE__INIT;
    g_autofree char *subject = vm ? clean(vm, VALUE_MAX) : g_strdup("agent");
    g_autofree char *description = clean(message, VALUE_MAX);

    violation.subject = subject;
    violation.description = description;
    quota.n_violations = 1;
    quota.violations = list;
    details_add(details, TYPE_PREFIX "QuotaFailure", &quota.base);
}

static const char *
metadata_value(const CkptRpcStatus *status, const char *key)
{
    return status->metadata ? g_hash_table_lookup(status->metadata, key) : NULL;
}

static GBytes *
pack_with(const CkptRpcStatus *status, GPtrArray *keys, guint n_keys)
{
    Google__Rpc__Status packed = GOOGLE__RPC__STATUS__INIT;
    g_autofree char *message = clean(status->message, CKPT_STATUS_MESSAGE_MAX);
    const char *field = metadata_value(status, CKPT_META_FIELD);
    Details details = {.count = 0};
    guint8 *data;
    gsize size;

    add_error_info(&details, status, keys, n_keys);
    if (status->retry_ms)
        add_retry_info(&details, status->retry_ms);
    if (field)
        add_bad_request(&details, field, message);
    if (status->code == GRPC_STATUS_RESOURCE_EXHAUSTED)
        add_quota_failure(&details, metadata_value(status, CKPT_META_VM), message);
    packed.code = status->code;
    packed.message = message;
    packed.n_details = details.count;
    packed.details = details.list;
    size = google__rpc__status__get_packed_size(&packed);
    data = g_malloc(size);
    google__rpc__status__pack(&packed, data);
    details_clear(&details);
    return g_bytes_new_take(data, size);
}

GBytes *
ckpt_rpc_status_pack(const CkptRpcStatus *status)
{
    g_autoptr(GPtrArray) keys = NULL;
    guint n_keys;

    if (status->code == GRPC_STATUS_OK)
        return NULL;
    keys = sorted_keys(status->metadata);
    n_keys = MIN(keys->len, UNPACK_ENTRIES);
    for (;; n_keys--) {
        g_autoptr(GBytes) bytes = pack_with(status, keys, n_keys);

        /* Without metadata it always fits: a message, two descriptions and a field. */
        if (g_bytes_get_size(bytes) <= CKPT_STATUS_DETAILS_MAX || n_keys == 0)
            return g_steal_pointer(&bytes);
    }
}

static gboolean
take_error_info(CkptRpcStatus *status, const Google__Rpc__Any *any)
{
    Google__Rpc__ErrorInfo *info =
        google__rpc__error_info__unpack(NULL, any->value.len, any->value.data);

    if (!info)
        return FALSE;
    /* Another domain's reasons are not ours to interpret. */
    if (g_str_equal(info->domain, CKPT_ERROR_DOMAIN)) {
        g_clear_pointer(&status->metadata, g_hash_table_unref);
        g_free(status->reason);
        status->reason = *info->reason ? clean(info->reason, KEY_MAX) : NULL;
        for (gsize i = 0; i < MIN(info->n_metadata, UNPACK_ENTRIES); i++)
            add_metadata(status, info->metadata[i]->key, info->metadata[i]->value);
    }
    google__rpc__error_info__free_unpacked(info, NULL);
    return TRUE;
}

static gboolean
take_retry_info(CkptRpcStatus *status, const Google__Rpc__Any *any)
{
    Google__Rpc__RetryInfo *retry =
        google__rpc__retry_info__unpack(NULL, any->value.len, any->value.data);

    if (!retry)
        return FALSE;
    if (retry->retry_delay && retry->retry_delay->seconds >= 0 && retry->retry_delay->nanos >= 0)
        status->retry_ms = (guint)MIN(retry->retry_delay->seconds, 86400) * 1000 +
                           (guint)retry->retry_delay->nanos / 1000000;
    google__rpc__retry_info__free_unpacked(retry, NULL);
    return TRUE;
}

static gboolean
take_details(CkptRpcStatus *status, const Google__Rpc__Status *packed)
{
    for (gsize i = 0; i < packed->n_details; i++) {
        const Google__Rpc__Any *any = packed->details[i];

        if (g_str_equal(any->type_url, TYPE_PREFIX "ErrorInfo") && !take_error_info(status, any))
            return FALSE;
        if (g_str_equal(any->type_url, TYPE_PREFIX "RetryInfo") && !take_retry_info(status, any))
            return FALSE;
    }
    return TRUE;
}

gboolean
ckpt_rpc_status_unpack(CkptRpcStatus *status, const guint8 *data, gsize size)
{
    g_autoptr(CkptRpcStatus) taken = NULL;
    Google__Rpc__Status *packed;

    if (size == 0 || size > UNPACK_MAX)
        return FALSE;
    packed = google__rpc__status__unpack(NULL, size, data);
    if (!packed)
        return FALSE;
    taken = ckpt_rpc_status_new(status->code, *packed->message ? packed->message : status->message);
    if (take_details(taken, packed)) {
        /* Swap the contents: what status held goes with taken. */
        CkptRpcStatus old = *status;

        *status = *taken;
        *taken = old;
        google__rpc__status__free_unpacked(packed, NULL);
        return TRUE;
    }
    google__rpc__status__free_unpacked(packed, NULL);
    return FALSE;
}

const char *
ckpt_grpc_code_name(int code)
{
    static const char *const names[] = {"OK",
                                        "CANCELLED",
                                        "UNKNOWN",
                                        "INVALID_ARGUMENT",
                                        "DEADLINE_EXCEEDED",
                                        "NOT_FOUND",
                                        "ALREADY_EXISTS",
                                        "PERMISSION_DENIED",
                                        "RESOURCE_EXHAUSTED",
                                        "FAILED_PRECONDITION",
                                        "ABORTED",
                                        "OUT_OF_RANGE",
                                        "UNIMPLEMENTED",
                                        "INTERNAL",
                                        "UNAVAILABLE",
                                        "DATA_LOSS",
                                        "UNAUTHENTICATED"};

    return code >= 0 && (gsize)code < G_N_ELEMENTS(names) ? names[code] : "UNKNOWN";
}
