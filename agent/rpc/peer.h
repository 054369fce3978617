/* Who is calling: what the agent reads in the certificate that TLS verified. */
#pragma once

#include "agent/rpc/server.h"

/* What was read in a certificate, kept for its next calls: decoding costs a third of a millisecond.
 * Only certificates that TLS has verified get here, so strangers cannot fill it. Thread-safe. */
typedef struct _CkptPeerCache CkptPeerCache;
CkptPeerCache *ckpt_peer_cache_new(void);
void ckpt_peer_cache_free(CkptPeerCache *cache);

/* Fills peer, all but its address, from a PEM certificate (NULL: none). The dates are checked anew
 * at each call. Never fails: identity is NULL and why says it. */
void ckpt_peer_identify(CkptPeerCache *cache, CkptPeer *peer, const char *pem);
void ckpt_peer_clear(CkptPeer *peer);
