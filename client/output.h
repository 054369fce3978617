/* How results look: tables for people, JSON for scripts, and the published form. */
#pragma once

#include "client/pb.h"
#include "common/proto_json.h"

/* Rows whose columns are aligned once all are known. Cells are made safe to print. */
typedef struct _CkptTable CkptTable;
/* NULL-terminated. */
CkptTable *ckpt_table_new(const char *const *headers);
/* As many cells as headers; NULL and "" are shown as "-". */
void ckpt_table_add(CkptTable *table, const char *const *cells);
/* The whole text; without rows only the header. (transfer full) */
char *ckpt_table_text(const CkptTable *table);
void ckpt_table_free(CkptTable *table);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CkptTable, ckpt_table_free)

/* A cell by itself, for lines that cannot wait for the others: safe to print, padded to width. */
char *ckpt_cell(const char *text, guint width);
guint ckpt_cell_width(const char *text);

/* The contract's labels in the contract's order, "Label: value" one a line. In values a line feed,
 * carriage return, tab and backslash are \n, \r, \t and \\. */
char *ckpt_published_text(const PbCheckpoint *checkpoint);

/* message with "host" before its own members. */
JsonNode *ckpt_json_with_host(const ProtobufCMessage *message, const char *host);
/* Prints a JSON array. */
void ckpt_json_print(JsonArray *array);

/* A list of checkpoints in one of the three forms. */
typedef struct _CkptList CkptList;
CkptList *ckpt_list_new(int format); /* CkptFormat */
/* vm_name: what the VM is called now, for the table; NULL: as when it was captured, which the other
 * forms always have. */
void ckpt_list_add(CkptList *list, const char *host, const char *vm_name,
                   const PbCheckpoint *checkpoint);
void ckpt_list_print(CkptList *list);
void ckpt_list_free(CkptList *list);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CkptList, ckpt_list_free)

/* "shut-off" for POWER_STATE_SHUT_OFF; "-" for unspecified; the number for an unknown value. */
char *ckpt_enum_word(const ProtobufCEnumDescriptor *descriptor, int value);
/* Its delete has begun: it can only be finished, by another delete. */
gboolean ckpt_is_deleting(const PbCheckpoint *checkpoint);
/* "2026-11-22 13:05:09", UTC; "-" without a time. */
char *ckpt_time_cell(const Google__Protobuf__Timestamp *time);
/* "12.0 MiB an hour, full in 40 hours"; "-" where the rate cannot be told. */
char *ckpt_rate_cell(const Vmcheckpoint__V1__Growth *growth);
/* What a delete would free and cost, in lines that begin with prefix. */
char *ckpt_forecast_text(const Vmcheckpoint__V1__DeleteForecast *forecast, const char *prefix);
/* "3 minutes"; "-" without a time. */
char *ckpt_age_cell(const Google__Protobuf__Timestamp *time);
