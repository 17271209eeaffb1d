"""Acceptance of events and their delivery at the end of the loop turn."""

from __future__ import annotations

import asyncio

import pytest

from daisi_ws.app.connection import BACKLOG_BYTES
from daisi_ws.app.delivery import PAUSE_SECONDS, SHARED_EPOCH, STALE, Delivery
from daisi_ws.app.hub import Hub
from daisi_ws.app.ports import Position
from daisi_ws.domain import principal
from daisi_ws.domain.close import CloseReason
from daisi_ws.domain.outbox import BLOCKED_FACTOR
from daisi_ws.domain.packets import Item
from daisi_ws.domain.streams import Point
from daisi_ws.domain.subjects import chats
from daisi_ws.metrics import Metrics
from tests.app.connections import Made

STREAM = "wa_stream@1"
MINE = chats("acme", "bot")


def item(seq: int, subject: str = MINE, size: int = 0) -> Item:
    """Return an event that says its sequence."""
    return Item(seq, 1_000, subject, b'{"seq":%d,"pad":"%b"}' % (seq, b"x" * size))


class Setting:
    """A delivery with one connection that wants `MINE`, and a clock set by the test."""

    def __init__(self, **outbox: object) -> None:
        self.now = 0.0
        self.hub = Hub()
        self.metrics = Metrics()
        self.delivery = Delivery(self.hub, self.metrics, lambda: self.now, lambda: 2_000_000)
        self.made = Made(**outbox)  # type: ignore[arg-type]
        self.made.connection._queue = self.delivery.queue
        self.sink = self.made.sink
        self.hub.join(self.made.connection)
        self.hub.add(self.made.connection, MINE)
        self.made.open()

    def accept(self, *seqs: int, epoch: int = 1, upto: int = 0, stream: str = STREAM) -> int:
        """Accept events and flush."""
        answer = self.delivery.accept(epoch, stream, upto, [item(seq) for seq in seqs])
        self.delivery.flush()
        return answer

    def got(self) -> list[object]:
        """Return the sequences that were written."""
        return [message["seq"] for message in self.sink.messages() if "seq" in message]


def dropped(at: Setting) -> float | None:
    """Return the metric of dropped events."""
    name, labels = "dws_websocket_messages_dropped_total", {"reason": "slow_client"}
    return at.metrics.registry.get_sample_value(name, labels)


@pytest.fixture
async def at() -> Setting:
    """An ordinary setting."""
    return Setting()


async def test_each_event_is_written_once_in_order(at: Setting) -> None:
    """What comes again, from whomever, is not written again."""
    assert at.accept(1, 2, 3) == 3
    assert at.accept(2, 3, 4) == 4
    assert at.got() == [1, 2, 3, 4]
    assert at.metrics.tally.duplicates == 2
    assert at.metrics.tally.delivered == 4


async def test_a_turn_is_one_write(at: Setting) -> None:
    """Events of one loop turn go out as one piece."""
    at.accept(1, 2)
    assert len(at.sink.written) == 1


async def test_upto_moves_the_mark_without_events(at: Setting) -> None:
    """Being told that nothing is to come is as good as an event."""
    assert at.accept(upto=10) == 10
    at.accept(7, 10, 11)
    assert at.got() == [11]


async def test_a_reader_that_was_is_refused(at: Setting) -> None:
    """After a newer reader, or a fence, the old one's events are not accepted."""
    at.accept(5, epoch=7)
    assert at.accept(6, epoch=6) == STALE
    at.delivery.fence(9)
    assert at.accept(6, epoch=8) == STALE
    assert at.accept(6, epoch=9) == 6
    assert at.got() == [5, 6]


async def test_a_stream_made_anew_starts_over(at: Setting) -> None:
    """Sequences belong to a stream: those of another one start from nothing."""
    at.accept(100)
    at.accept(1, 2, epoch=2, stream="wa_stream@2")
    assert at.got() == [100, 1, 2]


async def test_who_follows_positions_is_told_of_a_stream_made_anew(at: Setting) -> None:
    """Before its first event: a sequence that the client has seen is another event now."""
    at.made.connection.positions = True
    at.accept(1)
    at.accept(1, epoch=2, stream="wa_stream@2")
    kinds = [(m.get("type"), m["seq"]) for m in at.sink.messages() if "seq" in m]
    assert kinds == [(None, 1), ("resumed", 0), (None, 1)]
    told = next(m for m in at.sink.messages() if m.get("type") == "resumed")
    assert (told["stream"], told["recovered"]) == ("wa_stream@2", False)
    assert told["reason"] == "other_stream"
    assert "id" not in told


async def test_an_older_stream_is_refused(at: Setting) -> None:
    """A reader that has not noticed yet does not take the new stream's place back."""
    at.accept(100)
    assert at.delivery.follow("wa_stream@2")
    assert at.accept(101, epoch=9) == STALE
    assert at.delivery.point == Point("wa_stream@2", 0)
    at.accept(1, epoch=10, stream="wa_stream@2")
    assert at.got() == [100, 1]


async def test_a_newcomer_is_complete_where_the_reader_saw_it(at: Setting) -> None:
    """In a stream made anew from where the reader is, else from its beginning."""
    at.accept(100)
    assert at.delivery.complete_after(Position(1, STREAM, 120)) == Point(STREAM, 120)
    assert at.delivery.complete_after(Position(1, STREAM, 50)) == Point(STREAM, 100)
    assert at.delivery.complete_after(Position(2, "wa_stream@2", 3)) == Point("wa_stream@2", 3)
    assert at.delivery.complete_after(Position(2, STREAM, 130)) == Point("wa_stream@2", 0)


async def test_shared_mode_takes_any_order_once(at: Setting) -> None:
    """Without a reader each event is still delivered once."""
    at.accept(5, 3, 4, epoch=SHARED_EPOCH)
    at.accept(3, 6, epoch=SHARED_EPOCH)
    assert at.got() == [5, 3, 4, 6]


async def test_nothing_for_others(at: Setting) -> None:
    """An event of another agent is accepted and written to nobody here."""
    at.delivery.accept(1, STREAM, 0, [item(1, chats("acme", "other"))])
    at.delivery.flush()
    assert at.delivery.mark == 1
    assert at.sink.written == []


async def test_admins_get_what_their_pattern_matches() -> None:
    """Company and agent of an admin's pattern are each exact or any."""
    hub, metrics = Hub(), Metrics()
    delivery = Delivery(hub, metrics)
    seen: dict[str, list[object]] = {}
    for name, company, agent in [
        ("all", "*", "*"),
        ("company", "acme", "*"),
        ("agent", "*", "bot"),
        ("one", "acme", "bot"),
        ("other", "beta", "*"),
    ]:
        made = Made(name, principal.admin(name, 1e12, company, agent))
        hub.join(made.connection)
        hub.add(made.connection, made.connection.principal.subject)
        made.connection._queue = delivery.queue
        made.open()
        delivery.accept(1, STREAM, 0, [])
        seen[name] = [made]
    delivery.accept(1, STREAM, 0, [item(1, "websocket.acme.bot.agents")])
    delivery.flush()
    got = {name for name, (made,) in seen.items() if made.sink.messages()}  # type: ignore[attr-defined]
    assert got == {"all", "company", "agent", "one"}


async def test_a_burst_over_the_outbox_loses_nothing_for_who_reads() -> None:
    """The bound is for clients that do not read, not for bursts within a turn."""
    at = Setting(max_count=3)
    at.accept(*range(1, 50))
    assert at.got() == list(range(1, 50))


async def test_a_client_that_does_not_read_is_told_what_it_lost() -> None:
    """Behind and over the bound the oldest go, and the client hears it before the next event."""
    at = Setting(max_count=3)
    at.sink.waiting = BACKLOG_BYTES + 1
    at.accept(1)
    at.accept(*range(2, 7))
    assert at.got() == []
    at.sink.waiting = 0
    at.delivery.writable(at.made.connection)
    at.delivery.flush()
    first, *rest = at.sink.messages()
    assert first["payload"] == {
        "code": "EventsDropped",
        "message": "events were dropped because this client reads too slowly",
        "details": {"from_seq": 1, "to_seq": 3, "dropped": 3},
    }
    assert [message["seq"] for message in rest] == [4, 5, 6]
    assert at.made.connection.dropped == 3


async def test_block_withholds_acceptance_until_there_is_room() -> None:
    """With policy `block` nothing is lost; what is over the bound is not accepted yet."""
    at = Setting(max_count=2, policy="block")
    told = []
    at.delivery.on_accepted(lambda: told.append(at.delivery.accepted_upto()))
    at.sink.waiting = BACKLOG_BYTES + 1
    at.accept(1)
    at.accept(2, 3, 4)
    assert at.delivery.mark == 4
    assert at.delivery.held_floor() == 3
    assert at.delivery.accepted_upto() == 2
    at.sink.waiting = 0
    at.delivery.writable(at.made.connection)
    at.delivery.flush()
    assert at.got() == [1, 2, 3, 4]
    assert told == [4]


async def test_another_policy_lets_go_of_what_the_old_one_withheld() -> None:
    """From `block` to `drop_oldest`: what is too much is dropped, counted, told and accepted."""
    at = Setting(max_count=2, policy="block")
    told = []
    at.delivery.on_accepted(lambda: told.append(at.delivery.accepted_upto()))
    at.sink.waiting = BACKLOG_BYTES + 1
    at.accept(1)
    at.accept(2, 3, 4)
    assert at.delivery.accepted_upto() == 2
    at.delivery.limit(2, 10_000, "drop_oldest")
    assert (told, dropped(at)) == ([4], 2)
    at.sink.waiting = 0
    at.delivery.writable(at.made.connection)
    at.delivery.flush()
    assert at.got() == [3, 4]


async def test_what_is_written_without_a_word_of_the_socket_is_accepted() -> None:
    """The buffer had shrunk by the next event: nothing is withheld any more, and it is told."""
    at = Setting(max_count=2, policy="block")
    told = []
    at.delivery.on_accepted(lambda: told.append(at.delivery.accepted_upto()))
    at.sink.waiting = BACKLOG_BYTES + 1
    at.accept(1)
    at.accept(2, 3)
    assert at.delivery.accepted_upto() == 2
    at.sink.waiting = BACKLOG_BYTES
    at.accept(4)
    assert at.got() == [1, 2, 3, 4]
    assert not at.hub.behind
    assert told == [4]


async def test_a_blocked_client_far_over_its_limit_is_closed() -> None:
    """At a multiple of its limits it is given up, at once, and withholds nothing any more."""
    at = Setting(max_count=2, policy="block")
    at.sink.waiting = BACKLOG_BYTES + 1
    at.accept(1)
    at.accept(*range(2, 2 * BLOCKED_FACTOR + 1))
    assert not at.sink.closed
    assert at.accept(100) == 2
    assert at.sink.closed == [CloseReason.TOO_SLOW]
    assert at.delivery.held_floor() is None
    assert at.accept(101) == 101
    assert dropped(at) == 0


async def test_a_burst_in_one_turn_is_bounded() -> None:
    """A socket whose buffer has no room for an outbox more is not written to, burst or not."""
    at = Setting(max_count=3, max_bytes=1000)
    at.sink.waiting = BACKLOG_BYTES + 1000
    at.accept(*range(1, 50))
    assert at.got() == []
    assert len(at.made.outbox) == 3
    assert dropped(at) == 46


async def test_what_is_dropped_is_counted_once_whoever_pushed_it_out() -> None:
    """An event that a message pushes out counts as any other; so does one of who leaves."""
    at = Setting(max_count=2)
    at.sink.waiting = BACKLOG_BYTES + 1
    at.accept(1, 2)
    at.made.connection.send(b"{}")
    at.delivery.flush()
    assert dropped(at) == at.made.connection.dropped == 1
    at.made.connection.send(b"{}")
    at.made.connection.close(CloseReason.TOO_SLOW)
    at.delivery.forget(at.made.connection)
    at.delivery.flush()
    assert dropped(at) == at.made.connection.dropped == 2


async def test_who_leaves_withholds_nothing_any_more() -> None:
    """A blocked client that is gone lets the acceptance go on."""
    at = Setting(max_count=1, policy="block")
    told = []
    at.delivery.on_accepted(lambda: told.append(at.delivery.accepted_upto()))
    at.sink.waiting = BACKLOG_BYTES + 1
    at.accept(1)
    at.accept(2, 3)
    assert at.delivery.accepted_upto() < 3
    at.delivery.forget(at.made.connection)
    assert told == [3]


async def test_nothing_is_written_while_held(at: Setting) -> None:
    """A pod that may have lost its sessions writes nothing, and everything once it may."""
    at.delivery.hold()
    at.accept(1)
    assert at.sink.written == []
    at.delivery.release()
    assert at.got() == [1]


async def test_nothing_is_written_after_a_pause_that_nobody_looked_into(at: Setting) -> None:
    """The first flush after the process stood still waits for the sessions to be made sure of."""
    at.now = PAUSE_SECONDS + 0.1
    at.accept(1)
    assert at.sink.written == []
    at.delivery.release()
    assert at.got() == [1]


async def test_latency_is_counted_per_delivery(at: Setting) -> None:
    """From the broker's timestamp to the write: 1,000 ns to 2,000,000 ns is 2 ms or less."""
    at.accept(1, 2)
    counts = at.metrics.tally.latency_counts
    assert sum(counts) == 2
    assert counts[2] == 2


async def test_pushes_wait_while_the_pod_catches_up(at: Setting) -> None:
    """While shut, whoever wants to hand in something waits."""
    at.delivery.shut(True)
    waiting = asyncio.create_task(at.delivery.wait_open())
    await asyncio.sleep(0)
    assert not waiting.done()
    at.delivery.shut(False)
    await asyncio.wait_for(waiting, 1)


async def test_while_held_not_even_a_full_outbox_or_a_close_writes() -> None:
    """What a displaced session holds must not reach its socket after the successor's ready."""
    at = Setting(max_count=2)
    at.made.connection._may_write = at.delivery.may_write
    at.accept(1)
    at.delivery.hold()
    at.accept(2, 3, 4, 5)
    at.made.connection.close(CloseReason.DISPLACED)
    assert at.got() == [1]
    assert at.sink.closed == [CloseReason.DISPLACED]


async def test_pushes_wait_while_held(at: Setting) -> None:
    """Events wait outside rather than fill outboxes that may not be written."""
    at.delivery.hold()
    assert not at.delivery.is_open
    at.delivery.shut(True)
    at.delivery.release()
    assert not at.delivery.is_open
    at.delivery.shut(False)
    assert at.delivery.is_open


async def test_one_that_left_while_it_was_behind_withholds_nothing() -> None:
    """It leaves in the turn in which another event came for it: acceptance goes on."""
    at = Setting(max_count=1, policy="block")
    at.sink.waiting = BACKLOG_BYTES + 1
    at.accept(1)
    assert at.accept(2, 3) == 1
    at.delivery.accept(1, STREAM, 4, [item(4)])
    at.made.connection.close(CloseReason.TOO_SLOW)
    at.delivery.forget(at.made.connection)
    at.hub.leave(at.made.connection)
    at.delivery.flush()
    assert not at.hub.behind
    assert at.delivery.accepted_upto() == 4


async def test_what_a_short_pause_kept_back_is_written_at_the_next_tick(at: Setting) -> None:
    """The loop stood still for a moment: a flush wrote nothing, and no other event comes."""
    at.now += PAUSE_SECONDS + 0.05
    at.accept(1)
    assert at.got() == []
    at.delivery.trust(at.now)
    await asyncio.sleep(0)
    assert at.got() == [1]


@pytest.mark.parametrize("step", ["backlog", "write"])
async def test_a_socket_that_fails_costs_the_others_nothing(
    at: Setting, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Whatever a write to one socket raises, that connection ends and the rest is written."""
    broken = Made("broken")
    broken.connection._queue = at.delivery.queue
    at.hub.add(broken.connection, MINE)
    at.hub.add(at.made.connection, MINE)
    broken.open()
    monkeypatch.setattr(broken.sink, step, lambda *_: 1 // 0)
    other = Made("other")
    other.connection._queue = at.delivery.queue
    at.hub.add(other.connection, MINE)
    other.open()
    at.accept(1)
    assert at.got() == [1]
    assert [message["seq"] for message in other.sink.messages()] == [1]
    assert broken.sink.closed == [CloseReason.INTERNAL_ERROR]


async def test_nobody_is_closed_before_everybody_is_written() -> None:
    """Who is given up, and whoever hears of it, finds no event taken and not written."""
    at = Setting(max_count=1, policy="block")
    other = Made("other")
    other.connection._queue = at.delivery.queue
    at.hub.add(other.connection, MINE)
    other.open()
    written: list[int] = []
    at.made.connection.on_close = lambda _: written.append(len(other.sink.messages()))
    at.sink.waiting = BACKLOG_BYTES + 1
    for seq in range(1, BLOCKED_FACTOR + 2):
        at.accept(seq)
    assert at.sink.closed == [CloseReason.TOO_SLOW]
    assert written == [BLOCKED_FACTOR + 1]


async def test_an_event_is_compressed_once_for_all_who_take_it(at: Setting) -> None:
    """The others get it as it is."""
    others = [Made(f"c{number}") for number in (2, 3)]
    for made in others:
        made.connection._queue = at.delivery.queue
        made.connection.deflated = True
        at.hub.join(made.connection)
        at.hub.add(made.connection, MINE)
        made.open()
        made.sink.written.clear()
    at.sink.written.clear()
    at.delivery.accept(1, STREAM, 1, [item(1, size=1000)])
    at.delivery.flush()
    plain, first, second = (sink.written for sink in (at.sink, *(m.sink for m in others)))
    assert len(plain[0]) > 1000
    assert len(first[0]) < 200
    assert first[0] is second[0]
