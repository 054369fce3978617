/* Whose the files are: the manifest beside each sealed file tells, and is read before any change of the file
 * or of what lies on it. It is held meanwhile, so that no other agent takes over in the middle of a step. */
#include "agent/hypervisor/image.h"
#include "agent/hypervisor/qemu.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LAYERS_MAX 64

struct _CkptOwnership {
    const CkptQemuOptions *options; /* the driver's */
    GArray *held;     /* int: open manifests, with a shared lock */
    GHashTable *seen; /* set: files looked at */
};

void
ckpt_ownership_free(CkptOwnership *ownership)
{
    if (!ownership)
        return;
    for (guint i = 0; i < ownership->held->len; i++)
        close(g_array_index(ownership->held, int, i));
    g_array_unref(ownership->held);
    g_hash_table_unref(ownership->seen);
    g_free(ownership);
}

/* By open file description: it ends with the descriptor, a crash of ours too. EINVAL, ENOLCK, …: the file
 * system has none, and what other hosts do is not known. */
static gboolean
lock(int fd, short type)
{
    struct flock range = {.l_type = type, .l_whence = SEEK_SET};

    return fcntl(fd, F_OFD_SETLK, &range) == 0 || (errno != EAGAIN && errno != EACCES);
}

/* Whether it is still the file of that name: manifests are replaced, never rewritten. */
static gboolean
is_present(int fd, const char *path)
{
    struct stat opened, named;

    return fstat(fd, &opened) == 0 && stat(path, &named) == 0 && opened.st_dev == named.st_dev &&
           opened.st_ino == named.st_ino;
}

static gboolean
refuse_taken(const CkptManifest *head, GError **error)
{
    ckpt_error_set(error, CKPT_REASON_VM_MOVED,
                   "%s belongs to the agent of host %s (%s) by now, says the manifest beside it (epoch %"
                   G_GUINT64_FORMAT "): ask that one",
                   head->path, *head->host_name ? head->host_name : "?", head->agent, head->epoch);
    ckpt_error_add(error, CKPT_META_FILE, head->path);
    ckpt_error_add(error, CKPT_META_CHECKPOINT, head->checkpoint_id);
    return FALSE;
}

/* Somebody has sealed the file, and nobody can tell who: an agent of a later version, or one whose user is not
 * believed here. What may be another's is not touched. */
static gboolean
refuse_unread(const char *path, const GError *why, GError **error)
{
    ckpt_error_set(error, CKPT_REASON_FILE_FAILED,
                   "whose file this is cannot be told from its manifest %s: %s; the agents of hosts that share a "
                   "folder must run as one user (or as root) and know the manifest's format; one that nobody "
                   "needs can be moved away",
                   path, why->message);
    ckpt_error_add(error, CKPT_META_FILE, path);
    return FALSE;
}

/* Held from before it is read: whoever takes over needs it alone. */
static gboolean
hold(CkptOwnership *ownership, const char *file, const char *host_id, const char *vm_id, GError **error)
{
    g_autofree char *path = ckpt_block_beside(ownership->options, file, CKPT_MANIFEST_ENDING);
    g_autoptr(GError) why = NULL;

    for (guint attempt = 0; attempt < 8; attempt++) {
        int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
        g_autoptr(CkptManifest) head = NULL;

        if (fd < 0 && (errno == ENOENT || errno == ENOTDIR || errno == ELOOP || errno == ENAMETOOLONG))
            return TRUE; /* nobody's: there is none, or none can be */
        if (fd < 0)
            return ckpt_file_error(error, "open", path);
        if (!lock(fd, F_RDLCK) || !is_present(fd, path)) {
            close(fd);
            g_usleep(1000);
            continue;
        }
        g_array_append_val(ownership->held, fd);
        head = ckpt_manifest_read_head(path, file, &why);
        if (!head)
            return ckpt_manifest_is_first(path) || refuse_unread(path, why, error);
        return !g_str_equal(head->domain, vm_id) || g_str_equal(head->agent, host_id) ||
               refuse_taken(head, error);
    }
    ckpt_error_set(error, CKPT_REASON_VM_BUSY, "another agent is taking over %s", file);
    return FALSE;
}

static char *
file_below(const char *file)
{
    g_autoptr(CkptQcow2) header = NULL;
    char *below;
    int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

    if (fd < 0)
        return NULL;
    header = ckpt_qcow2_read(fd, NULL);
    close(fd);
    below = header && header->backing ? ckpt_image_resolve(file, header->backing) : NULL;
    return below;
}

/* The file and what lies below it, as far as agents made it: only of that the format is known without a
 * definition (hazard A28). */
static gboolean
hold_chain(CkptOwnership *ownership, const char *file, const char *host_id, const char *vm_id,
           GError **error)
{
    g_autofree char *at = g_strdup(file);

    for (guint i = 0; at && i < LAYERS_MAX; i++) {
        char *below;

        if (!g_hash_table_add(ownership->seen, g_strdup(at)))
            return TRUE;
        if (!hold(ownership, at, host_id, vm_id, error))
            return FALSE;
        below = ckpt_manifest_is_overlay_name(at) ? file_below(at) : NULL;
        g_free(at);
        at = below;
    }
    return TRUE;
}

CkptOwnership *
ckpt_ownership_hold(const CkptQemuOptions *options, const char *host_id, const CkptPlan *plan,
                    const CkptStep *step, GError **error)
{
    const char *const files[] = {step->file, step->base, step->above, step->from};
    g_autoptr(CkptOwnership) ownership = g_new0(CkptOwnership, 1);

    ownership->options = options;
    ownership->held = g_array_new(FALSE, FALSE, sizeof(int));
    ownership->seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    for (guint i = 0; i < G_N_ELEMENTS(files); i++)
        if (files[i] && !hold_chain(ownership, files[i], host_id, plan->vm_id, error))
            return NULL;
    /* The disks of a REMOVE_FILE are only looked at, and are all that the catalogue knows. */
    for (guint i = 0; step->kind != CKPT_STEP_REMOVE_FILE && step->disks && i < step->disks->len; i++) {
        const CkptDiskFile *disk = g_ptr_array_index(step->disks, i);

        if (!hold_chain(ownership, disk->file, host_id, plan->vm_id, error))
            return NULL;
    }
    return g_steal_pointer(&ownership);
}

/* ---- Taking over ---- */

gboolean
ckpt_manifest_take_over(const CkptQemuOptions *options, const char *file, const char *text,
                        const char *agent, guint64 epoch, GError **error)
{
    g_autofree char *path = ckpt_block_beside(options, file, CKPT_MANIFEST_ENDING);
    g_autoptr(CkptManifest) head = NULL;
    g_autoptr(GError) why = NULL;
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
    gboolean done = FALSE;

    if (fd < 0)
        return ckpt_file_error(error, "open", path);
    if (!lock(fd, F_WRLCK) || !is_present(fd, path))
        ckpt_error_set(error, CKPT_REASON_VM_BUSY, "another agent is at work on %s", file);
    else if (!(head = ckpt_manifest_read_head(path, file, &why)))
        refuse_unread(path, why, error);
    else if (!g_str_equal(head->agent, agent) || head->epoch != epoch)
        refuse_taken(head, error);
    else
        done = ckpt_manifest_write(path, text, error);
    close(fd);
    return done;
}
