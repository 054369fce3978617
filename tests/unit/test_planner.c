/* The planner, on views of VMs put together by hand: which steps, in which order, and every refusal. */
#include "cmocka_all.h"

#include "agent/core/graph.h"
#include "agent/core/planner.h"

#define MIB (1024 * 1024)

typedef struct {
    CkptVm *vm;
    GPtrArray *checkpoints, *made, *doomed;
    CkptLimits limits;
    CkptPlanInput input;
    char *current;
    guint64 inode;
} World;

static CkptLayer *
add_file(World *world, const char *path, const char *backing)
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

static void
put_on(World *world, CkptDisk *disk, const char *top)
{
    g_ptr_array_set_size(disk->chain, 0);
    ckpt_set_str(&disk->source, top);
    for (const char *path = top; path;) {
        CkptLayer *layer = ckpt_vm_find_file(world->vm, path);

        g_ptr_array_add(disk->chain, layer);
        path = layer->backing;
    }
}

static CkptDisk *
add_disk(World *world, const char *target, const char *top)
{
    CkptDisk *disk = g_new0(CkptDisk, 1);

    disk->target = g_strdup(target);
    disk->format = CKPT_FORMAT_RAW;
    disk->chain = g_ptr_array_new();
    g_ptr_array_add(world->vm->disks, disk);
    put_on(world, disk, top);
    return disk;
}

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
                                   .now_us = 1000000,
                                   .new_id = "abcdef01-2222-4222-8222-222222222222"};
    return world;
}

static void
world_free(World *world)
{
    ckpt_vm_free(world->vm);
    g_ptr_array_unref(world->checkpoints);
    g_ptr_array_unref(world->made);
    g_ptr_array_unref(world->doomed);
    g_free(world->current);
    g_free(world);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(World, world_free)

static void
set_current(World *world, const char *id)
{
    ckpt_set_str(&world->current, id);
    world->input.current_id = world->current;
}

/* A checkpoint whose only disk vda lies in `file`. */
static CkptCheckpoint *
add_checkpoint(World *world, const char *id, const char *parent, const char *file)
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

/* One disk with a line of checkpoints c1 … cN and the present state on cN. base ← o1 ← o2 … */
static World *
world_with_line(guint count)
{
    World *world = world_new();
    g_autofree char *top = g_strdup("/img/web.raw");
    g_autofree char *parent = NULL;

    add_file(world, top, NULL);
    for (guint i = 1; i <= count; i++) {
        g_autofree char *id = g_strdup_printf("c%u", i);
        g_autofree char *overlay = g_strdup_printf("/img/web.ckpt-%u.qcow2", i);

        add_checkpoint(world, id, parent, top);
        add_file(world, overlay, top);
        g_ptr_array_add(world->made, g_strdup(overlay));
        ckpt_set_str(&top, overlay);
        ckpt_set_str(&parent, id);
    }
    add_disk(world, "vda", top);
    set_current(world, parent);
    return world;
}

/* A second branch on the checkpoint: a safety checkpoint sealed `file`, which lies on `backing`. */
static void
add_branch(World *world, const char *id, const char *parent, const char *file, const char *backing)
{
    add_file(world, file, backing);
    g_ptr_array_add(world->made, g_strdup(file));
    add_checkpoint(world, id, parent, file);
}

static CkptPlan *
plan(World *world, CkptKind kind, const char *checkpoint_id, GError **error)
{
    g_autoptr(CkptRequest) request = ckpt_request_new(kind);

    ckpt_set_str(&request->identity, "spiffe://test/operator");
    ckpt_set_str(&request->checkpoint_id, checkpoint_id);
    request->asked = CKPT_CONSISTENCY_APPLICATION;
    request->minimum = CKPT_CONSISTENCY_CRASH;
    return ckpt_plan_make(&world->input, request, error);
}

static char *
names(const CkptPlan *made)
{
    g_autoptr(GString) text = g_string_new(NULL);

    for (guint i = 0; i < made->steps->len; i++) {
        CkptStep *step = g_ptr_array_index(made->steps, i);

        g_string_append_printf(text, "%s%s", i ? " " : "", ckpt_step_name(step->kind));
    }
    return g_string_free(g_steal_pointer(&text), FALSE);
}

static CkptStep *
find_step(const CkptPlan *made, CkptStepKind kind, guint nth)
{
    for (guint i = 0; i < made->steps->len; i++) {
        CkptStep *step = g_ptr_array_index(made->steps, i);

        if (step->kind == kind && nth-- == 0)
            return step;
    }
    fail_msg("no such step");
    return NULL;
}

static CkptChange *
last_change(const CkptPlan *made)
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

static void
assert_steps(const CkptPlan *made, const char *expected)
{
    g_autofree char *got = names(made);

    assert_string_equal(got, expected);
}

static void
assert_refused(World *world, CkptKind kind, const char *id, CkptReason reason)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptPlan) made = plan(world, kind, id, &error);

    assert_null(made);
    assert_non_null(error);
    assert_string_equal(ckpt_reason_name(ckpt_error_reason(error)), ckpt_reason_name(reason));
}

static CkptPlan *
plan_ok(World *world, CkptKind kind, const char *id)
{
    g_autoptr(GError) error = NULL;
    CkptPlan *made = plan(world, kind, id, &error);

    if (!made)
        fail_msg("refused: %s", error->message);
    return made;
}

/* ---- Create ---- */

static void
create_seals_before_the_snapshot_and_checks_what_it_catalogued(void **state)
{
    g_autoptr(World) world = world_with_line(0);
    g_autoptr(CkptPlan) made = plan_ok(world, CKPT_KIND_CREATE, NULL);

    assert_steps(made, "make-overlay write-manifest seal snapshot identify write-manifest catalogue "
                       "check-chain");
    assert_int_equal(made->decisive, 3);
    assert_false(made->no_return);
    assert_string_equal(find_step(made, CKPT_STEP_MAKE_OVERLAY, 0)->file,
                        "/img/web.ckpt-abcdef01.qcow2");
    assert_int_equal(find_step(made, CKPT_STEP_SEAL, 0)->mode, 0600);
    assert_true(find_step(made, CKPT_STEP_SNAPSHOT, 0)->untried);
    assert_string_equal(last_change(made)->current_id, world->input.new_id);
    assert_null(made->checkpoint->parent_id);
}

/* QEMU that writes to its disks as a member of their group must be able to write to the overlay. */
static void
an_overlay_lets_the_group_in_only_where_it_could_write(void **state)
{
    g_autoptr(World) world = world_with_line(0);
    CkptDisk *disk = g_ptr_array_index(world->vm->disks, 0);
    CkptLayer *top = g_ptr_array_index(disk->chain, 0);
    const guint modes[][2] = {{0600, 0600}, {0644, 0600}, {0640, 0600}, {0660, 0660}, {0666, 0660}};

    for (guint i = 0; i < G_N_ELEMENTS(modes); i++) {
        top->mode = modes[i][0];
        g_autoptr(CkptPlan) made = plan_ok(world, CKPT_KIND_CREATE, NULL);

        assert_int_equal(find_step(made, CKPT_STEP_MAKE_OVERLAY, 0)->mode, modes[i][1]);
    }
}

/* The copy is made before the disks' instant, so that a crash leaves none that is later than the disks. */
static void
create_saves_uefi_variables_just_before_the_snapshot(void **state)
{
    g_autoptr(World) world = world_with_line(0);
    g_autoptr(CkptPlan) made = NULL;
    const CkptCheckpointFile *file;

    add_file(world, "/nvram/web-01", NULL);
    world->vm->nvram = g_strdup("/nvram/web-01");
    g_ptr_array_add(world->vm->not_captured, g_strdup("the TPM's state"));
    made = plan_ok(world, CKPT_KIND_CREATE, NULL);
    assert_steps(made, "make-overlay write-manifest seal save-nvram snapshot compare-nvram identify identify "
                       "write-manifest catalogue check-chain");
    file = ckpt_checkpoint_find_extra(made->checkpoint, CKPT_FILE_NVRAM);
    assert_string_equal(file->path, find_step(made, CKPT_STEP_SAVE_NVRAM, 0)->file);
    assert_true(g_str_has_suffix(file->path, ".ckpt-abcdef01.nvram"));
    assert_string_equal(made->checkpoint->not_captured->pdata[0], "the TPM's state");
    assert_string_equal(made->warnings->pdata[made->warnings->len - 1], "not captured: the TPM's state");
}

/* It works on disks alone, and may be the way to get space back. */
static void
delete_is_not_refused_for_uefi_variables(void **state)
{
    g_autoptr(World) world = world_with_line(1);

    ckpt_vm_add_obstacle(world->vm, CKPT_REASON_NVRAM_UNSUPPORTED, NULL, NULL, "they are in a qcow2 file");
    assert_refused(world, CKPT_KIND_CREATE, NULL, CKPT_REASON_NVRAM_UNSUPPORTED);
    assert_refused(world, CKPT_KIND_RESTORE, "c1", CKPT_REASON_NVRAM_UNSUPPORTED);
    ckpt_plan_free(plan_ok(world, CKPT_KIND_DELETE, "c1"));
}

static void
overlays_of_a_block_device_go_into_their_folder(void **state)
{
    g_autoptr(World) world = world_new();
    g_autoptr(CkptPlan) made = NULL;
    CkptLayer *device = add_file(world, "/dev/vg0/web", NULL);

    device->block = TRUE;
    device->overlay_folder = g_strdup("/overlays");
    device->overlay_device = 7;
    add_disk(world, "vda", "/dev/vg0/web");
    made = plan_ok(world, CKPT_KIND_CREATE, NULL);
    assert_string_equal(find_step(made, CKPT_STEP_MAKE_OVERLAY, 0)->file,
                        "/overlays/dev-vg0-web.ckpt-abcdef01.qcow2");
    assert_string_equal(find_step(made, CKPT_STEP_MAKE_OVERLAY, 0)->base, "/dev/vg0/web");
    device->fs_available = MIB; /* of the folder's file system */
    assert_refused(world, CKPT_KIND_CREATE, NULL, CKPT_REASON_SPACE_LOW);
}

static void
disk_that_outgrew_its_block_device_is_not_merged(void **state)
{
    g_autoptr(World) world = world_with_line(1);
    const CkptCheckpoint *only = g_ptr_array_index(world->checkpoints, 0);
    const char *sealed = ((CkptCheckpointDisk *)only->disks->pdata[0])->sealed_file;
    CkptDisk *disk = g_ptr_array_index(world->vm->disks, 0);

    ((CkptLayer *)disk->chain->pdata[0])->virtual_size += MIB;
    ckpt_plan_free(plan_ok(world, CKPT_KIND_DELETE, only->id));
    ckpt_vm_find_file(world->vm, sealed)->block = TRUE;
    assert_refused(world, CKPT_KIND_DELETE, only->id, CKPT_REASON_DISK_RESIZED);
}

/* As the refusal above asks for. */
static void
block_device_that_grew_still_holds_its_checkpoint(void **state)
{
    g_autoptr(World) world = world_with_line(1);
    CkptCheckpoint *only = g_ptr_array_index(world->checkpoints, 0);
    CkptCheckpointDisk *kept = g_ptr_array_index(only->disks, 0);
    CkptLayer *device = ckpt_vm_find_file(world->vm, kept->sealed_file);
    CkptDisk *disk = g_ptr_array_index(world->vm->disks, 0);

    device->block = TRUE;
    kept->id = device->id =
        (CkptFileId){.device = CKPT_FILE_ID_BLOCK, .inode = 77, .size = device->virtual_size};
    ((CkptLayer *)disk->chain->pdata[0])->virtual_size += MIB;
    device->virtual_size += MIB;
    device->id.size += MIB;
    assert_true(ckpt_plan_verify(&world->input, only, NULL));
    ckpt_plan_free(plan_ok(world, CKPT_KIND_DELETE, only->id));
    ckpt_plan_free(plan_ok(world, CKPT_KIND_RESTORE, only->id));
    device->id.inode++; /* another one of that name */
    assert_refused(world, CKPT_KIND_DELETE, only->id, CKPT_REASON_SEALED_FILE_CHANGED);
}

static void
create_on_a_line_has_the_current_one_as_parent(void **state)
{
    g_autoptr(World) world = world_with_line(2);
    g_autoptr(CkptPlan) made = plan_ok(world, CKPT_KIND_CREATE, NULL);
    CkptDiskFile *disk = g_ptr_array_index(find_step(made, CKPT_STEP_CHECK_CHAIN, 0)->disks, 0);

    assert_string_equal(made->checkpoint->parent_id, "c2");
    assert_int_equal(g_strv_length(disk->chain), 4);
    assert_string_equal(disk->chain[0], "/img/web.ckpt-abcdef01.qcow2");
    assert_string_equal(disk->chain[3], "/img/web.raw");
}

static void
create_names_disks_of_one_name_apart(void **state)
{
    g_autoptr(World) world = world_new();
    g_autoptr(CkptPlan) made = NULL;

    add_file(world, "/img/web.raw", NULL);
    add_file(world, "/img/web.qcow2", NULL);
    add_disk(world, "vda", "/img/web.raw");
    add_disk(world, "vdb", "/img/web.qcow2");
    made = plan_ok(world, CKPT_KIND_CREATE, NULL);
    assert_string_equal(find_step(made, CKPT_STEP_MAKE_OVERLAY, 0)->file,
                        "/img/web.ckpt-abcdef01.qcow2");
    assert_string_equal(find_step(made, CKPT_STEP_MAKE_OVERLAY, 1)->file,
                        "/img/web-vdb.ckpt-abcdef01.qcow2");
}

static void
create_is_refused_beyond_the_depth_limit(void **state)
{
    g_autoptr(World) world = world_with_line(20);

    assert_refused(world, CKPT_KIND_CREATE, NULL, CKPT_REASON_DEPTH_LIMIT);
}

static void
create_is_refused_without_a_writable_disk(void **state)
{
    g_autoptr(World) world = world_new();

    assert_refused(world, CKPT_KIND_CREATE, NULL, CKPT_REASON_VM_STATE_UNSUPPORTED);
}

static void
create_is_refused_below_the_reserve(void **state)
{
    g_autoptr(World) world = world_with_line(1);

    ckpt_vm_find_file(world->vm, "/img/web.ckpt-1.qcow2")->fs_available = 63 * MIB;
    assert_refused(world, CKPT_KIND_CREATE, NULL, CKPT_REASON_SPACE_LOW);
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

    put_on(world, g_ptr_array_index(world->vm->disks, 0), "/img/web.raw");
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
    made = plan_ok(world, CKPT_KIND_CREATE, NULL);
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

    add_file(world, "/alias/web.raw", NULL)->id =
        ckpt_vm_find_file(world->vm, "/img/web.raw")->id;
    put_on(world, g_ptr_array_index(world->vm->disks, 0), "/alias/web.raw");
    assert_refused(world, CKPT_KIND_CREATE, NULL, CKPT_REASON_VM_QUARANTINED);
}

static void
a_chain_that_somebody_moved_is_refused(void **state)
{
    g_autoptr(World) world = world_with_line(2);

    set_current(world, "c1");
    assert_refused(world, CKPT_KIND_CREATE, NULL, CKPT_REASON_CHAIN_MISMATCH);
}

/* ---- Restore ---- */

static void
restore_defines_before_it_stops_and_keeps_the_present_state(void **state)
{
    g_autoptr(World) world = world_with_line(2);
    g_autoptr(CkptPlan) made = plan_ok(world, CKPT_KIND_RESTORE, "c1");
    CkptChange *change = last_change(made);

    assert_steps(made, "make-overlay write-manifest define stop seal identify write-manifest start "
                       "check-chain catalogue");
    assert_int_equal(made->decisive, 2);
    assert_false(made->no_return);
    assert_string_equal(find_step(made, CKPT_STEP_MAKE_OVERLAY, 0)->base, "/img/web.raw");
    assert_string_equal(find_step(made, CKPT_STEP_SEAL, 0)->file, "/img/web.ckpt-2.qcow2");
    assert_string_equal(change->current_id, "c1");
    assert_int_equal(change->upserts->len, 2);
    assert_string_equal(made->safety->parent_id, "c2");
    assert_int_equal(made->safety->accessibility, CKPT_ACCESSIBILITY_INTERNAL);
    assert_int_equal(change->gone->len, 0);
}

static void
restore_of_a_vm_that_is_off_stops_nothing(void **state)
{
    g_autoptr(World) world = world_with_line(1);
    g_autoptr(CkptPlan) made = NULL;
    CkptCheckpoint *c1 = g_ptr_array_index(world->checkpoints, 0);

    world->vm->power = CKPT_POWER_SHUT_OFF;
    c1->power = CKPT_POWER_SHUT_OFF;
    made = plan_ok(world, CKPT_KIND_RESTORE, "c1");
    assert_steps(made, "make-overlay write-manifest define seal identify write-manifest check-chain "
                       "catalogue");
}

static void
restore_that_discards_removes_only_what_the_agent_made(void **state)
{
    g_autoptr(World) world = world_with_line(1);
    g_autoptr(CkptRequest) request = ckpt_request_new(CKPT_KIND_RESTORE);
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptPlan) made = NULL;

    add_file(world, "/img/other.raw", NULL);
    add_disk(world, "vdb", "/img/other.raw"); /* attached since */
    ckpt_set_str(&request->checkpoint_id, "c1");
    request->discard_present_state = TRUE;
    made = ckpt_plan_make(&world->input, request, &error);
    assert_non_null(made);
    assert_null(made->safety);
    assert_int_equal(last_change(made)->gone->len, 1);
    assert_string_equal(find_step(made, CKPT_STEP_REMOVE_FILE, 0)->file, "/img/web.ckpt-1.qcow2");
    assert_int_equal(made->warnings->len, 1);
}

static void
restore_refuses_a_changed_sealed_file(void **state)
{
    g_autoptr(World) world = world_with_line(2);

    ckpt_vm_find_file(world->vm, "/img/web.raw")->id.mtime_ns++;
    assert_refused(world, CKPT_KIND_RESTORE, "c1", CKPT_REASON_SEALED_FILE_CHANGED);
    /* c2's contents lie in it too */
    assert_refused(world, CKPT_KIND_RESTORE, "c2", CKPT_REASON_SEALED_FILE_CHANGED);
}

static void
restore_refuses_a_file_that_is_written_or_missing(void **state)
{
    g_autoptr(World) world = world_with_line(2);
    CkptLayer *layer = ckpt_vm_find_file(world->vm, "/img/web.raw");

    layer->write_locked = TRUE;
    assert_refused(world, CKPT_KIND_RESTORE, "c1", CKPT_REASON_SEALED_FILE_CHANGED);
    layer->write_locked = FALSE;
    layer->exists = FALSE;
    assert_refused(world, CKPT_KIND_RESTORE, "c1", CKPT_REASON_DISK_FILE_MISSING);
}

static void
restore_checks_etag_and_expected_current(void **state)
{
    g_autoptr(World) world = world_with_line(2);
    g_autoptr(CkptRequest) request = ckpt_request_new(CKPT_KIND_RESTORE);
    g_autoptr(GError) error = NULL;

    ckpt_set_str(&request->checkpoint_id, "c1");
    request->etag = 6;
    assert_null(ckpt_plan_make(&world->input, request, &error));
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_ETAG_MISMATCH);
    g_clear_error(&error);
    request->etag = 7;
    ckpt_set_str(&request->expected_current_checkpoint_id, "c1");
    assert_null(ckpt_plan_make(&world->input, request, &error));
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_CURRENT_CHECKPOINT_MISMATCH);
}

/* ---- Delete ---- */

static void
delete_of_the_current_one_merges_the_top_into_its_file(void **state)
{
    g_autoptr(World) world = world_with_line(1);
    g_autoptr(CkptPlan) made = plan_ok(world, CKPT_KIND_DELETE, "c1");
    CkptStep *merge = find_step(made, CKPT_STEP_MERGE, 0);

    assert_steps(made, "unseal reserve catalogue merge check-chain catalogue remove-manifest remove-file");
    assert_int_equal(made->decisive, 2);
    assert_true(made->no_return);
    assert_string_equal(merge->file, "/img/web.ckpt-1.qcow2");
    assert_string_equal(merge->base, "/img/web.raw");
    assert_null(merge->above);
    assert_null(last_change(made)->current_id);
    assert_true(last_change(made)->set_current);
    assert_int_equal(find_step(made, CKPT_STEP_UNSEAL, 0)->mode, 0644);
}

static void
delete_reserves_in_the_file_as_it_was_sealed(void **state) /* hazard A8 */
{
    g_autoptr(World) world = world_with_line(1);
    g_autoptr(CkptPlan) made = plan_ok(world, CKPT_KIND_DELETE, "c1");
    const CkptLayer *sealed = ckpt_vm_find_file(world->vm, "/img/web.raw");
    CkptStep *reserve = find_step(made, CKPT_STEP_RESERVE, 0);

    assert_string_equal(reserve->file, "/img/web.ckpt-1.qcow2");
    assert_string_equal(reserve->base, "/img/web.raw");
    assert_int_equal(reserve->base_format, CKPT_FORMAT_RAW);
    assert_int_equal(reserve->size, sealed->allocated);
    assert_true(ckpt_file_id_equal(&reserve->id, &sealed->id));
}

static void
delete_in_the_middle_remaps_the_child_and_seals_again(void **state)
{
    g_autoptr(World) world = world_with_line(3);
    g_autoptr(CkptPlan) made = plan_ok(world, CKPT_KIND_DELETE, "c1");
    CkptChange *change = last_change(made);
    CkptCheckpoint *c2 = ckpt_graph_find(change->upserts, "c2");
    CkptStep *merge = find_step(made, CKPT_STEP_MERGE, 0);

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
    assert_string_equal(find_step(made, CKPT_STEP_REMOVE_FILE, 0)->file, "/img/web.ckpt-1.qcow2");
}

static void
delete_of_a_leaf_removes_its_file_after_its_row(void **state)
{
    g_autoptr(World) world = world_with_line(1);
    g_autoptr(CkptPlan) made = NULL;

    add_branch(world, "s1", "c1", "/img/web.ckpt-s.qcow2", "/img/web.raw");
    made = plan_ok(world, CKPT_KIND_DELETE, "s1");
    assert_steps(made, "catalogue check-chain catalogue remove-manifest remove-file");
    assert_string_equal(find_step(made, CKPT_STEP_REMOVE_FILE, 0)->file, "/img/web.ckpt-s.qcow2");
}

static void
delete_under_a_leaf_merges_files_of_no_present_chain(void **state)
{
    g_autoptr(World) world = world_with_line(2);
    g_autoptr(CkptPlan) made = NULL;
    CkptDiskFile *disk;

    /* the VM went back to c1: c2 and the safety checkpoint on it are a branch of their own */
    add_checkpoint(world, "s1", "c2", "/img/web.ckpt-2.qcow2");
    add_file(world, "/img/web.ckpt-n.qcow2", "/img/web.raw");
    g_ptr_array_add(world->made, g_strdup("/img/web.ckpt-n.qcow2"));
    put_on(world, g_ptr_array_index(world->vm->disks, 0), "/img/web.ckpt-n.qcow2");
    set_current(world, "c1");
    made = plan_ok(world, CKPT_KIND_DELETE, "c2");
    assert_true(find_step(made, CKPT_STEP_MERGE, 0)->leaf);
    disk = g_ptr_array_index(find_step(made, CKPT_STEP_CHECK_CHAIN, 0)->disks, 0);
    assert_string_equal(disk->chain[0], "/img/web.ckpt-n.qcow2");
    assert_string_equal(
        ((CkptCheckpointDisk *)ckpt_graph_find(last_change(made)->upserts, "s1")->disks->pdata[0])
            ->sealed_file,
        "/img/web.ckpt-1.qcow2");
}

static void
delete_of_a_branch_point_is_refused_with_its_branches(void **state) /* hazard A2 */
{
    g_autoptr(World) world = world_with_line(1);
    g_autoptr(GError) error = NULL;

    add_branch(world, "s1", "c1", "/img/web.ckpt-s.qcow2", "/img/web.raw");
    assert_null(plan(world, CKPT_KIND_DELETE, "c1", &error));
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_BRANCH_POINT);
    assert_non_null(strstr(error->message, "s1"));
    assert_non_null(strstr(error->message, "the present state"));
}

static guint
count_steps(const CkptPlan *made, CkptStepKind kind)
{
    guint count = 0;

    for (guint i = 0; i < made->steps->len; i++)
        count += ((CkptStep *)g_ptr_array_index(made->steps, i))->kind == kind;
    return count;
}

static CkptLayer *
add_doomed(World *world, const char *file, const char *backing)
{
    CkptLayer *layer = add_file(world, file, backing);

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
    made = plan(world, CKPT_KIND_DELETE, "c1", &error);
    if (!made)
        fail_msg("%s", error->message);
    assert_int_equal(count_steps(made, CKPT_STEP_REBASE), 0);
    assert_string_equal(find_step(made, CKPT_STEP_MERGE, 0)->above, "/img/web.ckpt-2.qcow2");
    assert_string_equal(find_step(made, CKPT_STEP_REMOVE_FILE, 0)->file, "/img/web.ckpt-1.qcow2");
    assert_int_equal(count_steps(made, CKPT_STEP_REMOVE_FILE), 1);
}

static void
use_as_top(World *world, CkptLayer *left)
{
    add_disk(world, "vdb", left->path);
}

static void
use_as_clone(World *world, CkptLayer *left)
{
    ckpt_vm_add_user(world->vm, left->path, TRUE, "VM web-02, disk vda");
}

static void
use_as_row(World *world, CkptLayer *left)
{
    add_checkpoint(world, "s1", "c1", left->path);
}

static void
use_as_base(World *world, CkptLayer *left)
{
    add_file(world, "/img/somebodys.qcow2", left->path);
}

/* Hazard A5: libvirt names the file below. */
static void
use_by_qemu(World *world, CkptLayer *left)
{
    CkptDisk *disk = g_ptr_array_index(world->vm->disks, 0);

    ckpt_set_str(&disk->live_source, "/img/web.raw");
    left->write_locked = left->read_locked = TRUE;
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

    add_branch(world, "s1", "c2", "/img/web.ckpt-s.qcow2", "/img/web.ckpt-1.qcow2");
    return world;
}

static void
delete_below_a_branch_point_rebases_the_other_branches(void **state) /* hazard A27 */
{
    g_autoptr(World) world = world_with_branches_above();
    g_autoptr(CkptPlan) made = plan_ok(world, CKPT_KIND_DELETE, "c1");
    CkptStep *merge = find_step(made, CKPT_STEP_MERGE, 0);
    CkptStep *rebase = find_step(made, CKPT_STEP_REBASE, 0);
    CkptChange *change = last_change(made);

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
    assert_string_equal(find_step(made, CKPT_STEP_REMOVE_FILE, 0)->file, "/img/web.ckpt-1.qcow2");
}

static void
delete_below_branches_of_no_present_chain_rebases_all_but_one(void **state)
{
    g_autoptr(World) world = world_with_branches_above();
    g_autoptr(CkptPlan) made = NULL;

    add_branch(world, "s2", "c2", "/img/web.ckpt-t.qcow2", "/img/web.ckpt-1.qcow2");
    /* the present state is elsewhere: on a root checkpoint of its own */
    add_file(world, "/img/other.raw", NULL);
    add_checkpoint(world, "d1", NULL, "/img/other.raw");
    add_file(world, "/img/other.ckpt-1.qcow2", "/img/other.raw");
    put_on(world, g_ptr_array_index(world->vm->disks, 0), "/img/other.ckpt-1.qcow2");
    set_current(world, "d1");
    made = plan_ok(world, CKPT_KIND_DELETE, "c1");
    assert_string_equal(find_step(made, CKPT_STEP_MERGE, 0)->above, "/img/web.ckpt-2.qcow2");
    assert_string_equal(find_step(made, CKPT_STEP_REBASE, 0)->file, "/img/web.ckpt-s.qcow2");
    assert_string_equal(find_step(made, CKPT_STEP_REBASE, 1)->file, "/img/web.ckpt-t.qcow2");
}

static void
delete_below_a_branch_that_is_in_use_is_refused_by_its_name(void **state)
{
    g_autoptr(World) world = world_with_branches_above();
    g_autoptr(GError) error = NULL;

    ckpt_vm_find_file(world->vm, "/img/web.ckpt-s.qcow2")->read_locked = TRUE;
    assert_null(plan(world, CKPT_KIND_DELETE, "c1", &error));
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_BRANCH_REBASE_REQUIRED);
    assert_non_null(strstr(error->message, "/img/web.ckpt-s.qcow2"));
}

static void
delete_below_a_branch_of_somebody_else_is_refused(void **state) /* hazard A18 */
{
    g_autoptr(World) world = world_with_line(2);

    add_file(world, "/img/theirs.qcow2", "/img/web.ckpt-1.qcow2");
    assert_refused(world, CKPT_KIND_DELETE, "c1", CKPT_REASON_BRANCH_REBASE_REQUIRED);
    g_hash_table_remove(world->vm->files, "/img/theirs.qcow2");
    ckpt_vm_add_user(world->vm, "/img/web.ckpt-1.qcow2", FALSE, "VM clone, disk vda");
    assert_refused(world, CKPT_KIND_DELETE, "c1", CKPT_REASON_BRANCH_POINT);
}

static void
delete_whose_present_state_is_somebodys_base_is_refused(void **state)
{
    g_autoptr(World) world = world_with_line(1);

    add_file(world, "/img/theirs.qcow2", "/img/web.ckpt-1.qcow2");
    assert_refused(world, CKPT_KIND_DELETE, "c1", CKPT_REASON_BRANCH_POINT);
}

/* A snapshot that another tool made; external: of what is in `file`, with an overlay laid on it. */
static CkptSnapshot *
add_foreign(World *world, const char *name, const char *file, const char *overlay)
{
    CkptSnapshot *snapshot = ckpt_snapshot_new(name);

    snapshot->internal = !overlay;
    ckpt_snapshot_add_file(snapshot->disks, "vda", file, CKPT_FORMAT_QCOW2);
    ckpt_snapshot_add_file(snapshot->named, "", file, CKPT_FORMAT_QCOW2);
    if (overlay)
        ckpt_snapshot_add_file(snapshot->named, "", overlay, CKPT_FORMAT_QCOW2);
    g_ptr_array_add(world->vm->foreign, snapshot);
    return snapshot;
}

static void
assert_delete_refused(World *world, const char *id, CkptReason reason, const char *word)
{
    g_autoptr(CkptRequest) request = ckpt_request_new(CKPT_KIND_DELETE);
    g_autoptr(CkptPlan) plan = NULL;
    g_autoptr(GError) error = NULL;

    ckpt_set_str(&request->checkpoint_id, id);
    plan = ckpt_plan_make(&world->input, request, &error);
    assert_null(plan);
    assert_int_equal(ckpt_error_reason(error), reason);
    assert_non_null(strstr(error->message, word));
}

static gboolean
delete_is_planned(World *world, const char *id)
{
    g_autoptr(CkptRequest) request = ckpt_request_new(CKPT_KIND_DELETE);
    g_autoptr(CkptPlan) plan = NULL;

    ckpt_set_str(&request->checkpoint_id, id);
    plan = ckpt_plan_make(&world->input, request, NULL);
    return plan != NULL;
}

static void
delete_is_refused_where_a_foreign_snapshot_consists_of_a_file(void **state)
{
    g_autoptr(World) world = world_with_line(2);

    add_foreign(world, "nightly", "/img/web.ckpt-1.qcow2", "/img/web.nightly");
    assert_delete_refused(world, "c1", CKPT_REASON_FOREIGN_SNAPSHOT_PRESENT, "'nightly'");
    assert_delete_refused(world, "c2", CKPT_REASON_FOREIGN_SNAPSHOT_PRESENT, "'nightly'");
}

static void
delete_merges_into_what_a_foreign_snapshot_only_names(void **state)
{
    g_autoptr(World) world = world_with_line(2);

    /* Laid by it over what it is: the VM went on there, and what it writes belongs to no snapshot. */
    add_foreign(world, "nightly", "/img/web.raw", "/img/web.ckpt-1.qcow2");
    assert_true(delete_is_planned(world, "c2"));
    assert_delete_refused(world, "c1", CKPT_REASON_FOREIGN_SNAPSHOT_PRESENT, "'nightly'");
}

static void
delete_merges_into_a_file_with_internal_snapshots_and_not_below_it(void **state)
{
    g_autoptr(World) world = world_with_line(2);

    add_foreign(world, "inner", "/img/web.ckpt-1.qcow2", NULL);
    ckpt_vm_find_file(world->vm, "/img/web.ckpt-1.qcow2")->snapshots = TRUE;
    assert_true(delete_is_planned(world, "c2"));
    assert_delete_refused(world, "c1", CKPT_REASON_FOREIGN_SNAPSHOT_PRESENT, "'inner'");
}

static void
create_of_a_vm_that_is_off_is_refused_beside_libvirt_checkpoints(void **state) /* hazard A23 */
{
    g_autoptr(World) world = world_with_line(1);
    g_autoptr(CkptRequest) request = ckpt_request_new(CKPT_KIND_CREATE);
    g_autoptr(CkptPlan) plan = NULL;
    g_autoptr(GError) error = NULL;

    world->vm->backup_points = 2;
    request->asked = request->minimum = CKPT_CONSISTENCY_CRASH;
    plan = ckpt_plan_make(&world->input, request, &error);
    assert_non_null(plan);
    assert_non_null(strstr(plan->warnings->pdata[0], "2 libvirt checkpoints"));
    g_clear_pointer(&plan, ckpt_plan_free);
    world->vm->power = CKPT_POWER_SHUT_OFF;
    plan = ckpt_plan_make(&world->input, request, &error);
    assert_null(plan);
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_LIBVIRT_CHECKPOINT_PRESENT);
}

static void
delete_beside_another_vms_clone_is_refused(void **state) /* hazard A18 */
{
    g_autoptr(World) world = world_with_line(1);

    ckpt_vm_add_user(world->vm, "/img/web.raw", FALSE, "VM clone, disk vda");
    assert_refused(world, CKPT_KIND_DELETE, "c1", CKPT_REASON_BRANCH_POINT);
}

static void
delete_never_merges_what_the_agent_did_not_make(void **state)
{
    g_autoptr(World) world = world_with_line(1);

    g_ptr_array_set_size(world->made, 0);
    assert_refused(world, CKPT_KIND_DELETE, "c1", CKPT_REASON_BRANCH_POINT);
}

static void
delete_of_a_shrunk_disk_is_refused(void **state) /* hazard A29 */
{
    g_autoptr(World) world = world_with_line(1);

    ckpt_vm_find_file(world->vm, "/img/web.ckpt-1.qcow2")->virtual_size = 32 * MIB;
    assert_refused(world, CKPT_KIND_DELETE, "c1", CKPT_REASON_DISK_RESIZED);
}

/* Refused while nothing has happened, and only where it would be merged by the running VM. */
static void
delete_that_apparmor_would_deny_is_refused(void **state) /* hazard A14 */
{
    g_autoptr(World) world = world_with_line(1);

    ckpt_vm_find_file(world->vm, "/img/web.raw")->commit_denied = TRUE;
    assert_refused(world, CKPT_KIND_DELETE, "c1", CKPT_REASON_SHUT_DOWN_REQUIRED);
    world->vm->power = CKPT_POWER_SHUT_OFF;
    ckpt_plan_free(plan_ok(world, CKPT_KIND_DELETE, "c1"));
}

/* ---- The pull: a sealed file into the top ---- */

/* base ← o1 (c2's, small) ← o2 (the present state, big), and off. */
static World *
world_with_a_big_top(void)
{
    World *world = world_with_line(2);

    world->vm->power = CKPT_POWER_SHUT_OFF;
    ckpt_vm_find_file(world->vm, "/img/web.ckpt-2.qcow2")->allocated = 40 * MIB;
    return world;
}

static void
delete_below_a_big_top_pulls_the_small_file_up(void **state)
{
    g_autoptr(World) world = world_with_a_big_top();
    g_autoptr(CkptPlan) made = plan_ok(world, CKPT_KIND_DELETE, "c2");
    CkptStep *pull = find_step(made, CKPT_STEP_PULL, 0);
    CkptStep *reserve = find_step(made, CKPT_STEP_RESERVE, 0);
    CkptDiskFile *disk = g_ptr_array_index(find_step(made, CKPT_STEP_CHECK_CHAIN, 0)->disks, 0);
    CkptChange *change = last_change(made);

    assert_steps(made, "reserve catalogue pull check-chain catalogue remove-manifest remove-file");
    assert_int_equal(made->decisive, 1);
    assert_string_equal(pull->file, "/img/web.ckpt-1.qcow2");
    assert_string_equal(pull->above, "/img/web.ckpt-2.qcow2");
    assert_string_equal(pull->base, "/img/web.raw");
    assert_int_equal(pull->base_format, CKPT_FORMAT_QCOW2);
    /* the space is taken where the top grows, and that is no sealed file */
    assert_string_equal(reserve->file, "/img/web.ckpt-1.qcow2");
    assert_string_equal(reserve->base, "/img/web.ckpt-2.qcow2");
    assert_false(ckpt_file_id_is_set(&reserve->id));
    assert_string_equal(disk->chain[0], "/img/web.ckpt-2.qcow2");
    assert_string_equal(disk->chain[1], "/img/web.raw");
    assert_null(disk->chain[2]);
    /* the lower checkpoint's row and file are as they were */
    assert_int_equal(change->upserts->len, 0);
    assert_string_equal(change->current_id, "c1");
    assert_string_equal(change->gone->pdata[0], "/img/web.ckpt-1.qcow2");
    assert_string_equal(find_step(made, CKPT_STEP_REMOVE_FILE, 0)->file, "/img/web.ckpt-1.qcow2");
    assert_string_equal(find_step(made, CKPT_STEP_REMOVE_MANIFEST, 0)->checkpoint_id, "c2");
}

/* QEMU dies of a block pull, or loses what it pulled: see find_pull(). */
static void
delete_in_a_vm_that_is_not_off_is_never_a_pull(void **state)
{
    static const CkptPower powers[] = {CKPT_POWER_RUNNING, CKPT_POWER_PAUSED, CKPT_POWER_CRASHED,
                                       CKPT_POWER_SUSPENDED, CKPT_POWER_UNKNOWN};

    for (guint i = 0; i < G_N_ELEMENTS(powers); i++) {
        g_autoptr(World) world = world_with_a_big_top();
        g_autoptr(CkptPlan) made = NULL;

        world->vm->power = powers[i];
        made = plan(world, CKPT_KIND_DELETE, "c2", NULL);
        if (made && count_steps(made, CKPT_STEP_PULL) > 0)
            fail_msg("pulled in power state %d", powers[i]);
    }
}

static void
delete_merges_where_a_pull_is_not_clearly_less(void **state)
{
    g_autoptr(World) world = world_with_a_big_top();
    g_autoptr(CkptPlan) made = NULL;

    ckpt_vm_find_file(world->vm, "/img/web.ckpt-1.qcow2")->allocated = 20 * MIB;
    made = plan_ok(world, CKPT_KIND_DELETE, "c2");
    assert_int_equal(count_steps(made, CKPT_STEP_PULL), 0);
    assert_int_equal(count_steps(made, CKPT_STEP_MERGE), 1);
}

/* Whatever the sizes: not the first file, whose name survives; not below a sealed file; not where the
 * file below is longer, or an image is more than plain data. */
static void
delete_never_pulls_where_that_is_not_safe(void **state)
{
    g_autoptr(World) root = world_with_line(1);
    g_autoptr(World) middle = world_with_line(3);
    g_autoptr(CkptPlan) of_root = NULL;
    g_autoptr(CkptPlan) of_middle = NULL;

    root->vm->power = middle->vm->power = CKPT_POWER_SHUT_OFF;
    ckpt_vm_find_file(root->vm, "/img/web.ckpt-1.qcow2")->allocated = 40 * MIB;
    ckpt_vm_find_file(middle->vm, "/img/web.ckpt-2.qcow2")->allocated = 40 * MIB;
    for (guint i = 0; i < 11; i++) {
        g_autoptr(World) world = world_with_a_big_top();
        g_autoptr(CkptPlan) made = NULL;
        CkptLayer *sealed = ckpt_vm_find_file(world->vm, "/img/web.ckpt-1.qcow2");
        CkptLayer *top = ckpt_vm_find_file(world->vm, "/img/web.ckpt-2.qcow2");
        CkptDisk *disk = g_ptr_array_index(world->vm->disks, 0);

        if (i == 0)
            sealed->encrypted = TRUE;
        else if (i == 1)
            ckpt_vm_find_file(world->vm, "/img/web.raw")->virtual_size = 65 * MIB;
        else if (i == 2)
            sealed->bitmaps = TRUE;
        else if (i == 3)
            top->encrypted = TRUE;
        else if (i == 4)
            sealed->backing_format = 0;
        else if (i == 5)
            ckpt_set_str(&disk->source, "/img/web.raw");
        else if (i == 6)
            g_ptr_array_remove_index(world->made, 0); /* the sealed one is not ours */
        else if (i == 7)
            sealed->snapshots = TRUE;
        else if (i == 8)
            top->snapshots = TRUE;
        else if (i == 9)
            top->virtual_size = 65 * MIB;
        else
            ckpt_vm_find_file(world->vm, "/img/web.raw")->exists = FALSE;
        made = plan(world, CKPT_KIND_DELETE, "c2", NULL);
        if (made && count_steps(made, CKPT_STEP_PULL) > 0)
            fail_msg("case %u is pulled", i);
    }
    of_root = plan_ok(root, CKPT_KIND_DELETE, "c1");
    of_middle = plan_ok(middle, CKPT_KIND_DELETE, "c2");
    assert_int_equal(count_steps(of_root, CKPT_STEP_PULL), 0);
    assert_int_equal(count_steps(of_middle, CKPT_STEP_PULL), 0);
}

static void
delete_needs_room_for_what_it_pulls(void **state)
{
    g_autoptr(World) world = world_with_a_big_top();

    ckpt_vm_find_file(world->vm, "/img/web.ckpt-1.qcow2")->allocated = 19 * MIB;
    ckpt_vm_find_file(world->vm, "/img/web.ckpt-2.qcow2")->fs_available = 82 * MIB;
    assert_refused(world, CKPT_KIND_DELETE, "c2", CKPT_REASON_SPACE_LOW);
    ckpt_vm_find_file(world->vm, "/img/web.ckpt-2.qcow2")->fs_available = 84 * MIB;
    ckpt_plan_free(plan_ok(world, CKPT_KIND_DELETE, "c2"));
}

static void
delete_never_takes_the_newest_file_of_a_detached_disk(void **state)
{
    g_autoptr(World) world = world_with_line(1);

    /* vda's overlay is in no definition any more, another disk has its place */
    add_file(world, "/img/new.raw", NULL);
    put_on(world, g_ptr_array_index(world->vm->disks, 0), "/img/new.raw");
    assert_refused(world, CKPT_KIND_DELETE, "c1", CKPT_REASON_DISK_DETACHED);
}

static void
delete_needs_room_for_what_it_merges(void **state)
{
    g_autoptr(World) world = world_with_line(1);

    ckpt_vm_find_file(world->vm, "/img/web.raw")->virtual_size = 2000ull * MIB;
    ckpt_vm_find_file(world->vm, "/img/web.ckpt-1.qcow2")->virtual_size = 2000ull * MIB;
    ckpt_vm_find_file(world->vm, "/img/web.ckpt-1.qcow2")->allocated = 1000ull * MIB;
    assert_refused(world, CKPT_KIND_DELETE, "c1", CKPT_REASON_SPACE_LOW);
}

static CkptCheckpointDisk *
add_checkpoint_disk(CkptCheckpoint *checkpoint, const char *target, const CkptLayer *sealed)
{
    CkptCheckpointDisk *disk = g_new0(CkptCheckpointDisk, 1);

    disk->target = g_strdup(target);
    disk->sealed_file = g_strdup(sealed->path);
    disk->format = sealed->format;
    disk->virtual_size = sealed->virtual_size;
    disk->id = sealed->id;
    disk->mode_before = 0644;
    g_ptr_array_add(checkpoint->disks, disk);
    return disk;
}

/* Each has room for itself: 600 of 1024 MiB, on one file system or on two. */
static void
space_is_summed_for_each_file_system(void **state)
{
    for (guint devices = 1; devices <= 2; devices++) {
        g_autoptr(World) world = world_with_line(1);
        CkptLayer *base = add_file(world, "/img/web-b.raw", NULL);
        CkptLayer *overlay = add_file(world, "/img/web-b.ckpt-1.qcow2", "/img/web-b.raw");

        base->id.device = devices;
        add_disk(world, "vdb", overlay->path);
        add_checkpoint_disk(g_ptr_array_index(world->checkpoints, 0), "vdb", base);
        g_ptr_array_add(world->made, g_strdup(overlay->path));
        for (guint i = 0; i < 2; i++) {
            const char *bases[] = {"/img/web.raw", "/img/web-b.raw"};
            const char *overlays[] = {"/img/web.ckpt-1.qcow2", "/img/web-b.ckpt-1.qcow2"};

            ckpt_vm_find_file(world->vm, bases[i])->virtual_size = 2048ull * MIB;
            ckpt_vm_find_file(world->vm, overlays[i])->virtual_size = 2048ull * MIB;
            ckpt_vm_find_file(world->vm, overlays[i])->allocated = 600ull * MIB;
        }
        if (devices == 1)
            assert_refused(world, CKPT_KIND_DELETE, "c1", CKPT_REASON_SPACE_LOW);
        else
            ckpt_plan_free(plan_ok(world, CKPT_KIND_DELETE, "c1"));
    }
}

/* A raw file that has all its blocks needs none. */
static void
delete_into_an_allocated_file_needs_no_room(void **state)
{
    g_autoptr(World) world = world_with_line(1);
    CkptLayer *base = ckpt_vm_find_file(world->vm, "/img/web.raw");
    CkptLayer *overlay = ckpt_vm_find_file(world->vm, "/img/web.ckpt-1.qcow2");

    base->virtual_size = base->allocated = overlay->virtual_size = 1000ull * MIB;
    overlay->allocated = 1000ull * MIB;
    ckpt_plan_free(plan_ok(world, CKPT_KIND_DELETE, "c1"));
    base->fs_available = MIB; /* the reserve is touched: this is how it comes back */
    ckpt_plan_free(plan_ok(world, CKPT_KIND_DELETE, "c1"));
    overlay->virtual_size = 2000ull * MIB; /* grown since */
    assert_refused(world, CKPT_KIND_DELETE, "c1", CKPT_REASON_SPACE_LOW);
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

/* ---- Trees ---- */

static CkptPlan *
plan_request(World *world, CkptRequest *request, GError **error)
{
    ckpt_set_str(&request->identity, "spiffe://test/operator");
    return ckpt_plan_make(&world->input, request, error);
}

static CkptPlan *
plan_when_possible(World *world, const char *id, GError **error)
{
    g_autoptr(CkptRequest) request = ckpt_request_new(CKPT_KIND_DELETE);

    ckpt_set_str(&request->checkpoint_id, id);
    request->when_possible = TRUE;
    return plan_request(world, request, error);
}

static void
delete_when_possible_of_a_branch_point_only_marks_it(void **state)
{
    g_autoptr(World) world = world_with_line(1);
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptPlan) made = NULL;
    CkptCheckpoint *marked;

    add_branch(world, "s1", "c1", "/img/web.ckpt-s.qcow2", "/img/web.raw");
    made = plan_when_possible(world, "c1", &error);
    assert_non_null(made);
    assert_steps(made, "catalogue");
    assert_false(made->no_return);
    marked = ckpt_graph_find(last_change(made)->upserts, "c1");
    assert_int_equal(marked->state, CKPT_STATE_DELETING);
    assert_true(marked->deferred);
    assert_true(*marked->disabled_reason);
    assert_int_equal(last_change(made)->gone->len, 0);
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

static void
a_delete_that_waits_holds_up_nothing_else(void **state)
{
    g_autoptr(World) world = world_with_line(2);
    CkptCheckpoint *c1 = world->checkpoints->pdata[0];
    g_autoptr(CkptPlan) created = NULL, restored = NULL, deleted = NULL;

    c1->state = CKPT_STATE_DELETING;
    c1->deferred = TRUE;
    created = plan_ok(world, CKPT_KIND_CREATE, NULL);
    restored = plan_ok(world, CKPT_KIND_RESTORE, "c2");
    assert_refused(world, CKPT_KIND_RESTORE, "c1", CKPT_REASON_CHECKPOINT_DELETING);
    /* and is carried out when it need not wait */
    deleted = plan_ok(world, CKPT_KIND_DELETE, "c1");
    assert_true(deleted->no_return);
    assert_int_equal(deleted->checkpoint->state, CKPT_STATE_READY);
}

static void
a_disk_that_was_away_may_come_back(void **state)
{
    g_autoptr(World) world = world_with_line(1);
    g_autoptr(CkptPlan) made = NULL;

    /* c2 was made of another disk while vda was detached */
    add_file(world, "/img/data.raw", NULL);
    add_checkpoint(world, "c2", "c1", "/img/data.raw");
    set_current(world, "c2");
    made = plan_ok(world, CKPT_KIND_CREATE, NULL);
    assert_string_equal(made->checkpoint->parent_id, "c2");
}

static void
a_disk_on_an_older_file_than_its_last_checkpoint_is_refused(void **state)
{
    g_autoptr(World) world = world_with_line(2);

    add_file(world, "/img/hand.qcow2", "/img/web.raw");
    put_on(world, g_ptr_array_index(world->vm->disks, 0), "/img/hand.qcow2");
    assert_refused(world, CKPT_KIND_CREATE, NULL, CKPT_REASON_CHAIN_MISMATCH);
}

/* Beside the disk, or under another name, it is a disk of its own, however far down it was laid. */
static void
a_clone_of_the_vms_own_checkpoint_is_another_disk(void **state)
{
    g_autoptr(World) world = world_with_line(3);
    g_autoptr(CkptPlan) made = NULL;

    add_file(world, "/img/other.qcow2", "/img/web.raw");
    add_file(world, "/img/clone.qcow2", "/img/other.qcow2");
    add_disk(world, "vdb", "/img/clone.qcow2");
    made = plan_ok(world, CKPT_KIND_CREATE, NULL);
    assert_int_equal(made->checkpoint->disks->len, 2);
}

/* A25: it is the agent's overlay that lies elsewhere now, whatever it is attached as. */
static void
an_overlay_of_the_agents_that_was_moved_is_no_clone(void **state)
{
    g_autoptr(World) world = world_with_line(3);

    add_file(world, "/img/moved.qcow2", "/img/web.raw");
    g_ptr_array_add(world->made, g_strdup("/img/moved.qcow2"));
    add_disk(world, "vdb", "/img/moved.qcow2");
    assert_refused(world, CKPT_KIND_CREATE, NULL, CKPT_REASON_CHAIN_MISMATCH);
}

static void
the_present_state_of_a_clone_is_kept_by_a_restore_without_it(void **state)
{
    g_autoptr(World) world = world_with_line(2);
    g_autoptr(CkptRequest) request = ckpt_request_new(CKPT_KIND_RESTORE);
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptPlan) made = NULL;
    CkptDisk *vda = g_ptr_array_index(world->vm->disks, 0);

    /* c3 sealed the clone vdb, while vda was away, and the agent's overlay is on it. */
    add_file(world, "/img/clone.qcow2", "/img/web.raw");
    add_checkpoint(world, "c3", "c2", "/img/clone.qcow2");
    add_file(world, "/img/clone.ckpt-3.qcow2", "/img/clone.qcow2");
    g_ptr_array_add(world->made, g_strdup("/img/clone.ckpt-3.qcow2"));
    put_on(world, vda, "/img/clone.ckpt-3.qcow2");
    set_current(world, "c3");
    ckpt_set_str(&request->checkpoint_id, "c1");
    request->discard_present_state = TRUE;
    made = plan_request(world, request, &error);
    assert_non_null(made);
    for (guint i = 0; i < made->steps->len; i++)
        assert_int_not_equal(((CkptStep *)made->steps->pdata[i])->kind, CKPT_STEP_REMOVE_FILE);
}

static void
a_clone_does_not_stand_in_for_the_disk_that_is_away(void **state)
{
    g_autoptr(World) world = world_with_line(1);

    add_branch(world, "c2", "c1", "/img/branch.qcow2", "/img/web.raw");
    add_file(world, "/img/clone.qcow2", "/img/web.raw");
    put_on(world, g_ptr_array_index(world->vm->disks, 0), "/img/clone.qcow2");
    assert_refused(world, CKPT_KIND_DELETE, "c2", CKPT_REASON_DISK_DETACHED);
}

static void
a_missing_present_state_can_be_discarded_but_not_kept(void **state)
{
    g_autoptr(World) world = world_with_line(1);
    g_autoptr(CkptRequest) request = ckpt_request_new(CKPT_KIND_RESTORE);
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptPlan) made = NULL;
    CkptLayer *top = ckpt_vm_find_file(world->vm, "/img/web.ckpt-1.qcow2");

    top->exists = FALSE;
    g_clear_pointer(&top->backing, g_free);
    put_on(world, g_ptr_array_index(world->vm->disks, 0), top->path);
    ckpt_vm_add_obstacle(world->vm, CKPT_REASON_DISK_FILE_MISSING, "vda", top->path, "missing");
    assert_refused(world, CKPT_KIND_RESTORE, "c1", CKPT_REASON_DISK_FILE_MISSING);
    ckpt_set_str(&request->checkpoint_id, "c1");
    request->discard_present_state = TRUE;
    made = plan_request(world, request, &error);
    assert_non_null(made);
    assert_int_equal(last_change(made)->gone->len, 0);
    assert_non_null(strstr(made->warnings->pdata[0], "is missing"));
}

static void
restore_goes_from_every_power_state_to_every_other(void **state)
{
    static const CkptPower from[] = {CKPT_POWER_RUNNING, CKPT_POWER_PAUSED, CKPT_POWER_SHUT_OFF,
                                     CKPT_POWER_CRASHED};
    static const CkptPower to[] = {CKPT_POWER_UNKNOWN, CKPT_POWER_RUNNING, CKPT_POWER_PAUSED,
                                   CKPT_POWER_SHUT_OFF};

    for (guint i = 0; i < G_N_ELEMENTS(from); i++)
        for (guint k = 0; k < G_N_ELEMENTS(to); k++) {
            g_autoptr(World) world = world_with_line(2);
            g_autoptr(CkptRequest) request = ckpt_request_new(CKPT_KIND_RESTORE);
            g_autoptr(GError) error = NULL;
            g_autoptr(CkptPlan) made = NULL;
            g_autofree char *steps = NULL;

            world->vm->power = from[i];
            ckpt_set_str(&request->checkpoint_id, "c1");
            request->restore_power = to[k];
            made = plan_request(world, request, &error);
            assert_non_null(made);
            steps = names(made);
            assert_int_equal(strstr(steps, " stop") != NULL, from[i] != CKPT_POWER_SHUT_OFF);
            assert_int_equal(strstr(steps, " start") != NULL, to[k] != CKPT_POWER_SHUT_OFF);
            /* as captured is running, here */
            if (to[k] != CKPT_POWER_SHUT_OFF)
                assert_int_equal(find_step(made, CKPT_STEP_START, 0)->power,
                                 to[k] == CKPT_POWER_PAUSED ? CKPT_POWER_PAUSED
                                                            : CKPT_POWER_RUNNING);
        }
}

static void
create_warns_from_three_quarters_of_the_depth_limit_on(void **state) /* hazard A15 */
{
    g_autoptr(World) fourteenth = world_with_line(13);
    g_autoptr(World) fifteenth = world_with_line(14);
    g_autoptr(CkptPlan) before = plan_ok(fourteenth, CKPT_KIND_CREATE, NULL);
    g_autoptr(CkptPlan) after = plan_ok(fifteenth, CKPT_KIND_CREATE, NULL);

    assert_int_equal(after->warnings->len, before->warnings->len + 1);
    assert_non_null(
        strstr(after->warnings->pdata[after->warnings->len - 1], "15 of a line of 20"));
}

/* A disk may have lain on others before its first checkpoint: they count for libvirt. */
static void
create_warns_of_a_chain_that_libvirts_do_not_start(void **state) /* hazard A15 */
{
    g_autoptr(World) world = world_with_line(0);
    CkptDisk *disk = g_ptr_array_index(world->vm->disks, 0);
    g_autoptr(CkptPlan) before = NULL;
    g_autoptr(CkptPlan) after = NULL;
    g_autofree char *top = g_strdup("/img/web.raw");

    for (guint i = 1; i < 24; i++) {
        g_autofree char *file = g_strdup_printf("/img/template-%u.qcow2", i);

        add_file(world, file, top);
        ckpt_set_str(&top, file);
        put_on(world, disk, top);
        if (i == 22)
            before = plan_ok(world, CKPT_KIND_CREATE, NULL);
    }
    after = plan_ok(world, CKPT_KIND_CREATE, NULL);
    assert_int_equal(after->warnings->len, before->warnings->len + 1);
    assert_non_null(strstr(after->warnings->pdata[after->warnings->len - 1], "a chain of 25 files"));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(create_seals_before_the_snapshot_and_checks_what_it_catalogued),
        cmocka_unit_test(an_overlay_lets_the_group_in_only_where_it_could_write),
        cmocka_unit_test(create_saves_uefi_variables_just_before_the_snapshot),
        cmocka_unit_test(delete_is_not_refused_for_uefi_variables),
        cmocka_unit_test(overlays_of_a_block_device_go_into_their_folder),
        cmocka_unit_test(disk_that_outgrew_its_block_device_is_not_merged),
        cmocka_unit_test(block_device_that_grew_still_holds_its_checkpoint),
        cmocka_unit_test(create_on_a_line_has_the_current_one_as_parent),
        cmocka_unit_test(create_names_disks_of_one_name_apart),
        cmocka_unit_test(create_is_refused_beyond_the_depth_limit),
        cmocka_unit_test(create_is_refused_without_a_writable_disk),
        cmocka_unit_test(create_is_refused_below_the_reserve),
        cmocka_unit_test(an_obstacle_refuses_everything_by_its_name),
        cmocka_unit_test(a_definition_on_a_sealed_file_quarantines),
        cmocka_unit_test(manifest_that_a_delete_left_is_no_obstacle),
        cmocka_unit_test(a_file_that_another_vms_checkpoint_sealed_is_refused),
        cmocka_unit_test(a_sealed_file_by_another_name_quarantines_too),
        cmocka_unit_test(a_chain_that_somebody_moved_is_refused),
        cmocka_unit_test(restore_defines_before_it_stops_and_keeps_the_present_state),
        cmocka_unit_test(restore_of_a_vm_that_is_off_stops_nothing),
        cmocka_unit_test(restore_that_discards_removes_only_what_the_agent_made),
        cmocka_unit_test(restore_refuses_a_changed_sealed_file),
        cmocka_unit_test(restore_refuses_a_file_that_is_written_or_missing),
        cmocka_unit_test(restore_checks_etag_and_expected_current),
        cmocka_unit_test(delete_of_the_current_one_merges_the_top_into_its_file),
        cmocka_unit_test(delete_in_the_middle_remaps_the_child_and_seals_again),
        cmocka_unit_test(delete_of_a_leaf_removes_its_file_after_its_row),
        cmocka_unit_test(delete_under_a_leaf_merges_files_of_no_present_chain),
        cmocka_unit_test(delete_of_a_branch_point_is_refused_with_its_branches),
        cmocka_unit_test(delete_counts_no_file_that_nobody_needs),
        cmocka_unit_test(a_doomed_file_that_somebody_uses_is_a_branch),
        cmocka_unit_test(delete_below_a_branch_point_rebases_the_other_branches),
        cmocka_unit_test(delete_below_branches_of_no_present_chain_rebases_all_but_one),
        cmocka_unit_test(delete_below_a_branch_that_is_in_use_is_refused_by_its_name),
        cmocka_unit_test(delete_below_a_branch_of_somebody_else_is_refused),
        cmocka_unit_test(delete_whose_present_state_is_somebodys_base_is_refused),
        cmocka_unit_test(delete_is_refused_where_a_foreign_snapshot_consists_of_a_file),
        cmocka_unit_test(delete_merges_into_what_a_foreign_snapshot_only_names),
        cmocka_unit_test(delete_merges_into_a_file_with_internal_snapshots_and_not_below_it),
        cmocka_unit_test(create_of_a_vm_that_is_off_is_refused_beside_libvirt_checkpoints),
        cmocka_unit_test(delete_beside_another_vms_clone_is_refused),
        cmocka_unit_test(delete_never_merges_what_the_agent_did_not_make),
        cmocka_unit_test(delete_of_a_shrunk_disk_is_refused),
        cmocka_unit_test(delete_that_apparmor_would_deny_is_refused),
        cmocka_unit_test(delete_below_a_big_top_pulls_the_small_file_up),
        cmocka_unit_test(delete_in_a_vm_that_is_not_off_is_never_a_pull),
        cmocka_unit_test(delete_merges_where_a_pull_is_not_clearly_less),
        cmocka_unit_test(delete_never_pulls_where_that_is_not_safe),
        cmocka_unit_test(delete_needs_room_for_what_it_pulls),
        cmocka_unit_test(delete_never_takes_the_newest_file_of_a_detached_disk),
        cmocka_unit_test(delete_needs_room_for_what_it_merges),
        cmocka_unit_test(delete_reserves_in_the_file_as_it_was_sealed),
        cmocka_unit_test(space_is_summed_for_each_file_system),
        cmocka_unit_test(delete_into_an_allocated_file_needs_no_room),
        cmocka_unit_test(delete_of_a_held_one_is_refused),
        cmocka_unit_test(an_unfinished_delete_comes_first),
        cmocka_unit_test(a_loop_in_the_headers_ends),
        cmocka_unit_test(delete_when_possible_of_a_branch_point_only_marks_it),
        cmocka_unit_test(delete_when_possible_of_any_other_deletes_it_now),
        cmocka_unit_test(delete_when_possible_of_a_held_or_shrunk_one_is_refused),
        cmocka_unit_test(a_delete_that_waits_holds_up_nothing_else),
        cmocka_unit_test(a_disk_that_was_away_may_come_back),
        cmocka_unit_test(a_disk_on_an_older_file_than_its_last_checkpoint_is_refused),
        cmocka_unit_test(a_clone_of_the_vms_own_checkpoint_is_another_disk),
        cmocka_unit_test(an_overlay_of_the_agents_that_was_moved_is_no_clone),
        cmocka_unit_test(the_present_state_of_a_clone_is_kept_by_a_restore_without_it),
        cmocka_unit_test(a_clone_does_not_stand_in_for_the_disk_that_is_away),
        cmocka_unit_test(a_missing_present_state_can_be_discarded_but_not_kept),
        cmocka_unit_test(restore_goes_from_every_power_state_to_every_other),
        cmocka_unit_test(create_warns_from_three_quarters_of_the_depth_limit_on),
        cmocka_unit_test(create_warns_of_a_chain_that_libvirts_do_not_start),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
