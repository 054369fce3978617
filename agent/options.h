/* The agent's command line. */
#pragma once

#include <glib.h>

typedef enum { CKPT_ACTION_RUN, CKPT_ACTION_CHECK_CONFIG, CKPT_ACTION_VERSION } CkptAction;

typedef struct {
    CkptAction action;
    char *config_file;
} CkptOptions;

/* --help prints and exits. */
gboolean ckpt_options_parse(CkptOptions *options, int argc, char **argv,
                            GError **error) G_GNUC_WARN_UNUSED_RESULT;
void ckpt_options_clear(CkptOptions *options);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(CkptOptions, ckpt_options_clear)
/* The versions of the agent and of the libraries it runs with. (transfer full) */
char *ckpt_options_versions(void);
/* Of gRPC. */
const char *ckpt_options_grpc_version(void);
