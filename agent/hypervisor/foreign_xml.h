/* A <domainsnapshot> that another tool made, as libvirt keeps it. */
#pragma once

#include "agent/model/types.h"

/* Everything that CkptSnapshot says of a foreign one, but `current`. Named is every file of a disk, of a
 * backing store and of the memory, in the snapshot's own list and in the definitions kept with it. */
CkptSnapshot *ckpt_foreign_xml_read(const char *xml, GError **error) G_GNUC_WARN_UNUSED_RESULT;
