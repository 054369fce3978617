/* Each thing that forbids a checkpoint, made for real, and found by name. */
#include "tests/integration/driver_world.h"

#include <string.h>

/* Defines the guest again with a sed script applied to its definition. */
static void
edit(Guest *guest, const char *script)
{
    g_free(sh("virsh dumpxml --inactive %s | sed -z \"%s\" >$d/edited.xml; virsh define $d/edited.xml",
              guest->name, script));
}

static void
edited_is_refused(const char *script, CkptReason reason, const char *disk)
{
    g_autoptr(Guest) guest = guest_new("edit", FALSE);

    assert_clean(guest);
    edit(guest, script);
    assert_obstacle(guest, reason, disk);
}

static void
definitions_that_forbid_it(void **state)
{
    edited_is_refused("s|type='qcow2'|type='raw'|;s|<target dev='vda'|<shareable/>&|",
                      CKPT_REASON_DISK_SHAREABLE, "vda");
    edited_is_refused("s|<target dev='vda'|<transient/>&|", CKPT_REASON_DISK_TRANSIENT, "vda");
    edited_is_refused("s|<source file='\\([^']*qcow2\\)'/>|<source file='\\1'><slices><slice "
                      "type='storage' offset='0' size='65536'/></slices></source>|",
                      CKPT_REASON_DISK_SLICED, "vda");
    edited_is_refused("s|type='qcow2'|type='vmdk'|", CKPT_REASON_DISK_FORMAT_UNSUPPORTED, "vda");
    edited_is_refused("s|<disk type='file'|<disk type='block'|;s|source file='\\([^']*qcow2\\)|source "
                      "dev='\\1|",
                      CKPT_REASON_DISK_TYPE_UNSUPPORTED, "vda");
    edited_is_refused("s|<kernel>|<loader readonly='no' type='pflash'>/x</loader>&|",
                      CKPT_REASON_NVRAM_UNSUPPORTED, NULL);
    edited_is_refused("s|<devices>|&<disk type='file' device='floppy'><driver name='qemu' "
                      "type='raw'/><source file='/dev/null'/><target dev='fda' "
                      "bus='fdc'/></disk>|",
                      CKPT_REASON_DISK_TYPE_UNSUPPORTED, "fda");
}

static void
cdroms_and_read_only_disks_are_left_alone(void **state)
{
    g_autoptr(Guest) guest = guest_new("iso", FALSE);
    g_autoptr(Point) point = NULL;
    g_autoptr(CkptVm) vm = NULL;

    g_free(sh("truncate -s 1M $d/images/iso-ro.raw $d/images/iso-cd.iso"));
    edit(guest, "s|<controller|<disk type='file' device='disk'><driver name='qemu' type='raw'/><source "
                "file='$d/images/iso-ro.raw'/><target dev='vdc' bus='virtio'/><readonly/></disk>"
                "<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source "
                "file='$d/images/iso-cd.iso'/><target dev='sda' bus='sata'/></disk>"
                "<disk type='file' device='cdrom'><target dev='sdb' bus='sata'/><readonly/></disk>&|");
    guest_start(guest);
    guest_mark(guest, "one");
    point = point_create(guest, "aaaaaaaa");
    assert_int_equal(point->count, 1);
    vm = look(guest);
    assert_null(ckpt_vm_find_disk(vm, "vdc"));
    g_free(sh("rm $d/images/iso-cd.iso"));
    point_restore(guest, point, "bbbbbbbb", TRUE);
    g_free(sh("virsh dumpxml --inactive iso >$d/iso.xml; ! grep iso-cd.iso $d/iso.xml; "
              "grep iso-ro.raw $d/iso.xml"));
    guest_assert_mark(guest, "one");
}

static void
image_headers_that_forbid_it(void **state)
{
    static const struct {
        const char *make; /* of the image $f */
        CkptReason reason;
    } cases[] = {
        {"rm $f", CKPT_REASON_DISK_FILE_MISSING},
        {"truncate -s 0 $f; truncate -s 1M $f", CKPT_REASON_DISK_FORMAT_UNSUPPORTED},
        {"rm $f; mkdir $f", CKPT_REASON_DISK_TYPE_UNSUPPORTED},
        {"qemu-img create -q -f qcow2 -o data_file=$f.data,data_file_raw=on $f 1M",
         CKPT_REASON_DISK_TYPE_UNSUPPORTED},
        {"qemu-img create -q --object secret,id=s,data=x -f qcow2 -o "
         "encrypt.format=aes,encrypt.key-secret=s $f 1M",
         CKPT_REASON_DISK_ENCRYPTED},
        {"qemu-img create -q -f qcow2 -u -F qcow2 -b $d/images/gone.qcow2 $f 1M",
         CKPT_REASON_DISK_FILE_MISSING},
        {"qemu-img create -q -f raw $d/images/b.raw 1M; cd $d/images; qemu-img create -q -f qcow2 -F raw "
         "-b b.raw $f 1M",
         CKPT_REASON_DISK_TYPE_UNSUPPORTED},
        {"qemu-img create -q -f qcow2 -u -F raw -b nbd://localhost/x $f 1M",
         CKPT_REASON_DISK_TYPE_UNSUPPORTED},
        {"qemu-img create -q -f qcow2 -u -F qcow2 -b $f $d/images/b.raw 1M;"
         "qemu-img create -q -f qcow2 -u -F qcow2 -b $d/images/b.raw $f 1M",
         CKPT_REASON_CHAIN_MISMATCH},
        {"qemu-img create -q -f qcow2 -u -F vmdk -b $d/images/b.raw $f 1M",
         CKPT_REASON_DISK_FORMAT_UNSUPPORTED},
    };

    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(Guest) guest = guest_new("header", FALSE);

        g_free(sh("f=$d/images/header-vda.qcow2; %s", cases[i].make));
        assert_obstacle(guest, cases[i].reason, "vda");
        g_free(sh("rm -rf $d/images/header-vda.qcow2 $d/images/b.raw"));
    }
}

static void
states_that_forbid_it(void **state)
{
    g_autoptr(Guest) guest = guest_new("state", FALSE);

    guest_start(guest);
    g_free(sh("virsh managedsave state"));
    assert_obstacle(guest, CKPT_REASON_MANAGED_SAVE_PRESENT, NULL);
    g_free(sh("virsh managedsave-remove state"));
    assert_clean(guest);
    guest_start(guest);
    g_free(sh("virsh dumpxml --inactive state >$d/state.xml; virsh undefine state"));
    assert_obstacle(guest, CKPT_REASON_TRANSIENT_VM, NULL);
    g_free(sh("virsh define $d/state.xml"));
    assert_clean(guest);
}

static void
jobs_that_forbid_it(void **state)
{
    g_autoptr(Guest) guest = guest_new("job", FALSE);

    guest_start(guest);
    g_free(sh("virsh backup-begin job '' '' 2>/dev/null || "
              "{ echo '<domainbackup mode=\"pull\"><server transport=\"unix\" socket=\"'$d'/tmp/nbd\"/>"
              "</domainbackup>' >$d/backup.xml; virsh backup-begin job $d/backup.xml; }"));
    assert_obstacle(guest, CKPT_REASON_BACKUP_JOB_ACTIVE, NULL);
    g_free(sh("virsh domjobabort job; "
              "until virsh domjobinfo job | grep -q 'Job type: *None'; do sleep 0.05; done"));
    assert_clean(guest);
    g_free(sh("virsh blockcopy job vda --dest $d/images/job-copy.qcow2 --format qcow2 --bandwidth 1 "
              "--transient-job >/dev/null"));
    assert_obstacle(guest, CKPT_REASON_BLOCK_JOB_ACTIVE, "vda");
    g_free(sh("virsh blockjob job vda --abort"));
    assert_clean(guest);
}

static void
image_in_use_while_the_vm_is_off(void **state)
{
    g_autoptr(Guest) guest = guest_new("used", FALSE);
    g_autoptr(CkptVm) vm = NULL;
    CkptObstacle *obstacle;

    g_free(sh("cd /; qemu-nbd --fork --pid-file=$d/nbd.pid -k $d/nbd.sock -f qcow2 -t "
              "$d/images/used-vda.qcow2"));
    vm = look(guest);
    assert_int_equal(vm->obstacles->len, 1);
    obstacle = vm->obstacles->pdata[0];
    assert_int_equal(obstacle->reason, CKPT_REASON_VM_BUSY);
    assert_non_null(strstr(obstacle->message, "qemu-nbd"));
    g_free(sh("kill $(cat $d/nbd.pid); while [ -e /proc/$(cat $d/nbd.pid) ]; do sleep 0.05; done"));
    assert_clean(guest);
}

static void
definition_that_differs_from_the_running_vm(void **state)
{
    g_autoptr(Guest) guest = guest_new("differ", FALSE);

    guest_start(guest);
    g_free(sh("qemu-img create -q -f qcow2 -F qcow2 -b $d/images/differ-vda.qcow2 "
              "$d/images/differ-x.qcow2"));
    edit(guest, "s/differ-vda.qcow2/differ-x.qcow2/");
    assert_obstacle(guest, CKPT_REASON_CHAIN_MISMATCH, "vda");
    edit(guest, "s/differ-x.qcow2/differ-vda.qcow2/");
    assert_clean(guest);
    /* Told chains must be the headers' (hazard A3). */
    guest_off(guest);
    edit(guest, "s|\\(differ-\\)vda\\(.qcow2'\\)/>|\\1x\\2/><backingStore/>|");
    assert_obstacle(guest, CKPT_REASON_CHAIN_MISMATCH, "vda");
}

static void
disks_of_one_vm_on_one_file(void **state)
{
    g_autoptr(Guest) guest = guest_new("twice", FALSE);

    edit(guest, "s|<controller|<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source "
                "file='$d/images/twice-vda.qcow2'/><target dev='vdb' bus='virtio'/></disk>&|");
    assert_obstacle(guest, CKPT_REASON_CHAIN_MISMATCH, "vda");
}

static void
other_vms_on_the_files_are_named(void **state)
{
    g_autoptr(Guest) guest = guest_new("owner", FALSE);
    g_autoptr(Guest) clone = guest_new("clone", FALSE);
    g_autofree char *asked = g_strdup_printf("%s/images/owner-asked.raw", folder);
    const CkptKnownFile files[] = {
        {asked, CKPT_FORMAT_RAW}, {"/nonexistent/file", CKPT_FORMAT_QCOW2}, {NULL, 0}};
    CkptStep *remove = step_new(guest, CKPT_STEP_REMOVE_FILE);
    g_autoptr(CkptVm) vm = NULL;
    CkptFileUser *user;

    g_free(sh("qemu-img create -q -f qcow2 -F qcow2 -b $d/images/owner-vda.qcow2 "
              "$d/images/clone-x.qcow2; truncate -s 1M %s; chmod a+r %s",
              asked, asked));
    edit(clone, "s/clone-vda.qcow2/clone-x.qcow2/");
    vm = driver->inspect(driver, guest->id, files, NULL);
    assert_int_equal(vm->users->len, 1);
    user = vm->users->pdata[0];
    assert_false(user->is_top);
    assert_non_null(strstr(user->user, "VM clone ("));
    assert_true(ckpt_vm_find_file(vm, asked)->exists);
    assert_false(ckpt_vm_find_file(vm, "/nonexistent/file")->exists);
    edit(clone, "s/clone-x.qcow2/owner-vda.qcow2/");
    g_clear_pointer(&vm, ckpt_vm_free);
    vm = look(guest);
    user = vm->users->pdata[0];
    assert_true(user->is_top);
    remove->file = g_strdup_printf("%s/images/owner-vda.qcow2", folder);
    step_refused(guest, remove, CKPT_REASON_FILE_FAILED);
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
        cmocka_unit_test(definitions_that_forbid_it),
        cmocka_unit_test(image_headers_that_forbid_it),
        cmocka_unit_test(disks_of_one_vm_on_one_file),
        cmocka_unit_test(image_in_use_while_the_vm_is_off),
        cmocka_unit_test(other_vms_on_the_files_are_named),
        cmocka_unit_test(cdroms_and_read_only_disks_are_left_alone),
        cmocka_unit_test(states_that_forbid_it),
        cmocka_unit_test(jobs_that_forbid_it),
        cmocka_unit_test(definition_that_differs_from_the_running_vm),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, open_world, close_world);
}
