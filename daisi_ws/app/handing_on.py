"""Handing events on to their owners, strictly in the order read.

What is not known, such as who owns an event, is waited for; what is behind it waits too.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import structlog

from daisi_ws.app.delivery import STALE, Delivery
from daisi_ws.app.ledger import Ledger
from daisi_ws.app.ports import Peers, ReaderRecord, Received, Stream
from daisi_ws.app.route import Router
from daisi_ws.domain import subjects
from daisi_ws.domain.event import NotAnEvent, event_text
from daisi_ws.domain.ids import is_own_pod
from daisi_ws.domain.packets import Item
from daisi_ws.domain.subjects import Address
from daisi_ws.metrics import Metrics

ROUTES_RETRY_SECONDS: Final = 0.2

TURN_EVENTS: Final = 256
TURN_BYTES: Final = 1024 * 1024
"""At most so much is handed on in one loop turn: sockets are written between two."""

log = structlog.get_logger(__name__)


class HandingOn:
    """What a reader does with what it reads, once per loop turn.

    :param shared: every pod reads a part, in no order over pods.
    :param withhold: how many sequences the acknowledgement may stay behind what was handed on, for
        clients without room (policy `block`); NATS goes on giving events meanwhile.
    :param refused: told the newer epoch when this pod's own delivery refuses it.
    :param legacy: hands an event to an older pod; None: that is not our business.
    """

    def __init__(
        self,
        *,
        shared: bool,
        stream: Stream,
        router: Router,
        delivery: Delivery,
        peers: Peers,
        metrics: Metrics,
        withhold: int,
        refused: Callable[[int], None],
        legacy: Callable[[str, Item], None] | None,
    ) -> None:
        self._shared = shared
        self._stream = stream
        self._router = router
        self._delivery = delivery
        self._peers = peers
        self._tally = metrics.tally
        self._withhold = withhold
        self._refused = refused
        self._legacy = legacy
        self._ledger = Ledger(stream, metrics, self._schedule, ordered=not shared)
        self._waiting: deque[Received] = deque()
        self._known: dict[str, tuple[str, ...]] = {}
        self._fetching: asyncio.Task[None] | None = None
        self._reading_routes = False
        self._scheduled = False
        self._record: ReaderRecord | None = None
        self.position = 0
        peers.on_change(self._schedule)
        delivery.on_accepted(self._schedule)

    def __bool__(self) -> bool:
        """Tell whether anything is not finished."""
        return bool(self._waiting or self._ledger)

    def begin(self, record: ReaderRecord, floor: int, missed: Sequence[Received]) -> None:
        """Begin after `floor` with `missed`, then what was taken; no route is known."""
        self._router.forget(None)
        self._peers.reading(record.epoch, record.stream)
        self._delivery.accept(record.epoch, record.stream, 0, [])
        self._record = record
        self.position = floor
        self._waiting.extendleft(reversed(missed))
        self._schedule()

    def take(self, message: Received) -> None:
        """Take a message; it waits until this pod has begun, and for the next turn."""
        self._waiting.append(message)

    def newest(self, default: int) -> int:
        """Return the highest sequence that waits."""
        return max((message.seq for message in self._waiting), default=default)

    def forget(self, interests: Iterable[str]) -> None:
        """Forget what is known of these routes."""
        self._router.forget(list(interests))
        self._known.clear()

    def withhold_nothing(self) -> None:
        """From now wait for no client's room: whoever has an event has it in an outbox."""
        self._withhold = 0
        self._schedule()

    def stop(self) -> None:
        """Forget everything: what is unfinished is somebody else's."""
        self._record = None
        if self._fetching is not None:
            self._fetching.cancel()
        # A task that is cancelled before it began cannot say so itself.
        self._reading_routes = False
        self._waiting.clear()
        self._known.clear()
        self._ledger.clear()
        self._peers.forget()

    def turn(self) -> None:
        """Hand on all that can be, in order, then acknowledge all that is accepted.

        Neither is done by a process that stood still, until it has made sure: another pod may read
        by now, and have promised what these events were not routed to.
        """
        self._scheduled = False
        record = self._record
        if record is None or not self._delivery.may_write():
            return
        local: list[Item] = []
        waiting, room = self._waiting, TURN_BYTES
        last, more = len(waiting) - TURN_EVENTS, False
        ready = not self._reading_routes and self._delivery.is_open
        while ready and waiting and self._peers.has_room():
            message = waiting[0]
            if message.seq <= self.position and not self._shared:
                self._tally.duplicates += 1
            elif not self._try_to_hand_on(message, local):
                break
            waiting.popleft()
            self._ledger.take(message)
            self.position = max(self.position, message.seq)
            room -= len(message.data)
            if more := len(waiting) <= last or room <= 0:
                self._schedule()
                break
        if not more:
            self._known = {}
        if local:
            accepted = self._delivery.accept_and_flush(
                record.epoch, record.stream, self.position, local
            )
            if accepted == STALE:
                self._refused(self._delivery.epoch)
                return
        self._peers.progress(self.position)
        self._ledger.acknowledge(self._floor())
        self._stream.pause(bool(waiting) and not self._peers.has_room())

    def _schedule(self) -> None:
        if not self._scheduled and self._record is not None:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self.turn)

    def _try_to_hand_on(self, message: Received, local: list[Item]) -> bool:
        try:
            return self._hand_on(message, local)
        except Exception as error:  # one event must not stop all that follow
            log.exception("event not handed on", seq=message.seq)
            self._ledger.bury(message, "internal_error", repr(error))
            return True

    def _hand_on(self, message: Received, local: list[Item]) -> bool:
        """Route one event; False if its owners must be read first."""
        address = subjects.parse(message.subject)
        if address is None:
            self._ledger.bury(
                message, "bad_subject", "no event subject, or ids outside the alphabet"
            )
            return True
        owners = self._owners(address)
        if owners is None:
            self._read_routes()
            return False
        try:
            text = event_text(address, message.data, message.seq)
        except NotAnEvent as error:
            self._ledger.bury(message, error.reason, error.problem)
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
        self._fetching = asyncio.create_task(self._fetch_routes(), name="read routes")

    async def _fetch_routes(self) -> None:
        parsed = (subjects.parse(message.subject) for message in self._waiting)
        unknown = {a for a in parsed if a is not None and self._router.owners(a) is None}
        try:
            self._known = await self._router.read(unknown)
        except Exception:
            log.exception("routes not read")
            await asyncio.sleep(ROUTES_RETRY_SECONDS)
        finally:
            self._reading_routes = False
            self.turn()

    def _floor(self) -> int:
        """Return the sequence up to which every owner has accepted.

        What only waits for a client's room may stay unacknowledged, but never so much that NATS
        would give no more: nobody else waits for that client.
        """
        untaken = self._peers.floor()
        floor = self.position if untaken is None else untaken - 1
        for withheld in (self._peers.withheld(), self._delivery.held_floor()):
            if withheld is not None:
                floor = min(floor, max(withheld - 1, self.position - self._withhold))
        return floor
