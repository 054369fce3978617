#include "agent/model/types.h"

#include <string.h>

const char *
ckpt_format_name(CkptFormat format)
{
    switch (format) {
    case CKPT_FORMAT_RAW:
        return "raw";
    case CKPT_FORMAT_QCOW2:
        return "qcow2";
    }
    return "unknown";
}

const char *
ckpt_power_name(CkptPower power)
{
    switch (power) {
    case CKPT_POWER_UNKNOWN:
        break;
    case CKPT_POWER_RUNNING:
        return "running";
    case CKPT_POWER_PAUSED:
        return "paused";
    case CKPT_POWER_SHUT_OFF:
        return "shut off";
    case CKPT_POWER_CRASHED:
        return "crashed";
    case CKPT_POWER_SUSPENDED:
        return "suspended";
    }
    return "unknown";
}

gboolean
ckpt_file_id_equal(const CkptFileId *a, const CkptFileId *b)
{
    return a->device == b->device && a->inode == b->inode && a->size == b->size &&
           a->mtime_ns == b->mtime_ns;
}

gboolean
ckpt_file_id_holds(const CkptFileId *found, const CkptFileId *sealed)
{
    return ckpt_file_id_equal(found, sealed) ||
           (found->device == CKPT_FILE_ID_BLOCK && sealed->device == CKPT_FILE_ID_BLOCK &&
            found->inode == sealed->inode && found->size > sealed->size);
}

gboolean
ckpt_file_id_is_set(const CkptFileId *id)
{
    return id->inode != 0;
}

void
ckpt_layer_free(CkptLayer *layer)
{
    if (!layer)
        return;
    g_free(layer->path);
    g_free(layer->backing);
    g_free(layer->owner_agent);
    g_free(layer->owner_host);
    g_free(layer->owner_vm);
    g_free(layer->overlay_folder);
    g_free(layer->manifest_file);
    g_free(layer);
}

char *
ckpt_device_stem(const char *path)
{
    GString *stem = g_string_new(NULL);

    for (const char *at = *path == '/' ? path + 1 : path; *at; at++) {
        if (*at == '-' || *at == '_')
            g_string_append_c(stem, '_');
        g_string_append_c(stem, *at == '/' ? '-' : *at);
    }
    return g_string_free(stem, FALSE);
}

void
ckpt_disk_free(CkptDisk *disk)
{
    if (!disk)
        return;
    g_free(disk->target);
    g_free(disk->source);
    g_free(disk->live_source);
    g_strfreev(disk->live_chain);
    g_clear_pointer(&disk->chain, g_ptr_array_unref);
    g_free(disk);
}

static void
obstacle_free(CkptObstacle *obstacle)
{
    g_free(obstacle->message);
    g_free(obstacle->disk);
    g_free(obstacle->file);
    g_free(obstacle);
}

static void
file_user_free(CkptFileUser *user)
{
    g_free(user->file);
    g_free(user->user);
    g_free(user);
}

void
ckpt_snapshot_free(CkptSnapshot *snapshot)
{
    if (!snapshot)
        return;
    g_free(snapshot->name);
    g_free(snapshot->parent);
    g_free(snapshot->description);
    g_clear_pointer(&snapshot->disks, g_ptr_array_unref);
    g_clear_pointer(&snapshot->named, g_ptr_array_unref);
    g_free(snapshot);
}

static void
snapshot_file_free(CkptSnapshotFile *file)
{
    g_free(file->target);
    g_free(file->path);
    g_free(file);
}

CkptSnapshot *
ckpt_snapshot_new(const char *name)
{
    CkptSnapshot *snapshot = g_new0(CkptSnapshot, 1);

    snapshot->name = g_strdup(name);
    snapshot->disks = g_ptr_array_new_with_free_func((GDestroyNotify)snapshot_file_free);
    snapshot->named = g_ptr_array_new_with_free_func((GDestroyNotify)snapshot_file_free);
    return snapshot;
}

void
ckpt_snapshot_add_file(GPtrArray *files, const char *target, const char *path, CkptFormat format)
{
    CkptSnapshotFile *file;

    for (guint i = 0; i < files->len; i++) {
        file = g_ptr_array_index(files, i);
        if (g_str_equal(file->path, path)) {
            file->format = file->format ? file->format : format;
            return;
        }
    }
    file = g_new0(CkptSnapshotFile, 1);
    file->target = g_strdup(target);
    file->path = g_strdup(path);
    file->format = format;
    g_ptr_array_add(files, file);
}

CkptVm *
ckpt_vm_new(void)
{
    CkptVm *vm = g_new0(CkptVm, 1);

    vm->disks = g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_disk_free);
    vm->not_captured = g_ptr_array_new_with_free_func(g_free);
    vm->obstacles = g_ptr_array_new_with_free_func((GDestroyNotify)obstacle_free);
    vm->users = g_ptr_array_new_with_free_func((GDestroyNotify)file_user_free);
    vm->unreadable = g_ptr_array_new_with_free_func((GDestroyNotify)file_user_free);
    vm->files =
        g_hash_table_new_full(g_str_hash, g_str_equal, g_free, (GDestroyNotify)ckpt_layer_free);
    vm->mechanism = CKPT_MECHANISM_OVERLAY;
    vm->snapshots = g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_snapshot_free);
    vm->foreign = g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_snapshot_free);
    return vm;
}

/* Definitions hold passwords: not left behind in freed memory. */
static void
free_secret(char *text)
{
    if (text)
        explicit_bzero(text, strlen(text));
    g_free(text);
}

void
ckpt_vm_free(CkptVm *vm)
{
    if (!vm)
        return;
    g_free(vm->id);
    g_free(vm->name);
    free_secret(vm->definition);
    free_secret(vm->live_definition);
    g_free(vm->qemu_version);
    /* Before files, which own the layers that the disks' chains borrow. */
    g_clear_pointer(&vm->disks, g_ptr_array_unref);
    g_free(vm->nvram);
    g_clear_pointer(&vm->not_captured, g_ptr_array_unref);
    g_clear_pointer(&vm->obstacles, g_ptr_array_unref);
    g_clear_pointer(&vm->users, g_ptr_array_unref);
    g_clear_pointer(&vm->unreadable, g_ptr_array_unref);
    g_clear_pointer(&vm->snapshots, g_ptr_array_unref);
    g_clear_pointer(&vm->foreign, g_ptr_array_unref);
    g_clear_pointer(&vm->files, g_hash_table_unref);
    g_free(vm->checkpoint.reason);
    g_free(vm->live.reason);
    g_free(vm->memory.reason);
    g_free(vm->application.reason);
    g_free(vm);
}

CkptDisk *
ckpt_vm_find_disk(const CkptVm *vm, const char *target)
{
    for (guint i = 0; i < vm->disks->len; i++) {
        CkptDisk *disk = vm->disks->pdata[i];

        if (g_strcmp0(disk->target, target) == 0)
            return disk;
    }
    return NULL;
}

CkptSnapshot *
ckpt_vm_find_snapshot(const CkptVm *vm, const char *name)
{
    for (guint i = 0; name && i < vm->snapshots->len; i++) {
        CkptSnapshot *snapshot = vm->snapshots->pdata[i];

        if (g_str_equal(snapshot->name, name))
            return snapshot;
    }
    return NULL;
}

CkptLayer *
ckpt_vm_find_file(const CkptVm *vm, const char *path)
{
    return path ? g_hash_table_lookup(vm->files, path) : NULL;
}

void
ckpt_vm_add_file(CkptVm *vm, CkptLayer *layer)
{
    g_hash_table_replace(vm->files, g_strdup(layer->path), layer);
}

void
ckpt_vm_add_obstacle(CkptVm *vm, CkptReason reason, const char *disk, const char *file,
                     const char *format, ...)
{
    CkptObstacle *obstacle = g_new0(CkptObstacle, 1);
    va_list args;

    va_start(args, format);
    obstacle->message = g_strdup_vprintf(format, args);
    va_end(args);
    obstacle->reason = reason;
    obstacle->disk = g_strdup(disk);
    obstacle->file = g_strdup(file);
    g_ptr_array_add(vm->obstacles, obstacle);
}

static void
add_file_user(GPtrArray *users, const char *file, gboolean is_top, const char *user)
{
    CkptFileUser *entry = g_new0(CkptFileUser, 1);

    entry->file = g_strdup(file);
    entry->user = g_strdup(user);
    entry->is_top = is_top;
    g_ptr_array_add(users, entry);
}

void
ckpt_vm_add_user(CkptVm *vm, const char *file, gboolean is_top, const char *user)
{
    add_file_user(vm->users, file, is_top, user);
}

void
ckpt_vm_add_unreadable(CkptVm *vm, const char *file, const char *user)
{
    add_file_user(vm->unreadable, file, FALSE, user);
}

void
ckpt_unreadable_error(GError **error, const char *file, const char *user)
{
    gboolean hidden = g_str_has_prefix(file, "/tmp/") || g_str_has_prefix(file, "/var/tmp/") ||
                      g_str_has_prefix(file, "/dev/");

    ckpt_error_set(error, CKPT_REASON_DISK_FILE_MISSING,
                   "%s may lie on the files of this VM, and would be ruined then: %s is missing%s or cannot be "
                   "read, so that nobody can tell: put it back, or take it out of what names it (virsh "
                   "detach-disk --config, virsh snapshot-delete)",
                   user, file, hidden ? ", hidden from the agent (PrivateTmp, PrivateDevices of its unit)," : "");
    ckpt_error_add(error, CKPT_META_FILE, file);
}

void
ckpt_vm_summary_free(CkptVmSummary *summary)
{
    if (!summary)
        return;
    g_free(summary->id);
    g_free(summary->name);
    g_free(summary);
}

void
ckpt_host_info_free(CkptHostInfo *info)
{
    if (!info)
        return;
    g_free(info->host_id);
    g_free(info->host_name);
    g_free(info->uri);
    g_free(info->libvirt_version);
    g_free(info->qemu_version);
    g_free(info);
}
