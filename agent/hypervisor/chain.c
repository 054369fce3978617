/* Chains of image files, and whether libvirt, headers and locks agree about them (hazards A3, A25). */
#include "agent/hypervisor/image.h"
#include "agent/hypervisor/locks.h"
#include "agent/hypervisor/qemu.h"

/* qemuDomainStorageSourceValidateDepth(). */
#define MAX_DEPTH 200
#define CHECK_LOOKS 5

GHashTable *
ckpt_chain_files_new(void)
{
    return g_hash_table_new_full(g_str_hash, g_str_equal, g_free, (GDestroyNotify)ckpt_layer_free);
}

static void G_GNUC_PRINTF(5, 6)
report(CkptFindingFunc finding, gpointer data, CkptReason reason, const char *file,
       const char *format, ...)
{
    g_autofree char *message = NULL;
    va_list args;

    if (!finding)
        return;
    va_start(args, format);
    message = g_strdup_vprintf(format, args);
    va_end(args);
    finding(reason, file, message, data);
}

static void
report_header(const CkptLayer *layer, const CkptQcow2 *header, CkptFindingFunc finding,
              gpointer data)
{
    const char *path = layer->path;

    if (header->encrypted)
        report(finding, data, CKPT_REASON_DISK_ENCRYPTED, path, "file %s is encrypted", path);
    if (header->corrupt)
        report(finding, data, CKPT_REASON_CHAIN_MISMATCH, path,
               "QEMU marked file %s as corrupt: mend it with qemu-img check -r while the VM is off",
               path);
    if (header->data_file)
        report(finding, data, CKPT_REASON_DISK_TYPE_UNSUPPORTED, path,
               "file %s keeps its data in another file: convert it with qemu-img convert", path);
}

/* Whether the walk can go on to the layer below. */
static gboolean
report_backing(const CkptLayer *layer, const CkptQcow2 *header, CkptFindingFunc finding,
               gpointer data)
{
    if (!header->backing)
        return FALSE;
    if (!layer->backing) {
        report(finding, data, CKPT_REASON_DISK_TYPE_UNSUPPORTED, layer->path,
               "file %s has a backing file that is no local file", layer->path);
        return FALSE;
    }
    if (*header->backing != '/')
        report(finding, data, CKPT_REASON_DISK_TYPE_UNSUPPORTED, layer->path,
               "file %s names its backing file by the relative path %s: with the VM off, give it the "
               "absolute one with qemu-img rebase -u",
               layer->path, header->backing);
    if (!layer->backing_format) {
        report(finding, data, CKPT_REASON_DISK_FORMAT_UNSUPPORTED, layer->path,
               "file %s says %s%s as the format of its backing file, neither raw nor qcow2: set it "
               "with qemu-img rebase -u -F",
               layer->path, header->backing_format ? "" : "nothing",
               header->backing_format ? header->backing_format : "");
        return FALSE;
    }
    return TRUE;
}

static void
add_to_files(GHashTable *files, CkptLayer *layer)
{
    g_hash_table_replace(files, g_strdup(layer->path), layer);
}

/* The layer, new or as another chain's walk found it; *below = path to go on with, or NULL. */
static CkptLayer *
look(const char *path, CkptFormat format, GHashTable *files, CkptFindingFunc finding, gpointer data,
     gboolean *deeper)
{
    g_autoptr(CkptQcow2) header = NULL;
    g_autoptr(GError) fault = NULL;
    CkptLayer *layer = ckpt_layer_look(path, format, &header, &fault);
    CkptLayer *known = g_hash_table_lookup(files, path);

    /* Another chain borrows the one that is there: it is filled anew, not replaced. */
    if (known && known->format == format) {
        ckpt_layer_free(layer);
        layer = known;
    } else if (known && known->format) {
        report(finding, data, CKPT_REASON_CHAIN_MISMATCH, path,
               "file %s is said to be both %s and %s", path, ckpt_format_name(known->format),
               ckpt_format_name(format));
        ckpt_layer_free(layer);
        layer = known;
        *deeper = FALSE;
        return layer;
    } else {
        add_to_files(files, layer);
    }
    if (fault)
        report(finding, data, (CkptReason)fault->code, path, "%s", fault->message);
    if (header)
        report_header(layer, header, finding, data);
    *deeper = header && report_backing(layer, header, finding, data);
    return layer;
}

static gboolean
contains(GPtrArray *chain, const CkptLayer *layer)
{
    for (guint i = 0; i < chain->len; i++) {
        const CkptLayer *seen = g_ptr_array_index(chain, i);

        if (seen == layer || (layer->exists && seen->exists &&
                              seen->id.device == layer->id.device &&
                              seen->id.inode == layer->id.inode))
            return TRUE;
    }
    return FALSE;
}

GPtrArray *
ckpt_chain_walk(const char *top, CkptFormat format, GHashTable *files, CkptFindingFunc finding,
                gpointer data)
{
    GPtrArray *chain = g_ptr_array_new();
    gboolean deeper = TRUE;

    while (deeper) {
        CkptLayer *layer = look(top, format, files, finding, data, &deeper);

        if (contains(chain, layer)) {
            report(finding, data, CKPT_REASON_CHAIN_MISMATCH, top,
                   "file %s lies below itself: its chain of backing files is a loop", top);
            break;
        }
        g_ptr_array_add(chain, layer);
        if (chain->len >= MAX_DEPTH && deeper) {
            report(finding, data, CKPT_REASON_CHAIN_MISMATCH, top,
                   "the chain of backing files is longer than %d", MAX_DEPTH);
            break;
        }
        top = layer->backing;
        format = layer->backing_format;
    }
    return chain;
}

char **
ckpt_chain_paths(GPtrArray *chain)
{
    g_autoptr(GStrvBuilder) paths = g_strv_builder_new();

    for (guint i = 0; i < chain->len; i++)
        g_strv_builder_add(paths, ((CkptLayer *)g_ptr_array_index(chain, i))->path);
    return g_strv_builder_end(paths);
}

gboolean
ckpt_chain_equal(const char *const *a, const char *const *b)
{
    for (; *a && *b; a++, b++)
        if (!ckpt_image_same(*a, *b))
            return FALSE;
    return !*a && !*b;
}

gboolean
ckpt_chain_fits(const CkptXmlDisk *defined, const char *const *headers)
{
    gsize told = g_strv_length(defined->chain);

    for (gsize i = 0; i < told; i++)
        if (!headers[i] || !ckpt_image_same(defined->chain[i], headers[i]))
            return FALSE;
    return told > 0 && (!defined->chain_ends || !headers[told]);
}

/* ---- Whose disk a file is ---- */

gboolean
ckpt_chain_has(const CkptXmlDisk *disk, const char *file)
{
    g_autoptr(GHashTable) files = NULL;
    g_autoptr(GPtrArray) chain = NULL;

    for (char **told = disk->chain; *told; told++)
        if (ckpt_image_same(*told, file))
            return TRUE;
    if (!disk->source || !ckpt_format_from_name(disk->format))
        return FALSE;
    files = ckpt_chain_files_new();
    chain = ckpt_chain_walk(disk->source, ckpt_format_from_name(disk->format), files, NULL, NULL);
    for (guint i = 0; i < chain->len; i++)
        if (ckpt_image_same(((const CkptLayer *)g_ptr_array_index(chain, i))->path, file))
            return TRUE;
    return FALSE;
}

static gboolean
is_top(const CkptXmlDisk *disk, const char *file)
{
    return disk->source && ckpt_image_same(disk->source, file);
}

static CkptXmlDisk *
find_disk(const CkptXmlDomain *domain, const char *target, const char *file,
          gboolean (*matches)(const CkptXmlDisk *disk, const char *file))
{
    CkptXmlDisk *disk = domain ? ckpt_xml_domain_find(domain, target) : NULL;

    if (disk && matches(disk, file))
        return disk;
    for (guint i = 0; domain && i < domain->disks->len; i++) {
        disk = g_ptr_array_index(domain->disks, i);
        if (matches(disk, file))
            return disk;
    }
    return NULL;
}

CkptXmlDisk *
ckpt_chain_find_top(const CkptXmlDomain *domain, const char *target, const char *file)
{
    return find_disk(domain, target, file, is_top);
}

CkptXmlDisk *
ckpt_chain_find_disk(const CkptXmlDomain *domain, const char *target, const char *const *files)
{
    CkptXmlDisk *found = NULL;

    for (; *files && !found; files++) {
        found = ckpt_chain_find_top(domain, target, *files);
        if (!found)
            found = find_disk(domain, target, *files, ckpt_chain_has);
    }
    return found;
}

/* ---- What was saved ---- */

static gboolean
names_any(const CkptXmlDomain *xml, GPtrArray *disks, gboolean below)
{
    for (guint i = 0; i < xml->disks->len; i++) {
        const CkptXmlDisk *disk = g_ptr_array_index(xml->disks, i);

        for (guint k = 0; k < disks->len; k++) {
            const char *file = ((const CkptDiskFile *)g_ptr_array_index(disks, k))->file;

            if (is_top(disk, file) || (below && ckpt_chain_has(disk, file)))
                return TRUE;
        }
    }
    return FALSE;
}

gboolean
ckpt_saved_look_on(virDomainPtr domain, GPtrArray *disks, gboolean below, gboolean *on, GError **error)
{
    g_autoptr(CkptXmlDomain) saved = NULL;
    char *xml = NULL;

    if (!ckpt_saved_look(domain, on, error))
        return FALSE;
    if (!*on)
        return TRUE;
    *on = FALSE;
    xml = virDomainManagedSaveGetXMLDesc(domain, 0);
    if (!xml) {
        /* A host that crashed in the midst of it leaves one that cannot be read. */
        ckpt_libvirt_error(error, CKPT_REASON_MANAGED_SAVE_PRESENT,
                           "the VM was saved (virsh managedsave), and on which files cannot be read: start it, or "
                           "virsh managedsave-remove");
        return FALSE;
    }
    saved = ckpt_xml_domain_parse(xml, error);
    free(xml);
    *on = saved && names_any(saved, disks, below);
    return saved != NULL;
}

gboolean
ckpt_refuse_saved_elsewhere(const CkptView *view, GPtrArray *disks, gboolean below, GError **error)
{
    gboolean on = FALSE;

    if (view->active)
        return FALSE;
    if (!ckpt_saved_look_on(view->domain, disks, below, &on, error))
        return TRUE;
    return !on && ckpt_view_refuse_saved(view, error);
}

/* ---- The check ---- */

static gboolean
mismatch(GError **error, const char *target, const char *file, const char *format, ...)
    G_GNUC_PRINTF(4, 5);

static gboolean
mismatch(GError **error, const char *target, const char *file, const char *format, ...)
{
    g_autofree char *message = NULL;
    va_list args;

    va_start(args, format);
    message = g_strdup_vprintf(format, args);
    va_end(args);
    ckpt_error_set(error, CKPT_REASON_CHAIN_MISMATCH, "disk %s: %s", target, message);
    ckpt_error_add(error, CKPT_META_DISK, target);
    ckpt_error_add(error, CKPT_META_FILE, file);
    return FALSE;
}

static gboolean
chains_agree(const char *target, const char *who, const char *const *found,
             const char *const *wanted, GError **error)
{
    g_autofree char *is = NULL;
    g_autofree char *should = NULL;

    if (ckpt_chain_equal(found, wanted))
        return TRUE;
    is = g_strjoinv(" -> ", (char **)found);
    should = g_strjoinv(" -> ", (char **)wanted);
    return mismatch(error, target, wanted[0], "%s says %s, it should be %s", who, is, should);
}

static gboolean
locks_agree(const char *target, GPtrArray *chain, gboolean active, GError **error)
{
    for (guint i = 0; i < chain->len; i++) {
        const CkptLayer *layer = g_ptr_array_index(chain, i);
        gboolean wanted = active && i == 0;
        g_autofree char *holder = NULL;

        if (layer->write_locked == wanted)
            continue;
        if (wanted)
            return mismatch(error, target, layer->path,
                            "no QEMU has %s open for writing although the VM is active on it",
                            layer->path);
        /* What a cancelled block commit leaves behind in QEMU; see inspect_disk.c. */
        if (active && ckpt_locks_same_holder(layer->path,
                                             ((CkptLayer *)g_ptr_array_index(chain, 0))->path))
            continue;
        holder = ckpt_locks_holder(layer->path);
        return mismatch(error, target, layer->path, "%s is open for writing by %s", layer->path,
                        holder);
    }
    return TRUE;
}

typedef struct {
    const char *target;
    GError **error;
    gboolean failed;
} FirstFinding;

static void
keep_first(CkptReason reason, const char *file, const char *message, gpointer data)
{
    FirstFinding *first = data;

    if (!first->failed)
        mismatch(first->error, first->target, file, "%s", message);
    first->failed = TRUE;
}

/* What the plan tells of a disk's chain; the top is what it is known by where it does not. */
static const char *const *
planned_chain(const CkptDiskFile *disk, const char *const *top)
{
    return disk->chain ? (const char *const *)disk->chain : top;
}

static gboolean
has_any(const CkptXmlDisk *disk, const char *const *files, gsize count)
{
    for (gsize i = 0; i < count; i++)
        if (ckpt_chain_has(disk, files[i]))
            return TRUE;
    return FALSE;
}

static gboolean
is_top_of(GPtrArray *disks, const char *source)
{
    for (guint i = 0; source && i < disks->len; i++)
        if (ckpt_image_same(((const CkptDiskFile *)g_ptr_array_index(disks, i))->file, source))
            return TRUE;
    return FALSE;
}

/* The disk that should lie on this file, whether it does or not. The root may be a template of several: it
 * tells of a disk only together with the target. NULL: it is no longer attached. */
static const CkptXmlDisk *
find_planned(const CkptXmlDomain *domain, const CkptDiskFile *disk, GPtrArray *disks)
{
    const char *const top[] = {disk->file, NULL};
    const char *const *chain = planned_chain(disk, top);
    gsize length = g_strv_length((char **)chain);
    const CkptXmlDisk *found = ckpt_chain_find_top(domain, disk->target, disk->file);

    if (found || !domain)
        return found;
    found = ckpt_xml_domain_find(domain, disk->target);
    if (found && has_any(found, chain, length))
        return found;
    for (guint i = 0; i < domain->disks->len; i++) {
        found = g_ptr_array_index(domain->disks, i);
        if (!is_top_of(disks, found->source) && has_any(found, chain, MAX(length, 2) - 1))
            return found;
    }
    return NULL;
}

static gboolean
check_defined(const CkptXmlDisk *defined, const CkptDiskFile *disk, const char *const *headers,
              GError **error)
{
    if (!ckpt_chain_fits(defined, headers) &&
        !chains_agree(disk->target, "the definition", (const char *const *)defined->chain, headers,
                      error))
        return FALSE;
    if (g_strcmp0(defined->format, ckpt_format_name(disk->format)) == 0)
        return TRUE;
    return mismatch(error, disk->target, disk->file, "the definition says %s, it should be %s",
                    defined->format ? defined->format : "no format", ckpt_format_name(disk->format));
}

/* may_go: a disk that its owner has detached meanwhile has no say; its files must be right all the same. */
static gboolean
check_disk(const CkptView *view, const CkptDiskFile *disk, GPtrArray *disks, gboolean may_go,
           GError **error)
{
    g_autoptr(GHashTable) files = ckpt_chain_files_new();
    g_autoptr(GPtrArray) chain = NULL;
    g_auto(GStrv) headers = NULL;
    const CkptXmlDisk *defined = find_planned(view->definition_xml, disk, disks);
    const CkptXmlDisk *live = find_planned(view->live_xml, disk, disks);
    FirstFinding first = {.target = disk->target, .error = error};

    chain = ckpt_chain_walk(disk->file, disk->format, files, keep_first, &first);
    if (first.failed)
        return FALSE;
    headers = ckpt_chain_paths(chain);
    if (disk->chain && !chains_agree(disk->target, "the image headers", (const char *const *)headers,
                                     (const char *const *)disk->chain, error))
        return FALSE;
    if (!defined && !may_go)
        return mismatch(error, disk->target, disk->file, "the definition has no such disk");
    if (defined && !check_defined(defined, disk, (const char *const *)headers, error))
        return FALSE;
    if (view->active && !live && !may_go)
        return mismatch(error, disk->target, disk->file, "the running VM has no such disk");
    if (live && !chains_agree(disk->target, "libvirt's live definition",
                              (const char *const *)live->chain, (const char *const *)headers, error))
        return FALSE;
    return (!defined && !live) || locks_agree(disk->target, chain, live != NULL, error);
}

/* Another tool's overlay that was laid on the planned top meanwhile: all is as it should be below that. */
static gboolean
refuse_laid_upon(const CkptXmlDomain *domain, const CkptDiskFile *disk, GError **error)
{
    const CkptXmlDisk *found = domain ? ckpt_xml_domain_find(domain, disk->target) : NULL;
    g_autoptr(GHashTable) files = ckpt_chain_files_new();
    g_autoptr(GPtrArray) chain = NULL;

    if (!found || !found->source || ckpt_format_from_name(found->format) != CKPT_FORMAT_QCOW2)
        return FALSE;
    chain = ckpt_chain_walk(found->source, CKPT_FORMAT_QCOW2, files, NULL, NULL);
    for (guint i = 1; i < chain->len; i++) {
        if (!ckpt_image_same(((const CkptLayer *)g_ptr_array_index(chain, i))->path, disk->file))
            continue;
        ckpt_error_set(error, CKPT_REASON_VM_BUSY,
                       "disk %s: %s was laid on %s meanwhile: end that with the tool that made it (virsh "
                       "blockcommit --top %s --base %s --active --pivot), then repeat the request",
                       disk->target, found->source, disk->file, found->source, disk->file);
        ckpt_error_add(error, CKPT_META_DISK, disk->target);
        ckpt_error_add(error, CKPT_META_FILE, found->source);
        return TRUE;
    }
    return FALSE;
}

static gboolean
refuse_any_laid_upon(const CkptRun *run, const CkptView *view, GError **error)
{
    const CkptXmlDomain *present = view->active ? view->live_xml : view->definition_xml;
    GPtrArray *disks = run->step->disks;

    for (guint i = 0; disks && i < disks->len; i++)
        if (refuse_laid_upon(present, g_ptr_array_index(disks, i), error))
            return TRUE;
    return FALSE;
}

static gboolean
check_disks(const CkptRun *run, const CkptView *view, GError **error)
{
    GPtrArray *disks = run->step->disks;

    for (guint i = 0; disks && i < disks->len; i++)
        if (!check_disk(view, g_ptr_array_index(disks, i), disks, run->plan->kind == CKPT_KIND_DELETE,
                        error))
            return FALSE;
    return TRUE;
}

/* It is off, and would go on on the files that it had before it was restored (hazard A24). */
static gboolean
is_saved_elsewhere(const CkptRun *run, const CkptView *view, GError **error)
{
    return run->plan->kind == CKPT_KIND_RESTORE && run->step->disks &&
           ckpt_refuse_saved_elsewhere(view, run->step->disks, FALSE, error);
}

gboolean
ckpt_step_check_chain(CkptRun *run, GError **error)
{
    g_autofree char *seen = NULL;

    /* A VM that starts, stops or is put on other files in mid-look would show a mismatch that is none. One that is
     * back on its files by the end of the look shows it, too, and not twice. */
    for (guint i = 0; i < CHECK_LOOKS; i++) {
        g_autoptr(CkptView) view = ckpt_view_load(run->connection, run->plan->vm_id, error);
        g_autoptr(GError) mismatch = NULL;

        if (!view)
            return FALSE;
        if (check_disks(run, view, &mismatch))
            return !is_saved_elsewhere(run, view, error);
        if (ckpt_view_has_changed(run->connection, run->plan->vm_id, view)) {
            g_clear_pointer(&seen, g_free);
            continue;
        }
        if (g_strcmp0(seen, mismatch->message) != 0) {
            ckpt_set_str(&seen, mismatch->message);
            continue;
        }
        if (!refuse_any_laid_upon(run, view, error))
            g_propagate_error(error, g_steal_pointer(&mismatch));
        return FALSE;
    }
    ckpt_error_set(error, CKPT_REASON_VM_BUSY,
                   "the VM changes while it is looked at, stands still for a save, a snapshot or a migration, or "
                   "its QEMU does not answer (virsh domstate --reason)");
    return FALSE;
}
