""":class:`daisi_ws.app.ports.Peers` over gRPC: one ordered stream to each peer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from daisi_ws.adapters.peer_context import PeerContext, PeerSettings
from daisi_ws.adapters.peer_link import PeerLink
from daisi_ws.app.ports import Position
from daisi_ws.domain.packets import Item
from daisi_ws.metrics import Metrics

CLOSE_SECONDS = 3.0

log = structlog.get_logger(__name__)


def _nothing(_: str) -> None:
    pass


class PeersGrpc:
    """The other pods. To be made inside the running loop.

    :param pod_id: this pod.
    :param lookup: pod ID → gRPC address, None if the pod has no lease now. May raise
        `Unavailable`: the address known so far is used then.
    :param lease_gone: told a pod ID each time `lookup` found no lease; whoever decides that the
        peer is gone calls :meth:`drop`.
    :param clock: monotonic seconds, the loop's by default.
    """

    def __init__(
        self,
        pod_id: str,
        lookup: Callable[[str], Awaitable[str | None]],
        settings: PeerSettings,
        metrics: Metrics,
        *,
        lease_gone: Callable[[str], None] = _nothing,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._context = PeerContext(
            pod_id=pod_id,
            settings=settings,
            metrics=metrics,
            clock=clock or self._loop.time,
            lookup=lookup,
            lease_gone=lease_gone,
            changed=self._changed,
            refused=self._refused,
        )
        self._links: dict[str, PeerLink] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._on_change: list[Callable[[], None]] = []
        self._on_stale: list[Callable[[int], None]] = []
        self._closed = False

    # -- events -----------------------------------------------------------------------------

    def push(self, pod_id: str, item: Item) -> None:
        """See :meth:`Peers.push`."""
        link = self._links.get(pod_id) or self._link(pod_id)
        link.push(item)

    def reading(self, epoch: int, stream: str) -> None:
        """See :meth:`Peers.reading`."""
        course = self._context.course
        if (epoch, stream) == (course.epoch, course.stream):
            return
        self.forget()
        course.epoch, course.stream = epoch, stream

    def forget(self) -> None:
        """Drop every event of every peer: this pod is not the reader any more."""
        course = self._context.course
        course.progress = -1
        course.stale = False
        for link in self._links.values():
            link.forget()
            link.kept = False

    def keep(self, pod_ids: Sequence[str]) -> None:
        """See :meth:`Peers.keep`."""
        for pod_id, link in self._links.items():
            link.kept = pod_id in pod_ids
        for pod_id in pod_ids:
            link = self._link(pod_id)
            link.kept = True
            link.start()

    def pending(self) -> list[str]:
        """See :meth:`Peers.pending`."""
        return [pod_id for pod_id, link in self._links.items() if link.queue.held]

    def progress(self, upto: int) -> None:
        """See :meth:`Peers.progress`."""
        self._context.course.progress = upto

    def floor(self) -> int | None:
        """See :meth:`Peers.floor`."""
        floors = [link.queue.floor() for link in self._links.values() if link.queue.held]
        return min((floor for floor in floors if floor is not None), default=None)

    def withheld(self) -> int | None:
        """See :meth:`Peers.withheld`."""
        floors = (link.queue.withheld for link in self._links.values())
        return min((floor for floor in floors if floor is not None), default=None)

    def has_room(self) -> bool:
        """See :meth:`Peers.has_room`."""
        return not self._context.course.full

    def on_change(self, callback: Callable[[], None]) -> None:
        """See :meth:`Peers.on_change`."""
        self._on_change.append(callback)

    def on_stale(self, callback: Callable[[int], None]) -> None:
        """See :meth:`Peers.on_stale`. Nothing is pushed on until a newer :meth:`reading`, or
        :meth:`forget`; until then :meth:`floor` still tells what was not accepted."""
        self._on_stale.append(callback)

    # -- questions --------------------------------------------------------------------------

    async def barrier(
        self, pod_id: str, interests: Sequence[str], timeout: float
    ) -> Position | None:
        """See :meth:`Peers.barrier`."""
        reply = await self._link(pod_id).barrier(interests, timeout)
        return Position(reply.epoch, reply.stream, reply.position) if reply.reading else None

    async def displace(self, pod_id: str, session_key: str, holder: str, timeout: float) -> None:
        """See :meth:`Peers.displace`."""
        await self._link(pod_id).displace(session_key, holder, timeout)

    async def has_session(self, pod_id: str, session_key: str, holder: str, timeout: float) -> bool:
        """See :meth:`Peers.has_session`."""
        return await self._link(pod_id).has_session(session_key, holder, timeout)

    # -- peers that come and go -------------------------------------------------------------

    def drop(self, pod_id: str) -> None:
        """Give a peer up, its lease is gone: what waits for it is forgotten and counted."""
        link = self._links.pop(pod_id, None)
        if link is None:
            return
        log.info("peer dropped", peer=pod_id, events=link.queue.held)
        self._end(link, "dropped")
        self._changed()

    def revive(self, pod_id: str) -> None:
        """See :meth:`Peers.revive`."""
        if link := self._links.get(pod_id):
            link.revive()

    def apply(self, settings: PeerSettings) -> None:
        """Take over changed settings; TLS files apply from the next connection on."""
        self._context.settings = settings
        for link in self._links.values():
            link.apply()

    async def aclose(self) -> None:
        """End all streams and channels; what waits is forgotten."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for link in self._links.values():
            self._end(link, "shutdown")
        self._links.clear()
        if self._ending:
            await asyncio.wait(self._ending, timeout=CLOSE_SECONDS)

    def _link(self, pod_id: str) -> PeerLink:
        link = self._links.get(pod_id)
        if link is None:
            link = self._links[pod_id] = PeerLink(pod_id, self._context)
            if self._closed:
                link.dispose("shutdown")
            elif self._timer is None:
                self._timer = self._loop.call_later(self._context.settings.tick, self._tick)
        return link

    def _end(self, link: PeerLink, reason: str) -> None:
        task = link.dispose(reason)
        if task is not None:
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    def _tick(self) -> None:
        self._timer = None
        now = self._context.clock()
        for pod_id, link in list(self._links.items()):
            link.tick(now)
            if link.useless(now):
                del self._links[pod_id]
                link.dispose("idle")
        if self._links:
            self._timer = self._loop.call_later(self._context.settings.tick, self._tick)

    def _changed(self) -> None:
        for callback in self._on_change:
            callback()

    def _refused(self, epoch: int) -> None:
        if self._context.course.stale:
            return
        self._context.course.stale = True
        log.warning("refused as a reader that was", epoch=self._context.course.epoch, newer=epoch)
        for callback in self._on_stale:
            callback(epoch)
