"""What this pod's connections want: registered once per pod, and from where it is complete.

A client that is told `ready` (or `done`) must not miss the next event, although the reader
caches routes. So the pod adds its route, reads after that (same round trip) who the reader is,
tells it, and waits for its word: the barrier. All additions of one loop turn share both.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import structlog

from daisi_ws.app.connection import Connection
from daisi_ws.app.delivery import Delivery
from daisi_ws.app.hub import Hub
from daisi_ws.app.ingest import Ingest
from daisi_ws.app.ports import Peers, Pods, Position, ReaderRecord, Routes
from daisi_ws.domain.errors import SubscriptionFailure, Unavailable
from daisi_ws.domain.streams import Point, further

_ASK_AGAIN_SECONDS: Final = 0.05
_ONE_ANSWER_SECONDS: Final = 1.0
_UNSERVED_SECONDS: Final = 10.0
_REMEMBERED: Final = 10_000

log = structlog.get_logger(__name__)


class Interests:
    """The routes of this pod.

    :param timeout: getter of the seconds within which an addition must be complete.
    :param route_ttl: TTL in seconds of an interest's route, given when it was last asked for.
    """

    def __init__(
        self,
        *,
        pod_id: str,
        shared: bool,
        hub: Hub,
        delivery: Delivery,
        ingest: Ingest,
        routes: Routes,
        peers: Peers,
        pods: Pods,
        timeout: Callable[[], float],
        route_ttl: Callable[[str, float], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pod_id = pod_id
        self._shared = shared
        self._hub = hub
        self._delivery = delivery
        self._ingest = ingest
        self._routes = routes
        self._peers = peers
        self._pods = pods
        self._timeout = timeout
        self._route_ttl = route_ttl
        self._clock = clock
        self._asked_at: dict[str, float] = {}
        self._since: dict[str, Point] = {}
        self._adding: dict[str, dict[asyncio.Future[Point], Connection | None]] = {}
        """Who waits for an addition, with the connection that is subscribed only when it is
        complete, if it is one of those; by interest."""
        self._new: list[str] = []
        self._removing: dict[str, bool] = {}
        """What is to be deregistered, and whether it is surely registered until then."""
        self._unserved_until: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._scheduled = False

    def want(
        self, connection: Connection, interest: str, *, silent: bool = False
    ) -> asyncio.Future[Point]:
        """Subscribe a connection; the future has the point after which it is complete.

        What has to be asked for that is asked whether or not somebody waits. The future's errors:
        `SubscriptionFailure` if the reader could not be told in time, `Unavailable` if Redis is
        away; nobody needs to look at it.

        :param silent: it gets nothing of this before it is complete, and nothing at all if that
            fails: for who reads from the stream what came until then.
        """
        complete: asyncio.Future[Point] = asyncio.get_running_loop().create_future()
        waiting = self._adding.get(interest)
        if waiting is None:
            if self._removing.pop(interest, False):
                self._asked_at[interest] = self._clock()
            if interest in self._asked_at:
                self._asked_at[interest] = self._clock()
                self._hub.add(connection, interest)
                complete.set_result(self._complete_after(interest))
                return complete
            waiting = self._adding[interest] = {}
            self._new.append(interest)
            self._schedule()
        waiting[complete] = connection if silent else None
        if not silent:
            self._hub.add(connection, interest)
        return complete

    def unwanted(self, interests: Sequence[str]) -> None:
        """Deregister interests that no connection here has any more."""
        gone = [i for i in interests if i in self._asked_at and not self._hub.wanted(i)]
        for interest in gone:
            del self._asked_at[interest]
            self._removing[interest] = True
        if gone:
            self._schedule()

    def unserved(self, interest: str) -> None:
        """An event came for an interest nobody here has: take this pod out of its route."""
        if interest in self._asked_at or interest in self._adding:
            return
        now = self._clock()
        if now < self._unserved_until.get(interest, 0.0):
            return
        if len(self._unserved_until) > _REMEMBERED:
            self._unserved_until.clear()
        self._unserved_until[interest] = now + _UNSERVED_SECONDS
        self._removing.setdefault(interest, False)
        self._schedule()

    async def renew(self) -> None:
        """Register everything again, with fresh TTLs.

        :raises Unavailable: Redis is away.
        """
        # Also what is being added: it may have been written to data that Redis has lost since.
        asked_at = dict.fromkeys(self._adding, self._clock()) | self._asked_at
        await self._routes.renew([(i, self._route_ttl(i, at)) for i, at in asked_at.items()])
        if self._removing:
            self._schedule()

    async def settle(self) -> Point:
        """Register everything again and tell the reader; return from where it is complete.

        :raises SubscriptionFailure: the reader could not be told in time.
        :raises Unavailable: Redis is away.
        """
        await self.renew()
        reader = await self._pods.reader()
        return await self._barrier(list(self._asked_at), reader, [])

    def live(self) -> list[str]:
        """Return the interests that are registered."""
        return list(self._asked_at)

    async def aclose(self) -> None:
        """Deregister everything, in one round trip."""
        for task in self._tasks:
            task.cancel()
        gone = {*self._asked_at, *self._adding, *self._removing}
        self._asked_at.clear()
        try:
            await self._routes.remove(sorted(gone))
        except Unavailable as problem:
            log.warning("routes not handed back, they expire", problem=str(problem))

    def _complete_after(self, interest: str) -> Point:
        """Return from where a registered interest is complete.

        What it was complete after when it was registered may be more than has come by now.
        """
        point = self._delivery.point
        since = self._since.get(interest)
        if since is None or since.seq_in(point.stream) <= point.seq:
            self._since.pop(interest, None)
            return point
        return since

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._start)

    def _start(self) -> None:
        self._scheduled = False
        added, self._new = self._new, []
        removed, self._removing = sorted(self._removing), {}
        for interest in removed:
            self._since.pop(interest, None)
        task = asyncio.create_task(self._register(added, removed), name="register routes")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _register(self, added: list[str], removed: list[str]) -> None:
        try:
            if not added:
                await self._routes.remove(removed)
                return
            async with asyncio.timeout(self._timeout()):
                reader, pods = await self._routes.add(added, removed)
                position = await self._barrier(added, reader, pods)
        except TimeoutError:
            problem = "the reader of the stream did not answer in time; try again"
            self._fail(added, SubscriptionFailure("not subscribed", details=problem))
            self._remove_later(removed)
        except (Unavailable, SubscriptionFailure) as error:
            self._fail(added, error)
            self._remove_later(removed)
        except Exception:  # who waits for this must not wait for ever
            log.exception("routes not registered")
            problem = "something failed here; try again"
            self._fail(added, SubscriptionFailure("not subscribed", details=problem))
        else:
            self._succeed(added, position)

    def _succeed(self, added: list[str], position: Point) -> None:
        now = self._clock()
        for interest in added:
            self._asked_at[interest] = now
            self._since[interest] = position
            for complete, connection in self._adding.pop(interest).items():
                if complete.done():
                    continue
                if connection is None:
                    complete.set_result(position)
                else:
                    self._hub.add(connection, interest)
                    complete.set_result(further(position, self._delivery.point))
        self.unwanted(added)

    def _fail(self, added: list[str], error: Exception) -> None:
        for interest in added:
            for complete in self._adding.pop(interest):
                if not complete.done():
                    complete.set_exception(error)
                    complete.exception()
            self.unserved(interest)

    def _remove_later(self, interests: Iterable[str]) -> None:
        """Deregister with the next change or renewal: perhaps it was not done."""
        for interest in interests:
            if interest not in self._asked_at and interest not in self._adding:
                self._removing.setdefault(interest, False)

    async def _barrier(
        self, interests: list[str], reader: ReaderRecord | None, pods: list[str]
    ) -> Point:
        if self._shared:
            await asyncio.gather(*(self._tell(pod, interests) for pod in pods))
            return self._delivery.point
        while True:
            if reader is None:
                point = await self._unread_after(None)
                if point is not None:
                    return point
                await asyncio.sleep(_ASK_AGAIN_SECONDS)
                reader = await self._pods.reader()
                continue
            try:
                where = await self._ask(reader, interests)
            except Unavailable:
                gone = not (await self._pods.leases([reader.pod_id]))[0]
                await asyncio.sleep(0 if gone else _ASK_AGAIN_SECONDS)
            else:
                if where is not None:
                    return self._delivery.complete_after(where)
                gone = True
            asked, reader = reader, await self._pods.reader()
            if gone and reader is not None and reader.epoch == asked.epoch:
                # Nobody reads: the next reader will find our routes. What this one may still
                # push was read without them.
                self._delivery.fence(asked.epoch + 1)
                point = await self._unread_after(asked)
                if point is not None:
                    return point
                await asyncio.sleep(_ASK_AGAIN_SECONDS)

    async def _unread_after(self, last: ReaderRecord | None) -> Point | None:
        """Return from where the next reader will read; None if that is not known now.

        Redis was emptied, and does not name yet who reads. Or NATS is away: the last reader may
        have handed on, and acknowledged, more than this pod has seen. A pod that has just been
        started may not even know what stream there is.

        :param last: the reader that Redis names and that reads no more.
        """
        if not self._delivery.stream:
            return None
        try:
            unread_after, somebody_reads = await self._ingest.unread_after()
        except Unavailable:
            return None if self._delivery.mark else self._delivery.point
        if somebody_reads and last is None:
            return None
        return Point(self._delivery.stream, max(unread_after, self._delivery.mark))

    async def _ask(self, reader: ReaderRecord, interests: list[str]) -> Position | None:
        """Tell the reader; None if it answers that it is not (any more).

        :raises Unavailable: no answer.
        """
        if reader.pod_id == self._pod_id:
            return await self._ingest.barrier(interests)
        return await self._peers.barrier(reader.pod_id, interests, _ONE_ANSWER_SECONDS)

    async def _tell(self, pod_id: str, interests: list[str]) -> None:
        if pod_id == self._pod_id:
            await self._ingest.barrier(interests)
            return
        while True:
            try:
                await self._peers.barrier(pod_id, interests, _ONE_ANSWER_SECONDS)
            except Unavailable:
                if not (await self._pods.leases([pod_id]))[0]:
                    return
                await asyncio.sleep(_ASK_AGAIN_SECONDS)
            else:
                return
