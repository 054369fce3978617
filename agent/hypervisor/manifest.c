/* The manifest beside each sealed file: what a lost catalogue is rebuilt from. */
#include "agent/hypervisor/image.h"
#include "agent/hypervisor/qemu.h"
#include "agent/model/json_text.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define NEW ".new"

static char *
path_of(const CkptRun *run, const CkptDiskFile *disk)
{
    return ckpt_block_beside(run->options, disk->file, CKPT_MANIFEST_ENDING);
}

static gboolean
write_all(int fd, const char *text, const char *path, GError **error)
{
    gsize left = strlen(text);

    while (left > 0) {
        gssize done = write(fd, text, left);

        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return ckpt_file_error(error, "write", path);
        text += done;
        left -= (gsize)done;
    }
    return fsync(fd) == 0 || ckpt_file_error(error, "sync", path);
}

/* 0600 from its first byte: it holds the definition, and that holds passwords. */
gboolean
ckpt_manifest_write(const char *path, const char *text, GError **error)
{
    g_autofree char *temporary = g_strconcat(path, NEW, NULL);
    gboolean done;
    int fd;

    if (unlink(temporary) < 0 && errno != ENOENT)
        return ckpt_file_error(error, "remove", temporary);
    fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return ckpt_file_error(error, "make", temporary);
    done = write_all(fd, text, temporary, error);
    close(fd);
    if (done && rename(temporary, path) < 0)
        done = ckpt_file_error(error, "put in place", path);
    if (!done)
        unlink(temporary);
    return done && ckpt_file_sync_folder(path, error);
}

gboolean
ckpt_step_write_manifest(CkptRun *run, GError **error)
{
    const CkptStep *step = run->step;

    for (guint i = 0; step->disks && i < step->disks->len; i++) {
        g_autofree char *path = path_of(run, g_ptr_array_index(step->disks, i));

        if (!ckpt_manifest_write(path, step->text ? step->text : "", error)) {
            g_prefix_error(error, "manifest: ");
            return FALSE;
        }
    }
    return TRUE;
}

/* Its checkpoint's ID: the document's member "checkpoint_id", "id", or the latter of its member
 * "checkpoint". NULL if it has none. */
static char *
read_id(const char *path)
{
    g_autofree char *text = ckpt_manifest_read(path, NULL);
    g_autoptr(JsonNode) root = text ? ckpt_json_text_parse(text, NULL) : NULL;
    JsonObject *object;

    if (!root || !JSON_NODE_HOLDS_OBJECT(root))
        return NULL;
    object = json_node_get_object(root);
    if (json_object_has_member(object, "checkpoint_id"))
        return g_strdup(json_object_get_string_member_with_default(object, "checkpoint_id", NULL));
    if (json_object_has_member(object, "checkpoint") &&
        JSON_NODE_HOLDS_OBJECT(json_object_get_member(object, "checkpoint")))
        object = json_object_get_object_member(object, "checkpoint");
    return g_strdup(json_object_get_string_member_with_default(object, "id", NULL));
}

static gboolean
is_ours(const char *path, const CkptStep *step)
{
    g_autofree char *id = read_id(path);

    return g_strcmp0(id, step->checkpoint_id) == 0;
}

gboolean
ckpt_step_remove_manifest(CkptRun *run, GError **error)
{
    const CkptStep *step = run->step;

    for (guint i = 0; step->disks && i < step->disks->len; i++) {
        g_autofree char *path = path_of(run, g_ptr_array_index(step->disks, i));

        if (ckpt_file_is_there(path) && !is_ours(path, step))
            continue;
        if (!ckpt_file_remove(path, error)) {
            g_prefix_error(error, "manifest: ");
            return FALSE;
        }
    }
    return TRUE;
}

static CkptOutcome
check(const CkptRun *run, gboolean wanted)
{
    const CkptStep *step = run->step;

    for (guint i = 0; step->disks && i < step->disks->len; i++) {
        g_autofree char *path = path_of(run, g_ptr_array_index(step->disks, i));

        if (is_ours(path, step) != wanted)
            return CKPT_OUTCOME_NOT_DONE;
    }
    return CKPT_OUTCOME_DONE;
}

CkptOutcome
ckpt_step_write_manifest_check(CkptRun *run, GError **error)
{
    return check(run, TRUE);
}

CkptOutcome
ckpt_step_remove_manifest_check(CkptRun *run, GError **error)
{
    return check(run, FALSE);
}
