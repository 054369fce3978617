#include "planner_world.h"

CkptLayer *
world_add_file(World *world, const char *path, const char *backing)
{
    CkptLayer *layer = g_new0(CkptLayer, 1);

    layer->path = g_strdup(path);
    layer->exists = TRUE;
    layer->format = backing ? CKPT_FORMAT_QCOW2 : CKPT_FORMAT_RAW;
    layer->virtual_size = 64 * MIB;
    layer->allocated = MIB;
    layer->fs_available = 1024ull * MIB;
    layer->id = (CkptFileId){.device = 1, .inode = ++world->inode, .size = 10, .mtime_ns = 5};
    layer->mode = 0600;
    layer->backing = g_strdup(backing);
    layer->backing_format = backing ? CKPT_FORMAT_QCOW2 : 0;
    g_hash_table_insert(world->vm->files, g_strdup(path), layer);
    return layer;
}

void
world_put_on(World *world, CkptDisk *disk, const char *top)
{
    g_ptr_array_set_size(disk->chain, 0);
    ckpt_set_str(&disk->source, top);
    for (const char *path = top; path;) {
        CkptLayer *layer = ckpt_vm_find_file(world->vm, path);

        g_ptr_array_add(disk->chain, layer);
        path = layer->backing;
    }
}

CkptDisk *
world_add_disk(World *world, const char *target, const char *top)
{
    CkptDisk *disk = g_new0(CkptDisk, 1);

    disk->target = g_strdup(target);
    disk->format = CKPT_FORMAT_RAW;
    disk->chain = g_ptr_array_new();
    g_ptr_array_add(world->vm->disks, disk);
    world_put_on(world, disk, top);
    return disk;
}

World *
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
                                   .now_us = 1000000,
                                   .new_id = "abcdef01-2222-4222-8222-222222222222"};
    return world;
}

void
world_free(World *world)
{
    ckpt_vm_free(world->vm);
    g_ptr_array_unref(world->checkpoints);
    g_ptr_array_unref(world->made);
    g_ptr_array_unref(world->doomed);
    g_free(world->current);
    g_free(world);
}

void
world_set_current(World *world, const char *id)
{
    ckpt_set_str(&world->current, id);
    world->input.current_id = world->current;
}

CkptCheckpoint *
world_add_checkpoint(World *world, const char *id, const char *parent, const char *file)
{
    CkptCheckpoint *checkpoint = ckpt_checkpoint_new();
    CkptCheckpointDisk *disk = g_new0(CkptCheckpointDisk, 1);
    CkptLayer *layer = ckpt_vm_find_file(world->vm, file);

    ckpt_set_str(&checkpoint->id, id);
    ckpt_set_str(&checkpoint->name, id);
    ckpt_set_str(&checkpoint->vm_id, world->vm->id);
    ckpt_set_str(&checkpoint->parent_id, parent);
    ckpt_set_str(&checkpoint->definition, "<domain/>");
    checkpoint->state = CKPT_STATE_READY;
    checkpoint->mechanism = CKPT_MECHANISM_OVERLAY;
    checkpoint->power = CKPT_POWER_RUNNING;
    checkpoint->revision = 7;
    disk->target = g_strdup("vda");
    disk->sealed_file = g_strdup(file);
    disk->format = layer->format;
    disk->virtual_size = layer->virtual_size;
    disk->id = layer->id;
    disk->mode_before = 0644;
    disk->agent_made = layer->backing != NULL;
    layer->mode = 0440;
    g_ptr_array_add(checkpoint->disks, disk);
    g_ptr_array_add(world->checkpoints, checkpoint);
    return checkpoint;
}

World *
world_with_line(guint count)
{
    World *world = world_new();
    g_autofree char *top = g_strdup("/img/web.raw");
    g_autofree char *parent = NULL;

    world_add_file(world, top, NULL);
    for (guint i = 1; i <= count; i++) {
        g_autofree char *id = g_strdup_printf("c%u", i);
        g_autofree char *overlay = g_strdup_printf("/img/web.ckpt-%u.qcow2", i);

        world_add_checkpoint(world, id, parent, top);
        world_add_file(world, overlay, top);
        g_ptr_array_add(world->made, g_strdup(overlay));
        ckpt_set_str(&top, overlay);
        ckpt_set_str(&parent, id);
    }
    world_add_disk(world, "vda", top);
    world_set_current(world, parent);
    return world;
}

void
world_add_branch(World *world, const char *id, const char *parent, const char *file,
                 const char *backing)
{
    world_add_file(world, file, backing);
    g_ptr_array_add(world->made, g_strdup(file));
    world_add_checkpoint(world, id, parent, file);
}

CkptPlan *
world_plan(World *world, CkptKind kind, const char *checkpoint_id, GError **error)
{
    g_autoptr(CkptRequest) request = ckpt_request_new(kind);

    ckpt_set_str(&request->identity, "spiffe://test/operator");
    ckpt_set_str(&request->checkpoint_id, checkpoint_id);
    request->asked = CKPT_CONSISTENCY_APPLICATION;
    request->minimum = CKPT_CONSISTENCY_CRASH;
    return ckpt_plan_make(&world->input, request, error);
}

CkptPlan *
world_plan_request(World *world, CkptRequest *request, GError **error)
{
    ckpt_set_str(&request->identity, "spiffe://test/operator");
    return ckpt_plan_make(&world->input, request, error);
}

CkptPlan *
world_must_plan(World *world, CkptKind kind, const char *id)
{
    g_autoptr(GError) error = NULL;
    CkptPlan *made = world_plan(world, kind, id, &error);

    if (!made)
        fail_msg("refused: %s", error->message);
    return made;
}

char *
plan_names(const CkptPlan *made)
{
    g_autoptr(GString) text = g_string_new(NULL);

    for (guint i = 0; i < made->steps->len; i++) {
        CkptStep *step = g_ptr_array_index(made->steps, i);

        g_string_append_printf(text, "%s%s", i ? " " : "", ckpt_step_name(step->kind));
    }
    return g_string_free(g_steal_pointer(&text), FALSE);
}

CkptStep *
plan_find_step(const CkptPlan *made, CkptStepKind kind, guint nth)
{
    for (guint i = 0; i < made->steps->len; i++) {
        CkptStep *step = g_ptr_array_index(made->steps, i);

        if (step->kind == kind && nth-- == 0)
            return step;
    }
    fail_msg("no such step");
    return NULL;
}

CkptChange *
plan_last_change(const CkptPlan *made)
{
    CkptChange *change = NULL;

    for (guint i = 0; i < made->steps->len; i++) {
        CkptStep *step = g_ptr_array_index(made->steps, i);

        if (step->change)
            change = step->change;
    }
    assert_non_null(change);
    return change;
}

guint
plan_count_steps(const CkptPlan *made, CkptStepKind kind)
{
    guint count = 0;

    for (guint i = 0; i < made->steps->len; i++)
        count += ((CkptStep *)g_ptr_array_index(made->steps, i))->kind == kind;
    return count;
}

void
assert_steps(const CkptPlan *made, const char *expected)
{
    g_autofree char *got = plan_names(made);

    assert_string_equal(got, expected);
}

void
assert_refused(World *world, CkptKind kind, const char *id, CkptReason reason)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptPlan) made = world_plan(world, kind, id, &error);

    assert_null(made);
    assert_non_null(error);
    assert_string_equal(ckpt_reason_name(ckpt_error_reason(error)), ckpt_reason_name(reason));
}
