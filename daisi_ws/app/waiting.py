"""Waiting for an event or a while, for the next tick, and for tasks to end."""

from __future__ import annotations

import asyncio
import os
from typing import Any, Final

CANCEL_AGAIN_SECONDS: Final = 0.25
TICK_SECONDS: Final = 0.1
_GOLDEN_RATIO: Final = 0.618


def until_tick(every: float = TICK_SECONDS) -> float:
    """Return the seconds to the process's next tick: from a half of `every` to one and a half.

    Ticks are the same moments for all who wait: being woken up costs more than most of what is
    done then. `every` is a multiple of :data:`TICK_SECONDS` for that. Processes beside one another
    have other moments.
    """
    phase = os.getpid() * _GOLDEN_RATIO % 1.0 * TICK_SECONDS
    # The loop's own clock: those who ask in the same turn must mean the same millisecond.
    left = every - (asyncio.get_running_loop().time() - phase) % every
    return left if left > every / 2 else left + every


async def wait_set(event: asyncio.Event, seconds: float) -> bool:
    """Wait for an event, at most so many `seconds`; tell whether it is set.

    `asyncio.wait_for` of Python 3.11 forgets that its task was cancelled if the event is set in the
    same turn of the loop: whoever cancelled it would wait for ever.
    """
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


async def end_tasks(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel tasks and wait until they have ended, whatever they raise.

    Libraries forget a cancellation, as that of Redis does when a server's answer arrives while it
    connects: who still runs after a moment is cancelled again.
    """
    given = [task for task in tasks if task is not None]
    left = set(given)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=CANCEL_AGAIN_SECONDS)
    for task in given:
        if not task.cancelled():
            task.exception()  # so that asyncio does not call it unnoticed
