#include "agent/service/internal.h"

PB(Growth) * ckpt_give_growth(const CkptGrowth *growth)
{
    PB(Growth) * message;

    if (!growth || !growth->known)
        return NULL;
    message = ckpt_message_new(&vmcheckpoint__v1__growth__descriptor);
    message->bytes = growth->bytes;
    message->since_time = ckpt_give_time(growth->since_us);
    if (growth->has_rate) {
        message->bytes_per_hour_presence_case =
            VMCHECKPOINT__V1__GROWTH__BYTES_PER_HOUR_PRESENCE_BYTES_PER_HOUR;
        message->bytes_per_hour = growth->bytes_per_hour;
    }
    if (growth->has_rate && growth->will_be_full) {
        message->hours_until_full_presence_case =
            VMCHECKPOINT__V1__GROWTH__HOURS_UNTIL_FULL_PRESENCE_HOURS_UNTIL_FULL;
        message->hours_until_full = growth->hours;
        message->first_full_file = g_strdup(growth->file);
    }
    return message;
}

static PB(DiskForecast) * give_disk(const CkptDiskForecast *disk)
{
    PB(DiskForecast) *message = ckpt_message_new(&vmcheckpoint__v1__disk_forecast__descriptor);

    message->target = g_strdup(disk->target);
    message->method = (PB(DeleteMethod))disk->work;
    message->live = disk->live;
    message->from_file = g_strdup(disk->from ? disk->from : "");
    message->into_file = g_strdup(disk->into ? disk->into : "");
    message->moved_bytes = disk->moved;
    message->freed_bytes_min = disk->freed_min;
    message->freed_bytes_max = disk->freed_max;
    return message;
}

/* Those of one file system are one entry: all of them are taken before any is freed. */
static void
add_need(PB(DeleteForecast) * message, GArray *devices, const CkptDiskForecast *disk)
{
    PB(SpaceNeed) * need;
    guint i = 0;

    if (!disk->into)
        return;
    while (i < devices->len && g_array_index(devices, guint64, i) != disk->device)
        i++;
    if (i < devices->len) {
        message->needs[i]->needed_bytes += disk->needed;
        return;
    }
    need = ckpt_message_new(&vmcheckpoint__v1__space_need__descriptor);
    need->file = g_strdup(disk->into);
    need->needed_bytes = disk->needed;
    need->available_bytes = disk->available;
    message->needs[message->n_needs++] = need;
    g_array_append_val(devices, disk->device);
}

PB(DeleteForecast) * ckpt_give_forecast(const CkptForecast *forecast)
{
    g_autoptr(GArray) devices = g_array_new(FALSE, FALSE, sizeof(guint64));
    PB(DeleteForecast) * message;

    if (!forecast)
        return NULL;
    message = ckpt_message_new(&vmcheckpoint__v1__delete_forecast__descriptor);
    message->freed_bytes_min = message->freed_bytes_max = forecast->files_freed;
    message->disks = g_new0(PB(DiskForecast) *, MAX(forecast->disks->len, 1));
    message->needs = g_new0(PB(SpaceNeed) *, MAX(forecast->disks->len, 1));
    for (guint i = 0; i < forecast->disks->len; i++) {
        const CkptDiskForecast *disk = g_ptr_array_index(forecast->disks, i);

        message->disks[message->n_disks++] = give_disk(disk);
        message->moved_bytes += disk->moved;
        message->freed_bytes_min += disk->freed_min;
        message->freed_bytes_max += disk->freed_max;
        add_need(message, devices, disk);
    }
    return message;
}
