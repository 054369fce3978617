/* RESERVE and its undo on real files: blocks come and go, everything else stays. */
#include "agent/hypervisor/connection.h"
#include "agent/hypervisor/image.h"
#include "agent/hypervisor/qemu.h"
#include "tests/unit/image_fixture.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define MIB (1024 * 1024)

typedef struct {
    CkptPlan *plan;
    CkptStep *step;
    CkptRun run;
    char *contents; /* of the base */
    guint64 allocated;
} World;

/* Between RESERVE and the file system. */
gboolean __real_ckpt_file_mark(const char *path, GError **error);
gboolean __wrap_ckpt_file_mark(const char *path, GError **error);
int __real_fstatvfs(int fd, struct statvfs *space);
int __wrap_fstatvfs(int fd, struct statvfs *space);
static CkptReason marks_fail; /* 0 = they do not */
static guint64 pages_left;    /* of 4 KiB; 0 = as many as there are */

gboolean
__wrap_ckpt_file_mark(const char *path, GError **error)
{
    if (!marks_fail)
        return __real_ckpt_file_mark(path, error);
    ckpt_error_set(error, marks_fail, "told to fail");
    return FALSE;
}

int
__wrap_fstatvfs(int fd, struct statvfs *space)
{
    if (!pages_left)
        return __real_fstatvfs(fd, space);
    *space = (struct statvfs){.f_frsize = 4096, .f_bavail = (fsblkcnt_t)pages_left};
    return 0;
}

static CkptLayer *
look(const char *path)
{
    return ckpt_layer_look(path, CKPT_FORMAT_QCOW2, NULL, NULL);
}

static guint64
allocated(const World *world)
{
    CkptLayer *layer = look(world->step->base);
    guint64 bytes = layer->allocated;

    ckpt_layer_free(layer);
    return bytes;
}

static char *
contents_of(const char *path)
{
    g_autofree char *bytes = NULL;
    gsize length;

    assert_true(g_file_get_contents(path, &bytes, &length, NULL));
    return g_compute_checksum_for_data(G_CHECKSUM_SHA256, (guchar *)bytes, length);
}

static void
assert_as_sealed(const World *world)
{
    CkptLayer *layer = look(world->step->base);
    g_autofree char *contents = contents_of(world->step->base);

    assert_true(ckpt_file_id_equal(&layer->id, &world->step->id));
    assert_string_equal(contents, world->contents);
    ckpt_layer_free(layer);
}

/* $d/o.qcow2 with 8 MiB of data at 16 MiB, on a base of 64 MiB with 1 MiB at 0, made by `make`. */
static World *
world_new(CkptFormat format, const char *make)
{
    World *world = g_new0(World, 1);
    g_autofree char *create = g_strdup_printf(
        "rm -f $d/b $d/o.qcow2; %s && qemu-io -f %s -c 'write -P 1 0 1M' $d/b >/dev/null && "
        "qemu-img create -q -f qcow2 -F %s -b $d/b $d/o.qcow2 && "
        "qemu-io -f qcow2 -c 'write -P 2 16M 8M' $d/o.qcow2 >/dev/null && touch -d 2020-01-01 $d/b",
        make, ckpt_format_name(format), ckpt_format_name(format));
    CkptLayer *base;

    shell(create);
    world->plan = ckpt_plan_new(CKPT_KIND_DELETE);
    world->step = ckpt_step_new(CKPT_STEP_RESERVE);
    g_ptr_array_add(world->plan->steps, world->step);
    world->step->file = image("o.qcow2");
    world->step->base = image("b");
    world->step->base_format = format;
    base = look(world->step->base);
    world->step->id = base->id;
    world->step->size = world->allocated = base->allocated;
    ckpt_layer_free(base);
    world->contents = contents_of(world->step->base);
    world->run = (CkptRun){.plan = world->plan, .step = world->step};
    return world;
}

static World *
world_with_qcow2(void)
{
    return world_new(CKPT_FORMAT_QCOW2, "qemu-img create -q -f qcow2 $d/b 64M");
}

static World *
world_with_raw(void)
{
    return world_new(CKPT_FORMAT_RAW, "truncate -s 64M $d/b");
}

static void
world_free(World *world)
{
    ckpt_plan_free(world->plan);
    g_free(world->contents);
    g_free(world);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(World, world_free)

static void
reserve(World *world)
{
    g_autoptr(GError) error = NULL;

    if (!ckpt_step_reserve(&world->run, &error))
        fail_msg("%s", error->message);
    assert_null(world->step->warning);
    assert_as_sealed(world);
}

static void
undo(World *world)
{
    g_autoptr(GError) error = NULL;

    if (!ckpt_step_reserve_undo(&world->run, &error))
        fail_msg("%s", error->message);
}

static void
a_qcow2_target_gets_space_behind_its_end(void **state)
{
    g_autoptr(World) world = world_with_qcow2();

    reserve(world);
    assert_true(allocated(world) >= world->allocated + 8 * MIB);
    assert_true(allocated(world) < world->allocated + 24 * MIB);
    undo(world);
    undo(world);
    assert_true(allocated(world) <= world->allocated + 64 * 1024); /* extents are kept in blocks */
    assert_as_sealed(world);
}

/* Which clusters the merge will use is not known, and there may be room for both. What others write needs some,
 * too: their guests stand still when the file system is full. */
static void
what_may_not_be_needed_takes_no_more_than_half_of_what_is_free(void **state)
{
    g_autoptr(World) world =
        world_new(CKPT_FORMAT_QCOW2,
                  "qemu-img create -q -f qcow2 $d/b 64M && "
                  "qemu-io -f qcow2 -d unmap -c 'write 1M 40M' -c 'discard 2M 32M' $d/b >/dev/null");

    reserve(world);
    assert_true(allocated(world) >= world->allocated + 16 * MIB);
    undo(world);
    assert_true(allocated(world) <= world->allocated + 64 * 1024);
    pages_left = 12 * MIB / 4096;
    reserve(world);
    pages_left = 0;
    assert_in_range(allocated(world), world->allocated + 8 * MIB, world->allocated + 16 * MIB);
    undo(world);
    assert_as_sealed(world);
}

static void
what_there_is_no_room_for_is_refused_before_any_is_taken(void **state)
{
    static World *(*const worlds[])(void) = {world_with_qcow2, world_with_raw};

    for (guint i = 0; i < G_N_ELEMENTS(worlds); i++) {
        g_autoptr(World) world = worlds[i]();
        g_autoptr(GError) error = NULL;
        gboolean done;

        pages_left = 4 * MIB / 4096;
        done = ckpt_step_reserve(&world->run, &error);
        pages_left = 0;
        assert_false(done);
        assert_int_equal(ckpt_error_reason(error), CKPT_REASON_SPACE_LOW);
        assert_int_equal(allocated(world), world->allocated);
        undo(world);
        assert_as_sealed(world);
    }
}

static void
a_raw_target_gets_what_the_overlay_has(void **state)
{
    g_autoptr(World) world = world_with_raw();

    reserve(world);
    assert_in_range(allocated(world), world->allocated + 8 * MIB, world->allocated + 9 * MIB);
    undo(world);
    assert_true(allocated(world) <= world->allocated + 64 * 1024); /* extents are kept in blocks */
    assert_as_sealed(world);
}

static void
a_grown_overlay_gets_space_behind_a_raw_target(void **state)
{
    g_autoptr(World) world = world_with_raw();

    shell("qemu-img resize -q $d/o.qcow2 128M; "
          "qemu-io -f qcow2 -c 'write -P 3 96M 4M' $d/o.qcow2 >/dev/null");
    reserve(world);
    assert_in_range(allocated(world), world->allocated + 12 * MIB, world->allocated + 13 * MIB);
    undo(world);
    assert_true(allocated(world) <= world->allocated + 64 * 1024); /* extents are kept in blocks */
}

static void
what_its_owner_had_allocated_stays(void **state)
{
    g_autoptr(World) world = world_new(CKPT_FORMAT_RAW, "fallocate -l 64M $d/b");

    pages_left = 1; /* it needs none */
    reserve(world);
    pages_left = 0;
    undo(world);
    assert_true(allocated(world) >= 64 * MIB);
    assert_as_sealed(world);
}

/* The crash came between taking the space and putting the time back. */
static void
undo_puts_the_time_back(void **state)
{
    g_autoptr(World) world = world_with_qcow2();

    reserve(world);
    shell("touch $d/b $d/b.vmckpt-reserve"); /* as a crash in the middle leaves it */
    undo(world);
    assert_as_sealed(world);
    shell("test ! -e $d/b.vmckpt-reserve");
}

static void
undo_leaves_what_somebody_writes_to(void **state)
{
    g_autoptr(World) world = world_with_qcow2();
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 101, .l_len = 1};
    guint64 before;
    int fd;

    reserve(world);
    before = allocated(world);
    fd = open(world->step->base, O_RDWR | O_CLOEXEC);
    assert_int_equal(fcntl(fd, F_OFD_SETLK, &lock), 0);
    undo(world);
    assert_int_equal(allocated(world), before);
    close(fd);
}

static void
undo_leaves_what_has_grown(void **state)
{
    g_autoptr(World) world = world_with_qcow2();
    guint64 before;

    reserve(world);
    shell("printf x >>$d/b");
    before = allocated(world);
    undo(world);
    assert_int_equal(allocated(world), before);
}

static void
a_changed_file_is_refused(void **state)
{
    g_autoptr(World) world = world_with_qcow2();
    g_autoptr(GError) error = NULL;

    shell("touch $d/b");
    assert_false(ckpt_step_reserve(&world->run, &error));
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_SEALED_FILE_CHANGED);
}

static void
what_is_left_after_a_merge_is_given_back(void **state)
{
    g_autoptr(World) world = world_with_qcow2();

    reserve(world);
    ckpt_reserve_release(world->step->base);
    assert_true(allocated(world) <= world->allocated + MIB);
}

/* The target of a pull is a top, which somebody may have started the VM from since. */
static void
a_top_that_is_in_use_is_refused(void **state)
{
    g_autoptr(World) world = world_with_qcow2();
    g_autoptr(GError) error = NULL;
    struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 100, .l_len = 1};
    int fd = open(world->step->base, O_RDWR | O_CLOEXEC);

    world->step->id = (CkptFileId){0};
    assert_int_equal(fcntl(fd, F_OFD_SETLK, &lock), 0);
    assert_false(ckpt_step_reserve(&world->run, &error));
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_VM_BUSY);
    assert_int_equal(allocated(world), world->allocated);
    close(fd);
    g_clear_error(&error);
    if (!ckpt_step_reserve(&world->run, &error))
        fail_msg("%s", error->message);
    assert_true(allocated(world) >= world->allocated + 8 * MIB);
}

/* What was refused as changed must not look as sealed once the refusal is undone. */
static void
undo_does_not_hide_a_change(void **state)
{
    g_autoptr(World) world = world_with_raw();
    g_autoptr(GError) error = NULL;
    CkptLayer *layer;

    shell("qemu-io -f raw -c 'write -P 9 0 1M' $d/b >/dev/null"); /* somebody boots the sealed file */
    assert_false(ckpt_step_reserve(&world->run, &error));
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_SEALED_FILE_CHANGED);
    undo(world);
    layer = look(world->step->base);
    assert_false(ckpt_file_id_equal(&layer->id, &world->step->id));
    ckpt_layer_free(layer);
}

/* The mark of an operation that another agent, or nobody, has ended. */
static void
a_mark_of_another_time_does_not_hide_a_change(void **state)
{
    g_autoptr(World) world = world_with_raw();
    CkptLayer *layer;

    world->run.connection = ckpt_connection_new_shared("test:///default");
    world->plan->vm_id = g_strdup("11111111-1111-4111-8111-111111111111"); /* undefined */
    shell("touch $d/b.vmckpt-reserve; qemu-io -f raw -c 'write -P 9 0 1M' $d/b >/dev/null");
    assert_false(ckpt_step_reserve_unpinned(&world->run, NULL));
    g_clear_pointer(&world->run.connection, ckpt_connection_free);
    undo(world);
    layer = look(world->step->base);
    assert_false(ckpt_file_id_equal(&layer->id, &world->step->id));
    ckpt_layer_free(layer);
}

/* What had been reserved elsewhere before it ran out is what has filled the disk. */
static void
a_full_disk_gets_its_space_back(void **state)
{
    g_autoptr(World) world = world_with_qcow2();

    reserve(world);
    marks_fail = CKPT_REASON_SPACE_LOW;
    undo(world);
    marks_fail = 0;
    assert_true(allocated(world) <= world->allocated + 64 * 1024);
    assert_as_sealed(world);
}

static void
space_that_is_not_given_back_is_told(void **state)
{
    g_autoptr(World) world = world_with_qcow2();
    g_autoptr(GError) error = NULL;
    gboolean done;

    marks_fail = CKPT_REASON_FILE_FAILED;
    undo(world); /* there is nothing to give back, and no mark needed */
    marks_fail = 0;
    reserve(world);
    marks_fail = CKPT_REASON_FILE_FAILED;
    done = ckpt_step_reserve_undo(&world->run, &error);
    marks_fail = 0;
    assert_false(done);
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_FILE_FAILED);
    undo(world);
    assert_true(allocated(world) <= world->allocated + 64 * 1024);
}

/* ---- What is told of the merge itself ---- */

typedef struct {
    guint calls;
    guint64 done, total;
} Told;

static void
on_progress(guint64 done, guint64 total, gpointer data)
{
    Told *told = data;

    assert_true(done >= told->done && done <= total);
    *told = (Told){told->calls + 1, done, total};
}

static void
progress_ends_at_all_of_it(void **state)
{
    g_autoptr(World) world = world_with_qcow2();
    g_autoptr(GError) error = NULL;
    Told told = {0};
    const char *const commit[] = {"commit", "-p", "-d", "-f", "qcow2", world->step->file, NULL};

    world->run.progress = on_progress;
    world->run.data = &told;
    if (!ckpt_qemu_img(&world->run, 8 * MIB, commit, &error))
        fail_msg("%s", error->message);
    assert_true(told.calls > 0);
    assert_int_equal(told.total, 8 * MIB);
    assert_int_equal(told.done, told.total);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_qcow2_target_gets_space_behind_its_end),
        cmocka_unit_test(what_may_not_be_needed_takes_no_more_than_half_of_what_is_free),
        cmocka_unit_test(what_there_is_no_room_for_is_refused_before_any_is_taken),
        cmocka_unit_test(a_raw_target_gets_what_the_overlay_has),
        cmocka_unit_test(a_grown_overlay_gets_space_behind_a_raw_target),
        cmocka_unit_test(what_its_owner_had_allocated_stays),
        cmocka_unit_test(undo_puts_the_time_back),
        cmocka_unit_test(undo_leaves_what_somebody_writes_to),
        cmocka_unit_test(undo_leaves_what_has_grown),
        cmocka_unit_test(a_changed_file_is_refused),
        cmocka_unit_test(undo_does_not_hide_a_change),
        cmocka_unit_test(a_mark_of_another_time_does_not_hide_a_change),
        cmocka_unit_test(a_full_disk_gets_its_space_back),
        cmocka_unit_test(space_that_is_not_given_back_is_told),
        cmocka_unit_test(a_top_that_is_in_use_is_refused),
        cmocka_unit_test(what_is_left_after_a_merge_is_given_back),
        cmocka_unit_test(progress_ends_at_all_of_it),
    };

    return cmocka_run_group_tests(tests, images_open, images_close);
}
