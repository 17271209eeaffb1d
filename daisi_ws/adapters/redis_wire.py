"""What travels on a connection to Redis: commands as bytes, and replies in the call that their
bytes came with.

The library reads a reply by a task that waits for each line of it; here hiredis takes the bytes
apart as they come, and nothing waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse

Reply: TypeAlias = Any
Argument: TypeAlias = str | bytes | int | float

_INCOMPLETE: Final = object()


class Wire(asyncio.Protocol):
    """The bytes of a connection that the library has made.

    It has had every answer it asked for, and Redis says nothing unasked before it is told to: so
    nothing is lost between the library's reading and ours.

    :param take: called with each reply, in order; pushes are :class:`hiredis.PushNotification`.
    :ivar ended: has the reason as its error when nothing more comes.
    """

    def __init__(self, connection: AbstractConnection, take: Callable[[Reply], None]) -> None:
        parser: Any = connection._parser  # noqa: SLF001
        self._take = take
        self._reader = hiredis.Reader(
            protocolError=InvalidResponse,
            replyError=parser.parse_error,
            notEnoughData=_INCOMPLETE,
        )
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        writer: Any = connection._writer  # noqa: SLF001
        self._connection = connection  # which would close the transport when it is forgotten
        self._transport: asyncio.Transport = writer.transport
        self._transport.set_protocol(self)

    def write(self, commands: Sequence[bytes]) -> None:
        """Send packed commands as one piece; nothing if the connection is ending by itself."""
        if not self._transport.is_closing():
            self._transport.write(b"".join(commands))

    def abort(self) -> None:
        """End the connection without a word; nothing is taken any more."""
        self._end(RedisConnectionError("given up"))
        self._transport.abort()
        self._connection._close()  # type: ignore[no-untyped-call]  # noqa: SLF001

    def data_received(self, data: bytes) -> None:
        """Hand on each reply that is whole now."""
        if self.ended.done():
            return
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not _INCOMPLETE:
                if isinstance(reply, RedisConnectionError):
                    self._end(reply)  # "loading", "too many clients": it is of no use
                    return
                self._take(reply)
        except Exception as error:  # noqa: BLE001 - whose the next reply is cannot be known now
            self._end(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """Say so."""
        self._end(exc or RedisConnectionError("Connection closed by server."))

    def _end(self, error: Exception) -> None:
        if not self.ended.done():
            self.ended.set_exception(error)
            self.ended.exception()
