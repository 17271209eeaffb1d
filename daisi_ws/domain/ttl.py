"""Times to live that follow the activity behind them."""

from __future__ import annotations


def adaptive_ttl(
    idle_seconds: float, *, shortest: float, longest: float, threshold: float
) -> float:
    """Return the TTL in seconds of an entry whose last activity was `idle_seconds` ago.

    :param shortest: without activity.
    :param longest: with activity.
    :param threshold: seconds for which the last activity still counts.
    """
    return longest if idle_seconds < threshold else shortest
