#include "agent/store/state_dir.h"

#include "common/error.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define DATABASE "vmcheckpoint.db"
#define LOCK "vmcheckpoint.lock"

static gboolean
refuse(GError **error, const char *path, const char *what)
{
    ckpt_error_set(error, CKPT_REASON_STORE_FAILED, "state folder: %s: %s", path, what);
    ckpt_error_add(error, CKPT_META_FILE, path);
    return FALSE;
}

/* Whoever else may write here could replace the catalogue, and with it say which files are to be
 * merged and removed; whoever may read here gets the passwords in domain definitions. */
static gboolean
check_folder(const char *state_dir, int fd, gboolean by_root, GError **error)
{
    struct stat found;
    g_autofree char *what = NULL;

    if (fstat(fd, &found) < 0)
        return refuse(error, state_dir, g_strerror(errno));
    if (found.st_uid != geteuid() && !by_root)
        what = g_strdup_printf("belongs to user %u, the agent runs as user %u: chown it, or start "
                               "the agent as that user",
                               (guint)found.st_uid, (guint)geteuid());
    else if (found.st_mode & 077)
        what = g_strdup_printf("is open to others (mode %04o): look who put what there, then "
                               "chmod 0700 it",
                               (guint)found.st_mode & 07777);
    return !what || refuse(error, state_dir, what);
}

/* flock() goes with the open file: a child that was forked and not yet executed keeps it only until
 * O_CLOEXEC closes it. */
static int
lock_folder(const char *state_dir, int dir_fd, GError **error)
{
    int fd = openat(dir_fd, LOCK, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    g_autofree char *path = g_build_filename(state_dir, LOCK, NULL);

    if (fd < 0) {
        refuse(error, path, g_strerror(errno));
        return -1;
    }
    if (flock(fd, LOCK_EX | LOCK_NB) == 0)
        return fd;
    refuse(error, path,
           errno == EWOULDBLOCK ? "another agent is using this folder: stop it, or give each agent "
                                  "a state folder of its own"
                                : g_strerror(errno));
    close(fd);
    return -1;
}

/* SQLite gives -wal and -shm the mode of the database itself. */
static gboolean
make_private(const char *state_dir, int dir_fd, const char *name, int flags, GError **error)
{
    g_autofree char *path = g_build_filename(state_dir, name, NULL);
    int fd = openat(dir_fd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW | flags, 0600);
    struct stat found;
    gboolean done;

    if (fd < 0)
        return (errno == ENOENT && !(flags & O_CREAT)) || refuse(error, path, g_strerror(errno));
    done = fstat(fd, &found) == 0 && S_ISREG(found.st_mode);
    if (done && (found.st_mode & 07777) != 0600)
        done = fchmod(fd, 0600) == 0;
    if (!done)
        refuse(error, path, "is no file of ours: set it aside");
    close(fd);
    return done;
}

/* A catalogue that was there once and is nothing now was lost: taken for a new one, the agent would know
 * nothing of its checkpoints and say so to everybody. */
static gboolean
look_for_database(const char *state_dir, int dir_fd, int lock_fd, gboolean *lost, gboolean *fresh,
                  GError **error)
{
    struct stat mark, database;
    gboolean there = fstatat(dir_fd, DATABASE, &database, AT_SYMLINK_NOFOLLOW) == 0;

    if ((!there && errno != ENOENT) || fstat(lock_fd, &mark) != 0)
        return refuse(error, state_dir, g_strerror(errno)); /* whether it is there, nobody knows */
    *fresh = mark.st_size == 0;
    *lost = !*fresh && (!there || database.st_size == 0);
    return TRUE;
}

static gboolean
make_files(const char *state_dir, int dir_fd, GError **error)
{
    if (!make_private(state_dir, dir_fd, DATABASE, O_CREAT, error) ||
        !make_private(state_dir, dir_fd, DATABASE "-wal", 0, error) ||
        !make_private(state_dir, dir_fd, DATABASE "-shm", 0, error))
        return FALSE;
    if (fsync(dir_fd) < 0)
        return refuse(error, state_dir, g_strerror(errno));
    return TRUE;
}

gboolean
ckpt_state_dir_check(const char *state_dir, GError **error)
{
    int fd = open(state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    gboolean done;

    if (fd < 0)
        return refuse(error, state_dir, g_strerror(errno));
    done = check_folder(state_dir, fd, geteuid() == 0, error);
    close(fd);
    return done;
}

char *
ckpt_state_dir_enter(const char *state_dir, int *lock_fd, gboolean *lost, gboolean *fresh,
                     GError **error)
{
    int dir_fd = open(state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    char *path = NULL;

    *lock_fd = -1;
    if (dir_fd < 0) {
        refuse(error, state_dir, g_strerror(errno));
        return NULL;
    }
    if (check_folder(state_dir, dir_fd, FALSE, error))
        *lock_fd = lock_folder(state_dir, dir_fd, error);
    /* Of one that was lost what is left is set aside first. */
    if (*lock_fd >= 0 && look_for_database(state_dir, dir_fd, *lock_fd, lost, fresh, error) &&
        (*lost || make_files(state_dir, dir_fd, error)))
        path = g_build_filename(state_dir, DATABASE, NULL);
    close(dir_fd);
    if (!path && *lock_fd >= 0) {
        close(*lock_fd);
        *lock_fd = -1;
    }
    return path;
}

/* "vmcheckpoint.db.lost-20261123T001500Z", or with a number after it. */
static char *
choose_ending(int dir_fd)
{
    g_autoptr(GDateTime) now = g_date_time_new_now_utc();
    g_autofree char *time = g_date_time_format(now, ".lost-%Y%m%dT%H%M%SZ");

    for (guint i = 1;; i++) {
        g_autofree char *ending = i == 1 ? g_strdup(time) : g_strdup_printf("%s-%u", time, i);
        g_autofree char *name = g_strconcat(DATABASE, ending, NULL);

        if (faccessat(dir_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
            return g_steal_pointer(&ending);
    }
}

static gboolean
rename_all(const char *state_dir, int dir_fd, char **where, GError **error)
{
    static const char *const names[] = {DATABASE, DATABASE "-wal", DATABASE "-shm"};
    g_autofree char *ending = choose_ending(dir_fd);

    for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *aside = g_strconcat(names[i], ending, NULL);

        if (renameat(dir_fd, names[i], dir_fd, aside) == 0) {
            if (i == 0)
                *where = g_build_filename(state_dir, aside, NULL);
        } else if (errno != ENOENT) {
            return refuse(error, state_dir, g_strerror(errno));
        }
    }
    return fsync(dir_fd) == 0 || refuse(error, state_dir, g_strerror(errno));
}

gboolean
ckpt_state_dir_set_aside(const char *state_dir, char **where, GError **error)
{
    int dir_fd = open(state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    gboolean done;

    *where = NULL;
    if (dir_fd < 0)
        return refuse(error, state_dir, g_strerror(errno));
    done = rename_all(state_dir, dir_fd, where, error) && make_files(state_dir, dir_fd, error);
    close(dir_fd);
    return done;
}

/* The folder first: a journal that a power cut brought back would empty the catalogue again. */
gboolean
ckpt_state_dir_made(const char *state_dir, int lock_fd, GError **error)
{
    int dir_fd = open(state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct stat mark;
    gboolean done = dir_fd >= 0 && fstat(lock_fd, &mark) == 0 &&
                    (mark.st_size > 0 || (fsync(dir_fd) == 0 && pwrite(lock_fd, "1\n", 2, 0) == 2 &&
                                          fsync(lock_fd) == 0));

    if (!done)
        refuse(error, state_dir, g_strerror(errno));
    if (dir_fd >= 0)
        close(dir_fd);
    return done;
}
