/* The agent's state folder: ours alone, and used by one agent at a time. */
#pragma once

#include <glib.h>

/* Whether the folder can be the agent's: closed to others and its own. Root, who looks at it for the
 * agent, is told of the mode only. */
gboolean ckpt_state_dir_check(const char *state_dir, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Checks that the folder is ours and closed to others, and locks it until *lock_fd is closed; makes
 * the database file (0600) if there is none. *lost: there was one that had something in it, and it is
 * gone or empty; then nothing is made, and what is left is the caller's to set aside. *fresh: there never was
 * one. Returns its path. */
char *ckpt_state_dir_enter(const char *state_dir, int *lock_fd, gboolean *lost, gboolean *fresh,
                           GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Renames the database and its log, which are then there no more, and makes an empty one; nothing is
 * removed. *where: what the database is called now; NULL = there was none. */
gboolean ckpt_state_dir_set_aside(const char *state_dir, char **where,
                                  GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* From now on an empty database file is one that was lost: its tables are made. */
gboolean ckpt_state_dir_made(const char *state_dir, int lock_fd, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;
