"""How fast one client may send: a token bucket, and when too fast becomes a flood."""

from __future__ import annotations

from enum import Enum
from typing import Final

TELL_SECONDS: Final = 1.0
"""A client is told at most this often that it is over the limit."""

FLOOD_SECONDS: Final = 10.0
"""The window in which messages over the limit add up to a flood."""

FLOOD_FACTOR: Final = 10
"""That many bursts over the limit within the window are a flood."""


class Verdict(Enum):
    """What is to be done with a message."""

    ACCEPT = "accept"
    REFUSE = "refuse"
    """Ignore it and tell the client."""
    IGNORE = "ignore"
    """Ignore it: the client has been told."""
    FLOOD = "flood"
    """End the connection."""


class Bucket:
    """Holds up to a burst of messages and fills at the permitted rate.

    :param burst: messages it holds at the start.
    :param now: monotonic seconds.
    """

    __slots__ = ("_at", "_level", "_over", "_told", "_window")

    def __init__(self, burst: float, now: float) -> None:
        self._level = burst
        self._at = now
        self._told = float("-inf")
        self._window = now
        self._over = 0

    def take(self, now: float, rate: float, burst: float) -> Verdict:
        """Judge one message.

        :param now: monotonic seconds, not before that of the last call.
        :param rate: messages a second that are permitted in the long run.
        :param burst: messages that are permitted at once.
        """
        self._level = min(burst, self._level + (now - self._at) * rate)
        self._at = now
        if self._level >= 1:
            self._level -= 1
            return Verdict.ACCEPT
        return self._over_limit(now, burst)

    def _over_limit(self, now: float, burst: float) -> Verdict:
        if now - self._window >= FLOOD_SECONDS:
            self._window = now
            self._over = 0
        self._over += 1
        if self._over > FLOOD_FACTOR * burst:
            return Verdict.FLOOD
        if now - self._told < TELL_SECONDS:
            return Verdict.IGNORE
        self._told = now
        return Verdict.REFUSE
