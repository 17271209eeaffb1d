"""Timestamps as tokens carry them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daisi_ws.domain import rfc3339


@pytest.mark.parametrize(
    ("text", "unix"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:00.5Z", 0.5),
        ("2026-07-30T12:34:56Z", 1785414896),
        ("2026-07-30t12:34:56z", 1785414896),
        ("2026-07-30T14:34:56+02:00", 1785414896),
        ("2026-07-30T07:04:56-05:30", 1785414896),
        ("2026-07-30T12:34:56.000000001Z", 1785414896.000000001),
        ("2026-07-30T12:34:56.987654321-00:00", 1785414896.987654321),
        ("2016-12-31T23:59:60Z", 1483228800),
        ("2024-02-29T00:00:00Z", 1709164800),
        ("0001-01-01T00:00:00Z", -62135596800),
        ("9999-12-31T23:59:59-23:59", 253402387139),
    ],
)
def test_timestamps(text: str, unix: float) -> None:
    """Fractions up to nanoseconds, any offset, leap seconds, the first and the last year."""
    assert rfc3339.parse(text) == pytest.approx(unix, abs=1e-6)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-07-30",
        "2026-07-30T12:34:56",
        "2026-07-30 12:34:56Z",
        "2026-07-30T12:34Z",
        "2026-07-30T12:34:56.Z",
        "2026-07-30T12:34:56.1234567890Z",
        "2026-07-30T12:34:56,5Z",
        "2026-07-30T24:00:00Z",
        "2026-07-30T12:60:00Z",
        "2026-07-30T12:34:61Z",
        "2026-13-01T00:00:00Z",
        "2025-02-29T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "2026-07-30T12:34:56+24:00",
        "2026-07-30T12:34:56+01:60",
        "2026-07-30T12:34:56+0100",
        "2026-07-30T12:34:56Z\n",
        " 2026-07-30T12:34:56Z",
        "\uff12\uff1026-07-30T12:34:56Z",
        "1785414896",
    ],
)
def test_what_is_no_timestamp(text: str) -> None:
    """Everything else is refused, near misses included."""
    with pytest.raises(ValueError, match=r"\w"):
        rfc3339.parse(text)


@settings(deadline=None)
@given(
    st.datetimes(min_value=datetime(1900, 1, 1), max_value=datetime(9000, 1, 1)),  # noqa: DTZ001
    st.integers(-23 * 60, 23 * 60),
)
def test_agrees_with_the_standard_library(moment: datetime, offset: int) -> None:
    """Any moment in any offset, to the microsecond."""
    local = moment.replace(tzinfo=timezone(timedelta(minutes=offset)))
    assert rfc3339.parse(local.isoformat()) == pytest.approx(local.timestamp(), abs=1e-5)


@settings(deadline=None)
@given(st.integers(0, 4_000_000_000_000_000))
def test_format_is_read_back(microseconds: int) -> None:
    """What is written is UTC and reads as the same microsecond."""
    unix = microseconds / 1e6
    text = rfc3339.format_utc(unix)
    assert text.endswith("Z")
    assert rfc3339.parse(text) == pytest.approx(unix, abs=2e-6)
    assert datetime.fromisoformat(text).tzinfo == UTC


@pytest.mark.parametrize("unix", [1e12, 1e30, float("inf"), float("nan")])
def test_no_such_time(unix: float) -> None:
    """A time beyond four-digit years cannot be written."""
    with pytest.raises(ValueError, match=r"\w"):
        rfc3339.format_utc(unix)
