"""Watches that the loop turns, and makes sure of everything after it stood still.

A process that was stopped for a while may have lost its sessions, its lease and the reading of
the stream without knowing. Until it has asked, it writes nothing to any socket, and as the reader
hands on and acknowledges nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from daisi_ws.app.delivery import PAUSE_SECONDS, Delivery
from daisi_ws.app.ingest import Ingest
from daisi_ws.app.waiting import until_tick
from daisi_ws.domain.errors import Unavailable
from daisi_ws.metrics import Metrics

_ASK_AGAIN_SECONDS: Final = 0.2
_TELL_LAG_TICKS: Final = 10
# Counting tasks goes through all of them, and each connection has one: with many, less often.
_COUNT_TICKS_AT_MOST: Final = 50
_TASKS_FOR_A_TICK: Final = 100

log = structlog.get_logger(__name__)


class Pulse:
    """Ticks ten times a second.

    :param verify_sessions: renews all session locks and closes the connections that lost theirs;
        False while that cannot be done.
    :param wake: has the membership refreshed at once.
    """

    def __init__(
        self,
        *,
        delivery: Delivery,
        ingest: Ingest,
        metrics: Metrics,
        verify_sessions: Callable[[], Awaitable[bool]],
        wake: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._delivery = delivery
        self._ingest = ingest
        self._metrics = metrics
        self._verify_sessions = verify_sessions
        self._wake = wake
        self._clock = clock
        self.lag = 0.0
        self.ticked_at = clock()

    async def run(self) -> None:
        """Tick until cancelled."""
        worst, ticks, count_at = 0.0, 0, _TELL_LAG_TICKS
        while True:
            wait = until_tick()
            due = self._clock() + wait
            await asyncio.sleep(wait)
            self.ticked_at = self._clock()
            self.lag = max(0.0, self.ticked_at - due)
            worst, ticks = max(worst, self.lag), ticks + 1
            if self.lag > PAUSE_SECONDS:
                await self._make_sure()
            self._delivery.trust(self._clock())
            if ticks % _TELL_LAG_TICKS == 0:
                self._metrics.loop_lag.set(worst)
                worst = 0.0
            if ticks >= count_at:
                tasks = len(asyncio.all_tasks())
                self._metrics.tasks.set(tasks)
                pause = min(tasks // _TASKS_FOR_A_TICK, _COUNT_TICKS_AT_MOST)
                count_at = ticks + max(pause, _TELL_LAG_TICKS)

    async def _make_sure(self) -> None:
        log.warning("the loop stood still", seconds=round(self.lag, 3))
        self._delivery.hold()
        self._wake()
        while True:
            try:
                if await self._verify_sessions():
                    await self._ingest.verify()
                    break
            except Unavailable as problem:
                log.warning("cannot make sure of the reading yet", problem=str(problem))
            await asyncio.sleep(_ASK_AGAIN_SECONDS)
        self._delivery.release()
