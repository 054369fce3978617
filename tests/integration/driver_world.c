#include "tests/integration/driver_world.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

CkptDriver *driver;
const char *folder;
static GMainLoop *loop;
static GThread *loop_thread;

static gpointer
run_loop(gpointer data)
{
    g_main_loop_run(data);
    return NULL;
}

void
world_open(void)
{
    const char *uri = g_getenv("VMCKPT_TEST_URI");

    folder = g_getenv("VMCKPT_TEST_DIR");
    g_assert(uri && folder && g_getenv("VMCKPT_TEST_SUPPORT"));
    driver = ckpt_qemu_driver_new(&(CkptQemuOptions){.uri = uri}, NULL);
    loop = g_main_loop_new(NULL, FALSE);
    loop_thread = g_thread_new("main loop", run_loop, loop);
}

void
world_close(void)
{
    ckpt_driver_free(driver);
    g_main_loop_quit(loop);
    g_thread_join(loop_thread);
    g_main_loop_unref(loop);
}

static char *
run_shell(const char *command, int *status)
{
    const char *const argv[] = {"bash", "-euo", "pipefail", "-c", command, NULL};
    g_autoptr(GError) error = NULL;
    char *output = NULL;

    g_setenv("d", folder, TRUE);
    if (!g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, &output, NULL,
                      status, &error))
        fail_msg("%s: %s", command, error->message);
    return g_strchomp(output);
}

char *
sh(const char *format, ...)
{
    g_autofree char *command = NULL;
    g_autofree char *script = NULL;
    char *output;
    va_list args;
    int status;

    va_start(args, format);
    command = g_strdup_vprintf(format, args);
    va_end(args);
    script = g_strconcat("PATH=$VMCKPT_TEST_SUPPORT:$PATH; virsh() { command virsh -q -c "
                         "\"$VMCKPT_TEST_URI\" \"$@\"; }; ",
                         command, NULL);
    output = run_shell(script, &status);
    if (status != 0)
        fail_msg("status %d of: %s\n%s", status, command, output);
    return output;
}

gboolean
sh_fails(const char *format, ...)
{
    g_autofree char *command = NULL;
    g_autofree char *output = NULL;
    va_list args;
    int status;

    va_start(args, format);
    command = g_strdup_vprintf(format, args);
    va_end(args);
    output = run_shell(command, &status);
    return status != 0;
}

static void
sh_quiet(char *output)
{
    g_free(output);
}

/* ---- Guests ---- */

Guest *
guest_new(const char *name, gboolean raw)
{
    Guest *guest = g_new0(Guest, 1);

    guest->name = g_strdup(name);
    if (raw)
        sh_quiet(sh("guest make $d %s --disks 2 --print >$d/%s.xml; cd $d/images;"
                    "qemu-img convert -f qcow2 -O raw %s-vdb.qcow2 %s-vdb.raw;"
                    "chown --reference %s-vdb.qcow2 %s-vdb.raw; rm %s-vdb.qcow2;"
                    "sed -i -z \"s/qcow2'\\/>\\(\\s*<source file='[^']*-vdb\\).qcow2/raw'\\/>\\1.raw/\" "
                    "$d/%s.xml; virsh define $d/%s.xml",
                    name, name, name, name, name, name, name, name, name));
    else
        sh_quiet(sh("guest make $d %s", name));
    guest->id = sh("virsh domuuid %s", name);
    guest->plan = ckpt_plan_new(CKPT_KIND_CREATE);
    guest->plan->vm_id = g_strdup(guest->id);
    guest->plan->checkpoint_id = g_strdup("00000000-0000-4000-8000-000000000001");
    return guest;
}

void
guest_free(Guest *guest)
{
    sh_quiet(sh("virsh destroy %s >/dev/null 2>&1 || true; virsh undefine %s --managed-save "
                "--snapshots-metadata --checkpoints-metadata >/dev/null; rm -f $d/images/%s-*",
                guest->name, guest->name, guest->name));
    ckpt_plan_free(guest->plan);
    g_free(guest->name);
    g_free(guest->id);
    g_free(guest);
}

void
guest_start(Guest *guest)
{
    sh_quiet(sh("guest start $d %s; guest wait-tick $d %s 0; guest wait-agent $d %s", guest->name,
                guest->name, guest->name));
}

void
guest_off(Guest *guest)
{
    sh_quiet(sh("guest stop $d %s", guest->name));
}

void
guest_mark(Guest *guest, const char *text)
{
    sh_quiet(sh("guest wait-agent $d %s; guest exec $d %s sh -c 'for m in /mnt/?; do echo %s >$m/mark; "
                "done; sync'",
                guest->name, guest->name, text));
}

void
guest_assert_mark(Guest *guest, const char *text)
{
    g_autofree char *found =
        sh("guest wait-agent $d %s; guest exec $d %s sh -c 'cat /mnt/?/mark | sort -u'",
           guest->name, guest->name);

    assert_string_equal(found, text);
}

void
guest_assert_ticks(Guest *guest)
{
    sh_quiet(sh("guest wait-tick $d %s --within 20", guest->name));
}

/* ---- What the driver sees ---- */

CkptVm *
look(Guest *guest)
{
    g_autoptr(GError) error = NULL;
    CkptVm *vm = driver->inspect(driver, guest->id, NULL, &error);

    if (!vm)
        fail_msg("inspect: %s", error->message);
    return vm;
}

void
assert_clean(Guest *guest)
{
    g_autoptr(CkptVm) vm = look(guest);

    for (guint i = 0; i < vm->obstacles->len; i++)
        print_error("obstacle: %s\n", ((CkptObstacle *)vm->obstacles->pdata[i])->message);
    assert_int_equal(vm->obstacles->len, 0);
    assert_true(vm->checkpoint.available);
}

void
assert_obstacle(Guest *guest, CkptReason reason, const char *disk)
{
    g_autoptr(CkptVm) vm = look(guest);

    for (guint i = 0; i < vm->obstacles->len; i++) {
        CkptObstacle *obstacle = vm->obstacles->pdata[i];

        if (obstacle->reason == reason && g_strcmp0(obstacle->disk, disk) == 0) {
            assert_true(strlen(obstacle->message) > 20);
            assert_false(vm->checkpoint.available);
            return;
        }
        print_error("obstacle: %s: %s\n", ckpt_reason_name(obstacle->reason), obstacle->message);
    }
    fail_msg("no obstacle %s on %s", ckpt_reason_name(reason), disk ? disk : "the VM");
}

/* ---- Steps ---- */

CkptStep *
step_new(Guest *guest, CkptStepKind kind)
{
    CkptStep *step = ckpt_step_new(kind);

    g_ptr_array_add(guest->plan->steps, step);
    return step;
}

void
step_add_disk(CkptStep *step, const char *target, const char *file, CkptFormat format)
{
    if (!step->disks)
        step->disks = g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_disk_file_free);
    g_ptr_array_add(step->disks, ckpt_disk_file_new(target, file, format, NULL));
}

static void
step_done(Guest *guest, CkptStep *step)
{
    g_autoptr(GError) error = NULL;

    if (!driver->step_do(driver, guest->plan, step, NULL, NULL, NULL, &error))
        fail_msg("%s: %s", ckpt_step_name(step->kind), error->message);
}

CkptOutcome
step_looks(Guest *guest, CkptStep *step)
{
    g_autoptr(GError) error = NULL;
    CkptOutcome outcome = driver->step_check(driver, guest->plan, step, &error);

    if (outcome == CKPT_OUTCOME_UNCLEAR)
        assert_non_null(error);
    return outcome;
}

void
step_pass(Guest *guest, CkptStep *step)
{
    step_done(guest, step);
    if (step->kind != CKPT_STEP_CHECK_CHAIN && step->kind != CKPT_STEP_IDENTIFY)
        assert_int_equal(step_looks(guest, step), CKPT_OUTCOME_DONE);
    step_done(guest, step);
}

void
step_refused(Guest *guest, CkptStep *step, CkptReason reason)
{
    g_autoptr(GError) error = NULL;

    assert_false(driver->step_do(driver, guest->plan, step, NULL, NULL, NULL, &error));
    assert_non_null(error);
    if (ckpt_error_reason(error) != reason)
        fail_msg("%s: %s", ckpt_reason_name(ckpt_error_reason(error)), error->message);
}

void
step_undone(Guest *guest, CkptStep *step)
{
    for (guint i = 0; i < 2; i++) {
        g_autoptr(GError) error = NULL;

        if (!driver->step_undo(driver, guest->plan, step, &error))
            fail_msg("undo %s: %s", ckpt_step_name(step->kind), error->message);
    }
}

/* ---- Checkpoints ---- */

void
point_free(Point *point)
{
    for (guint i = 0; i < point->count; i++) {
        g_free(point->target[i]);
        g_free(point->sealed[i]);
        g_free(point->overlay[i]);
    }
    g_free(point->tag);
    g_free(point->definition);
    g_free(point);
}

static void
make_overlay(Guest *guest, const char *file, const char *base, CkptFormat format)
{
    CkptStep *step = step_new(guest, CKPT_STEP_MAKE_OVERLAY);

    step->file = g_strdup(file);
    step->base = g_strdup(base);
    step->like = g_strdup(base);
    step->base_format = format;
    step_pass(guest, step);
}

Point *
point_prepare(Guest *guest, const char *tag)
{
    g_autoptr(CkptVm) vm = look(guest);
    Point *point = g_new0(Point, 1);

    point->tag = g_strdup(tag);
    point->count = vm->disks->len;
    point->definition = g_strdup(vm->definition);
    for (guint i = 0; i < point->count; i++) {
        CkptDisk *disk = vm->disks->pdata[i];
        CkptLayer *top = disk->chain->pdata[0];
        CkptStep *seal = step_new(guest, CKPT_STEP_SEAL);

        point->target[i] = g_strdup(disk->target);
        point->sealed[i] = g_strdup(top->path);
        point->format[i] = top->format;
        point->mode[i] = top->mode;
        point->overlay[i] = g_strdup_printf("%s/images/%s-%s.ckpt-%s.qcow2", folder, guest->name,
                                            disk->target, tag);
        make_overlay(guest, point->overlay[i], top->path, top->format);
        seal->file = g_strdup(top->path);
        seal->mode = top->mode;
        step_pass(guest, seal);
    }
    return point;
}

CkptStep *
point_snapshot_step(Guest *guest, Point *point)
{
    CkptStep *step = step_new(guest, CKPT_STEP_SNAPSHOT);

    for (guint i = 0; i < point->count; i++)
        step_add_disk(step, point->target[i], point->overlay[i], CKPT_FORMAT_QCOW2);
    return step;
}

static void
check_chain(Guest *guest, Point *point, char **tops)
{
    CkptStep *step = step_new(guest, CKPT_STEP_CHECK_CHAIN);

    for (guint i = 0; i < point->count; i++)
        step_add_disk(step, point->target[i], tops[i], CKPT_FORMAT_QCOW2);
    step_pass(guest, step);
}

Point *
point_create(Guest *guest, const char *tag)
{
    Point *point = point_prepare(guest, tag);
    CkptStep *snapshot = point_snapshot_step(guest, point);

    assert_int_equal(step_looks(guest, snapshot), CKPT_OUTCOME_NOT_DONE);
    step_pass(guest, snapshot);
    for (guint i = 0; i < point->count; i++) {
        CkptStep *identify = step_new(guest, CKPT_STEP_IDENTIFY);

        identify->file = g_strdup(point->sealed[i]);
        step_pass(guest, identify);
        assert_true(ckpt_file_id_is_set(&identify->id));
    }
    check_chain(guest, point, point->overlay);
    assert_clean(guest);
    return point;
}

void
point_restore(Guest *guest, Point *point, const char *tag, gboolean start)
{
    CkptStep *define, *stop;
    char *tops[MAX_DISKS];

    /* START looks into its plan for what it is to run on. */
    g_ptr_array_set_size(guest->plan->steps, 0);
    define = step_new(guest, CKPT_STEP_DEFINE);
    stop = step_new(guest, CKPT_STEP_STOP);
    define->definition = g_strdup(point->definition);
    define->definition_before = sh("virsh dumpxml --inactive --security-info %s", guest->id);
    for (guint i = 0; i < point->count; i++) {
        tops[i] = g_strdup_printf("%s/images/%s-%s.ckpt-%s.qcow2", folder, guest->name,
                                  point->target[i], tag);
        make_overlay(guest, tops[i], point->sealed[i], point->format[i]);
        step_add_disk(define, point->target[i], tops[i], CKPT_FORMAT_QCOW2);
    }
    step_pass(guest, define);
    stop->power = CKPT_POWER_RUNNING;
    step_pass(guest, stop);
    if (start) {
        CkptStep *run = step_new(guest, CKPT_STEP_START);

        run->power = CKPT_POWER_RUNNING;
        step_pass(guest, run);
    }
    check_chain(guest, point, tops);
    for (guint i = 0; i < point->count; i++)
        g_free(tops[i]);
}

static void
unseal(Guest *guest, const char *file)
{
    CkptStep *step = step_new(guest, CKPT_STEP_UNSEAL);

    step->file = g_strdup(file);
    step->mode = 0600;
    step_pass(guest, step);
}

CkptStep *
merge_step(Guest *guest, const char *target, const char *file, const char *base,
           CkptFormat base_format, const char *above)
{
    CkptStep *step;

    unseal(guest, base);
    unseal(guest, file); /* qemu-img opens it for writing too */
    if (above)
        unseal(guest, above);
    step = step_new(guest, CKPT_STEP_MERGE);
    step->target = g_strdup(target);
    step->file = g_strdup(file);
    step->base = g_strdup(base);
    step->base_format = base_format;
    step->above = g_strdup(above);
    step->above_format = above ? CKPT_FORMAT_QCOW2 : (CkptFormat)0;
    return step;
}
