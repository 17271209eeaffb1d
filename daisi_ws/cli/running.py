"""Runs a command's coroutine; signals end it in good order."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Coroutine
from typing import TypeVar

import uvloop

T = TypeVar("T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(main: Coroutine[None, None, T]) -> T:
    """Run a coroutine to its end and return its result.

    SIGINT, SIGTERM and SIGHUP cancel it, so that everything it opened is closed; the process then
    exits with 128 and the signal's number (130, 143, 129), as a shell expects. One that is ignored
    (`nohup`) stays so.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_guarded(main))


async def _guarded(main: Coroutine[None, None, T]) -> T:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(main)
    got: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        got.append(number)
        task.cancel()

    handled = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    for number in handled:
        loop.add_signal_handler(number, stop, number)
    try:
        return await task
    except asyncio.CancelledError:
        if not got:
            raise
        sys.exit(128 + got[0])
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
