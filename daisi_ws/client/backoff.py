"""How long to wait before dialling again."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with full jitter, so that clients cut off together come back apart.

    See "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

    :param shortest: upper bound of the first wait, in seconds.
    :param longest: upper bound of every wait, in seconds.
    :param steady: a connection that lasted this many seconds starts the series over; one that is
        ended right after `ready` does not, or a gateway in trouble would be hammered.
    """

    shortest: float = 0.1
    longest: float = 10.0
    steady: float = 5.0

    def delay(self, failures: int) -> float:
        """Return the wait in seconds after `failures` (1 or more) endings in a row."""
        bound = min(self.longest, self.shortest * 2.0 ** min(failures - 1, 60))
        return random.uniform(0.0, bound)  # noqa: S311 - jitter
