/* A command of the client: a file of its own, with its options, its help and its action. */
#pragma once

#include "client/client.h"

typedef struct {
    const char *name;
    const char *arguments;       /* for the usage line: "VM..." */
    const char *summary;         /* one line */
    const char *help;            /* further paragraphs; NULL = none */
    const GOptionEntry *options; /* NULL = none of its own; texts as FILENAME, which GOption does
                                    not convert from the locale's encoding */
    int min_arguments, max_arguments; /* max -1 = any number */
    gboolean publishes; /* its results are checkpoints: the published format is possible */
    CkptExit (*run)(CkptClient *client, char **arguments);
} CkptCommand;

extern const CkptCommand ckpt_command_create, ckpt_command_list, ckpt_command_show,
    ckpt_command_tree, ckpt_command_restore, ckpt_command_delete, ckpt_command_vms,
    ckpt_command_hosts, ckpt_command_operation, ckpt_command_doctor;
