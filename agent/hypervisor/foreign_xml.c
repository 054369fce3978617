#include "agent/hypervisor/foreign_xml.h"

#include "agent/hypervisor/image.h"
#include "agent/hypervisor/xml_tree.h"

/* libvirt's words; "disk-snapshot" is one of a running VM's disks without its memory. */
static CkptPower
power_of(const char *state)
{
    static const struct {
        const char *word;
        CkptPower power;
    } words[] = {{"shutoff", CKPT_POWER_SHUT_OFF},   {"running", CKPT_POWER_RUNNING},
                 {"blocked", CKPT_POWER_RUNNING},    {"disk-snapshot", CKPT_POWER_RUNNING},
                 {"paused", CKPT_POWER_PAUSED},      {"crashed", CKPT_POWER_CRASHED},
                 {"pmsuspended", CKPT_POWER_SUSPENDED}};

    for (guint i = 0; i < G_N_ELEMENTS(words); i++)
        if (g_strcmp0(state, words[i].word) == 0)
            return words[i].power;
    return CKPT_POWER_UNKNOWN;
}

/* Of an element with <driver> (or <format>, in a backing store) and <source>. */
static void
name_source(CkptSnapshot *snapshot, xmlNodePtr holder)
{
    g_autofree char *file = attribute(child(holder, "source"), "file");
    g_autofree char *device = attribute(child(holder, "source"), "dev");
    g_autofree char *driver = attribute(child(holder, "driver"), "type");
    g_autofree char *format = attribute(child(holder, "format"), "type");
    const char *path = file ? file : device;

    if (path)
        ckpt_snapshot_add_file(snapshot->named, "", path,
                               ckpt_format_from_name(driver ? driver : format));
}

/* Whatever disk is told of anywhere: a file too many that is left alone does no harm. */
static void
name_all(CkptSnapshot *snapshot, xmlNodePtr parent)
{
    static const char *const holders[] = {"disk", "backingStore", "mirror", NULL};

    for (xmlNodePtr node = parent->children; node; node = node->next) {
        if (node->type != XML_ELEMENT_NODE)
            continue;
        if (g_strv_contains(holders, (const char *)node->name))
            name_source(snapshot, node);
        name_all(snapshot, node);
    }
}

/* The definition kept with it has the files on which the disks were at that moment. */
static void
add_disk(CkptSnapshot *snapshot, xmlNodePtr devices, const char *name)
{
    for (xmlNodePtr node = devices ? devices->children : NULL; node; node = node->next) {
        g_autofree char *target = NULL, *file = NULL, *format = NULL;

        if (node->type != XML_ELEMENT_NODE || !g_str_equal((const char *)node->name, "disk"))
            continue;
        target = attribute(child(node, "target"), "dev");
        file = attribute(child(node, "source"), "file");
        format = attribute(child(node, "driver"), "type");
        if (file && (g_strcmp0(target, name) == 0 || g_str_equal(file, name)))
            ckpt_snapshot_add_file(snapshot->disks, target ? target : "", file,
                                   ckpt_format_from_name(format));
    }
}

static void
read_disks(CkptSnapshot *snapshot, xmlNodePtr root)
{
    xmlNodePtr disks = child(root, "disks"), devices = child(child(root, "domain"), "devices");

    for (xmlNodePtr node = disks ? disks->children : NULL; node; node = node->next) {
        g_autofree char *kind = NULL, *name = NULL;

        if (node->type != XML_ELEMENT_NODE)
            continue;
        kind = attribute(node, "snapshot");
        name = attribute(node, "name");
        if (!name || g_strcmp0(kind, "no") == 0)
            continue;
        snapshot->internal = snapshot->internal || g_strcmp0(kind, "internal") == 0;
        add_disk(snapshot, devices, name);
    }
}

static void
read_memory(CkptSnapshot *snapshot, xmlNodePtr root)
{
    xmlNodePtr memory = child(root, "memory");
    g_autofree char *kind = attribute(memory, "snapshot");
    g_autofree char *file = attribute(memory, "file");

    snapshot->memory = memory && g_strcmp0(kind, "no") != 0;
    if (file)
        ckpt_snapshot_add_file(snapshot->named, "", file, (CkptFormat)0);
}

CkptSnapshot *
ckpt_foreign_xml_read(const char *xml, GError **error)
{
    g_autoptr(xmlDoc) doc = xmlReadMemory(xml, (int)strlen(xml), "snapshot.xml", NULL,
                                          XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING);
    xmlNodePtr root = doc ? xmlDocGetRootElement(doc) : NULL;
    g_autofree char *name = content(child(root, "name"));
    g_autofree char *state = content(child(root, "state"));
    g_autofree char *seconds = content(child(root, "creationTime"));
    CkptSnapshot *snapshot;

    if (!name || !g_str_equal((const char *)root->name, "domainsnapshot")) {
        ckpt_error_set(error, CKPT_REASON_HYPERVISOR_FAILED,
                       "libvirt gives something else than a <domainsnapshot>");
        return NULL;
    }
    snapshot = ckpt_snapshot_new(name);
    snapshot->description = content(child(root, "description"));
    snapshot->parent = content(child(child(root, "parent"), "name"));
    snapshot->power = power_of(state);
    snapshot->created_us = seconds ? g_ascii_strtoll(seconds, NULL, 10) * G_USEC_PER_SEC : 0;
    read_memory(snapshot, root);
    read_disks(snapshot, root);
    name_all(snapshot, root);
    return snapshot;
}
