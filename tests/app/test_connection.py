"""The life of one connection, on a sink that only remembers."""

from __future__ import annotations

import pytest

from daisi_ws.app.connection import BACKLOG_BYTES, State
from daisi_ws.domain.close import CloseReason
from daisi_ws.domain.resume import Recovery
from daisi_ws.domain.streams import Point
from tests.app.connections import Made, event, flush


def test_the_lock_value_names_pod_and_connection() -> None:
    """A session lock tells which connection of which pod holds it."""
    assert Made("c9").connection.lock_value == "pod-1#c9"


def test_events_before_ready_are_held_and_then_sent_after_it() -> None:
    """`ready` comes first, then what was held after its position, in one write."""
    made = Made()
    for seq in (1, 2, 3):
        made.connection.offer(seq, event(seq))
    assert flush(made.connection, 0.0) == 0
    assert not made.sink.written
    made.connection.open(made.sink, b'{"type":"ready"}', 1, 5.0)
    assert len(made.sink.written) == 1
    assert made.sink.messages() == [{"type": "ready"}, {"seq": 2}, {"seq": 3}]
    assert made.connection.last_seen == 5.0


def test_messages_held_before_ready_are_sent_whatever_the_position() -> None:
    """The position is about events; what is no event has none."""
    made = Made()
    made.connection.send(b'{"type":"note"}')
    made.connection.open(made.sink, b'{"type":"ready"}', 99, 0.0)
    assert made.sink.messages() == [{"type": "ready"}, {"type": "note"}]


def test_what_was_dropped_before_ready_is_before_its_position() -> None:
    """Who has no session yet is told a later position, not that it was too slow."""
    made = Made(max_count=1)
    made.connection.position = Point("wa_stream@1", 1)
    assert made.connection.complete_after("wa_stream@1") == 1
    assert [made.connection.offer(seq, event(seq)) for seq in (1, 2, 3)] == [0, 0, 0]
    position = made.connection.complete_after("wa_stream@1")
    made.connection.open(made.sink, b'{"type":"ready"}', position, 0.0)
    assert position == 2
    assert made.sink.messages() == [{"type": "ready"}, {"seq": 3}]
    assert made.connection.dropped == 0


def test_a_connection_is_queued_once_until_it_is_flushed() -> None:
    """However many frames come in a loop turn, there is one flush and one write."""
    made = Made(max_count=100)
    connection = made.open()
    for seq in range(1, 6):
        connection.offer(seq, event(seq))
    assert made.queued == [connection]
    assert flush(connection, 1.0) == len(b"".join(made.sink.written))
    assert len(made.sink.written) == 1
    connection.offer(6, event(6))
    assert made.queued == [connection, connection]


def test_what_is_taken_is_for_the_caller_to_write() -> None:
    """Taking writes nothing; what comes after it is queued again, and comes after it."""
    made = Made()
    connection = made.open()
    connection.offer(1, event(1))
    first = connection.take(0.0)
    assert not made.sink.written
    connection.offer(2, event(2))
    assert made.queued == [connection, connection]
    made.sink.write(first)
    flush(connection, 0.0)
    assert made.sink.written == [event(1), event(2)]


def test_nothing_is_taken_for_a_client_that_is_held_behind_or_closed() -> None:
    """What may not be written stays where it is; without anything to write nobody is behind."""
    made = Made()
    connection = made.open()
    made.sink.waiting = BACKLOG_BYTES + 1
    assert connection.take(1.0) == b""
    assert connection.behind_since is None
    connection.offer(1, event(1))
    assert connection.take(2.0) == b""
    assert connection.behind_since == 2.0
    made.sink.waiting = 0
    assert connection.take(3.0) == event(1)
    connection.hold(3, 10_000)
    connection.offer(2, event(2))
    assert connection.take(4.0) == b""
    connection.let_go()
    assert connection.take(5.0) == event(2)
    connection.offer(3, event(3))
    connection.close(CloseReason.GOING_AWAY)
    assert connection.take(6.0) == b""


@pytest.mark.parametrize("behind", [True, False])
def test_who_does_not_read_is_not_held(*, behind: bool) -> None:
    """Else each `resume` would add what it asks for to what is not read; it is told, and waits."""
    made = Made()
    connection = made.open()
    made.sink.waiting = BACKLOG_BYTES + made.outbox.max_bytes + 1
    if behind:
        connection.offer(1, event(1))
        assert connection.take(1.0) == b""
        made.sink.waiting = 0
    connection.hold(1000, 1_000_000)
    assert not connection.held
    assert (made.outbox.max_count, made.outbox.max_bytes) == (3, 10_000)
    made.sink.waiting = BACKLOG_BYTES + 1
    connection.release(b'{"type":"resumed"}', Recovery("busy"))
    assert not made.sink.written
    assert connection.take(2.0) == b""
    assert connection.behind_since is not None


def test_an_event_larger_than_the_outbox_is_taken_alone() -> None:
    """An empty outbox takes any frame; the next one writes it early, as any burst."""
    made = Made(max_bytes=20)
    connection = made.open()
    large = event(1).ljust(100)
    assert connection.offer(1, large) == 0
    assert not made.sink.written
    assert connection.offer(2, event(2)) == 0
    flush(connection, 0.0)
    assert made.sink.written == [large, event(2)]


@pytest.mark.parametrize(("count", "size"), [(3, 10_000), (1000, 40)])
def test_a_burst_does_not_cost_a_reading_client_anything(count: int, size: int) -> None:
    """More than the outbox holds, by count or by bytes, is written early, in order."""
    made = Made(max_count=count, max_bytes=size)
    connection = made.open()
    dropped = sum(connection.offer(seq, event(seq)) for seq in range(1, 101))
    flush(connection, 0.0)
    assert dropped == connection.dropped == 0
    assert [message["seq"] for message in made.sink.messages()] == list(range(1, 101))


def test_other_limits_hold_at_once_for_what_waits() -> None:
    """A smaller buffer drops what is too much, counted and told; a larger one drops less."""
    made = Made(max_count=3)
    connection = made.open()
    made.sink.waiting = BACKLOG_BYTES + 1
    for seq in (1, 2, 3):
        connection.offer(seq, event(seq))
    connection.take(1.0)
    connection.limit(2, 10_000, "drop_oldest")
    assert (connection.dropped, len(made.outbox)) == (1, 2)
    connection.limit(4, 10_000, "drop_oldest")
    assert [connection.offer(seq, event(seq)) for seq in (4, 5, 6)] == [0, 0, 1]


def test_other_limits_cost_nothing_before_ready() -> None:
    """Who has no session yet has lost nothing; after a hold the new limits are those that count."""
    made = Made(max_count=3)
    for seq in (1, 2, 3):
        made.connection.offer(seq, event(seq))
    made.connection.limit(2, 10_000, "drop_oldest")
    assert made.connection.dropped == 0
    held = Made(max_count=3)
    connection = held.open()
    connection.hold(100, 100_000)
    connection.limit(2, 20_000, "drop_oldest")
    assert (held.outbox.max_count, held.outbox.max_bytes) == (100, 100_000)
    connection.let_go()
    assert (held.outbox.max_count, held.outbox.max_bytes) == (2, 20_000)


def test_a_client_that_is_behind_gets_nothing_until_it_has_caught_up() -> None:
    """Behind since the first flush that found a backlog; then the gap and the rest, in order."""
    made = Made(max_count=3)
    connection = made.open()
    made.sink.waiting = BACKLOG_BYTES + 1
    for now in range(1, 11):
        connection.offer(now, event(now))
        assert flush(connection, float(now)) == 0
    assert connection.behind_since == 1.0
    assert connection.dropped == 7
    assert not made.sink.written
    made.sink.waiting = BACKLOG_BYTES
    assert flush(connection, 11.0) > 0
    assert connection.behind_since is None
    gap, *rest = made.sink.messages()
    assert gap["payload"] == {
        "code": "EventsDropped",
        "message": "events were dropped because this client reads too slowly",
        "details": {"from_seq": 1, "to_seq": 7, "dropped": 7},
    }
    assert rest == [{"seq": 8}, {"seq": 9}, {"seq": 10}]


def test_closing_writes_what_waits_and_then_ends() -> None:
    """The events of this loop turn still reach the client; after that nothing does."""
    made = Made()
    connection = made.open()
    told: list[CloseReason] = []
    connection.on_close = told.append
    connection.offer(1, event(1))
    connection.close(CloseReason.GOING_AWAY)
    connection.close(CloseReason.TOO_SLOW)
    assert made.sink.messages() == [{"seq": 1}]
    assert made.sink.closed == told == [CloseReason.GOING_AWAY]
    assert (connection.state, connection.reason) == (State.CLOSED, CloseReason.GOING_AWAY)
    assert connection.offer(2, event(2)) == 0
    assert flush(connection, 0.0) == 0
    assert made.sink.messages() == [{"seq": 1}]


def test_a_lost_session_writes_nothing_more() -> None:
    """The identity has another session by now: what waits here is no longer for this client."""
    made = Made()
    connection = made.open()
    connection.offer(1, event(1))
    connection.close(CloseReason.SESSION_LOST, write=False)
    assert not made.sink.written
    assert made.sink.closed == [CloseReason.SESSION_LOST]


def test_a_muted_connection_delivers_nothing_and_keeps_its_socket() -> None:
    """What waits is written, then nothing; the socket is closed later, with the same reason."""
    made = Made()
    told: list[CloseReason] = []
    connection = made.open()
    connection.on_close = told.append
    connection.offer(1, event(1))
    connection.mute(CloseReason.MOVED)
    connection.mute(CloseReason.TOO_SLOW)
    assert made.sink.messages() == [{"seq": 1}]
    assert made.sink.closed == []
    assert (connection.state, connection.reason) == (State.CLOSED, CloseReason.MOVED)
    assert connection.offer(2, event(2)) == 0
    connection.send(b"{}")
    assert flush(connection, 0.0) == 0
    connection.close(CloseReason.GOING_AWAY)
    assert made.sink.messages() == [{"seq": 1}]
    assert made.sink.closed == told == [CloseReason.MOVED]


def test_closing_a_client_that_is_behind_writes_nothing_more() -> None:
    """What it did not take is not piled up behind the close frame."""
    made = Made()
    connection = made.open()
    made.sink.waiting = BACKLOG_BYTES + 1
    connection.offer(1, event(1))
    flush(connection, 0.0)
    connection.close(CloseReason.TOO_SLOW)
    assert not made.sink.written


def test_who_is_closed_while_joining_gets_no_ready() -> None:
    """Displaced before `ready`: the socket is closed with that reason as soon as there is one."""
    made = Made()
    made.connection.offer(1, event(1))
    made.connection.close(CloseReason.DISPLACED)
    made.connection.open(made.sink, b'{"type":"ready"}', 0, 0.0)
    assert not made.sink.written
    assert made.sink.closed == [CloseReason.DISPLACED]
    assert made.connection.state is State.CLOSED
