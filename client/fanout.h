/* Many calls at once: reads, each tried once, and mutations, each of which is repeated with its
 * request_id until its outcome is known or the time is up. */
#pragma once

#include "client/client.h"
#include "client/pb.h"

typedef struct _CkptFanout CkptFanout;
typedef struct _CkptReply CkptReply;

/* Called once for each call, from within ckpt_fanout_run(). May add further calls. */
typedef void (*CkptReplyFunc)(CkptReply *reply, gpointer data);

typedef enum {
    CKPT_OUTCOME_DONE,
    CKPT_OUTCOME_FAILED,  /* refused, or failed: error says why */
    CKPT_OUTCOME_UNKNOWN, /* a mutation that goes on, or may have been done: error says why */
} CkptOutcome;

struct _CkptReply {
    const CkptHost *host;
    gpointer tag; /* the caller's */
    CkptOutcome outcome;
    ProtobufCMessage *message; /* when DONE; NULL it to keep it */
    GError *error;             /* when not */
    int code;                  /* grpc_status_code */
    gboolean unreachable;      /* nobody answered: not even a refusal */
};

CkptFanout *ckpt_fanout_new(CkptClient *client);
void ckpt_fanout_free(CkptFanout *fanout);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CkptFanout, ckpt_fanout_free)

/* method: CKPT_METHOD(). The request is packed at once. */
void ckpt_fanout_read(CkptFanout *fanout, const CkptHost *host, const char *method,
                      const ProtobufCMessage *request, const ProtobufCMessageDescriptor *reply_type,
                      gpointer tag, CkptReplyFunc func, gpointer data);
/* options is the RequestOptions within request, with its request_id: `wait` is set here, to what is
 * left of the timeout. request must live until the call has ended. */
void ckpt_fanout_mutate(CkptFanout *fanout, const CkptHost *host, const char *method,
                        const ProtobufCMessage *request, Vmcheckpoint__V1__RequestOptions *options,
                        const ProtobufCMessageDescriptor *reply_type, gpointer tag,
                        CkptReplyFunc func, gpointer data);
/* Until every call has ended. */
void ckpt_fanout_run(CkptFanout *fanout);
