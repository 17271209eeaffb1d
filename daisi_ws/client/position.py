"""Where a client is in the stream, and what it has seen already."""

from __future__ import annotations

from bisect import insort
from collections import deque
from typing import Final

from daisi_ws.client.backlog import Backlog
from daisi_ws.client.frames import Event, Gap, Ready, Resumed

WINDOW: Final = 4096
"""So many sequences below the highest are remembered one by one."""

PASSING: Final = frozenset({"busy", "unavailable"})
"""Reasons for which nothing is given up: it can be asked for again a little later."""


class Position:
    """How far a client has got in the stream, and in a thread; lets each event through once.

    A gateway in `ordered` mode sends sequences that only grow, so the highest one seen is the
    position. What comes late nevertheless is one of these:

    - an event that is given again, in a hole that the gateway told (`gap`), or in the thread that
      was not looked at while the client was away. Such a hole is a :class:`Backlog`; while there
      is one, the position stays before it.
      What came in a thread before it was chosen is nothing that was missed there: a replay of
      everything brings it, too, and it is held back.
    - in `shared` mode any event. Within the window below the highest sequence what was not seen
      is let through; below the window only what lies in a hole.

    :ivar stream: identity of the stream; empty before the first `ready` that tells one.
    :ivar duplicates: events that came again and were held back.
    :ivar reordered: events that came after a later one, without having been asked for.
    """

    def __init__(self) -> None:
        self.stream = ""
        self.duplicates = 0
        self.reordered = 0
        self._top = 0
        self._seen: set[int] = set()
        self._order: deque[int] = deque()
        self._flow: Backlog | None = None
        self._thread: Backlog | None = None
        self._joined: int | None = None
        self._left_at: int | None = None
        self._calm = True

    @property
    def seq(self) -> int:
        """Nothing up to here is missing, threads aside."""
        return self._top if self._flow is None else self._flow.complete

    @property
    def thread(self) -> int | None:
        """Nothing of the thread looked at is missing up to here; None: that is not known."""
        if self._thread is not None:
            return self._thread.complete
        return None if self._joined is None else max(self._joined, self.seq)

    @property
    def behind(self) -> bool:
        """Tell whether there is a hole that nothing is being replayed for."""
        return self._flow is not None and not self._flow.replaying

    @property
    def thread_behind(self) -> bool:
        """Tell whether the thread looked at has a hole that nothing is being replayed for."""
        return self._thread is not None and self._thread.broken

    def start(self, ready: Ready) -> None:
        """Take in a `ready`; of another stream than before, everything starts over."""
        if ready.stream != self.stream or ready.reason == "future":
            self._start_over(ready.stream)
        if ready.recovered:
            self._replay(ready.replayed)
        else:
            self._not_replayed(ready)
        self._settle()

    def resumed(self, frame: Resumed) -> None:
        """Take in the answer to a `resume` message."""
        if frame.stream != self.stream or frame.reason == "future":
            self._start_over(frame.stream)
        if frame.recovered:
            self._replay(frame.replayed)
        else:
            self._not_replayed(frame)
        self._settle()

    def gap(self, frame: Gap) -> None:
        """Take in that events were dropped."""
        first, last = frame.payload.from_seq, frame.payload.to_seq
        if self._flow is None and last > self._top:
            self._flow = Backlog(max(first - 1, self._top))
        backlogs = [self._flow] if self._flow is not None else []
        if self._thread is not None and self._left_at is None:
            backlogs.append(self._thread)
        for backlog in backlogs:
            backlog.gap(first, last)
            # Below the highest sequence it is one of the holes already, or was seen.
            backlog.add_hole(max(first, self._top + 1), last)
        self._settle()

    def lost(self) -> None:
        """The connection is gone: the thread is complete up to here until it is joined again."""
        flow, thread = self._flow, self.thread
        if flow is not None:
            flow.stop()
        if self._thread is not None:
            self._thread.stop()
        elif thread is not None:
            self._thread = Backlog(thread) if flow is None else flow.copy(thread)
        if self._left_at is None:
            self._left_at = self._top
        self._joined = None
        self._settle()

    def choose_thread(self, after: int | None = None) -> None:
        """Another thread is asked for.

        :param after: it is known up to here; None: it comes from where it is joined.
        """
        self._joined = None
        self._thread = None if after is None else Backlog(after)
        self._left_at = after
        self._settle()

    def thread_resumed(self, frame: Resumed) -> None:
        """Take in the answer to a position in the thread; its events follow until `done`."""
        if frame.stream != self.stream or frame.reason == "future":
            self._start_over(frame.stream)
        thread = self._thread
        if thread is not None:
            if self._left_at is not None:
                thread.add_hole(self._left_at + 1, max(self._top, frame.seq))
                self._left_at = None
            if frame.recovered:
                thread.replay(frame.replayed)
            elif frame.reason in PASSING:
                thread.broken = True
            else:
                self._thread = None
        self._settle()

    def thread_joined(self, seq: int) -> None:
        """Take in the `done` of a choice: the thread is complete after `seq`, unless events of it
        were dropped meanwhile.
        """
        thread = self._thread
        if thread is None or not thread.broken:
            self._joined = seq if thread is None else max(seq, thread.complete)
            self._thread = self._left_at = None
        self._settle()

    def take(self, event: Event) -> bool:
        """Tell whether the event is new, and remember it."""
        seq = event.seq
        if seq is None:
            return True
        if seq > self._top and self._calm:
            self._top = seq
            self._remember(seq)
            return True
        return self._take_slowly(event, seq)

    def _take_slowly(self, event: Event, seq: int) -> bool:
        of_thread = self._thread is not None and event.is_of_thread()
        backlogs = self._backlogs(of_thread)
        near = seq > self._top - WINDOW
        new = seq not in self._seen if near else any(b.is_missing(seq) for b in backlogs)
        new = new and not self._came_before_the_choice(event, seq)
        if new:
            self.reordered += seq < self._top and not backlogs
            self._top = max(self._top, seq)
            if near:
                self._remember(seq)
        else:
            self.duplicates += 1
        for backlog in backlogs:
            backlog.came(seq)
        self._settle()
        return new

    def _came_before_the_choice(self, event: Event, seq: int) -> bool:
        return self._joined is not None and seq <= self._joined and event.is_of_thread()

    def _backlogs(self, of_thread: bool) -> list[Backlog]:
        """Return what an event may be missing from: a replay of all brings the thread, too."""
        found = []
        if of_thread and self._thread is not None:
            found.append(self._thread)
        if self._flow is not None:
            found.append(self._flow)
        return found

    def _remember(self, seq: int) -> None:
        self._seen.add(seq)
        if self._order and seq < self._order[-1]:
            insort(self._order, seq)
        else:
            self._order.append(seq)
        if len(self._order) > WINDOW:
            self._seen.discard(self._order.popleft())

    def _replay(self, count: int) -> None:
        if self._flow is None:
            self._flow = Backlog(self._top)
        self._flow.replay(count)

    def _not_replayed(self, frame: Ready | Resumed) -> None:
        if frame.reason in PASSING:
            self._flow = self._flow or Backlog(self._top)
            self._flow.stop()
            self._flow.add_hole(self._top + 1, frame.seq)
        else:
            self._flow = None
        self._top = max(self._top, frame.seq)

    def _start_over(self, stream: str) -> None:
        self.stream = stream
        self._top = 0
        self._seen.clear()
        self._order.clear()
        self._flow = self._thread = self._joined = self._left_at = None

    def _settle(self) -> None:
        if self._flow is not None and self._flow.finished:
            self._flow = None
        self._calm = self._flow is None and self._thread is None
