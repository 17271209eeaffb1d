"""Waiting for an event or a while."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from daisi_ws.app.waiting import TICK_SECONDS, end_tasks, until_tick, wait_set


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


async def test_who_waits_for_the_next_tick_is_woken_together() -> None:
    """Asked at different moments, for periods that are multiples: the same tick, or a whole one."""
    loop = asyncio.get_running_loop()
    moments = []
    for every in (TICK_SECONDS, TICK_SECONDS, 3 * TICK_SECONDS):
        now = loop.time()
        wait = until_tick(every)
        assert every / 2 < wait <= every * 1.5
        moments.append(now + wait)
        await asyncio.sleep(0.013)
    for moment in moments:
        ticks = (moment - moments[0]) / TICK_SECONDS
        assert ticks == pytest.approx(round(ticks), abs=1e-6)
