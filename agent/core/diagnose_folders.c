/* What lies in the folders of the disks and is nobody's. */
#include "agent/core/diagnose.h"

#include "agent/core/graph.h"

#include <string.h>

static CkptFinding *
tell(GPtrArray *findings, CkptFindingKind kind, CkptSeverity severity, const CkptManifest *manifest,
     const char *file, const char *message)
{
    CkptFinding *finding = ckpt_findings_add(
        findings, ckpt_finding_new(kind, severity, manifest ? manifest->domain : NULL,
                                   manifest ? manifest->checkpoint_id : NULL, file));

    if (!finding)
        return NULL;
    ckpt_set_str(&finding->message, message);
    if (manifest) {
        ckpt_set_str(&finding->vm_name, manifest->row->vm_name);
        g_free(finding->origin);
        finding->origin =
            g_strdup_printf("checkpoint %s of VM %s (%s), of the agent of host %s (%s), epoch %" G_GUINT64_FORMAT,
                            manifest->row->name, manifest->row->vm_name, manifest->domain,
                            *manifest->host_name ? manifest->host_name : "?", manifest->agent,
                            manifest->epoch);
    }
    return finding;
}

static const CkptManifest *
find_beside(const CkptFoundFiles *found, const char *file)
{
    for (guint i = 0; i < found->manifests->len; i++) {
        const CkptManifest *manifest = g_ptr_array_index(found->manifests, i);

        if (g_str_equal(manifest->path, file))
            return manifest;
    }
    return NULL;
}

/* Who has it, or what it lies on. (transfer full) */
static char *
trace(const CkptFoundLook *look, const char *file)
{
    const CkptLayer *layer = look->strangers ? ckpt_vm_find_file(look->strangers, file) : NULL;

    for (guint i = 0; look->strangers && i < look->strangers->users->len; i++) {
        const CkptFileUser *user = g_ptr_array_index(look->strangers->users, i);

        if (g_str_equal(user->file, file))
            return g_strdup_printf("%s uses it", user->user);
    }
    if (layer && layer->write_locked)
        return g_strdup("a process has it open for writing");
    if (layer && layer->backing)
        return g_strdup_printf("nobody here uses it; it lies on %s", layer->backing);
    return g_strdup("nobody here uses it");
}

static void
look_at_overlay(const CkptFoundLook *look, const char *file, GPtrArray *findings)
{
    g_autofree char *who = trace(look, file);
    g_autofree char *message = g_strdup_printf(
        "it is named as agents name their overlays, and the catalogue does not know it; %s. It may be another "
        "host's, or hold what a VM wrote: it is never removed by the agent. Move it away by hand once nobody "
        "needs it",
        who);

    tell(findings, CKPT_FINDING_FILE_UNKNOWN, CKPT_SEVERITY_WARNING, NULL, file, message);
}

static void
look_at_manifest(const CkptFoundLook *look, const CkptManifest *manifest, GPtrArray *findings)
{
    gboolean ours = g_str_equal(manifest->agent, look->host_id);

    if (ckpt_graph_find(look->rows, manifest->checkpoint_id))
        return;
    if (ours)
        tell(findings, CKPT_FINDING_MANIFEST_UNKNOWN, CKPT_SEVERITY_WARNING, manifest, manifest->path,
             "beside this file lies the manifest of a checkpoint of this host's agent, which the catalogue does "
             "not know: it was deleted, or lost, or its making was cut short. In the last case the file may be "
             "the only copy of what the VM wrote before: keep it while nobody is sure. A catalogue that is set "
             "aside by hand is read back from the manifests at the next start");
    else
        tell(findings, CKPT_FINDING_MANIFEST_UNKNOWN, CKPT_SEVERITY_NOTE, manifest, manifest->path,
             "beside this file lies the manifest of another host's checkpoint: it is that host's, until its VM "
             "is defined here");
}

/* "manifest PATH: why" */
static void
look_at_note(const char *note, GPtrArray *findings)
{
    const char *path = strchr(note, '/');
    const char *end = path ? strstr(path, ": ") : NULL;
    g_autofree char *file = end ? g_strndup(path, (gsize)(end - path)) : NULL;
    g_autofree char *message = g_strdup_printf("it is named as a manifest is and cannot be used: %s",
                                               end ? end + 2 : note);

    tell(findings, CKPT_FINDING_MANIFEST_UNKNOWN, CKPT_SEVERITY_WARNING, NULL, file, message);
}

void
ckpt_diagnose_folders(const CkptFoundLook *look, GPtrArray *findings)
{
    const CkptFoundFiles *found = look->found;

    for (guint i = 0; i < found->overlays->len; i++) {
        const char *file = g_ptr_array_index(found->overlays, i);

        if (!g_hash_table_contains(look->known, file) && !find_beside(found, file))
            look_at_overlay(look, file, findings);
    }
    for (guint i = 0; i < found->manifests->len; i++)
        look_at_manifest(look, g_ptr_array_index(found->manifests, i), findings);
    for (guint i = 0; i < found->notes->len; i++)
        look_at_note(g_ptr_array_index(found->notes, i), findings);
}
