"""What a client has still to get again, and how far it has got with that."""

from __future__ import annotations


class Backlog:
    """A part of the stream of which events are missing, while later ones have come already.

    :param complete: nothing up to this sequence is missing.
    :ivar complete: grows while a replay goes on.
    :ivar replaying: what follows comes in order after `complete`.
    :ivar broken: events of a replay were dropped, so that another is needed.
    """

    def __init__(self, complete: int) -> None:
        self.complete = complete
        self.replaying = False
        self.broken = False
        self._holes: list[tuple[int, int]] = []
        self._noted = 0
        self._left = 0

    @property
    def finished(self) -> bool:
        """Tell whether the replay has brought as many events as it was said to."""
        return self.replaying and self._left <= 0

    def copy(self, complete: int) -> Backlog:
        """Return another with the same holes, complete up to here."""
        other = Backlog(complete)
        for first, last in self._holes:
            other.add_hole(first, last)
        return other

    def add_hole(self, first: int, last: int) -> None:
        """Note that events of this range, ends included, may be missing.

        What lies below the end of an earlier one is in it, or has come since.
        """
        first = max(first, self.complete + 1, self._noted + 1)
        if first <= last:
            self._holes.append((first, last))
            self._noted = last

    def replay(self, count: int) -> None:
        """Take in that so many events after `complete` follow."""
        self.replaying, self.broken, self._left = True, False, count

    def stop(self) -> None:
        """Take in that the replay goes on no more."""
        self.replaying = False

    def gap(self, first: int, last: int) -> None:
        """Take in that a replay lacks events of this range, but none before."""
        if self.replaying and last > self.complete:
            self.complete = max(self.complete, first - 1)
            self.replaying, self.broken = False, True

    def is_missing(self, seq: int) -> bool:
        """Tell whether this sequence lies in a hole."""
        return any(first <= seq <= last for first, last in self._holes)

    def came(self, seq: int) -> None:
        """Take in an event, missing or not."""
        if not self.replaying:
            self._split(seq)
            return
        self._left -= 1
        self.complete = max(self.complete, seq)
        if self._holes:
            self._holes = [(max(a, seq + 1), b) for a, b in self._holes if b > seq]

    def _split(self, seq: int) -> None:
        for index, (first, last) in enumerate(self._holes):
            if first <= seq <= last:
                parts = ((first, seq - 1), (seq + 1, last))
                self._holes[index : index + 1] = [(a, b) for a, b in parts if a <= b]
                return
