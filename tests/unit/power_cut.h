/* What a power cut would leave of the folder of images: of a file what it held when it was last synced, of a
 * folder the names that it had then. The agent's own syncs count, what qemu-img syncs does not. */
#pragma once

#include "tests/unit/image_fixture.h"

extern char *broken;             /* the first thing that a power cut would have broken; NULL = none */
extern guint syncs;              /* asked for */
extern guint failing;            /* this one fails; 0 = none */
extern gboolean old_file_system; /* it cannot rename without replacing */

/* images_open and images_close are in them. */
int disk_open(void **state);
int disk_close(void **state);
/* All that is there is on the disk; nothing is broken. */
void settle(void);
/* Sets `broken` if anything is not. */
void require_all_synced(void);
