#include "agent/service/library_index.h"

#include "agent/service/service.h"

struct _CkptLibraryIndex {
    GPtrArray *places; /* constant */
    GMutex lock;       /* guards the rest; held while the folders are read, so they are read once */
    GPtrArray *libraries;
    gint64 read_us; /* monotonic */
};

CkptLibraryPlace *
ckpt_library_place_new(const char *name, const char *path)
{
    CkptLibraryPlace *place = g_new0(CkptLibraryPlace, 1);

    place->name = g_strdup(name);
    place->path = g_strdup(path);
    return place;
}

void
ckpt_library_place_free(CkptLibraryPlace *place)
{
    g_free(place->name);
    g_free(place->path);
    g_free(place);
}

CkptLibraryIndex *
ckpt_library_index_new(GPtrArray *places)
{
    CkptLibraryIndex *index = g_new0(CkptLibraryIndex, 1);

    g_mutex_init(&index->lock);
    index->places = g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_library_place_free);
    for (guint i = 0; places && i < places->len; i++) {
        const CkptLibraryPlace *place = g_ptr_array_index(places, i);

        g_ptr_array_add(index->places, ckpt_library_place_new(place->name, place->path));
    }
    return index;
}

void
ckpt_library_index_free(CkptLibraryIndex *index)
{
    g_clear_pointer(&index->libraries, g_ptr_array_unref);
    g_ptr_array_unref(index->places);
    g_mutex_clear(&index->lock);
    g_free(index);
}

GPtrArray *
ckpt_library_index_read(CkptLibraryIndex *index, gint64 max_age_us)
{
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&index->lock);
    gint64 now = g_get_monotonic_time();

    if (!index->libraries || now - index->read_us >= max_age_us) {
        g_autoptr(GPtrArray) libraries =
            g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_library_free);

        for (guint i = 0; i < index->places->len; i++) {
            const CkptLibraryPlace *place = g_ptr_array_index(index->places, i);

            g_ptr_array_add(libraries, ckpt_library_read(place->name, place->path));
        }
        g_clear_pointer(&index->libraries, g_ptr_array_unref);
        index->libraries = g_steal_pointer(&libraries);
        index->read_us = now;
    }
    return g_ptr_array_ref(index->libraries);
}

static void
refuse(const CkptStoredVm *vm, GError **error)
{
    ckpt_error_set(error, CKPT_REASON_VM_STORED_IN_LIBRARY,
                   "virtual machine %s (%s) is not deployed on a host but stored in library %s, %s",
                   vm->vm_name, vm->vm_id, vm->library, vm->file);
    ckpt_error_add(error, CKPT_META_VM, vm->vm_id);
    ckpt_error_add(error, CKPT_META_LIBRARY, vm->library);
    ckpt_error_add(error, CKPT_META_FILE, vm->file);
}

gboolean
ckpt_library_index_refuse(CkptLibraryIndex *index, const char *vm_id, GError **error)
{
    g_autoptr(GPtrArray) libraries = ckpt_library_index_read(index, 0);

    for (guint i = 0; i < libraries->len; i++) {
        const CkptLibrary *library = g_ptr_array_index(libraries, i);

        for (guint j = 0; j < library->vms->len; j++) {
            const CkptStoredVm *vm = g_ptr_array_index(library->vms, j);

            if (g_str_equal(vm->vm_id, vm_id)) {
                refuse(vm, error);
                return TRUE;
            }
        }
    }
    return FALSE;
}
