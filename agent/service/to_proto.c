#include "agent/service/internal.h"

#include <string.h>

gpointer
ckpt_message_new(const ProtobufCMessageDescriptor *type)
{
    ProtobufCMessage *message = g_malloc0(type->sizeof_message);

    protobuf_c_message_init(type, message);
    return message;
}

void
ckpt_message_free(gpointer message)
{
    /* With the system's allocator, which is also GLib's. */
    if (message)
        protobuf_c_message_free_unpacked(message, NULL);
}

GBytes *
ckpt_message_pack(const ProtobufCMessage *message)
{
    gsize size = protobuf_c_message_get_packed_size(message);
    guint8 *data = g_malloc(size + 1);

    protobuf_c_message_pack(message, data);
    return g_bytes_new_take(data, size);
}

Google__Protobuf__Timestamp *
ckpt_give_time(gint64 us)
{
    Google__Protobuf__Timestamp *time;

    if (us == 0)
        return NULL;
    time = ckpt_message_new(&google__protobuf__timestamp__descriptor);
    time->seconds = us / G_USEC_PER_SEC;
    time->nanos = (gint32)(us % G_USEC_PER_SEC) * 1000;
    return time;
}

Google__Protobuf__Duration *
ckpt_give_duration(gint64 us)
{
    Google__Protobuf__Duration *duration =
        ckpt_message_new(&google__protobuf__duration__descriptor);

    duration->seconds = us / G_USEC_PER_SEC;
    duration->nanos = (gint32)(us % G_USEC_PER_SEC) * 1000;
    return duration;
}

char **
ckpt_give_strings(GPtrArray *strings, gsize *n)
{
    char **list;

    *n = strings ? strings->len : 0;
    if (*n == 0)
        return NULL;
    list = g_new0(char *, *n);
    for (gsize i = 0; i < *n; i++)
        list[i] = g_strdup(g_ptr_array_index(strings, i));
    return list;
}

/* A message's string is never NULL. */
static char *
text(const char *value)
{
    return g_strdup(value ? value : "");
}

static int
compare_labels(gconstpointer a, gconstpointer b)
{
    const PB(Label) *const *left = a;
    const PB(Label) *const *right = b;

    return strcmp((*left)->key, (*right)->key);
}

static void
give_labels(GHashTable *table, PB(Checkpoint) * message)
{
    GHashTableIter iter;
    gpointer key, value;
    gsize n = 0;

    message->n_labels = table ? g_hash_table_size(table) : 0;
    if (message->n_labels == 0)
        return;
    message->labels = g_new0(PB(Label) *, message->n_labels);
    g_hash_table_iter_init(&iter, table);
    while (g_hash_table_iter_next(&iter, &key, &value)) {
        PB(Label) *label = ckpt_message_new(&vmcheckpoint__v1__label__descriptor);

        label->key = text(key);
        label->value = text(value);
        message->labels[n++] = label;
    }
    qsort(message->labels, n, sizeof *message->labels, compare_labels);
}

static PB(CheckpointDisk) * give_disk(const CkptCheckpointInfo *info, guint i)
{
    const CkptCheckpointDisk *disk = g_ptr_array_index(info->checkpoint->disks, i);
    PB(CheckpointDisk) *message = ckpt_message_new(&vmcheckpoint__v1__checkpoint_disk__descriptor);

    message->target = text(disk->target);
    message->sealed_file = text(disk->sealed_file);
    message->format = (PB(DiskFormat))disk->format;
    message->allocated_bytes = info->allocated_bytes ? info->allocated_bytes[i] : 0;
    message->virtual_size_bytes = disk->virtual_size;
    message->agent_made = disk->agent_made;
    if (info->backing_files)
        message->backing_files = ckpt_give_strings(g_ptr_array_index(info->backing_files, i),
                                                   &message->n_backing_files);
    if (info->manifests)
        message->manifest_file = text(g_ptr_array_index(info->manifests, i));
    return message;
}

static void
give_disks(const CkptCheckpointInfo *info, PB(Checkpoint) * message, gboolean full)
{
    GPtrArray *disks = info->checkpoint->disks;

    if (disks->len == 0)
        return;
    message->n_virtual_disk_drives = disks->len;
    message->virtual_disk_drives = g_new0(char *, disks->len);
    if (full) {
        message->n_disks = disks->len;
        message->disks = g_new0(PB(CheckpointDisk) *, disks->len);
    }
    for (guint i = 0; i < disks->len; i++) {
        const CkptCheckpointDisk *disk = g_ptr_array_index(disks, i);

        message->virtual_disk_drives[i] = text(disk->target);
        if (full)
            message->disks[i] = give_disk(info, i);
    }
}

static void
give_files(const CkptCheckpoint *checkpoint, PB(Checkpoint) * message)
{
    if (checkpoint->extras->len == 0)
        return;
    message->files = g_new0(PB(CheckpointFile) *, checkpoint->extras->len);
    for (guint i = 0; i < checkpoint->extras->len; i++) {
        const CkptCheckpointFile *extra = g_ptr_array_index(checkpoint->extras, i);
        PB(CheckpointFile) *file =
            ckpt_message_new(&vmcheckpoint__v1__checkpoint_file__descriptor);

        file->kind = (PB(FileKind))extra->kind;
        file->path = text(extra->path);
        file->allocated_bytes = extra->bytes;
        message->files[message->n_files++] = file;
    }
}

/* The published data of the contract: fields 1 to 13. */
static void
give_published(const CkptCheckpoint *checkpoint, PB(Checkpoint) * message)
{
    gboolean whole = !checkpoint->disabled_reason || *checkpoint->disabled_reason == '\0';

    message->accessibility = (PB(Accessibility))checkpoint->accessibility;
    message->added_time = ckpt_give_time(checkpoint->added_us);
    message->checkpoint_id = text(checkpoint->id);
    message->checkpoint_name = text(checkpoint->name);
    message->description = text(checkpoint->description);
    message->id = text(checkpoint->id);
    message->enabled = whole && checkpoint->state == CKPT_STATE_READY;
    message->modified_time = ckpt_give_time(checkpoint->modified_us);
    message->most_recent_task = text(checkpoint->most_recent_task);
    message->parent_checkpoint_id = text(checkpoint->parent_id);
    message->vm_id = text(checkpoint->vm_id);
    message->vm_name = text(checkpoint->vm_name);
    if (!whole)
        message->disabled_reason = text(checkpoint->disabled_reason);
    else if (checkpoint->state != CKPT_STATE_READY)
        message->disabled_reason = text(checkpoint->state == CKPT_STATE_DELETING
                                            ? "its delete has begun"
                                            : "its VM has moved to another host");
}

PB(Checkpoint) * ckpt_give_checkpoint(const CkptCheckpointInfo *info, PB(CheckpointView) view)
{
    const CkptCheckpoint *checkpoint = info->checkpoint;
    gboolean full = view != VMCHECKPOINT__V1__CHECKPOINT_VIEW__CHECKPOINT_VIEW_BASIC;
    PB(Checkpoint) *message = ckpt_message_new(&vmcheckpoint__v1__checkpoint__descriptor);

    give_published(checkpoint, message);
    give_disks(info, message, full);
    give_labels(checkpoint->labels, message);
    message->consistency_asked = (PB(Consistency))checkpoint->asked;
    message->consistency_reached = (PB(Consistency))checkpoint->reached;
    if (checkpoint->freeze_us >= 0)
        message->freeze_duration = ckpt_give_duration(checkpoint->freeze_us);
    if (checkpoint->pause_us >= 0)
        message->pause_duration = ckpt_give_duration(checkpoint->pause_us);
    message->memory_bytes = checkpoint->memory_bytes;
    message->size_bytes = full ? info->size_bytes : 0;
    message->depth = info->depth;
    message->power_state = (PB(PowerState))checkpoint->power;
    message->run_id = text(checkpoint->run_id);
    message->reason = text(checkpoint->reason);
    message->ticket = text(checkpoint->ticket);
    message->creator = text(checkpoint->creator);
    message->expire_time = ckpt_give_time(checkpoint->expire_us);
    message->hold = text(checkpoint->hold);
    message->mechanism = (PB(Mechanism))checkpoint->mechanism;
    message->etag = g_strdup_printf("%" G_GUINT64_FORMAT, checkpoint->revision);
    message->state = (PB(CheckpointState))checkpoint->state;
    message->current = info->current;
    message->not_captured = ckpt_give_strings(checkpoint->not_captured, &message->n_not_captured);
    if (full)
        give_files(checkpoint, message);
    message->growth = full ? ckpt_give_growth(info->growth) : NULL;
    return message;
}

static PB(OperationError) * give_operation_error(const CkptOperation *operation)
{
    PB(OperationError) *message = ckpt_message_new(&vmcheckpoint__v1__operation_error__descriptor);
    GHashTableIter iter;
    gpointer key, value;
    gsize n = 0;

    message->reason = (PB(ErrorReason))operation->reason;
    message->code = ckpt_reason_grpc_code(operation->reason);
    message->message = text(operation->message);
    if (!operation->metadata || g_hash_table_size(operation->metadata) == 0)
        return message;
    message->n_metadata = g_hash_table_size(operation->metadata);
    message->metadata = g_new0(PB(OperationError__MetadataEntry) *, message->n_metadata);
    g_hash_table_iter_init(&iter, operation->metadata);
    while (g_hash_table_iter_next(&iter, &key, &value)) {
        PB(OperationError__MetadataEntry) *entry =
            ckpt_message_new(&vmcheckpoint__v1__operation_error__metadata_entry__descriptor);

        entry->key = text(key);
        entry->value = text(value);
        message->metadata[n++] = entry;
    }
    return message;
}

static gboolean
has_ended(CkptOpState state)
{
    return state == CKPT_OP_SUCCEEDED || state == CKPT_OP_FAILED || state == CKPT_OP_CANCELLED;
}

static void
give_progress(const CkptOperation *operation, PB(Operation) * message)
{
    const CkptPlan *plan = operation->plan;

    if (!plan)
        return;
    message->steps_total = plan->steps->len;
    message->step = (guint32)(operation->step_begun + 1);
    message->past_no_return =
        plan->no_return && !operation->undoing && operation->step_begun >= (gint)plan->decisive;
    if (operation->step_begun >= 0 && (guint)operation->step_begun < plan->steps->len) {
        message->step_description =
            ckpt_step_describe(g_ptr_array_index(plan->steps, (guint)operation->step_begun));
    }
}

PB(Operation) *
    ckpt_give_operation(const CkptOperation *operation, guint64 bytes_done, guint64 bytes_total)
{
    PB(Operation) *message = ckpt_message_new(&vmcheckpoint__v1__operation__descriptor);

    message->request_id = text(operation->request_id);
    message->kind = (PB(OperationKind))operation->kind;
    message->state = (PB(OperationState))operation->state;
    message->vm_id = text(operation->vm_id);
    message->checkpoint_id = text(operation->checkpoint_id);
    message->identity = text(operation->identity);
    message->create_time = ckpt_give_time(operation->created_us);
    message->start_time = ckpt_give_time(operation->started_us);
    message->bytes_done = bytes_done;
    message->bytes_total = bytes_total;
    give_progress(operation, message);
    if (has_ended(operation->state))
        message->end_time = ckpt_give_time(operation->ended_us);
    if (operation->state == CKPT_OP_FAILED || operation->state == CKPT_OP_CANCELLED)
        message->error = give_operation_error(operation);
    return message;
}

/* The files that a step names, each once. */
static GPtrArray *
files_of(const CkptStep *step)
{
    GPtrArray *files = g_ptr_array_new();
    const char *named[] = {step->file, step->base, step->above};

    for (guint i = 0; i < G_N_ELEMENTS(named); i++)
        if (named[i])
            g_ptr_array_add(files, (gpointer)named[i]);
    for (guint i = 0; step->disks && i < step->disks->len; i++) {
        const CkptDiskFile *disk = g_ptr_array_index(step->disks, i);

        if (disk->file && !g_ptr_array_find_with_equal_func(files, disk->file, g_str_equal, NULL))
            g_ptr_array_add(files, disk->file);
    }
    return files;
}

PB(PlanStep) * *ckpt_give_plan(const CkptPlan *plan, gsize *n)
{
    PB(PlanStep) * *steps;

    *n = plan ? plan->steps->len : 0;
    if (*n == 0)
        return NULL;
    steps = g_new0(PB(PlanStep) *, *n);
    for (gsize i = 0; i < *n; i++) {
        const CkptStep *step = g_ptr_array_index(plan->steps, i);
        g_autoptr(GPtrArray) files = files_of(step);

        steps[i] = ckpt_message_new(&vmcheckpoint__v1__plan_step__descriptor);
        steps[i]->name = text(ckpt_step_name(step->kind));
        steps[i]->description = ckpt_step_describe(step);
        steps[i]->files = ckpt_give_strings(files, &steps[i]->n_files);
    }
    return steps;
}

PB(Ability) * ckpt_give_ability(const CkptAbility *ability)
{
    PB(Ability) *message = ckpt_message_new(&vmcheckpoint__v1__ability__descriptor);

    message->available = ability->available;
    message->reason = text(ability->available ? "" : ability->reason);
    return message;
}
