#include "agent/config.h"

#include "agent/config_scan.h"
#include "agent/service/service.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MAX_BYTES (1024 * 1024)
#define LIBRARY_PREFIX "library "

typedef struct _Setting Setting;
typedef gboolean (*TakeFunc)(const Setting *setting, gpointer member, const char *value,
                             GError **error);

struct _Setting {
    const char *group, *key;
    TakeFunc take;
    gsize offset; /* in CkptConfig */
    gboolean required;
    guint64 min, max; /* of numbers */
    const char *fallback;
};

/* Without position; that is put before it where the line is known. */
static gboolean bad(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);

static gboolean
bad(GError **error, const char *format, ...)
{
    g_autofree char *what = NULL;
    va_list args;

    va_start(args, format);
    what = g_strdup_vprintf(format, args);
    va_end(args);
    ckpt_error_set(error, CKPT_REASON_INVALID_ARGUMENT, "%s", what);
    return FALSE;
}

static void
set_text(gpointer member, const char *value)
{
    char **text = member;

    g_free(*text);
    *text = g_strdup(value);
}

static gboolean
take_text(const Setting *setting, gpointer member, const char *value, GError **error)
{
    if (*value == '\0')
        return bad(error, "%s is empty", setting->key);
    set_text(member, value);
    return TRUE;
}

/* "ADDRESS:PORT" with a literal address: a name could mean another interface tomorrow. */
static gboolean
take_listen(const Setting *setting, gpointer member, const char *value, GError **error)
{
    const char *colon = strrchr(value, ':');
    g_autofree char *host = colon ? g_strndup(value, (gsize)(colon - value)) : NULL;
    gsize size = host ? strlen(host) : 0;
    guint64 port;
    gboolean six = size > 2 && host[0] == '[' && host[size - 1] == ']';
    g_autoptr(GInetAddress) address = NULL;

    if (six) {
        memmove(host, host + 1, size - 2);
        host[size - 2] = '\0';
    }
    if (host && *host)
        address = g_inet_address_new_from_string(host);
    if (!address || (g_inet_address_get_family(address) == G_SOCKET_FAMILY_IPV6) != six ||
        !g_ascii_string_to_unsigned(colon + 1, 10, 0, 65535, &port, NULL))
        return bad(error,
                   "%s: '%s' is not ADDRESS:PORT, as in 192.0.2.1:7443 or [2001:db8::1]:7443",
                   setting->key, value);
    set_text(member, value);
    return TRUE;
}

static gboolean
is_absolute(const Setting *setting, const char *value, GError **error)
{
    return g_path_is_absolute(value) ||
           bad(error, "%s: '%s' is not an absolute path", setting->key, value);
}

static gboolean
take_folder(const Setting *setting, gpointer member, const char *value, GError **error)
{
    struct stat st;

    if (!is_absolute(setting, value, error))
        return FALSE;
    if (stat(value, &st) != 0)
        return bad(error, "%s: %s: %s", setting->key, value, g_strerror(errno));
    if (!S_ISDIR(st.st_mode))
        return bad(error, "%s: %s is not a folder", setting->key, value);
    set_text(member, value);
    return TRUE;
}

static gboolean
take_file(const Setting *setting, gpointer member, const char *value, GError **error)
{
    struct stat st;

    if (!is_absolute(setting, value, error))
        return FALSE;
    if (stat(value, &st) != 0 || access(value, R_OK) != 0)
        return bad(error, "%s: %s: %s", setting->key, value, g_strerror(errno));
    if (!S_ISREG(st.st_mode))
        return bad(error, "%s: %s is not a file", setting->key, value);
    set_text(member, value);
    return TRUE;
}

static gboolean
take_key_file(const Setting *setting, gpointer member, const char *value, GError **error)
{
    struct stat st;

    if (!take_file(setting, member, value, error))
        return FALSE;
    if (stat(value, &st) != 0)
        return bad(error, "%s: %s: %s", setting->key, value, g_strerror(errno));
    if (st.st_mode & 077)
        return bad(error, "%s: %s can be read by others (mode %04o): chmod 0600 it", setting->key,
                   value, (guint)(st.st_mode & 07777));
    return TRUE;
}

static gboolean
take_number(const Setting *setting, gpointer member, const char *value, GError **error)
{
    guint64 number;

    if (!g_ascii_string_to_unsigned(value, 10, setting->min, setting->max, &number, NULL))
        return bad(error,
                   "%s: '%s' is not a number from %" G_GUINT64_FORMAT " to %" G_GUINT64_FORMAT,
                   setting->key, value, setting->min, setting->max);
    *(guint *)member = (guint)number;
    return TRUE;
}

static gboolean
take_boolean(const Setting *setting, gpointer member, const char *value, GError **error)
{
    if (!g_str_equal(value, "true") && !g_str_equal(value, "false"))
        return bad(error, "%s: '%s' is neither true nor false", setting->key, value);
    *(gboolean *)member = g_str_equal(value, "true");
    return TRUE;
}

static gboolean
take_seconds(const Setting *setting, gpointer member, const char *value, GError **error)
{
    guint seconds = 0;

    if (!take_number(setting, &seconds, value, error))
        return FALSE;
    *(gint64 *)member = seconds * G_USEC_PER_SEC;
    return TRUE;
}

/* "67108864", "64 MiB" */
static gboolean
take_size(const Setting *setting, gpointer member, const char *value, GError **error)
{
    static const char *const units[] = {"", "KiB", "MiB", "GiB", "TiB"};
    gsize digits = strspn(value, "0123456789");
    g_autofree char *text = g_strndup(value, digits);
    const char *unit = value + digits + strspn(value + digits, " ");
    guint64 number;

    for (guint i = 0; i < G_N_ELEMENTS(units); i++) {
        if (!g_str_equal(unit, units[i]))
            continue;
        if (!g_ascii_string_to_unsigned(text, 10, 0, setting->max >> (10 * i), &number, NULL))
            break;
        *(guint64 *)member = number << (10 * i);
        return TRUE;
    }
    return bad(error, "%s: '%s' is not a size as in 67108864 or 64 MiB", setting->key, value);
}

#define AT(member) G_STRUCT_OFFSET(CkptConfig, member)
#define REQUIRED .required = TRUE
#define RANGE(low, high) .min = (low), .max = (high)

static const Setting settings[] = {
    {"agent", "listen", take_listen, AT(listen), REQUIRED},
    {"agent", "hypervisor", take_text, AT(hypervisor), .fallback = "qemu:///system"},
    {"agent", "state_dir", take_folder, AT(state_dir), .fallback = "/var/lib/vmcheckpoint"},
    {"tls", "ca", take_file, AT(ca_file), REQUIRED},
    {"tls", "cert", take_file, AT(cert_file), REQUIRED},
    {"tls", "key", take_key_file, AT(key_file), REQUIRED},
    {"limits", "max_depth", take_number, AT(limits.max_depth), RANGE(1, 200)},
    {"limits", "max_running", take_number, AT(limits.max_running), RANGE(1, 64)},
    {"limits", "max_queued_per_vm", take_number, AT(limits.max_queued_per_vm), RANGE(1, 1000)},
    {"limits", "max_checkpoints_per_vm", take_number, AT(limits.max_checkpoints_per_vm),
     RANGE(1, 1000)},
    {"limits", "reserve_bytes", take_size, AT(limits.reserve_bytes), RANGE(0, G_MAXINT64)},
    {"limits", "reserve_percent", take_number, AT(limits.reserve_percent), RANGE(0, 90)},
    /* The API promises seven days. */
    {"limits", "result_days", take_number, AT(limits.result_days), RANGE(7, 3650)},
    {"limits", "max_wait_seconds", take_seconds, AT(limits.max_wait_us), RANGE(1, 300)},
    {"limits", "merge_mib_per_second", take_number, AT(merge_mib), RANGE(0, 1024 * 1024)},
    {"limits", "handler_threads", take_number, AT(handler_threads), RANGE(1, 64)},
    {"limits", "max_calls", take_number, AT(max_calls), RANGE(1, 65536)},
    {"limits", "max_connections", take_number, AT(max_connections), RANGE(2, 65536)},
    {"limits", "guest_agent_seconds", take_number, AT(guest_agent_seconds), RANGE(1, 60)},
    {"checkpoints", "block_overlay_folder", take_folder, AT(block_overlay_folder)},
    {"checkpoints", "offline_without_locks", take_boolean, AT(offline_without_locks)},
    {"checkpoints", "without_linked_clones", take_boolean, AT(without_linked_clones)},
    {"checkpoints", "live_memory_when_emulated", take_boolean, AT(live_memory_when_emulated)},
    {"limits", "max_watches", take_number, AT(max_watches), RANGE(1, 4096)},
};

static const Setting *
find_setting(const char *group, const char *key)
{
    for (guint i = 0; i < G_N_ELEMENTS(settings); i++)
        if (g_str_equal(settings[i].group, group) && (!key || g_str_equal(settings[i].key, key)))
            return &settings[i];
    return NULL;
}

/* A rule: IDENTITY = ROLE. */
static gboolean
take_rule(CkptConfig *config, const char *identity, const char *value, GError **error)
{
    CkptRole role = ckpt_role_parse(value);

    if (role == CKPT_ROLE_NONE)
        return bad(error,
                   "'%s' is not a role: viewer, operator or admin (an identity with '=' in it "
                   "cannot be written here)",
                   value);
    return ckpt_access_add(config->access, identity, role, error);
}

static gboolean
take_library(CkptConfig *config, const char *group, const char *key, const char *value,
             GError **error)
{
    static const Setting setting = {.key = "path"};

    if (!g_str_equal(key, "path"))
        return bad(error, "unknown key '%s' in [%s]", key, group);
    /* A folder that is not there now may be mounted later: reads then say so. */
    if (!is_absolute(&setting, value, error))
        return FALSE;
    g_ptr_array_add(config->libraries,
                    ckpt_library_place_new(group + strlen(LIBRARY_PREFIX), value));
    return TRUE;
}

static gboolean
check_group(const char *group, GError **error)
{
    if (g_str_equal(group, "access") || find_setting(group, NULL))
        return TRUE;
    if (g_str_has_prefix(group, LIBRARY_PREFIX))
        return group[strlen(LIBRARY_PREFIX)] || bad(error, "a library's group is [library NAME]");
    return bad(error,
               "unknown group [%s]: there are [agent], [tls], [access], [limits], [checkpoints] and "
               "[library NAME]",
               group);
}

static gboolean
take_line(CkptConfig *config, const CkptConfigLine *line, const char *value, GError **error)
{
    const Setting *setting;

    if (g_str_equal(line->group, "access"))
        return take_rule(config, line->key, value, error);
    if (g_str_has_prefix(line->group, LIBRARY_PREFIX))
        return take_library(config, line->group, line->key, value, error);
    setting = find_setting(line->group, line->key);
    if (!setting)
        return bad(error, "unknown key '%s' in [%s]", line->key, line->group);
    return setting->take(setting, G_STRUCT_MEMBER_P(config, setting->offset), value, error);
}

static gboolean
take_lines(CkptConfig *config, const char *file, GPtrArray *lines, GKeyFile *values, GError **error)
{
    for (guint i = 0; i < lines->len; i++) {
        const CkptConfigLine *line = g_ptr_array_index(lines, i);
        g_autofree char *value = NULL;
        g_autoptr(GError) syntax = NULL;
        gboolean ok;

        if (line->key) {
            value = g_key_file_get_string(values, line->group, line->key, &syntax);
            ok = value ? take_line(config, line, g_strchomp(value), error)
                       : bad(error, "%s", syntax->message);
        } else {
            ok = check_group(line->group, error);
        }
        if (!ok) {
            g_prefix_error(error, "%s:%u: ", file, line->line);
            return FALSE;
        }
    }
    return TRUE;
}

static const CkptConfigLine *
find_line(GPtrArray *lines, const char *group, const char *key)
{
    for (guint i = 0; i < lines->len; i++) {
        const CkptConfigLine *line = g_ptr_array_index(lines, i);

        if (g_str_equal(line->group, group) && g_strcmp0(line->key, key) == 0)
            return line;
    }
    return NULL;
}

/* What is missing: given its default, or refused at its group's header. */
static gboolean
complete(CkptConfig *config, const char *file, GPtrArray *lines, GError **error)
{
    for (guint i = 0; i < G_N_ELEMENTS(settings); i++) {
        const Setting *setting = &settings[i];
        const CkptConfigLine *header = find_line(lines, setting->group, NULL);

        if (find_line(lines, setting->group, setting->key))
            continue;
        if (setting->required) {
            bad(error, "%s:%u: [%s] has no '%s'", file, header ? header->line : 1, setting->group,
                setting->key);
            return FALSE;
        }
        if (setting->fallback && !setting->take(setting, G_STRUCT_MEMBER_P(config, setting->offset),
                                                setting->fallback, error)) {
            g_prefix_error(error, "%s:%u: ", file, header ? header->line : 1);
            return FALSE;
        }
    }
    for (guint i = 0; i < lines->len; i++) {
        const CkptConfigLine *line = g_ptr_array_index(lines, i);

        if (!line->key && g_str_has_prefix(line->group, LIBRARY_PREFIX) &&
            !find_line(lines, line->group, "path"))
            return bad(error, "%s:%u: [%s] has no 'path'", file, line->line, line->group);
    }
    return TRUE;
}

/* It says who may do what: whoever may write it is an admin. */
static gboolean
check_mode(const char *file, GError **error)
{
    struct stat st;

    if (stat(file, &st) != 0) {
        ckpt_error_set(error, CKPT_REASON_FILE_FAILED, "%s: %s", file, g_strerror(errno));
        return FALSE;
    }
    return !(st.st_mode & 022) ||
           bad(error, "%s:1: can be changed by others (mode %04o): chmod go-w it", file,
               (guint)(st.st_mode & 07777));
}

static char *
read_text(const char *file, GError **error)
{
    g_autofree char *text = NULL;
    g_autoptr(GError) local = NULL;
    gsize size;

    if (!check_mode(file, error))
        return NULL;
    if (!g_file_get_contents(file, &text, &size, &local)) {
        ckpt_error_set(error, CKPT_REASON_FILE_FAILED, "%s", local->message);
        return NULL;
    }
    if (size > FILE_MAX_BYTES || strlen(text) != size ||
        !g_utf8_validate(text, (gssize)size, NULL)) {
        bad(error, "%s:1: is not a text file", file);
        return NULL;
    }
    return g_steal_pointer(&text);
}

CkptConfig *
ckpt_config_load(const char *file, GError **error)
{
    g_autoptr(CkptConfig) config = g_new0(CkptConfig, 1);
    g_autoptr(GKeyFile) values = g_key_file_new();
    g_autofree char *text = read_text(file, error);
    g_autoptr(GPtrArray) lines = NULL;
    g_autoptr(GError) local = NULL;

    config->access = ckpt_access_new();
    config->libraries = g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_library_place_free);
    ckpt_limits_init(&config->limits);
    if (!text)
        return NULL;
    lines = ckpt_config_scan(file, text, error);
    if (!lines)
        return NULL;
    if (!g_key_file_load_from_data(values, text, strlen(text), G_KEY_FILE_NONE, &local)) {
        bad(error, "%s:1: %s", file, local->message);
        return NULL;
    }
    if (!take_lines(config, file, lines, values, error) || !complete(config, file, lines, error))
        return NULL;
    return g_steal_pointer(&config);
}

void
ckpt_config_free(CkptConfig *config)
{
    if (!config)
        return;
    g_free(config->listen);
    g_free(config->hypervisor);
    g_free(config->state_dir);
    g_free(config->ca_file);
    g_free(config->cert_file);
    g_free(config->key_file);
    g_free(config->block_overlay_folder);
    ckpt_access_free(config->access);
    g_ptr_array_unref(config->libraries);
    g_free(config);
}
