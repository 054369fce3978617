/* Manifests: the steps that write them, and whose the files are, as they tell in worlds with more than one
 * host. */
#include "agent/hypervisor/sim/sim.h"

#include "agent/model/json.h"

static CkptSim *
sim_of(CkptDriver *driver)
{
    return (CkptSim *)driver;
}

static gboolean
lies_in(const char *path, const char *const *folders)
{
    g_autofree char *folder = g_path_get_dirname(path);

    return g_strv_contains(folders, folder);
}

static CkptFoundFiles *
find_manifests(CkptDriver *driver, const char *const *folders, GError **error)
{
    CkptSim *sim = sim_of(driver);
    CkptFoundFiles *found = ckpt_found_files_new();
    GHashTableIter iter;
    gpointer path, text;

    g_rec_mutex_lock(&sim->lock);
    g_hash_table_iter_init(&iter, sim->manifest_texts);
    while (g_hash_table_iter_next(&iter, &path, &text)) {
        g_autoptr(GError) why = NULL;
        CkptManifest *manifest =
            lies_in(path, folders) ? ckpt_manifest_parse(text, path, &why) : NULL;

        if (manifest)
            g_ptr_array_add(found->manifests, manifest);
        else if (why)
            ckpt_sim_crime(sim, "the manifest beside %s cannot be read: %s", (char *)path, why->message);
    }
    g_hash_table_iter_init(&iter, sim->files);
    while (g_hash_table_iter_next(&iter, &path, NULL))
        if (lies_in(path, folders) && ckpt_manifest_is_overlay_name(path))
            g_ptr_array_add(found->overlays, g_strdup(path));
    g_rec_mutex_unlock(&sim->lock);
    return found;
}

static CkptManifest *
head_of(CkptSim *sim, const char *file)
{
    const char *text = g_hash_table_lookup(sim->manifest_texts, file);

    return text ? ckpt_manifest_parse_head(text, file) : NULL;
}

static CkptManifest *
manifest_head(CkptDriver *driver, const char *file)
{
    CkptSim *sim = sim_of(driver);
    CkptManifest *head;

    g_rec_mutex_lock(&sim->lock);
    head = head_of(sim, file);
    g_rec_mutex_unlock(&sim->lock);
    return head;
}

static gboolean
replace(CkptSim *sim, const char *file, const char *text, const char *agent, guint64 epoch,
        GError **error)
{
    g_autoptr(CkptManifest) head = head_of(sim, file);

    if (!ckpt_sim_ask(sim, error))
        return FALSE;
    if (!head || !g_str_equal(head->agent, agent) || head->epoch != epoch) {
        ckpt_error_set(error, CKPT_REASON_VM_MOVED, "%s is another agent's by now", file);
        return FALSE;
    }
    g_hash_table_replace(sim->manifest_texts, g_strdup(file), g_strdup(text));
    return ckpt_sim_ask(sim, error);
}

static gboolean
take_over(CkptDriver *driver, const char *file, const char *text, const char *agent, guint64 epoch,
          GError **error)
{
    CkptSim *sim = sim_of(driver);
    gboolean done;

    g_rec_mutex_lock(&sim->lock);
    done = replace(sim, file, text, agent, epoch, error);
    g_rec_mutex_unlock(&sim->lock);
    return done;
}

static CkptVm *
inspect_files(CkptDriver *driver, const char *vm_id, const CkptKnownFile *files, GError **error)
{
    CkptSim *sim = sim_of(driver);
    CkptSimVm nobody = {.id = (char *)vm_id, .name = (char *)"", .power = CKPT_POWER_SHUT_OFF};
    CkptVm *vm = NULL;

    g_rec_mutex_lock(&sim->lock);
    nobody.definition = ckpt_sim_definition_new();
    if (ckpt_sim_ask(sim, error))
        vm = ckpt_sim_inspect(sim, &nobody, files);
    ckpt_sim_definition_free(nobody.definition);
    g_rec_mutex_unlock(&sim->lock);
    if (vm)
        g_clear_pointer(&vm->definition, g_free);
    return vm;
}

static gboolean
is_known(const CkptKnownFile *files, const char *path)
{
    for (; path && files->path; files++)
        if (g_str_equal(files->path, path))
            return TRUE;
    return FALSE;
}

static GPtrArray *
overlays_on(CkptDriver *driver, const CkptKnownFile *files, GError **error)
{
    CkptSim *sim = sim_of(driver);
    g_autoptr(GPtrArray) found = g_ptr_array_new_with_free_func(g_free);
    GHashTableIter iter;
    gpointer path, value;
    gboolean asked;

    g_rec_mutex_lock(&sim->lock);
    g_hash_table_iter_init(&iter, sim->files);
    while (g_hash_table_iter_next(&iter, &path, &value))
        if ((ckpt_manifest_is_overlay_name(path) || g_hash_table_contains(sim->manifests, path)) &&
            !is_known(files, path) && is_known(files, ((CkptSimFile *)value)->backing))
            g_ptr_array_add(found, g_strdup(path));
    asked = ckpt_sim_ask(sim, error);
    g_rec_mutex_unlock(&sim->lock);
    return asked ? g_steal_pointer(&found) : NULL;
}

static void
add_files(GPtrArray *files, CkptSim *sim, const char *path, gboolean below)
{
    const CkptSimFile *file = ckpt_sim_find(sim, path);

    g_ptr_array_add(files, g_strdup(path));
    if (below && file && file->backing)
        add_files(files, sim, file->backing, below);
}

static GPtrArray *
image_files(CkptDriver *driver, gboolean below, GError **error)
{
    CkptSim *sim = sim_of(driver);
    g_autoptr(GPtrArray) files = g_ptr_array_new_with_free_func(g_free);
    gboolean asked;

    g_rec_mutex_lock(&sim->lock);
    for (guint i = 0; i < sim->vms->len && !sim->elsewhere; i++) {
        const CkptSimVm *vm = g_ptr_array_index(sim->vms, i);

        for (guint k = 0; k < vm->definition->disks->len; k++)
            add_files(files, sim, ((CkptSimDisk *)vm->definition->disks->pdata[k])->source, below);
    }
    asked = ckpt_sim_ask(sim, error);
    g_rec_mutex_unlock(&sim->lock);
    return asked ? g_steal_pointer(&files) : NULL;
}

/* ---- Whether a step may touch them ---- */

static gboolean
is_ours(CkptSimRun *run, const char *path, GError **error)
{
    for (guint i = 0; path && i < 100; i++) {
        const CkptSimFile *file = ckpt_sim_find(run->sim, path);
        g_autoptr(CkptManifest) head = head_of(run->sim, path);

        if (head && g_str_equal(head->domain, run->plan->vm_id) &&
            !g_str_equal(head->agent, run->sim->host_id)) {
            ckpt_error_set(error, CKPT_REASON_VM_MOVED, "%s belongs to %s by now", path, head->agent);
            return FALSE;
        }
        path = file ? file->backing : NULL;
    }
    return TRUE;
}

gboolean
ckpt_sim_may_touch(CkptSimRun *run, GError **error)
{
    const CkptStep *step = run->step;

    if (!run->sim->base.manifest_head)
        return TRUE;
    if (!is_ours(run, step->file, error) || !is_ours(run, step->base, error) ||
        !is_ours(run, step->above, error))
        return FALSE;
    for (guint i = 0; step->kind != CKPT_STEP_REMOVE_FILE && step->disks && i < step->disks->len; i++)
        if (!is_ours(run, ((CkptDiskFile *)g_ptr_array_index(step->disks, i))->file, error))
            return FALSE;
    return TRUE;
}

void
ckpt_sim_share(CkptSim *sim)
{
    sim->base.find_manifests = find_manifests;
    sim->base.manifest_head = manifest_head;
    sim->base.take_over = take_over;
    sim->base.inspect_files = inspect_files;
    sim->base.image_files = image_files;
    sim->base.overlays_on = overlays_on;
}

/* ---- The steps ---- */

/* ---- Manifests ---- */

gboolean
ckpt_sim_write_manifest(CkptSimRun *run, GError **error)
{
    for (guint i = 0; i < run->step->disks->len; i++) {
        const CkptDiskFile *disk = g_ptr_array_index(run->step->disks, i);

        g_hash_table_replace(run->sim->manifests, g_strdup(disk->file),
                             g_strdup(run->step->checkpoint_id));
        g_hash_table_replace(run->sim->manifest_texts, g_strdup(disk->file),
                             g_strdup(run->step->text));
        if (!ckpt_sim_changed(run, error))
            return FALSE;
    }
    return TRUE;
}

gboolean
ckpt_sim_remove_manifest(CkptSimRun *run, GError **error)
{
    for (guint i = 0; i < run->step->disks->len; i++) {
        const char *path = ((CkptDiskFile *)g_ptr_array_index(run->step->disks, i))->file;

        if (g_strcmp0(g_hash_table_lookup(run->sim->manifests, path), run->step->checkpoint_id) != 0)
            continue;
        g_hash_table_remove(run->sim->manifests, path);
        g_hash_table_remove(run->sim->manifest_texts, path);
        if (!ckpt_sim_changed(run, error))
            return FALSE;
    }
    return TRUE;
}
