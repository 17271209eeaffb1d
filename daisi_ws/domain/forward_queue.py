"""What waits for one peer, in order, until the peer has accepted it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import chain, islice
from typing import Final

from daisi_ws.domain.packets import Item

BATCH_ITEMS: Final = 256
BATCH_BYTES: Final = 1024 * 1024
WINDOW: Final = 16
"""Batches that may be on their way without being accepted."""


@dataclass(slots=True)
class _Sent:
    """A batch on its way; `done` of its items, from the head, are accepted."""

    number: int
    items: list[Item]
    again: int
    done: int = 0


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
    """Events in the order in which they were pushed: waiting, then sent, then accepted.

    Nothing is ever dropped but by :meth:`forget`; `limit` only says when the queue is `full`.
    Sequences usually grow; where they do not (shared mode), all stays right, `floor` is slower.

    :param limit: events, sent ones included, from which the queue is full.
    """

    __slots__ = (
        "_again",
        "_floor",
        "_in_order",
        "_last",
        "_number",
        "_sent",
        "_waiting",
        "held",
        "limit",
    )

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
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
        """Return the lowest sequence not accepted; None if everything is."""
        if not self.held:
            return None
        if self._in_order:
            return self._head().seq
        if self._floor is None:
            sent = chain.from_iterable(islice(s.items, s.done, None) for s in self._sent)
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
        """Drop what is accepted, from the head: in batches up to `number`, events up to `upto`.

        :return: how many events, and how many of them were in batches that had been sent again.
        """
        accepted = again = 0
        while self._sent and self._sent[0].number <= number:
            batch = self._sent[0]
            before = batch.done
            batch.done = self._reach(batch, upto)
            accepted += batch.done - before
            if batch.done < len(batch.items):
                break
            again += batch.again
            self._sent.popleft()
        if accepted:
            self.held -= accepted
            self._floor = None
            if not self.held:
                self._clear_order()
        return accepted, again

    def rewind(self) -> None:
        """Put everything sent and not accepted back to the head: the stream to the peer broke."""
        for batch in reversed(self._sent):
            unaccepted = batch.items[batch.done :]
            self._waiting.extendleft(reversed(unaccepted))
            self._again += len(unaccepted)
        self._sent.clear()

    def forget(self) -> int:
        """Drop everything; return how many events that was. Batch numbers go on."""
        held, self.held = self.held, 0
        self._waiting.clear()
        self._sent.clear()
        self._again = 0
        self._clear_order()
        return held

    def _clear_order(self) -> None:
        self._in_order = True
        self._last = -1
        self._floor = None

    def _head(self) -> Item:
        if self._sent:
            batch = self._sent[0]
            return batch.items[batch.done]
        return self._waiting[0]

    def _cut(self) -> list[Item]:
        waiting, size = self._waiting, 0
        items: list[Item] = []
        while waiting and len(items) < BATCH_ITEMS:
            size += len(waiting[0].text)
            if items and size > BATCH_BYTES:
                break
            items.append(waiting.popleft())
        return items

    def _reach(self, batch: _Sent, upto: int) -> int:
        items = batch.items
        if self._in_order and items[-1].seq <= upto:
            return len(items)
        done = batch.done
        while done < len(items) and items[done].seq <= upto:
            done += 1
        return done
