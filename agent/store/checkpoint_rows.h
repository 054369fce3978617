/* Checkpoints as rows: how they are read back, and whether they still are what was written. */
#pragma once

#include "agent/store/internal.h"

/* What a SELECT begins with that ckpt_checkpoint_rows_collect() reads. */
#define CKPT_CHECKPOINT_SELECT "SELECT revision, body, sum FROM checkpoints"

/* The store's thread copies rows, their reader parses them. */
typedef struct {
    guint64 revision;
    char *body, *sum; /* sum NULL: an older agent's, which wrote none */
} CkptCheckpointRow;

GPtrArray *ckpt_checkpoint_rows_new(void); /* CkptCheckpointRow */
/* Copies all rows of the statement (NULL: it could not be prepared, error is set). */
gboolean ckpt_checkpoint_rows_collect(CkptDatabase *db, sqlite3_stmt *statement, GPtrArray *rows,
                                      GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* NULL and an error if it is not what was written. (transfer full) */
CkptCheckpoint *ckpt_checkpoint_row_parse(const CkptCheckpointRow *row, GError **error);
GPtrArray *ckpt_checkpoint_rows_parse(GPtrArray *rows, GError **error); /* all of them, or NULL */

/* What is written beside a body: the beginning of its SHA-256. (transfer full) */
char *ckpt_checkpoint_row_sum(const char *body);
gboolean ckpt_checkpoint_row_enabled(const CkptCheckpoint *checkpoint); /* its column */

/* *damage: a row is not what was written; NULL = all are. FALSE: they cannot be read, or a newer agent
 * wrote one. */
gboolean ckpt_checkpoint_rows_check(CkptDatabase *db, char **damage,
                                    GError **error) G_GNUC_WARN_UNUSED_RESULT;
