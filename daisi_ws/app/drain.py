"""Leaving in good order: nothing lost, nobody refused, clients sent away in paced waves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from daisi_ws.app.hub import Hub
from daisi_ws.domain.close import CloseReason

WAVE_SECONDS: Final = 0.1
PACED_SHARE: Final = 0.5
"""Of the drain time: the waves end here, the rest is for slow closes and handing back."""

FULL_PACE: Final = 500
"""Connections a second that may always be closed; more only where the time would not do."""

log = structlog.get_logger(__name__)


class Drain:
    """Closes all clients of a pod within a time.

    :param steps_before: what to do first, in order: stop accepting, hand over reading, …
    """

    def __init__(
        self,
        hub: Hub,
        steps_before: list[Callable[[], Awaitable[None]]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hub = hub
        self._steps = steps_before
        self._clock = clock
        self._quick = asyncio.Event()

    def hurry(self) -> None:
        """Close all that is left at once."""
        self._quick.set()

    async def run(self, seconds: float) -> None:
        """Drain; returns when no client is left or the time is over.

        :param seconds: drain time.
        """
        started = self._clock()
        log.info("draining", connections=len(self._hub), seconds=seconds)
        for step in self._steps:
            left = seconds - (self._clock() - started)
            try:
                async with asyncio.timeout(max(0.1, left)):
                    await step()
            except TimeoutError:
                log.warning("a step of the drain took too long")
        await self._close_in_waves(started + seconds * PACED_SHARE)
        await self._wait_gone(started + seconds)
        log.info("drained", left=len(self._hub), seconds=round(self._clock() - started, 3))

    async def _close_in_waves(self, end: float) -> None:
        while leaving := [c for c in self._hub.connections() if c.reason is None]:
            waves = max(1, int((end - self._clock()) / WAVE_SECONDS))
            size = max(int(FULL_PACE * WAVE_SECONDS), -(-len(leaving) // waves))
            if self._quick.is_set():
                size = len(leaving)
            for connection in leaving[:size]:
                connection.close(CloseReason.GOING_AWAY)
            await self._pause(WAVE_SECONDS)

    async def _wait_gone(self, end: float) -> None:
        while len(self._hub) and self._clock() < end and not self._quick.is_set():
            await self._pause(WAVE_SECONDS)

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._quick.wait(), seconds)
        except TimeoutError:
            return
