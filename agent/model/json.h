/* The domain's values as JSON, for the store and the manifests. Reading refuses what it does not
 * understand: unknown members (a newer agent wrote them) and missing ones, but for those that an
 * older agent did not know. */
#pragma once

#include "agent/model/manifest.h"
#include "agent/model/operation.h"

/* All return a string that the caller owns, without line breaks or spaces, members sorted; equal
 * values give equal strings. 64-bit numbers are written as decimal strings, as proto3's JSON does,
 * because a JSON number is a double to most readers. A NULL where the struct's header allows none
 * becomes "", [] or {}; bytes that are not UTF-8 become U+FFFD, so that what was written can always
 * be read. */
char *ckpt_checkpoint_to_json(const CkptCheckpoint *checkpoint);
char *ckpt_manifest_to_json(const CkptManifest *manifest); /* without path */
char *ckpt_request_to_json(const CkptRequest *request); /* without identity, validate_only,
                                                           return_accepted, wait_us */
char *ckpt_plan_to_json(const CkptPlan *plan);
char *ckpt_repair_result_to_json(const CkptRepairResult *result);
char *ckpt_strings_to_json(GPtrArray *strings);
char *ckpt_map_to_json(GHashTable *map); /* keys sorted */
/* Hexadecimal SHA-256 of what makes two requests the same: ckpt_request_to_json(), without the vm_id
 * unless it is a create's or a repair's, since the engine fills it in (and cannot once the checkpoint is gone). */
char *ckpt_request_digest(const CkptRequest *request);
/* These fail with STORE_FAILED; the message names the member, as in "steps[3].change: …". */
CkptCheckpoint *ckpt_checkpoint_from_json(const char *json, GError **error);
CkptManifest *ckpt_manifest_from_json(const char *json, GError **error);
CkptRequest *ckpt_request_from_json(const char *json, GError **error);
CkptPlan *ckpt_plan_from_json(const char *json, GError **error);
CkptRepairResult *ckpt_repair_result_from_json(const char *json, GError **error);
GPtrArray *ckpt_strings_from_json(const char *json, GError **error);
GHashTable *ckpt_map_from_json(const char *json, GError **error);
