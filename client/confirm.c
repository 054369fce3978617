#include "client/confirm.h"

#include "client/output.h"
#include "common/text.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

gboolean
ckpt_confirm_possible(gboolean yes)
{
    if (yes || (isatty(STDIN_FILENO) && isatty(STDERR_FILENO)))
        return TRUE;
    ckpt_report(NULL, NULL, "not on a terminal, so nobody can be asked: give --yes to go on");
    return FALSE;
}

gboolean
ckpt_confirm(const char *text, gboolean yes)
{
    char line[16] = "";

    if (yes)
        return TRUE;
    fflush(stdout);
    fprintf(stderr, "%sGo on? [y/N] ", text);
    if (!fgets(line, sizeof line, stdin))
        fputc('\n', stderr);
    g_strstrip(line);
    if (g_ascii_strcasecmp(line, "y") == 0 || g_ascii_strcasecmp(line, "yes") == 0)
        return TRUE;
    ckpt_report(NULL, NULL, "nothing was done");
    return FALSE;
}

/* "VM db-old (named web-01 when captured)" */
static char *
vm_words(const CkptFoundCheckpoint *found)
{
    g_autofree char *captured = ckpt_text_printable(found->checkpoint->vm_name, -1, 256);
    g_autofree char *now = found->vm_name ? ckpt_text_printable(found->vm_name, -1, 256) : NULL;

    if (!now)
        return g_strdup_printf("a VM named %s when captured, whose present name is not known",
                               captured);
    if (strcmp(found->vm_name, found->checkpoint->vm_name) == 0)
        return g_strdup_printf("VM %s", now);
    return g_strdup_printf("VM %s (named %s when captured)", now, captured);
}

char *
ckpt_checkpoint_sentence(const CkptFoundCheckpoint *found)
{
    const PbCheckpoint *checkpoint = found->checkpoint;
    g_autofree char *name = ckpt_text_printable(checkpoint->checkpoint_name, -1, 256);
    g_autofree char *id = ckpt_text_printable(checkpoint->checkpoint_id, -1, 64);
    g_autofree char *vm = vm_words(found);
    g_autofree char *vm_id = ckpt_text_printable(checkpoint->vm_id, -1, 64);
    g_autofree char *made = ckpt_time_cell(checkpoint->added_time);
    g_autofree char *age = ckpt_age_cell(checkpoint->added_time);

    return g_strdup_printf("checkpoint '%s'\n  (%s, made %s UTC, %s ago)\n"
                           "of %s (%s) on host %s?\n",
                           name, id, made, age, vm, vm_id, found->host->name);
}
