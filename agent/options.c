#include "agent/options.h"

#include "agent/config.h"

#include <grpc/grpc.h>
#include <libvirt/libvirt.h>
#include <sqlite3.h>

static const char description[] =
    "Takes checkpoints of the virtual machines of this host's hypervisor, as its clients ask over\n"
    "mutual-TLS gRPC (vmcheckpoint.v1).\n"
    "\n"
    "Exit status: 0 after SIGTERM or SIGINT, 1 after a failure, 2 when the command line or the\n"
    "configuration is wrong.";

gboolean
ckpt_options_parse(CkptOptions *options, int argc, char **argv, GError **error)
{
    gboolean check = FALSE;
    gboolean version = FALSE;
    const GOptionEntry entries[] = {
        {"config", 'c', 0, G_OPTION_ARG_FILENAME, &options->config_file,
         "The configuration (default: " CKPT_CONFIG_DEFAULT ")", "FILE"},
        {"check-config", 0, 0, G_OPTION_ARG_NONE, &check, "Only check the configuration", NULL},
        {"version", 'V', 0, G_OPTION_ARG_NONE, &version, "Print versions", NULL},
        {NULL},
    };
    g_autoptr(GOptionContext) context = g_option_context_new(NULL);

    g_option_context_set_description(context, description);
    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, error))
        return FALSE;
    if (argc > 1) {
        g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_FAILED, "unexpected argument '%s'",
                    argv[1]);
        return FALSE;
    }
    if (!options->config_file)
        options->config_file = g_strdup(CKPT_CONFIG_DEFAULT);
    options->action = version ? CKPT_ACTION_VERSION
                      : check ? CKPT_ACTION_CHECK_CONFIG
                              : CKPT_ACTION_RUN;
    return TRUE;
}

void
ckpt_options_clear(CkptOptions *options)
{
    g_clear_pointer(&options->config_file, g_free);
}

const char *
ckpt_options_grpc_version(void)
{
    return grpc_version_string();
}

char *
ckpt_options_versions(void)
{
    unsigned long libvirt = 0;

    (void)virGetVersion(&libvirt, NULL, NULL);
    return g_strdup_printf(
        "vmcheckpointd %s\nlibvirt %lu.%lu.%lu\ngRPC core %s\nSQLite %s\nGLib %u.%u.%u",
        CKPT_VERSION, libvirt / 1000000, libvirt / 1000 % 1000, libvirt % 1000,
        grpc_version_string(), sqlite3_libversion(), glib_major_version, glib_minor_version,
        glib_micro_version);
}
