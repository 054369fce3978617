#include "client/inventory.h"

#include "client/keyfile.h"
#include "common/text.h"

#include <string.h>

#define NAME_MAX_BYTES 253

static void
host_free(gpointer data)
{
    CkptHost *host = data;

    g_free(host->name);
    g_free(host->address);
    g_free(host);
}

static void
place_free(gpointer data)
{
    CkptLibraryPlace *place = data;

    g_free(place->name);
    g_free(place->path);
    g_free(place);
}

CkptInventory *
ckpt_inventory_new(void)
{
    CkptInventory *inventory = g_new0(CkptInventory, 1);

    inventory->hosts = g_ptr_array_new_with_free_func(host_free);
    inventory->libraries = g_ptr_array_new_with_free_func(place_free);
    return inventory;
}

void
ckpt_inventory_free(CkptInventory *inventory)
{
    if (!inventory)
        return;
    g_ptr_array_unref(inventory->hosts);
    g_ptr_array_unref(inventory->libraries);
    g_free(inventory);
}

static CkptHost *
find_host(GPtrArray *hosts, const char *name)
{
    for (guint i = 0; i < hosts->len; i++) {
        CkptHost *host = g_ptr_array_index(hosts, i);

        if (strcmp(host->name, name) == 0)
            return host;
    }
    return NULL;
}

static CkptLibraryPlace *
find_library(GPtrArray *libraries, const char *name)
{
    for (guint i = 0; i < libraries->len; i++) {
        CkptLibraryPlace *place = g_ptr_array_index(libraries, i);

        if (strcmp(place->name, name) == 0)
            return place;
    }
    return NULL;
}

/* "host a" → ("host", "a") */
static gboolean
split_group(const char *group, char **kind, char **name, GError **error)
{
    const char *space = strpbrk(group, " \t");

    *kind = g_strndup(group, space ? (gsize)(space - group) : strlen(group));
    *name = g_strstrip(g_strdup(space ? space : ""));
    if (strcmp(*kind, "host") != 0 && strcmp(*kind, "library") != 0) {
        ckpt_error_set(error, CKPT_REASON_INVALID_ARGUMENT,
                       "unknown group '%s': expected [host NAME] or [library NAME]", group);
        return FALSE;
    }
    if (!**name || strpbrk(*name, ",/ \t")) {
        ckpt_error_set(error, CKPT_REASON_INVALID_ARGUMENT,
                       "[%s] needs a name without commas, slashes or spaces", group);
        return FALSE;
    }
    return ckpt_text_check("the name", *name, -1, NAME_MAX_BYTES, CKPT_TEXT_LINE, error);
}

static gboolean
begin_group(CkptInventory *inventory, const char *group, GError **error)
{
    g_autofree char *kind = NULL, *name = NULL;
    gboolean is_host;

    if (!split_group(group, &kind, &name, error))
        return FALSE;
    is_host = strcmp(kind, "host") == 0;
    if (is_host ? find_host(inventory->hosts, name) != NULL
                : find_library(inventory->libraries, name) != NULL) {
        ckpt_error_set(error, CKPT_REASON_INVALID_ARGUMENT, "[%s] is there already", group);
        return FALSE;
    }
    if (is_host) {
        CkptHost *host = g_new0(CkptHost, 1);

        host->name = g_steal_pointer(&name);
        g_ptr_array_add(inventory->hosts, host);
    } else {
        CkptLibraryPlace *place = g_new0(CkptLibraryPlace, 1);

        place->name = g_steal_pointer(&name);
        g_ptr_array_add(inventory->libraries, place);
    }
    return TRUE;
}

static gboolean
check_address(const char *address, GError **error)
{
    const char *colon = strrchr(address, ':');

    if (!ckpt_text_check("address", address, -1, NAME_MAX_BYTES + 8, CKPT_TEXT_LINE, error))
        return FALSE;
    if (colon && colon != address && !strpbrk(address, " \t,/@") &&
        g_ascii_string_to_unsigned(colon + 1, 10, 1, 65535, NULL, NULL))
        return TRUE;
    ckpt_error_set(error, CKPT_REASON_INVALID_ARGUMENT,
                   "'%s' is no address: expected host:port or [ipv6]:port", address);
    return FALSE;
}

static gboolean
set_value(char **place, const char *key, const char *value, GError **error)
{
    if (*place) {
        ckpt_error_set(error, CKPT_REASON_INVALID_ARGUMENT, "'%s' is set twice", key);
        return FALSE;
    }
    *place = g_strdup(value);
    return TRUE;
}

static gboolean
take_line(const char *group, const char *key, const char *value, gpointer data, GError **error)
{
    CkptInventory *inventory = data;
    gboolean is_host;

    if (!key)
        return begin_group(inventory, group, error);
    is_host = group && g_str_has_prefix(group, "host");
    /* begin_group() has just added what this line belongs to. */
    if (is_host && strcmp(key, "address") == 0) {
        CkptHost *host = g_ptr_array_index(inventory->hosts, inventory->hosts->len - 1);

        return check_address(value, error) && set_value(&host->address, key, value, error);
    }
    if (group && !is_host && strcmp(key, "path") == 0 && g_path_is_absolute(value)) {
        CkptLibraryPlace *place =
            g_ptr_array_index(inventory->libraries, inventory->libraries->len - 1);

        return set_value(&place->path, key, value, error);
    }
    if (group && !is_host && strcmp(key, "path") == 0)
        ckpt_error_set(error, CKPT_REASON_INVALID_ARGUMENT, "path must be absolute");
    else
        ckpt_error_set(error, CKPT_REASON_INVALID_ARGUMENT, "unknown key '%s'%s", key,
                       group ? "" : " before any [host NAME]");
    return FALSE;
}

static gboolean
check_complete(const CkptInventory *inventory, const char *file, GError **error)
{
    for (guint i = 0; i < inventory->hosts->len; i++) {
        const CkptHost *host = g_ptr_array_index(inventory->hosts, i);

        if (!host->address) {
            ckpt_error_set(error, CKPT_REASON_INVALID_ARGUMENT, "%s: [host %s] has no address",
                           file, host->name);
            return FALSE;
        }
    }
    for (guint i = 0; i < inventory->libraries->len; i++) {
        const CkptLibraryPlace *place = g_ptr_array_index(inventory->libraries, i);

        if (!place->path) {
            ckpt_error_set(error, CKPT_REASON_INVALID_ARGUMENT, "%s: [library %s] has no path",
                           file, place->name);
            return FALSE;
        }
    }
    return TRUE;
}

CkptInventory *
ckpt_inventory_read(const char *file, GError **error)
{
    g_autoptr(CkptInventory) inventory = ckpt_inventory_new();

    if (!ckpt_keyfile_read(file, take_line, inventory, NULL, error) ||
        !check_complete(inventory, file, error))
        return NULL;
    return g_steal_pointer(&inventory);
}

gboolean
ckpt_inventory_select(CkptInventory *inventory, const char *list, GError **error)
{
    g_autoptr(GPtrArray) selected = g_ptr_array_new_with_free_func(host_free);
    g_auto(GStrv) names = g_strsplit(list, ",", -1);

    for (guint i = 0; names[i]; i++) {
        const char *name = g_strstrip(names[i]);
        const CkptHost *known = find_host(inventory->hosts, name);
        CkptHost *host;

        if (!*name || find_host(selected, name))
            continue;
        if (!known && !strchr(name, ':')) {
            ckpt_error_set(error, CKPT_REASON_INVALID_ARGUMENT,
                           "host '%s' is not in the fleet file, and no address (host:port)", name);
            return FALSE;
        }
        if (!known && !check_address(name, error))
            return FALSE;
        host = g_new0(CkptHost, 1);
        host->name = g_strdup(name);
        host->address = g_strdup(known ? known->address : name);
        g_ptr_array_add(selected, host);
    }
    if (selected->len == 0) {
        ckpt_error_set(error, CKPT_REASON_INVALID_ARGUMENT, "no host is named");
        return FALSE;
    }
    g_ptr_array_unref(inventory->hosts);
    inventory->hosts = g_steal_pointer(&selected);
    return TRUE;
}
