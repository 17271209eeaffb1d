"""How often something may happen, for each of many keys: token buckets in one number each.

The generic cell rate algorithm (ITU-T I.371): of each key only the time is kept at which its bucket
will be full again. Whose bucket is full needs no entry, so that a table holds no more than who came
lately, and never more than it is allowed to.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

MOST_KEYS: Final = 65_536
"""Keys remembered at most, 10 to 20 MB; beyond that who came longest ago starts anew."""


class Rates:
    """Token buckets by key.

    :param most_keys: entries at most.
    """

    __slots__ = ("_full_at", "_most")

    def __init__(self, most_keys: int = MOST_KEYS) -> None:
        # Who came longest ago is first. A plain dict would look for it through all that it forgot.
        self._full_at: OrderedDict[str, float] = OrderedDict()
        self._most = most_keys

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, key: str, now: float, rate: float, burst: float) -> float:
        """Take one token of a key, if there is one.

        :param now: monotonic seconds.
        :param rate: tokens a second in the long run, more than 0.
        :param burst: tokens at once, 1 or more.
        :returns: 0 if it was taken, else the seconds until one can be.
        """
        # No bucket is emptier than empty: after a change of the rate one that is may seem so.
        full_at = min(max(self._full_at.pop(key, now), now), now + burst / rate)
        wait = full_at - now - (burst - 1) / rate
        # Sums of fractions: a token that is a billionth short is there.
        taken = wait <= 1e-9
        self._full_at[key] = full_at + 1 / rate if taken else full_at
        self._tidy(now)
        return 0.0 if taken else wait

    def _tidy(self, now: float) -> None:
        """Forget full buckets, oldest first: more than come in, so that they do not pile up."""
        for _ in range(2):
            oldest = next(iter(self._full_at))
            if self._full_at[oldest] > now and len(self._full_at) <= self._most:
                return
            del self._full_at[oldest]
            if not self._full_at:
                return
