"""Make before break: the next connection is opened while the old one is still read."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

from daisi_ws.client.backoff import Backoff
from daisi_ws.client.ending import Ended, Refused, Unreachable
from daisi_ws.client.link import Link

OVERLAP_SECONDS: Final = 1.0
"""So long the old connection is read on where the new one does not give again what it has."""


class Move:
    """Opens the connection that follows one, once.

    What the old one still has is read before the new one is read: the new one goes on from a
    position before that, so nothing is missing, and what comes again is held back.

    :param old: is closed here, if the gateway has not done so.
    :param dial: opens a connection.
    :param backoff: between dials that fail, while the old connection is there.
    """

    def __init__(self, old: Link, dial: Callable[[], Awaitable[Link]], backoff: Backoff) -> None:
        self._old = old
        self._dial = dial
        self._backoff = backoff
        self._ended = asyncio.Event()
        self._dialling = self._displaced = False
        self._task: asyncio.Task[Link | None] | None = None

    def start(self, after_seconds: float) -> None:
        """Begin after so many seconds, unless it has begun."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(after_seconds), name="move")

    async def successor(self) -> Link | None:
        """Take in that the old connection has ended, and return the new one.

        None: there is none, nor will be.
        """
        self._ended.set()
        if self._task is None or not self._dialling:
            return None
        return await self._task

    def abandon(self) -> None:
        """Stop, whatever has been reached; a connection that is open already is the dialler's."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self, after_seconds: float) -> Link | None:
        await asyncio.sleep(after_seconds)
        failures = 0
        while (new := await self._try()) is None:
            failures += 1
            if self._ended.is_set() or self._displaced:
                return None
            await asyncio.sleep(self._backoff.delay(failures))
        if not new.ready.recovered:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(OVERLAP_SECONDS):
                    await self._ended.wait()
        await self._old.close()
        return new

    async def _try(self) -> Link | None:
        self._dialling = True
        try:
            return await self._dial()
        except (Refused, Unreachable):
            self._dialling = False
        except Ended:
            # What follows is for the end of the old connection to say.
            self._displaced = True
            self._dialling = False
        return None
