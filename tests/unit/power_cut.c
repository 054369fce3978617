/* The calls that are watched are those of the agent: fsync, rename, unlink, and its own by name. */
#include "tests/unit/power_cut.h"

#include "tests/unit/domain_fixture.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int __wrap_fsync(int fd);
int __real_rename(const char *from, const char *to);
int __wrap_rename(const char *from, const char *to);
int __real_renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned int flags);
int __wrap_renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned int flags);
int __real_unlink(const char *path);
int __wrap_unlink(const char *path);
gboolean __real_ckpt_file_mark(const char *path, GError **error);
gboolean __wrap_ckpt_file_mark(const char *path, GError **error);
gboolean __real_ckpt_qemu_img(const CkptRun *run, guint64 total, const char *const *arguments, GError **error);
gboolean __wrap_ckpt_qemu_img(const CkptRun *run, guint64 total, const char *const *arguments, GError **error);
gboolean __wrap_ckpt_define_disk(CkptRun *run, const CkptDiskFile *disk_file, const char *from, GError **error);
gboolean __wrap_ckpt_define_disks(CkptRun *run, GPtrArray *disks, GError **error);

/* ---- The disk ---- */

static GHashTable *disk; /* inode number → what a power cut leaves of the file or folder */

char *broken;
guint syncs;
guint failing;
gboolean old_file_system;

static int
compare(gconstpointer a, gconstpointer b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static GPtrArray *
names_in(const char *folder)
{
    GPtrArray *names = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
    const char *name;

    assert_non_null(dir);
    while ((name = g_dir_read_name(dir)))
        g_ptr_array_add(names, g_build_filename(folder, name, NULL));
    g_ptr_array_sort(names, compare);
    return names;
}

static guint64
inode_of(const char *path)
{
    struct stat found;

    return lstat(path, &found) == 0 ? found.st_ino : 0;
}

static char *
describe_folder(const char *folder)
{
    g_autoptr(GPtrArray) names = names_in(folder);
    g_autoptr(GString) text = g_string_new(NULL);

    for (guint i = 0; i < names->len; i++)
        g_string_append_printf(text, "%s %" G_GUINT64_FORMAT "\n", (char *)names->pdata[i],
                               inode_of(names->pdata[i]));
    return g_strdup(text->str);
}

static char *
describe_contents(guint mode, guint user, guint group, const char *data, gsize length)
{
    g_autofree char *sum = g_compute_checksum_for_data(G_CHECKSUM_SHA256, (const guchar *)data, length);

    return g_strdup_printf("%o %u %u %s", mode, user, group, sum);
}

static char *
describe(const char *path)
{
    g_autofree char *data = NULL;
    struct stat found;
    gsize length;

    assert_int_equal(lstat(path, &found), 0);
    if (S_ISDIR(found.st_mode))
        return describe_folder(path);
    assert_true(g_file_get_contents(path, &data, &length, NULL));
    return describe_contents(found.st_mode, found.st_uid, found.st_gid, data, length);
}

/* A file that was never synced: there with its name, it is as it was made. */
static char *
as_made(void)
{
    return describe_contents(S_IFREG | 0600, geteuid(), getegid(), "", 0);
}

static void
put_on_disk(const char *path)
{
    g_hash_table_insert(disk, GUINT_TO_POINTER(inode_of(path)), describe(path));
}

static gboolean
is_on_disk(const char *path)
{
    const char *left = g_hash_table_lookup(disk, GUINT_TO_POINTER(inode_of(path)));
    g_autofree char *fresh = left ? NULL : as_made();
    g_autofree char *now = describe(path);

    return g_str_equal(left ? left : fresh, now);
}

/* Whether the names that it has are, but for one that goes; what has gone may come back. */
static gboolean
has_names_on_disk(const char *folder, const char *going)
{
    const char *left = g_hash_table_lookup(disk, GUINT_TO_POINTER(inode_of(folder)));
    g_autofree char *now = describe_folder(folder);
    g_auto(GStrv) lines = g_strsplit(now, "\n", -1);
    gsize length = going ? strlen(going) : 0;

    for (char **line = lines; *line; line++)
        if (!strstr(left, *line) && !(going && strncmp(*line, going, length) == 0 && (*line)[length] == ' '))
            return FALSE;
    return TRUE;
}

/* Its number may be another's soon. */
static void
forget(const char *path)
{
    struct stat found;

    if (lstat(path, &found) == 0 && found.st_nlink == 1)
        g_hash_table_remove(disk, GUINT_TO_POINTER((guint64)found.st_ino));
}

static void
each_below(const char *folder, void (*func)(const char *path, gpointer data), gpointer data)
{
    g_autoptr(GPtrArray) names = names_in(folder);

    func(folder, data);
    for (guint i = 0; i < names->len; i++) {
        if (g_file_test(names->pdata[i], G_FILE_TEST_IS_DIR))
            each_below(names->pdata[i], func, data);
        else
            func(names->pdata[i], data);
    }
}

static void
settle_one(const char *path, gpointer data)
{
    (void)data;
    put_on_disk(path);
}

void
settle(void)
{
    g_clear_pointer(&broken, g_free);
    g_hash_table_remove_all(disk);
    each_below(images, settle_one, NULL);
}

static void
require_one(const char *path, gpointer data)
{
    if (!broken && !is_on_disk(path))
        broken = g_strdup_printf("%s is not on the disk %s", path, (const char *)data);
}

typedef struct {
    const char *when, *going;
} Rule;

static void
require_to_stay(const char *path, gpointer data)
{
    const Rule *rule = data;

    if (broken || g_strcmp0(path, rule->going) == 0 ||
        (g_file_test(path, G_FILE_TEST_IS_DIR) ? has_names_on_disk(path, rule->going) : is_on_disk(path)))
        return;
    broken = g_strdup_printf("%s is not on the disk %s", path, rule->when);
}

/* All that is there, but `going` (NULL: no exception). */
static void
require_all(const char *when, const char *going)
{
    Rule rule = {when, going};

    each_below(images, require_to_stay, &rule);
}

void
require_all_synced(void)
{
    each_below(images, require_one, (gpointer) "when the step is done");
}

int
disk_open(void **state)
{
    disk = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    return images_open(state);
}

int
disk_close(void **state)
{
    g_clear_pointer(&disk, g_hash_table_unref);
    g_clear_pointer(&broken, g_free);
    return images_close(state);
}

/* ---- What is done to it ---- */

int
__wrap_fsync(int fd)
{
    g_autofree char *link = g_strdup_printf("/proc/self/fd/%d", fd);
    g_autofree char *path = g_file_read_link(link, NULL);

    syncs++;
    if (syncs == failing) {
        errno = EIO;
        return -1;
    }
    put_on_disk(path);
    return 0;
}

/* Under its name nothing is found but the whole. */
int
__wrap_rename(const char *from, const char *to)
{
    require_one(from, (gpointer) "before it is put in place");
    forget(to);
    return __real_rename(from, to);
}

int
__wrap_renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned int flags)
{
    require_one(from, (gpointer) "before it is put in place");
    if (!old_file_system)
        return __real_renameat2(from_fd, from, to_fd, to, flags);
    errno = EINVAL;
    return -1;
}

static gboolean
is_temporary(const char *path)
{
    return g_str_has_suffix(path, ".new") || g_str_has_suffix(path, "-new");
}

/* What is to stay is there before anything goes. */
int
__wrap_unlink(const char *path)
{
    if (!is_temporary(path) && inode_of(path))
        require_all("before something is removed", path);
    forget(path);
    return __real_unlink(path);
}

/* It says that something is done. */
gboolean
__wrap_ckpt_file_mark(const char *path, GError **error)
{
    require_all("before a mark is made", path);
    return __real_ckpt_file_mark(path, error);
}

gboolean
__wrap_ckpt_qemu_img(const CkptRun *run, guint64 total, const char *const *arguments, GError **error)
{
    if (g_strv_contains(arguments, "rebase") && g_strv_contains(arguments, "-u"))
        require_all("before a file is laid on another one", NULL);
    return __real_ckpt_qemu_img(run, total, arguments, error);
}

/* The test driver cannot change a disk; the VM has but one. Started on that, it reads the base through whichever
 * header is on the disk. */
static void
define(const CkptRun *run, const CkptDiskFile *to)
{
    g_autoptr(virConnect) conn = ckpt_connection_get(run->connection, NULL);
    g_autoptr(virDomain) domain = NULL;
    g_autofree char *xml = g_strdup_printf(
        "<domain type='test'><name>vm</name><uuid>" VM "</uuid><memory>65536</memory><os><type>hvm</type></os>"
        "<devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='%s'/>"
        "<target dev='vda'/></disk></devices></domain>", to->file);

    require_one(run->step->base, (gpointer) "before a definition counts on it");
    domain = virDomainDefineXML(conn, xml);
    assert_non_null(domain);
}

gboolean
__wrap_ckpt_define_disk(CkptRun *run, const CkptDiskFile *disk_file, const char *from, GError **error)
{
    (void)from;
    (void)error;
    define(run, disk_file);
    return TRUE;
}

gboolean
__wrap_ckpt_define_disks(CkptRun *run, GPtrArray *disks, GError **error)
{
    (void)error;
    define(run, g_ptr_array_index(disks, 0));
    return TRUE;
}
