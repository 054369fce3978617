/* Asks before something is lost. */
#pragma once

#include "client/find.h"

/* FALSE, with a report, where nobody can be asked and yes was not given. Asked for before anything
 * is sent: a script learns at once that it must say --yes. */
gboolean ckpt_confirm_possible(gboolean yes);
/* TRUE to go on: yes was given, or the user answered so after reading text (printed to standard
 * error). */
gboolean ckpt_confirm(const char *text, gboolean yes);

/* The beginning of such a text: "checkpoint 'x' (ID) of VM …, made … ago.\n" The VM is told by its
 * present name, and by the one that it had when captured where that is another. */
char *ckpt_checkpoint_sentence(const CkptFoundCheckpoint *found);
