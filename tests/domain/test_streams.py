"""Identities of streams, and places in them."""

from __future__ import annotations

import pytest

from daisi_ws.domain.streams import Point, further, identity, is_older


def test_a_place_counts_only_in_its_own_stream() -> None:
    """In another stream of the name it is the beginning."""
    assert Point("s@1", 7).seq_in("s@1") == 7
    assert Point("s@1", 7).seq_in("s@2") == 0


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("2026-11-23T05:11:48Z", "2026-11-23T05:11:48.5Z"),
        ("2026-11-23T05:11:48.37Z", "2026-11-23T05:11:48.375Z"),
        ("2026-11-23T05:11:48.999999999Z", "2026-11-23T05:11:49Z"),
        ("2026-11-23T05:11:48Z", "2027-01-01T00:00:00Z"),
    ],
)
def test_the_stream_made_first_is_older(first: str, second: str) -> None:
    """However many digits the server wrote of the second."""
    before, after = identity("s", first), identity("s", second)
    assert is_older(before, after)
    assert not is_older(after, before)
    assert not is_older(before, before)


def test_the_further_of_two_points() -> None:
    """By sequence in one stream; else the stream that was made last."""
    old, new = "s@2026-01-01T00:00:00.1Z", "s@2026-01-01T00:00:00.12Z"
    assert further(Point(old, 5), Point(old, 7)) == Point(old, 7)
    assert further(Point(old, 7), Point(new, 1)) == Point(new, 1)
    assert further(Point(new, 1), Point(old, 7)) == Point(new, 1)
    assert further(Point("", 0), Point(old, 0)) == Point(old, 0)
