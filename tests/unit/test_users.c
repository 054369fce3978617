/* Who uses a file, asked of libvirt's test driver, whose VMs and pools live in this very process. */
#include "cmocka_all.h"
#include "tests/unit/image_fixture.h"

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
    g_autofree char *xml = g_strdup_printf(
        "<domain type='test'><name>clone</name><uuid>" CLONE "</uuid><memory>65536</memory><vcpu>1</vcpu>"
        "<os><type>hvm</type></os><devices><disk type='file' device='disk'><driver name='qemu' type='%s'/>"
        "<source file='%s'/><target dev='vda'/></disk></devices></domain>",
        format, image(name));
    virDomainPtr defined = virDomainDefineXML(conn, xml);

    assert_non_null(defined);
    virDomainFree(defined);
}

/* On what it lies nobody knows until it is back: it may be on what is asked about. */
static void
a_chain_that_cannot_be_read_to_its_end_is_told(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *base = g_strdup(image("base.raw"));
    g_autofree char *middle = g_strdup(image("middle.qcow2"));
    g_autofree char *top = g_strdup(image("top.qcow2"));
    g_autofree char *lost = g_strdup_printf("%s of VM clone (" CLONE "), disk vda;", middle);
    g_autofree char *gone = g_strdup_printf("%s of VM clone (" CLONE "), disk vda;", top);

    shell("cd $d; truncate -s 1M base.raw; qemu-img create -q -f qcow2 -b $d/base.raw -F raw middle.qcow2;"
          "qemu-img create -q -f qcow2 -b $d/middle.qcow2 -F qcow2 top.qcow2");
    define_on(fixture, "qcow2", "top.qcow2");
    assert_non_null(strstr(scan(fixture, base), "base.raw is below of VM clone"));
    assert_string_equal(fixture->unread->str, "");
    shell("mv $d/middle.qcow2 $d/away.qcow2");
    assert_string_equal(scan(fixture, base), "");
    assert_string_equal(fixture->unread->str, lost);
    shell("mv $d/top.qcow2 $d/away.qcow2");
    assert_string_equal(scan(fixture, base), "");
    assert_string_equal(fixture->unread->str, gone);
    /* there is nothing below it, wherever it is */
    define_on(fixture, "raw", "top.qcow2");
    assert_string_equal(scan(fixture, base), "");
    assert_string_equal(fixture->unread->str, "");
}

/* As qemu-img made them before it asked for one; libvirt does not start such a VM, but virsh can mend it. */
static void
a_backing_file_whose_format_nobody_says_is_used(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *base = g_strdup(image("old.raw"));

    /* The first of the header's extensions, behind its 72 bytes, is the backing file's format. */
    shell("cd $d; truncate -s 1M old.raw;"
          "qemu-img create -q -f qcow2 -o compat=0.10 -b $d/old.raw -F raw old.qcow2;"
          "dd if=/dev/zero of=old.qcow2 bs=1 seek=72 count=8 conv=notrunc status=none;"
          "! qemu-img info old.qcow2 | grep -q 'backing file format'");
    define_on(fixture, "qcow2", "old.qcow2");
    assert_non_null(strstr(scan(fixture, base), "old.raw is below of VM clone"));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_disk_that_is_a_volume_uses_its_file, setup, teardown),
        cmocka_unit_test_setup_teardown(a_chain_that_cannot_be_read_to_its_end_is_told, setup, teardown),
        cmocka_unit_test_setup_teardown(a_backing_file_whose_format_nobody_says_is_used, setup, teardown),
        cmocka_unit_test_setup_teardown(a_library_that_cannot_be_read_is_no_empty_one, setup, teardown),
        cmocka_unit_test_setup_teardown(so_does_one_of_a_pool_that_does_not_know_it, setup, teardown),
    };

    return cmocka_run_group_tests(tests, images_open, images_close);
}
