/* The engine with a real store on the simulated hypervisor: one running VM with one disk. */
#pragma once

#include "agent/core/engine.h"
#include "agent/hypervisor/sim/sim.h"
#include "tests/unit/outcome.h"

#define FIXTURE_VM "11111111-1111-4111-8111-111111111111"
#define FIXTURE_IDENTITY "spiffe://test/operator"

typedef struct {
    char *dir;
    CkptSim *sim;
    CkptStore *store;
    CkptEngine *engine;
    CkptLimits limits;
    /* The next step of this kind (0 = none) fails before it does anything, and is then 0. */
    CkptStepKind fail_kind;
    guint32 written; /* by the guest, last */
} EngineFixture;

int engine_fixture_setup(void **state); /* cmocka's; *state is an EngineFixture */
int engine_fixture_teardown(void **state);
void engine_fixture_open(EngineFixture *fixture);
void engine_fixture_close(EngineFixture *fixture);
void engine_fixture_restart(EngineFixture *fixture);

/* checkpoint_id may be NULL. */
CkptRequest *engine_fixture_request(CkptKind kind, const char *request_id, const char *checkpoint_id);
/* Sends it and waits for the answer, iterating the main context. Takes the request. */
void engine_fixture_call(EngineFixture *fixture, CkptRequest *request, Outcome *outcome);
/* Expects a success; the ID of the new checkpoint, of the safety checkpoint, or of the deleted one. */
char *engine_fixture_must(EngineFixture *fixture, CkptKind kind, const char *checkpoint_id);
/* The guest writes a number that it never wrote before, and what the disk has of it now. */
guint32 engine_fixture_write(EngineFixture *fixture);
guint32 engine_fixture_read(EngineFixture *fixture);
