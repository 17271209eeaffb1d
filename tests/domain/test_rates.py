"""Rates by key."""

from __future__ import annotations

import random

import pytest

from daisi_ws.domain.rates import Rates


def taken(rates: Rates, key: str, now: float, tries: int, *, rate: float, burst: float) -> int:
    """Try so many times at one moment; return how often there was a token."""
    return sum(rates.take(key, now, rate, burst) == 0 for _ in range(tries))


def test_a_burst_and_then_the_rate() -> None:
    """A new key has its burst; after that tokens come at the rate, and no more than the burst."""
    rates = Rates()
    assert taken(rates, "a", 100.0, 20, rate=2, burst=5) == 5
    assert taken(rates, "a", 101.0, 20, rate=2, burst=5) == 2
    assert taken(rates, "a", 500.0, 20, rate=2, burst=5) == 5


def test_keys_do_not_share() -> None:
    """What one uses up is nobody else's."""
    rates = Rates()
    assert taken(rates, "a", 0.0, 20, rate=1, burst=3) == 3
    assert taken(rates, "b", 0.0, 20, rate=1, burst=3) == 3


@pytest.mark.parametrize(("rate", "burst"), [(0.1, 1), (1, 1), (7, 3), (50, 100), (0.5, 2.5)])
def test_the_wait_is_as_told(rate: float, burst: float) -> None:
    """Who waits as long as it was told gets a token, and not a moment before."""
    rates = Rates()
    assert taken(rates, "a", 10.0, 1000, rate=rate, burst=burst) == int(burst)
    wait = rates.take("a", 10.0, rate, burst)
    assert 0 < wait <= 1 / rate + 1e-9
    assert rates.take("a", 10.0 + wait * 0.99, rate, burst) > 0
    assert rates.take("a", 10.0 + wait, rate, burst) == 0


def test_trying_in_vain_costs_nothing() -> None:
    """Who goes on while refused is served as soon as who waited."""
    rates = Rates()
    taken(rates, "a", 0.0, 5, rate=1, burst=5)
    assert taken(rates, "a", 0.5, 1000, rate=1, burst=5) == 0
    assert rates.take("a", 1.0, 1, 5) == 0


def test_a_changed_limit_applies_at_once() -> None:
    """Rate and burst are those of the call."""
    rates = Rates()
    assert taken(rates, "a", 0.0, 10, rate=1, burst=2) == 2
    assert taken(rates, "a", 0.0, 10, rate=1, burst=6) == 4


def test_a_raised_rate_frees_who_waits() -> None:
    """Who used up a bucket that fills slowly waits no longer than for a token at the new rate."""
    rates = Rates()
    assert taken(rates, "a", 0.0, 60, rate=0.01, burst=50) == 50
    assert rates.take("a", 1.0, 10, 50) <= 0.1
    assert taken(rates, "a", 1.1, 10, rate=10, burst=50) == 1


def test_who_came_long_ago_is_forgotten() -> None:
    """The table holds who came lately, however many came before."""
    rates = Rates()
    for number in range(10_000):
        rates.take(f"address-{number}", number * 0.1, rate=1, burst=10)
    assert len(rates) < 200


def test_the_table_is_bounded() -> None:
    """More keys at once than it may hold push out those that came longest ago, not the busy."""
    rates = Rates(most_keys=100)
    assert taken(rates, "busy", 0.0, 5, rate=1, burst=5) == 5
    for number in range(5000):
        assert rates.take(f"address-{number}", 0.0, rate=1, burst=1) == 0
        assert rates.take("busy", 0.0, rate=1, burst=5) > 0
        assert len(rates) <= 100


def test_no_more_than_the_rate_over_any_time() -> None:
    """At random moments, a key never gets more than its burst and what the time brings."""
    chance = random.Random(7)
    rates, now, got = Rates(), 0.0, 0
    for _ in range(20_000):
        now += chance.expovariate(40)
        got += rates.take("a", now, rate=10, burst=25) == 0
        assert got <= 25 + 10 * now + 1
    assert got > 9.5 * now
