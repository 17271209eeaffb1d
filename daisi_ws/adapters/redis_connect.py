"""How a connection to Redis is opened: address, credentials, TLS, and no retry of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection

from daisi_ws.adapters.client_tls import client_context
from daisi_ws.config import Redis, redis_target


def connection_factory(redis: Redis) -> Callable[[], AbstractConnection]:
    """Return what makes new, unconnected RESP3 connections as the section says.

    Certificates and keys are read anew for each.

    :raises ValueError: `redis.address` is neither host:port nor a redis:// or rediss:// URL.
    :raises OSError: a TLS file cannot be read, or holds no certificate or key.
    """
    target = redis_target(redis)
    timeout = redis.timeout_ms / 1000
    options: dict[str, Any] = {  # Any: the constructor's parameters have a dozen types
        "host": target.host,
        "port": target.port,
        "db": target.db,
        "username": target.username or None,
        "password": target.password or None,
        "protocol": 3,
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
    }
    if not target.tls:
        return lambda: Connection(**options)
    tls = msgspec.structs.replace(redis.tls, enabled=True)
    client_context(tls)

    def connect() -> SSLConnection:
        connection = SSLConnection(**options)
        # The library's own context would go on trusting the system's authorities beside ours.
        connection.ssl_context.context = client_context(tls)
        return connection

    return connect
