#include "agent/hypervisor/locks.h"
#include "agent/hypervisor/share.h"
#include "common/error.h"
#include "tests/unit/image_fixture.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static GPid holder;

/* A real holder: QEMU's storage daemon with the overlay $d/o.qcow2 on $d/b.raw. */
static void
hold(void)
{
    const char *const argv[] = {
        "bash", "-c",
        "exec qemu-storage-daemon --blockdev driver=file,node-name=bf,filename=$d/b.raw,read-only=on "
        "--blockdev driver=raw,node-name=b,file=bf,read-only=on "
        "--blockdev driver=file,node-name=of,filename=$d/o.qcow2 "
        "--blockdev driver=qcow2,node-name=o,file=of,backing=b "
        "--nbd-server addr.type=unix,addr.path=$d/s --export type=nbd,id=e,node-name=o,writable=on "
        "--pidfile $d/pid",
        NULL};
    g_autofree char *pid = image("pid");

    shell("rm -f $d/pid; truncate -s 1M $d/b.raw; rm -f $d/o.qcow2; "
          "qemu-img create -q -f qcow2 -F raw -b $d/b.raw $d/o.qcow2");
    assert_true(g_spawn_async(NULL, (char **)argv, NULL,
                              G_SPAWN_SEARCH_PATH | G_SPAWN_DO_NOT_REAP_CHILD, NULL, NULL, &holder,
                              NULL));
    /* Written when everything is open. */
    for (guint i = 0; i < 500 && !g_file_test(pid, G_FILE_TEST_EXISTS); i++)
        g_usleep(10 * 1000);
    assert_true(g_file_test(pid, G_FILE_TEST_EXISTS));
}

static void
release(void)
{
    kill(holder, SIGTERM);
    waitpid(holder, NULL, 0);
    g_spawn_close_pid(holder);
}

static void
assert_locks(const char *name, gboolean reading, gboolean writing)
{
    g_autofree char *path = image(name);
    gboolean read_locked, write_locked;

    assert_true(ckpt_locks_probe_path(path, &read_locked, &write_locked, NULL));
    assert_int_equal(read_locked, reading);
    assert_int_equal(write_locked, writing);
}

static void
locks_of_a_chain_in_use(void **state)
{
    hold();
    assert_locks("o.qcow2", TRUE, TRUE);
    assert_locks("b.raw", TRUE, FALSE);
    release();
    assert_locks("o.qcow2", FALSE, FALSE);
    assert_locks("b.raw", FALSE, FALSE);
}

static void
missing_file_is_not_locked(void **state)
{
    assert_locks("gone", FALSE, FALSE);
}

static void
to_ask_disturbs_nobody(void **state)
{
    g_autofree char *path = image("o.qcow2");
    gboolean read_locked, write_locked;

    hold();
    for (guint i = 0; i < 100; i++)
        assert_true(ckpt_locks_probe_path(path, &read_locked, &write_locked, NULL));
    /* Closing the asker's descriptor released nothing, as it would with POSIX locks. */
    assert_locks("o.qcow2", TRUE, TRUE);
    release();
}

static void
wait_names_the_file_and_its_holder(void **state)
{
    g_autofree char *path = image("o.qcow2");
    const char *const paths[] = {path, NULL};
    g_autoptr(GError) error = NULL;

    hold();
    assert_false(ckpt_locks_wait_released(paths, 0, &error));
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_VM_BUSY);
    assert_non_null(strstr(error->message, path));
    assert_non_null(strstr(error->message, "qemu-storage-da"));
    release();
    assert_true(ckpt_locks_wait_released(paths, 0, NULL));
}

static gpointer
release_later(gpointer data)
{
    g_usleep(200 * 1000);
    kill(holder, SIGTERM);
    return NULL;
}

static void
wait_ends_when_the_holder_does(void **state)
{
    g_autofree char *path = image("o.qcow2");
    const char *const paths[] = {path, NULL};
    GThread *thread;

    hold();
    thread = g_thread_new("release", release_later, NULL);
    assert_true(ckpt_locks_wait_released(paths, 20, NULL));
    g_thread_join(thread);
    release();
}

/* ---- Whether locks tell what other hosts do ---- */

static void
mounts_say_whether_locks_reach_other_hosts(void **state)
{
    static const struct {
        const char *type, *options;
        gboolean tells;
    } mounts[] = {
        {"nfs4", "rw,vers=4.2,local_lock=none,addr=10.0.0.1", TRUE},
        {"nfs", "rw,vers=3,nolock,local_lock=all", FALSE},
        {"nfs", "rw,vers=3,local_lock=posix", FALSE},
        {"cifs", "rw,vers=3.0", TRUE},
        {"cifs", "rw,nobrl", FALSE},
        {"fuse.glusterfs", "rw", TRUE},
        {"fuse.sshfs", "rw", FALSE},
        {"fuseblk", "rw", TRUE},
        {"9p", "rw,trans=virtio", FALSE},
        {"virtiofs", "rw", FALSE},
        {"lustre", "rw,flock", TRUE},
        {"lustre", "rw", FALSE},
        {"gfs2", "rw,localflocks", FALSE},
        {"somethingfs", "rw", FALSE},
    };

    for (gsize i = 0; i < G_N_ELEMENTS(mounts); i++)
        if (ckpt_share_mount_tells(mounts[i].type, mounts[i].options) != mounts[i].tells)
            fail_msg("%s with %s", mounts[i].type, mounts[i].options);
}

static gboolean
tells(const char *name)
{
    g_autofree char *path = image(name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    gboolean answer;

    assert_true(fd >= 0);
    answer = ckpt_share_tells(fd);
    close(fd);
    return answer;
}

/* A real one: QEMU's storage daemon shows an image as a file by FUSE. */
static void
a_file_behind_fuse_is_not_guarded_by_locks(void **state)
{
    shell("rm -f $d/share $d/pid; truncate -s 1M $d/b.raw; touch $d/share");
    assert_true(tells("share"));
    if (geteuid() != 0 || !g_file_test("/dev/fuse", G_FILE_TEST_EXISTS))
        skip();
    shell("qemu-storage-daemon --blockdev driver=file,node-name=bf,filename=$d/b.raw --export "
          "type=fuse,id=e,node-name=bf,mountpoint=$d/share,writable=on --pidfile $d/pid --daemonize");
    assert_false(tells("share"));
    shell("kill $(cat $d/pid); for i in $(seq 100); do [ -e $d/pid ] || break; sleep 0.05; done");
    assert_true(tells("share"));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(locks_of_a_chain_in_use),
        cmocka_unit_test(missing_file_is_not_locked),
        cmocka_unit_test(to_ask_disturbs_nobody),
        cmocka_unit_test(wait_names_the_file_and_its_holder),
        cmocka_unit_test(wait_ends_when_the_holder_does),
        cmocka_unit_test(mounts_say_whether_locks_reach_other_hosts),
        cmocka_unit_test(a_file_behind_fuse_is_not_guarded_by_locks),
    };

    return cmocka_run_group_tests(tests, images_open, images_close);
}
