#include "agent/hypervisor/native/native.h"
#include "agent/hypervisor/xml_tree.h"

char *
ckpt_snapshot_xml_new(const char *name, const char *description)
{
    g_autoptr(xmlDoc) doc = xmlNewDoc((const xmlChar *)"1.0");
    xmlNodePtr root = xmlNewNode(NULL, (const xmlChar *)"domainsnapshot");
    xmlChar *text = NULL;
    int length = 0;
    char *copy;

    xmlDocSetRootElement(doc, root);
    xmlNewTextChild(root, NULL, (const xmlChar *)"name", (const xmlChar *)name);
    xmlNewTextChild(root, NULL, (const xmlChar *)"description", (const xmlChar *)description);
    xmlDocDumpMemoryEnc(doc, &text, &length, "UTF-8");
    copy = g_strndup((const char *)text, (gsize)length);
    xmlFree(text);
    return copy;
}

/* libvirt's words; "disk-snapshot" is one of a running VM's disks without its memory. */
static CkptPower
power_of(const char *state)
{
    if (g_strcmp0(state, "shutoff") == 0)
        return CKPT_POWER_SHUT_OFF;
    if (g_strcmp0(state, "running") == 0)
        return CKPT_POWER_RUNNING;
    if (g_strcmp0(state, "paused") == 0)
        return CKPT_POWER_PAUSED;
    return CKPT_POWER_UNKNOWN;
}

gboolean
ckpt_snapshot_xml_read(const char *xml, CkptSnapshotXml *found, GError **error)
{
    g_autoptr(xmlDoc) doc = xmlReadMemory(xml, (int)strlen(xml), "snapshot.xml", NULL,
                                          XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING);
    xmlNodePtr root = doc ? xmlDocGetRootElement(doc) : NULL;
    g_autofree char *state = NULL;

    if (!root || !g_str_equal((const char *)root->name, "domainsnapshot")) {
        ckpt_error_set(error, CKPT_REASON_HYPERVISOR_FAILED,
                       "libvirt gives something else than a <domainsnapshot>");
        return FALSE;
    }
    state = content(child(root, "state"));
    *found = (CkptSnapshotXml){
        .parent = content(child(child(root, "parent"), "name")),
        .power = power_of(state),
        .memory = !attribute_is(child(root, "memory"), "snapshot", "no"),
    };
    return TRUE;
}

void
ckpt_snapshot_xml_clear(CkptSnapshotXml *found)
{
    g_clear_pointer(&found->parent, g_free);
}
