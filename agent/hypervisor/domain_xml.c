#include "agent/hypervisor/domain_xml.h"

#include "agent/hypervisor/xml_tree.h"

#include <sys/stat.h>

G_DEFINE_AUTOPTR_CLEANUP_FUNC(xmlChar, xmlFree)

/* As libvirt's own limit; a chain told in XML is not followed further. */
#define MAX_CHAIN 200

static void
set_attribute(xmlNodePtr node, const char *name, const char *value)
{
    xmlSetProp(node, (const xmlChar *)name, (const xmlChar *)value);
}

static void
set_content(xmlNodePtr parent, const char *name, const char *value)
{
    xmlNodePtr node = child(parent, name);

    if (node)
        xmlUnlinkNode(node);
    xmlFreeNode(node);
    /* Escapes the text, unlike xmlNodeSetContent(). */
    xmlNewTextChild(parent, NULL, (const xmlChar *)name, (const xmlChar *)value);
}

static void
remove_children(xmlNodePtr parent, const char *name)
{
    xmlNodePtr node;

    while ((node = child(parent, name))) {
        xmlUnlinkNode(node);
        xmlFreeNode(node);
    }
}

static void
disk_free(CkptXmlDisk *disk)
{
    g_free(disk->target);
    g_free(disk->device);
    g_free(disk->type);
    g_free(disk->source);
    g_free(disk->pool);
    g_free(disk->volume);
    g_free(disk->format);
    g_strfreev(disk->chain);
    g_free(disk->mirror);
    g_free(disk->mirror_job);
    g_free(disk);
}

void
ckpt_xml_domain_free(CkptXmlDomain *domain)
{
    if (!domain)
        return;
    g_free(domain->name);
    g_free(domain->uuid);
    g_free(domain->nvram_file);
    g_ptr_array_unref(domain->not_captured);
    g_ptr_array_unref(domain->needs);
    g_free(domain->immovable);
    g_ptr_array_unref(domain->disks);
    g_free(domain);
}

/* The path in a <disk>, <backingStore> or <mirror>; NULL if it is none. */
static char *
source_path(xmlNodePtr holder, const char *type)
{
    xmlNodePtr source = child(holder, "source");

    if (g_strcmp0(type, "file") == 0)
        return attribute(source, "file");
    if (g_strcmp0(type, "block") == 0)
        return attribute(source, "dev");
    return NULL;
}

static void
read_chain(CkptXmlDisk *disk, xmlNodePtr node)
{
    g_autoptr(GStrvBuilder) chain = g_strv_builder_new();
    xmlNodePtr store = child(node, "backingStore");

    if (disk->source)
        g_strv_builder_add(chain, disk->source);
    for (guint depth = 0; store && depth < MAX_CHAIN; depth++) {
        g_autofree char *type = attribute(store, "type");
        g_autofree char *path = source_path(store, type);

        if (!type && !child(store, "source")) {
            disk->chain_ends = TRUE;
            break;
        }
        if (!path)
            path = g_strdup_printf("%s:", type ? type : "unknown");
        g_strv_builder_add(chain, path);
        store = child(store, "backingStore");
    }
    disk->chain = g_strv_builder_end(chain);
}

static void
read_mirror(CkptXmlDisk *disk, xmlNodePtr node)
{
    xmlNodePtr mirror = child(node, "mirror");

    if (!mirror)
        return;
    g_autofree char *type = attribute(mirror, "type");

    disk->mirror = source_path(mirror, type);
    if (!disk->mirror)
        disk->mirror = g_strdup("");
    disk->mirror_job = attribute(mirror, "job");
    disk->mirror_ready = attribute_is(mirror, "ready", "yes");
}

static CkptXmlDisk *
read_disk(xmlNodePtr node)
{
    CkptXmlDisk *disk = g_new0(CkptXmlDisk, 1);
    xmlNodePtr source = child(node, "source");

    disk->target = attribute(child(node, "target"), "dev");
    if (!disk->target)
        disk->target = g_strdup("");
    disk->device = attribute(node, "device");
    if (!disk->device)
        disk->device = g_strdup("disk");
    disk->type = attribute(node, "type");
    if (!disk->type)
        disk->type = g_strdup("file");
    disk->source = source_path(node, disk->type);
    if (g_str_equal(disk->type, "volume")) {
        disk->pool = attribute(source, "pool");
        disk->volume = attribute(source, "volume");
    }
    disk->format = attribute(child(node, "driver"), "type");
    disk->readonly = child(node, "readonly") != NULL;
    disk->shareable = child(node, "shareable") != NULL;
    disk->transient = child(node, "transient") != NULL;
    disk->encrypted = child(node, "encryption") || child(source, "encryption");
    disk->sliced = child(source, "slices") != NULL;
    read_chain(disk, node);
    read_mirror(disk, node);
    return disk;
}

/* The file that <nvram> names: as its text, or, of newer libvirts, as its <source>. */
static char *
nvram_file(xmlNodePtr nvram)
{
    g_autofree char *text = child(nvram, "source") ? attribute(child(nvram, "source"), "file")
                                                   : content(nvram);

    if (!text || !*g_strstrip(text))
        return NULL;
    return g_steal_pointer(&text);
}

/* A firmware that is all read-only has no variables; one without a store of its own writes to itself. */
static void
read_nvram(CkptXmlDomain *domain, xmlNodePtr os)
{
    xmlNodePtr loader = child(os, "loader"), nvram = child(os, "nvram");
    gboolean chosen = attribute_is(os, "firmware", "efi"); /* by libvirt */
    g_autofree char *type = attribute(nvram, "type");

    if (attribute_is(loader, "stateless", "yes") || attribute_is(loader, "type", "rom"))
        return;
    domain->nvram = nvram || chosen || attribute_is(loader, "type", "pflash");
    domain->nvram_file = nvram_file(nvram);
    domain->nvram_qcow2 = attribute_is(nvram, "format", "qcow2");
    if (type && !g_str_equal(type, "file"))
        domain->nvram_fault = "they are not in a file of this host";
    else if (domain->nvram && !nvram && !chosen && !attribute_is(loader, "readonly", "yes"))
        domain->nvram_fault = "they are in its firmware's own file, which is not readonly='yes'";
}

static void
read_channel(CkptXmlDomain *domain, xmlNodePtr node)
{
    xmlNodePtr target = child(node, "target");

    if (!attribute_is(target, "type", "virtio") ||
        !attribute_is(target, "name", "org.qemu.guest_agent.0"))
        return;
    domain->guest_agent = TRUE;
    domain->guest_agent_connected = attribute_is(target, "state", "connected");
}

static guint64
number(xmlNodePtr node, const char *name)
{
    g_autofree char *text = attribute(node, name);

    return text ? g_ascii_strtoull(text, NULL, 0) : 0;
}

static void
read_needs(CkptXmlDomain *domain, xmlNodePtr node)
{
    xmlNodePtr source = child(node, "source"), address = child(source, "address");
    g_autofree char *uuid = attribute(address, "uuid");

    if (g_str_equal((const char *)node->name, "filesystem")) {
        char *folder = attribute(source, "dir");

        if (folder)
            g_ptr_array_add(domain->needs, folder);
    } else if (g_str_equal((const char *)node->name, "hostdev") && attribute_is(node, "type", "pci")) {
        g_ptr_array_add(domain->needs,
                        g_strdup_printf("/sys/bus/pci/devices/%04x:%02x:%02x.%x",
                                        (guint)number(address, "domain"), (guint)number(address, "bus"),
                                        (guint)number(address, "slot"), (guint)number(address, "function")));
    } else if (g_str_equal((const char *)node->name, "hostdev") && uuid) {
        g_ptr_array_add(domain->needs, g_strconcat("/sys/bus/mdev/devices/", uuid, NULL));
    }
}

/* What keeps a state of its own, or shows what others write to. */
static void
read_stateful(CkptXmlDomain *domain, xmlNodePtr node)
{
    static const struct {
        const char *element, *words;
        const char *child, *attribute; /* which one it is */
    } kinds[] = {
        {"tpm", "the TPM's state", "backend", "type"},
        {"hostdev", "the state of a host device", NULL, "type"},
        {"redirdev", "the state of a redirected device", NULL, "bus"},
        {"filesystem", "a folder shared with the host", "target", "dir"},
        {"shmem", "memory shared with others", NULL, "name"},
    };
    gboolean nvdimm = g_str_equal((const char *)node->name, "memory") &&
                      (attribute_is(node, "model", "nvdimm") || attribute_is(node, "model", "virtio-pmem"));

    if (nvdimm)
        g_ptr_array_add(domain->not_captured, g_strdup("the contents of a non-volatile memory module"));
    for (gsize i = 0; i < G_N_ELEMENTS(kinds); i++) {
        xmlNodePtr told = kinds[i].child ? child(node, kinds[i].child) : node;
        g_autofree char *which = NULL;

        if (!g_str_equal((const char *)node->name, kinds[i].element))
            continue;
        which = attribute(told, kinds[i].attribute);
        g_ptr_array_add(domain->not_captured,
                        g_strdup_printf("%s%s%s%s", kinds[i].words, which ? " (" : "", which ? which : "",
                                        which ? ")" : ""));
    }
}

/* libvirt prints KiB, whatever was defined. */
static guint64
kib_of(const char *text)
{
    return text ? g_ascii_strtoull(text, NULL, 10) * 1024 : 0;
}

/* What libvirt refuses to migrate whatever else is set; the rest it says when it is asked to. */
static char *
immovable_kind(xmlNodePtr node)
{
    const char *name = (const char *)node->name;

    if (g_str_equal(name, "hostdev"))
        return g_strdup("a device of the host (<hostdev>)");
    if (g_str_equal(name, "interface") && attribute_is(node, "type", "hostdev"))
        return g_strdup("a network card of the host (<interface type='hostdev'>)");
    if (g_str_equal(name, "filesystem") && attribute_is(child(node, "driver"), "type", "virtiofs"))
        return g_strdup("a shared folder (virtiofs)");
    return NULL;
}

static void
read_memory(CkptXmlDomain *domain, xmlNodePtr root)
{
    g_autofree char *kib = content(child(root, "memory"));

    domain->memory_bytes = kib_of(kib);
}

static void
read_device(CkptXmlDomain *domain, xmlNodePtr node)
{
    if (g_str_equal((const char *)node->name, "video")) {
        g_autofree char *vram = attribute(child(node, "model"), "vram");

        domain->memory_bytes += kib_of(vram);
    }
    if (!domain->immovable)
        domain->immovable = immovable_kind(node);
    read_stateful(domain, node);
    read_needs(domain, node);
}

CkptXmlDomain *
ckpt_xml_domain_parse(const char *xml, GError **error)
{
    g_autoptr(xmlDoc) doc = parse(xml, error);
    CkptXmlDomain *domain;
    xmlNodePtr root, devices;

    if (!doc)
        return NULL;
    root = xmlDocGetRootElement(doc);
    devices = child(root, "devices");
    domain = g_new0(CkptXmlDomain, 1);
    domain->name = content(child(root, "name"));
    domain->uuid = content(child(root, "uuid"));
    domain->emulated = attribute_is(root, "type", "qemu");
    read_nvram(domain, child(root, "os"));
    domain->not_captured = g_ptr_array_new_with_free_func(g_free);
    domain->needs = g_ptr_array_new_with_free_func(g_free);
    read_memory(domain, root);
    domain->disks = g_ptr_array_new_with_free_func((GDestroyNotify)disk_free);
    for (xmlNodePtr node = devices ? devices->children : NULL; node; node = node->next) {
        if (node->type != XML_ELEMENT_NODE)
            continue;
        if (g_str_equal((const char *)node->name, "disk"))
            g_ptr_array_add(domain->disks, read_disk(node));
        else if (g_str_equal((const char *)node->name, "channel"))
            read_channel(domain, node);
        read_device(domain, node);
    }
    return domain;
}

CkptXmlDisk *
ckpt_xml_domain_find(const CkptXmlDomain *domain, const char *target)
{
    for (guint i = 0; domain && i < domain->disks->len; i++) {
        CkptXmlDisk *disk = g_ptr_array_index(domain->disks, i);

        if (g_strcmp0(disk->target, target) == 0)
            return disk;
    }
    return NULL;
}

gboolean
ckpt_xml_disk_is_captured(const CkptXmlDisk *disk)
{
    if (disk->readonly || g_str_equal(disk->device, "cdrom"))
        return FALSE;
    return !(g_str_equal(disk->device, "floppy") && !disk->source);
}

static CkptDiskFile *
find_file(GPtrArray *disks, const char *target)
{
    for (guint i = 0; disks && i < disks->len; i++) {
        CkptDiskFile *disk = g_ptr_array_index(disks, i);

        if (g_strcmp0(disk->target, target) == 0)
            return disk;
    }
    return NULL;
}

static xmlNodePtr
child_or_new(xmlNodePtr parent, const char *name)
{
    xmlNodePtr node = child(parent, name);

    return node ? node : xmlNewChild(parent, NULL, (const xmlChar *)name, NULL);
}

static gboolean
is_block(const char *path)
{
    struct stat found;

    return stat(path, &found) == 0 && S_ISBLK(found.st_mode);
}

/* A source of another type (block, network) has attributes and children that say nothing of a file. */
static void
rewrite_disk(xmlNodePtr node, const CkptDiskFile *disk)
{
    const char *type = is_block(disk->file) ? "block" : "file";

    if (!attribute_is(node, "type", type))
        remove_children(node, "source");
    set_attribute(node, "type", type);
    set_attribute(child_or_new(node, "driver"), "type", ckpt_format_name(disk->format));
    set_attribute(child_or_new(node, "source"), g_str_equal(type, "block") ? "dev" : "file", disk->file);
    xmlUnsetProp(child(node, "source"), (const xmlChar *)"index");
    remove_children(node, "backingStore");
    remove_children(node, "mirror");
}

static void
eject_missing(xmlNodePtr node)
{
    g_autofree char *file = attribute(child(node, "source"), "file");

    if ((attribute_is(node, "device", "cdrom") || attribute_is(node, "device", "floppy")) && file &&
        !g_file_test(file, G_FILE_TEST_EXISTS))
        remove_children(node, "source");
}

static guint
rewrite_disks(xmlNodePtr devices, GPtrArray *disks)
{
    guint count = 0;

    for (xmlNodePtr node = devices ? devices->children : NULL; node; node = node->next) {
        if (node->type != XML_ELEMENT_NODE || !g_str_equal((const char *)node->name, "disk"))
            continue;
        g_autofree char *target = attribute(child(node, "target"), "dev");
        CkptDiskFile *disk = find_file(disks, target);

        if (disk)
            rewrite_disk(node, disk);
        else
            eject_missing(node);
        count += disk != NULL;
    }
    return count;
}

static char *
to_text(xmlDocPtr doc)
{
    xmlChar *text = NULL;
    int length = 0;
    char *copy;

    xmlDocDumpMemoryEnc(doc, &text, &length, "UTF-8");
    copy = g_strndup((const char *)text, (gsize)length);
    if (text)
        explicit_bzero(text, (gsize)length);
    xmlFree(text);
    return copy;
}

static void
rewrite_nvram(xmlNodePtr os, const char *file)
{
    xmlNodePtr nvram = child(os, "nvram");
    xmlNodePtr source = child(nvram, "source");
    g_autoptr(xmlChar) escaped = NULL;

    if (!nvram)
        return;
    if (source) {
        set_attribute(source, "file", file);
        return;
    }
    escaped = xmlEncodeSpecialChars(nvram->doc, (const xmlChar *)file);
    xmlNodeSetContent(nvram, escaped);
}

char *
ckpt_xml_rewrite(const char *definition, const char *uuid, const char *name, GPtrArray *disks,
                 const char *nvram, GError **error)
{
    g_autoptr(xmlDoc) doc = parse(definition, error);
    xmlNodePtr root;

    if (!doc)
        return NULL;
    root = xmlDocGetRootElement(doc);
    xmlUnsetProp(root, (const xmlChar *)"id");
    set_content(root, "name", name);
    set_content(root, "uuid", uuid);
    if (nvram)
        rewrite_nvram(child(root, "os"), nvram);
    if (rewrite_disks(child(root, "devices"), disks) != (disks ? disks->len : 0)) {
        ckpt_error_set(error, CKPT_REASON_VALIDATION_FAILED,
                       "the definition lacks a disk that is to be put into it");
        return NULL;
    }
    return to_text(doc);
}

char *
ckpt_xml_disk(const char *definition, const CkptDiskFile *disk, GError **error)
{
    g_autoptr(xmlDoc) doc = parse(definition, error);
    g_autoptr(xmlDoc) alone = NULL;
    xmlNodePtr devices;

    if (!doc)
        return NULL;
    devices = child(xmlDocGetRootElement(doc), "devices");
    for (xmlNodePtr node = devices ? devices->children : NULL; node; node = node->next) {
        g_autofree char *target = NULL;

        if (node->type != XML_ELEMENT_NODE || !g_str_equal((const char *)node->name, "disk"))
            continue;
        target = attribute(child(node, "target"), "dev");
        if (g_strcmp0(target, disk->target) != 0)
            continue;
        if (disk->file)
            rewrite_disk(node, disk);
        alone = xmlNewDoc((const xmlChar *)"1.0");
        /* A copy: names of the node itself belong to the document that it was read into. */
        xmlDocSetRootElement(alone, xmlDocCopyNode(node, alone, 1));
        return to_text(alone);
    }
    ckpt_error_set(error, CKPT_REASON_VALIDATION_FAILED, "the definition has no disk %s", disk->target);
    return NULL;
}

char *
ckpt_xml_snapshot(const CkptXmlDomain *domain, const char *name, const char *memory, GPtrArray *disks)
{
    g_autoptr(xmlDoc) doc = xmlNewDoc((const xmlChar *)"1.0");
    xmlNodePtr root = xmlNewNode(NULL, (const xmlChar *)"domainsnapshot");
    xmlNodePtr list;

    xmlDocSetRootElement(doc, root);
    set_content(root, "name", name);
    if (memory) {
        xmlNodePtr node = xmlNewChild(root, NULL, (const xmlChar *)"memory", NULL);

        set_attribute(node, "snapshot", "external");
        set_attribute(node, "file", memory);
    }
    list = xmlNewChild(root, NULL, (const xmlChar *)"disks", NULL);
    for (guint i = 0; i < domain->disks->len; i++) {
        const CkptXmlDisk *disk = g_ptr_array_index(domain->disks, i);
        CkptDiskFile *file = find_file(disks, disk->target);
        xmlNodePtr node = xmlNewChild(list, NULL, (const xmlChar *)"disk", NULL);

        set_attribute(node, "name", disk->target);
        set_attribute(node, "snapshot", file ? "external" : "no");
        if (!file)
            continue;
        set_attribute(node, "type", "file");
        set_attribute(xmlNewChild(node, NULL, (const xmlChar *)"driver", NULL), "type", "qcow2");
        set_attribute(xmlNewChild(node, NULL, (const xmlChar *)"source", NULL), "file", file->file);
    }
    return to_text(doc);
}

char *
ckpt_xml_pool_folder(const char *xml)
{
    static const char *const folders[] = {"dir", "fs", "netfs", NULL};
    g_autoptr(xmlDoc) doc = xmlReadMemory(xml, (int)strlen(xml), "pool.xml", NULL,
                                          XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING);
    xmlNodePtr root = doc ? xmlDocGetRootElement(doc) : NULL;
    g_autofree char *type = attribute(root, "type");

    if (!type || !g_strv_contains(folders, type))
        return NULL;
    return content(child(child(root, "target"), "path"));
}
