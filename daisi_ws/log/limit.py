"""A bound on lines that repeat themselves."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from structlog.typing import FilteringBoundLogger

if TYPE_CHECKING:
    from daisi_ws.log.output import Level


class RateLimit:
    """Lets one line of each event through per interval and counts the others.

    :param every_seconds: the interval, in seconds.
    :param clock: seconds, never going back.
    :param most_events: events remembered; beyond that the oldest is forgotten.
    """

    def __init__(
        self,
        every_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        most_events: int = 1000,
    ) -> None:
        self._every = every_seconds
        self._clock = clock
        self._most = most_events
        self._next: dict[str, float] = {}
        self._suppressed: dict[str, int] = {}

    def allow(self, event: str) -> int | None:
        """How many lines were held back since the last one; None to hold this one back too."""
        now = self._clock()
        if now < self._next.get(event, now):
            self._suppressed[event] = self._suppressed.get(event, 0) + 1
            return None
        if event not in self._next and len(self._next) >= self._most:
            oldest = next(iter(self._next))
            del self._next[oldest]
            self._suppressed.pop(oldest, None)
        self._next[event] = now + self._every
        return self._suppressed.pop(event, 0)


_LIMITS: dict[float, RateLimit] = {}


def limited(
    logger: FilteringBoundLogger,
    event: str,
    *,
    every_seconds: float = 5.0,
    level: Level = "warning",
    **context: object,
) -> bool:
    """Write a line unless one of the same event was written within the interval.

    The next line says in ``suppressed`` how many were held back in between.

    :param event: a constant phrase; what varies belongs into ``context``.
    :param every_seconds: shortest time between two lines of this event, in seconds.
    :returns: whether the line was let through.
    """
    limit = _LIMITS.setdefault(every_seconds, RateLimit(every_seconds))
    suppressed = limit.allow(event)
    if suppressed is None:
        return False
    if suppressed:
        context["suppressed"] = suppressed
    getattr(logger, level)(event, **context)
    return True
