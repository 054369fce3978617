/* The invariants of design.md, section 4, and the oracle of hazards.md, looked at from outside: through
 * the files, the definitions and the catalogue's rows. */
#include "model.h"

static guint
target_index(const char *target)
{
    for (guint i = 0; i < MODEL_TARGETS; i++)
        if (g_str_equal(model_target(i), target))
            return i;
    return MODEL_TARGETS;
}

char *
model_compare(CkptSim *sim, GPtrArray *chain, const Image *image)
{
    CkptSimFile *top = g_ptr_array_index(chain, 0);

    if (top->cells != image->cells)
        return g_strdup_printf("%s has %u cells, it should have %u", top->path, top->cells,
                               image->cells);
    for (guint i = 0; i < image->cells; i++) {
        guint32 found = ckpt_sim_read_cell(chain, 0, i);

        if (found != image->data[i])
            return g_strdup_printf("%s has %u in cell %u, it should have %u", top->path, found, i,
                                   image->data[i]);
    }
    return NULL;
}

/* ---- The present ---- */

static void
check_disk(Model *model, guint vm, guint index)
{
    CkptSimVm *sim_vm = model_sim_vm(model, vm);
    const Image *image = &model->vms[vm].present.disks[index];
    const char *target = model_target(index);
    CkptSimDisk *defined = ckpt_sim_definition_find(sim_vm->definition, target);
    g_autoptr(GPtrArray) chain = ckpt_sim_disk_chain(model->sim, sim_vm, target);
    g_autofree char *wrong = NULL;
    CkptSimFile *top;

    if ((defined != NULL) != image->attached) {
        model_fail(model, "vm-%u: disk %s is %s", vm, target, defined ? "back" : "gone");
        return;
    }
    if (!defined)
        return;
    if (!chain) {
        if (!model_is_odd(model))
            model_fail(model, "vm-%u: disk %s cannot be read", vm, target);
        return;
    }
    wrong = model_compare(model->sim, chain, image);
    top = g_ptr_array_index(chain, 0);
    if (wrong)
        model_fail(model, "vm-%u, disk %s: %s", vm, target, wrong);
    else if (!(top->mode & 0200))
        model_fail(model, "vm-%u: %s, the top of disk %s, is left sealed", vm, top->path, target);
    else if (sim_vm->live && !model->vms[vm].redefined &&
             g_strcmp0(defined->source, top->path) != 0)
        model_fail(model, "vm-%u runs on %s, its definition names %s", vm, top->path,
                   defined->source);
}

/* Written with the definition, and captured and restored with it. */
static gboolean
is_nvram(Model *model, const char *path, guint wanted)
{
    CkptSimFile *file = path ? ckpt_sim_find(model->sim, path) : NULL;

    return file && file->data[0] == wanted;
}

static void
check_vm(Model *model, guint vm)
{
    const ModelVm *expected = &model->vms[vm];
    CkptSimVm *found = model_sim_vm(model, vm);

    if (found->suspended)
        model_fail(model, "vm-%u is left suspended", vm);
    else if (found->frozen && !found->guards)
        model_fail(model, "vm-%u is left frozen", vm);
    else if (found->power != expected->power)
        model_fail(model, "vm-%u is %s, it should be %s", vm, ckpt_power_name(found->power),
                   ckpt_power_name(expected->power));
    else if (found->definition->memory != expected->present.memory ||
             (found->live && found->live->memory != expected->present.memory))
        model_fail(model, "vm-%u has another definition than it should have", vm);
    else if (found->nvram && !is_nvram(model, found->nvram, expected->present.memory))
        model_fail(model, "vm-%u has other UEFI variables than it should have", vm);
    else if (!ckpt_sim_can_go_on(model->sim, found) && !model_is_odd(model))
        model_fail(model, "vm-%u cannot go on from its managed save", vm);
    for (guint i = 0; i < MODEL_TARGETS && (!expected->redefined || found->live); i++)
        check_disk(model, vm, i);
}

/* ---- Checkpoints ---- */

/* A delete that has begun and is not finished: files that it works on are neither sealed nor what the
 * catalogue says, and nothing else may be done to the VM. */
static gboolean
is_deleting(Model *model)
{
    for (guint i = 0; i < model->expected->len; i++)
        if (((Expected *)model->expected->pdata[i])->deleting)
            return TRUE;
    return FALSE;
}

static gboolean
check_files(Model *model, const CkptCheckpoint *row, const Expected *expected)
{
    guint disks = 0;

    for (guint i = 0; i < MODEL_TARGETS; i++)
        disks += expected->state.disks[i].attached;
    if (disks != row->disks->len) {
        model_fail(model, "checkpoint %s has %u disks, it should have %u", row->id, row->disks->len,
                   disks);
        return FALSE;
    }
    for (guint i = 0; i < row->disks->len; i++) {
        CkptCheckpointDisk *disk = g_ptr_array_index(row->disks, i);
        g_autoptr(GPtrArray) chain = ckpt_sim_chain(model->sim, disk->sealed_file);
        const Image *image = &expected->state.disks[target_index(disk->target)];
        g_autofree char *wrong = chain ? model_compare(model->sim, chain, image) : NULL;
        CkptSimFile *file = ckpt_sim_find(model->sim, disk->sealed_file);

        if (!chain && model_is_odd(model))
            return FALSE;
        if (!chain)
            model_fail(model, "checkpoint %s: %s cannot be read", row->id, disk->sealed_file);
        else if (wrong)
            model_fail(model, "checkpoint %s: %s", row->id, wrong);
        else if (disk->virtual_size != (guint64)image->cells * CKPT_SIM_CELL)
            model_fail(model, "checkpoint %s: the catalogue has another size of disk %s", row->id,
                       disk->target);
        else if (file->mode != 0440 && !is_deleting(model))
            model_fail(model, "checkpoint %s: %s is not sealed", row->id, file->path);
        else if (disk->agent_made != file->agent_made)
            model_fail(model, "checkpoint %s: the catalogue is wrong about who made %s", row->id,
                       file->path);
        else if (g_strcmp0(g_hash_table_lookup(model->sim->manifests, file->path), row->id) != 0 &&
                 !model->manifests_open && !g_hash_table_contains(model->excused, file->path))
            model_fail(model, "checkpoint %s: its manifest beside %s is missing", row->id, file->path);
    }
    return TRUE;
}

static void
check_nvram(Model *model, const CkptCheckpoint *row, const Expected *expected)
{
    const CkptCheckpointFile *file = ckpt_checkpoint_find_extra(row, CKPT_FILE_NVRAM);

    if (model_sim_vm(model, expected->vm)->nvram &&
        !is_nvram(model, file ? file->path : NULL, expected->state.memory))
        model_fail(model, "checkpoint %s has not the UEFI variables that were captured", row->id);
}

static void
check_row(Model *model, const CkptCheckpoint *row)
{
    Expected *expected = model_find_expected(model, row->id);
    CkptSimDefinition *definition;

    if (!expected) {
        model_fail(model, "checkpoint %s is listed, and nobody made it", row->id);
        return;
    }
    if (row->parent_id && !model_find_expected(model, row->parent_id))
        model_fail(model, "checkpoint %s: its parent %s is not there", row->id, row->parent_id);
    if (expected->deferred != row->deferred)
        model_fail(model, "the delete of checkpoint %s %s", row->id,
                   row->deferred ? "waits" : "should wait");
    if (expected->deleting != (row->state == CKPT_STATE_DELETING && !row->deferred))
        model_fail(model, "checkpoint %s is %sbeing deleted", row->id, expected->deleting ? "not " : "");
    if (expected->deleting)
        return;
    definition = ckpt_sim_definition_parse(row->definition);
    if (definition->memory != expected->state.memory)
        model_fail(model, "checkpoint %s has another definition than was captured", row->id);
    ckpt_sim_definition_free(definition);
    check_nvram(model, row, expected);
    check_files(model, row, expected);
}

static gboolean
chain_is_whole(Model *model, const CkptCheckpoint *row)
{
    for (guint i = 0; i < row->disks->len; i++) {
        CkptCheckpointDisk *disk = g_ptr_array_index(row->disks, i);
        g_autoptr(GPtrArray) chain = ckpt_sim_chain(model->sim, disk->sealed_file);

        if (!chain)
            return FALSE;
    }
    return TRUE;
}

/* The agent looks at its files now: of one checkpoint is of all that the VM has. */
static void
verify(Model *model, guint vm)
{
    for (guint i = 0; i < model->expected->len; i++) {
        Expected *expected = g_ptr_array_index(model->expected, i);
        g_autoptr(CkptCheckpointInfo) info = NULL;
        g_autoptr(GError) error = NULL;

        if (expected->vm != vm)
            continue;
        info = ckpt_engine_get_checkpoint(model->engine, expected->id, TRUE, &error);
        if (!info)
            model_fail(model, "checkpoint %s: %s", expected->id, error->message);
        return;
    }
}

static void
check_enabled(Model *model, const CkptCheckpoint *row)
{
    gboolean enabled = !row->disabled_reason || !*row->disabled_reason;

    if (enabled && (row->state == CKPT_STATE_DELETING || !chain_is_whole(model, row)))
        model_fail(model, "checkpoint %s is enabled, and is not whole", row->id);
    if (!enabled && !row->deferred && !is_deleting(model) && !model_is_odd(model))
        model_fail(model, "checkpoint %s is whole, but disabled: %s", row->id, row->disabled_reason);
}

static void
check_catalogue(Model *model, GPtrArray *all)
{
    guint deleted = 0;

    for (guint i = 0; i < all->len; i++) {
        const CkptCheckpoint *row = g_ptr_array_index(all, i);

        check_row(model, row);
        if (g_str_equal(row->vm_id, model->vms[model->touched].id))
            check_enabled(model, row);
    }
    for (guint i = 0; i < model->expected->len; i++) {
        Expected *expected = g_ptr_array_index(model->expected, i);

        for (guint k = 0; k < all->len; k++)
            deleted += g_str_equal(((CkptCheckpoint *)all->pdata[k])->id, expected->id);
    }
    if (deleted != model->expected->len)
        model_fail(model, "a checkpoint is no longer listed");
}

/* Whoever lists checkpoints does not see one that is going away, unless asked to. */
static void
check_hidden(Model *model, guint vm)
{
    const CkptCheckpointQuery query = {.vm_id = model->vms[vm].id, .enabled = -1};
    g_autoptr(GPtrArray) listed = NULL;

    listed = ckpt_engine_list_checkpoints(model->engine, &query, FALSE, NULL, NULL);
    for (guint i = 0; listed && i < listed->len; i++) {
        const CkptCheckpointInfo *info = g_ptr_array_index(listed, i);
        const Expected *expected = model_find_expected(model, info->checkpoint->id);

        if (expected && (expected->deferred || expected->deleting))
            model_fail(model, "checkpoint %s is listed though it is being deleted", expected->id);
    }
}

/* After the last checkpoint is deleted each disk is the file that it was before the first. */
static void
check_first_files(Model *model, guint vm)
{
    const State *present = &model->vms[vm].present;

    for (guint i = 0; i < model->expected->len; i++)
        if (((Expected *)model->expected->pdata[i])->vm == vm)
            return;
    for (guint i = 0; i < MODEL_TARGETS; i++) {
        g_autoptr(GPtrArray) chain =
            ckpt_sim_disk_chain(model->sim, model_sim_vm(model, vm), model_target(i));

        if (chain && present->disks[i].attached && ((CkptSimFile *)chain->pdata[0])->agent_made)
            model_fail(model, "vm-%u has no checkpoint, and disk %s is still on %s", vm,
                       model_target(i), ((CkptSimFile *)chain->pdata[0])->path);
    }
}

/* ---- Files ---- */

static void
add_needed(GHashTable *needed, const char *path)
{
    g_hash_table_add(needed, (gpointer)path);
}

static void
add_below_foreign(GHashTable *needed, const CkptSimFile *file)
{
    if (file && !file->agent_made && file->backing)
        add_needed(needed, file->backing);
}

/* Tops, sealed files and disks that were detached. */
static GHashTable *
needed_files(Model *model, GPtrArray *all)
{
    GHashTable *needed = g_hash_table_new(g_str_hash, g_str_equal);
    GHashTableIter iter;
    gpointer value;

    for (guint i = 0; i < all->len; i++) {
        const CkptCheckpoint *row = g_ptr_array_index(all, i);

        for (guint k = 0; k < row->disks->len; k++)
            add_needed(needed, ((CkptCheckpointDisk *)row->disks->pdata[k])->sealed_file);
        for (guint k = 0; k < row->extras->len; k++)
            add_needed(needed, ((CkptCheckpointFile *)row->extras->pdata[k])->path);
    }
    for (guint i = 0; i < model->detached->len; i++)
        add_needed(needed, ((Detached *)model->detached->pdata[i])->path);
    /* What others made may lie on a file of the agent's, and be in nobody's definition any more. */
    g_hash_table_iter_init(&iter, model->sim->files);
    while (g_hash_table_iter_next(&iter, NULL, &value))
        add_below_foreign(needed, value);
    for (guint i = 0; i < MODEL_VMS; i++)
        add_below_foreign(needed, model->vms[i].vanished_file);
    for (guint i = 0; i < model->foreign->len; i++) {
        const CkptSimSnapshot *snapshot = ((Foreign *)model->foreign->pdata[i])->snapshot;

        for (guint k = 0; k < snapshot->disks->len; k++)
            add_needed(needed, ((CkptSimSaved *)snapshot->disks->pdata[k])->path);
    }
    for (guint i = 0; i < MODEL_VMS; i++) {
        CkptSimDefinition *definitions[] = {model_sim_vm(model, i)->definition,
                                            model->vms[i].redefined};

        for (guint d = 0; d < G_N_ELEMENTS(definitions) && definitions[d]; d++)
            for (guint k = 0; k < definitions[d]->disks->len; k++)
                add_needed(needed, ((CkptSimDisk *)definitions[d]->disks->pdata[k])->source);
    }
    return needed;
}

static gboolean
is_owned(GPtrArray *owned, const char *path)
{
    return g_ptr_array_find_with_equal_func(owned, path, g_str_equal, NULL);
}

static gboolean
is_doomed(Model *model, const char *path)
{
    for (guint i = 0; i < MODEL_VMS; i++) {
        g_autoptr(GPtrArray) doomed = ckpt_store_doomed_files(model->store, model->vms[i].id, NULL);

        if (is_owned(doomed, path))
            return TRUE;
    }
    return FALSE;
}

/* A file whose removal succeeded and was told to fail is doomed until the next look, and gone. */
static gboolean
may_be_gone(Model *model, const char *path)
{
    return is_doomed(model, path) || model_is_odd(model);
}

/* While nobody can tell on what one of the disks lies, nothing is removed; later with the next operation:
 * model_check_doomed(). */
static gboolean
is_kept(Model *model, const char *path)
{
    gboolean readable = TRUE;

    for (guint i = 0; i < MODEL_VMS; i++) {
        const CkptSimDefinition *definition = model_sim_vm(model, i)->definition;

        for (guint k = 0; k < definition->disks->len; k++) {
            g_autofree char *unreadable = ckpt_sim_unreadable(model->sim, definition->disks->pdata[k]);

            readable = readable && !unreadable;
        }
    }
    if (!is_doomed(model, path))
        return FALSE;
    if (!readable)
        g_hash_table_add(model->kept, g_strdup(path));
    return g_hash_table_contains(model->kept, path);
}

static void
check_owners(Model *model, GPtrArray *all, GPtrArray *owned)
{
    g_autoptr(GHashTable) needed = needed_files(model, all);
    GHashTableIter iter;
    gpointer key, value;

    g_hash_table_iter_init(&iter, model->sim->files);
    while (g_hash_table_iter_next(&iter, &key, &value)) {
        CkptSimFile *file = value;

        if (!file->agent_made)
            continue;
        if (file->reserved > 0 && !is_deleting(model))
            model_fail(model, "%s is left with space that was reserved for a merge", file->path);
        else if (!is_owned(owned, file->path))
            model_fail(model, "%s is left, and nobody owns it", file->path);
        else if (!g_hash_table_contains(needed, file->path) && !is_deleting(model) &&
                 !g_hash_table_contains(model->excused, file->path) && !is_kept(model, file->path))
            model_fail(model, "%s is left, and nobody needs it", file->path);
    }
    for (guint i = 0; i < owned->len; i++)
        if (!ckpt_sim_find(model->sim, owned->pdata[i]) && !may_be_gone(model, owned->pdata[i]))
            model_fail(model, "%s is owned, and is not there", (char *)owned->pdata[i]);
    g_hash_table_iter_init(&iter, model->sim->manifests);
    while (g_hash_table_iter_next(&iter, &key, &value))
        if (!model_find_expected(model, value) && !model->manifests_open &&
            !g_hash_table_contains(model->excused, key))
            model_fail(model, "a manifest of checkpoint %s, which is gone, lies beside %s",
                       (char *)value, (char *)key);
}

static void
check_detached(Model *model)
{
    for (guint i = 0; i < model->detached->len; i++) {
        Detached *detached = g_ptr_array_index(model->detached, i);
        g_autoptr(GPtrArray) chain = ckpt_sim_chain(model->sim, detached->path);
        g_autofree char *wrong =
            chain ? model_compare(model->sim, chain, &detached->image) : g_strdup("it is gone");

        if (wrong && (chain || !model_is_odd(model)))
            model_fail(model, "detached disk %s: %s", detached->path, wrong);
    }
}

static void
add_all(GPtrArray *to, GPtrArray *from)
{
    for (guint i = 0; i < from->len; i++)
        g_ptr_array_add(to, g_ptr_array_index(from, i));
    g_ptr_array_set_free_func(from, NULL);
}

/* What a removal asks first may be told to fail as well as the removal. An operation without a fault ends with
 * none that is doomed: model_check_doomed(). */
void
model_excuse_doomed(Model *model, guint vm)
{
    g_autoptr(GPtrArray) doomed = ckpt_store_doomed_files(model->store, model->vms[vm].id, NULL);

    for (guint i = 0; i < doomed->len; i++) {
        CkptSimFile *file = ckpt_sim_find(model->sim, doomed->pdata[i]);

        if (file)
            file->given_up = TRUE;
        g_hash_table_add(model->excused, g_strdup(doomed->pdata[i]));
    }
}

void
model_check_doomed(Model *model, guint vm)
{
    g_autoptr(GPtrArray) doomed = ckpt_store_doomed_files(model->store, model->vms[vm].id, NULL);
    g_autoptr(CkptVmRecord) record = ckpt_store_get_vm(model->store, model->vms[vm].id, NULL);

    if (doomed->len > 0 && !record->quarantine_reason && !is_deleting(model) && !model_is_odd(model))
        model_fail(model, "%s is doomed, and still there", (char *)doomed->pdata[0]);
}

void
model_check_vms(Model *model)
{
    for (guint i = 0; i < MODEL_VMS && !model->violation; i++)
        check_vm(model, i);
    check_detached(model);
    model_check_foreign(model);
    if (model->sim->crimes->len > 0)
        model_fail(model, "%s", (char *)model->sim->crimes->pdata[0]);
}

void
model_check(Model *model)
{
    g_autoptr(GPtrArray) all =
        g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_checkpoint_free);
    g_autoptr(GPtrArray) owned = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GPtrArray) unfinished = NULL;

    model_check_vms(model);
    if (model->violation)
        return;
    verify(model, model->touched);
    for (guint i = 0; i < MODEL_VMS; i++) {
        g_autoptr(GPtrArray) rows = ckpt_store_vm_checkpoints(model->store, model->vms[i].id, NULL);
        g_autoptr(GPtrArray) files = ckpt_store_vm_files(model->store, model->vms[i].id, NULL);

        add_all(all, rows);
        add_all(owned, files);
    }
    unfinished = ckpt_store_unfinished_operations(model->store, NULL);
    if (unfinished->len > 0)
        model_fail(model, "an operation is not settled");
    check_catalogue(model, all);
    check_hidden(model, model->touched);
    if (!model_is_odd(model))
        check_first_files(model, model->touched);
    check_owners(model, all, owned);
}
