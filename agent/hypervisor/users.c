/* Which VMs use a file: every domain's definition and live chain is looked through (hazards A18,
 * A22). */
#include "agent/hypervisor/below.h"
#include "agent/hypervisor/foreign.h"
#include "agent/hypervisor/image.h"
#include "agent/hypervisor/qemu.h"
#include "agent/hypervisor/stored.h"

#include <sys/stat.h>

typedef struct {
    GHashTable *files;      /* the wanted ones, by path; borrowed */
    GHashTable *identities; /* "device:inode" → path borrowed from files */
    GHashTable *seen;       /* "file\nuser" already told */
    CkptConnection *connection; /* borrowed, and below */
    virConnectPtr conn;
    GHashTable *below;      /* top → GPtrArray of CkptBelowFile: of every disk that can be read */
    gboolean live;          /* a running VM's definition is looked at */
    GHashTable *told;       /* set: the tops whose chain it has told to its end */
    CkptUserFunc found;
    CkptUserFunc unreadable; /* NULL: not asked for */
    gpointer data;
} Scan;

static char *
identity(guint64 device, guint64 inode)
{
    return g_strdup_printf("%" G_GUINT64_FORMAT ":%" G_GUINT64_FORMAT, device, inode);
}

static GHashTable *
index_identities(GHashTable *files)
{
    GHashTable *identities = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    GHashTableIter iter;
    gpointer path, layer;

    g_hash_table_iter_init(&iter, files);
    while (g_hash_table_iter_next(&iter, &path, &layer)) {
        const CkptLayer *known = layer;

        if (known->exists)
            g_hash_table_insert(identities, identity(known->id.device, known->id.inode), path);
    }
    return identities;
}

/* The wanted file that this path is, under whatever name. */
static const char *
wanted_file(const Scan *scan, const char *path)
{
    g_autofree char *key = NULL;
    struct stat found;

    if (g_hash_table_contains(scan->files, path))
        return path;
    if (stat(path, &found) != 0)
        return NULL;
    if (S_ISBLK(found.st_mode)) {
        CkptFileId id;

        ckpt_block_identify(path, &found, 0, &id);
        key = identity(id.device, id.inode);
    } else {
        key = identity(found.st_dev, found.st_ino);
    }
    return g_hash_table_lookup(scan->identities, key);
}

static void
tell(Scan *scan, const char *path, gboolean is_top, const char *user)
{
    const char *file = wanted_file(scan, path);

    if (file && g_hash_table_add(scan->seen, g_strdup_printf("%s\n%d\n%s", file, is_top, user)))
        scan->found(file, is_top, user, scan->data);
}

/* ---- Chains ---- */

static gboolean
begins_with(GPtrArray *list, GPtrArray *beginning)
{
    for (guint i = 0; i < beginning->len; i++)
        if (i >= list->len || !g_str_equal(((const CkptBelowFile *)list->pdata[i])->path,
                                           ((const CkptBelowFile *)beginning->pdata[i])->path))
            return FALSE;
    return TRUE;
}

/* What it was, and what those of it that can be read say by now. */
static GPtrArray *
read_on(GPtrArray *last)
{
    GPtrArray *list = ckpt_below_list_new();

    for (guint i = 0; i < last->len; i++) {
        const CkptBelowFile *file = last->pdata[i];
        g_autofree char *unread = NULL;
        gboolean doubtful;
        g_autoptr(GPtrArray) below = ckpt_below_read(file->path, file->format, &unread, &doubtful);

        ckpt_below_list_add(list, file);
        for (guint k = 0; k < below->len; k++)
            ckpt_below_list_add(list, below->pdata[k]);
    }
    return list;
}

/* What lies below `top` by the headers, or did when all could be read last; *unread as of ckpt_below_read(). */
static GPtrArray *
read_below(Scan *scan, const char *top, char **unread)
{
    gboolean doubtful;
    GPtrArray *list = ckpt_below_read(top, CKPT_FORMAT_QCOW2, unread, &doubtful);
    g_autoptr(GPtrArray) last =
        *unread || doubtful ? ckpt_below_last(ckpt_connection_below(scan->connection), top) : NULL;

    if (last && begins_with(last, list)) {
        g_ptr_array_unref(list);
        list = read_on(last);
        g_clear_pointer(unread, g_free);
        doubtful = FALSE;
    }
    if (!*unread && !doubtful)
        g_hash_table_insert(scan->below, g_strdup(top), g_ptr_array_ref(list));
    return list;
}

static void
tell_below(Scan *scan, GPtrArray *list, const char *user)
{
    for (guint i = 0; i < list->len; i++) {
        const CkptBelowFile *file = list->pdata[i];
        g_autofree char *key = file->inode ? identity(file->device, file->inode) : NULL;
        const char *known = key ? g_hash_table_lookup(scan->identities, key) : NULL;

        tell(scan, known ? known : file->path, FALSE, user);
    }
}

/* While it runs, libvirt's word is what QEMU has open, wherever the file is. */
static void
remember_live(Scan *scan, const CkptXmlDisk *disk)
{
    g_autoptr(GPtrArray) list = ckpt_below_list_new();

    for (char **path = disk->chain; path && path[0] && path[1]; path++)
        ckpt_below_list_add(list, &(CkptBelowFile){.path = path[1], .format = CKPT_FORMAT_RAW});
    g_hash_table_insert(scan->below, g_strdup(disk->source), g_steal_pointer(&list));
}

static void
tell_unreadable(Scan *scan, const char *file, const char *user)
{
    if (scan->unreadable)
        scan->unreadable(file, FALSE, user, scan->data);
}

/* ---- Volumes ----
 * A disk of type 'volume' names a file by its pool: its path is libvirt's to tell. */

/* Of a pool that is a folder, also while it is not active. */
static char *
path_in_folder(virStoragePoolPtr pool, const char *volume)
{
    char *xml = virStoragePoolGetXMLDesc(pool, 0);
    char *folder = xml ? ckpt_xml_pool_folder(xml) : NULL;
    char *path = folder ? g_build_filename(folder, volume, NULL) : NULL;

    free(xml);
    g_free(folder);
    return path;
}

/* NULL: it cannot be told. */
static char *
volume_path(virConnectPtr conn, const CkptXmlDisk *disk)
{
    virStoragePoolPtr pool =
        disk->pool && disk->volume ? virStoragePoolLookupByName(conn, disk->pool) : NULL;
    virStorageVolPtr volume = pool ? virStorageVolLookupByName(pool, disk->volume) : NULL;
    char *told = volume ? virStorageVolGetPath(volume) : NULL;
    char *path = told ? g_strdup(told) : pool ? path_in_folder(pool, disk->volume) : NULL;

    free(told);
    if (volume)
        virStorageVolFree(volume);
    if (pool)
        virStoragePoolFree(pool);
    if (!path) {
        g_debug("where volume %s of pool %s is cannot be told", disk->volume, disk->pool);
        virResetLastError();
    }
    return path;
}

static void
scan_disk(Scan *scan, gboolean stored, const CkptXmlDomain *domain, const CkptXmlDisk *disk);

static void
scan_volume(Scan *scan, gboolean stored, const CkptXmlDomain *domain, const CkptXmlDisk *disk, const char *user)
{
    g_autofree char *path = volume_path(scan->conn, disk);
    char *chain[] = {path, NULL};
    CkptXmlDisk found = *disk;

    if (!path && !stored && ckpt_format_from_name(disk->format) == CKPT_FORMAT_QCOW2)
        tell_unreadable(scan, disk->volume, user);
    if (!path)
        return;
    found.source = path;
    found.volume = NULL;
    found.chain = chain;
    found.chain_ends = FALSE; /* what the XML tells is no longer in it */
    scan_disk(scan, stored, domain, &found);
}

static void
scan_disk(Scan *scan, gboolean stored, const CkptXmlDomain *domain, const CkptXmlDisk *disk)
{
    g_autofree char *user = g_strdup_printf("%sVM %s (%s), disk %s", stored ? "stored " : "", domain->name,
                                            domain->uuid, disk->target);
    gboolean writable = !disk->readonly && !g_str_equal(disk->device, "cdrom");
    g_autofree char *unread = NULL;
    g_autoptr(GPtrArray) below = NULL;

    if (disk->volume)
        scan_volume(scan, stored, domain, disk, user);
    for (char **path = disk->chain; path && *path; path++)
        tell(scan, *path, path == disk->chain && writable && disk->source, user);
    if (disk->mirror && *disk->mirror)
        tell(scan, disk->mirror, TRUE, user);
    if (!disk->source || ckpt_format_from_name(disk->format) != CKPT_FORMAT_QCOW2)
        return;
    if (scan->live && disk->chain_ends)
        g_hash_table_add(scan->told, g_strdup(disk->source));
    /* What the XML does not tell, the headers do. A stored VM's may name files of another host. */
    below = read_below(scan, disk->source, &unread);
    tell_below(scan, below, user);
    if (unread && scan->live && disk->chain_ends)
        remember_live(scan, disk);
    if (unread && !stored && !g_hash_table_contains(scan->told, disk->source))
        tell_unreadable(scan, unread, user);
}

/* Of whom nothing is told: for the day when its files are away. */
static void
remember_disk(Scan *scan, const CkptXmlDisk *disk)
{
    g_autofree char *unread = NULL;

    if (disk->source && ckpt_format_from_name(disk->format) == CKPT_FORMAT_QCOW2)
        g_ptr_array_unref(read_below(scan, disk->source, &unread));
}

static void
scan_xml(Scan *scan, const char *xml, const char *vm_id, gboolean own_too)
{
    g_autoptr(CkptXmlDomain) domain = ckpt_xml_domain_parse(xml, NULL);
    gboolean own;

    if (!domain)
        return;
    own = vm_id && domain->uuid && g_ascii_strcasecmp(domain->uuid, vm_id) == 0;
    for (guint i = 0; i < domain->disks->len; i++) {
        const CkptXmlDisk *disk = g_ptr_array_index(domain->disks, i);

        if (!own || own_too || !ckpt_xml_disk_is_captured(disk))
            scan_disk(scan, FALSE, domain, disk);
        else
            remember_disk(scan, disk);
    }
}

/* A snapshot that another tool made may name files that no definition and no running VM has any more. */
static gboolean
scan_snapshots(Scan *scan, virDomainPtr domain, GError **error)
{
    g_autoptr(GPtrArray) snapshots = ckpt_foreign_read(domain, error);

    for (guint i = 0; snapshots && i < snapshots->len; i++) {
        const CkptSnapshot *snapshot = g_ptr_array_index(snapshots, i);
        g_autofree char *user = g_strdup_printf("snapshot '%s' of VM %s", snapshot->name,
                                                virDomainGetName(domain));

        for (guint k = 0; k < snapshot->named->len; k++) {
            const CkptSnapshotFile *file = g_ptr_array_index(snapshot->named, k);
            g_autofree char *unread = NULL;
            g_autoptr(GPtrArray) below = NULL;

            tell(scan, file->path, FALSE, user);
            if (file->format != CKPT_FORMAT_QCOW2)
                continue;
            below = read_below(scan, file->path, &unread);
            tell_below(scan, below, user);
            /* Such files come and go without the snapshot that names them. */
            if (unread && !g_str_equal(unread, file->path))
                tell_unreadable(scan, unread, user);
        }
    }
    return snapshots != NULL;
}

/* Its disks lie beside its definition, though that names where they lay when the VM was deployed; what does not
 * is looked for there. Nobody writes to them while it is stored. */
static void
scan_stored(Scan *scan, const CkptStoredDomain *stored)
{
    g_autofree char *folder = g_path_get_dirname(stored->file);

    for (guint i = 0; i < stored->domain->disks->len; i++) {
        const CkptXmlDisk *disk = g_ptr_array_index(stored->domain->disks, i);
        const char *told = disk->source ? disk->source : disk->volume;
        g_autofree char *name = told ? g_path_get_basename(told) : NULL;
        g_autofree char *beside = name ? g_build_filename(folder, name, NULL) : NULL;
        CkptXmlDisk found = *disk;
        char *no_chain[] = {NULL};

        if (!name)
            continue;
        if (g_file_test(beside, G_FILE_TEST_EXISTS)) {
            found.source = beside;
            found.volume = NULL;
            found.chain = no_chain;
        }
        found.readonly = TRUE;
        scan_disk(scan, TRUE, stored->domain, &found);
    }
}

static gboolean
is_own(virDomainPtr domain, const char *vm_id)
{
    char uuid[VIR_UUID_STRING_BUFLEN];

    return vm_id && virDomainGetUUIDString(domain, uuid) == 0 && g_ascii_strcasecmp(uuid, vm_id) == 0;
}

/* FALSE if its definition cannot be read although the domain is there. */
static gboolean
scan_domain(Scan *scan, virDomainPtr domain, const char *vm_id, gboolean own_too, GError **error)
{
    const unsigned int flags[] = {0, VIR_DOMAIN_XML_INACTIVE};

    g_hash_table_remove_all(scan->told);
    for (guint i = virDomainIsActive(domain) == 1 ? 0 : 1; i < G_N_ELEMENTS(flags); i++) {
        char *xml = virDomainGetXMLDesc(domain, flags[i]);

        scan->live = flags[i] == 0;
        if (!xml && ckpt_libvirt_code() == VIR_ERR_NO_DOMAIN)
            return TRUE;
        if (!xml) {
            ckpt_libvirt_error(error, CKPT_REASON_HYPERVISOR_FAILED, "read the definition of VM %s",
                               virDomainGetName(domain));
            return FALSE;
        }
        scan_xml(scan, xml, vm_id, own_too);
        free(xml);
    }
    scan->live = FALSE;
    /* The VM's own are in CkptVm.foreign, where they are told apart from users. */
    return (!own_too && is_own(domain, vm_id)) || scan_snapshots(scan, domain, error);
}

gboolean
ckpt_users_scan(CkptConnection *connection, const char *vm_id, gboolean own_too, GHashTable *files,
                CkptUserFunc found, CkptUserFunc unreadable, gpointer data, GError **error)
{
    g_autoptr(virConnect) conn = ckpt_connection_get(connection, error);
    g_autoptr(CkptDomainList) domains = NULL;
    g_autoptr(GHashTable) identities = index_identities(files);
    g_autoptr(GHashTable) seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    g_autoptr(GHashTable) told = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    g_autoptr(GPtrArray) stored = NULL;
    g_autoptr(GHashTable) below =
        g_hash_table_new_full(g_str_hash, g_str_equal, g_free, (GDestroyNotify)g_ptr_array_unref);
    Scan scan = {files, identities, seen, connection, conn, below, FALSE, told, found, NULL, data};

    if (!ckpt_connection_is_without_clones(connection))
        scan.unreadable = unreadable;
    if (!conn)
        return FALSE;
    if (virConnectListAllDomains(conn, &domains, 0) < 0) {
        ckpt_libvirt_error(error, CKPT_REASON_HYPERVISOR_FAILED, "list the VMs of the host");
        return FALSE;
    }
    for (virDomainPtr *domain = domains; *domain; domain++)
        if (!scan_domain(&scan, *domain, vm_id, own_too, error))
            return FALSE;
    stored = ckpt_stored_vms_read(ckpt_connection_stored(connection));
    for (guint i = 0; i < stored->len; i++)
        scan_stored(&scan, g_ptr_array_index(stored, i));
    ckpt_below_keep(ckpt_connection_below(connection), below);
    return TRUE;
}

gboolean
ckpt_users_are_known(CkptConnection *connection, GError **error)
{
    CkptStoredVms *stored = ckpt_connection_stored(connection);
    g_autoptr(GPtrArray) vms G_GNUC_UNUSED = ckpt_stored_vms_read(stored); /* tells the fault */
    g_autofree char *fault = ckpt_stored_vms_fault(stored);

    if (!fault)
        return TRUE;
    ckpt_error_set(error, CKPT_REASON_FILE_FAILED,
                   "which files stored VMs lie on cannot be told: %s: mend that, or take the library out of the "
                   "agent's configuration",
                   fault);
    return FALSE;
}
