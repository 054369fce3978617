#include "client/output.h"

#include "client/options.h"
#include "common/text.h"

#include <stdio.h>
#include <string.h>

#define CELL_MAX_BYTES 512
#define GAP 2

struct _CkptTable {
    guint columns;
    GPtrArray *cells; /* char *, row after row; the headers first */
};

CkptTable *
ckpt_table_new(const char *const *headers)
{
    CkptTable *table = g_new0(CkptTable, 1);

    table->columns = g_strv_length((char **)headers);
    table->cells = g_ptr_array_new_with_free_func(g_free);
    for (guint i = 0; i < table->columns; i++)
        g_ptr_array_add(table->cells, g_strdup(headers[i]));
    return table;
}

void
ckpt_table_free(CkptTable *table)
{
    if (!table)
        return;
    g_ptr_array_unref(table->cells);
    g_free(table);
}

void
ckpt_table_add(CkptTable *table, const char *const *cells)
{
    for (guint i = 0; i < table->columns; i++) {
        const char *text = cells[i] && *cells[i] ? cells[i] : "-";

        g_ptr_array_add(table->cells, ckpt_text_printable(text, -1, CELL_MAX_BYTES));
    }
}

guint
ckpt_cell_width(const char *text)
{
    guint width = 0;

    for (const char *p = text; *p; p = g_utf8_next_char(p)) {
        gunichar c = g_utf8_get_char(p);

        if (!g_unichar_iszerowidth(c))
            width += g_unichar_iswide(c) ? 2 : 1;
    }
    return width;
}

char *
ckpt_cell(const char *text, guint width)
{
    g_autofree char *safe = ckpt_text_printable(text, -1, CELL_MAX_BYTES);
    guint own = ckpt_cell_width(safe);

    return g_strdup_printf("%s%*s", safe, own < width ? (int)(width - own) : 0, "");
}

char *
ckpt_table_text(const CkptTable *table)
{
    g_autofree guint *widths = g_new0(guint, table->columns);
    GString *out = g_string_new(NULL);

    for (guint i = 0; i < table->cells->len; i++) {
        guint width = ckpt_cell_width(g_ptr_array_index(table->cells, i));

        widths[i % table->columns] = MAX(widths[i % table->columns], width);
    }
    for (guint i = 0; i < table->cells->len; i++) {
        const char *cell = g_ptr_array_index(table->cells, i);
        guint column = i % table->columns;

        g_string_append(out, cell);
        if (column + 1 < table->columns)
            g_string_append_printf(out, "%*s", (int)(widths[column] - ckpt_cell_width(cell)) + GAP,
                                   "");
        else
            g_string_append_c(out, '\n');
    }
    return g_string_free(out, FALSE);
}

char *
ckpt_enum_word(const ProtobufCEnumDescriptor *descriptor, int value)
{
    const ProtobufCEnumValue *known = protobuf_c_enum_descriptor_get_value(descriptor, value);
    const ProtobufCEnumValue *zero = protobuf_c_enum_descriptor_get_value(descriptor, 0);
    gsize prefix =
        zero && g_str_has_suffix(zero->name, "UNSPECIFIED") ? strlen(zero->name) - 11 : 0;
    char *word;

    if (value == 0)
        return g_strdup("-");
    if (!known || strlen(known->name) <= prefix)
        return g_strdup_printf("%d", value);
    word = g_ascii_strdown(known->name + prefix, -1);
    return g_strdelimit(word, "_", '-');
}

gboolean
ckpt_is_deleting(const PbCheckpoint *checkpoint)
{
    return checkpoint->state == VMCHECKPOINT__V1__CHECKPOINT_STATE__CHECKPOINT_STATE_DELETING;
}

char *
ckpt_time_cell(const Google__Protobuf__Timestamp *time)
{
    g_autofree char *text = NULL;

    if (!time)
        return g_strdup("-");
    text = ckpt_time_rfc3339(pb_time(time));
    *strchr(text, 'T') = ' ';
    *strchr(text, '.') = '\0';
    return g_steal_pointer(&text);
}

char *
ckpt_age_cell(const Google__Protobuf__Timestamp *time)
{
    return time ? ckpt_time_age(pb_time(time), g_get_real_time()) : g_strdup("-");
}

static void
append_published(GString *out, const char *label, const char *value)
{
    g_autoptr(GString) escaped = g_string_new(NULL);
    g_autofree char *safe = NULL;

    for (const char *p = value ? value : ""; *p; p++) {
        switch (*p) {
        case '\n':
            g_string_append(escaped, "\\n");
            break;
        case '\r':
            g_string_append(escaped, "\\r");
            break;
        case '\t':
            g_string_append(escaped, "\\t");
            break;
        case '\\':
            g_string_append(escaped, "\\\\");
            break;
        default:
            g_string_append_c(escaped, *p);
        }
    }
    safe = ckpt_text_printable(escaped->str, (gssize)escaped->len, G_MAXINT);
    g_string_append_printf(out, "%s: %s\n", label, safe);
}

static void
append_published_time(GString *out, const char *label, const Google__Protobuf__Timestamp *time)
{
    g_autofree char *text = time ? ckpt_time_published(pb_time(time)) : NULL;

    append_published(out, label, text);
}

static void
append_drives(GString *out, const PbCheckpoint *checkpoint)
{
    g_autoptr(GString) drives = g_string_new(NULL);

    for (gsize i = 0; i < checkpoint->n_virtual_disk_drives; i++)
        g_string_append_printf(drives, "%s%s", i ? ", " : "", checkpoint->virtual_disk_drives[i]);
    append_published(out, "Virtual Disk Drives", drives->str);
}

char *
ckpt_published_text(const PbCheckpoint *checkpoint)
{
    GString *out = g_string_new(NULL);
    gboolean internal =
        checkpoint->accessibility == VMCHECKPOINT__V1__ACCESSIBILITY__ACCESSIBILITY_INTERNAL;

    append_published(out, "Accessibility", internal ? "Internal" : "Public");
    append_published_time(out, "Added Time", checkpoint->added_time);
    append_published(out, "Checkpoint ID", checkpoint->checkpoint_id);
    append_published(out, "Checkpoint Name", checkpoint->checkpoint_name);
    append_published(out, "Description", checkpoint->description);
    append_published(out, "ID", checkpoint->id);
    append_published(out, "Enabled", checkpoint->enabled ? "true" : "false");
    append_published_time(out, "Modified Time", checkpoint->modified_time);
    append_published(out, "Most Recent Task", checkpoint->most_recent_task);
    append_published(out, "Parent Checkpoint ID", checkpoint->parent_checkpoint_id);
    append_drives(out, checkpoint);
    append_published(out, "VM ID", checkpoint->vm_id);
    append_published(out, "VM Name", checkpoint->vm_name);
    return g_string_free(out, FALSE);
}

JsonNode *
ckpt_json_with_host(const ProtobufCMessage *message, const char *host)
{
    g_autoptr(JsonNode) node = ckpt_proto_to_json(message, CKPT_PROTO_JSON_ALL_FIELDS);
    JsonObject *object = json_object_new();
    JsonNode *with_host = json_node_init_object(json_node_alloc(), object);
    g_autoptr(GList) names = json_object_get_members(json_node_get_object(node));
    g_autofree char *valid = g_utf8_make_valid(host ? host : "", -1);

    json_object_set_string_member(object, "host", valid);
    for (GList *name = names; name; name = name->next)
        json_object_set_member(object, name->data,
                               json_object_dup_member(json_node_get_object(node), name->data));
    json_object_unref(object); /* the node has a reference of its own */
    return with_host;
}

void
ckpt_json_print(JsonArray *array)
{
    g_autoptr(JsonNode) node = json_node_init_array(json_node_alloc(), array);
    g_autofree char *text = ckpt_json_to_text(node, TRUE);

    puts(text);
}

struct _CkptList {
    CkptFormat format;
    CkptTable *table;
    JsonArray *array;
    guint published;
};

CkptList *
ckpt_list_new(int format)
{
    static const char *const headers[] = {"",           "HOST", "VM",          "CHECKPOINT", "ID",
                                          "MADE (UTC)", "AGE",  "CONSISTENCY", "ENABLED",    NULL};
    CkptList *list = g_new0(CkptList, 1);

    list->format = (CkptFormat)format;
    if (list->format == CKPT_FORMAT_TABLE)
        list->table = ckpt_table_new(headers);
    else if (list->format == CKPT_FORMAT_JSON)
        list->array = json_array_new();
    return list;
}

void
ckpt_list_free(CkptList *list)
{
    if (!list)
        return;
    ckpt_table_free(list->table);
    g_clear_pointer(&list->array, json_array_unref);
    g_free(list);
}

static void
add_row(CkptTable *table, const char *host, const char *vm_name, const PbCheckpoint *checkpoint)
{
    g_autofree char *made = ckpt_time_cell(checkpoint->added_time);
    g_autofree char *age = ckpt_age_cell(checkpoint->added_time);
    g_autofree char *consistency = ckpt_enum_word(&vmcheckpoint__v1__consistency__descriptor,
                                                  (int)checkpoint->consistency_reached);
    const char *cells[] = {checkpoint->current ? "*" : " ",
                           host,
                           vm_name ? vm_name : checkpoint->vm_name,
                           checkpoint->checkpoint_name,
                           checkpoint->checkpoint_id,
                           made,
                           age,
                           consistency,
                           ckpt_is_deleting(checkpoint) ? "deleting"
                           : checkpoint->enabled        ? "yes"
                                                        : "no"};

    ckpt_table_add(table, cells);
}

void
ckpt_list_add(CkptList *list, const char *host, const char *vm_name, const PbCheckpoint *checkpoint)
{
    g_autofree char *text = NULL;

    switch (list->format) {
    case CKPT_FORMAT_TABLE:
        add_row(list->table, host, vm_name, checkpoint);
        break;
    case CKPT_FORMAT_JSON:
        json_array_add_element(list->array, ckpt_json_with_host(&checkpoint->base, host));
        break;
    case CKPT_FORMAT_PUBLISHED:
        text = ckpt_published_text(checkpoint);
        printf("%s%s", list->published++ ? "\n" : "", text);
        break;
    }
}

void
ckpt_list_print(CkptList *list)
{
    g_autofree char *text = list->table ? ckpt_table_text(list->table) : NULL;

    if (text)
        fputs(text, stdout);
    if (list->array)
        ckpt_json_print(list->array);
}
