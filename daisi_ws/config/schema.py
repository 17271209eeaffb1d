"""The configuration as a whole: its sections, and every key by its dotted name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from types import MappingProxyType
from typing import cast

from daisi_ws.config.keys import Field, Section, Value, fields_of, sections_of
from daisi_ws.config.schema_app import AdaptiveTtl, App, TtlRange
from daisi_ws.config.schema_auth import Auth
from daisi_ws.config.schema_limits import Limits
from daisi_ws.config.schema_links import ClientTls, HttpTls, Nats, PeerTls, Redis
from daisi_ws.config.schema_resume import Resume
from daisi_ws.config.schema_server import Log, Server

__all__ = [
    "FIELDS",
    "SECTIONS",
    "AdaptiveTtl",
    "App",
    "Auth",
    "ClientTls",
    "Config",
    "HttpTls",
    "Limits",
    "Log",
    "Nats",
    "PeerTls",
    "Redis",
    "Resume",
    "Server",
    "TtlRange",
    "value_of",
]


class Config(Section, frozen=True, kw_only=True):
    """The whole configuration, checked. Read as ``config.server.http_port``."""

    server: Server
    limits: Limits
    nats: Nats
    redis: Redis
    log: Log
    auth: Auth
    app: App
    resume: Resume
    adaptive_ttl: AdaptiveTtl


FIELDS: Mapping[str, Field] = MappingProxyType(fields_of(Config))
SECTIONS: Mapping[str, type[Section]] = MappingProxyType(sections_of(Config))


def value_of(config: Config, key: str) -> Value:
    """The value of a dotted key.

    :raises AttributeError: there is no such key.
    """
    return cast("Value", reduce(getattr, key.split("."), config))
