/* model: random worlds against the engine. See --help. */
#include "model.h"

#include "tests/support/power_vfs.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define WORLD 40 /* actions in one world */

static gint64 option_seed = 1, option_operations = 20000;
static gint64 option_world = -1, option_draw, option_around;
static int option_core = -1;
static gboolean option_verbose, option_regress, option_keep_going;

static GOptionEntry entries[] = {
    {"seed", 0, 0, G_OPTION_ARG_INT64, &option_seed, "Seed of the first world (1)", "N"},
    {"ops", 0, 0, G_OPTION_ARG_INT64, &option_operations, "Operations in all (20000)", "N"},
    {"world", 0, 0, G_OPTION_ARG_INT64, &option_world, "Only the world of this seed", "N"},
    {"regress", 0, 0, G_OPTION_ARG_NONE, &option_regress, "Only the worlds that once failed", NULL},
    {"around", 0, 0, G_OPTION_ARG_INT64, &option_around, "--regress with the faults up to N moments off", "N"},
    {"core", 0, 0, G_OPTION_ARG_INT, &option_core, "Run on the Nth of the cores only, which is quicker", "N"},
    {"draw", 0, 0, G_OPTION_ARG_INT64, &option_draw, "Print so many actions of --world; run nothing", "N"},
    {"keep-going", 0, 0, G_OPTION_ARG_NONE, &option_keep_going, "Do not stop at 5 violations", NULL},
    {"verbose", 'v', 0, G_OPTION_ARG_NONE, &option_verbose, "Tell what happens", NULL},
    {NULL, 0, 0, 0, NULL, NULL, NULL},
};

static guint64 present_seed;

static void
on_abort(int number)
{
    g_printerr("model: ended by signal %d in world %" G_GUINT64_FORMAT "\n", number, present_seed);
    signal(number, SIG_DFL);
    raise(number);
}

static void
drop_log(const char *domain, GLogLevelFlags level, const char *message, gpointer data)
{
    if (option_verbose)
        g_printerr("    log: %s\n", message);
}

static void
report(guint64 seed, Action *actions, const char *violation, const char *dir)
{
    guint count;
    g_autofree char *shrunk = NULL;

    printf("VIOLATION in world %" G_GUINT64_FORMAT ": %s\n", seed, violation);
    count = script_shrink(seed, actions, WORLD, dir);
    shrunk = script_run(seed, actions, count, dir, TRUE, NULL);
    printf("  shrunk to %u actions: %s\n", count, shrunk ? shrunk : "(it does not happen again)");
    for (guint i = 0; i < count; i++) {
        g_autofree char *text = script_describe(&actions[i]);

        printf("    %s\n", text);
    }
    printf("  again: model --world %" G_GUINT64_FORMAT " -v\n", seed);
    fflush(stdout);
}

static gboolean
run_world(guint64 seed, const char *dir, Model *totals)
{
    g_autofree Action *actions = g_new(Action, WORLD);
    g_autofree char *violation = NULL;

    present_seed = seed;
    script_draw(seed, actions, WORLD);
    violation = script_run(seed, actions, WORLD, dir, option_verbose, totals);
    if (violation)
        report(seed, actions, violation, dir);
    return violation == NULL;
}

/* For tests that do the same on a real hypervisor. */
static int
draw(guint count)
{
    g_autofree Action *actions = g_new(Action, count);

    script_draw((guint64)MAX(option_world, 0), actions, count);
    for (guint i = 0; i < count; i++) {
        g_autofree char *text = script_describe(&actions[i]);

        puts(text);
    }
    return 0;
}

static void
move_faults(Action *actions, guint count, gint64 by)
{
    for (guint i = 0; i < count; i++)
        for (guint k = 0; k < MODEL_FAULTS; k++)
            if (actions[i].faults[k].kind)
                actions[i].faults[k].at = (guint)MAX(1, (gint64)actions[i].faults[k].at + by);
}

static gboolean
run_regression(const Regression *script, gint64 by, const char *dir)
{
    g_autofree Action *actions = g_memdup2(script->actions, sizeof script->actions);
    g_autofree char *violation = NULL;

    move_faults(actions, script->count, by);
    present_seed = script->seed;
    violation = script_run(script->seed, actions, script->count, dir, option_verbose, NULL);
    if (violation)
        printf("VIOLATION again, where %s (faults moved by %" G_GINT64_FORMAT "): %s\n", script->found, by,
               violation);
    return violation == NULL;
}

/* The moment that a fault struck at is another one as soon as the code does one thing more. */
static guint
run_regressions(const char *dir)
{
    guint count, ran = 0, violations = 0;
    const Regression *scripts = regressions(&count);

    for (guint i = 0; i < count; i++)
        for (gint64 by = -option_around; by <= option_around; by++, ran++)
            violations += !run_regression(&scripts[i], by, dir);
    printf("%u worlds that once failed, %u runs, %u violations\n", count, ran, violations);
    printf("%u passed, %u failed\n", ran - violations, violations);
    return violations;
}

static void
print_totals(const Model *totals, guint64 operations, guint violations, gint64 began)
{
    printf("requests: %u done, %u refused, %u failed; %u faults, %u restarts, %u migrations, "
           "%u lost catalogues; %.1f s\n",
           totals->done, totals->refused, totals->failed, totals->fired_count, totals->recovered,
           totals->migrations, totals->losses_of_catalogue,
           (double)(g_get_monotonic_time() - began) / G_USEC_PER_SEC);
    for (guint i = 0; i < G_N_ELEMENTS(totals->reasons); i++)
        if (totals->reasons[i])
            printf("  %s: %u\n", ckpt_reason_name((CkptReason)i), totals->reasons[i]);
    printf("%" G_GUINT64_FORMAT " operations, %u violations\n", operations, violations);
}

/* The threads of a world hand over to each other some 100 times an operation, and seldom run at once: on one core
 * 4,000 operations took 18 s, on both of two 30 s. N counts the cores that this process may use, and begins
 * again. */
static void
stay_on_core(guint number)
{
    cpu_set_t allowed, one;
    guint core = 0, left;

    if (sched_getaffinity(0, sizeof allowed, &allowed) < 0)
        return;
    for (left = number % (guint)CPU_COUNT(&allowed); !CPU_ISSET(core, &allowed) || left-- > 0; core++)
        continue;
    CPU_ZERO(&one);
    CPU_SET(core, &one);
    if (sched_setaffinity(0, sizeof one, &one) < 0)
        g_printerr("model: runs on all cores: %s\n", g_strerror(errno));
}

static guint
run_all(const char *dir)
{
    Model totals = {0};
    gint64 began = g_get_monotonic_time();
    guint64 worlds = option_world >= 0 ? 1 : (guint64)(option_operations + WORLD - 1) / WORLD, ran = 0;
    guint64 first = option_world >= 0 ? (guint64)option_world : (guint64)option_seed * 1000000;
    guint violations = 0;

    while (ran < worlds && (violations < 5 || option_keep_going)) {
        violations += !run_world(first + ran, dir, &totals);
        ran++;
    }
    print_totals(&totals, ran * WORLD, violations, began);
    printf("%" G_GUINT64_FORMAT " passed, %u failed\n", ran - violations, violations);
    return violations;
}

int
main(int argc, char **argv)
{
    g_autoptr(GOptionContext) context = g_option_context_new("- random worlds against the engine");
    g_autoptr(GError) error = NULL;
    g_autofree char *dir = NULL;
    guint violations;

    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error)) {
        g_printerr("model: %s\n", error->message);
        return 2;
    }
    if (option_draw > 0)
        return draw((guint)MIN(option_draw, 10000));
    if (option_core >= 0)
        stay_on_core((guint)option_core);
    setvbuf(stdout, NULL, _IOLBF, 0);
    g_log_set_default_handler(drop_log, NULL);
    signal(SIGABRT, on_abort);
    signal(SIGSEGV, on_abort);
    power_vfs_install();
    /* In memory: what is tested is not the disk. "reap" looks for the name. */
    dir = g_strdup_printf("%s/ckpt-model.%d.XXXXXX",
                          access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp", (int)getpid());
    if (!g_mkdtemp_full(dir, 0700)) {
        g_printerr("model: no folder for the state\n");
        return 2;
    }
    violations = option_regress ? run_regressions(dir) : run_all(dir);
    g_rmdir(dir);
    return violations > 0;
}
