/* A folder for images, and qemu-img as tests call it. */
#pragma once

#include "tests/unit/cmocka_all.h"

#include <glib.h>

extern char *images; /* the folder; also $d for the shell */
int images_open(void **state);
int images_close(void **state);
char *image(const char *name); /* path below it */
void shell(const char *command);
