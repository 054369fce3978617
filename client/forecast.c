#include "client/output.h"
#include "common/text.h"

char *
ckpt_rate_cell(const Vmcheckpoint__V1__Growth *growth)
{
    g_autofree char *rate = NULL;

    if (!growth || growth->bytes_per_hour_presence_case !=
                       VMCHECKPOINT__V1__GROWTH__BYTES_PER_HOUR_PRESENCE_BYTES_PER_HOUR)
        return g_strdup("-");
    rate = ckpt_size_text(growth->bytes_per_hour);
    if (growth->hours_until_full_presence_case !=
        VMCHECKPOINT__V1__GROWTH__HOURS_UNTIL_FULL_PRESENCE_HOURS_UNTIL_FULL)
        return g_strdup_printf("%s an hour", rate);
    return g_strdup_printf("%s an hour, full in %" G_GUINT64_FORMAT " hours", rate,
                           growth->hours_until_full);
}

static void
add_freed(GString *text, const Vmcheckpoint__V1__DeleteForecast *forecast)
{
    g_autofree char *least = ckpt_size_text(forecast->freed_bytes_min);
    g_autofree char *most = ckpt_size_text(forecast->freed_bytes_max);

    if (g_str_equal(least, most))
        g_string_append_printf(text, "frees %s", most);
    else
        g_string_append_printf(text, "frees %s to %s", least, most);
}

static void
add_needs(GString *text, const Vmcheckpoint__V1__DeleteForecast *forecast, const char *prefix)
{
    for (gsize i = 0; i < forecast->n_needs; i++) {
        const Vmcheckpoint__V1__SpaceNeed *need = forecast->needs[i];
        g_autofree char *needed = ckpt_size_text(need->needed_bytes);
        g_autofree char *available = ckpt_size_text(need->available_bytes);
        g_autofree char *file = ckpt_text_printable(need->file, -1, 4096);

        g_string_append_printf(text, "%suntil then takes up to %s of the %s free beside %s\n", prefix,
                               needed, available, file);
    }
}

char *
ckpt_forecast_text(const Vmcheckpoint__V1__DeleteForecast *forecast, const char *prefix)
{
    GString *text = g_string_new(prefix);
    g_autofree char *moved = ckpt_size_text(forecast->moved_bytes);

    add_freed(text, forecast);
    g_string_append_printf(text, ", moves up to %s\n", moved);
    for (gsize i = 0; i < forecast->n_disks; i++) {
        const Vmcheckpoint__V1__DiskForecast *disk = forecast->disks[i];
        g_autofree char *method =
            ckpt_enum_word(&vmcheckpoint__v1__delete_method__descriptor, (int)disk->method);
        g_autofree char *target = ckpt_text_printable(disk->target, -1, 64);

        g_string_append_printf(text, "%s%s: %s%s\n", prefix, target, method,
                               disk->live ? ", while the VM runs" : "");
    }
    add_needs(text, forecast, prefix);
    return g_string_free(text, FALSE);
}
