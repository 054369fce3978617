/* CHECK_MEMORY: whether a memory image can be loaded, before the VM is stopped for it (hazard A34). What stands
 * in its way is read from the definition that libvirt keeps in the image. */
#include "agent/hypervisor/memory.h"

#include "agent/hypervisor/xml_tree.h"

#include <string.h>
#include <unistd.h>

G_DEFINE_AUTOPTR_CLEANUP_FUNC(virNetwork, virNetworkFree)

typedef struct {
    virConnectPtr conn;
    const char *file;
    xmlNodePtr root;
} Image;

static gboolean G_GNUC_PRINTF(3, 4)
refuse(const Image *image, GError **error, const char *format, ...)
{
    g_autofree char *words = NULL;
    va_list args;

    va_start(args, format);
    words = g_strdup_vprintf(format, args);
    va_end(args);
    ckpt_error_set(error, CKPT_REASON_MEMORY_UNLOADABLE,
                   "the memory in %s cannot be loaded: %s; its disks can be restored without it "
                   "(without_memory)",
                   image->file, words);
    ckpt_error_add(error, CKPT_META_FILE, image->file);
    return FALSE;
}

static const char *
libvirt_words(void)
{
    virErrorPtr last = virGetLastError();

    return last && last->message ? last->message : "libvirt does not say why";
}

/* ---- Files that QEMU opens when it starts ---- */

static gboolean
is_there(const Image *image, const char *what, const char *path, GError **error)
{
    if (!path || *path != '/' || g_file_test(path, G_FILE_TEST_EXISTS))
        return TRUE;
    return refuse(image, error, "%s %s is missing", what, path);
}

static gboolean
check_boot_files(const Image *image, GError **error)
{
    static const char *const names[] = {"kernel", "initrd", "dtb", "loader"};
    xmlNodePtr os = child(image->root, "os");

    for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *path = content(child(os, names[i]));

        if (!is_there(image, names[i], path, error))
            return FALSE;
    }
    return TRUE;
}

/* The captured disks have files of their own by then; what is left are media and disks that are only read. */
static gboolean
check_disk(const Image *image, xmlNodePtr node, GPtrArray *restored, GError **error)
{
    g_autofree char *target = attribute(child(node, "target"), "dev");
    g_autofree char *file = attribute(child(node, "source"), "file");
    g_autofree char *device = attribute(node, "device");
    g_autofree char *what = g_strdup_printf("the medium of %s %s,", device ? device : "disk", target);

    for (guint i = 0; i < restored->len; i++)
        if (g_strcmp0(((const CkptDiskFile *)restored->pdata[i])->target, target) == 0)
            return TRUE;
    return is_there(image, what, file, error);
}

static gboolean
check_network(const Image *image, xmlNodePtr node, GError **error)
{
    xmlNodePtr source = child(node, "source");
    g_autofree char *name = attribute(source, "network");
    g_autofree char *bridge = attribute(source, "bridge");
    g_autofree char *path = bridge ? g_strconcat("/sys/class/net/", bridge, NULL) : NULL;
    g_autoptr(virNetwork) network = NULL;

    if (!name) /* a bridge stands beside the name of the network that has it */
        return !bridge || g_file_test(path, G_FILE_TEST_EXISTS) ||
               refuse(image, error, "the bridge %s does not exist", bridge);
    network = virNetworkLookupByName(image->conn, name);
    if (!network)
        return refuse(image, error, "the network %s is not defined (%s)", name, libvirt_words());
    if (virNetworkIsActive(network) != 1)
        return refuse(image, error, "the network %s is not active (virsh net-start %s)", name, name);
    return TRUE;
}

static gboolean
check_devices(const Image *image, GPtrArray *restored, GError **error)
{
    xmlNodePtr devices = child(image->root, "devices");

    for (xmlNodePtr node = devices ? devices->children : NULL; node; node = node->next) {
        if (node->type != XML_ELEMENT_NODE)
            continue;
        if (g_str_equal((const char *)node->name, "disk") && !check_disk(image, node, restored, error))
            return FALSE;
        if (g_str_equal((const char *)node->name, "interface") && !check_network(image, node, error))
            return FALSE;
    }
    return TRUE;
}

/* ---- The machine ---- */

/* Domain capabilities fail for an emulator that is gone or that has no such machine. */
static gboolean
check_machine(const Image *image, const char *emulator, const char *arch, const char *machine,
              const char *type, GError **error)
{
    char *capabilities;

    if (!emulator || access(emulator, X_OK) < 0)
        return refuse(image, error, "the emulator %s is missing", emulator ? emulator : "that it names");
    capabilities = virConnectGetDomainCapabilities(image->conn, emulator, arch, machine, type, 0);
    if (!capabilities)
        return refuse(image, error, "%s has no machine %s of type %s any more: %s", emulator,
                      machine ? machine : "(default)", type ? type : "(default)", libvirt_words());
    free(capabilities);
    return TRUE;
}

static char *
text_of(xmlNodePtr node)
{
    xmlBufferPtr buffer = xmlBufferCreate();
    char *text;

    xmlNodeDump(buffer, node->doc, node, 0, 0);
    text = g_strdup((const char *)xmlBufferContent(buffer));
    xmlBufferFree(buffer);
    return text;
}

/* One without a model is the emulator's own, which goes with it. */
static gboolean
check_cpu(const Image *image, const char *emulator, const char *arch, const char *machine,
          const char *type, GError **error)
{
    xmlNodePtr cpu = child(image->root, "cpu");
    g_autofree char *model = content(child(cpu, "model"));
    g_autofree char *xml = model ? text_of(cpu) : NULL;
    int compared;

    if (!xml)
        return TRUE;
    compared = virConnectCompareHypervisorCPU(image->conn, emulator, arch, machine, type, xml,
                                              VIR_CONNECT_COMPARE_CPU_FAIL_INCOMPATIBLE);
    if (compared != VIR_CPU_COMPARE_ERROR)
        return TRUE;
    if (ckpt_libvirt_code() == VIR_ERR_CPU_INCOMPATIBLE)
        return refuse(image, error, "this host has no CPU like its %s: %s", model, libvirt_words());
    virResetLastError(); /* what cannot be compared is found when it is loaded */
    return TRUE;
}

/* "7.2.22": a stream of a newer QEMU is not read by an older one. Patch levels do not change it. */
static guint
feature_level(const char *version)
{
    g_auto(GStrv) parts = g_strsplit(version ? version : "", ".", 3);

    if (g_strv_length(parts) < 2)
        return 0;
    return (guint)(g_ascii_strtoull(parts[0], NULL, 10) * 1000 + g_ascii_strtoull(parts[1], NULL, 10));
}

static gboolean
check_version(const Image *image, const char *captured, GError **error)
{
    unsigned long number = 0;
    g_autofree char *present = NULL;

    if (!captured || virConnectGetVersion(image->conn, &number) < 0) {
        virResetLastError();
        return TRUE;
    }
    present = g_strdup_printf("%lu.%lu.%lu", number / 1000000, number / 1000 % 1000, number % 1000);
    return feature_level(present) >= feature_level(captured) ||
           refuse(image, error, "QEMU %s wrote it, and this host's is %s", captured, present);
}

static gboolean
check_emulator(const Image *image, const char *captured_version, GError **error)
{
    xmlNodePtr os_type = child(child(image->root, "os"), "type");
    g_autofree char *emulator =
        content(child(child(image->root, "devices"), "emulator"));
    g_autofree char *arch = attribute(os_type, "arch");
    g_autofree char *machine = attribute(os_type, "machine");
    g_autofree char *type = attribute(image->root, "type");

    return check_machine(image, emulator, arch, machine, type, error) &&
           check_cpu(image, emulator, arch, machine, type, error) &&
           check_version(image, captured_version, error);
}

static gboolean
check_name(const Image *image, const char *present, GError **error)
{
    g_autofree char *name = content(child(image->root, "name"));

    return g_strcmp0(name, present) == 0 ||
           refuse(image, error, "the VM was called %s then and is called %s now (virsh domrename)", name,
                  present);
}

gboolean
ckpt_step_check_memory(CkptRun *run, GError **error)
{
    const CkptStep *step = run->step;
    g_autoptr(virDomain) domain =
        ckpt_connection_lookup(run->connection, run->plan->vm_id, error);
    Image image = {.file = step->file};
    g_autoptr(xmlDoc) doc = NULL;
    gboolean whole;
    char *xml;

    if (!domain)
        return FALSE;
    image.conn = virDomainGetConnect(domain);
    if (!ckpt_memory_is_image(step->file, run->plan->vm_id, &whole) || !whole)
        return refuse(&image, error, "it is no whole memory image of the VM's");
    xml = virDomainSaveImageGetXMLDesc(image.conn, step->file, VIR_DOMAIN_SAVE_IMAGE_XML_SECURE);
    if (!xml)
        return refuse(&image, error, "libvirt does not read it: %s", libvirt_words());
    doc = parse(xml, error);
    explicit_bzero(xml, strlen(xml));
    free(xml);
    if (!doc)
        return FALSE;
    image.root = xmlDocGetRootElement(doc);
    return check_name(&image, virDomainGetName(domain), error) &&
           check_emulator(&image, step->text, error) && check_boot_files(&image, error) &&
           check_devices(&image, step->disks, error);
}
