#include "tests/support/power_disk.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define SECTOR 512

typedef struct {
    guint64 number; /* grows over all files */
    gint64 offset;  /* of a truncation: the new size */
    GBytes *data;   /* NULL = a truncation */
} Write;

struct _PowerNode {
    gatomicrefcount refs;
    GByteArray *synced;
    GPtrArray *pending; /* Write */
    gboolean entry_synced; /* its creation needs no sync of the folder any more */
};

static struct {
    GMutex lock; /* guards all below */
    GHashTable *now, *certain; /* path → PowerNode: what the folder names */
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

static PowerNode *
node_new(void)
{
    PowerNode *node = g_new0(PowerNode, 1);

    g_atomic_ref_count_init(&node->refs);
    node->synced = g_byte_array_new();
    node->pending = g_ptr_array_new_with_free_func(write_free);
    return node;
}

PowerNode *
power_node_ref(PowerNode *node)
{
    g_atomic_ref_count_inc(&node->refs);
    return node;
}

void
power_node_unref(gpointer data)
{
    PowerNode *node = data;

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

void
power_node_write(PowerNode *node, gint64 offset, const void *data, gsize length)
{
    Write *write = g_new0(Write, 1);

    write->number = ++disk.writes;
    write->offset = offset;
    write->data = data ? g_bytes_new(data, length) : NULL;
    g_ptr_array_add(node->pending, write);
}

/* keep 256 = a sync that succeeded. */
static void
settle(PowerNode *node, guint keep)
{
    for (guint i = 0; i < node->pending->len; i++) {
        const Write *write = g_ptr_array_index(node->pending, i);

        if (write->data || draw(&disk.seed) % 256 < keep)
            put(node->synced, write, keep, &disk.seed);
    }
    g_ptr_array_set_size(node->pending, 0);
}

void
power_node_sync(PowerNode *node, gboolean succeeds)
{
    settle(node, succeeds ? 256 : (guint)(draw(&disk.seed) % 3) * 128);
}

gboolean
power_node_is_named(const PowerNode *node)
{
    return node->entry_synced;
}

/* ---- What a folder names ---- */

static gboolean
is_in_folder(const char *path, const char *folder)
{
    g_autofree char *own = g_path_get_dirname(path);

    return g_str_equal(own, folder);
}

void
power_disk_sync_folder(const char *path)
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
        ((PowerNode *)node)->entry_synced = TRUE;
        g_hash_table_replace(disk.certain, g_strdup(name), power_node_ref(node));
    }
}

/* One that the disk had before anybody opened it here is certain as it is. */
PowerNode *
power_disk_find(const char *path)
{
    PowerNode *node = g_hash_table_lookup(disk.now, path);
    g_autofree char *data = NULL;
    gsize length;

    if (node || !g_file_get_contents(path, &data, &length, NULL))
        return node;
    node = node_new();
    node->entry_synced = TRUE;
    g_byte_array_append(node->synced, (guint8 *)data, (guint)length);
    g_hash_table_insert(disk.now, g_strdup(path), node);
    g_hash_table_replace(disk.certain, g_strdup(path), power_node_ref(node));
    return node;
}

PowerNode *
power_disk_make(const char *path)
{
    PowerNode *node = node_new();

    g_hash_table_insert(disk.now, g_strdup(path), node);
    return node;
}

void
power_disk_remove(const char *path)
{
    g_hash_table_remove(disk.now, path);
}

/* ---- Faults ---- */

static gboolean
is_struck(PowerFault fault, PowerCall call)
{
    switch (fault) {
    case POWER_CUT:
        return call != POWER_CALL_READ;
    case POWER_NO_SPACE:
        return call == POWER_CALL_WRITE || call == POWER_CALL_MAKE;
    case POWER_SHORT:
        return call == POWER_CALL_WRITE;
    case POWER_EIO:
        return call == POWER_CALL_WRITE || call == POWER_CALL_TRUNCATE || call == POWER_CALL_DELETE;
    case POWER_SYNC_FAILS:
        return call == POWER_CALL_SYNC;
    case POWER_READ_EIO:
        return call == POWER_CALL_READ;
    case POWER_GOOD:
    case POWER_FAULTS:
        break;
    }
    return FALSE;
}

PowerFault
power_disk_pass(PowerCall call)
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

void
power_disk_die(void)
{
    disk.dead = TRUE;
}

gboolean
power_disk_is_dead(void)
{
    return disk.dead;
}

void
power_disk_prepare(void)
{
    disk.now = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, power_node_unref);
    disk.certain = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, power_node_unref);
}

void
power_disk_lock(void)
{
    g_mutex_lock(&disk.lock);
}

void
power_disk_unlock(void)
{
    g_mutex_unlock(&disk.lock);
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
contents_after(const PowerNode *node, Loss loss, guint64 last, guint64 *chance)
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
    PowerNode *certain = g_hash_table_lookup(disk.certain, path);
    PowerNode *now = g_hash_table_lookup(disk.now, path);
    gboolean renewed = loss == LOSE_NONE || (loss != LOSE_ALL && draw(chance) % 2);
    PowerNode *left = renewed ? now : certain;
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
            GPtrArray *pending = ((PowerNode *)node)->pending;

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
