"""The bounded queue of frames for one connection, and what is done when it is full."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from daisi_ws.domain.frames import events_dropped, gap
from daisi_ws.domain.wire import text_frame

Policy = Literal["drop_oldest", "block"]

NOTHING: Final = -1
"""In place of a sequence: no event, but a message that is never dropped."""

UNSEQUENCED: Final = -2
"""In place of a sequence: an event that has none, because an older pod pushed it."""

BLOCKED_FACTOR: Final = 4
"""With policy `block` so many times the limits may wait; beyond that the client is given up."""


class Outbox:
    """Frames that wait for the end of the loop turn, or for a client that does not read.

    :param max_count: how many frames may wait.
    :param max_bytes: how many bytes may wait.
    :param policy: `drop_oldest` forgets the oldest and tells the client before the next event;
        `block` keeps up to :data:`BLOCKED_FACTOR` times as much and withholds the acceptance of
        what is over the limit; an event without sequence has been accepted already, it is dropped.
    :ivar positions: the client asked for positions: it is told of gaps by `gap`, not by `error`.
    """

    __slots__ = (
        "_dropped",
        "_first",
        "_frames",
        "_held",
        "_last",
        "_passed",
        "_unsequenced",
        "max_bytes",
        "max_count",
        "policy",
        "positions",
        "size",
    )

    def __init__(self, max_count: int, max_bytes: int, policy: Policy) -> None:
        self.max_count = max_count
        self.max_bytes = max_bytes
        self.policy: Policy = policy
        self.positions = False
        self.size = 0
        # A list, which is small when empty: most outboxes are, most of the time.
        self._frames: list[tuple[int, bytes]] = []
        self._held: int | None = None
        self._passed = 0
        self._dropped = self._unsequenced = 0
        self._first = self._last = 0

    def __len__(self) -> int:
        return len(self._frames)

    def __bool__(self) -> bool:
        """Tell whether there is something to write, if only that something was dropped."""
        return bool(self._frames or self._dropped)

    def put(self, seq: int, frame: bytes, *, lossy: bool = False) -> int:
        """Add a frame; return how many were dropped for it.

        :param seq: its event's stream sequence, or :data:`UNSEQUENCED`; :data:`NOTHING` for other
            messages.
        :param lossy: what is dropped is not lost yet: `block` drops, too, rather than overflow.
        """
        self._frames.append((seq, frame))
        self.size += len(frame)
        if len(self._frames) <= self.max_count and self.size <= self.max_bytes:
            return 0
        if self.policy == "drop_oldest":
            return self._drop(1)
        if seq == UNSEQUENCED:
            return self._drop_newest()
        if self._held is None and seq != NOTHING:
            self._held = seq
        return self._drop(BLOCKED_FACTOR) if lossy else 0

    @property
    def full(self) -> bool:
        """Tell whether more waits than may."""
        return self._exceeds(1)

    def has_room(self, size: int) -> bool:
        """Tell whether a frame of `size` bytes may wait, too."""
        return len(self._frames) < self.max_count and self.size + size <= self.max_bytes

    def limit(self, max_count: int, max_bytes: int, policy: Policy) -> int:
        """Go on with other limits; return how many frames were dropped for them.

        What `block` holds up is accepted when the policy is that no more.
        """
        self.max_count, self.max_bytes, self.policy = max_count, max_bytes, policy
        if policy == "block":
            return 0
        self._held = None
        return self._drop(1)

    def held_from(self) -> int | None:
        """Return the sequence of the first event over the limit, None if none is.

        Only with policy `block`; its acceptance is withheld.
        """
        return self._held

    @property
    def overflowed(self) -> bool:
        """Tell whether more waits than policy `block` may keep: the client is to be closed."""
        return self.policy == "block" and self._exceeds(BLOCKED_FACTOR)

    @property
    def untold(self) -> int:
        """Return how many were dropped since the client was told last."""
        return self._dropped

    def take(self) -> bytes:
        """Return everything that waits as one piece, what was dropped told first."""
        waiting = self._frames
        # A frame alone is not copied: most are, and each is that of many outboxes.
        data = waiting[0][1] if len(waiting) == 1 else b"".join([frame for _, frame in waiting])
        if self._dropped:
            data = self._tell_dropped() + data
        if waiting and waiting[-1][0] > self._passed:
            self._passed = waiting[-1][0]
        waiting.clear()
        self._held = None
        self.size = 0
        return data

    @property
    def dropped_upto(self) -> int:
        """Return the newest sequence that was dropped and is not told yet, 0 if none was."""
        return self._last

    @property
    def dropped_from(self) -> int:
        """Return the oldest sequence that was dropped and is not told yet, 0 if none was."""
        return self._first

    def discard_upto(self, seq: int) -> None:
        """Forget the events at or before `seq`: a joining connection is complete from there."""
        self._frames = [entry for entry in self._frames if not 0 <= entry[0] <= seq]
        self.size = sum(len(frame) for _, frame in self._frames)
        self._passed = max(self._passed, seq)
        self._found(seq)

    def forget_events(self) -> None:
        """Forget all events, and what was dropped: they are of a stream that is gone."""
        self._frames = [entry for entry in self._frames if entry[0] == NOTHING]
        self.size = sum(len(frame) for _, frame in self._frames)
        self._held = None
        self._passed = self._dropped = self._unsequenced = self._first = self._last = 0

    def merge(self, events: Sequence[tuple[int, bytes]], upto: int, first: bytes = b"") -> None:
        """Put events among those that wait, in order, each once.

        :param upto: what was dropped up to here is among them, and not missing any more.
        :param first: a frame that comes before all events.
        """
        messages = [entry for entry in self._frames if entry[0] < 0]
        if first:
            messages.append((NOTHING, first))
        waiting = [entry for entry in self._frames if entry[0] >= 0]
        self._frames = messages + sorted({**dict(events), **dict(waiting)}.items())
        self.size = sum(len(frame) for _, frame in self._frames)
        self._found(upto)

    def _tell_dropped(self) -> bytes:
        # An event without sequence comes after all that had passed, and that is all we know.
        tell = gap if self.positions else events_dropped
        notice = tell(self._first, max(self._first, self._last), self._dropped)
        self._dropped = self._unsequenced = self._first = self._last = 0
        return text_frame(notice)

    def _found(self, upto: int) -> None:
        """Nothing up to a sequence is missing; of an event without one nobody knows."""
        if 0 < self._last <= upto:
            self._dropped = self._unsequenced
            self._first = upto + 1 if self._dropped else 0
            self._last = 0

    def _exceeds(self, factor: int) -> bool:
        return len(self._frames) > factor * self.max_count or self.size > factor * self.max_bytes

    def _drop(self, factor: int) -> int:
        dropped = 0
        while len(self._frames) > 1 and self._exceeds(factor):
            oldest = next((i for i, (seq, _) in enumerate(self._frames) if seq != NOTHING), None)
            if oldest is None:
                break
            self._drop_at(oldest)
            dropped += 1
        return dropped

    def _drop_newest(self) -> int:
        if len(self._frames) == 1:
            return 0
        self._drop_at(-1)
        return 1

    def _drop_at(self, index: int) -> None:
        seq, frame = self._frames.pop(index)
        self.size -= len(frame)
        self._dropped += 1
        if seq == UNSEQUENCED:
            self._unsequenced += 1
            seq = self._passed + 1
        else:
            self._passed = max(self._passed, seq)
            self._last = max(self._last, seq)
        self._first = min(self._first or seq, seq)
