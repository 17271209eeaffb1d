"""The circuit breaker, with a clock that the test turns."""

from __future__ import annotations

import pytest

from daisi_ws.domain.breaker import Breaker, BreakerState


def _opened(threshold: int = 3, open_seconds: float = 30.0, now: float = 100.0) -> Breaker:
    breaker = Breaker(threshold, open_seconds)
    for _ in range(threshold):
        breaker.failure(now)
    return breaker


def test_it_opens_with_the_failure_that_reaches_the_threshold() -> None:
    """Only the third failure in a row says that it opened; until then attempts are allowed."""
    breaker = Breaker(3, 30.0)
    assert [breaker.failure(100.0) for _ in range(2)] == [False, False]
    assert breaker.attempt(100.0)
    assert breaker.failure(100.0)
    assert breaker.is_open
    assert not breaker.attempt(100.0)


def test_a_success_between_failures_starts_the_count_anew() -> None:
    """Failures count only in a row."""
    breaker = Breaker(2, 30.0)
    breaker.failure(1.0)
    assert not breaker.success()
    assert not breaker.failure(2.0)
    assert breaker.state is BreakerState.CLOSED


def test_while_open_it_says_how_long_to_wait() -> None:
    """The wait shrinks with the clock and is over exactly after the open time."""
    breaker = _opened(open_seconds=30.0, now=100.0)
    assert breaker.wait(110.0) == pytest.approx(20.0)
    assert not breaker.attempt(129.9)
    assert breaker.wait(130.0) == 0
    assert breaker.attempt(130.0)


def test_one_probe_is_allowed_after_the_open_time() -> None:
    """A second attempt has to wait for the outcome of the probe."""
    breaker = _opened(open_seconds=30.0, now=100.0)
    assert breaker.attempt(131.0)
    assert breaker.state is BreakerState.PROBING
    assert not breaker.attempt(131.0)


def test_a_failed_probe_opens_it_again_but_is_no_new_trip() -> None:
    """One outage is one trip, however many probes fail; the open time starts anew."""
    breaker = _opened(open_seconds=30.0, now=100.0)
    breaker.attempt(130.0)
    assert not breaker.failure(131.0)
    assert breaker.wait(131.0) == pytest.approx(30.0)


def test_a_successful_probe_closes_it() -> None:
    """The success says that something changed, and the next outage needs the whole threshold."""
    breaker = _opened(threshold=2)
    breaker.attempt(130.0)
    assert breaker.success()
    assert not breaker.failure(140.0)
    assert breaker.failure(140.0)


def test_success_closes_an_open_breaker_without_a_probe() -> None:
    """Who knows better (the peer has a new address) need not wait."""
    breaker = _opened()
    assert breaker.success()
    assert breaker.attempt(100.0)


def test_failures_while_open_do_not_prolong_it() -> None:
    """What fails late, from before it opened, changes nothing."""
    breaker = _opened(open_seconds=30.0, now=100.0)
    assert not breaker.failure(120.0)
    assert breaker.wait(120.0) == pytest.approx(10.0)


def test_a_threshold_of_one_opens_at_once() -> None:
    """The smallest threshold allows no failure."""
    assert Breaker(1, 1.0).failure(0.0)
