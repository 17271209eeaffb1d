"""How many clients may be sent away at a time, so that not too many come back at once."""

from __future__ import annotations


class Pace:
    """Deals out a rate in small portions; more than that only where the time would not suffice.

    :param wave: seconds between two portions.
    :ivar exceeds: whether the last portion was larger than the rate allows.
    """

    def __init__(self, wave: float) -> None:
        self._wave = wave
        self._at = 0.0
        self._carry = 0.0
        self.exceeds = False

    def start(self, now: float) -> None:
        """Begin: the first portion may be taken now."""
        self._at = now - self._wave

    def take(self, now: float, waiting: int, end: float, rate: float) -> int:
        """Return how many of those who wait may go now.

        :param end: when all of them shall have gone; clock as `now`, in seconds.
        :param rate: how many may go in a second.
        """
        needed = waiting / max(end - now, self._wave)
        self.exceeds = needed > rate
        # What a loop that was busy has missed is not made up for at once.
        elapsed = min(now - self._at, 2 * self._wave)
        allowed = self._carry + max(rate, needed) * elapsed
        count = min(waiting, int(allowed))
        self._carry = min(allowed - count, 1.0)
        self._at = now
        return count
