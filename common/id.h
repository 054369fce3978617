/* UUIDs as the API takes them: any case and braces in requests, lower case everywhere else. */
#pragma once

#include <glib.h>

#define CKPT_ID_LEN 36

/* The normal form of text ("{6BA7…}" → "6ba7…"), or NULL if it is no UUID. The nil UUID is refused. */
char *ckpt_id_parse(const char *text);
/* A fresh random one. */
char *ckpt_id_new(void);
/* The part of an id that goes into file names: its first 8 digits. */
char *ckpt_id_short(const char *id);
/* UUIDv5 in namespace vm_id: the id of a foreign snapshot. */
char *ckpt_id_of_snapshot(const char *vm_id, const char *snapshot_name);
