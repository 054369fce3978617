/* What the driver's steps leave on the disk: when they are done, when a sync fails, and when they are run again
 * after that. On real files; a VM of libvirt's test driver. */
#include "agent/hypervisor/memory.h"
#include "tests/unit/domain_fixture.h"
#include "tests/unit/power_cut.h"

#include <string.h>

#define ID "22222222-2222-4222-8222-222222222222"
#define MANIFEST "{\"checkpoint_id\": \"" ID "\"}"

typedef struct {
    const char *name;
    World *(*make)(void); /* all of it is on the disk */
    const char *then;     /* and what this does is not, since who did it was killed. NULL: nothing */
    gboolean (*step)(CkptRun *run, GError **error);
} Scene;

static void
check_unbroken(const char *name, guint failed)
{
    if (broken)
        fail_msg("%s (sync %u failed): %s", name, failed, broken);
}

static void
show(World *world, const Scene *scene, guint failed)
{
    g_autoptr(GError) error = NULL;

    failing = 0;
    if (!scene->step(&world->run, &error))
        fail_msg("%s (sync %u failed): %s", scene->name, failed, error->message);
    require_all_synced();
    check_unbroken(scene->name, failed);
}

static void
show_failure(World *world, const Scene *scene, guint failed)
{
    g_autoptr(GError) error = NULL;

    failing = failed;
    if (scene->step(&world->run, &error))
        fail_msg("%s: sync %u fails, and it is not told", scene->name, failed);
    if (ckpt_error_reason(error) != CKPT_REASON_FILE_FAILED || !strstr(error->message, g_strerror(EIO)))
        fail_msg("%s: sync %u: %s", scene->name, failed, error->message);
    check_unbroken(scene->name, failed);
}

/* failed: this sync does, or the agent is killed in it, and the step is run again. How many it needs. */
static guint
play(const Scene *scene, guint failed)
{
    g_autoptr(World) world = NULL;

    failing = 0;
    old_file_system = FALSE;
    world = scene->make();
    settle();
    if (scene->then)
        shell(scene->then);
    syncs = 0;
    if (failed)
        show_failure(world, scene, failed);
    show(world, scene, failed);
    return syncs;
}

static void
play_all(const Scene *scenes, guint count)
{
    for (guint i = 0; i < count; i++) {
        guint needed = play(&scenes[i], 0);

        assert_int_not_equal(needed, 0);
        for (guint k = 1; k <= needed; k++)
            play(&scenes[i], k);
    }
}

/* ---- Overlays, seals, marks ---- */

static World *
with_file(CkptStepKind kind, const char *name)
{
    World *world = world_before(kind);

    ckpt_set_str(&world->step->target, "vda");
    world->step->file = image(name);
    world->step->base = image("b");
    world->step->base_format = CKPT_FORMAT_QCOW2;
    world->step->mode = 0600;
    return world;
}

static World *
for_overlay(void)
{
    World *world = with_file(CKPT_STEP_MAKE_OVERLAY, "new");

    shell("chmod 660 $d/b");
    world->step->mode = 0660;
    world->step->size = 2 << 20;
    return world;
}

static World *
for_overlay_on_old_file_system(void)
{
    old_file_system = TRUE;
    return for_overlay();
}

static World *
for_overlay_undo(void)
{
    World *world = for_overlay();
    g_autoptr(GError) error = NULL;

    if (!ckpt_step_make_overlay(&world->run, &error))
        fail_msg("%s", error->message);
    return world;
}

static World *
for_base(void)
{
    return with_file(CKPT_STEP_IDENTIFY, "b");
}

static World *
for_removal(void)
{
    World *world = with_file(CKPT_STEP_REMOVE_FILE, "old");

    shell("cp $d/o $d/old; touch $d/old.vmckpt-merged");
    return world;
}

static World *
for_mark(void)
{
    return with_file(CKPT_STEP_MERGE, "mark");
}

static World *
for_unmark(void)
{
    World *world = for_mark();

    shell("touch $d/mark");
    return world;
}

static gboolean
mark(CkptRun *run, GError **error)
{
    return ckpt_file_mark(run->step->file, error);
}

static gboolean
unmark(CkptRun *run, GError **error)
{
    return ckpt_file_remove(run->step->file, error);
}

static World *
for_memory_undo(void)
{
    World *world = with_file(CKPT_STEP_SNAPSHOT, "memory");

    world->step->asked = CKPT_CONSISTENCY_MEMORY;
    shell("touch $d/memory");
    return world;
}

static void
files_and_their_names_are_synced(void **state)
{
    const Scene scenes[] = {
        {"overlay", for_overlay, NULL, ckpt_step_make_overlay},
        {"overlay, old file system", for_overlay_on_old_file_system, NULL, ckpt_step_make_overlay},
        {"overlay undone", for_overlay_undo, NULL, ckpt_step_make_overlay_undo},
        {"identity", for_base, "qemu-io -f qcow2 -c 'write -q 0 64k' $d/b", ckpt_step_identify},
        {"removal", for_removal, NULL, ckpt_step_remove_file},
        {"mark", for_mark, NULL, mark},
        {"mark removed", for_unmark, NULL, unmark},
        {"memory undone", for_memory_undo, NULL, ckpt_memory_remove},
    };

    (void)state;
    play_all(scenes, G_N_ELEMENTS(scenes));
}

/* Not so the next time, when it has that mode: whoever needs it on the disk syncs the file (IDENTIFY). */
static void
a_mode_is_synced_when_it_is_set(void **state)
{
    const Scene seal = {"seal", for_base, NULL, ckpt_step_seal};
    const Scene unseal = {"unseal", for_base, NULL, ckpt_step_set_mode};
    g_autoptr(World) world = NULL;

    (void)state;
    assert_int_equal(play(&seal, 0), 1);
    shell("test $(stat -c %a $d/b) = 440");
    assert_int_equal(play(&unseal, 0), 1);
    shell("test $(stat -c %a $d/b) = 600");
    world = for_base();
    settle();
    syncs = 0;
    show_failure(world, &seal, 1);
}

/* ---- Manifests, in two folders ---- */

static World *
for_manifests(void)
{
    World *world = world_before(CKPT_STEP_WRITE_MANIFEST);
    g_autofree char *other = image("other/p");

    shell("mkdir $d/other; cp $d/o $d/other/p");
    g_ptr_array_add(world->step->disks, ckpt_disk_file_new("vdb", other, CKPT_FORMAT_QCOW2, NULL));
    ckpt_set_str(&world->step->checkpoint_id, ID);
    ckpt_set_str(&world->step->text, MANIFEST);
    return world;
}

static World *
for_newer_manifests(void)
{
    World *world = for_manifests();

    shell("echo older >$d/o" CKPT_MANIFEST_ENDING "; chmod 600 $d/o" CKPT_MANIFEST_ENDING);
    return world;
}

static World *
for_manifests_removal(void)
{
    World *world = for_manifests();

    shell("for f in o other/p; do echo '" MANIFEST "' >$d/$f" CKPT_MANIFEST_ENDING "; done");
    return world;
}

static void
manifests_are_synced(void **state)
{
    const Scene scenes[] = {
        {"manifests", for_manifests, NULL, ckpt_step_write_manifest},
        {"newer manifests", for_newer_manifests, NULL, ckpt_step_write_manifest},
        {"manifests removed", for_manifests_removal, NULL, ckpt_step_remove_manifest},
    };

    (void)state;
    play_all(scenes, G_N_ELEMENTS(scenes));
}

/* ---- UEFI variables ---- */

static World *
for_nvram(CkptStepKind kind)
{
    World *world = with_file(kind, kind == CKPT_STEP_PUT_NVRAM ? "kept" : "saved");

    shell("echo present >$d/VARS; echo captured >$d/kept; chmod 600 $d/VARS $d/kept");
    g_free(world->step->base);
    world->step->base = image("VARS");
    return world;
}

static World *
for_save(void)
{
    return for_nvram(CKPT_STEP_SAVE_NVRAM);
}

static World *
for_save_undo(void)
{
    World *world = for_save();

    shell("cp -p $d/VARS $d/saved");
    return world;
}

static World *
for_put(void)
{
    return for_nvram(CKPT_STEP_PUT_NVRAM);
}

static World *
for_put_anew(void)
{
    World *world = for_put();

    shell("rm $d/VARS");
    return world;
}

static World *
for_put_undo(void)
{
    World *world = for_put();

    world->step->from = image("saved");
    shell("cp -p $d/VARS $d/saved; cp $d/kept $d/VARS");
    return world;
}

static World *
for_put_anew_undo(void)
{
    World *world = for_put();

    shell("cp $d/kept $d/VARS");
    return world;
}

static void
uefi_variables_are_synced(void **state)
{
    const Scene scenes[] = {
        {"save", for_save, NULL, ckpt_step_save_nvram},
        {"save undone", for_save_undo, NULL, ckpt_step_save_nvram_undo},
        {"put", for_put, NULL, ckpt_step_put_nvram},
        {"put anew", for_put_anew, NULL, ckpt_step_put_nvram},
        {"put over what is not synced", for_put, "cp $d/kept $d/VARS", ckpt_step_put_nvram},
        {"put undone", for_put_undo, NULL, ckpt_step_put_nvram_undo},
        {"put anew undone", for_put_anew_undo, NULL, ckpt_step_put_nvram_undo},
    };

    (void)state;
    play_all(scenes, G_N_ELEMENTS(scenes));
}

/* ---- Merges: $d/theirs lies on $d/o, that on $d/b ---- */

#define WRITE_BASE "qemu-io -f qcow2 -c 'write -q -P 7 0 64k' $d/b"
#define LAY_ON_BASE "qemu-img rebase -q -u -f qcow2 -F qcow2 -b $d/b $d/theirs"

static World *
for_top(void)
{
    World *world = world_after(CKPT_STEP_MERGE, FALSE);

    set_merge(world, "o", "b");
    stop_vm(world);
    return world;
}

static World *
for_middle(CkptStepKind kind)
{
    World *world = world_after(kind, TRUE);

    set_merge(world, "o", "b");
    world->step->above = image("theirs");
    stop_vm(world);
    return world;
}

static World *
for_merge_under(void)
{
    return for_middle(CKPT_STEP_MERGE);
}

static World *
for_merge_undefined(void)
{
    World *world = for_merge_under();
    g_autoptr(virDomain) domain = world_vm(world);

    assert_int_equal(virDomainUndefine(domain), 0);
    return world;
}

/* The VM is on $d/b; the other two are another branch. */
static World *
beside(CkptStepKind kind)
{
    World *world = world_before(kind);

    shell("qemu-io -f qcow2 -c 'write -q -P 7 0 64k' $d/o; "
          "qemu-img create -q -f qcow2 -F qcow2 -b $d/o $d/theirs");
    set_merge(world, "o", "b");
    stop_vm(world);
    return world;
}

static World *
for_leaf(void)
{
    World *world = beside(CKPT_STEP_MERGE);

    world->step->leaf = TRUE;
    return world;
}

static World *
for_top_merged(void)
{
    World *world = beside(CKPT_STEP_MERGE);

    shell("touch $d/o.vmckpt-merged");
    return world;
}

static World *
for_under_merged(void)
{
    World *world = beside(CKPT_STEP_MERGE);

    world->step->above = image("theirs");
    return world;
}

static void
merges_are_synced(void **state)
{
    const Scene scenes[] = {
        {"top", for_top, NULL, ckpt_step_merge},
        {"under another one", for_merge_under, NULL, ckpt_step_merge},
        {"of no VM", for_merge_undefined, NULL, ckpt_step_merge},
        {"leaf", for_leaf, NULL, ckpt_step_merge},
        {"top, by a QEMU that is gone", for_top_merged, WRITE_BASE, ckpt_step_merge},
        {"under another one, by a QEMU that is gone", for_under_merged, WRITE_BASE "; " LAY_ON_BASE,
         ckpt_step_merge},
    };

    (void)state;
    play_all(scenes, G_N_ELEMENTS(scenes));
}

static World *
for_pull(void)
{
    return for_middle(CKPT_STEP_PULL);
}

static World *
for_pulled(void)
{
    World *world = beside(CKPT_STEP_PULL);

    world->step->above = image("theirs");
    return world;
}

static World *
for_rebase(void)
{
    World *world = beside(CKPT_STEP_REBASE);

    g_free(world->step->file);
    world->step->file = image("theirs");
    world->step->from = image("o");
    return world;
}

static void
what_lies_on_another_file_is_synced(void **state)
{
    const Scene scenes[] = {
        {"pull", for_pull, NULL, ckpt_step_pull},
        {"pull by a qemu-img that is gone", for_pulled, LAY_ON_BASE, ckpt_step_pull},
        {"rebase", for_rebase, NULL, ckpt_step_rebase},
        {"rebase by a qemu-img that is gone", for_rebase, LAY_ON_BASE, ckpt_step_rebase},
    };

    (void)state;
    play_all(scenes, G_N_ELEMENTS(scenes));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_and_their_names_are_synced),
        cmocka_unit_test(a_mode_is_synced_when_it_is_set),
        cmocka_unit_test(manifests_are_synced),
        cmocka_unit_test(uefi_variables_are_synced),
        cmocka_unit_test(merges_are_synced),
        cmocka_unit_test(what_lies_on_another_file_is_synced),
    };

    return cmocka_run_group_tests(tests, disk_open, disk_close);
}
