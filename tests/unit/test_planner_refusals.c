/* What the planner refuses whatever is asked for: a VM, or a chain, that is not as the catalogue
 * has it. */
#include "planner_world.h"

#include "agent/core/graph.h"

/* It works on disks alone, and may be the way to get space back. */
static void
delete_is_not_refused_for_uefi_variables(void **state)
{
    g_autoptr(World) world = world_with_line(1);

    ckpt_vm_add_obstacle(world->vm, CKPT_REASON_NVRAM_UNSUPPORTED, NULL, NULL, "they are in a qcow2 file");
    assert_refused(world, CKPT_KIND_CREATE, NULL, CKPT_REASON_NVRAM_UNSUPPORTED);
    assert_refused(world, CKPT_KIND_RESTORE, "c1", CKPT_REASON_NVRAM_UNSUPPORTED);
    ckpt_plan_free(world_must_plan(world, CKPT_KIND_DELETE, "c1"));
}

static void
an_obstacle_refuses_everything_by_its_name(void **state)
{
    g_autoptr(World) world = world_with_line(1);

    ckpt_vm_add_obstacle(world->vm, CKPT_REASON_MANAGED_SAVE_PRESENT, NULL, NULL, "managed save");
    assert_refused(world, CKPT_KIND_CREATE, NULL, CKPT_REASON_MANAGED_SAVE_PRESENT);
    assert_refused(world, CKPT_KIND_RESTORE, "c1", CKPT_REASON_MANAGED_SAVE_PRESENT);
    assert_refused(world, CKPT_KIND_DELETE, "c1", CKPT_REASON_MANAGED_SAVE_PRESENT);
}

static void
a_definition_on_a_sealed_file_quarantines(void **state) /* hazard A22 */
{
    g_autoptr(World) world = world_with_line(2);

    world_put_on(world, g_ptr_array_index(world->vm->disks, 0), "/img/web.raw");
    assert_refused(world, CKPT_KIND_CREATE, NULL, CKPT_REASON_VM_QUARANTINED);
    assert_refused(world, CKPT_KIND_RESTORE, "c1", CKPT_REASON_VM_QUARANTINED);
    assert_refused(world, CKPT_KIND_DELETE, "c1", CKPT_REASON_VM_QUARANTINED);
}

/* A delete that could not remove it leaves one of the VM's own, beside a file that is no longer sealed. */
static void
manifest_that_a_delete_left_is_no_obstacle(void **state)
{
    g_autoptr(World) world = world_with_line(0);
    CkptLayer *top = ckpt_vm_find_file(world->vm, "/img/web.raw");
    g_autoptr(CkptPlan) made = NULL;

    top->manifest = TRUE;
    ckpt_set_str(&top->owner_vm, world->vm->id);
    ckpt_set_str(&top->owner_agent, "aaaaaaaa-0000-4000-8000-000000000001");
    top->mode = 0440;
    assert_refused(world, CKPT_KIND_CREATE, NULL, CKPT_REASON_VM_QUARANTINED);
    top->mode = 0600;
    made = world_must_plan(world, CKPT_KIND_CREATE, NULL);
    assert_non_null(made);
}

static void
a_file_that_another_vms_checkpoint_sealed_is_refused(void **state)
{
    g_autoptr(World) world = world_with_line(0);

    ckpt_vm_find_file(world->vm, "/img/web.raw")->manifest = TRUE;
    assert_refused(world, CKPT_KIND_CREATE, NULL, CKPT_REASON_VM_QUARANTINED);
}

static void
a_sealed_file_by_another_name_quarantines_too(void **state)
{
    g_autoptr(World) world = world_with_line(2);

    world_add_file(world, "/alias/web.raw", NULL)->id =
        ckpt_vm_find_file(world->vm, "/img/web.raw")->id;
    world_put_on(world, g_ptr_array_index(world->vm->disks, 0), "/alias/web.raw");
    assert_refused(world, CKPT_KIND_CREATE, NULL, CKPT_REASON_VM_QUARANTINED);
}

static void
a_chain_that_somebody_moved_is_refused(void **state)
{
    g_autoptr(World) world = world_with_line(2);

    world_set_current(world, "c1");
    assert_refused(world, CKPT_KIND_CREATE, NULL, CKPT_REASON_CHAIN_MISMATCH);
}

static void
delete_never_takes_the_newest_file_of_a_detached_disk(void **state)
{
    g_autoptr(World) world = world_with_line(1);

    /* vda's overlay is in no definition any more, another disk has its place */
    world_add_file(world, "/img/new.raw", NULL);
    world_put_on(world, g_ptr_array_index(world->vm->disks, 0), "/img/new.raw");
    assert_refused(world, CKPT_KIND_DELETE, "c1", CKPT_REASON_DISK_DETACHED);
}

static void
delete_of_a_held_one_is_refused(void **state)
{
    g_autoptr(World) world = world_with_line(1);

    ckpt_set_str(&((CkptCheckpoint *)world->checkpoints->pdata[0])->hold, "audit");
    assert_refused(world, CKPT_KIND_DELETE, "c1", CKPT_REASON_CHECKPOINT_HELD);
}

static void
an_unfinished_delete_comes_first(void **state)
{
    g_autoptr(World) world = world_with_line(2);

    ((CkptCheckpoint *)world->checkpoints->pdata[0])->state = CKPT_STATE_DELETING;
    assert_refused(world, CKPT_KIND_CREATE, NULL, CKPT_REASON_CHECKPOINT_DELETING);
    assert_refused(world, CKPT_KIND_RESTORE, "c2", CKPT_REASON_CHECKPOINT_DELETING);
    assert_refused(world, CKPT_KIND_DELETE, "c2", CKPT_REASON_CHECKPOINT_DELETING);
}

static void
a_loop_in_the_headers_ends(void **state)
{
    g_autoptr(World) world = world_with_line(1);
    g_auto(GStrv) chain = NULL;

    ckpt_vm_find_file(world->vm, "/img/web.raw")->backing = g_strdup("/img/web.ckpt-1.qcow2");
    chain = ckpt_graph_chain(&world->input, "/img/web.raw");
    assert_in_range(g_strv_length(chain), 2, 4);
}

static void
a_disk_that_was_away_may_come_back(void **state)
{
    g_autoptr(World) world = world_with_line(1);
    g_autoptr(CkptPlan) made = NULL;

    /* c2 was made of another disk while vda was detached */
    world_add_file(world, "/img/data.raw", NULL);
    world_add_checkpoint(world, "c2", "c1", "/img/data.raw");
    world_set_current(world, "c2");
    made = world_must_plan(world, CKPT_KIND_CREATE, NULL);
    assert_string_equal(made->checkpoint->parent_id, "c2");
}

static void
a_disk_on_an_older_file_than_its_last_checkpoint_is_refused(void **state)
{
    g_autoptr(World) world = world_with_line(2);

    world_add_file(world, "/img/hand.qcow2", "/img/web.raw");
    world_put_on(world, g_ptr_array_index(world->vm->disks, 0), "/img/hand.qcow2");
    assert_refused(world, CKPT_KIND_CREATE, NULL, CKPT_REASON_CHAIN_MISMATCH);
}

/* Beside the disk, or under another name, it is a disk of its own, however far down it was laid. */
static void
a_clone_of_the_vms_own_checkpoint_is_another_disk(void **state)
{
    g_autoptr(World) world = world_with_line(3);
    g_autoptr(CkptPlan) made = NULL;

    world_add_file(world, "/img/other.qcow2", "/img/web.raw");
    world_add_file(world, "/img/clone.qcow2", "/img/other.qcow2");
    world_add_disk(world, "vdb", "/img/clone.qcow2");
    made = world_must_plan(world, CKPT_KIND_CREATE, NULL);
    assert_int_equal(made->checkpoint->disks->len, 2);
}

/* A25: it is the agent's overlay that lies elsewhere now, whatever it is attached as. */
static void
an_overlay_of_the_agents_that_was_moved_is_no_clone(void **state)
{
    g_autoptr(World) world = world_with_line(3);

    world_add_file(world, "/img/moved.qcow2", "/img/web.raw");
    g_ptr_array_add(world->made, g_strdup("/img/moved.qcow2"));
    world_add_disk(world, "vdb", "/img/moved.qcow2");
    assert_refused(world, CKPT_KIND_CREATE, NULL, CKPT_REASON_CHAIN_MISMATCH);
}

static void
a_clone_does_not_stand_in_for_the_disk_that_is_away(void **state)
{
    g_autoptr(World) world = world_with_line(1);

    world_add_branch(world, "c2", "c1", "/img/branch.qcow2", "/img/web.raw");
    world_add_file(world, "/img/clone.qcow2", "/img/web.raw");
    world_put_on(world, g_ptr_array_index(world->vm->disks, 0), "/img/clone.qcow2");
    assert_refused(world, CKPT_KIND_DELETE, "c2", CKPT_REASON_DISK_DETACHED);
}

/* A create that was undone left its overlay in the chain, because another tool had laid its own on it: two of
 * the agent's lie above the sealed file then, the other tool's gone or not. It is the same line all the same. */
static void
an_overlay_that_an_undone_create_left_is_no_other_line(void **state)
{
    static const char *const tops[] = {"/img/virsh.qcow2", "/img/web.ckpt-left.qcow2"};

    for (guint i = 0; i < G_N_ELEMENTS(tops); i++) {
        g_autoptr(World) world = world_with_line(1);
        g_autoptr(CkptPlan) made = NULL;
        g_autoptr(CkptPlan) deleted = NULL;
        CkptStep *merge;

        world_add_file(world, "/img/web.ckpt-left.qcow2", "/img/web.ckpt-1.qcow2");
        g_ptr_array_add(world->made, g_strdup("/img/web.ckpt-left.qcow2"));
        world_add_file(world, "/img/virsh.qcow2", "/img/web.ckpt-left.qcow2");
        world_put_on(world, g_ptr_array_index(world->vm->disks, 0), tops[i]);
        if (i > 0)
            g_hash_table_remove(world->vm->files, tops[0]);
        made = world_must_plan(world, CKPT_KIND_CREATE, NULL);
        assert_string_equal(made->checkpoint->parent_id, "c1");
        deleted = world_must_plan(world, CKPT_KIND_DELETE, "c1");
        merge = plan_find_step(deleted, CKPT_STEP_MERGE, 0);
        assert_string_equal(merge->file, "/img/web.ckpt-1.qcow2");
        assert_string_equal(merge->base, "/img/web.raw");
        assert_string_equal(merge->above, "/img/web.ckpt-left.qcow2");
        assert_int_equal(plan_last_change(deleted)->gone->len, 1);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(delete_is_not_refused_for_uefi_variables),
        cmocka_unit_test(an_obstacle_refuses_everything_by_its_name),
        cmocka_unit_test(a_definition_on_a_sealed_file_quarantines),
        cmocka_unit_test(manifest_that_a_delete_left_is_no_obstacle),
        cmocka_unit_test(a_file_that_another_vms_checkpoint_sealed_is_refused),
        cmocka_unit_test(a_sealed_file_by_another_name_quarantines_too),
        cmocka_unit_test(a_chain_that_somebody_moved_is_refused),
        cmocka_unit_test(delete_never_takes_the_newest_file_of_a_detached_disk),
        cmocka_unit_test(delete_of_a_held_one_is_refused),
        cmocka_unit_test(an_unfinished_delete_comes_first),
        cmocka_unit_test(a_loop_in_the_headers_ends),
        cmocka_unit_test(a_disk_that_was_away_may_come_back),
        cmocka_unit_test(a_disk_on_an_older_file_than_its_last_checkpoint_is_refused),
        cmocka_unit_test(a_clone_of_the_vms_own_checkpoint_is_another_disk),
        cmocka_unit_test(an_overlay_of_the_agents_that_was_moved_is_no_clone),
        cmocka_unit_test(a_clone_does_not_stand_in_for_the_disk_that_is_away),
        cmocka_unit_test(an_overlay_that_an_undone_create_left_is_no_other_line),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
