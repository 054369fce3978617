/* Space: what was written since a checkpoint takes, how long there is room for it, what a delete would free and
 * cost, the reserve, and what is said of it. On views of VMs put together by hand. */
#include "cmocka_all.h"

#include "agent/core/advice.h"
#include "agent/core/planner.h"
#include "agent/service/internal.h"

#include <string.h>

#define MIB (1024ull * 1024)
#define GIB (1024 * MIB)
#define HOUR G_TIME_SPAN_HOUR
#define NOW (1000 * HOUR)

typedef struct {
    CkptVm *vm;
    GPtrArray *checkpoints, *made, *doomed;
    CkptLimits limits;
    CkptPlanInput input;
    guint64 inode;
} World;

static CkptLayer *
add_file(World *world, const char *path, const char *backing, guint64 allocated, guint64 device)
{
    CkptLayer *layer = g_new0(CkptLayer, 1);

    layer->path = g_strdup(path);
    layer->exists = TRUE;
    layer->format = backing ? CKPT_FORMAT_QCOW2 : CKPT_FORMAT_RAW;
    layer->virtual_size = 10 * GIB;
    layer->allocated = allocated;
    layer->fs_available = 100 * GIB;
    layer->fs_size = 200 * GIB;
    layer->born_us = NOW - 10 * HOUR;
    layer->id = (CkptFileId){.device = device, .inode = ++world->inode, .size = 10, .mtime_ns = 5};
    layer->mode = 0600;
    layer->backing = g_strdup(backing);
    layer->backing_format = !backing ? 0 : strstr(backing, "qcow2") ? CKPT_FORMAT_QCOW2
                                                                    : CKPT_FORMAT_RAW;
    ckpt_vm_add_file(world->vm, layer);
    if (backing)
        g_ptr_array_add(world->made, g_strdup(path));
    return layer;
}

static void
add_disk(World *world, const char *target, const char *top)
{
    CkptDisk *disk = g_new0(CkptDisk, 1);

    disk->target = g_strdup(target);
    disk->source = g_strdup(top);
    disk->format = CKPT_FORMAT_QCOW2;
    disk->chain = g_ptr_array_new();
    while (top) {
        CkptLayer *layer = ckpt_vm_find_file(world->vm, top);

        g_ptr_array_add(disk->chain, layer);
        top = layer->backing;
    }
    g_ptr_array_add(world->vm->disks, disk);
}

static void
seal(World *world, CkptCheckpoint *checkpoint, const char *target, const char *file)
{
    CkptCheckpointDisk *disk = g_new0(CkptCheckpointDisk, 1);
    CkptLayer *layer = ckpt_vm_find_file(world->vm, file);

    disk->target = g_strdup(target);
    disk->sealed_file = g_strdup(file);
    disk->format = layer->format;
    disk->virtual_size = layer->virtual_size;
    disk->id = layer->id;
    disk->mode_before = 0600;
    disk->agent_made = layer->backing != NULL;
    g_ptr_array_add(checkpoint->disks, disk);
}

static CkptCheckpoint *
add_checkpoint(World *world, const char *id, const char *parent)
{
    CkptCheckpoint *checkpoint = ckpt_checkpoint_new();

    ckpt_set_str(&checkpoint->id, id);
    ckpt_set_str(&checkpoint->name, id);
    ckpt_set_str(&checkpoint->parent_id, parent);
    checkpoint->state = CKPT_STATE_READY;
    checkpoint->mechanism = CKPT_MECHANISM_OVERLAY;
    checkpoint->added_us = NOW - 50 * HOUR;
    g_ptr_array_add(world->checkpoints, checkpoint);
    return checkpoint;
}

/* a.raw (1 GiB) ← b.qcow2 (sealed by c2, 300 MiB) ← c.qcow2 (the present state, 500 MiB, ten hours old). */
static World *
world_new(void)
{
    World *world = g_new0(World, 1);

    world->vm = ckpt_vm_new();
    ckpt_set_str(&world->vm->id, "11111111-1111-4111-8111-111111111111");
    ckpt_set_str(&world->vm->name, "web-01");
    world->vm->power = CKPT_POWER_RUNNING;
    world->vm->persistent = TRUE;
    world->vm->definition = g_strdup("<domain/>");
    world->checkpoints = g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_checkpoint_free);
    world->made = g_ptr_array_new_with_free_func(g_free);
    world->doomed = g_ptr_array_new_with_free_func(g_free);
    ckpt_limits_init(&world->limits);
    world->input = (CkptPlanInput){.vm = world->vm,
                                   .checkpoints = world->checkpoints,
                                   .made = world->made,
                                   .doomed = world->doomed,
                                   .limits = &world->limits,
                                   .now_us = NOW,
                                   .current_id = "c2",
                                   .new_id = "abcdef01-2222-4222-8222-222222222222"};
    add_file(world, "/img/a.raw", NULL, GIB, 1);
    add_file(world, "/img/b.qcow2", "/img/a.raw", 300 * MIB, 1);
    add_file(world, "/img/c.qcow2", "/img/b.qcow2", 500 * MIB, 1);
    add_disk(world, "vda", "/img/c.qcow2");
    seal(world, add_checkpoint(world, "c1", NULL), "vda", "/img/a.raw");
    seal(world, add_checkpoint(world, "c2", "c1"), "vda", "/img/b.qcow2");
    return world;
}

static void
world_free(World *world)
{
    ckpt_vm_free(world->vm);
    g_ptr_array_unref(world->checkpoints);
    g_ptr_array_unref(world->made);
    g_ptr_array_unref(world->doomed);
    g_free(world);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(World, world_free)

static CkptLayer *
file(World *world, const char *path)
{
    return ckpt_vm_find_file(world->vm, path);
}

static CkptCheckpoint *
point(World *world, guint i)
{
    return g_ptr_array_index(world->checkpoints, i);
}

static void
add_second_disk(World *world)
{
    add_file(world, "/big/d.raw", NULL, GIB, 2);
    add_file(world, "/big/e.qcow2", "/big/d.raw", 2 * GIB, 2);
    add_disk(world, "vdb", "/big/e.qcow2");
    seal(world, point(world, 1), "vdb", "/big/d.raw");
}

/* ---- Growth ---- */

static void
growth_is_what_the_present_overlay_takes_by_its_age(void **state)
{
    g_autoptr(World) world = world_new();
    g_autoptr(CkptGrowth) growth = ckpt_growth_measure(&world->input, point(world, 1));

    assert_true(growth->known && growth->has_rate && growth->will_be_full);
    assert_int_equal(growth->bytes, 500 * MIB);
    assert_int_equal(growth->since_us, NOW - 10 * HOUR); /* the file's birth, not the checkpoint's */
    assert_int_equal(growth->bytes_per_hour, 50 * MIB);
    assert_int_equal(growth->hours, 100 * GIB / (50 * MIB));
    assert_string_equal(growth->file, "/img/c.qcow2");
}

static void
growth_without_a_birth_counts_from_the_checkpoint_or_its_restore(void **state)
{
    g_autoptr(World) world = world_new();
    g_autoptr(CkptGrowth) growth = NULL, restored = NULL;

    file(world, "/img/c.qcow2")->born_us = 0;
    growth = ckpt_growth_measure(&world->input, point(world, 1));
    assert_int_equal(growth->since_us, NOW - 50 * HOUR);
    assert_int_equal(growth->bytes_per_hour, 10 * MIB);
    point(world, 1)->modified_us = NOW - 5 * HOUR;
    ckpt_set_str(&point(world, 1)->most_recent_task, ckpt_kind_task(CKPT_KIND_RESTORE));
    restored = ckpt_growth_measure(&world->input, point(world, 1));
    assert_int_equal(restored->since_us, NOW - 5 * HOUR);
}

static void
the_file_system_that_is_full_first_is_told(void **state)
{
    g_autoptr(World) world = world_new();
    g_autoptr(CkptGrowth) growth = NULL;

    add_second_disk(world);
    file(world, "/big/e.qcow2")->fs_available = 10 * GIB;
    growth = ckpt_growth_measure(&world->input, point(world, 1));
    assert_int_equal(growth->bytes, 500 * MIB + 2 * GIB);
    assert_int_equal(growth->hours, 50); /* 10 GiB at 2 GiB in ten hours */
    assert_string_equal(growth->file, "/big/e.qcow2");
}

static void
disks_of_one_file_system_fill_it_together(void **state)
{
    g_autoptr(World) world = world_new();
    g_autoptr(CkptGrowth) growth = NULL;

    add_second_disk(world);
    file(world, "/big/e.qcow2")->id.device = 1;
    file(world, "/big/e.qcow2")->allocated = 500 * MIB;
    growth = ckpt_growth_measure(&world->input, point(world, 1));
    assert_int_equal(growth->bytes_per_hour, 100 * MIB);
    assert_int_equal(growth->hours, 1024);
}

static void
growth_has_no_rate_in_the_first_minute(void **state)
{
    const gint64 ages[] = {0, -HOUR, CKPT_GROWTH_MIN_AGE_US - 1};

    for (guint i = 0; i < G_N_ELEMENTS(ages); i++) {
        g_autoptr(World) world = world_new();
        g_autoptr(CkptGrowth) growth = NULL;

        add_second_disk(world); /* whose overlay is old enough */
        file(world, "/img/c.qcow2")->born_us = NOW - ages[i];
        growth = ckpt_growth_measure(&world->input, point(world, 1));
        assert_true(growth->known);
        assert_false(growth->has_rate || growth->will_be_full);
        assert_int_equal(growth->bytes, 500 * MIB + 2 * GIB);
    }
}

static void
growth_of_an_older_checkpoint_is_what_lies_on_it(void **state)
{
    g_autoptr(World) world = world_new();
    g_autoptr(CkptGrowth) growth = NULL;

    add_file(world, "/img/branch.qcow2", "/img/a.raw", 7 * MIB, 1);
    growth = ckpt_growth_measure(&world->input, point(world, 0));
    assert_int_equal(growth->bytes, 307 * MIB);
    assert_int_equal(growth->since_us, 0);
    assert_false(growth->has_rate);
}

static void
growth_is_unknown_where_nothing_of_ours_is_written(void **state)
{
    g_autoptr(World) world = world_new();
    g_autoptr(CkptGrowth) none = ckpt_growth_measure(&world->input, NULL), foreign = NULL;

    g_ptr_array_remove_index(world->made, 1); /* somebody else's overlay */
    foreign = ckpt_growth_measure(&world->input, point(world, 1));
    assert_false(none->known || foreign->known);
    assert_null(ckpt_give_growth(none));
}

static void
growth_is_sent_with_presence(void **state)
{
    CkptGrowth growth = {.known = TRUE, .bytes = 5, .has_rate = TRUE, .bytes_per_hour = 0};
    PB(Growth) *idle = ckpt_give_growth(&growth), *young;

    assert_int_equal(idle->bytes_per_hour_presence_case,
                     VMCHECKPOINT__V1__GROWTH__BYTES_PER_HOUR_PRESENCE_BYTES_PER_HOUR);
    assert_int_equal(idle->hours_until_full_presence_case,
                     VMCHECKPOINT__V1__GROWTH__HOURS_UNTIL_FULL_PRESENCE__NOT_SET);
    growth.has_rate = FALSE;
    young = ckpt_give_growth(&growth);
    assert_int_equal(young->bytes_per_hour_presence_case,
                     VMCHECKPOINT__V1__GROWTH__BYTES_PER_HOUR_PRESENCE__NOT_SET);
    ckpt_message_free(idle);
    ckpt_message_free(young);
}

/* ---- What a delete would free and cost ---- */

static CkptPlan *
plan_delete(World *world, const char *id, GError **error)
{
    CkptRequest request = {.kind = CKPT_KIND_DELETE, .checkpoint_id = (char *)id};

    return ckpt_plan_make(&world->input, &request, error);
}

static const CkptDiskForecast *
forecast_of(CkptPlan *plan, guint disk)
{
    assert_non_null(plan);
    assert_non_null(plan->forecast);
    return g_ptr_array_index(plan->forecast->disks, disk);
}

static void
a_commit_moves_what_the_overlay_holds(void **state)
{
    g_autoptr(World) world = world_new();
    g_autoptr(CkptPlan) plan = plan_delete(world, "c1", NULL);
    const CkptDiskForecast *disk = forecast_of(plan, 0);

    /* 300 MiB into a sparse raw file: between all new there and all there already */
    assert_int_equal(disk->work, CKPT_WORK_COMMIT);
    assert_true(disk->live);
    assert_string_equal(disk->from, "/img/b.qcow2");
    assert_string_equal(disk->into, "/img/a.raw");
    assert_int_equal(disk->moved, 300 * MIB);
    assert_int_equal(disk->needed, 300 * MIB);
    assert_int_equal(disk->freed_min, 0);
    assert_int_equal(disk->freed_max, 300 * MIB);
}

static void
a_commit_into_a_file_that_has_all_its_blocks_frees_all(void **state)
{
    g_autoptr(World) world = world_new();
    g_autoptr(CkptPlan) plan = NULL;
    const CkptDiskForecast *disk;

    file(world, "/img/a.raw")->allocated = 10 * GIB;
    plan = plan_delete(world, "c1", NULL);
    disk = forecast_of(plan, 0);
    assert_int_equal(disk->needed, 0);
    assert_int_equal(disk->freed_min, 300 * MIB);
    assert_int_equal(disk->freed_max, 300 * MIB);
}

static void
a_commit_frees_no_more_than_both_have(void **state)
{
    g_autoptr(World) world = world_new();
    g_autoptr(CkptPlan) plan = NULL;
    const CkptDiskForecast *disk;

    file(world, "/img/b.qcow2")->allocated = 3 * MIB;
    plan = plan_delete(world, "c2", NULL);
    disk = forecast_of(plan, 0);
    assert_int_equal(disk->moved, 500 * MIB);
    assert_int_equal(disk->freed_min, 0);
    assert_in_range(disk->freed_max, 3 * MIB, 5 * MIB);
}

static void
a_pull_moves_what_the_sealed_file_holds(void **state)
{
    g_autoptr(World) world = world_new();
    g_autoptr(CkptPlan) plan = NULL;
    const CkptDiskForecast *disk;

    world->vm->power = CKPT_POWER_SHUT_OFF;
    file(world, "/img/b.qcow2")->allocated = 100 * MIB;
    plan = plan_delete(world, "c2", NULL);
    disk = forecast_of(plan, 0);
    assert_int_equal(disk->work, CKPT_WORK_PULL);
    assert_false(disk->live);
    assert_string_equal(disk->from, "/img/b.qcow2");
    assert_string_equal(disk->into, "/img/c.qcow2");
    assert_int_equal(disk->moved, 100 * MIB);
    assert_int_equal(disk->needed, 100 * MIB);
    assert_int_equal(disk->freed_max, 100 * MIB);
}

static void
a_leaf_is_removed_with_its_other_files(void **state)
{
    g_autoptr(World) world = world_new();
    CkptCheckpointFile *memory = g_new0(CkptCheckpointFile, 1);
    CkptCheckpoint *leaf = add_checkpoint(world, "leaf", "c1");
    g_autoptr(CkptPlan) plan = NULL;
    const CkptDiskForecast *disk;

    add_file(world, "/img/leaf.qcow2", "/img/a.raw", 9 * MIB, 1);
    seal(world, leaf, "vda", "/img/leaf.qcow2");
    memory->kind = CKPT_FILE_MEMORY;
    memory->path = g_strdup("/img/leaf.memory");
    memory->bytes = 512 * MIB;
    g_ptr_array_add(leaf->extras, memory);
    plan = plan_delete(world, "leaf", NULL);
    disk = forecast_of(plan, 0);
    assert_int_equal(disk->work, CKPT_WORK_REMOVE);
    assert_int_equal(disk->freed_min, 9 * MIB);
    assert_int_equal(disk->moved, 0);
    assert_null(disk->into);
    assert_int_equal(plan->forecast->files_freed, 512 * MIB);
    add_file(world, "/img/leaf.memory", NULL, 100 * MIB, 1);
    assert_int_equal(ckpt_plan_extra_bytes(world->vm, leaf), 100 * MIB);
}

static void
the_reply_sums_up_by_file_system(void **state)
{
    g_autoptr(World) world = world_new();
    g_autoptr(CkptPlan) plan = NULL;
    PB(DeleteForecast) *together, *apart;

    add_second_disk(world);
    file(world, "/img/b.qcow2")->format = CKPT_FORMAT_QCOW2;
    plan = plan_delete(world, "c2", NULL);
    apart = ckpt_give_forecast(plan ? plan->forecast : NULL);
    assert_int_equal(apart->n_disks, 2);
    assert_int_equal(apart->n_needs, 2);
    assert_int_equal(apart->moved_bytes, 500 * MIB + 2 * GIB);
    ((CkptDiskForecast *)g_ptr_array_index(plan->forecast->disks, 1))->device = 1;
    together = ckpt_give_forecast(plan->forecast);
    assert_int_equal(together->n_needs, 1);
    assert_int_equal(together->needs[0]->needed_bytes, 500 * MIB + 2 * GIB);
    ckpt_message_free(apart);
    ckpt_message_free(together);
}

/* ---- The reserve ---- */

static void
the_larger_of_both_reserves_holds(void **state)
{
    g_autoptr(World) world = world_new();
    CkptRequest request = {.kind = CKPT_KIND_CREATE,
                           .asked = CKPT_CONSISTENCY_CRASH,
                           .minimum = CKPT_CONSISTENCY_CRASH,
                           .identity = (char *)"dns:me"};
    g_autoptr(CkptPlan) enough = NULL, little = NULL;
    g_autoptr(GError) error = NULL;
    GHashTable *metadata;

    world->limits.reserve_bytes = GIB;
    world->limits.reserve_percent = 10; /* of 200 GiB */
    file(world, "/img/c.qcow2")->fs_available = 20 * GIB + MIB;
    enough = ckpt_plan_make(&world->input, &request, &error);
    assert_non_null(enough);
    file(world, "/img/c.qcow2")->fs_available = 20 * GIB - MIB;
    little = ckpt_plan_make(&world->input, &request, &error);
    assert_null(little);
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_SPACE_LOW);
    metadata = ckpt_error_metadata(error);
    assert_string_equal(g_hash_table_lookup(metadata, "file"), "/img/c.qcow2");
    assert_string_equal(g_hash_table_lookup(metadata, "free_bytes"), "21473787904");
    assert_string_equal(g_hash_table_lookup(metadata, "needed_bytes"), "21475360768");
}

/* ---- What is said ---- */

static gboolean
says(GPtrArray *advice, const char *words)
{
    for (guint i = 0; i < advice->len; i++)
        if (strstr(g_ptr_array_index(advice, i), words))
            return TRUE;
    return FALSE;
}

static GPtrArray *
advice_of(World *world)
{
    g_autoptr(CkptGrowth) growth = ckpt_growth_measure(&world->input, point(world, 1));

    return ckpt_advice_of(&world->input, growth);
}

static void
what_would_stay_behind_is_said(void **state)
{
    g_autoptr(World) world = world_new();
    g_autoptr(GPtrArray) advice = advice_of(world), none = NULL;

    assert_true(says(advice, "--copy-storage-all, or -inc) leaves its 2 checkpoints behind"));
    assert_true(says(advice, "800.0 MiB stay in /img"));
    assert_true(says(advice, "storing the VM leaves its 2 checkpoints behind"));
    assert_int_equal(advice->len, 2);
    g_ptr_array_set_size(world->checkpoints, 0);
    world->input.current_id = NULL;
    none = ckpt_advice_of(&world->input, &(CkptGrowth){0});
    assert_int_equal(none->len, 0);
}

static void
depth_is_warned_of_and_then_said_to_be_the_end(void **state)
{
    g_autoptr(World) world = world_new();
    g_autoptr(GPtrArray) deep = NULL, end = NULL;

    world->limits.max_depth = 2;
    end = advice_of(world);
    assert_true(says(end, "checkpoint 2 of a line of 2 at most (limits.max_depth): no further"));
    world->limits.max_depth = 3;
    deep = advice_of(world);
    assert_false(says(deep, "at most")); /* two of three: below three quarters */
    add_checkpoint(world, "c3", "c2");
    world->input.current_id = "c3";
    world->limits.max_depth = 4;
    g_ptr_array_unref(g_steal_pointer(&deep));
    deep = advice_of(world);
    assert_true(says(deep, "checkpoint 3 of a line of 4 at most (limits.max_depth): each"));
}

static void
a_file_system_that_is_soon_full_is_warned_of(void **state)
{
    g_autoptr(World) world = world_new();
    g_autoptr(GPtrArray) soon = NULL, full = NULL;

    file(world, "/img/c.qcow2")->fs_available = 1000 * MIB;
    soon = advice_of(world);
    assert_true(says(soon, "the file system of /img/c.qcow2 is full in 20 hours"));
    assert_false(says(soon, "no checkpoint can be created"));
    file(world, "/img/c.qcow2")->fs_available = 60 * MIB;
    full = advice_of(world);
    assert_true(says(full, "60.0 MiB free, less than its reserve: no checkpoint can be created"));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(growth_is_what_the_present_overlay_takes_by_its_age),
        cmocka_unit_test(growth_without_a_birth_counts_from_the_checkpoint_or_its_restore),
        cmocka_unit_test(the_file_system_that_is_full_first_is_told),
        cmocka_unit_test(disks_of_one_file_system_fill_it_together),
        cmocka_unit_test(growth_has_no_rate_in_the_first_minute),
        cmocka_unit_test(growth_of_an_older_checkpoint_is_what_lies_on_it),
        cmocka_unit_test(growth_is_unknown_where_nothing_of_ours_is_written),
        cmocka_unit_test(growth_is_sent_with_presence),
        cmocka_unit_test(a_commit_moves_what_the_overlay_holds),
        cmocka_unit_test(a_commit_into_a_file_that_has_all_its_blocks_frees_all),
        cmocka_unit_test(a_commit_frees_no_more_than_both_have),
        cmocka_unit_test(a_pull_moves_what_the_sealed_file_holds),
        cmocka_unit_test(a_leaf_is_removed_with_its_other_files),
        cmocka_unit_test(the_reply_sums_up_by_file_system),
        cmocka_unit_test(the_larger_of_both_reserves_holds),
        cmocka_unit_test(what_would_stay_behind_is_said),
        cmocka_unit_test(depth_is_warned_of_and_then_said_to_be_the_end),
        cmocka_unit_test(a_file_system_that_is_soon_full_is_warned_of),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
