/* The steps that touch files alone. Each syncs what it changed, the folder too. */
#include "agent/hypervisor/image.h"
#include "agent/hypervisor/locks.h"
#include "agent/hypervisor/qemu.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#define LABEL "security.selinux"
#define NEW ".new"

gboolean
ckpt_file_error(GError **error, const char *what, const char *path)
{
    int cause = errno;

    ckpt_error_set(error, cause == ENOSPC || cause == EDQUOT ? CKPT_REASON_SPACE_LOW : CKPT_REASON_FILE_FAILED,
                   "%s %s: %s", what, path, g_strerror(cause));
    ckpt_error_add(error, CKPT_META_FILE, path);
    return FALSE;
}

static int
open_file(const char *path, GError **error)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);

    if (fd < 0 && errno == ENOENT) {
        ckpt_error_set(error, CKPT_REASON_DISK_FILE_MISSING, "file %s is missing", path);
        ckpt_error_add(error, CKPT_META_FILE, path);
    } else if (fd < 0) {
        ckpt_file_error(error, "open", path);
    }
    return fd;
}

static gboolean
sync_path(const char *path, int flags, GError **error)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | flags);
    gboolean done;

    if (fd < 0)
        return ckpt_file_error(error, "open", path);
    done = fsync(fd) == 0;
    if (!done)
        ckpt_file_error(error, "sync", path);
    close(fd);
    return done;
}

gboolean
ckpt_file_sync(const char *path, GError **error)
{
    return sync_path(path, 0, error);
}

gboolean
ckpt_file_sync_folder(const char *path, GError **error)
{
    g_autofree char *folder = g_path_get_dirname(path);

    return sync_path(folder, O_DIRECTORY, error);
}

gboolean
ckpt_file_mark(const char *path, GError **error)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

    if (fd < 0)
        return ckpt_file_error(error, "make", path);
    close(fd);
    return ckpt_file_sync_folder(path, error);
}

gboolean
ckpt_file_is_there(const char *path)
{
    struct stat found;

    return lstat(path, &found) == 0 || (errno != ENOENT && errno != ENOTDIR);
}

/* That it is not there. */
static gboolean
sync_absence(const char *path, GError **error)
{
    g_autofree char *folder = g_path_get_dirname(path);

    return !g_file_test(folder, G_FILE_TEST_IS_DIR) || ckpt_file_sync_folder(path, error);
}

gboolean
ckpt_file_remove(const char *path, GError **error)
{
    if (unlink(path) < 0 && errno != ENOENT && errno != ENOTDIR)
        return ckpt_file_error(error, "remove", path);
    return sync_absence(path, error);
}

gboolean
ckpt_file_chmod(const char *path, guint mode, GError **error)
{
    int fd = open_file(path, error);
    struct stat found;
    gboolean done;

    if (fd < 0)
        return FALSE;
    /* A block device's node is not ours to close: udev would open it again, and its mode holds nobody off. */
    done = fstat(fd, &found) == 0 && (S_ISBLK(found.st_mode) || (found.st_mode & 07777) == mode ||
                                      (fchmod(fd, mode) == 0 && fsync(fd) == 0));
    if (!done)
        ckpt_file_error(error, "set the mode of", path);
    close(fd);
    return done;
}

/* ---- MAKE_OVERLAY ---- */

static gboolean
copy_label(int from, int to)
{
    char label[512], present[512];
    ssize_t length = fgetxattr(from, LABEL, label, sizeof label);
    ssize_t other;

    if (length < 0)
        return errno == ENODATA || errno == ENOTSUP;
    other = fgetxattr(to, LABEL, present, sizeof present);
    if (other == length && memcmp(label, present, (size_t)length) == 0)
        return TRUE;
    return fsetxattr(to, LABEL, label, (size_t)length, 0) == 0;
}

gboolean
ckpt_file_make_alike(const char *path, const char *like, guint mode, GError **error)
{
    int to = open_file(path, error);
    int from = to >= 0 ? open_file(like, error) : -1;
    struct stat wanted, found;
    gboolean done = FALSE;

    if (to >= 0 && from >= 0) {
        done = fstat(from, &wanted) == 0 && fstat(to, &found) == 0 &&
               ((found.st_uid == wanted.st_uid && found.st_gid == wanted.st_gid) ||
                fchown(to, wanted.st_uid, wanted.st_gid) == 0) &&
               ((found.st_mode & 07777) == mode || fchmod(to, mode) == 0) && copy_label(from, to) &&
               fsync(to) == 0;
        if (!done)
            ckpt_file_error(error, "set owner and label of", path);
    }
    if (from >= 0)
        close(from);
    if (to >= 0)
        close(to);
    return done;
}

/* qemu-img keeps the mode of a file that is there, so this one is 0600 from its first byte (hazard
 * A12) without touching the umask, which all threads share. */
static gboolean
make_placeholder(const char *path, GError **error)
{
    int fd;

    if (unlink(path) < 0 && errno != ENOENT)
        return ckpt_file_error(error, "remove", path);
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return ckpt_file_error(error, "make", path);
    close(fd);
    return TRUE;
}

static gboolean
create_image(CkptRun *run, const char *path, GError **error)
{
    const CkptStep *step = run->step;
    g_autofree char *size = g_strdup_printf("%" G_GUINT64_FORMAT, step->size);
    const char *const arguments[] = {"create", "-q", "-f", "qcow2",
                                     "-F", ckpt_format_name(step->base_format), "-b", step->base,
                                     path, step->size ? size : NULL, NULL};

    return make_placeholder(path, error) && ckpt_qemu_img(run, 0, arguments, error);
}

/* Into place, but never over a file that is there. */
static gboolean
put_in_place(const char *from, const char *to, GError **error)
{
    if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0)
        return ckpt_file_sync_folder(to, error);
    /* Old kernels of some network file systems cannot; a hard link refuses to replace, too. */
    if (errno == EINVAL && link(from, to) == 0)
        return unlink(from) == 0 ? ckpt_file_sync_folder(to, error)
                                 : ckpt_file_error(error, "remove", from);
    return ckpt_file_error(error, "put in place", to);
}

typedef enum {
    OVERLAY_MISSING,
    OVERLAY_FOREIGN, /* something else has that name */
    OVERLAY_EMPTY,   /* ours, as it was made */
    OVERLAY_USED     /* ours, and written to */
} OverlayKind;

/* *error says what is wrong with FOREIGN and USED ones. */
static OverlayKind
look_at_overlay(const CkptStep *step, gboolean *open_somewhere, GError **error)
{
    g_autoptr(CkptQcow2) header = NULL;
    g_autoptr(GError) fault = NULL;
    CkptLayer *layer = ckpt_layer_look(step->file, CKPT_FORMAT_QCOW2, &header, &fault);
    OverlayKind kind = OVERLAY_FOREIGN;

    if (open_somewhere)
        *open_somewhere = layer->read_locked || layer->write_locked;
    if (ckpt_error_reason(fault) == CKPT_REASON_DISK_FILE_MISSING) {
        kind = OVERLAY_MISSING;
    } else if (fault) {
        g_propagate_error(error, g_steal_pointer(&fault));
    } else if (g_strcmp0(layer->backing, step->base) != 0 ||
               layer->backing_format != step->base_format) {
        ckpt_error_set(error, CKPT_REASON_FILE_FAILED, "%s exists and is no overlay of %s",
                       step->file, step->base);
    } else if (!header->empty) {
        kind = OVERLAY_USED;
        ckpt_error_set(error, CKPT_REASON_FILE_FAILED, "%s exists and holds data", step->file);
    } else {
        kind = OVERLAY_EMPTY;
    }
    if (error && *error)
        ckpt_error_add(error, CKPT_META_FILE, step->file);
    ckpt_layer_free(layer);
    return kind;
}

CkptOutcome
ckpt_step_make_overlay_check(CkptRun *run, GError **error)
{
    switch (look_at_overlay(run->step, NULL, error)) {
    case OVERLAY_MISSING:
        return CKPT_OUTCOME_NOT_DONE;
    case OVERLAY_EMPTY:
        return CKPT_OUTCOME_DONE;
    case OVERLAY_FOREIGN:
    case OVERLAY_USED:
        break;
    }
    return CKPT_OUTCOME_UNCLEAR;
}

gboolean
ckpt_step_make_overlay(CkptRun *run, GError **error)
{
    const CkptStep *step = run->step;
    g_autofree char *temporary = g_strconcat(step->file, NEW, NULL);
    gboolean made;

    switch (look_at_overlay(step, NULL, error)) {
    case OVERLAY_EMPTY:
        return ckpt_file_sync_folder(step->file, error);
    case OVERLAY_FOREIGN:
    case OVERLAY_USED:
        return FALSE;
    case OVERLAY_MISSING:
        break;
    }
    made = create_image(run, temporary, error) &&
           ckpt_file_make_alike(temporary, step->like ? step->like : step->base,
                                0600 | (step->mode & 0060), error) &&
           put_in_place(temporary, step->file, error);
    if (!made)
        unlink(temporary);
    return made;
}

/* Whether the plan's snapshot puts the VM onto the file as it runs. */
static gboolean
is_snapshot_onto(const CkptPlan *plan, const char *file)
{
    for (guint i = 0; i < plan->steps->len; i++) {
        const CkptStep *step = g_ptr_array_index(plan->steps, i);

        for (guint k = 0; step->kind == CKPT_STEP_SNAPSHOT && step->disks && k < step->disks->len;
             k++)
            if (g_strcmp0(((CkptDiskFile *)g_ptr_array_index(step->disks, k))->file, file) == 0)
                return TRUE;
    }
    return FALSE;
}

gboolean
ckpt_step_make_overlay_undo(CkptRun *run, GError **error)
{
    const CkptStep *step = run->step;
    g_autofree char *temporary = g_strconcat(step->file, NEW, NULL);
    g_autoptr(GError) what = NULL;
    gboolean open_somewhere;

    if (unlink(temporary) < 0 && errno != ENOENT)
        return ckpt_file_error(error, "remove", temporary);
    switch (look_at_overlay(step, &open_somewhere, &what)) {
    case OVERLAY_MISSING: /* what is there all the same, such as a link that leads nowhere, is not ours */
        return sync_absence(step->file, error);
    case OVERLAY_FOREIGN:
        return TRUE;
    case OVERLAY_USED:
        /* After a snapshot it may be the only copy of what the guest wrote since, even if libvirt
         * does not name it (hazard A5). A restored VM's writes go with the failed restore. */
        if (is_snapshot_onto(run->plan, step->file)) {
            g_propagate_prefixed_error(error, g_steal_pointer(&what), "not removed: ");
            return FALSE;
        }
        break;
    case OVERLAY_EMPTY:
        break;
    }
    if (!open_somewhere)
        return ckpt_step_remove_file(run, error);
    g_autofree char *holder = ckpt_locks_holder(step->file);

    ckpt_error_set(error, CKPT_REASON_FILE_FAILED, "%s is not removed: it is open in %s",
                   step->file, holder);
    ckpt_error_add(error, CKPT_META_FILE, step->file);
    return FALSE;
}

/* ---- SEAL, UNSEAL, IDENTIFY ---- */

gboolean
ckpt_step_seal(CkptRun *run, GError **error)
{
    return ckpt_file_chmod(run->step->file, CKPT_SEALED_MODE, error);
}

gboolean
ckpt_step_set_mode(CkptRun *run, GError **error)
{
    return ckpt_file_chmod(run->step->file, run->step->mode, error);
}

static CkptOutcome
check_mode(const char *path, guint mode, GError **error)
{
    struct stat found;

    if (stat(path, &found) < 0) {
        ckpt_file_error(error, "look at", path);
        return CKPT_OUTCOME_UNCLEAR;
    }
    return S_ISBLK(found.st_mode) || (found.st_mode & 07777) == mode ? CKPT_OUTCOME_DONE : CKPT_OUTCOME_NOT_DONE;
}

CkptOutcome
ckpt_step_seal_check(CkptRun *run, GError **error)
{
    return check_mode(run->step->file, CKPT_SEALED_MODE, error);
}

CkptOutcome
ckpt_step_set_mode_check(CkptRun *run, GError **error)
{
    return check_mode(run->step->file, run->step->mode, error);
}

gboolean
ckpt_step_identify(CkptRun *run, GError **error)
{
    g_autoptr(GError) fault = NULL;
    CkptLayer *layer;

    if (run->step->leaf && !g_file_test(run->step->file, G_FILE_TEST_EXISTS))
        return TRUE;
    if (!ckpt_file_sync(run->step->file, error))
        return FALSE;
    /* What identifies a block device does not tell of a change. */
    layer = ckpt_layer_look(run->step->file, (CkptFormat)0, NULL, &fault);
    run->step->id = layer->id;
    run->step->size = layer->allocated;
    ckpt_layer_free(layer);
    if (fault)
        g_propagate_error(error, g_steal_pointer(&fault));
    return error ? !*error : ckpt_file_id_is_set(&run->step->id);
}

/* ---- REMOVE_FILE ---- */

static void
keep_first_user(const char *file, gboolean is_top, const char *user, gpointer data)
{
    char **first = data;

    if (!*first)
        *first = g_strdup(user);
}

static void
keep_unreadable(const char *file, gboolean is_top, const char *user, gpointer data)
{
    char **first = data;

    if (!*first)
        *first = g_strdup_printf("perhaps %s, whose chain cannot be read beyond %s,", user, file);
}

/* QEMU keeps a file open that it has no use for, if a libvirtd that died had begun with it. */
static gboolean
close_unused(CkptRun *run, CkptLayer *layer, GError **error)
{
    g_autoptr(virDomain) domain =
        ckpt_connection_lookup(run->connection, run->plan->vm_id, NULL);

    if (!domain)
        return TRUE;
    return ckpt_nodes_release(run->connection, domain, layer->path, error) &&
           ckpt_locks_probe_path(layer->path, &layer->read_locked, &layer->write_locked, error);
}

/* Whoever might still need it: an open file, a definition, a chain of a running VM. */
static gboolean
nobody_needs(CkptRun *run, const char *path, GError **error)
{
    g_autoptr(GHashTable) files = ckpt_chain_files_new();
    g_autofree char *user = NULL;
    CkptLayer *layer = ckpt_layer_look(path, (CkptFormat)0, NULL, NULL);
    gboolean is_disk = ckpt_manifest_is_overlay_name(path); /* nothing lies on a memory image */

    g_hash_table_insert(files, g_strdup(path), layer);
    if ((layer->read_locked || layer->write_locked) && !close_unused(run, layer, error))
        return FALSE;
    if (layer->read_locked || layer->write_locked)
        user = ckpt_locks_holder(path);
    else if (!ckpt_users_are_known(run->connection, error) ||
             !ckpt_users_scan(run->connection, NULL, TRUE, files, keep_first_user,
                              run->undoing || !is_disk ? NULL : keep_unreadable, &user, error))
        return FALSE;
    if (!user)
        return TRUE;
    ckpt_error_set(error, CKPT_REASON_FILE_FAILED, "%s is not removed: %s uses it", path, user);
    ckpt_error_add(error, CKPT_META_FILE, path);
    return FALSE;
}

/* A header that names it: formats are those that the catalogue says (hazard A28). */
static gboolean
nothing_lies_on(const char *path, GPtrArray *known, GError **error)
{
    for (guint i = 0; known && i < known->len; i++) {
        const CkptDiskFile *reader = g_ptr_array_index(known, i);
        CkptLayer *layer = reader->format == CKPT_FORMAT_QCOW2
                               ? ckpt_layer_look(reader->file, reader->format, NULL, NULL)
                               : NULL;
        gboolean lies = layer && layer->backing && ckpt_image_same(layer->backing, path) &&
                        !ckpt_image_same(reader->file, path);

        ckpt_layer_free(layer);
        if (!lies)
            continue;
        ckpt_error_set(error, CKPT_REASON_FILE_FAILED, "%s is not removed: %s lies on it", path,
                       reader->file);
        ckpt_error_add(error, CKPT_META_FILE, path);
        return FALSE;
    }
    return TRUE;
}

gboolean
ckpt_step_remove_file(CkptRun *run, GError **error)
{
    const char *path = run->step->file;
    struct stat found;

    if (lstat(path, &found) < 0)
        return errno == ENOENT ? ckpt_file_remove(path, error) : ckpt_file_error(error, "look at", path);
    if (!nothing_lies_on(path, run->step->disks, error) || !nobody_needs(run, path, error) ||
        !ckpt_merge_forget(path, error))
        return FALSE;
    return ckpt_file_remove(path, error);
}

CkptOutcome
ckpt_step_remove_file_check(CkptRun *run, GError **error)
{
    struct stat found;

    return lstat(run->step->file, &found) < 0 && errno == ENOENT ? CKPT_OUTCOME_DONE
                                                                 : CKPT_OUTCOME_NOT_DONE;
}
