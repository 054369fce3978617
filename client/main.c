#include "client/command.h"

#include <stdio.h>
#include <string.h>

static const CkptCommand *const commands[] = {
    &ckpt_command_create, &ckpt_command_list,    &ckpt_command_show,
    &ckpt_command_tree,   &ckpt_command_restore, &ckpt_command_delete,
    &ckpt_command_vms,    &ckpt_command_hosts,   &ckpt_command_operation,
    &ckpt_command_doctor,
};

static CkptSettings *settings;
static gboolean want_version, want_help;

static gboolean
take_setting(const char *option, const char *value, gpointer data, GError **error)
{
    for (int i = 0; i < CKPT_N_SETTINGS; i++)
        if (strcmp(option + 2, ckpt_setting_name((CkptSetting)i)) == 0)
            ckpt_settings_set(settings, (CkptSetting)i, value);
    return TRUE;
}

#define SETTING(name, help, argument)                                                              \
    {                                                                                              \
        name, 0, G_OPTION_FLAG_FILENAME, G_OPTION_ARG_CALLBACK, (gpointer)take_setting, help,      \
            argument                                                                               \
    }

static const GOptionEntry global_options[] = {
    SETTING("fleet", "the fleet file: [host NAME] address=, [library NAME] path=", "FILE"),
    SETTING("host", "ask only this host, by its name or host:port; may be repeated", "HOST"),
    SETTING("ca", "the CA that signs the agents' certificates (PEM)", "FILE"),
    SETTING("cert", "this client's certificate (PEM)", "FILE"),
    SETTING("key", "its private key (PEM)", "FILE"),
    SETTING("format", "table, json or published", "FORMAT"),
    SETTING(
        "timeout",
        "how long to wait for an operation (default 5m) and for each read (15s): 90, 90s, 5m, 1h",
        "TIME"),
    {"version", 0, 0, G_OPTION_ARG_NONE, &want_version, "print the version", NULL},
    {"help", 'h', 0, G_OPTION_ARG_NONE, &want_help, "print this help; also after a command", NULL},
    {NULL}};

static const char exit_text[] =
    "Exit status: 0 all done, 1 failed or refused, 2 usage or configuration, 3 partly done,\n"
    "4 outcome not known (it goes on: see vmcheckpoint operation), 130 interrupted.\n";

static char *
commands_text(void)
{
    GString *text = g_string_new("Commands:\n");

    for (gsize i = 0; i < G_N_ELEMENTS(commands); i++) {
        g_autofree char *usage = g_strconcat(commands[i]->name, " ", commands[i]->arguments, NULL);

        g_string_append_printf(text, "  %-22s %s\n", usage, commands[i]->summary);
    }
    g_string_append(text,
                    "\nEach option may also be set by VMCHECKPOINT_FLEET, _HOST, _CA, _CERT, _KEY, "
                    "_FORMAT, _TIMEOUT, or by\nkey = value below [client] in "
                    "~/.config/vmcheckpoint/client.conf or /etc/vmcheckpoint/client.conf.\n\n");
    g_string_append(text, exit_text);
    return g_string_free(text, FALSE);
}

/* command is NULL for the overall help and for what stands before the command. */
static GOptionContext *
context_new(const CkptCommand *command)
{
    g_autofree char *usage =
        command ? g_strconcat(command->name, " ", command->arguments, NULL) : g_strdup("COMMAND");
    GOptionContext *context = g_option_context_new(usage);

    g_option_context_set_help_enabled(context, FALSE);
    if (command) {
        g_autofree char *summary = g_strconcat(command->summary, command->help ? "\n\n" : "",
                                               command->help ? command->help : "", NULL);

        g_option_context_set_summary(context, summary);
        g_option_context_set_description(context, exit_text);
        if (command->options)
            g_option_context_add_main_entries(context, command->options, NULL);
    } else {
        g_autofree char *text = commands_text();

        g_option_context_set_summary(
            context, "Creates, lists, restores and deletes checkpoints of virtual machines.");
        g_option_context_set_description(context, text);
        g_option_context_set_strict_posix(context, TRUE);
    }
    g_option_context_add_main_entries(context, global_options, NULL);
    return context;
}

static CkptExit
print_help(GOptionContext *context)
{
    g_autofree char *help = g_option_context_get_help(context, TRUE, NULL);

    fputs(help, stdout);
    return CKPT_EXIT_DONE;
}

/* How many letters must be changed, added or removed: Levenshtein. */
static guint
distance(const char *a, const char *b)
{
    gsize n = strlen(b);
    g_autofree guint *row = g_new(guint, n + 1);

    for (gsize j = 0; j <= n; j++)
        row[j] = (guint)j;
    for (gsize i = 1; a[i - 1]; i++) {
        guint diagonal = row[0];

        row[0] = (guint)i;
        for (gsize j = 1; j <= n; j++) {
            guint above = row[j];

            row[j] = MIN(MIN(row[j], row[j - 1]) + 1, diagonal + (a[i - 1] != b[j - 1]));
            diagonal = above;
        }
    }
    return row[n];
}

static const CkptCommand *
find_command(const char *name)
{
    const CkptCommand *nearest = NULL;
    guint least = 3; /* what is further away is no slip of the finger */

    for (gsize i = 0; i < G_N_ELEMENTS(commands); i++) {
        guint this = strlen(name) > 32 ? G_MAXUINT : distance(name, commands[i]->name);

        if (this == 0)
            return commands[i];
        if (this < least) {
            least = this;
            nearest = commands[i];
        }
    }
    if (nearest)
        ckpt_report(NULL, NULL, "unknown command '%s': did you mean '%s'?", name, nearest->name);
    else
        ckpt_report(NULL, NULL, "unknown command '%s': see vmcheckpoint --help", name);
    return NULL;
}

static gboolean
arguments_fit(const CkptCommand *command, char **arguments)
{
    int n = (int)g_strv_length(arguments);

    if (n >= command->min_arguments && (command->max_arguments < 0 || n <= command->max_arguments))
        return TRUE;
    ckpt_report(NULL, NULL, "usage: vmcheckpoint %s %s", command->name, command->arguments);
    return FALSE;
}

/* GOption leaves the "--" before an argument that begins with a dash. */
static void
drop_separator(char **arguments)
{
    while (*arguments && strcmp(*arguments, "--") != 0)
        arguments++;
    for (; *arguments; arguments++)
        arguments[0] = arguments[1];
}

static CkptExit
usage_error(const GError *error)
{
    ckpt_report(NULL, NULL, "%s", error->message);
    return CKPT_EXIT_USAGE;
}

static CkptExit
run_command(const CkptCommand *command, char **arguments)
{
    g_auto(GStrv) files = ckpt_settings_files();
    g_autoptr(CkptClient) client = NULL;
    g_autoptr(GError) error = NULL;
    gboolean format_asked = settings->values[CKPT_SETTING_FORMAT] != NULL;

    if (!arguments_fit(command, arguments))
        return CKPT_EXIT_USAGE;
    if (!ckpt_settings_complete(settings, (const char *const *)files, &error))
        return usage_error(error);
    /* A setting is for all commands, so one that cannot follow it does as without. */
    if (!format_asked && !command->publishes && settings->format == CKPT_FORMAT_PUBLISHED)
        settings->format = CKPT_FORMAT_TABLE;
    if (settings->format == CKPT_FORMAT_PUBLISHED && !command->publishes) {
        ckpt_report(NULL, NULL, "the format 'published' is for checkpoints: '%s' shows none",
                    command->name);
        return CKPT_EXIT_USAGE;
    }
    client = ckpt_client_open(settings, &error);
    if (!client)
        return usage_error(error);
    return command->run(client, arguments);
}

/* Options before the command, the command, then options and arguments in any order. */
static CkptExit
parse_and_run(int argc, char **argv)
{
    g_autoptr(GOptionContext) before = context_new(NULL), after = NULL;
    g_autoptr(GError) error = NULL;
    const CkptCommand *command;

    if (!g_option_context_parse(before, &argc, &argv, &error))
        return usage_error(error);
    if (want_version) {
        puts("vmcheckpoint " CKPT_VERSION);
        return CKPT_EXIT_DONE;
    }
    if (argv[1] && strcmp(argv[1], "help") == 0) {
        want_help = TRUE;
        argc--;
        argv++;
    }
    if (!argv[1] && want_help)
        return print_help(before);
    if (!argv[1]) {
        ckpt_report(NULL, NULL, "no command: see vmcheckpoint --help");
        return CKPT_EXIT_USAGE;
    }
    command = find_command(argv[1]);
    if (!command)
        return CKPT_EXIT_USAGE;
    after = context_new(command);
    argc--;
    argv++;
    if (!g_option_context_parse(after, &argc, &argv, &error))
        return usage_error(error);
    if (want_help)
        return print_help(after);
    drop_separator(argv + 1);
    return run_command(command, argv + 1);
}

int
main(int argc, char **argv)
{
    CkptExit exit;

    settings = ckpt_settings_new();
    exit = parse_and_run(argc, argv);
    ckpt_settings_free(settings);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        ckpt_report(NULL, NULL, "the results could not be written to standard output");
        exit = exit == CKPT_EXIT_DONE ? CKPT_EXIT_FAILED : exit;
    }
    return (int)exit;
}
