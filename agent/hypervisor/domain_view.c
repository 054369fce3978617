#include "agent/hypervisor/domain_view.h"

#include "agent/hypervisor/ask.h"

#include <string.h>

#define SETTLE_S 30
#define POLL_US (200 * 1000)
/* Times a domain that starts or stops in mid-look is looked at again. */
#define ATTEMPTS 5

static void
free_secret(char *text)
{
    if (text)
        explicit_bzero(text, strlen(text));
    free(text);
}

void
ckpt_view_free(CkptView *view)
{
    if (!view)
        return;
    g_clear_pointer(&view->domain, virDomainFree);
    free_secret(view->definition);
    free_secret(view->live);
    g_clear_pointer(&view->definition_xml, ckpt_xml_domain_free);
    g_clear_pointer(&view->live_xml, ckpt_xml_domain_free);
    g_free(view);
}

static gboolean
load_definitions(CkptView *view, GError **error)
{
    view->definition =
        virDomainGetXMLDesc(view->domain, VIR_DOMAIN_XML_INACTIVE | VIR_DOMAIN_XML_SECURE);
    if (!view->definition) {
        ckpt_libvirt_error(error, CKPT_REASON_HYPERVISOR_FAILED, "read the definition");
        return FALSE;
    }
    view->definition_xml = ckpt_xml_domain_parse(view->definition, error);
    if (!view->definition_xml || !view->active)
        return view->definition_xml != NULL;
    view->live = virDomainGetXMLDesc(view->domain, VIR_DOMAIN_XML_SECURE);
    if (!view->live) {
        ckpt_libvirt_error(error, CKPT_REASON_HYPERVISOR_FAILED, "read the live definition");
        return FALSE;
    }
    view->live_xml = ckpt_xml_domain_parse(view->live, error);
    return view->live_xml != NULL;
}

static CkptView *
load_once(CkptConnection *connection, const char *vm_id, GError **error)
{
    g_autoptr(CkptView) view = g_new0(CkptView, 1);

    view->domain = ckpt_connection_lookup(connection, vm_id, error);
    if (!view->domain)
        return NULL;
    if (virDomainGetState(view->domain, &view->state, &view->reason, 0) < 0) {
        ckpt_libvirt_error(error, CKPT_REASON_HYPERVISOR_FAILED, "read the state");
        return NULL;
    }
    view->active = virDomainIsActive(view->domain) == 1;
    return load_definitions(view, error) ? g_steal_pointer(&view) : NULL;
}

gboolean
ckpt_view_is_stale(const CkptView *view)
{
    /* The handle keeps the ID of its lookup; a new one has the present ID, -1 when shut off. */
    g_autoptr(virConnect) conn = NULL;
    g_autoptr(virDomain) now = NULL;
    unsigned char uuid[VIR_UUID_BUFLEN];

    if (virDomainGetUUID(view->domain, uuid) < 0)
        return TRUE;
    conn = virDomainGetConnect(view->domain);
    virConnectRef(conn);
    now = virDomainLookupByUUID(conn, uuid);
    return !now || virDomainGetID(now) != virDomainGetID(view->domain) ||
           (virDomainGetID(now) != (unsigned int)-1) != view->active;
}

CkptView *
ckpt_view_load(CkptConnection *connection, const char *vm_id, GError **error)
{
    g_autoptr(CkptView) view = NULL;

    for (guint i = 0; i < ATTEMPTS; i++) {
        g_clear_pointer(&view, ckpt_view_free);
        view = load_once(connection, vm_id, error);
        if (!view)
            return NULL;
        if (!ckpt_view_is_stale(view))
            return g_steal_pointer(&view);
    }
    ckpt_error_set(error, CKPT_REASON_VM_BUSY, "the VM starts and stops while it is looked at");
    return NULL;
}

const char *
ckpt_view_source(const CkptView *view, const char *target)
{
    CkptXmlDisk *disk = ckpt_xml_domain_find(view->definition_xml, target);

    return disk ? disk->source : NULL;
}

const char *
ckpt_view_live_source(const CkptView *view, const char *target)
{
    CkptXmlDisk *disk = ckpt_xml_domain_find(view->live_xml, target);

    return disk ? disk->source : NULL;
}

static int
block_info(virDomainPtr domain, const char *disk, gpointer answer)
{
    return virDomainGetBlockInfo(domain, disk, answer, 0);
}

/* A call that libvirt lets wait for modifying jobs: they need not be asked for by name, and most of
 * them cannot be. 30 s is libvirt's own, unchangeable limit. */
static gboolean
wait_for_modify_job(CkptConnection *connection, const CkptView *view, GError **error)
{
    for (guint i = 0; i < view->definition_xml->disks->len; i++) {
        const CkptXmlDisk *disk = g_ptr_array_index(view->definition_xml->disks, i);
        virDomainBlockInfo info;

        if (!disk->source)
            continue;
        if (ckpt_ask(connection, view->domain, block_info, disk->target, &info, sizeof info) == 0)
            return TRUE;
        if (ckpt_libvirt_code() == VIR_ERR_OPERATION_TIMEOUT) {
            ckpt_libvirt_error(error, CKPT_REASON_VM_BUSY, "a job that does not end");
            return FALSE;
        }
        /* The answer itself does not matter, nor its failing; only a lost connection does. */
        if (ckpt_libvirt_is_away() || virConnectIsAlive(virDomainGetConnect(view->domain)) != 1) {
            ckpt_libvirt_error(error, CKPT_REASON_HYPERVISOR_UNAVAILABLE, "wait for its jobs");
            return FALSE;
        }
        return TRUE;
    }
    return TRUE;
}

static gboolean
is_same_chain(char **one, char **other)
{
    return one && other ? g_strv_equal((const char *const *)one, (const char *const *)other) : one == other;
}

static gboolean
is_on_same_files(const CkptXmlDomain *before, const CkptXmlDomain *now)
{
    if (!before || !now)
        return before == now;
    for (guint i = 0; i < before->disks->len; i++) {
        const CkptXmlDisk *disk = g_ptr_array_index(before->disks, i);
        const CkptXmlDisk *found = ckpt_xml_domain_find(now, disk->target);

        if (!found || g_strcmp0(found->source, disk->source) != 0 || !is_same_chain(found->chain, disk->chain))
            return FALSE;
    }
    return before->disks->len == now->disks->len;
}

static gboolean
is_same(const CkptView *before, const CkptView *now)
{
    return virDomainGetID(before->domain) == virDomainGetID(now->domain) && before->active == now->active &&
           before->state == now->state && before->reason == now->reason &&
           is_on_same_files(before->definition_xml, now->definition_xml) &&
           is_on_same_files(before->live_xml, now->live_xml);
}

/* QEMU gives its files up when its memory is written, and libvirt may tell of no job any more. */
static gboolean
has_let_go(const CkptView *view)
{
    return view->active && view->state == VIR_DOMAIN_PAUSED &&
           (view->reason == VIR_DOMAIN_PAUSED_SAVE || view->reason == VIR_DOMAIN_PAUSED_MIGRATION ||
            view->reason == VIR_DOMAIN_PAUSED_SNAPSHOT || view->reason == VIR_DOMAIN_PAUSED_DUMP);
}

static int
job_info(virDomainPtr domain, const char *disk, gpointer answer)
{
    return virDomainGetJobInfo(domain, answer);
}

gboolean
ckpt_domain_has_job(CkptConnection *connection, virDomainPtr domain)
{
    virDomainJobInfo info = {0};

    return ckpt_ask(connection, domain, job_info, NULL, &info, sizeof info) == 0 &&
           info.type != VIR_DOMAIN_JOB_NONE;
}

static int
block_stats(virDomainPtr domain, const char *disk, gpointer answer)
{
    return virDomainBlockStats(domain, disk, answer, sizeof(virDomainBlockStatsStruct));
}

/* One that is gone, or is just going, has let go of its files before libvirt knows: a VM of which QEMU was killed
 * is running to libvirt until it has come to that. */
static gboolean
does_qemu_answer(CkptConnection *connection, const CkptView *view)
{
    for (guint i = 0; i < view->live_xml->disks->len; i++) {
        const CkptXmlDisk *disk = g_ptr_array_index(view->live_xml->disks, i);
        virDomainBlockStatsStruct stats;

        if (!disk->source)
            continue;
        if (ckpt_ask(connection, view->domain, block_stats, disk->target, &stats, sizeof stats) == 0)
            return TRUE;
        ckpt_libvirt_take_error(NULL);
        return FALSE;
    }
    return TRUE;
}

/* Nobody is at work on it: one that its owner had paused before it is saved is paused by him, to libvirt, all the
 * while; and only the job says that QEMU may have let go. */
static gboolean
is_settled(CkptConnection *connection, const CkptView *view)
{
    return !has_let_go(view) && wait_for_modify_job(connection, view, NULL) &&
           (!view->active ||
            (!ckpt_domain_has_job(connection, view->domain) && does_qemu_answer(connection, view)));
}

gboolean
ckpt_view_has_changed(CkptConnection *connection, const char *vm_id, const CkptView *view)
{
    g_autoptr(CkptView) now = ckpt_view_load(connection, vm_id, NULL);
    g_autoptr(CkptView) after = NULL;

    if (!now || !is_same(view, now) || !is_settled(connection, now))
        return TRUE;
    after = ckpt_view_load(connection, vm_id, NULL);
    return !after || !is_same(view, after);
}

gboolean
ckpt_saved_look(virDomainPtr domain, gboolean *saved, GError **error)
{
    int found = virDomainHasManagedSaveImage(domain, 0);

    *saved = found == 1;
    if (found >= 0 || ckpt_libvirt_code() == VIR_ERR_NO_SUPPORT)
        return TRUE;
    ckpt_libvirt_error(error, CKPT_REASON_HYPERVISOR_FAILED, "ask whether it was saved (virsh managedsave)");
    return FALSE;
}

gboolean
ckpt_view_refuse_saved(const CkptView *view, GError **error)
{
    gboolean saved = FALSE;

    if (view->active)
        return FALSE;
    if (!ckpt_saved_look(view->domain, &saved, error))
        return TRUE;
    if (!saved)
        return FALSE;
    ckpt_error_set(error, CKPT_REASON_MANAGED_SAVE_PRESENT,
                   "the VM was saved meanwhile (virsh managedsave), and would go on on the disks as they were "
                   "then: start it, or virsh managedsave-remove, then repeat the request");
    return TRUE;
}

gboolean
ckpt_settle(CkptConnection *connection, const char *vm_id, GError **error)
{
    gint64 deadline = g_get_monotonic_time() + SETTLE_S * G_USEC_PER_SEC;
    g_autoptr(CkptView) view = NULL;

    ckpt_libvirt_take_error(NULL); /* what another VM's question failed with says nothing of this one */
    view = ckpt_view_load(connection, vm_id, error);
    if (!view || !wait_for_modify_job(connection, view, error)) {
        g_prefix_error(error, "VM %s: ", vm_id);
        return FALSE;
    }
    while (view->active && ckpt_domain_has_job(connection, view->domain)) {
        if (g_get_monotonic_time() >= deadline) {
            ckpt_error_set(error, CKPT_REASON_VM_BUSY, "VM %s: a job runs on it (virsh domjobinfo)",
                           vm_id);
            ckpt_error_add(error, CKPT_META_VM, vm_id);
            return FALSE;
        }
        g_usleep(POLL_US);
    }
    if (ckpt_libvirt_code() != VIR_ERR_OPERATION_TIMEOUT)
        return TRUE;
    ckpt_libvirt_error(error, CKPT_REASON_VM_BUSY, "VM %s: a job that does not end", vm_id);
    return FALSE;
}

CkptPower
ckpt_power_of(int state)
{
    switch ((virDomainState)state) {
    case VIR_DOMAIN_RUNNING:
    case VIR_DOMAIN_BLOCKED:
    case VIR_DOMAIN_SHUTDOWN:
        return CKPT_POWER_RUNNING;
    case VIR_DOMAIN_PAUSED:
        return CKPT_POWER_PAUSED;
    case VIR_DOMAIN_SHUTOFF:
        return CKPT_POWER_SHUT_OFF;
    case VIR_DOMAIN_CRASHED:
        return CKPT_POWER_CRASHED;
    case VIR_DOMAIN_PMSUSPENDED:
        return CKPT_POWER_SUSPENDED;
    case VIR_DOMAIN_NOSTATE:
#ifdef VIR_ENUM_SENTINELS
    case VIR_DOMAIN_LAST:
#endif
        break;
    }
    return CKPT_POWER_UNKNOWN;
}

static void
add_state_obstacles(CkptVm *vm, const CkptView *view, gboolean saved)
{
    /* Until it runs here libvirt has it as a transient one. */
    if (!vm->persistent && view->state == VIR_DOMAIN_PAUSED &&
        view->reason == VIR_DOMAIN_PAUSED_MIGRATION)
        ckpt_vm_add_obstacle(vm, CKPT_REASON_VM_BUSY, NULL, NULL,
                             "VM %s is being migrated to this host: wait until it runs", vm->name);
    else if (!vm->persistent)
        ckpt_vm_add_obstacle(vm, CKPT_REASON_TRANSIENT_VM, NULL, NULL,
                             "VM %s is transient and vanishes when it stops: make it persistent with "
                             "virsh define",
                             vm->name);
    if (view->state == VIR_DOMAIN_SHUTDOWN)
        ckpt_vm_add_obstacle(vm, CKPT_REASON_VM_BUSY, NULL, NULL,
                             "VM %s is shutting down: wait until it is off", vm->name);
    else if (vm->power != CKPT_POWER_RUNNING && vm->power != CKPT_POWER_PAUSED &&
             vm->power != CKPT_POWER_SHUT_OFF)
        ckpt_vm_add_obstacle(vm, CKPT_REASON_VM_STATE_UNSUPPORTED, NULL, NULL,
                             "VM %s is %s: bring it to running, paused or shut off%s", vm->name,
                             ckpt_power_name(vm->power),
                             vm->power == CKPT_POWER_CRASHED ? ", or restore a checkpoint" : "");
    if (saved)
        ckpt_vm_add_obstacle(vm, CKPT_REASON_MANAGED_SAVE_PRESENT, NULL, NULL,
                             "VM %s has a managed save image and would go on from it, on the disks as "
                             "they were then: start it, or virsh managedsave-remove",
                             vm->name);
}

gboolean
ckpt_view_describe(const CkptView *view, const char *vm_id, CkptVm *vm, GError **error)
{
    gboolean saved = FALSE;
    int autostart = 0;

    vm->id = g_ascii_strdown(vm_id, -1);
    vm->name = g_strdup(virDomainGetName(view->domain));
    vm->power = ckpt_power_of(view->state);
    vm->persistent = virDomainIsPersistent(view->domain) == 1;
    if (vm->persistent && virDomainGetAutostart(view->domain, &autostart) < 0 &&
        ckpt_libvirt_code() != VIR_ERR_NO_SUPPORT) {
        ckpt_libvirt_error(error, CKPT_REASON_HYPERVISOR_FAILED, "read its autostart");
        return FALSE;
    }
    vm->autostart = autostart != 0;
    vm->definition = g_strdup(view->definition);
    vm->live_definition = g_strdup(view->live);
    if (!ckpt_saved_look(view->domain, &saved, error))
        return FALSE;
    add_state_obstacles(vm, view, saved);
    return TRUE;
}
