/* The native driver: libvirt's own snapshots, for hypervisors where it implements all of them. */
#include "agent/hypervisor/host.h"
#include "agent/hypervisor/native/native.h"

typedef struct {
    gboolean (*run)(CkptNative *native, const char *vm_id, const CkptStep *step, GError **error);
    gboolean (*undo)(CkptNative *native, const char *vm_id, const CkptStep *step,
                     GError **error); /* NULL: there is nothing to undo */
    CkptOutcome (*check)(CkptNative *native, const char *vm_id, const CkptStep *step,
                         GError **error);
} StepOps;

static const StepOps step_table[CKPT_STEP_END_] = {
    [CKPT_STEP_STOP] = {ckpt_native_stop, ckpt_native_stop_undo, ckpt_native_stop_check},
    [CKPT_STEP_START] = {ckpt_native_start, ckpt_native_start_undo, ckpt_native_start_check},
    [CKPT_STEP_NATIVE_CREATE] = {ckpt_native_create, ckpt_native_create_undo,
                                 ckpt_native_create_check},
    [CKPT_STEP_NATIVE_REVERT] = {ckpt_native_revert, ckpt_native_revert_undo,
                                 ckpt_native_revert_check},
    [CKPT_STEP_NATIVE_DELETE] = {ckpt_native_delete, NULL, ckpt_native_delete_check},
};

/* NULL for an unfinished plan of another driver's: the state folder belongs to another hypervisor. */
static const StepOps *
ops_of(const CkptStep *step, GError **error)
{
    g_assert(step->kind >= CKPT_STEP_MAKE_OVERLAY && step->kind < CKPT_STEP_END_ &&
             step->kind != CKPT_STEP_CATALOGUE);
    if (step_table[step->kind].run)
        return &step_table[step->kind];
    ckpt_error_set(error, CKPT_REASON_HYPERVISOR_FAILED,
                   "%s is no step of the native driver: set the agent's hypervisor back to the one "
                   "that the operation was begun on",
                   ckpt_step_name(step->kind));
    return NULL;
}

static gboolean
host_info(CkptDriver *driver, CkptHostInfo **info, GError **error)
{
    return ckpt_host_info(((CkptNative *)driver)->connection, info, error);
}

static GPtrArray *
list_vms(CkptDriver *driver, GError **error)
{
    return ckpt_host_list_vms(((CkptNative *)driver)->connection, error);
}

static CkptVm *
inspect(CkptDriver *driver, const char *vm_id, const CkptKnownFile *files, GError **error)
{
    return ckpt_native_inspect((CkptNative *)driver, vm_id, error);
}

static gboolean
settle(CkptDriver *driver, const char *vm_id, GError **error)
{
    return ckpt_settle(((CkptNative *)driver)->connection, vm_id, error);
}

static gboolean
step_do(CkptDriver *driver, const CkptPlan *plan, CkptStep *step, CkptProgressFunc progress,
        gpointer data, GCancellable *cancellable, GError **error)
{
    const StepOps *ops = ops_of(step, error);

    return ops && ops->run((CkptNative *)driver, plan->vm_id, step, error);
}

static gboolean
step_undo(CkptDriver *driver, const CkptPlan *plan, CkptStep *step, GError **error)
{
    const StepOps *ops = ops_of(step, error);

    return ops && (!ops->undo || ops->undo((CkptNative *)driver, plan->vm_id, step, error));
}

static CkptOutcome
step_check(CkptDriver *driver, const CkptPlan *plan, const CkptStep *step, GError **error)
{
    const StepOps *ops = ops_of(step, error);

    return ops ? ops->check((CkptNative *)driver, plan->vm_id, step, error) : CKPT_OUTCOME_UNCLEAR;
}

static void
driver_free(CkptDriver *driver)
{
    ckpt_connection_free(((CkptNative *)driver)->connection);
    g_free(driver);
}

CkptDriver *
ckpt_native_driver_new(const char *uri, GError **error)
{
    CkptNative *native;
    CkptPlatform platform;

    if (!ckpt_platform_of(uri, &platform, error))
        return NULL;
    native = g_new0(CkptNative, 1);
    native->base = (CkptDriver){
        .name = "native",
        .host_info = host_info,
        .list_vms = list_vms,
        .inspect = inspect,
        .settle = settle,
        .step_do = step_do,
        .step_undo = step_undo,
        .step_check = step_check,
        .free = driver_free,
    };
    native->platform = platform;
    native->connection =
        platform.in_process ? ckpt_connection_new_shared(uri) : ckpt_connection_new(uri);
    return &native->base;
}
