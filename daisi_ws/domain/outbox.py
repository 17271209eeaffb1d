"""The bounded queue of frames for one connection, and what is done when it is full."""

from __future__ import annotations

from typing import Final, Literal

from daisi_ws.domain.frames import events_dropped
from daisi_ws.domain.wire import text_frame

Policy = Literal["drop_oldest", "block"]

NOTHING: Final = -1
"""In place of a sequence: no event, but a message that is never dropped."""

UNSEQUENCED: Final = -2
"""In place of a sequence: an event that has none, because an older pod pushed it."""


class Outbox:
    """Frames that wait for the end of the loop turn, or for a client that does not read.

    :param max_count: how many frames may wait.
    :param max_bytes: how many bytes may wait.
    :param policy: `drop_oldest` forgets the oldest and tells the client before the next event;
        `block` keeps everything and withholds the acceptance of what is over the limit; an event
        without sequence has been accepted already, it is dropped.
    """

    __slots__ = (
        "_dropped",
        "_first",
        "_frames",
        "_last",
        "max_bytes",
        "max_count",
        "policy",
        "size",
    )

    def __init__(self, max_count: int, max_bytes: int, policy: Policy) -> None:
        self.max_count = max_count
        self.max_bytes = max_bytes
        self.policy: Policy = policy
        self.size = 0
        # A list, which is small when empty: most outboxes are, most of the time.
        self._frames: list[tuple[int, bytes]] = []
        self._dropped = 0
        self._first = 0
        self._last = 0

    def __len__(self) -> int:
        return len(self._frames)

    def put(self, seq: int, frame: bytes) -> int:
        """Add a frame; return how many were dropped for it.

        :param seq: its event's stream sequence, or :data:`UNSEQUENCED`; :data:`NOTHING` for other
            messages.
        """
        self._frames.append((seq, frame))
        self.size += len(frame)
        if not self.full:
            return 0
        if self.policy == "drop_oldest":
            return self._drop()
        if seq != UNSEQUENCED:
            return 0
        self._drop_at(-1)
        return 1

    @property
    def full(self) -> bool:
        """Tell whether more waits than may."""
        return len(self._frames) > self.max_count or self.size > self.max_bytes

    def has_room(self, size: int) -> bool:
        """Tell whether a frame of `size` bytes may wait, too."""
        return len(self._frames) < self.max_count and self.size + size <= self.max_bytes

    def held_from(self) -> int | None:
        """Return the sequence of the first event over the limit, None if none is.

        Only with policy `block`; its acceptance is withheld.
        """
        if self.policy != "block" or not self.full:
            return None
        size = 0
        for count, (seq, frame) in enumerate(self._frames, 1):
            size += len(frame)
            if (count > self.max_count or size > self.max_bytes) and seq >= 0:
                return seq
        return None

    def take(self) -> bytes:
        """Return everything that waits as one piece, what was dropped told first."""
        frames = [frame for _, frame in self._frames]
        if self._dropped:
            notice = events_dropped(self._first, self._last, self._dropped)
            frames.insert(0, text_frame(notice))
            self._dropped = self._first = self._last = 0
        self._frames.clear()
        self.size = 0
        return frames[0] if len(frames) == 1 else b"".join(frames)

    @property
    def dropped_upto(self) -> int:
        """Return the newest sequence that was dropped and is not told yet, 0 if none was."""
        return self._last

    def discard_upto(self, seq: int) -> None:
        """Forget the events at or before `seq`: a joining connection is complete from there."""
        self._frames = [entry for entry in self._frames if not 0 <= entry[0] <= seq]
        self.size = sum(len(frame) for _, frame in self._frames)
        if self._dropped and 0 < self._last <= seq:
            self._dropped = self._first = self._last = 0

    def _drop(self) -> int:
        dropped = 0
        while self.full and len(self._frames) > 1:
            oldest = next((i for i, (seq, _) in enumerate(self._frames) if seq != NOTHING), None)
            if oldest is None:
                break
            self._drop_at(oldest)
            dropped += 1
        return dropped

    def _drop_at(self, index: int) -> None:
        seq, frame = self._frames.pop(index)
        self.size -= len(frame)
        self._dropped += 1
        if seq != UNSEQUENCED:
            self._first = self._first or seq
            self._last = seq
