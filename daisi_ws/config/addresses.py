"""Addresses as the configuration writes them, taken apart."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec

from daisi_ws.config.schema import Redis

_ORIGIN = re.compile(
    r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:\d{1,5})?", re.IGNORECASE
)
_NATS_SCHEMES = ("nats", "tls", "ws", "wss")


class RedisTarget(msgspec.Struct, frozen=True):
    """Where Redis is and as whom to log in; what ``redis.address`` says wins.

    Its repr does not show the password.
    """

    host: str
    port: int
    db: int
    username: str
    password: str
    tls: bool

    def __repr__(self) -> str:
        return f"RedisTarget({self.host}:{self.port}/{self.db}, tls={self.tls})"


def redis_target(redis: Redis) -> RedisTarget:
    """Take ``redis.address`` apart and fill in what the other keys of the section say.

    :raises ValueError: it is neither host:port nor a redis:// or rediss:// URL.
    """
    url = redis_url(redis.address)
    return RedisTarget(
        host=url.hostname or "",
        port=url.port or 6379,
        db=int(url.path.strip("/") or redis.db),
        username=unquote(url.username or "") or redis.username,
        password=unquote(url.password or "") or redis.password,
        tls=url.scheme == "rediss" or redis.tls.enabled,
    )


def redis_url(address: str) -> SplitResult:
    """``address`` as a URL; host:port is read as redis://host:port.

    :raises ValueError: it is neither.
    """
    url = urlsplit(address if "://" in address else f"redis://{address}")
    plain = not url.query and not url.fragment and re.fullmatch(r"(/\d{0,5})?", url.path)
    if url.scheme not in ("redis", "rediss") or not url.hostname or not plain:
        raise ValueError("not an address of Redis")
    if url.port == 0 or ("://" not in address and url.port is None):
        raise ValueError("no port")
    return url


def is_nats_url(url: str) -> bool:
    """Whether ``url`` names one NATS server."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    return bool(
        parts.scheme in _NATS_SCHEMES
        and parts.hostname
        and port != 0
        and parts.path in ("", "/")
        and not re.search(r"\s", url)
    )


def is_origin(text: str) -> bool:
    """Whether ``text`` is an origin as browsers send it (RFC 6454, section 6.1), or ``*``."""
    return text == "*" or _ORIGIN.fullmatch(text) is not None
