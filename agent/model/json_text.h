/* Parses JSON text as strictly as RFC 8259 has it; json-glib alone takes comments, repeated members
 * and any depth. Used by json_codec.c, and for what of a manifest is looked for before it is
 * believed. */
#pragma once

#include <json-glib/json-glib.h>

/* STORE_FAILED if it is none, too deep, too long or repeats a member. (transfer full) */
JsonNode *ckpt_json_text_parse(const char *json, GError **error);
