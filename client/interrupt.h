/* What Ctrl-C does while operations run: the wait ends, they go on. Reads keep the default: the
 * process ends. */
#pragma once

#include <gio/gio.h>

/* From now on SIGINT and SIGTERM cancel it; a second one ends the process with status 130. A reader
 * of standard output that goes away does not end it either: the operations' ids are still to be
 * told. Call once. */
void ckpt_interrupt_watch(GCancellable *cancellable);
