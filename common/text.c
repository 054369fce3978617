#include "common/text.h"

#include "common/error.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#define ELLIPSIS "…"

/* Characters that move the cursor, end a line, or make a terminal show another text than the bytes
 * say. The marks U+200E/F and the joiners stay: languages need them, and they hide nothing. */
static gboolean
is_deceptive(gunichar c)
{
    return c < 0x20 || (c >= 0x7f && c < 0xa0) || c == 0x2028 || c == 0x2029 ||
           (c >= 0x202a && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069);
}

static void refuse(GError **error, const char *field, const char *format, ...) G_GNUC_PRINTF(3, 4);

static void
refuse(GError **error, const char *field, const char *format, ...)
{
    g_autofree char *words = NULL;
    va_list args;

    va_start(args, format);
    words = g_strdup_vprintf(format, args);
    va_end(args);
    ckpt_error_set(error, CKPT_REASON_INVALID_ARGUMENT, "%s %s", field, words);
    ckpt_error_add(error, CKPT_META_FIELD, field);
}

gboolean
ckpt_text_check(const char *field, const char *text, gssize size, gsize max, CkptTextKind kind,
                GError **error)
{
    gsize length = size < 0 ? strlen(text) : (gsize)size;
    const char *nul, *end;

    if (length > max) {
        refuse(error, field, "has %zu bytes; at most %zu are allowed", length, max);
        return FALSE;
    }
    nul = length > 0 ? memchr(text, '\0', length) : NULL;
    if (nul) {
        refuse(error, field, "has a control character (U+0000) at byte %zu", (gsize)(nul - text));
        return FALSE;
    }
    if (!g_utf8_validate_len(text, length, &end)) {
        refuse(error, field, "is not valid UTF-8 at byte %zu", (gsize)(end - text));
        return FALSE;
    }
    for (const char *p = text; p < text + length; p = g_utf8_next_char(p)) {
        gunichar c = g_utf8_get_char(p);

        if (!is_deceptive(c) || (kind == CKPT_TEXT_PARAGRAPHS && (c == '\n' || c == '\t')))
            continue;
        refuse(error, field, "has a control character (U+%04X) at byte %zu", c, (gsize)(p - text));
        return FALSE;
    }
    return TRUE;
}

/* The printable form of the character at p: its length in bytes, or one byte of what is none. */
static gsize
append_printable(GString *out, const char *p, gsize left)
{
    gunichar c = g_utf8_get_char_validated(p, (gssize)left);
    gboolean valid = c != (gunichar)-1 && c != (gunichar)-2;
    gsize size = valid ? (gsize)(g_utf8_next_char(p) - p) : 1;

    if (valid && !is_deceptive(c)) {
        g_string_append_len(out, p, (gssize)size);
        return size;
    }
    for (gsize i = 0; i < size; i++)
        g_string_append_printf(out, "\\x%02x", (guchar)p[i]);
    return size;
}

char *
ckpt_text_printable(const char *text, gssize size, gsize max)
{
    gsize length = size < 0 ? strlen(text) : (gsize)size;
    GString *out = g_string_sized_new(MIN(length, max) + 1);
    gsize whole = 0; /* where a cut leaves room for the ellipsis */

    for (gsize at = 0; at < length;) {
        at += append_printable(out, text + at, length - at);
        if (out->len > max) {
            g_string_truncate(out, whole);
            if (max >= strlen(ELLIPSIS))
                g_string_append(out, ELLIPSIS);
            break;
        }
        if (out->len + strlen(ELLIPSIS) <= max)
            whole = out->len;
    }
    return g_string_free(out, FALSE);
}

/* Not g_date_time: its formats follow the locale, and it ends at the year 9999. */
static int
split_time(gint64 us, struct tm *tm)
{
    int fraction = (int)(us % G_USEC_PER_SEC);
    time_t seconds = (time_t)(us / G_USEC_PER_SEC);

    if (fraction < 0) {
        fraction += G_USEC_PER_SEC;
        seconds--;
    }
    gmtime_r(&seconds, tm);
    return fraction;
}

char *
ckpt_time_published(gint64 us)
{
    struct tm tm;

    split_time(us, &tm);
    return g_strdup_printf("%04d-%02d-%02d %02d:%02d:%02d %s", tm.tm_year + 1900, tm.tm_mon + 1,
                           tm.tm_mday, tm.tm_hour % 12 == 0 ? 12 : tm.tm_hour % 12, tm.tm_min,
                           tm.tm_sec, tm.tm_hour < 12 ? "AM" : "PM");
}

char *
ckpt_time_rfc3339(gint64 us)
{
    struct tm tm;
    int fraction = split_time(us, &tm);

    return g_strdup_printf("%04d-%02d-%02dT%02d:%02d:%02d.%06dZ", tm.tm_year + 1900, tm.tm_mon + 1,
                           tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, fraction);
}

/* Exactly n digits, a value of min to max; NULL if there is another thing at p. */
static const char *
take_number(const char *p, int n, int min, int max, int *value)
{
    if (!p)
        return NULL;
    *value = 0;
    for (int i = 0; i < n; i++, p++) {
        if (!g_ascii_isdigit(*p))
            return NULL;
        *value = *value * 10 + (*p - '0');
    }
    return *value >= min && *value <= max ? p : NULL;
}

static const char *
take_char(const char *p, char c)
{
    return p && g_ascii_toupper(*p) == c ? p + 1 : NULL;
}

static const char *
take_date(const char *p, struct tm *tm)
{
    int year, month, day;
    static const int days[] = {31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};

    p = take_char(take_number(p, 4, 1, 9999, &year), '-');
    p = take_char(take_number(p, 2, 1, 12, &month), '-');
    if (!p || !(p = take_number(p, 2, 1, days[month - 1], &day)))
        return NULL;
    if (month == 2 && day == 29 && !g_date_is_leap_year((GDateYear)year))
        return NULL;
    tm->tm_year = year - 1900;
    tm->tm_mon = month - 1;
    tm->tm_mday = day;
    return p;
}

/* The fraction in microseconds; further digits are cut off. */
static const char *
take_fraction(const char *p, int *us)
{
    int digits = 0;

    *us = 0;
    if (!p || *p != '.')
        return p;
    for (p++; g_ascii_isdigit(*p); p++)
        if (digits++ < 6)
            *us = *us * 10 + (*p - '0');
    for (int i = digits; i < 6; i++)
        *us *= 10;
    return digits >= 1 && digits <= 9 ? p : NULL;
}

/* "Z" or "+hh:mm", in minutes east of UTC. */
static const char *
take_zone(const char *p, int *minutes)
{
    int hour, minute, sign;

    if (!p)
        return NULL;
    *minutes = 0;
    if (take_char(p, 'Z'))
        return p + 1;
    if (*p != '+' && *p != '-')
        return NULL;
    sign = *p == '-' ? -1 : 1;
    p = take_char(take_number(p + 1, 2, 0, 23, &hour), ':');
    p = take_number(p, 2, 0, 59, &minute);
    if (p)
        *minutes = sign * (hour * 60 + minute);
    return p;
}

gboolean
ckpt_time_parse(const char *rfc3339, gint64 *us)
{
    struct tm tm = {0};
    int fraction = 0, zone = 0;
    const char *p = take_char(take_date(rfc3339, &tm), 'T');

    p = take_char(take_number(p, 2, 0, 23, &tm.tm_hour), ':');
    p = take_char(take_number(p, 2, 0, 59, &tm.tm_min), ':');
    p = take_number(p, 2, 0, 60, &tm.tm_sec); /* 60: a leap second, which timegm moves on */
    p = take_zone(take_fraction(p, &fraction), &zone);
    if (!p || *p)
        return FALSE;
    *us = ((gint64)timegm(&tm) - (gint64)zone * 60) * G_USEC_PER_SEC + fraction;
    return TRUE;
}

char *
ckpt_time_age(gint64 us, gint64 now_us)
{
    static const struct {
        gint64 seconds;
        const char *one, *many;
    } units[] = {{86400, "day", "days"}, {3600, "hour", "hours"}, {60, "minute", "minutes"}};
    /* Another host's clock may be ahead of ours. */
    gint64 seconds = now_us > us ? (now_us - us) / G_USEC_PER_SEC : 0;

    for (gsize i = 0; i < G_N_ELEMENTS(units); i++) {
        gint64 count = seconds / units[i].seconds;

        if (count > 0)
            return g_strdup_printf("%" G_GINT64_FORMAT " %s", count,
                                   count == 1 ? units[i].one : units[i].many);
    }
    return g_strdup_printf("%" G_GINT64_FORMAT " %s", seconds, seconds == 1 ? "second" : "seconds");
}

char *
ckpt_size_text(guint64 bytes)
{
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double value = (double)bytes;
    char number[G_ASCII_DTOSTR_BUF_SIZE];
    gsize unit = 0;

    if (bytes < 1024)
        return g_strdup_printf("%" G_GUINT64_FORMAT " B", bytes);
    /* 1023.95 would be shown as 1024.0 of the smaller unit. */
    for (value /= 1024; value >= 1023.95 && unit + 1 < G_N_ELEMENTS(units); unit++)
        value /= 1024;
    g_ascii_formatd(number, sizeof number, "%.1f", value);
    return g_strdup_printf("%s %s", number, units[unit]);
}
