/* Lists of VMs and checkpoints, all pages, from many hosts at once. */
#pragma once

#include "client/fanout.h"

/* What one host answered. */
typedef struct {
    const CkptHost *host;
    GPtrArray *items; /* PbVm or PbCheckpoint, owned by pages */
    GPtrArray *pages; /* the replies */
    GError *error;    /* why the list is not whole; NULL if it is */
    gboolean unreachable;
} CkptAnswer;

/* One CkptAnswer for each of hosts (CkptHost), in their order. filter may be NULL. */
GPtrArray *ckpt_query_vms(CkptClient *client, GPtrArray *hosts,
                          Vmcheckpoint__V1__VirtualMachineFilter *filter,
                          Vmcheckpoint__V1__VirtualMachineView view);
GPtrArray *ckpt_query_checkpoints(CkptClient *client, GPtrArray *hosts,
                                  Vmcheckpoint__V1__CheckpointFilter *filter);

/* Reports the errors among the answers and counts them. */
guint ckpt_answers_report(GPtrArray *answers);
