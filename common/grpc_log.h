/* gRPC's own log lines, passed on to GLib's structured log. */
#pragma once

#include <glib.h>

/* gRPC's errors are logged at this level, at most 20 in ten seconds (strangers cause them: each
 * refused handshake is one); failed assertions always, as warnings. The first caller decides. */
void ckpt_grpc_log_to_glib(GLogLevelFlags level);
