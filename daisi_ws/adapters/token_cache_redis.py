"""The token cache that pods share, in Redis, worth nothing to who can only write Redis.

Older pods read it instead of decrypting. Pods of this project write it and ask only their own
memory. An entry is the token's content, as it is in the token, with a last field `mac`:
HMAC-SHA256 under the token key over `{kind}:{digest in hex}:{content}`.
"""

from __future__ import annotations

import asyncio
import hmac

from daisi_ws.adapters import redis_keys
from daisi_ws.adapters.redis_cluster import ClusterLink
from daisi_ws.adapters.redis_link import RedisLink
from daisi_ws.domain.principal import Kind


class RedisTokenCache:
    """:class:`daisi_ws.app.token_ports.TokenCache` over one Redis connection.

    :param kind: whose tokens.
    :param key_hex: the key of these tokens, 64 hex characters.
    """

    def __init__(self, link: RedisLink | ClusterLink, kind: Kind, key_hex: str) -> None:
        self._link = link
        self._kind = kind
        self._key = bytes.fromhex(key_hex)

    def put(self, digest: bytes, content: bytes, ttl_seconds: float) -> None:
        """See :meth:`TokenCache.put`."""
        ttl = int(ttl_seconds * 1000)
        if ttl <= 0:
            return
        name, content = digest.hex(), content.strip()
        bound = f"{self._kind}:{name}:".encode() + content
        mac = hmac.digest(self._key, bound, "sha256").hex().encode()
        key = redis_keys.token_cache(self._kind, name)
        entry = b'%b,"mac":"%b"}' % (content[:-1], mac)
        # Behind what this turn of the loop asks and somebody waits for, to travel with all of it.
        asyncio.get_running_loop().call_soon(self._link.send, "SET", key, entry, "PX", ttl)
