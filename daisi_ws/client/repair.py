"""What has to be asked for again, one thing at a time and not too often."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from daisi_ws.client.backoff import Backoff
from daisi_ws.client.ending import Rejected, Unreachable


class Repair:
    """Asks as long as something is needed, with pauses that grow while that goes on.

    A client gets gaps because it is slow: what it asks for again must not make it slower.

    :param needed: tells whether something has to be asked for.
    :param ask: asks for it and waits for the answer.
    :param pauses: before each question; they grow until nothing was needed for `steady` seconds.
    """

    def __init__(
        self, needed: Callable[[], bool], ask: Callable[[], Awaitable[None]], pauses: Backoff
    ) -> None:
        self._needed = needed
        self._ask = ask
        self._pauses = pauses
        self._task: asyncio.Task[None] | None = None
        self._rounds = 0
        self._last = 0.0

    def look(self) -> None:
        """Begin, if something is needed and nothing is being asked for."""
        if self._needed() and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._run(), name="repair")

    def stop(self) -> None:
        """Ask no more: the connection is gone."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self) -> None:
        while self._needed():
            steady = time.monotonic() - self._last > self._pauses.steady
            self._rounds = 1 if steady else self._rounds + 1
            await asyncio.sleep(self._pauses.delay(self._rounds))
            try:
                if self._needed():
                    await self._ask()
            except (Rejected, TimeoutError, Unreachable):
                # Unreachable may be who makes tokens; if it is the gateway, `stop` follows.
                continue
            finally:
                self._last = time.monotonic()
