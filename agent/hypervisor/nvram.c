/* UEFI variables: where the VM keeps them, and their copies. QEMU writes each change to the file at once,
 * so that a copy in whose midst nothing was changed is what a power cut would leave. */
#include "agent/hypervisor/image.h"
#include "agent/hypervisor/qemu.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NEW ".vmckpt-new"
/* How often a copy is begun anew because the guest has written meanwhile. */
#define ATTEMPTS 20
#define BUFFER (64 * 1024)

/* ---- Where they are ---- */

/* What libvirt calls the file where nothing else is said; NULL where its folders are not known. Its inactive
 * definitions do not tell the name where it chooses the firmware, up to 9.x (hazard A32). */
static char *
by_convention(const CkptView *view)
{
    g_autofree char *uri = virConnectGetURI(virDomainGetConnect(view->domain));
    g_autofree char *file = g_strdup_printf("%s_VARS.fd", virDomainGetName(view->domain));
    const char *path = uri ? strstr(uri, ":///") : NULL;

    if (path && g_str_has_prefix(path, ":///system"))
        return g_build_filename("/var/lib/libvirt/qemu/nvram", file, NULL);
    if (path && g_str_has_prefix(path, ":///session"))
        return g_build_filename(g_get_user_config_dir(), "libvirt/qemu/nvram", file, NULL);
    return NULL;
}

static void
unsupported(CkptVm *vm, const char *file, const char *why)
{
    ckpt_vm_add_obstacle(vm, CKPT_REASON_NVRAM_UNSUPPORTED, NULL, file,
                         "VM %s boots by UEFI, and its variables (NVRAM) cannot be captured: %s", vm->name,
                         why);
}

/* The one that the running VM has, and that its next start will have: a difference is no state that a
 * restore could bring back. */
static gboolean
is_one(CkptVm *vm, const CkptView *view)
{
    const char *defined = view->definition_xml->nvram_file;
    const char *live = view->live_xml ? view->live_xml->nvram_file : NULL;
    g_autofree char *why = NULL;

    if (!defined || !live || ckpt_image_same(defined, live))
        return TRUE;
    why = g_strdup_printf("it runs on %s, but its definition names %s: shut it down and start it", live,
                          defined);
    unsupported(vm, live, why);
    return FALSE;
}

static void
inspect_file(CkptVm *vm, gboolean told, gboolean active)
{
    g_autoptr(GError) fault = NULL;
    g_autofree char *why = NULL;
    CkptLayer *layer = ckpt_layer_look(vm->nvram, CKPT_FORMAT_RAW, NULL, &fault);
    gboolean exists = layer->exists;

    ckpt_vm_add_file(vm, layer);
    if (fault && exists) {
        unsupported(vm, vm->nvram, fault->message);
    } else if (!exists && !told) {
        why = g_strdup_printf("the definition does not say in which file they are, and there is no %s: start "
                              "the VM once, or name the file in <nvram>", vm->nvram);
        unsupported(vm, vm->nvram, why);
    } else if (!exists && active) {
        why = g_strdup_printf("the VM runs on %s, which is gone", vm->nvram);
        unsupported(vm, vm->nvram, why);
    } else if (!exists) {
        g_ptr_array_add(vm->not_captured,
                        g_strdup_printf("UEFI variables: the VM was never started, %s is not there yet",
                                        vm->nvram));
    }
}

void
ckpt_inspect_nvram(CkptVm *vm, const CkptView *view)
{
    const CkptXmlDomain *present = view->live_xml ? view->live_xml : view->definition_xml;
    const char *told = present->nvram_file ? present->nvram_file : view->definition_xml->nvram_file;

    if (!present->nvram)
        return;
    if (present->nvram_fault) {
        unsupported(vm, NULL, present->nvram_fault);
        return;
    }
    vm->nvram = told ? g_strdup(told) : by_convention(view);
    if (!vm->nvram)
        unsupported(vm, NULL, "it is not known in which file they are: name it in <nvram>");
    else if (present->nvram_qcow2 && view->active)
        unsupported(vm, vm->nvram, "the file is a qcow2 image, which only QEMU can read while the VM runs: "
                                   "shut it down");
    else if (is_one(vm, view))
        inspect_file(vm, told != NULL, view->active);
}

/* ---- Contents ---- */

static int
open_file(const char *path, GError **error)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);

    if (fd < 0)
        ckpt_file_error(error, "open", path);
    return fd;
}

/* Reads to the end or to the full buffer. -1: failed. */
static gssize
read_part(int fd, char *buffer)
{
    gsize got = 0;

    while (got < BUFFER) {
        gssize part = read(fd, buffer + got, BUFFER - got);

        if (part < 0 && errno == EINTR)
            continue;
        if (part < 0)
            return -1;
        if (part == 0)
            break;
        got += (gsize)part;
    }
    return (gssize)got;
}

static gboolean
is_zero(const char *buffer, gsize length)
{
    return length == 0 || (buffer[0] == 0 && memcmp(buffer, buffer + 1, length - 1) == 0);
}

/* Those of ARM are 64 MiB, nearly all of it zeros: holes stay holes. */
static gboolean
copy_all(int from, int to)
{
    g_autofree char *buffer = g_malloc(BUFFER);
    off_t offset = 0;
    gssize got;

    if (lseek(from, 0, SEEK_SET) < 0 || ftruncate(to, 0) < 0)
        return FALSE;
    while ((got = read_part(from, buffer)) > 0) {
        for (gssize done = 0; !is_zero(buffer, (gsize)got) && done < got;) {
            gssize part = pwrite(to, buffer + done, (gsize)(got - done), offset + done);

            if (part < 0 && errno == EINTR)
                continue;
            if (part < 0)
                return FALSE;
            done += part;
        }
        offset += got;
    }
    return got == 0 && ftruncate(to, offset) == 0;
}

static gboolean
same_contents(int a, int b)
{
    g_autofree char *first = g_malloc(BUFFER), *second = g_malloc(BUFFER);
    gssize got, other;

    if (lseek(a, 0, SEEK_SET) < 0 || lseek(b, 0, SEEK_SET) < 0)
        return FALSE;
    do {
        got = read_part(a, first);
        other = read_part(b, second);
        if (got < 0 || got != other || memcmp(first, second, (gsize)got) != 0)
            return FALSE;
    } while (got > 0);
    return TRUE;
}

static gboolean
same_files(const char *a, const char *b, gboolean *same, GError **error)
{
    int one = open_file(a, error);
    int other = one >= 0 ? open_file(b, error) : -1;

    if (other >= 0)
        *same = same_contents(one, other);
    if (one >= 0)
        close(one);
    if (other >= 0)
        close(other);
    return other >= 0;
}

/* Until a second look finds what the first one copied. */
static gboolean
copy_unchanged(int from, int to, const char *path, GError **error)
{
    for (guint i = 0; i < ATTEMPTS; i++) {
        if (!copy_all(from, to))
            return ckpt_file_error(error, "copy", path);
        if (same_contents(from, to))
            return TRUE;
    }
    ckpt_error_set(error, CKPT_REASON_VM_BUSY,
                   "the guest changes its UEFI variables, %s, all the time: repeat the request", path);
    return FALSE;
}

/* A new file `to`, 0600 from its first byte, with what is in `from`; synced. */
static gboolean
make_copy(const char *from, const char *to, GError **error)
{
    int source = open_file(from, error), target = -1;
    gboolean done;

    if (source < 0)
        return FALSE;
    if (unlink(to) == 0 || errno == ENOENT)
        target = open(to, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    done = target >= 0 ? copy_unchanged(source, target, from, error) &&
                             (fsync(target) == 0 || ckpt_file_error(error, "sync", to))
                       : ckpt_file_error(error, "make", to);
    close(source);
    if (target >= 0)
        close(target);
    if (!done && target >= 0)
        unlink(to);
    return done;
}

static gboolean
move_into_place(const char *from, const char *to, GError **error)
{
    if (rename(from, to) == 0)
        return ckpt_file_sync_folder(to, error);
    ckpt_file_error(error, "put in place", to);
    unlink(from);
    return FALSE;
}

/* ---- SAVE_NVRAM ---- */

CkptOutcome
ckpt_step_save_nvram_check(CkptRun *run, GError **error)
{
    gboolean same = FALSE;

    if (!ckpt_file_is_there(run->step->file))
        return CKPT_OUTCOME_NOT_DONE;
    if (!same_files(run->step->base, run->step->file, &same, error))
        return CKPT_OUTCOME_UNCLEAR;
    return same ? CKPT_OUTCOME_DONE : CKPT_OUTCOME_UNCLEAR;
}

gboolean
ckpt_step_save_nvram(CkptRun *run, GError **error)
{
    const CkptStep *step = run->step;
    g_autofree char *temporary = g_strconcat(step->file, NEW, NULL);
    gboolean same = FALSE;

    if (ckpt_file_is_there(step->file)) {
        if (!same_files(step->base, step->file, &same, error))
            return FALSE;
        if (same)
            return ckpt_file_sync_folder(step->file, error);
        ckpt_error_set(error, CKPT_REASON_FILE_FAILED, "%s exists and is something else than %s",
                       step->file, step->base);
        ckpt_error_add(error, CKPT_META_FILE, step->file);
        return FALSE;
    }
    return make_copy(step->base, temporary, error) && move_into_place(temporary, step->file, error);
}

/* One that somebody else put there is not ours to remove. */
gboolean
ckpt_step_save_nvram_undo(CkptRun *run, GError **error)
{
    const char *path = run->step->file;
    g_autofree char *temporary = g_strconcat(path, NEW, NULL);
    struct stat found;

    if (unlink(temporary) < 0 && errno != ENOENT)
        return ckpt_file_error(error, "remove", temporary);
    if (lstat(path, &found) < 0)
        return errno == ENOENT ? ckpt_file_remove(path, error) : ckpt_file_error(error, "look at", path);
    if (!S_ISREG(found.st_mode) || found.st_uid != geteuid() || (found.st_mode & 07777) != 0600)
        return TRUE;
    return ckpt_file_remove(path, error);
}

/* ---- COMPARE_NVRAM ---- */

gboolean
ckpt_step_compare_nvram(CkptRun *run, GError **error)
{
    gboolean same = FALSE;

    if (!same_files(run->step->base, run->step->file, &same, error))
        return FALSE;
    ckpt_set_str(&run->step->note,
                 same ? NULL : "the guest changed its UEFI variables at the same time: kept is how they "
                               "were just before the disks' instant");
    return TRUE;
}

/* ---- PUT_NVRAM ---- */

/* As the file there, or, where there is none, for whom the folder is. */
static gboolean
dress(const char *path, const char *there, GError **error)
{
    g_autofree char *folder = g_path_get_dirname(there);
    struct stat found;

    if (stat(there, &found) == 0)
        return ckpt_file_make_alike(path, there, found.st_mode & 07777, error);
    return ckpt_file_make_alike(path, folder, 0600, error);
}

/* The file by its own name: a symbolic link to it stays one. */
static char *
own_name(const char *path)
{
    char *real = realpath(path, NULL);
    char *copy = g_strdup(real ? real : path);

    free(real);
    return copy;
}

static gboolean
put(const char *from, const char *to, GError **error)
{
    g_autofree char *there = own_name(to);
    g_autofree char *temporary = g_strconcat(there, NEW, NULL);
    gboolean same = FALSE;

    if (ckpt_file_is_there(there) && !same_files(from, there, &same, error))
        return FALSE;
    if (same)
        return ckpt_file_sync(there, error) && ckpt_file_sync_folder(there, error);
    if (ckpt_file_is_there(there) && !ckpt_file_is_free(there, error))
        return FALSE;
    if (!make_copy(from, temporary, error))
        return FALSE;
    if (dress(temporary, there, error))
        return move_into_place(temporary, there, error);
    unlink(temporary);
    return FALSE;
}

gboolean
ckpt_step_put_nvram(CkptRun *run, GError **error)
{
    return put(run->step->file, run->step->base, error);
}

CkptOutcome
ckpt_step_put_nvram_check(CkptRun *run, GError **error)
{
    gboolean same = FALSE;

    if (!ckpt_file_is_there(run->step->base))
        return CKPT_OUTCOME_NOT_DONE;
    if (!same_files(run->step->file, run->step->base, &same, error))
        return CKPT_OUTCOME_UNCLEAR;
    return same ? CKPT_OUTCOME_DONE : CKPT_OUTCOME_NOT_DONE;
}

gboolean
ckpt_step_put_nvram_undo(CkptRun *run, GError **error)
{
    const CkptStep *step = run->step;
    g_autofree char *there = own_name(step->base);
    g_autofree char *temporary = g_strconcat(there, NEW, NULL);
    gboolean same = FALSE;

    if (unlink(temporary) < 0 && errno != ENOENT && errno != ENAMETOOLONG)
        return ckpt_file_error(error, "remove", temporary);
    /* An undo that was cut short is done again from its beginning: what it had put back, it may have removed
     * since (SAVE_NVRAM's). */
    if (step->from)
        return !ckpt_file_is_there(step->from) || put(step->from, step->base, error);
    if (!ckpt_file_is_there(there))
        return ckpt_file_remove(there, error);
    if (!same_files(step->file, there, &same, error))
        return FALSE;
    /* What we did not put there is of a VM that ran on it and has changed it. */
    return !same || ckpt_file_remove(there, error);
}
