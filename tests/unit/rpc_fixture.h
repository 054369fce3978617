/* A server and clients in one process, with certificates of certs/make-certs. */
#pragma once

#include "agent/rpc/server.h"
#include "common/rpc_client.h"
#include "tests/unit/cmocka_all.h"

#include <string.h>

#define assert_contains(text, part)                                                                \
    do {                                                                                           \
        if (!strstr(text, part))                                                                   \
            fail_msg("'%s' does not contain '%s'", text, part);                                    \
    } while (0)

/* What the test service was asked, seen and told. */
typedef struct {
    CkptServer *server;
    char *address; /* "127.0.0.1:PORT" */
    CkptServerOptions options;

    GMutex lock; /* guards the rest */
    GCond changed;
    gboolean open;       /* Block returns, Hold's waits end */
    guint inside;        /* handlers that are in Block */
    guint held;          /* calls that Hold has kept */
    guint cancelled;     /* on_cancel calls that came */
    guint sent;          /* messages that Flood queued */
    gboolean flood_over; /* Flood was told that the queue is full */
    gint64 remaining_ms; /* of the last Hold */
    GCancellable *cancel_when_held;
} Fixture;

/* The folder with the certificates: ca.pem, agent.pem, jane.pem, …; made once. */
const char *fixture_dir(void);
char *fixture_file(const char *name);                 /* (transfer full) */
void fixture_make_cert(const char *const *arguments); /* of make-certs, NULL-terminated */

int fixture_group_setup(void **state);
int fixture_group_teardown(void **state);
/* A running server with the defaults; state is the Fixture. */
int fixture_setup(void **state);
int fixture_teardown(void **state);
Fixture *fixture_new(const CkptServerOptions *changes); /* only the numbers are taken */
void fixture_free(Fixture *fixture);
void fixture_wait(Fixture *fixture, guint *what,
                  guint value); /* at most 10 s, then the test fails */
void fixture_open(Fixture *fixture);

/* Methods: Echo, Identity, Fail (a rich error), Long (9 kB of message), Hold (kept until the call
 * is cancelled), Block (keeps its thread until fixture_open), Stream (as many messages as the
 * request says), Flood (until the queue is full). */
#define METHOD(name) "/test.Test/" name

CkptRpcClient *fixture_client(const char *name); /* with NAME.pem */
/* One call by NAME; the status is never NULL. */
CkptRpcStatus *fixture_call(Fixture *fixture, const char *name, const char *method,
                            const char *request, guint timeout_ms, char **reply);
CkptRpcStatus *fixture_call_with(CkptRpcClient *client, const char *address, const char *method,
                                 GBytes *request, guint timeout_ms, GCancellable *cancellable,
                                 char **reply);
