"""What commands share: durations, addresses, words for times, tables."""

from __future__ import annotations

import click
import pytest

from daisi_ws.cli.options import DURATION, URL
from daisi_ws.cli.table import table
from daisi_ws.cli.wording import duration, milliseconds, plural


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("1.5s", 1.5), ("250ms", 0.25), ("15m", 900), ("1h", 3600), ("7d", 604800)],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    """A number with a unit, or without one for seconds."""
    assert DURATION.convert(text, None, None) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "0", "-1s", "1y", "1h30m", "nan", "inf", "1e3", "99999999d"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    """Nothing without a length, an end or a known unit."""
    with pytest.raises(click.BadParameter, match="15m"):
        DURATION.convert(text, None, None)


@pytest.mark.parametrize(
    "url", ["http://a:1", "https://a.example/below/", "WSS://[::1]:8080", "ws://10.0.0.1"]
)
def test_addresses_of_gateways_are_taken(url: str) -> None:
    """As they are given."""
    assert URL.convert(url, None, None) == url


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        ("", "does not begin"),
        ("foo", "does not begin"),
        ("localhost:8080", "does not begin"),
        ("http:/a", "does not begin"),
        ("nats://a:4222", "does not begin"),
        ("http://:80", "no host"),
        ("http://a b", "no host"),
        ("http://a:0", "no port"),
        ("http://a:99999", "no URL"),
        ("http://[a", "no URL"),
        ("http://ana:secret@a", "has a login"),
        ("http://a/?x=1", "after the path"),
    ],
)
def test_what_is_no_address_of_a_gateway_is_refused(url: str, wrong: str) -> None:
    """What is wrong and what would be right is told, a password is not."""
    with pytest.raises(click.BadParameter, match=wrong) as refused:
        URL.convert(url, None, None)
    assert "want http://host:port" in refused.value.message
    assert "secret" not in refused.value.message


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.44, "0.4 s"),
        (9.0, "9 s"),
        (59.6, "1 min"),
        (3598, "59 min 58 s"),
        (3600, "1 h"),
        (3660, "1 h 1 min"),
        (86_400 * 2 + 59, "2 d"),
    ],
)
def test_durations_are_told(seconds: float, text: str) -> None:
    """The two largest units that follow one another."""
    assert duration(seconds) == text


def test_latencies_and_counts_are_told() -> None:
    """A decimal where it means something; one thing has no plural."""
    assert [milliseconds(s) for s in (0.00123, 0.0999, 1.5)] == ["1.2 ms", "99.9 ms", "1,500 ms"]
    assert [plural(n, "event") for n in (0, 1, 2000)] == ["0 events", "1 event", "2,000 events"]


def test_columns_are_aligned_whatever_their_colour() -> None:
    """Colours take no room; numbers stand to the right."""
    rows = [[click.style("a", fg="red"), "1", "x"], ["bbb", "1000", ""]]
    lines = [click.unstyle(line) for line in table(("NAME", "N", ""), rows, right=(1,))]
    assert lines == ["NAME     N", "a        1  x", "bbb   1000"]
