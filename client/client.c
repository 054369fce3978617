#include "client/client.h"

#include "common/text.h"

#include <stdio.h>
#include <string.h>

#define LINE_MAX_BYTES 4096

static gboolean
read_inventory(CkptClient *client, GError **error)
{
    const char *fleet = client->settings->values[CKPT_SETTING_FLEET];
    const char *hosts = client->settings->values[CKPT_SETTING_HOST];

    client->inventory = fleet ? ckpt_inventory_read(fleet, error) : ckpt_inventory_new();
    if (!client->inventory || (hosts && !ckpt_inventory_select(client->inventory, hosts, error)))
        return FALSE;
    if (client->inventory->hosts->len > 0)
        return TRUE;
    ckpt_error_set(error, CKPT_REASON_INVALID_ARGUMENT,
                   fleet ? "the fleet file %s names no host"
                         : "no host to ask: give --host, --fleet, VMCHECKPOINT_FLEET or fleet= in "
                           "client.conf%s",
                   fleet ? fleet : "");
    return FALSE;
}

static gboolean
open_rpc(CkptClient *client, GError **error)
{
    static const CkptSetting needed[] = {CKPT_SETTING_CA, CKPT_SETTING_CERT, CKPT_SETTING_KEY};
    char *const *values = client->settings->values;
    CkptClientTls tls = {values[CKPT_SETTING_CA], values[CKPT_SETTING_CERT],
                         values[CKPT_SETTING_KEY]};

    for (gsize i = 0; i < G_N_ELEMENTS(needed); i++) {
        const char *name = ckpt_setting_name(needed[i]);
        g_autofree char *upper = NULL;

        if (values[needed[i]])
            continue;
        upper = g_ascii_strup(name, -1);
        ckpt_error_set(error, CKPT_REASON_INVALID_ARGUMENT,
                       "no file for '%s': give --%s, VMCHECKPOINT_%s or %s= in client.conf", name,
                       name, upper, name);
        return FALSE;
    }
    client->rpc = ckpt_rpc_client_new(&tls, error);
    return client->rpc != NULL;
}

CkptClient *
ckpt_client_open(CkptSettings *settings, GError **error)
{
    g_autoptr(CkptClient) client = g_new0(CkptClient, 1);

    client->settings = settings;
    client->cancellable = g_cancellable_new();
    if (!read_inventory(client, error) || !open_rpc(client, error))
        return NULL;
    return g_steal_pointer(&client);
}

void
ckpt_client_close(CkptClient *client)
{
    if (!client)
        return;
    ckpt_rpc_client_free(client->rpc);
    ckpt_inventory_free(client->inventory);
    g_clear_object(&client->cancellable);
    g_free(client);
}

static void
append_part(GString *line, const char *label, const char *text)
{
    g_autofree char *shown = text ? ckpt_text_printable(text, -1, LINE_MAX_BYTES / 2) : NULL;

    if (shown && *shown)
        g_string_append_printf(line, ": %s%s", label, shown);
}

/* "Mend the field …": a sentence after the message's. */
static void
append_remedy(GString *line, const GError *error)
{
    const char *remedy;

    if (error->domain != CKPT_ERROR || error->code == CKPT_REASON_INTERNAL)
        return;
    remedy = ckpt_reason_remedy((CkptReason)error->code);
    if (!*remedy)
        return;
    if (line->str[line->len - 1] != '.')
        g_string_append_c(line, '.');
    g_string_append_c(line, ' ');
    g_string_append_c(line, g_ascii_toupper(*remedy));
    g_string_append(line, remedy + 1);
}

char *
ckpt_error_line(const char *host, const char *vm, const GError *error)
{
    GString *line = g_string_new("vmcheckpoint");

    append_part(line, "host ", host);
    append_part(line, "VM ", vm);
    append_part(line, "", error->message);
    append_remedy(line, error);
    return g_string_free(line, FALSE);
}

void
ckpt_report_error(const char *host, const char *vm, const GError *error)
{
    g_autofree char *line = ckpt_error_line(host, vm, error);

    fprintf(stderr, "%s\n", line);
}

void
ckpt_report(const char *host, const char *vm, const char *format, ...)
{
    g_autofree char *text = NULL;
    GString *line = g_string_new("vmcheckpoint");
    va_list args;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    append_part(line, "host ", host);
    append_part(line, "VM ", vm);
    append_part(line, "", text);
    fprintf(stderr, "%s\n", line->str);
    g_string_free(line, TRUE);
}

CkptExit
ckpt_exit_of(guint done, guint failed)
{
    if (failed == 0)
        return CKPT_EXIT_DONE;
    return done > 0 ? CKPT_EXIT_PARTLY : CKPT_EXIT_FAILED;
}
