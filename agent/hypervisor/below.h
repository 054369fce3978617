/* What lies below a file by what the headers say, of VMs that are not worked on: to know whom a merge or a removal
 * would harm. */
#pragma once

#include "agent/model/types.h"

typedef struct {
    char *path;            /* without symbolic links, if it was there */
    CkptFormat format;     /* 0 = nobody says */
    guint64 device, inode; /* of a regular file that was there; else 0 */
} CkptBelowFile;

/* CkptBelowFile of what lies below `top`, the nearest first: also behind a header that is damaged, or does not say
 * the format of the next file. *unread: the first file, `top` too, that is missing or fails, so that nobody can
 * tell what is below it; NULL: none is. *doubtful: it ends with a file that the agent may not open, or that is no
 * such image, by now. What is on a network is not told. */
GPtrArray *ckpt_below_read(const char *top, CkptFormat format, char **unread, gboolean *doubtful);

/* What was read last, for tops whose files are away by now. Thread-safe. */
typedef struct _CkptBelow CkptBelow;
CkptBelow *ckpt_below_new(void);
void ckpt_below_free(CkptBelow *below); /* NULL is none */
/* CkptBelowFile; not to be changed. NULL: was never read to its end. */
GPtrArray *ckpt_below_last(CkptBelow *below, const char *top);
/* Only these from now on: top → such an array. Takes a reference. */
void ckpt_below_keep(CkptBelow *below, GHashTable *all);
GPtrArray *ckpt_below_list_new(void);
void ckpt_below_list_add(GPtrArray *list, const CkptBelowFile *file); /* a copy, unless it has that path */
