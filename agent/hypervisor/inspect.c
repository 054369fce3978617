/* One VM as a whole: state, definition, and what forbids operating on it. */
#include "agent/hypervisor/ask.h"
#include "agent/hypervisor/foreign.h"
#include "agent/hypervisor/qemu.h"

#include <string.h>

#define LOOKS 5

static void
inspect_devices(CkptVm *vm, const CkptView *view)
{
    const CkptXmlDomain *present = view->live_xml ? view->live_xml : view->definition_xml;

    for (guint i = 0; i < present->not_captured->len; i++)
        g_ptr_array_add(vm->not_captured, g_strdup(g_ptr_array_index(present->not_captured, i)));
}

/* virDomainCheckpoint: points from which a backup tool wants to know what changed. */
static gboolean
inspect_backups(CkptVm *vm, const CkptView *view, GError **error)
{
    int points = virDomainListAllCheckpoints(view->domain, NULL, 0);

    if (points < 0 && ckpt_libvirt_code() != VIR_ERR_NO_SUPPORT) {
        ckpt_libvirt_error(error, CKPT_REASON_HYPERVISOR_FAILED, "list its libvirt checkpoints");
        return FALSE;
    }
    vm->backup_points = points > 0 ? (guint)points : 0;
    return TRUE;
}

/* What a job does to the VM; "" = libvirt does not say. */
static const char *
job_words(int operation)
{
    static const char *const words[] = {
        [VIR_DOMAIN_JOB_OPERATION_START] = ": it is being started",
        [VIR_DOMAIN_JOB_OPERATION_SAVE] = ": it is being saved",
        [VIR_DOMAIN_JOB_OPERATION_RESTORE] = ": it is being restored from a file",
        [VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN] = ": it is being migrated to this host",
        [VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT] = ": it is being migrated to another host",
        [VIR_DOMAIN_JOB_OPERATION_SNAPSHOT] = ": a snapshot of it is being made",
        [VIR_DOMAIN_JOB_OPERATION_SNAPSHOT_REVERT] = ": it is being reverted to a snapshot",
        [VIR_DOMAIN_JOB_OPERATION_DUMP] = ": it is being dumped",
        [VIR_DOMAIN_JOB_OPERATION_BACKUP] = ": a backup of it is being made",
        [VIR_DOMAIN_JOB_OPERATION_SNAPSHOT_DELETE] = ": a snapshot of it is being deleted",
    };

    if (operation < 0 || operation >= (int)G_N_ELEMENTS(words) || !words[operation])
        return "";
    return words[operation];
}

/* Until it runs here, its job lets no other call in, and tells nothing of itself. */
static gboolean
is_arriving(CkptVm *vm, const CkptView *view)
{
    if (view->state != VIR_DOMAIN_PAUSED || view->reason != VIR_DOMAIN_PAUSED_MIGRATION)
        return FALSE;
    ckpt_vm_add_obstacle(vm, CKPT_REASON_VM_BUSY, NULL, NULL,
                         "VM %s is being migrated to this host: wait until it runs", vm->name);
    return TRUE;
}

typedef struct {
    int type, operation; /* virDomainJobType, virDomainJobOperation */
} Job;

static int
job_stats(virDomainPtr domain, const char *disk, gpointer answer)
{
    Job *job = answer;
    virTypedParameterPtr params = NULL;
    int count = 0;
    int result = virDomainGetJobStats(domain, &job->type, &params, &count, 0);

    if (result >= 0)
        (void)virTypedParamsGetInt(params, count, VIR_DOMAIN_JOB_OPERATION, &job->operation);
    virTypedParamsFree(params, count);
    return result;
}

/* FALSE when a job, or a QEMU that hangs, keeps even questions waiting: no more of them are asked. */
static gboolean
inspect_domain_job(CkptConnection *connection, CkptVm *vm, const CkptView *view)
{
    Job job = {VIR_DOMAIN_JOB_NONE, VIR_DOMAIN_JOB_OPERATION_UNKNOWN};
    char *backup = virDomainBackupGetXMLDesc(view->domain, 0);

    if (backup) {
        free(backup);
        ckpt_vm_add_obstacle(vm, CKPT_REASON_BACKUP_JOB_ACTIVE, NULL, NULL,
                             "a backup of VM %s is under way: wait for it, or virsh domjobabort",
                             vm->name);
        return TRUE;
    }
    if (ckpt_ask(connection, view->domain, job_stats, NULL, &job, sizeof job) < 0) {
        gboolean unanswered = ckpt_libvirt_code() == VIR_ERR_OPERATION_TIMEOUT;

        if (is_arriving(vm, view))
            return FALSE;
        if (!unanswered)
            return TRUE;
        ckpt_vm_add_obstacle(vm, CKPT_REASON_VM_BUSY, NULL, NULL, CKPT_NO_ANSWER_FORMAT, vm->name);
        return FALSE;
    }
    /* One that is done is under way until libvirt has cleared up: of a save QEMU has let go of its files then. */
    if (job.type != VIR_DOMAIN_JOB_NONE)
        ckpt_vm_add_obstacle(vm, CKPT_REASON_VM_BUSY, NULL, NULL,
                             "a job is under way on VM %s%s (virsh domjobinfo): wait for it, or end it with "
                             "virsh domjobabort",
                             vm->name, job_words(job.operation));
    return TRUE;
}

static int
block_job(virDomainPtr domain, const char *disk, gpointer answer)
{
    virDomainBlockJobInfo info;

    return virDomainGetBlockJobInfo(domain, disk, &info, 0);
}

/* libvirt asks QEMU for a job that it knows of, and for none else. */
static void
inspect_block_jobs(CkptConnection *connection, CkptVm *vm, const CkptView *view)
{
    for (guint i = 0; i < view->live_xml->disks->len; i++) {
        const CkptXmlDisk *disk = g_ptr_array_index(view->live_xml->disks, i);
        int found;

        if (!ckpt_xml_disk_is_captured(disk))
            continue;
        found = ckpt_ask(connection, view->domain, block_job, disk->target, NULL, 0);
        if (found == 1 || disk->mirror)
            ckpt_vm_add_obstacle(vm, CKPT_REASON_BLOCK_JOB_ACTIVE, disk->target, disk->source,
                                 "a block job is under way on disk %s of VM %s (virsh blockjob): wait "
                                 "for it, or end it with virsh blockjob --abort",
                                 disk->target, vm->name);
        else if (found < 0 && ckpt_libvirt_code() == VIR_ERR_OPERATION_TIMEOUT) {
            ckpt_vm_add_obstacle(vm, CKPT_REASON_VM_BUSY, NULL, NULL, CKPT_NO_ANSWER_FORMAT, vm->name);
            return;
        }
    }
}

static void
add_user(const char *file, gboolean is_top, const char *user, gpointer data)
{
    ckpt_vm_add_user(data, file, is_top, user);
}

static void
add_unreadable(const char *file, gboolean is_top, const char *user, gpointer data)
{
    ckpt_vm_add_unreadable(data, file, user);
}

/* Why the VM's memory cannot be captured now; NULL = nothing is known that speaks against it. */
static char *
memory_obstacle(const CkptVm *vm, const CkptView *view)
{
    const char *device = view->live_xml ? view->live_xml->immovable : NULL;

    if (!view->active)
        return g_strdup("the VM is shut off and has no memory to capture");
    return device ? g_strdup_printf("VM %s has %s, whose state QEMU cannot write down", vm->name, device)
                  : NULL;
}

static void
inspect_memory(CkptVm *vm, const CkptView *view)
{
    unsigned long version = 0;

    if (virConnectGetVersion(virDomainGetConnect(view->domain), &version) == 0)
        vm->qemu_version = g_strdup_printf("%lu.%lu.%lu", version / 1000000, version / 1000 % 1000,
                                           version % 1000);
    vm->memory_bytes = view->live_xml->memory_bytes;
}

static void
refuse_all(CkptVm *vm, const char *why)
{
    CkptAbility *const all[] = {&vm->checkpoint, &vm->live, &vm->application, &vm->memory};

    for (guint i = 0; i < G_N_ELEMENTS(all); i++) {
        all[i]->available = FALSE;
        ckpt_set_str(&all[i]->reason, why);
    }
}

static void
set_abilities(CkptVm *vm, const CkptView *view)
{
    const CkptObstacle *first =
        vm->obstacles->len ? g_ptr_array_index(vm->obstacles, 0) : NULL;
    const char *not_frozen = view->active ? ckpt_freeze_obstacle(view) : NULL;
    g_autofree char *no_memory = memory_obstacle(vm, view);

    if (first) {
        refuse_all(vm, first->message);
        return;
    }
    vm->checkpoint.available = vm->live.available = TRUE;
    vm->application.available = !not_frozen;
    vm->memory.available = !no_memory;
    vm->application.reason = g_strdup(not_frozen);
    vm->memory.reason = g_steal_pointer(&no_memory);
}

/* Nobody can tell whether a VM is off everywhere. */
static void
add_unguarded(CkptVm *vm, const char *target, const CkptLayer *layer)
{
    ckpt_vm_add_obstacle(vm, CKPT_REASON_LOCKS_UNAVAILABLE, target, layer->path,
                         "%s lies on a network file system whose locks do not tell what other hosts do with it: "
                         "while the VM is off nothing is done with it; mount it with locks, start the VM, or, if "
                         "no other host has the VM, set offline_without_locks in [checkpoints] of the agent's "
                         "configuration",
                         layer->path);
}

static gboolean
is_asked_for(const CkptKnownFile *files, const char *path)
{
    for (; files && files->path; files++)
        if (g_str_equal(files->path, path))
            return TRUE;
    return FALSE;
}

/* off: of its disks and of `files`, as far as they lie there. */
static void
inspect_shares(CkptVm *vm, const CkptQemuOptions *options, const CkptKnownFile *files, gboolean off)
{
    GHashTableIter iter;
    gpointer path, value;

    g_hash_table_iter_init(&iter, vm->files);
    while (g_hash_table_iter_next(&iter, &path, &value)) {
        CkptLayer *layer = value;

        layer->unguarded = layer->unguarded && !options->offline_without_locks;
        if (off && layer->unguarded && is_asked_for(files, path)) {
            add_unguarded(vm, NULL, layer);
            return;
        }
    }
    for (guint i = 0; off && i < vm->disks->len; i++) {
        const CkptDisk *disk = g_ptr_array_index(vm->disks, i);
        const CkptLayer *top = disk->chain->len ? g_ptr_array_index(disk->chain, 0) : NULL;

        if (top && top->unguarded)
            add_unguarded(vm, disk->target, top);
    }
}

static CkptVm *
inspect_view(CkptConnection *connection, const CkptQemuOptions *options, const CkptView *view,
             const char *vm_id, const CkptKnownFile *files, GError **error)
{
    g_autoptr(CkptVm) vm = ckpt_vm_new();

    if (!ckpt_view_describe(view, vm_id, vm, error))
        return NULL;
    if (view->active && inspect_domain_job(connection, vm, view)) {
        inspect_block_jobs(connection, vm, view);
        inspect_memory(vm, view);
    }
    inspect_devices(vm, view);
    ckpt_inspect_nvram(vm, view);
    if (!inspect_backups(vm, view, error))
        return NULL;
    ckpt_inspect_disks(vm, view);
    ckpt_inspect_files(vm, files);
    ckpt_inspect_block(vm, options, files);
    if (!ckpt_inspect_foreign(vm, view, error))
        return NULL;
    inspect_shares(vm, options, files, !view->active);
    ckpt_inspect_confinement(vm, view);
    if (!ckpt_users_scan(connection, vm_id, FALSE, vm->files, add_user, add_unreadable, vm, error))
        return NULL;
    set_abilities(vm, view);
    return g_steal_pointer(&vm);
}

/* What it says; NULL: there is none. What is known to be under way has its own reason, and whatever else was found
 * comes after that. */
static const char *
mismatch_alone(const CkptVm *vm)
{
    const char *mismatch = NULL;

    for (guint i = 0; i < vm->obstacles->len; i++) {
        const CkptObstacle *obstacle = g_ptr_array_index(vm->obstacles, i);

        if (obstacle->reason == CKPT_REASON_VM_BUSY || obstacle->reason == CKPT_REASON_BLOCK_JOB_ACTIVE ||
            obstacle->reason == CKPT_REASON_BACKUP_JOB_ACTIVE)
            return NULL;
        if (!mismatch && obstacle->reason == CKPT_REASON_CHAIN_MISMATCH)
            mismatch = obstacle->message;
    }
    return mismatch;
}

/* Before all else that was found: that may be what it is in the midst of. */
static void
add_restless(CkptVm *vm)
{
    CkptObstacle *restless;

    ckpt_vm_add_obstacle(vm, CKPT_REASON_VM_BUSY, NULL, NULL,
                         "VM %s changes while it is looked at, stands still for a save, a snapshot or a "
                         "migration, or its QEMU does not answer (virsh domstate --reason): wait for that, then "
                         "repeat the request",
                         vm->name);
    restless = g_ptr_array_steal_index(vm->obstacles, vm->obstacles->len - 1);
    g_ptr_array_insert(vm->obstacles, 0, restless);
    refuse_all(vm, restless->message);
}

/* A VM that starts, stops or is put on other files in mid-look would show a mismatch that is none. One that is
 * back on its files by the end of the look shows it, too, and not twice. */
static gboolean
is_so(CkptConnection *connection, const CkptVm *vm, const CkptView *view, char **seen)
{
    const char *mismatch = mismatch_alone(vm);
    gboolean stale = vm->obstacles->len > 0 && ckpt_view_is_stale(view), again;

    if (!stale && !mismatch)
        return TRUE;
    again = !stale && !ckpt_view_has_changed(connection, vm->id, view);
    if (again && g_strcmp0(*seen, mismatch) == 0)
        return TRUE;
    ckpt_set_str(seen, again ? mismatch : NULL);
    return FALSE;
}

CkptVm *
ckpt_inspect(CkptConnection *connection, const CkptQemuOptions *options, const char *vm_id,
             const CkptKnownFile *files, GError **error)
{
    g_autoptr(CkptVm) vm = NULL;
    g_autofree char *seen = NULL;

    for (guint i = 0; i < LOOKS; i++) {
        g_autoptr(CkptView) view = ckpt_view_load(connection, vm_id, error);

        g_clear_pointer(&vm, ckpt_vm_free);
        vm = view ? inspect_view(connection, options, view, vm_id, files, error) : NULL;
        if (!vm) {
            g_prefix_error(error, "inspect VM %s: ", vm_id);
            return NULL;
        }
        if (is_so(connection, vm, view, &seen))
            return g_steal_pointer(&vm);
    }
    add_restless(vm);
    return g_steal_pointer(&vm);
}

CkptVm *
ckpt_inspect_undefined(CkptConnection *connection, const CkptQemuOptions *options, const char *vm_id,
                       const CkptKnownFile *files, GError **error)
{
    g_autoptr(CkptVm) vm = ckpt_vm_new();

    ckpt_set_str(&vm->id, vm_id);
    ckpt_set_str(&vm->name, "");
    vm->power = CKPT_POWER_SHUT_OFF;
    vm->mechanism = CKPT_MECHANISM_OVERLAY;
    ckpt_inspect_files(vm, files);
    ckpt_inspect_block(vm, options, files);
    inspect_shares(vm, options, files, TRUE);
    if (!ckpt_users_scan(connection, NULL, TRUE, vm->files, add_user, add_unreadable, vm, error))
        return NULL;
    return g_steal_pointer(&vm);
}
