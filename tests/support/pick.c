/* One value of a JSON text on stdin, by a path like .operation.state, printed as "jq -r" prints it: for tests that
 * ask for one again and again, since jq takes seven times as long to begin. */
#include <json-glib/json-glib.h>
#include <stdio.h>

static char *
read_all(FILE *file)
{
    GString *text = g_string_new(NULL);
    char block[65536];
    gsize size;

    while ((size = fread(block, 1, sizeof block, file)) > 0)
        g_string_append_len(text, block, (gssize)size);
    return g_string_free(text, FALSE);
}

/* NULL also for a member of what is null or not there; sets error if node can have none. */
static JsonNode *
member(JsonNode *node, const char *name, GError **error)
{
    if (!node || JSON_NODE_HOLDS_NULL(node))
        return NULL;
    if (!JSON_NODE_HOLDS_OBJECT(node)) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT, "what should have %s is no object", name);
        return NULL;
    }
    return json_object_get_member(json_node_get_object(node), name);
}

static void
print(JsonNode *node)
{
    g_autofree char *text = NULL;

    if (!node || JSON_NODE_HOLDS_NULL(node))
        text = g_strdup("null");
    else if (JSON_NODE_HOLDS_VALUE(node) && json_node_get_value_type(node) == G_TYPE_STRING)
        text = g_strdup(json_node_get_string(node));
    else
        text = json_to_string(node, FALSE);
    puts(text);
}

int
main(int argc, char **argv)
{
    g_autofree char *text = read_all(stdin);
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonNode) root = json_from_string(text, &error);
    g_auto(GStrv) names = argc == 2 && argv[1][0] == '.' ? g_strsplit(argv[1] + 1, ".", -1) : NULL;
    JsonNode *node = root;

    if (!names) {
        fprintf(stderr, "usage: vmckpt-pick .PATH <JSON\n");
        return 2;
    }
    for (char **name = names; *name && !error; name++)
        node = member(node, *name, &error);
    if (error) {
        fprintf(stderr, "vmckpt-pick: %s\n", error->message);
        return 5;
    }
    if (root)
        print(node);
    return 0;
}
