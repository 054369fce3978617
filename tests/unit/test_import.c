/* Manifests read back: what is believed, what is refused, and what becomes of a tree with holes. The files are
 * real, the hypervisor knows no VM. */
#include "agent/core/import.h"
#include "agent/hypervisor/image.h"
#include "agent/hypervisor/qemu.h"
#include "agent/model/json.h"
#include "cmocka_all.h"

#include <glib/gstdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define VM "11111111-1111-4111-8111-111111111111"
#define HOST_A "aaaaaaaa-0000-4000-8000-000000000001"
#define HOST_B "bbbbbbbb-0000-4000-8000-000000000002"
#define ONE "0a0a0a0a-0000-4000-8000-000000000001"
#define TWO "0b0b0b0b-0000-4000-8000-000000000002"

typedef struct {
    CkptDriver driver;
    char *folder;
    GPtrArray *notes;
    GPtrArray *imports;
} Fixture;

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

static int
setup(void **state)
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

static int
teardown(void **state)
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

static char *
path_of(const Fixture *fixture, const char *name)
{
    return g_build_filename(fixture->folder, name, NULL);
}

/* A raw file of 64 KiB that the checkpoint sealed. */
static void
add_disk(Fixture *fixture, CkptCheckpoint *row, const char *target, const char *name)
{
    CkptCheckpointDisk *disk = g_new0(CkptCheckpointDisk, 1);
    g_autofree char *contents = g_malloc0(65536);
    struct stat found;

    disk->target = g_strdup(target);
    disk->sealed_file = path_of(fixture, name);
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

static CkptCheckpoint *
row_new(const char *id, const char *parent, gint64 added)
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

static void
write_beside(const char *file, const CkptCheckpoint *row, const char *host, guint64 epoch)
{
    CkptHostInfo owner = {.host_id = (char *)host, .host_name = (char *)"host, \"row\":"};
    g_autofree char *text = ckpt_manifest_text(row, &owner, epoch);
    g_autofree char *path = g_strconcat(file, CKPT_MANIFEST_ENDING, NULL);

    assert_true(g_file_set_contents(path, text, -1, NULL));
    assert_int_equal(chmod(path, 0600), 0);
}

static void
write_all(const CkptCheckpoint *row, const char *host, guint64 epoch)
{
    for (guint i = 0; i < row->disks->len; i++)
        write_beside(((CkptCheckpointDisk *)row->disks->pdata[i])->sealed_file, row, host, epoch);
}

/* NULL: nothing was found. */
static CkptImport *
read_back(Fixture *fixture)
{
    const char *const folders[] = {fixture->folder, "/nonexistent", NULL};

    g_ptr_array_set_size(fixture->notes, 0);
    g_clear_pointer(&fixture->imports, g_ptr_array_unref);
    fixture->imports = ckpt_import_read(&fixture->driver, folders, NULL, fixture->notes, NULL);
    assert_non_null(fixture->imports);
    return fixture->imports->len ? fixture->imports->pdata[0] : NULL;
}

static const CkptCheckpoint *
row_at(const CkptImport *import, guint i)
{
    return import->checkpoints->pdata[i];
}

static void
assert_note(GPtrArray *notes, const char *part)
{
    for (guint i = 0; i < notes->len; i++)
        if (strstr(notes->pdata[i], part))
            return;
    fail_msg("no note says \"%s\" (%u notes, first: %s)", part, notes->len,
             notes->len ? (char *)notes->pdata[0] : "none");
}

/* ---- Tests ---- */

static void
tree_comes_back_parents_first(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(CkptCheckpoint) two = row_new(TWO, ONE, 1000);
    g_autoptr(CkptCheckpoint) one = row_new(ONE, NULL, 2000);
    CkptImport *import;

    add_disk(fixture, one, "vda", "web.img");
    add_disk(fixture, one, "vdb", "data.img");
    add_disk(fixture, two, "vda", "web.ckpt-0a0a0a0a.qcow2");
    write_all(one, HOST_A, 1);
    write_all(two, HOST_A, 3);
    import = read_back(fixture);
    assert_int_equal(import->checkpoints->len, 2);
    assert_string_equal(row_at(import, 0)->id, ONE);
    assert_string_equal(row_at(import, 1)->id, TWO);
    assert_string_equal(row_at(import, 1)->parent_id, ONE);
    assert_int_equal(row_at(import, 1)->epoch, 3);
    assert_string_equal(((CkptManifest *)import->manifests->pdata[1])->agent, HOST_A);
    assert_int_equal(import->made->len, 1);
    assert_true(g_str_has_suffix(import->made->pdata[0], "web.ckpt-0a0a0a0a.qcow2"));
    assert_false(import->deployed);
    assert_int_equal(import->notes->len, 0);
    assert_int_equal(fixture->notes->len, 0);
}

static void
greater_epoch_holds(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(CkptCheckpoint) old = row_new(ONE, NULL, 5000);
    g_autoptr(CkptCheckpoint) new = NULL;
    CkptImport *import;

    add_disk(fixture, old, "vda", "web.img");
    add_disk(fixture, old, "vdb", "data.img");
    write_all(old, HOST_A, 1);
    new = ckpt_checkpoint_copy(old);
    new->modified_us = 10;
    write_beside(((CkptCheckpointDisk *)new->disks->pdata[0])->sealed_file, new, HOST_B, 2);
    import = read_back(fixture);
    assert_int_equal(import->checkpoints->len, 1);
    assert_string_equal(((CkptManifest *)import->manifests->pdata[0])->agent, HOST_B);
    assert_int_equal(row_at(import, 0)->epoch, 2);
    /* Nobody but a forger writes the same epoch for two. */
    write_beside(((CkptCheckpointDisk *)new->disks->pdata[1])->sealed_file, old, HOST_A, 2);
    import = read_back(fixture);
    assert_int_equal(import->checkpoints->len, 0);
    assert_note(import->notes, "two agents claim it");
}

static void
half_a_checkpoint_is_left_out(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(CkptCheckpoint) one = row_new(ONE, NULL, 1000);
    g_autoptr(CkptCheckpoint) two = row_new(TWO, ONE, 2000);
    CkptImport *import;

    add_disk(fixture, one, "vda", "web.img");
    add_disk(fixture, one, "vdb", "data.img");
    add_disk(fixture, two, "vda", "web.ckpt-0a0a0a0a.qcow2");
    write_beside(((CkptCheckpointDisk *)one->disks->pdata[0])->sealed_file, one, HOST_A, 1);
    write_all(two, HOST_A, 1);
    import = read_back(fixture);
    assert_int_equal(import->checkpoints->len, 1);
    assert_note(import->notes, "data.img: left out");
    assert_note(import->notes, "it is a root");
    assert_null(row_at(import, 0)->parent_id);
    /* Its making was cut short: what was sealed is not known. */
    ((CkptCheckpointDisk *)one->disks->pdata[0])->id = (CkptFileId){0};
    write_all(one, HOST_A, 1);
    import = read_back(fixture);
    assert_int_equal(import->checkpoints->len, 1);
    assert_note(import->notes, "not finished");
}

static void
changed_file_is_not_taken_for_the_sealed_one(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(CkptCheckpoint) one = row_new(ONE, NULL, 1000);
    CkptCheckpointDisk *disk;
    CkptImport *import;

    add_disk(fixture, one, "vda", "web.img");
    disk = one->disks->pdata[0];
    disk->id.inode += 1; /* of another host: taken as it is here */
    disk->id.device += 1;
    write_all(one, HOST_A, 1);
    import = read_back(fixture);
    assert_int_equal(((CkptCheckpointDisk *)row_at(import, 0)->disks->pdata[0])->id.inode,
                     disk->id.inode - 1);
    assert_int_equal(import->notes->len, 0);
    assert_null(row_at(import, 0)->disabled_reason);
    disk->id.mtime_ns += 1;
    write_all(one, HOST_A, 1);
    import = read_back(fixture);
    assert_int_equal(((CkptCheckpointDisk *)row_at(import, 0)->disks->pdata[0])->id.inode,
                     disk->id.inode);
    assert_note(import->notes, "changed after it was sealed");
    assert_non_null(strstr(row_at(import, 0)->disabled_reason, "changed after it was sealed"));
}

static void
what_others_may_have_written_is_refused(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(CkptCheckpoint) one = row_new(ONE, NULL, 1000);
    g_autofree char *file = path_of(fixture, "web.img");
    g_autofree char *path = g_strconcat(file, CKPT_MANIFEST_ENDING, NULL);
    g_autofree char *elsewhere = path_of(fixture, "elsewhere");
    g_autofree char *copy = path_of(fixture, "copy.img" CKPT_MANIFEST_ENDING);
    g_autofree char *text = NULL;

    add_disk(fixture, one, "vda", "web.img");
    write_all(one, HOST_A, 1);
    assert_non_null(read_back(fixture));
    assert_int_equal(chmod(path, 0620), 0);
    assert_null(read_back(fixture));
    assert_note(fixture->notes, "others than its owner may write");
    assert_int_equal(chmod(path, 0600), 0);
    if (geteuid() == 0) {
        assert_int_equal(chown(path, 65534, 65534), 0);
        assert_null(read_back(fixture));
        assert_note(fixture->notes, "belongs to uid 65534");
        assert_null(ckpt_manifest_head_beside(file));
        assert_int_equal(chown(path, 0, 0), 0);
    }
    assert_int_equal(g_rename(path, elsewhere), 0);
    assert_int_equal(symlink(elsewhere, path), 0);
    assert_null(read_back(fixture));
    assert_note(fixture->notes, "cannot be opened");
    /* Copied beside another file. */
    assert_true(g_file_get_contents(elsewhere, &text, NULL, NULL));
    assert_true(g_file_set_contents(copy, text, -1, NULL));
    assert_int_equal(chmod(copy, 0600), 0);
    assert_null(read_back(fixture));
    assert_note(fixture->notes, "mounted elsewhere");
    assert_int_equal(truncate(copy, CKPT_MANIFEST_MAX + 1), 0);
    assert_null(read_back(fixture));
    assert_note(fixture->notes, "bytes");
}

typedef void (*Spoil)(CkptCheckpoint *row);

static void
spoil_parent(CkptCheckpoint *row)
{
    ckpt_set_str(&row->parent_id, "../etc");
}

static void
spoil_path(CkptCheckpoint *row)
{
    CkptCheckpointDisk *disk = ckpt_checkpoint_disk_copy(row->disks->pdata[0]);

    ckpt_set_str(&disk->target, "vdb");
    ckpt_set_str(&disk->sealed_file, "/images/../etc/shadow");
    g_ptr_array_add(row->disks, disk);
}

static void
spoil_made(CkptCheckpoint *row)
{
    ((CkptCheckpointDisk *)row->disks->pdata[0])->agent_made = TRUE;
}

static void
spoil_definition(CkptCheckpoint *row)
{
    ckpt_set_str(&row->definition, "<domain><uuid>" ONE "</uuid></domain>");
}

static void
spoil_extra(CkptCheckpoint *row)
{
    CkptCheckpointFile *extra = g_new0(CkptCheckpointFile, 1);

    extra->kind = CKPT_FILE_MEMORY;
    extra->path = g_strdup("/etc/passwd");
    g_ptr_array_add(row->extras, extra);
}

/* Of another checkpoint, perhaps of another VM: it would be removed with this one. */
static void
spoil_with_anothers_extra(CkptCheckpoint *row)
{
    CkptCheckpointFile *extra = g_new0(CkptCheckpointFile, 1);

    extra->kind = CKPT_FILE_MEMORY;
    extra->path = g_strdup("/images/db.ckpt-0b0b0b0b.memory");
    g_ptr_array_add(row->extras, extra);
}

/* No reply would have room for it. */
static void
spoil_description(CkptCheckpoint *row)
{
    g_free(row->description);
    row->description = g_strnfill(200000, 'x');
}

static void
spoil_state(CkptCheckpoint *row)
{
    row->state = CKPT_STATE_DELETING;
}

static void
what_makes_no_sense_is_refused(void **state)
{
    Fixture *fixture = *state;
    const Spoil spoils[] = {spoil_parent, spoil_path,  spoil_made,
                            spoil_definition, spoil_extra, spoil_with_anothers_extra,
                            spoil_description, spoil_state};

    for (guint i = 0; i < G_N_ELEMENTS(spoils); i++) {
        g_autoptr(CkptCheckpoint) one = row_new(ONE, NULL, 1000);
        g_autofree char *file = path_of(fixture, "web.img");

        add_disk(fixture, one, "vda", "web.img");
        spoils[i](one);
        write_beside(file, one, HOST_A, 1);
        if (read_back(fixture))
            fail_msg("spoiled row %u was taken", i);
        assert_int_equal(fixture->notes->len, 1);
    }
}

/* Any byte changed, any length: refused or understood, and never a crash. */
static void
no_damage_crashes_the_reader(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(CkptCheckpoint) one = row_new(ONE, NULL, 1000);
    CkptHostInfo owner = {.host_id = (char *)HOST_A, .host_name = (char *)"a"};
    g_autofree char *file = path_of(fixture, "web.img");
    g_autofree char *text = NULL;
    gsize length;

    add_disk(fixture, one, "vda", "web.img");
    text = ckpt_manifest_text(one, &owner, 1);
    length = strlen(text);
    for (gsize i = 0; i < length; i++) {
        g_autofree char *damaged = g_strdup(text);
        g_autofree char *cut = g_strndup(text, i);
        CkptManifest *manifest;

        damaged[i] ^= 1;
        manifest = ckpt_manifest_parse(damaged, file, NULL);
        ckpt_manifest_free(manifest);
        ckpt_manifest_free(ckpt_manifest_parse_head(damaged, file));
        if (i + 1 < length) {
            manifest = ckpt_manifest_parse(cut, file, NULL);
            assert_null(manifest);
        }
        ckpt_manifest_free(ckpt_manifest_parse_head(cut, file));
    }
}

static void
head_tells_owner_and_epoch(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(CkptCheckpoint) one = row_new(ONE, NULL, 1000);
    g_autofree char *file = path_of(fixture, "web.img");
    g_autofree char *long_one = g_strnfill(5000, 'x');
    g_autoptr(CkptManifest) head = NULL;

    add_disk(fixture, one, "vda", "web.img");
    ckpt_set_str(&one->description, long_one);
    write_all(one, HOST_B, 7);
    head = ckpt_manifest_head_beside(file);
    assert_non_null(head);
    assert_string_equal(head->agent, HOST_B);
    assert_string_equal(head->domain, VM);
    assert_string_equal(head->checkpoint_id, ONE);
    assert_int_equal(head->epoch, 7);
    assert_null(head->row);
}

/* ---- Whose the files are ---- */

static CkptStep *
touching(const char *file)
{
    CkptStep *step = ckpt_step_new(CKPT_STEP_UNSEAL);

    ckpt_set_str(&step->file, file);
    return step;
}

static CkptReason
touch(const char *file, const char *host, const char *vm)
{
    g_autoptr(CkptPlan) plan = ckpt_plan_new(CKPT_KIND_DELETE);
    CkptStep *step = touching(file);
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptOwnership) held = NULL;

    ckpt_set_str(&plan->vm_id, vm);
    held = ckpt_ownership_hold(&options, host, plan, step, &error);
    ckpt_step_free(step);
    assert_true((held == NULL) == (error != NULL));
    return error ? ckpt_error_reason(error) : (CkptReason)0;
}

static void
another_agents_files_are_not_touched(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(CkptCheckpoint) one = row_new(ONE, NULL, 1000);
    g_autofree char *file = path_of(fixture, "web.img");
    g_autofree char *overlay = path_of(fixture, "web.ckpt-0b0b0b0b.qcow2");
    g_autofree char *clone = path_of(fixture, "clone.qcow2");
    g_autofree char *command =
        g_strdup_printf("for i in '%s' '%s'; do qemu-img create -q -f qcow2 -F raw -b '%s' \"$i\"; done",
                        overlay, clone, file);

    add_disk(fixture, one, "vda", "web.img");
    assert_int_equal(system(command), 0);
    assert_int_equal(touch(file, HOST_A, VM), 0);
    write_all(one, HOST_A, 1);
    assert_int_equal(touch(file, HOST_A, VM), 0);
    assert_int_equal(touch(overlay, HOST_A, VM), 0);
    assert_int_equal(touch(file, HOST_B, VM), CKPT_REASON_VM_MOVED);
    /* What lies on it neither, as far as agents made it; a clone of another VM's is none of theirs. */
    assert_int_equal(touch(overlay, HOST_B, VM), CKPT_REASON_VM_MOVED);
    assert_int_equal(touch(clone, HOST_B, VM), 0);
    assert_int_equal(touch(file, HOST_B, TWO), 0);
}

static void
nobody_takes_over_in_the_middle_of_a_step(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(CkptCheckpoint) one = row_new(ONE, NULL, 1000);
    g_autoptr(CkptPlan) plan = ckpt_plan_new(CKPT_KIND_DELETE);
    g_autofree char *file = path_of(fixture, "web.img");
    CkptHostInfo owner = {.host_id = (char *)HOST_B, .host_name = (char *)"b"};
    g_autofree char *text = NULL;
    g_autoptr(GError) error = NULL;
    CkptStep *step = touching(file);
    CkptOwnership *held;

    ckpt_set_str(&plan->vm_id, VM);
    add_disk(fixture, one, "vda", "web.img");
    write_all(one, HOST_A, 1);
    text = ckpt_manifest_text(one, &owner, 2);
    held = ckpt_ownership_hold(&options, HOST_A, plan, step, &error);
    assert_non_null(held);
    assert_false(ckpt_manifest_take_over(&options, file, text, HOST_A, 1, &error));
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_VM_BUSY);
    g_clear_error(&error);
    ckpt_ownership_free(held);
    assert_true(ckpt_manifest_take_over(&options, file, text, HOST_A, 1, &error));
    assert_int_equal(touch(file, HOST_A, VM), CKPT_REASON_VM_MOVED);
    assert_int_equal(touch(file, HOST_B, VM), 0);
    /* Whoever comes second has read what is no longer so. */
    assert_false(ckpt_manifest_take_over(&options, file, text, HOST_A, 1, &error));
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_VM_MOVED);
    ckpt_step_free(step);
}

/* Written by an agent of a later version, by one whose user is another here, or by nobody knows whom: it may say
 * that the files are another's. */
static void
what_cannot_be_read_is_not_touched(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(CkptCheckpoint) one = row_new(ONE, NULL, 1000);
    g_autofree char *file = path_of(fixture, "web.img");
    g_autofree char *path = g_strconcat(file, CKPT_MANIFEST_ENDING, NULL);
    g_autofree char *text = NULL, *later = NULL;
    char *format;

    add_disk(fixture, one, "vda", "web.img");
    write_all(one, HOST_A, 1);
    assert_int_equal(touch(file, HOST_A, VM), 0);
    assert_true(g_file_get_contents(path, &text, NULL, NULL));
    later = g_strdup(text);
    format = strstr(later, "\"format\":2");
    assert_non_null(format);
    format[strlen("\"format\":")] = '3';
    assert_true(g_file_set_contents(path, later, -1, NULL));
    assert_int_equal(chmod(path, 0600), 0);
    assert_int_equal(touch(file, HOST_A, VM), CKPT_REASON_FILE_FAILED);
    assert_true(g_file_set_contents(path, text, -1, NULL));
    assert_int_equal(chmod(path, 0666), 0);
    assert_int_equal(touch(file, HOST_A, VM), CKPT_REASON_FILE_FAILED);
    if (geteuid() == 0) {
        assert_int_equal(chmod(path, 0600), 0);
        assert_int_equal(chown(path, 4242, 4242), 0);
        assert_int_equal(touch(file, HOST_A, VM), CKPT_REASON_FILE_FAILED);
    }
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(touch(file, HOST_A, VM), CKPT_REASON_FILE_FAILED);
    assert_int_equal(unlink(path), 0);
    assert_true(g_file_set_contents(path, "{\"vmcheckpoint_manifest\":1,\"checkpoint\":{}}\n", -1, NULL));
    assert_int_equal(chmod(path, 0600), 0);
    assert_int_equal(touch(file, HOST_A, VM), 0); /* of our own first version */
}

/* Any that this machine has: none is opened. */
static const char *
find_block_device(void)
{
    static const char *const devices[] = {"/dev/loop0", "/dev/vda", "/dev/sda", "/dev/nvme0n1", "/dev/ram0"};

    for (guint i = 0; i < G_N_ELEMENTS(devices); i++)
        if (ckpt_is_block(devices[i]))
            return devices[i];
    return NULL;
}

/* Beside a device nothing can lie: its manifest is in the folder for its overlays, and says whose it is there. */
static void
a_block_devices_manifest_is_found_in_its_folder(void **state)
{
    Fixture *fixture = *state;
    const char *device = find_block_device();
    const CkptQemuOptions blocks = {.block_overlay_folder = fixture->folder};
    const char *const folders[] = {fixture->folder, NULL};
    g_autoptr(CkptCheckpoint) one = row_new(ONE, NULL, 1000);
    CkptHostInfo host_b = {.host_id = (char *)HOST_B, .host_name = (char *)"b"};
    CkptHostInfo host_a = {.host_id = (char *)HOST_A, .host_name = (char *)"a"};
    g_autofree char *path = NULL, *text = NULL, *taken = NULL;
    g_autoptr(CkptFoundFiles) found = NULL;
    g_autoptr(CkptManifest) head = NULL;
    g_autoptr(CkptPlan) plan = ckpt_plan_new(CKPT_KIND_DELETE);
    g_autoptr(GError) error = NULL;
    CkptStep *step;

    if (!device)
        skip();
    add_disk(fixture, one, "vda", "web.img");
    ckpt_set_str(&((CkptCheckpointDisk *)one->disks->pdata[0])->sealed_file, device);
    path = ckpt_block_beside(&blocks, device, CKPT_MANIFEST_ENDING);
    text = ckpt_manifest_text(one, &host_a, 1);
    taken = ckpt_manifest_text(one, &host_b, 2);
    assert_true(g_file_set_contents(path, text, -1, NULL));
    assert_int_equal(chmod(path, 0600), 0);

    found = ckpt_manifests_find(&blocks, folders, NULL);
    assert_int_equal(found->manifests->len, 1);
    assert_string_equal(((CkptManifest *)found->manifests->pdata[0])->path, device);
    head = ckpt_manifest_head_of(&blocks, device);
    assert_non_null(head);
    assert_string_equal(head->agent, HOST_A);

    ckpt_set_str(&plan->vm_id, VM);
    step = touching(device);
    assert_true(ckpt_manifest_take_over(&blocks, device, taken, HOST_A, 1, NULL));
    assert_null(ckpt_ownership_hold(&blocks, HOST_A, plan, step, &error));
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_VM_MOVED);
    ckpt_step_free(step);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(tree_comes_back_parents_first, setup, teardown),
        cmocka_unit_test_setup_teardown(greater_epoch_holds, setup, teardown),
        cmocka_unit_test_setup_teardown(half_a_checkpoint_is_left_out, setup, teardown),
        cmocka_unit_test_setup_teardown(changed_file_is_not_taken_for_the_sealed_one, setup, teardown),
        cmocka_unit_test_setup_teardown(what_others_may_have_written_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(what_makes_no_sense_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(no_damage_crashes_the_reader, setup, teardown),
        cmocka_unit_test_setup_teardown(head_tells_owner_and_epoch, setup, teardown),
        cmocka_unit_test_setup_teardown(another_agents_files_are_not_touched, setup, teardown),
        cmocka_unit_test_setup_teardown(nobody_takes_over_in_the_middle_of_a_step, setup, teardown),
        cmocka_unit_test_setup_teardown(what_cannot_be_read_is_not_touched, setup, teardown),
        cmocka_unit_test_setup_teardown(a_block_devices_manifest_is_found_in_its_folder, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
