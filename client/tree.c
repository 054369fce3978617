#include "client/tree.h"

#include "client/command.h"
#include "client/locate.h"
#include "client/output.h"
#include "common/text.h"

#include <stdio.h>

typedef struct {
    const PbCheckpoint *checkpoint;
    GPtrArray *children; /* Node */
    gboolean has_parent, shown;
} Node;

/* A node that is still to be shown, and what stands before it. */
typedef struct {
    Node *node;
    char *prefix; /* of its own line */
    char *below;  /* of its descendants' lines */
} Pending;

static void
node_free(gpointer data)
{
    Node *node = data;

    g_ptr_array_unref(node->children);
    g_free(node);
}

static void
pending_free(Pending *pending)
{
    g_free(pending->prefix);
    g_free(pending->below);
    g_free(pending);
}

static void
push(GQueue *stack, Node *node, char *prefix, char *below)
{
    Pending *pending = g_new(Pending, 1);

    *pending = (Pending){node, prefix, below};
    g_queue_push_head(stack, pending);
}

static void
append_line(GString *out, const char *prefix, const PbCheckpoint *checkpoint)
{
    g_autofree char *name = ckpt_text_printable(checkpoint->checkpoint_name, -1, 256);
    g_autofree char *id = ckpt_text_printable(checkpoint->checkpoint_id, -1, 64);
    g_autofree char *age = ckpt_age_cell(checkpoint->added_time);
    const char *state = ckpt_is_deleting(checkpoint) ? "  being deleted"
                        : checkpoint->enabled        ? ""
                                                     : "  not enabled";

    g_string_append_printf(out, "%s%s %s  %s  %s%s\n", prefix, checkpoint->current ? "*" : "o",
                           name, id, age, state);
}

/* The last child is pushed first, so that the first is shown first. */
static void
push_children(GQueue *stack, const Pending *parent)
{
    GPtrArray *children = parent->node->children;

    for (guint i = children->len; i-- > 0;) {
        Node *child = g_ptr_array_index(children, i);
        gboolean last = i + 1 == children->len;

        if (children->len == 1)
            push(stack, child, g_strdup(parent->below), g_strdup(parent->below));
        else
            push(stack, child, g_strconcat(parent->below, last ? "└─" : "├─", NULL),
                 g_strconcat(parent->below, last ? "  " : "│ ", NULL));
    }
}

/* Not recursive: the depth is the agent's to say. */
static void
append_subtree(GString *out, Node *root)
{
    GQueue stack = G_QUEUE_INIT;

    push(&stack, root, g_strdup(""), g_strdup(""));
    while (stack.length > 0) {
        Pending *pending = g_queue_pop_head(&stack);

        if (!pending->node->shown) { /* parents that form a circle would not end */
            pending->node->shown = TRUE;
            append_line(out, pending->prefix, pending->node->checkpoint);
            push_children(&stack, pending);
        }
        pending_free(pending);
    }
}

static GPtrArray *
build(GPtrArray *checkpoints)
{
    GPtrArray *nodes = g_ptr_array_new_with_free_func(node_free);
    g_autoptr(GHashTable) by_id = g_hash_table_new(g_str_hash, g_str_equal);

    for (guint i = 0; i < checkpoints->len; i++) {
        Node *node = g_new0(Node, 1);

        node->checkpoint = g_ptr_array_index(checkpoints, i);
        node->children = g_ptr_array_new();
        g_ptr_array_add(nodes, node);
        g_hash_table_insert(by_id, node->checkpoint->checkpoint_id, node);
    }
    for (guint i = 0; i < nodes->len; i++) {
        Node *node = g_ptr_array_index(nodes, i);
        Node *parent = g_hash_table_lookup(by_id, node->checkpoint->parent_checkpoint_id);

        if (!parent || parent == node)
            continue;
        node->has_parent = TRUE;
        g_ptr_array_add(parent->children, node);
    }
    return nodes;
}

char *
ckpt_tree_text(GPtrArray *checkpoints)
{
    g_autoptr(GPtrArray) nodes = build(checkpoints);
    GString *out = g_string_new(NULL);

    for (guint pass = 0; pass < 2; pass++)
        for (guint i = 0; i < nodes->len; i++) {
            Node *node = g_ptr_array_index(nodes, i);

            if (!node->shown && (!node->has_parent || pass == 1))
                append_subtree(out, node);
        }
    return g_string_free(out, FALSE);
}

static CkptExit
print_tree(CkptClient *client, const CkptFoundVm *vm)
{
    Vmcheckpoint__V1__CheckpointFilter filter = VMCHECKPOINT__V1__CHECKPOINT_FILTER__INIT;
    g_autoptr(GPtrArray) hosts = g_ptr_array_new(), answers = NULL;
    g_autoptr(CkptList) list = NULL;
    g_autofree char *text = NULL, *name = ckpt_text_printable(vm->vm_name, -1, 256);
    g_autofree char *vm_id = ckpt_text_printable(vm->vm_id, -1, 64);
    const CkptAnswer *answer;

    g_ptr_array_add(hosts, (gpointer)vm->host);
    filter.vm_id = vm->vm_id;
    filter.include_deleting = TRUE;
    answers = ckpt_query_checkpoints(client, hosts, &filter);
    answer = g_ptr_array_index(answers, 0);
    if (answer->error) {
        ckpt_report_error(vm->host->name, vm->vm_name, answer->error);
        return CKPT_EXIT_FAILED;
    }
    if (client->settings->format == CKPT_FORMAT_TABLE) {
        text = ckpt_tree_text(answer->items);
        printf("%s (%s) on host %s%s\n%s", name, vm_id, vm->host->name,
               answer->items->len ? "" : ": no checkpoints", text);
        return CKPT_EXIT_DONE;
    }
    list = ckpt_list_new(client->settings->format);
    for (guint i = 0; i < answer->items->len; i++)
        ckpt_list_add(list, vm->host->name, vm->vm_name, g_ptr_array_index(answer->items, i));
    ckpt_list_print(list);
    return CKPT_EXIT_DONE;
}

static CkptExit
run(CkptClient *client, char **arguments)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptLocation) location = ckpt_locate(client, arguments, FALSE, &error);
    const CkptVmArgument *argument;
    const CkptFoundVm *vm;

    if (!location) {
        ckpt_report(NULL, NULL, "%s", error->message);
        return CKPT_EXIT_USAGE;
    }
    ckpt_answers_report(location->answers);
    argument = g_ptr_array_index(location->arguments, 0);
    vm = ckpt_location_deployed(location, argument, &error);
    if (vm)
        return print_tree(client, vm);
    ckpt_report_error(NULL, argument->text, error);
    return CKPT_EXIT_FAILED;
}

const CkptCommand ckpt_command_tree = {
    .name = "tree",
    .arguments = "VM",
    .summary = "shows a VM's checkpoints as the tree they are; * marks where it is",
    .min_arguments = 1,
    .max_arguments = 1,
    .publishes = TRUE,
    .run = run,
};
