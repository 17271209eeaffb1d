"""Each event once, whatever comes again."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from daisi_ws.client import Event, Gap, Position, Ready, Resumed, decode
from daisi_ws.client.position import WINDOW


def event(seq: int | None) -> Event:
    return Event(payload=msgspec.Raw(b"{}"), seq=seq)


def of_thread(seq: int) -> Event:
    return Event(payload=msgspec.Raw(b'{"event_type":"message"}'), seq=seq)


@given(st.lists(st.integers(1, 40), max_size=120))
def test_each_sequence_is_taken_once(seqs: list[int]) -> None:
    """In whatever order sequences come, each is taken exactly once, all others are counted."""
    position = Position()
    taken = [seq for seq in seqs if position.take(event(seq))]
    assert sorted(taken) == sorted(set(seqs))
    assert position.duplicates == len(seqs) - len(taken)
    assert position.seq == max(seqs, default=0)


def test_sequences_below_the_window_count_as_seen() -> None:
    """What is too old to be remembered is held back."""
    position = Position()
    assert position.take(event(WINDOW + 10))
    assert not position.take(event(10))
    assert position.take(event(11))


def test_another_stream_starts_over() -> None:
    """Sequences of a recreated stream are not mistaken for those of the old one."""
    position = Position()
    position.start(Ready(stream="s@1", seq=100))
    assert position.take(event(101))
    position.start(Ready(stream="s@2", seq=0))
    assert position.take(event(1))
    assert (position.stream, position.seq) == ("s@2", 1)


def test_the_same_stream_goes_on() -> None:
    """A reconnect keeps what was seen; `ready` only moves the position forward."""
    position = Position()
    position.start(Ready(stream="s@1", seq=5))
    position.take(event(9))
    position.start(Ready(stream="s@1", seq=7))
    assert position.seq == 9
    assert not position.take(event(9))


def test_events_without_sequence_pass() -> None:
    """An event that has no place in the stream cannot be a repetition."""
    position = Position()
    assert position.take(event(None))
    assert position.take(event(None))


def test_what_came_in_a_thread_before_it_was_chosen_was_not_missed() -> None:
    """A replay of everything since a gap brings it, too: below what the thread has shown."""
    position = Position()
    position.start(Ready(stream="s@1", seq=10, reason="unavailable"))
    gap = decode(b'{"type":"gap","payload":{"from_seq":11,"to_seq":13,"dropped":3}}')
    assert isinstance(gap, Gap)
    position.gap(gap)
    position.choose_thread()
    position.thread_joined(20)
    assert position.take(of_thread(21))
    position.resumed(Resumed(stream="s@1", seq=10, recovered=True, replayed=4))
    taken = [position.take(e) for e in (event(12), of_thread(18), of_thread(21), of_thread(22))]
    assert taken == [True, False, False, True]
    assert (position.seq, position.thread) == (22, 22)
