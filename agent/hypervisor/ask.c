#include "agent/hypervisor/ask.h"

#include <string.h>

/* No healthy QEMU takes so long for one command; libvirt lets a call wait 30 s for another's job. */
#define HANGS_MS 10000
#define LONGEST_US (45 * G_USEC_PER_SEC)
#define LOOK_US (500 * 1000)

/* Counted: one that was given up outlives its caller. */
typedef struct {
    CkptConnection *connection; /* referenced */
    char vm_id[VIR_UUID_STRING_BUFLEN];
    CkptQuestion question;
    char *disk;
    GMutex lock; /* guards all below */
    GCond ended;
    gboolean done, given_up;
    int result;
    virErrorPtr error; /* if result < 0 */
    gpointer answer;   /* the asking thread's until done */
} Asking;

static GMutex lock;         /* guards given_up; taken with an Asking's held */
static GHashTable *given_up; /* vm_id → how many questions were, and still wait */

static void
clear_asking(gpointer data)
{
    Asking *asking = data;

    ckpt_connection_free(asking->connection);
    g_clear_pointer(&asking->error, virFreeError);
    g_cond_clear(&asking->ended);
    g_mutex_clear(&asking->lock);
    g_free(asking->answer);
    g_free(asking->disk);
}

static void
count_given_up(const char *vm_id, int change)
{
    int count;

    g_mutex_lock(&lock);
    if (!given_up)
        given_up = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    count = GPOINTER_TO_INT(g_hash_table_lookup(given_up, vm_id)) + change;
    if (count > 0)
        g_hash_table_insert(given_up, g_strdup(vm_id), GINT_TO_POINTER(count));
    else
        g_hash_table_remove(given_up, vm_id);
    g_mutex_unlock(&lock);
}

static gboolean
was_given_up(const char *vm_id)
{
    gboolean was;

    g_mutex_lock(&lock);
    was = given_up && g_hash_table_contains(given_up, vm_id);
    g_mutex_unlock(&lock);
    return was;
}

/* libvirt tells without asking QEMU: of anybody's command, also of an agent's before this one. */
static gboolean
hangs(virDomainPtr domain)
{
    virDomainControlInfo info;

    if (virDomainGetControlInfo(domain, &info, 0) < 0)
        return FALSE;
    return info.state == VIR_DOMAIN_CONTROL_OCCUPIED && info.stateTime >= HANGS_MS;
}

gboolean
ckpt_ask_is_vain(CkptConnection *connection, const char *vm_id)
{
    g_autoptr(virDomain) domain = NULL;

    if (was_given_up(vm_id))
        return TRUE;
    domain = ckpt_connection_lookup(connection, vm_id, NULL);
    return domain && hangs(domain);
}

static void
ask_in_thread(gpointer data, gpointer user_data)
{
    Asking *asking = data;
    /* Kept until the error is saved: the release of a handle clears that. */
    g_autoptr(virConnect) conn = ckpt_connection_get(asking->connection, NULL);
    g_autoptr(virDomain) domain = NULL;
    int result;

    virResetLastError(); /* an earlier question's, where no connection can be opened */
    domain = conn ? virDomainLookupByUUIDString(conn, asking->vm_id) : NULL;
    result = domain ? asking->question(domain, asking->disk, asking->answer) : -1;
    g_mutex_lock(&asking->lock);
    asking->result = result;
    asking->error = result < 0 ? virSaveLastError() : NULL;
    asking->done = TRUE;
    if (asking->given_up)
        count_given_up(asking->vm_id, -1);
    g_cond_signal(&asking->ended);
    g_mutex_unlock(&asking->lock);
    g_atomic_rc_box_release_full(asking, clear_asking);
}

/* Idle threads, and with them their connections, are kept for a while. */
static gpointer
new_pool(gpointer data)
{
    return g_thread_pool_new(ask_in_thread, NULL, -1, FALSE, NULL);
}

/* Called with the lock held, which it lets go of meanwhile. FALSE: it was given up. */
static gboolean
wait_for_answer(Asking *asking, virDomainPtr domain)
{
    gint64 longest = g_get_monotonic_time() + LONGEST_US;

    while (!asking->done) {
        gboolean is_over;

        if (g_cond_wait_until(&asking->ended, &asking->lock, g_get_monotonic_time() + LOOK_US))
            continue;
        g_mutex_unlock(&asking->lock);
        is_over = g_get_monotonic_time() > longest || hangs(domain);
        g_mutex_lock(&asking->lock);
        if (is_over && !asking->done) {
            asking->given_up = TRUE;
            count_given_up(asking->vm_id, 1);
            return FALSE;
        }
    }
    return TRUE;
}

static int
fail(int domain, int code, const char *message)
{
    virErrorPtr error = calloc(1, sizeof *error); /* as virFreeError() expects it */

    g_assert(error);
    error->domain = domain;
    error->code = code;
    error->message = strdup(message);
    ckpt_libvirt_take_error(error);
    return -1;
}

/* Called with the lock held. */
static int
take_answer(Asking *asking, gpointer answer, gsize size)
{
    if (asking->result < 0 && (!asking->error || asking->error->code == VIR_ERR_OK))
        return fail(VIR_FROM_RPC, VIR_ERR_NO_CONNECT, "another connection cannot be opened");
    if (asking->result >= 0 && size > 0)
        memcpy(answer, asking->answer, size);
    ckpt_libvirt_take_error(g_steal_pointer(&asking->error));
    return asking->result;
}

static int
fail_unanswered(void)
{
    return fail(VIR_FROM_QEMU, VIR_ERR_OPERATION_TIMEOUT, "its QEMU, or a job on it, does not answer");
}

int
ckpt_ask(CkptConnection *connection, virDomainPtr domain, CkptQuestion question, const char *disk,
         gpointer answer, gsize size)
{
    static GOnce once = G_ONCE_INIT;
    char vm_id[VIR_UUID_STRING_BUFLEN];
    Asking *asking;
    int result;

    if (virDomainGetUUIDString(domain, vm_id) < 0)
        return -1;
    if (was_given_up(vm_id) || hangs(domain))
        return fail_unanswered();
    asking = g_atomic_rc_box_new0(Asking);
    asking->connection = ckpt_connection_ref(connection);
    memcpy(asking->vm_id, vm_id, sizeof vm_id);
    asking->question = question;
    asking->disk = g_strdup(disk);
    asking->answer = g_malloc0(size);
    g_mutex_init(&asking->lock);
    g_cond_init(&asking->ended);
    g_once(&once, new_pool, NULL);
    g_thread_pool_push(once.retval, g_atomic_rc_box_acquire(asking), NULL);
    g_mutex_lock(&asking->lock);
    result = wait_for_answer(asking, domain) ? take_answer(asking, answer, size) : fail_unanswered();
    g_mutex_unlock(&asking->lock);
    g_atomic_rc_box_release_full(asking, clear_asking);
    return result;
}

static int
downtime(virDomainPtr domain, const char *disk, gpointer answer)
{
    return virDomainMigrateGetMaxDowntime(domain, answer, 0);
}

gboolean
ckpt_ask_qemu(CkptConnection *connection, virDomainPtr domain, guint *downtime_ms, GError **error)
{
    unsigned long long ms = 0;
    int asked = ckpt_ask(connection, domain, downtime, NULL, &ms, sizeof ms);
    gboolean answered = FALSE;

    if (asked < 0 && ckpt_libvirt_code() == VIR_ERR_OPERATION_TIMEOUT)
        ckpt_error_set(error, CKPT_REASON_VM_BUSY, CKPT_NO_ANSWER_FORMAT, virDomainGetName(domain));
    else if (asked < 0 && ckpt_libvirt_is_away())
        ckpt_libvirt_error(error, CKPT_REASON_HYPERVISOR_UNAVAILABLE, "ask its QEMU");
    else
        answered = TRUE; /* any other error is an answer */
    ckpt_libvirt_take_error(NULL); /* not the next VM's */
    if (answered && downtime_ms)
        *downtime_ms = (guint)ms;
    return answered;
}
