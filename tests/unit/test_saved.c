/* What its owner has done with a VM in the midst of an operation: saved it, or shut it down. On libvirt's test
 * driver, with what that lacks put in between. */
#include "tests/unit/domain_fixture.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int __real_virDomainHasManagedSaveImage(virDomainPtr domain, unsigned int flags);
int __wrap_virDomainHasManagedSaveImage(virDomainPtr domain, unsigned int flags);

int __real_virDomainDestroy(virDomainPtr domain);
int __wrap_virDomainDestroy(virDomainPtr domain);

char *__wrap_virDomainManagedSaveGetXMLDesc(virDomainPtr domain, unsigned int flags);
int __wrap_virDomainUpdateDeviceFlags(virDomainPtr domain, const char *xml, unsigned int flags);
int __real_virDomainIsActive(virDomainPtr domain);
int __wrap_virDomainIsActive(virDomainPtr domain);

static const char *saved_on;   /* the file below $d that it was saved on */
static gboolean was_active;    /* when it is asked first */
static gboolean saved_untold;  /* whether it was saved, libvirt cannot tell */
static gboolean saved_unread;  /* it was, and libvirt cannot read on which files: a host crashed in its midst */
static gboolean saved_by_then; /* the owner's managedsave ends just before it is stopped */

int
__wrap_virDomainDestroy(virDomainPtr domain)
{
    if (saved_by_then)
        assert_int_equal(virDomainManagedSave(domain, 0), 0);
    return __real_virDomainDestroy(domain);
}

/* An error of its own. */
static void
fail_libvirt(virDomainPtr domain)
{
    g_autoptr(virDomainSnapshot) none = virDomainSnapshotLookupByName(domain, "none", 0);

    assert_null(none);
}

int
__wrap_virDomainHasManagedSaveImage(virDomainPtr domain, unsigned int flags)
{
    if (!saved_untold)
        return __real_virDomainHasManagedSaveImage(domain, flags);
    fail_libvirt(domain);
    return -1;
}

/* The VM on this file below $d. */
static char *
vm_on(const char *name)
{
    g_autofree char *file = image(name);

    return g_strdup_printf(
        "<domain type='test'><name>vm</name><uuid>" VM "</uuid><memory>65536</memory><os><type>hvm</type></os>"
        "<devices><disk type='file' device='disk'><driver type='qcow2'/><source file='%s'/><target dev='vda'/>"
        "</disk></devices></domain>", file);
}

/* The test driver has none. */
char *
__wrap_virDomainManagedSaveGetXMLDesc(virDomainPtr domain, unsigned int flags)
{
    g_autofree char *xml = vm_on(saved_on);

    assert_int_equal(flags, 0);
    if (saved_unread) {
        fail_libvirt(domain);
        return NULL;
    }
    return strdup(xml); /* its caller frees it as libvirt's */
}

/* Nor this one, which is for the base only. */
int
__wrap_virDomainUpdateDeviceFlags(virDomainPtr domain, const char *xml, unsigned int flags)
{
    g_autofree char *base = image("b"), *on_base = vm_on("b");
    g_autoptr(virDomain) defined = NULL;

    assert_non_null(strstr(xml, base));
    assert_int_equal(flags, VIR_DOMAIN_AFFECT_CONFIG);
    defined = virDomainDefineXML(virDomainGetConnect(domain), on_base);
    return defined ? 0 : -1;
}

int
__wrap_virDomainIsActive(virDomainPtr domain)
{
    if (was_active) {
        was_active = FALSE;
        return 1;
    }
    return __real_virDomainIsActive(domain);
}

static World *
world_new(CkptStepKind kind)
{
    saved_untold = saved_unread = saved_by_then = was_active = FALSE;
    saved_on = "o";
    return world_after(kind, FALSE);
}

static void
must_refuse(World *world, gboolean (*step)(CkptRun *run, GError **error), CkptReason reason)
{
    g_autoptr(GError) error = NULL;

    assert_false(step(&world->run, &error));
    if (ckpt_error_reason(error) != reason)
        fail_msg("%s", error->message);
}

static void
must_refuse_saved(World *world, gboolean (*step)(CkptRun *run, GError **error))
{
    g_autoptr(virDomain) domain = world_vm(world);

    if (virDomainHasManagedSaveImage(domain, 0) != 1)
        assert_int_equal(virDomainManagedSave(domain, 0), 0);
    must_refuse(world, step, CKPT_REASON_MANAGED_SAVE_PRESENT);
}

/* Hazard A24: it would go on with what its memory knows of its disks, on the files that they had then. */
static void
a_vm_that_was_saved_meanwhile_keeps_its_files(void **state)
{
    g_autoptr(World) merge = world_new(CKPT_STEP_MERGE);
    g_autoptr(World) pull = NULL;
    g_autoptr(World) stop = NULL;
    g_autoptr(World) snapshot = NULL;
    CkptDiskFile *disk;

    set_merge(merge, "o", "b");
    must_refuse_saved(merge, ckpt_step_merge);
    shell("qemu-io -r -f qcow2 -c 'read -q -P 0 0 64k' $d/b");

    pull = world_after(CKPT_STEP_PULL, TRUE);
    pull->step->target = g_strdup("vda");
    pull->step->file = image("o");
    pull->step->above = image("theirs");
    pull->step->base = image("b");
    pull->step->base_format = CKPT_FORMAT_QCOW2;
    must_refuse_saved(pull, ckpt_step_pull);

    stop = world_new(CKPT_STEP_STOP);
    g_clear_pointer(&stop->step->disks, g_ptr_array_unref);
    must_refuse_saved(stop, ckpt_step_stop);

    snapshot = world_new(CKPT_STEP_SNAPSHOT);
    shell("qemu-img create -q -f qcow2 -F qcow2 -b $d/o $d/above");
    disk = g_ptr_array_index(snapshot->step->disks, 0);
    g_free(disk->file);
    disk->file = image("above");
    snapshot->step->power = CKPT_POWER_SHUT_OFF;
    must_refuse_saved(snapshot, ckpt_step_snapshot);
}

/* The undo of a STOP that refused it, and of one after which it was started and saved. */
static void
a_vm_that_was_saved_meanwhile_stays_off(void **state)
{
    g_autoptr(World) stop = world_new(CKPT_STEP_STOP);
    g_autoptr(virDomain) domain = world_vm(stop);
    g_autoptr(GError) error = NULL;

    g_clear_pointer(&stop->step->disks, g_ptr_array_unref);
    stop->step->power = CKPT_POWER_RUNNING;
    must_refuse_saved(stop, ckpt_step_stop);
    if (!ckpt_step_stop_undo(&stop->run, &error))
        fail_msg("%s", error->message);
    assert_int_equal(virDomainIsActive(domain), 0);
    assert_int_equal(virDomainHasManagedSaveImage(domain, 0), 1);
    /* Once its owner does without what was saved, it runs as before. */
    assert_int_equal(virDomainManagedSaveRemove(domain, 0), 0);
    if (!ckpt_step_stop_undo(&stop->run, &error))
        fail_msg("%s", error->message);
    assert_int_equal(virDomainIsActive(domain), 1);
}

/* No stop of the agent's ends a VM so. */
static void
a_vm_that_was_shut_down_meanwhile_stays_off(void **state)
{
    g_autoptr(World) stop = world_new(CKPT_STEP_STOP);
    g_autoptr(virDomain) domain = world_vm(stop);
    g_autoptr(GError) error = NULL;

    g_clear_pointer(&stop->step->disks, g_ptr_array_unref);
    stop->step->power = CKPT_POWER_RUNNING;
    assert_int_equal(virDomainShutdown(domain), 0);
    if (!ckpt_step_stop(&stop->run, &error) || !ckpt_step_stop_undo(&stop->run, &error))
        fail_msg("%s", error->message);
    assert_int_equal(virDomainIsActive(domain), 0);
    /* One that the agent stopped, though it may have been virsh destroy. */
    assert_int_equal(virDomainCreate(domain), 0);
    if (!ckpt_step_stop(&stop->run, &error))
        fail_msg("%s", error->message);
    assert_int_equal(virDomainIsActive(domain), 0);
    if (!ckpt_step_stop_undo(&stop->run, &error))
        fail_msg("%s", error->message);
    assert_int_equal(virDomainIsActive(domain), 1);
}

static void
must_not_be_told(World *world, gboolean (*step)(CkptRun *run, GError **error))
{
    g_autoptr(virDomain) domain = world_vm(world);
    g_autoptr(GError) error = NULL;

    if (virDomainIsActive(domain) == 1)
        assert_int_equal(virDomainManagedSave(domain, 0), 0);
    saved_untold = TRUE;
    assert_false(step(&world->run, &error));
    if (ckpt_error_reason(error) != CKPT_REASON_HYPERVISOR_FAILED || !strstr(error->message, "was saved"))
        fail_msg("%s", error->message);
    assert_int_equal(virDomainIsActive(domain), 0);
}

/* That libvirt cannot tell does not say that it was not. */
static void
whether_a_vm_was_saved_must_be_known(void **state)
{
    g_autoptr(World) look = world_new(CKPT_STEP_CHECK_CHAIN);
    g_autoptr(World) merge = NULL;
    g_autoptr(World) stop = NULL;
    g_autoptr(GError) error = NULL;

    saved_untold = TRUE;
    assert_null(ckpt_inspect(look->connection, &look->options, VM, NULL, &error));
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_HYPERVISOR_FAILED);

    merge = world_new(CKPT_STEP_MERGE);
    set_merge(merge, "o", "b");
    must_not_be_told(merge, ckpt_step_merge);
    shell("qemu-io -r -f qcow2 -c 'read -q -P 0 0 64k' $d/b");

    stop = world_new(CKPT_STEP_STOP);
    stop->step->power = CKPT_POWER_RUNNING;
    g_clear_pointer(&stop->step->disks, g_ptr_array_unref);
    must_not_be_told(stop, ckpt_step_stop);
    must_not_be_told(stop, ckpt_step_stop_undo);
}

/* Its managed save ended since the stop looked, or since the stop: libvirt would load that, on the old files. */
static void
a_restored_vm_is_not_started_from_what_was_saved(void **state)
{
    g_autoptr(World) stop = world_new(CKPT_STEP_STOP);
    g_autoptr(World) start = NULL;
    g_autoptr(virDomain) domain = NULL;

    g_clear_pointer(&stop->step->disks, g_ptr_array_unref);
    domain = world_vm(stop);
    saved_by_then = TRUE;
    must_refuse(stop, ckpt_step_stop, CKPT_REASON_MANAGED_SAVE_PRESENT);
    assert_int_equal(virDomainHasManagedSaveImage(domain, 0), 1);

    start = world_new(CKPT_STEP_START);
    start->step->power = CKPT_POWER_RUNNING;
    g_clear_pointer(&start->step->disks, g_ptr_array_unref);
    must_refuse_saved(start, ckpt_step_start);
}

static CkptStep *
add_define(World *world, const char *top)
{
    CkptStep *define = ckpt_step_new(CKPT_STEP_DEFINE);
    g_autofree char *file = image(top);

    define->disks = g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_disk_file_free);
    g_ptr_array_add(define->disks, ckpt_disk_file_new("vda", file, CKPT_FORMAT_QCOW2, NULL));
    g_ptr_array_insert(world->plan->steps, 0, define);
    return define;
}

/* Its owner has started it from there, before it was started on what was restored. */
static void
a_vm_that_goes_on_from_its_save_goes_on(void **state)
{
    g_autoptr(World) start = world_new(CKPT_STEP_START);
    g_autoptr(virDomain) domain = world_vm(start);
    g_autoptr(GError) error = NULL;
    g_autofree char *top = image("o");
    CkptStep *define = add_define(start, "restored");

    start->step->power = CKPT_POWER_RUNNING;
    g_clear_pointer(&start->step->disks, g_ptr_array_unref);
    must_refuse(start, ckpt_step_start, CKPT_REASON_VM_BUSY);
    if (!ckpt_step_start_undo(&start->run, &error))
        fail_msg("%s", error->message);
    assert_int_equal(virDomainIsActive(domain), 1);
    /* On what was restored, that is about to go. */
    ckpt_set_str(&((CkptDiskFile *)g_ptr_array_index(define->disks, 0))->file, top);
    if (!ckpt_step_start_undo(&start->run, &error))
        fail_msg("%s", error->message);
    assert_int_equal(virDomainIsActive(domain), 0);
}

/* A START on what the plan's DEFINE has put it on: $d/TOP. */
static World *
start_on(const char *top)
{
    World *start = world_new(CKPT_STEP_START);

    add_define(start, top);
    start->plan->kind = CKPT_KIND_RESTORE;
    start->step->power = CKPT_POWER_RUNNING;
    return start;
}

/* The agent was away, its owner started it on what was restored and saved it there. */
static void
what_was_restored_and_then_saved_is_kept(void **state)
{
    g_autoptr(World) start = start_on("o");
    g_autoptr(virDomain) domain = world_vm(start);
    g_autoptr(GError) error = NULL;

    g_clear_pointer(&start->step->disks, g_ptr_array_unref);
    must_refuse_saved(start, ckpt_step_start_undo);
    /* On the files that it had before: they stay, and those that were restored may go. */
    saved_on = "b";
    if (!ckpt_step_start_undo(&start->run, &error))
        fail_msg("%s", error->message);
    assert_int_equal(virDomainHasManagedSaveImage(domain, 0), 1);
    must_refuse(start, ckpt_step_start, CKPT_REASON_MANAGED_SAVE_PRESENT);
    saved_on = "o";
    if (!ckpt_step_start(&start->run, &error))
        fail_msg("%s", error->message);
    assert_int_equal(virDomainIsActive(domain), 1);
}

/* Its owner's own overlay lies on what was restored, and the save names that alone, as libvirt's do. */
static void
what_was_saved_above_what_was_restored_is_kept(void **state)
{
    g_autoptr(World) start = start_on("o");

    g_clear_pointer(&start->step->disks, g_ptr_array_unref);
    saved_on = "theirs";
    must_refuse_saved(start, ckpt_step_start_undo);
    must_refuse_saved(start, ckpt_step_start); /* it would not be on what is checked afterwards */
}

/* That waits for its owner, too: there is no other way out. */
static void
a_save_that_cannot_be_read_is_waited_for(void **state)
{
    g_autoptr(World) start = start_on("o");
    g_autoptr(virDomain) domain = world_vm(start);
    g_autoptr(GError) error = NULL;

    g_clear_pointer(&start->step->disks, g_ptr_array_unref);
    saved_unread = TRUE;
    must_refuse_saved(start, ckpt_step_start_undo);
    must_refuse_saved(start, ckpt_step_start);
    assert_false(ckpt_step_start_undo(&start->run, &error));
    assert_non_null(strstr(error->message, "virsh managedsave-remove"));
    g_clear_error(&error);
    assert_int_equal(virDomainManagedSaveRemove(domain, 0), 0);
    if (!ckpt_step_start_undo(&start->run, &error))
        fail_msg("%s", error->message);
}

static void
a_vm_that_was_restored_and_is_saved_on_other_files_is_not_done(void **state)
{
    g_autoptr(World) check = world_new(CKPT_STEP_CHECK_CHAIN);
    g_autoptr(GError) error = NULL;

    check->plan->kind = CKPT_KIND_RESTORE;
    saved_on = "b";
    must_refuse_saved(check, ckpt_step_check_chain);
    saved_on = "o";
    if (!ckpt_step_check_chain(&check->run, &error))
        fail_msg("%s", error->message);
}

static void
a_memory_is_not_loaded_over_what_was_written_since(void **state)
{
    g_autoptr(World) start = start_on("o");
    g_autoptr(virDomain) domain = world_vm(start);

    start->step->file = image("memory");
    /* Its owner has it saved, on whichever files. */
    must_refuse_saved(start, ckpt_step_start);
    assert_int_equal(virDomainManagedSaveRemove(domain, 0), 0);
    must_refuse(start, ckpt_step_start, CKPT_REASON_VM_BUSY);
    /* It comes to the image, and there is none. */
    shell("rm $d/o; qemu-img create -q -f qcow2 -F qcow2 -b $d/b $d/o");
    must_refuse(start, ckpt_step_start, CKPT_REASON_HYPERVISOR_FAILED);
    shell("rm $d/o");
    must_refuse(start, ckpt_step_start, CKPT_REASON_DISK_FILE_MISSING);
}

static void
must_start_with_a_warning(World *start)
{
    g_autoptr(virDomain) domain = world_vm(start);
    g_autoptr(GError) error = NULL;

    if (!ckpt_step_start(&start->run, &error))
        fail_msg("%s", error->message);
    assert_int_equal(virDomainIsActive(domain), 1);
    assert_non_null(start->step->warning);
    assert_non_null(strstr(start->step->warning, "/o: it goes on"));
    g_clear_pointer(&start->step->warning, g_free);
}

/* The agent that was to load the memory, or has loaded it, is gone for so long that people work there. An undo
 * would take that away. */
static void
what_was_written_while_the_agent_was_away_is_kept(void **state)
{
    g_autoptr(World) start = start_on("o");
    g_autoptr(virDomain) domain = world_vm(start);

    start->step->file = image("memory");
    start->step->taken_up = TRUE;
    /* It has ended, or was saved there. */
    stop_vm(start);
    must_start_with_a_warning(start);
    assert_int_equal(virDomainManagedSave(domain, 0), 0);
    must_start_with_a_warning(start);
    assert_int_equal(virDomainHasManagedSaveImage(domain, 0), 0);
    /* Its owner has booted it. */
    stop_vm(start);
    assert_int_equal(virDomainCreate(domain), 0);
    must_start_with_a_warning(start);
    /* What went on from the memory is as asked. */
    assert_int_equal(virDomainSuspend(domain), 0);
    assert_true(ckpt_step_start(&start->run, NULL));
    assert_null(start->step->warning);
}

/* Nothing was written there that could be lost. */
static void
a_vm_that_was_only_booted_while_the_agent_was_away_is_taken_back(void **state)
{
    g_autoptr(World) start = start_on("o");
    g_autoptr(virDomain) domain = world_vm(start);

    start->step->file = image("memory");
    start->step->taken_up = TRUE;
    stop_vm(start);
    shell("rm $d/o; qemu-img create -q -f qcow2 -F qcow2 -b $d/b $d/o");
    assert_int_equal(virDomainCreate(domain), 0);
    must_refuse(start, ckpt_step_start, CKPT_REASON_VM_BUSY);
    /* It was saved on other files than those that were restored. */
    shell("qemu-io -f qcow2 -c 'write -q -P 7 0 64k' $d/o");
    saved_on = "b";
    must_refuse_saved(start, ckpt_step_start);
    assert_null(start->step->warning);
}

static void
a_vm_on_other_files_has_not_gone_on_from_a_memory(void **state)
{
    g_autoptr(World) start = start_on("restored");
    g_autoptr(virDomain) domain = world_vm(start);
    int found = 0;

    start->step->file = image("memory");
    assert_int_equal(virDomainSuspend(domain), 0);
    must_refuse(start, ckpt_step_start, CKPT_REASON_VM_BUSY);
    assert_int_equal(virDomainGetState(domain, &found, NULL, 0), 0);
    assert_int_equal(found, VIR_DOMAIN_PAUSED);
}

static void
a_vm_that_is_gone_again_was_not_started(void **state)
{
    g_autoptr(World) start = start_on("o");

    stop_vm(start);
    was_active = TRUE;
    must_refuse(start, ckpt_step_start, CKPT_REASON_VM_BUSY);
}

/* ---- The old QEMU ---- */

static gint let_go; /* atomic */

static gpointer
hold_for_a_while(gpointer fd)
{
    g_usleep(300 * 1000);
    g_atomic_int_set(&let_go, TRUE);
    close(GPOINTER_TO_INT(fd));
    return NULL;
}

/* The first try ended it, and did not wait long enough. */
static void
what_is_taken_back_is_let_go_of_before(void **state)
{
    struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 101, .l_len = 1};
    g_autoptr(World) start = start_on("o");
    g_autoptr(GError) error = NULL;
    CkptStep *make = ckpt_step_new(CKPT_STEP_MAKE_OVERLAY);
    GThread *holder;
    int fd;

    g_clear_pointer(&start->step->disks, g_ptr_array_unref);
    make->file = image("o");
    g_ptr_array_insert(start->plan->steps, 0, make);
    stop_vm(start);
    fd = open(make->file, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0 && fcntl(fd, F_OFD_SETLK, &lock) == 0);
    g_atomic_int_set(&let_go, FALSE);
    holder = g_thread_new("holder", hold_for_a_while, GINT_TO_POINTER(fd));
    if (!ckpt_step_start_undo(&start->run, &error))
        fail_msg("%s", error->message);
    assert_true(g_atomic_int_get(&let_go));
    g_thread_join(holder);
}

/* The undo that waits until its owner starts it. */
static void
a_snapshot_of_a_vm_that_was_saved_stays_sealed(void **state)
{
    g_autoptr(World) undo = world_new(CKPT_STEP_SNAPSHOT);
    CkptStep *seal = ckpt_step_new(CKPT_STEP_SEAL);
    struct stat found;

    seal->file = image("b");
    seal->mode = 0640;
    g_ptr_array_add(undo->plan->steps, seal);
    shell("chmod 0440 $d/b");
    for (guint i = 0; i < 2; i++) {
        must_refuse_saved(undo, ckpt_step_snapshot_undo);
        assert_int_equal(stat(seal->file, &found), 0);
        assert_int_equal(found.st_mode & 07777, CKPT_SEALED_MODE);
    }
}

static void
assert_defined_on(World *world, const char *file)
{
    g_autoptr(virDomain) domain = world_vm(world);
    g_autofree char *path = image(file), *source = g_strdup_printf("file='%s'", path);
    char *xml = virDomainGetXMLDesc(domain, VIR_DOMAIN_XML_INACTIVE);

    assert_non_null(strstr(xml, source));
    free(xml);
}

/* It was saved in the very moment, say while its guest was frozen: libvirt has switched the definition alone. */
static void
a_snapshot_of_a_vm_that_was_saved_before_is_taken_back(void **state)
{
    g_autoptr(World) world = world_new(CKPT_STEP_SNAPSHOT);
    g_autofree char *overlay = image("o");
    g_autoptr(GError) error = NULL;

    (void)state;
    shell("qemu-img create -q -f qcow2 -F qcow2 -b $d/b $d/o");
    saved_on = "b";
    must_refuse_saved(world, ckpt_step_snapshot);
    assert_int_equal(ckpt_step_snapshot_check(&world->run, &error), CKPT_OUTCOME_NOT_DONE);
    assert_null(error);
    if (!ckpt_step_snapshot_undo(&world->run, &error))
        fail_msg("%s", error->message);
    assert_defined_on(world, "b");
    assert_false(g_file_test(overlay, G_FILE_TEST_EXISTS));
}

static void
a_snapshot_of_a_vm_that_was_saved_after_it_was_made(void **state)
{
    g_autoptr(World) world = world_new(CKPT_STEP_SNAPSHOT);
    g_autoptr(virDomain) domain = world_vm(world);
    g_autoptr(GError) error = NULL;

    (void)state;
    assert_int_equal(virDomainManagedSave(domain, 0), 0);
    if (!ckpt_step_snapshot(&world->run, &error))
        fail_msg("%s", error->message);
    assert_int_equal(ckpt_step_snapshot_check(&world->run, &error), CKPT_OUTCOME_DONE);
    assert_defined_on(world, "o");
}

/* Its folder went away, so that it could not be made: there is nothing to take back. */
static void
an_overlay_in_a_folder_that_is_gone_is_taken_back(void **state)
{
    g_autoptr(World) world = world_before(CKPT_STEP_MAKE_OVERLAY);
    g_autoptr(GError) error = NULL;

    (void)state;
    world->step->file = image("gone/o");
    world->step->base = image("b");
    if (!ckpt_step_make_overlay_undo(&world->run, &error))
        fail_msg("%s", error->message);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_vm_that_was_saved_meanwhile_keeps_its_files),
        cmocka_unit_test(a_vm_that_was_saved_meanwhile_stays_off),
        cmocka_unit_test(a_vm_that_was_shut_down_meanwhile_stays_off),
        cmocka_unit_test(whether_a_vm_was_saved_must_be_known),
        cmocka_unit_test(a_restored_vm_is_not_started_from_what_was_saved),
        cmocka_unit_test(a_vm_that_goes_on_from_its_save_goes_on),
        cmocka_unit_test(what_was_restored_and_then_saved_is_kept),
        cmocka_unit_test(what_was_saved_above_what_was_restored_is_kept),
        cmocka_unit_test(a_save_that_cannot_be_read_is_waited_for),
        cmocka_unit_test(a_vm_that_was_restored_and_is_saved_on_other_files_is_not_done),
        cmocka_unit_test(a_memory_is_not_loaded_over_what_was_written_since),
        cmocka_unit_test(what_was_written_while_the_agent_was_away_is_kept),
        cmocka_unit_test(a_vm_that_was_only_booted_while_the_agent_was_away_is_taken_back),
        cmocka_unit_test(a_vm_on_other_files_has_not_gone_on_from_a_memory),
        cmocka_unit_test(a_vm_that_is_gone_again_was_not_started),
        cmocka_unit_test(what_is_taken_back_is_let_go_of_before),
        cmocka_unit_test(a_snapshot_of_a_vm_that_was_saved_stays_sealed),
        cmocka_unit_test(a_snapshot_of_a_vm_that_was_saved_before_is_taken_back),
        cmocka_unit_test(a_snapshot_of_a_vm_that_was_saved_after_it_was_made),
        cmocka_unit_test(an_overlay_in_a_folder_that_is_gone_is_taken_back),
    };

    return cmocka_run_group_tests(tests, images_open, images_close);
}
