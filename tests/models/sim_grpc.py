"""Streams between simulated pods: the real link, session and server stream, without gRPC."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from tests.models.virtual_time import Process, Universe


class _Half:
    """What arrives at one end of a stream; `None` is its end."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self._arrived: deque[bytes | Exception | None] = deque()
        self._event = asyncio.Event()

    def feed(self, what: bytes | Exception | None) -> None:
        self._arrived.append(what)
        self._event.set()

    async def read(self) -> bytes | object:
        while not self._arrived:
            self._event.clear()
            await self._event.wait()
        what = self._arrived[0]
        if what is None:
            return grpc.aio.EOF
        if isinstance(what, Exception):
            raise what
        self._arrived.popleft()
        return what


class Call:
    """The calling end of one stream."""

    def __init__(self, network: Network, caller: Process, callee: Process) -> None:
        self._network = network
        self._half = _Half(caller)
        self._callee = callee
        self._server: Context | None = None
        self._ended = False
        network.calls.add(self)
        self._deliver(self._open)

    @property
    def ends(self) -> tuple[Process, Process]:
        """Both processes."""
        return self._half.process, self._callee

    async def write(self, data: bytes) -> None:
        """Send; what cannot arrive is noticed by reading."""
        if self._ended:
            raise asyncio.InvalidStateError("the call has ended")
        self._send(lambda server: server.feed(data))

    async def read(self) -> bytes | object:
        """Receive."""
        return await self._half.read()

    async def done_writing(self) -> None:
        """Tell the other end that no more comes."""
        self._send(lambda server: server.feed(None))

    def cancel(self) -> None:
        """End it; a process that was killed says nothing of it."""
        if not self._ended and self._half.process.alive:
            self._ended = True
            self._network.calls.discard(self)
            self._send(lambda server: server.cancel())

    def done(self) -> bool:
        """Tell whether it has ended."""
        return self._ended

    async def code(self) -> grpc.StatusCode:
        """Return how."""
        return grpc.StatusCode.UNAVAILABLE

    async def details(self) -> str:
        """Return why."""
        return "ended"

    def fail(self) -> None:
        """The connection is lost; the calling end is told, if it lives."""
        self._network.calls.discard(self)
        if self._server is not None and self._callee.alive:
            self._callee.hand(self._server.cancel)
        metadata = grpc.aio.Metadata()
        error = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, metadata, metadata, "reset")
        self._half.process.hand(lambda: self._half.feed(error))

    def answer(self, data: bytes | None) -> None:
        """The other end says something, or ends."""
        caller, callee = self.ends
        way = f"answers {callee.name}>{caller.name}"
        self._network.universe.send(way, lambda: caller.hand(lambda: self._half.feed(data)))

    def _open(self) -> None:
        self._server = Context(self, self._callee)
        serve = self._network.servers[self._callee.name]
        self._server.task = self._callee.spawn(self._serve(serve, self._server))

    async def _serve(self, serve: Callable[[Any], Awaitable[None]], server: Context) -> None:
        try:
            await serve(server)
        finally:
            self.answer(None)

    def _send(self, what: Callable[[Context], None]) -> None:
        def arrive() -> None:
            if self._server is not None:
                what(self._server)

        self._deliver(arrive)

    def _deliver(self, what: Callable[[], None]) -> None:
        caller, callee = self.ends
        if not caller.alive:
            return
        if not callee.alive:
            self._network.universe.send(f"answers {callee.name}>{caller.name}", self.fail)
        else:
            way = f"grpc {caller.name}>{callee.name}"
            self._network.universe.send(way, lambda: callee.hand(what))


class Context:
    """The called end of one stream: what `ForwardStream` sees of gRPC."""

    def __init__(self, call: Call, process: Process) -> None:
        self._call = call
        self._half = _Half(process)
        self.task: asyncio.Task[None] | None = None

    def feed(self, data: bytes | None) -> None:
        """Something has arrived."""
        self._half.feed(data)

    def cancel(self) -> None:
        """The calling end has gone."""
        if self.task is not None:
            self.task.cancel()

    async def read(self) -> bytes | object:
        """Receive."""
        return await self._half.read()

    async def write(self, data: bytes) -> None:
        """Send."""
        self._call.answer(data)


class Channel:
    """What a link opens to a peer."""

    def __init__(self, network: Network, caller: Process, callee: Process) -> None:
        self._network = network
        self._ends = caller, callee

    def stream_stream(self, *_: object, **__: object) -> Callable[[], Call]:
        """Return what begins a call."""
        return lambda: Call(self._network, *self._ends)

    async def close(self) -> None:
        """Nothing is held."""


class Network:
    """Who serves at which address."""

    def __init__(self, universe: Universe) -> None:
        self.universe = universe
        self.servers: dict[str, Callable[[Any], Awaitable[None]]] = {}
        self.calls: set[Call] = set()

    def open_channel(self, address: str, *_: object) -> Channel:
        """In place of the adapter's; the address is the pod's name."""
        loop = asyncio.get_running_loop()
        caller = next(p for p in self.universe.processes if p.loop is loop)
        callee = next(p for p in self.universe.processes if p.name == address)
        return Channel(self, caller, callee)

    def reset(self, process: Process) -> None:
        """End all streams of a process that is gone."""
        for call in sorted(
            (c for c in self.calls if process in c.ends), key=lambda c: [p.name for p in c.ends]
        ):
            call.fail()
