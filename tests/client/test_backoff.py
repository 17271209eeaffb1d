"""Waits before redialling."""

from __future__ import annotations

from daisi_ws.client import Backoff


def test_waits_lie_under_a_bound_that_doubles() -> None:
    """Wait n lies between 0 and shortest times 2^(n-1), never above the longest."""
    backoff = Backoff(shortest=0.1, longest=10.0)
    for failures, bound in [(1, 0.1), (2, 0.2), (5, 1.6), (8, 10.0), (5000, 10.0)]:
        waits = [backoff.delay(failures) for _ in range(2000)]
        assert min(waits) >= 0
        assert bound * 0.9 < max(waits) <= bound


def test_the_jitter_is_full() -> None:
    """Waits are spread over the whole range, so that clients cut off together come back apart."""
    waits = sorted(Backoff(shortest=8.0).delay(1) for _ in range(4000))
    quarters = [sum(2 * n <= wait < 2 * n + 2 for wait in waits) for n in range(4)]
    assert all(800 < count < 1200 for count in quarters)
