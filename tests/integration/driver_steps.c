/* The qemu driver's steps on a real hypervisor with real guests. driver-steps starts those. */
#include "tests/integration/driver_world.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static void
inspect_shows_disks_chains_and_locks(void **state)
{
    g_autoptr(Guest) guest = guest_new("look", TRUE);
    g_autoptr(CkptVm) vm = NULL;
    CkptDisk *disk;
    CkptLayer *top;

    assert_clean(guest);
    guest_start(guest);
    assert_clean(guest);
    vm = look(guest);
    assert_string_equal(vm->name, "look");
    assert_int_equal(vm->power, CKPT_POWER_RUNNING);
    assert_int_equal(vm->disks->len, 2);
    disk = ckpt_vm_find_disk(vm, "vdb");
    assert_int_equal(disk->format, CKPT_FORMAT_RAW);
    assert_string_equal(disk->source, disk->live_source);
    assert_int_equal(disk->chain->len, 1);
    top = disk->chain->pdata[0];
    assert_int_equal(top->virtual_size, 64 << 20);
    assert_true(top->write_locked);
    assert_true(top->fs_available > 0);
    assert_non_null(vm->live_definition);
}

static void
unknown_vm_is_not_found(void **state)
{
    g_autoptr(GError) error = NULL;

    assert_null(driver->inspect(driver, "00000000-0000-4000-8000-00000000dead", NULL, &error));
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_VM_NOT_FOUND);
}

static void
host_tells_who_it_is(void **state)
{
    g_autoptr(CkptHostInfo) info = NULL;

    assert_true(driver->host_info(driver, &info, NULL));
    assert_int_equal(strlen(info->host_id), 36);
    assert_non_null(info->libvirt_version);
    assert_non_null(info->qemu_version);
}

static void
running_vm_is_checkpointed_and_restored(void **state)
{
    g_autoptr(Guest) guest = guest_new("run", TRUE);
    g_autoptr(Point) point = NULL;
    struct stat overlay, base;

    guest_start(guest);
    guest_mark(guest, "one");
    point = point_create(guest, "aaaaaaaa");
    guest_assert_ticks(guest);
    assert_int_equal(stat(point->overlay[0], &overlay), 0);
    assert_int_equal(stat(point->sealed[0], &base), 0);
    assert_int_equal(overlay.st_mode & 07777, 0600);
    assert_int_equal(base.st_mode & 07777, 0440);
    assert_int_equal(overlay.st_uid, base.st_uid);
    guest_mark(guest, "two");
    point_restore(guest, point, "bbbbbbbb", TRUE);
    guest_assert_mark(guest, "one");
    guest_assert_ticks(guest);
    assert_clean(guest);
}

static void
shut_off_vm_is_checkpointed_and_restored(void **state)
{
    g_autoptr(Guest) guest = guest_new("off", TRUE);
    g_autoptr(Point) point = NULL;

    guest_start(guest);
    guest_mark(guest, "one");
    guest_off(guest);
    point = point_create(guest, "aaaaaaaa");
    guest_start(guest);
    guest_mark(guest, "two");
    guest_off(guest);
    point_restore(guest, point, "bbbbbbbb", FALSE);
    guest_start(guest);
    guest_assert_mark(guest, "one");
}

static void
running_top_is_merged(void **state)
{
    g_autoptr(Guest) guest = guest_new("top", TRUE);
    g_autoptr(Point) point = NULL;
    g_autoptr(CkptVm) vm = NULL;

    guest_start(guest);
    guest_mark(guest, "one");
    point = point_create(guest, "aaaaaaaa");
    guest_mark(guest, "two");
    for (guint i = 0; i < point->count; i++) {
        CkptStep *merge = merge_step(guest, point->target[i], point->overlay[i], point->sealed[i],
                                     point->format[i], NULL);
        CkptStep *remove = step_new(guest, CKPT_STEP_REMOVE_FILE);

        remove->file = g_strdup(point->overlay[i]);
        step_refused(guest, remove, CKPT_REASON_FILE_FAILED);
        assert_int_equal(step_looks(guest, merge), CKPT_OUTCOME_NOT_DONE);
        step_pass(guest, merge);
        step_pass(guest, remove);
    }
    assert_clean(guest);
    guest_assert_ticks(guest);
    guest_assert_mark(guest, "two");
    vm = look(guest);
    assert_string_equal(ckpt_vm_find_disk(vm, "vda")->source, point->sealed[0]);
    assert_int_equal(ckpt_vm_find_disk(vm, "vdb")->format, CKPT_FORMAT_RAW);
    guest_off(guest);
    guest_start(guest);
    guest_assert_mark(guest, "two");
}

static void
on_progress(guint64 done, guint64 total, gpointer data)
{
    guint64 *told = data;

    told[0] = done;
    told[1] = total;
}

static void
progress_of_a_running_merge_ends_at_all_of_it(void **state)
{
    g_autoptr(Guest) guest = guest_new("told", FALSE);
    g_autoptr(GError) error = NULL;
    g_autoptr(Point) point = NULL;
    guint64 told[2] = {0, 0};
    CkptStep *merge;

    guest_start(guest);
    point = point_create(guest, "aaaaaaaa");
    guest_mark(guest, "two");
    merge = merge_step(guest, "vda", point->overlay[0], point->sealed[0], CKPT_FORMAT_QCOW2, NULL);
    if (!driver->step_do(driver, guest->plan, merge, on_progress, told, NULL, &error))
        fail_msg("%s", error->message);
    assert_true(told[1] > 0);
    assert_int_equal(told[0], told[1]);
}

static void
running_middle_is_merged(void **state)
{
    g_autoptr(Guest) guest = guest_new("mid", TRUE);
    g_autoptr(Point) first = NULL;
    g_autoptr(Point) second = NULL;

    guest_start(guest);
    guest_mark(guest, "one");
    first = point_create(guest, "aaaaaaaa");
    guest_mark(guest, "two");
    second = point_create(guest, "bbbbbbbb");
    guest_mark(guest, "three");
    for (guint i = 0; i < first->count; i++) {
        CkptStep *remove = step_new(guest, CKPT_STEP_REMOVE_FILE);

        step_pass(guest, merge_step(guest, first->target[i], first->overlay[i], first->sealed[i],
                                    first->format[i], second->overlay[i]));
        remove->file = g_strdup(first->overlay[i]);
        step_pass(guest, remove);
        g_free(second->sealed[i]);
        second->sealed[i] = g_strdup(first->sealed[i]);
        second->format[i] = first->format[i];
    }
    assert_clean(guest);
    guest_assert_ticks(guest);
    point_restore(guest, second, "cccccccc", TRUE);
    guest_assert_mark(guest, "two");
}

static void
shut_off_vm_is_merged(void **state)
{
    g_autoptr(Guest) guest = guest_new("offmerge", TRUE);
    g_autoptr(Point) first = NULL;
    g_autoptr(Point) second = NULL;

    guest_start(guest);
    guest_mark(guest, "one");
    first = point_create(guest, "aaaaaaaa");
    guest_mark(guest, "two");
    second = point_create(guest, "bbbbbbbb");
    guest_mark(guest, "three");
    guest_off(guest);
    for (guint i = 0; i < first->count; i++)
        step_pass(guest, merge_step(guest, first->target[i], first->overlay[i], first->sealed[i],
                                    first->format[i], second->overlay[i]));
    assert_clean(guest);
    for (guint i = 0; i < first->count; i++)
        step_pass(guest, merge_step(guest, first->target[i], second->overlay[i], first->sealed[i],
                                    first->format[i], NULL));
    assert_clean(guest);
    guest_start(guest);
    guest_assert_mark(guest, "three");
}

/* The branch that the VM left when it was restored. */
static void
other_branch_is_merged_while_the_vm_runs(void **state)
{
    g_autoptr(Guest) guest = guest_new("branch", FALSE);
    g_autoptr(Point) first = NULL;
    g_autoptr(Point) second = NULL;
    g_autoptr(Point) third = NULL;

    guest_start(guest);
    guest_mark(guest, "one");
    first = point_create(guest, "aaaaaaaa");
    guest_mark(guest, "two");
    second = point_create(guest, "bbbbbbbb");
    guest_mark(guest, "three");
    third = point_create(guest, "cccccccc");
    point_restore(guest, first, "dddddddd", TRUE);
    step_pass(guest, merge_step(guest, "vda", second->overlay[0], second->sealed[0],
                                CKPT_FORMAT_QCOW2, third->overlay[0]));
    guest_assert_mark(guest, "one");
    point_restore(guest, third, "eeeeeeee", TRUE);
    guest_assert_mark(guest, "three");
}

static void
merge_goes_on_with_a_job_of_before_a_crash(void **state)
{
    g_autoptr(Guest) guest = guest_new("adopt", FALSE);
    g_autoptr(Point) point = NULL;
    g_autofree char *mark = NULL;
    CkptStep *merge;

    guest_start(guest);
    point = point_create(guest, "aaaaaaaa");
    guest_mark(guest, "two");
    merge = merge_step(guest, "vda", point->overlay[0], point->sealed[0], CKPT_FORMAT_QCOW2, NULL);
    g_free(sh("virsh blockcommit adopt vda --active --base %s", point->sealed[0]));
    assert_obstacle(guest, CKPT_REASON_BLOCK_JOB_ACTIVE, "vda");
    assert_true(driver->settle(driver, guest->id, NULL));
    /* As if the agent had died between its suspension and the pivot. */
    mark = g_strconcat(point->sealed[0], ".vmckpt-paused", NULL);
    g_free(sh("touch %s; virsh suspend adopt", mark));
    step_pass(guest, merge);
    assert_false(g_file_test(mark, G_FILE_TEST_EXISTS));
    guest_assert_ticks(guest);
    guest_assert_mark(guest, "two");
    assert_clean(guest);
}

static void
paused_vm_stays_paused_in_a_merge(void **state)
{
    g_autoptr(Guest) guest = guest_new("paused", FALSE);
    g_autoptr(Point) point = NULL;
    g_autofree char *found = NULL;

    guest_start(guest);
    g_free(sh("virsh suspend paused"));
    point = point_create(guest, "aaaaaaaa");
    step_pass(guest, merge_step(guest, "vda", point->overlay[0], point->sealed[0],
                                CKPT_FORMAT_QCOW2, NULL));
    found = sh("virsh domstate paused");
    assert_string_equal(found, "paused");
}

static void
cancelled_merge_leaves_the_vm_on_its_overlay(void **state)
{
    g_autoptr(Guest) guest = guest_new("cancel", FALSE);
    g_autoptr(GCancellable) cancellable = g_cancellable_new();
    g_autoptr(GError) error = NULL;
    g_autoptr(Point) point = NULL;
    CkptStep *merge;

    guest_start(guest);
    point = point_create(guest, "aaaaaaaa");
    guest_mark(guest, "two");
    merge = merge_step(guest, "vda", point->overlay[0], point->sealed[0], CKPT_FORMAT_QCOW2, NULL);
    g_cancellable_cancel(cancellable);
    assert_false(driver->step_do(driver, guest->plan, merge, NULL, NULL, cancellable, &error));
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_OPERATION_CANCELLED);
    assert_clean(guest);
    assert_int_equal(step_looks(guest, merge), CKPT_OUTCOME_NOT_DONE);
    step_pass(guest, merge);
    guest_assert_mark(guest, "two");
}

static void
snapshot_is_undone(void **state)
{
    g_autoptr(Guest) guest = guest_new("undo", TRUE);
    g_autoptr(Point) point = NULL;
    CkptStep *snapshot = NULL;

    guest_start(guest);
    point = point_create(guest, "aaaaaaaa");
    guest_mark(guest, "two");
    for (guint i = guest->plan->steps->len; i > 0; i--) {
        CkptStep *step = guest->plan->steps->pdata[i - 1];

        if (step->kind == CKPT_STEP_SNAPSHOT)
            snapshot = step;
        step_undone(guest, step);
    }
    assert_int_equal(step_looks(guest, snapshot), CKPT_OUTCOME_NOT_DONE);
    assert_false(g_file_test(point->overlay[0], G_FILE_TEST_EXISTS));
    assert_clean(guest);
    guest_assert_ticks(guest);
    guest_assert_mark(guest, "two");
}

/* A crash between the pivot of the undo's merge and the resume: the overlay is nobody's disk any more. */
static void
snapshot_undone_after_its_merge_lets_the_guest_go_on(void **state)
{
    g_autoptr(Guest) guest = guest_new("undoheld", FALSE);
    g_autoptr(Point) point = NULL;
    g_autofree char *mark = NULL;
    CkptStep *snapshot = NULL;

    guest_start(guest);
    point = point_create(guest, "aaaaaaaa");
    guest_mark(guest, "two");
    for (guint i = 0; i < guest->plan->steps->len; i++)
        if (((CkptStep *)guest->plan->steps->pdata[i])->kind == CKPT_STEP_SNAPSHOT)
            snapshot = guest->plan->steps->pdata[i];
    mark = g_strconcat(point->sealed[0], ".vmckpt-paused", NULL);
    g_free(sh("touch %s.vmckpt-undo; chmod 0600 %s", point->overlay[0], point->sealed[0]));
    g_free(sh("virsh blockcommit undoheld vda --active --pivot --wait --base %s", point->sealed[0]));
    g_free(sh("touch %s.vmckpt-merged", point->overlay[0]));
    g_free(sh("touch %s; virsh suspend undoheld", mark));
    step_undone(guest, snapshot);
    assert_false(g_file_test(mark, G_FILE_TEST_EXISTS));
    assert_false(g_file_test(point->overlay[0], G_FILE_TEST_EXISTS));
    guest_assert_ticks(guest);
    guest_assert_mark(guest, "two");
    assert_clean(guest);
}

/* In the midst of the undo's merge the owner puts the VM on the file below (hazard A22). */
static void
snapshot_is_not_undone_over_what_was_not_merged(void **state)
{
    g_autoptr(Guest) guest = guest_new("undoback", TRUE);
    g_autoptr(GError) error = NULL;
    g_autoptr(Point) point = NULL;
    CkptStep *snapshot;

    guest_start(guest);
    point = point_prepare(guest, "aaaaaaaa");
    g_free(sh("virsh dumpxml --inactive undoback >$d/before.xml; virsh define $d/before.xml"));
    snapshot = point_snapshot_step(guest, point);
    step_pass(guest, snapshot);
    guest_mark(guest, "two");
    guest_off(guest);
    g_free(sh("virsh dumpxml --inactive undoback >$d/after.xml; virsh define $d/before.xml"));
    g_free(sh("touch %s.vmckpt-undo", point->overlay[0]));
    assert_false(driver->step_undo(driver, guest->plan, snapshot, &error));
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_CHAIN_MISMATCH);
    assert_true(g_file_test(point->overlay[0], G_FILE_TEST_EXISTS));
    g_free(sh("virsh define $d/after.xml"));
    step_undone(guest, snapshot);
    assert_false(g_file_test(point->overlay[0], G_FILE_TEST_EXISTS));
    guest_start(guest);
    guest_assert_mark(guest, "two");
}

/* Hazard A5: libvirt's definition names the sealed file, the guest wrote to the overlay. */
static void
definition_left_behind_is_put_onto_the_overlays(void **state)
{
    g_autoptr(Guest) guest = guest_new("behind", TRUE);
    g_autoptr(Point) point = NULL;
    CkptStep *snapshot;
    g_autofree char *before = NULL;

    guest_start(guest);
    point = point_prepare(guest, "aaaaaaaa");
    before = sh("virsh dumpxml --inactive behind >$d/before.xml");
    snapshot = point_snapshot_step(guest, point);
    step_pass(guest, snapshot);
    guest_mark(guest, "two");
    guest_off(guest);
    g_free(sh("virsh define $d/before.xml"));
    step_refused(guest, snapshot, CKPT_REASON_CHAIN_MISMATCH);
    assert_int_equal(step_looks(guest, snapshot), CKPT_OUTCOME_DONE);
    guest_start(guest);
    guest_assert_mark(guest, "two");
}

/* Hazard A25. */
static void
overlay_of_another_file_is_refused(void **state)
{
    g_autoptr(Guest) guest = guest_new("other", FALSE);
    CkptStep *snapshot = step_new(guest, CKPT_STEP_SNAPSHOT);
    g_autofree char *overlay = g_strdup_printf("%s/images/other-x.qcow2", folder);

    g_free(sh("cp --preserve=all $d/images/other-vda.qcow2 $d/images/other-copy.qcow2;"
              "qemu-img create -q -f qcow2 -F qcow2 -b $d/images/other-copy.qcow2 %s", overlay));
    step_add_disk(snapshot, "vda", overlay, CKPT_FORMAT_QCOW2);
    guest_start(guest);
    step_refused(guest, snapshot, CKPT_REASON_CHAIN_MISMATCH);
    assert_clean(guest);
}

/* Hazard A28: the guest writes a qcow2 header with a backing file of its choice. */
static void
raw_disk_with_a_qcow2_header_stays_raw(void **state)
{
    g_autoptr(Guest) guest = guest_new("fake", TRUE);
    g_autoptr(Point) point = NULL;
    g_autofree char *sum = NULL;
    g_autofree char *again = NULL;

    g_free(sh("qemu-img create -q -f qcow2 -F raw -u -b /etc/passwd $d/evil.qcow2 1M;"
              "dd if=$d/evil.qcow2 of=$d/images/fake-vdb.raw conv=notrunc status=none"));
    sum = sh("sha256sum <$d/images/fake-vdb.raw");
    point = point_create(guest, "aaaaaaaa");
    assert_int_equal(point->format[1], CKPT_FORMAT_RAW);
    g_free(sh("qemu-img info -f qcow2 %s | grep 'backing file format: raw'", point->overlay[1]));
    step_pass(guest, merge_step(guest, "vdb", point->overlay[1], point->sealed[1], CKPT_FORMAT_RAW,
                                NULL));
    again = sh("sha256sum <$d/images/fake-vdb.raw");
    assert_string_equal(sum, again);
}

static void
existing_file_is_no_overlay(void **state)
{
    g_autoptr(Guest) guest = guest_new("exist", FALSE);
    CkptStep *step = step_new(guest, CKPT_STEP_MAKE_OVERLAY);

    step->base = g_strdup_printf("%s/images/exist-vda.qcow2", folder);
    step->file = g_strdup_printf("%s/images/exist-own.qcow2", folder);
    step->base_format = CKPT_FORMAT_QCOW2;
    g_free(sh("echo precious >%s", step->file));
    step_refused(guest, step, CKPT_REASON_DISK_FORMAT_UNSUPPORTED);
    step_undone(guest, step);
    g_free(sh("grep -q precious %s", step->file));
}

static void
manifests_lie_beside_the_files(void **state)
{
    g_autoptr(Guest) guest = guest_new("manifest", TRUE);
    CkptStep *step = step_new(guest, CKPT_STEP_WRITE_MANIFEST);
    CkptStep *other = step_new(guest, CKPT_STEP_REMOVE_MANIFEST);
    g_autofree char *file = g_strdup_printf("%s/images/manifest-vda.qcow2", folder);
    g_autofree char *mode = NULL;

    step->checkpoint_id = g_strdup("0a0a0a0a-0000-4000-8000-000000000001");
    step->text = g_strdup("{\"vmcheckpoint_manifest\":1,"
                          "\"checkpoint\":{\"id\":\"0a0a0a0a-0000-4000-8000-000000000001\"}}\n");
    step_add_disk(step, "vda", file, CKPT_FORMAT_QCOW2);
    step_pass(guest, step);
    mode = sh("stat -c %%a %s.vmckpt.json", file);
    assert_string_equal(mode, "600");
    other->checkpoint_id = g_strdup("0b0b0b0b-0000-4000-8000-000000000001");
    step_add_disk(other, "", file, CKPT_FORMAT_QCOW2);
    step_pass(guest, other);
    assert_int_equal(step_looks(guest, step), CKPT_OUTCOME_DONE);
    step_undone(guest, step);
    assert_int_equal(step_looks(guest, step), CKPT_OUTCOME_NOT_DONE);
}

static void
refused_definition_changes_nothing(void **state)
{
    g_autoptr(Guest) guest = guest_new("refused", FALSE);
    CkptStep *define = step_new(guest, CKPT_STEP_DEFINE);
    g_autofree char *file = g_strdup_printf("%s/images/refused-vda.qcow2", folder);
    g_autofree char *after = NULL;

    define->definition_before = sh("virsh dumpxml --inactive --security-info refused");
    define->definition = sh("virsh dumpxml --inactive refused | sed 's/<vcpu/<vcpuu/;s/vcpu>/vcpuu>/'");
    step_add_disk(define, "vda", file, CKPT_FORMAT_QCOW2);
    step_refused(guest, define, CKPT_REASON_VALIDATION_FAILED);
    after = sh("virsh dumpxml --inactive --security-info refused");
    assert_string_equal(after, define->definition_before);
}

static void
renamed_vm_keeps_its_present_name(void **state)
{
    g_autoptr(Guest) guest = guest_new("before", FALSE);
    g_autoptr(Point) point = point_create(guest, "aaaaaaaa");
    g_autoptr(CkptVm) vm = NULL;

    g_free(sh("virsh domrename before after"));
    point_restore(guest, point, "bbbbbbbb", FALSE);
    vm = look(guest);
    assert_string_equal(vm->name, "after");
    g_free(sh("virsh domrename after before"));
}

static void
lost_connection_is_opened_again(void **state)
{
    g_autoptr(Guest) guest = guest_new("lost", FALSE);
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) vms = NULL;

    guest_start(guest);
    assert_clean(guest);
    g_free(sh("hypervisor kill test $d"));
    assert_null(driver->inspect(driver, guest->id, NULL, &error));
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_HYPERVISOR_UNAVAILABLE);
    g_free(sh("hypervisor start test $d"));
    assert_clean(guest);
    vms = driver->list_vms(driver, NULL);
    assert_int_equal(vms->len, 1);
}

/* Hazard A10: nothing waits for ever, and nothing stays broken. */
static void
hung_libvirtd_is_waited_for_in_bounds(void **state)
{
    g_autoptr(Guest) guest = guest_new("hung", FALSE);
    gint64 begun = g_get_monotonic_time();

    assert_clean(guest);
    g_free(sh("kill -STOP $(cat $d/libvirtd.pid)"));
    for (guint i = 0; i < 2; i++) {
        g_autoptr(GError) error = NULL;

        assert_null(driver->inspect(driver, guest->id, NULL, &error));
        assert_int_equal(ckpt_error_reason(error), CKPT_REASON_HYPERVISOR_UNAVAILABLE);
    }
    g_free(sh("kill -CONT $(cat $d/libvirtd.pid)"));
    assert_true(g_get_monotonic_time() - begun < 75 * G_USEC_PER_SEC);
    assert_clean(guest);
}

/* Hazard A5 in the undo: QEMU is on the overlay, libvirt believes otherwise, and something after the
 * snapshot fails. */
static void
undo_of_a_snapshot_that_libvirt_missed_loses_nothing(void **state)
{
    g_autoptr(Guest) guest = guest_new("stale", FALSE);
    g_autoptr(Point) point = NULL;
    g_autoptr(GError) error = NULL;
    g_autofree char *defined = NULL;
    CkptStep *step;

    guest_start(guest);
    point = point_prepare(guest, "one");
    step = point_snapshot_step(guest, point);
    g_free(sh("node=$(virsh qemu-monitor-command stale '{\"execute\":\"query-block\"}' | jq -r --arg f %s "
              "'.return[].inserted | select(.file == $f) | .\"node-name\"'); "
              "virsh qemu-monitor-command stale '{\"execute\":\"blockdev-add\",\"arguments\":{"
              "\"driver\":\"qcow2\",\"node-name\":\"behind\",\"file\":{\"driver\":\"file\","
              "\"filename\":\"%s\"},\"backing\":null}}'; "
              "virsh qemu-monitor-command stale '{\"execute\":\"blockdev-snapshot\",\"arguments\":{"
              "\"node\":\"'$node'\",\"overlay\":\"behind\"}}'",
              point->sealed[0], point->overlay[0]));
    assert_int_equal(driver->step_check(driver, guest->plan, step, &error), CKPT_OUTCOME_DONE);
    g_free(sh("guest mark $d stale newest"));
    assert_false(driver->step_undo(driver, guest->plan, step, &error));
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_CHAIN_MISMATCH);
    defined = sh("virsh dumpxml --inactive stale | grep -c \"file='%s'\"", point->overlay[0]);
    assert_int_equal(atoi(defined), 1);
    guest_off(guest);
    guest_start(guest);
    guest_assert_mark(guest, "newest");
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
        cmocka_unit_test(undo_of_a_snapshot_that_libvirt_missed_loses_nothing),
        cmocka_unit_test(host_tells_who_it_is),
        cmocka_unit_test(unknown_vm_is_not_found),
        cmocka_unit_test(inspect_shows_disks_chains_and_locks),
        cmocka_unit_test(existing_file_is_no_overlay),
        cmocka_unit_test(manifests_lie_beside_the_files),
        cmocka_unit_test(refused_definition_changes_nothing),
        cmocka_unit_test(renamed_vm_keeps_its_present_name),
        cmocka_unit_test(raw_disk_with_a_qcow2_header_stays_raw),
        cmocka_unit_test(overlay_of_another_file_is_refused),
        cmocka_unit_test(running_vm_is_checkpointed_and_restored),
        cmocka_unit_test(shut_off_vm_is_checkpointed_and_restored),
        cmocka_unit_test(running_top_is_merged),
        cmocka_unit_test(progress_of_a_running_merge_ends_at_all_of_it),
        cmocka_unit_test(running_middle_is_merged),
        cmocka_unit_test(shut_off_vm_is_merged),
        cmocka_unit_test(other_branch_is_merged_while_the_vm_runs),
        cmocka_unit_test(merge_goes_on_with_a_job_of_before_a_crash),
        cmocka_unit_test(paused_vm_stays_paused_in_a_merge),
        cmocka_unit_test(cancelled_merge_leaves_the_vm_on_its_overlay),
        cmocka_unit_test(snapshot_is_undone),
        cmocka_unit_test(snapshot_undone_after_its_merge_lets_the_guest_go_on),
        cmocka_unit_test(snapshot_is_not_undone_over_what_was_not_merged),
        cmocka_unit_test(definition_left_behind_is_put_onto_the_overlays),
        cmocka_unit_test(lost_connection_is_opened_again),
        cmocka_unit_test(hung_libvirtd_is_waited_for_in_bounds),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, open_world, close_world);
}
