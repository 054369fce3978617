#include "common/error.h"

typedef struct {
    GHashTable *metadata;
    guint retry_ms;
} CkptErrorPrivate;

static void
ckpt_error_private_init(CkptErrorPrivate *priv)
{
    priv->metadata = NULL;
    priv->retry_ms = 0;
}

static void
ckpt_error_private_clear(CkptErrorPrivate *priv)
{
    g_clear_pointer(&priv->metadata, g_hash_table_unref);
}

static GHashTable *
metadata_new(void)
{
    return g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
}

static void
ckpt_error_private_copy(const CkptErrorPrivate *src, CkptErrorPrivate *dest)
{
    GHashTableIter iter;
    gpointer key, value;

    dest->retry_ms = src->retry_ms;
    if (!src->metadata)
        return;
    dest->metadata = metadata_new();
    g_hash_table_iter_init(&iter, src->metadata);
    while (g_hash_table_iter_next(&iter, &key, &value))
        g_hash_table_insert(dest->metadata, g_strdup(key), g_strdup(value));
}

G_DEFINE_EXTENDED_ERROR(CkptError, ckpt_error)

void
ckpt_error_set(GError **error, CkptReason reason, const char *format, ...)
{
    va_list args;

    if (!error)
        return;
    va_start(args, format);
    *error = g_error_new_valist(CKPT_ERROR, reason, format, args);
    va_end(args);
}

void
ckpt_error_add(GError **error, const char *key, const char *value)
{
    CkptErrorPrivate *priv;

    if (!error || !*error || (*error)->domain != CKPT_ERROR || !value)
        return;
    priv = ckpt_error_get_private(*error);
    if (!priv->metadata)
        priv->metadata = metadata_new();
    g_hash_table_insert(priv->metadata, g_strdup(key), g_strdup(value));
}

GHashTable *
ckpt_error_metadata(const GError *error)
{
    if (!error || error->domain != CKPT_ERROR)
        return NULL;
    return ckpt_error_get_private(error)->metadata;
}

void
ckpt_error_set_retry_ms(GError **error, guint ms)
{
    if (error && *error && (*error)->domain == CKPT_ERROR)
        ckpt_error_get_private(*error)->retry_ms = ms;
}

guint
ckpt_error_retry_ms(const GError *error)
{
    if (!error || error->domain != CKPT_ERROR)
        return 0;
    return ckpt_error_get_private(error)->retry_ms;
}

CkptReason
ckpt_error_reason(const GError *error)
{
    if (error && error->domain == CKPT_ERROR)
        return (CkptReason)error->code;
    return CKPT_REASON_INTERNAL;
}

/* grpc/status.h is C, but only common/rpc and agent/rpc may include gRPC. */
enum {
    OK = 0,
    CANCELLED = 1,
    INVALID_ARGUMENT = 3,
    NOT_FOUND = 5,
    ALREADY_EXISTS = 6,
    PERMISSION_DENIED = 7,
    RESOURCE_EXHAUSTED = 8,
    FAILED_PRECONDITION = 9,
    ABORTED = 10,
    UNIMPLEMENTED = 12,
    INTERNAL = 13,
    UNAVAILABLE = 14,
    DATA_LOSS = 15,
    UNAUTHENTICATED = 16
};

static const struct {
    CkptReason reason;
    const char *name;
    int grpc_code;
    const char *remedy;
} reasons[] = {
#define X(name, number, grpc, remedy) {number, #name, grpc, remedy},
#include "common/reasons.def"
#undef X
};

const char *
ckpt_reason_name(CkptReason reason)
{
    for (gsize i = 0; i < G_N_ELEMENTS(reasons); i++)
        if (reasons[i].reason == reason)
            return reasons[i].name;
    return NULL;
}

CkptReason
ckpt_reason_from_name(const char *name)
{
    for (gsize i = 0; i < G_N_ELEMENTS(reasons); i++)
        if (g_str_equal(reasons[i].name, name))
            return reasons[i].reason;
    return (CkptReason)0;
}

const char *
ckpt_reason_remedy(CkptReason reason)
{
    for (gsize i = 0; i < G_N_ELEMENTS(reasons); i++)
        if (reasons[i].reason == reason)
            return reasons[i].remedy;
    return "";
}

int
ckpt_reason_grpc_code(CkptReason reason)
{
    for (gsize i = 0; i < G_N_ELEMENTS(reasons); i++)
        if (reasons[i].reason == reason)
            return reasons[i].grpc_code;
    return INTERNAL;
}
