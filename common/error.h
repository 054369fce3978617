/* Errors as the whole project passes them: GErrors of one domain whose codes are the reasons that
 * the proto publishes, with the metadata that goes to google.rpc.ErrorInfo. */
#pragma once

#include <glib.h>

typedef enum {
#define X(name, number, grpc, remedy) CKPT_REASON_##name = number,
#include "common/reasons.def"
#undef X
} CkptReason;

#define CKPT_ERROR (ckpt_error_quark())
GQuark ckpt_error_quark(void);

/* Keys of the metadata that is in use; ErrorInfo.metadata has the same keys. */
#define CKPT_META_VM "vm_id"
#define CKPT_META_CHECKPOINT "checkpoint_id"
#define CKPT_META_DISK "disk"
#define CKPT_META_FILE "file"
#define CKPT_META_FIELD "field"     /* BadRequest.field_violations[].field too */
#define CKPT_META_LIBRARY "library"
#define CKPT_META_REQUEST "request_id"
#define CKPT_META_COMMAND "command" /* the command that helps */
#define CKPT_META_LIBVIRT_CODE "libvirt_code"
/* Of a file system: what it has free, and what it must have. */
#define CKPT_META_FREE_BYTES "free_bytes"
#define CKPT_META_NEEDED_BYTES "needed_bytes"

/* Sets *error (which may be NULL) to CKPT_ERROR with this reason. */
void ckpt_error_set(GError **error, CkptReason reason, const char *format, ...)
    G_GNUC_PRINTF(3, 4);

/* Adds metadata to a CKPT_ERROR; a key set twice keeps the later value. Does nothing when error or
 * *error is NULL or of another domain. A NULL value is ignored. */
void ckpt_error_add(GError **error, const char *key, const char *value);

/* The metadata of an error: NULL if it has none, or is of another domain. (transfer none) */
GHashTable *ckpt_error_metadata(const GError *error);

/* When the caller should try again, in milliseconds; 0 = not said. */
void ckpt_error_set_retry_ms(GError **error, guint ms);
guint ckpt_error_retry_ms(const GError *error);

/* The reason of any error: its code if it is a CKPT_ERROR, else INTERNAL. */
CkptReason ckpt_error_reason(const GError *error);

/* "VM_NOT_FOUND"; NULL for a number that is no reason. */
const char *ckpt_reason_name(CkptReason reason);
/* The number of a name; 0 if it is not one. */
CkptReason ckpt_reason_from_name(const char *name);
const char *ckpt_reason_remedy(CkptReason reason);
/* The grpc_status_code, as an int so that layers without gRPC can pass it on. */
int ckpt_reason_grpc_code(CkptReason reason);
