#include "tests/unit/model_samples.h"

static void
add_disk(CkptCheckpoint *checkpoint, const char *target, guint64 size)
{
    CkptCheckpointDisk *disk = g_new0(CkptCheckpointDisk, 1);

    disk->target = g_strdup(target);
    disk->sealed_file = g_strdup_printf("/images/%s \"ö\".qcow2", target);
    disk->format = CKPT_FORMAT_QCOW2;
    disk->virtual_size = size;
    disk->id = (CkptFileId){G_MAXUINT64, size, 3, G_MININT64};
    disk->mode_before = 0660;
    disk->agent_made = TRUE;
    g_ptr_array_add(checkpoint->disks, disk);
}

static void
add_extra(CkptCheckpoint *checkpoint, CkptFileKind kind)
{
    CkptCheckpointFile *file = g_new0(CkptCheckpointFile, 1);

    file->kind = kind;
    file->path = g_strdup_printf("/images/%s", ckpt_file_kind_name(kind));
    file->format = kind == CKPT_FILE_NVRAM ? CKPT_FORMAT_RAW : (CkptFormat)0;
    file->id = (CkptFileId){1, 2, 3, 4};
    file->bytes = G_MAXUINT64;
    g_ptr_array_add(checkpoint->extras, file);
}

CkptCheckpoint *
sample_checkpoint(const char *id, const char *vm_id, gint64 added_us)
{
    CkptCheckpoint *checkpoint = ckpt_checkpoint_new();

    checkpoint->id = g_strdup(id);
    checkpoint->vm_id = g_strdup(vm_id);
    checkpoint->vm_name = g_strdup("web-01");
    ckpt_set_str(&checkpoint->name, "nightly");
    ckpt_set_str(&checkpoint->description,
                 "two\nlines \\ \"quoted\" \xe2\x80\xa8 \xf0\x9f\x98\x80");
    checkpoint->accessibility = CKPT_ACCESSIBILITY_PUBLIC;
    checkpoint->added_us = added_us;
    checkpoint->modified_us = G_MAXINT64;
    ckpt_set_str(&checkpoint->most_recent_task, "Create checkpoint");
    checkpoint->asked = CKPT_CONSISTENCY_APPLICATION;
    checkpoint->reached = CKPT_CONSISTENCY_CRASH;
    checkpoint->freeze_us = -1;
    checkpoint->pause_us = 12;
    add_disk(checkpoint, "vda", 1);
    add_disk(checkpoint, "vdb", G_MAXUINT64);
    add_extra(checkpoint, CKPT_FILE_MEMORY);
    add_extra(checkpoint, CKPT_FILE_NVRAM);
    g_ptr_array_add(checkpoint->not_captured, g_strdup("the TPM's state"));
    checkpoint->memory_bytes = (guint64)1 << 63;
    ckpt_set_str(&checkpoint->qemu_version, "7.2.22");
    checkpoint->power = CKPT_POWER_PAUSED;
    ckpt_set_str(&checkpoint->run_id, "patch-7");
    ckpt_set_str(&checkpoint->reason, "kernel");
    ckpt_set_str(&checkpoint->ticket, "T-1");
    ckpt_set_str(&checkpoint->creator, "spiffe://a");
    ckpt_set_str(&checkpoint->hold, "audit");
    g_hash_table_insert(checkpoint->labels, g_strdup("ärger \"x\""), g_strdup("\\\n\t\x7f\x01"));
    g_hash_table_insert(checkpoint->labels, g_strdup("tier"), g_strdup("db"));
    checkpoint->expire_us = G_MININT64;
    checkpoint->mechanism = CKPT_MECHANISM_OVERLAY;
    checkpoint->state = CKPT_STATE_READY;
    checkpoint->deferred = TRUE;
    checkpoint->stayed = TRUE;
    checkpoint->definition = g_strdup("<domain type='kvm'>\n <name>a &amp; b</name>\n</domain>\n");
    checkpoint->live_definition = g_strdup("<domain id='7'/>");
    checkpoint->autostart = TRUE;
    checkpoint->revision = G_MAXUINT64;
    return checkpoint;
}

CkptRequest *
sample_request(const char *request_id)
{
    CkptRequest *request = ckpt_request_new(CKPT_KIND_CREATE);

    request->identity = g_strdup("spiffe://a");
    request->request_id = g_strdup(request_id);
    request->vm_id = g_strdup("v1");
    request->checkpoint_id = g_strdup("c1");
    request->name = g_strdup("nightly");
    ckpt_set_str(&request->description, "d");
    request->asked = CKPT_CONSISTENCY_MEMORY;
    request->minimum = CKPT_CONSISTENCY_CRASH;
    ckpt_set_str(&request->run_id, "run");
    ckpt_set_str(&request->reason, "why");
    ckpt_set_str(&request->ticket, "T");
    ckpt_set_str(&request->hold, "H");
    g_hash_table_insert(request->labels, g_strdup("a"), g_strdup("b"));
    request->expire_us = 5;
    request->set_expire = TRUE;
    request->discard_present_state = TRUE;
    request->when_possible = TRUE;
    request->restore_power = CKPT_POWER_SHUT_OFF;
    request->etag = G_MAXUINT64;
    request->expected_current_checkpoint_id = g_strdup("c0");
    request->start_within_us = G_MAXINT64;
    request->finding_ids = g_strsplit("0123456789abcdef,fedcba9876543210", ",", 0);
    return request;
}

static CkptChange *
sample_change(void)
{
    CkptChange *change = ckpt_change_new();

    g_ptr_array_add(change->upserts, sample_checkpoint("c9", "v1", 9));
    g_ptr_array_add(change->removes, g_strdup("gone"));
    g_ptr_array_add(change->made, g_strdup("/made"));
    g_ptr_array_add(change->gone, g_strdup("/gone"));
    change->set_current = TRUE;
    change->current_id = g_strdup("c9");
    return change;
}

static CkptStep *
sample_step(void)
{
    static const char *const chain[] = {"/b/top", "/b/base", NULL};
    CkptStep *step = ckpt_step_new(CKPT_STEP_IDENTIFY);

    step->target = g_strdup("vda");
    step->file = g_strdup("/f");
    step->base = g_strdup("/b");
    step->above = g_strdup("/a");
    step->like = g_strdup("/l");
    step->from = g_strdup("/o");
    step->base_format = CKPT_FORMAT_RAW;
    step->above_format = CKPT_FORMAT_QCOW2;
    step->size = G_MAXUINT64;
    step->mode = 0640;
    step->downtime_ms = 300;
    step->checkpoint_id = g_strdup("c9");
    step->text = g_strdup("{\"manifest\": [1]}");
    step->definition = g_strdup("<domain/>");
    step->definition_before = g_strdup("<domain a='1'/>");
    step->autostart = TRUE;
    step->autostart_before = TRUE;
    step->leaf = TRUE;
    step->power = CKPT_POWER_RUNNING;
    step->disks = g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_disk_file_free);
    g_ptr_array_add(step->disks, ckpt_disk_file_new("vda", "/b/top", CKPT_FORMAT_QCOW2, chain));
    g_ptr_array_add(step->disks, ckpt_disk_file_new("vdb", "/c", CKPT_FORMAT_RAW, NULL));
    step->change = sample_change();
    step->id = (CkptFileId){G_MAXUINT64, 2, 3, G_MAXINT64};
    step->asked = CKPT_CONSISTENCY_MEMORY;
    step->minimum = CKPT_CONSISTENCY_CRASH;
    step->reached = CKPT_CONSISTENCY_APPLICATION;
    step->freeze_us = G_MAXINT64;
    step->pause_us = 3;
    step->note = g_strdup("the guest thawed \"by itself\"");
    return step;
}

CkptPlan *
sample_plan(void)
{
    CkptPlan *plan = ckpt_plan_new(CKPT_KIND_RESTORE);

    plan->vm_id = g_strdup("v1");
    plan->vm_name = g_strdup("web-01");
    plan->checkpoint_id = g_strdup("c1");
    plan->safety_id = g_strdup("c9");
    g_ptr_array_add(plan->steps, ckpt_step_new(CKPT_STEP_STOP));
    g_ptr_array_add(plan->steps, sample_step());
    g_ptr_array_add(plan->steps, ckpt_step_new(CKPT_STEP_START));
    plan->decisive = 1;
    plan->no_return = TRUE;
    g_ptr_array_add(plan->warnings, g_strdup("ejected"));
    plan->checkpoint = sample_checkpoint("c1", "v1", 1);
    plan->safety = sample_checkpoint("c9", "v1", 9);
    return plan;
}

CkptOperation *
sample_operation(const char *identity, const char *request_id)
{
    CkptOperation *operation = ckpt_operation_new();

    ckpt_set_str(&operation->identity, identity);
    ckpt_set_str(&operation->request_id, request_id);
    ckpt_set_str(&operation->digest, "00ff");
    ckpt_set_str(&operation->vm_id, "v1");
    operation->kind = CKPT_KIND_RESTORE;
    operation->created_us = 1;
    operation->request = sample_request(request_id);
    return operation;
}
