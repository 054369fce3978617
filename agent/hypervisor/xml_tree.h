/* Reading libvirt's XML as a tree. For the few files that do. */
#pragma once

#include "common/error.h"

#include <libxml/parser.h>
#include <libxml/tree.h>
#include <string.h>

G_DEFINE_AUTOPTR_CLEANUP_FUNC(xmlDoc, xmlFreeDoc)

static inline void
ignore_xml_error(void *data, const char *format, ...)
{
}

static inline xmlDocPtr
parse(const char *xml, GError **error)
{
    /* No network, no entities: definitions come from libvirt, which writes none. Errors of this
     * thread are not to be printed. */
    xmlSetGenericErrorFunc(NULL, ignore_xml_error);
    xmlDocPtr doc = xmlReadMemory(xml, (int)strlen(xml), "domain.xml", NULL,
                                  XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING);
    xmlNodePtr root = doc ? xmlDocGetRootElement(doc) : NULL;

    if (root && g_str_equal((const char *)root->name, "domain"))
        return doc;
    if (doc)
        xmlFreeDoc(doc);
    ckpt_error_set(error, CKPT_REASON_VALIDATION_FAILED, "the definition is not a <domain>");
    return NULL;
}

/* The first child element of that name; NULL for no parent too. */
static inline xmlNodePtr
child(xmlNodePtr parent, const char *name)
{
    for (xmlNodePtr node = parent ? parent->children : NULL; node; node = node->next)
        if (node->type == XML_ELEMENT_NODE && g_str_equal((const char *)node->name, name))
            return node;
    return NULL;
}

static inline char *
attribute(xmlNodePtr node, const char *name)
{
    xmlChar *value = node ? xmlGetNoNsProp(node, (const xmlChar *)name) : NULL;
    char *copy = g_strdup((const char *)value);

    xmlFree(value);
    return copy;
}

static inline gboolean
attribute_is(xmlNodePtr node, const char *name, const char *wanted)
{
    g_autofree char *value = attribute(node, name);

    return g_strcmp0(value, wanted) == 0;
}

static inline char *
content(xmlNodePtr node)
{
    xmlChar *value = node ? xmlNodeGetContent(node) : NULL;
    char *copy = g_strdup((const char *)value);

    xmlFree(value);
    return copy;
}
