"""The live view of `daisi-ws dev`: a table that is redrawn, or plain lines."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from typing import Final

import click

from daisi_ws.cli.cluster import Observer, Snapshot
from daisi_ws.cli.status_view import latency
from daisi_ws.cli.table import table
from daisi_ws.cli.wording import clock

TERMINAL_SECONDS: Final = 1.0
PLAIN_SECONDS: Final = 5.0

# A line that is too long for the terminal must stay one line, or the next redraw misses its place.
_NO_WRAP: Final = "\x1b[?7l"
_WRAP: Final = "\x1b[?7h"

_HEADERS: Final = ("WORKER", "STATE", "CONNECTIONS", "EVENTS/S", "DELIVERIES/S", "P50", "P99", "")
_NUMBERS: Final = (2, 3, 4, 5, 6)


async def live_view(observer: Observer, running: Callable[[], bool]) -> None:
    """Show every worker's figures until `running()` is false.

    On a terminal a table is redrawn once a second; elsewhere a line is written every few seconds.
    """
    terminal = sys.stdout.isatty()
    height = 0
    while running():
        snapshot = await observer.snapshot()
        if terminal:
            lines = _table(snapshot)
            up = f"\x1b[{height}A" if height else ""
            drawn = "".join(f"\r{line}\x1b[K\n" for line in lines)
            click.echo(f"{_NO_WRAP}{up}{drawn}\x1b[J{_WRAP}", nl=False)
            height = len(lines)
        else:
            click.echo(plain_line(snapshot, time.time()))
        await _pause(TERMINAL_SECONDS if terminal else PLAIN_SECONDS, running)


async def _pause(seconds: float, running: Callable[[], bool]) -> None:
    """Wait, but no longer than a second after the end."""
    until = time.monotonic() + seconds
    while running() and (left := until - time.monotonic()) > 0:  # noqa: ASYNC110 - it is asked
        await asyncio.sleep(min(left, 1.0))


def plain_line(snapshot: Snapshot, now: float) -> str:
    """Return all workers' figures in one line."""
    workers = (
        f"worker {pod.slot}: {'READY' if pod.ready else 'NOT READY'}, {pod.connections} conn, "
        f"{pod.events} events/s, {pod.deliveries} deliveries/s, "
        f"p50 {latency(pod.p50_ms)}, p99 {latency(pod.p99_ms)}"
        for pod in snapshot.pods
    )
    troubles = (trouble.problem for trouble in snapshot.troubles)
    return "  |  ".join((clock(now)[:8], *workers, *troubles))


def _table(snapshot: Snapshot) -> list[str]:
    rows = [
        [
            f"worker {pod.slot}",
            click.style("READY", fg="green") if pod.ready else click.style("NOT READY", fg="red"),
            f"{pod.connections:,}",
            f"{pod.events:,}",
            f"{pod.deliveries:,}",
            latency(pod.p50_ms),
            latency(pod.p99_ms),
            click.style("reads the stream", fg="cyan") if pod.pod_id == snapshot.reading else "",
        ]
        for pod in snapshot.pods
    ]
    if len(rows) > 1:
        rows.append(_sum(snapshot))
    lines = table(_HEADERS, rows, right=_NUMBERS)
    lines += [click.style(trouble.problem, fg="red") for trouble in snapshot.troubles]
    return [*lines, click.style("Ctrl-C stops everything.", dim=True)]


def _sum(snapshot: Snapshot) -> list[str]:
    pods = snapshot.pods
    counts = (
        sum(pod.connections for pod in pods),
        sum(pod.events for pod in pods),
        sum(pod.deliveries for pod in pods),
    )
    return ["all", "", *(f"{count:,}" for count in counts), "", "", ""]
