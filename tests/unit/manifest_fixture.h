/* Checkpoints' manifests in a folder of their own: the files are real, the hypervisor knows no VM. */
#pragma once

#include "cmocka_all.h"

#include "agent/hypervisor/qemu.h"

#define VM "11111111-1111-4111-8111-111111111111"
#define HOST_A "aaaaaaaa-0000-4000-8000-000000000001"
#define HOST_B "bbbbbbbb-0000-4000-8000-000000000002"
#define ONE "0a0a0a0a-0000-4000-8000-000000000001"
#define TWO "0b0b0b0b-0000-4000-8000-000000000002"

typedef struct {
    CkptDriver driver;
    char *folder;
    GPtrArray *notes;
    GPtrArray *imports;
} Fixture;

int manifest_setup(void **state); /* cmocka's; *state is a Fixture */
int manifest_teardown(void **state);
char *manifest_path_of(const Fixture *fixture, const char *name); /* in its folder */

CkptCheckpoint *manifest_row_new(const char *id, const char *parent, gint64 added);
/* A raw file of 64 KiB that the checkpoint sealed. */
void manifest_add_disk(Fixture *fixture, CkptCheckpoint *row, const char *target, const char *name);
void manifest_write_beside(const char *file, const CkptCheckpoint *row, const char *host, guint64 epoch);
/* Beside each of its disks. */
void manifest_write_all(const CkptCheckpoint *row, const char *host, guint64 epoch);
