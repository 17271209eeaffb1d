"""The count of a host's clients."""

from __future__ import annotations

import mmap

from daisi_ws.domain.census import Census


def test_alone() -> None:
    """Without other workers the host's clients are this one's."""
    census = Census()
    census.add(2)
    census.add(-1)
    assert (census.here, census.host) == (1, 1)


def test_workers_see_one_another() -> None:
    """Each writes its own number, and the host's is the sum; a dead one's is cleared."""
    numbers = memoryview(mmap.mmap(-1, 8 * 4)).cast("q")
    first, second = Census(numbers, 0), Census(numbers, 3)
    first.add(5)
    second.add(7)
    assert (first.here, second.here) == (5, 7)
    assert first.host == second.host == 12
    Census(numbers, 3).clear()
    assert first.host == 5
