/* The qemu driver: overlays that the agent makes itself, on every libvirt from 9.0 on. */
#include "agent/hypervisor/ask.h"
#include "agent/hypervisor/foreign.h"
#include "agent/hypervisor/guard.h"
#include "agent/hypervisor/host.h"
#include "agent/hypervisor/image.h"
#include "agent/hypervisor/memory.h"
#include "agent/hypervisor/qemu.h"
#include "agent/hypervisor/stored.h"

#define GUEST_AGENT_SECONDS 10

typedef struct {
    CkptDriver base;
    CkptConnection *connection;
    CkptWatcher *watcher; /* NULL = nobody watches; touched by who starts and stops the engine */
    guint merge_mib;      /* a second; 0 = no limit */
    CkptQemuOptions options; /* its strings are the driver's */
    GMutex lock;          /* guards host_id, which once known stays, and left */
    char *host_id;        /* NULL = not known yet */
    GHashTable *left;     /* set: vm_id of VMs that migrated away */
} QemuDriver;

typedef struct {
    gboolean (*run)(CkptRun *run, GError **error);
    gboolean (*undo)(CkptRun *run, GError **error);     /* NULL: there is nothing to undo */
    CkptOutcome (*check)(CkptRun *run, GError **error); /* NULL: doing it again is the check */
} StepOps;

static const StepOps step_table[CKPT_STEP_END_] = {
    [CKPT_STEP_MAKE_OVERLAY] = {ckpt_step_make_overlay, ckpt_step_make_overlay_undo,
                                ckpt_step_make_overlay_check},
    [CKPT_STEP_SEAL] = {ckpt_step_seal, ckpt_step_set_mode, ckpt_step_seal_check},
    [CKPT_STEP_UNSEAL] = {ckpt_step_set_mode, ckpt_step_seal, ckpt_step_set_mode_check},
    [CKPT_STEP_SNAPSHOT] = {ckpt_step_snapshot, ckpt_step_snapshot_undo, ckpt_step_snapshot_check},
    [CKPT_STEP_IDENTIFY] = {ckpt_step_identify, NULL, NULL},
    [CKPT_STEP_WRITE_MANIFEST] = {ckpt_step_write_manifest, ckpt_step_remove_manifest,
                                  ckpt_step_write_manifest_check},
    [CKPT_STEP_REMOVE_MANIFEST] = {ckpt_step_remove_manifest, NULL,
                                   ckpt_step_remove_manifest_check},
    [CKPT_STEP_DEFINE] = {ckpt_step_define, ckpt_step_define_undo, ckpt_step_define_check},
    [CKPT_STEP_STOP] = {ckpt_step_stop, ckpt_step_stop_undo, ckpt_step_stop_check},
    [CKPT_STEP_START] = {ckpt_step_start, ckpt_step_start_undo, ckpt_step_start_check},
    [CKPT_STEP_MERGE] = {ckpt_step_merge, NULL, ckpt_step_merge_check},
    [CKPT_STEP_CHECK_CHAIN] = {ckpt_step_check_chain, NULL, NULL},
    [CKPT_STEP_REMOVE_FILE] = {ckpt_step_remove_file, NULL, ckpt_step_remove_file_check},
    [CKPT_STEP_RESERVE] = {ckpt_step_reserve_unpinned, ckpt_step_reserve_undo, NULL},
    [CKPT_STEP_PULL] = {ckpt_step_pull, NULL, ckpt_step_pull_check},
    [CKPT_STEP_SAVE_NVRAM] = {ckpt_step_save_nvram, ckpt_step_save_nvram_undo,
                              ckpt_step_save_nvram_check},
    [CKPT_STEP_PUT_NVRAM] = {ckpt_step_put_nvram, ckpt_step_put_nvram_undo,
                             ckpt_step_put_nvram_check},
    [CKPT_STEP_COMPARE_NVRAM] = {ckpt_step_compare_nvram, NULL, NULL},
    [CKPT_STEP_CHECK_MEMORY] = {ckpt_step_check_memory, NULL, NULL},
    [CKPT_STEP_REBASE] = {ckpt_step_rebase, NULL, ckpt_step_rebase_check},
};

static CkptConnection *
connection_of(CkptDriver *driver)
{
    return ((QemuDriver *)driver)->connection;
}

static const CkptQemuOptions *
options_of(CkptDriver *driver)
{
    return &((QemuDriver *)driver)->options;
}

static void
add_below(GPtrArray *files, const CkptXmlDisk *disk)
{
    g_autoptr(GHashTable) looked = ckpt_chain_files_new();
    g_autoptr(GPtrArray) chain =
        ckpt_chain_walk(disk->source, ckpt_format_from_name(disk->format), looked, NULL, NULL);

    for (guint i = 1; i < chain->len; i++) {
        const CkptLayer *layer = g_ptr_array_index(chain, i);

        if (!ckpt_is_block(layer->path))
            g_ptr_array_add(files, g_strdup(layer->path));
    }
}

static void
add_image_files(GPtrArray *files, virDomainPtr domain, gboolean below)
{
    char *xml = virDomainGetXMLDesc(domain, VIR_DOMAIN_XML_INACTIVE);
    g_autoptr(CkptXmlDomain) parsed = xml ? ckpt_xml_domain_parse(xml, NULL) : NULL;

    free(xml);
    for (guint i = 0; parsed && i < parsed->disks->len; i++) {
        const CkptXmlDisk *disk = g_ptr_array_index(parsed->disks, i);

        if (!ckpt_xml_disk_is_captured(disk) || !disk->source || ckpt_is_block(disk->source))
            continue;
        g_ptr_array_add(files, g_strdup(disk->source));
        if (below)
            add_below(files, disk);
    }
}

static GPtrArray *
image_files(CkptDriver *driver, gboolean below, GError **error)
{
    g_autoptr(virConnect) conn = ckpt_connection_get(connection_of(driver), error);
    g_autoptr(CkptDomainList) domains = NULL;
    GPtrArray *files;

    if (!conn)
        return NULL;
    if (virConnectListAllDomains(conn, &domains, 0) < 0) {
        ckpt_libvirt_error(error, CKPT_REASON_HYPERVISOR_FAILED, "list the VMs of the host");
        return NULL;
    }
    files = g_ptr_array_new_with_free_func(g_free);
    for (virDomainPtr *domain = domains; *domain; domain++)
        add_image_files(files, *domain, below);
    return files;
}

static gboolean
host_info(CkptDriver *driver, CkptHostInfo **info, GError **error)
{
    return ckpt_host_info(connection_of(driver), info, error);
}

static GPtrArray *
list_vms(CkptDriver *driver, GError **error)
{
    return ckpt_host_list_vms(connection_of(driver), error);
}

static CkptVm *
inspect(CkptDriver *driver, const char *vm_id, const CkptKnownFile *files, GError **error)
{
    return ckpt_inspect(connection_of(driver), options_of(driver), vm_id, files, error);
}

static GPtrArray *
foreign(CkptDriver *driver, const char *vm_id, const CkptKnownFile *files, GError **error)
{
    return ckpt_foreign_list(connection_of(driver), vm_id, files, error);
}

static gboolean
answers(CkptDriver *driver, const char *vm_id, guint *downtime_ms, GError **error)
{
    g_autoptr(virDomain) domain = ckpt_connection_lookup(connection_of(driver), vm_id, error);

    return domain && ckpt_ask_qemu(connection_of(driver), domain, downtime_ms, error);
}

static gboolean
hangs(CkptDriver *driver, const char *vm_id)
{
    return ckpt_ask_is_vain(connection_of(driver), vm_id);
}

static gboolean
settle(CkptDriver *driver, const char *vm_id, GError **error)
{
    return ckpt_settle(connection_of(driver), vm_id, error);
}

/* An unfinished plan of another driver's: the state folder belongs to another hypervisor. */
static gboolean
is_known(const CkptStep *step, GError **error)
{
    g_assert(step->kind >= CKPT_STEP_MAKE_OVERLAY && step->kind < CKPT_STEP_END_ &&
             step->kind != CKPT_STEP_CATALOGUE);
    if (step_table[step->kind].run)
        return TRUE;
    ckpt_error_set(error, CKPT_REASON_HYPERVISOR_FAILED,
                   "%s is no step of the qemu driver: set the agent's hypervisor back to the one that "
                   "the operation was begun on",
                   ckpt_step_name(step->kind));
    return FALSE;
}

/* Ours, as manifests name it. NULL: libvirt is away. */
static const char *
host_id_of(CkptDriver *driver, GError **error)
{
    QemuDriver *qemu = (QemuDriver *)driver;
    g_autoptr(CkptHostInfo) info = NULL;
    const char *host_id;

    g_mutex_lock(&qemu->lock);
    host_id = qemu->host_id;
    g_mutex_unlock(&qemu->lock);
    if (host_id || !host_info(driver, &info, error))
        return host_id;
    g_mutex_lock(&qemu->lock);
    if (!qemu->host_id)
        qemu->host_id = g_strdup(info->host_id);
    host_id = qemu->host_id;
    g_mutex_unlock(&qemu->lock);
    return host_id;
}

/* NULL: they are another agent's, or it cannot be told. */
static CkptOwnership *
hold(CkptDriver *driver, const CkptPlan *plan, const CkptStep *step, GError **error)
{
    const char *host_id = host_id_of(driver, error);

    return host_id ? ckpt_ownership_hold(options_of(driver), host_id, plan, step, error) : NULL;
}

static gboolean
step_do(CkptDriver *driver, const CkptPlan *plan, CkptStep *step, CkptProgressFunc progress,
        gpointer data, GCancellable *cancellable, GError **error)
{
    CkptRun run = {connection_of(driver), plan, step, progress, data, cancellable,
                   ((QemuDriver *)driver)->merge_mib, options_of(driver), FALSE};
    g_autoptr(CkptOwnership) held = is_known(step, error) ? hold(driver, plan, step, error) : NULL;

    return held && step_table[step->kind].run(&run, error);
}

static void
let_go(CkptDriver *driver, const CkptPlan *plan, const CkptStep *step)
{
    /* A snapshot's is that of the merges of its undo. */
    CkptRun run = {
        .connection = connection_of(driver), .plan = plan, .options = options_of(driver)};

    if (step->kind == CKPT_STEP_MERGE)
        ckpt_merge_let_go(&run, step->base);
    for (guint i = 0; step->kind == CKPT_STEP_SNAPSHOT && i < step->disks->len; i++)
        ckpt_snapshot_let_go(&run, g_ptr_array_index(step->disks, i));
}

static void
interrupt(CkptDriver *driver, const CkptPlan *plan, const CkptStep *step)
{
    CkptRun run = {.connection = connection_of(driver), .plan = plan, .step = (CkptStep *)step};

    if (step->kind == CKPT_STEP_SNAPSHOT)
        ckpt_memory_interrupt(&run);
}

static gboolean
step_undo(CkptDriver *driver, const CkptPlan *plan, CkptStep *step, GError **error)
{
    CkptRun run = {.connection = connection_of(driver),
                   .plan = plan,
                   .step = step,
                   .options = options_of(driver),
                   .undoing = TRUE};
    g_autoptr(CkptOwnership) held = NULL;

    if (!is_known(step, error))
        return FALSE;
    if (!step_table[step->kind].undo)
        return TRUE;
    held = hold(driver, plan, step, error);
    return held && step_table[step->kind].undo(&run, error);
}

static CkptOutcome
step_check(CkptDriver *driver, const CkptPlan *plan, const CkptStep *step, GError **error)
{
    CkptRun run = {.connection = connection_of(driver),
                   .plan = plan,
                   .step = (CkptStep *)step,
                   .options = options_of(driver)};

    if (!is_known(step, error))
        return CKPT_OUTCOME_UNCLEAR;
    if (step_table[step->kind].check)
        return step_table[step->kind].check(&run, error);
    return CKPT_OUTCOME_NOT_DONE;
}

static void
on_migrated(const char *vm_id, gboolean away, gpointer data)
{
    QemuDriver *qemu = data;

    g_mutex_lock(&qemu->lock);
    if (away)
        g_hash_table_add(qemu->left, g_strdup(vm_id));
    else
        g_hash_table_remove(qemu->left, vm_id);
    g_mutex_unlock(&qemu->lock);
}

/* What libvirt remembers of one that is still defined here, too: until libvirtd is restarted. */
static gboolean
has_left(CkptDriver *driver, const char *vm_id)
{
    QemuDriver *qemu = (QemuDriver *)driver;
    g_autoptr(virDomain) domain = NULL;
    int state = VIR_DOMAIN_NOSTATE, reason = 0;
    gboolean left;

    g_mutex_lock(&qemu->lock);
    left = g_hash_table_contains(qemu->left, vm_id);
    g_mutex_unlock(&qemu->lock);
    if (left)
        return TRUE;
    domain = ckpt_connection_lookup(connection_of(driver), vm_id, NULL);
    return domain && virDomainGetState(domain, &state, &reason, 0) == 0 &&
           state == VIR_DOMAIN_SHUTOFF && reason == VIR_DOMAIN_SHUTOFF_MIGRATED;
}

static void
watch(CkptDriver *driver, CkptVmChangedFunc func, gpointer data)
{
    QemuDriver *qemu = (QemuDriver *)driver;

    g_clear_pointer(&qemu->watcher, ckpt_watcher_stop);
    if (func)
        qemu->watcher = ckpt_watcher_start(ckpt_connection_uri(qemu->connection), func, data,
                                           on_migrated, qemu);
}

static CkptFoundFiles *
find_manifests(CkptDriver *driver, const char *const *folders, GError **error)
{
    return ckpt_manifests_find(options_of(driver), folders, error);
}

static CkptVm *
inspect_files(CkptDriver *driver, const char *vm_id, const CkptKnownFile *files, GError **error)
{
    return ckpt_inspect_undefined(connection_of(driver), options_of(driver), vm_id, files, error);
}

static CkptManifest *
manifest_head(CkptDriver *driver, const char *file)
{
    return ckpt_manifest_head_of(options_of(driver), file);
}

static gboolean
guest_look(CkptDriver *driver, const char *vm_id, CkptGuest *guest, GError **error)
{
    return ckpt_guest_look(connection_of(driver), options_of(driver), vm_id, guest, error);
}

static gboolean
guest_release(CkptDriver *driver, const char *vm_id, GError **error)
{
    return ckpt_guest_release(connection_of(driver), options_of(driver), vm_id, error);
}

static gboolean
take_over(CkptDriver *driver, const char *file, const char *text, const char *agent, guint64 epoch,
          GError **error)
{
    return ckpt_manifest_take_over(options_of(driver), file, text, agent, epoch, error);
}

static GPtrArray *
overlays_on(CkptDriver *driver, const CkptKnownFile *files, GError **error)
{
    return ckpt_overlays_on(options_of(driver), files, error);
}

static void
driver_free(CkptDriver *driver)
{
    CkptQemuOptions *options = &((QemuDriver *)driver)->options;

    g_clear_pointer(&((QemuDriver *)driver)->watcher, ckpt_watcher_stop);
    ckpt_connection_free(connection_of(driver));
    g_mutex_clear(&((QemuDriver *)driver)->lock);
    g_free(((QemuDriver *)driver)->host_id);
    g_hash_table_unref(((QemuDriver *)driver)->left);
    g_free((char *)options->uri);
    g_free((char *)options->guard_program);
    g_free((char *)options->guard_folder);
    g_free((char *)options->block_overlay_folder);
    g_free(driver);
}

CkptDriver *
ckpt_qemu_driver_new(const CkptQemuOptions *options, GError **error)
{
    QemuDriver *driver = g_new0(QemuDriver, 1);
    guint seconds = options->guest_agent_seconds;

    driver->base = (CkptDriver){
        .name = "qemu",
        .host_info = host_info,
        .list_vms = list_vms,
        .inspect = inspect,
        .answers = answers,
        .hangs = hangs,
        .settle = settle,
        .step_do = step_do,
        .step_undo = step_undo,
        .step_check = step_check,
        .free = driver_free,
        .let_go = let_go,
        .interrupt = interrupt,
        .image_files = image_files,
        .watch = watch,
        .find_manifests = find_manifests,
        .inspect_files = inspect_files,
        .manifest_head = manifest_head,
        .foreign = foreign,
        .guest_look = guest_look,
        .guest_release = guest_release,
        .take_over = take_over,
        .has_left = has_left,
        .overlays_on = overlays_on,
    };
    driver->options = (CkptQemuOptions){
        .uri = g_strdup(options->uri),
        .guest_agent_seconds = seconds ? seconds : GUEST_AGENT_SECONDS,
        .guard_program = g_strdup(options->guard_program),
        .guard_folder = g_strdup(options->guard_folder),
        .block_overlay_folder = g_strdup(options->block_overlay_folder),
        .offline_without_locks = options->offline_without_locks,
        .live_memory_when_emulated = options->live_memory_when_emulated,
    };
    g_mutex_init(&driver->lock);
    driver->left = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    driver->connection = ckpt_connection_new(options->uri);
    ckpt_connection_set_without_clones(driver->connection, options->without_linked_clones);
    if (options->guard_program)
        ckpt_guard_take_up(options->guard_program, options->uri, options->guard_folder);
    return &driver->base;
}

void
ckpt_qemu_driver_limit_merges(CkptDriver *driver, guint mib_per_second)
{
    ((QemuDriver *)driver)->merge_mib = mib_per_second;
}

void
ckpt_qemu_driver_set_libraries(CkptDriver *driver, const char *const *folders)
{
    ckpt_connection_set_stored(((QemuDriver *)driver)->connection, ckpt_stored_vms_new(folders));
}
