/* Guest agents, good and bad, and what a snapshot makes of them. */
#include "agent/hypervisor/sim/sim.h"

static gboolean
hears(const CkptSimVm *vm)
{
    return vm->agent != CKPT_SIM_AGENT_HUNG && vm->agent != CKPT_SIM_AGENT_LATE &&
           vm->agent != CKPT_SIM_AGENT_DEAF;
}

/* File systems, as the guest agent says; -1 = an error. */
static int
freeze(CkptSimVm *vm)
{
    switch (vm->agent) {
    case CKPT_SIM_AGENT_NONE:
    case CKPT_SIM_AGENT_HUNG:
    case CKPT_SIM_AGENT_REFUSING:
        return -1;
    case CKPT_SIM_AGENT_LATE:
        vm->frozen = TRUE;
        return -1;
    case CKPT_SIM_AGENT_LYING:
        vm->frozen = TRUE;
        return 0;
    case CKPT_SIM_AGENT_GOOD:
    case CKPT_SIM_AGENT_IMPATIENT:
    case CKPT_SIM_AGENT_DEAF:
        vm->frozen = TRUE;
        return 1;
    }
    return -1;
}

static int
thaw(CkptSimVm *vm)
{
    int count = vm->frozen ? 1 : 0;

    if (!hears(vm)) {
        vm->guards = 1;
        return -1;
    }
    vm->frozen = FALSE;
    return count;
}

void
ckpt_sim_wake_agent(CkptSimVm *vm)
{
    vm->agent = CKPT_SIM_AGENT_GOOD;
    if (vm->guards)
        vm->frozen = FALSE;
    vm->guards = 0;
}

static void
set_results(CkptStep *step, const char *why)
{
    step->reached = why ? CKPT_CONSISTENCY_CRASH : CKPT_CONSISTENCY_APPLICATION;
    step->freeze_us = why ? -1 : 1000;
    step->pause_us = 0;
    ckpt_set_str(&step->note, why);
}

static gboolean
is_good_enough(const CkptStep *step, GError **error)
{
    if (step->reached >= step->minimum)
        return TRUE;
    ckpt_error_set(error, CKPT_REASON_QUIESCE_FAILED, "%s", step->note);
    return FALSE;
}

gboolean
ckpt_sim_frozen(CkptSimRun *run, CkptSimVm *vm, gboolean (*act)(CkptSimRun *run, GError **error),
                GError **error)
{
    CkptStep *step = run->step;
    const char *why = NULL;
    int frozen;

    if (step->asked < CKPT_CONSISTENCY_APPLICATION || !vm->live)
        return act(run, error);
    step->reached = (CkptConsistency)0;
    frozen = freeze(vm);
    if (!ckpt_sim_begin(run, error))
        return FALSE;
    if (frozen <= 0) {
        why = frozen ? "the guest agent did not freeze" : "the guest agent froze nothing";
        (void)thaw(vm);
        set_results(step, why);
        return is_good_enough(step, error) && act(run, error);
    }
    if (!act(run, error))
        return FALSE; /* whoever asks what became of it thaws first */
    if (vm->agent == CKPT_SIM_AGENT_IMPATIENT)
        vm->frozen = FALSE;
    switch (thaw(vm)) {
    case -1:
        why = "the thaw was not confirmed";
        break;
    case 0:
        why = "the guest thawed by itself";
        break;
    }
    if (!ckpt_sim_begin(run, error))
        return FALSE;
    set_results(step, why);
    return is_good_enough(step, error);
}

gboolean
ckpt_sim_recover(CkptSimRun *run, CkptSimVm *vm, GError **error)
{
    if (run->step->asked < CKPT_CONSISTENCY_APPLICATION || run->step->reached || !vm->live)
        return TRUE;
    (void)thaw(vm);
    return ckpt_sim_begin(run, error);
}
