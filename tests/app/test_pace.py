"""How many go at a time."""

from __future__ import annotations

import itertools

import pytest

from daisi_ws.app.pace import Pace


def portions(rate: float, waiting: int, seconds: float, wave: float = 0.1) -> list[int]:
    """Return what is taken, wave by wave, until nobody waits."""
    pace, now, taken = Pace(wave), 100.0, []
    pace.start(now)
    while waiting:
        taken.append(pace.take(now, waiting, 100.0 + seconds, rate))
        waiting -= taken[-1]
        now += wave
    return taken


def test_the_rate_is_kept() -> None:
    """In no second come more back than the rate allows, where the time suffices: those of its own
    waves, and of two before. It is used but for three tenths."""
    taken = portions(rate=500, waiting=2000, seconds=30)
    assert sum(taken) == 2000
    assert 375 <= max(sum(taken[at : at + 12]) for at in range(len(taken))) <= 500


@pytest.mark.parametrize("pauses", [(0.15, 0.05), (0.9, 0.1, 0.1, 0.1, 0.1)])
def test_late_waves_do_not_exceed_the_rate(pauses: tuple[float, ...]) -> None:
    """Whether every other wave is late or the loop stands still now and then: no second has more
    for it, and what a late one missed is made up for as far as that allows."""
    pace, now, told = Pace(0.1), 100.0, []
    pace.start(now)
    for pause in itertools.islice(itertools.cycle(pauses), 200):
        told.append((now, pace.take(now, 10_000, 10_000.0, 500)))
        now += pause
    seconds = [sum(n for at, n in told if began <= at < began + 1.2) for began, _ in told]
    assert 200 <= max(seconds) <= 500


def test_a_rate_of_less_than_one_a_wave() -> None:
    """Portions of less than one add up."""
    taken = portions(rate=5, waiting=10, seconds=30)
    assert set(taken) == {0, 1}
    assert 25 <= len(taken) <= 30


def test_more_where_the_time_would_not_suffice() -> None:
    """All have gone at the end, evenly."""
    pace = Pace(0.1)
    pace.start(0.0)
    assert pace.take(0.0, 1000, 1.0, 10) == 100
    assert pace.exceeds
    taken = portions(rate=10, waiting=1000, seconds=1.0)
    assert len(taken) <= 11
    assert max(taken) <= 150


def test_within_the_rate_nothing_is_exceeded() -> None:
    """It says that it exceeds the rate only when it does."""
    pace = Pace(0.1)
    pace.start(0.0)
    pace.take(0.0, 100, 10.0, 500)
    assert not pace.exceeds


def test_a_pause_is_not_made_up_for() -> None:
    """After the loop was busy, or nobody waited, no burst follows."""
    pace = Pace(0.1)
    pace.start(0.0)
    pace.take(0.0, 0, 100.0, 500)
    assert pace.take(50.0, 1000, 100.0, 500) <= 101
