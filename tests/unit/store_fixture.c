#include "tests/unit/store_fixture.h"

#include "tests/unit/cmocka_all.h"

#include <glib/gstdio.h>
#include <string.h>

void
store_fixture_remove_tree(const char *dir)
{
    g_autoptr(GDir) folder = g_dir_open(dir, 0, NULL);
    const char *name;

    while (folder && (name = g_dir_read_name(folder))) {
        g_autofree char *path = g_build_filename(dir, name, NULL);

        g_remove(path);
    }
    g_rmdir(dir);
}

static void
open_store(StoreFixture *fixture)
{
    g_autoptr(GError) error = NULL;

    fixture->store = ckpt_store_open(fixture->dir, &error);
    if (!fixture->store)
        fail_msg("%s", error->message);
}

int
store_fixture_setup(void **state)
{
    StoreFixture *fixture = g_new0(StoreFixture, 1);

    fixture->dir = g_dir_make_tmp("ckpt-store-XXXXXX", NULL);
    open_store(fixture);
    *state = fixture;
    return 0;
}

int
store_fixture_teardown(void **state)
{
    StoreFixture *fixture = *state;

    ckpt_store_close(fixture->store);
    store_fixture_remove_tree(fixture->dir);
    g_free(fixture->dir);
    g_free(fixture);
    return 0;
}

void
store_fixture_reopen(StoreFixture *fixture)
{
    ckpt_store_close(fixture->store);
    open_store(fixture);
}

void
store_add(CkptStore *store, CkptOperation *operation)
{
    g_autoptr(GError) error = NULL;

    if (!ckpt_store_add_operation(store, operation, &error))
        fail_msg("%s", error->message);
}

void
store_put(CkptStore *store, CkptCheckpoint *checkpoint)
{
    g_autoptr(CkptChange) change = ckpt_change_new();
    g_autoptr(GError) error = NULL;

    g_ptr_array_add(change->upserts, checkpoint);
    if (!ckpt_store_apply(store, change, checkpoint->vm_id, &error))
        fail_msg("%s", error->message);
}

void
expect_reason(gboolean done, GError **error, CkptReason reason)
{
    assert_false(done);
    assert_non_null(*error);
    if (!g_error_matches(*error, CKPT_ERROR, (int)reason))
        fail_msg("%s", (*error)->message);
    g_clear_error(error);
}

void
assert_not_opened(const char *dir, const char *saying)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptStore) store = ckpt_store_open(dir, &error);

    assert_null(store);
    assert_true(g_error_matches(error, CKPT_ERROR, CKPT_REASON_STORE_FAILED));
    if (!strstr(error->message, saying))
        fail_msg("\"%s\" does not say \"%s\"", error->message, saying);
}
