/* A store in a folder of its own, for the tests of the store. */
#pragma once

#include "agent/store/store.h"

typedef struct {
    char *dir;
    CkptStore *store;
} StoreFixture;

int store_fixture_setup(void **state); /* cmocka's; *state is a StoreFixture */
int store_fixture_teardown(void **state);
void store_fixture_reopen(StoreFixture *fixture);
void store_fixture_remove_tree(const char *dir); /* one folder and the files in it */

/* Fail the test if the store does. */
void store_add(CkptStore *store, CkptOperation *operation);
/* One checkpoint into the catalogue; takes it. */
void store_put(CkptStore *store, CkptCheckpoint *checkpoint);
/* Expects STORE_FAILED with these words when it is opened. */
void assert_not_opened(const char *dir, const char *saying);
/* Expects an error with this reason. */
void expect_reason(gboolean done, GError **error, CkptReason reason);
