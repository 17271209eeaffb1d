"""Where a client is in the stream, and what it has seen already."""

from __future__ import annotations

from collections import deque
from typing import Final

from daisi_ws.client.frames import Event, Ready

WINDOW: Final = 4096
"""So many sequences below the highest are remembered one by one."""


class Position:
    """Stream and sequence a client has got to; lets each event through once.

    A gateway in `ordered` mode needs the highest sequence alone. In `shared` mode an event may
    come after a later one and is not lost for it: hence the window.

    :ivar stream: identity of the stream; empty before the first `ready` that tells one.
    :ivar seq: highest sequence seen.
    :ivar duplicates: events that came again and were held back.
    :ivar reordered: events that came after a later one.
    """

    def __init__(self) -> None:
        self.stream = ""
        self.seq = 0
        self.duplicates = 0
        self.reordered = 0
        self._seen: set[int] = set()
        self._order: deque[int] = deque()

    def start(self, ready: Ready) -> None:
        """Take in a `ready`; of another stream than before, everything starts over."""
        if ready.stream != self.stream:
            self.stream = ready.stream
            self.seq = 0
            self._seen.clear()
            self._order.clear()
        self.seq = max(self.seq, ready.seq)

    def take(self, event: Event) -> bool:
        """Tell whether the event is new, and remember it."""
        seq = event.seq
        if seq is None:
            return True
        if seq <= self.seq:
            if seq in self._seen or seq <= self.seq - WINDOW:
                self.duplicates += 1
                return False
            self.reordered += 1
        else:
            self.seq = seq
        self._seen.add(seq)
        self._order.append(seq)
        if len(self._order) > WINDOW:
            self._seen.discard(self._order.popleft())
        return True
