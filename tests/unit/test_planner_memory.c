/* The planner of checkpoints with memory: what is captured, what a restore goes on from, what a delete removes. */
#include "cmocka_all.h"

#include "agent/core/planner.h"

#define MIB (1024 * 1024ull)
#define TOP "/img/web.qcow2"
#define ID "abcdef01-2222-4222-8222-222222222222"
#define IMAGE "/img/web.ckpt-00000001.memory"

typedef struct {
    CkptVm *vm;
    GPtrArray *checkpoints, *made;
    CkptLimits limits;
    CkptPlanInput input;
    CkptRequest *request;
    CkptPlan *plan;
    GError *error;
} World;

static CkptLayer *
add_file(World *world, const char *path, const char *backing)
{
    static guint64 inode = 100;
    CkptLayer *layer = g_new0(CkptLayer, 1);

    layer->path = g_strdup(path);
    layer->exists = TRUE;
    layer->format = CKPT_FORMAT_QCOW2;
    layer->virtual_size = 64 * MIB;
    layer->fs_available = 1024 * MIB;
    layer->id = (CkptFileId){.device = 1, .inode = ++inode, .size = 10, .mtime_ns = 5};
    layer->mode = 0600;
    layer->backing = g_strdup(backing);
    layer->backing_format = backing ? CKPT_FORMAT_QCOW2 : 0;
    ckpt_vm_add_file(world->vm, layer);
    return layer;
}

static void
put_on(World *world, const char *top)
{
    CkptDisk *disk = g_ptr_array_index(world->vm->disks, 0);

    ckpt_set_str(&disk->source, top);
    g_ptr_array_set_size(disk->chain, 0);
    for (const char *path = top; path;) {
        CkptLayer *layer = ckpt_vm_find_file(world->vm, path);

        g_ptr_array_add(disk->chain, layer);
        path = layer->backing;
    }
}

static int
set_up(void **state)
{
    World *world = g_new0(World, 1);
    CkptDisk *disk = g_new0(CkptDisk, 1);

    world->vm = ckpt_vm_new();
    ckpt_set_str(&world->vm->id, "11111111-1111-4111-8111-111111111111");
    ckpt_set_str(&world->vm->name, "web-01");
    ckpt_set_str(&world->vm->definition, "<domain/>");
    ckpt_set_str(&world->vm->qemu_version, "7.2.22");
    world->vm->power = CKPT_POWER_RUNNING;
    world->vm->persistent = TRUE;
    world->vm->memory_bytes = 256 * MIB;
    world->vm->downtime_ms = 300;
    world->vm->memory.available = TRUE;
    disk->target = g_strdup("vda");
    disk->format = CKPT_FORMAT_QCOW2;
    disk->chain = g_ptr_array_new();
    g_ptr_array_add(world->vm->disks, disk);
    add_file(world, TOP, NULL);
    put_on(world, TOP);
    world->checkpoints = g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_checkpoint_free);
    world->made = g_ptr_array_new_with_free_func(g_free);
    ckpt_limits_init(&world->limits);
    world->input = (CkptPlanInput){.vm = world->vm,
                                   .checkpoints = world->checkpoints,
                                   .made = world->made,
                                   .limits = &world->limits,
                                   .now_us = 1,
                                   .new_id = ID};
    *state = world;
    return 0;
}

static int
tear_down(void **state)
{
    World *world = *state;

    ckpt_vm_free(world->vm);
    g_ptr_array_unref(world->checkpoints);
    g_ptr_array_unref(world->made);
    ckpt_request_free(world->request);
    ckpt_plan_free(world->plan);
    g_clear_error(&world->error);
    g_free(world);
    return 0;
}

static CkptRequest *
ask(World *world, CkptKind kind)
{
    g_clear_pointer(&world->request, ckpt_request_free);
    world->request = ckpt_request_new(kind);
    world->request->asked = world->request->minimum = CKPT_CONSISTENCY_MEMORY;
    ckpt_set_str(&world->request->vm_id, world->vm->id);
    ckpt_set_str(&world->request->checkpoint_id, "c1");
    ckpt_set_str(&world->request->identity, "spiffe://test/operator");
    return world->request;
}

static CkptPlan *
made(World *world)
{
    g_clear_pointer(&world->plan, ckpt_plan_free);
    g_clear_error(&world->error);
    world->plan = ckpt_plan_make(&world->input, world->request, &world->error);
    return world->plan;
}

static CkptPlan *
planned(World *world)
{
    if (!made(world))
        fail_msg("refused: %s", world->error->message);
    return world->plan;
}

static void
assert_refused(World *world, CkptReason reason, const char *word)
{
    assert_null(made(world));
    assert_int_equal(ckpt_error_reason(world->error), reason);
    assert_non_null(strstr(world->error->message, word));
}

static CkptStep *
find(World *world, CkptStepKind kind, const char *file)
{
    for (guint i = 0; i < world->plan->steps->len; i++) {
        CkptStep *step = g_ptr_array_index(world->plan->steps, i);

        if (step->kind == kind && (!file || g_strcmp0(step->file, file) == 0))
            return step;
    }
    return NULL;
}

/* The VM on a checkpoint c1 that holds memory. */
static CkptCheckpoint *
add_checkpoint(World *world)
{
    CkptCheckpoint *checkpoint = ckpt_checkpoint_new();
    CkptCheckpointDisk *disk = g_new0(CkptCheckpointDisk, 1);
    CkptCheckpointFile *memory = g_new0(CkptCheckpointFile, 1);

    ckpt_set_str(&checkpoint->id, "c1");
    ckpt_set_str(&checkpoint->vm_id, world->vm->id);
    ckpt_set_str(&checkpoint->vm_name, "web-01");
    ckpt_set_str(&checkpoint->definition, "<domain/>");
    ckpt_set_str(&checkpoint->qemu_version, "7.2.22");
    checkpoint->state = CKPT_STATE_READY;
    checkpoint->mechanism = CKPT_MECHANISM_OVERLAY;
    checkpoint->power = CKPT_POWER_RUNNING;
    disk->target = g_strdup("vda");
    disk->sealed_file = g_strdup(TOP);
    disk->format = CKPT_FORMAT_QCOW2;
    disk->virtual_size = 64 * MIB;
    disk->id = ckpt_vm_find_file(world->vm, TOP)->id;
    disk->mode_before = 0600;
    g_ptr_array_add(checkpoint->disks, disk);
    memory->kind = CKPT_FILE_MEMORY;
    memory->path = g_strdup(IMAGE);
    memory->id = add_file(world, IMAGE, NULL)->id;
    g_ptr_array_add(checkpoint->extras, memory);
    g_ptr_array_add(world->checkpoints, checkpoint);
    g_ptr_array_add(world->made, g_strdup(IMAGE));
    g_ptr_array_add(world->made, g_strdup("/img/web.ckpt-00000001.qcow2"));
    add_file(world, "/img/web.ckpt-00000001.qcow2", TOP);
    put_on(world, "/img/web.ckpt-00000001.qcow2");
    world->input.current_id = "c1";
    return checkpoint;
}

/* ---- Create ---- */

static void
memory_lies_beside_the_first_overlay(void **state)
{
    World *world = *state;
    const CkptStep *snapshot;
    CkptCheckpointFile *memory;

    ask(world, CKPT_KIND_CREATE);
    planned(world);
    memory = ckpt_checkpoint_find_extra(world->plan->checkpoint, CKPT_FILE_MEMORY);
    assert_string_equal(memory->path, "/img/web.ckpt-abcdef01.memory");
    snapshot = find(world, CKPT_STEP_SNAPSHOT, memory->path);
    assert_non_null(snapshot);
    assert_int_equal(snapshot->asked, CKPT_CONSISTENCY_MEMORY);
    assert_int_equal(snapshot->minimum, CKPT_CONSISTENCY_MEMORY);
    assert_int_equal(snapshot->downtime_ms, 300);
    assert_true(snapshot->size == world->limits.reserve_bytes);
    assert_non_null(find(world, CKPT_STEP_IDENTIFY, memory->path));
    assert_string_equal(world->plan->checkpoint->qemu_version, "7.2.22");
}

static void
memory_needs_as_much_space_as_the_vm_has(void **state)
{
    World *world = *state;

    ask(world, CKPT_KIND_CREATE);
    ckpt_vm_find_file(world->vm, TOP)->fs_available = world->vm->memory_bytes + world->limits.reserve_bytes;
    assert_refused(world, CKPT_REASON_SPACE_LOW, "memory image");
    ckpt_vm_find_file(world->vm, TOP)->fs_available += 32 * MIB;
    planned(world);
}

static void
memory_that_has_no_room_is_left_out_where_less_is_accepted(void **state)
{
    World *world = *state;

    ask(world, CKPT_KIND_CREATE)->minimum = CKPT_CONSISTENCY_CRASH;
    ckpt_vm_find_file(world->vm, TOP)->fs_available = world->vm->memory_bytes + world->limits.reserve_bytes;
    planned(world);
    assert_int_equal(world->plan->checkpoint->reached, CKPT_CONSISTENCY_CRASH);
    assert_int_equal(find(world, CKPT_STEP_SNAPSHOT, NULL)->asked, CKPT_CONSISTENCY_CRASH);
    assert_null(ckpt_checkpoint_find_extra(world->plan->checkpoint, CKPT_FILE_MEMORY));
    assert_true(world->plan->warnings->len > 0);
    assert_non_null(strstr(world->plan->warnings->pdata[0], "memory is not captured: "));
    assert_non_null(strstr(world->plan->warnings->pdata[0], "MiB free"));
    world->request->minimum = CKPT_CONSISTENCY_APPLICATION;
    assert_refused(world, CKPT_REASON_CONSISTENCY_UNAVAILABLE, "APPLICATION");
    world->vm->application.available = TRUE;
    planned(world);
    assert_int_equal(world->plan->checkpoint->reached, CKPT_CONSISTENCY_APPLICATION);
    /* Not even the disks' overlays have room. */
    ckpt_vm_find_file(world->vm, TOP)->fs_available = world->limits.reserve_bytes;
    assert_refused(world, CKPT_REASON_SPACE_LOW, "MiB free");
}

/* Watched while it is written, as it was looked for beforehand. */
static void
a_reserve_in_percent_stays_free_beside_the_image(void **state)
{
    World *world = *state;

    ask(world, CKPT_KIND_CREATE);
    ckpt_vm_find_file(world->vm, TOP)->fs_size = 2000 * MIB;
    world->limits.reserve_percent = 10;
    planned(world);
    assert_true(find(world, CKPT_STEP_SNAPSHOT, NULL)->size == 200 * MIB);
}

static void
what_cannot_be_written_down_falls_back_or_is_refused(void **state)
{
    World *world = *state;
    CkptRequest *request = ask(world, CKPT_KIND_CREATE);

    world->vm->memory.available = FALSE;
    world->vm->memory.reason = g_strdup("it has a device of the host");
    assert_refused(world, CKPT_REASON_CONSISTENCY_UNAVAILABLE, "device of the host");
    request->minimum = CKPT_CONSISTENCY_CRASH;
    planned(world);
    assert_int_equal(world->plan->checkpoint->reached, CKPT_CONSISTENCY_CRASH);
    assert_int_equal(world->plan->checkpoint->extras->len, 0);
    assert_non_null(strstr(g_ptr_array_index(world->plan->warnings, 0), "device of the host"));
}

/* ---- Restore ---- */

static void
a_restore_goes_on_from_the_image(void **state)
{
    World *world = *state;
    const CkptStep *start;

    add_checkpoint(world);
    ask(world, CKPT_KIND_RESTORE);
    planned(world);
    start = find(world, CKPT_STEP_START, IMAGE);
    assert_non_null(start);
    assert_int_equal(start->disks->len, 1);
    /* What would refuse it is looked for before anything is made or stopped. */
    assert_int_equal(((CkptStep *)g_ptr_array_index(world->plan->steps, 0))->kind,
                     CKPT_STEP_CHECK_MEMORY);
}

static void
assert_disks_alone(World *world)
{
    planned(world);
    assert_null(find(world, CKPT_STEP_CHECK_MEMORY, NULL));
    assert_null(find(world, CKPT_STEP_START, IMAGE));
}

static void
the_disks_alone_are_restored_when_asked(void **state)
{
    World *world = *state;
    CkptRequest *request;

    add_checkpoint(world);
    request = ask(world, CKPT_KIND_RESTORE);
    request->restore_power = CKPT_POWER_SHUT_OFF;
    assert_disks_alone(world);
    request->restore_power = CKPT_POWER_RUNNING;
    request->without_memory = TRUE;
    assert_disks_alone(world);
    assert_non_null(find(world, CKPT_STEP_START, NULL));
}

static void
a_missing_or_changed_image_is_refused_but_its_disks_are_not(void **state)
{
    World *world = *state;
    CkptLayer *layer;
    CkptRequest *request;

    add_checkpoint(world);
    layer = ckpt_vm_find_file(world->vm, IMAGE);
    request = ask(world, CKPT_KIND_RESTORE);
    layer->id.mtime_ns++;
    assert_refused(world, CKPT_REASON_MEMORY_UNLOADABLE, "changed");
    layer->exists = FALSE;
    assert_refused(world, CKPT_REASON_MEMORY_UNLOADABLE, "missing");
    assert_false(ckpt_plan_verify(&world->input, g_ptr_array_index(world->checkpoints, 0), NULL));
    request->without_memory = TRUE;
    assert_disks_alone(world);
}

static void
a_renamed_vm_cannot_go_on(void **state)
{
    World *world = *state;

    add_checkpoint(world);
    ask(world, CKPT_KIND_RESTORE);
    ckpt_set_str(&world->vm->name, "web-02");
    assert_refused(world, CKPT_REASON_MEMORY_UNLOADABLE, "web-01");
    world->request->without_memory = TRUE;
    assert_disks_alone(world);
}

/* ---- Delete ---- */

static void
a_delete_removes_the_image(void **state)
{
    World *world = *state;

    add_checkpoint(world);
    ask(world, CKPT_KIND_DELETE);
    planned(world);
    assert_non_null(find(world, CKPT_STEP_REMOVE_FILE, IMAGE));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(memory_lies_beside_the_first_overlay, set_up, tear_down),
        cmocka_unit_test_setup_teardown(memory_needs_as_much_space_as_the_vm_has, set_up, tear_down),
        cmocka_unit_test_setup_teardown(memory_that_has_no_room_is_left_out_where_less_is_accepted, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_reserve_in_percent_stays_free_beside_the_image, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(what_cannot_be_written_down_falls_back_or_is_refused, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_restore_goes_on_from_the_image, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_disks_alone_are_restored_when_asked, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_missing_or_changed_image_is_refused_but_its_disks_are_not, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_renamed_vm_cannot_go_on, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_delete_removes_the_image, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
