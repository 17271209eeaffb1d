"""This pod among the others: its lease, who lives, and what to do after an absence.

Three things can have happened while this pod was stopped, cut off, or Redis was away:

- its lease ended: others took it for dead and push nothing to it any more. It registers again
  and reads what it missed from the stream itself, before it accepts anything new;
- Redis came back empty, or was emptied (a new *incarnation* of its data): every pod registers
  all it serves again, and until it has, whoever reads the stream gives it every event. The same
  is done from the moment in which it *may* have happened until this pod has looked;
- another pod became the reader: `Ingest` finds out.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from math import inf
from typing import Final

import msgspec
import structlog

from daisi_ws.app.delivery import Delivery
from daisi_ws.app.hub import Hub
from daisi_ws.app.ingest import Ingest, Reading
from daisi_ws.app.interests import Interests
from daisi_ws.app.ports import Peers, PodRecord, Pods, Routes, Stream
from daisi_ws.app.route import Router
from daisi_ws.app.waiting import wait_set
from daisi_ws.domain import subjects
from daisi_ws.domain.close import CloseReason
from daisi_ws.domain.errors import SubscriptionFailure, Unavailable
from daisi_ws.domain.event import NotAnEvent, event_text
from daisi_ws.domain.packets import Item
from daisi_ws.metrics import Metrics

MAX_CATCH_UP: Final = 100_000
"""Events of the stream; a pod that missed more closes its clients, who then resume."""

_AGAIN_SECONDS: Final = 0.5

log = structlog.get_logger(__name__)


class Membership:
    """Keeps the lease and the view of the others.

    :param record: makes this pod's record as of now; its incarnation is filled in here.
    :param reassert: sets this pod's session locks again where they are missing.
    :param lease: getter of the lease in seconds; `refresh`: of the seconds between refreshes.
    """

    def __init__(
        self,
        *,
        record: Callable[[], PodRecord],
        pods: Pods,
        routes: Routes,
        peers: Peers,
        router: Router,
        interests: Interests,
        ingest: Ingest,
        delivery: Delivery,
        stream: Stream,
        hub: Hub,
        metrics: Metrics,
        reassert: Callable[[], Awaitable[bool]],
        lease: Callable[[], float],
        refresh: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._record = record
        self._pods = pods
        self._routes = routes
        self._peers = peers
        self._router = router
        self._interests = interests
        self._ingest = ingest
        self._delivery = delivery
        self._stream = stream
        self._hub = hub
        self._metrics = metrics
        self._reassert = reassert
        self._lease = lease
        self._refresh = refresh
        self._clock = clock
        self._incarnation = ""
        self._doubts = 0
        self._doubted = True
        self._steady_since = clock()
        self._away_at = -inf
        self._registered = False
        self._unanswered = False
        self._leased_at = clock()
        self._judged = asyncio.Event()
        self._wake = asyncio.Event()
        self._looks = 0
        self._spoke: dict[str, int] = {}
        """How many looks at the others had begun when a pod last spoke."""
        self.known: dict[str, PodRecord] = {}
        self.refreshed_at: float | None = None
        self.catching_up = False
        routes.on_invalidated(self._on_invalidated)

    async def join(self) -> None:
        """Register for the first time.

        :raises Unavailable: Redis is away.
        """
        await self._tick()

    async def run(self) -> None:
        """Refresh until cancelled."""
        while True:
            self._wake.clear()
            try:
                await self._tick()
            except Unavailable:
                self._steady_since = self._away_at = self._clock()
                self._judged.set()
                self.look_around()
            pause = min(self._refresh(), 0.5) if self._peers.pending() else self._refresh()
            await wait_set(self._wake, pause)

    def wake(self) -> None:
        """Refresh now: Redis is back, or this pod stood still."""
        self._wake.set()

    def lapsed(self) -> bool:
        """Tell whether the lease may have ended without our knowing, while Redis could tell.

        Others may have given this pod up: what they push from now on is not all that it missed.
        """
        unknown = self._registered and self._clock() - self._leased_at > self._lease()
        return unknown and self._routes.tracking

    async def judge(self) -> None:
        """Return once that is known: if the lease had ended, nothing is accepted by then."""
        while self.lapsed():
            self._judged.clear()
            self.wake()
            await self._judged.wait()

    async def survey(self) -> None:
        """Look who else is there, now.

        :raises Unavailable: Redis is away.
        """
        await self._see_others(self._record().pod_id)

    async def leave(self) -> None:
        """End the lease."""
        record = self._record()
        await self._pods.remove(record.pod_id)

    async def address_of(self, pod_id: str) -> str | None:
        """Return where a pod's gRPC server listens; None without a lease.

        :raises Unavailable: Redis is away and the pod is not known here.
        """
        known = self.known.get(pod_id)
        if known is not None:
            return known.address
        record = await self._pods.get(pod_id)
        return None if record is None else record.address

    def heard(self, pod_id: str) -> None:
        """Note that a pod asked something: a look that began before cannot tell that it is gone."""
        self._spoke[pod_id] = self._looks

    def look_around(self) -> None:
        """Tell the router who lives, and who must be given every event for now."""
        if self._routes.tracking and not self._doubted:
            unsettled = [p for p, r in self.known.items() if r.incarnation != self._incarnation]
        else:
            unsettled = list(self.known)
        self._router.settle(self.known, unsettled)
        if self._ingest.state is not Reading.STANDBY:
            self._peers.keep(list(self.known))

    def _on_invalidated(self, interests: Sequence[str] | None) -> None:
        """All that was known of the routes is void: perhaps the data is another's by now."""
        if interests is None:
            self._doubts += 1
            self._doubted = True
            self.look_around()
            self.wake()

    # -- one refresh ------------------------------------------------------------------------------

    async def _tick(self) -> None:
        doubts = self._doubts
        incarnation = await self._pods.incarnation()
        if incarnation != self._incarnation:
            await self._register_all(incarnation)
        if doubts == self._doubts:
            self._doubted = False
        record = msgspec.structs.replace(self._record(), incarnation=self._incarnation)
        asked_at = self._clock()
        absent = asked_at - self._leased_at > self._lease()
        # A lease that is there may have been written by a refresh whose answer was lost, after the
        # one before it had ended.
        unsure, self._unanswered = absent and self._unanswered, True
        had_lease = await self._pods.refresh(record)
        self._unanswered = False
        self._leased_at = asked_at
        self._judged.set()
        was_there = self._registered or (absent and self.refreshed_at is not None)
        if was_there and (unsure or not had_lease):
            await self._come_back()
        self._registered = True
        await self._ingest.verify()
        await self._see_others(record.pod_id)
        self.refreshed_at = self._clock()

    async def _register_all(self, incarnation: str) -> None:
        if self._incarnation:
            log.warning("redis came back with other data: registering again")
        self._steady_since = self._clock()
        await self._interests.renew()
        if not await self._reassert():
            raise Unavailable("the session locks could not be set again")
        # What others know of us in the old data is void with it: they give us every event.
        self._registered = False
        self._incarnation = incarnation

    async def _see_others(self, own: str) -> None:
        self._looks = look = self._looks + 1
        seen = {r.pod_id: r for r in await self._pods.records() if r.pod_id != own}
        absent = self.known.keys() | self._peers.pending()
        gone = [pod_id for pod_id in absent - seen.keys() if self._is_gone(pod_id)]
        if gone and await self._pods.incarnation() != self._incarnation:
            # They were looked for in other data, which came between: they will register there.
            gone = []
            self.wake()
        # Who has come back meanwhile was told from where on it is given everything.
        gone = [pod_id for pod_id in gone if self._spoke.get(pod_id, 0) < look]
        self.known.update(seen)
        named = [(interest, pod_id) for pod_id in gone for interest in self._bury(pod_id)]
        self.look_around()
        await asyncio.gather(*(self._routes.forget_pod(*route) for route in named))

    def _is_gone(self, pod_id: str) -> bool:
        """Tell whether a pod without lease is gone, and not only slower to register (again).

        One that had a lease in the present data has given it up, or let it end, unless that was
        while Redis was away.
        """
        record = self.known.get(pod_id)
        registered = record is not None and record.incarnation == self._incarnation
        since = self._away_at if registered else self._steady_since
        return self._clock() - since > self._lease()

    def _bury(self, pod_id: str) -> list[str]:
        """Forget a pod; return the interests whose routes name it."""
        log.warning("pod is gone", pod=pod_id)
        self.known.pop(pod_id, None)
        self._spoke.pop(pod_id, None)
        self._peers.drop(pod_id)
        return self._router.forget_pod(pod_id)

    # -- coming back ------------------------------------------------------------------------------

    async def _come_back(self) -> None:
        """Others took this pod for dead: register again, and read what was missed."""
        missed_after = self._delivery.point
        log.warning("the lease had ended: catching up", after=missed_after.seq)
        self._delivery.shut(True)
        self.catching_up = True
        try:
            await self._reassert()
            await self._ingest.verify()
            position = await self._find_position()
            after = missed_after.seq_in(self._delivery.stream)
            events = await self._catch_up(after, position)
        except (SubscriptionFailure, Unavailable, OverflowError) as error:
            self._metrics.catch_ups.labels("failed").inc()
            log.error(  # noqa: TRY400 - expected, no traceback
                "could not catch up: closing all clients", problem=str(error)
            )
            for connection in self._hub.connections():
                connection.close(CloseReason.GOING_AWAY)
        else:
            self._metrics.catch_ups.labels("complete").inc()
            log.info("caught up", events=events, upto=position)
        finally:
            self.catching_up = False
            self._delivery.shut(False)

    async def _find_position(self) -> int:
        """Return up to where this pod has to read itself.

        What nobody read for us since is acknowledged; the rest the next reader reads again.
        """
        while True:
            try:
                position = await self._interests.settle()
                return max(position.seq, await self._stream.ack_floor())
            except Unavailable as problem:
                log.warning("cannot catch up yet", problem=str(problem))
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _catch_up(self, after: int, upto: int) -> int:
        if upto - after > MAX_CATCH_UP:
            raise OverflowError(f"{upto - after} events missed, at most {MAX_CATCH_UP} are read")
        if upto <= after or self._ingest.state is Reading.READER:
            return 0
        messages = await self._stream.read(after, upto)
        # Asked after that: it may have dropped some of it meanwhile.
        if (await self._stream.bounds()).first > after + 1:
            raise OverflowError("the stream has not kept all that was missed")
        # Nothing is waited for between looking who wants it and giving it.
        await self._delivery.wait_released()
        items = []
        for message in messages:
            address = subjects.parse(message.subject)
            if address is None or not self._hub.match(address):
                continue
            try:
                text = event_text(address, message.data, message.seq)
            except NotAnEvent:
                continue
            items.append(Item(message.seq, message.stored_ns, message.subject, text))
        self._delivery.accept(self._delivery.epoch, self._delivery.stream, upto, items)
        return len(items)
