/* The domain's values as JSON, for the store and the manifests. Reading refuses what it does not
 * understand: unknown members (a newer agent wrote them) and missing ones. */
#pragma once

#include "agent/model/operation.h"

/* All return a string that the caller owns, without line breaks; equal values give equal strings. */
char *ckpt_checkpoint_to_json(const CkptCheckpoint *checkpoint);
char *ckpt_request_to_json(const CkptRequest *request); /* without identity, validate_only,
                                                           return_accepted, wait_us */
char *ckpt_plan_to_json(const CkptPlan *plan);
char *ckpt_strings_to_json(GPtrArray *strings);
char *ckpt_map_to_json(GHashTable *map); /* keys sorted */
CkptCheckpoint *ckpt_checkpoint_from_json(const char *json, GError **error);
CkptRequest *ckpt_request_from_json(const char *json, GError **error);
CkptPlan *ckpt_plan_from_json(const char *json, GError **error);
GPtrArray *ckpt_strings_from_json(const char *json, GError **error);
GHashTable *ckpt_map_from_json(const char *json, GError **error);
