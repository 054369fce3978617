#include "agent/hypervisor/stored.h"

#include "common/library.h"

/* Libraries may hold thousands of definitions, and VMs are looked at in bursts. */
#define MAX_AGE_US (3 * G_USEC_PER_SEC)

struct _CkptStoredVms {
    char **folders;
    GMutex lock;        /* guards the rest; held while the folders are read, so they are read once */
    GPtrArray *domains; /* CkptStoredDomain */
    gint64 read_us;     /* monotonic */
};

static void
domain_free(gpointer data)
{
    CkptStoredDomain *stored = data;

    ckpt_xml_domain_free(stored->domain);
    g_free(stored->file);
    g_free(stored);
}

CkptStoredVms *
ckpt_stored_vms_new(const char *const *folders)
{
    CkptStoredVms *stored = g_new0(CkptStoredVms, 1);

    g_mutex_init(&stored->lock);
    stored->folders = g_strdupv((char **)folders);
    return stored;
}

void
ckpt_stored_vms_free(CkptStoredVms *stored)
{
    if (!stored)
        return;
    g_strfreev(stored->folders);
    g_clear_pointer(&stored->domains, g_ptr_array_unref);
    g_mutex_clear(&stored->lock);
    g_free(stored);
}

static void
read_library(const char *folder, GPtrArray *domains)
{
    g_autoptr(CkptLibrary) library = ckpt_library_read(folder, folder);

    if (library->error)
        g_warning("library %s: which files its stored VMs lie on cannot be told: %s", folder,
                  library->error->message);
    for (guint i = 0; i < library->vms->len; i++) {
        const CkptStoredVm *vm = g_ptr_array_index(library->vms, i);
        g_autofree char *xml = NULL;
        CkptStoredDomain *stored;
        CkptXmlDomain *domain = NULL;

        if (g_file_get_contents(vm->file, &xml, NULL, NULL))
            domain = ckpt_xml_domain_parse(xml, NULL);
        if (!domain)
            continue;
        stored = g_new0(CkptStoredDomain, 1);
        stored->file = g_strdup(vm->file);
        stored->domain = domain;
        g_ptr_array_add(domains, stored);
    }
}

GPtrArray *
ckpt_stored_vms_read(CkptStoredVms *stored)
{
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = NULL;
    gint64 now = g_get_monotonic_time();

    if (!stored)
        return g_ptr_array_new();
    locker = g_mutex_locker_new(&stored->lock);
    if (!stored->domains || now - stored->read_us >= MAX_AGE_US) {
        g_clear_pointer(&stored->domains, g_ptr_array_unref);
        stored->domains = g_ptr_array_new_with_free_func(domain_free);
        for (char **folder = stored->folders; *folder; folder++)
            read_library(*folder, stored->domains);
        stored->read_us = now;
    }
    return g_ptr_array_ref(stored->domains);
}
