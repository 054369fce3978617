#include "manifest_fixture.h"

#include "agent/hypervisor/image.h"

#include <sys/stat.h>

static const CkptQemuOptions options;

static CkptFoundFiles *
find_manifests(CkptDriver *driver, const char *const *folders, GError **error)
{
    return ckpt_manifests_find(&options, folders, error);
}

static CkptVm *
inspect(CkptDriver *driver, const char *vm_id, const CkptKnownFile *files, GError **error)
{
    ckpt_error_set(error, CKPT_REASON_VM_NOT_FOUND, "there is none");
    return NULL;
}

static CkptVm *
inspect_files(CkptDriver *driver, const char *vm_id, const CkptKnownFile *files, GError **error)
{
    CkptVm *vm = ckpt_vm_new();

    ckpt_set_str(&vm->id, vm_id);
    ckpt_inspect_files(vm, files);
    return vm;
}

int
manifest_setup(void **state)
{
    Fixture *fixture = g_new0(Fixture, 1);

    fixture->driver.find_manifests = find_manifests;
    fixture->driver.inspect = inspect;
    fixture->driver.inspect_files = inspect_files;
    fixture->folder = g_dir_make_tmp("ckpt-import-XXXXXX", NULL);
    fixture->notes = g_ptr_array_new_with_free_func(g_free);
    *state = fixture;
    return 0;
}

int
manifest_teardown(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *command = g_strdup_printf("rm -rf '%s'", fixture->folder);

    g_clear_pointer(&fixture->imports, g_ptr_array_unref);
    g_ptr_array_unref(fixture->notes);
    assert_int_equal(system(command), 0);
    g_free(fixture->folder);
    g_free(fixture);
    return 0;
}

char *
manifest_path_of(const Fixture *fixture, const char *name)
{
    return g_build_filename(fixture->folder, name, NULL);
}

void
manifest_add_disk(Fixture *fixture, CkptCheckpoint *row, const char *target, const char *name)
{
    CkptCheckpointDisk *disk = g_new0(CkptCheckpointDisk, 1);
    g_autofree char *contents = g_malloc0(65536);
    struct stat found;

    disk->target = g_strdup(target);
    disk->sealed_file = manifest_path_of(fixture, name);
    disk->format = CKPT_FORMAT_RAW;
    disk->mode_before = 0600;
    disk->agent_made = ckpt_manifest_is_overlay_name(name);
    assert_true(g_file_set_contents(disk->sealed_file, contents, 65536, NULL));
    assert_int_equal(stat(disk->sealed_file, &found), 0);
    disk->id = (CkptFileId){found.st_dev, found.st_ino, (guint64)found.st_size,
                            found.st_mtim.tv_sec * G_GINT64_CONSTANT(1000000000) + found.st_mtim.tv_nsec};
    disk->virtual_size = 65536;
    g_ptr_array_add(row->disks, disk);
}

CkptCheckpoint *
manifest_row_new(const char *id, const char *parent, gint64 added)
{
    CkptCheckpoint *row = ckpt_checkpoint_new();

    ckpt_set_str(&row->id, id);
    ckpt_set_str(&row->vm_id, VM);
    ckpt_set_str(&row->vm_name, "web");
    ckpt_set_str(&row->parent_id, parent);
    ckpt_set_str(&row->name, id);
    ckpt_set_str(&row->definition, "<domain><name>web</name><uuid>" VM "</uuid></domain>");
    row->accessibility = CKPT_ACCESSIBILITY_PUBLIC;
    row->asked = row->reached = CKPT_CONSISTENCY_CRASH;
    row->mechanism = CKPT_MECHANISM_OVERLAY;
    row->state = CKPT_STATE_READY;
    row->added_us = row->modified_us = added;
    return row;
}

void
manifest_write_beside(const char *file, const CkptCheckpoint *row, const char *host, guint64 epoch)
{
    CkptHostInfo owner = {.host_id = (char *)host, .host_name = (char *)"host, \"row\":"};
    g_autofree char *text = ckpt_manifest_text(row, &owner, epoch);
    g_autofree char *path = g_strconcat(file, CKPT_MANIFEST_ENDING, NULL);

    assert_true(g_file_set_contents(path, text, -1, NULL));
    assert_int_equal(chmod(path, 0600), 0);
}

void
manifest_write_all(const CkptCheckpoint *row, const char *host, guint64 epoch)
{
    for (guint i = 0; i < row->disks->len; i++)
        manifest_write_beside(((CkptCheckpointDisk *)row->disks->pdata[i])->sealed_file, row, host,
                              epoch);
}
