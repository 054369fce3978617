/* Who uses a file, asked of libvirt's test driver, whose VMs and pools live in this very process. */
#include "cmocka_all.h"

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
    GString *told;
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
    g_free(fixture);
    return 0;
}

static void
found(const char *file, gboolean is_top, const char *user, gpointer data)
{
    g_string_append_printf(data, "%s is %s of %s;", file, is_top ? "the top" : "below", user);
}

static const char *
scan(Fixture *fixture, const char *file)
{
    g_autoptr(GHashTable) files = ckpt_chain_files_new();
    CkptLayer *layer = g_new0(CkptLayer, 1);

    layer->path = g_strdup(file);
    g_hash_table_insert(files, g_strdup(file), layer);
    g_string_set_size(fixture->told, 0);
    assert_true(ckpt_users_scan(fixture->connection, NULL, TRUE, files, found, fixture->told, NULL));
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

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_disk_that_is_a_volume_uses_its_file, setup, teardown),
        cmocka_unit_test_setup_teardown(a_library_that_cannot_be_read_is_no_empty_one, setup, teardown),
        cmocka_unit_test_setup_teardown(so_does_one_of_a_pool_that_does_not_know_it, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
