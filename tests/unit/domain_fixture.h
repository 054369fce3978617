/* A VM of libvirt's test driver on real image files, and a step of a plan for it. */
#pragma once

#include "agent/hypervisor/qemu.h"
#include "tests/unit/image_fixture.h"

#define VM "11111111-1111-4111-8111-111111111111"

typedef struct {
    CkptConnection *connection;
    CkptPlan *plan; /* of this step alone */
    CkptStep *step; /* of which `disks` is disk vda on $d/o */
    CkptQemuOptions options;
    CkptRun run;
} World;

/* The VM runs on $d/b, for which the empty overlay $d/o was made; the step is of a create. */
World *world_before(CkptStepKind kind);
/* It runs on $d/o, which lies on $d/b and has data. No QEMU has either open. With `theirs` another tool has laid
 * $d/theirs on the disk. The step is of a delete. */
World *world_after(CkptStepKind kind, gboolean theirs);
void world_free(World *world);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(World, world_free)
/* The step becomes that of $d/FILE into $d/BASE. */
void set_merge(World *world, const char *file, const char *base);

virDomainPtr world_vm(World *world);
void stop_vm(World *world);
