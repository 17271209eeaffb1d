"""How a connection to Redis is opened: address, credentials, TLS, and no retry of its own."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any

from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection

from daisi_ws.config import ClientTls, Redis, redis_target


def connection_factory(redis: Redis) -> Callable[[], AbstractConnection]:
    """Return what makes new, unconnected RESP3 connections as the section says.

    Certificates and keys are read here, once.

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
    context = _context(redis.tls)

    def connect() -> SSLConnection:
        connection = SSLConnection(**options)
        connection.ssl_context.context = context
        return connection

    return connect


def _context(tls: ClientTls) -> ssl.SSLContext:
    """Verify server and host name; a given authority is the only one, as opposed to the library's
    own context, which goes on trusting the system's."""
    context = ssl.create_default_context(cafile=tls.ca_file or None)
    if tls.cert_file:
        context.load_cert_chain(tls.cert_file, tls.key_file or None)
    return context
