/* What a guest is up to, for the doctor. */
#include "agent/hypervisor/sim/sim.h"

gboolean
ckpt_sim_guest_look(CkptDriver *driver, const char *vm_id, CkptGuest *guest, GError **error)
{
    CkptSim *sim = (CkptSim *)driver;
    const CkptSimVm *vm;

    (void)error;
    g_rec_mutex_lock(&sim->lock);
    vm = ckpt_sim_find_vm(sim, vm_id);
    if (vm && vm->live) {
        guest->halt = vm->suspended ? CKPT_HALT_OURS : CKPT_HALT_NONE;
        guest->frozen_by_us = vm->guards > 0;
        guest->asked = vm->agent != CKPT_SIM_AGENT_NONE && vm->agent != CKPT_SIM_AGENT_HUNG;
        guest->frozen = guest->asked && vm->frozen;
    }
    g_rec_mutex_unlock(&sim->lock);
    return TRUE;
}

gboolean
ckpt_sim_guest_release(CkptDriver *driver, const char *vm_id, GError **error)
{
    CkptSim *sim = (CkptSim *)driver;
    CkptSimVm *vm;

    (void)error;
    g_rec_mutex_lock(&sim->lock);
    vm = ckpt_sim_find_vm(sim, vm_id);
    if (vm && vm->live && vm->guards > 0)
        ckpt_sim_wake_agent(vm);
    if (vm && vm->suspended) {
        vm->suspended = FALSE;
        vm->power = CKPT_POWER_RUNNING;
    }
    g_rec_mutex_unlock(&sim->lock);
    return TRUE;
}
