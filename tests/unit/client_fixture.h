/* The client's executable against two agents of straw in this process, over mutual TLS. */
#pragma once

#include "client/pb.h"
#include "common/error.h"
#include "tests/unit/rpc_fixture.h"

#include <gio/gio.h>

#define VM_1 "11111111-1111-4111-8111-111111111111"
#define VM_2 "22222222-2222-4222-8222-222222222222"
#define VM_3 "33333333-3333-4333-8333-333333333333"
#define VM_4 "44444444-4444-4444-8444-444444444444"
#define POINT_1 "aaaaaaa1-0000-4000-8000-000000000000"
#define POINT_2 "aaaaaaa2-0000-4000-8000-000000000000"
#define POINT_3 "aaaaaaa3-0000-4000-8000-000000000000"

typedef struct {
    const char *id, *name;
    gboolean stored;
} StrawVm;

typedef struct {
    const char *id, *name, *vm_id, *vm_name;
    gboolean deleting;
} StrawPoint;

typedef struct {
    CkptServer *server;
    char *address;
    StrawVm vms[4];
    StrawPoint points[4];

    GMutex lock; /* guards the rest */
    GCond changed;
    CkptReason refusal;  /* of mutations; 0: they are done */
    guint refuse_first;  /* so many mutations are refused, then they are done; 0: all */
    guint retry_ms;      /* sent with a refusal */
    gboolean hold;       /* mutations are not answered */
    guint mutations;     /* that came */
    GPtrArray *ids;      /* their request_ids */
    char *etag;          /* the last one's */
    const char *current; /* of every VM; NULL: none */
    Vmcheckpoint__V1__Growth *growth; /* of every VM and checkpoint; NULL: none, and no warnings */
    char expected[40];   /* the current checkpoint that the last restore expects */
} Straw;

typedef struct {
    Straw a, b;
    char *fleet;
    char *output, *errors;
    int status;
} World;

extern World world; /* made anew for each test */

int client_set_up(void **state); /* cmocka's */
int client_tear_down(void **state);

/* The client with these arguments, as a shell splits them. terminal: the slave's end of one, for standard
 * input and error; -1: pipes. */
GSubprocess *client_start_on(const char *arguments, int terminal);
GSubprocess *client_start(const char *arguments);
/* Waits for its end, which is in `world` then. Takes it. */
void client_finish(GSubprocess *process);
/* Starts it, and finishes it with this exit status. */
void assert_run(const char *arguments, int status);
void assert_says(const char *text, const char *words);

void straw_serve(Straw *straw, const char *listen);
void straw_stop(Straw *straw);
void straw_wait(Straw *straw, guint mutations); /* until so many came; at most 10 s */
