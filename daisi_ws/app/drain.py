"""Leaving in good order: nothing lost, nobody refused, clients sent away in paced waves.

A client that asked for positions is told to connect elsewhere first, and is served until it has
(make before break) or the time is over; any other is closed in its wave.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from daisi_ws.app.connection import Connection, State
from daisi_ws.app.hub import Hub
from daisi_ws.app.pace import Pace
from daisi_ws.app.ports import Farewells
from daisi_ws.app.waiting import wait_set
from daisi_ws.domain import frames
from daisi_ws.domain.close import CloseReason
from daisi_ws.domain.deadlines import CLIENT_CLOSE_SECONDS
from daisi_ws.domain.errors import Unavailable
from daisi_ws.metrics import Metrics

WAVE_SECONDS: Final = 0.05
"""Between two waves; who is told to move waits at most so long before it comes back."""

PACED_SHARE: Final = 0.5
"""Of the drain time: by then everybody has been told to go. Who stays is closed as late as the
pace allows, and not before."""

SLACK_SECONDS: Final = 0.5
"""So much earlier they begin to be closed: waves may be late."""

HANDSHAKE_SECONDS: Final = 1.0
"""How long requests are waited for on connections that were accepted before the drain."""

log = structlog.get_logger(__name__)


class Drain:
    """Sends all clients of a pod away within a time; used once.

    :param steps_before: what to do first, in order: hand over reading, …
    :param farewells: told who was asked to leave, before the client is.
    :param pace: getter of how many clients may come back in a second.
    :param handshakes: returns how many clients are still sending their first request.
    :param stop_admitting: called when it is too late for newcomers.
    """

    def __init__(
        self,
        hub: Hub,
        steps_before: list[Callable[[], Awaitable[None]]],
        *,
        farewells: Farewells,
        metrics: Metrics,
        pace: Callable[[], float],
        handshakes: Callable[[], int] = lambda: 0,
        stop_admitting: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hub = hub
        self._steps = steps_before
        self._farewells = farewells
        self._metrics = metrics
        self._rate = pace
        self._handshakes = handshakes
        self._stop_admitting = stop_admitting
        self._clock = clock
        self._quick = asyncio.Event()
        self._pace = Pace(WAVE_SECONDS)
        self._told: list[Connection] = []
        self._closed = self._late = 0
        self._started = self._end = 0.0
        self._exceeding = False

    def hurry(self) -> None:
        """Close all that is left at once."""
        self._quick.set()

    async def run(self, seconds: float) -> None:
        """Drain; returns when no client is left or the time is over.

        :param seconds: drain time.
        """
        self._started = self._clock()
        self._end = self._started + seconds
        log.info(
            "draining",
            connections=len(self._hub),
            seconds=seconds,
            reconnects_per_second=self._rate(),
        )
        self._metrics.draining.set(1)
        await self._do_steps()
        self._pace.start(self._clock())
        while self._anybody_left() and not self._quick.is_set():
            if self._clock() >= self._close_by:
                break
            await self._wave(seconds)
            await wait_set(self._quick, WAVE_SECONDS)
        self._close_all()
        while len(self._hub) and self._clock() < self._end and not self._quick.is_set():
            await wait_set(self._quick, WAVE_SECONDS)
        self._tell_end()

    @property
    def _close_by(self) -> float:
        """When the last close frame must be out, so that it can be answered."""
        return self._end - min(CLIENT_CLOSE_SECONDS, (self._end - self._started) / 4)

    async def _do_steps(self) -> None:
        for step in self._steps:
            left = self._end - self._clock()
            try:
                async with asyncio.timeout(max(0.1, left)):
                    await step()
            except TimeoutError:
                log.warning("a step of the drain took too long")

    def _anybody_left(self) -> bool:
        waiting = self._clock() < self._started + HANDSHAKE_SECONDS and self._handshakes() > 0
        return len(self._hub) > 0 or waiting

    async def _wave(self, seconds: float) -> None:
        """Send away as many as may go now: first those who were not told yet."""
        # Who is joining gets its `ready` first.
        here = [c for c in self._hub.connections() if c.state is State.OPEN]
        untold = [c for c in here if not c.leaving]
        stayed = [c for c in here if c.leaving]
        now, rate = self._clock(), self._pace.steady(self._rate())
        if untold:
            end = self._started + seconds * PACED_SHARE
            going = untold[: self._take(now, len(untold), end)]
        else:
            half = self._started + seconds * PACED_SHARE
            begin = max(half, self._close_by - len(stayed) / rate - SLACK_SECONDS)
            count = self._take(now, len(stayed), self._close_by) if now >= begin else 0
            going = stayed[:count]
        self._show_left()
        await self._send_away(going)

    def _take(self, now: float, waiting: int, end: float) -> int:
        count = self._pace.take(now, waiting, end, self._rate())
        if self._pace.exceeds and not self._exceeding:
            self._exceeding = True
            log.warning(
                "draining faster than the pace: the time would not suffice",
                waiting=waiting,
                seconds_left=round(max(0.0, end - now), 3),
                reconnects_per_second=self._rate(),
            )
        return count

    async def _send_away(self, going: list[Connection]) -> None:
        told = [c for c in going if c.positions and not c.leaving]
        for connection in going:
            if connection.leaving:
                self._late += 1
                connection.close(CloseReason.GOING_AWAY)
            elif not connection.positions:
                self._closed += 1
                connection.close(CloseReason.GOING_AWAY)
        if told:
            await self._announce(told)
            self._tell(told)

    async def _announce(self, told: list[Connection]) -> None:
        """Mark them as leaving, first of all for whoever takes their sessions over."""
        for connection in told:
            connection.leaving = True
        self._told += told
        leases = [(c.principal.session_key, c.lock_value) for c in told]
        try:
            await self._farewells.announce(leases, max(1.0, self._end - self._clock()))
        except Unavailable as problem:
            # Then their next sessions count as conflicts, and admins are refused until this ends.
            log.info("clients that leave are not announced", problem=str(problem))

    def _tell(self, told: list[Connection]) -> None:
        for connection in told:
            if connection.state is State.OPEN:
                # Spread over the time until the next wave.
                after_ms = random.randrange(int(WAVE_SECONDS * 1000))  # noqa: S311 - jitter
                connection.send(frames.reconnect(after_ms))
                self._metrics.tally.other_sent += 1

    def _close_all(self) -> None:
        self._stop_admitting()
        for connection in self._hub.connections():
            if connection.reason is None:
                self._late += connection.leaving
                self._closed += not connection.leaving
            connection.close(CloseReason.GOING_AWAY)

    def _show_left(self) -> None:
        self._metrics.drain_left.set(len(self._hub))

    def _tell_end(self) -> None:
        self._show_left()
        moved = sum(c.reason is CloseReason.MOVED for c in self._told)
        counts = {"told": len(self._told), "moved": moved, "closed": self._closed}
        counts["stayed"] = self._late
        for outcome, count in counts.items():
            self._metrics.drained.labels(outcome).inc(count)
        took = round(self._clock() - self._started, 3)
        log.info("drained", left=len(self._hub), seconds=took, **counts)
