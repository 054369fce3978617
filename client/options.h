/* The client's settings: where the fleet is, who we are, how results are shown. */
#pragma once

#include "common/error.h"

typedef enum {
    CKPT_SETTING_FLEET, /* the fleet file; see inventory.h */
    CKPT_SETTING_HOST,  /* hosts to ask, by name or host:port, separated by commas; default: the
                           fleet */
    CKPT_SETTING_CA,
    CKPT_SETTING_CERT,
    CKPT_SETTING_KEY,
    CKPT_SETTING_FORMAT,  /* table, json or published */
    CKPT_SETTING_TIMEOUT, /* how long to wait for an operation: "90", "90s", "5m", "1h" */
    CKPT_N_SETTINGS
} CkptSetting;

typedef enum { CKPT_FORMAT_TABLE, CKPT_FORMAT_JSON, CKPT_FORMAT_PUBLISHED } CkptFormat;

typedef struct {
    char *values[CKPT_N_SETTINGS]; /* NULL: not set anywhere */
    CkptFormat format;
    guint timeout_ms; /* of a mutation: 5 minutes unless set; of a read: only if set */
} CkptSettings;

/* "fleet", "host", …: the key in files, the option's name, and in upper case after VMCHECKPOINT_
 * the variable's. */
const char *ckpt_setting_name(CkptSetting setting);

CkptSettings *ckpt_settings_new(void);
void ckpt_settings_free(CkptSettings *settings);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CkptSettings, ckpt_settings_free)

/* What an option says; --host adds to what it said before, others replace it. */
void ckpt_settings_set(CkptSettings *settings, CkptSetting setting, const char *value);

/* Fills what is not set yet: from the environment, then from each file (NULL-terminated) in turn. A
 * file that does not exist is skipped, and so is one after the first that we may not read; one that
 * is wrong is an error, with file and line. File names in a file are relative to its folder. Then
 * reads format and timeout. */
gboolean ckpt_settings_complete(CkptSettings *settings, const char *const *files,
                                GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* ~/.config/vmcheckpoint/client.conf and /etc/vmcheckpoint/client.conf */
char **ckpt_settings_files(void);
