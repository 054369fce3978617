#include "agent/model/json_text.h"

#include "agent/model/json_codec.h"
#include "common/error.h"

#include <string.h>

typedef struct {
    guint depth;
    gsize members; /* colons outside of strings */
} Scan;

/* From the opening quote to the closing one; NULL if there is none, or if it has a NUL or a bare
 * control character in it. */
static const char *
skip_string(const char *p)
{
    for (p++; *p != '"'; p++) {
        if ((guchar)*p < 0x20)
            return NULL;
        if (*p != '\\')
            continue;
        p++;
        if (!*p || !strchr("\"\\/bfnrtu", *p) || g_str_has_prefix(p, "u0000"))
            return NULL;
    }
    return p;
}

/* json-glib would read it as octal. */
static gboolean
has_leading_zero(const char *json, const char *p)
{
    return *p == '0' && g_ascii_isdigit(p[1]) && (p == json || !g_ascii_isdigit(p[-1]));
}

/* json-glib's parser calls itself for every level, skips comments and stops at the end of the first
 * value, so the text is looked over before it gets it. */
static const char *
scan_text(const char *json, Scan *scan)
{
    gboolean begun = FALSE;

    for (const char *p = json; *p; p++) {
        if (begun && scan->depth == 0 && !strchr(" \t\r\n", *p))
            return "goes on after its end";
        if (has_leading_zero(json, p))
            return "has a number with a zero in front";
        if (*p == '"') {
            p = skip_string(p);
            if (!p)
                return "has a string that is not well formed";
        } else if (*p == '{' || *p == '[') {
            begun = TRUE;
            if (++scan->depth > CKPT_JSON_DEPTH_MAX)
                return "is nested too deeply";
        } else if (*p == '}' || *p == ']') {
            if (scan->depth-- == 0)
                return "has a bracket too many";
        } else if (*p == ':') {
            scan->members++;
        } else if (!strchr("-0123456789,truefalsn \t\r\n", *p)) {
            return "has a character that our JSON does not have";
        }
    }
    return NULL;
}

static gsize
count_members(JsonNode *node)
{
    gsize count = 0;

    if (JSON_NODE_HOLDS_OBJECT(node)) {
        JsonObjectIter iter;
        const char *name;
        JsonNode *element;

        json_object_iter_init(&iter, json_node_get_object(node));
        while (json_object_iter_next(&iter, &name, &element))
            count += 1 + count_members(element);
    } else if (JSON_NODE_HOLDS_ARRAY(node)) {
        JsonArray *array = json_node_get_array(node);

        for (guint i = 0; i < json_array_get_length(array); i++)
            count += count_members(json_array_get_element(array, i));
    }
    return count;
}

JsonNode *
ckpt_json_text_parse(const char *json, GError **error)
{
    g_autoptr(JsonNode) root = NULL;
    Scan scan = {0};
    const char *wrong = NULL;

    if (!json || strnlen(json, CKPT_JSON_SIZE_MAX + 1) > CKPT_JSON_SIZE_MAX)
        wrong = "is too long";
    else if (!g_utf8_validate(json, -1, NULL))
        wrong = "is not UTF-8";
    else
        wrong = scan_text(json, &scan);
    if (!wrong) {
        /* json-glib's own words quote the text, which may hold a password. */
        root = json_from_string(json, NULL);
        if (!root)
            wrong = "is no JSON";
        else if (count_members(root) != scan.members)
            wrong = "has a member twice";
    }
    if (wrong) {
        ckpt_error_set(error, CKPT_REASON_STORE_FAILED, "JSON: the text: %s", wrong);
        return NULL;
    }
    return g_steal_pointer(&root);
}
