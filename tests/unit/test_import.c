/* Manifests read back: what is believed, what is refused, and what becomes of a tree with holes. The files are
 * real, the hypervisor knows no VM. */
#include "manifest_fixture.h"

#include "agent/core/import.h"
#include "agent/hypervisor/image.h"
#include "agent/model/json.h"

#include <glib/gstdio.h>
#include <sys/stat.h>
#include <unistd.h>

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

static void
tree_comes_back_parents_first(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(CkptCheckpoint) two = manifest_row_new(TWO, ONE, 1000);
    g_autoptr(CkptCheckpoint) one = manifest_row_new(ONE, NULL, 2000);
    CkptImport *import;

    manifest_add_disk(fixture, one, "vda", "web.img");
    manifest_add_disk(fixture, one, "vdb", "data.img");
    manifest_add_disk(fixture, two, "vda", "web.ckpt-0a0a0a0a.qcow2");
    manifest_write_all(one, HOST_A, 1);
    manifest_write_all(two, HOST_A, 3);
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
    g_autoptr(CkptCheckpoint) old = manifest_row_new(ONE, NULL, 5000);
    g_autoptr(CkptCheckpoint) new = NULL;
    CkptImport *import;

    manifest_add_disk(fixture, old, "vda", "web.img");
    manifest_add_disk(fixture, old, "vdb", "data.img");
    manifest_write_all(old, HOST_A, 1);
    new = ckpt_checkpoint_copy(old);
    new->modified_us = 10;
    manifest_write_beside(((CkptCheckpointDisk *)new->disks->pdata[0])->sealed_file, new, HOST_B,
                          2);
    import = read_back(fixture);
    assert_int_equal(import->checkpoints->len, 1);
    assert_string_equal(((CkptManifest *)import->manifests->pdata[0])->agent, HOST_B);
    assert_int_equal(row_at(import, 0)->epoch, 2);
    /* Nobody but a forger writes the same epoch for two. */
    manifest_write_beside(((CkptCheckpointDisk *)new->disks->pdata[1])->sealed_file, old, HOST_A,
                          2);
    import = read_back(fixture);
    assert_int_equal(import->checkpoints->len, 0);
    assert_note(import->notes, "two agents claim it");
}

static void
half_a_checkpoint_is_left_out(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(CkptCheckpoint) one = manifest_row_new(ONE, NULL, 1000);
    g_autoptr(CkptCheckpoint) two = manifest_row_new(TWO, ONE, 2000);
    CkptImport *import;

    manifest_add_disk(fixture, one, "vda", "web.img");
    manifest_add_disk(fixture, one, "vdb", "data.img");
    manifest_add_disk(fixture, two, "vda", "web.ckpt-0a0a0a0a.qcow2");
    manifest_write_beside(((CkptCheckpointDisk *)one->disks->pdata[0])->sealed_file, one, HOST_A,
                          1);
    manifest_write_all(two, HOST_A, 1);
    import = read_back(fixture);
    assert_int_equal(import->checkpoints->len, 1);
    assert_note(import->notes, "data.img: left out");
    assert_note(import->notes, "it is a root");
    assert_null(row_at(import, 0)->parent_id);
    /* Its making was cut short: what was sealed is not known. */
    ((CkptCheckpointDisk *)one->disks->pdata[0])->id = (CkptFileId){0};
    manifest_write_all(one, HOST_A, 1);
    import = read_back(fixture);
    assert_int_equal(import->checkpoints->len, 1);
    assert_note(import->notes, "not finished");
}

static void
changed_file_is_not_taken_for_the_sealed_one(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(CkptCheckpoint) one = manifest_row_new(ONE, NULL, 1000);
    CkptCheckpointDisk *disk;
    CkptImport *import;

    manifest_add_disk(fixture, one, "vda", "web.img");
    disk = one->disks->pdata[0];
    disk->id.inode += 1; /* of another host: taken as it is here */
    disk->id.device += 1;
    manifest_write_all(one, HOST_A, 1);
    import = read_back(fixture);
    assert_int_equal(((CkptCheckpointDisk *)row_at(import, 0)->disks->pdata[0])->id.inode,
                     disk->id.inode - 1);
    assert_int_equal(import->notes->len, 0);
    assert_null(row_at(import, 0)->disabled_reason);
    disk->id.mtime_ns += 1;
    manifest_write_all(one, HOST_A, 1);
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
    g_autoptr(CkptCheckpoint) one = manifest_row_new(ONE, NULL, 1000);
    g_autofree char *file = manifest_path_of(fixture, "web.img");
    g_autofree char *path = g_strconcat(file, CKPT_MANIFEST_ENDING, NULL);
    g_autofree char *elsewhere = manifest_path_of(fixture, "elsewhere");
    g_autofree char *copy = manifest_path_of(fixture, "copy.img" CKPT_MANIFEST_ENDING);
    g_autofree char *text = NULL;

    manifest_add_disk(fixture, one, "vda", "web.img");
    manifest_write_all(one, HOST_A, 1);
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
        g_autoptr(CkptCheckpoint) one = manifest_row_new(ONE, NULL, 1000);
        g_autofree char *file = manifest_path_of(fixture, "web.img");

        manifest_add_disk(fixture, one, "vda", "web.img");
        spoils[i](one);
        manifest_write_beside(file, one, HOST_A, 1);
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
    g_autoptr(CkptCheckpoint) one = manifest_row_new(ONE, NULL, 1000);
    CkptHostInfo owner = {.host_id = (char *)HOST_A, .host_name = (char *)"a"};
    g_autofree char *file = manifest_path_of(fixture, "web.img");
    g_autofree char *text = NULL;
    gsize length;

    manifest_add_disk(fixture, one, "vda", "web.img");
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
    g_autoptr(CkptCheckpoint) one = manifest_row_new(ONE, NULL, 1000);
    g_autofree char *file = manifest_path_of(fixture, "web.img");
    g_autofree char *long_one = g_strnfill(5000, 'x');
    g_autoptr(CkptManifest) head = NULL;

    manifest_add_disk(fixture, one, "vda", "web.img");
    ckpt_set_str(&one->description, long_one);
    manifest_write_all(one, HOST_B, 7);
    head = ckpt_manifest_head_beside(file);
    assert_non_null(head);
    assert_string_equal(head->agent, HOST_B);
    assert_string_equal(head->domain, VM);
    assert_string_equal(head->checkpoint_id, ONE);
    assert_int_equal(head->epoch, 7);
    assert_null(head->row);
}

int
main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, manifest_setup, manifest_teardown)
    const struct CMUnitTest tests[] = {
        T(tree_comes_back_parents_first),
        T(greater_epoch_holds),
        T(half_a_checkpoint_is_left_out),
        T(changed_file_is_not_taken_for_the_sealed_one),
        T(what_others_may_have_written_is_refused),
        T(what_makes_no_sense_is_refused),
        T(no_damage_crashes_the_reader),
        T(head_tells_owner_and_epoch),
    };
#undef T

    return cmocka_run_group_tests(tests, NULL, NULL);
}
