#include "native_fixture.h"

#include <glib/gstdio.h>
#include <unistd.h>

#define DOMAIN(name, id, more)                                                                     \
    "<domain type='test'><name>" name "</name><uuid>" id "</uuid><memory>65536</memory>"           \
    "<vcpu>1</vcpu><os><type>hvm</type></os>" more "<devices>"                                     \
    "<disk type='file' device='disk'><source file='/nowhere/" name "'/><target dev='vda'/></disk>" \
    "<disk type='file' device='cdrom'><target dev='sda'/></disk></devices></domain>"
static const char host_xml[] =
    "<node xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>"
    DOMAIN("on", ON, "") DOMAIN("off", OFF, "<test:runstate>5</test:runstate>") "</node>";

CkptDriver *
open_driver(const char *uri)
{
    g_autoptr(GError) error = NULL;
    CkptDriver *driver = ckpt_native_driver_new(uri, &error);

    if (!driver)
        fail_msg("%s", error->message);
    return driver;
}

void
open_file(Fixture *f, const char *vm_id, const char *query)
{
    g_autofree char *uri = NULL;

    f->file = g_strdup_printf("%s/vmckpt-native-%d.xml", g_get_tmp_dir(), getpid());
    assert_true(g_file_set_contents(f->file, host_xml, -1, NULL));
    uri = g_strdup_printf("test://%s%s", f->file, query);
    f->driver = open_driver(uri);
    f->plan = ckpt_plan_new(CKPT_KIND_CREATE);
    f->plan->vm_id = g_strdup(vm_id);
}

void
fixture_clear(Fixture *f)
{
    ckpt_driver_free(f->driver);
    ckpt_plan_free(f->plan);
    if (f->file)
        g_unlink(f->file);
    g_free(f->file);
}

CkptStep
step_of(CkptStepKind kind, const char *id, CkptPower power)
{
    return (CkptStep){.kind = kind, .checkpoint_id = (char *)id, .power = power, .text = "a & <b>"};
}

gboolean
run(Fixture *f, CkptStep step, GError **error)
{
    return f->driver->step_do(f->driver, f->plan, &step, NULL, NULL, NULL, error);
}

void
must(Fixture *f, CkptStep step)
{
    g_autoptr(GError) error = NULL;

    if (!run(f, step, &error))
        fail_msg("%s", error->message);
}

void
must_undo(Fixture *f, CkptStep step)
{
    g_autoptr(GError) error = NULL;

    if (!f->driver->step_undo(f->driver, f->plan, &step, &error))
        fail_msg("%s", error->message);
}

CkptOutcome
check(Fixture *f, CkptStep step)
{
    g_autoptr(GError) error = NULL;

    return f->driver->step_check(f->driver, f->plan, &step, &error);
}

CkptVm *
look(Fixture *f)
{
    g_autoptr(GError) error = NULL;
    CkptVm *vm = f->driver->inspect(f->driver, f->plan->vm_id, NULL, &error);

    if (!vm)
        fail_msg("%s", error->message);
    return vm;
}

void
assert_power(Fixture *f, CkptPower power)
{
    g_autoptr(CkptVm) vm = look(f);

    assert_string_equal(ckpt_power_name(vm->power), ckpt_power_name(power));
}

CkptStep
revert(const char *to, const char *back, CkptPower power)
{
    CkptStep step = step_of(CKPT_STEP_NATIVE_REVERT, to, power);

    step.base = (char *)back;
    return step;
}

CkptStep
create(const char *id, CkptPower power)
{
    return step_of(CKPT_STEP_NATIVE_CREATE, id, power);
}

CkptStep
delete(const char *id)
{
    return step_of(CKPT_STEP_NATIVE_DELETE, id, 0);
}
