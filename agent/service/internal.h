/* What the files of the service share: the method table's types, replies under construction, and
 * the conversions between proto and domain. */
#pragma once

#include "agent/core/engine.h"
#include "agent/core/growth.h"
#include "agent/service/decode.h"
#include "agent/service/library_index.h"
#include "agent/service/page_token.h"
#include "agent/service/service.h"
#include "agent/service/watches.h"

#include "vmcheckpoint/v1/agent.pb-c.h"
#include "vmcheckpoint/v1/checkpoint.pb-c.h"
#include "vmcheckpoint/v1/lease.pb-c.h"
#include "vmcheckpoint/v1/operation.pb-c.h"
#include "vmcheckpoint/v1/virtual_machine.pb-c.h"

/* protoc-c's names are long and the same in every line. */
#define PB(type) Vmcheckpoint__V1__##type

#define CKPT_REPLY_MAX                                                                             \
    (3584 * 1024) /* bytes: pages end before the clients' default limit of 4 MiB */
#define CKPT_PAGE_SIZE_DEFAULT 100
#define CKPT_PAGE_SIZE_MAX 500
#define CKPT_STREAM_AGE_S                                                                          \
    (9 * 60) /* below the connection's age limit, so that a stream ends in order */

typedef struct _CkptMethod CkptMethod;
typedef struct _CkptReach CkptReach;

typedef struct {
    CkptService *service;
    CkptCall *call;
    const CkptMethod *method;
    const char *identity; /* verified, never NULL */
    CkptRole role;
} CkptCaller;

struct _CkptMethod {
    const char *name; /* "/vmcheckpoint.v1.CheckpointService/CreateCheckpoint" */
    CkptRole role;    /* the least that may */
    CkptDecodeMode mode;
    CkptMethodKind kind;
    gboolean slow;    /* asks the hypervisor, or reads library folders */
    const ProtobufCMessageDescriptor *request;
    /* In its place for gRPC's own services: what was generated for them stays in the one file of each. */
    const ProtobufCMessageDescriptor *(*grpc_request)(void);
    /* Exactly one of these, or none: then the method is published and not implemented yet. */
    ProtobufCMessage *(*read)(const CkptCaller *caller, const ProtobufCMessage *request,
                              GError **error);
    CkptRequest *(*mutation)(const ProtobufCMessage *request, GError **error);
    /* Ends the call by itself, now or later. On FALSE the error ends it. */
    gboolean (*start)(const CkptCaller *caller, const ProtobufCMessage *request, GError **error);
    /* Of what waits for an operation: its reply, on a worker. */
    ProtobufCMessage *(*reply)(CkptService *service, const CkptOperation *operation,
                               gboolean validate_only);
};

struct _CkptService {
    CkptServiceOptions options;
    CkptEngine *engine;
    CkptLibraryIndex *libraries;
    CkptPageKey *page_key;
    CkptWatches *watches;
    GThreadPool
        *finishers; /* encode replies, which need a look at the catalogue; idle threads end */
    gint64 started_us;
    CkptReach *reach;
    gint stopping; /* atomic */
};

/* ---- Messages; all that a message owns is g_malloc'ed ---- */

/* A message of this type with every field at its default. */
gpointer ckpt_message_new(const ProtobufCMessageDescriptor *type);
void ckpt_message_free(gpointer message);
GBytes *ckpt_message_pack(const ProtobufCMessage *message);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ProtobufCMessage, ckpt_message_free)

/* ---- service.c ---- */

extern const CkptMethod ckpt_methods[];
extern const guint ckpt_n_methods;
/* What a call was about, as far as it is known; NULL or "" = not. */
typedef struct {
    const char *request_id, *vm_id, *checkpoint_id;
    gboolean validate_only;
} CkptAuditSubject;
/* Puts on record how a mutation came out, or why a call was refused; subject NULL: nothing is known,
 * error NULL: done. */
void ckpt_audit(CkptCall *call, const CkptAuditSubject *subject, const GError *error);
void ckpt_caller_fail(CkptCall *call, const GError *error);
gboolean ckpt_not_implemented(GError **error, const char *what);

/* ---- reach.c: whether the hypervisor answers, asked only when somebody wants to know ---- */

CkptReach *ckpt_reach_new(CkptDriver *driver);
void ckpt_reach_free(CkptReach *reach);
/* Asks it now; blocks as long as the driver does. *host: as it is, or, where it does not answer
 * (FALSE), as it last was; NULL if it never answered. (transfer full) */
gboolean ckpt_reach_ask(CkptReach *reach, CkptHostInfo **host, GError **error);
/* Whether it answered within the last seconds. Asks on a thread of its own when that is not known, and
 * waits at most max_wait_ms for it; while an answer is that late it is FALSE. */
gboolean ckpt_reach_is_up(CkptReach *reach, guint max_wait_ms);

/* ---- mutations.c: submit, wait without a thread, reply ---- */

/* Takes the request. On FALSE the error ends the call. */
gboolean ckpt_mutation_start(const CkptCaller *caller, CkptRequest *request, GError **error);
gboolean ckpt_cancel_operation(const CkptCaller *, const ProtobufCMessage *, GError **);
ProtobufCMessage *ckpt_cancel_reply(CkptService *, const CkptOperation *, gboolean);
void ckpt_mutation_finish(gpointer data, gpointer service); /* the finishers' function */

/* ---- from_proto.c: checks and normal forms ---- */

/* A required UUID; NULL and INVALID_ARGUMENT naming the field otherwise. */
char *ckpt_take_id(const char *field, const char *value, GError **error);
/* An optional one: "" stays "". */
char *ckpt_take_optional_id(const char *field, const char *value, GError **error);
gboolean ckpt_take_duration(const char *field, const Google__Protobuf__Duration *value, gint64 *us,
                            GError **error);
gboolean ckpt_take_time(const char *field, const Google__Protobuf__Timestamp *value, gint64 *us,
                        GError **error);
/* NULL and an error for keys that do not match or come twice. */
GHashTable *ckpt_take_labels(const char *field, PB(Label) *const *labels, gsize n, GError **error);
gboolean ckpt_take_page_size(guint32 asked, guint *size, GError **error);
CkptRequest *ckpt_take_create(const ProtobufCMessage *message, GError **error);
CkptRequest *ckpt_take_update(const ProtobufCMessage *message, GError **error);
CkptRequest *ckpt_take_restore(const ProtobufCMessage *message, GError **error);
CkptRequest *ckpt_take_repair(const ProtobufCMessage *message, GError **error);
CkptRequest *ckpt_take_delete(const ProtobufCMessage *message, GError **error);
/* FALSE and INVALID_ARGUMENT naming the field. */
gboolean ckpt_invalid(GError **error, const char *field, const char *format, ...)
    G_GNUC_PRINTF(3, 4);

/* ---- to_proto.c ---- */

Google__Protobuf__Timestamp *ckpt_give_time(gint64 us); /* NULL for 0 */
Google__Protobuf__Duration *ckpt_give_duration(gint64 us);
char **ckpt_give_strings(GPtrArray *strings, gsize *n); /* NULL gives none */
/* info may lack depth and sizes; view BASIC leaves disks and sizes out. */
PB(Checkpoint) * ckpt_give_checkpoint(const CkptCheckpointInfo *info, PB(CheckpointView) view);
PB(Operation) *
    ckpt_give_operation(const CkptOperation *operation, guint64 bytes_done, guint64 bytes_total);
PB(PlanStep) * *ckpt_give_plan(const CkptPlan *plan, gsize *n);
/* give_space.c; NULL for what is not known */
PB(Growth) * ckpt_give_growth(const CkptGrowth *growth);
PB(DeleteForecast) * ckpt_give_forecast(const CkptForecast *forecast);
PB(Ability) * ckpt_give_ability(const CkptAbility *ability);

/* ---- One file per service ---- */

ProtobufCMessage *ckpt_get_checkpoint(const CkptCaller *, const ProtobufCMessage *, GError **);
ProtobufCMessage *ckpt_list_checkpoints(const CkptCaller *, const ProtobufCMessage *, GError **);
ProtobufCMessage *ckpt_create_reply(CkptService *, const CkptOperation *, gboolean);
ProtobufCMessage *ckpt_update_reply(CkptService *, const CkptOperation *, gboolean);
ProtobufCMessage *ckpt_restore_reply(CkptService *, const CkptOperation *, gboolean);
ProtobufCMessage *ckpt_delete_reply(CkptService *, const CkptOperation *, gboolean);
ProtobufCMessage *ckpt_list_virtual_machines(const CkptCaller *, const ProtobufCMessage *,
                                             GError **);
ProtobufCMessage *ckpt_get_virtual_machine(const CkptCaller *, const ProtobufCMessage *, GError **);
/* Of one that hypervisor and libraries were asked for: their own words are theirs, not the caller's. */
void ckpt_vm_not_found(const char *vm_id, GError **error);
ProtobufCMessage *ckpt_get_operation(const CkptCaller *, const ProtobufCMessage *, GError **);
ProtobufCMessage *ckpt_list_operations(const CkptCaller *, const ProtobufCMessage *, GError **);
/* Whose operations a request means: *identity is borrowed from asked or the caller. ACCESS_DENIED
 * unless it is the caller's own, or an admin asks. */
gboolean ckpt_take_identity(const CkptCaller *caller, const char *asked, const char **identity,
                            GError **error);
gboolean ckpt_watch_operations(const CkptCaller *, const ProtobufCMessage *, GError **);
ProtobufCMessage *ckpt_get_agent_info(const CkptCaller *, const ProtobufCMessage *, GError **);
ProtobufCMessage *ckpt_repair_reply(CkptService *, const CkptOperation *, gboolean);
ProtobufCMessage *ckpt_diagnose(const CkptCaller *, const ProtobufCMessage *, GError **);

/* ---- health.c and reflection.c: gRPC's own services, whose messages nobody else knows ---- */

const ProtobufCMessageDescriptor *ckpt_health_request(void); /* of both methods */
gboolean ckpt_check_health(const CkptCaller *, const ProtobufCMessage *, GError **);
gboolean ckpt_watch_health(const CkptCaller *, const ProtobufCMessage *, GError **);
const ProtobufCMessageDescriptor *ckpt_reflection_request(void);
gboolean ckpt_reflect(const CkptCaller *, const ProtobufCMessage *, GError **);
