"""The project's real Redis link over a simulated connection to the simulated Redis."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, cast

from redis.asyncio.connection import AbstractConnection

from daisi_ws.adapters.redis_link import RedisLink
from tests.models.sim_redis import Client, RedisServer
from tests.models.virtual_time import Process, Universe

TIMEOUT_SECONDS = 0.5

Handler = Callable[[list[Any]], Any]


class SimConnection:
    """What :class:`RedisLink` uses of the library's connection, parser and writer in one."""

    def __init__(self, host: RedisHost, process: Process) -> None:
        self._host = host
        self._process = process
        self._client = Client(self._push)
        self._replies: deque[tuple[bool, Any]] = deque()
        self._arrived = asyncio.Event()
        self._handler: Handler | None = None
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
        """End it from this side: who reads is told."""
        if self._open:
            self._end()
            self._put(False, ConnectionError("connection aborted"))

    def _end(self) -> None:
        self._open = False
        self._host.server.clients.discard(self._client)
        self._host.connections.discard(self)

    def reset(self) -> None:
        """The server, or the network, ends it."""
        self._end()
        self._process.hand(lambda: self._put(False, ConnectionError("connection reset")))

    @property
    def process(self) -> Process:
        """Whose it is."""
        return self._process

    # -- writer -----------------------------------------------------------------------------------

    def pack_command(self, *command: object) -> list[tuple[object, ...]]:
        """A command is a packet."""
        return [command]

    def writelines(self, commands: Iterable[tuple[object, ...]]) -> None:
        """Send commands; they are done in order, each by itself."""
        for command in commands:
            self._send("up", partial(self._execute, command))

    def _execute(self, command: Sequence[object]) -> None:
        if self._open:
            reply = self._host.server.execute(self._client, *command)
            self._send("down", lambda: self._process.hand(lambda: self._put(False, reply)))

    def _push(self, message: list[Any]) -> None:
        self._send("down", lambda: self._process.hand(lambda: self._put(True, message)))

    def _send(self, way: str, what: Callable[[], None]) -> None:
        if self._host.reachable(self._process):
            self._host.universe.send(f"redis {self._process.name} {way}", what)

    # -- parser -----------------------------------------------------------------------------------

    def set_invalidation_push_handler(self, handler: Handler) -> None:
        """Who takes pushes: both kinds are the same handler's."""
        self._handler = handler

    def set_pubsub_push_handler(self, handler: Handler) -> None:
        """As above."""
        self._handler = handler

    async def read_response(self, *, disable_decoding: bool, push_request: bool) -> Any:
        """Return the next reply, or what the handler made of a push."""
        assert disable_decoding
        assert push_request
        while not self._replies:
            self._arrived.clear()
            await self._arrived.wait()
        pushed, reply = self._replies.popleft()
        if pushed:
            assert self._handler is not None
            return await self._handler(reply)
        if isinstance(reply, ConnectionError):
            raise reply
        return reply

    def _put(self, pushed: bool, reply: Any) -> None:
        self._replies.append((pushed, reply))
        self._arrived.set()


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
