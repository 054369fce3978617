#include "common/library.h"
#include "tests/unit/cmocka_all.h"

#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ID_1 "11111111-1111-4111-8111-111111111111"
#define ID_2 "22222222-2222-4222-8222-222222222222"

typedef struct {
    char *path;
    CkptLibrary *library;
} Fixture;

static int
set_up(void **state)
{
    Fixture *fixture = g_new0(Fixture, 1);

    fixture->path = g_dir_make_tmp("ckpt-library-XXXXXX", NULL);
    *state = fixture;
    return fixture->path ? 0 : -1;
}

static int
remove_one(const char *path, const struct stat *status, int type, struct FTW *ftw)
{
    return remove(path);
}

static int
tear_down(void **state)
{
    Fixture *fixture = *state;

    nftw(fixture->path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    ckpt_library_free(fixture->library);
    g_free(fixture->path);
    g_free(fixture);
    return 0;
}

static void
put(Fixture *fixture, const char *name, const char *contents, gssize size)
{
    g_autofree char *file = g_build_filename(fixture->path, name, NULL);
    g_autofree char *folder = g_path_get_dirname(file);

    assert_int_equal(g_mkdir_with_parents(folder, 0700), 0);
    assert_true(g_file_set_contents(file, contents, size, NULL));
}

static void
put_domain(Fixture *fixture, const char *name, const char *id, const char *vm_name)
{
    g_autofree char *xml = g_strdup_printf(
        "<!-- by virsh -->\n<domain type='kvm'>\n  <name>%s</name>\n  <uuid>%s</uuid>\n"
        "  <metadata><x:name xmlns:x='urn:x'>other</x:name></metadata>\n</domain>\n",
        vm_name, id);

    put(fixture, name, xml, -1);
}

static CkptLibrary *
read_library(Fixture *fixture)
{
    fixture->library = ckpt_library_read("store", fixture->path);
    return fixture->library;
}

/* Exactly this one warning and no VM. */
static void
assert_only_warning(Fixture *fixture, const char *file, const char *words)
{
    CkptLibrary *library = read_library(fixture);
    const char *warning;

    assert_null(library->error);
    assert_int_equal(library->vms->len, 0);
    assert_int_equal(library->warnings->len, 1);
    warning = g_ptr_array_index(library->warnings, 0);
    if (!strstr(warning, file) || !strstr(warning, words))
        fail_msg("'%s' does not say '%s' and '%s'", warning, file, words);
}

static void
definitions_of_the_folder_and_its_sub_folders_are_read(void **state)
{
    Fixture *fixture = *state;
    CkptLibrary *library;
    CkptStoredVm *vm;

    put_domain(fixture, "b.xml", ID_2, "db-01");
    put_domain(fixture, "a/web-01.xml", "{" ID_1 "}", "web-01 &amp; co");
    put_domain(fixture, "a/deeper/x.xml", "33333333-3333-4333-8333-333333333333", "too deep");
    put_domain(fixture, ".hidden/x.xml", "44444444-4444-4444-8444-444444444444", "hidden");
    put(fixture, "disk.qcow2", "QFI", -1);
    library = read_library(fixture);

    assert_null(library->error);
    assert_int_equal(library->warnings->len, 0);
    assert_int_equal(library->vms->len, 2);
    vm = g_ptr_array_index(library->vms, 0);
    assert_string_equal(vm->vm_id, ID_1);
    assert_string_equal(vm->vm_name, "web-01 & co");
    assert_string_equal(vm->library, "store");
    assert_true(g_str_has_suffix(vm->file, "/a/web-01.xml"));
    assert_true(g_path_is_absolute(vm->file));
}

static void
a_half_written_definition_is_a_warning(void **state)
{
    Fixture *fixture = *state;

    put(fixture, "half.xml", "<domain><name>web-01</name><uuid>" ID_1 "</uuid><devi", -1);
    assert_only_warning(fixture, "half.xml", "half-written");
}

static void
an_empty_definition_is_a_warning(void **state)
{
    Fixture *fixture = *state;

    put(fixture, "empty.xml", "", 0);
    assert_only_warning(fixture, "empty.xml", "half-written");
}

static void
a_huge_file_is_not_read(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *xml = g_malloc(CKPT_LIBRARY_FILE_MAX + 1);

    memset(xml, ' ', CKPT_LIBRARY_FILE_MAX + 1);
    put(fixture, "huge.xml", xml, CKPT_LIBRARY_FILE_MAX + 1);
    assert_only_warning(fixture, "huge.xml", "larger than");
}

static void
entities_are_never_declared(void **state)
{
    Fixture *fixture = *state;

    put(fixture, "bomb.xml",
        "<!DOCTYPE domain [<!ENTITY a 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'>"
        "<!ENTITY b '&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;'><!ENTITY c '&b;&b;&b;&b;&b;&b;&b;&b;'>"
        "<!ENTITY d SYSTEM 'file:///etc/passwd'>]>"
        "<domain><name x='&c;'>&d;</name><uuid>" ID_1 "</uuid></domain>",
        -1);
    assert_only_warning(fixture, "bomb.xml", "document type definition");
}

static void
symbolic_links_and_fifos_are_not_followed(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *link = g_build_filename(fixture->path, "link.xml", NULL);
    g_autofree char *folder_link = g_build_filename(fixture->path, "folder", NULL);
    g_autofree char *fifo = g_build_filename(fixture->path, "fifo.xml", NULL);
    CkptLibrary *library;

    assert_int_equal(symlink("/etc/passwd", link), 0);
    assert_int_equal(symlink("/", folder_link), 0);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    library = read_library(fixture);
    assert_null(library->error);
    assert_int_equal(library->vms->len, 0);
    assert_int_equal(library->warnings->len, 2);
    assert_non_null(strstr(g_ptr_array_index(library->warnings, 0), "not a regular file"));
    assert_non_null(strstr(g_ptr_array_index(library->warnings, 1), "symbolic link"));
}

static void
a_missing_folder_is_an_error_of_the_library(void **state)
{
    Fixture *fixture = *state;

    fixture->library = ckpt_library_read("store", "/nonexistent/library");
    assert_int_equal(ckpt_error_reason(fixture->library->error), CKPT_REASON_FILE_FAILED);
    assert_string_equal(
        fixture->library->error->message,
        "library store: cannot read /nonexistent/library: No such file or directory");
}

static void
the_first_of_two_definitions_of_a_vm_counts(void **state)
{
    Fixture *fixture = *state;
    CkptLibrary *library;

    put_domain(fixture, "a.xml", ID_1, "first");
    put_domain(fixture, "b.xml", ID_1, "second");
    library = read_library(fixture);
    assert_int_equal(library->vms->len, 1);
    assert_string_equal(((CkptStoredVm *)g_ptr_array_index(library->vms, 0))->vm_name, "first");
    assert_int_equal(library->warnings->len, 1);
    assert_non_null(strstr(g_ptr_array_index(library->warnings, 0), "a.xml already"));
}

static void
definitions_without_identity_are_warnings(void **state)
{
    Fixture *fixture = *state;
    CkptLibrary *library;

    put_domain(fixture, "a.xml", "no-uuid", "a");
    put_domain(fixture, "b.xml", ID_1, "");
    put_domain(fixture, "c.xml", ID_1, "a\u202eb");
    put(fixture, "d.xml", "<network><name>n</name></network>", -1);
    library = read_library(fixture);
    assert_int_equal(library->vms->len, 0);
    assert_int_equal(library->warnings->len, 4);
    assert_non_null(strstr(g_ptr_array_index(library->warnings, 3), "not a domain"));
}

int
main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(definitions_of_the_folder_and_its_sub_folders_are_read),
        T(a_half_written_definition_is_a_warning),
        T(an_empty_definition_is_a_warning),
        T(a_huge_file_is_not_read),
        T(entities_are_never_declared),
        T(symbolic_links_and_fifos_are_not_followed),
        T(a_missing_folder_is_an_error_of_the_library),
        T(the_first_of_two_definitions_of_a_vm_counts),
        T(definitions_without_identity_are_warnings),
    };
#undef T

    return cmocka_run_group_tests_name("library", tests, NULL, NULL);
}
