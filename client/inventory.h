/* The fleet: which hosts there are, and which libraries of stored VMs this machine can read.
 *
 *     [host a]
 *     address = a.example.org:7443
 *     [library templates]
 *     path = /srv/library
 */
#pragma once

#include "common/error.h"

typedef struct {
    char *name, *address; /* "host:port", "[::1]:port" */
} CkptHost;

typedef struct {
    char *name, *path; /* absolute */
} CkptLibraryPlace;

typedef struct {
    GPtrArray *hosts;     /* CkptHost */
    GPtrArray *libraries; /* CkptLibraryPlace */
} CkptInventory;

/* A fleet without a file: no hosts. */
CkptInventory *ckpt_inventory_new(void);
/* An unknown group or key, a name or key given twice, a host without address or a library without
 * path is an error, with file and line. */
CkptInventory *ckpt_inventory_read(const char *file, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void ckpt_inventory_free(CkptInventory *inventory);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CkptInventory, ckpt_inventory_free)

/* Keeps only the hosts that the list names ("a,b"); one that is host:port and not in the fleet is
 * added under that name. */
gboolean ckpt_inventory_select(CkptInventory *inventory, const char *list,
                               GError **error) G_GNUC_WARN_UNUSED_RESULT;
