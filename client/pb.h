/* The API's message types under short names. */
#pragma once

#include <glib.h>
#include <google/protobuf/timestamp.pb-c.h>
#include <vmcheckpoint/v1/agent.pb-c.h>
#include <vmcheckpoint/v1/checkpoint.pb-c.h>
#include <vmcheckpoint/v1/operation.pb-c.h>
#include <vmcheckpoint/v1/virtual_machine.pb-c.h>

typedef Vmcheckpoint__V1__Checkpoint PbCheckpoint;
typedef Vmcheckpoint__V1__VirtualMachine PbVm;
typedef Vmcheckpoint__V1__Operation PbOperation;

#define CKPT_METHOD(service, name) "/vmcheckpoint.v1." service "/" name

/* Microseconds since 1970; 0 without a time. */
static inline gint64
pb_time(const Google__Protobuf__Timestamp *time)
{
    return time ? time->seconds * G_USEC_PER_SEC + time->nanos / 1000 : 0;
}

static inline void
pb_free(gpointer message)
{
    if (message)
        protobuf_c_message_free_unpacked(message, NULL);
}
