/* What a failed connection means, in words that say what to check. */
#pragma once

#include "common/rpc_status.h"

#include <gio/gio.h>

typedef enum {
    CKPT_CONNECTION_NEVER,  /* no call on this channel was ever answered */
    CKPT_CONNECTION_PROVEN, /* one was: certificates and names are right */
} CkptConnectionHistory;

/* Rewrites a status that gRPC itself produced (one without details from an agent); any other is
 * left alone. connecting: the channel was not connected when the call ended. */
CkptRpcStatus *ckpt_rpc_words(int code, const char *grpc_message, const char *address,
                              CkptConnectionHistory history, gboolean connecting, guint timeout_ms);
