/* What a call ends with, as it stands on the wire: a gRPC code, a message and google.rpc details.
 */
#pragma once

#include <glib.h>

#define CKPT_STATUS_MESSAGE_MAX                                                                    \
    1024 /* bytes, and 2048 once percent-encoded: gRPC's metadata limit is 8 KiB */
#define CKPT_STATUS_DETAILS_MAX 4096 /* bytes of the packed google.rpc.Status */
#define CKPT_ERROR_DOMAIN "vmcheckpoint"

typedef struct {
    int code;             /* grpc_status_code; 0 = OK */
    char *message;        /* valid UTF-8, no control characters, at most CKPT_STATUS_MESSAGE_MAX */
    char *reason;         /* ErrorInfo.reason; NULL = none was sent */
    GHashTable *metadata; /* ErrorInfo.metadata, string → string; NULL = none */
    guint retry_ms;       /* RetryInfo; 0 = none */
    gboolean unsent;      /* at the client: this call certainly never left it */
} CkptRpcStatus;

CkptRpcStatus *ckpt_rpc_status_new(int code, const char *message);
/* The one place that turns an internal error into a wire status. */
CkptRpcStatus *ckpt_rpc_status_from_error(const GError *error);
/* The way back, for a client: a CKPT_ERROR if the status has a reason this build knows, else
 * CKPT_ERROR INTERNAL with the gRPC code's name in the message. Sets nothing for OK. */
void ckpt_rpc_status_to_error(const CkptRpcStatus *status, GError **error);
CkptRpcStatus *ckpt_rpc_status_copy(const CkptRpcStatus *status); /* NULL gives NULL */
void ckpt_rpc_status_free(CkptRpcStatus *status);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CkptRpcStatus, ckpt_rpc_status_free)

/* The packed google.rpc.Status for grpc-status-details-bin: ErrorInfo always; RetryInfo if
 * retry_ms; BadRequest if metadata has CKPT_META_FIELD; QuotaFailure for RESOURCE_EXHAUSTED.
 * Never larger than CKPT_STATUS_DETAILS_MAX: long values are cut, then metadata entries dropped.
 * NULL for OK. (transfer full) */
GBytes *ckpt_rpc_status_pack(const CkptRpcStatus *status);
/* Fills reason, metadata, retry_ms from details; FALSE when they cannot be decoded, which leaves
 * the status as it was. The bytes are a stranger's: bounded first. */
gboolean ckpt_rpc_status_unpack(CkptRpcStatus *status, const guint8 *data, gsize size);
const char *ckpt_grpc_code_name(int code);
