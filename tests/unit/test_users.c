/* Who uses a file, asked of libvirt's test driver, whose VMs and pools live in this very process. */
#include "cmocka_all.h"
#include "tests/unit/image_fixture.h"

#include "agent/hypervisor/below.h"
#include "agent/hypervisor/qemu.h"
#include "agent/hypervisor/stored.h"

#define CLONE "33333333-1111-4111-8111-111111111111"
#define POOL "/default-pool" /* of test:///default */

static const char volume_xml[] =
    "<volume><name>clone.qcow2</name><capacity>1048576</capacity>"
    "<target><format type='qcow2'/></target></volume>";
static const char clone_xml[] =
    "<domain type='test'><name>clone</name><uuid>" CLONE "</uuid><memory>65536</memory><vcpu>1</vcpu>"
    "<os><type>hvm</type></os><devices><disk type='volume' device='disk'><driver name='qemu' type='qcow2'/>"
    "<source pool='default-pool' volume='clone.qcow2'/><target dev='vda'/></disk></devices></domain>";

typedef struct {
    CkptConnection *connection;
    virDomainPtr domain;
    virStoragePoolPtr pool;
    virStorageVolPtr volume;
    GString *told, *unread;
} Fixture;

static int
setup(void **state)
{
    Fixture *fixture = g_new0(Fixture, 1);
    g_autoptr(virConnect) conn = NULL;

    fixture->connection = ckpt_connection_new_shared("test:///default");
    conn = ckpt_connection_get(fixture->connection, NULL);
    assert_non_null(conn);
    fixture->pool = virStoragePoolLookupByName(conn, "default-pool");
    assert_non_null(fixture->pool);
    fixture->volume = virStorageVolCreateXML(fixture->pool, volume_xml, 0);
    assert_non_null(fixture->volume);
    fixture->domain = virDomainDefineXML(conn, clone_xml);
    assert_non_null(fixture->domain);
    fixture->told = g_string_new(NULL);
    fixture->unread = g_string_new(NULL);
    *state = fixture;
    return 0;
}

static int
teardown(void **state)
{
    Fixture *fixture = *state;

    /* The pool outlives the connection now and then. */
    (void)virStorageVolDelete(fixture->volume, 0);
    virDomainUndefine(fixture->domain);
    virDomainFree(fixture->domain);
    virStorageVolDelete(fixture->volume, 0); /* the driver outlives this connection, if another closes late */
    virStorageVolFree(fixture->volume);
    virStoragePoolFree(fixture->pool);
    ckpt_connection_free(fixture->connection);
    g_string_free(fixture->told, TRUE);
    g_string_free(fixture->unread, TRUE);
    g_free(fixture);
    return 0;
}

static void
found(const char *file, gboolean is_top, const char *user, gpointer data)
{
    g_string_append_printf(((Fixture *)data)->told, "%s is %s of %s;", file, is_top ? "the top" : "below", user);
}

static void
unreadable(const char *file, gboolean is_top, const char *user, gpointer data)
{
    g_string_append_printf(((Fixture *)data)->unread, "%s of %s;", file, user);
}

static const char *
scan(Fixture *fixture, const char *file)
{
    g_autoptr(GHashTable) files = ckpt_chain_files_new();
    CkptLayer *layer = g_new0(CkptLayer, 1);

    layer->path = g_strdup(file);
    g_hash_table_insert(files, g_strdup(file), layer);
    g_string_set_size(fixture->told, 0);
    g_string_set_size(fixture->unread, 0);
    assert_true(ckpt_users_scan(fixture->connection, NULL, TRUE, files, found, unreadable, fixture, NULL));
    return fixture->told->str;
}

static void
a_disk_that_is_a_volume_uses_its_file(void **state)
{
    Fixture *fixture = *state;

    assert_string_equal(scan(fixture, POOL "/clone.qcow2"),
                        POOL "/clone.qcow2 is the top of VM clone (" CLONE "), disk vda;");
    assert_string_equal(scan(fixture, POOL "/other.qcow2"), "");
}

/* Nobody has refreshed it, or it was stopped: what VMs have in it is theirs all the same. */
static void
so_does_one_of_a_pool_that_does_not_know_it(void **state)
{
    Fixture *fixture = *state;

    assert_int_equal(virStorageVolDelete(fixture->volume, 0), 0);
    assert_string_equal(scan(fixture, POOL "/clone.qcow2"),
                        POOL "/clone.qcow2 is the top of VM clone (" CLONE "), disk vda;");
}

/* Its stored VMs may lie on anything: nobody is to take a file away meanwhile. */
static void
a_library_that_cannot_be_read_is_no_empty_one(void **state)
{
    Fixture *fixture = *state;
    static const char *const folders[] = {"/nonexistent-library", NULL};
    g_autoptr(GError) error = NULL;

    assert_true(ckpt_users_are_known(fixture->connection, NULL));
    ckpt_connection_set_stored(fixture->connection, ckpt_stored_vms_new(folders));
    assert_false(ckpt_users_are_known(fixture->connection, &error));
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_FILE_FAILED);
}

/* The test driver's VM, on a file of ours. */
static void
define_on(Fixture *fixture, const char *format, const char *name)
{
    g_autoptr(virConnect) conn = ckpt_connection_get(fixture->connection, NULL);
    g_autofree char *path = image(name);
    g_autofree char *xml = g_strdup_printf(
        "<domain type='test'><name>clone</name><uuid>" CLONE "</uuid><memory>65536</memory><vcpu>1</vcpu>"
        "<os><type>hvm</type></os><devices><disk type='file' device='disk'><driver name='qemu' type='%s'/>"
        "<source file='%s'/><target dev='vda'/></disk></devices></domain>",
        format, path);
    virDomainPtr defined = virDomainDefineXML(conn, xml);

    assert_non_null(defined);
    virDomainFree(defined);
}

/* Its agent has been started anew. */
static void
forget(Fixture *fixture)
{
    g_autoptr(GHashTable) nothing = g_hash_table_new(g_str_hash, g_str_equal);

    ckpt_below_keep(ckpt_connection_below(fixture->connection), nothing);
}

/* On what it lies nobody knows until it is back: it may be on what is asked about. */
static void
a_chain_that_cannot_be_read_to_its_end_is_told(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *base = image("base.raw");
    g_autofree char *middle = image("middle.qcow2");
    g_autofree char *top = image("top.qcow2");
    g_autofree char *lost = g_strdup_printf("%s of VM clone (" CLONE "), disk vda;", middle);
    g_autofree char *gone = g_strdup_printf("%s of VM clone (" CLONE "), disk vda;", top);

    shell("cd $d; truncate -s 1M base.raw; qemu-img create -q -f qcow2 -b $d/base.raw -F raw middle.qcow2;"
          "qemu-img create -q -f qcow2 -b $d/middle.qcow2 -F qcow2 top.qcow2");
    define_on(fixture, "qcow2", "top.qcow2");
    shell("mv $d/middle.qcow2 $d/away.qcow2");
    assert_string_equal(scan(fixture, base), "");
    assert_string_equal(fixture->unread->str, lost);
    shell("mv $d/away.qcow2 $d/middle.qcow2");
    assert_non_null(strstr(scan(fixture, base), "base.raw is below of VM clone"));
    assert_string_equal(fixture->unread->str, "");
    shell("mv $d/top.qcow2 $d/away.qcow2");
    forget(fixture);
    assert_string_equal(scan(fixture, base), "");
    assert_string_equal(fixture->unread->str, gone);
    /* as the administrator says */
    ckpt_connection_set_without_clones(fixture->connection, TRUE);
    assert_string_equal(scan(fixture, base), "");
    assert_string_equal(fixture->unread->str, "");
    ckpt_connection_set_without_clones(fixture->connection, FALSE);
    /* there is nothing below it, wherever it is */
    define_on(fixture, "raw", "top.qcow2");
    assert_string_equal(scan(fixture, base), "");
    assert_string_equal(fixture->unread->str, "");
    shell("rm $d/*.qcow2");
}

static void
what_a_chain_was_is_known_while_its_files_are_away(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *base = image("known.raw");
    g_autofree char *other = image("other.raw");

    shell("cd $d; truncate -s 1M known.raw other.raw;"
          "qemu-img create -q -f qcow2 -b $d/known.raw -F raw middle.qcow2;"
          "qemu-img create -q -f qcow2 -b $d/middle.qcow2 -F qcow2 top.qcow2");
    define_on(fixture, "qcow2", "top.qcow2");
    assert_non_null(strstr(scan(fixture, base), "known.raw is below"));
    shell("mv $d/top.qcow2 $d/away.qcow2");
    for (guint i = 0; i < 2; i++) { /* for as long as the VM is defined */
        assert_non_null(strstr(scan(fixture, base), "known.raw is below"));
        assert_string_equal(scan(fixture, other), "");
        assert_string_equal(fixture->unread->str, "");
        shell("rm -f $d/middle.qcow2");
    }
    /* it has been put on another file since */
    shell("cd $d; mv away.qcow2 top.qcow2; qemu-img rebase -u -f qcow2 -b $d/nowhere.qcow2 -F qcow2 top.qcow2");
    assert_string_equal(scan(fixture, base), "");
    assert_non_null(strstr(fixture->unread->str, "nowhere.qcow2 of VM clone"));
    /* what it is by now counts */
    shell("cd $d; qemu-img create -q -f qcow2 -b $d/other.raw -F raw top.qcow2");
    assert_non_null(strstr(scan(fixture, other), "other.raw is below"));
    assert_string_equal(scan(fixture, base), "");
    shell("rm $d/*.qcow2");
}

/* Neither a name by way of the folder that is away, nor a file that is being put back, is another file. */
static void
what_it_lay_on_is_known_by_what_it_was(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *base = image("shared.raw");

    shell("cd $d; truncate -s 1M shared.raw; mkdir -p mnt/clones; ln -s ../.. mnt/clones/up;"
          "qemu-img create -q -f qcow2 -b up/shared.raw -F raw mnt/clones/b.qcow2");
    define_on(fixture, "qcow2", "mnt/clones/b.qcow2");
    assert_non_null(strstr(scan(fixture, base), "shared.raw is below"));
    shell("mv $d/mnt $d/unmounted");
    assert_non_null(strstr(scan(fixture, base), "shared.raw is below"));
    shell("mkdir -p $d/mnt/clones; : >$d/mnt/clones/b.qcow2");
    assert_non_null(strstr(scan(fixture, base), "shared.raw is below"));
    shell("rm -r $d/mnt $d/unmounted");
    assert_non_null(strstr(scan(fixture, base), "shared.raw is below"));
    assert_string_equal(fixture->unread->str, "");
}

/* Of a VM that is worked on nothing is told of its captured disks; it is a clone itself, perhaps. */
static void
the_vm_in_question_is_remembered(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(GHashTable) files = ckpt_chain_files_new();
    g_autofree char *base = image("own.raw");

    shell("cd $d; truncate -s 1M own.raw; qemu-img create -q -f qcow2 -b $d/own.raw -F raw own.qcow2");
    define_on(fixture, "qcow2", "own.qcow2");
    assert_true(ckpt_users_scan(fixture->connection, CLONE, FALSE, files, found, unreadable, fixture, NULL));
    shell("rm $d/own.qcow2");
    assert_non_null(strstr(scan(fixture, base), "own.raw is below"));
}

/* As qemu-img made them before it asked for one, as libvirt writes them, and with a header that is damaged behind
 * the name: whoever reads them, by whatever means, reads what is below. */
static void
what_a_header_names_is_used_however_it_names_it(void **state)
{
    Fixture *fixture = *state;
    static const char *const makes[] = {
        /* the first of the header's extensions, behind its 72 bytes, is the backing file's format */
        "qemu-img create -q -f qcow2 -o compat=0.10 -b $d/middle.qcow2 -F qcow2 top.qcow2;"
        "dd if=/dev/zero of=top.qcow2 bs=1 seek=72 count=8 conv=notrunc status=none;"
        "! qemu-img info top.qcow2 | grep -q 'backing file format'",
        "qemu-img create -q -f qcow2 -b 'json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\","
        "\"filename\":\"'$d'/middle.qcow2\"}}' -F qcow2 top.qcow2",
        "qemu-img create -q -f qcow2 -b 'json:{\"driver\":\"qcow2\",\"file.filename\":\"'$d'/middle.qcow2\"}' "
        "-F qcow2 top.qcow2",
        "qemu-img create -q -f qcow2 -b 'json:{\"backing\":{\"driver\":\"raw\",\"file\":{\"driver\":\"file\","
        "\"filename\":\"'$d'/free.raw\"}},\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\","
        "\"filename\":\"'$d'/middle.qcow2\"}}' -F qcow2 top.qcow2",
        "qemu-img create -q -f qcow2 -b file:$d/middle.qcow2 -F qcow2 top.qcow2",
        "qemu-img create -q -f qcow2 -b middle.qcow2 -F qcow2 top.qcow2",
        /* where its table of clusters lies: far behind its end */
        "qemu-img create -q -f qcow2 -b $d/middle.qcow2 -F qcow2 top.qcow2;"
        "printf '\\377' | dd of=top.qcow2 bs=1 seek=42 conv=notrunc status=none",
    };
    g_autofree char *base = image("named.raw");

    shell("cd $d; truncate -s 1M named.raw free.raw;"
          "qemu-img create -q -f qcow2 -b $d/named.raw -F raw middle.qcow2");
    define_on(fixture, "qcow2", "top.qcow2");
    for (guint i = 0; i < G_N_ELEMENTS(makes); i++) {
        g_autofree char *make = g_strconcat("cd $d; rm -f top.qcow2; ", makes[i], NULL);

        forget(fixture);
        shell(make);
        if (!strstr(scan(fixture, base), "named.raw is below of VM clone"))
            fail_msg("by %s: %s", makes[i], fixture->told->str);
    }
    shell("rm $d/*.qcow2");
}

/* What its guest wrote there is no header. */
static void
a_raw_file_is_not_looked_into(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *base = image("mine.raw");
    g_autofree char *raw = image("guest.raw");

    shell("cd $d; truncate -s 1M mine.raw; qemu-img create -q -f qcow2 -b $d/mine.raw -F raw guest.raw;"
          "qemu-img create -q -f qcow2 -b $d/guest.raw -F raw top.qcow2");
    define_on(fixture, "qcow2", "top.qcow2");
    assert_non_null(strstr(scan(fixture, raw), "guest.raw is below"));
    assert_string_equal(scan(fixture, base), "");
    shell("rm $d/*.qcow2");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_disk_that_is_a_volume_uses_its_file, setup, teardown),
        cmocka_unit_test_setup_teardown(a_chain_that_cannot_be_read_to_its_end_is_told, setup, teardown),
        cmocka_unit_test_setup_teardown(what_a_chain_was_is_known_while_its_files_are_away, setup, teardown),
        cmocka_unit_test_setup_teardown(what_it_lay_on_is_known_by_what_it_was, setup, teardown),
        cmocka_unit_test_setup_teardown(the_vm_in_question_is_remembered, setup, teardown),
        cmocka_unit_test_setup_teardown(what_a_header_names_is_used_however_it_names_it, setup, teardown),
        cmocka_unit_test_setup_teardown(a_raw_file_is_not_looked_into, setup, teardown),
        cmocka_unit_test_setup_teardown(a_library_that_cannot_be_read_is_no_empty_one, setup, teardown),
        cmocka_unit_test_setup_teardown(so_does_one_of_a_pool_that_does_not_know_it, setup, teardown),
    };

    return cmocka_run_group_tests(tests, images_open, images_close);
}
