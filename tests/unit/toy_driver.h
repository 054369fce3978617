/* A toy hypervisor in memory, for the tests of executor and engine: one VM with one disk, whose files
 * are a table path → (file below, contents). A step can be made to fail, before or after its effect. */
#pragma once

#include "agent/hypervisor/hypervisor.h"

#define TOY_VM "11111111-1111-4111-8111-111111111111"

typedef struct {
    char *backing; /* NULL at the root */
    char *data;    /* what was written to this layer; NULL = nothing */
    guint mode;
    gint64 changed;
} ToyFile;

typedef enum { TOY_FAIL_BEFORE, TOY_FAIL_AFTER } ToyFailure;

typedef struct {
    CkptDriver base;
    GMutex lock;            /* guards all below */
    GHashTable *files;      /* path → ToyFile */
    char *top;              /* of the definition */
    char *live_top;         /* NULL while off */
    gboolean running;
    GString *log;           /* step names, "-" before an undone one, blanks between */
    guint calls;            /* of step_do so far */
    guint fail_at;          /* the n-th step_do from now fails; 0 = none */
    ToyFailure failure;
    CkptReason reason;      /* with which it fails */
    const char *found;      /* the warning of a look at a SNAPSHOT; NULL = none */
    gboolean lived_in;      /* a guest has written to the overlays of a restore */
    gboolean taken_up;      /* the last START was of an operation that another agent had begun */
    guint polls;            /* each step_do tells so often that it moves bytes, of a length not known */
    GMutex *gate;           /* step_do waits for it; NULL = not */
    int at_gate; /* atomic; steps that came to it */
    gint64 clock;
} ToyDriver;

ToyDriver *toy_driver_new(void);
/* The guest writes. */
void toy_write(ToyDriver *toy, const char *data);
/* What the guest reads: the newest layer that has data. */
const char *toy_read(ToyDriver *toy);
/* Everything that must be as before after a failure: files, tops, modes, power. (transfer full) */
char *toy_describe(ToyDriver *toy);
