#include "tests/support/power_vfs.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <string.h>
#include <unistd.h>

#define SECTOR 512

typedef struct {
    guint64 number; /* grows over all files */
    gint64 offset;  /* of a truncation: the new size */
    GBytes *data;   /* NULL = a truncation */
} Write;

/* An inode: what it holds for certain, and what was written since. */
typedef struct {
    gatomicrefcount refs;
    GByteArray *synced;
    GPtrArray *pending; /* Write */
    gboolean entry_synced; /* its creation needs no sync of the folder any more */
} Node;

/* SQLite's, followed by the real one. */
typedef struct {
    sqlite3_file base;
    Node *node;
    char *path; /* NULL = temporary: of no account */
    gboolean names_itself; /* the real VFS syncs the folder with its first sync */
} File;

static struct {
    GMutex lock; /* guards all below */
    sqlite3_vfs *real;
    GHashTable *now, *certain; /* path → Node: what the folder names */
    guint64 writes, seed;
    PowerFault fault;
    guint at, calls;
    gboolean stays, fired, dead;
} disk;

static guint64
draw(guint64 *state)
{
    guint64 z = *state += G_GUINT64_CONSTANT(0x9e3779b97f4a7c15); /* splitmix64 */

    z = (z ^ (z >> 30)) * G_GUINT64_CONSTANT(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * G_GUINT64_CONSTANT(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* ---- Inodes ---- */

static void
write_free(gpointer data)
{
    Write *write = data;

    g_clear_pointer(&write->data, g_bytes_unref);
    g_free(write);
}

static Node *
node_new(void)
{
    Node *node = g_new0(Node, 1);

    g_atomic_ref_count_init(&node->refs);
    node->synced = g_byte_array_new();
    node->pending = g_ptr_array_new_with_free_func(write_free);
    return node;
}

static Node *
node_ref(Node *node)
{
    g_atomic_ref_count_inc(&node->refs);
    return node;
}

static void
node_unref(gpointer data)
{
    Node *node = data;

    if (!g_atomic_ref_count_dec(&node->refs))
        return;
    g_byte_array_unref(node->synced);
    g_ptr_array_unref(node->pending);
    g_free(node);
}

static void
set_size(GByteArray *bytes, gsize size)
{
    guint before = bytes->len;

    g_byte_array_set_size(bytes, (guint)size);
    if (size > before)
        memset(bytes->data + before, 0, size - before);
}

/* Sectors of one write reach the disk apart. keep: the share of them, in 1/256. */
static void
put(GByteArray *bytes, const Write *write, guint keep, guint64 *chance)
{
    gsize length, at = 0;
    const guint8 *data = write->data ? g_bytes_get_data(write->data, &length) : NULL;

    if (!data) {
        set_size(bytes, (gsize)write->offset);
        return;
    }
    while (at < length) {
        gsize from = (gsize)write->offset + at;
        gsize part = MIN(length - at, SECTOR - from % SECTOR);

        if (draw(chance) % 256 < keep) {
            if (from + part > bytes->len)
                set_size(bytes, from + part);
            memcpy(bytes->data + from, data + at, part);
        }
        at += part;
    }
}

static void
remember(Node *node, gint64 offset, const void *data, gsize length)
{
    Write *write = g_new0(Write, 1);

    write->number = ++disk.writes;
    write->offset = offset;
    write->data = data ? g_bytes_new(data, length) : NULL;
    g_ptr_array_add(node->pending, write);
}

/* keep 256 = a sync that succeeded. */
static void
settle(Node *node, guint keep)
{
    for (guint i = 0; i < node->pending->len; i++) {
        const Write *write = g_ptr_array_index(node->pending, i);

        if (write->data || draw(&disk.seed) % 256 < keep)
            put(node->synced, write, keep, &disk.seed);
    }
    g_ptr_array_set_size(node->pending, 0);
}

/* ---- What a folder names ---- */

static gboolean
is_in_folder(const char *path, const char *folder)
{
    g_autofree char *own = g_path_get_dirname(path);

    return g_str_equal(own, folder);
}

/* All of the folder that path is in. */
static void
sync_folder(const char *path)
{
    g_autofree char *folder = g_path_get_dirname(path);
    GHashTableIter iter;
    gpointer name, node;

    g_hash_table_iter_init(&iter, disk.certain);
    while (g_hash_table_iter_next(&iter, &name, NULL))
        if (is_in_folder(name, folder) && !g_hash_table_contains(disk.now, name))
            g_hash_table_iter_remove(&iter);
    g_hash_table_iter_init(&iter, disk.now);
    while (g_hash_table_iter_next(&iter, &name, &node)) {
        if (!is_in_folder(name, folder))
            continue;
        ((Node *)node)->entry_synced = TRUE;
        g_hash_table_replace(disk.certain, g_strdup(name), node_ref(node));
    }
}

/* One that the disk had before anybody opened it here is certain as it is. */
static Node *
find_node(const char *path)
{
    Node *node = g_hash_table_lookup(disk.now, path);
    g_autofree char *data = NULL;
    gsize length;

    if (node || !g_file_get_contents(path, &data, &length, NULL))
        return node;
    node = node_new();
    node->entry_synced = TRUE;
    g_byte_array_append(node->synced, (guint8 *)data, (guint)length);
    g_hash_table_insert(disk.now, g_strdup(path), node);
    g_hash_table_replace(disk.certain, g_strdup(path), node_ref(node));
    return node;
}

/* ---- Faults ---- */

typedef enum { CALL_WRITE, CALL_TRUNCATE, CALL_SYNC, CALL_DELETE, CALL_MAKE, CALL_READ } Call;

static gboolean
is_struck(PowerFault fault, Call call)
{
    switch (fault) {
    case POWER_CUT:
        return call != CALL_READ;
    case POWER_NO_SPACE:
        return call == CALL_WRITE || call == CALL_MAKE;
    case POWER_SHORT:
        return call == CALL_WRITE;
    case POWER_EIO:
        return call == CALL_WRITE || call == CALL_TRUNCATE || call == CALL_DELETE;
    case POWER_SYNC_FAILS:
        return call == CALL_SYNC;
    case POWER_READ_EIO:
        return call == CALL_READ;
    case POWER_GOOD:
    case POWER_FAULTS:
        break;
    }
    return FALSE;
}

/* The fault of this call; POWER_CUT also for all calls after the cut. */
static PowerFault
pass(Call call)
{
    if (disk.dead)
        return POWER_CUT;
    if (!is_struck(disk.fault, call))
        return POWER_GOOD;
    disk.calls++;
    if (disk.at == 0 || disk.calls < disk.at || (disk.calls > disk.at && !disk.stays))
        return POWER_GOOD;
    disk.fired = TRUE;
    return disk.fault;
}

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

    g_mutex_lock(&disk.lock);
    g_clear_pointer(&file->node, node_unref);
    g_clear_pointer(&file->path, g_free);
    g_mutex_unlock(&disk.lock);
    return result;
}

static int
read_file(sqlite3_file *base, void *data, int length, sqlite3_int64 offset)
{
    sqlite3_file *real = real_of(base);
    PowerFault fault;

    g_mutex_lock(&disk.lock);
    fault = ((File *)base)->node ? pass(CALL_READ) : POWER_GOOD;
    g_mutex_unlock(&disk.lock);
    if (fault != POWER_GOOD)
        return SQLITE_IOERR_READ;
    return real->pMethods->xRead(real, data, length, offset);
}

static int
write_locked(File *file, sqlite3_file *real, const void *data, int length, sqlite3_int64 offset)
{
    gboolean was_dead = disk.dead;
    PowerFault fault = pass(CALL_WRITE);
    int done = fault == POWER_SHORT ? length / 2 : length;
    int result;

    if (fault == POWER_NO_SPACE)
        return SQLITE_FULL;
    if (fault == POWER_EIO || was_dead)
        return SQLITE_IOERR_WRITE;
    remember(file->node, offset, data, (gsize)done);
    if (fault == POWER_CUT) {
        disk.dead = TRUE;
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
    g_mutex_lock(&disk.lock);
    result = write_locked(file, real, data, length, offset);
    g_mutex_unlock(&disk.lock);
    return result;
}

static int
truncate_locked(File *file, sqlite3_file *real, sqlite3_int64 size)
{
    gboolean was_dead = disk.dead;
    PowerFault fault = pass(CALL_TRUNCATE);

    if (fault == POWER_EIO || was_dead)
        return SQLITE_IOERR_TRUNCATE;
    remember(file->node, size, NULL, 0);
    if (fault == POWER_CUT) {
        disk.dead = TRUE;
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
    g_mutex_lock(&disk.lock);
    result = truncate_locked(file, real, size);
    g_mutex_unlock(&disk.lock);
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
    g_mutex_lock(&disk.lock);
    fault = pass(CALL_SYNC);
    if (fault == POWER_CUT)
        disk.dead = TRUE;
    else
        settle(file->node, fault == POWER_GOOD ? 256 : (guint)(draw(&disk.seed) % 3) * 128);
    if (fault == POWER_GOOD && file->names_itself && !file->node->entry_synced)
        sync_folder(file->path);
    g_mutex_unlock(&disk.lock);
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
static Node *
enter_file(const char *path, int flags, int *result)
{
    Node *node = find_node(path);
    PowerFault fault;

    if (node)
        return node_ref(node);
    *result = SQLITE_CANTOPEN;
    if (!(flags & SQLITE_OPEN_CREATE))
        return NULL;
    fault = pass(CALL_MAKE);
    disk.dead = disk.dead || fault == POWER_CUT;
    if (fault != POWER_GOOD)
        return NULL;
    node = node_new();
    g_hash_table_insert(disk.now, g_strdup(path), node);
    return node_ref(node);
}

static int
open_file(sqlite3_vfs *vfs, const char *path, sqlite3_file *base, int flags, int *out)
{
    File *file = (File *)base;
    int result = SQLITE_OK;

    (void)vfs;
    memset(file, 0, sizeof *file);
    if (path) {
        g_mutex_lock(&disk.lock);
        file->node = enter_file(path, flags, &result);
        g_mutex_unlock(&disk.lock);
        if (!file->node)
            return result;
        file->path = g_strdup(path);
        file->names_itself =
            (flags & (SQLITE_OPEN_WAL | SQLITE_OPEN_MAIN_JOURNAL | SQLITE_OPEN_SUPER_JOURNAL)) != 0;
    }
    base->pMethods = &methods; /* SQLite closes it also when this fails */
    return disk.real->xOpen(disk.real, path, real_of(base), flags, out);
}

static int
delete_file(sqlite3_vfs *vfs, const char *path, int sync_too)
{
    PowerFault fault;
    int result = SQLITE_IOERR_DELETE;

    (void)vfs;
    g_mutex_lock(&disk.lock);
    find_node(path);
    fault = pass(CALL_DELETE);
    if (fault == POWER_GOOD) {
        result = disk.real->xDelete(disk.real, path, 0);
        g_hash_table_remove(disk.now, path);
        if (result == SQLITE_OK && sync_too)
            sync_folder(path);
    }
    disk.dead = disk.dead || fault == POWER_CUT;
    g_mutex_unlock(&disk.lock);
    return result;
}

static int
access_file(sqlite3_vfs *vfs, const char *path, int flags, int *found)
{
    (void)vfs;
    return disk.real->xAccess(disk.real, path, flags, found);
}

static int
full_path(sqlite3_vfs *vfs, const char *path, int size, char *out)
{
    (void)vfs;
    return disk.real->xFullPathname(disk.real, path, size, out);
}

void
power_vfs_install(void)
{
    static sqlite3_vfs vfs;

    if (disk.real)
        return;
    disk.real = sqlite3_vfs_find(NULL);
    disk.now = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, node_unref);
    disk.certain = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, node_unref);
    vfs = *disk.real; /* time and chance are the real one's */
    vfs.pNext = NULL;
    vfs.zName = "power";
    vfs.szOsFile = (int)sizeof(File) + disk.real->szOsFile;
    vfs.xOpen = open_file;
    vfs.xDelete = delete_file;
    vfs.xAccess = access_file;
    vfs.xFullPathname = full_path;
    sqlite3_vfs_register(&vfs, 1);
}

/* ---- The test's hand on it ---- */

void
power_vfs_arm(PowerFault fault, guint at, gboolean stays, guint64 seed)
{
    g_mutex_lock(&disk.lock);
    disk.fault = fault;
    disk.at = at;
    disk.stays = stays;
    disk.seed = seed;
    disk.calls = 0;
    disk.fired = FALSE;
    g_mutex_unlock(&disk.lock);
}

guint
power_vfs_calls(void)
{
    guint calls;

    g_mutex_lock(&disk.lock);
    calls = disk.calls;
    g_mutex_unlock(&disk.lock);
    return calls;
}

gboolean
power_vfs_fired(void)
{
    gboolean fired;

    g_mutex_lock(&disk.lock);
    fired = disk.fired;
    g_mutex_unlock(&disk.lock);
    return fired;
}

void
power_vfs_cut(void)
{
    g_mutex_lock(&disk.lock);
    disk.dead = TRUE;
    g_mutex_unlock(&disk.lock);
}

void
power_vfs_forget(void)
{
    g_mutex_lock(&disk.lock);
    g_hash_table_remove_all(disk.now);
    g_hash_table_remove_all(disk.certain);
    disk.dead = FALSE;
    disk.fault = POWER_GOOD;
    g_mutex_unlock(&disk.lock);
}

typedef enum { LOSE_ALL, LOSE_NONE, LOSE_AFTER, LOSE_SOME, LOSE_SECTORS, LOSSES } Loss;

static GByteArray *
contents_after(const Node *node, Loss loss, guint64 last, guint64 *chance)
{
    GByteArray *bytes = g_byte_array_new();

    g_byte_array_append(bytes, node->synced->data, node->synced->len);
    for (guint i = 0; i < node->pending->len; i++) {
        const Write *write = g_ptr_array_index(node->pending, i);
        gboolean kept = loss == LOSE_NONE || (loss == LOSE_AFTER && write->number <= last) ||
                        (loss == LOSE_SOME && draw(chance) % 2) ||
                        (loss == LOSE_SECTORS && (write->data || draw(chance) % 2));

        if (kept)
            put(bytes, write, loss == LOSE_SECTORS ? 128 : 256, chance);
    }
    return bytes;
}

/* The file of this name is one of those that the folder named for certain or names now. */
static void
leave(const char *path, Loss loss, guint64 last, guint64 *chance)
{
    Node *certain = g_hash_table_lookup(disk.certain, path);
    Node *now = g_hash_table_lookup(disk.now, path);
    gboolean renewed = loss == LOSE_NONE || (loss != LOSE_ALL && draw(chance) % 2);
    Node *left = renewed ? now : certain;
    g_autoptr(GByteArray) bytes = NULL;
    int fd;

    if (!left) {
        unlink(path);
        return;
    }
    bytes = contents_after(left, loss, last, chance);
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, bytes->data, bytes->len) != (gssize)bytes->len)
        g_error("%s cannot be written", path);
    close(fd);
}

void
power_vfs_lose(guint64 seed)
{
    g_autoptr(GHashTable) paths = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    Loss loss = seed == POWER_KEEP ? LOSE_NONE : (Loss)(draw(&seed) % LOSSES);
    guint64 least = disk.writes, last;
    GHashTableIter iter;
    gpointer path, node;

    for (guint i = 0; i < 2; i++) {
        g_hash_table_iter_init(&iter, i ? disk.certain : disk.now);
        while (g_hash_table_iter_next(&iter, &path, &node)) {
            GPtrArray *pending = ((Node *)node)->pending;

            if (pending->len)
                least = MIN(least, ((Write *)pending->pdata[0])->number);
            g_hash_table_add(paths, g_strdup(path));
        }
    }
    last = least + draw(&seed) % (disk.writes - least + 1);
    g_hash_table_iter_init(&iter, paths);
    while (g_hash_table_iter_next(&iter, &path, NULL))
        leave(path, loss, last, &seed);
    power_vfs_forget();
}
