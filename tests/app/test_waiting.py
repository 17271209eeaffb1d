"""Waiting for an event or a while."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from daisi_ws.app.waiting import end_tasks, wait_set


async def test_it_is_bounded() -> None:
    """It tells whether the event came in time."""
    event = asyncio.Event()
    assert not await wait_set(event, 0.01)
    event.set()
    assert await wait_set(event, 0.01)


@pytest.mark.parametrize("turns", range(4))
async def test_a_cancellation_is_not_forgotten(turns: int) -> None:
    """Also of one that comes while the event is being told, as Redis' return may be at an end."""
    event = asyncio.Event()
    waiting = asyncio.create_task(wait_set(event, 10.0))
    await asyncio.sleep(0)
    event.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    if waiting.cancel():
        with pytest.raises(asyncio.CancelledError):
            await waiting
    else:
        assert waiting.result()


async def test_a_task_ends_that_forgets_a_cancellation() -> None:
    """As libraries do; what it raises at its end is nobody's."""

    async def forgetful() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(10.0)
        await asyncio.sleep(10.0)

    async def failing() -> None:
        raise ValueError("no")

    tasks = [asyncio.create_task(forgetful()), asyncio.create_task(failing())]
    await asyncio.sleep(0)
    async with asyncio.timeout(5.0):
        await end_tasks(*tasks, None)
    assert all(task.done() for task in tasks)
