/* Whether locks on a file tell what other hosts do with it. */
#pragma once

#include <glib.h>

/* Of an open file. FALSE only on file systems that hosts may share. */
gboolean ckpt_share_tells(int fd);
/* What the mount says: type and options of the file system as in /proc/self/mountinfo; of one that hosts may
 * share. */
gboolean ckpt_share_mount_tells(const char *type, const char *options);
