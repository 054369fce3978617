/* Who is calling: what the agent reads in the certificate that TLS verified. */
#pragma once

#include "agent/rpc/server.h"

/* Fills peer from a PEM certificate (NULL: none). Never fails: identity is NULL and why says it. */
void ckpt_peer_from_pem(CkptPeer *peer, const char *pem, gsize size);
void ckpt_peer_clear(CkptPeer *peer);
