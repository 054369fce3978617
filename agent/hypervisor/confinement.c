/* What AppArmor denies a running VM. libvirt before 12.1 writes "deny" for every file below a top into the
 * profile that a VM starts with, and what it allows later does not overrule that: a block commit into such
 * a file fails with "Permission denied" (hazard A14). */
#include "agent/hypervisor/qemu.h"

#include <string.h>

#define PROFILES "/etc/apparmor.d/libvirt"
#define MENDED 12001000ul /* virConnectGetLibVersion()'s 12.1.0 */

gboolean
ckpt_confinement_denies(const char *profile, const char *path)
{
    g_auto(GStrv) lines = g_strsplit(profile, "\n", -1);
    g_autofree char *rule = g_strdup_printf("deny \"%s\" ", path);

    for (char **line = lines; *line; line++) {
        const char *text = g_strchug(*line);

        if (g_str_has_prefix(text, rule) && strchr(text + strlen(rule), 'w'))
            return TRUE;
    }
    return FALSE;
}

static gboolean
is_confined(const CkptView *view)
{
    virConnectPtr conn = virDomainGetConnect(view->domain);
    virSecurityModel model = {0};
    unsigned long version = 0;

    return view->active && virNodeGetSecurityModel(conn, &model) == 0 &&
           strcmp(model.model, "apparmor") == 0 && virConnectGetLibVersion(conn, &version) == 0 &&
           version < MENDED;
}

void
ckpt_inspect_confinement(CkptVm *vm, const CkptView *view)
{
    g_autofree char *path = g_strdup_printf(PROFILES "/libvirt-%s.files", vm->id);
    g_autofree char *profile = NULL;
    g_autoptr(GError) error = NULL;
    GHashTableIter iter;
    gpointer value;

    if (!is_confined(view))
        return;
    /* One that cannot be read is taken to deny: a merge that has begun could not be undone. */
    if (!g_file_get_contents(path, &profile, NULL, &error) &&
        g_error_matches(error, G_FILE_ERROR, G_FILE_ERROR_NOENT))
        return;
    g_hash_table_iter_init(&iter, vm->files);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        CkptLayer *layer = value;

        layer->commit_denied = !profile || ckpt_confinement_denies(profile, layer->path);
    }
}
