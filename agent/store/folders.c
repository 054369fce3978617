/* The folders in which checkpoints have files, a line each, in a file beside the catalogue: where to look for
 * manifests once that is lost. A folder that no definition and no other manifest names is found by nothing
 * else. */
#include "agent/store/internal.h"

#include <string.h>

#define FILE_NAME "vmcheckpoint.folders"

static gboolean
add(CkptDatabase *db, const char *file)
{
    char *folder = g_path_get_dirname(file);

    if (*folder == '/')
        return g_hash_table_add(db->folders, folder);
    g_free(folder);
    return FALSE;
}

static int
compare(gconstpointer a, gconstpointer b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* (transfer full) */
static GPtrArray *
list(CkptDatabase *db)
{
    GPtrArray *folders = g_ptr_array_new_with_free_func(g_free);
    GHashTableIter iter;
    gpointer folder;

    g_hash_table_iter_init(&iter, db->folders);
    while (g_hash_table_iter_next(&iter, &folder, NULL))
        g_ptr_array_add(folders, g_strdup(folder));
    g_ptr_array_sort(folders, compare);
    return folders;
}

static void
write_all(CkptDatabase *db)
{
    g_autoptr(GPtrArray) folders = list(db);
    g_autoptr(GString) text = g_string_new(NULL);
    g_autoptr(GError) error = NULL;

    for (guint i = 0; i < folders->len; i++) {
        g_autofree char *line = g_strescape(g_ptr_array_index(folders, i), NULL);

        g_string_append_printf(text, "%s\n", line);
    }
    db->folders_unwritten =
        !g_file_set_contents_full(db->folders_path, text->str, (gssize)text->len,
                                  G_FILE_SET_CONTENTS_CONSISTENT | G_FILE_SET_CONTENTS_DURABLE, 0600, &error);
    if (db->folders_unwritten)
        g_warning("%s cannot be written, so a lost catalogue may not find all checkpoints: %s",
                  db->folders_path, error->message);
}

static void
read_lines(CkptDatabase *db)
{
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;

    if (!g_file_get_contents(db->folders_path, &text, NULL, NULL))
        return;
    lines = g_strsplit(text, "\n", -1);
    for (guint i = 0; lines[i]; i++)
        if (*lines[i] == '/')
            g_hash_table_add(db->folders, g_strcompress(lines[i]));
}

/* What an older agent made, which kept no such file, or one that could not write it. */
static gboolean
add_known(CkptDatabase *db)
{
    gboolean any = FALSE, failed = FALSE;
    sqlite3_stmt *statement = ckpt_database_query(db, NULL, "SELECT path FROM files", "");

    while (statement && ckpt_database_next(db, statement, &failed, NULL))
        any = add(db, (const char *)sqlite3_column_text(statement, 0)) || any;
    return any;
}

void
ckpt_folders_open(CkptDatabase *db, const char *state_dir)
{
    db->folders_path = g_build_filename(state_dir, FILE_NAME, NULL);
    db->folders = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    read_lines(db);
    if (add_known(db))
        write_all(db);
}

void
ckpt_folders_note(CkptDatabase *db, const CkptChange *change)
{
    gboolean any = db->folders_unwritten;

    if (!db->folders)
        return;
    for (guint i = 0; i < change->made->len; i++)
        any = add(db, g_ptr_array_index(change->made, i)) || any;
    for (guint i = 0; i < change->upserts->len; i++) {
        const CkptCheckpoint *row = g_ptr_array_index(change->upserts, i);

        for (guint k = 0; k < row->disks->len; k++)
            any = add(db, ((CkptCheckpointDisk *)g_ptr_array_index(row->disks, k))->sealed_file) || any;
    }
    if (any)
        write_all(db);
}

static gboolean
list_work(CkptDatabase *db, gpointer data, GError **error)
{
    *(GPtrArray **)data = list(db);
    return TRUE;
}

GPtrArray *
ckpt_store_folders(CkptStore *store)
{
    GPtrArray *folders = NULL;

    if (!ckpt_store_read(store, list_work, &folders, NULL))
        return g_ptr_array_new_with_free_func(g_free);
    return folders;
}
