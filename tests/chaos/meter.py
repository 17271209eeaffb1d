"""What happened in each second: events, deliveries, their latency, clients connected."""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

STOOD_STILL_SECONDS: Final = 0.5
"""Our own loop so late: the machine is overloaded, and the gateway's loops stand still, too."""

_STEPS: Final = 12
"""Buckets of latency for each tenfold."""
_SHORTEST: Final = 1e-4
_BUCKETS: Final = 6 * _STEPS


def _buckets() -> list[int]:
    return [0] * _BUCKETS


@dataclass(slots=True)
class Second:
    """Counts of one second; `lag` is by how much our own loop was late."""

    published: int = 0
    delivered: int = 0
    connected: int = 0
    lag: float = 0.0
    buckets: list[int] = field(default_factory=_buckets)
    slowest: float = 0.0

    def latency(self, share: float) -> float:
        """Return a percentile of the latency in seconds, 0 where nothing was delivered."""
        return percentile(self.buckets, share)


def percentile(buckets: list[int], share: float) -> float:
    """Return the middle of the bucket in which the percentile lies, in seconds."""
    total = sum(buckets)
    if not total:
        return 0.0
    number = bisect_left(list(accumulate(buckets)), share * total)
    return float(_SHORTEST * 10 ** ((number + 0.5) / _STEPS))


class Meter:
    """Seconds since the beginning, and what happened in each."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.seconds: dict[int, Second] = defaultdict(Second)
        self.slow: list[tuple[float, float]] = []

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.began

    def published(self, at: float) -> None:
        """Count an event that is in the stream, by when it was offered."""
        self.seconds[int(at - self.began)].published += 1

    def delivered(self, offered: float, arrived: float, late: float) -> None:
        """Count a delivery; what took longer than `late` seconds is remembered one by one."""
        second = self.seconds[int(arrived - self.began)]
        second.delivered += 1
        took = max(arrived - offered, _SHORTEST)
        bucket = min(int(math.log10(took / _SHORTEST) * _STEPS), _BUCKETS - 1)
        second.buckets[bucket] += 1
        second.slowest = max(second.slowest, took)
        if took > late:
            self.slow.append((offered - self.began, arrived - self.began))

    def sample(self, connected: int, lag: float) -> None:
        """Note how many clients are connected now, and by how much our own loop was late."""
        second = self.seconds[int(self.now)]
        second.connected = connected
        second.lag = max(second.lag, lag)

    def stood_still(self, since: float, until: float) -> bool:
        """Tell whether the machine had no time for us, between two seconds of the run."""
        seconds = (self.seconds.get(n) for n in range(int(since), int(until) + 1))
        return any(s is not None and s.lag > STOOD_STILL_SECONDS for s in seconds)

    def overall(self) -> list[int]:
        """Return all deliveries' latencies as one histogram."""
        total = _buckets()
        for second in self.seconds.values():
            for number, count in enumerate(second.buckets):
                total[number] += count
        return total
