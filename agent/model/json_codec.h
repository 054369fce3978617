/* Writes and reads structs as JSON from one description of each: a table of its members. Used by
 * json.c only. */
#pragma once

#include <glib.h>

typedef enum {
    CKPT_JSON_STRING,         /* char *, never NULL */
    CKPT_JSON_STRING_OR_NULL, /* char * */
    CKPT_JSON_BOOLEAN,        /* gboolean */
    CKPT_JSON_ENUM,           /* `min` to `max`, as a number */
    CKPT_JSON_UINT,           /* guint */
    CKPT_JSON_INT64,          /* as a decimal string */
    CKPT_JSON_UINT64,         /* likewise */
    CKPT_JSON_STRV,           /* char **, or null */
    CKPT_JSON_STRINGS,        /* GPtrArray of char *, never NULL */
    CKPT_JSON_MAP,            /* GHashTable, string → string, never NULL */
    CKPT_JSON_MAP_OR_NULL,
    CKPT_JSON_ARRAY,         /* GPtrArray of pointers to `of`, never NULL */
    CKPT_JSON_ARRAY_OR_NULL,
    CKPT_JSON_OBJECT_OR_NULL, /* pointer to `of` */
    CKPT_JSON_EMBEDDED        /* `of` itself */
} CkptJsonType;

typedef struct _CkptJsonStruct CkptJsonStruct;

typedef struct {
    const char *name;
    CkptJsonType type;
    gsize offset;
    guint min, max;
    const CkptJsonStruct *of;
    gboolean later; /* may be missing: an agent that did not know it wrote the text; as create() left it */
} CkptJsonMember;

struct _CkptJsonStruct {
    gpointer (*create)(void); /* NULL for one that is only embedded; likewise destroy */
    GDestroyNotify destroy;
    const CkptJsonMember *members; /* in the order of their names; the last has a NULL name */
};

/* Deepest nesting that is read; ours is 7: plan, steps, step, change, upserts, checkpoint, disks … */
#define CKPT_JSON_DEPTH_MAX 16
/* Longest text that is read, in bytes. */
#define CKPT_JSON_SIZE_MAX (64 * 1024 * 1024)

char *ckpt_json_write(const CkptJsonStruct *type, gconstpointer value);
gpointer ckpt_json_read(const CkptJsonStruct *type, const char *json, GError **error);
/* The value of one member alone; value is what its offset counts from. */
char *ckpt_json_write_value(const CkptJsonMember *member, gconstpointer value);
gboolean ckpt_json_read_value(const CkptJsonMember *member, const char *json, gpointer value,
                              GError **error);
