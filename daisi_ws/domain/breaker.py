"""A circuit breaker: after failures in a row leave a peer alone for a while, then probe once."""

from __future__ import annotations

from enum import Enum


class BreakerState(Enum):
    """Where a breaker stands."""

    CLOSED = "closed"
    OPEN = "open"
    PROBING = "probing"


class Breaker:
    """Counts consecutive failures; times are monotonic seconds passed in by the caller.

    ::

        CLOSED --threshold failures--> OPEN --open_seconds, then attempt()--> PROBING
        PROBING --failure--> OPEN        any --success or reset--> CLOSED

    :param threshold: failures in a row that open it, at least 1.
    :param open_seconds: how long it then stays open before one probe is allowed.
    """

    __slots__ = ("_until", "failures", "open_seconds", "state", "threshold")

    def __init__(self, threshold: int, open_seconds: float) -> None:
        self.threshold = threshold
        self.open_seconds = open_seconds
        self.failures = 0
        self.state = BreakerState.CLOSED
        self._until = 0.0

    @property
    def is_open(self) -> bool:
        """Tell whether the peer is being left alone."""
        return self.state is BreakerState.OPEN

    def wait(self, now: float) -> float:
        """Return for how many seconds no attempt is allowed; 0 if one is allowed now."""
        return max(0.0, self._until - now) if self.is_open else 0.0

    def attempt(self, now: float) -> bool:
        """Ask to try; an open breaker allows one probe when its time is over."""
        if self.is_open and now >= self._until:
            self.state = BreakerState.PROBING
            return True
        return self.state is BreakerState.CLOSED

    def failure(self, now: float) -> bool:
        """Note a failure; True if the breaker left `CLOSED` because of it."""
        self.failures += 1
        was = self.state
        if was is BreakerState.CLOSED and self.failures < self.threshold:
            return False
        if was is not BreakerState.OPEN:
            self.state = BreakerState.OPEN
            self._until = now + self.open_seconds
        return was is BreakerState.CLOSED

    def success(self) -> bool:
        """Note a success, or forget everything; True if the breaker was not `CLOSED`."""
        was = self.state
        self.failures = 0
        self.state = BreakerState.CLOSED
        return was is not BreakerState.CLOSED
