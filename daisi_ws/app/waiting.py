"""Waiting for an event or a while, and for tasks to end."""

from __future__ import annotations

import asyncio
from typing import Any, Final

CANCEL_AGAIN_SECONDS: Final = 0.25


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
