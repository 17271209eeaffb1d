"""One peer's Forward stream, seen from the pod that is pushed to."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeAlias

import grpc.aio
import structlog

from daisi_ws.adapters import trace
from daisi_ws.app.ports import Inbound
from daisi_ws.app.waiting import end_tasks
from daisi_ws.domain import packets
from daisi_ws.domain.errors import Unavailable
from daisi_ws.domain.ids import is_id
from daisi_ws.domain.packets import (
    Accepted,
    Barrier,
    BarrierReply,
    Batch,
    Displace,
    Displaced,
    Failed,
    Hello,
    MalformedPacket,
    Reply,
    Stale,
)
from daisi_ws.metrics import Metrics

QUESTIONS: Final = 64
"""Questions of one peer that are being answered at a time."""

HELLO_SECONDS: Final = 10.0
WRITE_SECONDS: Final = 30.0

ANSWER_SECONDS: Final = 0.025
ANSWER_BATCHES: Final = 8
"""One answer for the batches of this time, at most so many, half of what may be on its way:
answering each costs as much as accepting it, and all that waits for an answer is the
acknowledgement to the broker."""

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"

log = structlog.get_logger(__name__)


class WrongPod(Exception):
    """A stream is meant for another pod, whose address is this one's by now."""


class ForwardStream:
    """Reads packets in order and answers them.

    Batches are accepted one after the other; one answer is enough for all that were accepted
    while the one before was being written. Questions are answered beside them: they may take a
    round trip to Redis, and events do not wait for that.

    :param beat: seconds after which a peer whose batch is not accepted yet is told that this
        pod is alive.
    """

    def __init__(
        self,
        inbound: Inbound,
        metrics: Metrics,
        context: Context,
        beat: float,
        pod_id: str = "",
    ) -> None:
        self._pod_id = pod_id
        self._inbound = inbound
        self._tally = metrics.tally
        self._context = context
        self._beat_seconds = beat
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._closing: asyncio.Future[None] = self._loop.create_future()
        self._replies: deque[Reply] = deque()
        self._answered = Accepted(-1, -1, 0)
        self._told = 0
        self._highest = -1
        self._withheld = False
        self._alive: asyncio.TimerHandle | None = None
        self._soon: asyncio.TimerHandle | None = None
        self._questions: set[asyncio.Task[None]] = set()
        self.peer = "?"

    async def run(self) -> None:
        """Serve the stream until the peer ends it, or :meth:`close`.

        :raises MalformedPacket: the peer sent something else.
        :raises WrongPod: it means another pod.
        """
        self.peer = await self._hello()
        if not self.peer:
            return
        tasks = [self._loop.create_task(self._read()), self._loop.create_task(self._write())]
        try:
            await asyncio.wait({*tasks, self._closing}, return_when="FIRST_COMPLETED")
        finally:
            if self._soon is not None:
                self._soon.cancel()
            await end_tasks(*tasks, *self._questions)
        for task in tasks:
            if not task.cancelled():
                task.result()

    def close(self) -> None:
        """End the stream in good order."""
        if not self._closing.done():
            self._closing.set_result(None)

    def refresh(self) -> None:
        """Tell the peer if more is accepted than when its last batch was answered."""
        if not self._withheld:
            return
        upto = self._inbound.accepted_upto()
        if upto > self._answered.upto:
            self._accepted(Accepted(self._answered.epoch, upto, self._answered.number))

    # -- reading ----------------------------------------------------------------------------

    async def _hello(self) -> str:
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                body = await self._context.read()
        except TimeoutError:
            raise MalformedPacket(f"no Hello within {HELLO_SECONDS:g} s") from None
        if not isinstance(body, bytes):
            return ""
        hello = packets.decode_request(body)
        if not isinstance(hello, Hello) or not is_id(hello.pod_id):
            raise MalformedPacket("the first packet must be Hello with a pod ID")
        if self._pod_id and hello.to not in ("", self._pod_id):
            raise WrongPod(f"this is {self._pod_id}, not {hello.to}")
        return hello.pod_id

    async def _read(self) -> None:
        while isinstance(body := await self._context.read(), bytes):
            match packets.decode_request(body):
                case Batch() as batch:
                    await self._accept(batch)
                case Barrier() as barrier:
                    await self._question(barrier.id, partial(self._barrier, barrier))
                case Displace() as displace:
                    await self._question(displace.id, partial(self._displace, displace))
                case Hello():
                    raise MalformedPacket("Hello must come once")

    async def _accept(self, batch: Batch) -> None:
        self._alive = self._loop.call_later(self._beat_seconds, self._beat)
        try:
            upto = await self._inbound.accept(
                self.peer, batch.epoch, batch.stream, batch.upto, batch.items
            )
        finally:
            self._alive.cancel()
        self._tally.pushed_in += len(batch.items)
        if trace.tracing():
            trace.events_taken(self.peer, batch.items)
        if upto < 0:
            self._withheld = False
            self._reply(Stale(self._inbound.known_epoch(), batch.number))
            return
        if batch.epoch != self._answered.epoch:
            self._highest = -1
        for item in batch.items:
            self._highest = max(self._highest, item.seq)
        self._accepted(Accepted(batch.epoch, upto, batch.number))

    async def _question(self, question_id: int, answer: Callable[[], Awaitable[Reply]]) -> None:
        task = self._loop.create_task(self._answer(question_id, answer))
        self._questions.add(task)
        task.add_done_callback(self._questions.discard)
        if len(self._questions) >= QUESTIONS:
            await asyncio.wait(self._questions, return_when="FIRST_COMPLETED")

    async def _answer(self, question_id: int, answer: Callable[[], Awaitable[Reply]]) -> None:
        try:
            self._reply(await answer())
        except Unavailable as problem:
            self._reply(Failed(question_id, str(problem)))
        except Exception:
            log.exception("a peer's question failed", peer=self.peer)
            self._reply(Failed(question_id, "internal error"))

    async def _barrier(self, barrier: Barrier) -> Reply:
        position = await self._inbound.barrier(self.peer, barrier.interests)
        if position is None:
            return BarrierReply(barrier.id, reading=False)
        return BarrierReply(barrier.id, True, position.epoch, position.stream, position.seq)

    async def _displace(self, displace: Displace) -> Reply:
        if displace.only_ask:
            there = self._inbound.has_session(displace.session_key, displace.holder)
            return Displaced(displace.id, there)
        await self._inbound.displace(displace.session_key, displace.holder)
        return Displaced(displace.id)

    # -- writing ----------------------------------------------------------------------------

    async def _write(self) -> None:
        while True:
            while self._replies:
                async with asyncio.timeout(WRITE_SECONDS):
                    await self._context.write(packets.encode(self._take()))
            self._wake.clear()
            await self._wake.wait()

    def _take(self) -> Reply:
        reply = self._replies.popleft()
        if isinstance(reply, Accepted):
            self._told = reply.number
            if self._soon is not None:
                self._soon.cancel()
                self._soon = None
        return reply

    def _reply(self, reply: Reply) -> None:
        self._replies.append(reply)
        self._wake.set()

    def _accepted(self, answer: Accepted) -> None:
        self._withheld = answer.upto < self._highest
        self._answered = answer
        last = self._replies[-1] if self._replies else None
        if isinstance(last, Accepted) and last.epoch == answer.epoch and last.upto <= answer.upto:
            self._replies[-1] = answer
        else:
            self._replies.append(answer)
        if answer.number - self._told >= ANSWER_BATCHES:
            self._wake.set()
        elif self._soon is None:
            self._soon = self._loop.call_later(ANSWER_SECONDS, self._wake.set)

    def _beat(self) -> None:
        self._alive = self._loop.call_later(self._beat_seconds, self._beat)
        self._reply(self._answered)
