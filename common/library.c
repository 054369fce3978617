#include "common/library.h"

#include "common/id.h"
#include "common/text.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libxml/parser.h>
#include <libxml/tree.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define WARNINGS_MAX 1000
#define NAME_MAX_BYTES 255
#define WORDS_MAX 512 /* bytes of a file's name or an XML error in a warning */

G_DEFINE_AUTOPTR_CLEANUP_FUNC(DIR, closedir)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(xmlDoc, xmlFreeDoc)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(xmlParserCtxt, xmlFreeParserCtxt)

typedef struct {
    CkptLibrary *library;
    GHashTable *by_id; /* vm_id → CkptStoredVm, both of library->vms */
    gboolean full;
} Reader;

void
ckpt_stored_vm_free(CkptStoredVm *vm)
{
    if (!vm)
        return;
    g_free(vm->vm_id);
    g_free(vm->vm_name);
    g_free(vm->file);
    g_free(vm->library);
    g_free(vm);
}

void
ckpt_library_free(CkptLibrary *library)
{
    if (!library)
        return;
    g_free(library->name);
    g_free(library->path);
    g_ptr_array_unref(library->vms);
    g_ptr_array_unref(library->warnings);
    g_clear_error(&library->error);
    g_free(library);
}

static void warn(Reader *reader, const char *file, const char *format, ...) G_GNUC_PRINTF(3, 4);

static void
warn(Reader *reader, const char *file, const char *format, ...)
{
    GPtrArray *warnings = reader->library->warnings;
    g_autofree char *name = ckpt_text_printable(file, -1, WORDS_MAX);
    g_autofree char *words = NULL;
    va_list args;

    if (warnings->len >= WARNINGS_MAX)
        return;
    va_start(args, format);
    words = g_strdup_vprintf(format, args);
    va_end(args);
    g_ptr_array_add(warnings, g_strconcat(name, ": ", words, NULL));
}

/* Stops at "<!DOCTYPE", so that no entity is ever declared: there is nothing to expand. */
static void
on_doctype(void *data, const xmlChar *name, const xmlChar *external_id, const xmlChar *system_id)
{
    xmlParserCtxt *parser = data;

    *(gboolean *)parser->_private = TRUE;
    xmlStopParser(parser);
}

static char *
xml_error_words(xmlParserCtxt *parser)
{
    const xmlError *error = xmlCtxtGetLastError(parser);
    g_autofree char *words = NULL;

    if (!error || !error->message)
        return g_strdup("not well-formed XML");
    words = ckpt_text_printable(error->message, (gssize)strcspn(error->message, "\n"), WORDS_MAX);
    return g_strdup_printf("line %d: %s", error->line, words);
}

static xmlDoc *
parse(Reader *reader, const char *file, GBytes *contents)
{
    g_autoptr(xmlParserCtxt) parser = xmlNewParserCtxt();
    g_autoptr(xmlDoc) doc = NULL;
    g_autofree char *words = NULL;
    gboolean doctype = FALSE;
    gsize size;
    const char *data = g_bytes_get_data(contents, &size);

    parser->_private = &doctype;
    parser->sax->internalSubset = on_doctype;
    /* Neither NOENT nor DTDLOAD nor HUGE: libxml2's own limits on depth and size hold. */
    doc = xmlCtxtReadMemory(parser, data, (int)size, NULL, NULL,
                            XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING);
    if (doctype) {
        warn(reader, file, "has a document type definition, which no domain definition needs");
        return NULL;
    }
    if (!doc) {
        words = xml_error_words(parser);
        warn(reader, file, "not a whole XML document (half-written?): %s", words);
        return NULL;
    }
    return g_steal_pointer(&doc);
}

/* The text of the first child element of that name; NULL if there is none. */
static char *
child_text(xmlNode *node, const char *name)
{
    for (xmlNode *child = node->children; child; child = child->next) {
        xmlChar *content;
        char *text;

        if (child->type != XML_ELEMENT_NODE || strcmp((const char *)child->name, name) != 0)
            continue;
        content = xmlNodeGetContent(child);
        text = g_strdup((const char *)content);
        xmlFree(content);
        return text;
    }
    return NULL;
}

static void
add_vm(Reader *reader, const char *file, char *vm_id, char *vm_name)
{
    CkptStoredVm *vm = g_hash_table_lookup(reader->by_id, vm_id);

    if (vm) {
        warn(reader, file, "VM %s is defined in %s already, which counts", vm_id, vm->file);
        g_free(vm_id);
        g_free(vm_name);
        return;
    }
    vm = g_new0(CkptStoredVm, 1);
    vm->vm_id = vm_id;
    vm->vm_name = vm_name;
    vm->file = g_strdup(file);
    vm->library = g_strdup(reader->library->name);
    g_ptr_array_add(reader->library->vms, vm);
    g_hash_table_insert(reader->by_id, vm->vm_id, vm);
}

static void
read_definition(Reader *reader, const char *file, GBytes *contents)
{
    g_autoptr(xmlDoc) doc = parse(reader, file, contents);
    g_autofree char *uuid = NULL, *name = NULL, *id = NULL;
    g_autoptr(GError) error = NULL;
    xmlNode *root = doc ? xmlDocGetRootElement(doc) : NULL;

    if (!root)
        return;
    if (strcmp((const char *)root->name, "domain") != 0) {
        warn(reader, file, "not a domain definition");
        return;
    }
    uuid = child_text(root, "uuid");
    name = child_text(root, "name");
    id = uuid ? ckpt_id_parse(g_strstrip(uuid)) : NULL;
    if (!id)
        warn(reader, file, "the domain definition has no <uuid>, or one that is no UUID");
    else if (!name || !*name)
        warn(reader, file, "the domain definition has no <name>");
    else if (!ckpt_text_check("<name>", name, -1, NAME_MAX_BYTES, CKPT_TEXT_LINE, &error))
        warn(reader, file, "%s", error->message);
    else
        add_vm(reader, file, g_steal_pointer(&id), g_steal_pointer(&name));
}

/* At most CKPT_LIBRARY_FILE_MAX bytes; whatever fstat said, since the file may grow. */
static GBytes *
read_all(Reader *reader, const char *file, int fd)
{
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    guint8 buffer[16384];
    gssize got;

    while ((got = read(fd, buffer, sizeof buffer)) != 0) {
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            warn(reader, file, "cannot be read: %s", g_strerror(errno));
            return NULL;
        }
        if (bytes->len + (gsize)got > CKPT_LIBRARY_FILE_MAX) {
            warn(reader, file, "larger than %d bytes: not a domain definition",
                 CKPT_LIBRARY_FILE_MAX);
            return NULL;
        }
        g_byte_array_append(bytes, buffer, (guint)got);
    }
    return g_byte_array_free_to_bytes(g_steal_pointer(&bytes));
}

static void
read_file(Reader *reader, int folder, const char *name, const char *file)
{
    g_autoptr(GBytes) contents = NULL;
    struct stat status;
    /* A FIFO must not make us wait, nor a symbolic link lead us out of the library. */
    int fd = openat(folder, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);

    if (fd < 0) {
        if (errno == ELOOP)
            warn(reader, file, "a symbolic link, which is not followed");
        else if (errno != ENOENT) /* it was removed since the folder was read */
            warn(reader, file, "cannot be opened: %s", g_strerror(errno));
        return;
    }
    if (fstat(fd, &status) < 0 || !S_ISREG(status.st_mode))
        warn(reader, file, "not a regular file");
    else
        contents = read_all(reader, file, fd);
    close(fd);
    if (contents)
        read_definition(reader, file, contents);
}

static gint
compare_names(gconstpointer a, gconstpointer b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The folder's names in a fixed order, so that it does not depend on the file system which of two
 * definitions counts. Hidden ones are left out: editors' and snapshots' (.snapshot on filers). */
static GPtrArray *
sorted_names(DIR *dir)
{
    GPtrArray *names = g_ptr_array_new_with_free_func(g_free);
    struct dirent *entry;

    while ((entry = readdir(dir)))
        if (entry->d_name[0] != '.')
            g_ptr_array_add(names, g_strdup(entry->d_name));
    g_ptr_array_sort(names, compare_names);
    return names;
}

static gboolean
is_folder(int folder, const char *name)
{
    struct stat status;

    return fstatat(folder, name, &status, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(status.st_mode);
}

static gboolean read_folder(Reader *reader, int fd, const char *path, gboolean top);

static void
read_entry(Reader *reader, int folder, const char *name, const char *path, gboolean top)
{
    g_autofree char *file = g_build_filename(path, name, NULL);
    int fd;

    if (reader->library->vms->len >= CKPT_LIBRARY_VMS_MAX) {
        if (!reader->full)
            warn(reader, path, "more than %d definitions: the rest was not read",
                 CKPT_LIBRARY_VMS_MAX);
        reader->full = TRUE;
        return;
    }
    if (is_folder(folder, name)) {
        if (!top)
            return;
        fd = openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0 || !read_folder(reader, fd, file, FALSE))
            warn(reader, file, "cannot be read: %s", g_strerror(errno));
    } else if (g_str_has_suffix(name, ".xml")) {
        if (g_utf8_validate(file, -1, NULL))
            read_file(reader, folder, name, file);
        else
            warn(reader, file, "its name is not valid UTF-8");
    }
}

/* Takes fd. */
static gboolean
read_folder(Reader *reader, int fd, const char *path, gboolean top)
{
    g_autoptr(DIR) dir = fdopendir(fd);
    g_autoptr(GPtrArray) names = NULL;

    if (!dir) {
        close(fd);
        return FALSE;
    }
    names = sorted_names(dir);
    for (guint i = 0; i < names->len; i++)
        read_entry(reader, dirfd(dir), g_ptr_array_index(names, i), path, top);
    return TRUE;
}

CkptLibrary *
ckpt_library_read(const char *name, const char *path)
{
    CkptLibrary *library = g_new0(CkptLibrary, 1);
    Reader reader = {.library = library};
    int fd;

    library->name = g_strdup(name);
    library->path = g_canonicalize_filename(path, NULL);
    library->vms = g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_stored_vm_free);
    library->warnings = g_ptr_array_new_with_free_func(g_free);
    reader.by_id = g_hash_table_new(g_str_hash, g_str_equal);
    /* The library's own path may be a symbolic link: its owner named it. */
    fd = open(library->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || !read_folder(&reader, fd, library->path, TRUE)) {
        ckpt_error_set(&library->error, CKPT_REASON_FILE_FAILED, "library %s: cannot read %s: %s",
                       name, library->path, g_strerror(errno));
        ckpt_error_add(&library->error, CKPT_META_LIBRARY, name);
        ckpt_error_add(&library->error, CKPT_META_FILE, library->path);
    }
    g_hash_table_unref(reader.by_id);
    return library;
}
