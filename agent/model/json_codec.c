#include "agent/model/json_codec.h"

#include "agent/model/json_text.h"
#include "common/error.h"

#include <json-glib/json-glib.h>
#include <string.h>

#define AT(ctype, object, member) (*(ctype *)G_STRUCT_MEMBER_P(object, (member)->offset))

/* ---- Writing ---- */

static void write_struct(JsonBuilder *builder, const CkptJsonStruct *type, gconstpointer value);

static void
write_string(JsonBuilder *builder, const char *text)
{
    g_autofree char *valid = NULL;

    if (!text)
        json_builder_add_null_value(builder);
    else if (g_utf8_validate(text, -1, NULL))
        json_builder_add_string_value(builder, text);
    else
        json_builder_add_string_value(builder, valid = g_utf8_make_valid(text, -1));
}

static void
write_strings(JsonBuilder *builder, char *const *strings, guint length)
{
    json_builder_begin_array(builder);
    for (guint i = 0; i < length; i++)
        write_string(builder, strings[i] ? strings[i] : "");
    json_builder_end_array(builder);
}

static int
compare_strings(gconstpointer a, gconstpointer b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void
write_map(JsonBuilder *builder, GHashTable *map)
{
    g_autofree gpointer *keys = NULL;
    guint length = 0;

    json_builder_begin_object(builder);
    if (map) {
        keys = g_hash_table_get_keys_as_array(map, &length);
        qsort(keys, length, sizeof *keys, compare_strings);
    }
    for (guint i = 0; i < length; i++) {
        const char *value = g_hash_table_lookup(map, keys[i]);
        g_autofree char *key = g_utf8_make_valid(keys[i], -1);

        json_builder_set_member_name(builder, key);
        write_string(builder, value ? value : "");
    }
    json_builder_end_object(builder);
}

static void
write_array(JsonBuilder *builder, const CkptJsonStruct *of, GPtrArray *array)
{
    json_builder_begin_array(builder);
    for (guint i = 0; array && i < array->len; i++)
        write_struct(builder, of, array->pdata[i]);
    json_builder_end_array(builder);
}

static void
write_number(JsonBuilder *builder, const CkptJsonMember *member, gconstpointer value)
{
    char text[32];

    if (member->type == CKPT_JSON_INT64)
        g_snprintf(text, sizeof text, "%" G_GINT64_FORMAT, AT(gint64, value, member));
    else
        g_snprintf(text, sizeof text, "%" G_GUINT64_FORMAT, AT(guint64, value, member));
    json_builder_add_string_value(builder, text);
}

/* Those that may be NULL and are. */
static gboolean
is_null(const CkptJsonMember *member, gconstpointer value)
{
    switch (member->type) {
    case CKPT_JSON_STRING_OR_NULL:
    case CKPT_JSON_STRV:
    case CKPT_JSON_MAP_OR_NULL:
    case CKPT_JSON_ARRAY_OR_NULL:
    case CKPT_JSON_OBJECT_OR_NULL:
        return AT(gconstpointer, value, member) == NULL;
    case CKPT_JSON_STRING:
    case CKPT_JSON_BOOLEAN:
    case CKPT_JSON_ENUM:
    case CKPT_JSON_UINT:
    case CKPT_JSON_INT64:
    case CKPT_JSON_UINT64:
    case CKPT_JSON_STRINGS:
    case CKPT_JSON_MAP:
    case CKPT_JSON_ARRAY:
    case CKPT_JSON_EMBEDDED:
        break;
    }
    return FALSE;
}

static void
write_member(JsonBuilder *builder, const CkptJsonMember *member, gconstpointer value)
{
    const char *text;
    char **strv;
    GPtrArray *array;

    switch (member->type) {
    case CKPT_JSON_STRING:
    case CKPT_JSON_STRING_OR_NULL:
        text = AT(const char *, value, member);
        write_string(builder, text ? text : "");
        break;
    case CKPT_JSON_BOOLEAN:
        json_builder_add_boolean_value(builder, AT(gboolean, value, member) != FALSE);
        break;
    case CKPT_JSON_ENUM:
    case CKPT_JSON_UINT:
        json_builder_add_int_value(builder, AT(guint, value, member));
        break;
    case CKPT_JSON_INT64:
    case CKPT_JSON_UINT64:
        write_number(builder, member, value);
        break;
    case CKPT_JSON_STRV:
        strv = AT(char **, value, member);
        write_strings(builder, strv, g_strv_length(strv));
        break;
    case CKPT_JSON_STRINGS:
        array = AT(GPtrArray *, value, member);
        write_strings(builder, array ? (char **)array->pdata : NULL, array ? array->len : 0);
        break;
    case CKPT_JSON_MAP:
    case CKPT_JSON_MAP_OR_NULL:
        write_map(builder, AT(GHashTable *, value, member));
        break;
    case CKPT_JSON_ARRAY:
    case CKPT_JSON_ARRAY_OR_NULL:
        write_array(builder, member->of, AT(GPtrArray *, value, member));
        break;
    case CKPT_JSON_OBJECT_OR_NULL:
        write_struct(builder, member->of, AT(gconstpointer, value, member));
        break;
    case CKPT_JSON_EMBEDDED:
        write_struct(builder, member->of, G_STRUCT_MEMBER_P(value, member->offset));
        break;
    }
}

static void
write_struct(JsonBuilder *builder, const CkptJsonStruct *type, gconstpointer value)
{
    json_builder_begin_object(builder);
    for (const CkptJsonMember *member = type->members; member->name; member++) {
        json_builder_set_member_name(builder, member->name);
        if (is_null(member, value))
            json_builder_add_null_value(builder);
        else
            write_member(builder, member, value);
    }
    json_builder_end_object(builder);
}

static char *
finish(JsonBuilder *builder)
{
    g_autoptr(JsonNode) root = json_builder_get_root(builder);

    return json_to_string(root, FALSE);
}

char *
ckpt_json_write(const CkptJsonStruct *type, gconstpointer value)
{
    g_autoptr(JsonBuilder) builder = json_builder_new();

    write_struct(builder, type, value);
    return finish(builder);
}

char *
ckpt_json_write_value(const CkptJsonMember *member, gconstpointer value)
{
    g_autoptr(JsonBuilder) builder = json_builder_new();

    write_member(builder, member, value);
    return finish(builder);
}

/* ---- Reading ---- */

typedef struct {
    GString *path; /* of the member that is being read: "steps[3].change" */
    GError **error;
} Reader;

static gboolean read_struct(Reader *reader, const CkptJsonStruct *type, JsonNode *node,
                            gpointer value);

static gboolean
refuse(Reader *reader, const char *what)
{
    ckpt_error_set(reader->error, CKPT_REASON_STORE_FAILED, "JSON: %s: %s",
                   reader->path->len ? reader->path->str : "the whole", what);
    return FALSE;
}

static gboolean
node_is(JsonNode *node, GType type)
{
    return JSON_NODE_HOLDS_VALUE(node) && json_node_get_value_type(node) == type;
}

static const char *
read_text(Reader *reader, JsonNode *node)
{
    const char *text;

    if (!node_is(node, G_TYPE_STRING)) {
        refuse(reader, "must be a string");
        return NULL;
    }
    /* An unpaired surrogate in an escape gives invalid UTF-8. */
    text = json_node_get_string(node);
    if (!g_utf8_validate(text, -1, NULL)) {
        refuse(reader, "is not UTF-8");
        return NULL;
    }
    return text;
}

static gboolean
read_string(Reader *reader, JsonNode *node, char **value)
{
    const char *text = read_text(reader, node);

    if (!text)
        return FALSE;
    g_free(*value);
    *value = g_strdup(text);
    return TRUE;
}

static gboolean
read_uint(Reader *reader, JsonNode *node, guint min, guint max, guint *value)
{
    gint64 number;

    if (!node_is(node, G_TYPE_INT64))
        return refuse(reader, "must be a whole number");
    number = json_node_get_int(node);
    if (number < min || number > max)
        return refuse(reader, "is out of range");
    *value = (guint)number;
    return TRUE;
}

/* Only the one way in which we write a number: no sign, space or zero in front. */
static gboolean
read_int64(Reader *reader, JsonNode *node, gint64 *value)
{
    const char *text = read_text(reader, node);
    char canonical[32];

    if (!text)
        return FALSE;
    *value = g_ascii_strtoll(text, NULL, 10);
    g_snprintf(canonical, sizeof canonical, "%" G_GINT64_FORMAT, *value);
    return g_str_equal(canonical, text) || refuse(reader, "is no 64-bit number");
}

static gboolean
read_uint64(Reader *reader, JsonNode *node, guint64 *value)
{
    const char *text = read_text(reader, node);
    char canonical[32];

    if (!text)
        return FALSE;
    *value = g_ascii_strtoull(text, NULL, 10);
    g_snprintf(canonical, sizeof canonical, "%" G_GUINT64_FORMAT, *value);
    return g_str_equal(canonical, text) || refuse(reader, "is no unsigned 64-bit number");
}

/* What an array's element or an object's member is called in a path. */
static gsize
enter(Reader *reader, const char *name, guint index)
{
    gsize before = reader->path->len;

    if (name)
        g_string_append_printf(reader->path, "%s%.64s", before ? "." : "", name);
    else
        g_string_append_printf(reader->path, "[%u]", index);
    return before;
}

static GPtrArray *
read_strings(Reader *reader, JsonNode *node)
{
    g_autoptr(GPtrArray) strings = g_ptr_array_new_with_free_func(g_free);
    JsonArray *array;

    if (!JSON_NODE_HOLDS_ARRAY(node)) {
        refuse(reader, "must be an array");
        return NULL;
    }
    array = json_node_get_array(node);
    for (guint i = 0; i < json_array_get_length(array); i++) {
        gsize before = enter(reader, NULL, i);
        const char *text = read_text(reader, json_array_get_element(array, i));

        if (!text)
            return NULL;
        g_ptr_array_add(strings, g_strdup(text));
        g_string_truncate(reader->path, before);
    }
    return g_steal_pointer(&strings);
}

static gboolean
read_strv(Reader *reader, JsonNode *node, char ***value)
{
    GPtrArray *strings = read_strings(reader, node);

    if (!strings)
        return FALSE;
    g_ptr_array_add(strings, NULL);
    g_strfreev(*value);
    *value = (char **)g_ptr_array_free(strings, FALSE);
    return TRUE;
}

static gboolean
read_string_array(Reader *reader, JsonNode *node, GPtrArray **value)
{
    GPtrArray *strings = read_strings(reader, node);

    if (!strings)
        return FALSE;
    g_clear_pointer(value, g_ptr_array_unref);
    *value = strings;
    return TRUE;
}

static gboolean
read_map(Reader *reader, JsonNode *node, GHashTable **value)
{
    g_autoptr(GHashTable) map = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    JsonObjectIter iter;
    const char *name;
    JsonNode *element;

    if (!JSON_NODE_HOLDS_OBJECT(node))
        return refuse(reader, "must be an object");
    json_object_iter_init(&iter, json_node_get_object(node));
    while (json_object_iter_next(&iter, &name, &element)) {
        gsize before = enter(reader, name, 0);
        const char *text = read_text(reader, element);

        if (!text)
            return FALSE;
        if (!g_utf8_validate(name, -1, NULL))
            return refuse(reader, "its name is not UTF-8");
        g_hash_table_insert(map, g_strdup(name), g_strdup(text));
        g_string_truncate(reader->path, before);
    }
    g_clear_pointer(value, g_hash_table_unref);
    *value = g_steal_pointer(&map);
    return TRUE;
}

static gpointer
read_new(Reader *reader, const CkptJsonStruct *type, JsonNode *node)
{
    gpointer value = type->create();

    if (!read_struct(reader, type, node, value))
        g_clear_pointer(&value, type->destroy);
    return value;
}

static gboolean
read_object(Reader *reader, const CkptJsonStruct *type, JsonNode *node, gpointer *value)
{
    gpointer object = read_new(reader, type, node);

    if (!object)
        return FALSE;
    if (*value)
        type->destroy(*value);
    *value = object;
    return TRUE;
}

static gboolean
read_array(Reader *reader, const CkptJsonStruct *type, JsonNode *node, GPtrArray **value)
{
    g_autoptr(GPtrArray) array = g_ptr_array_new_with_free_func(type->destroy);
    JsonArray *elements;

    if (!JSON_NODE_HOLDS_ARRAY(node))
        return refuse(reader, "must be an array");
    elements = json_node_get_array(node);
    for (guint i = 0; i < json_array_get_length(elements); i++) {
        gsize before = enter(reader, NULL, i);
        gpointer element = read_new(reader, type, json_array_get_element(elements, i));

        if (!element)
            return FALSE;
        g_ptr_array_add(array, element);
        g_string_truncate(reader->path, before);
    }
    g_clear_pointer(value, g_ptr_array_unref);
    *value = g_steal_pointer(&array);
    return TRUE;
}

static gboolean
may_be_null(CkptJsonType type)
{
    return type == CKPT_JSON_STRING_OR_NULL || type == CKPT_JSON_STRV ||
           type == CKPT_JSON_MAP_OR_NULL || type == CKPT_JSON_ARRAY_OR_NULL ||
           type == CKPT_JSON_OBJECT_OR_NULL;
}

static gboolean
read_boolean(Reader *reader, JsonNode *node, gboolean *value)
{
    if (!node_is(node, G_TYPE_BOOLEAN))
        return refuse(reader, "must be true or false");
    *value = json_node_get_boolean(node);
    return TRUE;
}

static gboolean
read_member(Reader *reader, const CkptJsonMember *member, JsonNode *node, gpointer value)
{
    /* create() leaves those NULL that may be NULL. */
    if (JSON_NODE_HOLDS_NULL(node) && may_be_null(member->type))
        return TRUE;
    switch (member->type) {
    case CKPT_JSON_STRING:
    case CKPT_JSON_STRING_OR_NULL:
        return read_string(reader, node, &AT(char *, value, member));
    case CKPT_JSON_BOOLEAN:
        return read_boolean(reader, node, &AT(gboolean, value, member));
    case CKPT_JSON_ENUM:
        return read_uint(reader, node, member->min, member->max, &AT(guint, value, member));
    case CKPT_JSON_UINT:
        return read_uint(reader, node, 0, G_MAXUINT, &AT(guint, value, member));
    case CKPT_JSON_INT64:
        return read_int64(reader, node, &AT(gint64, value, member));
    case CKPT_JSON_UINT64:
        return read_uint64(reader, node, &AT(guint64, value, member));
    case CKPT_JSON_STRV:
        return read_strv(reader, node, &AT(char **, value, member));
    case CKPT_JSON_STRINGS:
        return read_string_array(reader, node, &AT(GPtrArray *, value, member));
    case CKPT_JSON_MAP:
    case CKPT_JSON_MAP_OR_NULL:
        return read_map(reader, node, &AT(GHashTable *, value, member));
    case CKPT_JSON_ARRAY:
    case CKPT_JSON_ARRAY_OR_NULL:
        return read_array(reader, member->of, node, &AT(GPtrArray *, value, member));
    case CKPT_JSON_OBJECT_OR_NULL:
        return read_object(reader, member->of, node, &AT(gpointer, value, member));
    case CKPT_JSON_EMBEDDED:
        return read_struct(reader, member->of, node, G_STRUCT_MEMBER_P(value, member->offset));
    }
    return refuse(reader, "has an unknown type");
}

static gboolean
refuse_unknown(Reader *reader, const CkptJsonStruct *type, JsonObject *object)
{
    JsonObjectIter iter;
    const char *name;
    JsonNode *node;

    json_object_iter_init(&iter, object);
    while (json_object_iter_next(&iter, &name, &node)) {
        const CkptJsonMember *member = type->members;

        while (member->name && !g_str_equal(member->name, name))
            member++;
        if (member->name)
            continue;
        enter(reader, name, 0);
        return refuse(reader, "is not known to this agent; a newer one may have written it");
    }
    return TRUE;
}

static gboolean
read_struct(Reader *reader, const CkptJsonStruct *type, JsonNode *node, gpointer value)
{
    JsonObject *object;

    if (!JSON_NODE_HOLDS_OBJECT(node))
        return refuse(reader, "must be an object");
    object = json_node_get_object(node);
    for (const CkptJsonMember *member = type->members; member->name; member++) {
        gsize before = enter(reader, member->name, 0);
        JsonNode *element = json_object_get_member(object, member->name);

        if (!element && !member->later)
            return refuse(reader, "is missing");
        if (element && !read_member(reader, member, element, value))
            return FALSE;
        g_string_truncate(reader->path, before);
    }
    return refuse_unknown(reader, type, object);
}

gpointer
ckpt_json_read(const CkptJsonStruct *type, const char *json, GError **error)
{
    g_autoptr(GString) path = g_string_new(NULL);
    g_autoptr(JsonNode) root = NULL;
    Reader reader = {path, error};

    root = ckpt_json_text_parse(json, error);
    return root ? read_new(&reader, type, root) : NULL;
}

gboolean
ckpt_json_read_value(const CkptJsonMember *member, const char *json, gpointer value, GError **error)
{
    g_autoptr(GString) path = g_string_new(NULL);
    g_autoptr(JsonNode) root = NULL;
    Reader reader = {path, error};

    root = ckpt_json_text_parse(json, error);
    return root && read_member(&reader, member, root, value);
}
