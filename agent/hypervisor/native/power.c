#include "agent/hypervisor/native/native.h"

CkptPower
ckpt_native_power(virDomainPtr domain, GError **error)
{
    CkptPower power = CKPT_POWER_UNKNOWN;
    int state;

    if (virDomainGetState(domain, &state, NULL, 0) < 0) {
        ckpt_libvirt_error(error, CKPT_REASON_HYPERVISOR_FAILED, "read the VM's state");
        return CKPT_POWER_UNKNOWN;
    }
    power = ckpt_power_of(state);
    if (power == CKPT_POWER_UNKNOWN) /* what passes: it is just starting, being saved, … */
        ckpt_error_set(error, CKPT_REASON_VM_BUSY, "the hypervisor does not say whether the VM runs or is off");
    return power;
}

static int
call(virDomainPtr domain, CkptPower from, CkptPower to)
{
    if (to == CKPT_POWER_SHUT_OFF)
        return virDomainDestroy(domain);
    /* None of these platforms starts a VM paused: it runs for a moment. */
    if (from == CKPT_POWER_SHUT_OFF && virDomainCreate(domain) < 0)
        return -1;
    if (from == CKPT_POWER_SHUT_OFF && to == CKPT_POWER_RUNNING)
        return 0;
    return to == CKPT_POWER_PAUSED ? virDomainSuspend(domain) : virDomainResume(domain);
}

/* An error is not "not done" (hazard A6): what counts is what the VM is afterwards. */
gboolean
ckpt_native_bring_to(virDomainPtr domain, CkptPower power, GError **error)
{
    g_autoptr(GError) why = NULL;
    CkptPower present = ckpt_native_power(domain, error);

    if (present == CKPT_POWER_UNKNOWN || present == power)
        return present == power;
    if (call(domain, present, power) < 0)
        ckpt_libvirt_error(&why, CKPT_REASON_HYPERVISOR_FAILED, "bring the VM from %s to %s",
                           ckpt_power_name(present), ckpt_power_name(power));
    present = ckpt_native_power(domain, error);
    if (present == CKPT_POWER_UNKNOWN || present == power)
        return present == power;
    if (why)
        g_propagate_error(error, g_steal_pointer(&why));
    else
        ckpt_error_set(error, CKPT_REASON_HYPERVISOR_FAILED, "the VM is %s, though libvirt brought it to %s",
                       ckpt_power_name(present), ckpt_power_name(power));
    return FALSE;
}

static gboolean
bring(CkptNative *native, const char *vm_id, CkptPower power, GError **error)
{
    g_autoptr(virDomain) domain = ckpt_connection_lookup(native->connection, vm_id, error);

    return domain && ckpt_native_bring_to(domain, power, error);
}

static CkptOutcome
check(CkptNative *native, const char *vm_id, gboolean active, GError **error)
{
    g_autoptr(virDomain) domain = ckpt_connection_lookup(native->connection, vm_id, error);
    CkptPower present = domain ? ckpt_native_power(domain, error) : CKPT_POWER_UNKNOWN;

    if (present == CKPT_POWER_UNKNOWN)
        return CKPT_OUTCOME_UNCLEAR;
    return (present != CKPT_POWER_SHUT_OFF) == active ? CKPT_OUTCOME_DONE : CKPT_OUTCOME_NOT_DONE;
}

gboolean
ckpt_native_start(CkptNative *native, const char *vm_id, const CkptStep *step, GError **error)
{
    return bring(native, vm_id, step->power, error);
}

gboolean
ckpt_native_start_undo(CkptNative *native, const char *vm_id, const CkptStep *step, GError **error)
{
    return bring(native, vm_id, CKPT_POWER_SHUT_OFF, error);
}

CkptOutcome
ckpt_native_start_check(CkptNative *native, const char *vm_id, const CkptStep *step, GError **error)
{
    return check(native, vm_id, TRUE, error);
}

gboolean
ckpt_native_stop(CkptNative *native, const char *vm_id, const CkptStep *step, GError **error)
{
    return bring(native, vm_id, CKPT_POWER_SHUT_OFF, error);
}

gboolean
ckpt_native_stop_undo(CkptNative *native, const char *vm_id, const CkptStep *step, GError **error)
{
    if (step->power != CKPT_POWER_RUNNING && step->power != CKPT_POWER_PAUSED)
        return TRUE;
    return bring(native, vm_id, step->power, error);
}

CkptOutcome
ckpt_native_stop_check(CkptNative *native, const char *vm_id, const CkptStep *step, GError **error)
{
    return check(native, vm_id, FALSE, error);
}
