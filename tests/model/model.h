/* The model: what must be true of VMs and checkpoints, kept beside the real engine, planner and store
 * that work on a simulated hypervisor. It never looks at the engine's own idea of things, save to compare
 * it. One world at a time; everything here is the main thread's but where said otherwise. */
#pragma once

#include "agent/core/engine.h"
#include "agent/hypervisor/sim/sim.h"

#define MODEL_VMS 3
#define MODEL_TARGETS 4 /* vda … vdd */
#define MODEL_FAULTS 2

/* What a disk holds, whatever files it lies in. */
typedef struct {
    gboolean attached;
    guint disk;       /* which one: stays the same through checkpoints, detaching and attaching */
    gboolean clone;   /* its owner laid it on a file of the agent's: once no definition and no checkpoint
                         has it, nobody can know of it, and it is its owner's to throw away */
    guint cells;
    guint32 data[CKPT_SIM_CELLS];
} Image;

typedef struct {
    guint memory;     /* the hardware configuration */
    Image disks[MODEL_TARGETS];
} State;

typedef struct {
    char *id;
    guint vm;
    State state;
    CkptPower power;
    gboolean held;
    gboolean deleting;             /* begun, and not finished */
    gboolean deferred;             /* waits until one branch is left */
} Expected;

/* A disk's newest file that nothing refers to any more: somebody's only copy. */
typedef struct {
    guint vm;
    char *path;
    CkptFormat format;
    Image image;
    guint restores;                /* that the VM had had when it was detached */
} Detached;

/* A snapshot of another tool's, and what each disk held then. */
typedef struct {
    guint vm;
    CkptSimSnapshot *snapshot;     /* the sim's */
    State state;
} Foreign;

typedef struct {
    const char *id;
    State present;
    CkptPower power;
    CkptSimDefinition *redefined;  /* the right one, while somebody has put a wrong one in its place */
    char *vanished;                /* where a file of its checkpoints was, while somebody has it */
    CkptSimFile *vanished_file;
    guint restores;
    gboolean reattached;           /* a disk that was away during a restore is back: perhaps from another branch */
} ModelVm;

/* ---- Faults: at the n-th moment at which something can go wrong ---- */

typedef enum {
    FAULT_NONE,
    FAULT_ERROR,        /* the call fails there */
    FAULT_CRASH,        /* the agent dies there */
    FAULT_HOST,         /* the agent, libvirt and every QEMU die there */
    FAULT_AWAY,         /* libvirt cannot be reached for some calls */
    FAULT_QEMU,         /* the VM dies there */
    FAULT_WRITE,        /* the guest writes there */
    FAULT_OWNER_STOP,
    FAULT_OWNER_START,
    FAULT_SYNC,         /* the next sync of the store's fails: whether its commit was made is open */
    FAULT_FULL,         /* somebody fills the file system, until the operation has ended */
    FAULT_OWNER_SAVE,   /* the VM's owner saves it there (virsh managedsave), and is back for it later */
    FAULT_KINDS
} FaultKind;

typedef struct {
    FaultKind kind;
    guint at;           /* 1 = the first moment */
    guint32 chance;
} Fault;

/* ---- Actions: drawn before the run, so that leaving some out keeps the others as they are ---- */

typedef enum {
    ACT_WRITE,
    ACT_CREATE,
    ACT_RESTORE,
    ACT_DELETE,
    ACT_UPDATE,
    ACT_REPEAT,
    ACT_POWER,
    ACT_RESIZE,
    ACT_ATTACH,
    ACT_DETACH,
    ACT_CONFIGURE,
    ACT_CLONE,
    ACT_VANISH,
    ACT_REDEFINE,
    ACT_RESTART,
    ACT_HOST,
    ACT_DEFER,                     /* a delete that may wait */
    ACT_FOREIGN,                   /* another tool makes a snapshot, or ends one */
    ACT_MIGRATE,                   /* all VMs to the other host */
    ACT_LOSE,                      /* the catalogue is lost */
    ACT_SAVE,                      /* the VM's owner saves it, or removes what was saved */
    ACT_KINDS
} ActionKind;

typedef struct {
    ActionKind kind;
    guint32 a, b, c, d;
    Fault faults[MODEL_FAULTS];
} Action;

/* ---- The attempt under way ---- */

typedef struct {
    CkptKind kind;
    guint vm;
    char *request_id;
    char *checkpoint_id;       /* NULL for a create */
    gboolean discard;
    gboolean when_possible;    /* of a delete */
    gboolean memory;           /* of a create: captured, where the VM can */
    gboolean without_memory;   /* of a restore */
    CkptPower power;           /* wanted by a restore; UNKNOWN = as captured */
    char *hold;                /* of an update */
    guint64 inode_before;      /* files made since belong to the attempt */
    State restored;            /* of a restore: what the VM has once it runs on the new files */
    CkptPower power_before;
    gboolean power_open;       /* somebody turned the VM on or off meanwhile */
    guint back;                /* moments until the owner who saved it is back for it; 0 = he is not expected */
    gboolean removes;          /* what he saved, then; else he starts it */
} Attempt;

/* A request that ended, to be sent again. */
typedef struct {
    CkptKind kind;
    guint vm;
    char *request_id, *checkpoint_id, *hold;
    gboolean discard, when_possible, memory, without_memory;
    CkptPower power;
    char *result_id;           /* of the checkpoint in the reply */
} Past;

typedef struct {
    CkptSim *sim;
    CkptStore *store;
    CkptEngine *engine;
    CkptLimits limits;
    char *dir;                 /* of the agent that has the VMs */
    char *other_dir;           /* of the other host's; NULL: there is one host only */
    guint migrations, losses_of_catalogue;

    ModelVm vms[MODEL_VMS];
    GPtrArray *expected;       /* Expected */
    GPtrArray *detached;       /* Detached */
    GPtrArray *past;           /* Past */
    GPtrArray *foreign;        /* Foreign */
    guint last_snapshot;       /* of all that were ever made */
    GHashTable *captures;      /* checkpoint ID → State, at the instant of its snapshot */
    guint touched;             /* the VM that the last action was about */
    gboolean manifests_open;   /* one may be missing */
    GHashTable *excused;       /* paths whose removal, or whose manifest's, was told to fail */
    GHashTable *kept;          /* paths that were doomed while nobody could tell on what some disk lies */
    guint32 last_value;        /* that a guest wrote */
    guint last_disk, last_file;
    guint64 ids;               /* state of the generator of IDs */

    /* The worker's, while an operation is under way. */
    Attempt *attempt;
    Fault faults[MODEL_FAULTS];
    guint fault;               /* the next one */
    guint moments, changes;
    guint away;                /* calls for which libvirt stays away */
    guint64 filled;            /* bytes of the file system that somebody has taken */
    gboolean in_job;           /* of libvirt's: no other one begins, as that of a save */
    int dead;                  /* atomic: from here on nothing has any effect */
    gboolean fired;            /* a fault took effect in this attempt */
    gboolean store_failed, journalling;
    guint32 sync_chance;       /* of the sync that was told to fail */
    gboolean power_cut;        /* unsynced writes of the store are lost when it is closed */
    guint64 losses;            /* state of the generator of what is lost */

    GMutex lock;
    GCond changed;             /* answered, or dead */
    char *violation;           /* the first; NULL = none */
    gboolean over;             /* nothing more can be said of this world */
    gboolean verbose;
    guint done, refused, failed, recovered, fired_count;
    guint reasons[64];
} Model;

extern Model *model_present;   /* for what has no other way to it */

void model_fail(Model *model, const char *format, ...) G_GNUC_PRINTF(2, 3);
void model_log(Model *model, const char *format, ...) G_GNUC_PRINTF(2, 3);

/* world.c: the world's beginning */
Model *model_new(guint64 seed, const char *dir);
void model_free(Model *model);
const char *model_target(guint index);
CkptSimVm *model_sim_vm(Model *model, guint vm);
Expected *model_find_expected(Model *model, const char *id); /* NULL if none */
gboolean model_is_odd(Model *model); /* somebody did what owners should not, and it still stands */
void model_forget_expected(Model *model, const char *id);
/* A disk that nobody had yet, with contents. */
void model_add_disk(Model *model, guint vm, guint index, guint64 *random);

/* owners.c: guests and owners */
void model_guest_write(Model *model, guint vm, guint32 chance);
void model_act(Model *model, const Action *action); /* what is no mutation */
/* migrate.c: there are two hosts from now on; and all VMs go to the other one. */
void model_share(Model *model);
void model_migrate(Model *model, const Action *action);

/* lose.c: the catalogue, while the agent is down */
void model_lose(Model *model, const Action *action);

/* foreign.c: other tools */
void model_act_foreign(Model *model, const Action *action);
void model_check_foreign(Model *model);

/* agent.c: the agent's life and the faults */
gboolean model_agent_start(Model *model);
void model_agent_stop(Model *model);
void model_cut_power(Model *model); /* the host goes down: the next start finds what was synced, and
                                       of the rest what chance left */
/* Until what a crash left is settled; a fault may end this agent, too: then another is started. */
void model_agent_restart(Model *model);
void model_wake(Model *model); /* on any thread: ready() may say so now */
void model_wait(Model *model, gboolean (*ready)(Model *model, gpointer data), gpointer data);
void model_wait_idle(Model *model);

/* operate.c: mutations */
void model_reconcile(Model *model); /* what the agent has finished by itself */
/* A delete that waits may be due and not begun: its own attempt failed, or what it waited for went away
 * unseen. The agent begins it when it is told of anything: here, and not in the midst of what follows. */
void model_finish_deletes(Model *model);
void model_mutate(Model *model, const Action *action);
void model_repeat(Model *model, const Action *action);
/* One that the agent does not survive: it is stopped then. FALSE: it was over earlier, or none could be chosen. */
gboolean model_interrupt(Model *model, const Action *action, Attempt *attempt);
void model_attempt_clear(Attempt *attempt);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Attempt, model_attempt_clear)

/* check.c */
void model_check_vms(Model *model); /* what the files alone tell */
void model_check(Model *model);     /* and what the catalogue says; slower */
/* After a look with no fault: what was told to fail to be removed earlier is gone. */
void model_excuse_doomed(Model *model, guint vm);
void model_check_doomed(Model *model, guint vm);
/* What is wrong with a disk that should hold this; NULL if nothing is. */
char *model_compare(CkptSim *sim, GPtrArray *chain, const Image *image);

/* script.c */
void script_draw(guint64 seed, Action *actions, guint count);
/* Runs a world of these actions; NULL, or what went wrong (transfer full). */
char *script_run(guint64 seed, const Action *actions, guint count, const char *dir, gboolean verbose,
                 Model *totals);
guint script_shrink(guint64 seed, Action *actions, guint count, const char *dir);
char *script_describe(const Action *action); /* as regress.c has it */
guint64 script_next(guint64 *state); /* a random number */

/* regress.c */
typedef struct {
    const char *found;
    guint64 seed;
    guint count;
    Action actions[12];
} Regression;
const Regression *regressions(guint *count);
