/* vmcheckpointd: parses, loads, builds, runs, tears down. The only file that names a driver. */
#include "agent/config.h"
#include "agent/options.h"
#include "agent/process.h"
#include "agent/service/service.h"
#include "agent/store/state_dir.h"
#include "common/tls.h"

#include <glib-unix.h>
#include <stdio.h>
#include <string.h>
#include <systemd/sd-daemon.h>

#define STOP_OPERATIONS_MS 20000 /* for running operations to reach a safe step's end */
#define STOP_CALLS_MS 5000
#define TRIM_AFTER_S 10

enum { EXIT_FAILED = 1, EXIT_USAGE = 2 };

/* Built in this order, taken down in the reverse. */
typedef struct {
    CkptStore *store;
    CkptDriver *driver;
    CkptEngine *engine;
    CkptService *service;
    CkptServer *server;
    GMainLoop *loop;
    GThread *stopping; /* NULL until a signal came */
} Agent;

static void
agent_clear(Agent *agent)
{
    g_clear_pointer(&agent->stopping, g_thread_join);
    g_clear_pointer(&agent->server, ckpt_server_free);
    g_clear_pointer(&agent->service, ckpt_service_free);
    g_clear_pointer(&agent->engine, ckpt_engine_free);
    g_clear_pointer(&agent->driver, ckpt_driver_free);
    g_clear_pointer(&agent->store, ckpt_store_close);
    g_clear_pointer(&agent->loop, g_main_loop_unref);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Agent, agent_clear)

/* Not on the main thread: operations that end need its loop. */
static gpointer
stop(gpointer data)
{
    Agent *agent = data;

    ckpt_service_stop(agent->service);
    ckpt_engine_stop(agent->engine, STOP_OPERATIONS_MS);
    ckpt_server_stop(agent->server, STOP_CALLS_MS);
    g_main_loop_quit(agent->loop);
    return NULL;
}

static gboolean
on_stop_signal(gpointer data)
{
    Agent *agent = data;

    if (agent->stopping)
        return G_SOURCE_CONTINUE;
    g_message("stopping");
    (void)sd_notify(0, "STOPPING=1");
    agent->stopping = g_thread_new("stop", stop, agent);
    return G_SOURCE_CONTINUE;
}

static gboolean
on_hangup(gpointer data)
{
    g_message("nothing to reload: certificates are read again when they change, all else needs a "
              "restart");
    return G_SOURCE_CONTINUE;
}

static gboolean
on_watchdog(gpointer data)
{
    (void)sd_notify(0, "WATCHDOG=1");
    return G_SOURCE_CONTINUE;
}

/* When there was last something to do, in seconds, and whether the timer runs; atomic. */
static int last_work, trim_due;

static int
seconds_now(void)
{
    return (int)(g_get_monotonic_time() / G_USEC_PER_SEC);
}

static gboolean
on_trim(gpointer data)
{
    if (seconds_now() - g_atomic_int_get(&last_work) < TRIM_AFTER_S)
        return G_SOURCE_CONTINUE;
    g_atomic_int_set(&trim_due, 0);
    ckpt_process_trim();
    return G_SOURCE_REMOVE;
}

/* Once after a burst of work, so that an idle agent has no timer. */
static void
trim_later(void)
{
    g_atomic_int_set(&last_work, seconds_now());
    if (g_atomic_int_compare_and_exchange(&trim_due, 0, 1))
        g_timeout_add_seconds(TRIM_AFTER_S, on_trim, NULL);
}

static void
on_operation(guint64 number, const CkptOperation *operation, guint64 bytes_done,
             guint64 bytes_total, gpointer data)
{
    trim_later();
}

static void
handle_call(gpointer service, CkptCall *call, GBytes *request)
{
    trim_later();
    ckpt_service_vtable()->handle(service, call, request);
}

static CkptMethodKind
lookup_method(gpointer service, const char *method, gboolean *slow)
{
    return ckpt_service_vtable()->lookup(service, method, slow);
}

static const CkptServiceVtable served = {lookup_method, handle_call};

typedef CkptDriver *(*OpenDriver)(const CkptConfig *config, GError **error);

static CkptDriver *
open_qemu(const CkptConfig *config, GError **error)
{
    g_autofree char *guards = g_build_filename(config->state_dir, "guards", NULL);
    CkptQemuOptions options = {
        .uri = config->hypervisor,
        .guest_agent_seconds = config->guest_agent_seconds,
        /* Ourselves, also after an upgrade has replaced the file. */
        .guard_program = "/proc/self/exe",
        .guard_folder = guards,
        .block_overlay_folder = config->block_overlay_folder,
        .offline_without_locks = config->offline_without_locks,
        .without_linked_clones = config->without_linked_clones,
        .live_memory_when_emulated = config->live_memory_when_emulated,
    };
    CkptDriver *driver = ckpt_qemu_driver_new(&options, error);
    g_autoptr(GPtrArray) folders = g_ptr_array_new();

    if (!driver)
        return NULL;
    ckpt_qemu_driver_limit_merges(driver, config->merge_mib);
    for (guint i = 0; i < config->libraries->len; i++)
        g_ptr_array_add(folders, ((CkptLibraryPlace *)g_ptr_array_index(config->libraries, i))->path);
    g_ptr_array_add(folders, NULL);
    ckpt_qemu_driver_set_libraries(driver, (const char *const *)folders->pdata);
    return driver;
}

static CkptDriver *
open_native(const CkptConfig *config, GError **error)
{
    return ckpt_native_driver_new(config->hypervisor, error);
}

/* By the scheme of the hypervisor's URI: what comes before "+TRANSPORT" and ":". */
static OpenDriver
choose_driver(const char *uri, GError **error)
{
    static const struct {
        const char *scheme;
        OpenDriver open;
    } drivers[] = {
        {"qemu", open_qemu},  {"test", open_native}, {"esx", open_native},
        {"vpx", open_native}, {"vbox", open_native},
    };
    g_autofree char *scheme = g_strndup(uri, strcspn(uri, "+:"));

    for (guint i = 0; i < G_N_ELEMENTS(drivers); i++)
        if (g_str_equal(drivers[i].scheme, scheme))
            return drivers[i].open;
    ckpt_error_set(error, CKPT_REASON_INVALID_ARGUMENT,
                   "[agent] hypervisor = %s: no driver for this URI; there are drivers for qemu, test, "
                   "esx, vpx and vbox, as in qemu:///system",
                   uri);
    return NULL;
}

static gboolean
build(Agent *agent, const CkptConfig *config, GError **error)
{
    CkptServiceOptions service = {
        .access = config->access,
        .agent_version = CKPT_VERSION,
        .grpc_version = ckpt_options_grpc_version(),
        .libraries = config->libraries,
        .max_streams = config->max_watches,
    };
    CkptServerOptions server = {
        .listen = config->listen,
        .ca_file = config->ca_file,
        .cert_file = config->cert_file,
        .key_file = config->key_file,
        .handler_threads = config->handler_threads,
        .max_calls = config->max_calls,
        .max_connections = config->max_connections,
    };
    OpenDriver open_driver;

    agent->store = ckpt_store_open(config->state_dir, error);
    if (!agent->store)
        return FALSE;
    open_driver = choose_driver(config->hypervisor, error);
    agent->driver = open_driver ? open_driver(config, error) : NULL;
    if (!agent->driver)
        return FALSE;
    agent->engine = ckpt_engine_new(agent->driver, agent->store, &config->limits);
    agent->service = ckpt_service_new(agent->engine, &service);
    agent->server = ckpt_server_new(&server, &served, agent->service, error);
    return agent->server != NULL;
}

static gboolean
start(Agent *agent, GError **error)
{
    return ckpt_engine_start(agent->engine, error) && ckpt_server_start(agent->server, error) &&
           ckpt_server_prove_tls(agent->server, error);
}

static void
announce(const Agent *agent, const CkptConfig *config)
{
    g_autofree char *host =
        g_strndup(config->listen, (gsize)(strrchr(config->listen, ':') - config->listen));
    guint64 watchdog_us;

    if (ckpt_access_size(config->access) == 0)
        g_warning("[access] has no rules: every call will be refused");
    g_message("listening on %s:%u", host, ckpt_server_port(agent->server));
    (void)sd_notify(0, "READY=1");
    /* Told by the main loop, so a loop that hangs is noticed. */
    if (sd_watchdog_enabled(0, &watchdog_us) > 0)
        g_timeout_add((guint)(watchdog_us / 2000), on_watchdog, NULL);
    ckpt_engine_watch(agent->engine, on_operation, NULL);
    trim_later();
}

/* GLib's signal sources, not a blocked mask with a signalfd: children would inherit the mask, and a
 * qemu-img that ignores SIGTERM cannot be cancelled. */
static void
catch_signals(Agent *agent)
{
    g_unix_signal_add(SIGTERM, on_stop_signal, agent);
    g_unix_signal_add(SIGINT, on_stop_signal, agent);
    g_unix_signal_add(SIGHUP, on_hangup, agent);
}

static int
run(const CkptConfig *config)
{
    g_auto(Agent) agent = {0};
    g_autoptr(GError) error = NULL;

    agent.loop = g_main_loop_new(NULL, FALSE);
    catch_signals(&agent);
    if (!ckpt_rpc_init(&error) || !build(&agent, config, &error) || !start(&agent, &error)) {
        g_critical("%s", error->message);
        return EXIT_FAILED;
    }
    announce(&agent, config);
    g_main_loop_run(agent.loop);
    return 0;
}

/* What a start would refuse, save what only libvirt and the network can tell; and a certificate
 * whose time is over, with which an agent does start: it has VMs to recover. */
static int
check(const CkptConfig *config)
{
    g_auto(CkptTlsPem) pem = {NULL, NULL, NULL};
    g_autoptr(GError) error = NULL;

    if (!choose_driver(config->hypervisor, &error) || !ckpt_rpc_init(&error) ||
        !ckpt_tls_load(config->ca_file, config->cert_file, config->key_file, CKPT_TLS_CHECK_DATES,
                       &pem, &error) ||
        !ckpt_state_dir_check(config->state_dir, &error)) {
        g_critical("%s", error->message);
        return EXIT_USAGE;
    }
    return puts("the configuration is valid") < 0 ? EXIT_FAILED : 0;
}

int
main(int argc, char **argv)
{
    g_auto(CkptOptions) options = {0};
    g_autoptr(CkptConfig) config = NULL;
    g_autofree char *versions = NULL;
    g_autoptr(GError) error = NULL;

    ckpt_process_init();
    if (argc > 1 && g_str_equal(argv[1], CKPT_THAW_GUARD_OPTION))
        return ckpt_thaw_guard(argc, argv);
    if (!ckpt_options_parse(&options, argc, argv, &error)) {
        g_critical("%s; see vmcheckpointd --help", error->message);
        return EXIT_USAGE;
    }
    if (options.action == CKPT_ACTION_VERSION) {
        versions = ckpt_options_versions();
        return puts(versions) < 0 ? EXIT_FAILED : 0;
    }
    config = ckpt_config_load(options.config_file, &error);
    if (!config) {
        g_critical("%s", error->message);
        return EXIT_USAGE;
    }
    if (options.action == CKPT_ACTION_CHECK_CONFIG)
        return check(config);
    return run(config);
}
