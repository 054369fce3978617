#include "client/command.h"
#include "client/find.h"
#include "client/output.h"
#include "common/text.h"

#include <stdio.h>
#include <string.h>

static gboolean files;

static const GOptionEntry options[] = {
    {"files", 0, 0, G_OPTION_ARG_NONE, &files,
     "every file of it: format, sizes, what it lies on, its manifest (JSON has them always)", NULL},
    {NULL}};

static void
print_field(const char *label, const char *value)
{
    g_autofree char *safe = NULL;

    if (!value || !*value)
        return;
    safe = ckpt_text_printable(value, -1, 8192);
    printf("%-18s %s\n", label, safe);
}

/* Only the description has lines. */
static void
print_lines(const char *label, const char *value)
{
    g_auto(GStrv) lines = g_strsplit(value, "\n", -1);

    for (guint i = 0; lines[i]; i++) {
        g_strdelimit(lines[i], "\t", ' ');
        print_field(i == 0 ? label : "", lines[i]);
    }
}

static void
print_time(const char *label, const Google__Protobuf__Timestamp *time, gboolean with_age)
{
    g_autofree char *text = ckpt_time_cell(time), *age = ckpt_age_cell(time), *value = NULL;

    if (!time)
        return;
    value =
        with_age ? g_strdup_printf("%s UTC, %s ago", text, age) : g_strdup_printf("%s UTC", text);
    print_field(label, value);
}

static void
print_enum(const char *label, const ProtobufCEnumDescriptor *descriptor, int value)
{
    g_autofree char *word = ckpt_enum_word(descriptor, value);

    if (value != 0)
        print_field(label, word);
}

static void
print_duration(const char *label, const Google__Protobuf__Duration *duration)
{
    if (duration && (duration->seconds || duration->nanos))
        printf("%-18s %.3f s\n", label, (double)duration->seconds + duration->nanos / 1e9);
}

static void
print_size(const char *label, guint64 bytes)
{
    g_autofree char *text = ckpt_size_text(bytes);

    if (bytes)
        print_field(label, text);
}

static void
print_growth(const Vmcheckpoint__V1__Growth *growth)
{
    g_autofree char *size = NULL, *rate = NULL, *age = NULL, *text = NULL;

    if (!growth)
        return;
    size = ckpt_size_text(growth->bytes);
    rate = ckpt_rate_cell(growth);
    age = ckpt_age_cell(growth->since_time);
    text = growth->since_time ? g_strdup_printf("%s in %s", size, age) : g_strdup(size);
    print_field("Written since:", text);
    if (strcmp(rate, "-") != 0)
        print_field("", rate);
}

static void
print_warnings(const CkptFoundCheckpoint *found)
{
    const Vmcheckpoint__V1__GetCheckpointResponse *reply = (const void *)found->reply;

    for (gsize i = 0; i < reply->n_warnings; i++)
        print_field(i == 0 ? "Warnings:" : "", reply->warnings[i]);
}

static void
print_identity(const CkptFoundCheckpoint *found)
{
    const PbCheckpoint *checkpoint = found->checkpoint;
    const char *vm_name = ckpt_found_vm_name(found);
    g_autofree char *named = g_strdup_printf("%s when captured", checkpoint->vm_name);

    print_field("Checkpoint:", checkpoint->checkpoint_name);
    print_field("ID:", checkpoint->checkpoint_id);
    print_field("VM:", vm_name);
    if (strcmp(vm_name, checkpoint->vm_name) != 0)
        print_field("Named:", named);
    print_field("VM ID:", checkpoint->vm_id);
    print_field("Host:", found->host->name);
    print_lines("Description:", checkpoint->description);
    print_time("Made:", checkpoint->added_time, TRUE);
    print_field("Made by:", checkpoint->creator);
    print_enum("Accessibility:", &vmcheckpoint__v1__accessibility__descriptor,
               (int)checkpoint->accessibility);
    print_field("Reason:", checkpoint->reason);
    print_field("Ticket:", checkpoint->ticket);
    print_field("Run:", checkpoint->run_id);
    for (gsize i = 0; i < checkpoint->n_labels; i++) {
        g_autofree char *label =
            g_strconcat(checkpoint->labels[i]->key, "=", checkpoint->labels[i]->value, NULL);

        print_field(i == 0 ? "Labels:" : "", label);
    }
}

static void
print_state(const PbCheckpoint *checkpoint)
{
    const ProtobufCEnumDescriptor *consistency = &vmcheckpoint__v1__consistency__descriptor;

    print_field("Enabled:", checkpoint->enabled ? "yes: it can be restored" : "no");
    print_field("", checkpoint->disabled_reason);
    if (checkpoint->state != VMCHECKPOINT__V1__CHECKPOINT_STATE__CHECKPOINT_STATE_READY)
        print_enum("State:", &vmcheckpoint__v1__checkpoint_state__descriptor,
                   (int)checkpoint->state);
    print_field("Current:", checkpoint->current ? "yes: the VM's present state began here" : "no");
    print_field("Parent:", checkpoint->parent_checkpoint_id);
    print_field("Last task:", checkpoint->most_recent_task);
    print_time("Modified:", checkpoint->modified_time, FALSE);
    print_time("Expires:", checkpoint->expire_time, FALSE);
    print_field("Held:", checkpoint->hold);
    print_enum("Consistency:", consistency, (int)checkpoint->consistency_reached);
    print_duration("Frozen for:", checkpoint->freeze_duration);
    print_duration("Paused for:", checkpoint->pause_duration);
    print_enum("Power state:", &vmcheckpoint__v1__power_state__descriptor,
               (int)checkpoint->power_state);
    print_enum("Mechanism:", &vmcheckpoint__v1__mechanism__descriptor, (int)checkpoint->mechanism);
    print_size("Size:", checkpoint->size_bytes);
    print_size("Memory:", checkpoint->memory_bytes);
    print_growth(checkpoint->growth);
}

static void
print_disks(const PbCheckpoint *checkpoint)
{
    for (gsize i = 0; i < checkpoint->n_disks; i++) {
        const Vmcheckpoint__V1__CheckpointDisk *disk = checkpoint->disks[i];
        g_autofree char *size = ckpt_size_text(disk->allocated_bytes);
        g_autofree char *text =
            g_strdup_printf("%s  %s  %s", disk->target, size, disk->sealed_file);

        print_field(i == 0 ? "Disks:" : "", text);
    }
}

static void
print_not_captured(const PbCheckpoint *checkpoint)
{
    for (gsize i = 0; i < checkpoint->n_not_captured; i++)
        print_field(i == 0 ? "Not captured:" : "", checkpoint->not_captured[i]);
}

/* Those that it has beside its disks'. */
static void
print_extra_files(const PbCheckpoint *checkpoint)
{
    for (gsize i = 0; i < checkpoint->n_files; i++) {
        const Vmcheckpoint__V1__CheckpointFile *file = checkpoint->files[i];
        g_autofree char *kind =
            ckpt_enum_word(&vmcheckpoint__v1__file_kind__descriptor, (int)file->kind);
        g_autofree char *size = ckpt_size_text(file->allocated_bytes);
        g_autofree char *text = g_strdup_printf("%s  %s  %s", kind, size, file->path);

        print_field(i == 0 ? "Files:" : "", text);
    }
}

/* What docs/by-hand.md is worked with. */
static void
print_files(const PbCheckpoint *checkpoint)
{
    for (gsize i = 0; i < checkpoint->n_disks; i++) {
        const Vmcheckpoint__V1__CheckpointDisk *disk = checkpoint->disks[i];
        g_autofree char *format =
            ckpt_enum_word(&vmcheckpoint__v1__disk_format__descriptor, (int)disk->format);
        g_autofree char *size = ckpt_size_text(disk->virtual_size_bytes);
        g_autofree char *allocated = ckpt_size_text(disk->allocated_bytes);
        g_autofree char *text =
            g_strdup_printf("%s, %s, %s allocated%s", format, size, allocated,
                            disk->agent_made ? "" : ", not made by the agent");

        print_field("Disk:", disk->target);
        print_field("  Sealed file:", disk->sealed_file);
        print_field("", text);
        for (gsize k = 0; k < disk->n_backing_files; k++)
            print_field(k == 0 ? "  Lies on:" : "", disk->backing_files[k]);
        print_field("  Manifest:", *disk->manifest_file ? disk->manifest_file : "none is there");
    }
}

static CkptExit
run(CkptClient *client, char **arguments)
{
    CkptExit exit = CKPT_EXIT_DONE;
    g_autoptr(CkptFoundCheckpoint) found = ckpt_find_checkpoint(client, arguments[0], FALSE, &exit);

    if (!found)
        return exit;
    if (client->settings->format != CKPT_FORMAT_TABLE) {
        g_autoptr(CkptList) list = ckpt_list_new(client->settings->format);

        ckpt_list_add(list, found->host->name, found->vm_name, found->checkpoint);
        ckpt_list_print(list);
        return CKPT_EXIT_DONE;
    }
    print_identity(found);
    print_state(found->checkpoint);
    print_not_captured(found->checkpoint);
    if (files)
        print_files(found->checkpoint);
    else
        print_disks(found->checkpoint);
    print_extra_files(found->checkpoint);
    print_warnings(found);
    return CKPT_EXIT_DONE;
}

const CkptCommand ckpt_command_show = {
    .name = "show",
    .arguments = "CHECKPOINT",
    .summary = "shows one checkpoint, given by its ID or as VM/NAME",
    .options = options,
    .min_arguments = 1,
    .max_arguments = 1,
    .publishes = TRUE,
    .run = run,
};
