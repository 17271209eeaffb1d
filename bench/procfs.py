"""CPU time and memory of processes, as `/proc` tells them (`proc(5)`)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")


def family(roots: Iterable[int]) -> list[int]:
    """Return these processes and all that descend from them."""
    found: list[int] = []
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                waiting.extend(map(int, tasks.read_text().split()))
            except OSError:
                continue  # the thread has gone
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return user + system time that processes have used, in seconds; steps of 10 ms each."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS


def cpu_of(named: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Return the CPU seconds of each named family of processes."""
    return {name: cpu_seconds(family(roots)) for name, roots in named.items()}


def pss_bytes(pids: Iterable[int]) -> int:
    """Return the proportional set size of processes: shared pages count by their share."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total
