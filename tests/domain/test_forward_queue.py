"""The queue of events for one peer."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from daisi_ws.domain.forward_queue import BATCH_BYTES, BATCH_ITEMS, WINDOW, ForwardQueue
from daisi_ws.domain.packets import Item


def _item(seq: int, text: bytes = b"{}") -> Item:
    return Item(seq, 0, "websocket.acme.support.chats", text)


def _queue(seqs: Iterable[int], limit: int = 1000) -> ForwardQueue:
    queue = ForwardQueue(limit)
    for seq in seqs:
        queue.push(_item(seq))
    return queue


def _seqs(items: list[Item]) -> list[int]:
    return [item.seq for item in items]


def test_a_batch_ends_at_its_number_of_events() -> None:
    """More than a batch's worth is sent as several, in order."""
    queue = _queue(range(1, BATCH_ITEMS + 11))
    assert _seqs(queue.take(0).items) == list(range(1, BATCH_ITEMS + 1))
    assert _seqs(queue.take(0).items) == list(range(BATCH_ITEMS + 1, BATCH_ITEMS + 11))
    assert not queue.sendable


def test_a_batch_ends_at_its_bytes_but_holds_at_least_one_event() -> None:
    """Big events travel in smaller batches; one larger than a batch travels alone."""
    queue = ForwardQueue(10)
    for seq, size in enumerate((BATCH_BYTES // 2, BATCH_BYTES // 2, 1, 2 * BATCH_BYTES, 1)):
        queue.push(_item(seq, bytes(size)))
    assert [_seqs(queue.take(0).items) for _ in range(4)] == [[0, 1], [2], [3], [4]]


def test_only_so_many_batches_are_on_their_way() -> None:
    """The window closes until something is taken."""
    queue = _queue(range(WINDOW * BATCH_ITEMS + 1), limit=10_000)
    for _ in range(WINDOW):
        assert queue.sendable
        queue.take(0)
    assert not queue.sendable
    queue.accept(1, BATCH_ITEMS)
    assert queue.sendable


@pytest.mark.parametrize(
    ("seqs", "progress", "upto"),
    [([5, 6], 9, 9), ([5, 6], 5, 6), ([5, 6], -1, 6)],
    ids=["read on", "read less far", "not told"],
)
def test_a_batch_that_empties_the_queue_tells_progress(
    seqs: list[int], progress: int, upto: int
) -> None:
    """Whoever reads on without events for this peer has nothing more before that."""
    assert _queue(seqs).take(progress).upto == upto


def test_a_batch_that_leaves_something_waiting_ends_at_its_last_event() -> None:
    """Progress beyond what is still queued would be a lie."""
    assert _queue(range(BATCH_ITEMS + 1)).take(10_000).upto == BATCH_ITEMS - 1


def test_acceptance_is_cumulative() -> None:
    """Accepting the third batch accepts the first two."""
    queue = _queue(range(1, 2 * BATCH_ITEMS + 51))
    for _ in range(3):
        queue.take(0)
    assert queue.accept(3, 10_000) == (2 * BATCH_ITEMS + 50, 0)
    assert queue.floor() is None
    assert queue.held == 0


def test_what_is_withheld_is_told_and_takes_no_room() -> None:
    """What a peer has taken and not accepted is one number, until it accepts it."""
    queue = _queue([1, 2, 3, 4], limit=4)
    number = queue.take(0).number
    assert queue.accept(number, 2) == (4, 0)
    assert (queue.withheld, queue.floor(), queue.held) == (3, None, 0)
    assert queue.accept(number, 3) == (0, 0)
    assert queue.withheld == 4
    assert queue.accept(number, 4) == (0, 0)
    assert queue.withheld is None


def test_withholding_closes_no_window() -> None:
    """However long a peer withholds, what comes after goes on its way."""
    queue = ForwardQueue(1000)
    for seq in range(1, 3 * WINDOW):
        queue.push(_item(seq))
        assert queue.sendable
        queue.accept(queue.take(seq).number, 0)
    assert queue.withheld == 1
    assert not queue.full


def test_an_older_event_withheld_behind_a_newer_one_is_told() -> None:
    """Shared mode: what matters is the highest sequence taken, wherever it stood."""
    queue = _queue([10, 5])
    queue.accept(queue.take(0).number, 7)
    assert queue.withheld == 8


@pytest.mark.parametrize("end", [ForwardQueue.rewind, ForwardQueue.forget])
def test_when_the_stream_breaks_nothing_is_withheld(end: Callable[[ForwardQueue], object]) -> None:
    """It is in the peer's outboxes, and nobody would tell when they have room."""
    queue = _queue([1, 2])
    queue.accept(queue.take(0).number, 0)
    end(queue)
    assert queue.withheld is None
    queue.push(_item(9))
    queue.accept(queue.take(0).number, 9)
    assert queue.withheld is None


def test_what_was_not_sent_is_not_accepted() -> None:
    """A sequence that a peer has from elsewhere says nothing about what still waits here."""
    queue = _queue([1, 2])
    assert queue.accept(9, 100) == (0, 0)
    assert queue.floor() == 1


def test_an_older_event_behind_newer_ones_is_accepted_with_its_own_batch() -> None:
    """Shared mode: a redelivered event is older than what was pushed before it."""
    queue = _queue([10])
    first = queue.take(0).number
    queue.push(_item(5))
    second = queue.take(0).number
    assert queue.floor() == 5
    assert queue.accept(first, 10) == (1, 0)
    assert queue.floor() == 5
    assert queue.accept(second, 10) == (1, 0)


def test_after_a_break_everything_not_taken_comes_again_in_order() -> None:
    """Sent and waiting events keep their order; those taken do not come back."""
    queue = _queue(range(1, 401))
    first = queue.take(0)
    queue.take(0)
    queue.push(_item(401))
    queue.accept(first.number, 100)
    queue.rewind()
    again = queue.take(0)
    assert _seqs(again.items) == list(range(BATCH_ITEMS + 1, 402))
    assert again.again == 400 - BATCH_ITEMS
    assert again.number > first.number


def test_events_pushed_after_a_break_are_no_repetition() -> None:
    """Only what had its chance counts as tried again, and as gone through then."""
    queue = _queue([1, 2])
    queue.take(0)
    queue.rewind()
    queue.push(_item(3))
    taken = queue.take(0)
    assert taken.again == 2
    assert queue.accept(taken.number, 3) == (3, 2)


def test_full_is_reached_by_what_waits_and_what_is_on_its_way() -> None:
    """Sending makes no room, being taken does; nothing is dropped beyond the limit."""
    queue = _queue([1, 2, 3], limit=3)
    assert queue.full
    number = queue.take(0).number
    assert queue.full
    queue.push(_item(4))
    assert queue.held == 4
    queue.accept(number, 2)
    assert not queue.full


def test_forgetting_leaves_nothing_but_the_numbers() -> None:
    """A late answer to a batch from before accepts nothing of a batch from after."""
    queue = _queue([5, 6])
    before = queue.take(0).number
    assert queue.forget() == 2
    assert queue.floor() is None
    queue.push(_item(1))
    assert queue.take(0).number > before
    assert queue.accept(before, 100) == (0, 0)


class QueueModel(RuleBasedStateMachine):
    """The queue beside a plain list of what is not taken, under any order of what happens."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = ForwardQueue(50)
        self.held: list[int] = []
        self.sent: list[tuple[int, int]] = []  # (number, seq) in order of sending
        self.highest = -1

    @rule(seqs=st.lists(st.integers(1, 40), min_size=1, max_size=300))
    def push(self, seqs: list[int]) -> None:
        """Push events, in any order of sequences."""
        for seq in seqs:
            self.queue.push(_item(seq))
            self.held.append(seq)

    @precondition(lambda self: self.queue.sendable)
    @rule()
    def take(self) -> None:
        """Send a batch: always what comes next."""
        taken = self.queue.take(0)
        at = len(self.sent)
        assert _seqs(taken.items) == self.held[at : at + len(taken.items)]
        self.sent += [(taken.number, item.seq) for item in taken.items]

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), upto=st.integers(0, 41))
    def accept(self, data: st.DataObject, upto: int) -> None:
        """Take batches from the head, and accept some of them."""
        number = data.draw(st.sampled_from(sorted({number for number, _ in self.sent})))
        expected = 0
        while self.sent and self.sent[0][0] <= number:
            self.highest = max(self.highest, self.sent.pop(0)[1])
            self.held.pop(0)
            expected += 1
        assert self.queue.accept(number, upto)[0] == expected
        assert self.queue.withheld == (upto + 1 if upto < self.highest else None)

    @rule()
    def rewind(self) -> None:
        """Break the stream: what was sent comes again."""
        self.queue.rewind()
        self.sent.clear()
        self.highest = -1

    @rule()
    def forget(self) -> None:
        """Start over."""
        assert self.queue.forget() == len(self.held)
        self.held.clear()
        self.sent.clear()
        self.highest = -1

    @invariant()
    def floor_is_the_lowest_held(self) -> None:
        """The floor is the lowest sequence not taken, whatever happened."""
        assert self.queue.floor() == min(self.held, default=None)
        assert self.queue.held == len(self.held)
        assert self.queue.full == (len(self.held) >= 50)


TestQueueModel = QueueModel.TestCase
TestQueueModel.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
