"""Lines that say what is being started and how long it took."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import click

_REDRAW_SECONDS: Final = 0.1
_WIDTH: Final = 16


@contextmanager
def step(name: str) -> Iterator[Callable[[str], None]]:
    """Show that something is being done, and for how long; on a terminal while it lasts.

    Yields what takes the result, shown once the block is done.
    """
    result: list[str] = []
    began = time.monotonic()
    done = threading.Event()
    ticker = threading.Thread(target=_tick, args=(name, began, done), daemon=True)
    if sys.stdout.isatty():
        ticker.start()
    try:
        yield result.append
    finally:
        done.set()
        if ticker.is_alive():
            ticker.join()
        if sys.stdout.isatty():
            click.echo("\r\x1b[K", nl=False)
    seconds = time.monotonic() - began
    said = result[0] if result else ""
    click.echo(f"{click.style('✓', fg='green')} {name:<{_WIDTH}} {said:<44} {seconds:4.1f} s")


def _tick(name: str, began: float, done: threading.Event) -> None:
    while not done.wait(_REDRAW_SECONDS):
        line = f"\r… {name:<{_WIDTH}} {time.monotonic() - began:4.1f} s\x1b[K"
        click.echo(line, nl=False)
