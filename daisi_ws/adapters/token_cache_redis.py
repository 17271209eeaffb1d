"""The token cache that pods share, in Redis, worth nothing to who can only write Redis.

An entry is the token's content with a `mac`: HMAC-SHA256 under the token key over the kind, the
token's digest and the content in canonical form. Older pods read the same entries and write
theirs without one; those are not believed.
"""

from __future__ import annotations

import hmac
import json
from hashlib import sha256
from typing import Final

from daisi_ws.adapters import redis_keys
from daisi_ws.adapters.redis_cluster import ClusterLink
from daisi_ws.adapters.redis_link import RedisLink
from daisi_ws.app.token_ports import UntrustedEntry
from daisi_ws.domain.principal import Kind

_MOST_BYTES: Final = 8192


class RedisTokenCache:
    """:class:`daisi_ws.app.token_ports.TokenCache` over one Redis connection.

    :param kind: whose tokens.
    :param key_hex: the key of these tokens, 64 hex characters.
    """

    def __init__(self, link: RedisLink | ClusterLink, kind: Kind, key_hex: str) -> None:
        self._link = link
        self._kind = kind
        self._key = bytes.fromhex(key_hex)

    async def get(self, digest: bytes) -> bytes | None:
        """See :meth:`TokenCache.get`."""
        # GETEX without options is a GET that client tracking does not remember: nobody caches
        # these keys, and each would be pushed back to us when it expires.
        entry = await self._link.call("GETEX", redis_keys.token_cache(self._kind, digest.hex()))
        if entry is None:
            return None
        fields = _object(entry) if len(entry) <= _MOST_BYTES else {}
        mac = fields.pop("mac", None)
        content = _canonical(fields)
        if not isinstance(mac, str) or not hmac.compare_digest(
            mac.encode("utf-8", "surrogatepass"), self._mac(digest, content).encode()
        ):
            raise UntrustedEntry
        return content

    def put(self, digest: bytes, content: bytes, ttl_seconds: float) -> None:
        """See :meth:`TokenCache.put`."""
        ttl = int(ttl_seconds * 1000)
        if ttl <= 0:
            return
        fields = _object(content)
        fields["mac"] = self._mac(digest, _canonical(fields))
        key = redis_keys.token_cache(self._kind, digest.hex())
        self._link.send("SET", key, json.dumps(fields), "PX", ttl)

    def _mac(self, digest: bytes, content: bytes) -> str:
        bound = b"%b:%b:%b" % (self._kind.encode(), digest.hex().encode(), content)
        return hmac.new(self._key, bound, sha256).hexdigest()


def _object(text: bytes) -> dict[str, object]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _canonical(fields: dict[str, object]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
