"""A JetStream stream with a durable consumer that pins one client, on the simulated clock.

What the server does is that of `adapters/nats_consumer.py`: the pinned client gets everything in
order; it loses the pin when no pull of its own comes within the timeout, and is told so at its
next; what it leaves unacknowledged comes again to whoever is pinned then.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from daisi_ws.app.ports import Bounds, Received, StreamHandler
from daisi_ws.domain.errors import Unavailable
from daisi_ws.domain.subjects import FILTER
from tests.models.virtual_time import Process, Universe

PRIORITY_TIMEOUT = 2.0
ACK_WAIT = 10.0
PULL_EXPIRY = 2.0
ASK_SECONDS = 2.0
IDENTITY = "wa_stream@2026-01-01T00:00:00Z"

_T = TypeVar("_T")


class StreamServer:
    """The stream and its consumer."""

    def __init__(self, universe: Universe) -> None:
        self._universe = universe
        self.messages: list[tuple[str, bytes, float]] = []
        self.delivered = 0
        self.ack_floor = 0
        self.dead: list[int] = []
        self._pin: Consumer | None = None
        self._pin_seen = 0.0
        self._pin_id = 0
        self._pins = itertools.count(1)
        self._waiting: dict[Consumer, float] = {}
        self._again: dict[int, float] = {}
        universe.after(0.1, self._tick)

    @property
    def pinned(self) -> bool:
        """Tell whether anybody reads."""
        return self._pin is not None

    def publish(self, subject: str, data: bytes) -> int:
        """Store an event; return its sequence."""
        self.messages.append((subject, data, self._universe.wall()))
        self._pump()
        return len(self.messages)

    def pull(self, client: Consumer, pin_id: int) -> None:
        """A client asks for more."""
        if pin_id and pin_id != self._pin_id:
            client.arrives(client.wrong_pin)
            return
        if client is self._pin:
            self._pin_seen = self._universe.now
        self._waiting[client] = self._universe.now + PULL_EXPIRY
        self._pump()

    def acknowledge(self, seq: int) -> None:
        """Everything up to a sequence is done."""
        self.ack_floor = max(self.ack_floor, seq)
        self._again = {s: at for s, at in self._again.items() if s > self.ack_floor}

    def unpin(self, client: Consumer) -> None:
        """A client hands over."""
        self._waiting.pop(client, None)
        if client is self._pin:
            self._lose_pin()
        self._pump()

    def is_pinned(self, client: Consumer, pin_id: int) -> bool:
        """Tell whether a client is pinned, and by this pin."""
        return client is self._pin and pin_id == self._pin_id

    def _lose_pin(self) -> None:
        self._pin, self._pin_id = None, 0

    def _tick(self) -> None:
        self._universe.after(0.1, self._tick)
        if self._pin is not None and self._universe.now - self._pin_seen > PRIORITY_TIMEOUT:
            self._lose_pin()
        self._pump()

    def _pump(self) -> None:
        due = sorted(seq for seq, at in self._again.items() if at <= self._universe.now)
        new = range(self.delivered + 1, len(self.messages) + 1)
        if not due and not new:
            return
        if self._pin is None and not self._choose():
            return
        assert self._pin is not None
        for seq in (*due, *new):
            self._give(self._pin, seq, again=seq <= self.delivered)
            self.delivered = max(self.delivered, seq)

    def _choose(self) -> bool:
        now = self._universe.now
        waiting = [c for c, until in self._waiting.items() if until > now]
        if not waiting:
            return False
        waiting.sort(key=lambda c: c.process.name)
        self._pin = self._universe.chance("pin").choice(waiting)
        self._pin_id = next(self._pins)
        self._pin_seen = now
        return True

    def _give(self, client: Consumer, seq: int, again: bool) -> None:
        self._again[seq] = self._universe.now + ACK_WAIT
        message, pin_id = self.received(seq, f"ack {seq}", again), self._pin_id
        client.arrives(lambda: client.take(message, pin_id))

    def received(self, seq: int, reply: str, again: bool) -> Received:
        """Return a message as a client gets it."""
        subject, data, stored = self.messages[seq - 1]
        return Received(seq, int(stored * 1e9), subject, data, reply, "", again)


class Consumer:
    """:class:`daisi_ws.app.ports.Stream` of one pod."""

    def __init__(self, universe: Universe, server: StreamServer, process: Process) -> None:
        self._universe = universe
        self._server = server
        self.process = process
        self._handler: StreamHandler | None = None
        self._pin = 0
        self._leaving = False
        self._task: asyncio.Task[None] | None = None

    # -- what the server says ---------------------------------------------------------------------

    def arrives(self, what: Callable[[], None]) -> None:
        """The server says something; it waits while this pod does not turn."""
        self._universe.send(f"nats>{self.process.name}", lambda: self.process.hand(what))

    def take(self, message: Received, pin_id: int) -> None:
        """A message, with the pin that it was sent under."""
        assert self._handler is not None
        if pin_id > self._pin:
            self._pin = pin_id
            if not self._leaving:
                self._handler.on_pinned(IDENTITY)
        self._handler.on_received(message)
        self._handler.on_taken()

    def wrong_pin(self) -> None:
        """Somebody else is pinned."""
        assert self._handler is not None
        if self._pin:
            self._pin = 0
            self._handler.on_unpinned()

    # -- the port ---------------------------------------------------------------------------------

    async def start(self, handler: StreamHandler) -> None:
        """See :meth:`Stream.start`."""
        self._handler = handler
        self._task = asyncio.get_running_loop().create_task(self._keep())

    def ack(self, replies: Sequence[str]) -> None:
        """See :meth:`Stream.ack`."""
        seq = int(replies[-1].split()[1])
        self._up(lambda: self._server.acknowledge(seq))

    def pause(self, paused: bool) -> None:
        """See :meth:`Stream.pause`."""

    async def ack_floor(self) -> int:
        """See :meth:`Stream.ack_floor`."""
        return await self._ask(lambda: self._server.ack_floor)

    async def unread_after(self) -> tuple[int, bool]:
        """See :meth:`Stream.unread_after`."""
        return await self._ask(lambda: (self._server.ack_floor, self._server.pinned))

    async def pinned(self) -> bool:
        """See :meth:`Stream.pinned`."""
        return await self._ask(lambda: self._server.is_pinned(self, self._pin))

    async def outstanding(self) -> tuple[int, int]:
        """See :meth:`Stream.outstanding`."""
        return await self._ask(lambda: (self._server.ack_floor, self._server.delivered))

    async def read(
        self, after: int, upto: int, subject: str = FILTER, limit: int | None = None
    ) -> list[Received]:
        """See :meth:`Stream.read`."""
        parts = subject.split(".")

        def matching() -> list[Received]:
            found = (self._server.received(s, "", False) for s in range(after + 1, upto + 1))
            return [m for m in found if subject == FILTER or _matches(parts, m.subject)][:limit]

        return await self._ask(matching)

    async def bounds(self) -> Bounds:
        """See :meth:`Stream.bounds`."""
        return await self._ask(lambda: Bounds(IDENTITY, 1, len(self._server.messages)))

    async def dead_letter(self, message: Received, reason: str, problem: str) -> None:
        """See :meth:`Stream.dead_letter`."""
        self._server.dead.append(message.seq)

    def stand_by(self) -> None:
        """See :meth:`Stream.stand_by`."""
        self._pin = 0

    async def resign(self) -> None:
        """See :meth:`Stream.resign`."""
        self._leaving = True
        if self._task is not None:
            self._task.cancel()
        await self._ask(lambda: self._server.unpin(self))
        self._pin = 0

    # -- the way to the server --------------------------------------------------------------------

    async def _keep(self) -> None:
        while True:
            pin = self._pin
            self._up(partial(self._server.pull, self, pin))
            await asyncio.sleep(PRIORITY_TIMEOUT * 0.3 if self._pin else PULL_EXPIRY / 2)

    def _up(self, what: Callable[[], None]) -> None:
        if self.process.alive:
            self._universe.send(f"{self.process.name}>nats", what)

    async def _ask(self, question: Callable[[], _T]) -> _T:
        answer: asyncio.Future[_T] = asyncio.get_running_loop().create_future()

        def give(value: _T) -> None:
            if not answer.done():
                answer.set_result(value)

        def ask() -> None:
            value = question()
            self.arrives(lambda: give(value))

        self._up(ask)
        try:
            async with asyncio.timeout(ASK_SECONDS):
                return await answer
        except TimeoutError:
            raise Unavailable("NATS does not answer") from None


def _matches(parts: list[str], subject: str) -> bool:
    found = subject.split(".")
    return len(found) == len(parts) and all(
        want in ("*", part) for want, part in zip(parts, found, strict=True)
    )
