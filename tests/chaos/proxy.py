"""A TCP proxy that can be cut, frozen and slowed: what a network does to a connection."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from socket import SO_LINGER, SOL_SOCKET
from struct import pack
from typing import Final, cast

RESET: Final = pack("ii", 1, 0)
"""SO_LINGER (`socket(7)`): a close that resets."""


class FaultProxy:
    """Forwards every connection to one target, as long as it is allowed to.

    :param listen: host and port to listen at; port 0 takes a free one.
    :param target: host and port that connections are forwarded to.
    """

    def __init__(self, listen: tuple[str, int], target: tuple[str, int]) -> None:
        self._listen = listen
        self._target = target
        self._server: asyncio.Server | None = None
        self._sides: set[_Side] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._cut = False
        self.frozen = False
        self.delay = 0.0
        self.bytes_per_second = float("inf")

    @property
    def address(self) -> str:
        """`host:port` that it listens at."""
        return f"{self._listen[0]}:{self._listen[1]}"

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return len(self._sides) // 2

    async def start(self) -> None:
        """Listen; the port stays the same for the life of the proxy."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Side(self), *self._listen)
        self._listen = self._server.sockets[0].getsockname()[:2]

    async def close(self) -> None:
        """Close everything."""
        if self._server is not None:
            self._server.close()
        for side in list(self._sides):
            side.abort()
        for task in self._opening:
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)

    def cut(self) -> None:
        """Reset all connections, and every new one, until `heal`."""
        self._cut = True
        for side in list(self._sides):
            side.abort()

    def freeze(self) -> None:
        """Carry nothing any more, in neither direction, and end nothing, until `heal`."""
        self.frozen = True
        for side in list(self._sides):
            side.settle()

    def slow(self, delay: float, bytes_per_second: float = float("inf")) -> None:
        """Carry everything so much later (seconds), and not more than that, until `heal`."""
        self.delay, self.bytes_per_second = delay, bytes_per_second

    def heal(self) -> None:
        """Carry everything again, at once."""
        self._cut = self.frozen = False
        self.slow(0.0)
        for side in list(self._sides):
            side.settle()

    def opened(self, side: _Side) -> None:
        """Take in a new connection from a client."""
        if self._cut:
            side.abort()
            return
        self._sides.add(side)
        task = asyncio.create_task(self._connect(side))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    def gone(self, side: _Side) -> None:
        """Forget a side whose connection has ended."""
        self._sides.discard(side)

    async def _connect(self, side: _Side) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, other = await loop.create_connection(lambda: _Side(self, side), *self._target)
        except OSError:
            side.abort()
            return
        if self._cut or side.ended:
            other.abort()
            side.abort()
            return
        self._sides.add(other)
        side.join(other)
        other.settle()


class _Side(asyncio.Protocol):
    """One of the two connections of a pair; sends on what the other one has read."""

    def __init__(self, proxy: FaultProxy, other: _Side | None = None) -> None:
        self._proxy = proxy
        self._other = other
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._last_due = 0.0
        self._early: list[bytes] = []
        self._full = False
        self._finishing = False
        self.ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self._other is None:
            self._transport.pause_reading()
            self._proxy.opened(self)

    def join(self, other: _Side) -> None:
        """Pair this side, the client's, with the target's."""
        self._other = other
        for data in self._early:
            other.send(data)
        self._early.clear()
        self.settle()

    def data_received(self, data: bytes) -> None:
        if self._other is None:
            # uvloop reads once more after it was told not to.
            self._early.append(data)
        else:
            self._other.send(data)

    def eof_received(self) -> bool:
        if self._other is not None:
            self._other.finish()
        return True

    def connection_lost(self, _: Exception | None) -> None:
        self.ended = True
        if self._timer is not None:
            self._timer.cancel()
        self._proxy.gone(self)
        if self._other is not None and not self._other.ended:
            if self._proxy.frozen:
                self._other.finish()
            else:
                self._other.close()

    def pause_writing(self) -> None:
        self._full = True
        if self._other is not None:
            self._other.settle()

    def resume_writing(self) -> None:
        self._full = False
        if self._other is not None:
            self._other.settle()

    def send(self, data: bytes) -> None:
        """Write what the other side has read: now, or when it is due."""
        proxy, now = self._proxy, asyncio.get_running_loop().time()
        due = max(now + proxy.delay, self._last_due + len(data) / proxy.bytes_per_second)
        if due <= now and not self._waiting and not proxy.frozen:
            self._write(data)
            return
        self._last_due = due
        self._waiting.append((due, data))
        self._pump()

    def finish(self) -> None:
        """The other side will send nothing more."""
        self._finishing = True
        self._pump()

    def close(self) -> None:
        """End the connection when everything that waits is written."""
        self._finishing = True
        self._pump()
        if not self._waiting and self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Reset the connection."""
        self._waiting.clear()
        if self._transport is not None:
            with suppress(OSError):
                self._transport.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, RESET)
            self._transport.abort()

    def settle(self) -> None:
        """Read or not, write or not, as the proxy's state and the other side say."""
        if self.ended or self._transport is None:
            return
        stop = self._proxy.frozen or self._other is None or self._other.full
        with suppress(RuntimeError):
            (self._transport.pause_reading if stop else self._transport.resume_reading)()
        self._pump()

    @property
    def full(self) -> bool:
        """Whether no more should be sent to it now."""
        return self._full

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self.ended:
            self._transport.write(data)

    def _pump(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._proxy.frozen or self.ended or self._transport is None:
            return
        loop = asyncio.get_running_loop()
        now, healthy = loop.time(), not self._proxy.delay
        while self._waiting and (self._waiting[0][0] <= now or healthy):
            self._write(self._waiting.popleft()[1])
        if self._waiting:
            self._timer = loop.call_at(self._waiting[0][0], self._pump)
        elif self._finishing and self._transport.can_write_eof():
            with suppress(OSError, RuntimeError):
                self._transport.write_eof()
