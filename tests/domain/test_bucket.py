"""The token bucket, by a clock of its own."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from daisi_ws.domain.bucket import FLOOD_FACTOR, FLOOD_SECONDS, TELL_SECONDS, Bucket, Verdict


def test_a_burst_passes_and_then_the_rate() -> None:
    """A full bucket lets its burst through at once, and one message more for each refill."""
    bucket = Bucket(3, 0.0)
    assert [bucket.take(0.0, 2, 3) for _ in range(3)] == [Verdict.ACCEPT] * 3
    assert bucket.take(0.0, 2, 3) is Verdict.REFUSE
    assert bucket.take(0.5, 2, 3) is Verdict.ACCEPT
    assert bucket.take(0.5, 2, 3) is Verdict.IGNORE
    assert [bucket.take(100.0, 2, 3) for _ in range(3)] == [Verdict.ACCEPT] * 3
    assert bucket.take(100.0, 2, 3) is not Verdict.ACCEPT


def test_the_client_is_told_at_most_once_in_a_while() -> None:
    """Between two refusals that are told lies at least the interval."""
    bucket = Bucket(1, 0.0)
    bucket.take(0.0, 0.0, 1000)
    verdicts = [bucket.take(i / 10, 0.0, 1000) for i in range(25)]
    told = [i for i, verdict in enumerate(verdicts) if verdict is Verdict.REFUSE]
    assert told == [0, round(TELL_SECONDS * 10), round(TELL_SECONDS * 20)]


def test_far_over_the_limit_is_a_flood() -> None:
    """That many bursts over the limit within the window end the connection."""
    bucket = Bucket(2, 0.0)
    verdicts = [bucket.take(1.0, 0.0, 2) for _ in range(2 + FLOOD_FACTOR * 2 + 1)]
    assert verdicts[-1] is Verdict.FLOOD
    assert Verdict.FLOOD not in verdicts[:-1]


def test_a_little_over_the_limit_for_long_is_no_flood() -> None:
    """What is over the limit is forgotten with its window."""
    bucket = Bucket(1, 0.0)
    step = FLOOD_SECONDS / (FLOOD_FACTOR - 1)
    verdicts = {bucket.take(i * step, 0.0, 1) for i in range(1000)}
    assert Verdict.FLOOD not in verdicts


def test_a_smaller_limit_applies_at_once() -> None:
    """What the bucket holds is cut to a burst that has become smaller."""
    bucket = Bucket(100, 0.0)
    assert bucket.take(0.0, 1, 2) is Verdict.ACCEPT
    assert bucket.take(0.0, 1, 2) is Verdict.ACCEPT
    assert bucket.take(0.0, 1, 2) is not Verdict.ACCEPT


@given(
    rate=st.floats(0.1, 100),
    burst=st.integers(1, 50),
    gaps=st.lists(st.floats(0, 2), max_size=200),
)
def test_never_more_than_burst_and_rate(rate: float, burst: int, gaps: list[float]) -> None:
    """Over any time from the start at most the burst and the refill pass."""
    bucket, now, accepted = Bucket(burst, 0.0), 0.0, 0
    for gap in gaps:
        now += gap
        accepted += bucket.take(now, rate, burst) is Verdict.ACCEPT
        assert accepted <= burst + now * rate + 1e-6
