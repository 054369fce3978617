/* What happens to the store from outside: second agents, foreign and broken files, full disks,
 * kills, and many callers at once. */
#include "tests/unit/cmocka_all.h"
#include "tests/unit/model_samples.h"
#include "tests/unit/store_fixture.h"

#include <glib/gstdio.h>
#include <signal.h>
#include <sqlite3.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static guint
mode_of(const char *dir, const char *name)
{
    g_autofree char *path = g_build_filename(dir, name, NULL);
    struct stat found;

    assert_int_equal(stat(path, &found), 0);
    return found.st_mode & 07777;
}

static void
files_are_ours_alone(void **state)
{
    StoreFixture *fixture = *state;
    mode_t before = umask(0);

    store_fixture_reopen(fixture);
    store_put(fixture->store, sample_checkpoint("c1", "v1", 1));
    umask(before);
    assert_int_equal(mode_of(fixture->dir, "vmcheckpoint.db"), 0600);
    assert_int_equal(mode_of(fixture->dir, "vmcheckpoint.db-wal"), 0600);
    assert_int_equal(mode_of(fixture->dir, "vmcheckpoint.db-shm"), 0600);
    assert_int_equal(mode_of(fixture->dir, "vmcheckpoint.lock"), 0600);
}

static void
a_folder_open_to_others_is_refused(void **state)
{
    StoreFixture *fixture = *state;

    g_clear_pointer(&fixture->store, ckpt_store_close);
    assert_int_equal(chmod(fixture->dir, 0750), 0);
    assert_not_opened(fixture->dir, "chmod 0700");
    assert_int_equal(chmod(fixture->dir, 0700), 0);
    assert_not_opened("/nonexistent", "/nonexistent");
    if (geteuid() == 0) {
        assert_int_equal(chown(fixture->dir, 12345, 0), 0);
        assert_not_opened(fixture->dir, "chown");
    }
}

static void
a_second_agent_is_refused(void **state)
{
    StoreFixture *fixture = *state;
    pid_t pid;
    int status;

    assert_not_opened(fixture->dir, "another agent");
    pid = fork();
    if (pid == 0) {
        g_autoptr(GError) error = NULL;

        _exit(ckpt_store_open(fixture->dir, &error) ? 1 : 0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

/* Nothing but the agent has business with that name in its own folder: what is there is kept, under another. */
static void
assert_set_aside(StoreFixture *fixture)
{
    g_autofree char *reason = NULL;
    const char *where;

    store_fixture_reopen(fixture);
    assert_true(ckpt_store_lost_reason(fixture->store, &reason, NULL));
    where = reason ? strstr(reason, "set aside as ") : NULL;
    assert_non_null(where);
    assert_int_equal(access(where + strlen("set aside as "), F_OK), 0);
}

static void
overwrite(StoreFixture *fixture, long offset, const char *bytes, gsize length)
{
    g_autofree char *path = g_build_filename(fixture->dir, "vmcheckpoint.db", NULL);
    FILE *file;

    g_clear_pointer(&fixture->store, ckpt_store_close);
    file = fopen(path, "r+");
    assert_non_null(file);
    assert_int_equal(fseek(file, offset, SEEK_SET), 0);
    assert_int_equal(fwrite(bytes, 1, length, file), length);
    fclose(file);
}

static void
another_programs_file_is_set_aside(void **state)
{
    StoreFixture *fixture = *state;

    overwrite(fixture, 68, "else", 4); /* its application ID */
    assert_set_aside(fixture);
}

static void
a_corrupt_file_is_set_aside(void **state)
{
    StoreFixture *fixture = *state;
    g_autofree char *garbage = g_strnfill(20000, 'x');

    store_put(fixture->store, sample_checkpoint("c1", "v1", 1));
    overwrite(fixture, 4096, garbage, 20000);
    assert_set_aside(fixture);
    overwrite(fixture, 0, "not a database, not a database", 30);
    assert_set_aside(fixture);
}

/* ---- Many at once ---- */

#define THREADS 8
#define EACH 40

typedef struct {
    CkptStore *store;
    guint number;
} Writer;

static gpointer
write_many(gpointer data)
{
    const Writer *writer = data;

    for (guint i = 0; i < EACH; i++) {
        g_autofree char *id = g_strdup_printf("r%u-%u", writer->number, i);
        g_autoptr(CkptOperation) operation = sample_operation("alice", id), again = NULL;
        g_autoptr(GError) error = NULL;

        if (!ckpt_store_add_operation(writer->store, operation, &error))
            return g_strdup(error->message);
        /* In the same transaction as others' good ones; refused alone. */
        if (ckpt_store_add_operation(writer->store, operation, NULL))
            return g_strdup("the same id was taken twice");
        again = ckpt_store_find_operation(writer->store, "alice", id, &error);
        if (!again)
            return g_strdup("what was written is not there");
    }
    return NULL;
}

static void
commits_of_many_threads_all_count(void **state)
{
    StoreFixture *fixture = *state;
    GThread *threads[THREADS];
    Writer writers[THREADS];
    g_autoptr(GPtrArray) found = NULL;

    for (guint i = 0; i < THREADS; i++) {
        writers[i] = (Writer){fixture->store, i};
        threads[i] = g_thread_new("writer", write_many, &writers[i]);
    }
    for (guint i = 0; i < THREADS; i++) {
        g_autofree char *wrong = g_thread_join(threads[i]);

        assert_null(wrong);
    }
    store_fixture_reopen(fixture);
    found = ckpt_store_list_operations(fixture->store, &(CkptOperationQuery){0}, NULL);
    assert_int_equal(found->len, THREADS * EACH);
}

/* ---- Kills and full disks, in a process of their own ---- */

/* Tells each number that is on disk, until it is killed. The checkpoint and the VM's current one
 * are changed together. */
static void
write_until_killed(const char *dir, int told)
{
    CkptStore *store = ckpt_store_open(dir, NULL);

    for (guint64 i = 1; store; i++) {
        g_autoptr(CkptChange) change = ckpt_change_new();
        CkptCheckpoint *checkpoint = sample_checkpoint("c1", "v1", 1);

        checkpoint->memory_bytes = i;
        checkpoint->revision = i;
        g_ptr_array_add(change->upserts, checkpoint);
        change->set_current = TRUE;
        change->current_id = g_strdup_printf("%" G_GUINT64_FORMAT, i);
        if (!ckpt_store_apply(store, change, "v1", NULL) || write(told, &i, sizeof i) != sizeof i)
            break;
    }
    _exit(1);
}

static void
check_after_kill(StoreFixture *fixture, guint64 told)
{
    g_autoptr(CkptCheckpoint) checkpoint = NULL;
    g_autoptr(CkptVmRecord) vm = NULL;
    g_autofree char *current = NULL;

    fixture->store = ckpt_store_open(fixture->dir, NULL);
    assert_non_null(fixture->store);
    checkpoint = ckpt_store_get_checkpoint(fixture->store, "c1", NULL);
    vm = ckpt_store_get_vm(fixture->store, "v1", NULL);
    assert_true(checkpoint->memory_bytes >= told && checkpoint->memory_bytes <= told + 1);
    current = g_strdup_printf("%" G_GUINT64_FORMAT, checkpoint->memory_bytes);
    assert_string_equal(vm->current_id, current);
    g_clear_pointer(&fixture->store, ckpt_store_close);
}

static void
what_was_answered_survives_kills(void **state)
{
    StoreFixture *fixture = *state;

    g_clear_pointer(&fixture->store, ckpt_store_close);
    for (guint round = 0; round < 12; round++) {
        guint64 told = 0, next;
        int pipe_fds[2], status;
        pid_t pid;

        assert_int_equal(pipe(pipe_fds), 0);
        pid = fork();
        if (pid == 0)
            write_until_killed(fixture->dir, pipe_fds[1]);
        close(pipe_fds[1]);
        while (told < 5 + 7 * round && read(pipe_fds[0], &next, sizeof next) == sizeof next)
            told = next;
        kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status));
        while (read(pipe_fds[0], &next, sizeof next) == sizeof next)
            told = next;
        close(pipe_fds[0]);
        check_after_kill(fixture, told);
    }
}

/* 0 if the store became read-only as promised; else the line that saw it was not. */
static int
fill_the_disk(const char *dir)
{
    g_autoptr(CkptStore) store = ckpt_store_open(dir, NULL);
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptOperation) found = NULL, late = sample_operation("alice", "late");
    g_autofree char *reason = NULL;

    if (!store)
        return __LINE__;
    for (guint i = 0; i < 10000 && !error; i++) {
        g_autofree char *id = g_strdup_printf("r%u", i);
        g_autoptr(CkptOperation) operation = sample_operation("alice", id);

        operation->plan = sample_plan();
        if (!ckpt_store_add_operation(store, operation, &error) && operation->number != 0)
            return __LINE__;
    }
    reason = ckpt_store_read_only_reason(store);
    if (!g_error_matches(error, CKPT_ERROR, CKPT_REASON_STORE_FAILED) || !reason)
        return __LINE__;
    /* Also when there is space again: what is on disk is not known any more. */
    setrlimit(RLIMIT_FSIZE, &(struct rlimit){RLIM_INFINITY, RLIM_INFINITY});
    if (ckpt_store_add_operation(store, late, NULL))
        return __LINE__;
    found = ckpt_store_find_operation(store, "alice", "r0", NULL);
    return found ? 0 : __LINE__;
}

static void
a_full_disk_makes_it_read_only(void **state)
{
    StoreFixture *fixture = *state;
    g_autoptr(CkptOperation) first = NULL, late = sample_operation("alice", "late");
    int status;
    pid_t pid;

    g_clear_pointer(&fixture->store, ckpt_store_close);
    pid = fork();
    if (pid == 0) {
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &(struct rlimit){512 * 1024, RLIM_INFINITY});
        status = fill_the_disk(fixture->dir);
        if (status)
            fprintf(stderr, "line %d\n", status);
        _exit(status != 0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    store_fixture_reopen(fixture);
    first = ckpt_store_find_operation(fixture->store, "alice", "r0", NULL);
    assert_non_null(first);
    assert_null(ckpt_store_read_only_reason(fixture->store));
    store_add(fixture->store, late);
}

/* ---- Another process has it: a backup, or somebody's sqlite3 shell ---- */

/* Runs the SQL in a process of its own and holds what it took for hold_ms; returns when it has it. */
static pid_t
hold_elsewhere(StoreFixture *fixture, const char *sql, guint hold_ms)
{
    g_autofree char *path = g_build_filename(fixture->dir, "vmcheckpoint.db", NULL);
    int ready[2];
    sqlite3 *handle;
    char byte;
    pid_t pid;

    assert_int_equal(pipe(ready), 0);
    pid = fork();
    if (pid == 0) {
        if (sqlite3_open(path, &handle) != SQLITE_OK ||
            sqlite3_exec(handle, sql, NULL, NULL, NULL) != SQLITE_OK || write(ready[1], "", 1) != 1)
            _exit(1);
        g_usleep(hold_ms * 1000);
        _exit(0); /* its locks go with it, whatever it was doing */
    }
    close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    return pid;
}

static void
wait_for(pid_t pid)
{
    int status;

    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void
a_short_hold_of_another_process_is_waited_for(void **state)
{
    StoreFixture *fixture = *state;
    g_autoptr(CkptOperation) operation = sample_operation("alice", "r1");
    pid_t pid = hold_elsewhere(fixture, "BEGIN IMMEDIATE", 1500);

    store_add(fixture->store, operation);
    wait_for(pid);
}

/* The wait is bounded, reads go on during it, the reason names the file's state, and the next write is
 * taken as if nothing had been. */
static void
a_long_hold_of_another_process_fails_the_write_in_time(void **state)
{
    StoreFixture *fixture = *state;
    g_autoptr(CkptOperation) operation = sample_operation("alice", "r1");
    g_autoptr(CkptVmRecord) vm = NULL;
    g_autoptr(GError) error = NULL;
    gint64 began = g_get_monotonic_time();
    pid_t pid = hold_elsewhere(fixture, "BEGIN IMMEDIATE", 9000);

    vm = ckpt_store_get_vm(fixture->store, "v1", &error);
    assert_non_null(vm);
    assert_true(g_get_monotonic_time() - began < 4 * G_TIME_SPAN_SECOND);
    assert_false(ckpt_store_add_operation(fixture->store, operation, &error));
    assert_true(g_get_monotonic_time() - began < 8 * G_TIME_SPAN_SECOND);
    assert_non_null(strstr(error->message, "locked"));
    expect_reason(FALSE, &error, CKPT_REASON_STORE_FAILED);
    assert_null(ckpt_store_read_only_reason(fixture->store));
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    store_add(fixture->store, operation);
}

static void
one_held_by_another_process_is_not_opened(void **state)
{
    StoreFixture *fixture = *state;
    gint64 began;
    pid_t pid;

    g_clear_pointer(&fixture->store, ckpt_store_close);
    pid = hold_elsewhere(fixture, "PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE", 20000);
    began = g_get_monotonic_time();
    assert_not_opened(fixture->dir, "locked");
    assert_true(g_get_monotonic_time() - began < 12 * G_TIME_SPAN_SECOND);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    store_fixture_reopen(fixture);
}

/* ---- What was verified and has changed since ---- */

static CkptCheckpoint *
copy_of(StoreFixture *fixture, const char *id)
{
    CkptCheckpoint *row = ckpt_store_get_checkpoint(fixture->store, id, NULL);

    assert_non_null(row);
    return row;
}

/* A look at the files takes a while: what an operation wrote meanwhile is not undone by its result. */
static void
a_verification_does_not_overwrite_what_came_after_it_was_read(void **state)
{
    StoreFixture *fixture = *state;
    g_autoptr(GPtrArray) rows =
        g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_checkpoint_free);
    g_autoptr(CkptChange) change = ckpt_change_new();
    g_autoptr(CkptCheckpoint) changed = NULL, same = NULL, gone = NULL;
    g_autoptr(GError) error = NULL;
    CkptCheckpoint *renamed;
    guint64 revision;

    for (guint i = 0; i < 3; i++) {
        g_autofree char *id = g_strdup_printf("c%u", i);

        store_put(fixture->store, sample_checkpoint(id, "v1", 1));
        g_ptr_array_add(rows, copy_of(fixture, id));
        ckpt_set_str(&((CkptCheckpoint *)rows->pdata[i])->disabled_reason, "a file is missing");
    }
    renamed = copy_of(fixture, "c1");
    ckpt_set_str(&renamed->name, "renamed meanwhile");
    ckpt_set_str(&renamed->disabled_reason, NULL);
    g_ptr_array_add(change->upserts, renamed);
    g_ptr_array_add(change->removes, g_strdup("c2"));
    assert_true(ckpt_store_apply(fixture->store, change, "v1", &error));
    revision = renamed->revision;
    assert_true(ckpt_store_note_verified(fixture->store, rows, &error));

    same = copy_of(fixture, "c0");
    assert_string_equal(same->disabled_reason, "a file is missing");
    assert_true(same->revision == ((CkptCheckpoint *)rows->pdata[0])->revision);
    changed = copy_of(fixture, "c1");
    assert_string_equal(changed->name, "renamed meanwhile");
    assert_null(changed->disabled_reason);
    assert_true(changed->revision == revision);
    gone = ckpt_store_get_checkpoint(fixture->store, "c2", &error);
    assert_null(gone);
}

#define TEST(name)                                                                                 \
    cmocka_unit_test_setup_teardown(name, store_fixture_setup, store_fixture_teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(files_are_ours_alone),
        TEST(a_folder_open_to_others_is_refused),
        TEST(a_second_agent_is_refused),
        TEST(another_programs_file_is_set_aside),
        TEST(a_corrupt_file_is_set_aside),
        TEST(commits_of_many_threads_all_count),
        TEST(what_was_answered_survives_kills),
        TEST(a_full_disk_makes_it_read_only),
        TEST(a_short_hold_of_another_process_is_waited_for),
        TEST(a_long_hold_of_another_process_fails_the_write_in_time),
        TEST(one_held_by_another_process_is_not_opened),
        TEST(a_verification_does_not_overwrite_what_came_after_it_was_read),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
