/* RESERVE: blocks for what a merge will write to its target, allocated before the delete is committed, so
 * that a full file system refuses the delete instead of cutting its merge short (hazards A8, A33). Neither
 * size nor contents change, and the modification time, by which a sealed file is known, is put back.
 *
 * What a running guest writes to the merged overlay meanwhile comes on top and is not known here. The target
 * of a pull is the top of a VM that is off: VM_BUSY if it was started since that was planned. Should it be
 * started before the reservation is given back, its QEMU takes it as the file grows. */
#include "agent/hypervisor/image.h"
#include "agent/hypervisor/locks.h"
#include "agent/hypervisor/qemu.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* QEMU's RAW_LOCK_SHARED_BASE + BLK_PERM_WRITE: whoever holds it shares no write permission. */
#define BYTE_UNSHARED_WRITE 201
/* For tables that a qcow2 file moves as it grows. */
#define SLACK (1u << 20)

typedef struct {
    guint64 from, to;
} Range;

/* ---- What the overlay holds ---- */

typedef struct {
    GArray *ranges; /* Range, ascending */
    gboolean zeros; /* those that read as zeros without data, too */
} Map;

static guint64
number_after(const char *line, const char *name)
{
    const char *at = strstr(line, name);

    return at ? g_ascii_strtoull(at + strlen(name), NULL, 10) : 0;
}

/* { "start": 0, "length": 65536, "depth": 0, "present": true, "zero": false, "data": true, … */
static void
add_line(const char *line, gpointer data)
{
    const Map *map = data;
    Range range;

    if (!strstr(line, "\"depth\": 0,") || strstr(line, "\"present\": false") ||
        (!map->zeros && !strstr(line, "\"data\": true")))
        return;
    range.from = number_after(line, "\"start\":");
    range.to = range.from + number_after(line, "\"length\":");
    g_array_append_val(map->ranges, range);
}

/* The target of a merge is a sealed file; that of a pull is a top. */
static gboolean
is_sealed_target(const CkptStep *step)
{
    return ckpt_file_id_is_set(&step->id);
}

/* A commit in the middle of a running VM's chain writes out zeros that the overlay only notes; a pull may,
 * too, where they lie close to data. */
static gboolean
writes_zeros(const CkptStep *step)
{
    gboolean read_locked = FALSE, write_locked;

    if (!is_sealed_target(step))
        return TRUE;
    return step->above && ckpt_locks_probe_path(step->file, &read_locked, &write_locked, NULL) &&
           read_locked;
}

static GArray *
read_map(CkptRun *run, GError **error)
{
    const char *const arguments[] = {"map", "--output=json", "-U", "-f", "qcow2", run->step->file,
                                     NULL};
    Map map = {g_array_new(FALSE, FALSE, sizeof(Range)), writes_zeros(run->step)};

    if (ckpt_qemu_img_lines(run, arguments, add_line, &map, error))
        return map.ranges;
    g_array_unref(map.ranges);
    return NULL;
}

/* ---- What that needs in the target ---- */

/* All of it new to the target, in its clusters, and the tables that lead to them. */
static guint64
qcow2_needs(const CkptQcow2 *base, GArray *ranges)
{
    const guint64 cluster = base->cluster_size;
    const guint64 table = cluster / 8 * cluster; /* bytes that one second-level table leads to */
    guint64 bytes = 0, end = 0, tables, counts;

    for (guint i = 0; i < ranges->len; i++) {
        const Range *range = &g_array_index(ranges, Range, i);
        guint64 from = MAX(range->from / cluster * cluster, end);

        end = MAX((range->to + cluster - 1) / cluster * cluster, end);
        bytes += end - from;
    }
    tables = MIN(bytes / cluster, MAX(end, base->virtual_size) / table + 1);
    counts = bytes / table + 2; /* 64 bits each, at most */
    return bytes + (tables + counts) * cluster + MAX(end, base->virtual_size) / table * 8 + SLACK;
}

static guint64
raw_needs(GArray *ranges)
{
    guint64 bytes = 0;

    for (guint i = 0; i < ranges->len; i++)
        bytes += g_array_index(ranges, Range, i).to - g_array_index(ranges, Range, i).from;
    return bytes;
}

/* ---- Taking it ---- */

typedef struct {
    int fd;
    const char *path;
    gboolean unsupported; /* the file system cannot allocate ahead */
} Target;

static gboolean
take(Target *target, guint64 from, guint64 length, GError **error)
{
    int done;

    if (length == 0 || target->unsupported)
        return TRUE;
    do
        done = fallocate(target->fd, FALLOC_FL_KEEP_SIZE, (off_t)from, (off_t)length);
    while (done < 0 && errno == EINTR);
    if (done < 0 && (errno == EOPNOTSUPP || errno == ENOSYS)) {
        target->unsupported = TRUE;
        return TRUE;
    }
    return done == 0 || ckpt_file_error(error, "reserve space for the merge in", target->path);
}

/* Clusters that are free in the middle of the file, and parts of used ones, may have no blocks. QEMU
 * takes the lowest free one first. */
static gboolean
take_holes(Target *target, guint64 size, guint64 wanted, GError **error)
{
    off_t at = 0;

    while (wanted > 0 && (guint64)at < size) {
        off_t hole = lseek(target->fd, at, SEEK_HOLE);
        off_t data = hole < 0 ? -1 : lseek(target->fd, hole, SEEK_DATA);
        guint64 end = data < 0 ? size : (guint64)data;
        guint64 length;

        if (hole < 0 || (guint64)hole >= size)
            return TRUE;
        length = MIN(end - (guint64)hole, wanted);
        if (!take(target, (guint64)hole, length, error))
            return FALSE;
        wanted -= length;
        at = (off_t)end;
    }
    return TRUE;
}

/* Refused before it is filled: on a full file system the guests of others stand still, be it for a moment. */
static gboolean
check_free(const Target *target, guint64 needed, GError **error)
{
    struct statvfs space;

    if (fstatvfs(target->fd, &space) < 0 || (guint64)space.f_bavail * space.f_frsize >= needed)
        return TRUE;
    errno = ENOSPC;
    return ckpt_file_error(error, "find space for the merge in", target->path);
}

/* Of what is free by now: half of it stays, since a full file system stops the guests of others. */
static guint64
spare_space(int fd)
{
    struct statvfs space;

    return fstatvfs(fd, &space) == 0 ? (guint64)space.f_bavail * space.f_frsize / 2 : 0;
}

static gboolean
take_qcow2(Target *target, const struct stat *found, GArray *ranges, guint64 *needed, GError **error)
{
    const guint64 size = (guint64)found->st_size, blocks = (guint64)found->st_blocks * 512;
    const guint64 held = blocks - MIN(blocks, size); /* behind its end already */
    g_autoptr(CkptQcow2) header = ckpt_qcow2_read(target->fd, error);
    g_autoptr(GError) full = NULL;

    if (!header)
        return FALSE;
    *needed = qcow2_needs(header, ranges);
    if (!check_free(target, *needed - MIN(*needed, held), error) || !take(target, size, *needed, error))
        return FALSE;
    /* Which of the two QEMU will use is not known; the first suffices where there is no room for both. */
    return take_holes(target, size, MIN(*needed, spare_space(target->fd)), &full) ||
           ckpt_error_reason(full) == CKPT_REASON_SPACE_LOW ||
           (g_propagate_error(error, g_steal_pointer(&full)), FALSE);
}

/* At most what all of it has no blocks for. */
static guint64
raw_lacks(const struct stat *found, GArray *ranges)
{
    const guint64 end = ranges->len ? g_array_index(ranges, Range, ranges->len - 1).to : 0;
    const guint64 whole = MAX((guint64)found->st_size, end), blocks = (guint64)found->st_blocks * 512;

    return MIN(raw_needs(ranges), whole - MIN(blocks, whole));
}

static gboolean
take_raw(Target *target, const struct stat *found, GArray *ranges, GError **error)
{
    if (!check_free(target, raw_lacks(found, ranges), error))
        return FALSE;
    for (guint i = 0; i < ranges->len; i++) {
        const Range *range = &g_array_index(ranges, Range, i);

        if (!take(target, range->from, range->to - range->from, error))
            return FALSE;
    }
    return TRUE;
}

/* Where nothing can be reserved, there must at least be room now. */
static gboolean
check_room(CkptRun *run, const Target *target, guint64 needed, GError **error)
{
    if (!check_free(target, needed, error))
        return FALSE;
    g_free(run->step->warning);
    run->step->warning =
        g_strdup_printf("the file system of %s cannot reserve space: should it fill up, the merge "
                        "stops until there is room again, and is to be finished by another delete",
                        target->path);
    return TRUE;
}

static void
restore_mtime(int fd, const CkptFileId *id)
{
    const struct timespec times[2] = {
        {.tv_nsec = UTIME_OMIT},
        {.tv_sec = id->mtime_ns / 1000000000, .tv_nsec = id->mtime_ns % 1000000000}};

    if (futimens(fd, times) < 0)
        g_warning("a modification time cannot be put back: %s", g_strerror(errno));
}

static gboolean
is_sealed(const struct stat *found, const CkptFileId *id)
{
    return found->st_dev == id->device && found->st_ino == id->inode &&
           (guint64)found->st_size == id->size;
}

static gboolean
has_mtime(const struct stat *found, const CkptFileId *id)
{
    return (gint64)found->st_mtim.tv_sec * 1000000000 + found->st_mtim.tv_nsec == id->mtime_ns;
}

/* Beside the base while its modification time may be ours, so that after a crash one that somebody else's
 * writing made is not taken for that. */
static char *
mark_path(const CkptStep *step)
{
    return g_strconcat(step->base, ".vmckpt-reserve", NULL);
}

gboolean
ckpt_reserve_forget(const CkptStep *step, GError **error)
{
    g_autofree char *mark = mark_path(step);

    return !g_file_test(mark, G_FILE_TEST_EXISTS) || ckpt_file_remove(mark, error);
}

static gboolean
take_all(CkptRun *run, Target *target, const struct stat *found, GError **error)
{
    g_autoptr(GArray) ranges = read_map(run, error);
    guint64 needed;
    gboolean taken;

    if (!ranges)
        return FALSE;
    needed = raw_needs(ranges);
    taken = run->step->base_format == CKPT_FORMAT_QCOW2
                ? take_qcow2(target, found, ranges, &needed, error)
                : take_raw(target, found, ranges, error);
    if (is_sealed_target(run->step))
        restore_mtime(target->fd, &run->step->id);
    return taken && (!target->unsupported || check_room(run, target, needed, error));
}

static int
open_target(const char *path)
{
    return open(path, O_RDWR | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
}

gboolean
ckpt_step_reserve(CkptRun *run, GError **error)
{
    const CkptStep *step = run->step;
    g_autofree char *mark = mark_path(step);
    Target target = {.fd = open_target(step->base), .path = step->base};
    struct stat found;
    gboolean done = FALSE;

    if (target.fd < 0)
        return ckpt_file_error(error, "open", step->base);
    if (ckpt_is_block(step->base)) { /* has all its space */
        close(target.fd);
        return TRUE;
    }
    if (fstat(target.fd, &found) < 0) {
        ckpt_file_error(error, "look at", step->base);
    } else if (!is_sealed_target(step)) {
        /* Whoever starts the VM from now on is noticed behind the point of no return only. */
        done = ckpt_file_is_free(step->base, error) && take_all(run, &target, &found, error) &&
               ckpt_file_is_free(step->base, error);
    } else if (!is_sealed(&found, &step->id) || !has_mtime(&found, &step->id)) {
        ckpt_error_set(error, CKPT_REASON_SEALED_FILE_CHANGED,
                       "%s was changed after it was sealed", step->base);
        ckpt_error_add(error, CKPT_META_FILE, step->base);
    } else {
        done = ckpt_file_mark(mark, error) && take_all(run, &target, &found, error) &&
               ckpt_file_remove(mark, error);
    }
    close(target.fd);
    return done;
}

/* ---- Giving it back ---- */

/* Nobody writes to it, and as long as `fd` is open no QEMU can begin to. */
static gboolean
keep_writers_out(int fd)
{
    struct flock lock = {
        .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = BYTE_UNSHARED_WRITE, .l_len = 1};
    gboolean read_locked, write_locked;

    /* Asked before, too: our own lock on a file that QEMU writes to would be in its way. */
    return ckpt_locks_probe(fd, &read_locked, &write_locked, NULL) && !write_locked &&
           fcntl(fd, F_OFD_SETLK, &lock) == 0 &&
           ckpt_locks_probe(fd, &read_locked, &write_locked, NULL) && !write_locked;
}

/* What reads as zeros without data does so, too, without blocks. A page of it in the cache would make it
 * look like data. */
static void
punch_holes(int fd, guint64 size)
{
    off_t at = 0;

    if (fdatasync(fd) == 0)
        (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    while ((guint64)at < size) {
        off_t hole = lseek(fd, at, SEEK_HOLE);
        off_t data = hole < 0 ? -1 : lseek(fd, hole, SEEK_DATA);
        off_t end = data < 0 ? (off_t)size : data;

        if (hole < 0 || (guint64)hole >= size ||
            fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, hole, end - hole) < 0)
            return;
        at = end;
    }
}

static gboolean
give_back(int fd, const struct stat *found, const CkptStep *step, const char *mark, GError **error)
{
    const gboolean taken = (guint64)found->st_blocks * 512 > step->size;
    const gboolean marked = g_file_test(mark, G_FILE_TEST_EXISTS);
    g_autoptr(GError) why = NULL;
    gboolean done = TRUE;

    if (!marked && !(taken && has_mtime(found, &step->id)))
        return TRUE;
    /* Where there is no room even for the mark, room is what this makes. */
    if (!marked && !ckpt_file_mark(mark, &why) && ckpt_error_reason(why) != CKPT_REASON_SPACE_LOW) {
        g_propagate_error(error, g_steal_pointer(&why));
        return FALSE;
    }
    if (taken) {
        /* One that its owner had allocated in full stays so. */
        if (step->size < step->id.size)
            punch_holes(fd, step->id.size);
        if (ftruncate(fd, found->st_size) < 0)
            done = ckpt_file_error(error, "give back reserved space of", step->base);
    }
    restore_mtime(fd, &step->id);
    return done;
}

gboolean
ckpt_step_reserve_undo(CkptRun *run, GError **error)
{
    const CkptStep *step = run->step;
    g_autofree char *mark = mark_path(step);
    struct stat found;
    gboolean done = TRUE;
    int fd;

    if (ckpt_is_block(step->base))
        return TRUE;
    if (!is_sealed_target(step)) {
        ckpt_reserve_release(step->base);
        return TRUE;
    }
    fd = open_target(step->base);
    if (fd < 0)
        return errno == ENOENT ? ckpt_file_remove(mark, error)
                               : ckpt_file_error(error, "open", step->base);
    if (keep_writers_out(fd) && fstat(fd, &found) == 0 && is_sealed(&found, &step->id))
        done = give_back(fd, &found, step, mark, error);
    close(fd);
    return done && ckpt_file_remove(mark, error);
}

void
ckpt_reserve_release(const char *path)
{
    int fd = ckpt_is_block(path) ? -1 : open_target(path);
    struct stat found;

    if (fd < 0)
        return;
    if (keep_writers_out(fd) && fstat(fd, &found) == 0 && ftruncate(fd, found.st_size) < 0)
        g_debug("%s keeps its reserved space: %s", path, g_strerror(errno));
    close(fd);
}
