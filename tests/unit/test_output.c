#include "client/client.h"
#include "client/output.h"
#include "client/tree.h"
#include "tests/unit/cmocka_all.h"

#include <string.h>

#define ID_1 "11111111-1111-4111-8111-111111111111"
#define ID_2 "22222222-2222-4222-8222-222222222222"

static void
published_form_is_exact(void **state)
{
    Google__Protobuf__Timestamp added = GOOGLE__PROTOBUF__TIMESTAMP__INIT, modified = added;
    char *drives[] = {(char *)"vda", (char *)"sdb"};
    PbCheckpoint checkpoint = VMCHECKPOINT__V1__CHECKPOINT__INIT;
    g_autofree char *text = NULL;

    added.seconds = 1795305600; /* midnight */
    modified.seconds = 1795352709;
    modified.nanos = 999999999;
    checkpoint.accessibility = VMCHECKPOINT__V1__ACCESSIBILITY__ACCESSIBILITY_PUBLIC;
    checkpoint.added_time = &added;
    checkpoint.checkpoint_id = (char *)ID_1;
    checkpoint.checkpoint_name = (char *)"before: patch";
    checkpoint.description = (char *)"line 1\nline 2\tC:\\temp\r\x1b[2J";
    checkpoint.id = (char *)ID_1;
    checkpoint.enabled = 1;
    checkpoint.modified_time = &modified;
    checkpoint.most_recent_task = (char *)"Restore checkpoint";
    checkpoint.n_virtual_disk_drives = 2;
    checkpoint.virtual_disk_drives = drives;
    checkpoint.vm_id = (char *)ID_2;
    checkpoint.vm_name = (char *)"web-01";
    text = ckpt_published_text(&checkpoint);
    assert_string_equal(text, "Accessibility: Public\n"
                              "Added Time: 2026-11-22 12:00:00 AM\n"
                              "Checkpoint ID: " ID_1 "\n"
                              "Checkpoint Name: before: patch\n"
                              "Description: line 1\\nline 2\\tC:\\\\temp\\r\\x1b[2J\n"
                              "ID: " ID_1 "\n"
                              "Enabled: true\n"
                              "Modified Time: 2026-11-22 01:05:09 PM\n"
                              "Most Recent Task: Restore checkpoint\n"
                              "Parent Checkpoint ID: \n"
                              "Virtual Disk Drives: vda, sdb\n"
                              "VM ID: " ID_2 "\n"
                              "VM Name: web-01\n");
}

static void
published_form_of_an_empty_checkpoint_has_all_labels(void **state)
{
    PbCheckpoint checkpoint = VMCHECKPOINT__V1__CHECKPOINT__INIT;
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;

    checkpoint.accessibility = VMCHECKPOINT__V1__ACCESSIBILITY__ACCESSIBILITY_INTERNAL;
    text = ckpt_published_text(&checkpoint);
    lines = g_strsplit(text, "\n", -1);
    assert_int_equal(g_strv_length(lines), 14); /* the last is empty */
    assert_string_equal(lines[0], "Accessibility: Internal");
    assert_string_equal(lines[6], "Enabled: false");
}

static void
table_columns_are_aligned(void **state)
{
    static const char *const headers[] = {"VM", "STATE", NULL};
    const char *const rows[][2] = {{"web-01", "running"}, {"日本", ""}, {"a\nb", NULL}};
    g_autoptr(CkptTable) table = ckpt_table_new(headers);
    g_autofree char *text = NULL;

    for (gsize i = 0; i < G_N_ELEMENTS(rows); i++)
        ckpt_table_add(table, rows[i]);
    text = ckpt_table_text(table);
    assert_string_equal(text, "VM      STATE\n"
                              "web-01  running\n"
                              "日本    -\n"
                              "a\\x0ab  -\n");
}

static void
enums_are_words(void **state)
{
    const ProtobufCEnumDescriptor *power = &vmcheckpoint__v1__power_state__descriptor;
    g_autofree char *off = ckpt_enum_word(power, 3), *none = ckpt_enum_word(power, 0);
    g_autofree char *unknown = ckpt_enum_word(power, 99);

    assert_string_equal(off, "shut-off");
    assert_string_equal(none, "-");
    assert_string_equal(unknown, "99");
}

static void
errors_say_what_to_do(void **state)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *line = NULL;

    ckpt_error_set(&error, CKPT_REASON_CHECKPOINT_HELD, "checkpoint x is held\x1b[2J");
    line = ckpt_error_line("a", "web-01", error);
    assert_string_equal(line, "vmcheckpoint: host a: VM web-01: checkpoint x is held\\x1b[2J. "
                              "Release the hold first");
}

static void
json_has_the_host_first(void **state)
{
    Vmcheckpoint__V1__Label label = VMCHECKPOINT__V1__LABEL__INIT;
    g_autoptr(JsonNode) node = ckpt_json_with_host(&label.base, "a");
    g_autofree char *text = ckpt_json_to_text(node, FALSE);

    assert_string_equal(text, "{\"host\":\"a\",\"key\":\"\",\"value\":\"\"}");
}

/* checkpoints: rows of name, which is the id too, and parent; a star marks the current one. */
static void
assert_tree(const char *const (*rows)[2], gsize n, const char *expected)
{
    g_autofree PbCheckpoint *checkpoints = g_new0(PbCheckpoint, n);
    g_autoptr(GPtrArray) list = g_ptr_array_new();
    g_autofree char *text = NULL;

    for (gsize i = 0; i < n; i++) {
        vmcheckpoint__v1__checkpoint__init(&checkpoints[i]);
        checkpoints[i].current = *rows[i][0] == '*';
        checkpoints[i].checkpoint_name = (char *)"n";
        checkpoints[i].checkpoint_id = (char *)rows[i][0] + checkpoints[i].current;
        checkpoints[i].parent_checkpoint_id = (char *)rows[i][1];
        checkpoints[i].enabled = 1;
        g_ptr_array_add(list, &checkpoints[i]);
    }
    text = ckpt_tree_text(list);
    if (expected)
        assert_string_equal(text, expected);
}

static void
tree_indents_branches_only(void **state)
{
    static const char *const rows[][2] = {{"a", ""},  {"b", "a"}, {"c", "b"}, {"*d", "b"},
                                          {"e", "c"}, {"f", "c"}, {"g", "d"}};

    assert_tree(rows, G_N_ELEMENTS(rows),
                "o n  a  -\n"
                "o n  b  -\n"
                "├─o n  c  -\n"
                "│ ├─o n  e  -\n"
                "│ └─o n  f  -\n"
                "└─* n  d  -\n"
                "  o n  g  -\n");
}

static void
tree_shows_orphans_and_circles_once(void **state)
{
    static const char *const rows[][2] = {{"a", "gone"}, {"b", "c"}, {"c", "b"}, {"d", "d"}};

    assert_tree(rows, G_N_ELEMENTS(rows), "o n  a  -\no n  d  -\no n  b  -\no n  c  -\n");
}

static void
tree_may_be_deep(void **state)
{
    gsize n = 20000;
    g_autofree char *ids = g_malloc0(n * 8);
    g_autofree const char *(*rows)[2] = g_malloc0(n * sizeof *rows);

    for (gsize i = 0; i < n; i++) {
        g_snprintf(ids + i * 8, 8, "%zu", i);
        rows[i][0] = ids + i * 8;
        rows[i][1] = i ? ids + (i - 1) * 8 : "";
    }
    assert_tree((const char *const(*)[2])rows, n, NULL);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_form_is_exact),
        cmocka_unit_test(published_form_of_an_empty_checkpoint_has_all_labels),
        cmocka_unit_test(table_columns_are_aligned),
        cmocka_unit_test(enums_are_words),
        cmocka_unit_test(errors_say_what_to_do),
        cmocka_unit_test(json_has_the_host_first),
        cmocka_unit_test(tree_indents_branches_only),
        cmocka_unit_test(tree_shows_orphans_and_circles_once),
        cmocka_unit_test(tree_may_be_deep),
    };

    return cmocka_run_group_tests_name("output", tests, NULL, NULL);
}
