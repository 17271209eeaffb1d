"""What clients missed, read from the stream itself: many of them share a scan.

Two ways lead to the events of an interest after a position. A *scan* reads a range of the whole
stream once, for everybody who waits and whoever comes in the next seconds: cheap when many come
back at once, as after a worker's death. A read of *one subject* is cheap when few come back from
far behind. What is read is kept for a while, within bounds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from heapq import merge
from typing import Final

import structlog

from daisi_ws.app.ports import Bounds, Received, Stream
from daisi_ws.app.waiting import end_tasks
from daisi_ws.app.window import Entry, Window, entry_of
from daisi_ws.config import Resume
from daisi_ws.domain.errors import Unavailable
from daisi_ws.domain.resume import Claim, NotRecovered, Reason, Recovery, Replayed
from daisi_ws.log import limited
from daisi_ws.metrics import Metrics

KEEP_SECONDS: Final = 10.0
"""What was read is kept so long after it was last needed."""

SCAN_PER_READER: Final = 50
"""Reading one subject costs about as much as scanning so many events."""

_CHUNK: Final = 5_000
_AT_ONCE: Final = 8

log = structlog.get_logger(__name__)


@dataclass(eq=False, slots=True)
class _Request:
    """Somebody who waits: for what of these interests came after a sequence, up to another."""

    interests: Collection[str]
    streams: set[str]
    after: int
    upto: int
    answer: asyncio.Future[list[Entry]]


class Replays:
    """Reads what connections of this pod missed.

    :param settings: getter of the bounds.
    :param clock: monotonic seconds; `wall`: Unix time in seconds.
    """

    def __init__(
        self,
        stream: Stream,
        settings: Callable[[], Resume],
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._stream = stream
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._wall = wall
        self._waiting: list[_Request] = []
        self._task: asyncio.Task[None] | None = None
        self._window = Window("", 0)
        self._forget: asyncio.TimerHandle | None = None

    async def read(
        self, interests: Collection[str], claim: Claim, stream: str, upto: int
    ) -> Recovery:
        """Return everything that came for these interests after the claim, up to `upto`.

        :param stream: identity of the stream that `upto` is a sequence of.
        :raises NotRecovered: it is gone, or more than is given to one client, or unknown.
        """
        settings, after = self._settings(), claim.seq or 0
        answer: asyncio.Future[list[Entry]] = asyncio.get_running_loop().create_future()
        streams = {stream, claim.stream or stream}
        self._waiting.append(_Request(interests, streams, after, upto, answer))
        if self._task is None:
            if self._forget is not None:
                # Else what is being read would be forgotten, and everybody's read one by one.
                self._forget.cancel()
            self._task = asyncio.create_task(self._serve(), name="replay")
        try:
            async with asyncio.timeout(settings.timeout_seconds):
                entries = await answer
        except TimeoutError:
            raise NotRecovered("busy") from None
        self._check_bounds(entries, settings)
        events = [Replayed(entry.seq, entry.frame) for entry in entries]
        return Recovery(after=after, upto=max(after, upto), events=events, stream=stream)

    async def aclose(self) -> None:
        """Stop; whoever waits is told so."""
        await end_tasks(self._task)
        if self._forget is not None:
            self._forget.cancel()

    def _check_bounds(self, entries: list[Entry], settings: Resume) -> None:
        if len(entries) > settings.max_events:
            raise NotRecovered("too_many")
        if sum(len(entry.frame) for entry in entries) > settings.max_bytes:
            raise NotRecovered("too_large")
        if entries and self._wall() - entries[0].stored_ns / 1e9 > settings.max_age_seconds:
            raise NotRecovered("too_old")

    # -- everybody who waits, together ------------------------------------------------------------

    async def _serve(self) -> None:
        try:
            while self._waiting:
                requests = [r for r in self._waiting if not r.answer.done()]
                self._waiting = []
                await self._answer(requests)
        finally:
            self._task = None
            _refuse(self._waiting, "unavailable")
            self._keep_for_a_while()

    async def _answer(self, requests: list[_Request]) -> None:
        try:
            bounds = await self._stream.bounds()
            valid = [request for request in requests if _is_valid(request, bounds)]
            if bounds.stream != self._window.stream:
                self._window = Window(bounds.stream, 0)
            await self._read(valid)
        except Unavailable as problem:
            limited(log, "what clients missed cannot be read", problem=str(problem))
            _refuse(requests, "unavailable")
        except Exception:  # whoever waits must not wait for ever
            log.exception("what clients missed was not read")
            _refuse(requests, "unavailable")

    async def _read(self, requests: list[_Request]) -> None:
        """Answer near requests from a scan, and those from far behind one by one."""
        near = self._worth_a_scan(requests)
        if near:
            await self._scan(min(r.after for r in near), max(r.upto for r in near))
            requests = await self._still_valid(requests)
        far = []
        for request in requests:
            if self._window.covers(request.after, request.upto):
                entries = self._window.entries(request.interests, request.after, request.upto)
                _give(request, entries)
            else:
                far.append(request)
        limit = asyncio.Semaphore(self._readers_at_once())
        await asyncio.gather(*(self._read_subjects(request, limit) for request in far))

    async def _still_valid(self, requests: Iterable[_Request]) -> list[_Request]:
        """Refuse those of whom something may have been dropped by the stream while it was read."""
        bounds = await self._stream.bounds()
        return [request for request in requests if _is_valid(request, bounds)]

    def _worth_a_scan(self, requests: Iterable[_Request]) -> list[_Request]:
        """Return the requests, nearest first, for which scanning costs less than reading each."""
        near: list[_Request] = []
        ordered = sorted(requests, key=lambda request: -request.after)
        upto = max((request.upto for request in ordered), default=0)
        for count, request in enumerate(ordered, 1):
            if self._window.missing(request.after, upto) <= SCAN_PER_READER * count:
                near = ordered[:count]
        return near

    async def _scan(self, after: int, upto: int) -> None:
        """Extend the window to this range, within the bytes that it may have."""
        self._metrics.resume_scans.inc()
        limit = self._settings().pod_max_bytes
        window = self._window
        if not window or after > window.upto or upto <= window.after:
            window = self._window = Window(window.stream, after)
        earlier = window.after
        await self._extend(window, upto)
        if after < earlier:
            before = Window(window.stream, after)
            await self._extend(before, earlier)
            if before.upto >= earlier:
                window.prepend(before)
        window.shrink(limit)

    async def _extend(self, window: Window, upto: int) -> None:
        limit = self._settings().pod_max_bytes
        while window.upto < upto and window.size <= limit:
            end = min(upto, window.upto + _CHUNK)
            window.extend(await self._stream.read(window.upto, end), end)

    async def _read_subjects(self, request: _Request, limit: asyncio.Semaphore) -> None:
        most = self._settings().max_events + 1
        try:
            async with limit:
                read = [
                    await self._stream.read(request.after, request.upto, interest, most)
                    for interest in request.interests
                ]
                if not await self._still_valid([request]):
                    return
        except Unavailable as problem:
            limited(log, "what a client missed cannot be read", problem=str(problem))
            _refuse([request], "unavailable")
            return
        _give(request, _entries(read))

    def _readers_at_once(self) -> int:
        settings = self._settings()
        return max(1, min(_AT_ONCE, settings.pod_max_bytes // settings.max_bytes))

    def _keep_for_a_while(self) -> None:
        if self._forget is not None:
            self._forget.cancel()
        loop = asyncio.get_running_loop()
        self._forget = loop.call_later(KEEP_SECONDS, self._drop_window)

    def _drop_window(self) -> None:
        self._window = Window("", 0)


def _is_valid(request: _Request, bounds: Bounds) -> bool:
    reason = _refusal(request, bounds)
    if reason is not None:
        _refuse([request], reason)
    return reason is None


def _refusal(request: _Request, bounds: Bounds) -> Reason | None:
    if request.streams != {bounds.stream}:
        return "other_stream"
    if request.after > bounds.last:
        return "future"
    return "purged" if bounds.lacks(request.after, request.upto) else None


def _refuse(requests: Iterable[_Request], reason: Reason) -> None:
    for request in requests:
        if not request.answer.done():
            request.answer.set_exception(NotRecovered(reason))
            request.answer.exception()


def _give(request: _Request, entries: list[Entry]) -> None:
    if not request.answer.done():
        request.answer.set_result(entries)


def _entries(read: list[list[Received]]) -> list[Entry]:
    found = (entry_of(message) for message in merge(*read, key=lambda message: message.seq))
    return [entry for entry in found if entry is not None]
