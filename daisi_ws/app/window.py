"""A range of the stream in memory, by interest."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from heapq import merge
from operator import attrgetter

from daisi_ws.app.ports import Received
from daisi_ws.domain import subjects
from daisi_ws.domain.event import NotAnEvent, event_text
from daisi_ws.domain.wire import text_frame

_SEQ = attrgetter("seq")


@dataclass(frozen=True, slots=True)
class Entry:
    """One event: when it was stored (Unix nanoseconds), its interests, and its frame."""

    seq: int
    stored_ns: int
    interests: tuple[str, ...]
    frame: bytes


def entry_of(message: Received) -> Entry | None:
    """Return the entry of a message; None if it is no event."""
    address = subjects.parse(message.subject)
    if address is None:
        return None
    try:
        text = event_text(address, message.data, message.seq)
    except NotAnEvent:
        return None
    return Entry(message.seq, message.stored_ns, address.interests, text_frame(text))


@dataclass(slots=True)
class Window:
    """All events of `stream` after `after`, up to `upto`.

    :ivar size: bytes of their frames.
    """

    stream: str
    after: int
    upto: int = field(init=False)
    size: int = field(init=False, default=0)
    _all: list[Entry] = field(init=False, default_factory=list)
    _by_interest: dict[str, list[Entry]] = field(
        init=False, default_factory=lambda: defaultdict(list)
    )

    def __post_init__(self) -> None:
        self.upto = self.after

    def __bool__(self) -> bool:
        return self.upto > self.after

    def covers(self, after: int, upto: int) -> bool:
        """Tell whether the whole range is here; an empty one is."""
        return upto <= after or (self.after <= after and upto <= self.upto)

    def missing(self, after: int, upto: int) -> int:
        """Return how many sequences would have to be read for this range to be here."""
        if not self or after > self.upto or upto <= self.after:
            return max(0, upto - after)
        return max(0, self.after - after) + max(0, upto - self.upto)

    def extend(self, messages: Iterable[Received], upto: int) -> None:
        """Add what follows, up to `upto`."""
        self._add(entry for entry in map(entry_of, messages) if entry is not None)
        self.upto = upto

    def prepend(self, earlier: Window) -> None:
        """Put a window before this one that ends where this one begins, or later."""
        entries = [entry for entry in earlier._all if entry.seq <= self.after] + self._all
        self.after = earlier.after
        self._rebuild(entries)

    def shrink(self, size: int) -> None:
        """Forget the oldest until at most `size` bytes are kept."""
        if self.size <= size:
            return
        dropped, left = 0, self.size
        while left > size:
            left -= len(self._all[dropped].frame)
            dropped += 1
        self.after = self._all[dropped - 1].seq
        self._rebuild(self._all[dropped:])

    def entries(self, interests: Collection[str], after: int, upto: int) -> list[Entry]:
        """Return the events of these interests after `after`, up to `upto`, in order."""
        found = []
        for interest in interests:
            entries = self._by_interest.get(interest, [])
            first, last = (bisect_right(entries, seq, key=_SEQ) for seq in (after, upto))
            found.append(entries[first:last])
        return found[0] if len(found) == 1 else list(merge(*found, key=_SEQ))

    def _add(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self._all.append(entry)
            self.size += len(entry.frame)
            for interest in entry.interests:
                self._by_interest[interest].append(entry)

    def _rebuild(self, entries: list[Entry]) -> None:
        self._all = []
        self._by_interest.clear()
        self.size = 0
        self._add(entries)
