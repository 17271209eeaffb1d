"""Leaving in waves, within a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from daisi_ws.app.connection import Connection
from daisi_ws.app.drain import FULL_PACE, Drain
from daisi_ws.app.hub import Hub
from daisi_ws.domain.close import CloseReason
from tests.app.connections import Made


def leaver(hub: Hub, connection: Connection) -> Callable[[CloseReason], None]:
    """Return what takes a connection out of the hub when it is closed."""

    def leave(_: CloseReason) -> None:
        hub.leave(connection)

    return leave


def full_hub(count: int, *, leaving: bool = True) -> tuple[Hub, list[Made]]:
    """Return a hub with open connections, which leave it when closed, if `leaving`."""
    hub, made = Hub(), [Made(f"c{n}") for n in range(count)]
    for one in made:
        hub.join(one.connection)
        one.open()
        if leaving:
            one.connection.on_close = leaver(hub, one.connection)
    return hub, made


async def test_everybody_is_sent_away_after_the_steps() -> None:
    """First what must come first, then every client with 1001."""
    hub, made = full_hub(5)
    order = []

    async def step() -> None:
        order.append(len(hub))

    await Drain(hub, [step]).run(5.0)
    assert order == [5]
    assert all(one.sink.closed == [CloseReason.GOING_AWAY] for one in made)


async def test_many_are_sent_in_waves() -> None:
    """No more than the pace allows go at once while there is time."""
    hub, made = full_hub(200)
    sizes: list[int] = []
    draining = asyncio.create_task(Drain(hub, []).run(10.0))
    while not draining.done():
        before = len(hub)
        await asyncio.sleep(0.01)
        if before != len(hub):
            sizes.append(before - len(hub))
    await draining
    assert max(sizes) <= FULL_PACE * 0.1
    assert sum(sizes) <= len(made)
    assert len(hub) == 0


async def test_it_ends_in_time_with_clients_that_stay() -> None:
    """Who never answers the close does not hold the drain up."""
    hub, _ = full_hub(3, leaving=False)
    async with asyncio.timeout(2):
        await Drain(hub, []).run(0.5)
    assert len(hub) == 3


async def test_a_step_that_hangs_is_left() -> None:
    """A step has no more than the time that is left."""
    hub, made = full_hub(1)

    async def step() -> None:
        await asyncio.Event().wait()

    async with asyncio.timeout(2):
        await Drain(hub, [step]).run(0.3)
    assert made[0].sink.closed == [CloseReason.GOING_AWAY]


async def test_a_hurried_drain_sends_all_at_once() -> None:
    """After `hurry` nobody is waited for."""
    hub, made = full_hub(300, leaving=False)
    drain = Drain(hub, [])
    drain.hurry()
    async with asyncio.timeout(1):
        await drain.run(30.0)
    assert all(one.sink.closed for one in made)
