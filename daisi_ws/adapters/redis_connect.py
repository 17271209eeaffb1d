"""How connections to Redis are opened: address, credentials, TLS, and no retry of their own."""

from __future__ import annotations

from collections import deque
from typing import Any

from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from daisi_ws.adapters.client_tls import client_context, why
from daisi_ws.config import Redis, redis_target, redis_tls


class RedisOpener:
    """Makes new, unconnected RESP3 connections as the section says.

    Certificates and keys are read anew for each.

    :raises ValueError: `redis.address` is none.
    :raises OSError: a TLS file cannot be read, or holds no certificate or key.
    """

    def __init__(self, redis: Redis) -> None:
        self.target = redis_target(redis)
        self.timeout = redis.timeout_ms / 1000
        self._sentinel_login = redis.sentinel_username, redis.sentinel_password
        self._tls = redis_tls(redis)
        client_context(self._tls)
        self.sentinels = deque(self.target.addresses)

    def primary(self) -> AbstractConnection:
        """Return a connection to the one server, or to whichever the Sentinels name by then."""
        if self.target.kind == "server":
            return self.server(self.target.host, self.target.port)
        options = self._options(*self.sentinels[0], self._login)
        kind = _PrimaryByTls if self.target.tls else _Primary
        return self._with_tls(kind(self, **options))

    def server(self, host: str, port: int) -> AbstractConnection:
        """Return a connection to this server."""
        return self._plain(self._options(host, port, self._login))

    async def find_primary(self) -> tuple[str, int]:
        """Ask the Sentinels for the address of the primary; the one that knew it is asked first.

        :raises RedisConnectionError: none knows it.
        """
        problem = ""
        for _ in range(len(self.sentinels)):
            host, port = self.sentinels[0]
            options = {**self._options(host, port, self._sentinel_login), "db": 0}
            connection = self._plain(options)
            try:
                await connection.connect()  # type: ignore[no-untyped-call]
                await connection.send_command(
                    "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.target.service
                )
                found = await connection.read_response(disable_decoding=True)
                if found is not None:
                    return found[0].decode(), int(found[1])
                problem = f"{host}:{port} does not know {self.target.service}"
            except (RedisError, OSError) as error:
                problem = f"{host}:{port}: {problem_of(error)}"
            finally:
                await connection.disconnect(nowait=True)
            self.sentinels.rotate(-1)
        raise RedisConnectionError(f"no Sentinel knows the server: {problem}")

    @property
    def _login(self) -> tuple[str, str]:
        return self.target.username, self.target.password

    def _options(self, host: str, port: int, login: tuple[str, str]) -> dict[str, Any]:
        return {
            "host": host,
            "port": port,
            "db": self.target.db,
            "username": login[0] or None,
            "password": login[1] or None,
            "protocol": 3,
            "socket_timeout": self.timeout,
            "socket_connect_timeout": self.timeout,
        }

    def _plain(self, options: dict[str, Any]) -> AbstractConnection:
        return self._with_tls((SSLConnection if self.target.tls else Connection)(**options))

    def _with_tls(self, connection: AbstractConnection) -> AbstractConnection:
        if isinstance(connection, SSLConnection):
            # The library's own context would go on trusting the system's authorities beside ours.
            connection.ssl_context.context = client_context(self._tls)
        return connection


class _Primary(Connection):
    """A connection to the primary: asks the Sentinels where it is when it connects.

    What they say may be old, and who was the primary comes back as one for a moment: the server
    itself is asked too.
    """

    def __init__(self, opener: RedisOpener, **options: Any) -> None:
        super().__init__(**options)
        self._opener = opener

    async def _connect(self) -> None:
        self.host, self.port = await self._opener.find_primary()
        await super()._connect()  # type: ignore[no-untyped-call]

    async def connect(self) -> None:
        """Connect.

        :raises RedisError: there is no primary now.
        """
        await super().connect()  # type: ignore[no-untyped-call]
        await self.send_command("ROLE")
        role = await self.read_response(disable_decoding=True)
        if role[0] != b"master":
            self._opener.sentinels.rotate(-1)
            raise RedisConnectionError(f"{self.host}:{self.port} is no primary (any more)")


class _PrimaryByTls(_Primary, SSLConnection):
    """The same with TLS."""


def problem_of(error: Exception) -> str:
    """Return what is wrong with a connection, and if it is TLS what that means here."""
    if meaning := why(error, "redis.tls"):
        return f"{meaning} ({error})"
    if isinstance(error, (RedisError, OSError)) and str(error):
        return str(error)
    return f"{type(error).__name__} {error}".strip()
