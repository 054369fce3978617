/* Memory images as files, and VMs that go on from one. */
#include "agent/hypervisor/memory.h"

#include "common/fault.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* libvirt's qemu_saveimage.h, since 0.7.2: what is written at first, and what in the end. */
#define MAGIC_PART "LibvirtQemudPart"
#define MAGIC_WHOLE "LibvirtQemudSave"
#define MAGIC_LENGTH 16
#define XML_MAX (1u << 20)
#define JOB_END_S 30
#define POLL_US (50 * 1000)

typedef struct {
    char magic[MAGIC_LENGTH];
    guint32 version;
    guint32 xml_length;
    guint32 others[17];
} Header;

static gboolean
read_at(int fd, gpointer to, gsize length, off_t at)
{
    gsize done = 0;

    while (done < length) {
        gssize got = pread(fd, (char *)to + done, length - done, at + (off_t)done);

        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return FALSE;
        done += (gsize)got;
    }
    return TRUE;
}

/* The XML holds passwords. */
static gboolean
names_vm(int fd, const Header *header, const char *vm_id)
{
    g_autofree char *uuid = g_strdup_printf("<uuid>%s</uuid>", vm_id);
    gsize length = MIN(header->xml_length, XML_MAX);
    char *xml = g_malloc0(length + 1);
    gboolean named = read_at(fd, xml, length, sizeof(*header)) && strstr(xml, uuid);

    explicit_bzero(xml, length);
    g_free(xml);
    return named;
}

gboolean
ckpt_memory_is_image(const char *path, const char *vm_id, gboolean *whole)
{
    Header header;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    gboolean is_whole, is_image;

    if (whole)
        *whole = FALSE;
    if (fd < 0)
        return FALSE;
    is_image = read_at(fd, &header, sizeof(header), 0);
    is_whole = is_image && memcmp(header.magic, MAGIC_WHOLE, MAGIC_LENGTH) == 0;
    is_image = is_image && (is_whole || memcmp(header.magic, MAGIC_PART, MAGIC_LENGTH) == 0) &&
               names_vm(fd, &header, vm_id);
    close(fd);
    if (whole)
        *whole = is_image && is_whole;
    return is_image;
}

/* ---- Back ---- */

gboolean
ckpt_memory_remove(CkptRun *run, GError **error)
{
    const CkptStep *step = run->step;
    struct stat found;

    if (step->asked != CKPT_CONSISTENCY_MEMORY || !step->file || step->untried)
        return TRUE;
    if (lstat(step->file, &found) < 0)
        return errno == ENOENT ? ckpt_file_remove(step->file, error)
                               : ckpt_file_error(error, "look at", step->file);
    /* An empty one is as libvirt makes it. */
    if (found.st_size > 0 && !ckpt_memory_is_image(step->file, run->plan->vm_id, NULL)) {
        g_warning("VM %s: %s is no memory image of the VM's: it is left", run->plan->vm_id, step->file);
        return TRUE;
    }
    return ckpt_file_remove(step->file, error);
}

static gboolean
is_capturing(virDomainPtr domain)
{
    virTypedParameterPtr params = NULL;
    int count = 0, type = VIR_DOMAIN_JOB_NONE, operation = VIR_DOMAIN_JOB_OPERATION_UNKNOWN;

    if (virDomainGetJobStats(domain, &type, &params, &count, 0) < 0) {
        virResetLastError();
        return FALSE;
    }
    (void)virTypedParamsGetInt(params, count, VIR_DOMAIN_JOB_OPERATION, &operation);
    virTypedParamsFree(params, count);
    return type != VIR_DOMAIN_JOB_NONE && operation == VIR_DOMAIN_JOB_OPERATION_SNAPSHOT;
}

/* libvirt goes on for a caller that is gone, with nobody to raise the limit or to watch the space. */
void
ckpt_memory_interrupt(CkptRun *run)
{
    gint64 deadline = g_get_monotonic_time() + JOB_END_S * G_USEC_PER_SEC;
    g_autoptr(virDomain) domain = NULL;

    if (run->step->asked != CKPT_CONSISTENCY_MEMORY || !run->step->file ||
        !g_file_test(run->step->file, G_FILE_TEST_EXISTS))
        return;
    domain = ckpt_connection_lookup(run->connection, run->plan->vm_id, NULL);
    while (domain && is_capturing(domain) && g_get_monotonic_time() < deadline) {
        if (virDomainAbortJob(domain) < 0)
            virResetLastError();
        g_usleep(POLL_US);
    }
}

/* Whoever paused the VM by hand wants it so. A guest that could not write since the image took the last room has
 * that back by now; where it has not, it stands again at once. */
static gboolean
stands_for_capture(const CkptView *view)
{
    return view->active && view->state == VIR_DOMAIN_PAUSED &&
           (view->reason == VIR_DOMAIN_PAUSED_SNAPSHOT || view->reason == VIR_DOMAIN_PAUSED_MIGRATION ||
            view->reason == VIR_DOMAIN_PAUSED_SAVE || view->reason == VIR_DOMAIN_PAUSED_IOERROR ||
            view->reason == VIR_DOMAIN_PAUSED_UNKNOWN);
}

/* The files that the plan has sealed: sealed again, or as they were before. */
static void
set_seals(CkptRun *run, gboolean sealed)
{
    for (guint i = 0; i < run->plan->steps->len; i++) {
        const CkptStep *seal = g_ptr_array_index(run->plan->steps, i);
        g_autoptr(GError) error = NULL;

        if (seal->kind == CKPT_STEP_SEAL &&
            !ckpt_file_chmod(seal->file, sealed ? CKPT_SEALED_MODE : seal->mode, &error))
            g_warning("VM %s: %s", run->plan->vm_id, error->message);
    }
}

gboolean
ckpt_memory_seal(CkptRun *run, GError **error)
{
    for (guint i = 0; i < run->plan->steps->len; i++) {
        const CkptStep *seal = g_ptr_array_index(run->plan->steps, i);

        if (seal->kind == CKPT_STEP_SEAL && !ckpt_file_chmod(seal->file, CKPT_SEALED_MODE, error))
            return FALSE;
    }
    return TRUE;
}

/* QEMU gave its images up when the memory was written, and opens them anew to go on: for writing, those that are
 * still its tops. One that was switched to its overlays has gone on before it comes to that. */
static gboolean
resume_unsealed(CkptRun *run, virDomainPtr domain)
{
    set_seals(run, FALSE);
    if (virDomainResume(domain) == 0)
        return TRUE;
    set_seals(run, TRUE);
    return FALSE;
}

static void
resume(CkptRun *run, virDomainPtr domain)
{
    if (virDomainResume(domain) == 0 || resume_unsealed(run, domain)) {
        g_message("VM %s stood still after a capture of its memory was interrupted: it goes on",
                  run->plan->vm_id);
        return;
    }
    g_warning("VM %s stands still after a capture of its memory was interrupted, and cannot be resumed: %s",
              run->plan->vm_id, virGetLastErrorMessage());
    virResetLastError();
}

void
ckpt_memory_recover(CkptRun *run)
{
    const CkptStep *step = run->step;
    g_autoptr(CkptView) view = NULL;

    if (step->asked != CKPT_CONSISTENCY_MEMORY || step->reached || step->untried)
        return;
    view = ckpt_view_load(run->connection, run->plan->vm_id, NULL);
    if (!view || !view->active)
        return;
    if (step->power == CKPT_POWER_RUNNING && stands_for_capture(view))
        resume(run, view->domain);
    if (step->downtime_ms && virDomainMigrateSetMaxDowntime(view->domain, step->downtime_ms, 0) < 0)
        virResetLastError();
}

/* libvirt switches the disks when the image is complete. */
void
ckpt_memory_note_reached(CkptRun *run)
{
    CkptStep *step = run->step;
    gboolean whole = FALSE;

    if (step->asked != CKPT_CONSISTENCY_MEMORY || step->reached)
        return;
    set_seals(run, TRUE); /* the recovery may have given the guest its files back to go on with */
    if (step->file)
        (void)ckpt_memory_is_image(step->file, run->plan->vm_id, &whole);
    if (!whole)
        return;
    step->reached = CKPT_CONSISTENCY_MEMORY;
    step->freeze_us = -1;
    step->pause_us = -1;
    ckpt_set_str(&step->note, "the snapshot was interrupted, so that it is not known how long the guest stood "
                              "still");
}

/* ---- Going on from one ---- */

static void
free_secret(char *text)
{
    if (text)
        explicit_bzero(text, strlen(text));
    free(text);
}

gboolean
ckpt_memory_load(CkptRun *run, virDomainPtr domain, GError **error)
{
    const CkptStep *step = run->step;
    virConnectPtr conn = virDomainGetConnect(domain);
    char *saved = virDomainSaveImageGetXMLDesc(conn, step->file, VIR_DOMAIN_SAVE_IMAGE_XML_SECURE);
    char *xml;
    int restored;

    if (!saved) {
        ckpt_libvirt_error(error, CKPT_REASON_HYPERVISOR_FAILED, "read the memory image %s", step->file);
        return FALSE;
    }
    xml = ckpt_xml_rewrite(saved, run->plan->vm_id, virDomainGetName(domain), step->disks, step->base,
                           error);
    free_secret(saved);
    if (!xml)
        return FALSE;
    ckpt_fault_point_named("loading");
    restored = virDomainRestoreFlags(conn, step->file, xml,
                                     step->power == CKPT_POWER_PAUSED ? VIR_DOMAIN_SAVE_PAUSED
                                                                      : VIR_DOMAIN_SAVE_RUNNING);
    free_secret(xml);
    if (restored < 0)
        ckpt_libvirt_error(error, CKPT_REASON_HYPERVISOR_FAILED, "load the memory image %s", step->file);
    return restored == 0;
}
