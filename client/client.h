/* What every command works with: settings, fleet, connection, and the way results and errors leave.
 */
#pragma once

#include "client/inventory.h"
#include "client/options.h"
#include "common/rpc_client.h"

/* How the process ends; also in docs and --help. */
typedef enum {
    CKPT_EXIT_DONE = 0,
    CKPT_EXIT_FAILED = 1,
    CKPT_EXIT_USAGE = 2,   /* usage or configuration: nothing was sent */
    CKPT_EXIT_PARTLY = 3,  /* some done, some failed */
    CKPT_EXIT_UNKNOWN = 4, /* the outcome is not known (yet): it goes on, or may have */
    CKPT_EXIT_INTERRUPTED = 130,
} CkptExit;

typedef struct {
    CkptSettings *settings;
    CkptInventory *inventory;
    CkptRpcClient *rpc;
    GCancellable *cancellable; /* cancelled by SIGINT and SIGTERM, see interrupt.h */
} CkptClient;

/* Reads the fleet and the certificates; connects to nothing yet. Every error is one of usage. */
CkptClient *ckpt_client_open(CkptSettings *settings, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void ckpt_client_close(CkptClient *client);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CkptClient, ckpt_client_close)

/* One line on standard error, safe to print: "vmcheckpoint: host a: VM web-01: message. Remedy".
 * host and vm may be NULL. */
void ckpt_report_error(const char *host, const char *vm, const GError *error);
/* The same with a message of ours. */
void ckpt_report(const char *host, const char *vm, const char *format, ...) G_GNUC_PRINTF(3, 4);
/* The text of that line, without its end. */
char *ckpt_error_line(const char *host, const char *vm, const GError *error);

/* DONE, PARTLY or FAILED. */
CkptExit ckpt_exit_of(guint done, guint failed);
