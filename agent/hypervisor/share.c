/* Whether the locks on a file tell what other hosts do with it. On a local file system there are no other
 * hosts; some network ones keep locks to themselves, so that a file which a QEMU elsewhere writes to looks
 * free. */
#include "agent/hypervisor/share.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

/* Beyond whatever QEMU locks. */
#define PROBED_BYTE ((off_t)1 << 50)

/* statfs(2)'s f_type of file systems that hosts may share; as many as linux/magic.h has, and those that are out of
 * its tree. Where they are mounted how is looked up for these only. */
static gboolean
may_be_shared(guint32 magic)
{
    static const guint32 magics[] = {
        0x6969,     0x517b,     0xff534d42, 0xfe534d42, /* NFS, SMB, CIFS, SMB2 */
        0x01021997, 0x00c36400, 0x0bd00bd0, 0x7461636f, /* 9P, Ceph, Lustre, OCFS2 */
        0x01161970, 0x47504653, 0x65735546, 0x5346414f, /* GFS2, GPFS, FUSE, AFS */
        0x6b414653, 0x73757245, 0x19830326, 0x786f4256, /* kAFS, Coda, BeeGFS, vboxsf */
    };

    for (gsize i = 0; i < G_N_ELEMENTS(magics); i++)
        if (magics[i] == magic)
            return TRUE;
    return FALSE;
}

static gboolean
has(char **options, const char *option)
{
    return g_strv_contains((const char *const *)options, option);
}

gboolean
ckpt_share_mount_tells(const char *type, const char *text)
{
    /* Those whose locks reach all hosts unless a mount option says otherwise; what is not known does not. */
    static const char *const good[] = {"nfs",       "nfs4",           "cifs",    "smb3",
                                       "ceph",      "ocfs2",          "gfs2",    "gpfs",
                                       "fuse.ceph", "fuse.ceph-fuse", "fuseblk", "fuse.glusterfs",
                                       NULL};
    static const char *const bad[] = {"nolock", "local_lock=all", "local_lock=posix", "nobrl",
                                      "localflocks", NULL};
    g_auto(GStrv) options = g_strsplit(text, ",", -1);

    if (g_str_equal(type, "lustre"))
        return has(options, "flock");
    if (!g_strv_contains(good, type))
        return FALSE;
    for (gsize i = 0; bad[i]; i++)
        if (has(options, bad[i]))
            return FALSE;
    return TRUE;
}

/* "36 35 98:0 /root /mount-point rw,noatime master:1 - nfs4 host:/path rw,nolock": whether the line is of this
 * device, and its file system's type and options. */
static gboolean
read_line(const char *line, dev_t device, char **type, char **options)
{
    const char *rest = strstr(line, " - ");
    unsigned int first = 0, second = 0;
    g_auto(GStrv) words = NULL;

    if (!rest || sscanf(line, "%*u %*u %u:%u", &first, &second) != 2 || makedev(first, second) != device)
        return FALSE;
    words = g_strsplit(rest + strlen(" - "), " ", 3);
    if (g_strv_length(words) != 3)
        return FALSE;
    g_free(*type);
    g_free(*options);
    *type = g_strdup(words[0]);
    *options = g_strdup(words[2]);
    return TRUE;
}

static gboolean
mount_tells(dev_t device)
{
    g_autofree char *text = NULL, *type = NULL, *options = NULL;
    g_auto(GStrv) lines = NULL;

    if (!g_file_get_contents("/proc/self/mountinfo", &text, NULL, NULL))
        return FALSE;
    lines = g_strsplit(text, "\n", -1);
    for (char **line = lines; *line; line++)
        (void)read_line(*line, device, &type, &options);
    return type && ckpt_share_mount_tells(type, options);
}

/* A server may refuse locks that its protocol knows. */
static gboolean
can_be_locked(int fd)
{
    struct flock range = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = PROBED_BYTE, .l_len = 1};

    if (fcntl(fd, F_OFD_SETLK, &range) < 0)
        return errno == EAGAIN || errno == EACCES;
    range.l_type = F_UNLCK;
    return fcntl(fd, F_OFD_SETLK, &range) == 0;
}

gboolean
ckpt_share_tells(int fd)
{
    struct statfs system;
    struct stat found;

    if (fstatfs(fd, &system) < 0 || fstat(fd, &found) < 0)
        return FALSE;
    return S_ISBLK(found.st_mode) || !may_be_shared((guint32)system.f_type) ||
           (mount_tells(found.st_dev) && can_be_locked(fd));
}
