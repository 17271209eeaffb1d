"""How many clients the workers of a host have: a number for each, that all of them see."""

from __future__ import annotations

from collections.abc import MutableSequence


class Census:
    """Counts the clients of one worker, and knows those of the whole host.

    Each worker writes its own number only, so nothing is locked. Two workers that look at the same
    moment may both see the last free place: the sum may be over by one for each other worker.

    :param numbers: one for each process that may run; shared memory between processes.
    :param own: which of them is ours.
    """

    __slots__ = ("_numbers", "_own")

    def __init__(self, numbers: MutableSequence[int] | memoryview[int] | None = None, own: int = 0):
        self._numbers: MutableSequence[int] | memoryview[int] = [0] if numbers is None else numbers
        self._own = own

    @property
    def here(self) -> int:
        """Return how many this worker has."""
        return self._numbers[self._own]

    @property
    def host(self) -> int:
        """Return how many all workers have."""
        return sum(self._numbers)

    def add(self, clients: int) -> None:
        """Count clients that came, or with a negative number went."""
        self._numbers[self._own] += clients

    def clear(self) -> None:
        """Count nobody: the worker whose number it was is gone."""
        self._numbers[self._own] = 0
