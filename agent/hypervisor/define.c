/* DEFINE: the persistent definition, rewritten. While the VM runs it is what the next start uses. */
#include "agent/hypervisor/image.h"
#include "agent/hypervisor/qemu.h"
#include "common/fault.h"

#include <string.h>

/* Where Debian's and Fedora's libvirt keep what VIR_DOMAIN_DEFINE_VALIDATE needs; without it that
 * flag fails for every definition. */
#define SCHEMA "/usr/share/libvirt/schemas/domain.rng"
/* No definition has metadata of it. */
#define NOBODYS_NAMESPACE "urn:vmcheckpoint:none"

static void
free_secret(char *text)
{
    if (text)
        explicit_bzero(text, strlen(text));
    g_free(text);
}

static gboolean
define(CkptRun *run, const char *xml, unsigned int flags, GError **error)
{
    g_autoptr(virConnect) conn = ckpt_connection_get(run->connection, error);
    g_autoptr(virDomain) domain = NULL;

    if (!conn)
        return FALSE;
    domain = virDomainDefineXMLFlags(conn, xml, flags);
    if (!domain)
        ckpt_libvirt_error(error, CKPT_REASON_VALIDATION_FAILED, "define VM %s", run->plan->vm_id);
    return domain != NULL;
}

static gboolean
set_autostart(virDomainPtr domain, gboolean wanted, GError **error)
{
    int present = 0;

    if (virDomainGetAutostart(domain, &present) == 0 && (present != 0) == wanted)
        return TRUE;
    if (virDomainSetAutostart(domain, wanted) == 0)
        return TRUE;
    ckpt_libvirt_error(error, CKPT_REASON_HYPERVISOR_FAILED, "set its autostart");
    return FALSE;
}

/* libvirt refuses to define a UUID under another name, and a checkpoint keeps none. */
static gboolean
define_as(CkptRun *run, virDomainPtr domain, const char *definition, GPtrArray *disks, unsigned int flags,
          GError **error)
{
    char *xml = ckpt_xml_rewrite(definition, run->plan->vm_id, virDomainGetName(domain), disks,
                                 run->step->base, error);
    gboolean done = xml && define(run, xml, flags, error);

    free_secret(xml);
    return done;
}

/* ---- Disks alone ----
 * What the owner defines at the same instant must not be lost: only the disk's own element is replaced, in
 * whatever definition is in force when libvirt does it. What stays is an edit of that same element between
 * our reading it and that, one call later. */

/* The disk that is to be put on the file: that which lies on `from`, the file itself or, upwards only (hazards
 * A5, A26), one below it. */
static const CkptXmlDisk *
find_disk(const CkptXmlDomain *domain, const CkptDiskFile *disk, const char *from)
{
    const CkptXmlDisk *found = from ? ckpt_chain_find_top(domain, disk->target, from) : NULL;
    g_autoptr(GHashTable) layers = NULL;
    g_autoptr(GPtrArray) chain = NULL;

    if (!found)
        found = ckpt_chain_find_top(domain, disk->target, disk->file);
    if (found)
        return found;
    layers = ckpt_chain_files_new();
    chain = ckpt_chain_walk(disk->file, disk->format, layers, NULL, NULL);
    for (guint i = 1; chain && i < chain->len && !found; i++)
        found = ckpt_chain_find_top(domain, disk->target,
                                    ((const CkptLayer *)g_ptr_array_index(chain, i))->path);
    return found;
}

static gboolean
is_on(const CkptView *view, const CkptDiskFile *disk)
{
    const CkptXmlDisk *found = ckpt_xml_domain_find(view->definition_xml, disk->target);

    return found && found->source && ckpt_image_same(found->source, disk->file) &&
           ckpt_format_from_name(found->format) == disk->format;
}

static gboolean
not_there(const CkptDiskFile *disk, const char *what, GError **error)
{
    ckpt_error_set(error, CKPT_REASON_CHAIN_MISMATCH, "disk %s: the definition %s %s", disk->target, what,
                   disk->file);
    ckpt_error_add(error, CKPT_META_DISK, disk->target);
    ckpt_error_add(error, CKPT_META_FILE, disk->file);
    return FALSE;
}

gboolean
ckpt_define_disk(CkptRun *run, const CkptDiskFile *disk, const char *from, GError **error)
{
    g_autoptr(CkptView) view = ckpt_view_load(run->connection, run->plan->vm_id, error);
    const CkptXmlDisk *found = view ? find_disk(view->definition_xml, disk, from) : NULL;
    CkptDiskFile present = *disk;
    g_autoptr(CkptView) after = NULL;
    char *xml;
    int updated;

    if (!view || !found)
        return view && not_there(disk, "has no disk any more that could be put on", error);
    present.target = found->target;
    xml = ckpt_xml_disk(view->definition, &present, error);
    if (!xml)
        return FALSE;
    ckpt_fault_point_named("defining");
    updated = virDomainUpdateDeviceFlags(view->domain, xml, VIR_DOMAIN_AFFECT_CONFIG);
    free_secret(xml);
    if (updated < 0) {
        ckpt_libvirt_error(error, CKPT_REASON_HYPERVISOR_FAILED, "put disk %s of the definition on %s",
                           present.target, disk->file);
        return FALSE;
    }
    after = ckpt_view_load(run->connection, run->plan->vm_id, error);
    return after && (is_on(after, &present) ||
                     not_there(&present, "was changed at the same time, and does not name", error));
}

gboolean
ckpt_define_disks(CkptRun *run, GPtrArray *disks, GError **error)
{
    for (guint i = 0; i < disks->len; i++)
        if (!ckpt_define_disk(run, g_ptr_array_index(disks, i), NULL, error))
            return FALSE;
    return TRUE;
}

static void
not_saved(const CkptRun *run, GError **error)
{
    if (ckpt_libvirt_code() == VIR_ERR_OPERATION_TIMEOUT)
        ckpt_libvirt_error(error, CKPT_REASON_VM_BUSY,
                           "another job on VM %s keeps libvirt from saving its definition (virsh domjobinfo)",
                           run->plan->vm_id);
    else
        ckpt_libvirt_error(error, CKPT_REASON_HYPERVISOR_FAILED,
                           "libvirt cannot save the definition of VM %s (is its configuration folder full, or "
                           "read-only?)",
                           run->plan->vm_id);
}

const char *
ckpt_define_remedy(const GError *why)
{
    return ckpt_error_reason(why) == CKPT_REASON_VM_BUSY ? "wait until the job that is in the way has ended"
                                                         : "make room";
}

/* To take out what is not there changes nothing, nor anything that somebody else may just be changing. */
gboolean
ckpt_define_flush(CkptRun *run, GError **error)
{
    g_autoptr(virDomain) domain = ckpt_connection_lookup(run->connection, run->plan->vm_id, error);

    if (!domain || virDomainSetMetadata(domain, VIR_DOMAIN_METADATA_ELEMENT, NULL, NULL, NOBODYS_NAMESPACE,
                                        VIR_DOMAIN_AFFECT_CONFIG) == 0)
        return domain != NULL;
    not_saved(run, error);
    return FALSE;
}

/* The merge's disk in the definition. What its owner has put under that target since is none. */
static const CkptXmlDisk *
find_defined(const CkptXmlDomain *domain, const CkptStep *merge)
{
    const CkptXmlDisk *found = ckpt_chain_find_top(domain, merge->target, merge->file);

    return found ? found : ckpt_chain_find_top(domain, merge->target, merge->base);
}

/* One disk is replaced by what it is, for the sake of the saving. */
gboolean
ckpt_define_save(CkptRun *run, GError **error)
{
    g_autoptr(CkptView) view = ckpt_view_load(run->connection, run->plan->vm_id, error);
    const CkptXmlDisk *disk = view ? find_defined(view->definition_xml, run->step) : NULL;
    CkptDiskFile present = {0};
    char *xml;
    int updated;

    if (!disk)
        return view != NULL; /* the definition has nothing of this merge to save */
    present.target = disk->target;
    xml = ckpt_xml_disk(view->definition, &present, error);
    if (!xml)
        return FALSE;
    updated = virDomainUpdateDeviceFlags(view->domain, xml, VIR_DOMAIN_AFFECT_CONFIG);
    free_secret(xml);
    if (updated < 0)
        not_saved(run, error);
    return updated == 0;
}

/* ---- The step ---- */

static gboolean
will_start(const CkptPlan *plan)
{
    for (guint i = 0; i < plan->steps->len; i++)
        if (((CkptStep *)g_ptr_array_index(plan->steps, i))->kind == CKPT_STEP_START)
            return TRUE;
    return FALSE;
}

/* Found here, the VM still runs; found at its start, it would have been stopped for nothing. */
static gboolean
host_has_devices(CkptRun *run, GError **error)
{
    g_autoptr(CkptXmlDomain) domain = NULL;

    if (!will_start(run->plan))
        return TRUE;
    domain = ckpt_xml_domain_parse(run->step->definition, error);
    for (guint i = 0; domain && i < domain->needs->len; i++) {
        const char *path = g_ptr_array_index(domain->needs, i);

        if (g_file_test(path, G_FILE_TEST_EXISTS))
            continue;
        ckpt_error_set(error, CKPT_REASON_VALIDATION_FAILED,
                       "the definition has a device that needs %s, which this host does not have: restore "
                       "with the VM to be shut off, and change its definition then",
                       path);
        ckpt_error_add(error, CKPT_META_FILE, path);
        return FALSE;
    }
    return domain != NULL;
}

gboolean
ckpt_step_define(CkptRun *run, GError **error)
{
    const CkptStep *step = run->step;
    unsigned int flags = g_file_test(SCHEMA, G_FILE_TEST_EXISTS) ? VIR_DOMAIN_DEFINE_VALIDATE : 0;
    g_autoptr(virDomain) domain = NULL;

    if (!step->definition)
        return ckpt_define_disks(run, step->disks, error);
    if (!host_has_devices(run, error))
        return FALSE;
    domain = ckpt_connection_lookup(run->connection, run->plan->vm_id, error);
    return domain && define_as(run, domain, step->definition, step->disks, flags, error) &&
           set_autostart(domain, step->autostart, error) &&
           ckpt_step_define_check(run, error) == CKPT_OUTCOME_DONE;
}

gboolean
ckpt_step_define_undo(CkptRun *run, GError **error)
{
    const CkptStep *step = run->step;
    g_autoptr(virDomain) domain =
        ckpt_connection_lookup(run->connection, run->plan->vm_id, error);

    /* Under the name that it has now: it may have been renamed since. And whatever it is, libvirt had it: its
     * schema knows less than its parser. */
    return domain && define_as(run, domain, step->definition_before, NULL, 0, error) &&
           set_autostart(domain, step->autostart_before, error);
}

/* Set after the definition, by a call of its own. What cannot be asked is not held against it. */
static gboolean
has_autostart(const CkptStep *step, const CkptView *view, GError **error)
{
    int present = 0;

    if (!step->definition || virDomainGetAutostart(view->domain, &present) < 0 ||
        (present != 0) == step->autostart)
        return TRUE;
    ckpt_error_set(error, CKPT_REASON_HYPERVISOR_FAILED, "the VM is %s to start with the host",
                   present ? "still set" : "not set");
    return FALSE;
}

CkptOutcome
ckpt_step_define_check(CkptRun *run, GError **error)
{
    g_autoptr(CkptView) view = ckpt_view_load(run->connection, run->plan->vm_id, error);
    GPtrArray *disks = run->step->disks;

    if (!view)
        return CKPT_OUTCOME_UNCLEAR;
    for (guint i = 0; disks && i < disks->len; i++) {
        const CkptDiskFile *disk = g_ptr_array_index(disks, i);
        const CkptXmlDisk *found =
            ckpt_chain_find_top(view->definition_xml, disk->target, disk->file);

        const char *source = ckpt_view_source(view, disk->target);

        if (!found || ckpt_format_from_name(found->format) != disk->format) {
            ckpt_error_set(error, CKPT_REASON_CHAIN_MISMATCH,
                           "the definition has disk %s on %s, not on %s", disk->target,
                           source ? source : "nothing", disk->file);
            return CKPT_OUTCOME_NOT_DONE;
        }
    }
    return has_autostart(run->step, view, error) ? CKPT_OUTCOME_DONE : CKPT_OUTCOME_NOT_DONE;
}
