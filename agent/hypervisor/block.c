/* Disks on block devices: their overlays are files, which need a folder that the administrator names. */
#include "agent/hypervisor/image.h"
#include "agent/hypervisor/qemu.h"
#include "agent/model/json.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

/* By the names of older agents, of which one may be that of several devices. */
static char *
older_path(const char *folder, const char *file, const char *ending)
{
    g_autofree char *stem = g_strdelimit(g_strdup(*file == '/' ? file + 1 : file), "/", '-');

    return g_strconcat(folder, "/", stem, ending, NULL);
}

/* Whether it is this device's: a manifest names the disks that it is of. One that cannot be read is taken for it,
 * and found to be unreadable. */
static gboolean
is_of(const char *path, const char *file, const char *ending)
{
    g_autofree char *text = NULL;
    g_autoptr(CkptManifest) told = NULL;

    if (!g_file_test(path, G_FILE_TEST_EXISTS))
        return FALSE;
    if (!g_str_equal(ending, CKPT_MANIFEST_ENDING))
        return TRUE;
    text = ckpt_manifest_read(path, NULL);
    told = text ? ckpt_manifest_from_json(text, NULL) : NULL;
    if (text)
        explicit_bzero(text, strlen(text));
    for (guint i = 0; told && told->row && i < told->row->disks->len; i++)
        if (ckpt_image_same(((CkptCheckpointDisk *)told->row->disks->pdata[i])->sealed_file, file))
            return TRUE;
    return !told || !told->row;
}

char *
ckpt_block_beside(const CkptQemuOptions *options, const char *file, const char *ending)
{
    const char *folder = options ? options->block_overlay_folder : NULL;
    g_autofree char *stem = NULL, *path = NULL, *older = NULL;

    if (!folder || !ckpt_is_block(file))
        return g_strconcat(file, ending, NULL);
    stem = ckpt_device_stem(file);
    path = g_strconcat(folder, "/", stem, ending, NULL);
    older = older_path(folder, file, ending);
    if (!g_str_equal(path, older) && !g_file_test(path, G_FILE_TEST_EXISTS) && is_of(older, file, ending))
        return g_steal_pointer(&older);
    return g_steal_pointer(&path);
}

static void
refuse(CkptVm *vm, const char *target, const char *file)
{
    ckpt_vm_add_obstacle(vm, CKPT_REASON_DISK_TYPE_UNSUPPORTED, target, file,
                         "%s%s%s is a block device, beside which no overlay can lie: name a folder for them as "
                         "block_overlay_folder in [checkpoints] of the agent's configuration",
                         target ? "disk " : "", target ? target : "", target ? "" : file);
}

static void
fill_owner(CkptLayer *layer, const CkptQemuOptions *options)
{
    g_autoptr(CkptManifest) head =
        layer->manifest ? ckpt_manifest_head_of(options, layer->path) : NULL;

    layer->manifest_unread = layer->manifest && !head;
    if (!head)
        return;
    layer->owner_agent = g_steal_pointer(&head->agent);
    layer->owner_host = g_steal_pointer(&head->host_name);
    layer->owner_vm = g_steal_pointer(&head->domain);
}

static void
fill(CkptLayer *layer, const CkptQemuOptions *options)
{
    g_autofree char *manifest = ckpt_block_beside(options, layer->path, CKPT_MANIFEST_ENDING);
    const char *folder = options->block_overlay_folder;
    struct statvfs space;
    struct stat found;

    layer->overlay_folder = g_strdup(folder);
    layer->manifest = g_file_test(manifest, G_FILE_TEST_EXISTS);
    layer->manifest_file = g_steal_pointer(&manifest);
    fill_owner(layer, options);
    if (statvfs(folder, &space) == 0 && stat(folder, &found) == 0) {
        layer->fs_available = (guint64)space.f_bavail * space.f_frsize;
        layer->fs_size = (guint64)space.f_blocks * space.f_frsize;
        layer->overlay_device = found.st_dev;
    }
}

static void
refuse_folder(CkptVm *vm, const char *target, const char *folder)
{
    struct stat found;
    int fault = stat(folder, &found) != 0 ? errno : S_ISDIR(found.st_mode) ? 0 : ENOTDIR;

    if (fault)
        ckpt_vm_add_obstacle(vm, CKPT_REASON_DISK_FILE_MISSING, target, folder,
                             "disk %s: the folder for overlays of block devices, %s, cannot be used (%s): make "
                             "it or mount its file system, or name another one as block_overlay_folder in "
                             "[checkpoints] of the agent's configuration",
                             target, folder, g_strerror(fault));
}

/* qcow2 on a device grows beyond its end; and QEMU knows of an overlay's merge only that it failed. */
static void
inspect_top(CkptVm *vm, const CkptDisk *disk, const CkptLayer *top, const char *folder)
{
    if (folder)
        refuse_folder(vm, disk->target, folder);
    if (!folder)
        refuse(vm, disk->target, top->path);
    else if (top->format != CKPT_FORMAT_RAW)
        ckpt_vm_add_obstacle(vm, CKPT_REASON_DISK_FORMAT_UNSUPPORTED, disk->target, top->path,
                             "disk %s is a %s image on the block device %s: only raw ones can be captured",
                             disk->target, ckpt_format_name(top->format), top->path);
}

void
ckpt_inspect_block(CkptVm *vm, const CkptQemuOptions *options, const CkptKnownFile *files)
{
    const char *folder = options->block_overlay_folder;
    GHashTableIter iter;
    gpointer value;

    for (guint i = 0; i < vm->disks->len; i++) {
        const CkptDisk *disk = g_ptr_array_index(vm->disks, i);
        const CkptLayer *top = disk->chain->len ? g_ptr_array_index(disk->chain, 0) : NULL;

        if (top && top->block)
            inspect_top(vm, disk, top, folder);
    }
    for (; !folder && files && files->path; files++) {
        const CkptLayer *layer = ckpt_vm_find_file(vm, files->path);

        if (layer && layer->block)
            refuse(vm, NULL, layer->path);
    }
    g_hash_table_iter_init(&iter, vm->files);
    while (folder && g_hash_table_iter_next(&iter, NULL, &value))
        if (((CkptLayer *)value)->block)
            fill(value, options);
}
