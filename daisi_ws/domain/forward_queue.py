"""What waits for one peer, in order, until the peer has taken it.

What a peer has taken is in its outboxes and leaves the queue. Under policy `block` it may withhold
the acceptance of some of it for a client without room: that is one number here, and costs neither
room in the queue nor a place on the way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Final

from daisi_ws.domain.packets import Item

BATCH_ITEMS: Final = 256
BATCH_BYTES: Final = 1024 * 1024
WINDOW: Final = 16
"""Batches that may be on their way without being taken."""


@dataclass(slots=True)
class _Sent:
    """A batch on its way."""

    number: int
    items: list[Item]
    again: int


@dataclass(frozen=True, slots=True)
class Taken:
    """A batch to be sent.

    :param upto: nothing at or before this sequence is still to come.
    :param again: how many of the items were sent before.
    """

    number: int
    items: list[Item]
    upto: int
    again: int


class ForwardQueue:
    """Events in the order in which they were pushed: waiting, then sent, then taken.

    Nothing is ever dropped but by :meth:`forget`; `limit` only says when the queue is `full`.
    Sequences usually grow; where they do not (shared mode), all stays right, `floor` is slower.

    :param limit: events, sent ones included, from which the queue is full.
    :ivar withheld: the lowest sequence that the peer has taken and not accepted, None if it has
        accepted what it took.
    """

    __slots__ = (
        "_again",
        "_floor",
        "_in_order",
        "_last",
        "_number",
        "_sent",
        "_taken",
        "_waiting",
        "held",
        "limit",
        "withheld",
    )

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self.withheld: int | None = None
        self._taken = -1
        self._waiting: deque[Item] = deque()
        self._sent: deque[_Sent] = deque()
        self._number = 0
        self._again = 0
        self._in_order = True
        self._last = -1
        self._floor: int | None = None

    @property
    def full(self) -> bool:
        """Tell whether no more should be pushed."""
        return self.held >= self.limit

    @property
    def waiting(self) -> int:
        """Return how many events are not on their way."""
        return len(self._waiting)

    @property
    def sendable(self) -> bool:
        """Tell whether :meth:`take` has something."""
        return bool(self._waiting) and len(self._sent) < WINDOW

    def push(self, item: Item) -> None:
        """Add an event at the end."""
        if item.seq < self._last:
            self._in_order = False
            # Only a descent can lower it: the last one pushed is held as long as anything is.
            if self._floor is not None:
                self._floor = min(self._floor, item.seq)
        self._last = item.seq
        self._waiting.append(item)
        self.held += 1

    def floor(self) -> int | None:
        """Return the lowest sequence not taken; None if everything is."""
        if not self.held:
            return None
        if self._in_order:
            return self._head().seq
        if self._floor is None:
            sent = chain.from_iterable(s.items for s in self._sent)
            self._floor = min(item.seq for item in chain(sent, self._waiting))
        return self._floor

    def take(self, progress: int) -> Taken:
        """Move the next batch from waiting to sent; only if :attr:`sendable`.

        :param progress: how far has been read; no lower sequence will be pushed any more.
        """
        items = self._cut()
        again = min(self._again, len(items))
        self._again -= again
        upto = items[-1].seq if self._waiting else max(progress, items[-1].seq)
        number = self.next_number()
        self._sent.append(_Sent(number, items, again))
        return Taken(number, items, upto, again)

    def next_number(self) -> int:
        """Number a batch; numbers only grow."""
        self._number += 1
        return self._number

    def accept(self, number: int, upto: int) -> tuple[int, int]:
        """Drop the batches up to `number`: they are taken; the events up to `upto` are accepted.

        :return: how many events were taken, and how many of them were in batches sent again.
        """
        taken = again = 0
        while self._sent and self._sent[0].number <= number:
            batch = self._sent.popleft()
            self._taken = max(self._taken, batch.items[-1].seq, *self._disordered(batch))
            taken += len(batch.items)
            again += batch.again
        self.withheld = upto + 1 if upto < self._taken else None
        if taken:
            self.held -= taken
            self._floor = None
            if not self.held:
                self._clear_order()
        return taken, again

    def rewind(self) -> None:
        """Put everything sent and not taken back to the head: the stream to the peer broke.

        What it took is not sent again, and nobody would tell when it is accepted.
        """
        for batch in reversed(self._sent):
            self._waiting.extendleft(reversed(batch.items))
            self._again += len(batch.items)
        self._sent.clear()
        self._forget_taken()

    def forget(self) -> int:
        """Drop everything; return how many events that was. Batch numbers go on."""
        held, self.held = self.held, 0
        self._waiting.clear()
        self._sent.clear()
        self._again = 0
        self._clear_order()
        self._forget_taken()
        return held

    def _forget_taken(self) -> None:
        self._taken = -1
        self.withheld = None

    def _clear_order(self) -> None:
        self._in_order = True
        self._last = -1
        self._floor = None

    def _head(self) -> Item:
        return self._sent[0].items[0] if self._sent else self._waiting[0]

    def _cut(self) -> list[Item]:
        waiting, size = self._waiting, 0
        items: list[Item] = []
        while waiting and len(items) < BATCH_ITEMS:
            size += len(waiting[0].text)
            if items and size > BATCH_BYTES:
                break
            items.append(waiting.popleft())
        return items

    def _disordered(self, batch: _Sent) -> Iterable[int]:
        return () if self._in_order else (item.seq for item in batch.items)
