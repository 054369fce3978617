/* Operations as rows: how they are read back, and how it is known that they are what was written. */
#pragma once

#include "agent/store/internal.h"

/* What a SELECT begins with that ckpt_operation_rows() reads; WITHOUT_PLANS: the plan stays NULL, and the sum is
 * not compared. */
#define CKPT_OPERATION_SELECT "SELECT " CKPT_OPERATION_COLUMNS ", plan, sum FROM operations"
#define CKPT_OPERATION_SELECT_WITHOUT_PLANS "SELECT " CKPT_OPERATION_COLUMNS ", NULL, NULL FROM operations"
#define CKPT_OPERATION_COLUMNS \
    "number, identity, request_id, digest, kind, state, vm_id, checkpoint_id, created_us," \
    " started_us, ended_us, request, step_begun, step_ended, undoing, reason, message, metadata," \
    " checkpoint, safety, warnings"

/* Those that have not ended, or that cannot be believed that they have: when it ended is written together with
 * its state. */
#define CKPT_OPERATION_OPEN " WHERE (state NOT IN (3, 4, 5) OR ended_us = 0)"

/* Reads all rows of the statement (NULL: it could not be prepared, error is set) into operations, and
 * their steps' results. One that is not what was written says so (CkptOperation.damage), and has no plan. */
gboolean ckpt_operation_rows(CkptDatabase *db, sqlite3_stmt *statement, GPtrArray *operations,
                             GError **error);
/* Writes the row's sum; after each write of it, in the same transaction. */
gboolean ckpt_operation_sum(CkptDatabase *db, gint64 number, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* *damage: one has not ended, is not what was written, and even its VM cannot be told; NULL = none. FALSE: they
 * cannot be read. */
gboolean ckpt_operation_rows_check(CkptDatabase *db, char **damage, GError **error) G_GNUC_WARN_UNUSED_RESULT;
