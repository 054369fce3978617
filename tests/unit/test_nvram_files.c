/* Copies of UEFI variables on real files: put in place, and back again, as often as an undo is begun anew. */
#include "agent/hypervisor/qemu.h"
#include "tests/unit/image_fixture.h"

#include <sys/stat.h>
#include <unistd.h>

typedef struct {
    CkptPlan *plan;
    CkptStep *save, *put;
} World;

static char *
contents(const char *path)
{
    char *text = NULL;

    (void)g_file_get_contents(path, &text, NULL, NULL);
    return text;
}

static void
holds(const char *name, const char *wanted)
{
    g_autofree char *path = image(name);
    g_autofree char *found = contents(path);

    if (g_strcmp0(found, wanted) != 0)
        fail_msg("%s holds %s, not %s", name, found ? found : "nothing", wanted ? wanted : "nothing");
}

/* A restore: $d/VARS to $d/saved, then $d/kept to $d/VARS. */
static World *
world_new(void)
{
    World *world = g_new0(World, 1);

    shell("rm -f $d/VARS* $d/saved* $d/kept*; echo -n present >$d/VARS; chmod 640 $d/VARS; "
          "echo -n captured >$d/kept; chmod 600 $d/kept");
    world->plan = ckpt_plan_new(CKPT_KIND_RESTORE);
    world->save = ckpt_step_new(CKPT_STEP_SAVE_NVRAM);
    world->save->base = image("VARS");
    world->save->file = image("saved");
    g_ptr_array_add(world->plan->steps, world->save);
    world->put = ckpt_step_new(CKPT_STEP_PUT_NVRAM);
    world->put->base = image("VARS");
    world->put->file = image("kept");
    world->put->from = image("saved");
    g_ptr_array_add(world->plan->steps, world->put);
    return world;
}

static void
world_free(World *world)
{
    ckpt_plan_free(world->plan);
    g_free(world);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(World, world_free)

static void
passes(World *world, CkptStep *step, gboolean (*func)(CkptRun *run, GError **error))
{
    CkptRun run = {.plan = world->plan, .step = step};
    g_autoptr(GError) error = NULL;

    if (!func(&run, &error))
        fail_msg("%s", error->message);
}

static guint
mode_of(const char *name)
{
    g_autofree char *path = image(name);
    struct stat found;

    assert_int_equal(stat(path, &found), 0);
    return found.st_mode & 07777;
}

static void
an_undo_begun_anew_finds_its_copy_gone(void **state)
{
    g_autoptr(World) world = world_new();

    (void)state;
    passes(world, world->save, ckpt_step_save_nvram);
    holds("saved", "present");
    assert_int_equal(mode_of("saved"), 0600);
    passes(world, world->put, ckpt_step_put_nvram);
    passes(world, world->put, ckpt_step_put_nvram);
    holds("VARS", "captured");
    assert_int_equal(mode_of("VARS"), 0640);
    for (guint i = 0; i < 2; i++) {
        passes(world, world->put, ckpt_step_put_nvram_undo);
        passes(world, world->save, ckpt_step_save_nvram_undo);
        holds("VARS", "present");
        holds("saved", NULL);
    }
    assert_int_equal(mode_of("VARS"), 0640);
}

static void
variables_that_were_not_there_go_again(void **state)
{
    g_autoptr(World) world = world_new();

    (void)state;
    g_clear_pointer(&world->put->from, g_free);
    shell("rm $d/VARS");
    passes(world, world->put, ckpt_step_put_nvram);
    holds("VARS", "captured");
    for (guint i = 0; i < 2; i++) {
        passes(world, world->put, ckpt_step_put_nvram_undo);
        holds("VARS", NULL);
    }
    shell("echo -n written >$d/VARS"); /* by a VM that ran on them */
    passes(world, world->put, ckpt_step_put_nvram_undo);
    holds("VARS", "written");
}

static void
a_symbolic_link_stays_one(void **state)
{
    g_autoptr(World) world = world_new();

    (void)state;
    shell("mv $d/VARS $d/VARS.real; ln -s VARS.real $d/VARS");
    passes(world, world->save, ckpt_step_save_nvram);
    passes(world, world->put, ckpt_step_put_nvram);
    holds("VARS.real", "captured");
    passes(world, world->put, ckpt_step_put_nvram_undo);
    holds("VARS.real", "present");
    shell("test -L $d/VARS");
}

static void
what_somebody_else_has_there_is_no_copy(void **state)
{
    g_autoptr(World) world = world_new();
    CkptRun run = {.plan = world->plan, .step = world->save};
    g_autoptr(GError) error = NULL;

    (void)state;
    shell("echo -n anothers >$d/saved; chmod 644 $d/saved");
    assert_false(ckpt_step_save_nvram(&run, &error));
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_FILE_FAILED);
    passes(world, world->save, ckpt_step_save_nvram_undo);
    holds("saved", "anothers");
}

/* Beside which no other can be made: the restore fails, and its undo does not. */
static void
a_name_that_is_too_long_is_undone(void **state)
{
    g_autoptr(World) world = world_new();
    CkptRun run = {.plan = world->plan, .step = world->put};
    g_autofree char *name = g_strnfill(250, 'n');
    g_autoptr(GError) error = NULL;

    (void)state;
    passes(world, world->save, ckpt_step_save_nvram);
    g_free(world->put->base);
    world->put->base = image(name);
    shell("cp -p $d/VARS $d/$(printf 'n%.0s' {1..250})");
    assert_false(ckpt_step_put_nvram(&run, &error));
    passes(world, world->put, ckpt_step_put_nvram_undo);
    holds(name, "present");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_undo_begun_anew_finds_its_copy_gone),
        cmocka_unit_test(variables_that_were_not_there_go_again),
        cmocka_unit_test(a_name_that_is_too_long_is_undone),
        cmocka_unit_test(a_symbolic_link_stays_one),
        cmocka_unit_test(what_somebody_else_has_there_is_no_copy),
    };

    return cmocka_run_group_tests(tests, images_open, images_close);
}
