#include "agent/hypervisor/image.h"
#include "tests/unit/image_fixture.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static CkptQcow2 *
read_header(const char *path, GError **error)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    CkptQcow2 *header;

    assert_true(fd >= 0);
    header = ckpt_qcow2_read(fd, error);
    close(fd);
    return header;
}

/* The shell makes $d/t.qcow2. */
static CkptQcow2 *
read_made(const char *command)
{
    g_autofree char *path = image("t.qcow2");
    g_autoptr(GError) error = NULL;
    CkptQcow2 *header;

    unlink(path);
    shell(command);
    header = read_header(path, &error);
    if (!header)
        fail_msg("%s: %s", command, error->message);
    return header;
}

static void
header_of_an_overlay(void **state)
{
    static const char *const commands[] = {
        "truncate -s 1M $d/b; qemu-img create -q -f qcow2 -F raw -b $d/b $d/t.qcow2 3M",
        "truncate -s 1M $d/b; qemu-img create -q -f qcow2 -o compat=0.10 -F raw -b $d/b $d/t.qcow2 3M",
        "truncate -s 1M $d/b; qemu-img create -q -f qcow2 -o cluster_size=512 -F raw -b $d/b $d/t.qcow2 "
        "3M",
        "truncate -s 1M $d/b; qemu-img create -q -f qcow2 -o cluster_size=2M -F raw -b $d/b $d/t.qcow2 "
        "3M"};
    static const guint versions[] = {3, 2, 3, 3};
    g_autofree char *base = image("b");

    for (gsize i = 0; i < G_N_ELEMENTS(commands); i++) {
        g_autoptr(CkptQcow2) header = read_made(commands[i]);

        assert_int_equal(header->version, versions[i]);
        assert_int_equal(header->virtual_size, 3 << 20);
        assert_string_equal(header->backing, base);
        assert_string_equal(header->backing_format, "raw");
        assert_true(header->empty);
        assert_false(header->encrypted || header->corrupt || header->data_file || header->bitmaps);
        assert_int_equal(header->snapshots, 0);
    }
}

static void
header_tells_what_stands_in_the_way(void **state)
{
    g_autoptr(CkptQcow2) bitmaps = read_made("qemu-img create -q -f qcow2 $d/t.qcow2 1M; "
                                             "qemu-img bitmap --add $d/t.qcow2 b1");
    g_autoptr(CkptQcow2) snapshots = read_made("qemu-img create -q -f qcow2 $d/t.qcow2 1M; "
                                               "qemu-img snapshot -c s1 $d/t.qcow2");
    g_autoptr(CkptQcow2) data = read_made("qemu-img create -q -f qcow2 -o data_file=$d/x,data_file_raw=on "
                                          "$d/t.qcow2 1M");
    g_autoptr(CkptQcow2) corrupt = read_made("qemu-img create -q -f qcow2 $d/t.qcow2 1M; printf '\\2' | "
                                             "dd of=$d/t.qcow2 bs=1 seek=79 conv=notrunc status=none");

    assert_true(bitmaps->bitmaps);
    assert_int_equal(snapshots->snapshots, 1);
    assert_true(data->data_file);
    assert_true(corrupt->corrupt);
}

static void
a_layer_tells_internal_snapshots(void **state)
{
    g_autofree char *path = image("t.qcow2");

    for (guint i = 0; i < 2; i++) {
        CkptLayer *layer;

        shell(i ? "qemu-img snapshot -c s1 $d/t.qcow2" : "qemu-img create -q -f qcow2 $d/t.qcow2 1M");
        layer = ckpt_layer_look(path, CKPT_FORMAT_QCOW2, NULL, NULL);
        assert_int_equal(layer->snapshots, i);
        ckpt_layer_free(layer);
    }
}

static void
written_image_is_not_empty(void **state)
{
    g_autoptr(CkptQcow2) full = read_made("qemu-img create -q -f qcow2 $d/t.qcow2 64M; qemu-io -f qcow2 "
                                          "-c 'write 60M 4k' $d/t.qcow2");
    g_autoptr(CkptQcow2) empty = read_made("qemu-img create -q -f qcow2 $d/t.qcow2 64M");

    assert_false(full->empty);
    assert_true(empty->empty);
}

/* One field of a good header is overwritten with what an attacker or a bad disk might leave. */
static void
hostile_headers_are_refused(void **state)
{
    static const struct {
        guint offset;
        const char *bytes;
        gsize length;
    } cases[] = {
        {0, "QFX", 3},                                             /* magic */
        {4, "\0\0\0\1", 4},                                        /* version */
        {4, "\xff\xff\xff\xff", 4},
        {8, "\xff\xff\xff\xff\xff\xff\xff\xff", 8},                /* backing offset */
        {8, "\0\0\0\0\0\1\0\0", 8},
        {16, "\xff\xff\xff\xff", 4},                               /* backing length */
        {16, "\0\0\0\0", 4},
        {16, "\0\0\4\0", 4},
        {20, "\0\0\0\x3f", 4},                                     /* cluster bits */
        {20, "\0\0\0\0", 4},
        {36, "\xff\xff\xff\xff", 4},                               /* first-level table */
        {40, "\xff\xff\xff\xff\xff\xff\xff\xff", 8},
        {40, "\x7f\xff\xff\xff\xff\xff\xff\xff", 8},
        {100, "\0\0\0\0", 4},                                      /* header length */
        {100, "\xff\xff\xff\xff", 4},
        {116, "\xff\xff\xff\xff", 4},                              /* length of an extension */
    };
    g_autofree char *path = image("h.qcow2");

    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GError) error = NULL;
        int fd;

        shell("rm -f $d/h.qcow2; truncate -s 1M $d/b; "
              "qemu-img create -q -f qcow2 -F raw -b $d/b $d/h.qcow2 1M");
        fd = open(path, O_WRONLY | O_CLOEXEC);
        assert_int_equal(pwrite(fd, cases[i].bytes, cases[i].length, cases[i].offset),
                         cases[i].length);
        close(fd);
        if (read_header(path, &error))
            fail_msg("case %zu was read", i);
        assert_int_equal(ckpt_error_reason(error), CKPT_REASON_DISK_FORMAT_UNSUPPORTED);
    }
}

static void
truncated_headers_are_refused(void **state)
{
    g_autofree char *path = image("h.qcow2");
    struct stat whole;

    shell("rm -f $d/h.qcow2; qemu-img create -q -f qcow2 -u -F raw -b /x $d/h.qcow2 1M");
    assert_int_equal(stat(path, &whole), 0);
    for (off_t size = 0; size < 600; size++) {
        g_autoptr(GError) error = NULL;

        shell("rm -f $d/h.qcow2; qemu-img create -q -f qcow2 -u -F raw -b /x $d/h.qcow2 1M");
        assert_int_equal(truncate(path, size), 0);
        assert_null(read_header(path, &error));
        assert_int_equal(ckpt_error_reason(error), CKPT_REASON_DISK_FORMAT_UNSUPPORTED);
        size += size > 120 ? 60 : 7;
    }
}

/* Bytes at random: refused or read, but never more. Runs under the sanitizers. */
static void
random_headers_do_no_harm(void **state)
{
    g_autofree char *path = image("r.qcow2");
    g_autofree char *good = NULL;
    g_autoptr(GRand) rand = g_rand_new_with_seed(7);
    gsize length;

    shell("rm -f $d/r.qcow2; qemu-img create -q -f qcow2 -u -F raw -b /x $d/r.qcow2 1M; "
          "truncate -s 300k $d/r.qcow2");
    assert_true(g_file_get_contents(path, &good, &length, NULL));
    for (guint i = 0; i < 2000; i++) {
        int fd = open(path, O_RDWR | O_CLOEXEC);
        guint changes = (guint)g_rand_int_range(rand, 1, 6);
        CkptQcow2 *header;

        assert_int_equal(pwrite(fd, good, 1024, 0), 1024);
        while (changes--) {
            guint8 byte = (guint8)g_rand_int(rand);

            assert_int_equal(pwrite(fd, &byte, 1, g_rand_int_range(rand, 4, 600)), 1);
        }
        header = ckpt_qcow2_read(fd, NULL);
        ckpt_qcow2_free(header);
        close(fd);
    }
}

/* Hazard A28. */
static void
raw_file_with_a_qcow2_header_is_raw(void **state)
{
    g_autofree char *path = image("raw");
    g_autoptr(CkptQcow2) header = NULL;
    g_autoptr(GError) fault = NULL;
    CkptLayer *layer;

    shell("rm -f $d/raw; qemu-img create -q -f qcow2 -u -F raw -b /etc/passwd $d/raw 64M");
    layer = ckpt_layer_look(path, CKPT_FORMAT_RAW, &header, &fault);
    assert_null(fault);
    assert_null(header);
    assert_null(layer->backing);
    assert_int_equal(layer->virtual_size, layer->id.size);
    ckpt_layer_free(layer);
    /* Nobody says what it is: then nothing of it is read. */
    layer = ckpt_layer_look(path, (CkptFormat)0, &header, &fault);
    assert_null(fault);
    assert_null(layer->backing);
    assert_int_equal(layer->virtual_size, 0);
    ckpt_layer_free(layer);
}

static void
assert_fault(const char *path, CkptReason reason)
{
    g_autoptr(GError) fault = NULL;
    CkptLayer *layer = ckpt_layer_look(path, CKPT_FORMAT_QCOW2, NULL, &fault);

    assert_string_equal(layer->path, path);
    assert_non_null(fault);
    assert_int_equal(ckpt_error_reason(fault), reason);
    assert_non_null(strstr(fault->message, path));
    ckpt_layer_free(layer);
}

static void
what_is_no_image_is_told(void **state)
{
    g_autofree char *fifo = image("fifo");
    g_autofree char *gone = image("gone");
    g_autofree char *loop = image("loop");
    g_autofree char *text = image("text");

    shell("mkfifo $d/fifo; ln -s loop $d/loop; echo hello >$d/text");
    assert_fault(fifo, CKPT_REASON_DISK_TYPE_UNSUPPORTED);
    assert_fault(images, CKPT_REASON_DISK_TYPE_UNSUPPORTED);
    assert_fault(gone, CKPT_REASON_DISK_FILE_MISSING);
    assert_fault(loop, CKPT_REASON_DISK_FILE_MISSING);
    assert_fault(text, CKPT_REASON_DISK_FORMAT_UNSUPPORTED);
}

static void
backing_names_are_resolved_as_qemu_does(void **state)
{
    static const struct {
        const char *backing, *resolved;
    } cases[] = {{"/a/b", "/a/b"},     {"b.raw", "/i/b.raw"}, {"../b", "/i/../b"},
                 {"/a:b/c", "/a:b/c"}, {"d/a:b", "/i/d/a:b"}, {"json:{\"x\":1}", NULL},
                 {"nbd://h/x", NULL},  {"file:/x", NULL}};

    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *resolved = ckpt_image_resolve("/i/top.qcow2", cases[i].backing);

        if (cases[i].resolved)
            assert_string_equal(resolved, cases[i].resolved);
        else
            assert_null(resolved);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(header_of_an_overlay),
        cmocka_unit_test(header_tells_what_stands_in_the_way),
        cmocka_unit_test(a_layer_tells_internal_snapshots),
        cmocka_unit_test(written_image_is_not_empty),
        cmocka_unit_test(hostile_headers_are_refused),
        cmocka_unit_test(truncated_headers_are_refused),
        cmocka_unit_test(random_headers_do_no_harm),
        cmocka_unit_test(raw_file_with_a_qcow2_header_is_raw),
        cmocka_unit_test(what_is_no_image_is_told),
        cmocka_unit_test(backing_names_are_resolved_as_qemu_does),
    };

    return cmocka_run_group_tests(tests, images_open, images_close);
}
