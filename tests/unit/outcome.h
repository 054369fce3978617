/* What the engine answers to one caller, and the wait for it. */
#pragma once

#include "agent/core/engine.h"

typedef struct {
    GMutex lock;
    GCond done;
    guint answers;
    CkptOperation *op; /* of the last one */
    GError *error;
} Outcome;
void outcome_clear(Outcome *outcome);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Outcome, outcome_clear)

/* For ckpt_engine_submit(); outcome is an Outcome. */
void outcome_take(CkptOperation *op, const GError *error, gpointer outcome);
/* Until so many came, iterating the main context; at most 30 s, then the test fails. */
void outcome_wait(Outcome *outcome, guint answers);
/* Sends it and waits for the answer. Takes the request. */
void outcome_call(CkptEngine *engine, CkptRequest *request, Outcome *outcome);
