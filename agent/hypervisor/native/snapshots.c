/* The three calls that matter: make, revert to and delete a snapshot of the hypervisor's own. */
#include "agent/hypervisor/native/native.h"

/* The snapshot with this name. NULL: with *gone it is not there, else *error says why it cannot be told. */
static virDomainSnapshotPtr
look_up(virDomainPtr domain, const char *name, gboolean *gone, GError **error)
{
    virDomainSnapshotPtr snapshot = virDomainSnapshotLookupByName(domain, name, 0);

    *gone = !snapshot && ckpt_libvirt_code() == VIR_ERR_NO_DOMAIN_SNAPSHOT;
    if (!snapshot && !*gone)
        ckpt_libvirt_error(error, CKPT_REASON_HYPERVISOR_FAILED, "look up snapshot %s", name);
    return snapshot;
}

gboolean
ckpt_native_read(virDomainSnapshotPtr snapshot, CkptSnapshotXml *found, GError **error)
{
    char *xml = virDomainSnapshotGetXMLDesc(snapshot, 0);
    gboolean good;

    if (!xml && ckpt_libvirt_code() == VIR_ERR_NO_DOMAIN_SNAPSHOT) {
        ckpt_error_set(error, CKPT_REASON_CHECKPOINT_NOT_ENABLED,
                       "the hypervisor no longer has its snapshot %s",
                       virDomainSnapshotGetName(snapshot));
        return FALSE;
    }
    if (!xml) {
        ckpt_libvirt_error(error, CKPT_REASON_HYPERVISOR_FAILED, "read snapshot %s",
                           virDomainSnapshotGetName(snapshot));
        return FALSE;
    }
    good = ckpt_snapshot_xml_read(xml, found, error);
    free(xml);
    return good;
}

/* ---- Create ---- */

static gboolean
is_what_was_planned(CkptNative *native, const CkptStep *step, const CkptSnapshotXml *found)
{
    const gboolean active = step->power != CKPT_POWER_SHUT_OFF;

    return (found->power != CKPT_POWER_SHUT_OFF) == active &&
           (!active || !native->platform.memory ||
            (found->memory && found->power != CKPT_POWER_UNKNOWN));
}

static CkptOutcome
check_created(CkptNative *native, virDomainPtr domain, const CkptStep *step, GError **error)
{
    gboolean gone;
    g_autoptr(virDomainSnapshot) snapshot = look_up(domain, step->checkpoint_id, &gone, error);
    g_auto(CkptSnapshotXml) found = {0};
    g_autoptr(GError) why = NULL;

    if (!snapshot)
        return gone ? CKPT_OUTCOME_NOT_DONE : CKPT_OUTCOME_UNCLEAR;
    if (!ckpt_native_read(snapshot, &found, &why)) {
        gone = ckpt_error_reason(why) == CKPT_REASON_CHECKPOINT_NOT_ENABLED;
        g_propagate_error(error, g_steal_pointer(&why));
        return gone ? CKPT_OUTCOME_NOT_DONE : CKPT_OUTCOME_UNCLEAR;
    }
    if (is_what_was_planned(native, step, &found))
        return CKPT_OUTCOME_DONE;
    ckpt_error_set(error, CKPT_REASON_VM_BUSY,
                   "the snapshot is of a VM that is %s%s, not %s: it was started or stopped meanwhile",
                   ckpt_power_name(found.power), found.memory ? "" : ", without its memory",
                   ckpt_power_name(step->power));
    return CKPT_OUTCOME_NOT_DONE;
}

/* A VM that is not defined has no snapshots. */
static virDomainPtr
find_domain(CkptNative *native, const char *vm_id, gboolean *gone, GError **error)
{
    g_autoptr(GError) why = NULL;
    virDomainPtr domain = ckpt_connection_lookup(native->connection, vm_id, &why);

    *gone = !domain && ckpt_error_reason(why) == CKPT_REASON_VM_NOT_FOUND;
    if (!domain && !*gone)
        g_propagate_error(error, g_steal_pointer(&why));
    return domain;
}

CkptOutcome
ckpt_native_create_check(CkptNative *native, const char *vm_id, const CkptStep *step, GError **error)
{
    gboolean gone;
    g_autoptr(virDomain) domain = find_domain(native, vm_id, &gone, error);

    if (!domain)
        return gone ? CKPT_OUTCOME_NOT_DONE : CKPT_OUTCOME_UNCLEAR;
    return check_created(native, domain, step, error);
}

gboolean
ckpt_native_create(CkptNative *native, const char *vm_id, const CkptStep *step, GError **error)
{
    g_autoptr(virDomain) domain = ckpt_connection_lookup(native->connection, vm_id, error);
    g_autofree char *xml = ckpt_snapshot_xml_new(step->checkpoint_id, step->text);
    g_autoptr(virDomainSnapshot) made = NULL;
    CkptPower present = domain ? ckpt_native_power(domain, error) : CKPT_POWER_UNKNOWN;

    if (present == CKPT_POWER_UNKNOWN)
        return FALSE;
    if ((present == CKPT_POWER_SHUT_OFF) != (step->power == CKPT_POWER_SHUT_OFF)) {
        ckpt_error_set(error, CKPT_REASON_VM_BUSY, "the VM is %s now, it was %s when this was planned",
                       ckpt_power_name(present), ckpt_power_name(step->power));
        return FALSE;
    }
    if (check_created(native, domain, step, NULL) == CKPT_OUTCOME_DONE)
        return TRUE;
    made = virDomainSnapshotCreateXML(domain, xml, 0);
    if (!made) {
        ckpt_libvirt_error(error, CKPT_REASON_HYPERVISOR_FAILED, "make the snapshot");
        return FALSE;
    }
    return check_created(native, domain, step, error) == CKPT_OUTCOME_DONE;
}

/* ---- Delete ---- */

gboolean
ckpt_native_delete(CkptNative *native, const char *vm_id, const CkptStep *step, GError **error)
{
    gboolean gone;
    g_autoptr(virDomain) domain = find_domain(native, vm_id, &gone, error);
    g_autoptr(virDomainSnapshot) snapshot =
        domain ? look_up(domain, step->checkpoint_id, &gone, error) : NULL;

    if (!snapshot)
        return gone;
    /* Without a flag its children move up. */
    if (virDomainSnapshotDelete(snapshot, 0) == 0)
        return TRUE;
    ckpt_libvirt_error(error, CKPT_REASON_HYPERVISOR_FAILED, "delete the snapshot");
    return FALSE;
}

gboolean
ckpt_native_create_undo(CkptNative *native, const char *vm_id, const CkptStep *step, GError **error)
{
    return ckpt_native_delete(native, vm_id, step, error);
}

CkptOutcome
ckpt_native_delete_check(CkptNative *native, const char *vm_id, const CkptStep *step, GError **error)
{
    gboolean gone;
    g_autoptr(virDomain) domain = find_domain(native, vm_id, &gone, error);
    g_autoptr(virDomainSnapshot) snapshot =
        domain ? look_up(domain, step->checkpoint_id, &gone, error) : NULL;

    if (snapshot)
        return CKPT_OUTCOME_NOT_DONE;
    return gone ? CKPT_OUTCOME_DONE : CKPT_OUTCOME_UNCLEAR;
}

/* ---- Revert ---- */

static gboolean
set_autostart(virDomainPtr domain, gboolean wanted, GError **error)
{
    int present = 0;

    if (virDomainGetAutostart(domain, &present) < 0) {
        if (ckpt_libvirt_code() == VIR_ERR_NO_SUPPORT)
            return TRUE;
        ckpt_libvirt_error(error, CKPT_REASON_HYPERVISOR_FAILED, "read its autostart");
        return FALSE;
    }
    if ((present != 0) == wanted || virDomainSetAutostart(domain, wanted) == 0)
        return TRUE;
    ckpt_libvirt_error(error, CKPT_REASON_HYPERVISOR_FAILED, "set its autostart");
    return FALSE;
}

/* FORCE: a restore replaces the VM whatever it is doing now; what libvirt calls risky is that it starts
 * another process for it. The test driver's revert to a snapshot without memory ignores RUNNING: the
 * VM is started afterwards, by a step of its own. */
static unsigned int
flags_for(CkptNative *native, const CkptSnapshotXml *found, CkptPower power)
{
    if (!native->platform.revert_flags)
        return 0;
    if (found->power == CKPT_POWER_SHUT_OFF)
        return VIR_DOMAIN_SNAPSHOT_REVERT_FORCE;
    return VIR_DOMAIN_SNAPSHOT_REVERT_FORCE |
           (power == CKPT_POWER_PAUSED ? VIR_DOMAIN_SNAPSHOT_REVERT_PAUSED
                                       : VIR_DOMAIN_SNAPSHOT_REVERT_RUNNING);
}

/* power: UNKNOWN = as the snapshot has it. */
static gboolean
revert_to(CkptNative *native, virDomainPtr domain, const char *name, CkptPower power, GError **error)
{
    gboolean gone;
    g_autoptr(virDomainSnapshot) snapshot = look_up(domain, name, &gone, error);
    g_auto(CkptSnapshotXml) found = {0};

    if (!snapshot) {
        if (gone)
            ckpt_error_set(error, CKPT_REASON_CHECKPOINT_NOT_ENABLED,
                           "the hypervisor no longer has its snapshot %s", name);
        return FALSE;
    }
    if (!ckpt_native_read(snapshot, &found, error))
        return FALSE;
    if (found.power == CKPT_POWER_SHUT_OFF || power == CKPT_POWER_UNKNOWN)
        power = found.power;
    if (virDomainRevertToSnapshot(snapshot, flags_for(native, &found, power)) < 0) {
        ckpt_libvirt_error(error, CKPT_REASON_HYPERVISOR_FAILED, "revert to snapshot %s", name);
        return FALSE;
    }
    return power == CKPT_POWER_UNKNOWN || ckpt_native_bring_to(domain, power, error);
}

static CkptOutcome
check_current(virDomainPtr domain, const char *name, GError **error)
{
    g_autoptr(virDomainSnapshot) current = NULL;
    int has = virDomainHasCurrentSnapshot(domain, 0);

    if (has == 0)
        return CKPT_OUTCOME_NOT_DONE;
    current = has == 1 ? virDomainSnapshotCurrent(domain, 0) : NULL;
    if (!current) {
        ckpt_libvirt_error(error, CKPT_REASON_HYPERVISOR_FAILED, "ask for the current snapshot");
        return CKPT_OUTCOME_UNCLEAR;
    }
    return g_str_equal(virDomainSnapshotGetName(current), name) ? CKPT_OUTCOME_DONE
                                                                : CKPT_OUTCOME_NOT_DONE;
}

/* The snapshot is current before the VM is in the power state asked for: what was cut short in between, or failed
 * there, is ended here, so that no guest is left standing that was to run. */
static CkptOutcome
end_in_power(virDomainPtr domain, CkptPower power, GError **error)
{
    if ((power != CKPT_POWER_RUNNING && power != CKPT_POWER_PAUSED) || ckpt_native_bring_to(domain, power, error))
        return CKPT_OUTCOME_DONE;
    return ckpt_native_power(domain, NULL) == CKPT_POWER_UNKNOWN ? CKPT_OUTCOME_UNCLEAR : CKPT_OUTCOME_NOT_DONE;
}

CkptOutcome
ckpt_native_revert_check(CkptNative *native, const char *vm_id, const CkptStep *step, GError **error)
{
    g_autoptr(virDomain) domain = ckpt_connection_lookup(native->connection, vm_id, error);
    CkptOutcome current = domain ? check_current(domain, step->checkpoint_id, error) : CKPT_OUTCOME_UNCLEAR;

    return current == CKPT_OUTCOME_DONE ? end_in_power(domain, step->power, error) : current;
}

gboolean
ckpt_native_revert(CkptNative *native, const char *vm_id, const CkptStep *step, GError **error)
{
    g_autoptr(virDomain) domain = ckpt_connection_lookup(native->connection, vm_id, error);

    return domain && set_autostart(domain, step->autostart, error) &&
           revert_to(native, domain, step->checkpoint_id, step->power, error);
}

/* Whether the VM is anything but what it was when `base` was made of it just before. A revert that failed
 * half-way may have stopped it without making the other snapshot current. */
static CkptOutcome
is_as_before(CkptNative *native, virDomainPtr domain, const CkptStep *step, GError **error)
{
    CkptOutcome reverted = check_current(domain, step->checkpoint_id, error);
    g_autoptr(virDomainSnapshot) base = NULL;
    g_auto(CkptSnapshotXml) found = {0};
    CkptPower present;
    gboolean gone;

    if (reverted != CKPT_OUTCOME_NOT_DONE)
        return reverted == CKPT_OUTCOME_DONE ? CKPT_OUTCOME_NOT_DONE : CKPT_OUTCOME_UNCLEAR;
    base = look_up(domain, step->base, &gone, error);
    if (!base) /* lost with the process that kept it: there is nothing to go back to */
        return gone ? CKPT_OUTCOME_DONE : CKPT_OUTCOME_UNCLEAR;
    present = ckpt_native_power(domain, error);
    if (present == CKPT_POWER_UNKNOWN || !ckpt_native_read(base, &found, error))
        return CKPT_OUTCOME_UNCLEAR;
    return (present == CKPT_POWER_SHUT_OFF) == (found.power == CKPT_POWER_SHUT_OFF)
               ? CKPT_OUTCOME_DONE
               : CKPT_OUTCOME_NOT_DONE;
}

static gboolean
go_back(CkptNative *native, virDomainPtr domain, const CkptStep *step, GError **error)
{
    switch (is_as_before(native, domain, step, error)) {
    case CKPT_OUTCOME_DONE:
        return TRUE;
    case CKPT_OUTCOME_NOT_DONE:
        return revert_to(native, domain, step->base, CKPT_POWER_UNKNOWN, error);
    case CKPT_OUTCOME_UNCLEAR:
        break;
    }
    return FALSE;
}

/* The VM itself first: whether it starts with its host matters less. */
gboolean
ckpt_native_revert_undo(CkptNative *native, const char *vm_id, const CkptStep *step, GError **error)
{
    g_autoptr(virDomain) domain = ckpt_connection_lookup(native->connection, vm_id, error);

    return domain && go_back(native, domain, step, error) &&
           set_autostart(domain, step->autostart_before, error);
}
