#include "agent/core/manifest.h"

#include "agent/model/json.h"

char *
ckpt_manifest_text(const CkptCheckpoint *checkpoint, const char *agent_id, guint64 epoch)
{
    g_autofree char *body = ckpt_checkpoint_to_json(checkpoint);

    return g_strdup_printf("{\"vmcheckpoint_manifest\":1,\"agent\":\"%s\",\"epoch\":%" G_GUINT64_FORMAT
                           ",\"checkpoint\":%s}\n",
                           agent_id, epoch, body);
}
