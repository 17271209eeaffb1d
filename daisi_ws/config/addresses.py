"""Addresses as the configuration writes them, taken apart."""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import unquote, urlsplit

import msgspec

from daisi_ws.config.schema import ClientTls, Nats, Redis

RedisKind = Literal["server", "sentinel", "cluster"]

_ORIGIN = re.compile(
    r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:\d{1,5})?", re.IGNORECASE
)
_REDIS_KINDS: dict[str | None, RedisKind] = {
    None: "server",
    "+sentinel": "sentinel",
    "+cluster": "cluster",
}
_REDIS_URL = re.compile(
    r"redis(?P<tls>s?)(?P<kind>\+sentinel|\+cluster)?://"
    r"(?:(?P<login>[^/?#]*)@)?(?P<hosts>[^/?#@]*)(?P<path>[^?#]*)",
    re.IGNORECASE,
)
_PORTS: dict[RedisKind, int] = {"server": 6379, "sentinel": 26_379, "cluster": 6379}
_PATHS = {
    "server": re.compile(r"(/(?P<db>\d{0,5}))?"),
    "sentinel": re.compile(r"/(?P<service>[A-Za-z0-9._-]+)(/(?P<db>\d{0,5}))?"),
    "cluster": re.compile(r"/?"),  # a cluster has one database
}
_NATS_SCHEMES = ("nats", "tls", "ws", "wss")


class RedisTarget(msgspec.Struct, frozen=True):
    """Where Redis is and as whom to log in; what ``redis.address`` says wins.

    Its repr does not show the password.

    :param host: of the server; of the first Sentinel or node where there are several.
    :param kind: one server, Sentinels that know it, or nodes of a Redis Cluster.
    :param others: further Sentinels or nodes.
    :param service: what the Sentinels call the server.
    """

    host: str
    port: int
    db: int
    username: str
    password: str
    tls: bool
    kind: RedisKind = "server"
    others: tuple[tuple[str, int], ...] = ()
    service: str = ""

    def __repr__(self) -> str:
        at = ",".join(f"{host}:{port}" for host, port in self.addresses)
        return f"RedisTarget({self.kind} {at}/{self.db}, tls={self.tls})"

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """All Sentinels or nodes, or the one server."""
        return ((self.host, self.port), *self.others)


class RedisAddress(msgspec.Struct, frozen=True):
    """What ``redis.address`` says; ``db`` is None where it says none."""

    kind: RedisKind
    nodes: tuple[tuple[str, int], ...]
    tls: bool
    service: str
    db: int | None
    username: str
    password: str


def redis_target(redis: Redis) -> RedisTarget:
    """Take ``redis.address`` apart and fill in what the other keys of the section say.

    :raises ValueError: it is no address of Redis.
    """
    address = redis_address(redis.address)
    (host, port), *others = address.nodes
    return RedisTarget(
        host=host,
        port=port,
        db=redis.db if address.db is None else address.db,
        username=address.username or redis.username,
        password=address.password or redis.password,
        tls=redis_tls(redis).enabled,
        kind=address.kind,
        others=tuple(others),
        service=address.service,
    )


def redis_address(address: str) -> RedisAddress:
    """Take an address apart; host:port is read as redis://host:port.

    :raises ValueError: it is none.
    """
    # The standard library takes no URL apart that names several hosts, one of them in brackets.
    url = _REDIS_URL.fullmatch(address if "://" in address else f"redis://{address}")
    if url is None:
        raise ValueError("not an address of Redis")
    kind = _REDIS_KINDS[url["kind"] and url["kind"].lower()]
    nodes = tuple(_node(host, _PORTS[kind]) for host in url["hosts"].split(","))
    path = _PATHS[kind].fullmatch(url["path"])
    if path is None or (kind == "server" and len(nodes) > 1):
        raise ValueError("not an address of Redis")
    if "://" not in address and not re.search(r":\d+(/|$)", address):
        raise ValueError("no port")
    username, _, password = (url["login"] or "").partition(":")
    found = path.groupdict()
    return RedisAddress(
        kind=kind,
        nodes=nodes,
        tls=bool(url["tls"]),
        service=found.get("service") or "",
        db=int(found["db"]) if found.get("db") else None,
        username=unquote(username),
        password=unquote(password),
    )


def redis_tls(redis: Redis) -> ClientTls:
    """``redis.tls`` as it is used: on by itself, or by the scheme of ``redis.address``.

    :raises ValueError: that is no address of Redis.
    """
    by_scheme = redis_address(redis.address).tls
    return msgspec.structs.replace(redis.tls, enabled=redis.tls.enabled or by_scheme)


def nats_tls(nats: Nats) -> ClientTls:
    """``nats.tls`` as it is used: on by itself, or by the scheme of a server in ``nats.url``."""
    schemes = {server.strip().partition("://")[0].lower() for server in nats.url.split(",")}
    by_scheme = not schemes.isdisjoint(("tls", "wss"))
    return msgspec.structs.replace(nats.tls, enabled=nats.tls.enabled or by_scheme)


def _node(text: str, port: int) -> tuple[str, int]:
    """Take `host:port`, `host` or `[IPv6]:port` apart.

    :raises ValueError: it is none of them.
    """
    parts = urlsplit(f"//{text}")
    if not parts.hostname or parts.port == 0 or parts.username is not None:
        raise ValueError("not a host and a port")
    return parts.hostname, parts.port or port


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
