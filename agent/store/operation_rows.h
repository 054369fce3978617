/* Operations as rows: how they are read back. */
#pragma once

#include "agent/store/internal.h"

/* What a SELECT begins with that ckpt_operation_rows() reads; WITHOUT_PLANS: the plan stays NULL. */
#define CKPT_OPERATION_SELECT "SELECT " CKPT_OPERATION_COLUMNS ", plan FROM operations"
#define CKPT_OPERATION_SELECT_WITHOUT_PLANS "SELECT " CKPT_OPERATION_COLUMNS ", NULL FROM operations"
#define CKPT_OPERATION_COLUMNS \
    "number, identity, request_id, digest, kind, state, vm_id, checkpoint_id, created_us," \
    " started_us, ended_us, request, step_begun, step_ended, undoing, reason, message, metadata," \
    " checkpoint, safety, warnings"

/* Reads all rows of the statement (NULL: it could not be prepared, error is set) into operations, and
 * their steps' results. */
gboolean ckpt_operation_rows(CkptDatabase *db, sqlite3_stmt *statement, GPtrArray *operations,
                             GError **error);
