"""A second's figures of a worker, from its tally: for `daisi-ws status` and the live view."""

from __future__ import annotations

from dataclasses import dataclass

from daisi_ws.metrics import LATENCY_BUCKETS, Tally


@dataclass(frozen=True, slots=True)
class Figures:
    """Counts of one second; percentiles of the latency from broker to socket write."""

    events: int = 0
    deliveries: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0


def figures(tally: Tally) -> Figures:
    """Return the figures of a tally that was collected over one second."""
    return Figures(
        events=tally.chat + tally.message + tally.agent,
        deliveries=tally.delivered,
        p50_ms=_percentile(tally.latency_counts, 0.5),
        p99_ms=_percentile(tally.latency_counts, 0.99),
    )


def _percentile(counts: list[int], share: float) -> float:
    """Return the upper edge, in ms, of the bucket in which the percentile lies."""
    rank, seen = share * sum(counts), 0
    if not rank:
        return 0.0
    for edge, count in zip(LATENCY_BUCKETS, counts, strict=False):
        seen += count
        if seen >= rank:
            return edge * 1000
    return LATENCY_BUCKETS[-1] * 1000
