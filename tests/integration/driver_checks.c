/* What the driver looks at once more at the last moment: SNAPSHOT, whether the VM is as it was planned;
 * CHECK_CHAIN, whether the VM changed while it was looked at; RESERVE and REMOVE_FILE, whether others may lie on
 * the files. driver-checks starts it. */
#include "agent/hypervisor/qemu.h"
#include "tests/integration/driver_world.h"

/* ---- Between a step and its view of the VM (ld --wrap) ---- */

static const char *after_look; /* what is done right after the next look at the VM */

CkptView *__real_ckpt_view_load(CkptConnection *connection, const char *vm_id, GError **error);
CkptView *__wrap_ckpt_view_load(CkptConnection *connection, const char *vm_id, GError **error);
CkptView *
__wrap_ckpt_view_load(CkptConnection *connection, const char *vm_id, GError **error)
{
    CkptView *view = __real_ckpt_view_load(connection, vm_id, error);
    const char *command = g_steal_pointer(&after_look);

    if (command)
        g_free(sh("%s", command));
    return view;
}

static const char *before_snapshot; /* what is done right before libvirt's next snapshot */

virDomainSnapshotPtr __real_virDomainSnapshotCreateXML(virDomainPtr domain, const char *xml, unsigned int flags);
virDomainSnapshotPtr __wrap_virDomainSnapshotCreateXML(virDomainPtr domain, const char *xml, unsigned int flags);
virDomainSnapshotPtr
__wrap_virDomainSnapshotCreateXML(virDomainPtr domain, const char *xml, unsigned int flags)
{
    const char *command = g_steal_pointer(&before_snapshot);

    if (command)
        g_free(sh("%s", command));
    return __real_virDomainSnapshotCreateXML(domain, xml, flags);
}

/* ---- SNAPSHOT ---- */

/* Refused, and the VM is where it was. */
static void
assert_not_snapshotted(Guest *guest, CkptStep *snapshot)
{
    step_refused(guest, snapshot, CKPT_REASON_VM_BUSY);
    assert_int_equal(step_looks(guest, snapshot), CKPT_OUTCOME_NOT_DONE);
}

static void
one_planned_as_running_is_not_taken_when_it_is_off(void **state)
{
    g_autoptr(Guest) guest = guest_new("off", FALSE);
    g_autoptr(Point) point = point_prepare(guest, "aaaaaaaa");
    CkptStep *snapshot = point_snapshot_step(guest, point);

    snapshot->power = CKPT_POWER_RUNNING;
    assert_not_snapshotted(guest, snapshot);
    snapshot->power = CKPT_POWER_SHUT_OFF;
    step_pass(guest, snapshot);
}

static void
one_planned_as_off_is_not_taken_when_it_runs(void **state)
{
    g_autoptr(Guest) guest = guest_new("on", FALSE);
    g_autoptr(Point) point = NULL;
    CkptStep *snapshot;

    g_free(sh("guest start $d on"));
    point = point_prepare(guest, "aaaaaaaa");
    snapshot = point_snapshot_step(guest, point);
    snapshot->power = CKPT_POWER_SHUT_OFF;
    assert_not_snapshotted(guest, snapshot);
    guest_off(guest);
}

static void
one_resized_since_its_overlay_was_made_is_not_taken(void **state)
{
    g_autoptr(Guest) guest = guest_new("size", FALSE);
    g_autoptr(Point) point = point_prepare(guest, "aaaaaaaa");
    CkptStep *snapshot = point_snapshot_step(guest, point);

    g_free(sh("qemu-img resize -q -f qcow2 %s +1M", point->sealed[0]));
    assert_not_snapshotted(guest, snapshot);
}

static void
one_with_a_disk_more_or_less_is_not_taken(void **state)
{
    g_autoptr(Guest) guest = guest_new("disks", TRUE);
    g_autoptr(Point) point = point_prepare(guest, "aaaaaaaa");
    CkptStep *snapshot = point_snapshot_step(guest, point);
    CkptStep *one = step_new(guest, CKPT_STEP_SNAPSHOT);

    step_add_disk(one, "vda", point->overlay[0], CKPT_FORMAT_QCOW2);
    assert_not_snapshotted(guest, one);
    g_free(sh("qemu-img create -q -f raw $d/images/disks-vdc.raw 1M;"
              "guest virsh $d attach-disk disks $d/images/disks-vdc.raw vdc --config"));
    assert_not_snapshotted(guest, snapshot);
    g_free(sh("guest virsh $d detach-disk disks vdc --config"));
    step_pass(guest, snapshot);
}

/* As virsh does it: with a file of its own, and without telling anybody. */
#define LAY(name, file)                                                                                    \
    "guest virsh $d snapshot-create-as " name                                                              \
    " --no-metadata --disk-only --diskspec vda,file=$d/images/" file " 2>&1"

static void
one_put_on_another_file_since_it_was_planned_is_not_taken(void **state)
{
    g_autoptr(Guest) guest = guest_new("moved", FALSE);
    g_autoptr(Point) point = NULL;
    CkptStep *snapshot;

    g_free(sh("guest start $d moved; " LAY("moved", "moved-x.qcow2")));
    point = point_prepare(guest, "aaaaaaaa");
    snapshot = point_snapshot_step(guest, point);
    g_free(sh("guest virsh $d blockcommit moved vda --active --shallow --pivot 2>&1"));
    assert_not_snapshotted(guest, snapshot);
    guest_off(guest);
    assert_not_snapshotted(guest, snapshot);
}

/* The overlay would lie on it, and its header names the file below. */
static void
one_put_on_another_file_at_the_last_moment_is_not_taken(void **state)
{
    g_autoptr(Guest) guest = guest_new("late", FALSE);
    g_autoptr(Point) point = NULL;
    CkptStep *snapshot;

    g_free(sh("guest start $d late"));
    point = point_prepare(guest, "aaaaaaaa");
    snapshot = point_snapshot_step(guest, point);
    after_look = LAY("late", "late-x.qcow2");
    assert_not_snapshotted(guest, snapshot);
    assert_null(after_look);
    g_free(sh("guest virsh $d domblklist late | grep -q late-x.qcow2"));
    guest_off(guest);
}

/* libvirt has laid the overlay over it: that is taken back, into that very file. */
static void
one_that_came_to_lie_on_another_file_is_undone(void **state)
{
    g_autoptr(Guest) guest = guest_new("between", FALSE);
    g_autoptr(Point) point = NULL;
    CkptStep *snapshot;

    g_free(sh("guest start $d between"));
    point = point_prepare(guest, "aaaaaaaa");
    snapshot = point_snapshot_step(guest, point);
    before_snapshot = LAY("between", "between-x.qcow2");
    assert_not_snapshotted(guest, snapshot);
    assert_null(before_snapshot);
    g_free(sh("guest virsh $d domblklist between | grep -qF %s", point->overlay[0]));
    step_undone(guest, snapshot);
    g_free(sh("guest virsh $d domblklist between | grep -q between-x.qcow2 &&"
              "guest virsh $d domblklist --inactive between | grep -q between-x.qcow2 &&"
              "qemu-img info -U $d/images/between-x.qcow2 | grep -qF %s",
              point->sealed[0]));
    guest_off(guest);
}

/* ---- CHECK_CHAIN ---- */

/* The definition was read while it ran, the locks after it had ended: no mismatch, but a look at two
 * different moments. */
static void
one_that_ends_in_mid_look_is_looked_at_again(void **state)
{
    g_autoptr(Guest) guest = guest_new("ends", FALSE);
    CkptStep *check = step_new(guest, CKPT_STEP_CHECK_CHAIN);
    g_autofree char *top = g_strdup_printf("%s/images/ends-vda.qcow2", folder);

    step_add_disk(check, "vda", top, CKPT_FORMAT_QCOW2);
    g_free(sh("guest start $d ends"));
    step_pass(guest, check);
    after_look = "guest virsh $d destroy ends";
    step_pass(guest, check);
    assert_null(after_look);
}

/* ---- RESERVE, REMOVE_FILE ---- */

/* No delete begins, and no file goes; but what has begun goes on, and so does the way back. */
static void
a_vm_of_which_nobody_can_tell_on_what_it_lies_is_heeded(void **state)
{
    g_autoptr(Guest) guest = guest_new("heeds", FALSE);
    g_autoptr(Point) first = NULL;
    g_autoptr(Point) second = NULL;
    g_autofree char *stray = g_strdup_printf("%s/images/stray.ckpt-12345678.qcow2", folder);
    CkptStep *reserve, *removal, *merge;

    g_free(sh("guest start $d heeds; guest virsh $d dumpxml --inactive heeds | sed '/<uuid>/d;"
              "s|<name>.*</name>|<name>lost</name>|; s|heeds-vda|lost-vda|; s|heeds[.]|lost.|g' >$d/lost.xml"));
    first = point_create(guest, "aaaaaaaa");
    second = point_create(guest, "bbbbbbbb");
    g_free(sh("guest virsh $d define $d/lost.xml; cp %s %s", first->overlay[0], stray));
    reserve = step_new(guest, CKPT_STEP_RESERVE);
    reserve->target = g_strdup("vda");
    reserve->file = g_strdup(second->overlay[0]);
    reserve->base = g_strdup(second->sealed[0]);
    reserve->base_format = CKPT_FORMAT_QCOW2;
    reserve->size = 65536;
    step_refused(guest, reserve, CKPT_REASON_DISK_FILE_MISSING);
    removal = step_new(guest, CKPT_STEP_REMOVE_FILE);
    removal->file = g_strdup(stray);
    step_refused(guest, removal, CKPT_REASON_FILE_FAILED);
    g_ptr_array_set_size(guest->plan->steps, guest->plan->steps->len - 2);
    for (guint i = guest->plan->steps->len; i > 0; i--) {
        CkptStep *step = guest->plan->steps->pdata[i - 1];

        if (step->kind == CKPT_STEP_SNAPSHOT && step_looks(guest, step) == CKPT_OUTCOME_NOT_DONE)
            break;
        step_undone(guest, step);
        if (step->kind == CKPT_STEP_SNAPSHOT)
            break;
    }
    assert_false(g_file_test(second->overlay[0], G_FILE_TEST_EXISTS));
    merge = merge_step(guest, "vda", first->overlay[0], first->sealed[0], first->format[0], NULL);
    step_pass(guest, merge);
    g_free(sh("guest virsh $d undefine lost"));
    removal = step_new(guest, CKPT_STEP_REMOVE_FILE);
    removal->file = g_strdup(stray);
    step_pass(guest, removal);
    guest_off(guest);
}

static int
open_world(void **state)
{
    world_open();
    return 0;
}

static int
close_world(void **state)
{
    world_close();
    return 0;
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_planned_as_running_is_not_taken_when_it_is_off),
        cmocka_unit_test(one_planned_as_off_is_not_taken_when_it_runs),
        cmocka_unit_test(one_resized_since_its_overlay_was_made_is_not_taken),
        cmocka_unit_test(one_with_a_disk_more_or_less_is_not_taken),
        cmocka_unit_test(one_put_on_another_file_since_it_was_planned_is_not_taken),
        cmocka_unit_test(one_put_on_another_file_at_the_last_moment_is_not_taken),
        cmocka_unit_test(one_that_came_to_lie_on_another_file_is_undone),
        cmocka_unit_test(one_that_ends_in_mid_look_is_looked_at_again),
        cmocka_unit_test(a_vm_of_which_nobody_can_tell_on_what_it_lies_is_heeded),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, open_world, close_world);
}
