#include "agent/model/finding.h"

const char *
ckpt_finding_kind_name(CkptFindingKind kind)
{
    static const char *const names[CKPT_FINDING_END_] = {
        [CKPT_FINDING_CATALOGUE_REBUILT] = "catalogue-rebuilt",
        [CKPT_FINDING_CATALOGUE_DAMAGED] = "catalogue-damaged",
        [CKPT_FINDING_FILE_MISSING] = "file-missing",
        [CKPT_FINDING_SEALED_FILE_CHANGED] = "sealed-file-changed",
        [CKPT_FINDING_SEALED_FILE_WRITABLE] = "sealed-file-writable",
        [CKPT_FINDING_SEALED_FILE_IN_USE] = "sealed-file-in-use",
        [CKPT_FINDING_CHECKPOINT_DISABLED] = "checkpoint-disabled",
        [CKPT_FINDING_CHAIN_MISMATCH] = "chain-mismatch",
        [CKPT_FINDING_VM_QUARANTINED] = "vm-quarantined",
        [CKPT_FINDING_GUEST_FROZEN] = "guest-frozen",
        [CKPT_FINDING_GUEST_PAUSED] = "guest-paused",
        [CKPT_FINDING_OPERATION_UNFINISHED] = "operation-unfinished",
        [CKPT_FINDING_DELETE_UNFINISHED] = "delete-unfinished",
        [CKPT_FINDING_FILE_UNNEEDED] = "file-unneeded",
        [CKPT_FINDING_FILE_UNKNOWN] = "file-unknown",
        [CKPT_FINDING_MANIFEST_MISSING] = "manifest-missing",
        [CKPT_FINDING_MANIFEST_UNKNOWN] = "manifest-unknown",
        [CKPT_FINDING_LEFTOVER] = "leftover",
        [CKPT_FINDING_CHECKPOINT_ORPHANED] = "checkpoint-orphaned",
        [CKPT_FINDING_SPACE_LOW] = "space-low",
        [CKPT_FINDING_NOT_EXAMINED] = "not-examined",
    };

    return kind > 0 && kind < CKPT_FINDING_END_ ? names[kind] : "unknown";
}

/* Of what it is about, never of the words. */
static char *
make_id(const CkptFinding *finding)
{
    g_autofree char *about = g_strdup_printf("%d\n%s\n%s\n%s", (int)finding->kind, finding->vm_id,
                                             finding->checkpoint_id, finding->file);
    g_autofree char *sum = g_compute_checksum_for_string(G_CHECKSUM_SHA256, about, -1);

    return g_strndup(sum, 16);
}

static char *
copy(const char *text)
{
    return g_strdup(text ? text : "");
}

CkptFinding *
ckpt_finding_new(CkptFindingKind kind, CkptSeverity severity, const char *vm_id,
                 const char *checkpoint_id, const char *file)
{
    CkptFinding *finding = g_new0(CkptFinding, 1);

    finding->kind = kind;
    finding->severity = severity;
    finding->vm_id = copy(vm_id);
    finding->vm_name = copy(NULL);
    finding->checkpoint_id = copy(checkpoint_id);
    finding->file = copy(file);
    finding->message = copy(NULL);
    finding->repair = copy(NULL);
    finding->origin = copy(NULL);
    finding->repair_error = copy(NULL);
    finding->id = make_id(finding);
    return finding;
}

CkptFinding *
ckpt_finding_copy(const CkptFinding *finding)
{
    CkptFinding *same = g_new0(CkptFinding, 1);

    *same = *finding;
    same->id = copy(finding->id);
    same->vm_id = copy(finding->vm_id);
    same->vm_name = copy(finding->vm_name);
    same->checkpoint_id = copy(finding->checkpoint_id);
    same->file = copy(finding->file);
    same->message = copy(finding->message);
    same->repair = copy(finding->repair);
    same->origin = copy(finding->origin);
    same->repair_error = copy(finding->repair_error);
    return same;
}

void
ckpt_finding_free(CkptFinding *finding)
{
    if (!finding)
        return;
    g_free(finding->id);
    g_free(finding->vm_id);
    g_free(finding->vm_name);
    g_free(finding->checkpoint_id);
    g_free(finding->file);
    g_free(finding->message);
    g_free(finding->repair);
    g_free(finding->origin);
    g_free(finding->repair_error);
    g_free(finding);
}

GPtrArray *
ckpt_findings_new(void)
{
    return g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_finding_free);
}

const CkptFinding *
ckpt_findings_lookup(GPtrArray *findings, const char *id)
{
    for (guint i = 0; i < findings->len; i++) {
        const CkptFinding *finding = g_ptr_array_index(findings, i);

        if (g_str_equal(finding->id, id))
            return finding;
    }
    return NULL;
}

CkptRepairResult *
ckpt_repair_result_new(void)
{
    CkptRepairResult *result = g_new0(CkptRepairResult, 1);

    result->repaired = ckpt_findings_new();
    result->left = ckpt_findings_new();
    result->vanished = g_ptr_array_new_with_free_func(g_free);
    return result;
}

void
ckpt_repair_result_free(CkptRepairResult *result)
{
    if (!result)
        return;
    g_ptr_array_unref(result->repaired);
    g_ptr_array_unref(result->left);
    g_ptr_array_unref(result->vanished);
    g_free(result);
}
