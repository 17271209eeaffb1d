"""The reader: from the stream to this pod's connections and to the pods that own the rest.

One pod reads (in shared mode every pod does); events are handed on strictly in the order read,
and acknowledged when every owner has accepted them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from enum import Enum
from typing import Final

import structlog

from daisi_ws.app.delivery import SHARED_EPOCH, Delivery
from daisi_ws.app.handing_on import HandingOn
from daisi_ws.app.ports import Peers, Pods, Position, ReaderRecord, Received, Stream
from daisi_ws.app.route import Router
from daisi_ws.app.waiting import wait_set
from daisi_ws.domain.errors import Unavailable
from daisi_ws.domain.packets import Item
from daisi_ws.metrics import Metrics

RETRY_SECONDS: Final = 0.2

log = structlog.get_logger(__name__)


class Reading(Enum):
    """Whether this pod reads the stream."""

    STANDBY = "standby"
    TAKING_OVER = "taking over"
    READER = "reader"


class Ingest:
    """The stream's handler (:class:`daisi_ws.app.ports.StreamHandler`) of one pod.

    :param shared: every pod reads a part; no reader, no order over pods.
    :param survey: looks who else is there: who reads must miss nobody, should Redis go away.
    :param wall: Unix time in seconds.
    :param withhold: see :class:`HandingOn`.
    :param legacy: hands an event to an older pod; None: that is not our business.
    """

    def __init__(
        self,
        *,
        pod_id: str,
        shared: bool,
        stream: Stream,
        router: Router,
        delivery: Delivery,
        peers: Peers,
        pods: Pods,
        metrics: Metrics,
        survey: Callable[[], Awaitable[None]],
        wall: Callable[[], float],
        withhold: int = 0,
        legacy: Callable[[str, Item], None] | None = None,
    ) -> None:
        self._pod_id = pod_id
        self._shared = shared
        self._stream = stream
        self._router = router
        self._delivery = delivery
        self._peers = peers
        self._pods = pods
        self._metrics = metrics
        self._survey = survey
        self._wall = wall
        self._events = HandingOn(
            shared=shared,
            stream=stream,
            router=router,
            delivery=delivery,
            peers=peers,
            metrics=metrics,
            withhold=withhold,
            refused=self._on_stale,
            legacy=legacy,
        )
        self._task: asyncio.Task[None] | None = None
        self.state = Reading.STANDBY
        self.record: ReaderRecord | None = None
        self._claimed: Position | None = None
        self._decided = asyncio.Event()
        self._decided.set()
        peers.on_stale(self._on_stale)

    @property
    def position(self) -> int:
        """Return the sequence up to which this pod has handed on as the reader."""
        return self._events.position

    # -- StreamHandler ----------------------------------------------------------------------------

    def on_pinned(self, stream: str) -> None:
        """See :meth:`StreamHandler.on_pinned`."""
        self._stop()
        self._decided.clear()
        self.state = Reading.TAKING_OVER
        self._task = asyncio.create_task(self._take_over(stream), name="take over reading")

    def on_received(self, message: Received) -> None:
        """See :meth:`StreamHandler.on_received`."""
        if self.state is Reading.STANDBY:
            return
        self._events.take(message)

    def on_taken(self) -> None:
        """See :meth:`StreamHandler.on_taken`."""
        self._events.turn()

    def on_unpinned(self) -> None:
        """See :meth:`StreamHandler.on_unpinned`."""
        if self.state is not Reading.STANDBY:
            log.info("not the reader any more", position=self.position)
        self._stop()

    # -- what others ask --------------------------------------------------------------------------

    def where(self) -> Position | None:
        """Return from where new interests are seen by events, None if this pod is no reader.

        One that is still taking over has read no route yet: it sees them from where it begins.
        """
        if self.state is Reading.TAKING_OVER:
            return self._claimed
        if self.state is not Reading.READER or self.record is None:
            return None
        return Position(self.record.epoch, self.record.stream, self.position)

    async def barrier(self, interests: Iterable[str]) -> Position | None:
        """Forget what is known of these routes, and say from where they are read anew.

        While this pod is about to take over, that is known only when it knows where it begins.
        """
        told = list(interests)
        if told:
            await self._decided.wait()
        self._events.forget(told)
        return self.where()

    async def unread_after(self) -> tuple[int, bool]:
        """Return after which sequence the next reader will begin, and whether one reads now.

        :raises Unavailable: NATS is away.
        """
        return await self._stream.unread_after()

    async def verify(self) -> None:
        """Make sure that no newer reader is known; write our record again where it is missing.

        :raises Unavailable: Redis is away.
        """
        record = self.record
        if record is None or self._shared:
            return
        kept = await self._pods.keep_reader(record)
        if self.record is not record:
            return
        if not kept:
            log.warning("a newer reader is known", epoch=record.epoch)
            self._step_down()

    async def finish(self) -> None:
        """Wait until everything handed on is acknowledged (the caller bounds the time)."""
        self._events.withhold_nothing()
        changed = asyncio.Event()
        self._peers.on_change(changed.set)
        while self._events:
            changed.clear()
            if not await wait_set(changed, 0.1):
                self._events.turn()

    def stop(self) -> None:
        """Stop at once."""
        self._stop()

    # -- taking over ------------------------------------------------------------------------------

    async def _take_over(self, stream: str) -> None:
        """Become the reader: be known as it, then read what the last one left unacknowledged.

        The record is written before the first route is read, with an empty cache: who adds a
        route either finds us, or we find the route. It ends another reader's, so that it must not
        be written for a pin that is not ours any more: the other would go on, and whoever
        subscribed in between be told that nobody reads.
        """
        since, said = self._wall(), ""
        while True:
            try:
                if not (self._shared or await self._stream.pinned()):
                    log.info("pinned no more: another pod reads")
                    self._step_down()
                    return
                epoch = await self._claim(stream, since)
                await self._survey()
                floor, given_out = await self._stream.outstanding()
                self._claimed = Position(epoch, stream, floor)
                self._decided.set()
                upto = self._events.newest(floor)
                if not self._shared:
                    # What was given to the last reader may come again later than what is new.
                    upto = max(upto, given_out)
                missed = await self._stream.read(floor, upto)
                break
            except Unavailable as problem:
                if said != (said := str(problem)):
                    log.warning("cannot take over reading yet", problem=said)
            except Exception:  # nobody else reads while this pod is pinned
                log.exception("cannot take over reading yet")
            await asyncio.sleep(RETRY_SECONDS)
        self.record = ReaderRecord(pod_id=self._pod_id, epoch=epoch, stream=stream, since=since)
        await self._delivery.wait_open()
        self.state = Reading.READER
        self._metrics.reader.set(1)
        self._metrics.reader_changes.inc()
        log.info("reader", epoch=epoch, stream=stream, after=floor, caught_up=len(missed))
        self._events.begin(self.record, floor, missed)

    async def _claim(self, stream: str, now: float) -> int:
        if self._shared:
            return SHARED_EPOCH
        return await self._pods.claim_reader(self._pod_id, stream, now, self._delivery.epoch)

    def _on_stale(self, epoch: int) -> None:
        if self.record is not None and epoch > self.record.epoch:
            log.warning("refused as a reader that was", epoch=self.record.epoch, newer=epoch)
            self._step_down()

    def _step_down(self) -> None:
        self._stop()
        self._stream.stand_by()

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self.state = Reading.STANDBY
        self.record = self._claimed = None
        self._decided.set()
        self._events.stop()
        self._metrics.reader.set(0)
