#include "client/options.h"

#include "client/keyfile.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define TIMEOUT_DEFAULT_MS (5 * 60 * 1000)
#define TIMEOUT_MAX_S (24 * 60 * 60)

static const struct {
    const char *name, *variable;
    gboolean is_file;
} table[CKPT_N_SETTINGS] = {
    [CKPT_SETTING_FLEET] = {"fleet", "VMCHECKPOINT_FLEET", TRUE},
    [CKPT_SETTING_HOST] = {"host", "VMCHECKPOINT_HOST", FALSE},
    [CKPT_SETTING_CA] = {"ca", "VMCHECKPOINT_CA", TRUE},
    [CKPT_SETTING_CERT] = {"cert", "VMCHECKPOINT_CERT", TRUE},
    [CKPT_SETTING_KEY] = {"key", "VMCHECKPOINT_KEY", TRUE},
    [CKPT_SETTING_FORMAT] = {"format", "VMCHECKPOINT_FORMAT", FALSE},
    [CKPT_SETTING_TIMEOUT] = {"timeout", "VMCHECKPOINT_TIMEOUT", FALSE},
};

const char *
ckpt_setting_name(CkptSetting setting)
{
    return table[setting].name;
}

CkptSettings *
ckpt_settings_new(void)
{
    return g_new0(CkptSettings, 1);
}

void
ckpt_settings_free(CkptSettings *settings)
{
    if (!settings)
        return;
    for (gsize i = 0; i < CKPT_N_SETTINGS; i++)
        g_free(settings->values[i]);
    g_free(settings);
}

void
ckpt_settings_set(CkptSettings *settings, CkptSetting setting, const char *value)
{
    char *old = settings->values[setting];

    settings->values[setting] =
        setting == CKPT_SETTING_HOST && old ? g_strconcat(old, ",", value, NULL) : g_strdup(value);
    g_free(old);
}

typedef struct {
    char *values[CKPT_N_SETTINGS];
    const char *folder;
} File;

static gboolean
take_setting(const char *group, const char *key, const char *value, gpointer data, GError **error)
{
    File *file = data;

    if (!key && strcmp(group, "client") == 0)
        return TRUE;
    if (!key || !group) {
        ckpt_error_set(error, CKPT_REASON_INVALID_ARGUMENT,
                       key ? "'%s' stands before [client]"
                           : "unknown group '%s': expected [client]",
                       key ? key : group);
        return FALSE;
    }
    for (gsize i = 0; i < CKPT_N_SETTINGS; i++) {
        if (strcmp(table[i].name, key) != 0)
            continue;
        if (file->values[i]) {
            ckpt_error_set(error, CKPT_REASON_INVALID_ARGUMENT, "'%s' is set twice", key);
            return FALSE;
        }
        file->values[i] = table[i].is_file && *value ? g_canonicalize_filename(value, file->folder)
                                                     : g_strdup(value);
        return TRUE;
    }
    ckpt_error_set(error, CKPT_REASON_INVALID_ARGUMENT, "unknown key '%s'", key);
    return FALSE;
}

static gboolean
complete_from_file(CkptSettings *settings, const char *name, GError **error)
{
    g_autofree char *folder = g_path_get_dirname(name);
    g_autoptr(GError) local = NULL;
    File file = {.folder = folder};
    gboolean missing = FALSE;
    gboolean ok = ckpt_keyfile_read(name, take_setting, &file, &missing, &local) || missing;

    for (gsize i = 0; i < CKPT_N_SETTINGS; i++) {
        if (ok && !settings->values[i] && file.values[i] && *file.values[i])
            settings->values[i] = g_strdup(file.values[i]);
        g_free(file.values[i]);
    }
    if (!ok)
        g_propagate_error(error, g_steal_pointer(&local));
    return ok;
}

/* The machine's file is for those who may read it; one's own that cannot be read is a mistake. */
static gboolean
is_not_for_us(const char *file)
{
    return faccessat(AT_FDCWD, file, R_OK, AT_EACCESS) != 0 && errno == EACCES;
}

static gboolean
read_format(CkptSettings *settings, GError **error)
{
    const char *text = settings->values[CKPT_SETTING_FORMAT];

    if (!text || strcmp(text, "table") == 0) {
        settings->format = CKPT_FORMAT_TABLE;
    } else if (strcmp(text, "json") == 0) {
        settings->format = CKPT_FORMAT_JSON;
    } else if (strcmp(text, "published") == 0) {
        settings->format = CKPT_FORMAT_PUBLISHED;
    } else {
        ckpt_error_set(error, CKPT_REASON_INVALID_ARGUMENT,
                       "unknown format '%s': expected table, json or published", text);
        return FALSE;
    }
    return TRUE;
}

static guint64
unit_seconds(const char *unit)
{
    if (*unit == '\0' || strcmp(unit, "s") == 0)
        return 1;
    if (strcmp(unit, "m") == 0 || strcmp(unit, "min") == 0)
        return 60;
    return strcmp(unit, "h") == 0 ? 3600 : 0;
}

static gboolean
read_timeout(CkptSettings *settings, GError **error)
{
    const char *text = settings->values[CKPT_SETTING_TIMEOUT];
    guint64 number, unit;
    char *end = NULL;

    settings->timeout_ms = TIMEOUT_DEFAULT_MS;
    if (!text)
        return TRUE;
    number = g_ascii_isdigit(*text) ? g_ascii_strtoull(text, &end, 10) : 0;
    unit = end ? unit_seconds(end) : 0;
    if (number == 0 || unit == 0 || number > TIMEOUT_MAX_S / unit) {
        ckpt_error_set(
            error, CKPT_REASON_INVALID_ARGUMENT,
            "'%s' is no timeout: expected seconds, or a number with s, m or h; at most 24h", text);
        return FALSE;
    }
    settings->timeout_ms = (guint)(number * unit * 1000);
    return TRUE;
}

gboolean
ckpt_settings_complete(CkptSettings *settings, const char *const *files, GError **error)
{
    for (gsize i = 0; i < CKPT_N_SETTINGS; i++) {
        const char *value = g_getenv(table[i].variable);

        /* An empty variable is how a script unsets one. */
        if (!settings->values[i] && value && *value)
            settings->values[i] = g_strdup(value);
    }
    for (gsize i = 0; files && files[i]; i++)
        if (!(i > 0 && is_not_for_us(files[i])) && !complete_from_file(settings, files[i], error))
            return FALSE;
    return read_format(settings, error) && read_timeout(settings, error);
}

char **
ckpt_settings_files(void)
{
    char **files = g_new0(char *, 3);

    files[0] = g_build_filename(g_get_user_config_dir(), "vmcheckpoint", "client.conf", NULL);
    files[1] = g_strdup("/etc/vmcheckpoint/client.conf");
    return files;
}
