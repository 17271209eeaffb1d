"""The bounded queue of frames for one connection."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daisi_ws.domain.outbox import BLOCKED_FACTOR, NOTHING, UNSEQUENCED, Outbox
from daisi_ws.domain.wire import text_frame


def frame(seq: int, size: int = 10) -> bytes:
    """Return stuff that says its sequence, as large as asked for."""
    return (b"%d;" % seq).ljust(size, b".")


def gap(from_seq: int, to_seq: int, dropped: int, data: bytes) -> bytes:
    """Check that data begins with the notice of a gap; return what follows."""
    size = int.from_bytes(data[2:4], "big")
    notice = json.loads(data[4 : 4 + size])
    assert notice["payload"]["code"] == "EventsDropped"
    details = {"from_seq": from_seq, "to_seq": to_seq, "dropped": dropped}
    assert notice["payload"]["details"] == details
    return data[4 + size :]


def test_frames_are_taken_in_order_as_one_piece() -> None:
    """What waits comes out whole, once."""
    outbox = Outbox(10, 1000, "drop_oldest")
    for seq in (1, 2, 3):
        assert outbox.put(seq, frame(seq)) == 0
    assert (len(outbox), outbox.size) == (3, 30)
    assert outbox.take() == frame(1) + frame(2) + frame(3)
    assert (len(outbox), outbox.size, outbox.take()) == (0, 0, b"")


def test_a_frame_that_waits_alone_is_not_copied() -> None:
    """The frame of an event is one object in the outboxes of all who get it, and stays one."""
    outbox, alone = Outbox(10, 1000, "drop_oldest"), frame(1)
    outbox.put(1, alone)
    assert outbox.take() is alone
    assert (len(outbox), outbox.size, outbox.take()) == (0, 0, b"")


def test_the_oldest_events_are_dropped_and_told_first() -> None:
    """Full by count: the client learns how many it lost and between which sequences, once."""
    outbox = Outbox(2, 1000, "drop_oldest")
    assert [outbox.put(seq, frame(seq)) for seq in (3, 5, 8, 9)] == [0, 0, 1, 1]
    assert gap(3, 5, 2, outbox.take()) == frame(8) + frame(9)
    outbox.put(10, frame(10))
    assert outbox.take() == frame(10)


def test_a_full_outbox_by_bytes_drops_as_many_as_needed() -> None:
    """One large frame may push out several small ones."""
    outbox = Outbox(100, 50, "drop_oldest")
    for seq in range(1, 6):
        outbox.put(seq, frame(seq))
    assert outbox.put(6, frame(6, 25)) == 3
    assert outbox.size == 45
    assert gap(1, 3, 3, outbox.take()) == frame(4) + frame(5) + frame(6, 25)


def test_a_frame_larger_than_the_outbox_is_kept_alone() -> None:
    """An event must fit, however large: it is all that waits then."""
    outbox = Outbox(100, 50, "drop_oldest")
    outbox.put(1, frame(1))
    assert outbox.put(2, frame(2, 500)) == 1
    assert len(outbox) == 1
    assert gap(1, 1, 1, outbox.take()) == frame(2, 500)


def test_messages_that_are_no_events_are_never_dropped_and_save_nothing() -> None:
    """Errors and answers stay where they are; the events around them go."""
    outbox = Outbox(3, 1000, "drop_oldest")
    outbox.put(NOTHING, b"first;")
    dropped = sum(outbox.put(seq, frame(seq)) for seq in range(1, 101))
    dropped += outbox.put(NOTHING, b"last;")
    assert dropped == 99
    assert len(outbox) == 3
    assert gap(1, 99, 99, outbox.take()) == b"first;" + frame(100) + b"last;"


def test_events_without_sequence_are_dropped_as_others_are() -> None:
    """They count; all that is known of them is that they came after what had passed."""
    outbox = Outbox(2, 1000, "drop_oldest")
    for seq in (UNSEQUENCED, 4, UNSEQUENCED, UNSEQUENCED, 7):
        outbox.put(seq, frame(seq))
    assert gap(1, 4, 3, outbox.take()) == frame(UNSEQUENCED) + frame(7)
    for _ in range(3):
        outbox.put(UNSEQUENCED, frame(0))
    assert gap(8, 8, 1, outbox.take()) == frame(0) + frame(0)


def test_a_position_says_nothing_of_events_without_sequence() -> None:
    """What was dropped up to a position is not missing; an event without sequence may be."""
    outbox = Outbox(2, 1000, "drop_oldest")
    for seq in (4, UNSEQUENCED, 5, 6):
        outbox.put(seq, frame(seq))
    outbox.discard_upto(5)
    assert outbox.untold == 1
    assert gap(6, 6, 1, outbox.take()) == frame(6)


def test_who_asked_for_positions_is_told_by_a_gap() -> None:
    """The same figures in a frame of its own, once."""
    outbox = Outbox(2, 1000, "drop_oldest")
    outbox.positions = True
    for seq in (3, 5, 8, 9):
        outbox.put(seq, frame(seq))
    notice = text_frame(b'{"type":"gap","payload":{"from_seq":3,"to_seq":5,"dropped":2}}')
    assert outbox.take() == notice + frame(8) + frame(9)
    outbox.put(10, frame(10))
    assert outbox.take() == frame(10)


def test_blocking_drops_what_nobody_waits_for() -> None:
    """An event without sequence was accepted when it came: over the limit it is dropped, and it
    withholds nothing."""
    outbox = Outbox(1, 1000, "block")
    assert outbox.put(UNSEQUENCED, frame(1)) == 0
    assert outbox.put(UNSEQUENCED, frame(2)) == 1
    assert outbox.held_from() is None
    assert outbox.put(3, frame(3)) == 0
    assert outbox.held_from() == 3
    assert not outbox.overflowed
    assert gap(1, 1, 1, outbox.take()) == frame(1) + frame(3)


def test_an_event_without_sequence_that_is_larger_than_the_outbox_is_kept_alone() -> None:
    """Whatever the policy, an event must fit, however large."""
    outbox = Outbox(10, 50, "block")
    assert outbox.put(UNSEQUENCED, frame(1, 500)) == 0
    assert outbox.take() == frame(1, 500)


@pytest.mark.parametrize(("count", "size"), [(2, 10_000), (1000, 20)], ids=["count", "bytes"])
def test_blocking_is_bounded_too(count: int, size: int) -> None:
    """At a multiple of its limits a blocked outbox has overflowed: its client is to be closed."""
    outbox = Outbox(count, size, "block")
    for seq in range(1, 2 * BLOCKED_FACTOR + 1):
        assert outbox.put(seq, frame(seq)) == 0
    assert not outbox.overflowed
    assert outbox.put(100, frame(100)) == 0
    assert outbox.overflowed
    assert outbox.held_from() == 3
    outbox.take()
    assert not outbox.overflowed


def test_what_can_be_had_again_is_dropped_rather_than_overflow() -> None:
    """A joining client is told a later position; its outbox stays within its bound."""
    outbox = Outbox(2, 10_000, "block")
    dropped = sum(outbox.put(seq, frame(seq), lossy=True) for seq in range(1, 101))
    assert dropped == 100 - 2 * BLOCKED_FACTOR == outbox.dropped_upto
    assert not outbox.overflowed


def test_dropping_never_overflows() -> None:
    """With `drop_oldest` a client is not closed for what it lost."""
    outbox = Outbox(1, 1000, "drop_oldest")
    for seq in range(1, 100):
        outbox.put(seq, frame(seq))
    assert not outbox.overflowed


def test_blocking_keeps_everything_and_withholds_what_is_over_the_limit() -> None:
    """Policy `block`: nothing is lost, and the first event over the limit is named."""
    outbox = Outbox(2, 1000, "block")
    assert [outbox.put(seq, frame(seq)) for seq in (3, 5)] == [0, 0]
    assert outbox.held_from() is None
    assert [outbox.put(seq, frame(seq)) for seq in (7, 9)] == [0, 0]
    assert outbox.held_from() == 7
    assert outbox.take() == frame(3) + frame(5) + frame(7) + frame(9)
    assert outbox.held_from() is None


def test_blocking_by_bytes_withholds_from_the_first_over_the_limit() -> None:
    """What is over the limit stays withheld, however much comes after it."""
    outbox = Outbox(100, 25, "block")
    for seq in range(1, 8):
        outbox.put(seq, frame(seq))
        assert outbox.held_from() == (None if seq < 3 else 3)


def test_only_events_are_withheld() -> None:
    """Other messages have no acceptance that could be withheld."""
    outbox = Outbox(1, 1000, "block")
    outbox.put(1, frame(1))
    outbox.put(NOTHING, b"error;")
    assert outbox.held_from() is None
    outbox.put(2, frame(2))
    assert outbox.held_from() == 2


def test_dropping_withholds_nothing() -> None:
    """With policy `drop_oldest` every event is accepted at once."""
    outbox = Outbox(1, 10, "drop_oldest")
    outbox.put(1, frame(1, 500))
    assert outbox.full
    assert outbox.held_from() is None


def test_what_was_before_the_position_is_forgotten() -> None:
    """Events up to the position go, and a gap that ends there; other messages stay."""
    outbox = Outbox(3, 1000, "drop_oldest")
    for seq in (1, 2, 3, 4):
        outbox.put(seq, frame(seq))
    outbox.discard_upto(3)
    outbox.put(NOTHING, b"error;")
    assert outbox.size == len(frame(4)) + 6
    assert outbox.untold == 0
    assert outbox.take() == frame(4) + b"error;"


def test_a_gap_that_reaches_beyond_the_position_is_told() -> None:
    """A loss after the position is a loss."""
    outbox = Outbox(1, 1000, "drop_oldest")
    for seq in (1, 2, 3):
        outbox.put(seq, frame(seq))
    outbox.discard_upto(1)
    assert gap(1, 2, 2, outbox.take()) == frame(3)


@pytest.mark.parametrize(
    ("size", "room"), [(10, True), (11, False)], ids=["just fits", "one too many"]
)
def test_room_by_bytes(size: int, room: bool) -> None:
    """Room is told before a frame is put."""
    outbox = Outbox(3, 20, "drop_oldest")
    outbox.put(1, frame(1))
    assert outbox.has_room(size) is room


def test_room_by_count() -> None:
    """No room where as many wait as may."""
    outbox = Outbox(1, 1000, "drop_oldest")
    assert outbox.has_room(1)
    outbox.put(1, frame(1))
    assert not outbox.has_room(1)


puts = st.lists(
    st.tuples(st.sampled_from(["event", "event", "event", "other", "take"]), st.integers(1, 60)),
    max_size=80,
)


@given(steps=puts, count=st.integers(1, 5), size=st.integers(1, 100))
def test_events_come_in_order_or_are_told_as_lost(
    steps: list[tuple[str, int]], count: int, size: int
) -> None:
    """It is bounded; every event comes once, in order, or lies in a gap that was told."""
    outbox = Outbox(count, size, "drop_oldest")
    seq = others = lost = 0
    seen: list[int] = []
    for what, length in [*steps, ("take", 0)]:
        if what == "take":
            lost += told(outbox, seen)
            others = 0
        elif what == "other":
            others += 1
            outbox.put(NOTHING, text_frame(b"{}"))
        else:
            seq += 1
            outbox.put(seq, text_frame(json.dumps({"seq": seq}).encode().ljust(length)))
        assert len(outbox) <= max(count, others + 1)
    assert seen == sorted(set(seen))
    assert len(seen) + lost == seq


def told(outbox: Outbox, seen: list[int]) -> int:
    """Take everything; note the events, and return how many were told as lost."""
    data, lost = outbox.take(), 0
    while data:
        size, start = (data[1], 2) if data[1] < 126 else (int.from_bytes(data[2:4], "big"), 4)
        message = json.loads(data[start : start + size])
        if "seq" in message:
            seen.append(message["seq"])
        elif message:
            details = message["payload"]["details"]
            assert details["from_seq"] > (seen[-1] if seen else 0)
            lost += details["dropped"]
        data = data[start + size :]
    return lost
