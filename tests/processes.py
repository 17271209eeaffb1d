"""What `/proc` knows about processes (`proc(5)`)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path


def children(pid: int | None = None) -> set[int]:
    """Return the living direct children of a process, ours by default; zombies are not alive."""
    parent = os.getpid() if pid is None else pid
    found: set[int] = set()
    for tasks in Path(f"/proc/{parent}/task").glob("*/children"):
        try:
            found.update(map(int, tasks.read_text().split()))
        except OSError:
            continue  # the thread has gone
    return {child for child in found if is_alive(child)}


def is_alive(pid: int) -> bool:
    """Return whether a process exists and is more than a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def command_line(pid: int) -> str:
    """Return a process's command line, for messages; empty if it has gone."""
    try:
        return (
            Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        )
    except OSError:
        return ""


def wait_until_gone(pids: Iterable[int], timeout: float = 10.0) -> dict[int, str]:
    """Wait up to `timeout` seconds; return command lines of the processes that are still alive."""
    deadline = time.monotonic() + timeout
    left = {pid for pid in pids if is_alive(pid)}
    while left and time.monotonic() < deadline:
        time.sleep(0.005)
        left = {pid for pid in left if is_alive(pid)}
    return {pid: command_line(pid) for pid in left}
