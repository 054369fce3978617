#include "tests/unit/domain_fixture.h"

/* $d/host.xml: the VM, with this source for its disk. The test driver starts what it is given. */
static void
write_host(const char *source)
{
    g_autofree char *command = g_strconcat(
        "cat >$d/host.xml <<END\n<node><domain type='test'><name>vm</name><uuid>" VM "</uuid>"
        "<memory>65536</memory><vcpu>1</vcpu><os><type>hvm</type></os><devices>"
        "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>", source,
        "<target dev='vda'/></disk></devices></domain></node>\nEND", NULL);

    shell(command);
}

static World *
world_new(CkptKind plan, CkptStepKind kind)
{
    World *world = g_new0(World, 1);
    g_autofree char *uri = g_strdup_printf("test://%s/host.xml", images);
    g_autofree char *overlay = image("o");

    world->connection = ckpt_connection_new_shared(uri);
    world->plan = ckpt_plan_new(plan);
    world->plan->vm_id = g_strdup(VM);
    world->step = ckpt_step_new(kind);
    world->step->disks = g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_disk_file_free);
    g_ptr_array_add(world->step->disks, ckpt_disk_file_new("vda", overlay, CKPT_FORMAT_QCOW2, NULL));
    g_ptr_array_add(world->plan->steps, world->step);
    world->run = (CkptRun){.connection = world->connection,
                           .plan = world->plan,
                           .step = world->step,
                           .options = &world->options};
    return world;
}

World *
world_before(CkptStepKind kind)
{
    shell("rm -rf $d/*; qemu-img create -q -f qcow2 $d/b 1M; qemu-img create -q -f qcow2 -F qcow2 -b $d/b $d/o");
    write_host("<source file='$d/b'/>");
    return world_new(CKPT_KIND_CREATE, kind);
}

#define LIES_ON(file, below)                                                                                    \
    "<backingStore type='file'><format type='qcow2'/><source file='$d/" file "'/>" below "</backingStore>"

World *
world_after(CkptStepKind kind, gboolean theirs)
{
    shell("rm -rf $d/*; qemu-img create -q -f qcow2 $d/b 1M; "
          "qemu-img create -q -f qcow2 -F qcow2 -b $d/b $d/o; qemu-io -f qcow2 -c 'write -q -P 7 0 64k' $d/o; "
          "qemu-img create -q -f qcow2 -F qcow2 -b $d/o $d/theirs");
    write_host(theirs ? "<source file='$d/theirs'/>" LIES_ON("o", LIES_ON("b", "<backingStore/>"))
                      : "<source file='$d/o'/>" LIES_ON("b", "<backingStore/>"));
    return world_new(CKPT_KIND_DELETE, kind);
}

void
set_merge(World *world, const char *file, const char *base)
{
    world->step->target = g_strdup("vda");
    world->step->file = image(file);
    world->step->base = image(base);
    world->step->base_format = CKPT_FORMAT_QCOW2;
}

void
world_free(World *world)
{
    ckpt_plan_free(world->plan);
    ckpt_connection_free(world->connection);
    g_free(world);
}

virDomainPtr
world_vm(World *world)
{
    virDomainPtr domain = ckpt_connection_lookup(world->connection, VM, NULL);

    assert_non_null(domain);
    return domain;
}

void
stop_vm(World *world)
{
    g_autoptr(virDomain) domain = world_vm(world);

    assert_int_equal(virDomainDestroy(domain), 0);
}
