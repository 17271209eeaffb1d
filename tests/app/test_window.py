"""A range of the stream in memory: what it covers, and whose events are in it."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from daisi_ws.app.ports import Received
from daisi_ws.app.window import Window, entry_of
from daisi_ws.domain import subjects

BOTS = ("one", "two")


def message(seq: int, bot: str = "one", kind: str = "chats") -> Received:
    """Return an event of the stream."""
    payload = {"event_id": str(seq), "company_id": "acme", "row_data": {}}
    return Received(
        seq=seq,
        stored_ns=seq,
        subject=f"websocket.acme.{bot}.{kind}",
        data=json.dumps(payload).encode(),
        reply="",
        request_id="",
        redelivered=False,
    )


def filled(after: int, upto: int) -> Window:
    """Return a window in which the two bots take turns."""
    window = Window("wa_stream@1", after)
    window.extend((message(seq, BOTS[seq % 2]) for seq in range(after + 1, upto + 1)), upto)
    return window


def seqs(window: Window, after: int, upto: int, *bots: str) -> list[int]:
    """Return which events of these bots are in a range."""
    interests = [subjects.chats("acme", bot) for bot in bots]
    return [entry.seq for entry in window.entries(interests, after, upto)]


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30), st.integers(0, 30))
def test_a_range_has_the_events_after_its_begin_up_to_its_end(
    begin: int, size: int, after: int, upto: int
) -> None:
    """Of the interests asked for, in order, whatever the window has besides."""
    window = filled(begin, begin + size)
    there = range(begin + 1, begin + size + 1)
    assert seqs(window, after, upto, *BOTS) == [s for s in there if after < s <= upto]
    assert seqs(window, after, upto, "two") == [s for s in there if after < s <= upto and s % 2]
    covered = upto <= after or all(s in there for s in range(after + 1, upto + 1))
    assert window.covers(after, upto) == covered
    assert (window.missing(after, upto) == 0) >= covered


def test_a_window_grows_at_both_ends() -> None:
    """What is put before it ends where it begins; what overlaps is there once."""
    window = filled(10, 20)
    window.prepend(filled(4, 12))
    window.extend([message(21)], 25)
    assert seqs(window, 0, 99, *BOTS) == list(range(5, 22))
    assert (window.after, window.upto) == (4, 25)


def test_the_oldest_are_forgotten_first() -> None:
    """What is left is still complete: it begins later."""
    window = filled(0, 10)
    window.shrink(window.size - 1)
    assert window.after == 1
    assert not window.covers(0, 10)
    assert seqs(window, 0, 10, *BOTS) == list(range(2, 11))
    window.shrink(0)
    assert seqs(window, 0, 10, *BOTS) == []
    assert (window.after, window.upto, window.size) == (10, 10, 0)


def test_an_agent_event_is_found_by_every_scope_that_admits_it() -> None:
    """Exact or `*`, as in delivery."""
    window = Window("wa_stream@1", 0)
    window.extend([message(1, "one", "agents"), message(2, "two", "agents")], 2)
    for company, bot, found in (("acme", "*", [1, 2]), ("*", "two", [2]), ("other", "*", [])):
        interest = subjects.admin_pattern(company, bot)
        assert [entry.seq for entry in window.entries([interest], 0, 2)] == found


def test_what_is_no_event_is_left_out() -> None:
    """It was never delivered, and is not missing."""
    assert entry_of(message(1, kind="unknown")) is None
    assert entry_of(message(1, "a b")) is None
