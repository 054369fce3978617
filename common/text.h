/* Text forms that agent and client share: what a string may contain, times and sizes for people. */
#pragma once

#include <glib.h>

typedef enum {
    CKPT_TEXT_LINE,      /* no control characters at all */
    CKPT_TEXT_PARAGRAPHS /* line feed and tab allowed */
} CkptTextKind;

/* INVALID_ARGUMENT naming `field`: more than max bytes, not UTF-8, control characters (C0, DEL, C1,
 * U+2028/9 and bidirectional overrides, which hide what a terminal shows). size counts bytes, so that
 * an embedded NUL is found; -1 = text is NUL-terminated. */
gboolean ckpt_text_check(const char *field, const char *text, gssize size, gsize max,
                         CkptTextKind kind, GError **error);
/* A printable form of a stranger's text, at most max bytes: bad bytes and control characters become
 * \xNN, a cut ends in "…". (transfer full) */
char *ckpt_text_printable(const char *text, gssize size, gsize max);

/* "2026-11-22 01:05:09 PM" of the published form: 12-hour, UTC, independent of the locale. */
char *ckpt_time_published(gint64 us);
/* "2026-11-22T13:05:09.123456Z"; RFC 3339. */
char *ckpt_time_rfc3339(gint64 us);
gboolean ckpt_time_parse(const char *rfc3339, gint64 *us);
/* "3 minutes", "2 days": how long ago, for people. */
char *ckpt_time_age(gint64 us, gint64 now_us);
/* "1.5 GiB" */
char *ckpt_size_text(guint64 bytes);
