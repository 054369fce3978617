/* A mutation as its caller asked for it, normalised: IDs lower case, defaults filled in. */
#pragma once

#include "agent/model/types.h"

typedef enum {
    CKPT_KIND_CREATE = 1,
    CKPT_KIND_UPDATE = 2,
    CKPT_KIND_RESTORE = 3,
    CKPT_KIND_DELETE = 4,
    CKPT_KIND_REPAIR = 6
} CkptKind;
const char *ckpt_kind_name(CkptKind kind); /* "create" */
const char *ckpt_kind_task(CkptKind kind); /* "Create checkpoint" */

typedef struct {
    CkptKind kind;
    char *identity;
    char *request_id;    /* lower-case UUID */
    char *vm_id;         /* create: given; repair: NULL = the whole host; others: filled in by the engine
                            from the checkpoint */
    char *checkpoint_id; /* not for create, repair */
    char *name, *description; /* create: name NULL = default; update: NULL = leave */
    CkptConsistency asked, minimum;
    char *run_id, *reason, *ticket, *hold; /* create: "" = none; update: NULL = leave */
    GHashTable *labels;    /* create: never NULL; update: NULL = leave */
    gint64 expire_us;      /* 0 = never */
    gboolean set_expire;   /* update: expire_us counts */
    gboolean discard_present_state;
    gboolean when_possible; /* delete: it waits until nothing but one branch lies on it */
    gboolean without_memory; /* restore: the disks alone, of a checkpoint that holds memory too */
    char **finding_ids;  /* repair: NULL or empty = all */
    CkptPower restore_power; /* UNKNOWN = as captured */
    guint64 etag;          /* 0 = not given */
    char *expected_current_checkpoint_id; /* NULL = not given */
    gint64 start_within_us; /* 0 = no limit */
    /* Not part of what makes two requests the same, and not kept: */
    gboolean validate_only;
    gboolean return_accepted;
    gint64 wait_us;        /* 0 = the cap */
} CkptRequest;
CkptRequest *ckpt_request_new(CkptKind kind);
void ckpt_request_free(CkptRequest *request);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CkptRequest, ckpt_request_free)
