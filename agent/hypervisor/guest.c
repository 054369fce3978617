/* What a guest is up to, for the doctor: whether it stands still, or is frozen, and by whose doing. */
#include "agent/hypervisor/ask.h"
#include "agent/hypervisor/guard.h"
#include "agent/hypervisor/qemu.h"

#include <libvirt/libvirt-qemu.h>
#include <string.h>

/* Whoever diagnoses waits for all VMs together, and one whose agent hangs is not frozen for that. */
#define ASK_SECONDS 5

/* ---- Paused ---- */

/* The file whose mark says that we paused the guest, among all of its disks' chains; NULL if none. */
static char *
find_mark(const CkptView *view, const CkptQemuOptions *options)
{
    for (guint i = 0; view->live_xml && i < view->live_xml->disks->len; i++) {
        const CkptXmlDisk *disk = g_ptr_array_index(view->live_xml->disks, i);

        for (char **file = disk->chain; file && *file; file++) {
            g_autofree char *mark = ckpt_block_beside(options, *file, CKPT_PAUSED_ENDING);

            if (g_file_test(mark, G_FILE_TEST_EXISTS))
                return g_strdup(*file);
        }
    }
    return NULL;
}

static const char *
disk_error_word(int error)
{
    return error == VIR_DOMAIN_DISK_ERROR_NO_SPACE ? "no space" : "I/O error";
}

typedef struct {
    int count;
    struct {
        char disk[32];
        int error;
    } of[64];
} DiskErrors;

static int
disk_errors(virDomainPtr domain, const char *disk, gpointer answer)
{
    DiskErrors *found = answer;
    virDomainDiskError errors[G_N_ELEMENTS(found->of)];
    int n = virDomainGetDiskErrors(domain, errors, G_N_ELEMENTS(errors), 0);

    for (found->count = 0; found->count < n; found->count++) {
        g_strlcpy(found->of[found->count].disk, errors[found->count].disk, sizeof found->of[0].disk);
        found->of[found->count].error = errors[found->count].error;
        free(errors[found->count].disk);
    }
    return n;
}

/* By the disk: QEMU tells which could not write, and why. */
static CkptHalt
ask_disk_errors(CkptConnection *connection, virDomainPtr domain, char **detail)
{
    DiskErrors found = {0};
    int n = ckpt_ask(connection, domain, disk_errors, NULL, &found, sizeof found);
    g_autoptr(GString) text = g_string_new(NULL);
    CkptHalt halt = CKPT_HALT_IO_ERROR;

    for (int i = 0; i < n; i++) {
        g_string_append_printf(text, "%sdisk %s (%s)", i > 0 ? ", " : "", found.of[i].disk,
                               disk_error_word(found.of[i].error));
        if (found.of[i].error == VIR_DOMAIN_DISK_ERROR_NO_SPACE)
            halt = CKPT_HALT_NO_SPACE;
    }
    if (text->len > 0)
        *detail = g_strdup(text->str);
    return halt;
}

static CkptHalt
halt_of(CkptConnection *connection, const CkptView *view, const CkptQemuOptions *options, char **detail)
{
    g_autofree char *mark = NULL;

    if (view->state == VIR_DOMAIN_CRASHED)
        return CKPT_HALT_CRASHED;
    /* A job that is under way pauses its guest, and lets it go on. */
    if (view->state != VIR_DOMAIN_PAUSED || ckpt_domain_has_job(connection, view->domain))
        return CKPT_HALT_NONE;
    mark = find_mark(view, options);
    if (mark)
        return CKPT_HALT_OURS;
    switch (view->reason) {
    case VIR_DOMAIN_PAUSED_IOERROR:
        return ask_disk_errors(connection, view->domain, detail);
    case VIR_DOMAIN_PAUSED_SAVE:
    case VIR_DOMAIN_PAUSED_DUMP:
    case VIR_DOMAIN_PAUSED_SNAPSHOT:
    case VIR_DOMAIN_PAUSED_MIGRATION:
        return CKPT_HALT_INTERRUPTED;
    case VIR_DOMAIN_PAUSED_WATCHDOG:
    case VIR_DOMAIN_PAUSED_CRASHED:
        return CKPT_HALT_CRASHED;
    default: /* libvirt's numbers, of any release; the owner's own among them */
        return CKPT_HALT_NONE;
    }
}

/* ---- Frozen ---- */

/* A guest's words are not trusted: nothing but this one is looked for. libvirt notes such a VM as tainted
 * (custom-ga-command): there is no other way to ask. */
static void
ask_frozen(virDomainPtr domain, guint seconds, CkptGuest *guest)
{
    char *answer = virDomainQemuAgentCommand(domain, "{\"execute\":\"guest-fsfreeze-status\"}",
                                             (int)seconds, 0);

    if (!answer)
        return;
    guest->frozen = strstr(answer, "\"frozen\"") != NULL;
    guest->asked = guest->frozen || strstr(answer, "\"thawed\"") != NULL;
    free(answer);
}

gboolean
ckpt_guest_look(CkptConnection *connection, const CkptQemuOptions *options, const char *vm_id,
                CkptGuest *guest, GError **error)
{
    g_autoptr(CkptView) view = ckpt_view_load(connection, vm_id, error);

    if (!view)
        return FALSE;
    if (!view->active)
        return TRUE;
    guest->halt = halt_of(connection, view, options, &guest->detail);
    guest->frozen_by_us = ckpt_guard_is_due(options->guard_folder, vm_id);
    if (!ckpt_freeze_obstacle(view))
        ask_frozen(view->domain, MIN(options->guest_agent_seconds, ASK_SECONDS), guest);
    return TRUE;
}

/* ---- Release ---- */

static gboolean
thaw(const CkptView *view, const CkptQemuOptions *options, GError **error)
{
    (void)virDomainAgentSetResponseTimeout(view->domain, (int)options->guest_agent_seconds, 0);
    if (virDomainFSThaw(view->domain, NULL, 0, 0) >= 0)
        return TRUE;
    ckpt_libvirt_error(error, CKPT_REASON_QUIESCE_FAILED, "thaw");
    return FALSE;
}

gboolean
ckpt_guest_release(CkptConnection *connection, const CkptQemuOptions *options, const char *vm_id,
                   GError **error)
{
    g_autoptr(CkptView) view = ckpt_view_load(connection, vm_id, error);
    g_autoptr(CkptPlan) plan = ckpt_plan_new(CKPT_KIND_REPAIR);
    CkptRun run = {.connection = connection, .plan = plan, .options = options};
    g_autofree char *marked = NULL;

    if (!view)
        return FALSE;
    if (!view->active)
        return TRUE;
    ckpt_set_str(&plan->vm_id, vm_id);
    marked = find_mark(view, options);
    if (marked)
        ckpt_merge_let_go(&run, marked);
    if (!ckpt_guard_is_due(options->guard_folder, vm_id))
        return TRUE;
    /* One that was killed is followed by another, which removes its mark. */
    ckpt_guard_take_up(options->guard_program, options->uri, options->guard_folder);
    return thaw(view, options, error);
}
