/* Whose the checkpoints are. A VM that arrives with its disks on shared storage brings its checkpoints along:
 * the agent here takes over the manifests, with a greater epoch and its own name, and then writes its
 * catalogue. The agent that it came from sees that, marks its rows MOVED and never touches the files again.
 *
 * Nothing is journalled, and nothing need be: manifests that are ours and that the catalogue does not know
 * are gone on with. One that another agent took over is never overwritten (CkptDriver.take_over). */
#include "agent/core/engine_internal.h"

#include "agent/core/graph.h"
#include "agent/core/import.h"
#include "common/fault.h"

typedef struct {
    CkptEngine *engine;
    const char *vm_id;
    CkptHostInfo *host;
    GPtrArray *rows; /* CkptCheckpoint of the VM, all */
} Adoption;

/* ---- What moved ---- */

/* The manifest that says that the row is another agent's by now; NULL: none does. */
static CkptManifest *
find_taker(const Adoption *adoption, const CkptCheckpoint *row)
{
    CkptDriver *driver = adoption->engine->driver;

    for (guint i = 0; i < row->disks->len; i++) {
        const CkptCheckpointDisk *disk = g_ptr_array_index(row->disks, i);
        CkptManifest *head = driver->manifest_head(driver, disk->sealed_file);

        if (head && g_str_equal(head->domain, adoption->vm_id) &&
            !g_str_equal(head->agent, adoption->host->host_id) && head->epoch > row->epoch)
            return head;
        ckpt_manifest_free(head);
    }
    return NULL;
}

static void
set_moved(CkptCheckpoint *row, const CkptManifest *taker)
{
    g_autofree char *why = g_strdup_printf(
        "the VM moved: it belongs to the agent of host %s (%s) since epoch %" G_GUINT64_FORMAT,
        *taker->host_name ? taker->host_name : "?", taker->agent, taker->epoch);

    row->state = CKPT_STATE_MOVED;
    row->deferred = FALSE;
    ckpt_set_str(&row->disabled_reason, why);
}

/* Where a VM is. */
typedef struct {
    gboolean here;   /* defined on this host */
    gboolean active; /* … and not off */
    gboolean left;   /* it migrated away, and was not here since */
} Place;

/* Of a migration with its disks (--copy-storage-all) what it was made of is still here, and the VM's present is
 * not. Started here, or defined anew, it is back. */
static gboolean
has_stayed(const CkptCheckpoint *row, const Place *place)
{
    if (row->state == CKPT_STATE_MOVED)
        return FALSE;
    if (place->left && !place->active)
        return TRUE;
    return row->stayed && !place->active && !(place->here && row->departed);
}

/* NULL: the row stays as it is. */
static CkptCheckpoint *
judge_row(const Adoption *adoption, const CkptCheckpoint *row, const Place *place)
{
    gboolean here = place->here;
    g_autoptr(CkptManifest) taker =
        row->state == CKPT_STATE_MOVED ? NULL : find_taker(adoption, row);
    gboolean departed = row->state == CKPT_STATE_MOVED || taker ? row->departed || !here : !here;
    gboolean stayed = !taker && has_stayed(row, place);
    CkptCheckpoint *changed;

    if (!taker && departed == row->departed && stayed == row->stayed)
        return NULL;
    changed = ckpt_checkpoint_copy(row);
    changed->departed = departed;
    changed->stayed = stayed;
    if (taker)
        set_moved(changed, taker);
    else if ((stayed || !here) && row->state == CKPT_STATE_READY)
        ckpt_set_str(&changed->disabled_reason, stayed ? CKPT_STAYED_REASON : CKPT_NOT_DEFINED_REASON);
    return changed;
}

/* They are no longer ours to remove, whatever we made. */
static gboolean
forget_files(const Adoption *adoption, CkptChange *change, GError **error)
{
    GPtrArray *made = ckpt_store_vm_files(adoption->engine->store, adoption->vm_id, error);

    if (!made)
        return FALSE;
    g_ptr_array_extend_and_steal(change->unlinked, made);
    return TRUE;
}

/* Records which rows are another agent's by now, and whether the VM is defined here. */
static gboolean
mark_rows(const Adoption *adoption, const Place *place, GError **error)
{
    g_autoptr(CkptChange) change = ckpt_change_new();
    guint moved = 0;

    for (guint i = 0; i < adoption->rows->len; i++) {
        const CkptCheckpoint *row = g_ptr_array_index(adoption->rows, i);
        CkptCheckpoint *changed = judge_row(adoption, row, place);

        if (!changed)
            continue;
        if (changed->state != row->state)
            moved++;
        g_ptr_array_add(change->upserts, changed);
    }
    if (change->upserts->len == 0)
        return TRUE;
    if (moved > 0 && !forget_files(adoption, change, error))
        return FALSE;
    change->if_unchanged = TRUE;
    if (!ckpt_store_apply(adoption->engine->store, change, adoption->vm_id, error))
        return FALSE;
    if (moved > 0)
        g_message("VM %s: %u checkpoints belong to another host's agent by now", adoption->vm_id, moved);
    return TRUE;
}

/* ---- What came ---- */

/* Of a checkpoint that this agent deleted a manifest may be left. */
static gboolean
was_deleted(const Adoption *adoption, const char *checkpoint_id)
{
    const CkptOperationQuery query = {
        .checkpoint_id = checkpoint_id,
        .states = 1u << CKPT_OP_SUCCEEDED,
        .without_plans = TRUE,
    };
    g_autoptr(GPtrArray) ended = ckpt_store_list_operations(adoption->engine->store, &query, NULL);

    for (guint i = 0; ended && i < ended->len; i++)
        if (((CkptOperation *)g_ptr_array_index(ended, i))->kind == CKPT_KIND_DELETE)
            return TRUE;
    return !ended;
}

static gboolean
was_left_out(CkptEngine *engine, const char *checkpoint_id)
{
    gboolean left_out;

    g_mutex_lock(&engine->lock);
    left_out = g_hash_table_contains(engine->left_out, checkpoint_id);
    g_mutex_unlock(&engine->lock);
    return left_out;
}

/* Another agent's, or ours by an adoption that did not come to its end. */
static gboolean
is_to_be_taken(const Adoption *adoption, const CkptManifest *head)
{
    const CkptCheckpoint *row = ckpt_graph_find(adoption->rows, head->checkpoint_id);

    /* Another's whose epoch is not greater than that of a row of ours is our own of before this host's UUID
     * changed (another mainboard): whoever takes over writes a greater one. */
    if (!g_str_equal(head->agent, adoption->host->host_id))
        return TRUE;
    if (row)
        return row->state == CKPT_STATE_MOVED && head->epoch > row->epoch;
    return head->epoch > 1 && !was_left_out(adoption->engine, head->checkpoint_id) &&
           !was_deleted(adoption, head->checkpoint_id);
}

static gboolean
has_come(const Adoption *adoption, const CkptVm *vm)
{
    CkptDriver *driver = adoption->engine->driver;

    for (guint i = 0; i < vm->disks->len; i++) {
        const CkptDisk *disk = g_ptr_array_index(vm->disks, i);

        for (guint k = 0; k < disk->chain->len; k++) {
            const CkptLayer *layer = g_ptr_array_index(disk->chain, k);
            g_autoptr(CkptManifest) head =
                layer->manifest ? driver->manifest_head(driver, layer->path) : NULL;

            if (head && g_str_equal(head->domain, adoption->vm_id) &&
                is_to_be_taken(adoption, head))
                return TRUE;
        }
    }
    return FALSE;
}

/* ---- Whether it may be taken ---- */

static gboolean
is_busy(const CkptVm *vm)
{
    for (guint i = 0; i < vm->obstacles->len; i++) {
        CkptReason reason = ((CkptObstacle *)g_ptr_array_index(vm->obstacles, i))->reason;

        if (reason == CKPT_REASON_VM_BUSY || reason == CKPT_REASON_CHAIN_MISMATCH ||
            reason == CKPT_REASON_HYPERVISOR_UNAVAILABLE)
            return TRUE;
    }
    return FALSE;
}

/* Of an incoming migration QEMU stands still, and the source's has the locks: a VM that runs here runs nowhere
 * else. */
static const char *
refuse_running(const CkptVm *vm)
{
    if (vm->power != CKPT_POWER_RUNNING || is_busy(vm))
        return "it does not run here, or a job is under way on it";
    for (guint i = 0; i < vm->disks->len; i++) {
        const CkptDisk *disk = g_ptr_array_index(vm->disks, i);
        const CkptLayer *top = disk->chain->len ? g_ptr_array_index(disk->chain, 0) : NULL;

        if (top && top->format == CKPT_FORMAT_QCOW2 && !top->write_locked)
            return "no QEMU writes to its disks";
    }
    return NULL;
}

static gboolean
is_read_here(const CkptVm *vm, const char *file)
{
    for (guint i = 0; i < vm->users->len; i++)
        if (g_str_equal(((CkptFileUser *)g_ptr_array_index(vm->users, i))->file, file))
            return TRUE;
    return FALSE;
}

/* Another VM's clone that runs here may read a sealed file. Where locks tell nothing it may be open. */
static gboolean
is_open(const CkptVm *vm, const char *file)
{
    const CkptLayer *layer = ckpt_vm_find_file(vm, file);

    return layer && (layer->write_locked || layer->unguarded || (layer->read_locked && !is_read_here(vm, file)));
}

/* Off here, and off wherever else it may be defined: nobody has any of its files open. A host that has given
 * it away, and has it defined still, does not take it back by that alone: it would go back and forth. */
static const char *
refuse_off(const Adoption *adoption, const CkptImport *import)
{
    for (guint i = 0; i < adoption->rows->len; i++) {
        const CkptCheckpoint *row = g_ptr_array_index(adoption->rows, i);

        if (row->state == CKPT_STATE_MOVED && !row->departed)
            return "it moved away and was defined here all the while: start it here to take it back";
    }
    for (guint i = 0; i < import->checkpoints->len; i++) {
        const CkptCheckpoint *row = g_ptr_array_index(import->checkpoints, i);

        for (guint k = 0; k < row->disks->len; k++)
            if (is_open(import->vm, ((CkptCheckpointDisk *)g_ptr_array_index(row->disks, k))->sealed_file))
                return "one of its files is, or may be, open elsewhere";
    }
    for (guint i = 0; i < import->made->len; i++)
        if (is_open(import->vm, g_ptr_array_index(import->made, i)))
            return "one of its files is, or may be, open elsewhere";
    return NULL;
}

static const char *
refuse_now(const Adoption *adoption, const CkptImport *import)
{
    if (!import->deployed)
        return "it is not defined here";
    return import->vm->power == CKPT_POWER_SHUT_OFF ? refuse_off(adoption, import)
                                                    : refuse_running(import->vm);
}

/* ---- Taking over ---- */

static guint64
greatest_epoch(const Adoption *adoption, const CkptImport *import)
{
    guint64 epoch = 0;

    for (guint i = 0; i < adoption->rows->len; i++)
        epoch = MAX(epoch, ((CkptCheckpoint *)g_ptr_array_index(adoption->rows, i))->epoch);
    for (guint i = 0; i < import->manifests->len; i++)
        epoch = MAX(epoch, ((CkptManifest *)g_ptr_array_index(import->manifests, i))->epoch);
    for (guint i = 0; i < import->left_out->len; i++)
        epoch = MAX(epoch, ((CkptManifest *)g_ptr_array_index(import->left_out, i))->epoch);
    return epoch;
}

/* Beside each of its files; where an earlier attempt did it, it is done. */
static gboolean
take_checkpoint(const Adoption *adoption, const CkptCheckpoint *row, GError **error)
{
    CkptDriver *driver = adoption->engine->driver;
    g_autofree char *text = ckpt_manifest_text(row, adoption->host, row->epoch);

    for (guint i = 0; i < row->disks->len; i++) {
        const char *file = ((CkptCheckpointDisk *)g_ptr_array_index(row->disks, i))->sealed_file;
        g_autoptr(CkptManifest) head = driver->manifest_head(driver, file);
        gboolean ours = head && g_str_equal(head->agent, adoption->host->host_id);

        if (!head || head->epoch > row->epoch || (head->epoch == row->epoch && !ours)) {
            ckpt_error_set(error, CKPT_REASON_VM_BUSY, "%s: its manifest was changed meanwhile", file);
            return FALSE;
        }
        if (head->epoch == row->epoch)
            continue;
        ckpt_fault_point();
        if (!driver->take_over(driver, file, text, head->agent, head->epoch, error))
            return FALSE;
        ckpt_fault_point();
    }
    return TRUE;
}

/* What the catalogue has of it is from before the VM left. */
static void
replace_row(const Adoption *adoption, CkptCheckpoint *row)
{
    const CkptCheckpoint *old = ckpt_graph_find(adoption->rows, row->id);

    row->revision = old ? old->revision : 0;
    row->state = row->state == CKPT_STATE_MOVED ? CKPT_STATE_READY : row->state;
}

/* Written by this agent when its host had another UUID. */
static gboolean
is_of_old_name(const Adoption *adoption, const CkptManifest *manifest, const CkptCheckpoint *known)
{
    return !g_str_equal(manifest->agent, adoption->host->host_id) && manifest->epoch <= known->epoch;
}

static gboolean
take_all(const Adoption *adoption, CkptImport *import, guint *taken, GError **error)
{
    guint64 epoch = greatest_epoch(adoption, import) + 1;

    if (epoch > CKPT_MANIFEST_EPOCH_MAX) {
        ckpt_error_set(error, CKPT_REASON_VALIDATION_FAILED, "no greater epoch is left for its manifests");
        return FALSE;
    }
    for (guint i = 0; i < import->checkpoints->len; i++) {
        CkptCheckpoint *row = g_ptr_array_index(import->checkpoints, i);
        const CkptManifest *manifest = g_ptr_array_index(import->manifests, i);
        const CkptCheckpoint *known = ckpt_graph_find(adoption->rows, row->id);

        if (known && known->state != CKPT_STATE_MOVED) {
            if (!is_of_old_name(adoption, manifest, known))
                continue;
            ckpt_checkpoint_free(row); /* the catalogue knows it better */
            row = import->checkpoints->pdata[i] = ckpt_checkpoint_copy(known);
        }
        /* Ours by an earlier attempt, at some of its files at least. */
        row->epoch =
            g_str_equal(manifest->agent, adoption->host->host_id) ? manifest->epoch : epoch;
        if (!take_checkpoint(adoption, row, error))
            return FALSE;
        (*taken)++;
    }
    return TRUE;
}

/* What the other agent was in the midst of (a create, a delete) when its host was lost, nobody finishes: the
 * manifests of it are taken over all the same, or they would say for ever that the VM is that one's. */
static gboolean
take_left_out(const Adoption *adoption, CkptImport *import, GError **error)
{
    CkptEngine *engine = adoption->engine;
    guint64 epoch = greatest_epoch(adoption, import) + 1;

    for (guint i = 0; i < import->left_out->len; i++) {
        const CkptManifest *manifest = g_ptr_array_index(import->left_out, i);
        g_autofree char *text = ckpt_manifest_text(manifest->row, adoption->host, epoch);

        if (!g_str_equal(manifest->agent, adoption->host->host_id) &&
            !engine->driver->take_over(engine->driver, manifest->path, text, manifest->agent,
                                       manifest->epoch, error))
            return FALSE;
        g_mutex_lock(&engine->lock);
        g_hash_table_add(engine->left_out, g_strdup(manifest->checkpoint_id));
        g_mutex_unlock(&engine->lock);
    }
    return TRUE;
}

/* Rows that are ours already stay as the catalogue has them; what was deleted over there is gone. */
static CkptChange *
make_change(const Adoption *adoption, const CkptImport *import)
{
    CkptChange *change = ckpt_import_change(import);

    for (guint i = change->upserts->len; i > 0; i--) {
        CkptCheckpoint *row = g_ptr_array_index(change->upserts, i - 1);
        const CkptCheckpoint *known = ckpt_graph_find(adoption->rows, row->id);

        if (known && known->state != CKPT_STATE_MOVED &&
            !is_of_old_name(adoption, g_ptr_array_index(import->manifests, i - 1), known))
            g_ptr_array_remove_index(change->upserts, i - 1);
        else
            replace_row(adoption, row);
    }
    for (guint i = 0; i < adoption->rows->len; i++) {
        const CkptCheckpoint *row = g_ptr_array_index(adoption->rows, i);

        if (row->state == CKPT_STATE_MOVED && !ckpt_graph_find(import->checkpoints, row->id))
            g_ptr_array_add(change->removes, g_strdup(row->id));
    }
    return change;
}

/* One ID is one checkpoint: that of another VM would take this one's place in the catalogue. */
static void
leave_out_strangers(const Adoption *adoption, CkptImport *import)
{
    for (guint i = import->checkpoints->len; i > 0; i--) {
        const CkptCheckpoint *row = g_ptr_array_index(import->checkpoints, i - 1);
        g_autoptr(CkptCheckpoint) known =
            ckpt_store_get_checkpoint(adoption->engine->store, row->id, NULL);

        if (!known || g_str_equal(known->vm_id, adoption->vm_id))
            continue;
        g_warning("VM %s: checkpoint %s is not adopted: VM %s has one of that ID", adoption->vm_id, row->id,
                  known->vm_id);
        g_ptr_array_remove_index(import->checkpoints, i - 1);
        g_ptr_array_remove_index(import->manifests, i - 1);
    }
}

static gboolean
adopt(const Adoption *adoption, CkptImport *import, GError **error)
{
    g_autoptr(CkptChange) change = NULL;
    guint taken = 0;

    leave_out_strangers(adoption, import);
    for (guint i = 0; i < import->notes->len; i++)
        g_warning("VM %s: %s", adoption->vm_id, (char *)g_ptr_array_index(import->notes, i));
    if (!take_all(adoption, import, &taken, error) || !take_left_out(adoption, import, error))
        return FALSE;
    change = make_change(adoption, import);
    ckpt_fault_point();
    if (!ckpt_store_apply(adoption->engine->store, change, adoption->vm_id, error))
        return FALSE;
    ckpt_fault_point();
    g_message("VM %s came here: %u checkpoints were taken over", adoption->vm_id, taken);
    return TRUE;
}

/* FALSE with an error: not now. */
static gboolean
take_over(const Adoption *adoption, const CkptVm *vm, GError **error)
{
    g_auto(GStrv) folders = ckpt_import_folders(vm);
    g_autoptr(GPtrArray) notes = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GPtrArray) imports =
        ckpt_import_read(adoption->engine->driver, (const char *const *)folders, adoption->vm_id, notes,
                         error);
    const char *why;

    if (!imports)
        return FALSE;
    for (guint i = 0; i < notes->len; i++)
        g_message("%s", (char *)g_ptr_array_index(notes, i));
    if (imports->len == 0)
        return TRUE;
    why = refuse_now(adoption, g_ptr_array_index(imports, 0));
    if (!why)
        return adopt(adoption, g_ptr_array_index(imports, 0), error);
    ckpt_error_set(error, CKPT_REASON_VM_BUSY, "%s", why);
    return FALSE;
}

/* ---- What was deleted over there ---- */

/* The VM was away and is here again, and none of the row's files is that checkpoint's any more. */
static gboolean
is_deleted_elsewhere(const Adoption *adoption, const CkptCheckpoint *row)
{
    CkptDriver *driver = adoption->engine->driver;

    if (row->state != CKPT_STATE_MOVED || !row->departed)
        return FALSE;
    for (guint i = 0; i < row->disks->len; i++) {
        const CkptCheckpointDisk *disk = g_ptr_array_index(row->disks, i);
        g_autoptr(CkptManifest) head = driver->manifest_head(driver, disk->sealed_file);

        if (head && g_str_equal(head->checkpoint_id, row->id))
            return FALSE;
    }
    return TRUE;
}

static gboolean
drop_deleted(const Adoption *adoption, GError **error)
{
    g_autoptr(CkptChange) change = ckpt_change_new();
    g_autoptr(CkptVmRecord) record =
        ckpt_store_get_vm(adoption->engine->store, adoption->vm_id, error);

    for (guint i = 0; record && i < adoption->rows->len; i++) {
        const CkptCheckpoint *row = g_ptr_array_index(adoption->rows, i);

        if (!is_deleted_elsewhere(adoption, row))
            continue;
        g_ptr_array_add(change->removes, g_strdup(row->id));
        change->set_current = change->set_current || g_strcmp0(record->current_id, row->id) == 0;
    }
    if (!record)
        return FALSE;
    return change->removes->len == 0 ||
           ckpt_store_apply(adoption->engine->store, change, adoption->vm_id, error);
}

/* ---- When ---- */

static gboolean
read_rows(Adoption *adoption, GError **error)
{
    g_clear_pointer(&adoption->rows, g_ptr_array_unref);
    adoption->rows = ckpt_store_vm_checkpoints(adoption->engine->store, adoption->vm_id, error);
    return adoption->rows != NULL;
}

static gboolean
has_claims(const Adoption *adoption)
{
    for (guint i = 0; i < adoption->rows->len; i++)
        if (((CkptCheckpoint *)g_ptr_array_index(adoption->rows, i))->state != CKPT_STATE_MOVED)
            return TRUE;
    return FALSE;
}

/* TRUE: it is worth another look soon, nothing else may tell. */
static gboolean
look(Adoption *adoption)
{
    CkptDriver *driver = adoption->engine->driver;
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptVm) vm = driver->inspect(driver, adoption->vm_id, NULL, &error);
    const Place place = {
        .here = vm != NULL,
        .active = vm && vm->power != CKPT_POWER_SHUT_OFF,
        .left = driver->has_left && driver->has_left(driver, adoption->vm_id),
    };

    if (!vm && ckpt_error_reason(error) != CKPT_REASON_VM_NOT_FOUND)
        return FALSE;
    g_clear_error(&error);
    if (!read_rows(adoption, &error) || !mark_rows(adoption, &place, &error)) {
        g_warning("VM %s: cannot record where it is: %s", adoption->vm_id, error->message);
        return FALSE;
    }
    if (!read_rows(adoption, &error))
        return FALSE;
    if (!place.here) /* who has it by now may not have said so yet */
        return has_claims(adoption);
    if (!has_come(adoption, vm)) {
        if (!drop_deleted(adoption, &error))
            g_warning("VM %s: %s", adoption->vm_id, error->message);
        return FALSE;
    }
    if (take_over(adoption, vm, &error))
        return FALSE;
    g_message("VM %s: its checkpoints belong to another agent still: %s", adoption->vm_id,
              error->message);
    return TRUE;
}

void
ckpt_adopt_look(CkptEngine *engine, const char *vm_id)
{
    g_autofree char *read_only = ckpt_engine_read_only_reason(engine);
    g_autoptr(CkptHostInfo) host = NULL;
    Adoption adoption = {.engine = engine, .vm_id = vm_id};

    if (read_only || !engine->driver->manifest_head || !engine->driver->take_over ||
        !engine->driver->host_info(engine->driver, &host, NULL))
        return;
    adoption.host = host;
    if (look(&adoption))
        ckpt_look_again(engine, vm_id);
    else
        ckpt_look_settled(engine, vm_id);
    g_clear_pointer(&adoption.rows, g_ptr_array_unref);
}
