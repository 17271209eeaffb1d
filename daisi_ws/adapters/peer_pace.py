"""When a batch leaves for a peer: at once after a pause, in company while many events come.

What a message between two processes costs depends little on how many events are in it: threads and
loops are woken up on both sides, for it and for its completion. So events that follow a batch
closely wait for one another, for milliseconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

SPACING_SECONDS: Final = 0.005
"""An event that comes so long after the last batch leaves at once, with all that waits."""

LONGEST_SECONDS: Final = 0.006
"""So long after the last batch all that waits leaves, whether another event comes or not. It is
longer than the spacing as a timer is a wake-up of its own, and the next event mostly is on its way.
"""

COMPANY: Final = 8
"""So many events do not wait for more."""


class Pace:
    """The pace of batches to one peer. To be made inside the running loop.

    :param clock: monotonic seconds.
    :param wake: set when what waits is to leave although nobody asks.
    """

    __slots__ = ("_clock", "_last", "_loop", "_timer", "_wake")

    def __init__(self, clock: Callable[[], float], wake: asyncio.Event) -> None:
        self._clock = clock
        self._wake = wake
        self._loop = asyncio.get_running_loop()
        self._last: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def due(self, waiting: int) -> bool:
        """Tell whether a batch leaves now; if not, `wake` is set when it does.

        :param waiting: how many events wait, one at least.
        """
        if self._last is None or waiting >= COMPANY:
            return True
        passed = self._clock() - self._last
        if passed >= SPACING_SECONDS:
            return True
        if self._timer is None:
            self._timer = self._loop.call_later(LONGEST_SECONDS - passed, self._time_is_up)
        return False

    def left(self) -> None:
        """Note that a batch leaves now."""
        self.close()
        self._last = self._clock()

    def close(self) -> None:
        """Set nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _time_is_up(self) -> None:
        self._timer = None
        self._last = None
        self._wake.set()
