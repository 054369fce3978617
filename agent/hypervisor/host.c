#include "agent/hypervisor/host.h"

#include "agent/hypervisor/domain_view.h"
#include "common/id.h"

/* For UUIDv5 of hosts; a random one. */
#define HOST_NAMESPACE "5d0c2f5e-94a4-4a57-8a0d-0d6a2f4b8f43"

static char *
version_text(unsigned long version)
{
    return g_strdup_printf("%lu.%lu.%lu", version / 1000000, version / 1000 % 1000, version % 1000);
}

/* From the capabilities' <host><uuid>: the first <uuid> of the document. NULL if there is none. */
static char *
find_host_id(const char *capabilities)
{
    g_autoptr(GRegex) regex = g_regex_new("<uuid>([0-9a-fA-F-]{36})</uuid>", 0, 0, NULL);
    g_autoptr(GMatchInfo) match = NULL;
    char *id = NULL;

    if (g_regex_match(regex, capabilities, 0, &match)) {
        g_autofree char *found = g_match_info_fetch(match, 1);

        id = g_ascii_strdown(found, -1);
    }
    return id;
}

/* For a hypervisor that has no UUID (libvirt's test driver): the same for the same host and URI. */
static char *
make_host_id(const char *host_name, const char *uri)
{
    g_autofree char *name = g_strdup_printf("%s %s", host_name, uri);

    return ckpt_id_of_snapshot(HOST_NAMESPACE, name);
}

static void
identify_host(CkptHostInfo *info, virConnectPtr conn)
{
    char *capabilities = virConnectGetCapabilities(conn);
    char *name = capabilities ? virConnectGetHostname(conn) : NULL;

    if (name) {
        info->host_name = g_strdup(name);
        info->host_id = find_host_id(capabilities);
        if (!info->host_id)
            info->host_id = make_host_id(name, info->uri);
    }
    free(capabilities);
    free(name);
}

gboolean
ckpt_host_info(CkptConnection *connection, CkptHostInfo **out, GError **error)
{
    g_autoptr(virConnect) conn = ckpt_connection_get(connection, error);
    g_autoptr(CkptHostInfo) info = g_new0(CkptHostInfo, 1);
    unsigned long version;

    if (!conn)
        return FALSE;
    info->uri = g_strdup(ckpt_connection_uri(connection));
    identify_host(info, conn);
    if (!info->host_name || virConnectGetLibVersion(conn, &version) < 0) {
        ckpt_libvirt_error(error, CKPT_REASON_HYPERVISOR_FAILED, "ask who the host is");
        return FALSE;
    }
    info->libvirt_version = version_text(version);
    if (g_strcmp0(virConnectGetType(conn), "QEMU") == 0 && virConnectGetVersion(conn, &version) == 0)
        info->qemu_version = version_text(version);
    *out = g_steal_pointer(&info);
    return TRUE;
}

/* NULL if it is gone since. */
static CkptVmSummary *
summarise(virDomainPtr domain)
{
    char uuid[VIR_UUID_STRING_BUFLEN];
    CkptVmSummary *summary;
    int state;

    if (virDomainGetState(domain, &state, NULL, 0) < 0 || virDomainGetUUIDString(domain, uuid) < 0)
        return NULL;
    summary = g_new0(CkptVmSummary, 1);
    summary->id = g_ascii_strdown(uuid, -1);
    summary->name = g_strdup(virDomainGetName(domain));
    summary->power = ckpt_power_of(state);
    return summary;
}

GPtrArray *
ckpt_host_list_vms(CkptConnection *connection, GError **error)
{
    g_autoptr(virConnect) conn = ckpt_connection_get(connection, error);
    g_autoptr(CkptDomainList) domains = NULL;
    GPtrArray *vms;

    if (!conn)
        return NULL;
    if (virConnectListAllDomains(conn, &domains, 0) < 0) {
        ckpt_libvirt_error(error, CKPT_REASON_HYPERVISOR_FAILED, "list the VMs of the host");
        return NULL;
    }
    vms = g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_vm_summary_free);
    for (virDomainPtr *domain = domains; *domain; domain++) {
        CkptVmSummary *summary = summarise(*domain);

        if (summary)
            g_ptr_array_add(vms, summary);
    }
    return vms;
}
