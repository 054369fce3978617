/* The tree of one VM's checkpoints as text. */
#pragma once

#include "client/pb.h"

/* One line for each checkpoint, the oldest root first: "* name  id  age", where * marks what the
 * VM's present state began from. Only branches are indented, so that a chain of a thousand stays
 * readable. What its parents do not connect to a root is shown as a root. */
char *ckpt_tree_text(GPtrArray *checkpoints);
