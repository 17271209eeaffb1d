"""The token cache that pods share, in Redis, worth nothing to who can only write Redis.

Older pods read it instead of decrypting. Pods of this project write it and ask only their own
memory. An entry is the token's content with a `mac`: HMAC-SHA256 under the token key over the
kind, the token's digest and the content in canonical form.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from typing import Final

from daisi_ws.adapters import redis_keys
from daisi_ws.adapters.redis_cluster import ClusterLink
from daisi_ws.adapters.redis_link import RedisLink
from daisi_ws.domain.principal import Kind

_canonical: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


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
        try:
            fields = json.loads(content)
        except (ValueError, RecursionError):
            return  # in parts that are nobody's business, or it would be no token
        fields.pop("mac", None)
        text = _canonical(fields)
        bound = f"{self._kind}:{digest.hex()}:{text}".encode()
        mac = hmac.digest(self._key, bound, "sha256").hex()
        key = redis_keys.token_cache(self._kind, digest.hex())
        entry = f'{text[:-1]},"mac":"{mac}"}}'
        # Behind what this turn of the loop asks and somebody waits for, to travel with all of it.
        asyncio.get_running_loop().call_soon(self._link.send, "SET", key, entry, "PX", ttl)
