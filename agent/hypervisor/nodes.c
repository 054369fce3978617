/* What QEMU keeps open though nothing uses it: libvirt opens an overlay as nodes of QEMU's before it
 * switches to it, and after a merge it closes the merged one's; a libvirtd that dies in between never
 * comes back to them. */
#include "agent/hypervisor/ask.h"
#include "agent/hypervisor/image.h"
#include "agent/hypervisor/qemu.h"

#include <json-glib/json-glib.h>
#include <libvirt/libvirt-qemu.h>
#include <string.h>

#define JSON_PREFIX "json:"

/* `arguments` may be NULL. The answer is an object with a member "return" or "error". */
static JsonNode *
ask(virDomainPtr domain, const char *command, JsonObject *arguments, GError **error)
{
    g_autoptr(JsonNode) question = json_node_new(JSON_NODE_OBJECT);
    JsonObject *words = json_object_new();
    g_autofree char *text = NULL;
    char *reply = NULL;
    JsonNode *answer;

    json_object_set_string_member(words, "execute", command);
    if (arguments)
        json_object_set_object_member(words, "arguments", json_object_ref(arguments));
    json_node_take_object(question, words);
    text = json_to_string(question, FALSE);
    if (virDomainQemuMonitorCommand(domain, text, &reply, VIR_DOMAIN_QEMU_MONITOR_COMMAND_DEFAULT) < 0) {
        ckpt_libvirt_error(error, CKPT_REASON_HYPERVISOR_FAILED, "QEMU's %s", command);
        return NULL;
    }
    answer = json_from_string(reply, NULL);
    free(reply);
    if (answer && JSON_NODE_HOLDS_OBJECT(answer))
        return answer;
    g_clear_pointer(&answer, json_node_unref);
    ckpt_error_set(error, CKPT_REASON_HYPERVISOR_FAILED, "QEMU's %s: the answer is not understood",
                   command);
    return NULL;
}

/* A file with options is shown as json:{"driver":"qcow2","file":{…,"filename":"…"}}. (transfer full) */
static char *
plain_name(const char *name)
{
    g_autoptr(JsonNode) node = NULL;
    JsonObject *object;

    if (!g_str_has_prefix(name, JSON_PREFIX))
        return g_strdup(name);
    node = json_from_string(name + strlen(JSON_PREFIX), NULL);
    object = node && JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
    while (object && json_object_has_member(object, "file") &&
           JSON_NODE_HOLDS_OBJECT(json_object_get_member(object, "file")))
        object = json_object_get_object_member(object, "file");
    return object ? g_strdup(json_object_get_string_member_with_default(object, "filename", NULL))
                  : NULL;
}

static gboolean
is_of(JsonObject *node, const char *path)
{
    g_autofree char *file =
        plain_name(json_object_get_string_member_with_default(node, "file", ""));

    return file && ckpt_image_same(file, path);
}

/* The names of all nodes of this file. (transfer full) */
static GPtrArray *
find_nodes(virDomainPtr domain, const char *path, GError **error)
{
    g_autoptr(JsonObject) flat = json_object_new();
    g_autoptr(JsonNode) answer = NULL;
    JsonNode *list;
    GPtrArray *names;

    json_object_set_boolean_member(flat, "flat", TRUE);
    answer = ask(domain, "query-named-block-nodes", flat, error);
    if (!answer)
        return NULL;
    list = json_object_get_member(json_node_get_object(answer), "return");
    if (!list || !JSON_NODE_HOLDS_ARRAY(list)) {
        ckpt_error_set(error, CKPT_REASON_HYPERVISOR_FAILED, "QEMU does not tell its block nodes");
        return NULL;
    }
    names = g_ptr_array_new_with_free_func(g_free);
    for (guint i = 0; i < json_array_get_length(json_node_get_array(list)); i++) {
        JsonNode *element = json_array_get_element(json_node_get_array(list), i);
        JsonObject *node = JSON_NODE_HOLDS_OBJECT(element) ? json_node_get_object(element) : NULL;
        const char *name =
            node ? json_object_get_string_member_with_default(node, "node-name", NULL) : NULL;

        if (name && is_of(node, path))
            g_ptr_array_add(names, g_strdup(name));
    }
    return names;
}

/* 1 = removed, 0 = QEMU refuses: something uses it; -1 = *error. */
static int
delete_node(virDomainPtr domain, const char *name, GError **error)
{
    g_autoptr(JsonObject) arguments = json_object_new();
    g_autoptr(JsonNode) answer = NULL;

    json_object_set_string_member(arguments, "node-name", name);
    answer = ask(domain, "blockdev-del", arguments, error);
    if (!answer)
        return -1;
    return json_object_has_member(json_node_get_object(answer), "return");
}

/* A node is used by the one above it: round after round, until no more of them goes. */
static gboolean
delete_unused(virDomainPtr domain, const char *path, GPtrArray *names, GError **error)
{
    guint before;

    do {
        before = names->len;
        for (guint i = names->len; i > 0; i--) {
            const char *name = g_ptr_array_index(names, i - 1);
            int deleted = delete_node(domain, name, error);

            if (deleted < 0)
                return FALSE;
            if (deleted == 0)
                continue;
            g_message("VM %s: QEMU had %s open as %s, which nothing used: closed",
                      virDomainGetName(domain), path, name);
            g_ptr_array_remove_index(names, i - 1);
        }
    } while (names->len > 0 && names->len < before);
    return TRUE;
}

gboolean
ckpt_nodes_no_job(virDomainPtr domain, const CkptXmlDomain *live, gboolean all, GError **error)
{
    for (guint i = 0; i < live->disks->len; i++) {
        const CkptXmlDisk *disk = g_ptr_array_index(live->disks, i);
        virDomainBlockJobInfo info;
        int found;

        if (!all && !ckpt_xml_disk_is_captured(disk))
            continue;
        found = virDomainGetBlockJobInfo(domain, disk->target, &info, 0);
        if (found == 0 && !disk->mirror)
            continue;
        if (found < 0)
            ckpt_libvirt_error(error, CKPT_REASON_HYPERVISOR_FAILED, "ask for block jobs on disk %s",
                               disk->target);
        else
            ckpt_error_set(error, CKPT_REASON_VM_BUSY,
                           "a block job is under way on disk %s (virsh blockjob)", disk->target);
        ckpt_error_add(error, CKPT_META_DISK, disk->target);
        return FALSE;
    }
    return TRUE;
}

/* QEMU 7.2 dies when it is asked for its block nodes at the end of a block pull: one of the owner's may be
 * under way. */
static gboolean
may_be_asked(virDomainPtr domain, GError **error)
{
    char *live = virDomainGetXMLDesc(domain, 0);
    g_autoptr(CkptXmlDomain) parsed = live ? ckpt_xml_domain_parse(live, error) : NULL;

    if (!live)
        ckpt_libvirt_error(error, CKPT_REASON_HYPERVISOR_FAILED, "read the live definition");
    free(live);
    return parsed && ckpt_nodes_no_job(domain, parsed, TRUE, error);
}

gboolean
ckpt_nodes_release(CkptConnection *connection, virDomainPtr domain, const char *path, GError **error)
{
    g_autoptr(GPtrArray) names = NULL;

    if (virDomainIsActive(domain) == 0)
        return TRUE;
    if (ckpt_ask_qemu(connection, domain, NULL, error) && may_be_asked(domain, error))
        names = find_nodes(domain, path, error);
    if (names && delete_unused(domain, path, names, error))
        return TRUE;
    if (virDomainIsActive(domain) == 0) { /* its QEMU is gone, and with it whatever it had open */
        g_clear_error(error);
        return TRUE;
    }
    ckpt_error_add(error, CKPT_META_FILE, path);
    return FALSE;
}
