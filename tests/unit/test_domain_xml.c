#include "agent/hypervisor/domain_xml.h"
#include "tests/unit/cmocka_all.h"

#include <string.h>

#define UUID "0a0a0a0a-0000-4000-8000-000000000001"

static const char definition[] =
    "<domain type='kvm' id='7'>\n"
    "  <name>old &amp; worn</name>\n"
    "  <uuid>11111111-0000-4000-8000-000000000001</uuid>\n"
    "  <metadata><x:a xmlns:x='urn:x' note='kept'/></metadata>\n"
    "  <os><type>hvm</type></os>\n"
    "  <devices>\n"
    "    <disk type='file' device='disk'>\n"
    "      <driver name='qemu' type='qcow2' cache='none' discard='unmap'/>\n"
    "      <source file='/i/a.qcow2' index='3'><seclabel model='dac' relabel='no'/></source>\n"
    "      <backingStore type='file' index='4'><format type='raw'/><source file='/i/b &amp; c.raw'/>\n"
    "        <backingStore/></backingStore>\n"
    "      <mirror type='file' file='/i/m' job='active-commit' ready='yes'>\n"
    "        <source file='/i/m'/></mirror>\n"
    "      <target dev='vda' bus='virtio'/><serial>S1</serial>\n"
    "    </disk>\n"
    "    <disk type='network' device='disk'>\n"
    "      <driver name='qemu' type='raw'/><source protocol='rbd' name='p/v'><host name='h'/></source>\n"
    "      <target dev='vdb'/><shareable/>\n"
    "    </disk>\n"
    "    <disk type='file' device='cdrom'><source file='/nonexistent/cd.iso'/><target dev='sda'/></disk>\n"
    "    <disk type='file'><source file='/i/ro.raw'/><target dev='vdc'/><readonly/></disk>\n"
    "    <disk type='file' device='floppy'><target dev='fda'/></disk>\n"
    "    <graphics type='vnc' passwd='secret'/>\n"
    "  </devices>\n"
    "</domain>\n";

static CkptXmlDomain *
parse(const char *xml)
{
    g_autoptr(GError) error = NULL;
    CkptXmlDomain *domain = ckpt_xml_domain_parse(xml, &error);

    if (!domain)
        fail_msg("%s", error->message);
    return domain;
}

static void
parse_reads_disks(void **state)
{
    g_autoptr(CkptXmlDomain) domain = parse(definition);
    CkptXmlDisk *vda = ckpt_xml_domain_find(domain, "vda");
    CkptXmlDisk *vdb = ckpt_xml_domain_find(domain, "vdb");

    assert_string_equal(domain->name, "old & worn");
    assert_int_equal(domain->disks->len, 5);
    assert_false(domain->nvram);
    assert_int_equal(domain->not_captured->len, 0);
    assert_string_equal(vda->source, "/i/a.qcow2");
    assert_string_equal(vda->format, "qcow2");
    assert_true(vda->chain_ends);
    assert_int_equal(g_strv_length(vda->chain), 2);
    assert_string_equal(vda->chain[1], "/i/b & c.raw");
    assert_string_equal(vda->mirror, "/i/m");
    assert_string_equal(vda->mirror_job, "active-commit");
    assert_true(vda->mirror_ready);
    assert_string_equal(vdb->type, "network");
    assert_null(vdb->source);
    assert_true(vdb->shareable);
    assert_false(vdb->chain_ends);
    assert_null(ckpt_xml_domain_find(domain, "vdz"));
}

static void
only_writable_disks_are_captured(void **state)
{
    g_autoptr(CkptXmlDomain) domain = parse(definition);
    static const struct {
        const char *target;
        gboolean captured;
    } cases[] = {{"vda", TRUE}, {"vdb", TRUE}, {"sda", FALSE}, {"vdc", FALSE}, {"fda", FALSE}};

    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++)
        assert_int_equal(ckpt_xml_disk_is_captured(ckpt_xml_domain_find(domain, cases[i].target)),
                         cases[i].captured);
}

static void
parse_finds_uefi_variables(void **state)
{
    static const struct {
        const char *os;
        gboolean nvram;
        const char *file; /* NULL: not told */
        gboolean fault;
    } cases[] = {
        {"<os firmware='efi'/>", TRUE, NULL, FALSE},
        {"<os firmware='bios'/>", FALSE, NULL, FALSE},
        {"<os firmware='efi'><loader stateless='yes'/></os>", FALSE, NULL, FALSE},
        {"<os><loader type='pflash'>/x</loader></os>", TRUE, NULL, TRUE},
        {"<os><loader type='pflash' readonly='yes'>/x</loader></os>", TRUE, NULL, FALSE},
        {"<os><loader type='rom'>/x</loader></os>", FALSE, NULL, FALSE},
        {"<os><nvram>/a &amp; b</nvram></os>", TRUE, "/a & b", FALSE},
        {"<os><nvram template='/t'/></os>", TRUE, NULL, FALSE},
        {"<os><nvram type='file'> <source file='/x'/> </nvram></os>", TRUE, "/x", FALSE},
        {"<os><nvram type='block'><source dev='/dev/x'/></nvram></os>", TRUE, NULL, TRUE},
    };

    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *xml = g_strdup_printf("<domain>%s</domain>", cases[i].os);
        g_autoptr(CkptXmlDomain) domain = parse(xml);

        assert_int_equal(domain->nvram, cases[i].nvram);
        assert_int_equal(g_strcmp0(domain->nvram_file, cases[i].file), 0);
        assert_int_equal(domain->nvram_fault != NULL, cases[i].fault);
    }
}

static void
parse_finds_what_cannot_be_captured(void **state)
{
    g_autoptr(CkptXmlDomain) domain =
        parse("<domain><devices><tpm model='tpm-crb'><backend type='emulator'/></tpm>"
              "<hostdev type='pci'><source><address domain='0x0000' bus='0x0a' slot='0x1f' function='7'/>"
              "</source></hostdev>"
              "<filesystem><source dir='/srv/pub'/><target dir='pub'/></filesystem><interface/>"
              "<memory model='nvdimm'/><memory model='dimm'/></devices></domain>");
    static const char *const wanted[] = {"TPM's state (emulator)", "host device (pci)", "host (pub)",
                                         "non-volatile"};

    assert_int_equal(domain->not_captured->len, G_N_ELEMENTS(wanted));
    for (guint i = 0; i < domain->not_captured->len; i++)
        assert_non_null(strstr(domain->not_captured->pdata[i], wanted[i]));
    assert_int_equal(domain->needs->len, 2);
    assert_string_equal(domain->needs->pdata[0], "/sys/bus/pci/devices/0000:0a:1f.7");
    assert_string_equal(domain->needs->pdata[1], "/srv/pub");
}

/* The VM's own file: a checkpoint may have been made under another one. */
static void
rewrite_names_the_vms_own_uefi_variables(void **state)
{
    static const struct {
        const char *os, *wanted;
    } cases[] = {
        {"<os><nvram template='/t'>/old</nvram></os>", ">/a &amp; b</nvram>"},
        {"<os><nvram><source file='/old'/></nvram></os>", "<source file=\"/a &amp; b\"/>"},
    };

    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *given = g_strdup_printf("<domain><name>n</name>%s</domain>", cases[i].os);
        g_autofree char *xml = ckpt_xml_rewrite(given, UUID, "n", NULL, "/a & b", NULL);

        assert_non_null(strstr(xml, cases[i].wanted));
        assert_null(strstr(xml, "/old"));
    }
}

static void
parse_tells_encryption_slices_and_the_end_of_a_chain(void **state)
{
    g_autoptr(CkptXmlDomain) domain = parse(
        "<domain><devices><disk type='file'><source file='/a'><encryption format='luks'/></source>"
        "<backingStore/><target dev='a'/></disk><disk type='file'><source file='/b'><slices><slice/>"
        "</slices></source><backingStore type='network'><source protocol='nbd'/></backingStore>"
        "<target dev='b'/></disk></devices></domain>");
    CkptXmlDisk *a = ckpt_xml_domain_find(domain, "a");
    CkptXmlDisk *b = ckpt_xml_domain_find(domain, "b");

    assert_true(a->encrypted);
    assert_true(a->chain_ends);
    assert_int_equal(g_strv_length(a->chain), 1);
    assert_true(b->sliced);
    assert_string_equal(b->chain[1], "network:");
    assert_false(b->chain_ends);
}

static void
what_is_no_domain_is_refused(void **state)
{
    static const char *const bad[] = {"", "<domain>", "<network/>", "domain", "<domain/><domain/>"};

    for (gsize i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;

        assert_null(ckpt_xml_domain_parse(bad[i], &error));
        assert_int_equal(ckpt_error_reason(error), CKPT_REASON_VALIDATION_FAILED);
    }
}

/* "Billion laughs" and a file of the host's: neither is expanded. */
static void
entities_are_not_expanded(void **state)
{
    g_autoptr(CkptXmlDomain) domain =
        ckpt_xml_domain_parse("<!DOCTYPE domain [<!ENTITY f SYSTEM 'file:///etc/passwd'>]>"
                              "<domain><name>a&f;b</name></domain>",
                              NULL);

    if (domain)
        assert_null(strstr(domain->name, "root"));
}

static GPtrArray *
files(const char *target, const char *file, CkptFormat format)
{
    GPtrArray *disks = g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_disk_file_free);

    g_ptr_array_add(disks, ckpt_disk_file_new(target, file, format, NULL));
    return disks;
}

static void
rewrite_changes_the_disk_and_nothing_else(void **state)
{
    g_autoptr(GPtrArray) disks = files("vda", "/i/new <&> '.qcow2", CKPT_FORMAT_QCOW2);
    g_autofree char *xml = ckpt_xml_rewrite(definition, UUID, "new & shiny", disks, NULL, NULL);
    g_autoptr(CkptXmlDomain) domain = parse(xml);
    CkptXmlDisk *vda = ckpt_xml_domain_find(domain, "vda");
    static const char *const kept[] = {"cache=\"none\"", "discard=\"unmap\"", "<serial>S1</serial>",
                                       "<seclabel model=\"dac\"", "note=\"kept\"",
                                       "passwd=\"secret\"", "protocol=\"rbd\"", "/i/ro.raw"};

    assert_string_equal(domain->name, "new & shiny");
    assert_string_equal(domain->uuid, UUID);
    assert_string_equal(vda->source, "/i/new <&> '.qcow2");
    assert_false(vda->chain_ends);
    assert_null(vda->mirror);
    assert_null(strstr(xml, "id=\"7\""));
    assert_null(strstr(xml, "index="));
    for (gsize i = 0; i < G_N_ELEMENTS(kept); i++)
        if (!strstr(xml, kept[i]))
            fail_msg("lost: %s", kept[i]);
}

static void
one_disk_alone_is_its_element(void **state)
{
    CkptDiskFile disk = {.target = (char *)"vda", .file = (char *)"/i/new.qcow2",
                         .format = CKPT_FORMAT_QCOW2};
    g_autofree char *xml = ckpt_xml_disk(definition, &disk, NULL);
    g_autoptr(GError) error = NULL;
    static const char *const kept[] = {"<disk ", "cache=\"none\"", "<serial>S1</serial>",
                                       "file=\"/i/new.qcow2\""};
    static const char *const left[] = {"<domain", "vdb", "<backingStore", "<mirror"};

    for (gsize i = 0; i < G_N_ELEMENTS(kept); i++)
        if (!strstr(xml, kept[i]))
            fail_msg("lost: %s", kept[i]);
    for (gsize i = 0; i < G_N_ELEMENTS(left); i++)
        if (strstr(xml, left[i]))
            fail_msg("there is %s", left[i]);
    disk.file = NULL;
    g_free(xml);
    xml = ckpt_xml_disk(definition, &disk, NULL);
    assert_non_null(strstr(xml, "<backingStore"));
    assert_null(strstr(xml, "/i/new.qcow2"));
    disk.target = (char *)"vdz";
    assert_null(ckpt_xml_disk(definition, &disk, &error));
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_VALIDATION_FAILED);
}

static void
rewrite_makes_a_file_of_another_type(void **state)
{
    g_autoptr(GPtrArray) disks = files("vdb", "/i/n.raw", CKPT_FORMAT_RAW);
    g_autofree char *xml = ckpt_xml_rewrite(definition, UUID, "n", disks, NULL, NULL);
    g_autoptr(CkptXmlDomain) domain = parse(xml);
    CkptXmlDisk *vdb = ckpt_xml_domain_find(domain, "vdb");

    assert_string_equal(vdb->type, "file");
    assert_string_equal(vdb->source, "/i/n.raw");
    assert_null(strstr(xml, "rbd"));
}

static void
rewrite_ejects_missing_media(void **state)
{
    g_autofree char *xml = ckpt_xml_rewrite(definition, UUID, "n", NULL, NULL, NULL);
    g_autoptr(CkptXmlDomain) domain = parse(xml);

    assert_null(ckpt_xml_domain_find(domain, "sda")->source);
    assert_string_equal(ckpt_xml_domain_find(domain, "vdc")->source, "/i/ro.raw");
}

static void
rewrite_refuses_a_disk_that_is_not_there(void **state)
{
    g_autoptr(GPtrArray) disks = files("vdz", "/i/n", CKPT_FORMAT_QCOW2);
    g_autoptr(GError) error = NULL;

    assert_null(ckpt_xml_rewrite(definition, UUID, "n", disks, NULL, &error));
    assert_int_equal(ckpt_error_reason(error), CKPT_REASON_VALIDATION_FAILED);
    assert_null(strstr(error->message, "secret"));
}

static void
snapshot_names_every_disk(void **state)
{
    g_autoptr(CkptXmlDomain) domain = parse(definition);
    g_autoptr(GPtrArray) disks = files("vda", "/i/o'&.qcow2", CKPT_FORMAT_QCOW2);
    g_autofree char *xml = ckpt_xml_snapshot(domain, "vmcheckpoint-x", NULL, disks);

    assert_non_null(strstr(xml, "<disk name=\"vda\" snapshot=\"external\" type=\"file\">"));
    assert_non_null(strstr(xml, "<source file=\"/i/o'&amp;.qcow2\"/>"));
    assert_non_null(strstr(xml, "<disk name=\"vdb\" snapshot=\"no\"/>"));
    assert_non_null(strstr(xml, "<disk name=\"sda\" snapshot=\"no\"/>"));
    assert_non_null(strstr(xml, "<disk name=\"fda\" snapshot=\"no\"/>"));
}

static void
parse_tells_whose_work_the_processor_is(void **state)
{
    g_autoptr(CkptXmlDomain) emulated = ckpt_xml_domain_parse("<domain type='qemu'/>", NULL);
    g_autoptr(CkptXmlDomain) accelerated = ckpt_xml_domain_parse("<domain type='kvm'/>", NULL);

    assert_true(emulated->emulated);
    assert_false(accelerated->emulated);
}

static void
parse_tells_a_guest_agent_that_is_there_from_one_that_answers(void **state)
{
    static const char *const states[] = {"", " state='disconnected'", " state='connected'"};

    for (guint i = 0; i < G_N_ELEMENTS(states); i++) {
        g_autofree char *xml = g_strdup_printf(
            "<domain><devices><channel type='unix'><target type='virtio'"
            " name='org.libvirt.other.0' state='connected'/></channel><channel type='unix'>"
            "<target type='virtio' name='org.qemu.guest_agent.0'%s/></channel></devices></domain>",
            states[i]);
        g_autoptr(CkptXmlDomain) domain = ckpt_xml_domain_parse(xml, NULL);

        assert_true(domain->guest_agent);
        assert_int_equal(domain->guest_agent_connected, i == 2);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parse_reads_disks),
        cmocka_unit_test(only_writable_disks_are_captured),
        cmocka_unit_test(parse_finds_uefi_variables),
        cmocka_unit_test(parse_finds_what_cannot_be_captured),
        cmocka_unit_test(rewrite_names_the_vms_own_uefi_variables),
        cmocka_unit_test(parse_tells_encryption_slices_and_the_end_of_a_chain),
        cmocka_unit_test(parse_tells_whose_work_the_processor_is),
        cmocka_unit_test(parse_tells_a_guest_agent_that_is_there_from_one_that_answers),
        cmocka_unit_test(what_is_no_domain_is_refused),
        cmocka_unit_test(entities_are_not_expanded),
        cmocka_unit_test(rewrite_changes_the_disk_and_nothing_else),
        cmocka_unit_test(one_disk_alone_is_its_element),
        cmocka_unit_test(rewrite_makes_a_file_of_another_type),
        cmocka_unit_test(rewrite_ejects_missing_media),
        cmocka_unit_test(rewrite_refuses_a_disk_that_is_not_there),
        cmocka_unit_test(snapshot_names_every_disk),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
