#include "agent/hypervisor/stored.h"

#include "common/library.h"

#include <sys/stat.h>

/* Libraries may hold thousands of definitions, and VMs are looked at in bursts. A definition that comes or goes
 * changes its folder's time, and is seen at once; one that is written over in place, when this is over. */
#define MAX_AGE_US (3 * G_USEC_PER_SEC)
/* What happens to a folder within so short a time may leave its time as it was. */
#define COARSE_US G_USEC_PER_SEC
#define NEVER (-1)

typedef struct {
    char *path;
    gint64 changed_us; /* NEVER = too lately to be told from a later change */
} Folder;

struct _CkptStoredVms {
    char **folders;
    GMutex lock;        /* guards the rest; held while the folders are read, so they are read once */
    GPtrArray *domains; /* CkptStoredDomain */
    GPtrArray *seen;    /* Folder: each one that was read, before it was */
    gint64 read_us;     /* monotonic */
    char *fault;        /* why one could not be read; NULL = all could */
};

static void
folder_free(gpointer data)
{
    Folder *folder = data;

    g_free(folder->path);
    g_free(folder);
}

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
    g_clear_pointer(&stored->seen, g_ptr_array_unref);
    g_free(stored->fault);
    g_mutex_clear(&stored->lock);
    g_free(stored);
}

/* Called with the lock held. */
static void
read_library(CkptStoredVms *stored, const char *folder)
{
    g_autoptr(CkptLibrary) library = ckpt_library_read(folder, folder);
    GPtrArray *domains = stored->domains;

    if (library->error) {
        g_warning("which files stored VMs lie on cannot be told: %s", library->error->message);
        ckpt_set_str(&stored->fault, library->error->message);
    }
    for (guint i = 0; i < library->vms->len; i++) {
        const CkptStoredVm *vm = g_ptr_array_index(library->vms, i);
        g_autofree char *xml = NULL;
        CkptStoredDomain *found;
        CkptXmlDomain *domain = NULL;

        if (g_file_get_contents(vm->file, &xml, NULL, NULL))
            domain = ckpt_xml_domain_parse(xml, NULL);
        if (!domain)
            continue;
        found = g_new0(CkptStoredDomain, 1);
        found->file = g_strdup(vm->file);
        found->domain = domain;
        g_ptr_array_add(domains, found);
    }
}

/* ---- What was read, and when ---- */

/* 0: it is not there, or cannot be looked at. */
static gint64
changed_us(const char *path)
{
    struct stat found;

    if (stat(path, &found) != 0)
        return 0;
    return (gint64)found.st_mtim.tv_sec * G_USEC_PER_SEC + found.st_mtim.tv_nsec / 1000;
}

static void
see_folder(CkptStoredVms *stored, const char *path)
{
    Folder *folder = g_new0(Folder, 1);

    folder->path = g_strdup(path);
    folder->changed_us = changed_us(path);
    if (folder->changed_us > g_get_real_time() - COARSE_US)
        folder->changed_us = NEVER;
    g_ptr_array_add(stored->seen, folder);
}

/* The library and its direct sub-folders: those that are read. */
static void
see_library(CkptStoredVms *stored, const char *path)
{
    GDir *dir;
    const char *name;

    see_folder(stored, path);
    dir = g_dir_open(path, 0, NULL);
    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *below = g_build_filename(path, name, NULL);

        if (g_file_test(below, G_FILE_TEST_IS_DIR))
            see_folder(stored, below);
    }
    if (dir)
        g_dir_close(dir);
}

static gboolean
is_current(const CkptStoredVms *stored)
{
    if (!stored->domains || g_get_monotonic_time() - stored->read_us >= MAX_AGE_US)
        return FALSE;
    for (guint i = 0; i < stored->seen->len; i++) {
        const Folder *folder = g_ptr_array_index(stored->seen, i);

        if (changed_us(folder->path) != folder->changed_us)
            return FALSE;
    }
    return TRUE;
}

static void
read_all(CkptStoredVms *stored)
{
    g_clear_pointer(&stored->domains, g_ptr_array_unref);
    g_clear_pointer(&stored->seen, g_ptr_array_unref);
    stored->domains = g_ptr_array_new_with_free_func(domain_free);
    stored->seen = g_ptr_array_new_with_free_func(folder_free);
    g_clear_pointer(&stored->fault, g_free);
    stored->read_us = g_get_monotonic_time();
    for (char **folder = stored->folders; *folder; folder++) {
        see_library(stored, *folder);
        read_library(stored, *folder);
    }
}

GPtrArray *
ckpt_stored_vms_read(CkptStoredVms *stored)
{
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = NULL;

    if (!stored)
        return g_ptr_array_new();
    locker = g_mutex_locker_new(&stored->lock);
    if (!is_current(stored))
        read_all(stored);
    return g_ptr_array_ref(stored->domains);
}

char *
ckpt_stored_vms_fault(CkptStoredVms *stored)
{
    char *fault;

    if (!stored)
        return NULL;
    g_mutex_lock(&stored->lock);
    fault = g_strdup(stored->fault);
    g_mutex_unlock(&stored->lock);
    return fault;
}
