#include "tests/support/power_disk.h"

#include <sqlite3.h>
#include <string.h>

/* SQLite's, followed by the real one. */
typedef struct {
    sqlite3_file base;
    PowerNode *node;
    char *path; /* NULL = temporary: of no account */
    gboolean names_itself; /* the real VFS syncs the folder with its first sync */
} File;

static sqlite3_vfs *real_vfs;

/* ---- SQLite's file ---- */

static sqlite3_file *
real_of(sqlite3_file *file)
{
    return (sqlite3_file *)((File *)file + 1);
}

static int
close_file(sqlite3_file *base)
{
    File *file = (File *)base;
    sqlite3_file *real = real_of(base);
    int result = real->pMethods ? real->pMethods->xClose(real) : SQLITE_OK;

    power_disk_lock();
    g_clear_pointer(&file->node, power_node_unref);
    g_clear_pointer(&file->path, g_free);
    power_disk_unlock();
    return result;
}

static int
read_file(sqlite3_file *base, void *data, int length, sqlite3_int64 offset)
{
    sqlite3_file *real = real_of(base);
    PowerFault fault;

    power_disk_lock();
    fault = ((File *)base)->node ? power_disk_pass(POWER_CALL_READ) : POWER_GOOD;
    power_disk_unlock();
    if (fault != POWER_GOOD)
        return SQLITE_IOERR_READ;
    return real->pMethods->xRead(real, data, length, offset);
}

static int
write_locked(File *file, sqlite3_file *real, const void *data, int length, sqlite3_int64 offset)
{
    gboolean was_dead = power_disk_is_dead();
    PowerFault fault = power_disk_pass(POWER_CALL_WRITE);
    int done = fault == POWER_SHORT ? length / 2 : length;
    int result;

    if (fault == POWER_NO_SPACE)
        return SQLITE_FULL;
    if (fault == POWER_EIO || was_dead)
        return SQLITE_IOERR_WRITE;
    power_node_write(file->node, offset, data, (gsize)done);
    if (fault == POWER_CUT) {
        power_disk_die();
        return SQLITE_IOERR_WRITE;
    }
    result = real->pMethods->xWrite(real, data, done, offset);
    return fault == POWER_SHORT ? SQLITE_FULL : result;
}

static int
write_file(sqlite3_file *base, const void *data, int length, sqlite3_int64 offset)
{
    File *file = (File *)base;
    sqlite3_file *real = real_of(base);
    int result;

    if (!file->node)
        return real->pMethods->xWrite(real, data, length, offset);
    power_disk_lock();
    result = write_locked(file, real, data, length, offset);
    power_disk_unlock();
    return result;
}

static int
truncate_locked(File *file, sqlite3_file *real, sqlite3_int64 size)
{
    gboolean was_dead = power_disk_is_dead();
    PowerFault fault = power_disk_pass(POWER_CALL_TRUNCATE);

    if (fault == POWER_EIO || was_dead)
        return SQLITE_IOERR_TRUNCATE;
    power_node_write(file->node, size, NULL, 0);
    if (fault == POWER_CUT) {
        power_disk_die();
        return SQLITE_IOERR_TRUNCATE;
    }
    return real->pMethods->xTruncate(real, size);
}

static int
truncate_file(sqlite3_file *base, sqlite3_int64 size)
{
    File *file = (File *)base;
    sqlite3_file *real = real_of(base);
    int result;

    if (!file->node)
        return real->pMethods->xTruncate(real, size);
    power_disk_lock();
    result = truncate_locked(file, real, size);
    power_disk_unlock();
    return result;
}

/* Nothing is synced in fact: what matters is what this disk takes as synced. */
static int
sync_file(sqlite3_file *base, int flags)
{
    File *file = (File *)base;
    PowerFault fault;

    (void)flags;
    if (!file->node)
        return SQLITE_OK;
    power_disk_lock();
    fault = power_disk_pass(POWER_CALL_SYNC);
    if (fault == POWER_CUT)
        power_disk_die();
    else
        power_node_sync(file->node, fault == POWER_GOOD);
    if (fault == POWER_GOOD && file->names_itself && !power_node_is_named(file->node))
        power_disk_sync_folder(file->path);
    power_disk_unlock();
    return fault == POWER_GOOD ? SQLITE_OK : SQLITE_IOERR_FSYNC;
}

#define FORWARD(name, method, parameters, arguments)                                               \
    static int name parameters                                                                     \
    {                                                                                              \
        sqlite3_file *real = real_of(base);                                                        \
                                                                                                   \
        return real->pMethods->method arguments;                                                   \
    }

FORWARD(file_size, xFileSize, (sqlite3_file * base, sqlite3_int64 *size), (real, size))
FORWARD(lock_file, xLock, (sqlite3_file * base, int kind), (real, kind))
FORWARD(unlock_file, xUnlock, (sqlite3_file * base, int kind), (real, kind))
FORWARD(check_lock, xCheckReservedLock, (sqlite3_file * base, int *held), (real, held))
FORWARD(control, xFileControl, (sqlite3_file * base, int op, void *data), (real, op, data))
FORWARD(sector_size, xSectorSize, (sqlite3_file * base), (real))
FORWARD(characteristics, xDeviceCharacteristics, (sqlite3_file * base), (real))
FORWARD(shm_map, xShmMap,
        (sqlite3_file * base, int page, int size, int extend, void volatile **map),
        (real, page, size, extend, map))
FORWARD(shm_lock, xShmLock, (sqlite3_file * base, int offset, int count, int flags),
        (real, offset, count, flags))
FORWARD(shm_unmap, xShmUnmap, (sqlite3_file * base, int remove), (real, remove))

static void
shm_barrier(sqlite3_file *base)
{
    sqlite3_file *real = real_of(base);

    real->pMethods->xShmBarrier(real);
}

static const sqlite3_io_methods methods = {
    .iVersion = 2, /* no memory map: writes through one could not be seen */
    .xClose = close_file,
    .xRead = read_file,
    .xWrite = write_file,
    .xTruncate = truncate_file,
    .xSync = sync_file,
    .xFileSize = file_size,
    .xLock = lock_file,
    .xUnlock = unlock_file,
    .xCheckReservedLock = check_lock,
    .xFileControl = control,
    .xSectorSize = sector_size,
    .xDeviceCharacteristics = characteristics,
    .xShmMap = shm_map,
    .xShmLock = shm_lock,
    .xShmBarrier = shm_barrier,
    .xShmUnmap = shm_unmap,
};

/* ---- SQLite's file system ---- */

/* NULL: it may not be made. */
static PowerNode *
enter_file(const char *path, int flags, int *result)
{
    PowerNode *node = power_disk_find(path);
    PowerFault fault;

    if (node)
        return power_node_ref(node);
    *result = SQLITE_CANTOPEN;
    if (!(flags & SQLITE_OPEN_CREATE))
        return NULL;
    fault = power_disk_pass(POWER_CALL_MAKE);
    if (fault == POWER_CUT)
        power_disk_die();
    if (fault != POWER_GOOD)
        return NULL;
    return power_node_ref(power_disk_make(path));
}

static int
open_file(sqlite3_vfs *vfs, const char *path, sqlite3_file *base, int flags, int *out)
{
    File *file = (File *)base;
    int result = SQLITE_OK;

    (void)vfs;
    memset(file, 0, sizeof *file);
    if (path) {
        power_disk_lock();
        file->node = enter_file(path, flags, &result);
        power_disk_unlock();
        if (!file->node)
            return result;
        file->path = g_strdup(path);
        file->names_itself =
            (flags & (SQLITE_OPEN_WAL | SQLITE_OPEN_MAIN_JOURNAL | SQLITE_OPEN_SUPER_JOURNAL)) != 0;
    }
    base->pMethods = &methods; /* SQLite closes it also when this fails */
    return real_vfs->xOpen(real_vfs, path, real_of(base), flags, out);
}

static int
delete_file(sqlite3_vfs *vfs, const char *path, int sync_too)
{
    PowerFault fault;
    int result = SQLITE_IOERR_DELETE;

    (void)vfs;
    power_disk_lock();
    power_disk_find(path);
    fault = power_disk_pass(POWER_CALL_DELETE);
    if (fault == POWER_GOOD) {
        result = real_vfs->xDelete(real_vfs, path, 0);
        power_disk_remove(path);
        if (result == SQLITE_OK && sync_too)
            power_disk_sync_folder(path);
    }
    if (fault == POWER_CUT)
        power_disk_die();
    power_disk_unlock();
    return result;
}

static int
access_file(sqlite3_vfs *vfs, const char *path, int flags, int *found)
{
    (void)vfs;
    return real_vfs->xAccess(real_vfs, path, flags, found);
}

static int
full_path(sqlite3_vfs *vfs, const char *path, int size, char *out)
{
    (void)vfs;
    return real_vfs->xFullPathname(real_vfs, path, size, out);
}

void
power_vfs_install(void)
{
    static sqlite3_vfs vfs;

    if (real_vfs)
        return;
    real_vfs = sqlite3_vfs_find(NULL);
    power_disk_prepare();
    vfs = *real_vfs; /* time and chance are the real one's */
    vfs.pNext = NULL;
    vfs.zName = "power";
    vfs.szOsFile = (int)sizeof(File) + real_vfs->szOsFile;
    vfs.xOpen = open_file;
    vfs.xDelete = delete_file;
    vfs.xAccess = access_file;
    vfs.xFullPathname = full_path;
    sqlite3_vfs_register(&vfs, 1);
}
