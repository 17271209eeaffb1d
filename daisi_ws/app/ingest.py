"""The reader: from the stream to this pod's connections and to the pods that own the rest.

One pod reads (in shared mode every pod does); events are handed on strictly in the order read,
and acknowledged when every owner has accepted them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Final

import structlog

from daisi_ws.app.delivery import SHARED_EPOCH, STALE, Delivery
from daisi_ws.app.ports import Peers, Pods, Position, ReaderRecord, Received, Stream
from daisi_ws.app.route import Router
from daisi_ws.domain import subjects
from daisi_ws.domain.errors import Unavailable
from daisi_ws.domain.event import NotAnEvent, event_text
from daisi_ws.domain.ids import is_own_pod
from daisi_ws.domain.packets import Item
from daisi_ws.domain.subjects import Address
from daisi_ws.metrics import Metrics

RETRY_SECONDS: Final = 0.2
DEAD_LETTER_RETRY_SECONDS: Final = 1.0

log = structlog.get_logger(__name__)


class Reading(Enum):
    """Whether this pod reads the stream."""

    STANDBY = "standby"
    TAKING_OVER = "taking over"
    READER = "reader"


class Ingest:
    """The stream's handler (:class:`daisi_ws.app.ports.StreamHandler`) of one pod.

    :param shared: every pod reads a part; no reader, no order over pods.
    :param wall: Unix time in seconds.
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
        wall: Callable[[], float],
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
        self._tally = metrics.tally
        self._wall = wall
        self._legacy = legacy
        self._waiting: deque[Received] = deque()
        self._known: dict[str, tuple[str, ...]] = {}
        self._unacked: deque[tuple[int, str]] = deque()
        self._dead: set[int] = set()
        self._task: asyncio.Task[None] | None = None
        self._letters: set[asyncio.Task[None]] = set()
        self._scheduled = False
        self._reading_routes = False
        self._held = False
        self.state = Reading.STANDBY
        self.record: ReaderRecord | None = None
        self._stream_read = ""
        self.position = 0
        self.received = 0
        peers.on_change(self._schedule)
        peers.on_stale(self._on_stale)
        delivery.on_accepted(self._schedule)

    # -- StreamHandler ----------------------------------------------------------------------------

    def on_pinned(self, stream: str) -> None:
        """See :meth:`StreamHandler.on_pinned`."""
        self._stop()
        self._stream_read = stream
        self.state = Reading.TAKING_OVER
        self._task = asyncio.create_task(self._take_over(stream), name="take over reading")

    def on_received(self, message: Received) -> None:
        """See :meth:`StreamHandler.on_received`."""
        if self.state is Reading.STANDBY:
            return
        self.received += 1
        self._waiting.append(message)
        self._schedule()

    def on_unpinned(self) -> None:
        """See :meth:`StreamHandler.on_unpinned`."""
        if self.state is not Reading.STANDBY:
            log.info("not the reader any more", position=self.position)
        self._stop()

    # -- what others ask --------------------------------------------------------------------------

    def where(self) -> Position | None:
        """Return from where new interests are seen by events, None if this pod is no reader.

        One that is taking over has read no route yet: it sees them from the beginning.
        """
        if self.state is Reading.TAKING_OVER:
            return Position(SHARED_EPOCH, self._stream_read, 0)
        if self.state is not Reading.READER or self.record is None:
            return None
        return Position(self.record.epoch, self.record.stream, self.position)

    def barrier(self, interests: Iterable[str]) -> Position | None:
        """Forget what is known of these routes, and say from where they are read anew."""
        self._router.forget(list(interests))
        self._known.clear()
        return self.where()

    def hold(self, held: bool) -> None:
        """Stop handing on (this pod may not be the reader any more), or go on."""
        self._held = held
        if not held:
            self._schedule()

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
        else:
            self._router.cache(True)

    async def finish(self) -> None:
        """Wait until everything handed on is acknowledged (the caller bounds the time)."""
        changed = asyncio.Event()
        self._peers.on_change(changed.set)
        while self._unacked or self._waiting or self._letters:
            changed.clear()
            try:
                await asyncio.wait_for(changed.wait(), 0.1)
            except TimeoutError:
                self._turn()

    def stop(self) -> None:
        """Stop at once."""
        self._stop()

    # -- taking over ------------------------------------------------------------------------------

    async def _take_over(self, stream: str) -> None:
        """Become the reader: be known as it, then read what the last one left unacknowledged.

        The record is written before the first route is read, with an empty cache: who adds a
        route either finds us, or we find the route.
        """
        since = self._wall()
        while True:
            try:
                epoch = await self._claim(stream, since)
                self._router.meet(record.pod_id for record in await self._pods.records())
                floor = await self._stream.ack_floor()
                upto = max((m.seq for m in self._waiting), default=floor)
                missed = await self._stream.read(floor, upto)
                break
            except Unavailable as problem:
                log.warning("cannot take over reading yet", problem=str(problem))
                await asyncio.sleep(RETRY_SECONDS)
        self.record = ReaderRecord(pod_id=self._pod_id, epoch=epoch, stream=stream, since=since)
        await self._delivery.wait_open()
        self._router.forget(None)
        self._peers.reading(epoch, stream)
        self._delivery.accept(epoch, stream, 0, [])
        self.position = floor
        self._waiting.extendleft(reversed(missed))
        self.state = Reading.READER
        self._metrics.reader.set(1)
        self._metrics.reader_changes.inc()
        log.info("reader", epoch=epoch, stream=stream, after=floor, caught_up=len(missed))
        self._schedule()

    async def _claim(self, stream: str, now: float) -> int:
        if self._shared:
            return SHARED_EPOCH
        return await self._pods.claim_reader(self._pod_id, stream, now)

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
        self.record = None
        self._waiting.clear()
        self._unacked.clear()
        self._known.clear()
        self._dead.clear()
        self._peers.forget()
        for letter in self._letters:
            letter.cancel()
        self._metrics.reader.set(0)

    # -- the turn ---------------------------------------------------------------------------------

    def _schedule(self) -> None:
        if not self._scheduled and self.state is Reading.READER:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        """Hand on all that can be, in order, then acknowledge all that is accepted."""
        self._scheduled = False
        record = self.record
        if record is None or self.state is not Reading.READER:
            return
        local: list[Item] = []
        waiting = self._waiting
        ready = not (self._held or self._reading_routes) and self._delivery.is_open
        while ready and waiting and self._peers.has_room():
            message = waiting[0]
            if message.seq <= self.position and not self._shared:
                self._tally.duplicates += 1
            elif not self._hand_on(message, local):
                break
            waiting.popleft()
            if message.reply:
                self._unacked.append((message.seq, message.reply))
            self.position = max(self.position, message.seq)
        if local:
            accepted = self._delivery.accept(record.epoch, record.stream, self.position, local)
            if accepted == STALE:
                self._on_stale(self._delivery.epoch)
                return
        self._peers.progress(self.position)
        self._acknowledge()
        self._stream.pause(bool(waiting) and not self._peers.has_room())

    def _hand_on(self, message: Received, local: list[Item]) -> bool:
        """Route one event; False if its owners must be read first."""
        address = subjects.parse(message.subject)
        if address is None:
            self._bury(message, "bad_subject", "no event subject, or ids outside the alphabet")
            return True
        owners = self._owners(address)
        if owners is None:
            self._read_routes()
            return False
        try:
            text = event_text(address, message.data, message.seq)
        except NotAnEvent as error:
            self._bury(message, error.reason, error.problem)
            return True
        item = Item(message.seq, message.stored_ns, message.subject, text, message.request_id)
        local.append(item)
        for pod_id in owners:
            if is_own_pod(pod_id):
                self._peers.push(pod_id, item)
            elif self._legacy is not None:
                self._legacy(pod_id, item)
        if not owners and not self._delivery.wanted(address):
            self._tally.unwanted += 1
        self._count(address)
        return True

    def _owners(self, address: Address) -> tuple[str, ...] | None:
        if self._known:
            known = self._known.get(address.subject)
            if known is not None:
                return known
        return self._router.owners(address)

    def _count(self, address: Address) -> None:
        tally = self._tally
        if address.event_type == "chat":
            tally.chat += 1
        elif address.event_type == "message":
            tally.message += 1
        else:
            tally.agent += 1

    def _read_routes(self) -> None:
        """Read the routes of everything that waits, in one round trip, then go on."""
        self._reading_routes = True
        task = asyncio.create_task(self._fetch_routes(), name="read routes")
        self._letters.add(task)
        task.add_done_callback(self._letters.discard)

    async def _fetch_routes(self) -> None:
        parsed = (subjects.parse(message.subject) for message in self._waiting)
        unknown = {a for a in parsed if a is not None and self._router.owners(a) is None}
        try:
            self._known = await self._router.read(unknown)
        finally:
            self._reading_routes = False
            self._turn()
            self._known = {}

    def _acknowledge(self) -> None:
        floor = self._floor()
        replies: list[str] = []
        unacked = self._unacked
        if self._shared:
            replies = [reply for seq, reply in unacked if seq <= floor]
            self._unacked = deque((seq, reply) for seq, reply in unacked if seq > floor)
        else:
            while unacked and unacked[0][0] <= floor:
                replies.append(unacked.popleft()[1])
        if replies:
            self._stream.ack(replies)

    def _floor(self) -> int:
        """Return the sequence up to which every owner has accepted."""
        held = (self._peers.floor(), self._delivery.held_floor(), min(self._dead, default=None))
        return min((f - 1 for f in held if f is not None), default=self.position)

    # -- what can never be delivered --------------------------------------------------------------

    def _bury(self, message: Received, reason: str, problem: str) -> None:
        self._metrics.dead_letters.labels(reason).inc()
        log.warning(
            "dead letter",
            seq=message.seq,
            subject=message.subject[:200],
            reason=reason,
            problem=problem[:300],
            request_id=message.request_id or None,
        )
        self._dead.add(message.seq)
        letter = asyncio.create_task(self._keep_letter(message, reason, problem))
        self._letters.add(letter)
        letter.add_done_callback(self._letters.discard)

    async def _keep_letter(self, message: Received, reason: str, problem: str) -> None:
        while True:
            try:
                await self._stream.dead_letter(message, reason, problem)
                break
            except Unavailable:
                await asyncio.sleep(DEAD_LETTER_RETRY_SECONDS)
        self._dead.discard(message.seq)
        self._schedule()
