"""One channel to a peer with one Forward stream on it, from `Hello` to whatever ends it.

Two tasks share the stream: one writes what waits (questions ahead of events), one reads answers.
A watch ends the session when the peer owes an answer and says nothing: a stopped process keeps
its connections open.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from daisi_ws.adapters.grpc_options import FORWARD, unwrap, wrap
from daisi_ws.adapters.peer_calls import PeerCalls
from daisi_ws.adapters.peer_context import PeerContext
from daisi_ws.adapters.peer_pace import Pace
from daisi_ws.app.waiting import end_tasks
from daisi_ws.domain import packets
from daisi_ws.domain.forward_queue import ForwardQueue
from daisi_ws.domain.packets import (
    Accepted,
    Batch,
    Hello,
    Item,
    MalformedPacket,
    Reply,
    Request,
    Stale,
)

END_SECONDS: Final = 1.0
"""How long a session that ends in good order waits for the peer to end it too."""

LATE_SECONDS: Final = 0.1

Stream: TypeAlias = "grpc.aio.StreamStreamCall[bytes, bytes]"


class Lost(Exception):
    """The session ended before its time; everything not taken is to be sent again."""


@dataclass(slots=True)
class Work:
    """What a session has to do for its peer.

    :param pod_id: the peer.
    :param wake: set when there is something new to write.
    :param heard: called with the peer's first answer.
    :param taken: called with how many events were taken, and how many of them had been sent
        before; also when more or less of what was taken is accepted.
    """

    pod_id: str
    queue: ForwardQueue
    calls: PeerCalls
    wake: asyncio.Event
    heard: Callable[[], None]
    taken: Callable[[int, int], None]


class Session:
    """The conversation over one channel, which the caller opens and closes.

    :attr:`ended` is why it ended in good order, empty if it did not.
    """

    def __init__(self, channel: grpc.aio.Channel, context: PeerContext, work: Work) -> None:
        self._channel = channel
        self._context = context
        self._work = work
        self._loop = asyncio.get_running_loop()
        self._pace = Pace(context.clock, work.wake)
        self._broken: asyncio.Future[None] = self._loop.create_future()
        self._owed: deque[tuple[int, float]] = deque()
        self._watch: asyncio.TimerHandle | None = None
        self._health: asyncio.Task[None] | None = None
        self._tell = False
        self._answered = False
        self._heard_at = self._used_at = context.clock()
        self.ended = ""

    async def run(self) -> None:
        """Talk until :meth:`end`, or until the peer ends the stream.

        :raises Lost: anything else ended it.
        """
        stream: Stream = self._channel.stream_stream(
            FORWARD, request_serializer=wrap, response_deserializer=unwrap
        )()
        try:
            await self._talk(stream)
        except TimeoutError:
            raise Lost(f"nothing taken in {self._timeout:g} s") from None
        except grpc.aio.AioRpcError as error:
            raise Lost(f"{error.code().name}: {error.details()}") from None
        except asyncio.InvalidStateError:  # a write after the end
            raise Lost(await _status(stream)) from None
        except MalformedPacket as error:
            raise Lost(f"the peer sent no packet: {error}") from None
        finally:
            if self._watch is not None:
                self._watch.cancel()
            self._pace.close()
            if not self._broken.cancel() and not self._broken.cancelled():
                self._broken.exception()  # so that asyncio does not call it unnoticed
            stream.cancel()

    def due(self) -> bool:
        """Tell whether what waits leaves now; if not, it soon will without anybody's doing."""
        return self._pace.due(self._work.queue.waiting)

    def lose(self, reason: str) -> None:
        """End the session as failed."""
        if not self._broken.done():
            self._broken.set_exception(Lost(reason))

    def end(self, reason: str) -> None:
        """End the session in good order: the peer is told, and given a moment to answer."""
        self.ended = reason
        self._work.wake.set()

    def overdue(self, sent_at: float) -> bool:
        """Tell whether nothing at all was heard since a question was sent."""
        return self._heard_at < sent_at

    def tick(self, now: float) -> None:
        """Do what is due: tell progress, check a silent connection, end an unused one."""
        settings, course = self._context.settings, self._context.course
        queue, calls = self._work.queue, self._work.calls
        if queue.held or calls:
            return
        if now - self._used_at >= settings.idle_timeout:
            self.end("idle")
        elif now - self._heard_at >= settings.health_interval:
            if self._health is None:
                self._health = self._loop.create_task(self._check_health())
        elif not self._owed and course.progress >= 0:
            # Also where nothing is new: who is pushed to knows by it that this pod reads.
            self._tell = True
            self._work.wake.set()

    @property
    def _timeout(self) -> float:
        return self._context.settings.forward_timeout

    async def _talk(self, stream: Stream) -> None:
        await self._send(stream, Hello(self._context.pod_id, self._work.pod_id))
        reader = self._loop.create_task(self._read(stream))
        writer = self._loop.create_task(self._write(stream))
        try:
            await asyncio.wait({reader, writer, self._broken}, return_when="FIRST_COMPLETED")
            if self.ended and not reader.done() and not self._broken.done():
                await asyncio.wait(
                    {reader, self._broken}, timeout=END_SECONDS, return_when="FIRST_COMPLETED"
                )
        finally:
            await end_tasks(reader, writer, self._health)
        # Cancelled tasks say nothing: gRPC itself cancels a read when a write is given up.
        for future in (self._broken, writer, reader):
            if future.done() and not future.cancelled():
                future.result()

    # -- writing ----------------------------------------------------------------------------

    async def _write(self, stream: Stream) -> None:
        wake = self._work.wake
        while not self.ended:
            packet = self._next()
            if packet is None:
                wake.clear()
                await wake.wait()
            else:
                await self._send(stream, packet)
        await stream.done_writing()

    async def _send(self, stream: Stream, packet: Request) -> None:
        async with asyncio.timeout(self._timeout):
            await stream.write(packets.encode(packet))

    def _next(self) -> Request | None:
        queue, calls, course = self._work.queue, self._work.calls, self._context.course
        if calls.sendable:
            self._used_at = self._context.clock()
            return calls.take(self._used_at)
        if course.stale:
            return None
        if queue.waiting:
            # Nothing else may be told meanwhile: how far was read is beyond what waits.
            return self._take() if queue.sendable and self.due() else None
        if self._tell:
            self._tell = False
            return self._batch(queue.next_number(), course.progress, [], self._context.clock())
        return None

    def _take(self) -> Batch:
        taken = self._work.queue.take(self._context.course.progress)
        if taken.again:
            self._context.metrics.forward_retry_attempts.inc(taken.again)
        self._pace.left()
        self._used_at = self._context.clock()
        return self._batch(taken.number, taken.upto, taken.items, self._used_at)

    def _batch(self, number: int, upto: int, items: list[Item], now: float) -> Batch:
        course = self._context.course
        self._owed.append((number, now))
        if self._watch is None:
            self._watch = self._loop.call_later(self._timeout, self._look)
        return Batch(course.epoch, course.stream, upto, items, number)

    # -- reading ----------------------------------------------------------------------------

    async def _read(self, stream: Stream) -> None:
        while isinstance(body := await stream.read(), bytes):
            reply = packets.decode_reply(body)
            self._heard_at = self._context.clock()
            if not self._answered:
                self._answered = True
                self._work.heard()
            self._hear(reply)

    def _hear(self, reply: Reply) -> None:
        match reply:
            case Accepted():
                self._settle(reply.number)
                self._accept(reply)
            case Stale():
                self._settle(reply.number)
                if reply.epoch > self._context.course.epoch:
                    self._context.refused(reply.epoch)
            case answer:
                self._work.calls.answered(answer)

    def _accept(self, reply: Accepted) -> None:
        if reply.epoch != self._context.course.epoch:
            return
        queue = self._work.queue
        withheld = queue.withheld
        taken, again = queue.accept(reply.number, reply.upto)
        if taken:
            self._used_at = self._heard_at
        if taken or queue.withheld != withheld:
            self._work.taken(taken, again)
            if queue.sendable:
                self._work.wake.set()

    def _settle(self, number: int) -> None:
        while self._owed and self._owed[0][0] <= number:
            self._owed.popleft()

    # -- silence ----------------------------------------------------------------------------

    def _look(self, patience: float = LATE_SECONDS) -> None:
        self._watch = None
        if not self._owed:
            return
        since = max(self._owed[0][1], self._heard_at)
        left = since + self._timeout - self._context.clock()
        if left > 0:
            self._watch = self._loop.call_later(left, self._look)
        elif patience:
            # Perhaps it is our own loop that stood still, and the answer is in the socket.
            self._watch = self._loop.call_later(patience, self._look, 0.0)
        else:
            self.lose(f"no answer in {self._timeout:g} s")

    async def _check_health(self) -> None:
        health = health_pb2_grpc.HealthStub(self._channel)
        try:
            answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=self._timeout)
        except grpc.aio.AioRpcError:
            self.end("unhealthy")
            return
        self._health = None
        self._heard_at = self._context.clock()
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            self.end("unhealthy")


async def _status(stream: Stream) -> str:
    if not stream.done():
        return "the stream is broken"
    return f"{(await stream.code()).name}: {await stream.details()}"
