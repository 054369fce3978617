/* DEFINE: the persistent definition, rewritten. While the VM runs it is what the next start uses. */
#include "agent/hypervisor/image.h"
#include "agent/hypervisor/qemu.h"

#include <string.h>

/* Where Debian's and Fedora's libvirt keep what VIR_DOMAIN_DEFINE_VALIDATE needs; without it that
 * flag fails for every definition. */
#define SCHEMA "/usr/share/libvirt/schemas/domain.rng"

static void
free_secret(char *text)
{
    if (text)
        explicit_bzero(text, strlen(text));
    g_free(text);
}

static gboolean
define(CkptRun *run, const char *xml, GError **error)
{
    g_autoptr(virConnect) conn = ckpt_connection_get(run->connection, error);
    g_autoptr(virDomain) domain = NULL;

    if (!conn)
        return FALSE;
    domain = virDomainDefineXMLFlags(conn, xml,
                                     g_file_test(SCHEMA, G_FILE_TEST_EXISTS)
                                         ? VIR_DOMAIN_DEFINE_VALIDATE
                                         : 0);
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
define_as(CkptRun *run, virDomainPtr domain, const char *definition, GPtrArray *disks,
          GError **error)
{
    char *xml = ckpt_xml_rewrite(definition, run->plan->vm_id, virDomainGetName(domain), disks,
                                 error);
    gboolean done = xml && define(run, xml, error);

    free_secret(xml);
    return done;
}

gboolean
ckpt_define_disks(CkptRun *run, const CkptView *view, GPtrArray *disks, GError **error)
{
    return define_as(run, view->domain, view->definition, disks, error);
}

gboolean
ckpt_step_define(CkptRun *run, GError **error)
{
    const CkptStep *step = run->step;
    g_autoptr(virDomain) domain =
        ckpt_connection_lookup(run->connection, run->plan->vm_id, error);

    return domain && define_as(run, domain, step->definition, step->disks, error) &&
           set_autostart(domain, step->autostart, error) &&
           ckpt_step_define_check(run, error) == CKPT_OUTCOME_DONE;
}

gboolean
ckpt_step_define_undo(CkptRun *run, GError **error)
{
    const CkptStep *step = run->step;
    g_autoptr(virDomain) domain =
        ckpt_connection_lookup(run->connection, run->plan->vm_id, error);

    /* Under the name that it has now: it may have been renamed since. */
    return domain && define_as(run, domain, step->definition_before, NULL, error) &&
           set_autostart(domain, step->autostart_before, error);
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
    return CKPT_OUTCOME_DONE;
}
