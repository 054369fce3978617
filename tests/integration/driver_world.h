/* For tests of the qemu driver on a real hypervisor: guests, and the driver's steps put together by
 * hand, each done twice, since every step must be idempotent. */
#pragma once

#include "agent/hypervisor/hypervisor.h"
#include "tests/unit/cmocka_all.h"

#define MAX_DISKS 4

typedef struct {
    char *name;
    char *id;
    CkptPlan *plan; /* the steps done so far, for what looks into its plan */
} Guest;

/* What a checkpoint of the planner's would be. */
typedef struct {
    char *tag;
    guint count;
    char *target[MAX_DISKS];
    char *sealed[MAX_DISKS];
    char *overlay[MAX_DISKS];
    CkptFormat format[MAX_DISKS];
    guint mode[MAX_DISKS];
    char *definition;
} Point;

extern CkptDriver *driver;
extern const char *folder; /* of the hypervisor */

void world_open(void);
void world_close(void);

/* A command of the shell, its output without the last newline; the test fails if it fails. */
char *sh(const char *format, ...) G_GNUC_PRINTF(1, 2);
gboolean sh_fails(const char *format, ...) G_GNUC_PRINTF(1, 2);

/* vda qcow2; with `raw`, a vdb that is raw. */
Guest *guest_new(const char *name, gboolean raw);
void guest_free(Guest *guest);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Guest, guest_free)
void guest_start(Guest *guest); /* and waits for its agent */
void guest_off(Guest *guest);
void guest_mark(Guest *guest, const char *text);        /* on every disk */
void guest_assert_mark(Guest *guest, const char *text); /* on every disk */
void guest_assert_ticks(Guest *guest);

CkptVm *look(Guest *guest);
void assert_clean(Guest *guest);
void assert_obstacle(Guest *guest, CkptReason reason, const char *disk);

CkptStep *step_new(Guest *guest, CkptStepKind kind); /* belongs to the guest's plan */
void step_add_disk(CkptStep *step, const char *target, const char *file, CkptFormat format);
void step_pass(Guest *guest, CkptStep *step); /* does it, checks it, does it again */
void step_refused(Guest *guest, CkptStep *step, CkptReason reason);
void step_undone(Guest *guest, CkptStep *step); /* twice */
CkptOutcome step_looks(Guest *guest, CkptStep *step);

void point_free(Point *point);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Point, point_free)
Point *point_prepare(Guest *guest, const char *tag); /* overlays made, tops sealed */
CkptStep *point_snapshot_step(Guest *guest, Point *point);
Point *point_create(Guest *guest, const char *tag);
/* By a plan of its own: new overlays named by `tag`, defined; the VM runs on them afterwards if `start`. */
void point_restore(Guest *guest, Point *point, const char *tag, gboolean start);
/* With all its files unsealed. */
CkptStep *merge_step(Guest *guest, const char *target, const char *file, const char *base,
                     CkptFormat base_format, const char *above);
