"""The link to one peer: its queue, its questions, its breaker, and a session while there is use.

Whatever goes wrong ends the session; what is not taken goes back to the head of the queue, and
the next session begins with it, as soon as the breaker allows. Every session has a channel of its
own: gRPC's reconnecting knows neither breaker nor lease.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from contextvars import Context
from typing import Final

import grpc.aio
import structlog

from daisi_ws.adapters.grpc_options import open_channel
from daisi_ws.adapters.grpc_tls import BadCertificate
from daisi_ws.adapters.peer_calls import Answer, PeerCalls, PendingCall
from daisi_ws.adapters.peer_context import PeerContext
from daisi_ws.adapters.peer_session import Lost, Session, Work
from daisi_ws.domain.breaker import Breaker
from daisi_ws.domain.errors import Unavailable
from daisi_ws.domain.forward_queue import ForwardQueue
from daisi_ws.domain.packets import BarrierReply, Displaced, Failed, Item

RETRY_SECONDS: Final = (0.2, 1.0)
"""Pause after a first failure, and the longest pause while the breaker is closed."""

LOOKUP_SECONDS: Final = 1.0
"""How often the address is looked up while the breaker is open: a new one closes it."""

log = structlog.get_logger(__name__)


class PeerLink:
    """Everything this pod has with one peer.

    :param pod_id: the peer.
    :ivar kept: a session is kept open, so that progress reaches the peer.
    """

    def __init__(self, pod_id: str, context: PeerContext) -> None:
        settings = context.settings
        self.pod_id = pod_id
        self.queue = ForwardQueue(settings.queue_events)
        self.breaker = Breaker(settings.fail_threshold, settings.open_duration)
        self.kept = False
        self._calls = PeerCalls()
        self._context = context
        self._sent = context.metrics.grpc_sent.labels(slot_of(pod_id))
        self._wake = asyncio.Event()
        self._resume = asyncio.Event()
        self._session: Session | None = None
        self._task: asyncio.Task[None] | None = None
        self._address = ""
        self._not_before = 0.0
        self._unfound = 0
        self._disposed = ""

    @property
    def wanted(self) -> bool:
        """Tell whether there is something to say to the peer, if only how far was read."""
        course = self._context.course
        return bool(self._calls) or ((self.queue.held > 0 or self.kept) and not course.stale)

    def useless(self, now: float) -> bool:
        """Tell whether nothing would be lost with this object."""
        return self._task is None and not self.queue.held and not self.breaker.wait(now)

    def push(self, item: Item) -> None:
        """Queue an event; what is pushed in one turn of the loop, or closely, travels together."""
        queue = self.queue
        queue.push(item)
        if queue.held >= queue.limit:
            self._context.course.full.add(self.pod_id)
        if not self._wake.is_set() and (self._session is None or self._session.due()):
            self.start()

    def start(self) -> None:
        """Wake the session, or begin one, if there is something to say."""
        if self._task is None:
            if not self.wanted or self._disposed:
                return
            # Whoever happens to be the first to push does not lend it a request ID.
            self._task = asyncio.get_running_loop().create_task(self._run(), context=Context())
        self._wake.set()

    async def barrier(self, interests: Sequence[str], timeout: float) -> BarrierReply:
        """Ask for a barrier, together with whoever else asks in this turn of the loop.

        :param timeout: seconds.
        :raises Unavailable: the peer cannot be asked, or does not answer in time.
        """
        answer = await self._ask(self._calls.barrier(interests), timeout)
        if not isinstance(answer, BarrierReply):
            raise Unavailable(f"pod {self.pod_id} could not answer: {answer}")
        return answer

    async def displace(self, session_key: str, holder: str, timeout: float) -> None:
        """Ask for a displacement; see :meth:`Peers.displace`.

        :param timeout: seconds.
        :raises Unavailable: the peer cannot be asked, or does not answer in time.
        """
        answer = await self._ask(self._calls.displace(session_key, holder), timeout)
        if isinstance(answer, Failed):
            raise Unavailable(f"pod {self.pod_id} could not displace: {answer.problem}")

    async def has_session(self, session_key: str, holder: str, timeout: float) -> bool:
        """Ask whether the peer has a session; see :meth:`Peers.has_session`.

        :param timeout: seconds.
        :raises Unavailable: the peer cannot be asked, or does not answer in time.
        """
        question = self._calls.displace(session_key, holder, only_ask=True)
        answer = await self._ask(question, timeout)
        if not isinstance(answer, Displaced):
            raise Unavailable(f"pod {self.pod_id} could not tell: {answer}")
        return answer.there

    def forget(self) -> None:
        """Drop every event: somebody else reads now, or this pod reads anew."""
        self.queue.forget()
        self._context.course.full.discard(self.pod_id)

    def revive(self) -> None:
        """Try again at once: the peer is known to be alive."""
        if self._close_breaker():
            log.info("peer's breaker closed: it is alive", peer=self.pod_id)
        self._not_before = 0.0
        self._resume.set()

    def apply(self) -> None:
        """Take over changed settings."""
        settings = self._context.settings
        self.queue.limit = settings.queue_events
        self.breaker.threshold = settings.fail_threshold
        self.breaker.open_seconds = settings.open_duration

    def tick(self, now: float) -> None:
        """Do what is due, about once a second."""
        if self._session is not None:
            self._session.tick(now)

    def dispose(self, reason: str) -> asyncio.Task[None] | None:
        """Drop everything and end the session; return the task that is ending, if any.

        :param reason: `dropped` or `shutdown`, for the metric of closed connections.
        """
        self._disposed = reason
        if (held := self.queue.forget()) and reason == "dropped":
            self._context.metrics.forward_retry_failure.inc(held)
        self._context.course.full.discard(self.pod_id)
        self._calls.fail(f"pod {self.pod_id} is given up")
        self._close_breaker()
        if self._task is not None:
            self._task.cancel()
        return self._task

    async def _ask(self, call: PendingCall, timeout: float) -> Answer:
        if self._disposed or self.breaker.wait(self._context.clock()):
            self._calls.fail(f"pod {self.pod_id} is unreachable")
        self.start()
        try:
            return await self._calls.wait(call, timeout)
        except TimeoutError:
            if self._session is not None and call.sent_at and self._session.overdue(call.sent_at):
                self._session.lose(f"a question was not answered in {timeout:g} s")
            raise Unavailable(f"pod {self.pod_id} did not answer in {timeout:g} s") from None

    # -- sessions, one after the other ------------------------------------------------------

    async def _run(self) -> None:
        try:
            while self.wanted:
                await self._try()
        finally:
            self._task = None
            self._wake.clear()

    async def _try(self) -> None:
        try:
            await self._pause()
            if address := await self._find():
                await self._converse(address)
        except Exception:  # events wait here: nothing may end the link but its owner
            log.exception("link to a peer failed", peer=self.pod_id)
            self._failed("internal error")

    async def _pause(self) -> None:
        now = self._context.clock()
        while (left := max(self._not_before - now, self.breaker.wait(now))) > 0:
            self._resume.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, LOOKUP_SECONDS)):
                    await self._resume.wait()
            if self.breaker.is_open:
                await self._find()
            now = self._context.clock()
        self.breaker.attempt(now)

    async def _find(self) -> str:
        """Return the peer's address, empty without one; a new one closes the breaker."""
        try:
            async with asyncio.timeout(self._context.settings.forward_timeout):
                address = await self._context.lookup(self.pod_id)
        except (Unavailable, TimeoutError):
            address = self._address
        else:
            if address is None:
                self._calls.fail(f"pod {self.pod_id} has no lease")
                self._context.lease_gone(self.pod_id)
        if not address:
            pause = _growing(self._unfound)
            self._unfound += 1
            self._not_before = self._context.clock() + pause
            return ""
        self._unfound = 0
        if address != self._address:
            self._address = address
            self.revive()
        return address

    async def _converse(self, address: str) -> None:
        context = self._context
        try:
            channel = open_channel(address, context.settings.tls, context.settings.forward_timeout)
        except BadCertificate as problem:
            self._failed(str(problem))
            return
        context.metrics.pool_created.inc()
        context.metrics.pool_size.inc()
        work = Work(self.pod_id, self.queue, self._calls, self._wake, self._heard, self._taken)
        session = self._session = Session(channel, context, work)
        try:
            await session.run()
            if not session.ended and self.wanted:
                self._failed("the peer ended the stream")
        except Lost as lost:
            self._failed(str(lost))
        finally:
            self._session = None
            self.queue.rewind()
            self._calls.rewind()
            reason = self._disposed or session.ended or "failed"
            context.metrics.pool_size.dec()
            context.metrics.pool_closed.labels(reason).inc()
            await _close(channel)

    def _failed(self, reason: str) -> None:
        first = not self.breaker.failures
        now = self._context.clock()
        self._not_before = now + _growing(self.breaker.failures)
        if self.breaker.failure(now):
            self._context.metrics.breaker_tripped.inc()
            self._context.metrics.breaker_open.inc()
            seconds = self.breaker.open_seconds
            log.warning("peer's breaker opened", peer=self.pod_id, reason=reason, seconds=seconds)
        elif first:
            log.warning("peer lost", peer=self.pod_id, address=self._address, reason=reason)
        if self.breaker.is_open:
            self._calls.fail(f"pod {self.pod_id} is unreachable: {reason}")

    def _heard(self) -> None:
        if self.breaker.failures:
            log.info("peer back", peer=self.pod_id, address=self._address)
        self._close_breaker()

    def _taken(self, taken: int, again: int) -> None:
        self._sent.inc(taken)
        if again:
            self._context.metrics.forward_retry_success.inc(again)
        if not self.queue.full:
            self._context.course.full.discard(self.pod_id)
        self._context.changed()

    def _close_breaker(self) -> bool:
        was_open = self.breaker.success()
        if was_open:
            self._context.metrics.breaker_open.dec()
        return was_open


def slot_of(pod_id: str) -> str:
    """Return a pod ID without its generation: a metric label that restarts do not multiply."""
    return pod_id.rpartition("-")[0] or pod_id


def _growing(failures: int) -> float:
    first, most = RETRY_SECONDS
    return min(most, first * 2.0 ** min(failures, 10))


async def _close(channel: grpc.aio.Channel) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(1.0):
            await channel.close()
