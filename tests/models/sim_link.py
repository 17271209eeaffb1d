"""The project's real Redis link over a simulated connection to the simulated Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoScriptError, RedisError, ResponseError

from daisi_ws.adapters.redis_link import RedisLink
from tests.models.sim_redis import Client, RedisServer
from tests.models.virtual_time import Process, Universe

TIMEOUT_SECONDS = 0.5


class SimConnection:
    """What :class:`RedisLink` uses of the library's connection, its parser and the transport."""

    def __init__(self, host: RedisHost, process: Process) -> None:
        self._host = host
        self._process = process
        self._client = Client(self._push)
        self._commands = hiredis.Reader()
        self._protocol: asyncio.Protocol | None = None
        self._open = False
        self._writer = self._parser = self.transport = self

    # -- connection -------------------------------------------------------------------------------

    async def connect(self) -> None:
        """A round trip; refused while the server is away."""
        await asyncio.sleep(0.001)
        if not self._host.reachable(self._process):
            raise ConnectionError("connection refused")
        self._open = True
        self._host.server.clients.add(self._client)
        self._host.connections.add(self)

    async def disconnect(self, nowait: bool = False) -> None:
        """Give up."""
        self.abort()

    def _close(self) -> None:
        self.abort()

    def abort(self) -> None:
        """End it from this side: whoever does knows."""
        self._open = False
        self._host.server.clients.discard(self._client)
        self._host.connections.discard(self)

    def reset(self) -> None:
        """The server, or the network, ends it."""
        self.abort()
        self._process.hand(self._lost)

    def _lost(self) -> None:
        if self._protocol is not None:
            self._protocol.connection_lost(ConnectionError("connection reset"))

    @property
    def process(self) -> Process:
        """Whose it is."""
        return self._process

    # -- transport and parser ---------------------------------------------------------------------

    def set_protocol(self, protocol: asyncio.Protocol) -> None:
        """Who gets the bytes."""
        self._protocol = protocol

    def is_closing(self) -> bool:
        """Tell whether it has ended."""
        return not self._open

    @staticmethod
    def parse_error(text: str) -> RedisError:
        """The exception for an error."""
        kind = NoScriptError if text.startswith("NOSCRIPT") else ResponseError
        return kind(text)

    def write(self, data: bytes) -> None:
        """Send commands; they are done in order, each by itself."""
        self._commands.feed(data)
        while (command := self._commands.gets()) is not False:
            self._send("up", partial(self._execute, command))

    def _execute(self, command: Sequence[object]) -> None:
        if self._open:
            self._answer(_encoded(self._host.server.execute(self._client, *command)))

    def _push(self, message: list[Any]) -> None:
        self._answer(b">" + _encoded(message)[1:])

    def _answer(self, data: bytes) -> None:
        self._send("down", lambda: self._process.hand(lambda: self._arrive(data)))

    def _arrive(self, data: bytes) -> None:
        assert self._protocol is not None
        self._protocol.data_received(data)

    def _send(self, way: str, what: Callable[[], None]) -> None:
        if self._host.reachable(self._process):
            self._host.universe.send(f"redis {self._process.name} {way}", what)


def _encoded(reply: Any) -> bytes:
    """Return a reply as RESP3 has it."""
    match reply:
        case None:
            return b"_\r\n"
        case int():
            return b":%d\r\n" % reply
        case bytes() | str():
            data = reply if isinstance(reply, bytes) else reply.encode()
            return b"$%d\r\n%b\r\n" % (len(data), data)
        case list() | set():
            head = b"~" if isinstance(reply, set) else b"*"
            return b"%b%d\r\n%b" % (head, len(reply), b"".join(map(_encoded, reply)))
        case NoScriptError():
            return b"-NOSCRIPT %b\r\n" % str(reply).encode()
        case RedisError():
            return b"-ERR %b\r\n" % str(reply).encode()
    raise AssertionError(f"no reply: {reply!r}")


class RedisHost:
    """The server with the network before it."""

    def __init__(self, universe: Universe) -> None:
        self.universe = universe
        self.server = RedisServer(universe.wall)
        self.connections: set[SimConnection] = set()
        self.up = True

    def reachable(self, process: Process) -> bool:
        """Tell whether anything gets through."""
        return self.up and process.alive

    def link(self, process: Process) -> RedisLink:
        """A link of a process, not started."""

        def make() -> AbstractConnection:
            return cast("AbstractConnection", SimConnection(self, process))

        return RedisLink(make, TIMEOUT_SECONDS)

    def reset(self, process: Process | None = None) -> None:
        """End the connections, of one process or of all."""
        chosen = (c for c in self.connections if process is None or c.process is process)
        for connection in sorted(chosen, key=lambda c: c.process.name):
            connection.reset()
