/* What lies below a file by what the headers say, of VMs that are not worked on: to know whom a merge or a removal
 * would harm. */
#pragma once

#include <glib.h>

/* The paths below `top`, which is qcow2, the nearest first: also behind a header that is damaged, or does not say
 * the format of the next file. *unread: the first file, `top` too, that is missing or fails, so that nobody can
 * tell what is below it; NULL: all is read. What is on a network is not told. */
GPtrArray *ckpt_below_read(const char *top, char **unread);

/* What was read last, for tops whose files are away by now. Thread-safe. */
typedef struct _CkptBelow CkptBelow;
CkptBelow *ckpt_below_new(void);
void ckpt_below_free(CkptBelow *below); /* NULL is none */
/* NULL: was never read to its end. */
GPtrArray *ckpt_below_last(CkptBelow *below, const char *top);
/* Only these from now on: top → GPtrArray of paths. Takes a reference. */
void ckpt_below_keep(CkptBelow *below, GHashTable *all);
