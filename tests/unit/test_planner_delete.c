/* The planner's deletes: which files are merged, rebased and removed, in trees of checkpoints
 * too, and what waits. */
#include "planner_world.h"

#include "agent/core/graph.h"

static void
delete_of_the_current_one_merges_the_top_into_its_file(void **state)
{
    g_autoptr(World) world = world_with_line(1);
    g_autoptr(CkptPlan) made = world_must_plan(world, CKPT_KIND_DELETE, "c1");
    CkptStep *merge = plan_find_step(made, CKPT_STEP_MERGE, 0);

    assert_steps(made, "unseal reserve catalogue merge check-chain catalogue remove-manifest remove-file");
    assert_int_equal(made->decisive, 2);
    assert_true(made->no_return);
    assert_string_equal(merge->file, "/img/web.ckpt-1.qcow2");
    assert_string_equal(merge->base, "/img/web.raw");
    assert_null(merge->above);
    assert_null(plan_last_change(made)->current_id);
    assert_true(plan_last_change(made)->set_current);
    assert_int_equal(plan_find_step(made, CKPT_STEP_UNSEAL, 0)->mode, 0644);
}

static void
delete_in_the_middle_remaps_the_child_and_seals_again(void **state)
{
    g_autoptr(World) world = world_with_line(3);
    g_autoptr(CkptPlan) made = world_must_plan(world, CKPT_KIND_DELETE, "c1");
    CkptChange *change = plan_last_change(made);
    CkptCheckpoint *c2 = ckpt_graph_find(change->upserts, "c2");
    CkptStep *merge = plan_find_step(made, CKPT_STEP_MERGE, 0);

    /* c3's file lies on the merged one: its header is rewritten, and it is identified anew */
    assert_steps(made, "unseal reserve catalogue unseal unseal merge seal identify seal identify "
                       "check-chain write-manifest write-manifest catalogue remove-manifest remove-manifest "
                       "remove-file");
    assert_string_equal(merge->above, "/img/web.ckpt-2.qcow2");
    assert_non_null(c2);
    assert_null(c2->parent_id);
    assert_string_equal(((CkptCheckpointDisk *)c2->disks->pdata[0])->sealed_file, "/img/web.raw");
    assert_int_equal(((CkptCheckpointDisk *)c2->disks->pdata[0])->format, CKPT_FORMAT_RAW);
    assert_false(((CkptCheckpointDisk *)c2->disks->pdata[0])->agent_made);
    assert_non_null(ckpt_graph_find(change->upserts, "c3"));
    assert_string_equal(change->removes->pdata[0], "c1");
    assert_string_equal(change->gone->pdata[0], "/img/web.ckpt-1.qcow2");
    assert_string_equal(plan_find_step(made, CKPT_STEP_REMOVE_FILE, 0)->file,
                        "/img/web.ckpt-1.qcow2");
}

static void
delete_of_a_leaf_removes_its_file_after_its_row(void **state)
{
    g_autoptr(World) world = world_with_line(1);
    g_autoptr(CkptPlan) made = NULL;

    world_add_branch(world, "s1", "c1", "/img/web.ckpt-s.qcow2", "/img/web.raw");
    made = world_must_plan(world, CKPT_KIND_DELETE, "s1");
    assert_steps(made, "catalogue check-chain catalogue remove-manifest remove-file");
    assert_string_equal(plan_find_step(made, CKPT_STEP_REMOVE_FILE, 0)->file,
                        "/img/web.ckpt-s.qcow2");
}

static void
delete_under_a_leaf_merges_files_of_no_present_chain(void **state)
{
    g_autoptr(World) world = world_with_line(2);
    g_autoptr(CkptPlan) made = NULL;
    CkptDiskFile *disk;

    /* the VM went back to c1: c2 and the safety checkpoint on it are a branch of their own */
    world_add_checkpoint(world, "s1", "c2", "/img/web.ckpt-2.qcow2");
    world_add_file(world, "/img/web.ckpt-n.qcow2", "/img/web.raw");
    g_ptr_array_add(world->made, g_strdup("/img/web.ckpt-n.qcow2"));
    world_put_on(world, g_ptr_array_index(world->vm->disks, 0), "/img/web.ckpt-n.qcow2");
    world_set_current(world, "c1");
    made = world_must_plan(world, CKPT_KIND_DELETE, "c2");
    assert_true(plan_find_step(made, CKPT_STEP_MERGE, 0)->leaf);
    disk = g_ptr_array_index(plan_find_step(made, CKPT_STEP_CHECK_CHAIN, 0)->disks, 0);
    assert_string_equal(disk->chain[0], "/img/web.ckpt-n.qcow2");
    assert_string_equal(
        ((CkptCheckpointDisk *)ckpt_graph_find(plan_last_change(made)->upserts, "s1")
             ->disks->pdata[0])
            ->sealed_file,
        "/img/web.ckpt-1.qcow2");
}

static void
delete_of_a_branch_point_is_refused_with_its_branches(void **state) /* hazard A2 */
{
    g_autoptr(World) world = world_with_line(1);
    g_autoptr(GError) error = NULL;

    world_add_branch(world, "s1", "c1", "/img/web.ckpt-s.qcow2", "/img/web.raw");
    assert_null(world_plan(world, CKPT_KIND_DELETE, "c1", &error));
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_BRANCH_POINT);
    assert_non_null(strstr(error->message, "s1"));
    assert_non_null(strstr(error->message, "the present state"));
}

static CkptLayer *
add_doomed(World *world, const char *file, const char *backing)
{
    CkptLayer *layer = world_add_file(world, file, backing);

    g_ptr_array_add(world->made, g_strdup(file));
    g_ptr_array_add(world->doomed, g_strdup(file));
    return layer;
}

#define LEFT "/img/web.ckpt-left.qcow2"

static void
delete_counts_no_file_that_nobody_needs(void **state)
{
    g_autoptr(World) world = world_with_line(2);
    g_autoptr(CkptPlan) made = NULL;
    g_autoptr(GError) error = NULL;

    add_doomed(world, LEFT, "/img/web.raw");
    add_doomed(world, "/img/web.ckpt-left2.qcow2", LEFT);
    add_doomed(world, "/img/web.ckpt-left3.qcow2", "/img/web.ckpt-1.qcow2"); /* on what is merged */
    made = world_plan(world, CKPT_KIND_DELETE, "c1", &error);
    if (!made)
        fail_msg("%s", error->message);
    assert_int_equal(plan_count_steps(made, CKPT_STEP_REBASE), 0);
    assert_string_equal(plan_find_step(made, CKPT_STEP_MERGE, 0)->above, "/img/web.ckpt-2.qcow2");
    assert_string_equal(plan_find_step(made, CKPT_STEP_REMOVE_FILE, 0)->file,
                        "/img/web.ckpt-1.qcow2");
    assert_int_equal(plan_count_steps(made, CKPT_STEP_REMOVE_FILE), 1);
}

static void
use_as_top(World *world, CkptLayer *left)
{
    world_add_disk(world, "vdb", left->path);
}

static void
use_as_clone(World *world, CkptLayer *left)
{
    ckpt_vm_add_user(world->vm, left->path, TRUE, "VM web-02, disk vda");
}

static void
use_as_row(World *world, CkptLayer *left)
{
    world_add_checkpoint(world, "s1", "c1", left->path);
}

static void
use_as_base(World *world, CkptLayer *left)
{
    world_add_file(world, "/img/somebodys.qcow2", left->path);
}

/* Hazard A5: libvirt names the file below. */
static void
use_by_qemu(World *world, CkptLayer *left)
{
    CkptDisk *disk = g_ptr_array_index(world->vm->disks, 0);

    ckpt_set_str(&disk->live_source, "/img/web.raw");
    left->write_locked = left->read_locked = TRUE;
}

/* Its folder is not mounted, say: it would be back over other contents, or over nothing. */
static void
a_branch_whose_file_is_missing_is_a_branch(void **state)
{
    g_autoptr(World) world = world_with_line(1);
    g_autoptr(GError) error = NULL;
    CkptLayer *lost;

    (void)state;
    world_add_branch(world, "s1", "c1", "/img/web.ckpt-s.qcow2", "/img/web.raw");
    world_add_branch(world, "s2", "s1", "/img/web.ckpt-t.qcow2", "/img/web.ckpt-s.qcow2");
    lost = ckpt_vm_find_file(world->vm, "/img/web.ckpt-s.qcow2");
    lost->exists = FALSE;
    g_clear_pointer(&lost->backing, g_free);
    assert_refused(world, CKPT_KIND_DELETE, "c1", CKPT_REASON_DISK_FILE_MISSING);
    assert_null(world_plan(world, CKPT_KIND_DELETE, "c1", &error));
    assert_non_null(strstr(error->message, "/img/web.ckpt-s.qcow2 is missing"));
    /* also further up: what it lies on is dissolved */
    lost->exists = TRUE;
    lost->backing = g_strdup("/img/web.raw");
    lost = ckpt_vm_find_file(world->vm, "/img/web.ckpt-t.qcow2");
    lost->exists = FALSE;
    g_clear_pointer(&lost->backing, g_free);
    assert_refused(world, CKPT_KIND_DELETE, "c1", CKPT_REASON_DISK_FILE_MISSING);
}

static void
a_doomed_file_that_somebody_uses_is_a_branch(void **state)
{
    static void (*const uses[])(World *world, CkptLayer *left) = {use_as_top, use_as_clone, use_as_row,
                                                                  use_as_base, use_by_qemu};

    for (guint i = 0; i < G_N_ELEMENTS(uses); i++) {
        g_autoptr(World) world = world_with_line(1);
        CkptLayer *left = add_doomed(world, LEFT, "/img/web.raw");
        g_autoptr(GPtrArray) before = ckpt_graph_readers(&world->input, "/img/web.raw");
        g_autoptr(GPtrArray) after = NULL;

        assert_int_equal(before->len, 1);
        uses[i](world, left);
        after = ckpt_graph_readers(&world->input, "/img/web.raw");
        if (after->len != 2)
            fail_msg("use %u is not seen", i);
        assert_false(ckpt_graph_is_doomed(&world->input, LEFT));
    }
}

/* c1 ← c2, and on c2's file both the present state and the safety checkpoint s1. */
static World *
world_with_branches_above(void)
{
    World *world = world_with_line(2);

    world_add_branch(world, "s1", "c2", "/img/web.ckpt-s.qcow2", "/img/web.ckpt-1.qcow2");
    return world;
}

static void
delete_below_a_branch_point_rebases_the_other_branches(void **state) /* hazard A27 */
{
    g_autoptr(World) world = world_with_branches_above();
    g_autoptr(CkptPlan) made = world_must_plan(world, CKPT_KIND_DELETE, "c1");
    CkptStep *merge = plan_find_step(made, CKPT_STEP_MERGE, 0);
    CkptStep *rebase = plan_find_step(made, CKPT_STEP_REBASE, 0);
    CkptChange *change = plan_last_change(made);

    assert_steps(made, "unseal reserve catalogue unseal merge unseal rebase seal identify seal identify "
                       "check-chain write-manifest write-manifest catalogue remove-manifest "
                       "remove-manifest remove-file");
    /* the merge moves the present chain's, whatever its name */
    assert_string_equal(merge->above, "/img/web.ckpt-2.qcow2");
    assert_string_equal(rebase->file, "/img/web.ckpt-s.qcow2");
    assert_string_equal(rebase->from, "/img/web.ckpt-1.qcow2");
    assert_string_equal(rebase->base, "/img/web.raw");
    assert_int_equal(rebase->base_format, CKPT_FORMAT_RAW);
    assert_non_null(ckpt_graph_find(change->upserts, "s1"));
    assert_string_equal(
        ((CkptCheckpointDisk *)ckpt_graph_find(change->upserts, "c2")->disks->pdata[0])->sealed_file,
        "/img/web.raw");
    assert_string_equal(plan_find_step(made, CKPT_STEP_REMOVE_FILE, 0)->file,
                        "/img/web.ckpt-1.qcow2");
}

static void
delete_below_branches_of_no_present_chain_rebases_all_but_one(void **state)
{
    g_autoptr(World) world = world_with_branches_above();
    g_autoptr(CkptPlan) made = NULL;

    world_add_branch(world, "s2", "c2", "/img/web.ckpt-t.qcow2", "/img/web.ckpt-1.qcow2");
    /* the present state is elsewhere: on a root checkpoint of its own */
    world_add_file(world, "/img/other.raw", NULL);
    world_add_checkpoint(world, "d1", NULL, "/img/other.raw");
    world_add_file(world, "/img/other.ckpt-1.qcow2", "/img/other.raw");
    world_put_on(world, g_ptr_array_index(world->vm->disks, 0), "/img/other.ckpt-1.qcow2");
    world_set_current(world, "d1");
    made = world_must_plan(world, CKPT_KIND_DELETE, "c1");
    assert_string_equal(plan_find_step(made, CKPT_STEP_MERGE, 0)->above, "/img/web.ckpt-2.qcow2");
    assert_string_equal(plan_find_step(made, CKPT_STEP_REBASE, 0)->file, "/img/web.ckpt-s.qcow2");
    assert_string_equal(plan_find_step(made, CKPT_STEP_REBASE, 1)->file, "/img/web.ckpt-t.qcow2");
}

static void
delete_below_a_branch_that_is_in_use_is_refused_by_its_name(void **state)
{
    g_autoptr(World) world = world_with_branches_above();
    g_autoptr(GError) error = NULL;

    ckpt_vm_find_file(world->vm, "/img/web.ckpt-s.qcow2")->read_locked = TRUE;
    assert_null(world_plan(world, CKPT_KIND_DELETE, "c1", &error));
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_BRANCH_REBASE_REQUIRED);
    assert_non_null(strstr(error->message, "/img/web.ckpt-s.qcow2"));
}

/* Where locks do not reach other hosts nobody can tell whether a file beside the present chain is in use there.
 * The present chain is held by the VM itself, or was refused for all of it. */
static void
delete_beside_the_present_chain_needs_locks_that_tell(void **state)
{
    g_autoptr(World) rebased = world_with_branches_above();
    g_autoptr(World) removed = world_with_line(1);
    g_autoptr(World) merged = world_with_line(2);

    ckpt_vm_find_file(rebased->vm, "/img/web.ckpt-1.qcow2")->unguarded = TRUE;
    ckpt_vm_find_file(rebased->vm, "/img/web.ckpt-2.qcow2")->unguarded = TRUE;
    ckpt_plan_free(world_must_plan(rebased, CKPT_KIND_DELETE, "c1"));
    ckpt_vm_find_file(rebased->vm, "/img/web.ckpt-s.qcow2")->unguarded = TRUE;
    assert_refused(rebased, CKPT_KIND_DELETE, "c1", CKPT_REASON_LOCKS_UNAVAILABLE);

    world_add_branch(removed, "s1", "c1", "/img/web.ckpt-s.qcow2", "/img/web.raw");
    ckpt_vm_find_file(removed->vm, "/img/web.ckpt-s.qcow2")->unguarded = TRUE;
    assert_refused(removed, CKPT_KIND_DELETE, "s1", CKPT_REASON_LOCKS_UNAVAILABLE);

    world_add_checkpoint(merged, "s1", "c2", "/img/web.ckpt-2.qcow2");
    world_add_file(merged, "/img/web.ckpt-n.qcow2", "/img/web.raw");
    g_ptr_array_add(merged->made, g_strdup("/img/web.ckpt-n.qcow2"));
    world_put_on(merged, g_ptr_array_index(merged->vm->disks, 0), "/img/web.ckpt-n.qcow2");
    world_set_current(merged, "c1");
    ckpt_vm_find_file(merged->vm, "/img/web.ckpt-2.qcow2")->unguarded = TRUE;
    assert_refused(merged, CKPT_KIND_DELETE, "c2", CKPT_REASON_LOCKS_UNAVAILABLE);
}

static void
delete_below_a_branch_of_somebody_else_is_refused(void **state) /* hazard A18 */
{
    g_autoptr(World) world = world_with_line(2);

    world_add_file(world, "/img/theirs.qcow2", "/img/web.ckpt-1.qcow2");
    assert_refused(world, CKPT_KIND_DELETE, "c1", CKPT_REASON_BRANCH_REBASE_REQUIRED);
    g_hash_table_remove(world->vm->files, "/img/theirs.qcow2");
    ckpt_vm_add_user(world->vm, "/img/web.ckpt-1.qcow2", FALSE, "VM clone, disk vda");
    assert_refused(world, CKPT_KIND_DELETE, "c1", CKPT_REASON_BRANCH_POINT);
}

static void
delete_whose_present_state_is_somebodys_base_is_refused(void **state)
{
    g_autoptr(World) world = world_with_line(1);

    world_add_file(world, "/img/theirs.qcow2", "/img/web.ckpt-1.qcow2");
    assert_refused(world, CKPT_KIND_DELETE, "c1", CKPT_REASON_BRANCH_POINT);
}

static CkptPlan *
plan_when_possible(World *world, const char *id, GError **error)
{
    g_autoptr(CkptRequest) request = ckpt_request_new(CKPT_KIND_DELETE);

    ckpt_set_str(&request->checkpoint_id, id);
    request->when_possible = TRUE;
    return world_plan_request(world, request, error);
}

static void
delete_when_possible_of_a_branch_point_only_marks_it(void **state)
{
    g_autoptr(World) world = world_with_line(1);
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptPlan) made = NULL;
    CkptCheckpoint *marked;

    world_add_branch(world, "s1", "c1", "/img/web.ckpt-s.qcow2", "/img/web.raw");
    made = plan_when_possible(world, "c1", &error);
    assert_non_null(made);
    assert_steps(made, "catalogue");
    assert_false(made->no_return);
    marked = ckpt_graph_find(plan_last_change(made)->upserts, "c1");
    assert_int_equal(marked->state, CKPT_STATE_DELETING);
    assert_true(marked->deferred);
    assert_true(*marked->disabled_reason);
    assert_int_equal(plan_last_change(made)->gone->len, 0);
    assert_non_null(strstr(made->warnings->pdata[0], "s1"));
    assert_non_null(strstr(made->warnings->pdata[0], "the present state"));
}

static void
delete_when_possible_of_any_other_deletes_it_now(void **state)
{
    g_autoptr(World) world = world_with_line(1);
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptPlan) made = plan_when_possible(world, "c1", &error);

    assert_non_null(made);
    assert_true(made->no_return);
    assert_false(ckpt_graph_find(
                     ((CkptStep *)made->steps->pdata[made->decisive])->change->upserts, "c1")
                     ->deferred);
}

static void
delete_when_possible_of_a_held_or_shrunk_one_is_refused(void **state)
{
    g_autoptr(World) world = world_with_line(1);
    g_autoptr(GError) error = NULL;

    ckpt_vm_find_file(world->vm, "/img/web.ckpt-1.qcow2")->virtual_size = 32 * MIB;
    assert_null(plan_when_possible(world, "c1", &error));
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_DISK_RESIZED);
    g_clear_error(&error);
    ckpt_set_str(&((CkptCheckpoint *)world->checkpoints->pdata[0])->hold, "audit");
    assert_null(plan_when_possible(world, "c1", &error));
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_CHECKPOINT_HELD);
}

/* Another VM's disk, whose chain nobody can read to its end, may lie on what is merged or removed. */
static void
what_an_unreadable_chain_may_lie_on_is_kept(void **state)
{
    g_autoptr(World) world = world_with_line(1);
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptPlan) made = NULL;

    (void)state;
    ckpt_vm_add_unreadable(world->vm, "/mnt/clone.qcow2", "VM web-02, disk vda");
    assert_refused(world, CKPT_KIND_DELETE, "c1", CKPT_REASON_DISK_FILE_MISSING);
    assert_null(world_plan(world, CKPT_KIND_DELETE, "c1", &error));
    assert_string_equal(g_hash_table_lookup(ckpt_error_metadata(error), CKPT_META_FILE), "/mnt/clone.qcow2");
    assert_non_null(strstr(error->message, "web-02"));
    made = plan_when_possible(world, "c1", NULL);
    assert_non_null(made);
    assert_steps(made, "catalogue");
    /* What could not be deleted then either is not hidden. */
    ckpt_vm_find_file(world->vm, "/img/web.ckpt-1.qcow2")->virtual_size = 32 * MIB;
    g_clear_error(&error);
    assert_null(plan_when_possible(world, "c1", &error));
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_DISK_RESIZED);
}

static void
a_delete_that_waits_holds_up_nothing_else(void **state)
{
    g_autoptr(World) world = world_with_line(2);
    CkptCheckpoint *c1 = world->checkpoints->pdata[0];
    g_autoptr(CkptPlan) created = NULL, restored = NULL, deleted = NULL;

    c1->state = CKPT_STATE_DELETING;
    c1->deferred = TRUE;
    created = world_must_plan(world, CKPT_KIND_CREATE, NULL);
    restored = world_must_plan(world, CKPT_KIND_RESTORE, "c2");
    assert_refused(world, CKPT_KIND_RESTORE, "c1", CKPT_REASON_CHECKPOINT_DELETING);
    /* and is carried out when it need not wait */
    deleted = world_must_plan(world, CKPT_KIND_DELETE, "c1");
    assert_true(deleted->no_return);
    assert_int_equal(deleted->checkpoint->state, CKPT_STATE_READY);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(delete_of_the_current_one_merges_the_top_into_its_file),
        cmocka_unit_test(delete_in_the_middle_remaps_the_child_and_seals_again),
        cmocka_unit_test(delete_of_a_leaf_removes_its_file_after_its_row),
        cmocka_unit_test(delete_under_a_leaf_merges_files_of_no_present_chain),
        cmocka_unit_test(delete_of_a_branch_point_is_refused_with_its_branches),
        cmocka_unit_test(a_branch_whose_file_is_missing_is_a_branch),
        cmocka_unit_test(what_an_unreadable_chain_may_lie_on_is_kept),
        cmocka_unit_test(delete_counts_no_file_that_nobody_needs),
        cmocka_unit_test(a_doomed_file_that_somebody_uses_is_a_branch),
        cmocka_unit_test(delete_below_a_branch_point_rebases_the_other_branches),
        cmocka_unit_test(delete_below_branches_of_no_present_chain_rebases_all_but_one),
        cmocka_unit_test(delete_below_a_branch_that_is_in_use_is_refused_by_its_name),
        cmocka_unit_test(delete_beside_the_present_chain_needs_locks_that_tell),
        cmocka_unit_test(delete_below_a_branch_of_somebody_else_is_refused),
        cmocka_unit_test(delete_whose_present_state_is_somebodys_base_is_refused),
        cmocka_unit_test(delete_when_possible_of_a_branch_point_only_marks_it),
        cmocka_unit_test(delete_when_possible_of_any_other_deletes_it_now),
        cmocka_unit_test(delete_when_possible_of_a_held_or_shrunk_one_is_refused),
        cmocka_unit_test(a_delete_that_waits_holds_up_nothing_else),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
