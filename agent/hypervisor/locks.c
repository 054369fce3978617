#include "agent/hypervisor/locks.h"

#include "common/error.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

/* QEMU's block/file-posix.c: RAW_LOCK_PERM_BASE + BLK_PERM_CONSISTENT_READ, … + BLK_PERM_WRITE. */
#define BYTE_CONSISTENT_READ 100
#define BYTE_WRITE 101
#define POLL_US (20 * 1000)

/* 1 = held by somebody else, 0 = free, -1 = errno. */
static int
byte_held(int fd, off_t byte)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};

    if (fcntl(fd, F_OFD_GETLK, &lock) < 0)
        return -1;
    return lock.l_type != F_UNLCK;
}

gboolean
ckpt_locks_probe(int fd, gboolean *read_locked, gboolean *write_locked, GError **error)
{
    int reading = byte_held(fd, BYTE_CONSISTENT_READ);
    int writing = byte_held(fd, BYTE_WRITE);

    if (reading < 0 || writing < 0) {
        ckpt_error_set(error, CKPT_REASON_FILE_FAILED, "ask for its locks: %s", g_strerror(errno));
        return FALSE;
    }
    *read_locked = reading > 0;
    *write_locked = writing > 0;
    return TRUE;
}

gboolean
ckpt_locks_probe_path(const char *path, gboolean *read_locked, gboolean *write_locked,
                      GError **error)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    gboolean known;

    *read_locked = *write_locked = FALSE;
    if (fd < 0) {
        if (errno == ENOENT || errno == ENOTDIR)
            return TRUE;
        ckpt_error_set(error, CKPT_REASON_FILE_FAILED, "open %s: %s", path, g_strerror(errno));
        ckpt_error_add(error, CKPT_META_FILE, path);
        return FALSE;
    }
    known = ckpt_locks_probe(fd, read_locked, write_locked, error);
    close(fd);
    if (!known)
        g_prefix_error(error, "%s: ", path);
    return known;
}

gboolean
ckpt_locks_wait_released(const char *const *paths, guint seconds, GError **error)
{
    gint64 deadline = g_get_monotonic_time() + (gint64)seconds * G_USEC_PER_SEC;

    for (; *paths; paths++) {
        gboolean read_locked, write_locked;

        /* The kernel has no event for a lock of others that goes. */
        while (TRUE) {
            g_autofree char *holder = NULL;

            if (!ckpt_locks_probe_path(*paths, &read_locked, &write_locked, error))
                return FALSE;
            if (!write_locked)
                break;
            if (g_get_monotonic_time() < deadline) {
                g_usleep(POLL_US);
                continue;
            }
            holder = ckpt_locks_holder(*paths);
            ckpt_error_set(error, CKPT_REASON_VM_BUSY, "%s is still open for writing by %s", *paths,
                           holder);
            ckpt_error_add(error, CKPT_META_FILE, *paths);
            return FALSE;
        }
    }
    return TRUE;
}

static gboolean
process_has_open(const char *pid, const struct stat *wanted)
{
    g_autofree char *folder = g_strdup_printf("/proc/%s/fd", pid);
    g_autoptr(GDir) fds = g_dir_open(folder, 0, NULL);
    const char *name;

    while (fds && (name = g_dir_read_name(fds))) {
        g_autofree char *path = g_build_filename(folder, name, NULL);
        struct stat found;

        if (stat(path, &found) == 0 && found.st_dev == wanted->st_dev &&
            found.st_ino == wanted->st_ino)
            return TRUE;
    }
    return FALSE;
}

/* The kernel names no owner of an OFD lock, so whoever has the file open is looked for. */
char *
ckpt_locks_holder(const char *path)
{
    g_autoptr(GDir) processes = g_dir_open("/proc", 0, NULL);
    struct stat wanted;
    const char *pid;

    if (processes && stat(path, &wanted) == 0) {
        while ((pid = g_dir_read_name(processes))) {
            g_autofree char *file = NULL;
            g_autofree char *command = NULL;

            if (!g_ascii_isdigit(*pid) || g_ascii_strtoull(pid, NULL, 10) == (guint64)getpid() ||
                !process_has_open(pid, &wanted))
                continue;
            file = g_strdup_printf("/proc/%s/comm", pid);
            if (g_file_get_contents(file, &command, NULL, NULL))
                return g_strdup_printf("%s (process %s)", g_strstrip(command), pid);
            return g_strdup_printf("process %s", pid);
        }
    }
    return g_strdup("another process");
}

gboolean
ckpt_locks_same_holder(const char *file, const char *other)
{
    g_autoptr(GDir) processes = g_dir_open("/proc", 0, NULL);
    struct stat wanted, also;
    gboolean seen = FALSE;
    const char *pid;

    if (!processes || stat(file, &wanted) != 0 || stat(other, &also) != 0)
        return TRUE;
    while ((pid = g_dir_read_name(processes))) {
        if (!g_ascii_isdigit(*pid) || !process_has_open(pid, &wanted))
            continue;
        if (process_has_open(pid, &also))
            return TRUE;
        seen = TRUE;
    }
    return !seen;
}
