/* Files whose removal failed: they hold nothing up, and are gone as soon as that is possible. On the
 * simulated hypervisor, with a real store. */
#include "cmocka_all.h"

#include "engine_fixture.h"

#include "common/id.h"

typedef struct {
    EngineFixture *engine;
    int stuck; /* atomic: no file can be removed */
    CkptStepKind fail_kind; /* fails once; what made a file is undone from then on */
    gboolean undoing;
    gboolean doomed_at_removal; /* what the catalogue said when a removal began, last */
} Fixture;

static gboolean
is_in(GPtrArray *files, const char *file)
{
    gboolean in = g_ptr_array_find_with_equal_func(files, file, g_str_equal, NULL);

    g_ptr_array_unref(files);
    return in;
}

static gboolean
is_known(Fixture *fixture, const char *file)
{
    return is_in(ckpt_store_vm_files(fixture->engine->store, FIXTURE_VM, NULL), file);
}

static gboolean
is_doomed(Fixture *fixture, const char *file)
{
    return is_in(ckpt_store_doomed_files(fixture->engine->store, FIXTURE_VM, NULL), file);
}

static gboolean
on_moment(CkptSim *sim, CkptSimMoment moment, const CkptPlan *plan, const CkptStep *step, gpointer data,
          GError **error)
{
    Fixture *fixture = data;
    gboolean removal;

    (void)sim;
    (void)plan;
    if (moment != CKPT_SIM_BEGUN || !step)
        return TRUE;
    if (step->kind == CKPT_STEP_REMOVE_FILE)
        fixture->doomed_at_removal = is_doomed(fixture, step->file);
    removal = step->kind == CKPT_STEP_REMOVE_FILE ||
              (step->kind == CKPT_STEP_MAKE_OVERLAY && fixture->undoing);
    if (step->kind == fixture->fail_kind) {
        fixture->fail_kind = 0;
        fixture->undoing = TRUE;
    } else if (!removal || !g_atomic_int_get(&fixture->stuck)) {
        return TRUE;
    }
    ckpt_error_set(error, CKPT_REASON_FILE_FAILED, "told to fail");
    return FALSE;
}

static int
setup(void **state)
{
    Fixture *fixture = g_new0(Fixture, 1);
    void *engine = NULL;

    engine_fixture_setup(&engine);
    fixture->engine = engine;
    fixture->engine->sim->hook = on_moment;
    fixture->engine->sim->hook_data = fixture;
    *state = fixture;
    return 0;
}

static int
teardown(void **state)
{
    Fixture *fixture = *state;
    void *engine = fixture->engine;

    assert_int_equal(fixture->engine->sim->crimes->len, 0);
    engine_fixture_teardown(&engine);
    g_free(fixture);
    return 0;
}

/* ---- What is there ---- */

static char *
top(Fixture *fixture)
{
    CkptSimVm *vm = ckpt_sim_find_vm(fixture->engine->sim, FIXTURE_VM);

    return g_strdup(ckpt_sim_definition_find(vm->definition, "vda")->source);
}

static gboolean
is_there(Fixture *fixture, const char *file)
{
    gboolean there;

    g_rec_mutex_lock(&fixture->engine->sim->lock);
    there = ckpt_sim_find(fixture->engine->sim, file) != NULL;
    g_rec_mutex_unlock(&fixture->engine->sim->lock);
    return there;
}

static void
assert_left(Fixture *fixture, const char *file)
{
    while (!ckpt_engine_is_idle(fixture->engine->engine))
        g_main_context_iteration(NULL, FALSE);
    assert_true(is_there(fixture, file));
    assert_true(is_doomed(fixture, file));
}

static void
wait_while(Fixture *fixture, gboolean (*is)(Fixture *fixture, const char *file), const char *file)
{
    gint64 until = g_get_monotonic_time() + 10 * G_TIME_SPAN_SECOND;

    while (is(fixture, file)) {
        g_main_context_iteration(NULL, FALSE);
        g_usleep(1000);
        assert_true(g_get_monotonic_time() < until);
    }
}

/* ---- What leaves a file ---- */

static char *
must(Fixture *fixture, CkptKind kind, const char *checkpoint_id)
{
    return engine_fixture_must(fixture->engine, kind, checkpoint_id);
}

static void
must_delete(Fixture *fixture, const char *checkpoint_id)
{
    g_free(must(fixture, CKPT_KIND_DELETE, checkpoint_id));
}

static CkptReason
call(Fixture *fixture, CkptKind kind, const char *checkpoint_id)
{
    g_auto(Outcome) outcome = {0};
    g_autofree char *id = ckpt_id_new();

    engine_fixture_call(fixture->engine, engine_fixture_request(kind, id, checkpoint_id), &outcome);
    return outcome.error ? ckpt_error_reason(outcome.error) : (CkptReason)0;
}

/* base ← left, base ← top: `left` was merged into base, and could not be removed. */
static char *
leave_merged(Fixture *fixture, char **second)
{
    g_autofree char *first = must(fixture, CKPT_KIND_CREATE, NULL);
    char *left = top(fixture);

    engine_fixture_write(fixture->engine);
    *second = must(fixture, CKPT_KIND_CREATE, NULL);
    fixture->stuck = TRUE;
    must_delete(fixture, first);
    assert_left(fixture, left);
    return left;
}

static char *
find_overlay(Fixture *fixture)
{
    g_autoptr(GPtrArray) files =
        ckpt_store_doomed_files(fixture->engine->store, FIXTURE_VM, NULL);

    assert_int_equal(files->len, 1);
    return g_strdup(files->pdata[0]);
}

/* The overlay of a create that failed; the VM runs on what lies below. */
static char *
leave_undone(Fixture *fixture)
{
    char *left;

    fixture->fail_kind = CKPT_STEP_SNAPSHOT;
    fixture->stuck = TRUE;
    assert_int_equal(call(fixture, CKPT_KIND_CREATE, NULL), CKPT_REASON_FILE_FAILED);
    left = find_overlay(fixture);
    assert_left(fixture, left);
    fixture->undoing = FALSE;
    /* The oracle: what it shows is nobody's business. */
    ckpt_sim_find(fixture->engine->sim, left)->given_up = TRUE;
    return left;
}

/* ---- Tests ---- */

static void
a_merged_file_that_stays_is_no_branch_and_goes_at_the_next_look(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *second = NULL;
    g_autofree char *left = leave_merged(fixture, &second);
    guint32 written = fixture->engine->written;

    ckpt_sim_find(fixture->engine->sim, left)->given_up = TRUE;
    must_delete(fixture, second); /* into the file on which it lies */
    assert_int_equal(engine_fixture_read(fixture->engine), written);
    assert_left(fixture, left);
    g_atomic_int_set(&fixture->stuck, FALSE);
    ckpt_sim_tell(fixture->engine->sim, FIXTURE_VM); /* that has no checkpoint by now */
    wait_while(fixture, is_there, left);
    wait_while(fixture, is_known, left);
}

static void
what_stays_goes_after_the_next_operation(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *left = leave_undone(fixture);
    g_autofree char *base = top(fixture), *first = NULL;

    g_atomic_int_set(&fixture->stuck, FALSE);
    first = must(fixture, CKPT_KIND_CREATE, NULL);
    wait_while(fixture, is_there, left);
    wait_while(fixture, is_known, left);
    must_delete(fixture, first);
    assert_true(is_there(fixture, base));
}

static void
the_overlay_of_an_undone_create_blocks_no_delete(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *left = leave_undone(fixture);
    g_autofree char *first = must(fixture, CKPT_KIND_CREATE, NULL);

    must_delete(fixture, first);
    assert_left(fixture, left);
    g_atomic_int_set(&fixture->stuck, FALSE);
    engine_fixture_restart(fixture->engine);
    wait_while(fixture, is_there, left);
    wait_while(fixture, is_known, left);
}

static void
the_overlay_of_an_undone_restore_is_not_forgotten(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *first = must(fixture, CKPT_KIND_CREATE, NULL);
    g_autofree char *left = NULL;

    fixture->fail_kind = CKPT_STEP_DEFINE;
    fixture->stuck = TRUE;
    assert_int_not_equal(call(fixture, CKPT_KIND_RESTORE, first), 0);
    left = find_overlay(fixture);
    assert_left(fixture, left);
    g_atomic_int_set(&fixture->stuck, FALSE);
    ckpt_sim_tell(fixture->engine->sim, FIXTURE_VM);
    wait_while(fixture, is_there, left);
    wait_while(fixture, is_known, left);
}

/* Nobody needed it, until its owner put a VM onto it. */
static void
what_somebody_uses_is_kept_and_is_a_branch_again(void **state)
{
    Fixture *fixture = *state;
    CkptSim *sim = fixture->engine->sim;
    g_autofree char *second = NULL;
    g_autofree char *left = leave_merged(fixture, &second);
    CkptSimVm *other = ckpt_sim_add_vm(sim, "22222222-2222-4222-8222-222222222222", "web-02");

    ckpt_sim_definition_set(other->definition, "vda", left, CKPT_FORMAT_QCOW2);
    g_atomic_int_set(&fixture->stuck, FALSE);
    ckpt_sim_tell(sim, FIXTURE_VM);
    wait_while(fixture, is_doomed, left);
    assert_true(is_known(fixture, left));
    ckpt_sim_definition_remove(other->definition, "vda");
    assert_int_equal(call(fixture, CKPT_KIND_DELETE, second), CKPT_REASON_BRANCH_POINT);
    assert_true(is_there(fixture, left));
    /* What was written to it is somebody's only copy: it is never removed by itself any more, also when
     * nobody uses it. When they have taken it away, it stands in nobody's way. */
    ckpt_sim_tell(sim, FIXTURE_VM);
    while (!ckpt_engine_is_idle(fixture->engine->engine))
        g_main_context_iteration(NULL, FALSE);
    assert_true(is_there(fixture, left));
    ckpt_sim_unlink(sim, ckpt_sim_find(sim, left));
    must_delete(fixture, second);
}

/* From the commit that makes it unneeded on, so that no crash loses sight of it. */
static void
what_a_delete_is_about_to_remove_is_doomed_before(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *first = must(fixture, CKPT_KIND_CREATE, NULL);
    g_autofree char *left = top(fixture);

    must_delete(fixture, first);
    assert_true(fixture->doomed_at_removal);
    assert_false(is_known(fixture, left));
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_merged_file_that_stays_is_no_branch_and_goes_at_the_next_look),
        TEST(what_stays_goes_after_the_next_operation),
        TEST(the_overlay_of_an_undone_create_blocks_no_delete),
        TEST(the_overlay_of_an_undone_restore_is_not_forgotten),
        TEST(what_somebody_uses_is_kept_and_is_a_branch_again),
        TEST(what_a_delete_is_about_to_remove_is_doomed_before),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
