"""The keys of tokens, as the configuration names them, with what uses them."""

from __future__ import annotations

from daisi_ws.adapters.redis_cluster import ClusterLink
from daisi_ws.adapters.redis_link import RedisLink
from daisi_ws.adapters.token_cache_redis import RedisTokenCache
from daisi_ws.adapters.token_codec_aesgcm import AesGcmTokenCodec
from daisi_ws.app.token_ports import TokenKey
from daisi_ws.config import Config, previous_of
from daisi_ws.domain.principal import Kind

_NAMES: dict[Kind, str] = {"user": "token_aes_key", "admin": "admin_token_aes_key"}

Secrets = dict[Kind, list[tuple[str, float]]]


def secrets_of(config: Config) -> Secrets:
    """The keys of each kind of token, the one that makes them first, and until when each counts."""
    found: Secrets = {}
    for kind, name in _NAMES.items():
        found[kind] = [(getattr(config.auth, name), float("inf"))]
        if (previous := previous_of(config, f"auth.{name}")) is not None:
            found[kind].append(previous)
    return found


def token_keys(secrets: Secrets, link: RedisLink | ClusterLink) -> dict[Kind, list[TokenKey]]:
    """The keys with codec and shared cache."""
    return {
        kind: [
            TokenKey(AesGcmTokenCodec(key), RedisTokenCache(link, kind, key), until)
            for key, until in keys
        ]
        for kind, keys in secrets.items()
    }
