/* A catalogue that was lost, made anew from the manifests beside the disks. Until somebody agrees to what was
 * found the agent changes nothing; agreeing is a repair (CKPT_FINDING_CATALOGUE_REBUILT). Read again at each
 * start until then: a file system may have been missing. */
#include "agent/core/engine_internal.h"

#include "agent/core/graph.h"
#include "agent/core/import.h"

#include <string.h>

#define NEW_REASON "it is new, and checkpoints of this host's agent lie beside its disks"

/* ---- What is kept in mind ---- */

static void
set_unagreed(CkptEngine *engine, const char *reason)
{
    g_mutex_lock(&engine->lock);
    ckpt_set_str(&engine->unagreed, reason);
    g_mutex_unlock(&engine->lock);
}

char *
ckpt_rebuild_unagreed(CkptEngine *engine)
{
    char *reason;

    g_mutex_lock(&engine->lock);
    reason = g_strdup(engine->unagreed);
    g_mutex_unlock(&engine->lock);
    return reason;
}

/* ---- The manifests ---- */

static void
add_folder(GHashTable *seen, GStrvBuilder *folders, char *folder)
{
    const char *kept = folder;

    if (g_hash_table_add(seen, folder))
        g_strv_builder_add(folders, kept);
}

/* Of all disks that are defined, of what they lie on (another tool may have put newer files elsewhere), and those
 * in which checkpoints had files. */
static char **
list_folders(CkptEngine *engine, GError **error)
{
    g_autoptr(GPtrArray) files = engine->driver->image_files(engine->driver, TRUE, error);
    g_autoptr(GPtrArray) noted = ckpt_store_folders(engine->store);
    g_autoptr(GHashTable) seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    g_autoptr(GStrvBuilder) folders = g_strv_builder_new();

    if (!files)
        return NULL;
    for (guint i = 0; i < files->len; i++)
        add_folder(seen, folders, g_path_get_dirname(g_ptr_array_index(files, i)));
    for (guint i = 0; i < noted->len; i++)
        add_folder(seen, folders, g_strdup(g_ptr_array_index(noted, i)));
    return g_strv_builder_end(folders);
}

gboolean
ckpt_rebuild_find(CkptEngine *engine, CkptFoundFiles **found, GError **error)
{
    CkptDriver *driver = engine->driver;
    g_auto(GStrv) folders = NULL;

    *found = NULL;
    if (!driver->find_manifests || !driver->image_files)
        return TRUE;
    folders = list_folders(engine, error);
    if (folders)
        *found = driver->find_manifests(driver, (const char *const *)folders, error);
    return *found != NULL;
}

/* Of another host's agent on the same folders nothing is taken: that is an adoption's business. */
static gboolean
is_ours(const CkptImport *import, const CkptHostInfo *host)
{
    for (guint i = 0; i < import->manifests->len; i++)
        if (g_str_equal(((CkptManifest *)import->manifests->pdata[i])->agent, host->host_id))
            return TRUE;
    return FALSE;
}

/* Another host's agent took them over, or had begun to: as when the catalogue was there, they are MOVED, and no
 * file of the VM is this agent's to remove. */
static void
leave_to_others(const CkptImport *import, const CkptHostInfo *host, CkptChange *change)
{
    gboolean any = FALSE;

    for (guint i = 0; i < import->manifests->len; i++) {
        const CkptManifest *manifest = g_ptr_array_index(import->manifests, i);
        CkptCheckpoint *row = ckpt_graph_find(change->upserts, manifest->checkpoint_id);

        if (!row || g_str_equal(manifest->agent, host->host_id))
            continue;
        any = TRUE;
        row->state = CKPT_STATE_MOVED;
        row->deferred = FALSE;
        g_free(row->disabled_reason);
        row->disabled_reason = g_strdup_printf("the VM moved: it belongs to the agent of host %s (%s)",
                                               *manifest->host_name ? manifest->host_name : "?", manifest->agent);
    }
    if (any)
        g_ptr_array_set_size(change->made, 0);
}

/* Nobody has changed anything since it was read the last time: what is found now replaces that. */
static gboolean
take_import(CkptEngine *engine, const CkptImport *import, const CkptHostInfo *host, GError **error)
{
    g_autoptr(GPtrArray) rows = ckpt_store_vm_checkpoints(engine->store, import->vm_id, error);
    g_autoptr(CkptChange) change = NULL;

    if (!rows)
        return FALSE;
    change = ckpt_import_change(import);
    leave_to_others(import, host, change);
    for (guint i = 0; i < change->upserts->len; i++) {
        CkptCheckpoint *row = g_ptr_array_index(change->upserts, i);
        const CkptCheckpoint *before = ckpt_graph_find(rows, row->id);

        row->revision = before ? before->revision : 0;
    }
    for (guint i = 0; i < import->notes->len; i++)
        g_warning("VM %s: %s", import->vm_id, (char *)g_ptr_array_index(import->notes, i));
    return ckpt_store_apply(engine->store, change, import->vm_id, error);
}

static gboolean
read_all(CkptEngine *engine, guint *checkpoints, guint *vms, GError **error)
{
    CkptDriver *driver = engine->driver;
    g_auto(GStrv) folders = NULL;
    g_autoptr(CkptHostInfo) host = NULL;
    g_autoptr(GPtrArray) imports = NULL;

    if (!driver->find_manifests || !driver->image_files)
        return TRUE;
    if (!driver->host_info(driver, &host, error))
        return FALSE;
    folders = list_folders(engine, error);
    imports = folders ? ckpt_import_read(driver, (const char *const *)folders, NULL, NULL, error) : NULL;
    for (guint i = 0; imports && i < imports->len; i++) {
        const CkptImport *import = g_ptr_array_index(imports, i);

        if (!is_ours(import, host))
            continue;
        if (!take_import(engine, import, host, error))
            return FALSE;
        *checkpoints += import->checkpoints->len;
        (*vms)++;
    }
    return imports != NULL;
}

static gboolean
rebuild(CkptEngine *engine, const char *lost, GError **error)
{
    guint checkpoints = 0, vms = 0;
    gboolean done = read_all(engine, &checkpoints, &vms, error);
    g_autofree char *reason = g_strdup_printf(
        "the catalogue was lost (%s), and %u checkpoints of %u VMs were read back from their manifests. "
        "Nothing is changed until somebody agrees: look at vmcheckpoint list and vmcheckpoint doctor, then "
        "vmcheckpoint doctor --repair",
        lost, checkpoints, vms);

    if (!done)
        return FALSE;
    g_warning("%s", reason);
    set_unagreed(engine, reason);
    return TRUE;
}

/* It is for somebody to mend: what is in its way is said to whoever is refused, too. */
static void
note_why_not(CkptEngine *engine, const char *lost, const GError *why)
{
    g_autofree char *reason =
        g_strdup_printf("the catalogue was lost (%s), and cannot be read back from the manifests: %s; it is tried "
                        "again at the next start, and with vmcheckpoint doctor --repair",
                        lost, why->message);

    set_unagreed(engine, reason);
}

/* ---- When ---- */

gboolean
ckpt_rebuild_start(CkptEngine *engine, GError **error)
{
    g_autofree char *lost = NULL;
    g_autofree char *reason = NULL;
    gboolean is_new;

    if (!ckpt_store_lost_reason(engine->store, &lost, error) ||
        !ckpt_store_is_new(engine->store, &is_new, error))
        return FALSE;
    g_atomic_int_set(&engine->is_new, is_new);
    g_atomic_int_set(&engine->to_be_read_back, lost != NULL);
    if (!lost)
        return TRUE;
    reason = g_strdup_printf("the catalogue was lost (%s), and cannot be read back from the manifests before the "
                             "hypervisor answers",
                             lost);
    set_unagreed(engine, reason);
    return TRUE;
}

/* A new catalogue where this host's checkpoints lie: it was lost with its folder. */
static gboolean
compare(CkptEngine *engine, GError **error)
{
    g_autoptr(CkptHostInfo) host = NULL;
    g_autoptr(CkptFoundFiles) found = NULL;
    gboolean any = FALSE;

    if (!engine->driver->host_info(engine->driver, &host, error) ||
        !ckpt_rebuild_find(engine, &found, error))
        return FALSE;
    for (guint i = 0; found && i < found->manifests->len && !any; i++) {
        const CkptManifest *manifest = g_ptr_array_index(found->manifests, i);
        g_autoptr(CkptCheckpoint) row = NULL;

        if (!g_str_equal(manifest->agent, host->host_id))
            continue;
        row = ckpt_store_get_checkpoint(engine->store, manifest->checkpoint_id, NULL);
        any = row == NULL;
    }
    if (any && (!ckpt_store_set_lost(engine->store, NEW_REASON, error) ||
                !rebuild(engine, NEW_REASON, error)))
        return FALSE;
    if (!ckpt_store_set_compared(engine->store, error))
        return FALSE;
    g_atomic_int_set(&engine->is_new, 0);
    return TRUE;
}

gboolean
ckpt_rebuild_look(CkptEngine *engine, GError **error)
{
    g_autofree char *lost = NULL;
    g_autoptr(GError) why = NULL;
    gboolean done = TRUE;

    g_mutex_lock(&engine->rebuild_lock);
    if (g_atomic_int_get(&engine->is_new))
        done = compare(engine, &why);
    done = done && ckpt_store_lost_reason(engine->store, &lost, &why);
    if (lost && !engine->rebuilt)
        done = engine->rebuilt = rebuild(engine, lost, &why);
    if (lost && !done)
        note_why_not(engine, lost, why);
    if (done)
        g_atomic_int_set(&engine->to_be_read_back, 0);
    g_mutex_unlock(&engine->rebuild_lock);
    if (!done)
        g_propagate_error(error, g_steal_pointer(&why));
    return done;
}

void
ckpt_engine_compare(CkptEngine *engine)
{
    g_autoptr(GError) away = NULL;

    if (!ckpt_engine_is_compared(engine) && !ckpt_rebuild_look(engine, &away))
        g_debug("the catalogue cannot be compared with the manifests yet: %s", away->message);
}

gboolean
ckpt_engine_is_compared(CkptEngine *engine)
{
    return !g_atomic_int_get(&engine->is_new) && !g_atomic_int_get(&engine->to_be_read_back);
}

gboolean
ckpt_rebuild_check(CkptEngine *engine, GError **error)
{
    g_autofree char *unagreed = NULL;

    if (g_atomic_int_get(&engine->is_new) && !ckpt_rebuild_look(engine, error))
        return FALSE;
    unagreed = ckpt_rebuild_unagreed(engine);
    if (!unagreed)
        return TRUE;
    ckpt_error_set(error, CKPT_REASON_CATALOGUE_REBUILT, "%s", unagreed);
    return FALSE;
}

gboolean
ckpt_rebuild_agree(CkptEngine *engine, GError **error)
{
    g_mutex_lock(&engine->rebuild_lock);
    engine->rebuilt = FALSE; /* once more, with what is there by now */
    g_mutex_unlock(&engine->rebuild_lock);
    if (!ckpt_rebuild_look(engine, error) || !ckpt_store_set_lost(engine->store, NULL, error))
        return FALSE;
    set_unagreed(engine, NULL);
    g_message("the rebuilt catalogue was agreed to");
    /* What was left alone meanwhile. */
    ckpt_reconcile_all(engine);
    return TRUE;
}
