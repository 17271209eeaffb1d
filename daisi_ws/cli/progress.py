"""A line on standard error that says how far a command has got."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import click

FIRST_SECONDS = 1.0
TERMINAL_SECONDS = 0.2
PLAIN_SECONDS = 5.0


@asynccontextmanager
async def progress(text: Callable[[], str]) -> AsyncIterator[None]:
    """Show `text()` while the block runs longer than a second.

    On a terminal one line is rewritten, and removed at the end; elsewhere a line is written every
    few seconds.
    """
    showing = asyncio.create_task(_show(text), name="progress")
    try:
        yield
    finally:
        showing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await showing


async def _show(text: Callable[[], str]) -> None:
    terminal = sys.stderr.isatty()
    await asyncio.sleep(FIRST_SECONDS)
    try:
        while True:
            click.echo(f"\r{text()}\x1b[K" if terminal else text(), err=True, nl=not terminal)
            await asyncio.sleep(TERMINAL_SECONDS if terminal else PLAIN_SECONDS)
    finally:
        if terminal:
            click.echo("\r\x1b[K", err=True, nl=False)
