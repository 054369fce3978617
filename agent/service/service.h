/* The published services over the engine: a table of method name, role, decoder, handler and
 * encoder. Knows protobuf and the domain; knows no gRPC, no SQL and no hypervisor. */
#pragma once

#include "agent/core/access.h"
#include "agent/core/engine.h"
#include "agent/rpc/server.h"

typedef struct _CkptService CkptService;

typedef struct {
    const CkptAccess *access; /* borrowed; must outlive the service */
    const char *agent_version;
    const char *grpc_version;
    GPtrArray *libraries; /* CkptLibraryPlace; borrowed for the call */
    guint max_streams;    /* watches at once; 0 = 128 */
} CkptServiceOptions;

/* A library as the configuration names it. */
typedef struct {
    char *name, *path;
} CkptLibraryPlace;
CkptLibraryPlace *ckpt_library_place_new(const char *name, const char *path);
void ckpt_library_place_free(CkptLibraryPlace *place);

/* Borrows the engine, which must outlive it. */
CkptService *ckpt_service_new(CkptEngine *engine, const CkptServiceOptions *options);
/* What the transport calls; its `service` is the CkptService. */
const CkptServiceVtable *ckpt_service_vtable(void);
/* Ends streams in order, with the number to resume from. Calls that come later are still answered.
 */
void ckpt_service_stop(CkptService *service);
/* After the transport was stopped: no call is left. */
void ckpt_service_free(CkptService *service);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CkptService, ckpt_service_free)
