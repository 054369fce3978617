#include "agent/model/manifest.h"

#include "agent/model/json.h"
#include "common/id.h"

#include <string.h>

#define ROW ",\"row\":"
#define NAME_MAX_BYTES 4096
#define DISKS_MAX 256
#define TEXTS_MAX (128u * 1024)

CkptManifest *
ckpt_manifest_new(void)
{
    CkptManifest *manifest = g_new0(CkptManifest, 1);

    manifest->format = CKPT_MANIFEST_FORMAT;
    return manifest;
}

void
ckpt_manifest_free(CkptManifest *manifest)
{
    if (!manifest)
        return;
    g_free(manifest->agent);
    g_free(manifest->checkpoint_id);
    g_free(manifest->domain);
    g_free(manifest->host_name);
    g_free(manifest->path);
    ckpt_checkpoint_free(manifest->row);
    g_free(manifest);
}

char *
ckpt_manifest_text(const CkptCheckpoint *checkpoint, const CkptHostInfo *owner, guint64 epoch)
{
    /* Borrows everything. */
    const CkptManifest manifest = {
        .agent = owner->host_id,
        .checkpoint_id = checkpoint->id,
        .domain = checkpoint->vm_id,
        .epoch = epoch,
        .format = CKPT_MANIFEST_FORMAT,
        .host_name = owner->host_name,
        .modified_us = checkpoint->modified_us,
        .row = (CkptCheckpoint *)checkpoint,
    };
    g_autofree char *json = ckpt_manifest_to_json(&manifest);

    return g_strconcat(json, "\n", NULL);
}

/* ---- Distrust ---- */

static gboolean G_GNUC_PRINTF(2, 3)
refuse(GError **error, const char *format, ...)
{
    g_autofree char *message = NULL;
    va_list args;

    va_start(args, format);
    message = g_strdup_vprintf(format, args);
    va_end(args);
    ckpt_error_set(error, CKPT_REASON_VALIDATION_FAILED, "%s", message);
    return FALSE;
}

static gboolean
is_id(const char *text)
{
    g_autofree char *id = text ? ckpt_id_parse(text) : NULL;

    return id && g_str_equal(id, text);
}

/* Absolute, as the kernel would write it, and printable. */
static gboolean
is_plain_path(const char *path)
{
    g_autofree char *plain = NULL;

    if (!path || *path != '/' || strlen(path) >= NAME_MAX_BYTES)
        return FALSE;
    for (const char *at = path; *at; at++)
        if ((guchar)*at < ' ' || *at == 127)
            return FALSE;
    plain = g_canonicalize_filename(path, "/");
    return g_str_equal(plain, path);
}

/* What follows an agent's mark in the file's name: NAME.ckpt-SHORTID<this>; NULL if it has none, or that of
 * another checkpoint than `id` (NULL: of any). */
static char *
after_mark(const char *file, const char *id)
{
    g_autofree char *name = g_path_get_basename(file);
    const char *mark = g_strrstr(name, ".ckpt-");

    if (!mark || mark == name)
        return NULL;
    mark += strlen(".ckpt-");
    if (id && strncmp(mark, id, 8) != 0)
        return NULL;
    for (guint i = 0; i < 8; i++, mark++)
        if (!g_ascii_isxdigit(*mark))
            return NULL;
    return g_strdup(mark);
}

gboolean
ckpt_manifest_is_overlay_name(const char *file)
{
    g_autofree char *rest = after_mark(file, NULL);

    return g_strcmp0(rest, ".qcow2") == 0;
}

static gboolean
check_extras(const CkptCheckpoint *row, GError **error)
{
    for (guint i = 0; i < row->extras->len; i++) {
        const CkptCheckpointFile *extra = g_ptr_array_index(row->extras, i);
        g_autofree char *rest = after_mark(extra->path, row->id);

        /* It is removed with the checkpoint: never another one's. */
        if (!is_plain_path(extra->path) || !rest || ckpt_checkpoint_find_extra(row, extra->kind) != extra)
            return refuse(error, "it says that an agent made its %s file %s, which is not named so",
                          ckpt_file_kind_name(extra->kind), extra->path);
    }
    return TRUE;
}

static gboolean
check_head(const CkptManifest *head, GError **error)
{
    if (head->format != CKPT_MANIFEST_FORMAT)
        return refuse(error, "its format is %u and this agent knows %d", head->format,
                      CKPT_MANIFEST_FORMAT);
    if (!is_id(head->agent) || !is_id(head->checkpoint_id) || !is_id(head->domain))
        return refuse(error, "its agent, checkpoint or VM is no UUID");
    if (head->epoch == 0 || head->epoch > CKPT_MANIFEST_EPOCH_MAX)
        return refuse(error, "its epoch %" G_GUINT64_FORMAT " is none", head->epoch);
    return TRUE;
}

static gboolean
check_disk(const CkptCheckpointDisk *disk, GError **error)
{
    if (!*disk->target || strlen(disk->target) > 64)
        return refuse(error, "a disk of it has no usable target");
    if (!is_plain_path(disk->sealed_file))
        return refuse(error, "the file of disk %s is no plain absolute path", disk->target);
    if (!disk->format || disk->mode_before > 07777)
        return refuse(error, "disk %s has no format, or a mode that is none", disk->target);
    /* Else it would be removed one day on a manifest's word alone. */
    if (disk->agent_made && !ckpt_manifest_is_overlay_name(disk->sealed_file))
        return refuse(error, "it says that an agent made %s, which is not named so",
                      disk->sealed_file);
    return TRUE;
}

static gboolean
check_disks(const CkptCheckpoint *row, const char *file, GError **error)
{
    gboolean beside = FALSE;

    if (row->disks->len == 0 || row->disks->len > DISKS_MAX)
        return refuse(error, "it has %u disks", row->disks->len);
    for (guint i = 0; i < row->disks->len; i++) {
        const CkptCheckpointDisk *disk = g_ptr_array_index(row->disks, i);

        if (!check_disk(disk, error))
            return FALSE;
        for (guint k = 0; k < i; k++) {
            const CkptCheckpointDisk *other = g_ptr_array_index(row->disks, k);

            if (g_str_equal(other->target, disk->target) ||
                g_str_equal(other->sealed_file, disk->sealed_file))
                return refuse(error, "two of its disks are one: %s, %s", other->target, disk->target);
        }
        beside = beside || g_str_equal(disk->sealed_file, file);
    }
    return beside || refuse(error,
                            "none of its files is %s, beside which it lies: was it copied, or is the "
                            "folder mounted elsewhere on the host that wrote it?",
                            file);
}

static gsize
length_of(GHashTable *labels)
{
    gsize length = 0;
    GHashTableIter iter;
    gpointer key, value;

    g_hash_table_iter_init(&iter, labels);
    while (g_hash_table_iter_next(&iter, &key, &value))
        length += strlen(key) + strlen(value);
    return length;
}

/* A request has 64 KiB at most, and a reply that lists it must have room for it. */
static gboolean
check_texts(const CkptCheckpoint *row, GError **error)
{
    const char *const texts[] = {row->name,   row->description,  row->vm_name, row->most_recent_task,
                                 row->run_id, row->reason,       row->ticket,  row->creator,
                                 row->hold,   row->qemu_version, row->disabled_reason};
    gsize length = length_of(row->labels);

    for (guint i = 0; i < G_N_ELEMENTS(texts); i++)
        length += texts[i] ? strlen(texts[i]) : 0;
    for (guint i = 0; i < row->not_captured->len; i++)
        length += strlen(g_ptr_array_index(row->not_captured, i));
    return length <= TEXTS_MAX || refuse(error, "its texts have %" G_GSIZE_FORMAT " bytes", length);
}

static gboolean
check_row(const CkptManifest *manifest, const char *file, GError **error)
{
    const CkptCheckpoint *row = manifest->row;

    if (g_strcmp0(row->id, manifest->checkpoint_id) != 0 ||
        g_strcmp0(row->vm_id, manifest->domain) != 0 || row->modified_us != manifest->modified_us)
        return refuse(error, "its head and its checkpoint disagree");
    if (row->parent_id && (!is_id(row->parent_id) || g_str_equal(row->parent_id, row->id)))
        return refuse(error, "its parent is none");
    if (row->mechanism != CKPT_MECHANISM_OVERLAY ||
        (row->state != CKPT_STATE_READY && !(row->state == CKPT_STATE_DELETING && row->deferred)))
        return refuse(error, "it is no checkpoint that is kept in files");
    if (!row->accessibility || !row->asked || !row->reached || row->added_us <= 0)
        return refuse(error, "its checkpoint is not complete");
    if (!row->definition || !*row->definition)
        return refuse(error, "it has no definition");
    return check_texts(row, error) && check_extras(row, error) && check_disks(row, file, error);
}

CkptManifest *
ckpt_manifest_parse(const char *text, const char *file, GError **error)
{
    g_autoptr(CkptManifest) manifest = ckpt_manifest_from_json(text, error);

    if (!manifest || !check_head(manifest, error))
        return NULL;
    if (!manifest->row) {
        refuse(error, "it has no checkpoint");
        return NULL;
    }
    if (!check_row(manifest, file, error))
        return NULL;
    manifest->path = g_strdup(file);
    return g_steal_pointer(&manifest);
}

CkptManifest *
ckpt_manifest_parse_head(const char *text, const char *file)
{
    const char *end = strstr(text, ROW); /* within a string it would be escaped */
    g_autofree char *head = end ? g_strndup(text, (gsize)(end - text)) : NULL;
    g_autofree char *closed = head ? g_strconcat(head, ROW "null}", NULL) : NULL;
    g_autoptr(CkptManifest) manifest = closed ? ckpt_manifest_from_json(closed, NULL) : NULL;

    if (!manifest || !check_head(manifest, NULL))
        return NULL;
    manifest->path = g_strdup(file);
    return g_steal_pointer(&manifest);
}
