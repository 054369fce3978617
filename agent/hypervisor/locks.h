/* Who has an image open, asked of the kernel: QEMU and its tools hold OFD locks on single bytes of
 * their images (100 + permission in use). Needs no more than that the file can be opened. */
#pragma once

#include <glib.h>

/* For an open file: whether another open file description holds QEMU's byte 100 (consistent read)
 * and 101 (write). FALSE with FILE_FAILED if the file system cannot tell. */
gboolean ckpt_locks_probe(int fd, gboolean *read_locked, gboolean *write_locked, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;
/* The same by path; a file that is not there is not locked. */
gboolean ckpt_locks_probe_path(const char *path, gboolean *read_locked, gboolean *write_locked,
                               GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Waits until nobody holds the write byte of any of these (NULL-terminated), at most `seconds`;
 * VM_BUSY naming the file and its holder otherwise. */
gboolean ckpt_locks_wait_released(const char *const *paths, guint seconds, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;
/* For messages: "qemu-nbd (process 4711)" of whoever has the file open, as far as /proc shows it;
 * "another process" otherwise. (transfer full) */
char *ckpt_locks_holder(const char *path);
/* Whether the process that has `file` open is one that has `other` open too; TRUE also when /proc
 * shows nobody who has it open, since then nothing speaks against it. */
gboolean ckpt_locks_same_holder(const char *file, const char *other);
