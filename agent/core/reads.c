/* What the engine answers without changing anything, but for what verification finds. */
#include "agent/core/engine_internal.h"

#include "agent/core/advice.h"
#include "agent/core/foreign.h"
#include "agent/core/graph.h"

#include <string.h>

void
ckpt_checkpoint_info_free(CkptCheckpointInfo *info)
{
    if (!info)
        return;
    ckpt_checkpoint_free(info->checkpoint);
    g_free(info->allocated_bytes);
    g_clear_pointer(&info->backing_files, g_ptr_array_unref);
    g_clear_pointer(&info->manifests, g_ptr_array_unref);
    ckpt_growth_free(info->growth);
    g_clear_pointer(&info->advice, g_ptr_array_unref);
    g_free(info);
}

void
ckpt_vm_info_free(CkptVmInfo *info)
{
    if (!info)
        return;
    ckpt_vm_summary_free(info->summary);
    ckpt_vm_free(info->vm);
    g_free(info->current_id);
    g_free(info->quarantine_reason);
    ckpt_growth_free(info->growth);
    g_clear_pointer(&info->advice, g_ptr_array_unref);
    g_free(info);
}

/* ---- Checkpoints ---- */

/* What a page of checkpoints is read beside; one per VM. */
typedef struct {
    GPtrArray *checkpoints;
    CkptVmRecord *record;
    Situation *situation; /* NULL until its files were looked at */
} Family;

static void
family_free(gpointer data)
{
    Family *family = data;

    g_clear_pointer(&family->checkpoints, g_ptr_array_unref);
    g_clear_pointer(&family->record, ckpt_vm_record_free);
    if (family->situation)
        ckpt_situation_clear(family->situation);
    g_free(family->situation);
    g_free(family);
}

static Family *
get_family(CkptEngine *engine, GHashTable *families, const char *vm_id, GError **error)
{
    Family *family = g_hash_table_lookup(families, vm_id);

    if (family)
        return family;
    family = g_new0(Family, 1);
    family->checkpoints = ckpt_store_vm_checkpoints(engine->store, vm_id, error);
    if (family->checkpoints)
        family->record = ckpt_store_get_vm(engine->store, vm_id, error);
    if (!family->record) {
        family_free(family);
        return NULL;
    }
    g_hash_table_insert(families, g_strdup(vm_id), family);
    return family;
}

static GHashTable *
families_new(void)
{
    return g_hash_table_new_full(g_str_hash, g_str_equal, g_free, family_free);
}

static CkptCheckpointInfo *
make_info(CkptEngine *engine, GHashTable *families, const CkptCheckpoint *checkpoint, GError **error)
{
    Family *family = get_family(engine, families, checkpoint->vm_id, error);
    CkptCheckpointInfo *info;

    if (!family)
        return NULL;
    /* Another host's agent may have taken it over since, which nobody else tells of. */
    if (checkpoint->departed && checkpoint->state == CKPT_STATE_READY)
        ckpt_engine_mark(engine, checkpoint->vm_id);
    info = g_new0(CkptCheckpointInfo, 1);
    info->checkpoint = ckpt_checkpoint_copy(checkpoint);
    info->depth = ckpt_plan_depth(family->checkpoints, checkpoint);
    info->current = g_strcmp0(family->record->current_id, checkpoint->id) == 0;
    return info;
}

/* As far as they were looked at. */
static GPtrArray *
files_below(const CkptVm *vm, const CkptLayer *layer)
{
    GPtrArray *paths = g_ptr_array_new_with_free_func(g_free);

    /* A ring of headers, which only others can make, ends too. */
    while (layer && layer->backing && paths->len < 256) {
        g_ptr_array_add(paths, g_strdup(layer->backing));
        layer = ckpt_vm_find_file(vm, layer->backing);
    }
    return paths;
}

static void
fill_files(CkptCheckpointInfo *info, const CkptVm *vm)
{
    GPtrArray *disks = info->checkpoint->disks;

    info->backing_files = g_ptr_array_new_with_free_func((GDestroyNotify)g_ptr_array_unref);
    info->manifests = g_ptr_array_new_with_free_func(g_free);
    for (guint i = 0; i < disks->len; i++) {
        CkptCheckpointDisk *disk = g_ptr_array_index(disks, i);
        CkptLayer *layer = ckpt_vm_find_file(vm, disk->sealed_file);

        g_ptr_array_add(info->backing_files, files_below(vm, layer));
        g_ptr_array_add(info->manifests,
                        layer && layer->manifest ? ckpt_graph_manifest(layer) : g_strdup(""));
    }
}

static void
fill_sizes(CkptCheckpointInfo *info, const CkptVm *vm)
{
    GPtrArray *disks = info->checkpoint->disks;

    info->allocated_bytes = g_new0(guint64, disks->len + 1);
    info->size_bytes = ckpt_plan_extra_bytes(vm, info->checkpoint);
    for (guint i = 0; i < disks->len; i++) {
        CkptCheckpointDisk *disk = g_ptr_array_index(disks, i);
        CkptLayer *layer = ckpt_vm_find_file(vm, disk->sealed_file);

        if (!layer || !layer->exists)
            continue;
        info->allocated_bytes[i] = layer->allocated;
        if (disk->agent_made)
            info->size_bytes += layer->allocated;
    }
}

static CkptGrowth *
present_growth(const CkptPlanInput *input)
{
    return ckpt_growth_measure(input, ckpt_graph_find(input->checkpoints, input->current_id));
}

static void
fill_growth(CkptCheckpointInfo *info, const CkptPlanInput *input)
{
    g_autoptr(CkptGrowth) present = present_growth(input);

    info->growth = ckpt_growth_measure(input, info->checkpoint);
    info->advice = ckpt_advice_of(input, present);
}

/* Looks at the VM's files, once for a page, and records what they say; not while an operation works on
 * them: what was read may be half of before and half of after. */
static gboolean
look_at_family(CkptEngine *engine, Family *family, const char *vm_id, GError **error)
{
    gboolean busy_before, busy_after;
    guint64 turns = ckpt_engine_turns(engine, vm_id, &busy_before);

    if (family->situation)
        return TRUE;
    family->situation = g_new0(Situation, 1);
    if (!ckpt_situation_read(engine, vm_id, FALSE, family->situation, error)) {
        ckpt_situation_clear(family->situation);
        g_clear_pointer(&family->situation, g_free);
        return FALSE;
    }
    if (turns == ckpt_engine_turns(engine, vm_id, &busy_after) && !busy_before && !busy_after)
        ckpt_situation_record(engine, family->situation);
    return TRUE;
}

/* The row as the files are now. FALSE when they cannot be looked at: what was true at some time is not
 * passed on as verified. */
static gboolean
verify_info(CkptEngine *engine, GHashTable *families, CkptCheckpointInfo *info, GError **error)
{
    const char *vm_id = info->checkpoint->vm_id;
    Family *family = get_family(engine, families, vm_id, error);
    g_autoptr(GError) why = NULL;
    CkptCheckpoint *row;

    if (!family)
        return FALSE;
    if (!look_at_family(engine, family, vm_id, &why)) {
        if (ckpt_error_reason(why) != CKPT_REASON_VM_NOT_FOUND) {
            g_propagate_error(error, g_steal_pointer(&why));
            return FALSE;
        }
        ckpt_set_str(&info->checkpoint->disabled_reason,
                     info->checkpoint->stayed ? CKPT_STAYED_REASON : CKPT_NOT_DEFINED_REASON);
        return TRUE;
    }
    row = ckpt_graph_find(family->situation->checkpoints, info->checkpoint->id);
    if (!row) /* deleted since it was listed */
        return TRUE;
    ckpt_checkpoint_free(info->checkpoint);
    info->checkpoint = ckpt_checkpoint_copy(row);
    fill_sizes(info, family->situation->vm);
    fill_files(info, family->situation->vm);
    fill_growth(info, &family->situation->input);
    return TRUE;
}

CkptCheckpointInfo *
ckpt_engine_get_checkpoint(CkptEngine *engine, const char *id, gboolean verify, GError **error)
{
    g_autoptr(GHashTable) families = families_new();
    g_autoptr(GError) why = NULL;
    g_autoptr(CkptCheckpoint) checkpoint = ckpt_store_get_checkpoint(engine->store, id, &why);
    g_autoptr(CkptCheckpointInfo) info = NULL;

    if (ckpt_error_reason(why) == CKPT_REASON_CHECKPOINT_NOT_FOUND &&
        (info = ckpt_foreign_find(engine, id, NULL)))
        return g_steal_pointer(&info);
    if (!checkpoint) {
        g_propagate_error(error, g_steal_pointer(&why));
        ckpt_error_add(error, CKPT_META_CHECKPOINT, id);
        return NULL;
    }
    info = make_info(engine, families, checkpoint, error);
    if (!info || (verify && !verify_info(engine, families, info, error)))
        return NULL;
    return g_steal_pointer(&info);
}

/* Both in the order of the list: the first `limit` of the two together. */
static void
add_foreign(CkptEngine *engine, const CkptCheckpointQuery *query, GPtrArray *infos, GPtrArray *warnings)
{
    g_autoptr(GPtrArray) foreign = ckpt_foreign_query(engine, query, warnings);

    if (foreign->len == 0)
        return;
    g_ptr_array_extend_and_steal(infos, g_steal_pointer(&foreign));
    g_ptr_array_sort(infos, ckpt_foreign_compare);
    if (query->limit && infos->len > query->limit)
        g_ptr_array_set_size(infos, (gint)query->limit);
}

GPtrArray *
ckpt_engine_list_checkpoints(CkptEngine *engine, const CkptCheckpointQuery *query, gboolean verify,
                             GPtrArray *warnings, GError **error)
{
    g_autoptr(GHashTable) families = families_new();
    g_autoptr(GPtrArray) infos =
        g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_checkpoint_info_free);
    g_autoptr(GPtrArray) rows = NULL;

    if (warnings)
        ckpt_engine_compare(engine);
    if (warnings && !ckpt_engine_is_compared(engine))
        g_ptr_array_add(warnings, g_strdup(CKPT_NOT_COMPARED));
    rows = ckpt_store_list_checkpoints(engine->store, query, error);
    if (!rows)
        return NULL;
    for (guint i = 0; i < rows->len; i++) {
        CkptCheckpointInfo *info =
            make_info(engine, families, g_ptr_array_index(rows, i), error);

        if (!info)
            return NULL;
        g_ptr_array_add(infos, info);
        if (verify && !verify_info(engine, families, info, error))
            return NULL;
    }
    if (warnings)
        add_foreign(engine, query, infos, warnings);
    return g_steal_pointer(&infos);
}

/* ---- Operations ---- */

/* How far the step of one that runs is; the store does not know. */
static void
add_progress(CkptEngine *engine, CkptOperation *op)
{
    g_autofree char *key = ckpt_live_key(op->identity, op->request_id);
    const LiveOp *live;

    if (op->state != CKPT_OP_RUNNING)
        return;
    g_mutex_lock(&engine->lock);
    live = g_hash_table_lookup(engine->live, key);
    if (live) {
        op->bytes_done = live->bytes_done;
        op->bytes_total = live->bytes_total;
    }
    g_mutex_unlock(&engine->lock);
}

CkptOperation *
ckpt_engine_get_operation(CkptEngine *engine, const char *identity, const char *request_id,
                          GError **error)
{
    g_autoptr(GError) why = NULL;
    CkptOperation *op = ckpt_store_find_operation(engine->store, identity, request_id, &why);

    if (why) {
        g_propagate_error(error, g_steal_pointer(&why));
    } else if (!op) {
        ckpt_error_set(error, CKPT_REASON_OPERATION_NOT_FOUND,
                       "no operation of %s has request_id %s", identity, request_id);
        ckpt_error_add(error, CKPT_META_REQUEST, request_id);
    } else {
        add_progress(engine, op);
    }
    return op;
}

GPtrArray *
ckpt_engine_list_operations(CkptEngine *engine, const CkptOperationQuery *query, GError **error)
{
    return ckpt_store_list_operations(engine->store, query, error);
}

/* ---- Virtual machines ---- */

static int
compare_infos(gconstpointer a, gconstpointer b)
{
    const CkptVmSummary *left = (*(CkptVmInfo *const *)a)->summary;
    const CkptVmSummary *right = (*(CkptVmInfo *const *)b)->summary;
    int order = strcmp(left->name, right->name);

    return order ? order : strcmp(left->id, right->id);
}

static void
take_record(CkptVmInfo *info, CkptVmRecord *record)
{
    info->checkpoint_count = record->checkpoints;
    info->current_id = g_steal_pointer(&record->current_id);
    info->quarantine_reason = g_steal_pointer(&record->quarantine_reason);
}

GPtrArray *
ckpt_engine_list_vms(CkptEngine *engine, GError **error)
{
    g_autoptr(GPtrArray) infos = g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_vm_info_free);
    g_autoptr(GPtrArray) vms = engine->driver->list_vms(engine->driver, error);

    if (!vms)
        return NULL;
    g_ptr_array_set_free_func(vms, NULL);
    for (guint i = 0; i < vms->len; i++) {
        CkptVmInfo *info = g_new0(CkptVmInfo, 1);

        info->summary = g_ptr_array_index(vms, i);
        g_ptr_array_add(infos, info);
    }
    for (guint i = 0; i < infos->len; i++) {
        CkptVmInfo *info = g_ptr_array_index(infos, i);
        g_autoptr(CkptVmRecord) record =
            ckpt_store_get_vm(engine->store, info->summary->id, error);

        if (!record)
            return NULL;
        take_record(info, record);
    }
    g_ptr_array_sort(infos, compare_infos);
    return g_steal_pointer(&infos);
}

static void
measure(CkptVmInfo *info, const Situation *situation)
{
    for (guint i = 0; i < info->vm->disks->len; i++) {
        CkptDisk *disk = g_ptr_array_index(info->vm->disks, i);

        info->chain_depth = MAX(info->chain_depth, disk->chain->len);
    }
    for (guint i = 0; i < situation->made->len; i++) {
        CkptLayer *layer = ckpt_vm_find_file(info->vm, g_ptr_array_index(situation->made, i));

        if (layer && layer->exists)
            info->checkpoint_bytes += layer->allocated;
    }
}

CkptVmInfo *
ckpt_engine_get_vm(CkptEngine *engine, const char *vm_id, GError **error)
{
    g_auto(Situation) situation = {0};
    CkptVmInfo *info;

    if (!ckpt_situation_read(engine, vm_id, FALSE, &situation, error)) {
        ckpt_error_add(error, CKPT_META_VM, vm_id);
        return NULL;
    }
    info = g_new0(CkptVmInfo, 1);
    info->growth = present_growth(&situation.input);
    info->advice = ckpt_advice_of(&situation.input, info->growth);
    info->vm = g_steal_pointer(&situation.vm);
    info->summary = g_new0(CkptVmSummary, 1);
    info->summary->id = g_strdup(info->vm->id);
    info->summary->name = g_strdup(info->vm->name);
    info->summary->power = info->vm->power;
    take_record(info, situation.record);
    measure(info, &situation);
    return info;
}

/* ---- The agent ---- */

CkptDriver *
ckpt_engine_driver(CkptEngine *engine)
{
    return engine->driver;
}

const CkptLimits *
ckpt_engine_limits(CkptEngine *engine)
{
    return &engine->limits;
}

char *
ckpt_engine_read_only_reason(CkptEngine *engine)
{
    char *reason = ckpt_store_read_only_reason(engine->store);

    return reason ? reason : ckpt_rebuild_unagreed(engine);
}

gboolean
ckpt_engine_is_idle(CkptEngine *engine)
{
    GHashTableIter iter;
    gpointer value;
    gboolean idle;

    g_mutex_lock(&engine->lock);
    idle = engine->running == 0 && !engine->changed && g_atomic_int_get(&engine->looks) == 0;
    g_hash_table_iter_init(&iter, engine->queues);
    while (idle && g_hash_table_iter_next(&iter, NULL, &value)) {
        const VmQueue *queue = value;

        idle = !queue->busy && !queue->look && queue->waiting.length == 0;
    }
    g_mutex_unlock(&engine->lock);
    return idle;
}

gboolean
ckpt_engine_is_recovering(CkptEngine *engine)
{
    gboolean recovering;

    g_mutex_lock(&engine->lock);
    recovering = engine->recovering > 0;
    g_mutex_unlock(&engine->lock);
    return recovering;
}
