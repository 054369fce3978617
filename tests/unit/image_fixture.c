#include "tests/unit/image_fixture.h"

char *images;

int
images_open(void **state)
{
    images = g_dir_make_tmp("ckpt-images.XXXXXX", NULL);
    g_setenv("d", images, TRUE);
    return images ? 0 : -1;
}

int
images_close(void **state)
{
    shell("rm -rf \"$d\"");
    g_clear_pointer(&images, g_free);
    return 0;
}

char *
image(const char *name)
{
    return g_build_filename(images, name, NULL);
}

void
shell(const char *command)
{
    const char *const argv[] = {"bash", "-euc", command, NULL};
    g_autofree char *words = NULL;
    int status = -1;

    if (!g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, &words,
                      &status, NULL) ||
        status != 0)
        fail_msg("%s: %s", command, words ? words : "did not start");
}
