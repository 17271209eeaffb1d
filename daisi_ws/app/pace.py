"""How many clients may be sent away at a time, so that not too many come back at once."""

from __future__ import annotations

from typing import Final

MOST_WAVES: Final = 2
"""So many waves a portion makes up for at most, where a wave was late: no burst follows a pause."""

COMING_WAVES: Final = 2
"""So many waves later a client comes back at most: a wave of jitter, and its own delay."""


class Pace:
    """Deals out a rate in small portions; more than that only where the time would not suffice.

    In no second do more clients come back than the rate allows: a second sees those of its own
    waves, of those just before it, and what a late wave made up for.

    :param wave: seconds between two portions.
    :ivar exceeds: whether the last portion was larger than the rate allows.
    """

    def __init__(self, wave: float) -> None:
        self._wave = wave
        self._share = 1.0 / (1.0 + (COMING_WAVES + MOST_WAVES) * wave)
        self._at = 0.0
        self._carry = 0.0
        self.exceeds = False

    def steady(self, rate: float) -> float:
        """Return how many a second are sent away, so that no more than `rate` come back in one."""
        return rate * self._share

    def start(self, now: float) -> None:
        """Begin: the first portion may be taken now."""
        self._at = now - self._wave

    def take(self, now: float, waiting: int, end: float, rate: float) -> int:
        """Return how many of those who wait may go now.

        :param end: when all of them shall have gone; clock as `now`, in seconds.
        :param rate: how many may come back in a second.
        """
        steady = self.steady(rate)
        needed = waiting / max(end - now, self._wave)
        self.exceeds = needed > steady
        elapsed = min(now - self._at, MOST_WAVES * self._wave)
        allowed = self._carry + max(steady, needed) * elapsed
        count = min(waiting, int(allowed))
        self._carry = min(allowed - count, 1.0)
        self._at = now
        return count
