/* What others have done since a delete was planned: a merge may come hours after the plan, and days where a delete
 * that has begun is finished later. Looked at again before the first byte moves (hazards A1, A18). */
#include "agent/hypervisor/foreign.h"
#include "agent/hypervisor/image.h"
#include "agent/hypervisor/qemu.h"

static gboolean
refuse_snapshot(const CkptSnapshot *snapshot, const char *file, const char *what, GError **error)
{
    ckpt_error_set(error, CKPT_REASON_FOREIGN_SNAPSHOT_PRESENT,
                   "%s would be %s, but snapshot '%s', which another tool made by now, has it: delete that "
                   "first, with the tool that made it (virsh snapshot-delete), then repeat the request",
                   file, what, snapshot->name);
    ckpt_error_add(error, CKPT_META_FILE, file);
    return FALSE;
}

/* Whether the snapshot's disk consists of what is in `wanted`, too; its own file is left out where `below`. */
static gboolean
lies_on(const CkptSnapshotFile *disk, const char *wanted, gboolean below)
{
    g_autoptr(GHashTable) files = ckpt_chain_files_new();
    g_autoptr(GPtrArray) chain = NULL;

    if (!disk->format)
        return !below && ckpt_image_same(disk->path, wanted);
    chain = ckpt_chain_walk(disk->path, disk->format, files, NULL, NULL);
    for (guint i = below ? 1 : 0; i < chain->len; i++)
        if (ckpt_image_same(((CkptLayer *)g_ptr_array_index(chain, i))->path, wanted))
            return TRUE;
    return FALSE;
}

/* As the planner judges (ckpt_graph_pin): the merged file goes away; what is written to a file beside an
 * internal snapshot in it does that one no harm. */
static gboolean
allows(const CkptSnapshot *snapshot, const CkptStep *step, GError **error)
{
    for (guint i = 0; i < snapshot->disks->len; i++) {
        const CkptSnapshotFile *disk = g_ptr_array_index(snapshot->disks, i);

        if (lies_on(disk, step->file, FALSE))
            return refuse_snapshot(snapshot, step->file, "merged away", error);
        if (lies_on(disk, step->base, snapshot->internal))
            return refuse_snapshot(snapshot, step->base, "written to", error);
    }
    for (guint i = 0; i < snapshot->named->len; i++)
        if (ckpt_image_same(((CkptSnapshotFile *)g_ptr_array_index(snapshot->named, i))->path, step->file))
            return refuse_snapshot(snapshot, step->file, "merged away", error);
    return TRUE;
}

/* One that libvirt does not list is in the file itself. */
static gboolean
check_inside(const CkptStep *step, GError **error)
{
    CkptLayer *layer = ckpt_layer_look(step->file, CKPT_FORMAT_QCOW2, NULL, NULL);
    gboolean inside = layer->snapshots;

    ckpt_layer_free(layer);
    if (!inside)
        return TRUE;
    ckpt_error_set(error, CKPT_REASON_FOREIGN_SNAPSHOT_PRESENT,
                   "%s would be merged away, but holds internal snapshots, which another tool made by now: delete "
                   "those first (virsh snapshot-delete, qemu-img snapshot -d)",
                   step->file);
    ckpt_error_add(error, CKPT_META_FILE, step->file);
    return FALSE;
}

static gboolean
check_snapshots(virDomainPtr domain, const CkptStep *step, GError **error)
{
    g_autoptr(GPtrArray) snapshots = ckpt_foreign_read(domain, error);

    for (guint i = 0; snapshots && i < snapshots->len; i++)
        if (!allows(g_ptr_array_index(snapshots, i), step, error))
            return FALSE;
    return snapshots != NULL;
}

static void
keep_user(const char *file, gboolean is_top, const char *user, gpointer data)
{
    GError **first = data;

    if (*first)
        return;
    ckpt_error_set(first, CKPT_REASON_BRANCH_POINT, "%s is used by %s by now", file, user);
    ckpt_error_add(first, CKPT_META_FILE, file);
}

static void
keep_unreadable(const char *file, gboolean is_top, const char *user, gpointer data)
{
    GError **first = data;

    if (!*first)
        ckpt_unreadable_error(first, file, user);
}

static gboolean
check_users(CkptRun *run, gboolean defined, gboolean begun, GError **error)
{
    const CkptStep *step = run->step;
    const char *const paths[] = {step->base, step->file};
    g_autoptr(GHashTable) files = ckpt_chain_files_new();
    g_autoptr(GError) first = NULL;

    for (guint i = 0; i < G_N_ELEMENTS(paths); i++)
        g_hash_table_insert(files, g_strdup(paths[i]), ckpt_layer_look(paths[i], (CkptFormat)0, NULL, NULL));
    if (!ckpt_users_are_known(run->connection, error) ||
        !ckpt_users_scan(run->connection, defined ? run->plan->vm_id : NULL, !defined, files, keep_user,
                         begun ? NULL : keep_unreadable, &first, error))
        return FALSE;
    if (!first)
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&first));
    return FALSE;
}

static gboolean
check(CkptRun *run, gboolean begun, GError **error)
{
    g_autoptr(GError) why = NULL;
    g_autoptr(virDomain) domain = ckpt_connection_lookup(run->connection, run->plan->vm_id, &why);

    if (!domain && ckpt_error_reason(why) != CKPT_REASON_VM_NOT_FOUND) {
        g_propagate_error(error, g_steal_pointer(&why));
        return FALSE;
    }
    return check_inside(run->step, error) && (!domain || check_snapshots(domain, run->step, error)) &&
           check_users(run, domain != NULL, begun, error);
}

gboolean
ckpt_pins_check(CkptRun *run, GError **error)
{
    return check(run, TRUE, error);
}

gboolean
ckpt_step_reserve_unpinned(CkptRun *run, GError **error)
{
    return ckpt_reserve_forget(run->step, error) && check(run, FALSE, error) && ckpt_step_reserve(run, error);
}
