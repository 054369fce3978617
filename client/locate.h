/* Finds the host of each VM, by asking all hosts at once, and tells deployed VMs from stored ones.
 */
#pragma once

#include "client/query.h"

/* One place where a VM was found. */
typedef struct {
    const CkptHost *host; /* NULL: in a library that this machine reads */
    char *vm_id, *vm_name;
    gboolean deployed;
    char *library, *library_file; /* of a stored one */
} CkptFoundVm;

/* One VM as the user named it. */
typedef struct {
    char *text;
    char *vm_id; /* NULL: text is a name */
    GPtrArray
        *found; /* CkptFoundVm: the deployed ones, and the stored ones that are not deployed */
} CkptVmArgument;

typedef struct {
    GPtrArray *arguments; /* CkptVmArgument */
    GPtrArray *answers;   /* CkptAnswer of the hosts that failed, borrowed from queries */
    GPtrArray *queries;
    gboolean strict;
} CkptLocation;

/* The normal form of what the user wrote for a VM: an UUID in lower case, or the name as it is;
 * NULL and a usage error when it can be neither. *is_id tells which. */
char *ckpt_vm_text_parse(const char *text, gboolean *is_id,
                         GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* Hosts that do not answer are in answers; only a text that can name no VM is an error (of usage).
 * strict: a name that a stored VM has too is ambiguous; else only deployed ones are meant. */
CkptLocation *ckpt_locate(CkptClient *client, char *const *texts, gboolean strict,
                          GError **error) G_GNUC_WARN_UNUSED_RESULT;
void ckpt_location_free(CkptLocation *location);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CkptLocation, ckpt_location_free)

/* The one deployed VM that the argument means; else an error that says where it is stored, which
 * there are, or which hosts did not answer. It goes after the VM's name: ckpt_report_error(NULL,
 * argument->text, error). */
const CkptFoundVm *ckpt_location_deployed(const CkptLocation *location,
                                          const CkptVmArgument *argument, GError **error);

/* "a, b": the hosts that did not answer; NULL if all did. */
char *ckpt_location_silent(const CkptLocation *location);
