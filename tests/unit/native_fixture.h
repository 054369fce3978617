/* The native driver over libvirt's test driver, which lives in this very process: a host of two VMs of its own,
 * and the steps of one of them. */
#pragma once

#include "cmocka_all.h"

#include "agent/hypervisor/hypervisor.h"
#include "agent/hypervisor/libvirt_types.h"

#define ON "11111111-1111-4111-8111-111111111111"
#define OFF "22222222-2222-4222-8222-222222222222"
#define DEFAULT_VM "6695eb01-f6a4-8304-79aa-97f2502e193f"
#define A "aaaaaaaa-0000-4000-8000-000000000001"
#define B "bbbbbbbb-0000-4000-8000-000000000002"

typedef struct {
    char *file;
    CkptDriver *driver;
    CkptPlan *plan;
} Fixture;
void fixture_clear(Fixture *f);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Fixture, fixture_clear)

CkptDriver *open_driver(const char *uri);
/* query: "" or "?live=no" and the like. */
void open_file(Fixture *f, const char *vm_id, const char *query);

CkptStep step_of(CkptStepKind kind, const char *id, CkptPower power);
CkptStep create(const char *id, CkptPower power);
CkptStep revert(const char *to, const char *back, CkptPower power);
CkptStep delete(const char *id);
gboolean run(Fixture *f, CkptStep step, GError **error);
void must(Fixture *f, CkptStep step);
void must_undo(Fixture *f, CkptStep step);
CkptOutcome check(Fixture *f, CkptStep step);

CkptVm *look(Fixture *f);
void assert_power(Fixture *f, CkptPower power);
